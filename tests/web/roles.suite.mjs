// What a web client may do, as @casl/ability reads it: the same as what the server says and does.

import { createMongoAbility, subject } from "@casl/ability";
import { unpackRules } from "@casl/ability/extra";
import { equal } from "./contract.mjs";

const PASSWORD = "correct horse battery staple";

export async function run(world) {
  const { accounts } = world.rialto.banner;
  const admin = await person(world.url, accounts.find(({ role }) => role === "admin"));
  const { paths } = await admin.get("/openapi.json");
  const operations = Object.values(paths).flatMap((path) => Object.values(path));
  const permissions = [...new Set(operations.map((operation) => operation["x-permission"]).filter(Boolean))];

  /** CASL and the server agree on every permission of the contract. Returns CASL's abilities. */
  async function agree(who) {
    const ability = await abilities(who);
    const { checks } = await who.post("/v1/roles/check-permissions", { permissions });
    equal(checks.length, permissions.length, "checks");
    for (const { permission, allowed } of checks) {
      const [resource, action] = permission.split(":");
      equal([permission, ability.can(action, resource)], [permission, allowed], "what CASL says");
    }
    return ability;
  }

  await world.check("CASL: an administrator can do everything, a user what users can", async () => {
    equal((await agree(admin)).can("manage", "all"), true);
    const ann = await join(world.url, "Ann");
    const ability = await agree(ann);
    equal([ability.can("send", "messages"), ability.can("revoke", "sessions")], [true, false]);
  });

  await world.check("CASL: what is allowed and denied under conditions is what the server shows", async () => {
    const [ann, bob] = [await join(world.url, "Ann"), await join(world.url, "Bob")];
    const own = (permission, deny = false) => ({ permission, deny, condition: "CONDITION_OWN" });
    const secret = { permission: "conversations:read", deny: true, condition: "CONDITION_EQUALS", attribute: "title", value: "secret" };
    const grants = [own("conversations:read", true), secret, own("roles:*"), { permission: "roles:create" }, { permission: "messages:send", deny: true }];
    const role = await admin.post("/v1/roles", { name: `limited ${crypto.randomUUID()}`, grants });

    const conversations = [];
    for (const [by, other, title] of [[ann, bob, "open"], [bob, ann, "open"], [bob, ann, "secret"], [ann, bob, "secret"]]) {
      conversations.push(await by.post("/v1/conversations", { title, member_ids: [other.id] }));
    }
    await admin.post(`/v1/accounts/${ann.id}/roles`, { role_id: role.id });
    const ability = await agree(ann);
    const roles = [role, await ann.post("/v1/roles", { name: `of Ann ${crypto.randomUUID()}` })];
    for (const [type, objects] of [["conversations", conversations], ["roles", roles]]) {
      const seen = [];
      for (const object of objects) {
        const shown = (await ann.call("GET", `/v1/${type}/${object.id}`)).status === 200;
        equal(ability.can("read", subject(type, { ...object })), shown, `${type} ${JSON.stringify(object)}`);
        seen.push(shown);
      }
      equal(seen, type === "roles" ? [false, true] : [false, true, false, false], `what of ${type} is seen`);
    }
    equal([ability.can("send", "messages"), ability.can("create", "roles")], [false, true]);

    // And no longer, as soon as it was taken.
    await admin.call("DELETE", `/v1/accounts/${ann.id}/roles/${role.id}`);
    equal((await agree(ann)).can("read", subject("roles", { ...roles[1] })), false);
  });
}

async function abilities(who) {
  const { rules } = await who.get("/v1/roles/my-abilities");
  return createMongoAbility(unpackRules(rules));
}

async function join(url, name) {
  const email = `${name.toLowerCase()}-${crypto.randomUUID()}@example.com`;
  await caller(url).post("/v1/auth/register", { email, password: PASSWORD, display_name: name });
  return person(url, { email, password: PASSWORD });
}

async function person(url, { email, password }) {
  const { accessToken } = await caller(url).post("/v1/auth/login", { email, password });
  const who = caller(url, accessToken);
  return { ...who, id: (await who.get("/v1/auth/me")).id };
}

function caller(url, token) {
  const call = async (method, path, body) => {
    const headers = { ...(token && { authorization: `Bearer ${token}` }), ...(body && { "content-type": "application/json" }) };
    return fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
  };
  const good = async (method, path, body) => {
    const response = await call(method, path, body);
    const answer = await response.json();
    equal([method, path, response.status, answer.error?.message], [method, path, 200, undefined], "answer");
    return answer;
  };
  return { call, get: (path) => good("GET", path), post: (path, body) => good("POST", path, body) };
}
