// Somebody who chats in this page and loses no message, whatever becomes of the server; chat.suite.mjs calls it.
//
// What has to outlive the page is in `localStorage`: the outbox, and what was received. A message stays in the outbox until it
// is acknowledged, and is sent under one client message id however often. What was received is written down as it came, nothing
// sorted out, so that the suite sees what the server did.

import { Code, ConnectError } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { Contract, reasonOf } from "./contract.mjs";

// Milliseconds.
const PATIENCE = 10_000;
const FIRST_PAUSE = 50;
const LONGEST_PAUSE = 1000;
// So many messages wait in the outbox while somebody writes.
const WRITTEN_AHEAD = 3;

const contract = new Contract(new Uint8Array(await (await fetch("/descriptors.bin")).arrayBuffer()));
let state = JSON.parse(localStorage.getItem("chat"));
let me;
let renewal;
// Whether answers to what is sent get lost on their way here.
let losing = false;

function keep(change) {
  change(state);
  localStorage.setItem("chat", JSON.stringify(state));
}

/** A call that failed, and what helps: `again` later, to `renew` the session first, or nothing. */
class Failure extends Error {
  constructor(reason, remedy) {
    super(reason);
    this.remedy = remedy;
  }
}

/** REST and the browser's own EventSource, with the session in cookies. */
class Rest {
  #csrf;

