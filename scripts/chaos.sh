#!/bin/sh
# `make chaos`: breaks two nodes, their Postgres and their Redis under load, see docs/chaos.md. Arguments go to rialto-chaos.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

scripts/setup.sh run
find_cargo || die "cargo is not on PATH"
step "build"
build_everything
step "chaos"
exec "$target/debug/rialto-chaos" "$@"
