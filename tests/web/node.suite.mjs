// The clients of Node.js: Connect over HTTP/1.1 and HTTP/2, in JSON and protobuf, and gRPC and gRPC-Web by the same library.

import { Code } from "@connectrpc/connect";
import { compressionGzip, createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { Contract, equal, refused, unaryAndWatch } from "./contract.mjs";

export async function run(world) {
  const contract = new Contract(world.descriptors);
  const baseUrl = world.url;
  const transports = [];
  for (const httpVersion of ["1.1", "2"]) {
    for (const useBinaryFormat of [false, true]) {
      const form = useBinaryFormat ? "protobuf" : "JSON";
      transports.push({ name: `Connect ${form} HTTP/${httpVersion}`, connect: true, httpVersion, transport: createConnectTransport({ baseUrl, httpVersion, useBinaryFormat }) });
    }
    transports.push({ name: `gRPC-Web HTTP/${httpVersion}`, httpVersion, transport: createGrpcWebTransport({ baseUrl, httpVersion }) });
  }
  const compressed = { sendCompression: compressionGzip, compressMinBytes: 1, acceptCompression: [compressionGzip] };
  transports.push({ name: "Connect JSON gzip HTTP/2", connect: true, httpVersion: "2", transport: createConnectTransport({ baseUrl, httpVersion: "2", useBinaryFormat: false, ...compressed }) });
  transports.push({ name: "gRPC HTTP/2", httpVersion: "2", transport: createGrpcTransport({ baseUrl, httpVersion: "2" }) });

  for (const { name, httpVersion, transport, connect } of transports) {
    let joined;
    await world.check(`${name}: calls, typed errors, watching, deadline, leaving`, async () => {
      joined = await unaryAndWatch(contract, transport);
    });
    if (!joined) continue;
    const { ann, bob, conversation } = joined;
    if (httpVersion === "2" && !name.startsWith("gRPC-Web")) {
      await world.check(`${name}: both sides of a stream talk at once`, () => talk(ann, bob, conversation));
      await world.check(`${name}: a command that breaks a rule ends the stream`, async () => {
        const stream = ann.messaging.connect((async function* () { yield { commandId: 1n }; await new Promise(() => {}); })());
        await refused(stream[Symbol.asyncIterator]().next(), Code.InvalidArgument);
      });
    } else if (connect) {
      await world.check(`${name}: one side talks after the other`, async () => {
        const text = `half duplex over ${name}`;
        const value = { conversationId: conversation.id, clientMessageId: crypto.randomUUID(), content: { case: "text", value: text } };
        const commands = async function* () { yield { commandId: 7n, command: { case: "send", value } }; };
        for await (const { commandId, response } of ann.messaging.connect(commands())) {
          equal([String(commandId), response.case, response.value.message.content.value], ["7", "sent", text]);
          break;
        }
      });
    }
  }

  await world.check("Connect: methods without side effects by GET", async () => {
    for (const useBinaryFormat of [false, true]) {
      const transport = createConnectTransport({ baseUrl, httpVersion: "1.1", useBinaryFormat, useHttpGet: true });
      const ann = await contract.join(transport, "Ann");
      equal((await ann.auth.getMe({})).account.id, ann.id);
      await refused(ann.messaging.getConversation({ conversationId: crypto.randomUUID() }), Code.NotFound, "RESOURCE_NOT_FOUND");
    }
  });

  await world.check("a client that leaves a stream is gone for the server", async () => {
    const transport = createConnectTransport({ baseUrl, httpVersion: "1.1" });
    const { ann, conversation } = await unaryAndWatch(contract, transport);
    const before = await connections(baseUrl);
    const leave = new AbortController();
    const watch = ann.messaging.subscribe({ conversationId: conversation.id, afterSeq: 0n }, { signal: leave.signal });
    await watch[Symbol.asyncIterator]().next();
    leave.abort();
    while ((await connections(baseUrl)) > before) {
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  });

  await world.check("calls are counted as Connect's", async () => {
    const metrics = await (await fetch(`${baseUrl}/metrics`)).text();
    equal(/http_requests_total\{[^}]*transport="connect"/.test(metrics), true, "transport");
    equal(/http_requests_total\{[^}]*transport="grpc-web"/.test(metrics), true, "transport");
  });
}

async function connections(baseUrl) {
  const metrics = await (await fetch(`${baseUrl}/metrics`)).text();
  return Number(/^connections_open (\d+)/m.exec(metrics)[1]);
}

/** Watches and sends over one stream, each command only after the answer to the one before. */
async function talk(ann, bob, conversation) {
  let say;
  const queue = [];
  const commands = (async function* () {
    for (;;) {
      if (queue.length === 0) await new Promise((resolve) => { say = resolve; });
      const next = queue.shift();
      if (next === undefined) return;
      yield next;
    }
  })();
  const push = (command) => { queue.push(command); say?.(); };
  const leave = new AbortController();
  const stream = ann.messaging.connect(commands, { signal: leave.signal })[Symbol.asyncIterator]();
  const answer = async () => (await stream.next()).value;
  push({ commandId: 1n, command: { case: "subscribe", value: { conversationId: conversation.id } } });
  const subscribed = await answer();
  equal([String(subscribed.commandId), subscribed.response.case], ["1", "subscribed"]);
  for (const id of ["2", "3"]) {
    push({ commandId: BigInt(id), command: { case: "send", value: { conversationId: conversation.id, clientMessageId: crypto.randomUUID(), content: { case: "text", value: id } } } });
    const answers = [await answer(), await answer()].map(({ response }) => response.case).sort();
    equal(answers, ["event", "sent"]);
  }
  // What somebody else says comes too, also when this side has nothing more to say.
  push(undefined);
  await bob.messaging.sendMessage({ conversationId: conversation.id, clientMessageId: crypto.randomUUID(), content: { case: "text", value: "from Bob" } });
  equal((await answer()).response.value.event.event.value.content.value, "from Bob");
  leave.abort();
  await refused(stream.next(), Code.Canceled);
}
