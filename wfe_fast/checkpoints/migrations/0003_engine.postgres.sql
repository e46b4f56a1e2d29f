-- What engines do, one function each; see 0002.

CREATE FUNCTION @wfe_start(p_workflow TEXT, p_type TEXT, p_version INT, p_defined BIGINT, p_id TEXT, p_of TEXT, p_input TEXT, p_ttl BIGINT,
    p_guarantee TEXT, p_created BIGINT, p_worker TEXT, p_length BIGINT, p_now BIGINT)
RETURNS TABLE (e @workflow_executions, is_new BOOLEAN) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO @workflows (workflow_id, workflow_type, version, created_at) VALUES (p_workflow, p_type, p_version, p_defined)
    ON CONFLICT (workflow_id) DO NOTHING;
    LOOP
        INSERT INTO @workflow_executions AS x (workflow_execution_id, workflow_id, status, input_data, ttl_expires_at, guarantee, created_at,
            updated_at, claimed_by, claim_until, claim_fence)
        VALUES (p_id, p_of, 'RUNNING', p_input, p_ttl, p_guarantee, p_created, p_created, p_worker,
            CASE WHEN p_worker IS NOT NULL THEN @wfe_now(p_now) + p_length END, (p_worker IS NOT NULL)::int)
        ON CONFLICT (workflow_execution_id) DO NOTHING RETURNING x.* INTO e;
        is_new := FOUND;
        IF is_new THEN
            IF p_worker IS NULL THEN
                PERFORM @wfe_wake();
            END IF;
        ELSE
            SELECT x.* INTO e FROM @workflow_executions x WHERE x.workflow_execution_id = p_id;
        END IF;
        EXIT WHEN FOUND;  -- or it was deleted in this very moment
    END LOOP;
    RETURN NEXT;
END $$;

-- Change an execution under its claim; the status that it has then. A cancellation that wants the steps undone turns every status but the last one
-- into COMPENSATING, and lets the claim go on.
CREATE FUNCTION @wfe_move(p_id TEXT, p_fence BIGINT, p_status TEXT, p_step INT, p_output TEXT, p_error TEXT, p_release BOOLEAN,
    p_progress BOOLEAN, p_waiting TEXT, p_now BIGINT) RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE
    stored TEXT;
    last CONSTANT BOOLEAN := p_status IN ('FAILED', 'CANCELLED');
BEGIN
    UPDATE @workflow_executions SET
        status = CASE WHEN NOT cancel_requested THEN p_status WHEN last THEN 'CANCELLED' ELSE 'COMPENSATING' END,
        current_step = p_step, output_data = p_output,
        -- That it once did not fit its function is no reason any more where it goes on.
        error_message = CASE WHEN starts_with(error_message, 'NonDeterminismError: ') THEN p_error ELSE coalesce(p_error, error_message) END,
        updated_at = @wfe_now(p_now), waiting_for = p_waiting, takeovers = CASE WHEN p_progress THEN 0 ELSE takeovers END,
        claimed_by = CASE WHEN p_release AND (NOT cancel_requested OR last) THEN NULL ELSE claimed_by END,
        claim_until = CASE WHEN p_release AND (NOT cancel_requested OR last) THEN NULL ELSE claim_until END
    WHERE workflow_execution_id = p_id AND claim_fence = p_fence AND status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')
    RETURNING status INTO stored;
    IF stored IS NULL THEN
        PERFORM @wfe_refuse(CASE WHEN EXISTS (SELECT 1 FROM @workflow_executions WHERE workflow_execution_id = p_id)
            THEN 'WFCL1' ELSE 'WFEN1' END, p_id);
    ELSIF p_release AND stored IN ('PENDING', 'RUNNING', 'COMPENSATING') THEN
        PERFORM @wfe_wake();
    END IF;
    RETURN stored;
END $$;

-- An execution has ended: nothing of it is waited for any more. To be called behind the lock of its row.
CREATE FUNCTION @wfe_settle(p_id TEXT) RETURNS void LANGUAGE sql VOLATILE AS $$
    UPDATE @workflow_timers SET status = 'CANCELLED' WHERE workflow_execution_id = p_id AND status || '' = 'PENDING';
    UPDATE @workflow_signals SET status = 'EXPIRED' WHERE workflow_execution_id = p_id AND status || '' = 'PENDING';
