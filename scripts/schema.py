"""Compares diesel's view of the tables with a migrated database.

    schema.py PSQL DATABASE_URL src/schema.rs

What diesel shall not see (a generated tsvector column, say) is named in schema.rs in a comment of its own:
`// unmapped: table` or `// unmapped: table.column`.
"""

import re
import subprocess
import sys

# PostgreSQL's name of a type, and diesel's.
TYPES = {
    "bool": "Bool", "bpchar": "Bpchar", "bytea": "Binary", "char": "CChar", "cidr": "Cidr", "citext": "Citext",
    "date": "Date", "float4": "Float", "float8": "Double", "inet": "Inet", "int2": "SmallInt", "int4": "Integer",
    "int8": "BigInt", "interval": "Interval", "json": "Json", "jsonb": "Jsonb", "money": "Money", "numeric": "Numeric",
    "oid": "Oid", "text": "Text", "time": "Time", "timestamp": "Timestamp", "timestamptz": "Timestamptz",
    "tsvector": "Tsvector", "uuid": "Uuid", "varchar": "Varchar",
}
# Diesel's second names.
ALIASES = {
    "Bytea": "Binary", "Float4": "Float", "Float8": "Double", "Int2": "SmallInt", "Int4": "Integer", "Int8": "BigInt",
    "Decimal": "Numeric", "VarChar": "Varchar", "TsVector": "Tsvector", "Jsonb": "Jsonb", "TimestamptzSqlType": "Timestamptz",
}
# Types that diesel handles alike.
SAME = [{"Text", "Varchar"}]

COLUMNS = """
SELECT c.relname, a.attname, t.typname, a.attnotnull,
       coalesce((SELECT array_position(i.indkey::int2[], a.attnum) FROM pg_index i
                 WHERE i.indrelid = c.oid AND i.indisprimary), -1)
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND c.relname <> '__diesel_schema_migrations'
ORDER BY c.relname, a.attnum
"""


def diesel_type(name):
    if name.startswith("_"):
        return f"Array<{diesel_type(name[1:])}>"
    # An unknown type is an enum or a domain of ours, which has the same name in camel case.
    return TYPES.get(name) or "".join(word.capitalize() for word in name.split("_"))


def normal(text):
    """A type as written in schema.rs, in one spelling."""
    text = re.sub(r"\s|(?:\w+\s*::\s*)+(?=\w)", "", text)
    # Whether an array's elements can be null is not something that the database says.
    text = re.sub(r"Array<Nullable<(\w+)>>", r"Array<\1>", text)
    return re.sub(r"\w+", lambda word: ALIASES.get(word[0], word[0]), text)


def equal(left, right):
    return left == right or any(
        re.sub(r"\w+", lambda word: min(same) if word[0] in same else word[0], left)
        == re.sub(r"\w+", lambda word: min(same) if word[0] in same else word[0], right)
        for same in SAME
    )


def block(text, start):
    """What is between the braces that open at `start`."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[start + 1 : at]
    sys.exit("error: schema.rs has a brace that doesn't close")


def rust_tables(source):
    unmapped = set(re.findall(r"//\s*unmapped:\s*([\w.]+)", source))
    code = re.sub(r"//[^\n]*", "", source)
    tables = {}
    for found in re.finditer(r"\btable!\s*\{", code):
        body = block(code, found.end() - 1)
        body = re.sub(r"\buse\s[^;]*;", "", body)
        head = re.search(r"((?:#\[[^\]]*\]\s*)*)(?:\w+\s*\.\s*)?(\w+)\s*(?:\(([^)]*)\))?\s*\{", body)
        if not head:
            sys.exit(f"error: can't read this table of schema.rs:\n{body}")
        attributes, name, key = head.groups()
        renamed = re.search(r'sql_name\s*=\s*"([^"]+)"', attributes)
        columns, names = {}, {}
        column = re.compile(r"((?:#\[[^\]]*\]\s*)*)(?:r#)?(\w+)\s*->\s*([^,#]+)")
        for attributes, rust_name, kind in column.findall(block(body, head.end() - 1)):
            other = re.search(r'sql_name\s*=\s*"([^"]+)"', attributes)
            names[rust_name] = other[1] if other else rust_name
            columns[names[rust_name]] = normal(kind)
        key = [word.strip() for word in (key or "id").split(",") if word.strip()]
        tables[renamed[1] if renamed else name] = (columns, [names.get(word, word) for word in key])
    return tables, unmapped


def database_tables(psql, url):
    command = [psql, "--no-psqlrc", "-qAt", "-F", "\t", "-v", "ON_ERROR_STOP=1", url, "-c", COLUMNS]
    answer = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
    if answer.returncode != 0:
        sys.exit("error: can't read the tables of the database")
    tables = {}
    for line in answer.stdout.splitlines():
        table, column, kind, required, position = line.split("\t")
        columns, key = tables.setdefault(table, ({}, {}))
        kind = diesel_type(kind)
        columns[column] = kind if required == "t" else f"Nullable<{kind}>"
        if int(position) >= 0:
            key[int(position)] = column
    return {name: (columns, [key[at] for at in sorted(key)]) for name, (columns, key) in tables.items()}


def compare(rust, unmapped, database):
    for table in sorted(rust.keys() | database.keys()):
        if table in unmapped:
            continue
        if table not in database:
            yield f"{table}: schema.rs has it, the database doesn't"
            continue
        columns, key = database[table]
        if table not in rust:
            yield f"{table}: missing in schema.rs:"
            yield f"    diesel::table! {{ {table} ({', '.join(key)}) {{"
            yield from (f"        {name} -> {kind}," for name, kind in columns.items())
            yield "    }}"
            continue
        rust_columns, rust_key = rust[table]
        for column in dict.fromkeys([*columns, *rust_columns]):
            if f"{table}.{column}" in unmapped:
                continue
            if column not in rust_columns:
                yield f"{table}.{column}: missing in schema.rs: {column} -> {columns[column]},"
            elif column not in columns:
                yield f"{table}.{column}: schema.rs has it, the database doesn't"
            elif not equal(rust_columns[column], columns[column]):
                yield f"{table}.{column}: schema.rs says {rust_columns[column]}, the database {columns[column]}"
        if key and rust_key != key:
            yield f"{table}: schema.rs says the primary key is ({', '.join(rust_key)}), the database ({', '.join(key)})"


def main():
    psql, url, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        rust, unmapped = rust_tables(file.read())
    database = database_tables(psql, url)
    complaints = list(compare(rust, unmapped, database))
    if complaints:
        print(f"{path} differs from the migrated database:", *complaints, sep="\n  ", file=sys.stderr)
        sys.exit(1)
    print(f"{path} equals the migrated database: {len(database)} tables", file=sys.stderr)


main()
