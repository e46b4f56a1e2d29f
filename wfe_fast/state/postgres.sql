-- The statements of contract C on PostgreSQL; those that read and then write call a function of the migrations. Each is one round trip.
-- Times are microseconds since the epoch here; `now` is null where the server's clock decides. A list travels as one JSON text, so that the text of a
-- statement never changes and it stays prepared. Every parameter has a cast, or a function that says its type.
-- `tenant` is the scope of the store: null where it serves all tenants. `@name` becomes the quoted name in the store's schema, with its prefix.

-- part: in_scope
(:tenant::text IS NULL OR tenant_id = :tenant::text)

-- part: execution
id, workflow_id, workflow_version, status, initial_input, current_state, @state_micros(started_at), @state_micros(updated_at),
    @state_micros(completed_at), session_type, parent_execution_id, segment_number

-- part: page
-- Behind the last row of the page before: later in the order of the list, latest first and equal times by their ids.
updated_at <= @state_moment(:before::bigint) AND (updated_at < @state_moment(:before::bigint) OR id > :after::uuid)
ORDER BY updated_at DESC, id LIMIT :limit::int OFFSET :offset::int

-- part: tenant_columns
id, name, status, policy, limits, @state_micros(created_at), @state_micros(updated_at)

-- part: token
id, name, role, @state_micros(created_at), @state_micros(expires_at), tenant_id, @state_micros(last_used_at)

-- part: held
-- The row is held under this very lease: as long as the row is there no fence of it comes again, and only a claimed item has one. (With the status the planner might rather walk
-- through all that is claimed, when that is not much.)
id = :id::uuid AND fence = :fence::bigint AND (:tenant::text IS NULL OR tenant_id = :tenant::text)

-- part: dead
-- As above: `|| ''` keeps it from being looked for among all dead letters.
i.id = :id::uuid AND i.status || '' = 'dead_lettered' AND (:tenant::text IS NULL OR i.tenant_id = :tenant::text)

-- ---- the store -------------------------------------------------------------------------------------------------------------

-- name: prepare()
-- The present moment of the server, and the role of the views where this one may work as it.
SELECT @state_prepare(), @state_role();

-- name: scope(tenant, role)
SELECT set_config('wfe_fast.tenant', :tenant::text, TRUE), set_config('role', :role::text, TRUE);

-- name: scope_alone(tenant)
SELECT set_config('wfe_fast.tenant', :tenant::text, TRUE);

-- name: raise_term(term, step, most)
SELECT @state_raise_term(:term, :step, :most);

-- ---- tenants ---------------------------------------------------------------------------------------------------------------

-- name: create_tenant(id, name, status, policy, limits, created_at, updated_at)
INSERT INTO @state_tenants (id, name, status, policy, limits, created_at, updated_at) VALUES (:id::text, :name::text, :status::text,
    :policy::text, :limits::text, @state_moment(:created_at::bigint), @state_moment(:updated_at::bigint));

-- name: update_tenant(id, name, status, policy, limits, now)
UPDATE @state_tenants SET name = :name::text, status = :status::text, policy = :policy::text, limits = :limits::text,
    updated_at = @state_now(:now::bigint) WHERE id = :id::text;

-- name: get_tenant(id)
SELECT {tenant_columns} FROM @state_tenants WHERE id = :id::text;

-- name: list_tenants()
SELECT {tenant_columns} FROM @state_tenants ORDER BY created_at, seq;

-- ---- definitions and executions --------------------------------------------------------------------------------------------

-- name: store_workflow(tenant_id, workflow_id, version, ir, created_at, now)
SELECT @state_store_workflow(:tenant_id, :workflow_id, :version, :ir, :created_at, :now);

-- name: get_workflow(tenant_id, workflow_id, version)
SELECT ir, @state_micros(created_at) FROM @state_definitions
WHERE tenant_id = :tenant_id::text AND workflow_id = :workflow_id::text AND version = :version::text;

-- name: create_execution(tenant_id, row, now)
SELECT @state_create_execution(:tenant_id, :row, :now);

-- name: get_execution(id, tenant)
SELECT {execution} FROM @state_executions WHERE id = :id::uuid AND {in_scope};

-- name: change_status(id, tenant, to, from, final, now)
SELECT @state_change_status(:id, :tenant, :to, :from, :final, :now);

-- name: update_execution_current_state(id, tenant, state, now)
UPDATE @state_executions SET current_state = :state::text, updated_at = @state_now(:now::bigint) WHERE id = :id::uuid AND {in_scope};

-- name: patch_append_array(id, tenant, key, value, now)
SELECT @state_patch_append(:id, :tenant, :key, :value, :now);