$$;

-- The common case: it runs and goes on running, with one checkpoint more. What is not written moves no entry of an index.
CREATE FUNCTION @wfe_step(p_id TEXT, p_fence BIGINT, p_step INT, p_index INT, p_name TEXT, p_status TEXT, p_input TEXT, p_output TEXT,
    p_error TEXT, p_attempt INT, p_ref TEXT, p_started BIGINT, p_completed BIGINT, p_kind TEXT, p_type TEXT, p_final BOOLEAN, p_now BIGINT)
RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE stored TEXT := 'RUNNING';
BEGIN
    UPDATE @workflow_executions SET current_step = p_step, takeovers = CASE WHEN p_status = 'INTENT' THEN takeovers ELSE 0 END,
        updated_at = coalesce(p_now, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    WHERE workflow_execution_id = p_id AND claim_fence = p_fence AND status || '' = 'RUNNING';
    IF NOT FOUND THEN
        stored := @wfe_move(p_id, p_fence, 'RUNNING', p_step, NULL, NULL, FALSE, p_status <> 'INTENT', NULL, p_now);
    END IF;
    INSERT INTO @step_checkpoints (workflow_execution_id, step_index, step_name, status, input_data, output_data, error_message, attempt,
        compensate_ref, started_at, completed_at, kind, error_type, is_final)
    VALUES (p_id, p_index, p_name, p_status, p_input, p_output, p_error, p_attempt, p_ref, p_started, p_completed, p_kind, p_type, p_final)
    ON CONFLICT (workflow_execution_id, step_index, attempt) DO UPDATE SET step_name = excluded.step_name, status = excluded.status,
        input_data = excluded.input_data, output_data = excluded.output_data, error_message = excluded.error_message,
        compensate_ref = excluded.compensate_ref, started_at = excluded.started_at, completed_at = excluded.completed_at,
        kind = excluded.kind, error_type = excluded.error_type, is_final = excluded.is_final;
    RETURN stored;
END $$;

CREATE FUNCTION @wfe_advance(p_id TEXT, p_fence BIGINT, p_status TEXT, p_step INT, p_output TEXT, p_error TEXT, p_release BOOLEAN,
    p_progress BOOLEAN, p_checkpoints TEXT, p_timers TEXT, p_now BIGINT) RETURNS TEXT LANGUAGE plpgsql AS $$
DECLARE stored TEXT := @wfe_move(p_id, p_fence, p_status, p_step, p_output, p_error, p_release, p_progress, NULL, p_now);
BEGIN
    IF p_checkpoints IS NOT NULL THEN
        PERFORM @wfe_put_checkpoints(p_checkpoints);
    END IF;
    IF p_timers IS NOT NULL THEN
        PERFORM @wfe_put_timers(p_timers);
    END IF;
    IF stored IN ('COMPLETED', 'FAILED', 'CANCELLED') THEN
        PERFORM @wfe_settle(p_id);
    END IF;
    RETURN stored;
END $$;

-- Take the oldest signal of the name that the wait's row has, or suspend the execution until one comes, or let its time be over.
CREATE FUNCTION @wfe_wait_for_signal(p_id TEXT, p_fence BIGINT, p_step INT, p_wait TEXT, p_checkpoints TEXT, p_timers TEXT, p_type TEXT,
    p_message TEXT, p_now BIGINT) RETURNS TABLE (stored TEXT, c @step_checkpoints) LANGUAGE plpgsql AS $$
DECLARE
    w JSON := p_wait::json;
    signal BIGINT;
    message TEXT;
    outcome TEXT := p_wait;
BEGIN
    -- First the row: signals are sent behind its lock.
    PERFORM 1 FROM @workflow_executions WHERE workflow_execution_id = p_id FOR NO KEY UPDATE;
    SELECT x.* INTO c FROM @step_checkpoints x WHERE x.workflow_execution_id = p_id AND x.step_index = (w ->> 1)::int
        AND x.attempt = (w ->> 7)::int;
    IF c.status <> 'INTENT' THEN
        stored := @wfe_advance(p_id, p_fence, 'RUNNING', p_step, NULL, NULL, FALSE, TRUE, p_checkpoints, NULL, p_now);
        RETURN NEXT;
        RETURN;
    END IF;
    SELECT s.workflow_signal_id, s.payload INTO signal, message FROM @workflow_signals s
    WHERE s.workflow_execution_id = p_id AND s.signal_name = w ->> 2 AND s.status = 'PENDING'
    ORDER BY s.created_at, s.workflow_signal_id LIMIT 1;
    IF signal IS NULL AND p_type IS NULL THEN
        stored := @wfe_move(p_id, p_fence, 'SUSPENDED', p_step, NULL, NULL, TRUE, TRUE, w ->> 2, p_now);
        IF p_timers IS NOT NULL THEN
            PERFORM @wfe_put_timers(p_timers);
        END IF;
    ELSE
        stored := @wfe_move(p_id, p_fence, 'RUNNING', p_step, NULL, NULL, FALSE, TRUE, NULL, p_now);
        IF stored <> 'COMPENSATING' THEN
            IF signal IS NOT NULL THEN
                outcome := json_build_array(w -> 0, w -> 1, w -> 2, 'COMPLETED', w -> 4, message, w -> 6, w -> 7, w -> 8, w -> 9,
                    @wfe_now(p_now), w -> 11, w -> 12, w -> 13)::text;
                UPDATE @workflow_signals s SET status = 'DELIVERED' WHERE s.workflow_signal_id = signal;
            ELSE
                outcome := json_build_array(w -> 0, w -> 1, w -> 2, 'FAILED', w -> 4, w -> 5, p_message, w -> 7, w -> 8, w -> 9,
                    @wfe_now(p_now), w -> 11, p_type, 1)::text;
            END IF;
            UPDATE @workflow_timers t SET status = 'CANCELLED'
            WHERE t.workflow_timer_id = ANY (ARRAY(SELECT r.value ->> 0 FROM json_array_elements(p_timers::json) AS r (value)))
                AND t.status || '' = 'PENDING';
        END IF;
    END IF;
    IF p_checkpoints IS NOT NULL THEN
        PERFORM @wfe_put_checkpoints(p_checkpoints);
    END IF;
    PERFORM @wfe_put_checkpoints('[' || outcome || ']');
    SELECT x.* INTO c FROM @step_checkpoints x WHERE x.workflow_execution_id = p_id AND x.step_index = (w ->> 1)::int
        AND x.attempt = (w ->> 7)::int;
    RETURN NEXT;
END $$;

CREATE FUNCTION @wfe_cancel(p_id TEXT, p_compensate BOOLEAN, p_now BIGINT) RETURNS BOOLEAN LANGUAGE plpgsql AS $$
DECLARE present TEXT;
BEGIN
    SELECT status INTO present FROM @workflow_executions WHERE workflow_execution_id = p_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM @wfe_refuse('WFEN1', p_id);
    ELSIF present IN ('COMPLETED', 'FAILED', 'CANCELLED') THEN
        RETURN FALSE;
    ELSIF p_compensate OR present = 'COMPENSATING' THEN
        UPDATE @workflow_executions SET status = 'COMPENSATING', cancel_requested = TRUE, updated_at = @wfe_now(p_now), waiting_for = NULL
        WHERE workflow_execution_id = p_id;
        PERFORM @wfe_wake();
    ELSE
        -- The fence moves, so that whoever runs it now can record nothing more.
        UPDATE @workflow_executions SET status = 'CANCELLED', updated_at = @wfe_now(p_now), waiting_for = NULL, claimed_by = NULL,
            claim_until = NULL, claim_fence = claim_fence + 1
        WHERE workflow_execution_id = p_id;
        PERFORM @wfe_settle(p_id);
    END IF;
    RETURN TRUE;
END $$;

-- ---- what is due -----------------------------------------------------------------------------------------------------------

-- Fire at most `p_limit` timers that are due, and wake what was suspended for them; and at most so many whose time is over. What another
-- transaction holds is left for the next time.
CREATE FUNCTION @wfe_wake_due(p_limit INT, p_now BIGINT) RETURNS BIGINT LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    moment BIGINT := @wfe_now(p_now);
    timers TEXT[];
    sleeping TEXT[];
    expired TEXT[];
    held TEXT[];
    woken TEXT[];
    fired TEXT[];
BEGIN
    SELECT array_agg(d.timer), array_agg(d.execution) INTO timers, sleeping
    FROM (SELECT workflow_timer_id AS timer, workflow_execution_id AS execution FROM @workflow_timers
        WHERE status = 'PENDING' AND fire_at <= moment ORDER BY fire_at, workflow_timer_id LIMIT p_limit) AS d;
    expired := ARRAY(SELECT workflow_execution_id FROM @workflow_executions WHERE status = 'SUSPENDED' AND ttl_expires_at IS NOT NULL
        AND ttl_expires_at < moment ORDER BY ttl_expires_at LIMIT p_limit);
    IF timers IS NULL AND cardinality(expired) = 0 THEN
        RETURN 0;
    END IF;
    held := ARRAY(SELECT workflow_execution_id FROM @workflow_executions WHERE workflow_execution_id = ANY (sleeping || expired)
        ORDER BY workflow_execution_id FOR NO KEY UPDATE SKIP LOCKED);
    -- Behind the locks: things may not be as they were found.
    WITH done AS (UPDATE @workflow_timers SET status = 'FIRED'
        WHERE workflow_timer_id = ANY (timers) AND status || '' = 'PENDING' AND fire_at <= moment AND workflow_execution_id = ANY (held)
        RETURNING workflow_execution_id AS id)
    SELECT array_agg(id) INTO fired FROM done;
    expired := ARRAY(SELECT workflow_execution_id FROM @workflow_executions WHERE workflow_execution_id = ANY (expired)
        AND workflow_execution_id = ANY (held) AND status || '' = 'SUSPENDED' AND ttl_expires_at < moment);
    WITH done AS (UPDATE @workflow_executions SET status = 'RUNNING', updated_at = moment, waiting_for = NULL
        WHERE workflow_execution_id = ANY (fired || expired) AND status || '' = 'SUSPENDED' RETURNING workflow_execution_id AS id)
    SELECT array_agg(id) INTO woken FROM done;
    IF woken IS NOT NULL THEN
        PERFORM @wfe_wake();
    END IF;
    RETURN coalesce(cardinality(fired), 0) + cardinality(expired);
END $$;

-- The earliest moment at which there is something to claim or to wake, and now.
CREATE FUNCTION @wfe_next_work(p_workflows TEXT, p_without TEXT, p_now BIGINT) RETURNS TABLE (due BIGINT, now BIGINT)
LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    workflows TEXT[] := ARRAY(SELECT json_array_elements_text(p_workflows::json));
    without TEXT[] := ARRAY(SELECT json_array_elements_text(p_without::json));
    statuses CONSTANT TEXT[] := '{PENDING,RUNNING,COMPENSATING}';
BEGIN
    now := @wfe_now(p_now);
    due := now;
    -- The lateral join walks each part of the index as far as its first free one.
    IF NOT EXISTS (SELECT 1 FROM unnest(workflows) AS w (id) CROSS JOIN unnest(statuses) AS s (status)
        CROSS JOIN LATERAL (SELECT 1 FROM @workflow_executions x WHERE x.workflow_id = w.id AND x.status = s.status
            AND (x.claim_until IS NULL OR x.claim_until <= now) AND x.workflow_execution_id <> ALL (without)
            ORDER BY x.created_at + 0, x.workflow_execution_id LIMIT 1) AS free)
    THEN
        due := least(
            (SELECT fire_at FROM @workflow_timers WHERE status = 'PENDING' ORDER BY fire_at, workflow_timer_id LIMIT 1),
            (SELECT ttl_expires_at FROM @workflow_executions WHERE status = 'SUSPENDED' AND ttl_expires_at IS NOT NULL
                ORDER BY ttl_expires_at LIMIT 1),
            -- Nothing is free: the rows that are walked are those that somebody works on.
            (SELECT min(ends.first) FROM unnest(workflows) AS w (id) CROSS JOIN unnest(statuses) AS s (status)
                CROSS JOIN LATERAL (SELECT min(x.claim_until) AS first FROM @workflow_executions x
                    WHERE x.workflow_id = w.id AND x.status = s.status AND x.workflow_execution_id <> ALL (without)) AS ends));
    END IF;
    RETURN NEXT;
END $$;
