// End-to-end encryption between two pages in a real Chromium, with libsodium in WebAssembly.

import { equal } from "./contract.mjs";

const SEALED_BOX = 1;
const BOX = 2;

export async function run(world) {
  const pages = [await world.page("e2ee"), await world.page("e2ee")];
  for (const page of pages) await page.waitForFunction(() => window.loaded);
  const [ann, bob] = pages.map((page) => (name, ...args) => page.evaluate(([name, args]) => window[name](...args), [name, args]));

  await world.check("Chromium, end-to-end encryption: two pages read sealed boxes and crypto boxes of each other", async () => {
    const people = [await ann("join", world.url, "Ann"), await bob("join", world.url, "Bob")];
    const conversation = await ann("begin", people[1].id);
    equal(await bob("begin", people[0].id), conversation, "the conversation of both");
    const heard = bob("read", conversation, people, 3);
    equal(await ann("send", conversation, people, "sealed ✓", SEALED_BOX), 1);
    equal(await ann("send", conversation, people, "boxed ✓", BOX), 2);
    equal(await bob("send", conversation, people, "and back", BOX), 3);
    equal(await heard, ["sealed ✓", "boxed ✓", "mine"], "what Bob has read");
    equal(await ann("read", conversation, people, 3), ["mine", "mine", "and back"], "what Ann has read");

    // Ann learns of Bob's new device by the refusal.
    const added = await bob("addDevice");
    const refusal = await ann("send", conversation, people, "to one", BOX, [added]);
    equal([refusal.includes("DEVICES_CHANGED"), refusal.includes(added)], [true, true], refusal);
    equal(await ann("send", conversation, people, "to both", BOX), 4);
    equal((await bob("read", conversation, people, 4))[3], "to both");
  });
}
