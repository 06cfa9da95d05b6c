#!/bin/sh
# Clients of Node.js and of pages in a real Chromium, against a real `rialto dev`. Part of `make test`.
#
#   RIALTO_BIN       the server to test                      (default: target/debug/rialto)
#   RIALTO_PYTHON    a Python with grpcio-tools              (default: target/venv/bin/python)
#   RIALTO_CHROMIUM  the browser                             (default: chromium on PATH)
#
# Prints a line for each check, and `N passed, N failed` at the end. Arguments choose suites: `run.sh browser`.
set -eu
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
RIALTO_BIN="$(realpath "${RIALTO_BIN:-$target/debug/rialto}")"
RIALTO_PYTHON="${RIALTO_PYTHON:-$target/venv/bin/python}"
RIALTO_CHROMIUM="${RIALTO_CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}"
export RIALTO_BIN RIALTO_CHROMIUM
[ -n "$RIALTO_CHROMIUM" ] || { echo "error: there is no chromium" >&2; exit 1; }

# node_modules stays out of the source tree, so the scripts run beside it.
web="$target/web"
mkdir -p "$web"
find "$web" -maxdepth 1 -name '*.mjs' -delete
cp tests/web/*.mjs tests/web/package.json tests/web/.npmrc "$web"
if ! cmp -s tests/web/package-lock.json "$web/node_modules/.installed-lock"; then
    cp tests/web/package-lock.json "$web"
    (cd "$web" && npm ci --no-progress >&2)
    cp tests/web/package-lock.json "$web/node_modules/.installed-lock"
fi

temporary="$(mktemp -d "${TMPDIR:-/tmp}/rialto-web.XXXXXX")"
trap 'rm -rf "$temporary"' EXIT
# Let Node.js stop its server and its browser first; then the line above cleans up.
trap 'kill -TERM "$runner" 2>/dev/null; wait "$runner"; exit 1' INT TERM HUP

# shellcheck disable=SC2046 # no spaces in these names
"$RIALTO_PYTHON" -m grpc_tools.protoc -I proto -I gateway/proto --include_imports \
    --descriptor_set_out="$temporary/descriptors.bin" $(find proto gateway/proto -name '*.proto')

node "$web/run.mjs" "$temporary" "$@" &
runner=$!
wait "$runner"