-- name: list_executions(before, after, limit, offset)
SELECT {execution} FROM @state_executions WHERE {page};

-- name: list_executions_by_status(status, before, after, limit, offset)
SELECT {execution} FROM @state_executions WHERE status = :status::text AND {page};

-- name: list_executions_of_tenant(tenant, before, after, limit, offset)
SELECT {execution} FROM @state_executions WHERE tenant_id = :tenant::text AND {page};

-- name: list_executions_of_tenant_by_status(tenant, status, before, after, limit, offset)
SELECT {execution} FROM @state_executions WHERE tenant_id = :tenant::text AND status = :status::text AND {page};

-- name: count_executions()
SELECT status, count(*) FROM @state_executions GROUP BY status;

-- name: count_executions_of_tenant(tenant)
SELECT status, count(*) FROM @state_executions WHERE tenant_id = :tenant::text GROUP BY status;

-- ---- events and snapshots --------------------------------------------------------------------------------------------------

-- name: append_events(id, tenant, expected, events, every, keep, now)
SELECT @state_append(:id, :tenant, :expected, :events, :every, :keep, :now);

-- name: events_since(id, tenant, since)
SELECT id, sequence, type, kind, @state_micros(created_at) FROM @state_events WHERE execution = (SELECT x.seq FROM @state_executions x
    WHERE x.id = :id::uuid AND (:tenant::text IS NULL OR x.tenant_id = :tenant::text)) AND sequence > :since::bigint ORDER BY sequence;

-- name: latest_sequence(id, tenant)
SELECT last_sequence FROM @state_logs WHERE execution = (SELECT x.seq FROM @state_executions x
    WHERE x.id = :id::uuid AND (:tenant::text IS NULL OR x.tenant_id = :tenant::text));

-- name: write_snapshot(execution_id, tenant, at_sequence, id, status, last_sequence, created_at, state, completed_nodes, active_nodes, keep)
SELECT @state_write_snapshot(:execution_id, :tenant, :at_sequence, :id, :status, :last_sequence, :created_at, :state, :completed_nodes,
    :active_nodes, :keep);

-- name: latest_snapshot(id, tenant)
SELECT id, at_sequence, state, status, completed_nodes, active_nodes, last_sequence, @state_micros(created_at) FROM @state_snapshots
WHERE execution = (SELECT x.seq FROM @state_executions x WHERE x.id = :id::uuid AND (:tenant::text IS NULL OR x.tenant_id = :tenant::text))
ORDER BY at_sequence DESC LIMIT 1;

-- name: materialize(id, tenant)
SELECT * FROM @state_materialize(:id, :tenant);

-- ---- work items ------------------------------------------------------------------------------------------------------------

-- name: enqueue(execution_id, tenant, row, now)
SELECT @state_enqueue(:execution_id, :tenant, :row, :now);

-- name: get_work_item(id, tenant)
SELECT r.* FROM @state_items i CROSS JOIN LATERAL @state_row(i) AS r
WHERE i.id = :id::uuid AND (:tenant::text IS NULL OR i.tenant_id = :tenant::text);

-- name: claim(worker_id, queues, tenant, length, limit, sweep, error, every, keep, now)
SELECT * FROM @state_claim(:worker_id, :queues, :tenant, :length, :limit, :sweep, :error, :every, :keep, :now);

-- name: renew_lease(id, fence, tenant, length, now)
UPDATE @state_items SET lease_until = @state_now(:now::bigint) + :length::bigint * interval '1 microsecond' WHERE {held}
RETURNING @state_micros(lease_until);

-- name: complete_work_item(id, fence, tenant, now)
UPDATE @state_items SET status = 'completed', settled_at = @state_now(:now::bigint), lease_until = NULL, fence = 0 WHERE {held};

-- name: fail(id, fence, tenant, error, every, keep, now)
SELECT (f.item).*, f.new_attempt, f.delay_ms FROM @state_fail(:id, :fence, :tenant, :error, :every, :keep, :now) AS f;

-- name: reclaim(tenant, error, every, keep, now)
SELECT (f.item).*, f.new_attempt, f.delay_ms FROM @state_reclaim(:tenant, :error, :every, :keep, :now) AS f;

-- name: park_work_item(id, fence, tenant, until)
UPDATE @state_items SET status = 'pending', available_at = @state_moment(:until::bigint), attempt = attempt + 1, worker_id = NULL,
    lease_until = NULL, fence = 0, epoch = epoch + 1 WHERE {held};

-- name: bury(id, fence, tenant, error, every, keep, now)
SELECT @state_bury(:id, :fence, :tenant, :error, :every, :keep, :now);

