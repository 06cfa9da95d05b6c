-- When accounts were last there: when the last of their streams was opened or ended.
CREATE TABLE presences (
    account_id uuid PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 80);

INSERT INTO presences SELECT account_id, max(opened_at) FROM account_connections GROUP BY account_id;
