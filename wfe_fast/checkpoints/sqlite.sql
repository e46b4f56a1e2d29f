-- The statements of contract B on SQLite. Parameters stand in the head in the order in which they are bound.

-- part: execution
e.workflow_execution_id, e.workflow_id, e.status, e.current_step, e.input_data, e.output_data, e.error_message, e.ttl_expires_at,
e.guarantee, e.created_at, e.updated_at, e.cancel_requested, e.claim_fence, e.takeovers

-- part: checkpoint
id, workflow_execution_id, step_index, step_name, status, input_data, output_data, error_message, attempt, compensate_ref, started_at,
completed_at, kind, error_type, is_final

-- part: timer
workflow_timer_id, workflow_execution_id, step_name, fire_at, status, created_at

-- part: signal
workflow_signal_id, workflow_execution_id, signal_name, payload, status, created_at

-- part: open
status NOT IN ('COMPLETED', 'FAILED', 'CANCELLED')

-- part: free
(claim_until IS NULL OR claim_until <= :now)

-- part: given_back
:release AND (NOT cancel_requested OR :status IN ('FAILED', 'CANCELLED'))

-- part: the_claim
workflow_execution_id = :execution_id AND (:fence IS NULL OR claim_fence = :fence)

-- ---- workflows -----------------------------------------------------------------------------------------------------------------

-- name: save_workflow(workflow_id, workflow_type, version, created_at)
INSERT INTO workflows (workflow_id, workflow_type, version, created_at) VALUES (:workflow_id, :workflow_type, :version, :created_at)
ON CONFLICT (workflow_id) DO UPDATE
SET workflow_type = excluded.workflow_type, version = excluded.version, created_at = excluded.created_at;

-- name: add_workflow(workflow_id, workflow_type, version, created_at)
INSERT INTO workflows (workflow_id, workflow_type, version, created_at) VALUES (:workflow_id, :workflow_type, :version, :created_at)
ON CONFLICT (workflow_id) DO NOTHING;

-- name: load_workflow(workflow_id)
SELECT workflow_id, workflow_type, version, created_at FROM workflows WHERE workflow_id = :workflow_id;

-- ---- executions ----------------------------------------------------------------------------------------------------------------

-- name: save_execution(execution_id, workflow_id, status, current_step, input_data, output_data, error_message, ttl_expires_at, guarantee, created_at, updated_at)
-- Nothing is inserted where the workflow is not there. The claim is left alone.
INSERT INTO workflow_executions (workflow_execution_id, workflow_id, status, current_step, input_data, output_data, error_message,
    ttl_expires_at, guarantee, created_at, updated_at)
SELECT :execution_id, workflow_id, :status, :current_step, :input_data, :output_data, :error_message, :ttl_expires_at, :guarantee,
    :created_at, :updated_at
FROM workflows WHERE workflow_id = :workflow_id
ON CONFLICT (workflow_execution_id) DO UPDATE SET workflow_id = excluded.workflow_id, status = excluded.status,
    current_step = excluded.current_step, input_data = excluded.input_data, output_data = excluded.output_data,
    error_message = excluded.error_message, ttl_expires_at = excluded.ttl_expires_at, guarantee = excluded.guarantee,
    created_at = excluded.created_at, updated_at = excluded.updated_at;

-- name: save_claimed_execution(execution_id, workflow_id, status, current_step, input_data, output_data, error_message, ttl_expires_at, guarantee, created_at, updated_at, fence)
UPDATE workflow_executions SET workflow_id = :workflow_id, status = :status, current_step = :current_step, input_data = :input_data,
    output_data = :output_data, error_message = :error_message, ttl_expires_at = :ttl_expires_at, guarantee = :guarantee,
    created_at = :created_at, updated_at = :updated_at
WHERE workflow_execution_id = :execution_id AND claim_fence = :fence AND EXISTS (SELECT 1 FROM workflows WHERE workflow_id = :workflow_id);

