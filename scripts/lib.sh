# What the scripts share. Sourced, from the root of the repository. For sh as well as bash.

# One line that says which step this is.
step() {
    printf '\n== %s\n' "$*" >&2
}

say() {
    printf '%s\n' "$*" >&2
}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# cargo, also where its folder is not on PATH yet (a login shell adds it, a CI machine may not).
find_cargo() {
    have cargo && return 0
    if [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
        export PATH
        return 0
    fi
    return 1
}

# Installs packages, by their names on Debian; none are none.
install_packages() {
    [ $# -gt 0 ] || return 0
    if ! have apt-get; then
        die "missing: $*. These are their names on Debian; install them with your package manager and try again"
    fi
    as_root=''
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || die "missing: $*. There is no sudo here; as root, run: apt-get install -y $*"
        as_root=sudo
    fi
    say "installing $*"
    # The system's own services are not started: rialto runs private ones. The policy speaks to `invoke-rc.d` and
    # `deb-systemd-invoke`, RUNLEVEL to older scripts.
    script='
set -eu
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get update -qq
made_policy=
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf "#!/bin/sh\nexit 101\n" >"$policy"
    chmod 755 "$policy"
    made_policy=1
fi
clean_up() {
    [ -z "$made_policy" ] || rm -f "$policy"
}
trap clean_up EXIT
trap "exit 130" INT TERM
apt-get install -y -qq --no-install-recommends -o Dpkg::Use-Pty=0 -o Dpkg::Options::=--force-confold \
    -o Dpkg::Options::=--force-confdef "$@" >&2
'
    $as_root sh -c "$script" sh "$@" </dev/null || die "the installation failed; see above"
}

# Where PostgreSQL's programs are: $1 such as pg_dump, looked for on PATH and in the distribution's folders, newest first.
find_postgres_program() {
    for candidate in $(ls -d /usr/lib/postgresql/*/bin /usr/pgsql-*/bin 2>/dev/null | sort -rV); do
        if [ -x "$candidate/$1" ]; then
            printf '%s\n' "$candidate/$1"
            return 0
        fi
    done
    command -v "$1"
}

# Everything that lint and test need, in one way, so that they share what was compiled: the same packages, targets and profile
# mean the same features of the dependencies.
build_everything() {
    # shellcheck disable=SC2086 # one word or none
    cargo build --workspace --all-targets ${CI:+--locked} || die "the build failed"
}

# The folder that cargo builds in.
target="${CARGO_TARGET_DIR:-target}"
