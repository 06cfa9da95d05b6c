-- What is no longer kept, what is found by its words, and what is sent later.

ALTER TABLE conversations
    -- When the newest of what is numbered in it happened. The next is never earlier, so that what is too old is always the
    -- beginning, and numbers that are kept have no hole.
    ADD COLUMN changed_at timestamptz NOT NULL DEFAULT '-infinity',
    -- Search has not read all of it, or has done so just now. Set by whatever search has to read; taken back when nothing
    -- has happened for a while, so that the index below changes rarely, and not with each message.
    ADD COLUMN search_pending boolean NOT NULL DEFAULT false;
UPDATE conversations SET changed_at = active_at, search_pending = last_seq > 0 AND NOT encrypted;
CREATE INDEX conversations_search_pending ON conversations (id) WHERE search_pending;
CREATE INDEX conversations_retention_days ON conversations (id) WHERE retention_days IS NOT NULL;

-- Those whose content is still there: what has been emptied is not looked at again.
DROP INDEX messages_expires_at;
CREATE INDEX messages_expires_at ON messages (expires_at) WHERE expires_at IS NOT NULL AND deleted_at IS NULL;

-- What is deleted is found by walking through the table once; when space is used again, ranges of blocks no longer have a
-- range of times.
DROP INDEX message_keys_created_at;

-- The words of messages that are not encrypted. Partitioned as they are.
CREATE TABLE message_documents (
    conversation_id uuid NOT NULL,
    seq bigint NOT NULL,
    created_at timestamptz NOT NULL,
    document tsvector NOT NULL,
    PRIMARY KEY (conversation_id, seq, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX message_documents_document ON message_documents USING gin (document);

-- Up to where search has read conversations.
CREATE TABLE search_progress (
    conversation_id uuid PRIMARY KEY REFERENCES conversations ON DELETE CASCADE,
    seq bigint NOT NULL
) WITH (fillfactor = 70);

-- Messages that are to be sent later. They go when they were sent.
CREATE TABLE scheduled_messages (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    conversation_id uuid NOT NULL REFERENCES conversations ON DELETE CASCADE,
    text text NOT NULL,
    -- As rialto.messaging.v1.MessageDetails.
    details bytea,
    send_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    -- Why it was not sent, as rialto.error.v1.Reason, and when that was.
    refused_reason integer,
    refused_at timestamptz,
    CHECK ((refused_reason IS NULL) = (refused_at IS NULL))
);
CREATE INDEX scheduled_messages_account_id ON scheduled_messages (account_id, send_at, id);
CREATE INDEX scheduled_messages_conversation_id ON scheduled_messages (conversation_id);
CREATE INDEX scheduled_messages_refused_at ON scheduled_messages (refused_at) WHERE refused_at IS NOT NULL;

-- How many messages retention has deleted since there is a count.
CREATE TABLE message_retention (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    deleted bigint NOT NULL
);
INSERT INTO message_retention (deleted) VALUES (0);

-- The words of a text: as they are, and as each of the languages reduces them.
CREATE FUNCTION message_document(body text, languages text[]) RETURNS tsvector LANGUAGE plpgsql STABLE AS $$
DECLARE
    document tsvector := to_tsvector('simple', body);
    language text;
BEGIN
    FOREACH language IN ARRAY languages LOOP
        -- A gap, so that no phrase begins in one and ends in the next. No text has the word that makes it.
        document := document || '''-'':100'::tsvector || to_tsvector(language::regconfig, body);
    END LOOP;
    RETURN ts_delete(document, '-');
END $$;

-- What somebody looks for. Immutable, so that the planner knows the words; the configurations are Postgres's own.
CREATE FUNCTION message_query(query text, languages text[]) RETURNS tsquery LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    wanted tsquery := websearch_to_tsquery('simple', query);
    language text;
BEGIN
    FOREACH language IN ARRAY languages LOOP
        wanted := wanted || websearch_to_tsquery(language::regconfig, query);
    END LOOP;
    RETURN wanted;
END $$;

-- The passages of a text in which it was found, with U+0001 before and U+0002 after what was. By the first language in which
-- it is found: that one marks its other forms too.
CREATE FUNCTION message_passages(body text, query text, languages text[]) RETURNS text LANGUAGE plpgsql STABLE AS $$
DECLARE
    plain text := translate(body, E'\x01\x02', '');
    options text := E'StartSel="\x01", StopSel="\x02", MaxFragments=2, MaxWords=24, MinWords=8, ShortWord=0, FragmentDelimiter=" … "';
    language text;
    wanted tsquery;
BEGIN
    FOREACH language IN ARRAY languages LOOP
        wanted := websearch_to_tsquery(language::regconfig, query);
        IF to_tsvector(language::regconfig, plain) @@ wanted THEN
            RETURN ts_headline(language::regconfig, plain, wanted, options);
        END IF;
    END LOOP;
    RETURN ts_headline('simple', plain, websearch_to_tsquery('simple', query), options);
END $$;

CREATE OR REPLACE FUNCTION create_message_partitions(at timestamptz, days integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    width interval := make_interval(days => days);
    lower timestamptz := date_bin(width, at, 'epoch');
    upper timestamptz := lower + width;
    parent text;
BEGIN
    -- Nodes do this at the same time.
    PERFORM pg_advisory_xact_lock(hashtext('create_message_partitions'));
    IF EXISTS (SELECT FROM message_partitions p WHERE p.starts_at <= at AND p.ends_at > at) THEN
        RETURN;
    END IF;
    lower := greatest(lower, (SELECT max(ends_at) FROM message_partitions WHERE ends_at <= at));
    upper := least(upper, (SELECT min(starts_at) FROM message_partitions WHERE starts_at > at));
    FOREACH parent IN ARRAY ARRAY['messages', 'conversation_events', 'message_documents'] LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
            parent || to_char(lower AT TIME ZONE 'UTC', '_YYYYMMDD'), parent, lower, upper);
    END LOOP;
    INSERT INTO message_partitions (starts_at, ends_at) VALUES (lower, upper);
END $$;

CREATE OR REPLACE FUNCTION drop_message_partitions(before timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    gone message_partitions;
    parent text;
    count integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('create_message_partitions'));
    FOR gone IN DELETE FROM message_partitions WHERE ends_at <= before RETURNING * LOOP
        FOREACH parent IN ARRAY ARRAY['messages', 'conversation_events', 'message_documents'] LOOP
            EXECUTE format('DROP TABLE %I', parent || to_char(gone.starts_at AT TIME ZONE 'UTC', '_YYYYMMDD'));
        END LOOP;
        count := count + 1;
    END LOOP;
    RETURN count;
END $$;

DO $$
DECLARE
    there message_partitions;
BEGIN
    FOR there IN SELECT * FROM message_partitions LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF message_documents FOR VALUES FROM (%L) TO (%L)',
            'message_documents' || to_char(there.starts_at AT TIME ZONE 'UTC', '_YYYYMMDD'), there.starts_at, there.ends_at);
    END LOOP;
END $$;