-- name: start_execution(execution_id, workflow_id, input_data, ttl_expires_at, guarantee, created_at, claimed_by, claim_until)
INSERT INTO workflow_executions (workflow_execution_id, workflow_id, status, input_data, ttl_expires_at, guarantee, created_at, updated_at,
    claimed_by, claim_until, claim_fence)
VALUES (:execution_id, :workflow_id, 'RUNNING', :input_data, :ttl_expires_at, :guarantee, :created_at, :created_at, :claimed_by, :claim_until,
    :claim_until IS NOT NULL)
ON CONFLICT (workflow_execution_id) DO NOTHING;

-- name: load_execution(execution_id)
SELECT {execution} FROM workflow_executions e WHERE workflow_execution_id = :execution_id;

-- name: execution_state(execution_id)
SELECT status, claim_fence FROM workflow_executions WHERE workflow_execution_id = :execution_id;

-- name: load_executions_by_status(status)
SELECT {execution} FROM workflow_executions e INDEXED BY executions_by_status
WHERE status = :status ORDER BY created_at, workflow_execution_id;

-- name: list_executions(after_time, after_id, limit)
SELECT {execution} FROM workflow_executions e INDEXED BY executions_by_creation
WHERE (created_at, workflow_execution_id) > (:after_time, :after_id) ORDER BY created_at, workflow_execution_id LIMIT :limit;

-- name: list_executions_by_status(status, after_time, after_id, limit)
SELECT {execution} FROM workflow_executions e INDEXED BY executions_by_status
WHERE status = :status AND (created_at, workflow_execution_id) > (:after_time, :after_id)
ORDER BY created_at, workflow_execution_id LIMIT :limit;

-- name: list_executions_by_workflow(workflow_id, after_time, after_id, limit)
SELECT {execution} FROM workflow_executions e INDEXED BY executions_of_workflow
WHERE workflow_id = :workflow_id AND (created_at, workflow_execution_id) > (:after_time, :after_id)
ORDER BY created_at, workflow_execution_id LIMIT :limit;

-- name: list_executions_by_both(workflow_id, status, after_time, after_id, limit)
SELECT {execution} FROM workflow_executions e INDEXED BY executions_by_workflow
WHERE workflow_id = :workflow_id AND status = :status AND (created_at, workflow_execution_id) > (:after_time, :after_id)
ORDER BY created_at, workflow_execution_id LIMIT :limit;

-- name: count_executions()
SELECT status, count(*) FROM workflow_executions GROUP BY status;

-- name: delete_execution(execution_id)
-- What belongs to it goes by the foreign keys.
DELETE FROM workflow_executions WHERE workflow_execution_id = :execution_id;

-- name: delete_completed_before(status, cutoff)
DELETE FROM workflow_executions INDEXED BY executions_ended
WHERE status IN ('COMPLETED', 'FAILED', 'CANCELLED') AND status = :status AND updated_at < :cutoff;

-- ---- checkpoints ---------------------------------------------------------------------------------------------------------------

-- name: save_checkpoint(execution_id, step_index, step_name, status, input_data, output_data, error_message, attempt, compensate_ref, started_at, completed_at, kind, error_type, is_final, fence)
INSERT INTO step_checkpoints (workflow_execution_id, step_index, step_name, status, input_data, output_data, error_message, attempt,
    compensate_ref, started_at, completed_at, kind, error_type, is_final)
SELECT :execution_id, :step_index, :step_name, :status, :input_data, :output_data, :error_message, :attempt, :compensate_ref, :started_at,
    :completed_at, :kind, :error_type, :is_final
FROM workflow_executions WHERE {the_claim}
ON CONFLICT (workflow_execution_id, step_index, attempt) DO UPDATE SET step_name = excluded.step_name, status = excluded.status,
    input_data = excluded.input_data, output_data = excluded.output_data, error_message = excluded.error_message,
    compensate_ref = excluded.compensate_ref, started_at = excluded.started_at, completed_at = excluded.completed_at,
    kind = excluded.kind, error_type = excluded.error_type, is_final = excluded.is_final;

