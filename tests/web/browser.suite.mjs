// A page of another origin in a real Chromium: Connect, gRPC-Web, and server-sent events that resume.

import { createConnectTransport } from "@connectrpc/connect-node";
import { Contract, equal } from "./contract.mjs";
import { Proxy } from "./proxy.mjs";

export async function run(world) {
  const page = await world.page("browser");
  await page.waitForFunction(() => window.loaded);
  /** A function of the page. */
  const inPage = (name, ...args) => page.evaluate(([name, args]) => window[name](...args), [name, args]);

  for (const kind of ["Connect JSON", "Connect protobuf", "gRPC-Web"]) {
    await world.check(`Chromium, ${kind}: calls, typed errors, watching, deadline, leaving`, () => inPage("calls", kind, world.url));
  }
  for (const form of ["JSON", "protobuf"]) {
    await world.check(`Chromium, Connect ${form}: methods without side effects by GET`, () => inPage("gets", form === "protobuf", world.url));
  }
  for (const format of ["text", "binary"]) {
    await world.check(`Chromium, grpc-web in ${format}: calls, errors${format === "text" ? ", watching" : ""}`, () => inPage("grpcWebLibrary", format, world.url));
  }
  for (const type of ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text", "application/grpc-web-text+proto"]) {
    await world.check(`Chromium, ${type} by hand`, () => inPage("grpcWebByHand", type, world.url));
  }
  await world.check("Chromium: the page may read the headers of other origins' answers that it needs", () => inPage("visibleHeaders", world.url));

  await world.check("Chromium: server-sent events resume where a cut connection ended", async () => {
    const contract = new Contract(world.descriptors);
    const transport = createConnectTransport({ baseUrl: world.url, httpVersion: "1.1" });
    const [ann, bob] = [await contract.join(transport, "Ann"), await contract.join(transport, "Bob")];
    const { conversation } = await ann.messaging.createConversation({ memberIds: [bob.id] });
    let sent = 0;
    const send = async (count) => {
      for (let i = 0; i < count; i += 1) {
        sent += 1;
        await ann.messaging.sendMessage({ conversationId: conversation.id, clientMessageId: String(sent), content: { case: "text", value: `text ${sent}` } });
      }
    };
    const proxy = await Proxy.start(world.url);
    let cuts = 0;
    try {
      await page.exposeFunction("seen", async (id) => {
        // In the middle of the stream, with messages on their way and others that are sent while nobody listens.
        if (id === "5" || id === "12") {
          proxy.up = false;
          proxy.cut();
          await send(5);
          proxy.up = true;
          cuts += 1;
        }
      });
      await send(8);
      const path = `/v1/conversations/${conversation.id}/events`;
      const watching = inPage("events", proxy.url + path, bob.token, 20);
      while (cuts < 2) await new Promise((resolve) => setTimeout(resolve, 20));
      // While somebody listens.
      await send(2);
      const { seen, connections } = await watching;
      equal(seen, Array.from({ length: 20 }, (_, i) => `${i + 1} message text ${i + 1}`), "events");
      equal(connections >= 3, true, `${connections} connections`);
    } finally {
      proxy.close();
    }
  });
}
