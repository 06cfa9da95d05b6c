DROP TABLE message_documents, search_progress, scheduled_messages, message_retention;
DROP FUNCTION message_document, message_query, message_passages;
DELETE FROM jobs WHERE kind = 'messaging.scheduled';
CREATE INDEX message_keys_created_at ON message_keys USING brin (created_at);
DROP INDEX messages_expires_at;
CREATE INDEX messages_expires_at ON messages (expires_at) WHERE expires_at IS NOT NULL;
DROP INDEX conversations_retention_days;
ALTER TABLE conversations DROP COLUMN changed_at, DROP COLUMN search_pending;

-- Makes the partitions for a time, if there are none: as wide as that many days (of UTC), less where others are.
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
    FOREACH parent IN ARRAY ARRAY['messages', 'conversation_events'] LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
            parent || to_char(lower AT TIME ZONE 'UTC', '_YYYYMMDD'), parent, lower, upper);
    END LOOP;
    INSERT INTO message_partitions (starts_at, ends_at) VALUES (lower, upper);
END $$;

-- Drops the partitions that hold nothing since that time; returns how many.
CREATE OR REPLACE FUNCTION drop_message_partitions(before timestamptz) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    gone message_partitions;
    parent text;
    count integer := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('create_message_partitions'));
    FOR gone IN DELETE FROM message_partitions WHERE ends_at <= before RETURNING * LOOP
        FOREACH parent IN ARRAY ARRAY['messages', 'conversation_events'] LOOP
            EXECUTE format('DROP TABLE %I', parent || to_char(gone.starts_at AT TIME ZONE 'UTC', '_YYYYMMDD'));
        END LOOP;
        count := count + 1;
    END LOOP;
    RETURN count;
END $$;
