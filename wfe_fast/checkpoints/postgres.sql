-- The statements of contract B on PostgreSQL; those that read and then write call a function of the migrations. Each is one round trip.
-- A list travels as one JSON text, so that the text of a statement never changes and it stays prepared. Every parameter has a cast, or a
-- function that says its type. `@name` becomes the quoted name in the store's schema, with its prefix.

-- part: execution
e.workflow_execution_id, e.workflow_id, e.status, e.current_step, e.input_data, e.output_data, e.error_message, e.ttl_expires_at,
e.guarantee, e.created_at, e.updated_at, e.cancel_requested, e.claim_fence, e.takeovers

-- part: execution_of_call
-- The same of what a function returns.
(f.e).workflow_execution_id, (f.e).workflow_id, (f.e).status, (f.e).current_step, (f.e).input_data, (f.e).output_data, (f.e).error_message,
(f.e).ttl_expires_at, (f.e).guarantee, (f.e).created_at, (f.e).updated_at, (f.e).cancel_requested, (f.e).claim_fence, (f.e).takeovers

-- part: checkpoint
id, workflow_execution_id, step_index, step_name, status, input_data, output_data, error_message, attempt, compensate_ref, started_at,
completed_at, kind, error_type, is_final

-- part: checkpoint_of_call
(f.c).id, (f.c).workflow_execution_id, (f.c).step_index, (f.c).step_name, (f.c).status, (f.c).input_data, (f.c).output_data,
(f.c).error_message, (f.c).attempt, (f.c).compensate_ref, (f.c).started_at, (f.c).completed_at, (f.c).kind, (f.c).error_type, (f.c).is_final

-- part: timer
workflow_timer_id, workflow_execution_id, step_name, fire_at, status, created_at

-- part: signal
workflow_signal_id, workflow_execution_id, signal_name, payload, status, created_at

-- part: page
(e.created_at, e.workflow_execution_id) > (:after_time::bigint, :after_id::text)
ORDER BY e.created_at, e.workflow_execution_id LIMIT :limit::int

-- part: page_of_both
-- The same in the order that one index alone has, see there.
(e.created_at + 0, e.workflow_execution_id) > (:after_time::bigint, :after_id::text)
ORDER BY e.created_at + 0, e.workflow_execution_id LIMIT :limit::int

-- ---- workflows and executions ----------------------------------------------------------------------------------------------

-- name: save_workflow(workflow_id, workflow_type, version, created_at)
INSERT INTO @workflows (workflow_id, workflow_type, version, created_at)
VALUES (:workflow_id::text, :workflow_type::text, :version::int, :created_at::bigint)
ON CONFLICT (workflow_id) DO UPDATE
SET workflow_type = excluded.workflow_type, version = excluded.version, created_at = excluded.created_at;

-- name: load_workflow(workflow_id)
SELECT workflow_id, workflow_type, version, created_at FROM @workflows WHERE workflow_id = :workflow_id::text;

-- name: save_execution(execution_id, workflow_id, status, current_step, input_data, output_data, error_message, ttl_expires_at, guarantee, created_at, updated_at, fence)
SELECT @wfe_save_execution(:execution_id, :workflow_id, :status, :current_step, :input_data, :output_data, :error_message, :ttl_expires_at,
    :guarantee, :created_at, :updated_at, :fence);

-- name: load_execution(execution_id)
SELECT {execution} FROM @workflow_executions e WHERE workflow_execution_id = :execution_id::text;

-- name: execution_state(execution_id)
SELECT status, claim_fence FROM @workflow_executions WHERE workflow_execution_id = :execution_id::text;

-- name: load_by_status(statuses)
SELECT {execution} FROM @wfe_by_status(:statuses) e;

-- name: list_executions(after_time, after_id, limit)
SELECT {execution} FROM @workflow_executions e WHERE {page};

-- name: list_executions_by_status(status, after_time, after_id, limit)
SELECT {execution} FROM @workflow_executions e WHERE status = :status::text AND {page};

-- name: list_executions_by_workflow(workflow_id, after_time, after_id, limit)
SELECT {execution} FROM @workflow_executions e WHERE workflow_id = :workflow_id::text AND {page};

-- name: list_executions_by_both(workflow_id, status, after_time, after_id, limit)
SELECT {execution} FROM @workflow_executions e WHERE workflow_id = :workflow_id::text AND status = :status::text AND {page_of_both};

-- name: count_executions()
SELECT status, count(*) FROM @workflow_executions GROUP BY status;

-- name: delete_execution(execution_id)
-- What belongs to it goes by the foreign keys.
DELETE FROM @workflow_executions WHERE workflow_execution_id = :execution_id::text;

-- name: delete_completed_before(statuses, cutoff)
DELETE FROM @workflow_executions
WHERE status = ANY (ARRAY(SELECT json_array_elements_text(:statuses::json))) AND ended_at IS NOT NULL AND ended_at < :cutoff::bigint;

-- ---- checkpoints, timers, signals ------------------------------------------------------------------------------------------

