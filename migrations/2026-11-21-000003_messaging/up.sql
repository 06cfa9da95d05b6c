-- Conversations, their members and messages.

CREATE TABLE conversations (
    id uuid PRIMARY KEY,
    title text NOT NULL,
    created_by uuid NOT NULL REFERENCES accounts,
    created_at timestamptz NOT NULL,
    active_at timestamptz NOT NULL,
    -- The number of the newest message. Its row lock makes the order of commits the order of numbers.
    last_seq bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70); -- every message updates the row: room for it on the same page

CREATE TABLE conversation_members (
    conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    account_id uuid NOT NULL REFERENCES accounts,
    joined_at timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, account_id)
);
CREATE INDEX conversation_members_account_id ON conversation_members (account_id);

CREATE TABLE messages (
    conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    seq bigint NOT NULL,
    id uuid NOT NULL,
    sender_id uuid NOT NULL,
    client_message_id text NOT NULL,
    text text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, seq),
    -- A message that is sent again is the same message.
    UNIQUE (conversation_id, sender_id, client_message_id)
);
