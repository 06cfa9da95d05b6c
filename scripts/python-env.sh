#!/bin/sh
# Makes the Python environment of the foreign clients and of buf, in target/venv, unless it is there already and up to date.
# Prints its folder.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

requirements=tests/python/requirements.txt
venv="${CARGO_TARGET_DIR:-target}/venv"
# Another Python needs other wheels.
key="$(python3 -c 'import sys; print(sys.version)' 2>/dev/null || true) $(cksum <"$requirements")"

if [ "$(cat "$venv/.key" 2>/dev/null || true)" != "$key" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
    scripts/setup.sh lint
    key="$(python3 -c 'import sys; print(sys.version)') $(cksum <"$requirements")"
    say "making a Python environment in $venv…"
    rm -rf "$venv"
    mkdir -p "$(dirname "$venv")"
    python3 -m venv "$venv" || die "python3 can't make a venv; install python3-venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r "$requirements" >&2 ||
        die "pip could not install $requirements; see above"
    printf '%s\n' "$key" >"$venv/.key"
fi
# Absolute, whatever the caller's folder is.
(cd "$venv" && pwd)
