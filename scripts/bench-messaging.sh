#!/bin/sh
# `make bench-messaging`: measures messaging side by side with others, see bench/README.md. Arguments go to
# `rialto-bench messaging`, which lets scripts/bench-peers.sh install what it needs.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

scripts/setup.sh run
find_cargo || die "cargo is not on PATH"
PGBENCH="${PGBENCH:-$(find_postgres_program pgbench)}" || die "pgbench is missing: it comes with PostgreSQL's server or contrib package"
export PGBENCH
step "build (as servers are built for use)"
cargo build --profile dist --package rialto --package rialto-bench --bins || die "the build failed"
step "bench"
exec "$target/dist/rialto-bench" messaging "$@"
