// An empty page: passkeys.suite.mjs puts the snippet of docs/passkeys.md into it.

window.loaded = true;
