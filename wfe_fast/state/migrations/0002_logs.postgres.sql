-- The operations that read and then write, one function each: so each is one call, one round trip, one transaction. In a function every
-- statement sees what was committed before it began (READ COMMITTED), also behind a lock for which it has just waited; in a single
-- statement it would still see the moment at which the statement began.
-- Times come and go as microseconds since the epoch; `p_now` is null where the server's clock decides. Lists come as JSON text. `p_tenant` is the
-- scope of the store, null where it serves all tenants: it stands in every statement that names a row by a caller's id. `p_every` and `p_keep`
-- are the store's options for snapshots.
--
-- `SET enable_seqscan = off`: a queue that was empty when its table was last looked at may hold 100,000 items a minute later, and the plans that
-- a connection keeps would go on reading the table as it lies. With it they are made for the indexes, also in the functions that are called.
-- `SET plan_cache_mode`: nothing here has to know the parameters, and a claim that is planned each time takes three times as long.
--
-- Who locks what, so that nobody waits in a circle: an execution's row, then items, then logs (several in the order of their numbers), then
-- what a tenant has used, and after that nothing that others wait for.

CREATE FUNCTION @state_micros(moment TIMESTAMPTZ) RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (extract(epoch FROM moment) * 1000000)::bigint
$$;

CREATE FUNCTION @state_moment(micros BIGINT) RETURNS TIMESTAMPTZ LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    -- In two parts, as an interval is multiplied by a double, which holds whole microseconds up to the year 2255 only.
    SELECT CASE WHEN micros < -210000000000000000 THEN '-infinity'::timestamptz
        ELSE timestamptz '1970-01-01 00:00:00+00' + (micros / 1000000) * interval '1 second' + (micros % 1000000) * interval '1 microsecond' END
$$;

CREATE FUNCTION @state_now(micros BIGINT) RETURNS TIMESTAMPTZ LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN micros IS NULL THEN clock_timestamp() ELSE @state_moment(micros) END
$$;

CREATE FUNCTION @state_month(moment TIMESTAMPTZ) RETURNS INT LANGUAGE sql STABLE AS $$
    SELECT (extract(year FROM moment AT TIME ZONE 'UTC') * 12 + extract(month FROM moment AT TIME ZONE 'UTC') - 1)::int
$$;

CREATE FUNCTION @state_row(i @state_items) RETURNS @state_item LANGUAGE sql STABLE AS $$
    SELECT i.id, (SELECT x.id FROM @state_executions x WHERE x.seq = i.execution), i.node_id, i.queue_type, i.payload, i.attempt, i.max_attempts,
        @state_micros(i.created_at), @state_micros(i.lease_until), i.worker_id, i.fence, i.tenant_id, i.priority, @state_micros(i.run_at)
$$;

