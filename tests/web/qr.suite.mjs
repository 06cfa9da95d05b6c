// Two-factor authentication from a page with its session in cookies: the QR code on the screen is what enrols.

import { mkdirSync } from "node:fs";
import { equal } from "./contract.mjs";
import { Rialto } from "./rialto.mjs";

const PASSWORD = "correct horse battery staple";

export async function run(world) {
  const page = await world.page("qr", { host: "localhost" });
  await page.waitForFunction(() => window.loaded);
  const folder = `${world.temporary}/qr`;
  mkdirSync(folder);
  const rialto = await Rialto.start(folder, { RIALTO_SERVER__CORS_ORIGINS: JSON.stringify([new URL(page.url()).origin]) });
  try {
    await world.check("Chromium, two-factor: enrol by the QR code, log out, log in with its code", () => enrol(page, rialto));
  } finally {
    await rialto.stop();
  }
}

async function enrol(page, rialto) {
  const base = rialto.banner.rest.replace("127.0.0.1", "localhost");
  const on = (name, ...args) => page.evaluate(([name, args]) => window[name](...args), [name, args]);
  const call = (path, body, csrf) => on("call", base + path, body, csrf);
  const login = { email: "ann@example.com", password: PASSWORD, cookie: true };
  equal((await call("/v1/auth/register", { ...login, cookie: undefined, displayName: "Ann" })).status, 200, "register");
  const { csrfToken } = await call("/v1/auth/login", login);

  const setup = await call("/v1/twofa/setup", { password: PASSWORD }, csrfToken);
  const svg = `data:image/svg+xml,${encodeURIComponent(setup.qrSvg)}`;
  equal(await on("read", svg, 300), setup.otpauthUri, "the SVG");
  equal(await on("read", `data:image/png;base64,${setup.qrPng}`, 300), setup.otpauthUri, "the PNG");
  const enabled = await call("/v1/twofa/enable", { code: await on("code", setup.otpauthUri, 0) }, csrfToken);
  equal([enabled.status, enabled.backupCodes?.length], [200, 10], "enable");

  equal((await call("/v1/auth/logout", {}, csrfToken)).status, 200, "logout");
  const { twoFactorRequired, challengeToken, csrfToken: none } = await call("/v1/auth/login", login);
  equal([twoFactorRequired, none], [true, ""], "the password alone");
  // The code of the next step, because that of this one was used.
  const verify = { challengeToken, code: await on("code", setup.otpauthUri, 30), cookie: true };
  const verified = await call("/v1/auth/login/verify-2fa", verify);
  equal([verified.status, verified.accessToken], [200, ""], "verify");
  equal((await call("/v1/auth/logout", {}, verified.csrfToken)).status, 200, "the session of the two factors");
}