-- ---- dead letters ----------------------------------------------------------------------------------------------------------

-- name: list_dead_letters(since, after, limit)
SELECT r.*, i.last_error, @state_micros(i.settled_at) FROM @state_items i CROSS JOIN LATERAL @state_row(i) AS r
WHERE i.status = 'dead_lettered' AND (i.settled_at, i.id) > (@state_moment(:since::bigint), :after::uuid)
ORDER BY i.settled_at, i.id LIMIT :limit::int;

-- name: list_dead_letters_of_tenant(tenant, since, after, limit)
SELECT r.*, i.last_error, @state_micros(i.settled_at) FROM @state_items i CROSS JOIN LATERAL @state_row(i) AS r
WHERE i.status = 'dead_lettered' AND i.tenant_id = :tenant::text AND (i.settled_at, i.id) > (@state_moment(:since::bigint), :after::uuid)
ORDER BY i.settled_at, i.id LIMIT :limit::int;

-- name: get_dead_letter(id, tenant)
SELECT r.*, i.last_error, @state_micros(i.settled_at) FROM @state_items i CROSS JOIN LATERAL @state_row(i) AS r
WHERE {dead};

-- name: requeue_dead_letter(id, tenant, now)
WITH queued AS (UPDATE @state_items i SET status = 'pending', attempt = 0, available_at = greatest(@state_now(:now::bigint), i.run_at),
        settled_at = NULL WHERE {dead} RETURNING @state_row(i) AS r)
SELECT (r).* FROM queued;

-- ---- transitions and effects -----------------------------------------------------------------------------------------------

-- name: start_execution(tenant_id, id, row, events, status, item, every, keep, now)
SELECT @state_start(:tenant_id, :id, :row, :events, :status, :item, :every, :keep, :now);

-- name: schedule_node(execution_id, tenant, event_id, events, item_id, item, every, keep, now)
SELECT @state_schedule(:execution_id, :tenant, :event_id, :events, :item_id, :item, :every, :keep, :now);

-- name: commit_turn(id, fence, tenant, status, execution_id, node, events, key, result, snapshot, every, keep, now)
SELECT @state_commit_turn(:id, :fence, :tenant, :status, :execution_id, :node, :events, :key, :result, :snapshot, :every, :keep, :now);

-- name: finish_execution(id, tenant, event_id, events, to, from, every, keep, now)
SELECT @state_finish(:id, :tenant, :event_id, :events, :to, :from, :every, :keep, :now);

-- name: get_tool_effect(key, tenant)
SELECT result FROM @state_effects WHERE idempotency_key = :key::text AND tenant_id = :tenant::text;

-- name: reserve_tool_effect(key, execution_id, tenant, node_id, owner, fence, length, now)
SELECT result, owner, until FROM @state_reserve(:key, :execution_id, :tenant, :node_id, :owner, :fence, :length, :now);

-- name: release_tool_reservation(key, tenant, owner, fence)
DELETE FROM @state_reservations WHERE idempotency_key = :key::text AND tenant_id = :tenant::text AND owner = :owner::text
    AND fence = :fence::bigint;

-- ---- tokens ----------------------------------------------------------------------------------------------------------------

-- name: create_token(id, tenant_id, token_hash, name, role, expires_at, now)
SELECT @state_create_token(:id, :tenant_id, :token_hash, :name, :role, :expires_at, :now);

-- name: validate_token(token_hash, every, now)
SELECT * FROM @state_validate_token(:token_hash, :every, :now);

-- name: rotate_token(old, tenant, new, token_hash, now)
SELECT * FROM @state_rotate_token(:old, :tenant, :new, :token_hash, :now);

-- name: list_tokens()
SELECT {token} FROM @state_tokens WHERE revoked_at IS NULL ORDER BY tenant_id, created_at, seq;

-- name: list_tokens_of_tenant(tenant)
SELECT {token} FROM @state_tokens WHERE tenant_id = :tenant::text AND revoked_at IS NULL ORDER BY created_at, seq;

-- name: revoke_token(id, tenant, now)
UPDATE @state_tokens SET revoked_at = coalesce(revoked_at, @state_now(:now::bigint)) WHERE id = :id::text AND {in_scope};

-- ---- retention -------------------------------------------------------------------------------------------------------------

-- name: purge(what, tenant, cutoff, limit)
SELECT @state_purge(:what, :tenant, :cutoff, :limit);

-- name: purge_events(tenant, cutoff, limit, keep, now)
SELECT @state_purge_events(:tenant, :cutoff, :limit, :keep, :now);
