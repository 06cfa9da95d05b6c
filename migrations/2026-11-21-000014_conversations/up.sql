-- Conversations of two kinds, with roles and settings; one sequence for everything that happens in one; messages by day, so
-- that retention drops tables instead of deleting rows.

ALTER TABLE conversations
    -- direct (two accounts, once) or group.
    ADD COLUMN kind text NOT NULL DEFAULT 'group' CHECK (kind IN ('direct', 'group')),
    ADD COLUMN avatar_url text NOT NULL DEFAULT '',
    -- Takes ciphertext alone.
    ADD COLUMN encrypted boolean NOT NULL DEFAULT false,
    -- Messages disappear so many seconds after they were sent.
    ADD COLUMN disappear_seconds integer CHECK (disappear_seconds > 0),
    -- Kept shorter than the server keeps messages.
    ADD COLUMN retention_days integer CHECK (retention_days > 0),
    -- How many messages there were. Other events have a seq too, so unread messages are counted by this.
    ADD COLUMN message_count bigint NOT NULL DEFAULT 0,
    -- Where the newest message is, so that a list of conversations finds it in one partition.
    ADD COLUMN last_message_seq bigint NOT NULL DEFAULT 0,
    ADD COLUMN last_message_at timestamptz;
UPDATE conversations c SET message_count = last_seq, last_message_seq = last_seq,
    last_message_at = (SELECT max(created_at) FROM messages m WHERE m.conversation_id = c.id)
    WHERE last_seq > 0;

ALTER TABLE conversation_members
    ADD COLUMN role text NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'admin', 'member')),
    -- Who has left stays, so that what they said is found.
    ADD COLUMN left_at timestamptz,
    -- May not send until then.
    ADD COLUMN silenced_until timestamptz,
    -- Settings of the member's own.
    ADD COLUMN muted_until timestamptz,
    ADD COLUMN archived boolean NOT NULL DEFAULT false,
    ADD COLUMN pinned_at timestamptz,
    -- Watermarks: everything up to here has arrived, was read; and how many messages that were.
    ADD COLUMN delivered_seq bigint NOT NULL DEFAULT 0,
    ADD COLUMN read_seq bigint NOT NULL DEFAULT 0,
    ADD COLUMN read_count bigint NOT NULL DEFAULT 0,
    SET (fillfactor = 80); -- watermarks are updated often
UPDATE conversation_members m SET role = 'owner' FROM conversations c
    WHERE c.id = m.conversation_id AND c.created_by = m.account_id;
-- Whatever was there before counts as read.
UPDATE conversation_members m SET delivered_seq = c.last_seq, read_seq = c.last_seq, read_count = c.last_seq
    FROM conversations c WHERE c.id = m.conversation_id;

-- The conversation of two accounts.
CREATE TABLE direct_conversations (
    low uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    high uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    conversation_id uuid NOT NULL UNIQUE REFERENCES conversations ON DELETE CASCADE,
    PRIMARY KEY (low, high),
    CHECK (low < high)
);
CREATE INDEX direct_conversations_high ON direct_conversations (high);

-- No foreign key to conversations: each message is inserted under the lock of its conversation's row, and the check would
-- cost every one of them.
ALTER TABLE messages RENAME TO messages_before;
ALTER INDEX messages_pkey RENAME TO messages_before_pkey;
CREATE TABLE messages (
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    -- Grows with seq within a conversation.
    created_at timestamptz NOT NULL,
    id uuid NOT NULL,
    sender_id uuid NOT NULL,
    client_message_id text NOT NULL,
    -- Its place among the messages alone, from 1.
    ordinal bigint NOT NULL,
    text text NOT NULL,
    -- What is rarer than text, as rialto.messaging.v1.MessageDetails.
    details bytea,
    edited_at timestamptz,
    deleted_at timestamptz,
    expires_at timestamptz,
    PRIMARY KEY (conversation_id, seq, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX messages_expires_at ON messages (expires_at) WHERE expires_at IS NOT NULL;

-- What happened besides messages, as rialto.messaging.v1.SubscribeResponse.
CREATE TABLE conversation_events (
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    created_at timestamptz NOT NULL,
    event bytea NOT NULL,
    PRIMARY KEY (conversation_id, seq, created_at)
) PARTITION BY RANGE (created_at);

-- What belongs to messages goes when they do, by the time of the message.
CREATE TABLE message_edits (
    conversation_id uuid NOT NULL,
    message_seq bigint NOT NULL,
    -- The first, second … text that the message had.
    place integer NOT NULL,
    text text NOT NULL,
    replaced_at timestamptz NOT NULL,
    message_created_at timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, message_seq, place)
);
CREATE INDEX message_edits_message_created_at ON message_edits (message_created_at);

CREATE TABLE message_reactions (
    conversation_id uuid NOT NULL,
    message_seq bigint NOT NULL,
    account_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    emoji text NOT NULL,
    created_at timestamptz NOT NULL,
    message_created_at timestamptz NOT NULL,
    PRIMARY KEY (conversation_id, message_seq, account_id, emoji)
);
CREATE INDEX message_reactions_account_id ON message_reactions (account_id);
CREATE INDEX message_reactions_message_created_at ON message_reactions (message_created_at);

-- Messages that somebody has deleted for themselves.
CREATE TABLE hidden_messages (
    account_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    conversation_id uuid NOT NULL,
    message_seq bigint NOT NULL,
    message_created_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, conversation_id, message_seq)
);
CREATE INDEX hidden_messages_message_created_at ON hidden_messages (message_created_at);