-- name: load_checkpoints(execution_id)
SELECT {checkpoint} FROM step_checkpoints WHERE workflow_execution_id = :execution_id ORDER BY step_index, attempt;

-- name: checkpoint_at(execution_id, step_index, attempt)
SELECT {checkpoint} FROM step_checkpoints WHERE workflow_execution_id = :execution_id AND step_index = :step_index AND attempt = :attempt;

-- ---- timers --------------------------------------------------------------------------------------------------------------------

-- name: save_timer(timer_id, execution_id, step_name, fire_at, status, created_at, fence)
INSERT INTO workflow_timers (workflow_timer_id, workflow_execution_id, step_name, fire_at, status, created_at)
SELECT :timer_id, :execution_id, :step_name, :fire_at, :status, :created_at FROM workflow_executions WHERE {the_claim}
ON CONFLICT (workflow_timer_id) DO UPDATE SET workflow_execution_id = excluded.workflow_execution_id, step_name = excluded.step_name,
    fire_at = excluded.fire_at, status = excluded.status, created_at = excluded.created_at;

-- name: load_pending_timers()
SELECT {timer} FROM workflow_timers INDEXED BY timers_pending WHERE status = 'PENDING' ORDER BY fire_at, workflow_timer_id;

-- name: load_due_timers(now, limit)
SELECT {timer} FROM workflow_timers INDEXED BY timers_pending WHERE status = 'PENDING' AND fire_at <= :now
ORDER BY fire_at, workflow_timer_id LIMIT :limit;

-- name: next_due()
SELECT fire_at FROM workflow_timers INDEXED BY timers_pending WHERE status = 'PENDING' ORDER BY fire_at LIMIT 1;

-- name: fire_timers(ids)
UPDATE workflow_timers SET status = 'FIRED' WHERE workflow_timer_id IN (SELECT value FROM json_each(:ids));

-- name: cancel_timers(execution_id)
UPDATE workflow_timers INDEXED BY timers_by_execution SET status = 'CANCELLED'
WHERE workflow_execution_id = :execution_id AND status = 'PENDING';

-- name: cancel_timer(timer_id)
UPDATE workflow_timers SET status = 'CANCELLED' WHERE workflow_timer_id = :timer_id AND +status = 'PENDING';

-- name: delete_old_timers(cutoff)
DELETE FROM workflow_timers INDEXED BY timers_settled WHERE status IN ('FIRED', 'CANCELLED') AND created_at < :cutoff;

-- ---- signals -------------------------------------------------------------------------------------------------------------------

-- name: add_signal(execution_id, signal_name, payload, status, created_at, fence)
INSERT INTO workflow_signals (workflow_execution_id, signal_name, payload, status, created_at)
SELECT :execution_id, :signal_name, :payload, :status, :created_at FROM workflow_executions WHERE {the_claim}
RETURNING workflow_signal_id;

-- name: save_signal(signal_id, execution_id, signal_name, payload, status, created_at, fence)
INSERT INTO workflow_signals (workflow_signal_id, workflow_execution_id, signal_name, payload, status, created_at)
SELECT :signal_id, :execution_id, :signal_name, :payload, :status, :created_at FROM workflow_executions WHERE {the_claim}
ON CONFLICT (workflow_signal_id) DO UPDATE SET workflow_execution_id = excluded.workflow_execution_id,
    signal_name = excluded.signal_name, payload = excluded.payload, status = excluded.status, created_at = excluded.created_at
RETURNING workflow_signal_id;

-- name: load_pending_signals(execution_id)
SELECT {signal} FROM workflow_signals INDEXED BY signals_by_execution
WHERE workflow_execution_id = :execution_id AND status = 'PENDING' ORDER BY created_at, workflow_signal_id;

