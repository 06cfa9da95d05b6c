// What a page does that shows the QR code of two-factor authentication, and what a telephone does that looks at it.

import jsQR from "jsqr";

/** The text of the QR code in a picture, as a page shows it. */
async function read(source, pixels) {
  const picture = Object.assign(new Image(pixels, pixels), { src: source });
  await picture.decode();
  document.body.replaceChildren(picture);
  const canvas = Object.assign(document.createElement("canvas"), { width: pixels, height: pixels }).getContext("2d");
  canvas.drawImage(picture, 0, 0, pixels, pixels);
  return jsQR(canvas.getImageData(0, 0, pixels, pixels).data, pixels, pixels)?.data;
}

/** The code of an `otpauth` URI so many seconds from now (RFC 6238, RFC 4226). */
async function code(uri, ahead) {
  const letters = new URL(uri).searchParams.get("secret");
  const bits = [...letters].map((letter) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(letter).toString(2).padStart(5, "0")).join("");
  const secret = Uint8Array.from(bits.match(/.{8}/g), (byte) => parseInt(byte, 2));
  const key = await crypto.subtle.importKey("raw", secret, { name: "HMAC", hash: "SHA-1" }, false, ["sign"]);
  const step = new DataView(new ArrayBuffer(8));
  step.setBigUint64(0, BigInt(Math.floor((Date.now() / 1000 + ahead) / 30)));
  const mac = new DataView(await crypto.subtle.sign("HMAC", key, step.buffer));
  const number = mac.getUint32(mac.getUint8(19) & 15) & 0x7fffffff;
  return String(number % 1_000_000).padStart(6, "0");
}

async function call(url, body, csrf) {
  const headers = { "content-type": "application/json", ...(csrf && { "x-csrf-token": csrf }) };
  const response = await fetch(url, { method: "POST", headers, credentials: "include", body: JSON.stringify(body) });
  return { status: response.status, ...(await response.json()) };
}

Object.assign(window, { read, code, call });
window.loaded = true;
