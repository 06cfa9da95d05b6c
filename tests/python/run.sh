#!/bin/sh
# The foreign clients: Python on grpcio and on the standard library, against a real `rialto dev`. Part of `make test`.
#
#   RIALTO_BIN     the server to test             (default: target/debug/rialto)
#   RIALTO_PYTHON  a Python with requirements.txt (default: target/venv/bin/python)
#
# Prints a line for each check, and `N passed, N failed` at the end. Arguments choose scripts: `run.sh stubs_client`.
set -eu
cd "$(dirname "$0")/../.."
target="${CARGO_TARGET_DIR:-target}"
RIALTO_BIN="$(realpath "${RIALTO_BIN:-$target/debug/rialto}")"
RIALTO_PYTHON="${RIALTO_PYTHON:-$target/venv/bin/python}"
PYTHONDONTWRITEBYTECODE=1
export RIALTO_BIN PYTHONDONTWRITEBYTECODE

temporary="$(mktemp -d "${TMPDIR:-/tmp}/rialto-python.XXXXXX")"
trap 'rm -rf "$temporary"' EXIT
# Let Python stop its servers first; then the line above cleans up.
trap 'kill -TERM "$runner" 2>/dev/null; wait "$runner"; exit 1' INT TERM HUP

mkdir "$temporary/stubs"
# shellcheck disable=SC2046 # no spaces in these names
"$RIALTO_PYTHON" -m grpc_tools.protoc -I proto -I gateway/proto --python_out="$temporary/stubs" --grpc_python_out="$temporary/stubs" \
    $(find proto gateway/proto -name '*.proto')

"$RIALTO_PYTHON" tests/python/run.py "$temporary" "$@" &
runner=$!
wait "$runner"