-- name: load_pending_signals_named(execution_id, signal_name)
SELECT {signal} FROM workflow_signals INDEXED BY signals_pending
WHERE workflow_execution_id = :execution_id AND signal_name = :signal_name AND status = 'PENDING' ORDER BY created_at, workflow_signal_id;

-- name: oldest_signal(execution_id, signal_name)
SELECT workflow_signal_id, payload FROM workflow_signals INDEXED BY signals_pending
WHERE workflow_execution_id = :execution_id AND signal_name = :signal_name AND status = 'PENDING'
ORDER BY created_at, workflow_signal_id LIMIT 1;

-- name: deliver_signal(signal_id)
UPDATE workflow_signals SET status = 'DELIVERED' WHERE workflow_signal_id = :signal_id;

-- name: expire_signals(execution_id)
UPDATE workflow_signals INDEXED BY signals_by_execution SET status = 'EXPIRED'
WHERE workflow_execution_id = :execution_id AND status = 'PENDING';

-- name: delete_old_signals(cutoff)
DELETE FROM workflow_signals INDEXED BY signals_settled WHERE status IN ('DELIVERED', 'EXPIRED') AND created_at < :cutoff;

-- ---- claims --------------------------------------------------------------------------------------------------------------------

-- name: claimable(status, now, without, limit)
SELECT created_at, workflow_execution_id, claim_until IS NOT NULL FROM workflow_executions INDEXED BY executions_by_status
WHERE status = :status AND {free} AND workflow_execution_id NOT IN (SELECT value FROM json_each(:without))
ORDER BY created_at, workflow_execution_id LIMIT :limit;

-- name: claimable_of(workflow_id, status, now, without, limit)
SELECT created_at, workflow_execution_id, claim_until IS NOT NULL FROM workflow_executions INDEXED BY executions_by_workflow
WHERE workflow_id = :workflow_id AND status = :status AND {free} AND workflow_execution_id NOT IN (SELECT value FROM json_each(:without))
ORDER BY created_at, workflow_execution_id LIMIT :limit;

-- name: claim(execution_id, worker_id, until)
UPDATE workflow_executions SET claimed_by = :worker_id, claim_until = :until, claim_fence = claim_fence + 1,
    takeovers = takeovers + (claim_until IS NOT NULL)
WHERE workflow_execution_id = :execution_id;

-- name: renew_claim(execution_id, fence, until)
UPDATE workflow_executions SET claim_until = :until
WHERE workflow_execution_id = :execution_id AND claim_fence = :fence AND claim_until IS NOT NULL;

-- name: release_claim(execution_id, fence)
UPDATE workflow_executions SET claimed_by = NULL, claim_until = NULL
WHERE workflow_execution_id = :execution_id AND claim_fence = :fence AND claim_until IS NOT NULL;

-- name: any_claimable(workflows, statuses, now, without)
SELECT 1
FROM json_each(:workflows) w CROSS JOIN json_each(:statuses) s CROSS JOIN workflow_executions e INDEXED BY executions_by_workflow
    ON e.workflow_id = w.value AND e.status = s.value
WHERE {free} AND workflow_execution_id NOT IN (SELECT value FROM json_each(:without)) LIMIT 1;

-- name: next_lease_end(workflows, statuses, without)
-- For when nothing is free: then the rows that are walked are those that somebody works on.
SELECT min(claim_until)
FROM json_each(:workflows) w CROSS JOIN json_each(:statuses) s CROSS JOIN workflow_executions e INDEXED BY executions_by_workflow
    ON e.workflow_id = w.value AND e.status = s.value
WHERE workflow_execution_id NOT IN (SELECT value FROM json_each(:without));

-- ---- what engines do -------------------------------------------------------------------------------------------------------------

