// WebSockets of a page of another origin in a real Chromium.
//
// Alone, against a server that runs: RIALTO_URL=http://127.0.0.1:8080 node websocket.mjs
// with playwright-core to be found, and the browser in RIALTO_CHROMIUM (default: /usr/bin/chromium).

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { argv } from "node:process";
import { fileURLToPath } from "node:url";

const CONNECT = "/v1/messages/connect";

/** Somebody new who has logged in. */
async function join(baseUrl, name) {
  const call = async (path, body, token) => {
    const headers = { "content-type": "application/json", ...(token && { authorization: `Bearer ${token}` }) };
    const response = await fetch(baseUrl + path, { method: "POST", headers, body: JSON.stringify(body) });
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`);
    return response.json();
  };
  const login = { email: `${name}-${randomUUID()}@example.org`, password: "correct horse battery" };
  const { id } = await call("/v1/auth/register", { ...login, displayName: name });
  const token = (await call("/v1/auth/login", login)).accessToken;
  return { id, token, call: (path, body) => call(path, body, token) };
}

/**
 * In the page: opens a WebSocket, sends frames, and says what came until it was closed, or until there were `until` frames.
 * Frames are strings, or lists of bytes.
 */
function talk({ url, protocols, frames, until }) {
  return new Promise((resolve) => {
    const heard = [];
    let protocol;
    const socket = new WebSocket(url, protocols);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      protocol = socket.protocol;
      for (const frame of frames) socket.send(typeof frame === "string" ? frame : new Uint8Array(frame));
    };
    socket.onmessage = ({ data }) => {
      heard.push(typeof data === "string" ? data : [...new Uint8Array(data)]);
      if (heard.length === until) socket.close();
    };
    socket.onclose = ({ code, reason, wasClean }) => resolve({ heard, protocol, code, reason, wasClean });
  });
}

function equal(found, wanted, what) {
  if (JSON.stringify(found) !== JSON.stringify(wanted)) {
    throw new Error(`${what}: found ${JSON.stringify(found)}, wanted ${JSON.stringify(wanted)}`);
  }
}

/** Runs the checks in a page. `check` runs a function under the name of what it promises. */
export async function websocket({ page, baseUrl, check }) {
  const inPage = (path, token, protocol, frames, until) => {
    const protocols = token ? [protocol, `bearer.${token}`] : [protocol];
    return page.evaluate(talk, { url: baseUrl.replace("http", "ws") + path, protocols, frames, until });
  };
  const [ann, bob] = [await join(baseUrl, "ann"), await join(baseUrl, "bob")];
  const conversation = (await ann.call("/v1/conversations", { memberIds: [bob.id] })).id;
  const subscribe = JSON.stringify({ commandId: 1, subscribe: { conversationId: conversation, afterSeq: 0 } });
  const send = (text) => JSON.stringify({ commandId: 2, send: { conversationId: conversation, clientMessageId: text, text } });

  await check("Chromium, WebSocket: two pages chat", async () => {
    const watching = inPage(CONNECT, bob.token, "rialto.json.v1", [subscribe], 3);
    const sending = await inPage(CONNECT, ann.token, "rialto.json.v1", [send("one"), send("two"), "half-close"]);
    equal([sending.protocol, sending.code, sending.reason, sending.wasClean], ["rialto.json.v1", 1000, "OK", true], "end");
    equal(sending.heard.length, 2, "answers");
    const { heard } = await watching;
    const [first, ...events] = heard.map((frame) => JSON.parse(frame).result);
    equal(first.subscribed.conversationId, conversation, "subscribed");
    const seen = events.map(({ event }) => `${event.event.seq} ${event.event.message.text}`);
    equal(seen, ["1 one", "2 two"], "events");
  });

  await check("Chromium, WebSocket: Subscribe resumes by its query", async () => {
    const path = `/v1/conversations/${conversation}/events?after_seq=1`;
    const { heard } = await inPage(path, bob.token, "rialto.json.v1", ["half-close"], 1);
    equal(JSON.parse(heard[0]).result.message.text, "two", "message");
  });

  await check("Chromium, WebSocket: protobuf in binary frames", async () => {
    // ConnectRequest { command_id: 7, unsubscribe: { conversation_id } }
    const id = [...new TextEncoder().encode(conversation)];
    const request = [0x08, 7, 0x1a, id.length + 2, 0x0a, id.length, ...id];
    const { heard, protocol, code } = await inPage(CONNECT, bob.token, "rialto.proto.v1", [request, "half-close"]);
    // ConnectResponse { command_id: 7, unsubscribed: { conversation_id } }
    equal([protocol, heard, code], ["rialto.proto.v1", [request], 1000], "answer");
  });

  await check("Chromium, WebSocket: errors have a frame, a code and a reason", async () => {
    for (const [frame, code, reason] of [
      ['{"commandId":"x"}', 1007, 'commandId: expected int64, got "x"'],
      [[1, 2, 3], 1003, "rialto.json.v1 has text frames only"],
      ['{"commandId":1}', 4003, null],
    ]) {
      const end = await inPage(CONNECT, bob.token, "rialto.json.v1", [frame]);
      const { error } = JSON.parse(end.heard[0]);
      equal([end.code, end.reason, end.wasClean], [code, reason ?? error.message, true], "end");
      equal([error.status, error.message], ["INVALID_ARGUMENT", end.reason], "error");
    }
  });

  await check("Chromium, WebSocket: without a good token none opens", async () => {
    for (const token of [null, "nonsense"]) {
      const end = await inPage(CONNECT, token, "rialto.json.v1", [subscribe]);
      equal([end.heard, end.protocol, end.code], [[], undefined, 1006], "end");
    }
  });

  await check("Chromium, WebSocket: a session that ends closes it", async () => {
    const eve = await join(baseUrl, "eve");
    const mine = (await eve.call("/v1/conversations", { memberIds: [ann.id] })).id;
    const watch = JSON.stringify({ commandId: 1, subscribe: { conversationId: mine } });
    const open = inPage(CONNECT, eve.token, "rialto.json.v1", [watch]);
    await eve.call("/v1/auth/logout", {});
    const end = await open;
    // The logout may come before the socket has opened.
    equal([4016, 1006].includes(end.code), true, `code ${end.code}`);
  });
}

/** The checks alone, in a browser of their own and a page of another origin than the server's. */
async function main() {
  const { chromium } = await import("playwright-core");
  const executablePath = process.env.RIALTO_CHROMIUM ?? "/usr/bin/chromium";
  const browser = await chromium.launch({ executablePath, headless: true, chromiumSandbox: false });
  const server = createServer((_, response) => response.setHeader("content-type", "text/html").end("<!doctype html>"));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  try {
    const page = await browser.newPage();
    await page.goto(`http://127.0.0.1:${server.address().port}/`);
    let failed = 0;
    const check = async (name, work) => {
      try {
        await work();
        console.log(`ok     ${name}`);
      } catch (error) {
        failed += 1;
        console.log(`FAILED ${name}\n${error.stack}`);
      }
    };
    await websocket({ page, baseUrl: process.env.RIALTO_URL, check });
    process.exitCode = failed > 0 ? 1 : 0;
  } finally {
    server.close();
    await browser.close();
  }
}

if (argv[1] === fileURLToPath(import.meta.url)) await main();