-- Links by which anybody joins a group: one a group.
CREATE TABLE join_links (
    conversation_id uuid PRIMARY KEY REFERENCES conversations ON DELETE CASCADE,
    token_hash bytea NOT NULL UNIQUE,
    expires_at timestamptz NOT NULL,
    -- NULL: as often as there is room.
    uses_left integer CHECK (uses_left >= 0)
);

-- What messages were called by those who sent them: a message that is sent again is the same message. The key is the first
-- 16 bytes of SHA-256 of conversation, sender and client message id. Partitions can't have a unique index over all of them.
CREATE TABLE message_keys (
    key uuid PRIMARY KEY,
    seq bigint NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX message_keys_created_at ON message_keys USING brin (created_at);

-- The partitions that there are, of messages and of conversation_events alike.
CREATE TABLE message_partitions (
    starts_at timestamptz PRIMARY KEY,
    ends_at timestamptz NOT NULL CHECK (ends_at > starts_at)
);

-- Makes the partitions for a time, if there are none: as wide as that many days (of UTC), less where others are.
CREATE FUNCTION create_message_partitions(at timestamptz, days integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    width interval := make_interval(days => days);
    lower timestamptz := date_bin(width, at, 'epoch');
    upper timestamptz := lower + width;
    parent text;
    child text;
BEGIN
    -- Nodes do this at the same time.
    PERFORM pg_advisory_xact_lock(hashtext('create_message_partitions'));
    IF EXISTS (SELECT FROM message_partitions p WHERE p.starts_at <= at AND p.ends_at > at) THEN
        RETURN;
    END IF;
    lower := greatest(lower, (SELECT max(ends_at) FROM message_partitions WHERE ends_at <= at));
    upper := least(upper, (SELECT min(starts_at) FROM message_partitions WHERE starts_at > at));
    FOREACH parent IN ARRAY ARRAY['messages', 'conversation_events'] LOOP
        child := parent || to_char(lower AT TIME ZONE 'UTC', '_YYYYMMDD');
        -- Attached, and not created as a partition: that would wait for every reader, and have all others wait.
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, child, lower, upper);
    END LOOP;
    INSERT INTO message_partitions (starts_at, ends_at) VALUES (lower, upper);
END $$;

-- Drops the partitions that hold nothing since that time; returns how many.
CREATE FUNCTION drop_message_partitions(before timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    gone message_partitions;
    parent text;
    count integer := 0;
BEGIN
    -- Dropping waits for readers, and others wait meanwhile: not for long. Whoever calls this calls again.
    PERFORM set_config('lock_timeout', '2s', true);
    PERFORM pg_advisory_xact_lock(hashtext('create_message_partitions'));
    FOR gone IN DELETE FROM message_partitions WHERE ends_at <= before RETURNING * LOOP
        FOREACH parent IN ARRAY ARRAY['messages', 'conversation_events'] LOOP
            EXECUTE format('DROP TABLE %I', parent || to_char(gone.starts_at AT TIME ZONE 'UTC', '_YYYYMMDD'));
        END LOOP;
        count := count + 1;
    END LOOP;
    RETURN count;
END $$;

SELECT create_message_partitions(day, 1) FROM (SELECT DISTINCT date_trunc('day', created_at, 'UTC') AS day FROM messages_before) d;
INSERT INTO messages (conversation_id, seq, created_at, id, sender_id, client_message_id, ordinal, text)
    SELECT conversation_id, seq, created_at, id, sender_id, client_message_id, seq, text FROM messages_before;
INSERT INTO message_keys (key, seq, created_at)
    SELECT substr(encode(sha256(uuid_send(conversation_id) || uuid_send(sender_id) || convert_to(client_message_id, 'UTF8')),
        'hex'), 1, 32)::uuid, seq, created_at FROM messages_before;
DROP TABLE messages_before;
