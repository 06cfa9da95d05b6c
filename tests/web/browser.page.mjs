// What a page does; browser.suite.mjs calls it.

import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { GrpcWebClientBase, MethodDescriptor, MethodType } from "grpc-web";
import { Contract, equal, refused, unaryAndWatch } from "./contract.mjs";

const contract = new Contract(new Uint8Array(await (await fetch("/descriptors.bin")).arrayBuffer()));

function transport(kind, baseUrl) {
  switch (kind) {
    case "Connect JSON": return createConnectTransport({ baseUrl });
    case "Connect protobuf": return createConnectTransport({ baseUrl, useBinaryFormat: true });
    case "gRPC-Web": return createGrpcWebTransport({ baseUrl });
    default: throw new Error(kind);
  }
}

export async function calls(kind, baseUrl) {
  await unaryAndWatch(contract, transport(kind, baseUrl));
}

/** Methods without side effects by GET, and no others. */
export async function gets(useBinaryFormat, baseUrl) {
  const sent = [];
  const spy = (url, init) => {
    sent.push(`${init.method} ${new URL(url).pathname.split("/").pop()}`);
    return fetch(url, init);
  };
  const transport = createConnectTransport({ baseUrl, useBinaryFormat, useHttpGet: true, fetch: spy });
  const ann = await contract.join(transport, "Ann");
  equal((await ann.auth.getMe({})).account.id, ann.id);
  await refused(ann.messaging.getConversation({ conversationId: crypto.randomUUID() }), Code.NotFound, "RESOURCE_NOT_FOUND");
  equal(sent, ["POST Register", "POST Login", "GET GetMe", "GET GetConversation"], "requests");
}

/** Two members of a conversation. */
export async function conversation(baseUrl) {
  const connect = transport("Connect JSON", baseUrl);
  const [ann, bob] = [await contract.join(connect, "Ann"), await contract.join(connect, "Bob")];
  const { conversation } = await ann.messaging.createConversation({ memberIds: [bob.id] });
  const send = (text) => ann.messaging.sendMessage({ conversationId: conversation.id, clientMessageId: crypto.randomUUID(), content: { case: "text", value: text } });
  return { ann, bob, id: conversation.id, send };
}

/** The library `grpc-web`, whose texts are base64. */
export async function grpcWebLibrary(format, baseUrl) {
  const { bob, id, send } = await conversation(baseUrl);
  await send("1");
  const client = new GrpcWebClientBase({ format });
  const descriptor = (method, type) => new MethodDescriptor(
    `/${method.parent.typeName}/${method.name}`, type, Object, Object,
    (message) => toBinary(method.input, message), (bytes) => fromBinary(method.output, bytes),
  );
  const call = (method, request, metadata) => client.unaryCall(
    `${baseUrl}/${method.parent.typeName}/${method.name}`, create(method.input, request), metadata, descriptor(method, MethodType.UNARY),
  );
  const bearer = { authorization: `Bearer ${bob.token}` };
  equal((await call(contract.auth.method.getMe, {}, bearer)).account.displayName, "Bob");
  const error = await call(contract.auth.method.getMe, {}, {}).then(() => null, (error) => error);
  equal([error?.code, "grpc-status-details-bin" in (error?.metadata ?? {})], [Code.Unauthenticated, true], "the error");
  // The library reads streams in base64 only.
  if (format !== "text") return;

  const method = contract.messaging.method.subscribe;
  const watch = (request) => client.serverStreaming(
    `${baseUrl}/${method.parent.typeName}/${method.name}`, create(method.input, request), bearer, descriptor(method, MethodType.SERVER_STREAMING),
  );
  const seen = await new Promise((resolve, reject) => {
    const seen = [];
    const stream = watch({ conversationId: id, afterSeq: 0n });
    stream.on("error", reject);
    stream.on("data", ({ event }) => {
      seen.push(event.value.content.value);
      if (seen.length === 1) send("2");
      if (seen.length === 2) {
        stream.cancel();
        resolve(seen);
      }
    });
  });
  equal(seen, ["1", "2"], "events");
  const code = await new Promise((resolve) => watch({ conversationId: crypto.randomUUID() }).on("error", (error) => resolve(error.code)));
  equal(code, Code.NotFound, "the code of a stream that is refused");
}

