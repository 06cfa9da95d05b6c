#!/bin/sh
# `make bench-gateway`: measures the gateway side by side with others, see bench/README.md. Arguments go to
# `rialto-bench gateway`, which lets scripts/bench-peers.sh install what it needs.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

find_cargo || die "cargo is not on PATH"
step "build (as servers are built for use)"
cargo build --profile dist --package rialto --package rialto-bench --bins || die "the build failed"
step "bench"
exec "$target/dist/rialto-bench" gateway "$@"
