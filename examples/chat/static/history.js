// What the page remembers of each chat, in localStorage, where every tab of this browser sees it.
//
// The server keeps an answer only until some client has received its end, so a finished answer is stored here.
//
// A chat is { messages, running }: `running` is a stream of which a tab has seen the headers, but not yet the end.
// A message is { id, role, text, state, note }. An answer's state is one of
//   streaming  a draft: the text that had arrived when it was stored
//   done       complete
//   stopped    somebody pressed Stop
//   failed     the server reported an error; `note` is its text
//   cut        its end is no longer available

const PREFIX = "resumable-chat:";
const unstored = new Map(); // where localStorage is forbidden or full, one tab still works

export function load(chatId) {
  const key = PREFIX + chatId;
  let stored = null;
  try {
    stored = unstored.get(key) ?? localStorage.getItem(key);
  } catch {
    // forbidden
  }
  return stored ? JSON.parse(stored) : { messages: [], running: null };
}

// Every change reads what is stored now, which another tab may have changed a moment ago.
export function change(chatId, edit) {
  const key = PREFIX + chatId;
  const chat = load(chatId);
  edit(chat);
  const text = JSON.stringify(chat);
  try {
    if (localStorage.getItem(key) !== text) localStorage.setItem(key, text);
    unstored.delete(key);
  } catch {
    unstored.set(key, text);
  }
  return chat;
}

// Puts an answer in its place. A replay carries the id of what it repeats, so it replaces and never adds; a
// draft never replaces what is settled.
export function put(chat, message) {
  const at = chat.messages.findIndex((known) => known.id === message.id);
  if (at >= 0) {
    if (message.state !== "streaming" && message.state !== "cut") chat.messages[at] = message;
    else if (chat.messages[at].state === "streaming") chat.messages[at] = message;
    return;
  }
  if (chat.messages.at(-1)?.role === "assistant" && !chat.messages.at(-1).text) chat.messages.pop();
  chat.messages.push(message);
}

// Whether the last message has no answer yet, or no complete one.
export function unanswered(chat) {
  const last = chat.messages.at(-1);
  return last !== undefined && (last.role === "user" || last.state === "streaming");
}

export function onChangeElsewhere(listener) {
  addEventListener("storage", (event) => {
    if (event.key?.startsWith(PREFIX)) listener(event.key.slice(PREFIX.length));
  });
}