-- name: save_checkpoints(rows)
SELECT @wfe_save_checkpoints(:rows);

-- name: load_checkpoints(execution_id)
SELECT {checkpoint} FROM @step_checkpoints WHERE workflow_execution_id = :execution_id::text ORDER BY step_index, attempt;

-- name: save_timer(execution_id, fence, rows)
SELECT @wfe_save_timer(:execution_id, :fence, :rows);

-- name: load_pending_timers()
SELECT {timer} FROM @workflow_timers WHERE status = 'PENDING' ORDER BY fire_at, workflow_timer_id;

-- name: load_due_timers(now, limit)
SELECT {timer} FROM @workflow_timers WHERE status = 'PENDING' AND fire_at <= :now::bigint
ORDER BY fire_at, workflow_timer_id LIMIT :limit::int;

-- name: next_due()
SELECT fire_at FROM @workflow_timers WHERE status = 'PENDING' ORDER BY fire_at, workflow_timer_id LIMIT 1;

-- name: delete_old_timers(cutoff)
DELETE FROM @workflow_timers WHERE status IN ('FIRED', 'CANCELLED') AND created_at < :cutoff::bigint;

-- name: save_signal(signal_id, execution_id, signal_name, payload, status, created_at, fence, wakes, now)
SELECT @wfe_save_signal(:signal_id, :execution_id, :signal_name, :payload, :status, :created_at, :fence, :wakes, :now);

-- name: load_pending_signals(execution_id)
SELECT {signal} FROM @workflow_signals WHERE workflow_execution_id = :execution_id::text AND status = 'PENDING'
ORDER BY created_at, workflow_signal_id;

-- name: load_pending_signals_named(execution_id, signal_name)
SELECT {signal} FROM @workflow_signals
WHERE workflow_execution_id = :execution_id::text AND signal_name = :signal_name::text AND status = 'PENDING'
ORDER BY created_at, workflow_signal_id;

-- name: delete_old_signals(cutoff)
DELETE FROM @workflow_signals WHERE status IN ('DELIVERED', 'EXPIRED') AND created_at < :cutoff::bigint;

-- ---- claims ----------------------------------------------------------------------------------------------------------------

-- name: claim(worker_id, statuses, limit, length, workflows, without, now)
SELECT {execution_of_call}, f.taken_over FROM @wfe_claim(:worker_id, :statuses, :limit, :length, :workflows, :without, :now) AS f;

-- name: renew(claims, length, now)
SELECT held FROM @wfe_renew(:claims, :length, :now);

-- name: release(execution_id, fence)
SELECT @wfe_release(:execution_id, :fence);

-- ---- what engines do -------------------------------------------------------------------------------------------------------

-- name: start(workflow_id, workflow_type, version, defined_at, execution_id, of_workflow, input_data, ttl_expires_at, guarantee, created_at, worker_id, length, now)
SELECT {execution_of_call}, f.is_new FROM @wfe_start(:workflow_id, :workflow_type, :version, :defined_at, :execution_id, :of_workflow,
    :input_data, :ttl_expires_at, :guarantee, :created_at, :worker_id, :length, :now) AS f;

-- name: step(execution_id, fence, current_step, step_index, step_name, status, input_data, output_data, error_message, attempt, compensate_ref, started_at, completed_at, kind, error_type, is_final, now)
SELECT @wfe_step(:execution_id, :fence, :current_step, :step_index, :step_name, :status, :input_data, :output_data, :error_message, :attempt,
    :compensate_ref, :started_at, :completed_at, :kind, :error_type, :is_final, :now);

-- name: advance(execution_id, fence, status, current_step, output_data, error_message, release, progress, checkpoints, timers, now)
SELECT @wfe_advance(:execution_id, :fence, :status, :current_step, :output_data, :error_message, :release, :progress, :checkpoints,
    :timers, :now);

-- name: wait_for_signal(execution_id, fence, current_step, wait, checkpoints, timers, error_type, error_message, now)
SELECT f.stored, {checkpoint_of_call} FROM @wfe_wait_for_signal(:execution_id, :fence, :current_step, :wait, :checkpoints, :timers,
    :error_type, :error_message, :now) AS f;

-- name: cancel(execution_id, compensate, now)
SELECT @wfe_cancel(:execution_id, :compensate, :now);

-- name: wake_due(limit, now)
SELECT @wfe_wake_due(:limit, :now);

-- name: next_work(workflows, without, now)
SELECT due, now FROM @wfe_next_work(:workflows, :without, :now);

-- ---- the store -------------------------------------------------------------------------------------------------------------

-- name: server_time()
SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;

-- name: schema_version(line)
SELECT @wfe_version(:line);

-- name: schema_objects(schema)
SELECT 'column', c.relname, a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
WHERE n.nspname = :schema::text AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'index', c.relname, '' FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = :schema::text AND c.relkind = 'i'
UNION ALL
SELECT 'function', p.proname, '' FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = :schema::text;
