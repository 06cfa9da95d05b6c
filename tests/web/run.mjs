// Starts a server and runs the suites against it. See run.sh.
//
// A suite is a file `NAME.suite.mjs` here, which exports `async function run(world)`: see `World` below. The code of its
// page, if it has one, is `NAME.page.mjs`.

import { webcrypto } from "node:crypto";
import { readFileSync, readdirSync } from "node:fs";
import { createServer } from "node:http";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { Rialto } from "./rialto.mjs";

const HERE = dirname(fileURLToPath(import.meta.url));
// Milliseconds that a check may take. Nothing comes near it but a hang.
const LIMIT = 180_000;

// Node.js 18 does not have it as a global.
globalThis.crypto ??= webcrypto;

class World {
  passed = 0;
  failed = 0;
  #started = [];

  constructor(rialto, descriptors, temporary) {
    this.rialto = rialto;
    // A folder that is deleted at the end.
    this.temporary = temporary;
    this.url = rialto.banner.rest;
    this.descriptors = descriptors;
  }

  /** Runs a check, whose name says what is promised, and prints how it went. */
  async check(name, work) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error("it took too long")), LIMIT);
    });
    try {
      await Promise.race([work(), late]);
      this.passed += 1;
      console.log(`ok     ${name}`);
    } catch (error) {
      this.failed += 1;
      console.log(`FAILED ${name}\n    ${String(error.stack ?? error).replaceAll("\n", "\n    ")}`);
    } finally {
      clearTimeout(timer);
    }
  }

  /** A browser profile of its own: its pages share their cookies. */
  async profile() {
    this.browser ??= await this.#launch();
    return this.browser.newContext();
  }

  /** A page of another origin than the server's, with `NAME.page.mjs` in it. Without a profile it has one of its own. */
  async page(name, { profile, host = "127.0.0.1" } = {}) {
    profile ??= await this.profile();
    const options = { entryPoints: [`${HERE}/${name}.page.mjs`], bundle: true, format: "esm", write: false, target: "es2022" };
    const code = (await build({ ...options, logLevel: "error" })).outputFiles[0].contents;
    const files = { "/": ["text/html", `<!doctype html><title>${name}</title><script type="module" src="/page.js"></script>`],
      "/page.js": ["text/javascript", code], "/descriptors.bin": ["application/octet-stream", this.descriptors] };
    const server = createServer((request, response) => {
      const [type, content] = files[request.url] ?? ["text/plain", ""];
      response.writeHead(request.url in files ? 200 : 404, { "content-type": `${type}; charset=utf-8` }).end(content);
    });
    await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
    this.#started.push(() => server.close());
    const page = await profile.newPage();
    page.on("pageerror", (error) => console.log(`the page of ${name}: ${error}`));
    await page.goto(`http://${host}:${server.address().port}/`);
    return page;
  }

  async #launch() {
    const args = ["--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"];
    // Its profile is a new temporary folder.
    const options = { executablePath: process.env.RIALTO_CHROMIUM, headless: true, chromiumSandbox: false };
    const browser = await chromium.launch({ ...options, args, handleSIGTERM: false });
    this.#started.push(() => browser.close());
    return browser;
  }

  async close() {
    for (const stop of this.#started.reverse()) {
      await stop();
    }
  }
}

const [temporary, ...chosen] = process.argv.slice(2);
const names = readdirSync(HERE).filter((file) => file.endsWith(".suite.mjs")).map((file) => file.replace(".suite.mjs", ""));
const rialto = await Rialto.start(temporary);
const world = new World(rialto, readFileSync(`${temporary}/descriptors.bin`), temporary);
// What nobody caught is a failure like others.
process.on("uncaughtException", (error) => {
  world.failed += 1;
  console.log(`FAILED ${error.stack}`);
});
process.on("SIGTERM", async () => {
  await world.close().catch(() => {});
  await rialto.stop();
  process.exit(1);
});
try {
  for (const name of chosen.length > 0 ? chosen : names.sort()) {
    const { run } = await import(`./${name}.suite.mjs`);
    await run(world);
  }
  await world.check("nothing has panicked", async () => {
    const panic = rialto.log().split("\n").find((line) => line.includes("panicked at"));
    if (panic) throw new Error(panic);
  });
} catch (error) {
  world.failed += 1;
  console.log(`FAILED ${error.stack}`);
} finally {
  await world.close();
  await rialto.stop();
}
if (world.failed > 0) {
  console.error(`the end of the server's log:\n${rialto.log().split("\n").slice(-40).join("\n")}`);
}
console.log(`${world.passed} passed, ${world.failed} failed`);
process.exitCode = world.failed > 0 ? 1 : 0;
