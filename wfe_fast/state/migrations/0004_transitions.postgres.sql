-- Changes that belong together, effects, tokens, and what has been kept long enough.

CREATE FUNCTION @state_start(p_tenant TEXT, p_id UUID, p_row TEXT, p_events TEXT, p_status TEXT, p_item TEXT, p_every INT, p_keep INT,
    p_now BIGINT) RETURNS TEXT LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    moment TIMESTAMPTZ := @state_now(p_now);
    made BIGINT := @state_add_execution(p_tenant, p_row, moment);
BEGIN
    IF p_item IS NOT NULL THEN
        PERFORM @state_add_item(made, p_tenant, p_id, p_status, p_item, moment);
    END IF;
    RETURN @state_add_events(made, p_id, p_tenant, NULL, p_events, FALSE, p_every, p_keep, moment);
END $$;

-- The execution is locked against others who schedule in it, so that the same call at the same time is seen as such.
CREATE FUNCTION @state_schedule(p_execution_id UUID, p_tenant TEXT, p_event_id UUID, p_events TEXT, p_item_id UUID, p_item TEXT, p_every INT,
    p_keep INT, p_now BIGINT) RETURNS TEXT LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    x RECORD;
    known BIGINT;
    moment TIMESTAMPTZ;
BEGIN
    SELECT seq, tenant_id, status INTO x FROM @state_executions
    WHERE id = p_execution_id AND (p_tenant IS NULL OR tenant_id = p_tenant) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF1', p_execution_id::text);
    END IF;
    SELECT e.sequence INTO known FROM @state_events e JOIN @state_items i ON i.id = p_item_id AND i.execution = x.seq
    WHERE e.id = p_event_id AND e.execution = x.seq;
    IF FOUND THEN
        RETURN to_json(ARRAY[known])::text;  -- done before, by a call whose answer was lost
    END IF;
    moment := @state_now(p_now);
    PERFORM @state_admit(x.tenant_id, moment);
    PERFORM @state_add_item(x.seq, x.tenant_id, p_execution_id, x.status, p_item, moment);
    RETURN @state_add_events(x.seq, p_execution_id, x.tenant_id, NULL, p_events, FALSE, p_every, p_keep, moment);
END $$;

CREATE FUNCTION @state_commit_turn(p_id UUID, p_fence BIGINT, p_tenant TEXT, p_status TEXT, p_execution_id UUID, p_node TEXT, p_events TEXT,
    p_key TEXT, p_result TEXT, p_snapshot BOOLEAN, p_every INT, p_keep INT, p_now BIGINT) RETURNS TEXT LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    i RECORD;
    moment TIMESTAMPTZ;
    numbers TEXT;
BEGIN
    SELECT x.execution, x.node_id, x.tenant_id INTO i FROM @state_items x WHERE x.id = p_id AND x.fence = p_fence
        AND (p_tenant IS NULL OR x.tenant_id = p_tenant) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSLL1', p_id::text);
    ELSIF i.node_id <> p_node OR NOT EXISTS (SELECT 1 FROM @state_executions x WHERE x.seq = i.execution AND x.id = p_execution_id) THEN
        -- The caller's item may have been changed since it was claimed: what counts is the stored one.
        PERFORM @state_refuse('WSIV1', 'event', 'is not about the item''s own execution and node', p_execution_id::text);
    END IF;
    moment := @state_now(p_now);
    UPDATE @state_items SET status = p_status, settled_at = moment, lease_until = NULL, fence = 0 WHERE id = p_id;
    numbers := @state_add_events(i.execution, p_execution_id, i.tenant_id, NULL, p_events, p_snapshot, p_every, p_keep, moment);
    IF p_key IS NOT NULL THEN
        INSERT INTO @state_effects (idempotency_key, tenant_id, execution, node_id, result, recorded_at)
        VALUES (p_key, i.tenant_id, i.execution, p_node, p_result, moment) ON CONFLICT (idempotency_key, tenant_id) DO NOTHING;
        DELETE FROM @state_reservations WHERE idempotency_key = p_key AND tenant_id = i.tenant_id;
    END IF;
    RETURN numbers;
END $$;

CREATE FUNCTION @state_finish(p_id UUID, p_tenant TEXT, p_event_id UUID, p_events TEXT, p_to TEXT, p_from TEXT, p_every INT, p_keep INT,
    p_now BIGINT) RETURNS TEXT LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    x RECORD;
    known RECORD;
    moment TIMESTAMPTZ;
BEGIN
    SELECT seq, tenant_id, status INTO x FROM @state_executions
    WHERE id = p_id AND (p_tenant IS NULL OR tenant_id = p_tenant) FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF1', p_id::text);
    ELSIF x.status = p_to THEN
        SELECT execution, sequence INTO known FROM @state_events WHERE id = p_event_id;
        IF known.execution = x.seq THEN
            RETURN to_json(ARRAY[known.sequence])::text;  -- done before, by a call whose answer was lost
        ELSIF FOUND THEN
            PERFORM @state_refuse('WSDE1', p_event_id::text);
        END IF;
        PERFORM @state_refuse('WSIT1', p_id::text, x.status, p_to);
    ELSIF x.status NOT IN (SELECT json_array_elements_text(p_from::json)) THEN
        PERFORM @state_refuse('WSIT1', p_id::text, x.status, p_to);
    END IF;
    moment := @state_now(p_now);
    PERFORM @state_set_status(x.seq, p_to, TRUE, moment);
    RETURN @state_add_events(x.seq, p_id, x.tenant_id, NULL, p_events, FALSE, p_every, p_keep, moment);
