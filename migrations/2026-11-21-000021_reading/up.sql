-- Reading messages of a conversation, whose times grow with their numbers, looks only into the partitions that hold what is
-- wanted. A plain query begins with all of them. Other events are few, and a plain query for them costs less than this.
--
-- Each of these functions keeps its plans. Planning would cost more than everything else; and a partition that was small
-- when a plan was made may be large when it is used: hence no sequential scans, and no compiling of what these seem to cost.

-- The partitions that hold what follows a number in a conversation, as far as it happened since that time, the oldest first; and
-- how many of them hold so many messages on average.
CREATE FUNCTION message_partitions_after(conversation uuid, number bigint, since timestamptz, most bigint,
    OUT starts timestamptz[], OUT ends timestamptz[], OUT width integer) LANGUAGE plpgsql STABLE
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    first integer := 1;
    last integer;
    middle integer;
    probed integer;
    found_seq bigint;
BEGIN
    SELECT coalesce(array_agg(p.starts_at), '{}'), coalesce(array_agg(p.ends_at), '{}'),
            coalesce(ceil(least(most, min(p.message_count)) * count(*) / (min(p.message_count) + 1.0)), 1)
        INTO starts, ends, width FROM (
            SELECT p.starts_at, p.ends_at, c.message_count FROM conversations c JOIN message_partitions p
                ON p.ends_at > greatest(since, c.created_at) AND p.starts_at <= greatest(c.active_at, c.changed_at)
            WHERE c.id = conversation ORDER BY p.starts_at) p;
    width := greatest(width, 1);
    last := cardinality(starts);
    -- The newest one first: who comes back was mostly not away for long. Then by halves.
    middle := last;
    WHILE first < last AND number > 0 LOOP
        probed := middle;
        LOOP
            SELECT m.seq INTO found_seq FROM messages m WHERE m.conversation_id = conversation
                AND m.created_at >= starts[probed] AND m.created_at < ends[probed] ORDER BY m.seq LIMIT 1;
            EXIT WHEN found_seq IS NOT NULL OR probed >= last;
            probed := probed + 1;
        END LOOP;
        IF found_seq <= number + 1 THEN
            first := probed;
        ELSE
            last := middle - 1;
        END IF;
        middle := (first + last + 1) / 2;
    END LOOP;
    starts := starts[first:];
    ends := ends[first:];
END $$;

-- The first messages after a number that somebody has not deleted for themselves, as far as they were sent since that time.
CREATE FUNCTION messages_after(conversation uuid, number bigint, reader uuid, since timestamptz, most bigint)
    RETURNS SETOF messages LANGUAGE plpgsql STABLE
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    starts timestamptz[];
    ends timestamptz[];
    place integer := 1;
    width integer;
    found_rows bigint;
BEGIN
    SELECT p.starts, p.ends, p.width INTO starts, ends, width
        FROM message_partitions_after(conversation, number, since, most) p;
    WHILE place <= cardinality(starts) AND most > 0 LOOP
        RETURN QUERY SELECT m.* FROM messages m WHERE m.conversation_id = conversation AND m.seq > number
            AND m.created_at >= greatest(since, starts[place])
            AND m.created_at < ends[least(place + width - 1, cardinality(ends))]
            AND NOT EXISTS (SELECT FROM hidden_messages h WHERE h.account_id = reader
                AND h.conversation_id = conversation AND h.message_seq = m.seq)
            ORDER BY m.seq LIMIT most;
        GET DIAGNOSTICS found_rows = ROW_COUNT;
        most := most - found_rows;
        -- Twice as many at a time, where the average is wrong.
        place := place + width;
        width := width * 2;
    END LOOP;
END $$;

-- The last messages before a number that somebody has not deleted for themselves, as far as they were sent since that time. With
-- `at`, none is later than that.
CREATE FUNCTION messages_before(conversation uuid, number bigint, at timestamptz, reader uuid, since timestamptz, most bigint)
    RETURNS SETOF messages LANGUAGE plpgsql STABLE
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    starts timestamptz[];
    ends timestamptz[];
    place integer := 1;
    width integer;
    found_rows bigint;
BEGIN
    SELECT array_agg(p.starts_at), array_agg(p.ends_at),
            ceil(least(most, min(p.message_count)) * count(*) / (min(p.message_count) + 1.0))
        INTO starts, ends, width FROM (
            SELECT p.starts_at, p.ends_at, c.message_count FROM conversations c JOIN message_partitions p
                ON p.ends_at > greatest(since, c.created_at)
                AND p.starts_at <= least(at, greatest(c.active_at, c.changed_at))
            WHERE c.id = conversation ORDER BY p.starts_at DESC) p;
    width := greatest(width, 1);
    WHILE place <= cardinality(starts) AND most > 0 LOOP
        RETURN QUERY SELECT m.* FROM messages m WHERE m.conversation_id = conversation AND m.seq < number
            AND m.created_at >= greatest(since, starts[least(place + width - 1, cardinality(starts))])
            AND m.created_at < ends[place]
            AND NOT EXISTS (SELECT FROM hidden_messages h WHERE h.account_id = reader
                AND h.conversation_id = conversation AND h.message_seq = m.seq)
            ORDER BY m.seq DESC LIMIT most;
        GET DIAGNOSTICS found_rows = ROW_COUNT;
        most := most - found_rows;
        -- Twice as many at a time, where the average is wrong.
        place := place + width;
        width := width * 2;
    END LOOP;
END $$;

-- The messages at these places. Each is looked up by itself: LIMIT keeps the planner from reading whole partitions instead.
CREATE FUNCTION messages_at(conversations uuid[], numbers bigint[], times timestamptz[])
    RETURNS SETOF messages LANGUAGE plpgsql STABLE
    SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off AS $$
DECLARE
    earliest timestamptz := (SELECT min(at) FROM unnest(times) at);
    latest timestamptz := (SELECT max(at) FROM unnest(times) at);
BEGIN
    RETURN QUERY SELECT found.* FROM unnest(conversations, numbers, times) AS i (conversation_id, seq, created_at)
        CROSS JOIN LATERAL (
            SELECT m.* FROM messages m
            WHERE m.conversation_id = i.conversation_id AND m.seq = i.seq AND m.created_at = i.created_at
                AND m.created_at >= earliest AND m.created_at <= latest LIMIT 1) found;
END $$;
