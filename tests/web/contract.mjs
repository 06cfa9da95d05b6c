// The contract, from its descriptors: no code is generated. For Node.js and for pages.

import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";

export class Contract {
  constructor(descriptors) {
    this.registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, descriptors));
    this.auth = this.registry.getService("rialto.auth.v1.AuthService");
    this.messaging = this.registry.getService("rialto.messaging.v1.MessagingService");
  }

  /** Clients of both services. What they send has this token, if there is one. */
  clients(transport, token) {
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    return { auth: bearing(createClient(this.auth, transport), headers), messaging: bearing(createClient(this.messaging, transport), headers) };
  }

  /** Registers somebody and logs in. */
  async join(transport, name) {
    const { auth } = this.clients(transport);
    const email = `${name}-${crypto.randomUUID()}@example.com`;
    const password = "correct horse battery staple";
    const { account } = await auth.register({ email, password, displayName: name });
    const { accessToken } = await auth.login({ email, password });
    return { id: account.id, name, email, token: accessToken, ...this.clients(transport, accessToken) };
  }
}

function bearing(client, headers) {
  return new Proxy(client, {
    get: (client, method) => (request, options) => client[method](request, { headers, ...options }),
  });
}

export function equal(actual, expected, what = "value") {
  if (JSON.stringify(actual) !== JSON.stringify(expected)) {
    throw new Error(`${what}: expected ${JSON.stringify(expected)}, got ${JSON.stringify(actual)}`);
  }
}

/** The reason of an error of the server; `undefined` where it is not the server's. */
export function reasonOf(error) {
  const info = error.details.find((detail) => detail.type === "google.rpc.ErrorInfo");
  // Its first field.
  return info && new TextDecoder().decode(info.value.subarray(2, 2 + info.value[1]));
}

/** Expects an error with this code. Returns it. */
export async function refused(work, code, reason) {
  try {
    await work;
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    equal(Code[error.code], Code[code], `the code of "${error.message}"`);
    if (reason) {
      equal(reasonOf(error), reason, "reason");
    }
    return error;
  }
  throw new Error(`expected ${Code[code]}, but it went well`);
}

/** What every transport can do: calls, typed errors, a watched conversation, a deadline, a change of mind. */
export async function unaryAndWatch(contract, transport) {
  const methods = [];
  const anonymous = contract.clients(transport);
  await refused(anonymous.auth.getMe({}), Code.Unauthenticated, "UNAUTHORIZED");
  const invalid = await refused(anonymous.auth.register({ email: "x", password: "y", displayName: "" }), Code.InvalidArgument);
  equal(invalid.details.map((detail) => detail.type).includes("google.rpc.BadRequest"), true, "a BadRequest");

  const ann = await contract.join(transport, "Ann");
  const bob = await contract.join(transport, "Bob");
  const me = await ann.auth.getMe({}, { onHeader: (headers) => methods.push(headers.get("x-request-id") !== null) });
  equal(me.account.displayName, "Ann");
  equal(methods, [true], "headers");
  const { conversation } = await ann.messaging.createConversation({ title: "Unicode: ✓ 𝄞", memberIds: [bob.id] });
  equal(conversation.title, "Unicode: ✓ 𝄞");
  const send = (text) => ann.messaging.sendMessage({ conversationId: conversation.id, clientMessageId: crypto.randomUUID(), content: { case: "text", value: text } });
  equal(String((await send("1")).message.seq), "1");
  await send("2");

  const leave = new AbortController();
  const seen = [];
  const watch = bob.messaging.subscribe({ conversationId: conversation.id, afterSeq: 0n }, { signal: leave.signal });
  const left = refused((async () => {
    for await (const { seq, event } of watch) {
      seen.push(`${seq} ${event.value.content.value}`);
      // What was missed, then what happens.
      if (seen.length === 2) await send("3");
      if (seen.length === 3) leave.abort();
    }
  })(), Code.Canceled);
  await left;
  equal(seen, ["1 1", "2 2", "3 3"], "events");
  await refused(consume(bob.messaging.subscribe({ conversationId: crypto.randomUUID() })), Code.NotFound, "RESOURCE_NOT_FOUND");
  await refused(consume(bob.messaging.subscribe({ conversationId: conversation.id }, { timeoutMs: 300 })), Code.DeadlineExceeded);
  return { ann, bob, conversation };
}

export async function consume(stream) {
  for await (const _ of stream);
}
