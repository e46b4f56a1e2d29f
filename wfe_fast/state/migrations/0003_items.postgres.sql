-- Executions and work items: how they begin, how items are claimed, and every way in which a lease ends.

-- ---- executions ------------------------------------------------------------------------------------------------------------

-- [id, workflow, version, status, input, state, started, updated, completed, session, parent, segment]; its number.
CREATE FUNCTION @state_add_execution(p_tenant TEXT, p_row TEXT, p_moment TIMESTAMPTZ) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE
    r JSON := p_row::json;
    most BIGINT := (@state_admit(p_tenant, p_moment) ->> 'max_concurrent_executions')::bigint;
    made BIGINT;
BEGIN
    IF most IS NOT NULL THEN
        PERFORM @state_lock_limits(p_tenant);
        -- Never counts further than the limit.
        IF (SELECT count(*) FROM (SELECT 1 FROM @state_executions WHERE tenant_id = p_tenant
            AND status IN ('pending', 'running', 'paused') LIMIT most) AS c) >= most THEN
            PERFORM @state_refuse('WSTL1', p_tenant, 'max_concurrent_executions', most::text);
        END IF;
    END IF;
    INSERT INTO @state_executions (tenant_id, id, workflow_id, workflow_version, status, initial_input, current_state, started_at, updated_at,
        completed_at, session_type, parent_execution_id, segment_number)
    VALUES (p_tenant, (r ->> 0)::uuid, r ->> 1, r ->> 2, r ->> 3, r ->> 4, r ->> 5, @state_moment((r ->> 6)::bigint),
        @state_moment((r ->> 7)::bigint), @state_moment((r ->> 8)::bigint), r ->> 9, (r ->> 10)::uuid, (r ->> 11)::bigint)
    RETURNING seq INTO made;
    INSERT INTO @state_logs (execution, tenant_id) VALUES (made, p_tenant);
    RETURN made;
END $$;

CREATE FUNCTION @state_create_execution(p_tenant TEXT, p_row TEXT, p_now BIGINT) RETURNS void LANGUAGE sql VOLATILE
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
    SELECT @state_add_execution(p_tenant, p_row, @state_now(p_now))
$$;

-- Let an execution whose row is locked have another status. Cancelled, it has no live items: one that is claimed or added meanwhile stands behind
-- the lock of the execution or of the item, and so is seen here.
CREATE FUNCTION @state_set_status(p_seq BIGINT, p_to TEXT, p_final BOOLEAN, p_moment TIMESTAMPTZ) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE @state_executions SET status = p_to, updated_at = p_moment, completed_at = CASE WHEN p_final THEN p_moment ELSE completed_at END
    WHERE seq = p_seq;
    IF p_to = 'cancelled' THEN
        UPDATE @state_items SET status = 'cancelled', settled_at = p_moment, lease_until = NULL, fence = 0, epoch = epoch + 1
        WHERE execution = p_seq AND settled_at IS NULL;
    END IF;
END $$;

-- `p_from` = the statuses that lead to the wanted one.
CREATE FUNCTION @state_change_status(p_id UUID, p_tenant TEXT, p_to TEXT, p_from TEXT, p_final BOOLEAN, p_now BIGINT) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE x RECORD;
BEGIN
    SELECT seq, status INTO x FROM @state_executions WHERE id = p_id AND (p_tenant IS NULL OR tenant_id = p_tenant) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF1', p_id::text);
    ELSIF x.status = p_to THEN
        RETURN;
    ELSIF x.status NOT IN (SELECT json_array_elements_text(p_from::json)) THEN
        PERFORM @state_refuse('WSIT1', p_id::text, x.status, p_to);
    END IF;
    PERFORM @state_set_status(x.seq, p_to, p_final, @state_now(p_now));
END $$;

CREATE FUNCTION @state_patch_append(p_id UUID, p_tenant TEXT, p_key TEXT, p_value TEXT, p_now BIGINT) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    x RECORD;
    state JSON;
    there TEXT;
