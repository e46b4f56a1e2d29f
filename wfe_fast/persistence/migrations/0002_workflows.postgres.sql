-- The operations that read and then write, one function each: so each is one call, one round trip, one transaction. In a function every
-- statement sees what was committed before it began (READ COMMITTED), also behind a lock for which it has just waited; in a single
-- statement it would still see the moment at which the statement began.
-- Times come and go as microseconds since the epoch; `p_now` is null where the server's clock decides. Lists come as JSON text.
--
-- Who locks what, so that nobody waits in a circle: keys of events first, in the order of their numbers; then rows of workflows in the order
-- of seq; then subscriptions in the order of theirs; then events and commands. A delivery reaches many workflows in no order, so it never waits for a row: what another transaction
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

-- Whoever looks for events and then stores a subscription, and whoever publishes, one after the other. To be called before any row is locked.
CREATE FUNCTION @wfe_lock_keys(p_subscriptions TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(k) FROM (SELECT DISTINCT @wfe_key(r.value ->> 4, r.value ->> 5) AS k
        FROM json_array_elements(p_subscriptions::json) AS r (value) ORDER BY 1) AS keys;
END $$;

-- Behind the locks of the keys. Each row: [id, workflow_id, step_id, pointer_id, name, key, as_of, data, token, worker_id, expiry].
CREATE FUNCTION @wfe_subscribe(p_rows TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
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
DECLARE locked BIGINT[];
BEGIN
    -- Those and no others: one that was deleted while we waited for it, and made again, is another row.
    locked := ARRAY(SELECT w.seq FROM @workflows w WHERE w.id = ANY (p_ids) ORDER BY w.seq FOR NO KEY UPDATE);
    RETURN QUERY SELECT i.* FROM @wfe_instances(ARRAY(SELECT w.seq FROM unnest(p_ids) WITH ORDINALITY AS wanted (id, n)
        JOIN @workflows w ON w.id = wanted.id WHERE w.seq = ANY (locked) ORDER BY n)) AS i;
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
CREATE FUNCTION @wfe_persist(p_id TEXT, p_seq BIGINT, p_revision BIGINT, p_doubts BIGINT[], p_control BIGINT, p_fence BIGINT,
    p_release BOOLEAN, p_expect BOOLEAN, p_next BIGINT, p_due BIGINT, p_data TEXT, p_row TEXT, p_deletes TEXT, p_updates TEXT,
    p_inserts TEXT, p_subscriptions TEXT, p_now BIGINT) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    w RECORD;
    r JSON;
BEGIN
    IF p_subscriptions IS NOT NULL THEN
        PERFORM @wfe_lock_keys(p_subscriptions);
    END IF;
    SELECT seq, revision, control, claim_fence, claim_until, status, next_execution INTO w
    FROM @workflows WHERE id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @wfe_refuse('WFNF1', p_id);
    ELSIF p_fence IS NOT NULL AND (w.seq <> p_seq OR w.claim_fence <> p_fence) THEN
        PERFORM @wfe_refuse('WFCL1', p_id);
    ELSIF p_expect AND (w.seq <> p_seq OR (w.revision <> p_revision AND (w.revision = ANY (p_doubts)) IS NOT TRUE)
            OR (w.control <> p_control AND p_fence IS NULL)) THEN
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
CREATE FUNCTION @wfe_overwrite(p_id TEXT, p_seq BIGINT, p_revision BIGINT, p_doubts BIGINT[], p_control BIGINT, p_fence BIGINT,
    p_known_status TEXT, p_release BOOLEAN, p_expect BOOLEAN, p_next BIGINT, p_stride BIGINT, p_due BIGINT, p_data TEXT, p_row TEXT,
    p_pointers TEXT, p_subscriptions TEXT, p_now BIGINT)
RETURNS TABLE (seq BIGINT, revision BIGINT, control BIGINT, status TEXT, complete_time BIGINT) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    w RECORD;
    r JSON := p_row::json;
    kept BOOLEAN;
    final_revision BIGINT;
    final_status TEXT;
    ended TIMESTAMPTZ;
BEGIN
    IF p_subscriptions IS NOT NULL THEN
        PERFORM @wfe_lock_keys(p_subscriptions);
    END IF;
    SELECT x.seq, x.revision, x.control, x.claim_fence, x.claim_until, x.status, x.complete_time, x.next_execution INTO w
    FROM @workflows x WHERE x.id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @wfe_refuse('WFNF1', p_id);
    ELSIF p_fence IS NOT NULL AND (w.seq <> p_seq OR w.claim_fence <> p_fence) THEN
        PERFORM @wfe_refuse('WFCL1', p_id);
    ELSIF p_expect AND (w.seq <> p_seq OR (w.revision <> p_revision AND (w.revision = ANY (p_doubts)) IS NOT TRUE)
            OR (w.control <> p_control AND p_fence IS NULL)) THEN
        PERFORM @wfe_refuse('WFCU1', p_id);
    END IF;
    p_release := p_release AND p_fence IS NOT NULL;
    -- The number that the caller knows beforehand, or one that no other writer can have counted on.
    IF w.seq = p_seq AND (w.revision = p_revision OR w.revision = ANY (p_doubts)) THEN
        final_revision := p_next;
    ELSE
        final_revision := w.revision + p_stride;
    END IF;
    -- An attempt of the caller's of which he has never heard was stored: then some of the subscriptions are there already.
    IF w.seq = p_seq AND w.revision = ANY (p_doubts) THEN
        p_subscriptions := (SELECT json_agg(r.value ORDER BY r.n) FROM json_array_elements(p_subscriptions::json) WITH ORDINALITY AS r (value, n)
            WHERE NOT EXISTS (SELECT 1 FROM @event_subscriptions s WHERE s.id = r.value ->> 0 AND s.workflow_id = r.value ->> 1));
    END IF;
    -- Set beside the claim, by change_status: it stays, and the holder learns of it.
    kept := p_fence IS NOT NULL AND w.control <> p_control AND w.status <> p_known_status;
    final_status := CASE WHEN kept THEN w.status ELSE r ->> 0 END;
    ended := CASE WHEN kept THEN w.complete_time ELSE @wfe_moment((r ->> 1)::bigint) END;
    UPDATE @workflows x SET next_execution = p_due, data = p_data::jsonb, revision = final_revision, claims_without_commit = 0,
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
    RETURN QUERY SELECT w.seq, final_revision, w.control, final_status, @wfe_micros(ended);
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
DECLARE
    found TEXT[];
    gone BIGINT;
BEGIN
    -- One that was deleted while we waited for it may have been made again: that is another row, and to be locked, too.
    LOOP
        found := ARRAY(SELECT id FROM @workflows WHERE id = ANY (p_ids) ORDER BY seq FOR UPDATE);
        EXIT WHEN NOT EXISTS (SELECT 1 FROM @workflows WHERE id = ANY (p_ids) AND id <> ALL (found));
    END LOOP;
    p_ids := found;
    PERFORM 1 FROM @event_subscriptions WHERE workflow_id = ANY (p_ids) ORDER BY seq FOR UPDATE;
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
