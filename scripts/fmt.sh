#!/bin/sh
# `make fmt`: formats the code and the contract.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

find_cargo || die "cargo is not on PATH"
cargo fmt --all
"$(scripts/python-env.sh)/bin/buf" format --write
