-- Makes the partitions for a time, if there are none: as wide as that many days (of UTC), less where others are.
CREATE OR REPLACE FUNCTION create_message_partitions(at timestamptz, days integer) RETURNS void LANGUAGE plpgsql AS $$
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
    FOREACH parent IN ARRAY ARRAY['messages', 'conversation_events', 'message_documents'] LOOP
        child := parent || to_char(lower AT TIME ZONE 'UTC', '_YYYYMMDD');
        -- Attached, and not created as a partition: that would wait for every reader, and have all others wait.
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', child, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, child, lower, upper);
    END LOOP;
    INSERT INTO message_partitions (starts_at, ends_at) VALUES (lower, upper);
END $$;
