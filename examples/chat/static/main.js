// The page: shows the chat that the address names.

import { Chat, newId } from "./chat.js";
import { onChangeElsewhere } from "./history.js";
import { View } from "./view.js";

let chat = null;

function open(id) {
  chat?.close();
  view.clear();
  chat = new Chat(id, view);
  chat.attach({ conclude: true });
}

function openFromAddress() {
  const address = new URL(location.href);
  let id = address.searchParams.get("chat");
  if (!id) {
    id = newId();
    address.searchParams.set("chat", id);
    history.replaceState(null, "", address);
  }
  open(id);
}

const view = new View({
  send: (text) => chat.send(text),
  stop: () => chat.stop(),
  retry: () => chat.retry(),
  newChat: () => {
    const id = newId();
    history.pushState(null, "", `?chat=${id}`);
    open(id);
  },
});

onChangeElsewhere((id) => id === chat.id && chat.changedElsewhere());
addEventListener("popstate", openFromAddress);
addEventListener("pagehide", () => chat.saveDraft());
document.addEventListener("visibilitychange", () => {
  if (document.hidden) chat.saveDraft();
  else chat.attach({ conclude: false });
});

openFromAddress();
fetch("/api/about")
  .then((response) => response.json())
  .then((about) => view.answeredBy(about.answered_by))
  .catch(() => {});