  async enter() {
    const { email, password, name } = state;
    return (await this.#call("POST", "/v1/auth/register", { email, password, displayName: name })).id;
  }

  async login() {
    await this.#call("POST", "/v1/auth/login", { email: state.email, password: state.password, cookie: true });
  }

  async refresh() {
    // A page that was loaded again has none.
    if (!this.#csrf) await this.#call("GET", "/v1/auth/csrf");
    await this.#call("POST", "/v1/auth/refresh", {});
  }

  async begin(memberIds) {
    return (await this.#call("POST", "/v1/conversations", { memberIds })).id;
  }

  async send({ id, text }) {
    const message = await this.#call("POST", `/v1/conversations/${state.conversation}/messages`, { clientMessageId: id, text });
    return Number(message.seq);
  }

  /** The browser connects again by itself, with the id of the last event, until it gets an answer that is not 200. */
  watch(after, heard) {
    return new Promise((_, reject) => {
      const source = new EventSource(`${state.baseUrl}/v1/conversations/${state.conversation}/events?after_seq=${after}`, { withCredentials: true });
      source.addEventListener("message", ({ data }) => {
        const { seq, message } = JSON.parse(data);
        heard(seq, message.clientMessageId, message.text);
      });
      source.addEventListener("error", ({ data }) => {
        // The status that ends a stream is an event of the same name.
        if (data !== undefined) ended(JSON.parse(data).error.reason);
        else if (source.readyState === EventSource.CLOSED) reject(new Failure("the stream was refused", "renew"));
        else lost();
      });
    });
  }

  async #call(method, path, body) {
    const headers = { ...(body && { "content-type": "application/json" }), ...(this.#csrf && { "x-csrf-token": this.#csrf }) };
    const signal = AbortSignal.timeout(PATIENCE);
    const unreachable = (error) => { throw new Failure(error.message, "again"); };
    const response = await fetch(state.baseUrl + path, { method, headers, credentials: "include", body: body && JSON.stringify(body), signal }).catch(unreachable);
    const answer = await response.json().catch(unreachable);
    if (answer.csrfToken) this.#csrf = answer.csrfToken;
    if (response.ok) return answer;
    const { reason } = answer.error;
    if (response.status === 401 || reason === "CSRF_TOKEN_INVALID") throw new Failure(reason, "renew");
    throw new Failure(reason, [429, 503, 504].includes(response.status) ? "again" : undefined);
  }
}

/** gRPC-Web with bearer tokens. */
class GrpcWeb {
  #transport = createGrpcWebTransport({ baseUrl: state.baseUrl, defaultTimeoutMs: PATIENCE });

  async enter() {
    const { email, password, name } = state;
    return (await this.#call("auth", "register", { email, password, displayName: name })).account.id;
  }

  async login() {
    this.#use(await this.#call("auth", "login", { email: state.email, password: state.password }));
  }

  async refresh() {
    this.#use(await this.#call("auth", "refresh", { refreshToken: state.tokens.refresh }));
  }

  async begin(memberIds) {
    return (await this.#call("messaging", "createConversation", { memberIds })).conversation.id;
  }

  async send({ id, text }) {
    const request = { conversationId: state.conversation, clientMessageId: id, content: { case: "text", value: text } };
    return Number((await this.#call("messaging", "sendMessage", request)).message.seq);
  }

  async watch(after, heard) {
    const { messaging } = contract.clients(this.#transport, state.tokens.access);
    try {
      const events = messaging.subscribe({ conversationId: state.conversation, afterSeq: BigInt(after) }, { timeoutMs: 0 });
      for await (const { seq, event } of events) {
        if (event.case === "message") heard(seq, event.value.clientMessageId, event.value.content.value);
      }
    } catch (thrown) {
      const reason = reasonOf(ConnectError.from(thrown));
      if (reason) ended(reason);
      else lost();
      throw this.#failure(thrown);
    }
  }

  #use({ accessToken, refreshToken }) {
    keep((state) => { state.tokens = { access: accessToken, refresh: refreshToken }; });
  }

  async #call(service, method, request) {
    try {
      return await contract.clients(this.#transport, service === "messaging" && state.tokens.access)[service][method](request);
    } catch (thrown) {
      throw this.#failure(thrown);
    }
  }

  #failure(thrown) {
    const { code, cause, message } = ConnectError.from(thrown);
    if (code === Code.Unauthenticated) return new Failure(message, "renew");
    const passing = cause instanceof TypeError || [Code.Unavailable, Code.ResourceExhausted, Code.DeadlineExceeded].includes(code);
    return new Failure(message, passing ? "again" : undefined);
  }
}

/** A stream was ended by the server, or not opened, and it said why. */
function ended(reason) {
  keep((state) => { state.ended.push(reason); });
}

/** A stream broke, or there was no server to open it. */
function lost() {
  keep((state) => { state.lost += 1; });
}

/** Writes and reads until the page is left. */
async function run() {
  await Promise.all([sendAll(), listen()]);
}

async function sendAll() {
  for (;;) {
    write();
    if (state.outbox.length === 0) return;
    const seq = await persist(async () => {
      const seq = await me.send(state.outbox[0]);
      if (!losing) return seq;
      keep((state) => { state.unanswered += 1; });
      throw new Failure("the answer got lost", "again");
    });
    keep((state) => {
      const { id, text } = state.outbox.shift();
      state.acknowledged.push([seq, id, text]);
    });
  }
}

/** Does this until it goes well. */
async function persist(work) {
  for (let failures = 0; ; failures += 1) {
    try {
      return await work();
    } catch (failure) {
      keep((state) => { state.retries += 1; });
      await recover(failure, failures);
    }
  }
}

/** What its person has to say now. */
function write() {
  while (state.writing && state.outbox.length < WRITTEN_AHEAD) {
    keep((state) => {
      state.written += 1;
      state.outbox.push({ id: crypto.randomUUID(), text: `${state.name} ${state.written}` });
    });
  }
}

async function listen() {
  for (let failures = 0; ;) {
    const after = state.received.at(-1)?.[0] ?? 0;
    const heard = (seq, id, text) => {
      failures = 0;
      keep((state) => state.received.push([Number(seq), id, text]));
    };
    const failure = await me.watch(after, heard).then(() => new Failure("the stream ended", "again"), (failure) => failure);
    await recover(failure, failures);
    failures += 1;
  }
}

/** Does what helps, and waits longer the more often it has not. */
async function recover(failure, failures) {
  if (failure.remedy === "renew") {
    renewal ??= renew().finally(() => { renewal = undefined; });
    failure = await renewal.then(() => new Failure("renewed", "again"), (failure) => failure);
    if (failure.message === "renewed" && failures === 0) return;
  }
  if (failure.remedy !== "again") throw failure;
  const pause = Math.min(FIRST_PAUSE * 2 ** failures, LONGEST_PAUSE) * (0.5 + Math.random() / 2);
  await new Promise((resolve) => setTimeout(resolve, pause));
}

/** One for both loops: a refresh token works once. Where the answer to that got lost, its person logs in again. */
async function renew() {
  try {
    await me.refresh();
    keep((state) => { state.refreshed += 1; });
  } catch (failure) {
    if (failure.remedy === "again") throw failure;
    await me.login();
  }
}

/** A new account, which chats in this way. Returns its id. */
async function enter(way, baseUrl, name) {
  state = { way, baseUrl, name, email: `${name}-${crypto.randomUUID()}@example.com`, password: "correct horse battery staple", tokens: {},
    writing: true, written: 0, outbox: [], acknowledged: [], received: [], retries: 0, refreshed: 0, lost: 0, unanswered: 0, ended: [] };
  me = start();
  const id = await me.enter();
  await me.login();
  return id;
}

const start = () => state.way === "gRPC-Web" ? new GrpcWeb() : new Rest();

/** Begins a conversation with these accounts. Returns its id. */
const begin = (others) => persist(() => me.begin(others));

/** From now on, or no longer, answers to what is sent get lost. */
function loseAnswers(so) {
  losing = so;
}

/** Chats in a conversation from now on, also when this page is loaded again. */
function chat(conversation) {
  keep((state) => { state.conversation = conversation; });
  run();
}

/** Writes no more; what is in the outbox is still sent. */
function stopWriting() {
  keep((state) => { state.writing = false; });
}

if (state) {
  me = start();
  run();
}
// The suite is not to wait for what will not come.
let broken;
addEventListener("unhandledrejection", ({ reason }) => { broken = reason; });

/** What was written, received and gone through so far. */
function progress() {
  if (broken) throw broken;
  return state;
}

Object.assign(window, { enter, begin, chat, loseAnswers, stopWriting, state: progress });
window.loaded = true;
