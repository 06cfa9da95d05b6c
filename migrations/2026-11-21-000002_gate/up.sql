-- What the gate keeps of calls.

-- The answer to a call that came with an idempotency key, to be given again.
CREATE TABLE idempotency_keys (
    account_id uuid NOT NULL,
    -- The path of the method, such as /rialto.messaging.v1.MessagingService/CreateConversation.
    method text NOT NULL,
    key text NOT NULL,
    -- SHA-256 of the request: a key belongs to one request.
    request_hash bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- The encoded response; NULL while the first call is under way.
    response bytea,
    PRIMARY KEY (account_id, method, key)
);
CREATE INDEX idempotency_keys_created_at ON idempotency_keys (created_at);

-- Who did what, from where, and how it ended.
CREATE TABLE audit_log (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    -- NULL for a caller who has not logged in.
    account_id uuid,
    session_id uuid,
    method text NOT NULL,
    address text,
    request_id text NOT NULL,
    -- The gRPC status code.
    grpc_code smallint NOT NULL
);
CREATE INDEX audit_log_at ON audit_log (at);
CREATE INDEX audit_log_account_id ON audit_log (account_id, at);
