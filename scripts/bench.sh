#!/bin/sh
# `make bench`: the load generator with a durable private PostgreSQL and a Redis around it. Arguments go to it.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

scripts/setup.sh run
find_cargo || die "cargo is not on PATH"
step "build (release)"
cargo build --release --workspace --bins || die "the build failed"
step "bench"
exec "$target/release/rialto" services --data-dir "$target/bench-services" -- "$target/release/rialto-bench" "$@"
