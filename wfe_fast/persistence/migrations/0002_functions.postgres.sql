-- The operations that read and then write, one function each: so each is one call, one round trip, one transaction. In a function every
-- statement sees what was committed before it began (READ COMMITTED), also behind a lock for which it has just waited; in a single
-- statement it would still see the moment at which the statement began.
-- Times come and go as microseconds since the epoch; `p_now` is null where the server's clock decides. Lists come as JSON text.
--
-- Who locks what, so that nobody waits in a circle: keys of events first, in the order of their numbers; then rows of workflows in the order
-- of seq; then subscriptions. A delivery reaches many workflows in no order, so it never waits for a row: what another transaction
-- holds at the moment it leaves for the next attempt.

CREATE FUNCTION @wfe_moment(micros BIGINT) RETURNS TIMESTAMPTZ LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    -- In two parts, as an interval is multiplied by a double, which holds whole microseconds up to the year 2255 only.
    SELECT CASE WHEN micros < -210000000000000000 THEN '-infinity'::timestamptz
        ELSE timestamptz '1970-01-01 00:00:00+00' + (micros / 1000000) * interval '1 second' + (micros % 1000000) * interval '1 microsecond' END
$$;

CREATE FUNCTION @wfe_now(micros BIGINT) RETURNS TIMESTAMPTZ LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN micros IS NULL THEN clock_timestamp() ELSE @wfe_moment(micros) END
$$;

CREATE FUNCTION @wfe_millis(moment TIMESTAMPTZ) RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT floor(extract(epoch FROM moment) * 1000)::bigint
$$;

CREATE FUNCTION @wfe_key(event_name TEXT, event_key TEXT) RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT hashtextextended('@event_subscriptions' || chr(10) || event_name || chr(10) || event_key, 0)
$$;

