// The three requests of a resumable chat, and the AI SDK's UI message stream as a sequence of chunks.

// The server sends a comment after 15 s of silence; without any byte for this long the connection is dead.
const SILENCE = 40_000;

export function post(chatId, messages, signal) {
  const body = {
    id: chatId,
    messages: messages
      .filter(({ text }) => text)
      .map(({ id, role, text }) => ({ id, role, parts: [{ type: "text", text }] })),
    trigger: "submit-message",
  };
  return fetch("/api/chat", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
}

export function resume(chatId, signal) {
  return fetch(`/api/chat/${encodeURIComponent(chatId)}/stream`, { signal, cache: "no-store" });
}

// Names the stream it means, so that a late click cannot stop the next answer.
export async function stop(chatId, streamId) {
  const response = await fetch(`/api/chat/${encodeURIComponent(chatId)}/stop`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(streamId ? { activeStreamId: streamId } : {}),
  });
  if (!response.ok) throw new Error(`stop was answered ${response.status}`);
}

// Throws when the connection breaks; returns at the end of the body, which may come before the stream's own end.
export async function* chunks(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await inTime(reader.read());
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue; // comments keep the connection awake
        const data = line.slice(5).trim();
        if (data && data !== "[DONE]") yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function inTime(promise) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("the connection fell silent")), SILENCE);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}