END $$;

-- ---- effects ---------------------------------------------------------------------------------------------------------------

-- Nothing = the key is the caller's.
CREATE FUNCTION @state_reserve(p_key TEXT, p_execution_id UUID, p_tenant TEXT, p_node TEXT, p_owner TEXT, p_fence BIGINT, p_length BIGINT,
    p_now BIGINT, OUT result TEXT, OUT owner TEXT, OUT until BIGINT) LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    x RECORD;
    moment TIMESTAMPTZ;
BEGIN
    SELECT seq, tenant_id INTO x FROM @state_executions WHERE id = p_execution_id AND (p_tenant IS NULL OR tenant_id = p_tenant);
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF1', p_execution_id::text);
    END IF;
    LOOP
        SELECT e.result INTO result FROM @state_effects e WHERE e.idempotency_key = p_key AND e.tenant_id = x.tenant_id;
        EXIT WHEN FOUND;
        moment := @state_now(p_now);
        INSERT INTO @state_reservations AS r (idempotency_key, tenant_id, execution, node_id, owner, fence, expires_at, reserved_at)
        VALUES (p_key, x.tenant_id, x.seq, p_node, p_owner, p_fence, moment + p_length * interval '1 microsecond', moment)
        ON CONFLICT (idempotency_key, tenant_id) DO UPDATE SET execution = excluded.execution, node_id = excluded.node_id,
            owner = excluded.owner, fence = excluded.fence, expires_at = excluded.expires_at, reserved_at = excluded.reserved_at
        WHERE r.expires_at <= moment OR r.owner = excluded.owner;
        IF FOUND THEN
            -- Whoever held the key may have recorded its result while we waited for the row.
            SELECT e.result INTO result FROM @state_effects e WHERE e.idempotency_key = p_key AND e.tenant_id = x.tenant_id;
            IF FOUND THEN
                DELETE FROM @state_reservations r WHERE r.idempotency_key = p_key AND r.tenant_id = x.tenant_id;
            END IF;
            EXIT;
        END IF;
        SELECT r.owner, @state_micros(r.expires_at) INTO owner, until FROM @state_reservations r
        WHERE r.idempotency_key = p_key AND r.tenant_id = x.tenant_id;
        EXIT WHEN FOUND;  -- else it was given back a moment ago
    END LOOP;
END $$;

-- ---- tokens ----------------------------------------------------------------------------------------------------------------

CREATE FUNCTION @state_create_token(p_id TEXT, p_tenant TEXT, p_hash TEXT, p_name TEXT, p_role TEXT, p_expires BIGINT, p_now BIGINT)
RETURNS BIGINT LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE moment TIMESTAMPTZ := @state_now(p_now);
BEGIN
    IF NOT EXISTS (SELECT 1 FROM @state_tenants WHERE id = p_tenant) THEN
        PERFORM @state_refuse('WSNF3', p_tenant);
    END IF;
    INSERT INTO @state_tokens (id, tenant_id, token_hash, name, role, created_at, expires_at)
    VALUES (p_id, p_tenant, p_hash, p_name, p_role, moment, @state_moment(p_expires));
    RETURN @state_micros(moment);
END $$;

-- Whose secret it is; its use is noted where the last note is older than `p_every` microseconds.
CREATE FUNCTION @state_validate_token(p_hash TEXT, p_every BIGINT, p_now BIGINT) RETURNS TABLE (id TEXT, name TEXT, role TEXT, created BIGINT,
    expires BIGINT, tenant_id TEXT, last_used BIGINT) LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    moment TIMESTAMPTZ := @state_now(p_now);
    t @state_tokens;
BEGIN
    SELECT * INTO t FROM @state_tokens x WHERE x.token_hash = p_hash AND x.revoked_at IS NULL
        AND (x.expires_at IS NULL OR x.expires_at > moment);
    IF NOT FOUND THEN
        RETURN;
    END IF;
    IF t.last_used_at IS NULL OR t.last_used_at <= moment - p_every * interval '1 microsecond' THEN
        UPDATE @state_tokens x SET last_used_at = moment WHERE x.id = t.id
            AND (x.last_used_at IS NULL OR x.last_used_at <= moment - p_every * interval '1 microsecond');
        t.last_used_at := moment;
    END IF;
    RETURN QUERY SELECT t.id, t.name, t.role, @state_micros(t.created_at), @state_micros(t.expires_at), t.tenant_id,
        @state_micros(t.last_used_at);
END $$;

