#!/bin/sh
# Installs what is missing, and is done at once when nothing is.
#
#   scripts/setup.sh            what `make run` needs
#   scripts/setup.sh lint       and Python for buf
#   scripts/setup.sh fuzz       what `make fuzz` needs
#   scripts/setup.sh test       and Python, Node.js and Chromium for the foreign clients
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

has_postgres() {
    for folder in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/local/pgsql/bin; do
        [ -x "$folder/postgres" ] && [ -x "$folder/initdb" ] && return 0
    done
    have postgres && have initdb
}

has_redis() {
    have redis-server || have valkey-server
}

# A venv needs more than python3: on Debian `ensurepip` is a package of its own.
has_python() {
    have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null
}

# Under one of the names that tests/web/run.sh looks for.
has_chromium() {
    have chromium || have chromium-browser || have google-chrome
}

missing=''
need() {
    missing="$missing $1"
}

have cc || need gcc
# gcc without the C library's headers can't link either.
[ -e /usr/include/stdio.h ] || ! have apt-get || need libc6-dev
have make || need make
case "${1:-run}" in
    run | test | lint)
        has_postgres || need postgresql
        has_redis || need redis-server
        ;;
    fuzz) have c++ || need g++ ;;
    *) die "usage: scripts/setup.sh [run|test|lint|fuzz]" ;;
esac
case "${1:-run}" in
    test | lint) has_python || missing="$missing python3 python3-venv" ;;
esac
if [ "${1:-run}" = test ]; then
    have node || need nodejs
    have npm || need npm
    has_chromium || need chromium
fi

# shellcheck disable=SC2086 # a list of words
install_packages $missing

find_cargo || die "Rust is missing. Install it from https://rustup.rs, open a new shell and try again:

    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y
"
