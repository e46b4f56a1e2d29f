-- Events and their delivery, subscriptions, commands.

-- ---- events ----------------------------------------------------------------------------------------------------------------

-- `p_all` with further or other fields; what it has besides stays letter by letter. Through JSONB 1e23 would become
-- 100000000000000000000000, which is another number than the float.
CREATE FUNCTION @wfe_with(p_all JSON, p_more JSON) RETURNS JSON LANGUAGE sql IMMUTABLE AS $$
    SELECT json_object_agg(f.key, f.value) FROM (
        SELECT e.key, e.value FROM json_each(p_all) AS e WHERE e.key NOT IN (SELECT json_object_keys(p_more))
        UNION ALL SELECT e.key, e.value FROM json_each(p_more) AS e) AS f
$$;

-- What the delivery of an event does to a pointer. Without an id it comes from an activity.
CREATE FUNCTION @wfe_receive(p_workflow TEXT, p_pointer TEXT, p_id TEXT, p_time TIMESTAMPTZ, p_data JSONB) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    j JSON;
    place BIGINT;
BEGIN
    SELECT coalesce(p.doc, @wfe_doc(p))::json, p.position INTO j, place FROM @execution_pointers p
    WHERE p.workflow_id = p_workflow AND p.id = p_pointer;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    j := @wfe_with(j, json_build_object('event_data', p_data, 'event_published', TRUE, 'active', TRUE));
    IF p_id IS NOT NULL THEN
        -- By this an engine knows which events of the key lie behind the one that this wait got.
        j := @wfe_with(j, json_build_object('extension_attributes', @wfe_with(coalesce(j -> 'extension_attributes', '{}'),
            json_build_object('wfe.event', json_build_object('id', p_id, 'time', @wfe_micros(p_time))))));
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
    -- First the row of the workflow, then the subscription: so whoever has locked a workflow waits for no delivery when it takes or drops its
    -- subscriptions. Of what is left for a claim holder the oldest counts, also where it was published last.
    FOR s IN SELECT * FROM @event_subscriptions o WHERE o.event_name = e.event_name AND o.event_key = e.event_key
        AND o.subscribe_as_of <= e.event_time AND o.pending_event_time > e.event_time AND o.pending_event_id IS NOT NULL
    LOOP
        PERFORM 1 FROM @workflows WHERE id = s.workflow_id FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND AND EXISTS (SELECT 1 FROM @workflows WHERE id = s.workflow_id);
        UPDATE @event_subscriptions SET pending_event_id = e.id, pending_event_time = e.event_time, pending_event_data = e.event_data
        WHERE id = (SELECT o.id FROM @event_subscriptions o WHERE o.id = s.id AND o.pending_event_time > e.event_time
            AND o.pending_event_id IS NOT NULL FOR UPDATE SKIP LOCKED);
    END LOOP;
    -- Some more than are wanted, since some may be locked.
    FOR s IN SELECT * FROM @event_subscriptions o WHERE o.pending_event_time IS NULL AND o.event_name = e.event_name
        AND o.event_key = e.event_key AND o.subscribe_as_of <= e.event_time
        ORDER BY o.subscribe_as_of, o.seq LIMIT p_limit::bigint + 100
    LOOP
        EXIT WHEN delivered >= p_limit;
        SELECT status, claim_until IS NOT NULL AS claimed INTO w FROM @workflows WHERE id = s.workflow_id FOR NO KEY UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND AND EXISTS (SELECT 1 FROM @workflows WHERE id = s.workflow_id);
        -- As it is now: somebody may have taken it meanwhile, or dropped it.
        PERFORM 1 FROM @event_subscriptions o WHERE o.id = s.id AND o.pending_event_time IS NULL FOR UPDATE SKIP LOCKED;
        CONTINUE WHEN NOT FOUND;
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

-- Deliver what is due. A key that somebody else works on is left to them. `held_up` = something was left because another transaction holds
-- its key or a row.
CREATE FUNCTION @wfe_dispatch(p_limit INT, p_now BIGINT, OUT done INT, OUT held_up BOOLEAN) LANGUAGE plpgsql AS $$
DECLARE
    c RECORD;
    e @events;
    d RECORD;
    passed BIGINT[] := '{}';
    -- Not in the query, where a moment that may change with every row cannot bound the walk along the index.
    moment TIMESTAMPTZ := @wfe_now(p_now);
BEGIN
    done := 0;
    held_up := FALSE;
    FOR c IN SELECT x.id, @wfe_key(x.event_name, x.event_key) AS key FROM @events x
        WHERE x.is_processed IS NOT TRUE AND coalesce(x.due_at, x.event_time) <= moment
        ORDER BY coalesce(x.due_at, x.event_time), x.seq LIMIT p_limit
    LOOP
        EXIT WHEN done >= p_limit;
        CONTINUE WHEN c.key = ANY (passed);
        IF NOT pg_try_advisory_xact_lock(c.key) THEN
            passed := passed || c.key;
            held_up := TRUE;
            CONTINUE;
        END IF;
        SELECT * INTO e FROM @events x WHERE x.id = c.id AND x.is_processed IS NOT TRUE;
        CONTINUE WHEN NOT FOUND;
        d := @wfe_deliver(e, p_limit - done, p_now);
        done := done + d.delivered + d.finished::int;
        IF NOT d.finished THEN
            passed := passed || c.key;
            held_up := held_up OR d.busy;
        END IF;
    END LOOP;
    IF done > 0 THEN
        PERFORM @wfe_wake();
    END IF;
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
    PERFORM 1 FROM @event_subscriptions s WHERE s.workflow_id = p_id AND s.pending_event_time IS NOT NULL ORDER BY s.seq FOR UPDATE;
    RETURN QUERY DELETE FROM @event_subscriptions s WHERE s.workflow_id = p_id AND s.pending_event_time IS NOT NULL
    RETURNING s.seq, s.id, s.execution_pointer_id, s.event_name, s.event_key, s.pending_event_id, @wfe_micros(s.pending_event_time),
        s.pending_event_data::text;
END $$;

-- ---- subscriptions, commands -----------------------------------------------------------------------------------------------

CREATE FUNCTION @wfe_create_subscription(p_row TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM @wfe_lock_keys(p_row);
    PERFORM @wfe_subscribe(p_row);
END $$;

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
