// Sessions in cookies, in a real Chromium: pages of an origin that the server names, of its own, and of others.

import { mkdirSync } from "node:fs";
import { Code } from "@connectrpc/connect";
import { equal } from "./contract.mjs";
import { Rialto } from "./rialto.mjs";

const CONNECT = "/v1/messages/connect";

export async function run(world) {
  // One browser profile, so that all its pages have the same cookies. `localhost` is one site, whatever the port: its
  // pages send cookies that are `SameSite=Strict` to each other, and only the server tells them apart.
  const browser = await world.profile();
  const named = await world.page("cookies", { profile: browser, host: "localhost" });
  const neighbour = await world.page("cookies", { profile: browser, host: "localhost" });
  const stranger = await world.page("cookies", { profile: browser });
  const folder = `${world.temporary}/cookies`;
  mkdirSync(folder);
  const origins = JSON.stringify(["*", new URL(named.url()).origin]);
  const rialto = await Rialto.start(folder, { RIALTO_SERVER__CORS_ORIGINS: origins });
  try {
    await checks(world, { browser, named, neighbour, stranger, rialto });
  } finally {
    await rialto.stop();
  }
}

async function checks(world, { browser, named, neighbour, stranger, rialto }) {
  const base = rialto.banner.rest.replace("127.0.0.1", "localhost");
  const sockets = base.replace("http", "ws");
  const [alice, bob] = ["alice", "bob"].map((name) => rialto.banner.accounts.find(({ email }) => email.startsWith(name)));
  for (const page of [named, neighbour, stranger]) await page.waitForFunction(() => window.loaded);
  /** A function of a page. */
  const on = (page, name, ...args) => page.evaluate(([name, args]) => window[name](...args), [name, args]);
  const call = (page, method, path, body, csrf) => on(page, "rest", base, method, path, body, csrf);
  const cookies = async () => {
    const all = await browser.cookies(base);
    return Object.fromEntries(all.map(({ name, ...cookie }) => [name.replace("__Host-rialto-", ""), cookie]));
  };
  const login = (page, account) => call(page, "POST", "/v1/auth/login", { email: account.email, password: account.password, cookie: true });
  const name = async () => (await call(named, "GET", "/v1/users/me")).body.displayName;
  let csrf;
  let memberId;
  let conversation;

  await world.check("Chromium, cookies: a named origin's page logs in over http on localhost, and no script sees a token", async () => {
    const { status, body } = await login(named, alice);
    equal([status, body.accessToken, body.refreshToken, body.deviceToken], [200, "", "", ""], "login");
    csrf = body.csrfToken;
    const kept = await cookies();
    equal(Object.keys(kept).sort(), ["access", "device", "refresh"], "cookies");
    for (const { secure, httpOnly, sameSite, path, domain } of Object.values(kept)) {
      equal([secure, httpOnly, sameSite, path, domain], [true, true, "Strict", "/", "localhost"], "attributes");
    }
    for (const page of [named, neighbour]) equal(await page.evaluate(() => document.cookie), "", "what scripts see");
  });

  await world.check("Chromium, cookies: REST reads, and changes something with the CSRF token only", async () => {
    equal((await call(named, "GET", "/v1/auth/me")).body.email, alice.email);
    equal((await call(named, "PATCH", "/v1/users/me", { displayName: "x" })).reason, "CSRF_TOKEN_INVALID");
    equal((await call(named, "PATCH", "/v1/users/me", { displayName: "Alice C." }, csrf)).status, 200);
    equal(await name(), "Alice C.");
    memberId = (await call(named, "GET", `/v1/users?query=${encodeURIComponent(bob.display_name ?? "Bob")}`)).body.users[0].id;
    conversation = (await call(named, "POST", "/v1/conversations", { memberIds: [memberId] }, csrf)).body.id;
    const message = { clientMessageId: "1", text: "first" };
    equal((await call(named, "POST", `/v1/conversations/${conversation}/messages`, message, csrf)).status, 200);
  });

  for (const kind of ["gRPC-Web", "Connect"]) {
    await world.check(`Chromium, cookies: ${kind} reads, and changes something with the CSRF token only`, async () => {
      equal(await on(named, "typed", kind, base, memberId), [alice.email, Code.PermissionDenied]);
      equal(await on(named, "typed", kind, base, memberId, csrf), [alice.email, kind]);
    });
  }

  const subscribe = () => JSON.stringify({ commandId: 1, subscribe: { conversationId: conversation, afterSeq: 0 } });

  await world.check("Chromium, cookies: server-sent events and WebSockets", async () => {
    const path = `/v1/conversations/${conversation}/events?after_seq=0`;
    equal(await on(named, "events", base + path), "first", "event");
    const reading = await on(named, "socket", sockets + path, ["rialto.json.v1"], "half-close");
    equal(reading.result.message.text, "first", "a WebSocket that reads");
    const talking = await on(named, "socket", sockets + CONNECT, ["rialto.json.v1", `csrf.${csrf}`], subscribe());
    equal(talking.result.subscribed.conversationId, conversation, "a WebSocket that talks");
    equal(await on(named, "socket", sockets + CONNECT, ["rialto.json.v1"], subscribe()), 1006, "one without the token");
  });

  for (const [who, page] of [["the same site", neighbour], ["another site", stranger]]) {
    await world.check(`Chromium, cookies: a page of ${who} that is not named can do nothing with them`, async () => {
      equal((await call(page, "GET", "/v1/auth/me")).hidden, "TypeError", "a read");
      equal((await call(page, "GET", "/v1/auth/csrf")).hidden, "TypeError", "the CSRF token");
      // Even if it knew the token.
      equal((await call(page, "PATCH", "/v1/users/me", { displayName: "x" }, csrf)).hidden, "TypeError", "a change");
      equal((await login(page, bob)).hidden, "TypeError", "a login as somebody else");
      for (const path of ["/v1/auth/logout", "/v1/auth/refresh"]) {
        equal(await on(page, "simple", base, path, "{}"), "opaque");
      }
      const conversations = async () => (await call(named, "GET", "/v1/conversations")).body.conversations.length;
      const before = await conversations();
      const create = JSON.stringify({ memberIds: [memberId], title: "1 = 1" });
      equal(await on(page, "simple", base, "/v1/conversations", create), "opaque");
      equal(await on(page, "form", base, "/v1/conversations", create), true, "a form");
      equal([await conversations(), before > 0], [before, true], "conversations");
      equal(await on(page, "events", `${base}/v1/conversations/${conversation}/events?after_seq=0`), "error", "events");
      equal(await on(page, "socket", sockets + CONNECT, ["rialto.json.v1", `csrf.${csrf}`], subscribe()), 1006, "a WebSocket");
      equal(await on(page, "socket", `${sockets}/v1/conversations/${conversation}/events`, ["rialto.json.v1"], "half-close"), 1006);
      equal(await name(), "Alice C.");
    });
  }

  await world.check("Chromium, cookies: a page of the server's own origin needs to be named nowhere", async () => {
    const own = await browser.newPage();
    await own.goto(`${base}/docs`);
    const ask = (method, path, body, csrf) => own.evaluate(async ([method, path, body, csrf]) => {
      const headers = { ...(body && { "content-type": "application/json" }), ...(csrf && { "x-csrf-token": csrf }) };
      const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
      return { status: response.status, body: await response.json() };
    }, [method, path, body, csrf]);
    // A GET of the same origin has no `Origin`.
    equal((await ask("GET", "/v1/auth/me")).body.email, alice.email);
    const { csrfToken } = (await ask("GET", "/v1/auth/csrf")).body;
    equal((await ask("PATCH", "/v1/users/me", { displayName: "Own" })).status, 403);
    equal((await ask("PATCH", "/v1/users/me", { displayName: "Own" }, csrfToken)).status, 200);
    equal(await name(), "Own");
    await own.close();
  });

  await world.check("Chromium, cookies: tabs that were loaded again refresh at once, and both go on", async () => {
    const tabs = [named, await browser.newPage()];
    await tabs[1].goto(named.url());
    await named.reload();
    for (const tab of tabs) await tab.waitForFunction(() => window.loaded);
    const before = await cookies();
    const tokens = await Promise.all(tabs.map(async (tab) => (await call(tab, "GET", "/v1/auth/csrf")).body.csrfToken));
    const refreshes = await Promise.all(tabs.map((tab, i) => call(tab, "POST", "/v1/auth/refresh", {}, tokens[i])));
    // The other one may have come late enough to have sent the new cookie.
    const outcomes = refreshes.map(({ status, reason }) => reason ?? status);
    equal(outcomes.includes(200) && outcomes.every((outcome) => [200, "REFRESH_SUPERSEDED"].includes(outcome)), true, outcomes.join());
    const after = await cookies();
    equal([after.access.value === before.access.value, after.refresh.value === before.refresh.value], [false, false], "kept");
    for (const [i, tab] of tabs.entries()) {
      equal((await call(tab, "PATCH", "/v1/users/me", { displayName: `Tab ${i}` }, tokens[i])).status, 200);
    }
    csrf = tokens[0];
    await tabs[1].close();
  });

  await world.check("Chromium, cookies: logging out clears them in every tab and ends what they opened", async () => {
    await on(named, "openSocket", sockets + CONNECT, ["rialto.json.v1", `csrf.${csrf}`]);
    equal((await call(named, "POST", "/v1/auth/logout", {}, csrf)).status, 200);
    equal(Object.keys(await cookies()), ["device"], "cookies");
    equal(await on(named, "closeCode"), 4016, "the code of the WebSocket");
    equal((await call(named, "GET", "/v1/auth/me")).reason, "UNAUTHORIZED");
    equal((await call(named, "GET", "/v1/auth/csrf")).body, { csrfToken: "" });
  });

  await world.check("Chromium, cookies: nothing has panicked", async () => {
    equal(rialto.log().includes("panicked at"), false);
  });
}
