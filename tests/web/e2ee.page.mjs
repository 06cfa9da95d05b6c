// Somebody whose device is this page: libsodium, keys that never leave it, and gRPC-Web.

import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import sodium from "libsodium-wrappers";
import { Contract, equal } from "./contract.mjs";

const SEALED_BOX = 1;
const BOX = 2;

const contract = new Contract(new Uint8Array(await (await fetch("/descriptors.bin")).arrayBuffer()));
await sodium.ready;
let me;

function bytes(...parts) {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

const uuid = (id) => sodium.from_hex(id.replaceAll("-", ""));

/** What an account's key signs of a device. */
function statement(accountId, { deviceId, registrationId, identityKey, signingKey }) {
  const number = new Uint8Array(4);
  new DataView(number.buffer).setUint32(0, registrationId);
  return bytes(sodium.from_string("Rialto-Device-v1\0"), uuid(accountId), uuid(deviceId), number, identityKey, signingKey);
}

/** A new account, with this page as its first device. */
async function join(baseUrl, name) {
  const transport = createGrpcWebTransport({ baseUrl });
  const { id, token, messaging } = await contract.join(transport, name);
  const service = createClient(contract.registry.getService("rialto.keys.v1.KeyService"), transport);
  const headers = { authorization: `Bearer ${token}` };
  me = { id, messaging, account: sodium.crypto_sign_keypair(), service, headers };
  me.device = await register();
  return { id, accountKey: sodium.to_base64(me.account.publicKey) };
}

/** Registers a device of the account, which signs it. Returns it with its private key. */
async function register() {
  const identity = sodium.crypto_box_keypair();
  const device = {
    deviceId: crypto.randomUUID(), registrationId: 1 + sodium.randombytes_uniform(2 ** 31 - 1),
    identityKey: identity.publicKey, signingKey: sodium.crypto_sign_keypair().publicKey,
  };
  const signature = sodium.crypto_sign_detached(statement(me.id, device), me.account.privateKey);
  await me.service.registerDevice({ ...device, signature, name: "Page", accountKey: me.account.publicKey }, { headers: me.headers });
  return { ...device, privateKey: identity.privateKey };
}

/** Another device of the same account, which is never heard of again. Returns its id. */
async function addDevice() {
  return (await register()).deviceId;
}

/** An encrypted conversation of two. */
async function begin(other) {
  const { conversation } = await me.messaging.createConversation({ memberIds: [other], kind: 1, encrypted: true });
  equal(conversation.encrypted, true);
  return conversation.id;
}

/** All devices of these people, signed by the keys that they are known to have. */
async function directory(people) {
  const found = [];
  for (const { id, accountKey } of people) {
    const answer = await me.service.listDevices({ accountId: id }, { headers: me.headers });
    equal(sodium.to_base64(answer.accountKey), accountKey, "the account's key");
    for (const device of answer.devices) {
      equal(sodium.crypto_sign_verify_detached(device.signature, statement(id, device), answer.accountKey), true, "signature");
      found.push({ accountId: id, ...device });
    }
  }
  return found;
}

/** Writes to all devices of these people but this one. Returns the number of the message, or what the server misses. */
async function send(conversationId, people, text, type, without = []) {
  const envelopes = (await directory(people))
    .filter(({ deviceId }) => deviceId !== me.device.deviceId && !without.includes(deviceId))
    .map(({ accountId, deviceId, registrationId, identityKey }) => {
      const nonce = sodium.randombytes_buf(sodium.crypto_box_NONCEBYTES);
      const ciphertext = type === SEALED_BOX
        ? sodium.crypto_box_seal(text, identityKey)
        : bytes(nonce, sodium.crypto_box_easy(text, nonce, identityKey, me.device.privateKey));
      return { accountId, deviceId, registrationId, type, ciphertext };
    });
  const content = { case: "encrypted", value: { senderDeviceId: me.device.deviceId, envelopes } };
  try {
    const { message } = await me.messaging.sendMessage({ conversationId, clientMessageId: crypto.randomUUID(), content });
    return Number(message.seq);
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    equal(Code[error.code], "FailedPrecondition", error.message);
    const info = error.details.find((detail) => detail.type === "google.rpc.ErrorInfo");
    // Pairs of strings: enough to see the names in it.
    return new TextDecoder().decode(info.value);
  }
}

/** The first so many messages of a conversation, decrypted. */
async function read(conversationId, people, count) {
  const senders = await directory(people);
  const leave = new AbortController();
  const watch = me.messaging.subscribe({ conversationId, afterSeq: 0n, deviceId: me.device.deviceId }, { signal: leave.signal });
  const texts = [];
  try {
    for await (const { event } of watch) {
      const { senderId, content } = event.value;
      texts.push(senderId === me.id ? "mine" : open(senders, senderId, content.value));
      if (texts.length === count) break;
    }
  } finally {
    leave.abort();
  }
  return texts;
}

function open(senders, senderId, { senderDeviceId, envelopes }) {
  equal(envelopes.map(({ accountId, deviceId }) => [accountId, deviceId]), [[me.id, me.device.deviceId]], "envelopes");
  const [{ type, ciphertext }] = envelopes;
  const { identityKey, privateKey } = me.device;
  if (type === SEALED_BOX) return sodium.to_string(sodium.crypto_box_seal_open(ciphertext, identityKey, privateKey));
  equal(type, BOX);
  const sender = senders.find(({ accountId, deviceId }) => accountId === senderId && deviceId === senderDeviceId);
  const at = sodium.crypto_box_NONCEBYTES;
  return sodium.to_string(sodium.crypto_box_open_easy(ciphertext.subarray(at), ciphertext.subarray(0, at), sender.identityKey, privateKey));
}

Object.assign(window, { join, addDevice, begin, send, read });
window.loaded = true;
