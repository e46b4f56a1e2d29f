-- The operations that read and then write, one function each: so each is one call, one round trip, one transaction. In a function every
-- statement sees what was committed before it began (READ COMMITTED), also behind a lock for which it has just waited; in a single
-- statement it would still see the moment at which the statement began.
-- Times are microseconds; `p_now` is null where the server's clock decides. Lists come as JSON text.
--
-- `status || ''` where a row is looked for by its id: or it might be planned as a walk through all that has this status, when that is not much. `SET enable_seqscan = off`
-- where rows are looked for by a list of ids: else a plan that was made when the table was small reads all of it.
--
-- Who locks what, so that nobody waits in a circle: rows of executions first, several in the order of their ids; then what belongs to
-- them. Who looks for anything that is free or due passes over what somebody else holds at the moment.

CREATE FUNCTION @wfe_now(p_now BIGINT) RETURNS BIGINT LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(p_now, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
$$;

CREATE FUNCTION @wfe_refuse(code TEXT, what TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = code, MESSAGE = what;
END $$;

CREATE FUNCTION @wfe_version(p_line TEXT) RETURNS INT LANGUAGE sql STABLE AS $$
    SELECT coalesce(max(version), 0) FROM "{schema}".wfe_fast_migrations WHERE line = p_line
$$;

-- PostgreSQL sends equal notifications of one transaction once.
CREATE FUNCTION @wfe_wake() RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT pg_notify('{channel}', '')
$$;

-- Whoever writes below an execution holds its row, so that no claim, cancellation or deletion comes in between.
CREATE FUNCTION @wfe_hold(p_id TEXT, p_fence BIGINT) RETURNS void LANGUAGE plpgsql AS $$
DECLARE present BIGINT;
BEGIN
    SELECT claim_fence INTO present FROM @workflow_executions WHERE workflow_execution_id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @wfe_refuse('WFEN1', p_id);
    ELSIF present <> p_fence THEN
        PERFORM @wfe_refuse('WFCL1', p_id);
    END IF;
END $$;

-- ---- executions and what belongs to them -----------------------------------------------------------------------------------

CREATE FUNCTION @wfe_save_execution(p_id TEXT, p_workflow TEXT, p_status TEXT, p_step INT, p_input TEXT, p_output TEXT, p_error TEXT,
    p_ttl BIGINT, p_guarantee TEXT, p_created BIGINT, p_updated BIGINT, p_fence BIGINT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF p_fence IS NOT NULL THEN
        PERFORM @wfe_hold(p_id, p_fence);
    END IF;
    IF NOT EXISTS (SELECT 1 FROM @workflows WHERE workflow_id = p_workflow) THEN
        PERFORM @wfe_refuse('WFNF1', p_workflow);
    END IF;
    INSERT INTO @workflow_executions AS e (workflow_execution_id, workflow_id, status, current_step, input_data, output_data,
        error_message, ttl_expires_at, guarantee, created_at, updated_at)
    VALUES (p_id, p_workflow, p_status, p_step, p_input, p_output, p_error, p_ttl, p_guarantee, p_created, p_updated)
    ON CONFLICT (workflow_execution_id) DO UPDATE SET workflow_id = excluded.workflow_id, status = excluded.status,
        current_step = excluded.current_step, input_data = excluded.input_data, output_data = excluded.output_data,
        error_message = excluded.error_message, ttl_expires_at = excluded.ttl_expires_at, guarantee = excluded.guarantee,
        created_at = excluded.created_at, updated_at = excluded.updated_at;
    IF p_status IN ('PENDING', 'RUNNING', 'COMPENSATING') OR (p_status = 'SUSPENDED' AND p_ttl IS NOT NULL) THEN
        PERFORM @wfe_wake();
    END IF;
END $$;

-- Planned anew each time: which statuses these are says whether it is a few rows or most of the table.
CREATE FUNCTION @wfe_by_status(p_statuses TEXT) RETURNS SETOF @workflow_executions LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY EXECUTE 'SELECT * FROM @workflow_executions WHERE status = ANY ($1)'
        USING ARRAY(SELECT json_array_elements_text(p_statuses::json));
END $$;

-- Each row: [execution, index, name, status, input, output, message, attempt, ref, started, completed, kind, type, is_final, …]. To be called
-- behind the lock of their executions; no position and attempt twice.
CREATE FUNCTION @wfe_put_checkpoints(p_rows TEXT) RETURNS void LANGUAGE sql VOLATILE AS $$
    INSERT INTO @step_checkpoints (workflow_execution_id, step_index, step_name, status, input_data, output_data, error_message, attempt,
        compensate_ref, started_at, completed_at, kind, error_type, is_final)
    SELECT r.value ->> 0, (r.value ->> 1)::int, r.value ->> 2, r.value ->> 3, r.value ->> 4, r.value ->> 5, r.value ->> 6,
        (r.value ->> 7)::int, r.value ->> 8, (r.value ->> 9)::bigint, (r.value ->> 10)::bigint, r.value ->> 11, r.value ->> 12,
        r.value ->> 13 = '1'
    FROM json_array_elements(p_rows::json) WITH ORDINALITY AS r (value, n) ORDER BY r.n
    ON CONFLICT (workflow_execution_id, step_index, attempt) DO UPDATE SET step_name = excluded.step_name, status = excluded.status,
        input_data = excluded.input_data, output_data = excluded.output_data, error_message = excluded.error_message,
        compensate_ref = excluded.compensate_ref, started_at = excluded.started_at, completed_at = excluded.completed_at,
        kind = excluded.kind, error_type = excluded.error_type, is_final = excluded.is_final
$$;

-- The last element of each row is the fence, or null.
CREATE FUNCTION @wfe_save_checkpoints(p_rows TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM @wfe_hold(held.id, held.fence)
    FROM (SELECT DISTINCT (r.value ->> 0) COLLATE "C" AS id, (r.value ->> 14)::bigint AS fence
        FROM json_array_elements(p_rows::json) AS r (value) ORDER BY 1, 2) AS held;
    PERFORM @wfe_put_checkpoints(p_rows);
END $$;

-- Each row: [timer, execution, name, fire_at, status, created_at, …]. To be called behind the lock of their executions.
CREATE FUNCTION @wfe_put_timers(p_rows TEXT) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before BIGINT;
    after BIGINT;
BEGIN
    SELECT fire_at INTO before FROM @workflow_timers WHERE status = 'PENDING' ORDER BY fire_at, workflow_timer_id LIMIT 1;
    INSERT INTO @workflow_timers (workflow_timer_id, workflow_execution_id, step_name, fire_at, status, created_at)
    SELECT r.value ->> 0, r.value ->> 1, r.value ->> 2, (r.value ->> 3)::bigint, r.value ->> 4, (r.value ->> 5)::bigint
    FROM json_array_elements(p_rows::json) WITH ORDINALITY AS r (value, n) ORDER BY r.n
    ON CONFLICT (workflow_timer_id) DO UPDATE SET workflow_execution_id = excluded.workflow_execution_id,
        step_name = excluded.step_name, fire_at = excluded.fire_at, status = excluded.status, created_at = excluded.created_at;
    SELECT fire_at INTO after FROM @workflow_timers WHERE status = 'PENDING' ORDER BY fire_at, workflow_timer_id LIMIT 1;
    -- Whoever waits has looked for the earliest one, and looks again when that is due.
    IF after < before OR (after IS NOT NULL AND before IS NULL) THEN
        PERFORM @wfe_wake();
    END IF;
END $$;

CREATE FUNCTION @wfe_save_timer(p_execution TEXT, p_fence BIGINT, p_rows TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM @wfe_hold(p_execution, p_fence);
    PERFORM @wfe_put_timers(p_rows);
END $$;

CREATE FUNCTION @wfe_save_signal(p_id BIGINT, p_execution TEXT, p_name TEXT, p_payload TEXT, p_status TEXT, p_created BIGINT,
    p_fence BIGINT, p_wakes BOOLEAN, p_now BIGINT) RETURNS BIGINT LANGUAGE plpgsql AS $$
DECLARE saved BIGINT := p_id;
BEGIN
    -- Who waits for a signal looks for it behind the same lock: it is seen there, or finds somebody waiting here.
    PERFORM @wfe_hold(p_execution, p_fence);
    IF p_id IS NULL THEN
        -- An id that somebody has chosen for a signal of his own is passed over.
        WHILE saved IS NULL LOOP
            INSERT INTO @workflow_signals (workflow_execution_id, signal_name, payload, status, created_at)
            VALUES (p_execution, p_name, p_payload, p_status, p_created)
            ON CONFLICT (workflow_signal_id) DO NOTHING RETURNING workflow_signal_id INTO saved;
        END LOOP;
    ELSE
        INSERT INTO @workflow_signals (workflow_signal_id, workflow_execution_id, signal_name, payload, status, created_at)
        VALUES (p_id, p_execution, p_name, p_payload, p_status, p_created)
        ON CONFLICT (workflow_signal_id) DO UPDATE SET workflow_execution_id = excluded.workflow_execution_id,
            signal_name = excluded.signal_name, payload = excluded.payload, status = excluded.status, created_at = excluded.created_at;
    END IF;
    IF p_wakes THEN
        UPDATE @workflow_executions SET status = 'RUNNING', updated_at = @wfe_now(p_now), waiting_for = NULL
        WHERE workflow_execution_id = p_execution AND status || '' = 'SUSPENDED' AND waiting_for = p_name;
        IF FOUND THEN
            PERFORM @wfe_wake();
        END IF;
    END IF;
    RETURN saved;
END $$;

-- ---- claims ----------------------------------------------------------------------------------------------------------------

-- The oldest ones in these statuses (of these workflows, where that is not null) that nobody holds.
CREATE FUNCTION @wfe_claim(p_worker TEXT, p_statuses TEXT, p_limit INT, p_length BIGINT, p_workflows TEXT, p_without TEXT, p_now BIGINT)
RETURNS TABLE (e @workflow_executions, taken_over BOOLEAN) LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    statuses TEXT[] := ARRAY(SELECT json_array_elements_text(p_statuses::json));
    workflows TEXT[] := ARRAY(SELECT json_array_elements_text(p_workflows::json));
    passed TEXT[] := ARRAY(SELECT json_array_elements_text(p_without::json));
    moment BIGINT := @wfe_now(p_now);
    candidates TEXT[];
    got TEXT[];
    ended TEXT[];
    claimed TEXT[] := '{}';
    taken TEXT[] := '{}';
BEGIN
    -- Found without a lock, then locked: with one in the search, all that is found for the other statuses would be locked, too.
    LOOP
        IF p_workflows IS NULL THEN
            candidates := ARRAY(SELECT c.id FROM unnest(statuses) AS s (status)
                CROSS JOIN LATERAL (SELECT x.workflow_execution_id AS id, x.created_at FROM @workflow_executions x
                    WHERE x.status = s.status AND (x.claim_until IS NULL OR x.claim_until <= moment)
                        AND x.workflow_execution_id <> ALL (passed)
                    ORDER BY x.created_at, x.workflow_execution_id LIMIT p_limit) AS c
                ORDER BY c.created_at, c.id LIMIT p_limit - cardinality(claimed));
        ELSE
            candidates := ARRAY(SELECT c.id FROM unnest(workflows) AS w (id) CROSS JOIN unnest(statuses) AS s (status)
                CROSS JOIN LATERAL (SELECT x.workflow_execution_id AS id, x.created_at FROM @workflow_executions x
                    WHERE x.workflow_id = w.id AND x.status = s.status AND (x.claim_until IS NULL OR x.claim_until <= moment)
                        AND x.workflow_execution_id <> ALL (passed)
                    ORDER BY x.created_at + 0, x.workflow_execution_id LIMIT p_limit) AS c
                ORDER BY c.created_at, c.id LIMIT p_limit - cardinality(claimed));
        END IF;
        EXIT WHEN cardinality(candidates) = 0;
        SELECT array_agg(f.id), array_agg(f.id) FILTER (WHERE f.held) INTO got, ended
        FROM (SELECT x.workflow_execution_id AS id, x.claim_until IS NOT NULL AS held FROM @workflow_executions x
            WHERE x.workflow_execution_id = ANY (candidates) AND x.status || '' = ANY (statuses)
                AND (p_workflows IS NULL OR x.workflow_id || '' = ANY (workflows)) AND (x.claim_until IS NULL OR x.claim_until <= moment)
            ORDER BY x.workflow_execution_id FOR NO KEY UPDATE SKIP LOCKED) AS f;
        claimed := claimed || coalesce(got, '{}');
        taken := taken || coalesce(ended, '{}');
        passed := passed || candidates;
        EXIT WHEN cardinality(claimed) >= p_limit;
    END LOOP;
    IF cardinality(claimed) = 0 THEN
        RETURN;
    END IF;
    UPDATE @workflow_executions x SET claimed_by = p_worker, claim_until = @wfe_now(p_now) + p_length, claim_fence = x.claim_fence + 1,
        takeovers = x.takeovers + (x.claim_until IS NOT NULL)::int
    WHERE x.workflow_execution_id = ANY (claimed);
    RETURN QUERY SELECT x, x.workflow_execution_id = ANY (taken) FROM @workflow_executions x
        WHERE x.workflow_execution_id = ANY (claimed) ORDER BY x.created_at, x.workflow_execution_id;
END $$;

-- Each claim: [execution, fence]. What another transaction holds at the moment is mostly being written under this very claim; it is renewed
-- the next time.
CREATE FUNCTION @wfe_renew(p_claims TEXT, p_length BIGINT, p_now BIGINT) RETURNS TABLE (held BOOLEAN) LANGUAGE plpgsql
SET enable_seqscan = off AS $$
BEGIN
    UPDATE @workflow_executions SET claim_until = @wfe_now(p_now) + p_length
    WHERE workflow_execution_id = ANY (ARRAY(SELECT x.workflow_execution_id FROM @workflow_executions x
        WHERE x.workflow_execution_id = ANY (ARRAY(SELECT c.value ->> 0 FROM json_array_elements(p_claims::json) AS c (value)))
            AND x.claim_until IS NOT NULL AND EXISTS (SELECT 1 FROM json_array_elements(p_claims::json) AS c (value)
                WHERE c.value ->> 0 = x.workflow_execution_id AND (c.value ->> 1)::bigint = x.claim_fence)
        ORDER BY x.workflow_execution_id FOR NO KEY UPDATE SKIP LOCKED));
    RETURN QUERY SELECT (SELECT TRUE FROM @workflow_executions x WHERE x.workflow_execution_id = c.value ->> 0
            AND x.claim_fence = (c.value ->> 1)::bigint AND x.claim_until IS NOT NULL) IS TRUE
        FROM json_array_elements(p_claims::json) WITH ORDINALITY AS c (value, n) ORDER BY c.n;
END $$;

CREATE FUNCTION @wfe_release(p_id TEXT, p_fence BIGINT) RETURNS void LANGUAGE plpgsql AS $$
DECLARE present TEXT;
BEGIN
    UPDATE @workflow_executions SET claimed_by = NULL, claim_until = NULL
    WHERE workflow_execution_id = p_id AND claim_fence = p_fence AND claim_until IS NOT NULL RETURNING status INTO present;
    IF present IN ('PENDING', 'RUNNING', 'COMPENSATING') THEN
        PERFORM @wfe_wake();
    END IF;
END $$;
