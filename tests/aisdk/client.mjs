#!/usr/bin/env node
// A page that uses the AI SDK, without the page: it posts a message, loses its connection, and reconnects.
//
//   node client.mjs <directory with node_modules> '<options as JSON>'
//
//   api          URL of the POST route; the SDK makes the resume URL from it
//   resumeOrigin origin that is asked to resume instead, as a load balancer may choose
//   chatId       id of the chat
//   mode         reload     a new Chat on a page that was loaded again, which holds the user's message only
//                same       the same Chat, which still holds the part of the answer that came
//                transport  DefaultChatTransport alone
//   cutAfter     the POST's socket is closed after so many events
//   cutInside    and so many bytes of the next one
//   recutAfter   the first resume is cut as well, after so many events (optional)
//   headers      sent with every request
//   body         merged into the POST's body by the SDK
//
// It prints a JSON object a line: `{"step":"receiving"}` when a body has begun, and `{"step":"cut"}` when it
// has lost one; then it waits for a line on stdin before it reconnects. The last one is `{"step":"report"}` with the messages as the SDK has assembled them.

import { createRequire } from 'node:module';
import path from 'node:path';
import readline from 'node:readline';
import { pathToFileURL } from 'node:url';

const [directory, json] = process.argv.slice(2);
const options = { mode: 'reload', cutInside: 0, headers: {}, body: {}, ...JSON.parse(json) };
const require = createRequire(path.join(path.resolve(directory), 'package.json'));

// A package's ES module: `require.resolve` would find the CommonJS one, of which the SDK may have none.
async function load(name) {
  const manifest = require.resolve(`${name}/package.json`);
  const { exports, module, main } = require(manifest);
  const entry = exports?.['.'] ?? {};
  const target = entry.import?.default ?? entry.import ?? entry.default ?? module ?? main;
  return import(pathToFileURL(path.join(path.dirname(manifest), target)));
}

const { DefaultChatTransport, readUIMessageStream } = await load('ai');
const { Chat } = await load('@ai-sdk/react');
const version = (name) => require(`${name}/package.json`).version;

const say = (object) => process.stdout.write(JSON.stringify(object) + '\n');
const lines = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const requests = [];

async function cut() {
  say({ step: 'cut' });
  await lines.next();
}

// `fetch` with a connection that is lost: the socket is closed, and the body fails as a browser's would.
function losing(...limits) {
  return async (input, init = {}) => {
    const url = new URL(input);
    const method = init.method ?? 'GET';
    const limit = limits.shift();
    if (method === 'GET' && options.resumeOrigin) url.host = new URL(options.resumeOrigin).host;
    const socket = new AbortController();
    const response = await fetch(url, { ...init, signal: socket.signal });
    requests.push({ method, path: url.pathname, status: response.status });
    if (response.status !== 200) return response;
    const { status, headers } = response;
    const announced = response.body.pipeThrough(announce());
    if (limit === undefined) return new Response(announced, { status, headers });
    const reader = announced.pipeThrough(keepUntil(limit)).getReader();
    return new Response(
      new ReadableStream({
        async pull(controller) {
          const { value, done } = await reader.read();
          if (!done) return controller.enqueue(value);
          await digested();
          socket.abort();
          controller.error(new TypeError('network error'));
        },
      }),
      { status, headers },
    );
  };
}

function announce() {
  let first = true;
  return new TransformStream({
    transform(chunk, controller) {
      if (first) say({ step: 'receiving' });
      first = false;
      controller.enqueue(chunk);
    },
  });
}

// A body that fails drops what is still on its way through the SDK's pipes: let that arrive first.
async function digested() {
  for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
}

// Passes the first `limit` events and `cutInside` bytes more, then ends.
function keepUntil(limit) {
  let seen = Buffer.alloc(0);
  let passed = 0;
  return new TransformStream({
    transform(chunk, controller) {
      seen = Buffer.concat([seen, chunk]);
      let end = 0;
      for (let i = 0; i < limit && end >= 0; i++) end = nextEvent(seen, end);
      const last = end < 0 ? seen.length : Math.min(end + options.cutInside, seen.length);
      if (last > passed) controller.enqueue(new Uint8Array(seen.subarray(passed, last)));
      passed = Math.max(passed, last);
      if (end >= 0 && last === end + options.cutInside) controller.terminate();
    },
  });
}

function nextEvent(buffer, from) {
  const at = buffer.indexOf('\n\n', from);
  return at < 0 ? -1 : at + 2;
}

const transport = new DefaultChatTransport({
  api: options.api,
  headers: options.headers,
  body: options.body,
  fetch: losing(options.cutAfter, options.recutAfter),
});
const text = (message) => message.parts.flatMap((p) => (p.type === 'text' ? [p.text] : [])).join('');
const question = { id: 'question', role: 'user', parts: [{ type: 'text', text: 'hello' }] };
const legs = options.recutAfter === undefined ? 1 : 2;

async function withChat() {
  const ends = [];
  const make = (messages) =>
    new Chat({
      id: options.chatId,
      transport,
      messages,
      onError: () => {},
      onFinish: ({ isAbort, isDisconnect, isError }) => ends.push({ isAbort, isDisconnect, isError }),
    });
  let chat = make([]);
  await chat.sendMessage({ text: 'hello' });
  const partial = chat.messages.filter((m) => m.role === 'assistant').map(text).join('');
  const lost = chat.status;
  for (let leg = 0; leg < legs; leg++) {
    await cut();
    if (options.mode === 'reload') chat = make(chat.messages.filter((m) => m.role === 'user'));
    await chat.resumeStream();
  }
  const assistant = chat.messages.filter((m) => m.role === 'assistant');
  return {
    partial,
    lost,
    status: chat.status,
    error: chat.error?.message ?? null,
    texts: assistant.map(text),
    ids: assistant.map((m) => m.id),
    ends,
  };
}

async function withTransport() {
  const first = await assemble(
    await transport.sendMessages({
      trigger: 'submit-message',
      chatId: options.chatId,
      messageId: undefined,
      messages: [question],
      abortSignal: undefined,
    }),
  );
  let last = { message: null, error: null };
  for (let leg = 0; leg < legs; leg++) {
    await cut();
    last = await assemble(await transport.reconnectToStream({ chatId: options.chatId }));
  }
  return {
    partial: first.message ? text(first.message) : '',
    lost: first.error,
    status: null,
    error: last.error,
    texts: last.message ? [text(last.message)] : [],
    ids: last.message ? [last.message.id] : [],
    ends: [],
  };
}

async function assemble(stream) {
  let message = null;
  let error = null;
  try {
    const found = readUIMessageStream({ stream, terminateOnError: true });
    for await (const state of found) message = state;
  } catch (failure) {
    error = failure.message;
  }
  return { message, error };
}

const report = options.mode === 'transport' ? await withTransport() : await withChat();
const afterwards = await transport.reconnectToStream({ chatId: options.chatId });
say({
  step: 'report',
  versions: { ai: version('ai'), react: version('@ai-sdk/react') },
  ...report,
  afterwards: afterwards === null ? 'nothing' : 'a stream',
  requests,
});
process.exit(0);
