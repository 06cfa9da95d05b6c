#!/bin/sh
# `make test`: every test, against a private PostgreSQL and Redis. Arguments go to the test runner, such as the name of a test.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

step "setup"
scripts/setup.sh test
find_cargo || die "cargo is not on PATH"
venv="$(scripts/python-env.sh)"

step "build"
build_everything

if cargo nextest --version >/dev/null 2>&1; then
    step "tests (cargo nextest)"
    set -- cargo nextest run --workspace ${CI:+--locked --profile ci} "$@"
else
    step "tests (cargo test)"
    set -- cargo test --workspace --all-targets ${CI:+--locked --no-fail-fast} "$@"
fi
"$target/debug/rialto" services --volatile --data-dir "$target/test-services" -- "$@" || die "tests failed; see above"

step "fault run (short; make chaos is the long one)"
"$target/debug/rialto-chaos" --seed 1 --seconds 25 || die "a promise was broken, or the run failed; see above"

step "examples in documents"
cargo test --doc -p rialto-gateway ${CI:+--locked} || die "an example in gateway/README.md does not compile; see above"

RIALTO_BIN="$(cd "$target/debug" && pwd)/rialto"
RIALTO_PYTHON="$venv/bin/python"
export RIALTO_BIN RIALTO_PYTHON

step "foreign clients (Python)"
tests/python/run.sh || die "the foreign clients failed; see above"

step "foreign clients (Node.js, Chromium)"
tests/web/run.sh || die "the clients of the web failed; see above"

say ""
say "all tests passed"
