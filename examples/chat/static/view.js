// The page's elements. What anybody wrote gets in as textContent only.

const STATUS = {
  ready: "Ready",
  sending: "Sending…",
  waiting: "Waiting for news of the answer…",
  streaming: "Streaming",
  resumed: "Resumed",
  reconnecting: "Connection lost – reconnecting…",
  looking: "Looking for the answer…",
  stopping: "Stopping…",
  unstopped: "The server could not be asked to stop. Please press Stop again.",
  stopped: "Stopped",
  done: "Answer complete",
  failed: "The answer could not be completed",
};

const NOTES = {
  stopped: "Stopped.",
  failed: "The answer failed.",
  cut: "The server no longer has the rest of this answer.",
};

const $ = (id) => document.getElementById(id);
const page = document.scrollingElement;

export class View {
  #articles = new Map(); // by message id
  #pinned = true; // the newest line stays in sight until the reader scrolls up
  #actions;

  constructor(actions) {
    this.#actions = actions;
    const prompt = $("prompt");
    $("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit(prompt.value);
    });
    prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit(prompt.value);
    });
    prompt.addEventListener("input", () => this.#fit());
    $("stop").addEventListener("click", () => actions.stop());
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !event.isComposing) actions.stop();
    });
    $("new-chat").addEventListener("click", () => actions.newChat());
    for (const suggestion of document.querySelectorAll(".suggestion")) {
      suggestion.addEventListener("click", () => this.#submit(suggestion.textContent));
    }
    $("to-latest").addEventListener("click", () => {
      this.#pinned = true;
      $("messages").focus({ preventScroll: true }); // the button goes, and a phone should not open its keyboard
      this.#keepInSight();
    });
    addEventListener("scroll", () => {
      this.#pinned = page.scrollHeight - page.scrollTop - innerHeight < 48;
      this.#offerLatest();
    });
  }

  answeredBy(name) {
    $("answered-by").textContent = name;
  }

  // Another chat: nothing shown before belongs to it.
  clear() {
    this.#articles.clear();
    $("messages").replaceChildren();
    $("prompt").value = "";
    this.#pinned = true;
    this.#fit();
    this.focus();
  }

  // Not on a touch screen, where the keyboard would cover half of what there is to read.
  focus() {
    if (!matchMedia("(pointer: coarse)").matches) $("prompt").focus({ preventScroll: true });
  }

  // `busy`: an answer is on its way; `arriving`: its text is coming in right now.
  show(messages, { busy, arriving, status }) {
    const focused = document.activeElement;
    const log = $("messages");
    const gone = new Set(this.#articles.keys());
    for (const [at, message] of messages.entries()) {
      gone.delete(message.id);
      const article = this.#articles.get(message.id) ?? this.#add(message);
      const last = at === messages.length - 1;
      this.#fill(article, message, { arriving: arriving && last, retry: last && !busy });
      if (log.children[at] !== article) log.insertBefore(article, log.children[at] ?? null);
    }
    for (const id of gone) {
      this.#articles.get(id).remove();
      this.#articles.delete(id);
    }
    log.setAttribute("aria-busy", String(arriving)); // a reader of the screen hears the answer once, at its end
    $("welcome").hidden = messages.length > 0;
    this.#showControls(busy, status);
    // A button that goes does not take the focus with it; one that stays keeps it.
    if (!focused.isConnected || focused.closest("[hidden]")) this.focus();
    const first = messages[0]?.text.slice(0, 60);
    document.title = first ? `${first} – Resumable chat` : "Resumable chat";
    this.#keepInSight();
  }

  #showControls(busy, status) {
    const line = $("status");
    if (line.dataset.state !== status) {
      line.dataset.state = status;
      line.textContent = STATUS[status];
    }
    $("send").hidden = busy;
    $("stop").hidden = !busy;
    $("stop").setAttribute("aria-disabled", String(status === "stopping")); // `disabled` would take the focus away
    $("sending-keys").hidden = busy;
    $("stopping-keys").hidden = !busy;
  }

  #add(message) {
    const article = document.createElement("article");
    article.className = `message ${message.role}`;
    article.dataset.id = message.id;
    const author = document.createElement("h3");
    author.className = "unseen";
    author.textContent = message.role === "user" ? "You" : "Answer";
    const text = document.createElement("div");
    text.className = "text";
    article.append(author, text);
    this.#articles.set(message.id, article);
    return article;
  }

  #fill(article, message, { arriving, retry }) {
    const text = article.querySelector(".text");
    // While a replay catches up with what is shown already, the reader should not see it start over.
    const streaming = message.state === "streaming";
    const wanted = streaming ? message.text : message.text.trimEnd();
    const behind = streaming && text.textContent.startsWith(wanted);
    if (!behind && text.textContent !== wanted) text.textContent = wanted;
    article.classList.toggle("live", arriving && message.role === "assistant");
    article.dataset.state = message.state ?? "";

    const remark = NOTES[message.state] && (message.note || NOTES[message.state]);
    let note = article.querySelector(".note");
    if (!remark) {
      note?.remove();
      return;
    }
    if (!note) {
      note = document.createElement("div");
      const words = document.createElement("span");
      const again = document.createElement("button");
      again.className = "button";
      again.type = "button";
      again.textContent = "Try again";
      again.addEventListener("click", () => this.#actions.retry());
      note.append(words, again);
      article.append(note);
    }
    note.className = message.state === "failed" ? "note bad" : "note";
    note.firstChild.textContent = remark;
    note.lastChild.hidden = !retry;
  }

  #submit(text) {
    if (!text.trim() || !this.#actions.send(text.trim())) return;
    $("prompt").value = "";
    this.#pinned = true;
    this.#fit();
    this.focus();
    this.#keepInSight();
  }

  #fit() {
    const prompt = $("prompt");
    prompt.style.height = "auto";
    prompt.style.height = `${prompt.scrollHeight}px`;
  }

  #keepInSight() {
    if (this.#pinned && $("welcome").hidden) scrollTo({ top: page.scrollHeight });
    this.#offerLatest();
  }

  #offerLatest() {
    const atEnd = page.scrollHeight - page.scrollTop - innerHeight < 48;
    $("to-latest").hidden = this.#pinned || atEnd || !$("welcome").hidden;
  }
}