CREATE FUNCTION @state_refuse(code TEXT, VARIADIC what TEXT[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = to_json(what)::text;
END $$;

-- What every store has: the tenant that serves who has none. Returns the present moment of the server.
CREATE FUNCTION @state_prepare() RETURNS BIGINT LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM @state_tenants WHERE id = 'default') THEN
        INSERT INTO @state_tenants (id, name, status, created_at, updated_at)
        VALUES ('default', 'Default', 'active', clock_timestamp(), clock_timestamp()) ON CONFLICT (id) DO NOTHING;
    END IF;
    RETURN @state_micros(clock_timestamp());
END $$;

-- Not beyond what the upper half of a fence holds, which is `p_most`: then null.
CREATE FUNCTION @state_raise_term(p_term BIGINT, p_step BIGINT, p_most BIGINT) RETURNS BIGINT LANGUAGE sql VOLATILE AS $$
    INSERT INTO @state_identity AS i (id, term) VALUES (1, greatest(p_step, p_term))
    ON CONFLICT (id) DO UPDATE SET term = greatest(i.term + p_step, p_term) WHERE greatest(i.term + p_step, p_term) <= p_most
    RETURNING term
$$;

-- ---- tenants ---------------------------------------------------------------------------------------------------------------

-- The gate that new work passes: the limits of an active tenant that has tokens and money left for this month.
CREATE FUNCTION @state_admit(p_tenant TEXT, p_moment TIMESTAMPTZ) RETURNS JSON LANGUAGE plpgsql AS $$
DECLARE
    t RECORD;
    j JSON;
    used RECORD;
BEGIN
    SELECT status, limits INTO t FROM @state_tenants WHERE id = p_tenant;
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF3', p_tenant);
    ELSIF t.status <> 'active' THEN
        PERFORM @state_refuse('WSTS1', p_tenant, t.status);
    ELSIF t.limits IS NULL THEN
        RETURN NULL;
    END IF;
    j := t.limits::json;
    IF j -> 'max_tokens_per_month' IS NOT NULL OR j -> 'max_cost_per_month_usd' IS NOT NULL THEN
        SELECT tokens, cost_usd INTO used FROM @state_usage WHERE tenant_id = p_tenant AND month = @state_month(p_moment);
        IF coalesce(used.tokens, 0) >= (j ->> 'max_tokens_per_month')::bigint THEN
            PERFORM @state_refuse('WSTL1', p_tenant, 'max_tokens_per_month', j ->> 'max_tokens_per_month');
        ELSIF coalesce(used.cost_usd, 0) >= (j ->> 'max_cost_per_month_usd')::float8 THEN
            PERFORM @state_refuse('WSTL1', p_tenant, 'max_cost_per_month_usd', j ->> 'max_cost_per_month_usd');
        END IF;
    END IF;
    RETURN j;
END $$;

-- Whoever counts and then adds one does so alone.
CREATE FUNCTION @state_lock_limits(p_tenant TEXT) RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT pg_advisory_xact_lock(hashtextextended('@state_tenants' || chr(10) || p_tenant, 0))
$$;

CREATE FUNCTION @state_store_workflow(p_tenant TEXT, p_id TEXT, p_version TEXT, p_ir TEXT, p_created BIGINT, p_now BIGINT)
RETURNS void LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    most BIGINT := (@state_admit(p_tenant, @state_now(p_now)) ->> 'max_workflows')::bigint;
BEGIN
    IF most IS NOT NULL THEN
        PERFORM @state_lock_limits(p_tenant);
        IF NOT EXISTS (SELECT 1 FROM @state_definitions WHERE tenant_id = p_tenant AND workflow_id = p_id)
            AND (SELECT count(DISTINCT workflow_id) FROM @state_definitions WHERE tenant_id = p_tenant) >= most THEN
            PERFORM @state_refuse('WSTL1', p_tenant, 'max_workflows', most::text);
        END IF;
    END IF;
    INSERT INTO @state_definitions AS d (tenant_id, workflow_id, version, ir, created_at)
    VALUES (p_tenant, p_id, p_version, p_ir, @state_moment(p_created))
    ON CONFLICT (tenant_id, workflow_id, version) DO UPDATE SET ir = excluded.ir, created_at = excluded.created_at;
END $$;

-- ---- from events to a state ------------------------------------------------------------------------------------------------

-- RFC 7396, as `fold.merge`. On JSON and not on JSONB, which would make other numbers of some.
CREATE FUNCTION @state_merge(p_target JSON, p_patch JSON) RETURNS JSON LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF json_typeof(p_patch) <> 'object' THEN
        RETURN p_patch;
    ELSIF p_target IS NULL OR json_typeof(p_target) <> 'object' THEN
        p_target := '{}';
    END IF;
    RETURN coalesce((SELECT json_object_agg(x.key, x.value) FROM (
        SELECT t.key, t.value FROM json_each(p_target) AS t WHERE p_patch -> t.key IS NULL
        UNION ALL
        SELECT p.key, CASE WHEN json_typeof(p.value) = 'object' THEN @state_merge(p_target -> p.key, p.value) ELSE p.value END
        FROM json_each(p_patch) AS p WHERE json_typeof(p.value) <> 'null') AS x), '{}');
END $$;

-- Of the kinds of events only these are about nodes; the last one of each node decides.
CREATE FUNCTION @state_is_active(p_type TEXT) RETURNS BOOLEAN LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN p_type IN ('node_scheduled', 'node_started') THEN TRUE
        WHEN p_type IN ('node_completed', 'node_failed', 'node_skipped', 'node_cancelled') THEN FALSE END
$$;

-- What the events behind a snapshot, or the input, have made of an execution: `fold.fold`, which see. A test compares the two.
CREATE FUNCTION @state_fold(p_execution BIGINT, OUT state JSON, OUT status TEXT, OUT completed JSON, OUT active JSON, OUT last BIGINT)
LANGUAGE plpgsql AS $$
DECLARE
    since BIGINT;
    e RECORD;
BEGIN
    SELECT s.state::json, s.status, s.completed_nodes::json, s.active_nodes::json, s.last_sequence, s.at_sequence
    INTO state, status, completed, active, last, since
    FROM @state_snapshots s WHERE s.execution = p_execution ORDER BY s.at_sequence DESC LIMIT 1;
    IF NOT FOUND THEN
        SELECT x.initial_input::json INTO state FROM @state_executions x WHERE x.seq = p_execution;
        status := 'pending';
        completed := '{}';
        active := '[]';
        last := 0;
        since := 0;
    END IF;
    FOR e IN SELECT v.type, v.kind::json AS j FROM @state_events v WHERE v.execution = p_execution AND v.sequence > since AND v.type IN (
        'node_completed', 'workflow_started', 'workflow_completed', 'workflow_failed', 'workflow_cancelled', 'strategy_limit_hit',
        'interrupt_raised', 'approval_received') ORDER BY v.sequence
    LOOP
        IF e.type = 'node_completed' THEN
            state := CASE WHEN json_typeof(e.j -> 'state_patch') = 'null' THEN state ELSE @state_merge(state, e.j -> 'state_patch') END;
        ELSIF status IN ('completed', 'failed', 'cancelled', 'limit_exceeded') THEN
            CONTINUE;  -- what has ended stays as it ended
        ELSIF e.type = 'workflow_completed' THEN
            state := e.j -> 'final_state';
            status := 'completed';
        ELSIF e.type = 'approval_received' THEN
            state := CASE WHEN coalesce(json_typeof(e.j -> 'state_patch'), 'null') = 'null' THEN state
                ELSE @state_merge(state, e.j -> 'state_patch') END;
            status := 'running';
        ELSIF e.type <> 'interrupt_raised' OR status = 'running' THEN
            status := CASE e.type WHEN 'workflow_started' THEN 'running' WHEN 'workflow_failed' THEN 'failed'
                WHEN 'workflow_cancelled' THEN 'cancelled' WHEN 'strategy_limit_hit' THEN 'limit_exceeded' ELSE 'paused' END;
        END IF;
    END LOOP;
    SELECT coalesce(json_object_agg(n.node, n.output), '{}') INTO completed FROM (
        SELECT b.key AS node, b.value AS output FROM json_each(completed) AS b
        WHERE NOT EXISTS (SELECT 1 FROM @state_events v WHERE v.execution = p_execution AND v.sequence > since AND v.type = 'node_completed'
            AND v.node_id = b.key)
        UNION ALL
        SELECT d.node_id, d.output FROM (SELECT DISTINCT ON (v.node_id) v.node_id, v.kind::json -> 'output' AS output FROM @state_events v
            WHERE v.execution = p_execution AND v.sequence > since AND v.type = 'node_completed' ORDER BY v.node_id, v.sequence DESC) AS d) AS n;
    SELECT coalesce(json_agg(n.node ORDER BY n.node COLLATE "C"), '[]') INTO active FROM (
        SELECT b.node FROM json_array_elements_text(active) AS b (node)
        WHERE NOT EXISTS (SELECT 1 FROM @state_events v WHERE v.execution = p_execution AND v.sequence > since
            AND @state_is_active(v.type) IS NOT NULL AND v.node_id = b.node)
        UNION ALL
        SELECT d.node_id FROM (SELECT DISTINCT ON (v.node_id) v.node_id, v.type FROM @state_events v
            WHERE v.execution = p_execution AND v.sequence > since AND @state_is_active(v.type) IS NOT NULL
            ORDER BY v.node_id, v.sequence DESC) AS d WHERE @state_is_active(d.type)) AS n;
    last := greatest(last, (SELECT v.sequence FROM @state_events v WHERE v.execution = p_execution AND v.sequence > since
        ORDER BY v.sequence DESC LIMIT 1));
END $$;

-- ---- snapshots and events, behind the lock of the log ----------------------------------------------------------------------

CREATE FUNCTION @state_put_snapshot(p_execution BIGINT, p_tenant TEXT, p_at BIGINT, p_id UUID, p_status TEXT, p_last BIGINT,
    p_created TIMESTAMPTZ, p_state TEXT, p_completed TEXT, p_active TEXT, p_keep INT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- A snapshot's id is in one place only: written elsewhere in its execution, it is not where it was.
    DELETE FROM @state_snapshots WHERE id = p_id AND execution = p_execution AND at_sequence <> p_at;
    INSERT INTO @state_snapshots (execution, tenant_id, at_sequence, id, status, last_sequence, created_at, state, completed_nodes, active_nodes)
    VALUES (p_execution, p_tenant, p_at, p_id, p_status, p_last, p_created, p_state, p_completed, p_active)
    ON CONFLICT (execution, at_sequence) DO UPDATE SET id = excluded.id, status = excluded.status, last_sequence = excluded.last_sequence,
        created_at = excluded.created_at, state = excluded.state, completed_nodes = excluded.completed_nodes,
        active_nodes = excluded.active_nodes;
    -- Not simply the new one's number: a snapshot that was moved may have left the largest.
    UPDATE @state_logs SET snapshot_at = (SELECT s.at_sequence FROM @state_snapshots s WHERE s.execution = p_execution
        ORDER BY s.at_sequence DESC LIMIT 1) WHERE execution = p_execution;
    IF p_keep IS NOT NULL THEN
        DELETE FROM @state_snapshots WHERE execution = p_execution AND at_sequence <= (
            SELECT s.at_sequence FROM @state_snapshots s WHERE s.execution = p_execution ORDER BY s.at_sequence DESC LIMIT 1 OFFSET p_keep);
    END IF;
END $$;

CREATE FUNCTION @state_take_snapshot(p_execution BIGINT, p_tenant TEXT, p_keep INT, p_moment TIMESTAMPTZ) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE f RECORD;
BEGIN
    SELECT * INTO f FROM @state_fold(p_execution);
    PERFORM @state_put_snapshot(p_execution, p_tenant, f.last, gen_random_uuid(), f.status, f.last, p_moment, f.state::text,
        f.completed::text, f.active::text, p_keep);
END $$;

-- Store those of the events [id, type, node, kind, created, tokens, cost] that are not there yet, and return the numbers of all, as JSON.
CREATE FUNCTION @state_add_events(p_execution BIGINT, p_id UUID, p_tenant TEXT, p_expected BIGINT, p_events TEXT, p_snapshot BOOLEAN,
    p_every INT, p_keep INT, p_moment TIMESTAMPTZ) RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE
    l RECORD;
    e JSON;
    known RECORD;
    latest BIGINT;
    numbers BIGINT[] := '{}';
    tokens BIGINT := 0;
    cost DOUBLE PRECISION := 0;
BEGIN
    SELECT last_sequence, snapshot_at INTO l FROM @state_logs WHERE execution = p_execution FOR NO KEY UPDATE;
    latest := l.last_sequence;
    FOR e IN SELECT value FROM json_array_elements(p_events::json) LOOP
        SELECT execution, sequence INTO known FROM @state_events WHERE id = (e ->> 0)::uuid;
        IF known.execution = p_execution THEN
            numbers := numbers || known.sequence;
            CONTINUE;
        ELSIF FOUND THEN
            PERFORM @state_refuse('WSDE1', e ->> 0);
        ELSIF p_expected <> l.last_sequence THEN
            PERFORM @state_refuse('WSSC1', p_id::text, p_expected::text, l.last_sequence::text);
        END IF;
        latest := latest + 1;
        INSERT INTO @state_events (execution, sequence, id, tenant_id, type, node_id, kind, created_at)
        VALUES (p_execution, latest, (e ->> 0)::uuid, p_tenant, e ->> 1, e ->> 2, e ->> 3, @state_moment((e ->> 4)::bigint))
        ON CONFLICT (id) DO NOTHING;
        IF NOT FOUND THEN  -- another execution has it, stored a moment ago or by a tenant that this scope does not see
            PERFORM @state_refuse('WSDE1', e ->> 0);
        END IF;
        numbers := numbers || latest;
        tokens := least(tokens + (e ->> 5)::bigint, 1::bigint << 61);
        cost := cost + (e ->> 6)::float8;
    END LOOP;
    IF latest > l.last_sequence THEN
        UPDATE @state_logs SET last_sequence = latest WHERE execution = p_execution;
    END IF;
    IF p_snapshot OR (latest > l.last_sequence AND latest - l.snapshot_at >= p_every) THEN
        PERFORM @state_take_snapshot(p_execution, p_tenant, p_keep, p_moment);
    END IF;
    IF tokens <> 0 OR cost <> 0 THEN
        -- Kept below what the column can hold: whoever is there has no limit that could tell the difference.
        INSERT INTO @state_usage AS u (tenant_id, month, tokens, cost_usd) VALUES (p_tenant, @state_month(p_moment), tokens, cost)
        ON CONFLICT (tenant_id, month) DO UPDATE SET tokens = least(u.tokens + excluded.tokens, 1::bigint << 61),
            cost_usd = u.cost_usd + excluded.cost_usd;
    END IF;
    RETURN to_json(numbers)::text;
END $$;

-- Store events of the store's own making.
CREATE FUNCTION @state_add_own_events(p_execution BIGINT, p_tenant TEXT, p_kinds JSON, p_every INT, p_keep INT, p_moment TIMESTAMPTZ)
RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT @state_add_events(p_execution, NULL, p_tenant, NULL, (SELECT json_agg(json_build_array(gen_random_uuid(), k.value ->> 'type',
        k.value ->> 'node_id', k.value::text, @state_micros(p_moment), 0, 0) ORDER BY k.n)::text
        FROM json_array_elements(p_kinds) WITH ORDINALITY AS k (value, n)), FALSE, p_every, p_keep, p_moment)
$$;

CREATE FUNCTION @state_append(p_id UUID, p_tenant TEXT, p_expected BIGINT, p_events TEXT, p_every INT, p_keep INT, p_now BIGINT)
RETURNS TEXT LANGUAGE plpgsql SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE x RECORD;
BEGIN
    SELECT seq, tenant_id INTO x FROM @state_executions WHERE id = p_id AND (p_tenant IS NULL OR tenant_id = p_tenant);
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF1', p_id::text);
    END IF;
    RETURN @state_add_events(x.seq, p_id, x.tenant_id, p_expected, p_events, FALSE, p_every, p_keep, @state_now(p_now));
END $$;

CREATE FUNCTION @state_write_snapshot(p_execution_id UUID, p_tenant TEXT, p_at BIGINT, p_id UUID, p_status TEXT, p_last BIGINT,
    p_created BIGINT, p_state TEXT, p_completed TEXT, p_active TEXT, p_keep INT) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE x RECORD;
BEGIN
    SELECT seq, tenant_id INTO x FROM @state_executions WHERE id = p_execution_id AND (p_tenant IS NULL OR tenant_id = p_tenant);
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF1', p_execution_id::text);
    END IF;
    PERFORM 1 FROM @state_logs WHERE execution = x.seq FOR NO KEY UPDATE;
    PERFORM @state_put_snapshot(x.seq, x.tenant_id, p_at, p_id, p_status, p_last, @state_moment(p_created), p_state, p_completed, p_active,
        p_keep);
END $$;

-- What a fold needs, in one statement's view of the store: first the last snapshot, or the input where there is none, then the events behind it.
CREATE FUNCTION @state_materialize(p_id UUID, p_tenant TEXT) RETURNS TABLE (sequence BIGINT, type TEXT, kind TEXT, status TEXT, completed TEXT,
    active TEXT, last BIGINT) LANGUAGE plpgsql STABLE SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    x RECORD;
    s RECORD;
BEGIN
    SELECT e.seq, e.initial_input INTO x FROM @state_executions e WHERE e.id = p_id AND (p_tenant IS NULL OR e.tenant_id = p_tenant);
    IF NOT FOUND THEN
        PERFORM @state_refuse('WSNF1', p_id::text);
    END IF;
    SELECT p.at_sequence, p.state, p.status, p.completed_nodes, p.active_nodes, p.last_sequence INTO s
    FROM @state_snapshots p WHERE p.execution = x.seq ORDER BY p.at_sequence DESC LIMIT 1;
    IF FOUND THEN
        RETURN QUERY SELECT s.at_sequence, NULL::text, s.state, s.status, s.completed_nodes, s.active_nodes, s.last_sequence;
    ELSE
        RETURN QUERY SELECT 0::bigint, NULL::text, x.initial_input, 'pending', '{}', '[]', 0::bigint;
    END IF;
    RETURN QUERY SELECT v.sequence, v.type, v.kind, NULL::text, NULL::text, NULL::text, NULL::bigint FROM @state_events v
    WHERE v.execution = x.seq AND v.sequence > coalesce(s.at_sequence, 0) ORDER BY v.sequence;
END $$;
