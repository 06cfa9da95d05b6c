// A TCP proxy that can cut its connections.

import { connect, createServer } from "node:net";

export class Proxy {
  #open = new Set();
  #target;
  /** Whether new connections are let through. */
  up = true;

  static async start(target) {
    const proxy = new Proxy();
    proxy.#target = new URL(target);
    proxy.server = createServer((client) => proxy.#accept(client));
    await new Promise((resolve) => proxy.server.listen(0, "127.0.0.1", resolve));
    proxy.url = `http://127.0.0.1:${proxy.server.address().port}`;
    return proxy;
  }

  #accept(client) {
    if (!this.up) {
      client.resetAndDestroy();
      return;
    }
    const server = connect(this.#target.port, this.#target.hostname);
    for (const [from, to] of [[client, server], [server, client]]) {
      this.#open.add(from);
      from.on("error", () => {});
      from.on("close", () => {
        this.#open.delete(from);
        to.destroy();
      });
      from.pipe(to);
    }
  }

  /** Ends every connection as a broken network does. */
  cut() {
    for (const socket of this.#open) {
      socket.resetAndDestroy();
    }
  }

  close() {
    this.cut();
    this.server.close();
  }
}
