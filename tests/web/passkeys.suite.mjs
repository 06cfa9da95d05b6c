// The snippet of docs/passkeys.md in a page of Chromium, with its virtual authenticator.

import { readFileSync } from "node:fs";
import { equal } from "./contract.mjs";

const PASSWORD = "correct horse battery staple";
const INTERNAL = {
  protocol: "ctap2", transport: "internal", hasResidentKey: true, hasUserVerification: true, isUserVerified: true, automaticPresenceSimulation: true,
};

export async function run(world) {
  // run.sh starts this in the root of the repository.
  const [, snippet] = /```js\n(.*?)```/s.exec(readFileSync("docs/passkeys.md", "utf8"));
  const page = await world.page("passkeys");
  // Browsers make no passkeys for addresses.
  await page.goto(page.url().replace("127.0.0.1", "localhost"));
  await page.waitForFunction(() => window.loaded);
  await page.addScriptTag({ content: snippet.replace("https://api.example.com", world.url) });
  const devtools = await page.context().newCDPSession(page);
  await devtools.send("WebAuthn.enable");
  const { authenticatorId } = await devtools.send("WebAuthn.addVirtualAuthenticator", { options: INTERNAL });
  const held = async () => (await devtools.send("WebAuthn.getCredentials", { authenticatorId })).credentials;

  /** A function of the snippet. */
  const inPage = (name, ...args) => page.evaluate(([name, args]) => window[name](...args), [name, args]);
  const get = async (path, token, method = "GET") => {
    const response = await fetch(world.url + path, { method, headers: { authorization: `Bearer ${token}` } });
    return { status: response.status, body: await response.json() };
  };
  const email = `ann-${crypto.randomUUID()}@example.com`;
  const { id } = await inPage("call", "/v1/auth/register", { email, password: PASSWORD, display_name: "Ann" });
  const ofAnn = async ({ accessToken }) => equal((await get("/v1/auth/me", accessToken)).body.id, id, "whose session it is");

  await world.check("Chromium, passkeys: add one, log out, log in without a password", async () => {
    const { accessToken } = await inPage("logInByPassword", email, PASSWORD);
    const { passkey, backupCodes } = await inPage("addPasskey", accessToken, "Virtual");
    equal([passkey.name, backupCodes.length], ["Virtual", 10]);
    const [credential] = await held();
    equal([credential.rpId, credential.isResidentCredential], ["localhost", true], "what the authenticator holds");
    await inPage("call", "/v1/auth/logout", {}, accessToken);
    equal((await get("/v1/auth/me", accessToken)).status, 401, "after the logout");
    // The second time too: the counter of this authenticator grows.
    await ofAnn(await inPage("logIn"));
    await ofAnn(await inPage("logIn"));
  });

  await world.check("Chromium, passkeys: a second factor after the password", async () => {
    const { twoFactorRequired, accessToken } = await inPage("call", "/v1/auth/login", { email, password: PASSWORD });
    equal([twoFactorRequired, accessToken ?? ""], [true, ""], "the password alone");
    await ofAnn(await inPage("logInByPassword", email, PASSWORD));
  });

  await world.check("Chromium, passkeys: the browser adds no second one to the same authenticator", async () => {
    const { accessToken } = await inPage("logIn");
    const error = await page.evaluate((token) => window.addPasskey(token, "Again").catch(({ name }) => name), accessToken);
    equal([error, (await held()).length], ["InvalidStateError", 1]);
  });

  await world.check("Chromium, passkeys: a copy whose counter stays behind is refused", async () => {
    const [credential] = await held();
    await ofAnn(await inPage("logIn"));
    await devtools.send("WebAuthn.removeCredential", { authenticatorId, credentialId: credential.credentialId });
    await devtools.send("WebAuthn.addCredential", { authenticatorId, credential });
    const reason = await page.evaluate(() => window.logIn().catch((error) => error.reason));
    equal(reason, "PASSKEY_COUNTER_INVALID");
  });

  await world.check("Chromium, passkeys: prove again, delete it, and it opens nothing", async () => {
    const { accessToken } = await inPage("logIn");
    await inPage("proveAgain", accessToken);
    const { body: { passkeys } } = await get("/v1/passkeys", accessToken);
    equal(passkeys.length, 1, "passkeys");
    equal((await get(`/v1/passkeys/${passkeys[0].id}`, accessToken, "DELETE")).status, 200);
    const reason = await page.evaluate(() => window.logIn().catch((error) => error.reason));
    equal(reason, "PASSKEY_INVALID");
    await ofAnn(await inPage("logInByPassword", email, PASSWORD));
  });
}
