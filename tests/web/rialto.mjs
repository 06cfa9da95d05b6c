// A `rialto dev` as a child process.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline";

// Milliseconds. The first start makes a database cluster.
const START = 90_000;
const STOP = 30_000;

export class Rialto {
  /** Starts it on a free port of the loopback interface, with its data below this folder and these settings, and waits until
   * it is ready. */
  static async start(folder, settings = {}) {
    const rialto = new Rialto();
    rialto.logPath = `${folder}/rialto.log`;
    const log = openSync(rialto.logPath, "a");
    // Not the settings of whoever runs the tests.
    const ours = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("RIALTO_")));
    const env = { ...ours, ...settings };
    const args = ["dev", "--json", "--listen", "127.0.0.1:0", "--data-dir", `${folder}/data`];
    rialto.process = spawn(process.env.RIALTO_BIN, args, { cwd: folder, env, stdio: ["ignore", "pipe", log] });
    closeSync(log);
    process.on("exit", () => rialto.process.kill());
    rialto.exited = once(rialto.process, "exit");
    const tooLong = setTimeout(() => rialto.process.kill("SIGKILL"), START);
    const line = await Promise.race([once(createInterface(rialto.process.stdout), "line"), rialto.exited.then(() => null)]);
    clearTimeout(tooLong);
    if (line === null) {
      throw new Error(`rialto dev did not start:\n${rialto.log()}`);
    }
    rialto.banner = JSON.parse(line[0]);
    return rialto;
  }

  async stop() {
    this.process.kill("SIGTERM");
    const tooLong = setTimeout(() => this.process.kill("SIGKILL"), STOP);
    await this.exited;
    clearTimeout(tooLong);
  }

  log() {
    return readFileSync(this.logPath, "utf8");
  }
}