BEGIN
    SELECT seq, current_state INTO x FROM @state_executions
    WHERE id = p_id AND (p_tenant IS NULL OR tenant_id = p_tenant) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF1', p_id::text);
    END IF;
    state := x.current_state::json;
    IF json_typeof(state) <> 'object' THEN
        PERFORM @state_refuse('WSIV1', 'current_state', 'must be an object where something is appended in it', json_typeof(state));
    ELSIF json_typeof(state -> p_key) <> 'array' THEN
        PERFORM @state_refuse('WSIV1', 'key', 'names something in the state that is not an array', p_key);
    END IF;
    there := rtrim(coalesce((state -> p_key)::text, '[]'), E' \n\t\r');
    there := left(there, -1) || CASE WHEN there ~ '^\[\s*\]$' THEN '' ELSE ',' END || p_value || ']';
    UPDATE @state_executions SET updated_at = @state_now(p_now), current_state = (SELECT json_object_agg(n.key, n.value)::text FROM (
        SELECT k.key, k.value FROM json_each(state) AS k WHERE k.key <> p_key UNION ALL SELECT p_key, there::json) AS n)
    WHERE seq = x.seq;
END $$;

-- ---- queues ----------------------------------------------------------------------------------------------------------------

-- [id, node, queue, payload, attempt, most, created, priority, run_at], for an execution whose row nobody can end meanwhile.
CREATE FUNCTION @state_add_item(p_execution BIGINT, p_tenant TEXT, p_execution_id UUID, p_status TEXT, p_row TEXT, p_moment TIMESTAMPTZ)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    r JSON := p_row::json;
    -- A time of creation that lies ahead (another machine's clock) must not hold the item back.
    since TIMESTAMPTZ := least(@state_moment((r ->> 6)::bigint), p_moment);
    run_at TIMESTAMPTZ := @state_moment((r ->> 8)::bigint);
BEGIN
    IF p_status IN ('completed', 'failed', 'cancelled', 'limit_exceeded') THEN
        PERFORM @state_refuse('WSEE1', p_execution_id::text, p_status);
    END IF;
    INSERT INTO @state_items (id, tenant_id, execution, node_id, queue_type, status, payload, attempt, max_attempts, created_at, priority,
        run_at, available_at)
    VALUES ((r ->> 0)::uuid, p_tenant, p_execution, r ->> 1, r ->> 2, 'pending', r ->> 3, (r ->> 4)::int, (r ->> 5)::int,
        @state_moment((r ->> 6)::bigint), (r ->> 7)::int, run_at, greatest(run_at, since));
END $$;

CREATE FUNCTION @state_enqueue(p_execution_id UUID, p_tenant TEXT, p_row TEXT, p_now BIGINT) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    x RECORD;
    moment TIMESTAMPTZ;
BEGIN
    SELECT seq, tenant_id, status INTO x FROM @state_executions
    WHERE id = p_execution_id AND (p_tenant IS NULL OR tenant_id = p_tenant) FOR SHARE;
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF1', p_execution_id::text);
    END IF;
    moment := @state_now(p_now);
    PERFORM @state_admit(x.tenant_id, moment);
    PERFORM @state_add_item(x.seq, x.tenant_id, p_execution_id, x.status, p_row, moment);
END $$;

-- What a queue has to offer, without a lock: level by level from the highest priority down. On each level the index begins with the item that has
-- waited longest, and what is not due yet stands behind; so the cost is that of the levels and of the items returned.
CREATE FUNCTION @state_ready(p_queue TEXT, p_tenant TEXT, p_passed UUID[], p_limit INT, p_moment TIMESTAMPTZ)
RETURNS TABLE (id UUID, priority INT, available_at TIMESTAMPTZ, seq BIGINT) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    level BIGINT := 2147483648;
    found_now INT;
    room INT := p_limit;
BEGIN
    LOOP
        IF p_tenant IS NULL THEN
            level := (SELECT i.priority FROM @state_items i WHERE i.status = 'pending' AND i.queue_type = p_queue AND i.priority < level
                ORDER BY i.priority DESC LIMIT 1);
            EXIT WHEN level IS NULL;
            RETURN QUERY SELECT i.id, i.priority, i.available_at, i.seq FROM @state_items i
            WHERE i.status = 'pending' AND i.queue_type = p_queue AND i.priority = level AND i.available_at <= p_moment
                AND i.id <> ALL (p_passed) ORDER BY i.available_at, i.seq LIMIT room;
        ELSE
            level := (SELECT i.priority FROM @state_items i WHERE i.status = 'pending' AND i.tenant_id = p_tenant AND i.queue_type = p_queue
                AND i.priority < level ORDER BY i.priority DESC LIMIT 1);
            EXIT WHEN level IS NULL;
            RETURN QUERY SELECT i.id, i.priority, i.available_at, i.seq FROM @state_items i
            WHERE i.status = 'pending' AND i.tenant_id = p_tenant AND i.queue_type = p_queue AND i.priority = level
                AND i.available_at <= p_moment AND i.id <> ALL (p_passed) ORDER BY i.available_at, i.seq LIMIT room;
        END IF;
        GET DIAGNOSTICS found_now = ROW_COUNT;
        room := room - found_now;
        EXIT WHEN room = 0;
    END LOOP;
END $$;

-- The one rule for a lease that ends without a result, whoever notices: one attempt more, then back-off or dead letter, and the events that say
-- so. The items' rows are locked; each has an attempt and a back-off, null for a dead letter. Their logs are locked in their order.
CREATE FUNCTION @state_end_leases(p_ids UUID[], p_error TEXT, p_every INT, p_keep INT, p_moment TIMESTAMPTZ)
RETURNS TABLE (item @state_item, new_attempt INT, delay_ms BIGINT) LANGUAGE plpgsql AS $$
#variable_conflict use_variable
DECLARE
    i @state_items;
    kinds JSON;
BEGIN
    FOR i IN SELECT * FROM @state_items x WHERE x.id = ANY (p_ids) ORDER BY x.execution, x.seq LOOP
        new_attempt := i.attempt + 1;
        IF new_attempt >= i.max_attempts THEN
            delay_ms := NULL;
            UPDATE @state_items SET status = 'dead_lettered', attempt = new_attempt, settled_at = p_moment, last_error = p_error,
                worker_id = NULL, lease_until = NULL, fence = 0, epoch = epoch + 1 WHERE id = i.id;
            kinds := json_build_array(json_build_object('type', 'node_failed', 'node_id', i.node_id, 'error', p_error, 'attempt', i.attempt,
                'retryable', FALSE));
        ELSE
            delay_ms := 1000 << least(new_attempt, 6);
            UPDATE @state_items SET status = 'pending', attempt = new_attempt, available_at = p_moment + delay_ms * interval '1 millisecond',
                last_error = p_error, worker_id = NULL, lease_until = NULL, fence = 0, epoch = epoch + 1 WHERE id = i.id;
            kinds := json_build_array(json_build_object('type', 'node_failed', 'node_id', i.node_id, 'error', p_error, 'attempt', i.attempt,
                'retryable', TRUE), json_build_object('type', 'retry_scheduled', 'node_id', i.node_id, 'attempt', new_attempt,
                'delay_ms', delay_ms));
        END IF;
        PERFORM @state_add_own_events(i.execution, i.tenant_id, kinds, p_every, p_keep, p_moment);
        item := @state_row(i);
        RETURN NEXT;
    END LOOP;
END $$;

-- Lock what has run out in one queue; whoever is about to settle or renew it at this moment has it, so it is passed over.
CREATE FUNCTION @state_expired(p_queue TEXT, p_tenant TEXT, p_limit INT, p_moment TIMESTAMPTZ) RETURNS UUID[] LANGUAGE sql VOLATILE AS $$
    SELECT ARRAY(SELECT i.id FROM @state_items i WHERE i.status = 'claimed' AND i.queue_type = p_queue AND i.lease_until <= p_moment
        AND (p_tenant IS NULL OR i.tenant_id = p_tenant) ORDER BY i.lease_until LIMIT p_limit FOR NO KEY UPDATE SKIP LOCKED)
$$;

CREATE FUNCTION @state_claim(p_worker TEXT, p_queues TEXT, p_tenant TEXT, p_length BIGINT, p_limit INT, p_sweep INT, p_error TEXT,
    p_every INT, p_keep INT, p_now BIGINT) RETURNS SETOF @state_item LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET enable_sort = off SET enable_bitmapscan = off AS $$
DECLARE
    moment TIMESTAMPTZ := @state_now(p_now);
    queues TEXT[] := ARRAY(SELECT json_array_elements_text(p_queues::json));
    queue TEXT;
    expired UUID[] := '{}';
    candidates UUID[];
    got UUID[];
    passed UUID[] := '{}';
    claimed UUID[] := '{}';
BEGIN
    FOREACH queue IN ARRAY queues LOOP
        expired := expired || @state_expired(queue, p_tenant, p_sweep - cardinality(expired), moment);
    END LOOP;
    IF cardinality(expired) > 0 THEN
        PERFORM 1 FROM @state_end_leases(expired, p_error, p_every, p_keep, moment);
    END IF;
    -- Found without a lock, then locked: with one in the search, all that is found in the other queues would be locked, too.
    LOOP
        candidates := ARRAY(SELECT r.id FROM unnest(queues) AS q (name)
            CROSS JOIN LATERAL @state_ready(q.name, p_tenant, passed, p_limit - cardinality(claimed), moment) AS r
            ORDER BY r.priority DESC, r.available_at, r.seq LIMIT p_limit - cardinality(claimed));
        EXIT WHEN cardinality(candidates) = 0;
        -- `|| ''`: or it might be planned as a walk through all that waits, when that is not much.
        got := ARRAY(SELECT i.id FROM @state_items i WHERE i.id = ANY (candidates) AND i.status || '' = 'pending' AND i.available_at <= moment
            ORDER BY i.priority DESC, i.available_at, i.seq FOR NO KEY UPDATE SKIP LOCKED);
        claimed := claimed || got;
        passed := passed || candidates;
        EXIT WHEN cardinality(claimed) >= p_limit;
    END LOOP;
    IF cardinality(claimed) = 0 THEN
        RETURN;
    END IF;
    UPDATE @state_items i SET status = 'claimed', worker_id = p_worker, lease_until = moment + p_length * interval '1 microsecond',
        epoch = i.epoch + 1, fence = (coalesce((SELECT t.term FROM @state_identity t WHERE t.id = 1), 0) << 32) + i.epoch + 1
    WHERE i.id = ANY (claimed);
    RETURN QUERY SELECT r.* FROM unnest(claimed) WITH ORDINALITY AS c (id, n) JOIN @state_items i ON i.id = c.id
        CROSS JOIN LATERAL @state_row(i) AS r ORDER BY c.n;
END $$;

-- ---- how a lease ends ------------------------------------------------------------------------------------------------------

CREATE FUNCTION @state_fail(p_id UUID, p_fence BIGINT, p_tenant TEXT, p_error TEXT, p_every INT, p_keep INT, p_now BIGINT)
RETURNS TABLE (item @state_item, new_attempt INT, delay_ms BIGINT) LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    PERFORM 1 FROM @state_items i WHERE i.id = p_id AND i.fence = p_fence
        AND (p_tenant IS NULL OR i.tenant_id = p_tenant) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSLL1', p_id::text);
    END IF;
    RETURN QUERY SELECT * FROM @state_end_leases(ARRAY[p_id], p_error, p_every, p_keep, @state_now(p_now));
END $$;

CREATE FUNCTION @state_reclaim(p_tenant TEXT, p_error TEXT, p_every INT, p_keep INT, p_now BIGINT)
RETURNS TABLE (item @state_item, new_attempt INT, delay_ms BIGINT) LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan SET enable_sort = off SET enable_bitmapscan = off AS $$
DECLARE
    moment TIMESTAMPTZ := @state_now(p_now);
    queue TEXT := '';
    expired UUID[] := '{}';
BEGIN
    LOOP  -- the next queue in which somebody holds an item
        queue := (SELECT i.queue_type FROM @state_items i WHERE i.status = 'claimed' AND i.queue_type > queue ORDER BY i.queue_type LIMIT 1);
        EXIT WHEN queue IS NULL;
        expired := expired || @state_expired(queue, p_tenant, NULL, moment);
    END LOOP;
    IF cardinality(expired) > 0 THEN
        RETURN QUERY SELECT * FROM @state_end_leases(expired, p_error, p_every, p_keep, moment);
    END IF;
END $$;

-- Without a fence it is taken from whoever holds it, in any status. With one it is live: what is settled has the fence 0, as what waits has.
CREATE FUNCTION @state_bury(p_id UUID, p_fence BIGINT, p_tenant TEXT, p_error TEXT, p_every INT, p_keep INT, p_now BIGINT) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    i @state_items;
    moment TIMESTAMPTZ;
BEGIN
    SELECT * INTO i FROM @state_items x WHERE x.id = p_id AND (p_tenant IS NULL OR x.tenant_id = p_tenant) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF2', p_id::text);
    ELSIF i.fence <> p_fence OR (p_fence IS NOT NULL AND i.status NOT IN ('pending', 'claimed')) THEN
        PERFORM @state_refuse('WSLL1', p_id::text);
    END IF;
    moment := @state_now(p_now);
    UPDATE @state_items SET status = 'dead_lettered', settled_at = moment, last_error = p_error, worker_id = NULL, lease_until = NULL,
        fence = 0, epoch = epoch + 1 WHERE id = p_id;
    IF i.status IN ('pending', 'claimed') THEN
        PERFORM @state_add_own_events(i.execution, i.tenant_id, json_build_array(json_build_object('type', 'node_failed', 'node_id', i.node_id,
            'error', p_error, 'attempt', i.attempt, 'retryable', FALSE)), p_every, p_keep, moment);
    END IF;
END $$;
