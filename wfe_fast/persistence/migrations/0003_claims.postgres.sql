-- Who works on a workflow, what a caller's transaction locks, and when there is something to do.

-- ---- claims ----------------------------------------------------------------------------------------------------------------

CREATE FUNCTION @wfe_claim(p_worker TEXT, p_due BIGINT, p_pairs TEXT, p_limit INT, p_length BIGINT, p_now BIGINT)
RETURNS TABLE (seq BIGINT, id TEXT, name TEXT, root_workflow_id TEXT, definition_id TEXT,
    version INT, description TEXT, reference TEXT, next_execution BIGINT, status TEXT, data TEXT, create_time BIGINT,
    complete_time BIGINT, revision BIGINT, control BIGINT, claim_fence BIGINT, claims_without_commit INT, lines TEXT, last_position BIGINT)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    moment TIMESTAMPTZ := @wfe_now(p_now);
    due BIGINT := coalesce(p_due, @wfe_millis(moment));
    candidates BIGINT[];
    got BIGINT[];
    passed BIGINT[] := '{}';
    claimed BIGINT[] := '{}';
BEGIN
    IF p_pairs IS NULL THEN
        claimed := ARRAY(SELECT w.seq FROM @workflows w
            WHERE w.status = 'Runnable' AND w.next_execution IS NOT NULL AND w.next_execution <= due
                AND (w.claim_until IS NULL OR w.claim_until <= moment)
            ORDER BY w.next_execution, w.seq LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED);
    ELSE
        -- `+ 0`: see the index. Found without a lock, then locked: with one in the search, all that is found for the other definitions would be locked, too.
        LOOP
            candidates := ARRAY(SELECT c.seq FROM json_array_elements(p_pairs::json) AS d (value)
                CROSS JOIN LATERAL (SELECT w.seq, w.next_execution FROM @workflows w
                    WHERE w.status = 'Runnable' AND w.next_execution IS NOT NULL AND w.definition_id = d.value ->> 0
                        AND w.version = (d.value ->> 1)::int AND w.next_execution + 0 <= due
                        AND (w.claim_until IS NULL OR w.claim_until <= moment) AND w.seq <> ALL (passed)
                    ORDER BY w.next_execution + 0, w.seq LIMIT p_limit - cardinality(claimed)) AS c
                ORDER BY c.next_execution, c.seq LIMIT p_limit - cardinality(claimed));
            EXIT WHEN cardinality(candidates) = 0;
            got := ARRAY(SELECT w.seq FROM @workflows w
                WHERE w.seq = ANY (candidates) AND w.status = 'Runnable' AND w.next_execution <= due
                    AND (w.claim_until IS NULL OR w.claim_until <= moment)
                ORDER BY w.next_execution, w.seq FOR NO KEY UPDATE SKIP LOCKED);
            claimed := claimed || got;
            passed := passed || candidates;
            EXIT WHEN cardinality(claimed) >= p_limit;
        END LOOP;
    END IF;
    IF cardinality(claimed) = 0 THEN
        RETURN;
    END IF;
    UPDATE @workflows w SET claimed_by = p_worker, claim_until = moment + p_length * interval '1 microsecond',
        claim_fence = w.claim_fence + 1, claims_without_commit = w.claims_without_commit + 1
    WHERE w.seq = ANY (claimed);
    RETURN QUERY SELECT i.* FROM @wfe_instances(claimed) AS i;
END $$;

-- Each claim: [seq, id, fence]. A row that is locked at the moment is about to be persisted, and nobody can take it over meanwhile: it is not
-- waited for, since its transaction may wait for a row that this one has renewed already.
CREATE FUNCTION @wfe_renew(p_claims TEXT, p_length BIGINT, p_now BIGINT) RETURNS TABLE (held BOOLEAN) LANGUAGE plpgsql AS $$
BEGIN
    UPDATE @workflows SET claim_until = @wfe_now(p_now) + p_length * interval '1 microsecond'
    WHERE seq = ANY (ARRAY(SELECT w.seq FROM @workflows w
        WHERE w.seq = ANY (ARRAY(SELECT (c.value ->> 0)::bigint FROM json_array_elements(p_claims::json) AS c (value)))
            AND w.claim_until IS NOT NULL AND EXISTS (SELECT 1 FROM json_array_elements(p_claims::json) AS c (value)
                WHERE (c.value ->> 0)::bigint = w.seq AND c.value ->> 1 = w.id AND (c.value ->> 2)::bigint = w.claim_fence)
        ORDER BY w.seq FOR NO KEY UPDATE SKIP LOCKED));
    -- A look for each: joined, the planner would read the whole table for the hundred rows that it takes any list for.
    RETURN QUERY SELECT (SELECT TRUE FROM @workflows w WHERE w.seq = (c.value ->> 0)::bigint AND w.id = c.value ->> 1
            AND w.claim_fence = (c.value ->> 2)::bigint AND w.claim_until IS NOT NULL) IS TRUE
        FROM json_array_elements(p_claims::json) WITH ORDINALITY AS c (value, n) ORDER BY c.n;