/** Frames written by hand, for content types that no library here sends. */
export async function grpcWebByHand(contentType, baseUrl) {
  const { bob } = await conversation(baseUrl);
  const text = contentType.includes("-text");
  const call = async (token) => {
    const headers = { accept: contentType, "content-type": contentType, "x-grpc-web": "1", ...(token ? { authorization: `Bearer ${token}` } : {}) };
    const frame = new Uint8Array(5);
    const body = text ? btoa(String.fromCharCode(...frame)) : frame;
    const response = await fetch(`${baseUrl}/rialto.auth.v1.AuthService/GetMe`, { method: "POST", headers, body });
    equal([response.status, response.headers.get("content-type").startsWith(text ? "application/grpc-web-text" : "application/grpc-web")], [200, true]);
    if (response.headers.has("grpc-status")) return { status: response.headers.get("grpc-status"), messages: [] };
    let bytes = new Uint8Array(await response.arrayBuffer());
    if (text) {
      // Pieces may be padded each.
      const pieces = new TextDecoder().decode(bytes).match(/[^=]+={0,2}/g);
      bytes = Uint8Array.from(pieces.map((piece) => atob(piece)).join(""), (char) => char.charCodeAt(0));
    }
    const messages = [];
    let trailers = "";
    for (let at = 0; at < bytes.length; ) {
      const length = new DataView(bytes.buffer, bytes.byteOffset + at + 1).getUint32(0);
      const content = bytes.subarray(at + 5, at + 5 + length);
      if (bytes[at] & 0x80) trailers = new TextDecoder().decode(content);
      else messages.push(content);
      at += 5 + length;
    }
    return { status: /grpc-status:\s*(\d+)/.exec(trailers)?.[1], messages };
  };
  const good = await call(bob.token);
  equal([good.status, good.messages.length], ["0", 1]);
  equal(fromBinary(contract.auth.method.getMe.output, good.messages[0]).account.displayName, "Bob");
  const bad = await call();
  equal([bad.status, bad.messages.length], ["16", 0]);
}

/** Headers that only the server's list of exposed ones makes visible to a page of another origin. */
export async function visibleHeaders(baseUrl) {
  const { bob } = await conversation(baseUrl);
  let headers;
  await bob.auth.getMe({}, { onHeader: (given) => { headers = given; } });
  equal(["x-request-id", "ratelimit-limit", "ratelimit-remaining"].filter((name) => !headers.has(name)), [], "missing headers");
  const error = await refused(contract.clients(transport("Connect JSON", baseUrl)).auth.getMe({}), Code.Unauthenticated);
  equal(error.metadata.has("x-request-id"), true, "the id of a failed request");
}

/**
 * Reads server-sent events, and comes back with the last id whenever the connection breaks, until there are `enough`. What it
 * sees it tells the test by `window.seen(id)`.
 */
export async function events(url, token, enough) {
  const seen = [];
  let last = "0";
  let connections = 0;
  while (seen.length < enough) {
    try {
      const headers = { accept: "text/event-stream", authorization: `Bearer ${token}`, "last-event-id": last };
      const response = await fetch(url, { headers });
      equal([response.status, response.headers.get("content-type")], [200, "text/event-stream"]);
      connections += 1;
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      while (seen.length < enough) {
        const { done, value } = await reader.read();
        if (done) break;
        text += value;
        const blocks = text.split("\n\n");
        text = blocks.pop();
        for (const block of blocks) {
          const field = (name) => block.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
          if (field("id") === undefined) continue;
          last = field("id");
          seen.push(`${last} ${field("event")} ${JSON.parse(field("data")).message.text}`);
          await window.seen(last);
        }
      }
      if (seen.length >= enough) await reader.cancel();
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      // The network.
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
  return { seen, connections };
}

Object.assign(window, { calls, events, gets, grpcWebByHand, grpcWebLibrary, visibleHeaders });
window.loaded = true;