CREATE FUNCTION @wfe_refuse(code TEXT, what TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = what;
END $$;

-- PostgreSQL sends equal notifications of one transaction once.
CREATE FUNCTION @wfe_wake() RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT pg_notify('{channel}', '')
$$;

CREATE FUNCTION @wfe_time_text(moment TIMESTAMPTZ) RETURNS TEXT LANGUAGE sql STABLE AS $$
    SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- The document of a pointer that wfe-postgres has written.
CREATE FUNCTION @wfe_doc(p @execution_pointers) RETURNS TEXT LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object('id', p.id, 'step_id', p.step_id, 'active', p.active, 'status', p.status,
        'sleep_until', @wfe_time_text(p.sleep_until), 'persistence_data', p.persistence_data, 'start_time', @wfe_time_text(p.start_time),
        'end_time', @wfe_time_text(p.end_time), 'event_name', p.event_name, 'event_key', p.event_key,
        'event_published', coalesce(p.event_published, FALSE), 'event_data', p.event_data, 'step_name', p.step_name,
        'retry_count', coalesce(p.retry_count, 0), 'children', coalesce(p.children, '[]'), 'context_item', p.context_item,
        'predecessor_id', p.predecessor_id, 'outcome', p.outcome, 'scope', coalesce(p.scope, '[]'),
        'extension_attributes', coalesce(p.extension_attributes, '{}'))::text
$$;

-- ---- pointers --------------------------------------------------------------------------------------------------------------

-- Each row: [position, document]. The position says which pointer it is.
CREATE FUNCTION @wfe_update_pointers(p_workflow TEXT, p_rows TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE @execution_pointers p SET doc = d.doc, id = d.j ->> 'id', step_id = (d.j ->> 'step_id')::int,
        active = coalesce((d.j ->> 'active')::boolean, TRUE), status = coalesce(d.j ->> 'status', 'Pending'),
        sleep_until = (d.j ->> 'sleep_until')::timestamptz, persistence_data = d.j -> 'persistence_data',
        start_time = (d.j ->> 'start_time')::timestamptz, end_time = (d.j ->> 'end_time')::timestamptz,
        event_name = d.j ->> 'event_name', event_key = d.j ->> 'event_key',
        event_published = coalesce((d.j ->> 'event_published')::boolean, FALSE), event_data = d.j -> 'event_data',
        step_name = d.j ->> 'step_name', retry_count = coalesce((d.j ->> 'retry_count')::int, 0),
        children = coalesce(d.j -> 'children', '[]'), context_item = d.j -> 'context_item', predecessor_id = d.j ->> 'predecessor_id',
        outcome = d.j -> 'outcome', scope = coalesce(d.j -> 'scope', '[]'),
        extension_attributes = coalesce(d.j -> 'extension_attributes', '{}')
    FROM (SELECT (r.value ->> 0)::bigint AS position, r.value ->> 1 AS doc, (r.value ->> 1)::jsonb AS j
        -- OFFSET keeps the reading of the document in one place: copied to each column, which the planner would do, it costs twice as much.
        FROM json_array_elements(p_rows::json) AS r (value) OFFSET 0) AS d
    WHERE p.workflow_id = p_workflow AND p.position = d.position;
END $$;

-- Each row: [position, id, document].
CREATE FUNCTION @wfe_insert_pointers(p_workflow TEXT, p_rows TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO @execution_pointers (workflow_id, position, id, doc, step_id, active, status, sleep_until, persistence_data, start_time,
        end_time, event_name, event_key, event_published, event_data, step_name, retry_count, children, context_item, predecessor_id,
        outcome, scope, extension_attributes)
    SELECT p_workflow, d.position, d.id, d.doc, (d.j ->> 'step_id')::int, coalesce((d.j ->> 'active')::boolean, TRUE),
        coalesce(d.j ->> 'status', 'Pending'), (d.j ->> 'sleep_until')::timestamptz, d.j -> 'persistence_data',
        (d.j ->> 'start_time')::timestamptz, (d.j ->> 'end_time')::timestamptz, d.j ->> 'event_name', d.j ->> 'event_key',
        coalesce((d.j ->> 'event_published')::boolean, FALSE), d.j -> 'event_data', d.j ->> 'step_name',
        coalesce((d.j ->> 'retry_count')::int, 0), coalesce(d.j -> 'children', '[]'), d.j -> 'context_item', d.j ->> 'predecessor_id',
        d.j -> 'outcome', coalesce(d.j -> 'scope', '[]'), coalesce(d.j -> 'extension_attributes', '{}')
    FROM (SELECT (r.value ->> 0)::bigint AS position, r.value ->> 1 AS id, r.value ->> 2 AS doc, (r.value ->> 2)::jsonb AS j
        FROM json_array_elements(p_rows::json) AS r (value) OFFSET 0) AS d;
END $$;

-- Whoever looks for events and then stores a subscription, and whoever publishes, one after the other.
-- Each row: [id, workflow_id, step_id, pointer_id, name, key, as_of, data, token, worker_id, expiry].
CREATE FUNCTION @wfe_subscribe(p_rows TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(k) FROM (SELECT DISTINCT @wfe_key(r.value ->> 4, r.value ->> 5) AS k
        FROM json_array_elements(p_rows::json) AS r (value) ORDER BY 1) AS keys;
    INSERT INTO @event_subscriptions (id, workflow_id, step_id, execution_pointer_id, event_name, event_key, subscribe_as_of,
        subscription_data, external_token, external_worker_id, external_token_expiry)
    SELECT r.value ->> 0, r.value ->> 1, (r.value ->> 2)::int, r.value ->> 3, r.value ->> 4, r.value ->> 5,
        @wfe_moment((r.value ->> 6)::bigint), (r.value ->> 7)::jsonb, r.value ->> 8, r.value ->> 9, @wfe_moment((r.value ->> 10)::bigint)
    FROM json_array_elements(p_rows::json) WITH ORDINALITY AS r (value, n) ORDER BY n;
END $$;

-- ---- workflows -------------------------------------------------------------------------------------------------------------

-- What Python makes an instance of. The pointers come as one text of lines.
CREATE FUNCTION @wfe_instances(p_seqs BIGINT[]) RETURNS TABLE (seq BIGINT, id TEXT, name TEXT, root_workflow_id TEXT, definition_id TEXT,
    version INT, description TEXT, reference TEXT, next_execution BIGINT, status TEXT, data TEXT, create_time BIGINT,
    complete_time BIGINT, revision BIGINT, control BIGINT, claim_fence BIGINT, claims_without_commit INT, lines TEXT, last_position BIGINT)
LANGUAGE sql STABLE AS $$
    SELECT w.seq, w.id, w.name, w.root_workflow_id, w.definition_id, w.version, w.description, w.reference, w.next_execution, w.status,
        w.data::text, @wfe_micros(w.create_time), @wfe_micros(w.complete_time), w.revision, w.control, w.claim_fence,
        w.claims_without_commit, p.lines, p.last_position
    FROM unnest(p_seqs) WITH ORDINALITY AS wanted (seq, n) JOIN @workflows w ON w.seq = wanted.seq
    CROSS JOIN LATERAL (SELECT string_agg(coalesce(p.doc, @wfe_doc(p)), E'\n' ORDER BY p.position, p.id) AS lines,
        max(p.position) AS last_position FROM @execution_pointers p WHERE p.workflow_id = w.id) AS p
    ORDER BY wanted.n
$$;

-- For a caller's transaction: whoever reads a workflow there will write it, so nobody else may write in between.
CREATE FUNCTION @wfe_lock_instances(p_ids TEXT[]) RETURNS TABLE (seq BIGINT, id TEXT, name TEXT, root_workflow_id TEXT,
    definition_id TEXT, version INT, description TEXT, reference TEXT, next_execution BIGINT, status TEXT, data TEXT, create_time BIGINT,
    complete_time BIGINT, revision BIGINT, control BIGINT, claim_fence BIGINT, claims_without_commit INT, lines TEXT, last_position BIGINT)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM @workflows w WHERE w.id = ANY (p_ids) ORDER BY w.seq FOR NO KEY UPDATE;
    RETURN QUERY SELECT i.* FROM @wfe_instances(ARRAY(
        SELECT w.seq FROM unnest(p_ids) WITH ORDINALITY AS wanted (id, n) JOIN @workflows w ON w.id = wanted.id ORDER BY n)) AS i;
END $$;

CREATE FUNCTION @wfe_create(p_id TEXT, p_name TEXT, p_root TEXT, p_definition TEXT, p_version INT, p_description TEXT, p_reference TEXT,
    p_due BIGINT, p_status TEXT, p_data TEXT, p_created BIGINT, p_completed BIGINT, p_pointers TEXT) RETURNS BIGINT
LANGUAGE plpgsql AS $$
DECLARE made BIGINT;
BEGIN
    INSERT INTO @workflows (id, name, root_workflow_id, definition_id, version, description, reference, next_execution, status, data,
        create_time, complete_time)
    VALUES (p_id, p_name, p_root, p_definition, p_version, p_description, p_reference, p_due, p_status, p_data::jsonb,
        @wfe_moment(p_created), @wfe_moment(p_completed))
    RETURNING seq INTO made;
    IF p_pointers IS NOT NULL THEN
        PERFORM @wfe_insert_pointers(p_id, p_pointers);
    END IF;
    IF p_status = 'Runnable' AND p_due IS NOT NULL THEN
        PERFORM @wfe_wake();
    END IF;
    RETURN made;
END $$;

-- An event that was left for the holder makes the workflow due, whatever its holder says: so that somebody comes and takes it. To be called
-- behind the lock of the row. Wakes up who may have to do something about the workflow now.
CREATE FUNCTION @wfe_written(p_id TEXT, p_before BIGINT, p_after BIGINT, p_status TEXT, p_other_status BOOLEAN, p_free BOOLEAN,
    p_now BIGINT) RETURNS void LANGUAGE plpgsql AS $$
DECLARE moment BIGINT;
BEGIN
    IF EXISTS (SELECT 1 FROM @event_subscriptions s WHERE s.workflow_id = p_id AND s.pending_event_time IS NOT NULL) THEN
        moment := @wfe_millis(@wfe_now(p_now));
        UPDATE @workflows SET next_execution = least(coalesce(next_execution, moment), moment) WHERE id = p_id;
        p_after := least(p_after, moment);
    END IF;
    IF p_other_status OR (p_free AND p_status = 'Runnable' AND p_after IS NOT NULL AND (p_before IS NULL OR p_after < p_before)) THEN
        PERFORM @wfe_wake();
    END IF;
END $$;

-- Where the row is as the caller knows it: the writes that lead from what it knows to what it has. Code WFST1 = it is not; all is needed.
CREATE FUNCTION @wfe_persist(p_id TEXT, p_seq BIGINT, p_revision BIGINT, p_doubt BIGINT, p_control BIGINT, p_fence BIGINT,
    p_release BOOLEAN, p_expect BOOLEAN, p_next BIGINT, p_due BIGINT, p_data TEXT, p_row TEXT, p_deletes TEXT, p_updates TEXT,
    p_inserts TEXT, p_subscriptions TEXT, p_now BIGINT) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    w RECORD;
    r JSON;
BEGIN
    SELECT seq, revision, control, claim_fence, claim_until, status, next_execution INTO w
    FROM @workflows WHERE id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @wfe_refuse('WFNF1', p_id);
    ELSIF p_fence IS NOT NULL AND (w.seq <> p_seq OR w.claim_fence <> p_fence) THEN
        PERFORM @wfe_refuse('WFCL1', p_id);
    ELSIF p_expect AND (w.seq <> p_seq OR w.revision NOT IN (p_revision, coalesce(p_doubt, p_revision)) OR (w.control <> p_control AND p_fence IS NULL)) THEN
        PERFORM @wfe_refuse('WFCU1', p_id);
    ELSIF w.seq <> p_seq OR w.revision <> p_revision OR w.control <> p_control THEN
        PERFORM @wfe_refuse('WFST1', p_id);
    END IF;
    -- Only its own claim is given back, not that of somebody who holds the workflow meanwhile.
    p_release := p_release AND p_fence IS NOT NULL;
    IF p_row IS NULL THEN
        UPDATE @workflows SET next_execution = p_due, data = p_data::jsonb, revision = p_next, claims_without_commit = 0,
            claimed_by = CASE WHEN p_release THEN NULL ELSE claimed_by END, claim_until = CASE WHEN p_release THEN NULL ELSE claim_until END
        WHERE id = p_id;
    ELSE
        r := p_row::json;
        UPDATE @workflows SET next_execution = p_due, data = p_data::jsonb, revision = p_next, claims_without_commit = 0,
            claimed_by = CASE WHEN p_release THEN NULL ELSE claimed_by END, claim_until = CASE WHEN p_release THEN NULL ELSE claim_until END,
            status = r ->> 0, complete_time = @wfe_moment((r ->> 1)::bigint), name = r ->> 2, root_workflow_id = r ->> 3,
            definition_id = r ->> 4, version = (r ->> 5)::int, description = r ->> 6, reference = r ->> 7,
            create_time = @wfe_moment((r ->> 8)::bigint)
        WHERE id = p_id;
    END IF;
    IF p_deletes IS NOT NULL THEN
        DELETE FROM @execution_pointers WHERE workflow_id = p_id
            AND position IN (SELECT value::bigint FROM json_array_elements_text(p_deletes::json));
    END IF;
    IF p_updates IS NOT NULL THEN
        PERFORM @wfe_update_pointers(p_id, p_updates);
    END IF;
    IF p_inserts IS NOT NULL THEN
        PERFORM @wfe_insert_pointers(p_id, p_inserts);
    END IF;
    IF p_subscriptions IS NOT NULL THEN
        PERFORM @wfe_subscribe(p_subscriptions);
    END IF;
    PERFORM @wfe_written(p_id, CASE WHEN p_release THEN NULL ELSE w.next_execution END, p_due, coalesce(r ->> 0, w.status),
        r IS NOT NULL AND r ->> 0 <> w.status, p_release OR w.claim_until IS NULL, p_now);
    RETURN p_next;
END $$;

-- The same for a caller who knows nothing of the row, or not what is there now: the stored pointers become exactly the given ones.
-- Each pointer: [id, document].
CREATE FUNCTION @wfe_overwrite(p_id TEXT, p_seq BIGINT, p_revision BIGINT, p_doubt BIGINT, p_control BIGINT, p_fence BIGINT,
    p_known_status TEXT, p_release BOOLEAN, p_expect BOOLEAN, p_stride BIGINT, p_due BIGINT, p_data TEXT, p_row TEXT, p_pointers TEXT,
    p_subscriptions TEXT, p_now BIGINT)
RETURNS TABLE (seq BIGINT, revision BIGINT, control BIGINT, status TEXT, complete_time BIGINT) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    w RECORD;
    r JSON := p_row::json;
    kept BOOLEAN;
    final_status TEXT;
    ended TIMESTAMPTZ;
BEGIN
    SELECT x.seq, x.revision, x.control, x.claim_fence, x.claim_until, x.status, x.complete_time, x.next_execution INTO w
    FROM @workflows x WHERE x.id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @wfe_refuse('WFNF1', p_id);
    ELSIF p_fence IS NOT NULL AND (w.seq <> p_seq OR w.claim_fence <> p_fence) THEN
        PERFORM @wfe_refuse('WFCL1', p_id);
    ELSIF p_expect AND (w.seq <> p_seq OR w.revision NOT IN (p_revision, coalesce(p_doubt, p_revision)) OR (w.control <> p_control AND p_fence IS NULL)) THEN
        PERFORM @wfe_refuse('WFCU1', p_id);
    END IF;
    p_release := p_release AND p_fence IS NOT NULL;
    -- Set beside the claim, by change_status: it stays, and the holder learns of it.
    kept := p_fence IS NOT NULL AND w.control <> p_control AND w.status <> p_known_status;
    final_status := CASE WHEN kept THEN w.status ELSE r ->> 0 END;
    ended := CASE WHEN kept THEN w.complete_time ELSE @wfe_moment((r ->> 1)::bigint) END;
    UPDATE @workflows x SET next_execution = p_due, data = p_data::jsonb, revision = w.revision + p_stride, claims_without_commit = 0,
        claimed_by = CASE WHEN p_release THEN NULL ELSE x.claimed_by END,
        claim_until = CASE WHEN p_release THEN NULL ELSE x.claim_until END,
        status = final_status, complete_time = ended, name = r ->> 2, root_workflow_id = r ->> 3, definition_id = r ->> 4,
        version = (r ->> 5)::int, description = r ->> 6, reference = r ->> 7, create_time = @wfe_moment((r ->> 8)::bigint)
    WHERE x.id = p_id;
    DELETE FROM @execution_pointers p WHERE p.workflow_id = p_id
        AND NOT EXISTS (SELECT 1 FROM json_array_elements(p_pointers::json) AS g (value) WHERE g.value ->> 0 = p.id);
    UPDATE @execution_pointers p SET position = g.n - 1
    FROM json_array_elements(p_pointers::json) WITH ORDINALITY AS g (value, n)
    WHERE p.workflow_id = p_id AND p.id = g.value ->> 0 AND p.position <> g.n - 1;
    PERFORM @wfe_update_pointers(p_id, json_agg(json_build_array(g.n - 1, g.value ->> 1))::text)
    FROM json_array_elements(p_pointers::json) WITH ORDINALITY AS g (value, n)
    JOIN @execution_pointers p ON p.workflow_id = p_id AND p.id = g.value ->> 0
    WHERE p.doc IS DISTINCT FROM g.value ->> 1 HAVING count(*) > 0;
    PERFORM @wfe_insert_pointers(p_id, json_agg(json_build_array(g.n - 1, g.value ->> 0, g.value ->> 1))::text)
    FROM json_array_elements(p_pointers::json) WITH ORDINALITY AS g (value, n)
    WHERE NOT EXISTS (SELECT 1 FROM @execution_pointers p WHERE p.workflow_id = p_id AND p.id = g.value ->> 0) HAVING count(*) > 0;
    -- One that was ended beside the claim waits for nothing any more.
    IF p_subscriptions IS NOT NULL AND NOT (kept AND final_status IN ('Complete', 'Terminated')) THEN
        PERFORM @wfe_subscribe(p_subscriptions);
    END IF;
    PERFORM @wfe_written(p_id, CASE WHEN p_release THEN NULL ELSE w.next_execution END, p_due, final_status, final_status <> w.status,
        p_release OR w.claim_until IS NULL, p_now);
    RETURN QUERY SELECT w.seq, w.revision + p_stride, w.control, final_status, @wfe_micros(ended);
END $$;

CREATE FUNCTION @wfe_change_status(p_id TEXT, p_to TEXT, p_only_from TEXT, p_final BOOLEAN, p_now BIGINT) RETURNS BOOLEAN
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE @workflows SET status = p_to, control = control + 1, complete_time = CASE WHEN p_final THEN @wfe_now(p_now) END
    WHERE id = p_id AND (p_only_from IS NULL OR status IN (SELECT json_array_elements_text(p_only_from::json)));
    IF FOUND THEN
        PERFORM @wfe_wake();
        RETURN TRUE;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM @workflows WHERE id = p_id) THEN
        PERFORM @wfe_refuse('WFNF1', p_id);
    END IF;
    RETURN FALSE;
END $$;

CREATE FUNCTION @wfe_delete(p_ids TEXT[]) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE gone BIGINT;
BEGIN
    PERFORM 1 FROM @workflows WHERE id = ANY (p_ids) ORDER BY seq FOR UPDATE;
    DELETE FROM @event_subscriptions WHERE workflow_id = ANY (p_ids);
    DELETE FROM @execution_errors WHERE workflow_id = ANY (p_ids);
    DELETE FROM @scheduled_commands WHERE command_name = 'ProcessWorkflow' AND data = ANY (p_ids);
    DELETE FROM @execution_pointers WHERE workflow_id = ANY (p_ids);
    DELETE FROM @workflows WHERE id = ANY (p_ids);
    GET DIAGNOSTICS gone = ROW_COUNT;
    IF gone > 0 THEN
        PERFORM @wfe_wake();
    END IF;
    RETURN gone;
END $$;

CREATE FUNCTION @wfe_purge(p_statuses TEXT, p_cutoff BIGINT, p_limit INT) RETURNS BIGINT LANGUAGE sql VOLATILE AS $$
    SELECT @wfe_delete(ARRAY(SELECT e.id FROM json_array_elements_text(p_statuses::json) AS s (status)
        CROSS JOIN LATERAL (SELECT w.id, w.complete_time FROM @workflows w
            WHERE w.status = s.status AND w.complete_time IS NOT NULL AND w.complete_time < @wfe_moment(p_cutoff)
            ORDER BY w.complete_time, w.id COLLATE "C" LIMIT p_limit) AS e
        ORDER BY e.complete_time, e.id COLLATE "C" LIMIT p_limit))
$$;

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
        RETURN FALSE;
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

-- When there will be something to do, in microseconds (a number of any size: next_execution may lie anywhere), and now.
CREATE FUNCTION @wfe_next_due(p_pairs TEXT, p_now BIGINT) RETURNS TABLE (due NUMERIC, now BIGINT) LANGUAGE plpgsql STABLE AS $$
DECLARE
    r RECORD;
    d JSON;
    free BIGINT;
    earliest NUMERIC;
BEGIN
    SELECT @wfe_micros(coalesce(due_at, event_time)) INTO earliest FROM @events
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
    RETURN QUERY SELECT earliest, @wfe_micros(@wfe_now(p_now));
END $$;

-- ---- events ----------------------------------------------------------------------------------------------------------------

-- What the delivery of an event does to a pointer. Without an id it comes from an activity.
CREATE FUNCTION @wfe_receive(p_workflow TEXT, p_pointer TEXT, p_id TEXT, p_time TIMESTAMPTZ, p_data JSONB) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    j JSONB;
    place BIGINT;
BEGIN
    SELECT coalesce(p.doc, @wfe_doc(p))::jsonb, p.position INTO j, place FROM @execution_pointers p
    WHERE p.workflow_id = p_workflow AND p.id = p_pointer;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    j := j || jsonb_build_object('event_data', p_data, 'event_published', TRUE, 'active', TRUE);
    IF p_id IS NOT NULL THEN
        -- By this an engine knows which events of the key lie behind the one that this wait got.
        j := j || jsonb_build_object('extension_attributes', coalesce(j -> 'extension_attributes', '{}')
            || jsonb_build_object('wfe.event', jsonb_build_object('id', p_id, 'time', @wfe_micros(p_time))));
    END IF;
    PERFORM @wfe_update_pointers(p_workflow, json_build_array(json_build_array(place, j::text))::text);
END $$;

-- Give an event to one subscription whose workflow's row is locked. True = nothing is left to be done for it.
CREATE FUNCTION @wfe_hand_over(s @event_subscriptions, p_status TEXT, p_claimed BOOLEAN, p_id TEXT, p_time TIMESTAMPTZ, p_data JSONB,
    p_now BIGINT) RETURNS void LANGUAGE plpgsql AS $$
DECLARE moment BIGINT := @wfe_millis(@wfe_now(p_now));
BEGIN
    IF p_claimed AND p_status NOT IN ('Complete', 'Terminated') THEN
        -- Its holder works on a copy and would write over what we change; so it takes the event itself. Should the holder be dead, the
        -- workflow must be due for the next one.
        UPDATE @event_subscriptions SET pending_event_id = p_id, pending_event_time = p_time, pending_event_data = p_data
        WHERE id = s.id;
        UPDATE @workflows SET next_execution = least(coalesce(next_execution, moment), moment) WHERE id = s.workflow_id;
        RETURN;
    END IF;
    DELETE FROM @event_subscriptions WHERE id = s.id;
    IF p_status IS NULL OR p_status IN ('Complete', 'Terminated') THEN
        RETURN;
    END IF;
    PERFORM @wfe_receive(s.workflow_id, s.execution_pointer_id, p_id, p_time, p_data);
    UPDATE @workflows SET revision = revision + 1, next_execution = least(coalesce(next_execution, moment), moment)
    WHERE id = s.workflow_id;
END $$;

-- Deliver a stored event, whose key is locked, to at most `p_limit` subscriptions. `finished` = none is left, so it is processed now;
-- `busy` = somebody holds one of them, or its workflow, at the moment.
CREATE FUNCTION @wfe_deliver(e @events, p_limit INT, p_now BIGINT, OUT delivered INT, OUT finished BOOLEAN, OUT busy BOOLEAN)
LANGUAGE plpgsql AS $$
DECLARE
    s @event_subscriptions;
    w RECORD;
BEGIN
    delivered := 0;
    -- Of what is left for a claim holder the oldest counts, also where it was published last.
    UPDATE @event_subscriptions SET pending_event_id = e.id, pending_event_time = e.event_time, pending_event_data = e.event_data
    WHERE id = ANY (ARRAY(SELECT o.id FROM @event_subscriptions o WHERE o.event_name = e.event_name AND o.event_key = e.event_key
        AND o.subscribe_as_of <= e.event_time AND o.pending_event_time > e.event_time AND o.pending_event_id IS NOT NULL
        FOR UPDATE SKIP LOCKED));
    FOR s IN SELECT * FROM @event_subscriptions o WHERE o.pending_event_time IS NULL AND o.event_name = e.event_name
        AND o.event_key = e.event_key AND o.subscribe_as_of <= e.event_time
        ORDER BY o.subscribe_as_of, o.seq LIMIT p_limit FOR UPDATE SKIP LOCKED
    LOOP
        SELECT status, claim_until IS NOT NULL AS claimed INTO w FROM @workflows WHERE id = s.workflow_id FOR NO KEY UPDATE SKIP LOCKED;
        IF NOT FOUND AND EXISTS (SELECT 1 FROM @workflows WHERE id = s.workflow_id) THEN
            CONTINUE;
        END IF;
        PERFORM @wfe_hand_over(s, w.status, w.claimed, e.id, e.event_time, e.event_data, p_now);
        delivered := delivered + 1;
    END LOOP;
    finished := NOT EXISTS (SELECT 1 FROM @event_subscriptions o WHERE o.pending_event_time IS NULL AND o.event_name = e.event_name
            AND o.event_key = e.event_key AND o.subscribe_as_of <= e.event_time)
        AND NOT EXISTS (SELECT 1 FROM @event_subscriptions o WHERE o.event_name = e.event_name AND o.event_key = e.event_key
            AND o.subscribe_as_of <= e.event_time AND o.pending_event_time > e.event_time AND o.pending_event_id IS NOT NULL);
    busy := NOT finished AND delivered < p_limit;
    IF finished THEN
        UPDATE @events SET is_processed = TRUE WHERE id = e.id;
    END IF;
END $$;

-- Store an event that is not there yet, and deliver it and what came before under its name and key. True = a delivery was held up.
CREATE FUNCTION @wfe_publish(p_id TEXT, p_name TEXT, p_key TEXT, p_data TEXT, p_time BIGINT, p_limit INT, p_now BIGINT) RETURNS BOOLEAN
LANGUAGE plpgsql AS $$
DECLARE
    moment TIMESTAMPTZ;
    e @events;
    d RECORD;
    room INT := p_limit;
BEGIN
    PERFORM pg_advisory_xact_lock(@wfe_key(p_name, p_key));
    moment := @wfe_now(p_now);
    INSERT INTO @events (id, event_name, event_key, event_data, event_time, due_at, is_processed)
    VALUES (p_id, p_name, p_key, p_data::jsonb, @wfe_moment(p_time), least(@wfe_moment(p_time), moment), FALSE) ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN FALSE;
    END IF;
    PERFORM @wfe_wake();
    FOR e IN SELECT * FROM @events x WHERE x.is_processed IS NOT TRUE AND x.event_name = p_name AND x.event_key = p_key
        AND coalesce(x.due_at, x.event_time) <= moment ORDER BY x.event_time, x.seq LIMIT 100
    LOOP
        d := @wfe_deliver(e, greatest(room, 0), p_now);
        room := room - d.delivered;
        IF NOT d.finished THEN
            RETURN d.busy;  -- a later event must not overtake this one
        END IF;
    END LOOP;
    RETURN FALSE;
END $$;

-- Deliver what is due. A key that somebody else works on is left to them.
CREATE FUNCTION @wfe_dispatch(p_limit INT, p_now BIGINT) RETURNS INT LANGUAGE plpgsql AS $$
DECLARE
    c RECORD;
    e @events;
    d RECORD;
    passed BIGINT[] := '{}';
    done INT := 0;
    -- Not in the query, where a moment that may change with every row cannot bound the walk along the index.
    moment TIMESTAMPTZ := @wfe_now(p_now);
BEGIN
    FOR c IN SELECT x.id, @wfe_key(x.event_name, x.event_key) AS key FROM @events x
        WHERE x.is_processed IS NOT TRUE AND coalesce(x.due_at, x.event_time) <= moment
        ORDER BY coalesce(x.due_at, x.event_time), x.seq LIMIT p_limit
    LOOP
        EXIT WHEN done >= p_limit;
        CONTINUE WHEN c.key = ANY (passed);
        IF NOT pg_try_advisory_xact_lock(c.key) THEN
            passed := passed || c.key;
            CONTINUE;
        END IF;
        SELECT * INTO e FROM @events x WHERE x.id = c.id AND x.is_processed IS NOT TRUE;
        CONTINUE WHEN NOT FOUND;
        d := @wfe_deliver(e, p_limit - done, p_now);
        done := done + d.delivered + d.finished::int;
        IF NOT d.finished THEN
            passed := passed || c.key;
        END IF;
    END LOOP;
    IF done > 0 THEN
        PERFORM @wfe_wake();
    END IF;
    RETURN done;
END $$;

CREATE FUNCTION @wfe_create_event(p_id TEXT, p_name TEXT, p_key TEXT, p_data TEXT, p_time BIGINT, p_processed BOOLEAN) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(@wfe_key(p_name, p_key));
    INSERT INTO @events (id, event_name, event_key, event_data, event_time, is_processed)
    VALUES (p_id, p_name, p_key, p_data::jsonb, @wfe_moment(p_time), p_processed);
    PERFORM @wfe_wake();
END $$;

-- For a caller's transaction, which may store a subscription where there is no event: nobody publishes meanwhile.
CREATE FUNCTION @wfe_events_since(p_name TEXT, p_key TEXT, p_start BIGINT, p_after TEXT, p_limit INT, p_lock BOOLEAN)
RETURNS TABLE (id TEXT, event_name TEXT, event_key TEXT, event_data TEXT, event_time BIGINT, is_processed BOOLEAN)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    start TIMESTAMPTZ := @wfe_moment(p_start);
    after_time TIMESTAMPTZ;
    after_seq BIGINT;
BEGIN
    IF p_lock THEN
        PERFORM pg_advisory_xact_lock_shared(@wfe_key(p_name, p_key));
    END IF;
    -- An event that is gone (purged) leaves its moment: what lies at the start or later is then all there is to say.
    SELECT x.event_time, x.seq INTO after_time, after_seq FROM @events x WHERE x.id = p_after;
    IF after_time IS NULL OR after_time < start THEN
        after_time := start;
        after_seq := -1;
    END IF;
    RETURN QUERY SELECT x.id, x.event_name, x.event_key, x.event_data::text, @wfe_micros(x.event_time), coalesce(x.is_processed, FALSE)
    FROM @events x WHERE x.event_name = p_name AND x.event_key = p_key AND (x.event_time, x.seq) > (after_time, after_seq)
    ORDER BY x.event_time, x.seq LIMIT nullif(p_limit, -1);
END $$;

CREATE FUNCTION @wfe_take(p_id TEXT, p_fence BIGINT) RETURNS TABLE (seq BIGINT, id TEXT, execution_pointer_id TEXT, event_name TEXT,
    event_key TEXT, pending_event_id TEXT, pending_event_time BIGINT, pending_event_data TEXT) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE w RECORD;
BEGIN
    SELECT x.claim_fence INTO w FROM @workflows x WHERE x.id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @wfe_refuse('WFNF1', p_id);
    ELSIF p_fence IS NOT NULL AND w.claim_fence <> p_fence THEN
        PERFORM @wfe_refuse('WFCL1', p_id);
    END IF;
    RETURN QUERY DELETE FROM @event_subscriptions s WHERE s.workflow_id = p_id AND s.pending_event_time IS NOT NULL
    RETURNING s.seq, s.id, s.execution_pointer_id, s.event_name, s.event_key, s.pending_event_id, @wfe_micros(s.pending_event_time),
        s.pending_event_data::text;
END $$;

-- ---- subscriptions, commands -----------------------------------------------------------------------------------------------

CREATE FUNCTION @wfe_set_token(p_id TEXT, p_token TEXT, p_worker TEXT, p_expiry BIGINT, p_now BIGINT) RETURNS BOOLEAN
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE @event_subscriptions SET external_token = p_token, external_worker_id = p_worker, external_token_expiry = @wfe_moment(p_expiry)
    WHERE id = p_id AND pending_event_time IS NULL AND (external_token IS NULL OR external_token_expiry <= @wfe_now(p_now));
    IF FOUND THEN
        RETURN TRUE;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM @event_subscriptions WHERE id = p_id) THEN
        PERFORM @wfe_refuse('WFNF2', p_id);
    END IF;
    RETURN FALSE;
END $$;

CREATE FUNCTION @wfe_complete(p_id TEXT, p_token TEXT, p_data TEXT, p_now BIGINT) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    s @event_subscriptions;
    w RECORD;
BEGIN
    SELECT * INTO s FROM @event_subscriptions x WHERE x.id = p_id;
    -- The workflow before the subscription, as everybody who waits for both.
    SELECT status, claim_until IS NOT NULL AS claimed INTO w FROM @workflows WHERE id = s.workflow_id FOR NO KEY UPDATE;
    SELECT * INTO s FROM @event_subscriptions x WHERE x.id = p_id AND x.external_token = p_token AND x.pending_event_time IS NULL FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM @wfe_refuse('WFNF2', p_id);
    END IF;
    PERFORM @wfe_hand_over(s, w.status, w.claimed, NULL, @wfe_now(p_now), p_data::jsonb, p_now);
    PERFORM @wfe_wake();
END $$;

-- An upsert draws a number from the sequence each time, and the column of wfe-postgres has only 2^31 of them: so first the update.
CREATE FUNCTION @wfe_schedule(p_name TEXT, p_data TEXT, p_time BIGINT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE @scheduled_commands SET execute_time = p_time, revision = revision + 1 WHERE command_name = p_name AND data = p_data;
    IF NOT FOUND THEN
        INSERT INTO @scheduled_commands (command_name, data, execute_time) VALUES (p_name, p_data, p_time)
        ON CONFLICT (command_name, data) DO UPDATE SET execute_time = excluded.execute_time, revision = @scheduled_commands.revision + 1;
    END IF;
    PERFORM @wfe_wake();
END $$;

CREATE FUNCTION @wfe_finish_command(p_id BIGINT, p_revision BIGINT, p_until BIGINT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM @scheduled_commands WHERE id = p_id AND revision = p_revision AND lease_until = @wfe_moment(p_until);
    IF NOT FOUND THEN
        UPDATE @scheduled_commands SET lease_until = NULL WHERE id = p_id AND lease_until = @wfe_moment(p_until);
        PERFORM @wfe_wake();
    END IF;
END $$;
