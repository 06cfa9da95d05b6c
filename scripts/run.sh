#!/bin/sh
# `make run`: a working server on this machine. Arguments go to `rialto dev`.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

scripts/setup.sh run
find_cargo || die "cargo is not on PATH"
if [ ! -x "$target/release/rialto" ]; then
    say "building rialto; the first time this takes some minutes…"
fi
# Optimised, because hashing a password without takes half a second. Not `cargo run`: it would stand between us and signals.
cargo build --release --bin rialto || die "the build failed"
exec "$target/release/rialto" dev "$@"
