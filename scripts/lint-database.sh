#!/bin/sh
# Part of lint.sh, run by `rialto services`: migrates an empty database up, down to nothing and up again, and compares; then
# compares src/schema.rs with what is there. $1 is the rialto binary.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

rialto="$1"
psql="$(find_postgres_program psql)" || die "psql is missing: install PostgreSQL's client programs"
pg_dump="$(find_postgres_program pg_dump)" || die "pg_dump is missing: install PostgreSQL's client programs"
server="${RIALTO_DATABASE__URL%/*}"
work="$target/lint-database"
rm -rf "$work"
mkdir -p "$work"

sql() {
    "$psql" --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "$@"
}

# The schema, without diesel's own table and without the random marks that newer versions of pg_dump add.
dump() {
    "$pg_dump" --schema-only --no-owner --exclude-table=__diesel_schema_migrations "$RIALTO_DATABASE__URL" >"$work/raw"
    grep -Ev '^\\(un)?restrict ' "$work/raw" >"$1"
}

applied() {
    sql "$RIALTO_DATABASE__URL" -c "SELECT count(*) FROM __diesel_schema_migrations"
}

same() {
    diff -u "$1" "$2" >&2 || die "$3"
}

sql "$server/postgres" -c "SET client_min_messages = warning" -c "DROP DATABASE IF EXISTS lint WITH (FORCE)" -c "CREATE DATABASE lint"
RIALTO_DATABASE__URL="$server/lint"
export RIALTO_DATABASE__URL

dump "$work/empty.sql"
"$rialto" migrate up
dump "$work/first.sql"
count="$(applied)"
while [ "$count" -gt 0 ]; do
    "$rialto" migrate down
    left="$(applied)"
    [ "$left" -lt "$count" ] || die "\`rialto migrate down\` reverted nothing, $left migrations are still applied"
    count="$left"
done
dump "$work/down.sql"
same "$work/empty.sql" "$work/down.sql" "the down migrations leave something behind (lines with +)"
"$rialto" migrate up
dump "$work/second.sql"
same "$work/first.sql" "$work/second.sql" "down and up again gives another schema"

python3 scripts/schema.py "$psql" "$RIALTO_DATABASE__URL" src/schema.rs
