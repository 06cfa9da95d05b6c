// A `rialto dev` as a child process.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";

// Milliseconds. The first start makes a database cluster.
const START = 90_000;
const STOP = 30_000;

export class Rialto {
  #folder;
  #settings;

  /** Starts it on a free port of the loopback interface, with its data below this folder and these settings, and waits until it
   * is ready. */
  static async start(folder, settings = {}) {
    const rialto = new Rialto();
    rialto.#folder = folder;
    rialto.#settings = settings;
    rialto.logPath = `${folder}/rialto.log`;
    process.on("exit", () => rialto.process.kill());
    await rialto.#listen("127.0.0.1:0");
    return rialto;
  }

  /** Starts it after it was stopped, with the same address, data and settings. */
  async startAgain() {
    await this.#listen(this.banner.listen);
  }

  async #listen(address) {
    const log = openSync(this.logPath, "a");
    // Not the settings of whoever runs the tests.
    const ours = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("RIALTO_")));
    const env = { ...ours, ...this.#settings };
    const args = ["dev", "--json", "--listen", address, "--data-dir", `${this.#folder}/data`];
    this.process = spawn(process.env.RIALTO_BIN, args, { cwd: this.#folder, env, stdio: ["ignore", "pipe", log] });
    closeSync(log);
    this.exited = once(this.process, "exit");
    const tooLong = setTimeout(() => this.process.kill("SIGKILL"), START);
    const line = await Promise.race([once(createInterface(this.process.stdout), "line"), this.exited.then(() => null)]);
    clearTimeout(tooLong);
    if (line === null) {
      throw new Error(`rialto dev did not start:\n${this.log()}`);
    }
    this.banner = JSON.parse(line[0]);
  }

  async stop(signal = "SIGTERM") {
    this.process.kill(signal);
    const tooLong = setTimeout(() => this.process.kill("SIGKILL"), STOP);
    await this.exited;
    clearTimeout(tooLong);
  }

  log() {
    return readFileSync(this.logPath, "utf8");
  }
}
