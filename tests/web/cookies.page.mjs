// What a page does with a session in cookies; cookies.suite.mjs calls it.

import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { Contract } from "./contract.mjs";

const contract = new Contract(new Uint8Array(await (await fetch("/descriptors.bin")).arrayBuffer()));

/** A call as docs/browsers.md has it; `hidden` where the browser does not show the answer. */
async function rest(baseUrl, method, path, body, csrf) {
  const headers = { ...(body && { "content-type": "application/json" }), ...(csrf && { "x-csrf-token": csrf }) };
  try {
    const response = await fetch(baseUrl + path, { method, headers, credentials: "include", body: body && JSON.stringify(body) });
    const answer = await response.json();
    return { status: response.status, body: answer, reason: answer.error?.reason };
  } catch (error) {
    return { hidden: error.name };
  }
}

/** What any page can send anywhere without the browser asking. */
async function simple(baseUrl, path, body) {
  return (await fetch(baseUrl + path, { method: "POST", credentials: "include", mode: "no-cors", body })).type;
}

/** A form that posts JSON as text into a frame, to its end. Forms send `name=value`, so the JSON has to have an `=`. */
function form(baseUrl, path, json) {
  const frame = Object.assign(document.createElement("iframe"), { name: crypto.randomUUID() });
  document.body.append(frame);
  const form = Object.assign(document.createElement("form"), { method: "POST", action: baseUrl + path, target: frame.name, enctype: "text/plain" });
  const [name, value] = json.split("=");
  form.append(Object.assign(document.createElement("input"), { name, value }));
  document.body.append(form);
  const loaded = new Promise((resolve) => { frame.onload = () => resolve(true); });
  form.submit();
  return loaded;
}

/** A read and a change by typed clients: the name, and what the change came to. */
async function typed(kind, baseUrl, memberId, csrf) {
  const create = kind === "gRPC-Web" ? createGrpcWebTransport : createConnectTransport;
  const transport = create({ baseUrl, fetch: (url, init) => fetch(url, { ...init, credentials: "include" }) });
  const { auth, messaging } = contract.clients(transport);
  const { account } = await auth.getMe({});
  const headers = csrf ? { "x-csrf-token": csrf } : {};
  const change = messaging.createConversation({ title: kind, memberIds: [memberId] }, { headers });
  return [account.email, await change.then(({ conversation }) => conversation.title, (error) => error.code)];
}

/** The text of the first message of a stream, or `error`. */
function events(url) {
  return new Promise((resolve) => {
    const source = new EventSource(url, { withCredentials: true });
    const end = (value) => {
      source.close();
      resolve(value);
    };
    source.addEventListener("message", (event) => end(JSON.parse(event.data).message.text));
    source.addEventListener("error", () => end("error"));
  });
}

/** The first frame that a WebSocket hears, or the code with which it closes. */
function socket(url, protocols, frame) {
  return new Promise((resolve) => {
    const socket = new WebSocket(url, protocols);
    socket.onopen = () => socket.send(frame);
    socket.onclose = ({ code }) => resolve(code);
    socket.onmessage = ({ data }) => {
      resolve(JSON.parse(data));
      socket.close();
    };
  });
}

/** Opens a WebSocket; `closeCode` waits for the code with which it closes. */
function openSocket(url, protocols) {
  const socket = new WebSocket(url, protocols);
  window.socketEnd = new Promise((resolve) => { socket.onclose = ({ code }) => resolve(code); });
  return new Promise((resolve) => { socket.onopen = () => resolve(true); });
}

const closeCode = () => window.socketEnd;

Object.assign(window, { rest, simple, form, typed, events, socket, openSocket, closeCode });
window.loaded = true;
