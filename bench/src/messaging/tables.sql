-- What pgbench and the server on Node.js write to: the least that numbers messages without a hole and knows a repeated
-- client message id.
CREATE TABLE conversations (id bigint PRIMARY KEY, last_seq bigint NOT NULL DEFAULT 0);
CREATE TABLE messages (
    conversation_id bigint NOT NULL,
    seq bigint NOT NULL,
    id uuid NOT NULL,
    sender_id bigint NOT NULL,
    client_message_id text NOT NULL,
    text text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, seq),
    UNIQUE (conversation_id, sender_id, client_message_id)
);
