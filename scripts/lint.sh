#!/bin/sh
# `make lint`: everything that is wrong without being a failing test. The quick checks come first; the first failure ends it.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

step "setup"
scripts/setup.sh lint
find_cargo || die "cargo is not on PATH"
cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 ||
    die "rustfmt or clippy is missing: run \`rustup component add rustfmt clippy\`"
venv="$(scripts/python-env.sh)"
buf="$venv/bin/buf"

step "cargo fmt --check"
cargo fmt --all --check || die "the code is not formatted: run \`make fmt\`"

step "buf lint"
"$buf" lint || die "the contract breaks the rules in buf.yaml; see above"

step "buf format"
"$buf" format --diff --exit-code || die "the contract is not formatted: run \`make fmt\`"

# Git may refuse a clone that belongs to somebody else; here it only reads.
repo_git() {
    git -c safe.directory='*' "$@"
}

# Compares the contract as it is here with that of commit $2, which is called $1.
contract_since() {
    if ! repo_git cat-file -e "$2:proto" 2>/dev/null; then
        say "skipped: $1 ($2) has no proto folder"
        return 0
    fi
    say "against $1 ($2)"
    base="$target/buf-base"
    rm -rf "$base"
    mkdir -p "$base"
    repo_git archive "$2" | tar -x -C "$base"
    # As images, because the modules may have been others then.
    "$buf" build -o "$target/buf-base.binpb" "$base" || die "the contract of $1 does not build; see above"
    "$buf" build -o "$target/buf-head.binpb"
    "$buf" breaking "$target/buf-head.binpb" --against "$target/buf-base.binpb" --config buf.yaml ||
        die "the contract breaks clients of $1: add, don't change; see above"
}

step "buf breaking"
head="$(repo_git rev-parse -q --verify 'HEAD^{commit}' 2>/dev/null || true)"
mains=''
for ref in refs/heads/main refs/remotes/origin/main; do
    if commit="$(repo_git rev-parse -q --verify "$ref^{commit}" 2>/dev/null)"; then
        mains="$mains $commit"
    fi
done
# The newer of the two: a clone's own main may be behind.
# shellcheck disable=SC2086 # a list of words
newest="$([ -z "$mains" ] || repo_git rev-list --max-count=1 --date-order $mains)"
if [ -z "$newest" ]; then
    say "skipped: there is no commit on main or origin/main here"
else
    contract_since main "$newest"
fi
if [ -n "${CI:-}" ] && [ -n "$head" ]; then
    parent="$(repo_git rev-parse -q --verify 'HEAD~1^{commit}' 2>/dev/null || true)"
    if [ -z "$parent" ]; then
        say "skipped: the parent of HEAD is not in this clone"
    elif [ "$parent" != "$newest" ]; then
        contract_since "the parent of HEAD" "$parent"
    fi
fi

step "cargo clippy"
# shellcheck disable=SC2086 # one word or none
cargo clippy --workspace --all-targets ${CI:+--locked} -- -D warnings || die "clippy has complaints; see above"

step "build"
build_everything

step "migrations down and up, src/schema.rs"
"$target/debug/rialto" services --volatile --data-dir "$target/lint-services" -- \
    scripts/lint-database.sh "$target/debug/rialto" || die "the migrations or src/schema.rs are wrong; see above"

say ""
say "no complaints"
