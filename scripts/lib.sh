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