-- name: advance_step(execution_id, fence, current_step, now, progress)
-- The common case: it runs and goes on running. What is not written moves no entry of an index.
UPDATE workflow_executions SET current_step = :current_step, updated_at = :now, takeovers = iif(:progress, 0, takeovers)
WHERE workflow_execution_id = :execution_id AND claim_fence = :fence AND status = 'RUNNING';

-- name: advance(execution_id, fence, status, current_step, output_data, error_message, updated_at, waiting_for, release, progress)
-- A cancellation that wants the steps undone turns every status but the last one into COMPENSATING, and lets the claim go on.
-- Without RETURNING: its table of results costs more than the statement itself; asking for the status afterwards costs 3 µs.
UPDATE workflow_executions SET
    status = CASE WHEN NOT cancel_requested THEN :status WHEN :status IN ('FAILED', 'CANCELLED') THEN 'CANCELLED' ELSE 'COMPENSATING' END,
    current_step = :current_step, output_data = :output_data,
    -- That it once did not fit its function is no reason any more where it goes on.
    error_message = CASE WHEN error_message LIKE 'NonDeterminismError: %' THEN :error_message ELSE coalesce(:error_message, error_message) END,
    updated_at = :updated_at, waiting_for = :waiting_for, takeovers = iif(:progress, 0, takeovers),
    claimed_by = CASE WHEN {given_back} THEN NULL ELSE claimed_by END, claim_until = CASE WHEN {given_back} THEN NULL ELSE claim_until END
WHERE workflow_execution_id = :execution_id AND claim_fence = :fence AND {open};

-- name: cancel_execution(execution_id, now)
-- The fence moves, so that whoever runs it now can record nothing more.
UPDATE workflow_executions SET status = 'CANCELLED', updated_at = :now, waiting_for = NULL, claimed_by = NULL, claim_until = NULL,
    claim_fence = claim_fence + 1
WHERE workflow_execution_id = :execution_id AND {open} AND status <> 'COMPENSATING';

-- name: cancel_and_compensate(execution_id, now)
UPDATE workflow_executions SET status = 'COMPENSATING', cancel_requested = 1, updated_at = :now, waiting_for = NULL
WHERE workflow_execution_id = :execution_id AND {open};

-- name: wake_executions(ids, now)
-- The plus sign keeps it from walking everything that sleeps.
UPDATE workflow_executions SET status = 'RUNNING', updated_at = :now, waiting_for = NULL
WHERE workflow_execution_id IN (SELECT value FROM json_each(:ids)) AND +status = 'SUSPENDED';

-- name: wake_waiting(execution_id, signal_name, now)
UPDATE workflow_executions SET status = 'RUNNING', updated_at = :now, waiting_for = NULL
WHERE workflow_execution_id = :execution_id AND status = 'SUSPENDED' AND waiting_for = :signal_name;

-- name: expired_executions(now, limit)
SELECT workflow_execution_id FROM workflow_executions INDEXED BY executions_expiring
WHERE status = 'SUSPENDED' AND ttl_expires_at IS NOT NULL AND ttl_expires_at < :now ORDER BY ttl_expires_at LIMIT :limit;

-- name: next_expiry()
SELECT ttl_expires_at FROM workflow_executions INDEXED BY executions_expiring
WHERE status = 'SUSPENDED' AND ttl_expires_at IS NOT NULL ORDER BY ttl_expires_at LIMIT 1;

-- ---- schema --------------------------------------------------------------------------------------------------------------------

-- name: schema_version(line)
SELECT coalesce(max(version), 0) FROM wfe_fast_migrations WHERE line = :line;

-- name: schema_columns()
SELECT m.name, c.name FROM sqlite_schema m CROSS JOIN pragma_table_info(m.name) c WHERE m.type = 'table';

-- name: schema_indexes()
SELECT name FROM sqlite_schema WHERE type = 'index' AND name NOT LIKE 'sqlite_%';
