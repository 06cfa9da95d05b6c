-- What accounts are told of, and the streams on which they are told.

-- Its row lock makes the order of commits the order of an account's events.
CREATE TABLE account_sequences (
    account_id uuid PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    last_seq bigint NOT NULL
);

CREATE TABLE account_events (
    account_id uuid NOT NULL REFERENCES account_sequences ON DELETE CASCADE,
    seq bigint NOT NULL,
    created_at timestamptz NOT NULL,
    -- rialto.account.v1.SubscribeResponse, of which only the event is set.
    event bytea NOT NULL,
    PRIMARY KEY (account_id, seq)
);
CREATE INDEX account_events_created_at ON account_events (created_at, account_id, seq);

-- Servers that run. One that has not been seen for a while was killed, and what it had open is gone.
CREATE TABLE nodes (
    id uuid PRIMARY KEY,
    -- By the clock of the database, which all of them share.
    seen_at timestamptz NOT NULL
);

-- Streams that are open, on any node.
CREATE TABLE account_connections (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    session_id uuid NOT NULL,
    node_id uuid NOT NULL REFERENCES nodes ON DELETE CASCADE,
    -- Such as grpc or websocket.
    transport text NOT NULL,
    user_agent text NOT NULL,
    address text NOT NULL,
    opened_at timestamptz NOT NULL,
    -- Set when its account wants it to end; its node deletes it then.
    revoked_at timestamptz
);
CREATE INDEX account_connections_account_id ON account_connections (account_id, id);
CREATE INDEX account_connections_node_id ON account_connections (node_id);
CREATE INDEX account_connections_revoked ON account_connections (node_id) WHERE revoked_at IS NOT NULL;
