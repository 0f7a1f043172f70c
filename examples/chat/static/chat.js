// One chat at a time: sends, follows the answer, finds it again after whatever happened to the connection.

import { change, load, put, unanswered } from "./history.js";
import { chunks, post, resume, stop } from "./stream.js";

const SOON = [250, 500, 1000, 2000, 4000]; // ms between looks for an answer that should be there any moment
const LONGEST_WAIT = 8000; // ms between attempts to reconnect
const QUIET = 2000; // ms without new text after which the page says that it waits

const ARRIVING = ["sending", "waiting", "streaming", "resumed", "stopping", "unstopped"];

export class Chat {
  #view;
  #following = null; // aborts the following under way
  #live = null; // the answer coming in
  #seen = 0; // the most that was seen of it before the current connection, in characters
  #quiet = 0; // the timer that ends with "waiting"
  #streamId = null;
  #stopWanted = false;
  #status = "ready";
  #frame = 0;

  constructor(id, view) {
    this.id = id;
    this.#view = view;
    this.#show();
  }

  // False if the message cannot be sent now.
  send(text) {
    if (this.#busy(load(this.id))) return false;
    change(this.id, (chat) => chat.messages.push({ id: newId(), role: "user", text }));
    this.#ask();
    return true;
  }

  retry() {
    if (this.#busy(load(this.id))) return;
    change(this.id, (chat) => {
      while (chat.messages.at(-1)?.role === "assistant") chat.messages.pop();
    });
    this.#ask();
  }

  // Follows the answer that is running, if one is. `conclude`: if none is, say so in the history.
  attach({ conclude }) {
    if (!this.#following) this.#follow((signal) => resume(this.id, signal), { resumed: true, conclude });
  }

  stop() {
    if (this.#status === "stopping" || !this.#busy(load(this.id))) return;
    this.#stopWanted = true;
    this.#askToStop();
  }

  changedElsewhere() {
    this.#show();
    this.#followElsewhere();
  }

  // What was seen of an unfinished answer is kept in case its stream cannot be found again.
  saveDraft() {
    if (this.#live?.text) change(this.id, (chat) => put(chat, { ...this.#live }));
  }

  close() {
    this.saveDraft();
    this.#following?.abort();
  }

  #ask() {
    this.#follow((signal) => post(this.id, load(this.id).messages, signal), { resumed: false, conclude: true });
    this.#say("sending");
  }

  async #follow(request, { resumed, conclude }) {
    this.#following?.abort(); // at most a look for something to follow
    const following = new AbortController();
    this.#following = following;
    this.#stopWanted = false;
    this.#live = null;
    this.#seen = 0;
    const settled = await this.#followToTheEnd(request, { resumed, conclude, signal: following.signal });
    if (following.signal.aborted) return;
    this.#following = null;
    this.#live = null;
    this.#streamId = null;
    this.#show();
    // Another tab may have asked the next thing in the meantime.
    if (settled) this.#followElsewhere();
  }

  // Before the head of another tab's answer is seen, the server may still replay the one that failed before.
  #followElsewhere() {
    const chat = load(this.id);
    if (chat.running && unanswered(chat)) this.attach({ conclude: false });
  }

  // Whether this tab has seen the end of the answer.
  async #followToTheEnd(request, { resumed, conclude, signal }) {
    let losses = 0;
    let misses = 0;
    for (;;) {
      let ending;
      try {
        ending = await this.#receive(await request(signal), { resumed, signal });
      } catch {
        ending = "lost";
      }
      if (signal.aborted) return false;
      if (ending === "settled") return true;

      this.saveDraft();
      const pending = unanswered(load(this.id));
      if (!pending) {
        // Nothing is running, or another tab has stored the end of it.
        this.#live = null;
        if (!["done", "stopped", "failed"].includes(this.#status)) this.#say("ready");
        return false;
      }
      if (ending === "nothing") {
        if (misses === SOON.length) {
          if (conclude || this.#live) this.#giveUp();
          else this.#say("ready");
          return false;
        }
        this.#say("looking");
        await pause(SOON[misses++], signal);
      } else {
        misses = 0;
        const seen = this.#live?.text.length ?? 0;
        losses = seen > this.#seen ? 0 : losses + 1;
        this.#seen = Math.max(this.#seen, seen);
        this.#say("reconnecting");
        await pause(Math.min(LONGEST_WAIT, 500 * 2 ** losses) * (0.75 + Math.random() / 2), signal);
      }
      if (signal.aborted) return false;
      request = () => resume(this.id, signal);
      resumed = true;
    }
  }

  // "settled", "nothing" to follow, or "lost" before the end.
  async #receive(response, { resumed, signal }) {
    if (signal.aborted) return "lost";
    if (response.status === 204) return "nothing";
    if (!response.ok) {
      if (resumed && (response.status >= 500 || response.status === 429)) return "lost";
      this.#settle({ id: newId(), text: "" }, "failed", `The server answered ${response.status}.`);
      return "settled";
    }
    this.#streamId = response.headers.get("resumable-stream-id");
    change(this.id, (chat) => (chat.running = this.#streamId)); // other tabs see this and follow
    if (this.#stopWanted) this.#askToStop();

    this.#progress(resumed ? "waiting" : "sending");
    try {
      return await this.#read(response, { news: resumed ? "resumed" : "streaming", signal });
    } finally {
      clearTimeout(this.#quiet);
    }
  }

  async #read(response, { news, signal }) {
    for await (const chunk of chunks(response)) {
      if (signal.aborted) return "lost";
      if (chunk.type === "start") {
        this.#begin(chunk.messageId ?? this.#streamId ?? newId());
      } else if (chunk.type === "text-start") {
        if (!this.#live) this.#begin(this.#streamId ?? newId());
        if (this.#live.text) this.#live.text += "\n\n";
      } else if (chunk.type === "text-delta") {
        this.#live.text += chunk.delta;
        if (this.#live.text.length > this.#seen) this.#progress(news);
        this.#showSoon();
      } else if (chunk.type === "finish") {
        return this.#settle(this.#live, "done");
      } else if (chunk.type === "abort") {
        return this.#settle(this.#live ?? this.#answer(newId()), "stopped");
      } else if (chunk.type === "error") {
        return this.#settle(this.#live ?? this.#answer(newId()), "failed", chunk.errorText);
      }
    }
    return "lost";
  }

  // The start of an answer or of its replay, in which text that this browser has stored is no news.
  #begin(id) {
    this.#live = this.#answer(id);
    const draft = load(this.id).messages.find((message) => message.id === id);
    this.#seen = Math.max(this.#seen, draft?.text.length ?? 0);
  }

  #answer(id) {
    return { id, role: "assistant", text: "", state: "streaming" };
  }

  #settle(answer, state, note) {
    change(this.id, (chat) => {
      put(chat, { ...answer, role: "assistant", state, note });
      if (chat.running === this.#streamId) chat.running = null; // another tab may have begun the next
    });
    this.#live = null;
    this.#status = state;
    return "settled";
  }

  #giveUp() {
    change(this.id, (chat) => {
      const last = chat.messages.at(-1);
      if (last.role === "assistant") last.state = "cut";
      else {
        const note = "The server has no answer to this message.";
        chat.messages.push({ id: newId(), role: "assistant", text: "", state: "cut", note });
      }
      chat.running = null;
    });
    this.#live = null;
    this.#status = "failed";
  }

  async #askToStop() {
    this.#say("stopping");
    try {
      await stop(this.id, this.#streamId);
    } catch {
      // Asked again after a reconnection (see #receive), or when the person does.
      if (this.#status === "stopping") this.#say("unstopped");
      return;
    }
    // A reload now would find no stream, and should still know why. If the answer was complete, its end says so.
    if (this.#live) change(this.id, (chat) => put(chat, { ...this.#live, state: "stopped" }));
  }

  #say(status) {
    this.#status = status;
    this.#show();
  }

  // A busy model and a dead worker look alike from here: no new text comes in, and the page says no more than that.
  #progress(status) {
    clearTimeout(this.#quiet);
    if (this.#stopWanted) return;
    if (this.#status !== status) this.#say(status);
    this.#quiet = setTimeout(() => this.#progress("waiting"), QUIET);
  }

  #showSoon() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.#live) this.#show();
    });
  }

  // Whether an answer is on its way, so that nothing else can be asked.
  #busy(chat) {
    return this.#following !== null && (this.#arriving() || unanswered(chat));
  }

  #arriving() {
    return this.#following !== null && ARRIVING.includes(this.#status);
  }

  #show() {
    if (this.#following?.signal.aborted) return; // closed: the page shows another chat
    const chat = load(this.id);
    const busy = this.#busy(chat);
    if (this.#live) put(chat, this.#live);
    else if (this.#arriving() && chat.messages.at(-1)?.role === "user") chat.messages.push(this.#answer("coming"));
    this.#view.show(chat.messages, { busy, arriving: this.#arriving(), status: this.#status });
  }
}

export function newId() {
  // crypto.randomUUID exists only on https and localhost
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Ends early when the network or the reader comes back.
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const done = new AbortController();
    const end = () => {
      clearTimeout(timer);
      done.abort();
      resolve();
    };
    const timer = setTimeout(end, milliseconds);
    const options = { signal: done.signal };
    addEventListener("online", end, options);
    document.addEventListener("visibilitychange", () => document.hidden || end(), options);
    signal.addEventListener("abort", end, options);
  });
}
