// Pages in a real Chromium chat while their server is killed and stopped, and started again.

import { mkdirSync } from "node:fs";
import { equal } from "./contract.mjs";
import { Rialto } from "./rialto.mjs";

// Messages that each page has to receive before and after each restart.
const ENOUGH = 50;
const WAYS = { Ann: "REST", Bob: "REST", Cleo: "gRPC-Web", Dan: "gRPC-Web" };

export async function run(world) {
  const people = [];
  for (const [name, way] of Object.entries(WAYS)) people.push(await open(world, name, way));
  const folder = `${world.temporary}/chat`;
  mkdirSync(folder);
  const origins = JSON.stringify(people.map(({ page }) => new URL(page.url()).origin));
  // Access tokens that expire during outages, and in between.
  const settings = { RIALTO_SERVER__CORS_ORIGINS: origins, RIALTO_AUTH__ACCESS_TOKEN_SECONDS: "3", RIALTO_AUTH__LEEWAY_SECONDS: "0" };
  const rialto = await Rialto.start(folder, settings);
  try {
    await world.check("Chromium: pages that chat over server-sent events and over gRPC-Web lose nothing when the server is killed, and when it stops", () => chat(rialto, people));
    await world.check("Chromium, chat: nothing has panicked", async () => {
      equal(rialto.log().includes("panicked at"), false);
    });
  } finally {
    await rialto.stop();
  }
}

/** A page of somebody with a browser of their own. */
async function open(world, name, way) {
  const page = await world.page("chat", { profile: await world.profile(), host: "localhost" });
  await page.waitForFunction(() => window.loaded);
  const on = (name, ...args) => page.evaluate(([name, args]) => window[name](...args), [name, args]);
  return { name, way, page, on };
}

async function chat(rialto, people) {
  const all = (work) => Promise.all(people.map(work));
  const states = () => all(({ on }) => on("state"));
  /** Waits until this is so in each page, with what is given for each. */
  const until = (condition, given = []) => all(({ page }, i) => page.waitForFunction(condition, given[i]));
  const receive = (seqs) => until((seq) => window.state?.().received.at(-1)?.[0] >= seq, seqs);
  const base = rialto.banner.rest.replace("127.0.0.1", "localhost");
  const [, ...others] = await all(({ name, way, on }) => on("enter", way, base, name));
  const [ann, bob, cleo, dan] = people;
  const conversation = await ann.on("begin", others);
  await all(({ on }) => on("chat", conversation));
  await receive(people.map(() => ENOUGH));

  for (const signal of ["SIGKILL", "SIGTERM"]) {
    // Some write on and on. Of others a message is taken, but they have not heard it.
    for (const { on, page } of [bob, dan]) {
      await on("loseAnswers", true);
      await page.waitForFunction((was) => window.state().unanswered > was, (await on("state")).unanswered);
    }
    const before = await states();
    await rialto.stop(signal);
    // Each notices, by what it reads and by what it sends.
    await until((was) => window.state().lost > was.lost && window.state().retries > was.retries, before);
    const during = await states();
    if (signal === "SIGTERM") {
      equal(during.map(({ ended }) => ended.includes("SERVICE_UNAVAILABLE")), [true, true, true, true], "each stream ended by a status");
    }
    for (const { on } of [bob, dan]) await on("loseAnswers", false);
    // What a page knows outlives it.
    for (const { page } of [ann, cleo]) await page.reload();
    await rialto.startAgain();
    await receive(during.map(({ received }) => received.at(-1)[0] + ENOUGH));
  }
  await until(() => window.state().refreshed > 0);

  await all(({ on }) => on("stopWriting"));
  await until(() => window.state().outbox.length === 0);
  const last = Math.max(...(await states()).map(({ acknowledged }) => acknowledged.at(-1)[0]));
  await receive(people.map(() => last));
  check(await states());
}

/** Nothing is lost, doubled or out of order, from what the pages have written down. Messages are `[seq, id, text]`. */
function check(people) {
  const [{ received }] = people;
  equal(received.map(([seq]) => seq), received.map((_, i) => i + 1), "numbers");
  for (const one of people) {
    equal(one.received, received, `what ${one.name} has received`);
    const texts = Array.from({ length: one.written }, (_, i) => `${one.name} ${i + 1}`);
    equal(one.acknowledged.map(([, , text]) => text), texts, `what was acknowledged to ${one.name}`);
    equal(received.filter(([, , text]) => text.startsWith(one.name)), one.acknowledged, `what was received from ${one.name}`);
  }
}