END $$;

CREATE FUNCTION @wfe_release(p_seq BIGINT, p_id TEXT, p_fence BIGINT, p_now BIGINT) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
DECLARE w RECORD;
BEGIN
    UPDATE @workflows SET claimed_by = NULL, claim_until = NULL
    WHERE seq = p_seq AND id = p_id AND claim_fence = p_fence AND claim_until IS NOT NULL
    RETURNING next_execution, status INTO w;
    IF NOT FOUND THEN
        -- It may have been given back already, by an attempt of which its holder has not heard: nobody has taken it since.
        RETURN EXISTS (SELECT 1 FROM @workflows WHERE seq = p_seq AND id = p_id AND claim_fence = p_fence);
    END IF;
    PERFORM @wfe_written(p_id, NULL, w.next_execution, w.status, FALSE, TRUE, p_now);
    RETURN TRUE;
END $$;

-- The locks of a caller's transaction, taken at its beginning where it has told what it will need: [[name, key], …] to publish,
-- the same to look up or subscribe to, and ids of workflows. How the workflows stand.
CREATE FUNCTION @wfe_lock(p_publishes TEXT, p_awaits TEXT, p_workflows TEXT[])
RETURNS TABLE (id TEXT, seq BIGINT, revision BIGINT, control BIGINT, claim_fence BIGINT) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE k RECORD;
BEGIN
    FOR k IN
        SELECT keys.number, bool_or(keys.publishes) AS publishes FROM (
            SELECT @wfe_key(r.value ->> 0, r.value ->> 1) AS number, TRUE AS publishes FROM json_array_elements(p_publishes::json) AS r (value)
            UNION ALL
            SELECT @wfe_key(r.value ->> 0, r.value ->> 1), FALSE FROM json_array_elements(p_awaits::json) AS r (value)) AS keys
        GROUP BY keys.number ORDER BY keys.number
    LOOP
        IF k.publishes THEN
            PERFORM pg_advisory_xact_lock(k.number);
        ELSE
            PERFORM pg_advisory_xact_lock_shared(k.number);
        END IF;
    END LOOP;
    RETURN QUERY SELECT w.id, w.seq, w.revision, w.control, w.claim_fence FROM @workflows w WHERE w.id = ANY (p_workflows)
        ORDER BY w.seq FOR NO KEY UPDATE;
END $$;

-- When there will be something to do, in microseconds (a number of any size: next_execution may lie anywhere), and now. For so many
-- microseconds from now nothing can be done about events (null = it can).
CREATE FUNCTION @wfe_next_due(p_pairs TEXT, p_now BIGINT, p_events_wait BIGINT) RETURNS TABLE (due NUMERIC, now BIGINT) LANGUAGE plpgsql STABLE AS $$
DECLARE
    moment BIGINT := @wfe_micros(@wfe_now(p_now));
    r RECORD;
    d JSON;
    free BIGINT;
    earliest NUMERIC;
BEGIN
    SELECT greatest(@wfe_micros(coalesce(due_at, event_time)), moment + p_events_wait) INTO earliest FROM @events
    WHERE is_processed IS NOT TRUE ORDER BY coalesce(due_at, event_time), seq LIMIT 1;
    -- The rows come in the order of when they are due, and the first free one ends the search. Those before it are leased.
    FOR r IN SELECT execute_time, lease_until FROM @scheduled_commands ORDER BY execute_time, id LOOP
        earliest := least(earliest, greatest(r.execute_time::numeric * 1000, @wfe_micros(r.lease_until)));
        EXIT WHEN r.lease_until IS NULL;
    END LOOP;
    IF p_pairs IS NULL THEN
        FOR r IN SELECT next_execution, claim_until FROM @workflows WHERE status = 'Runnable' AND next_execution IS NOT NULL
            ORDER BY next_execution, seq LOOP
            earliest := least(earliest, greatest(r.next_execution::numeric * 1000, @wfe_micros(r.claim_until)));
            EXIT WHEN r.claim_until IS NULL;
        END LOOP;
    ELSE
        FOR d IN SELECT value FROM json_array_elements(p_pairs::json) LOOP
            SELECT next_execution INTO free FROM @workflows WHERE status = 'Runnable' AND next_execution IS NOT NULL
                AND definition_id = d ->> 0 AND version = (d ->> 1)::int AND claim_until IS NULL
                ORDER BY next_execution + 0, seq LIMIT 1;
            earliest := least(earliest, free::numeric * 1000, (
                SELECT min(greatest(next_execution::numeric * 1000, @wfe_micros(claim_until))) FROM @workflows
                WHERE status = 'Runnable' AND next_execution IS NOT NULL AND definition_id = d ->> 0 AND version = (d ->> 1)::int
                    AND claim_until IS NOT NULL AND next_execution + 0 <= coalesce(free, 9223372036854775807)));
        END LOOP;
    END IF;
    RETURN QUERY SELECT earliest, moment;
END $$;