CREATE FUNCTION @state_rotate_token(p_old TEXT, p_tenant TEXT, p_new TEXT, p_hash TEXT, p_now BIGINT) RETURNS TABLE (tenant_id TEXT, name TEXT,
    role TEXT, created BIGINT, expires BIGINT) LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    moment TIMESTAMPTZ := @state_now(p_now);
    t @state_tokens;
BEGIN
    UPDATE @state_tokens x SET revoked_at = moment WHERE x.id = p_old AND (p_tenant IS NULL OR x.tenant_id = p_tenant)
        AND x.revoked_at IS NULL AND (x.expires_at IS NULL OR x.expires_at > moment) RETURNING x.* INTO t;
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF4', p_old);
    END IF;
    INSERT INTO @state_tokens (id, tenant_id, token_hash, name, role, created_at, expires_at)
    VALUES (p_new, t.tenant_id, p_hash, t.name, t.role, moment, t.expires_at);
    RETURN QUERY SELECT t.tenant_id, t.name, t.role, @state_micros(moment), @state_micros(t.expires_at);
END $$;

-- ---- retention -------------------------------------------------------------------------------------------------------------

-- Delete what ended before a moment, tenant by tenant, since that is how the indexes are. What somebody has locked is left for the next time.
CREATE FUNCTION @state_purge(p_what TEXT, p_tenant TEXT, p_cutoff BIGINT, p_limit INT) RETURNS BIGINT LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    before TIMESTAMPTZ := @state_moment(p_cutoff);
    tenant TEXT;
    gone INT;
    room INT := p_limit;
BEGIN
    FOR tenant IN SELECT t.id FROM @state_tenants t WHERE p_tenant IS NULL OR t.id = p_tenant LOOP
        IF p_what = 'dead_letters' THEN
            DELETE FROM @state_items WHERE id = ANY (ARRAY(SELECT i.id FROM @state_items i WHERE i.status = 'dead_lettered'
                AND i.tenant_id = tenant AND i.settled_at < before ORDER BY i.settled_at LIMIT room FOR UPDATE SKIP LOCKED));
        ELSIF p_what = 'work_items' THEN
            DELETE FROM @state_items WHERE id = ANY (ARRAY(SELECT i.id FROM @state_items i
                WHERE i.status IN ('completed', 'failed', 'cancelled') AND i.tenant_id = tenant AND i.settled_at < before
                ORDER BY i.settled_at LIMIT room FOR UPDATE SKIP LOCKED));
        ELSE
            DELETE FROM @state_tokens WHERE id = ANY (ARRAY(SELECT k.id FROM @state_tokens k WHERE k.tenant_id = tenant
                AND coalesce(k.revoked_at, k.expires_at) IS NOT NULL AND least(k.revoked_at, k.expires_at) < before
                ORDER BY least(k.revoked_at, k.expires_at) LIMIT room FOR UPDATE SKIP LOCKED));
        END IF;
        GET DIAGNOSTICS gone = ROW_COUNT;
        room := room - gone;
        EXIT WHEN room = 0;
    END LOOP;
    RETURN p_limit - room;
END $$;

-- The events of executions that ended before a moment, of `p_limit` executions at most. What they say stays: a snapshot takes their place.
-- By the status as well: who stores an execution may say that it was completed, and that it runs.
CREATE FUNCTION @state_purge_events(p_tenant TEXT, p_cutoff BIGINT, p_limit INT, p_keep INT, p_now BIGINT) RETURNS BIGINT
LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    before TIMESTAMPTZ := @state_moment(p_cutoff);
    moment TIMESTAMPTZ := @state_now(p_now);
    t RECORD;
    x RECORD;
    l RECORD;
    ended BIGINT[] := '{}';
    gone INT;
    deleted BIGINT := 0;
BEGIN
    FOR t IN SELECT s.id FROM @state_tenants s WHERE p_tenant IS NULL OR s.id = p_tenant LOOP
        EXIT WHEN cardinality(ended) >= p_limit;
        ended := ended || ARRAY(SELECT e.seq FROM @state_executions e WHERE e.completed_at IS NOT NULL AND NOT e.purged AND e.tenant_id = t.id
            AND e.completed_at < before AND e.status NOT IN ('pending', 'running', 'paused') ORDER BY e.completed_at LIMIT p_limit - cardinality(ended) FOR NO KEY UPDATE SKIP LOCKED);
    END LOOP;
    FOR x IN SELECT e.seq, e.tenant_id FROM @state_executions e WHERE e.seq = ANY (ended) ORDER BY e.seq LOOP
        SELECT last_sequence, snapshot_at INTO l FROM @state_logs WHERE execution = x.seq FOR NO KEY UPDATE;
        IF l.snapshot_at < l.last_sequence THEN
            PERFORM @state_take_snapshot(x.seq, x.tenant_id, p_keep, moment);
        END IF;
        DELETE FROM @state_events WHERE execution = x.seq;
        GET DIAGNOSTICS gone = ROW_COUNT;
        deleted := deleted + gone;
        UPDATE @state_executions SET purged = TRUE WHERE seq = x.seq;
    END LOOP;
    RETURN deleted;
END $$;
