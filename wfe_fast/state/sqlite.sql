-- The statements of contract C on SQLite. Times are microseconds since the epoch. `tenant` is the scope of the store: null where it
-- serves all tenants. It stands in every statement that names a row by a caller's id, so that a row of another tenant is not there.

-- part: in_scope
(:tenant IS NULL OR tenant_id = :tenant)

-- part: execution
id, workflow_id, workflow_version, status, initial_input, current_state, started_at, updated_at, completed_at, session_type,
    parent_execution_id, segment_number

-- part: page
-- Behind the last row of the page before: later in the order of the list, latest first and equal times by their ids.
updated_at <= :before AND (updated_at < :before OR id > :after) ORDER BY updated_at DESC, id LIMIT :limit OFFSET :offset

-- part: item
id, (SELECT x.id FROM state_executions x WHERE x.seq = execution), node_id, queue_type, payload, attempt, max_attempts,
    created_at, lease_until, worker_id, fence, tenant_id, priority, run_at

-- part: held
-- The row is held under this very lease. As long as the row is there no fence of it comes again; 0 is nobody's.
id = :id AND fence = :fence AND status = 'claimed' AND (:tenant IS NULL OR tenant_id = :tenant)

-- part: usable
-- A token that has neither ended nor been revoked.
revoked_at IS NULL AND (expires_at IS NULL OR expires_at > :now)

-- ---- tenants ---------------------------------------------------------------------------------------------------------------

-- name: create_tenant(id, name, status, policy, limits, created_at, updated_at)
INSERT INTO state_tenants (id, name, status, policy, limits, created_at, updated_at)
VALUES (:id, :name, :status, :policy, :limits, :created_at, :updated_at);

-- name: update_tenant(id, name, status, policy, limits, updated_at)
UPDATE state_tenants SET name = :name, status = :status, policy = :policy, limits = :limits, updated_at = :updated_at WHERE id = :id;

-- name: get_tenant(id)
SELECT id, name, status, policy, limits, created_at, updated_at FROM state_tenants WHERE id = :id;

-- name: list_tenants()
SELECT id, name, status, policy, limits, created_at, updated_at FROM state_tenants ORDER BY created_at, seq;

-- name: tenant_ids()
SELECT id FROM state_tenants;

-- name: tenant_gate(id)
SELECT status, limits FROM state_tenants WHERE id = :id;

-- name: usage_of(tenant_id, month)
SELECT tokens, cost_usd FROM state_usage WHERE tenant_id = :tenant_id AND month = :month;

-- name: add_usage(tenant_id, month, tokens, cost_usd)
-- Kept below what the column can hold: whoever is there has no limit that could tell the difference.
INSERT INTO state_usage (tenant_id, month, tokens, cost_usd) VALUES (:tenant_id, :month, :tokens, :cost_usd)
ON CONFLICT (tenant_id, month) DO UPDATE SET tokens = min(tokens + excluded.tokens, 1 << 61), cost_usd = cost_usd + excluded.cost_usd;

-- name: count_active(tenant_id, limit)
-- Never counts further than the limit that it is asked for.
SELECT count(*) FROM (SELECT 1 FROM state_executions INDEXED BY state_executions_active
    WHERE tenant_id = :tenant_id AND status IN ('pending', 'running', 'paused') LIMIT :limit);

-- name: count_other_workflows(tenant_id, workflow_id)
SELECT count(*), coalesce(max(workflow_id = :workflow_id), 0)
FROM (SELECT DISTINCT workflow_id FROM state_definitions WHERE tenant_id = :tenant_id);

-- name: raise_term(term, step, most)
-- Not beyond what the upper half of a fence holds.
UPDATE state_identity SET term = max(term + :step, :term) WHERE id = 1 AND max(term + :step, :term) <= :most RETURNING term;

-- ---- definitions and executions ----------------------------------------------------------------------------------------------

-- name: store_workflow(tenant_id, workflow_id, version, ir, created_at)
INSERT INTO state_definitions (tenant_id, workflow_id, version, ir, created_at)
VALUES (:tenant_id, :workflow_id, :version, :ir, :created_at)
ON CONFLICT (tenant_id, workflow_id, version) DO UPDATE SET ir = excluded.ir, created_at = excluded.created_at;

-- name: get_workflow(tenant_id, workflow_id, version)
SELECT ir, created_at FROM state_definitions WHERE tenant_id = :tenant_id AND workflow_id = :workflow_id AND version = :version;

-- name: insert_execution(tenant_id, id, workflow_id, workflow_version, status, initial_input, current_state, started_at, updated_at, completed_at, session_type, parent_execution_id, segment_number)
INSERT INTO state_executions (tenant_id, id, workflow_id, workflow_version, status, initial_input, current_state, started_at,
    updated_at, completed_at, session_type, parent_execution_id, segment_number)
VALUES (:tenant_id, :id, :workflow_id, :workflow_version, :status, :initial_input, :current_state, :started_at,
    :updated_at, :completed_at, :session_type, :parent_execution_id, :segment_number)
RETURNING seq;

-- name: insert_log(execution)
INSERT INTO state_logs (execution) VALUES (:execution);

-- name: get_execution(id, tenant)
SELECT {execution} FROM state_executions WHERE id = :id AND {in_scope};

-- name: execution_head(id, tenant)
SELECT e.seq, e.tenant_id, e.status, l.last_sequence, l.snapshot_at
FROM state_executions e JOIN state_logs l ON l.execution = e.seq
WHERE e.id = :id AND (:tenant IS NULL OR e.tenant_id = :tenant);

-- name: set_status(seq, status, now, completed_at)
UPDATE state_executions SET status = :status, updated_at = :now, completed_at = coalesce(:completed_at, completed_at) WHERE seq = :seq;

-- name: cancel_items(execution, now)
UPDATE state_items INDEXED BY state_items_live SET status = 'cancelled', settled_at = :now, lease_until = NULL, fence = 0, epoch = epoch + 1
WHERE execution = :execution AND settled_at IS NULL;

-- name: update_execution_current_state(id, tenant, state, now)
UPDATE state_executions SET current_state = :state, updated_at = :now WHERE id = :id AND {in_scope};

-- name: patch_append_array(id, tenant, path, place, value, now)
-- One statement reads and writes, so that two that append at once cannot lose one another.
UPDATE state_executions SET current_state = json_insert(current_state, :place, json(:value)), updated_at = :now
WHERE id = :id AND {in_scope} AND json_type(current_state) = 'object' AND coalesce(json_type(current_state, :path), 'array') = 'array';

-- name: state_type(id, tenant)
SELECT json_type(current_state) FROM state_executions WHERE id = :id AND {in_scope};

-- name: list_executions(before, after, limit, offset)
SELECT {execution} FROM state_executions INDEXED BY state_executions_by_time WHERE {page};

-- name: list_executions_by_status(status, before, after, limit, offset)
SELECT {execution} FROM state_executions INDEXED BY state_executions_by_status WHERE status = :status AND {page};

-- name: list_executions_of_tenant(tenant, before, after, limit, offset)
SELECT {execution} FROM state_executions INDEXED BY state_executions_of_tenant WHERE tenant_id = :tenant AND {page};

-- name: list_executions_of_tenant_by_status(tenant, status, before, after, limit, offset)
SELECT {execution} FROM state_executions INDEXED BY state_executions_of_tenant_by_status
WHERE tenant_id = :tenant AND status = :status AND {page};

-- name: count_executions()
SELECT status, count(*) FROM state_executions INDEXED BY state_executions_by_status GROUP BY status;

-- name: count_executions_of_tenant(tenant)
SELECT status, count(*) FROM state_executions INDEXED BY state_executions_of_tenant_by_status WHERE tenant_id = :tenant GROUP BY status;

-- ---- events and snapshots ----------------------------------------------------------------------------------------------------

-- name: find_event(id)
SELECT execution, sequence FROM state_events WHERE id = :id;

-- name: log_of(execution)
SELECT last_sequence, snapshot_at FROM state_logs WHERE execution = :execution;

-- name: advance_log(execution, last_sequence)
UPDATE state_logs SET last_sequence = :last_sequence WHERE execution = :execution;

-- name: insert_event(execution, tenant_id, sequence, id, type, node_id, kind, created_at)
INSERT INTO state_events (execution, tenant_id, sequence, id, type, node_id, kind, created_at)
VALUES (:execution, :tenant_id, :sequence, :id, :type, :node_id, :kind, :created_at);

-- name: events_since(id, tenant, since)
SELECT e.id, e.sequence, e.type, e.kind, e.created_at
FROM state_executions x CROSS JOIN state_events e ON e.execution = x.seq
WHERE x.id = :id AND (:tenant IS NULL OR x.tenant_id = :tenant) AND e.sequence > :since ORDER BY e.sequence;

-- name: latest_sequence(id, tenant)
SELECT l.last_sequence FROM state_executions x CROSS JOIN state_logs l ON l.execution = x.seq
WHERE x.id = :id AND (:tenant IS NULL OR x.tenant_id = :tenant);

-- name: move_snapshot(execution, id, at_sequence)
-- A snapshot's id is in one place only: written elsewhere in its execution, it is not where it was.
DELETE FROM state_snapshots WHERE id = :id AND execution = :execution AND at_sequence != :at_sequence;

-- name: write_snapshot(execution, tenant_id, at_sequence, id, status, last_sequence, created_at, state, completed_nodes, active_nodes)
INSERT INTO state_snapshots (execution, tenant_id, at_sequence, id, status, last_sequence, created_at, state, completed_nodes, active_nodes)
VALUES (:execution, :tenant_id, :at_sequence, :id, :status, :last_sequence, :created_at, :state, :completed_nodes, :active_nodes)
ON CONFLICT (execution, at_sequence) DO UPDATE SET id = excluded.id, status = excluded.status, last_sequence = excluded.last_sequence,
    created_at = excluded.created_at, state = excluded.state, completed_nodes = excluded.completed_nodes,
    active_nodes = excluded.active_nodes;

-- name: note_snapshot(execution)
-- Not simply the new one's number: a snapshot that was moved may have left the largest.
UPDATE state_logs SET snapshot_at = (SELECT max(at_sequence) FROM state_snapshots WHERE execution = :execution) WHERE execution = :execution;

-- name: prune_snapshots(execution, keep)
DELETE FROM state_snapshots WHERE execution = :execution AND at_sequence <=
    (SELECT at_sequence FROM state_snapshots WHERE execution = :execution ORDER BY at_sequence DESC LIMIT 1 OFFSET :keep);

-- name: latest_snapshot(id, tenant)
SELECT s.id, s.at_sequence, s.state, s.status, s.completed_nodes, s.active_nodes, s.last_sequence, s.created_at
FROM state_executions x CROSS JOIN state_snapshots s ON s.execution = x.seq
WHERE x.id = :id AND (:tenant IS NULL OR x.tenant_id = :tenant) ORDER BY s.at_sequence DESC LIMIT 1;

-- name: fold_base(execution)
-- What a fold begins with: the last snapshot, or the input of the execution where there is none.
SELECT s.at_sequence, s.state, s.status, s.completed_nodes, s.active_nodes, s.last_sequence
FROM state_snapshots s WHERE s.execution = :execution ORDER BY s.at_sequence DESC LIMIT 1;

-- name: initial_input(execution)
SELECT initial_input FROM state_executions WHERE seq = :execution;

-- name: fold_tail(execution, since)
SELECT sequence, type, kind FROM state_events WHERE execution = :execution AND sequence > :since ORDER BY sequence;

-- ---- work items --------------------------------------------------------------------------------------------------------------

-- name: insert_item(id, tenant_id, execution, node_id, queue_type, payload, attempt, max_attempts, created_at, priority, run_at, available_at)
INSERT INTO state_items (id, tenant_id, execution, node_id, queue_type, status, payload, attempt, max_attempts, created_at,
    priority, run_at, available_at)
VALUES (:id, :tenant_id, :execution, :node_id, :queue_type, 'pending', :payload, :attempt, :max_attempts, :created_at,
    :priority, :run_at, :available_at);

-- name: item_exists(id, execution)
SELECT 1 FROM state_items WHERE id = :id AND execution = :execution;

-- name: get_work_item(id, tenant)
SELECT {item} FROM state_items WHERE id = :id AND (:tenant IS NULL OR tenant_id = :tenant);

-- name: next_priority(queue_type, below)
SELECT priority FROM state_items INDEXED BY state_items_ready
WHERE status = 'pending' AND queue_type = :queue_type AND priority < :below ORDER BY priority DESC LIMIT 1;

-- name: ready(queue_type, below, now, limit)
-- What is available of the highest priority below this one.
SELECT -priority, available_at, seq FROM state_items INDEXED BY state_items_ready
WHERE status = 'pending' AND queue_type = :queue_type AND priority = (SELECT priority FROM state_items INDEXED BY state_items_ready
    WHERE status = 'pending' AND queue_type = :queue_type AND priority < :below ORDER BY priority DESC LIMIT 1)
    AND available_at <= :now
ORDER BY available_at, seq LIMIT :limit;

-- name: next_priority_of_tenant(tenant, queue_type, below)
SELECT priority FROM state_items INDEXED BY state_items_ready_of_tenant
WHERE status = 'pending' AND tenant_id = :tenant AND queue_type = :queue_type AND priority < :below ORDER BY priority DESC LIMIT 1;

-- name: ready_of_tenant(tenant, queue_type, below, now, limit)
SELECT -priority, available_at, seq FROM state_items INDEXED BY state_items_ready_of_tenant
WHERE status = 'pending' AND tenant_id = :tenant AND queue_type = :queue_type
    AND priority = (SELECT priority FROM state_items INDEXED BY state_items_ready_of_tenant
        WHERE status = 'pending' AND tenant_id = :tenant AND queue_type = :queue_type AND priority < :below
        ORDER BY priority DESC LIMIT 1)
    AND available_at <= :now
ORDER BY available_at, seq LIMIT :limit;

-- name: claim_item(seq, worker_id, lease_until)
-- Without RETURNING, here and below: its table of results costs 4 µs, a SELECT afterwards or before 2.
UPDATE state_items SET status = 'claimed', worker_id = :worker_id, lease_until = :lease_until, epoch = epoch + 1,
    fence = ((SELECT term FROM state_identity WHERE state_identity.id = 1) << 32) + epoch + 1
WHERE seq = :seq;

-- name: claimed_item(seq)
SELECT {item} FROM state_items WHERE seq = :seq;

-- name: leased_queue(after)
-- The next queue in which somebody holds an item.
SELECT queue_type FROM state_items INDEXED BY state_items_leased
WHERE status = 'claimed' AND queue_type > :after ORDER BY queue_type LIMIT 1;

-- name: expired(queue_type, tenant, now, limit)
SELECT {item}, seq, execution FROM state_items INDEXED BY state_items_leased
WHERE status = 'claimed' AND queue_type = :queue_type AND {in_scope} AND lease_until <= :now ORDER BY lease_until LIMIT :limit;

-- name: held_item(id, fence, tenant)
SELECT {item}, seq, execution FROM state_items WHERE {held};

-- name: any_item(id, tenant)
SELECT {item}, seq, execution, status FROM state_items WHERE id = :id AND (:tenant IS NULL OR tenant_id = :tenant);

-- name: renew_lease(id, fence, tenant, lease_until)
UPDATE state_items SET lease_until = :lease_until WHERE {held};

-- name: settled_for(id, fence, tenant)
-- Whose item is to be settled: number and id of the execution, node and tenant.
SELECT execution, (SELECT x.id FROM state_executions x WHERE x.seq = execution), node_id, tenant_id FROM state_items WHERE {held};

-- name: settle_item(id, fence, tenant, status, now)
UPDATE state_items SET status = :status, settled_at = :now, lease_until = NULL, fence = 0 WHERE {held};

-- name: park_work_item(id, fence, tenant, until)
UPDATE state_items SET status = 'pending', available_at = :until, attempt = attempt + 1, worker_id = NULL, lease_until = NULL,
    fence = 0, epoch = epoch + 1
WHERE {held};

-- name: retry_item(seq, attempt, available_at, last_error)
UPDATE state_items SET status = 'pending', attempt = :attempt, available_at = :available_at, last_error = :last_error,
    worker_id = NULL, lease_until = NULL, fence = 0, epoch = epoch + 1
WHERE seq = :seq;

-- name: bury_item(seq, attempt, now, last_error)
UPDATE state_items SET status = 'dead_lettered', attempt = :attempt, settled_at = :now, last_error = :last_error,
    worker_id = NULL, lease_until = NULL, fence = 0, epoch = epoch + 1
WHERE seq = :seq;

-- ---- dead letters ------------------------------------------------------------------------------------------------------------

-- name: list_dead_letters(since, after, limit)
SELECT {item}, last_error, settled_at FROM state_items INDEXED BY state_items_dead
WHERE status = 'dead_lettered' AND (settled_at, id) > (:since, :after) ORDER BY settled_at, id LIMIT :limit;

-- name: list_dead_letters_of_tenant(tenant, since, after, limit)
SELECT {item}, last_error, settled_at FROM state_items INDEXED BY state_items_dead_of_tenant
WHERE status = 'dead_lettered' AND tenant_id = :tenant AND (settled_at, id) > (:since, :after)
ORDER BY settled_at, id LIMIT :limit;

-- name: get_dead_letter(id, tenant)
SELECT {item}, last_error, settled_at FROM state_items
WHERE id = :id AND status = 'dead_lettered' AND (:tenant IS NULL OR tenant_id = :tenant);

-- name: requeue_dead_letter(id, tenant, now)
UPDATE state_items SET status = 'pending', attempt = 0, available_at = max(:now, coalesce(run_at, :now)), settled_at = NULL
WHERE id = :id AND status = 'dead_lettered' AND (:tenant IS NULL OR tenant_id = :tenant)
RETURNING {item};

-- name: purge_dead_letters(tenant, cutoff, limit)
DELETE FROM state_items WHERE seq IN (SELECT seq FROM state_items INDEXED BY state_items_dead_of_tenant
    WHERE status = 'dead_lettered' AND tenant_id = :tenant AND settled_at < :cutoff ORDER BY settled_at LIMIT :limit);

-- ---- retention ---------------------------------------------------------------------------------------------------------------

-- name: purge_work_items(tenant, cutoff, limit)
DELETE FROM state_items WHERE seq IN (SELECT seq FROM state_items INDEXED BY state_items_settled
    WHERE status IN ('completed', 'failed', 'cancelled') AND tenant_id = :tenant AND settled_at < :cutoff
    ORDER BY settled_at LIMIT :limit);

-- name: ended_executions(tenant, cutoff, limit)
-- By the status as well: who stores an execution may say that it was completed, and that it runs.
SELECT seq FROM state_executions INDEXED BY state_executions_ended
WHERE completed_at IS NOT NULL AND purged = 0 AND tenant_id = :tenant AND completed_at < :cutoff
    AND status NOT IN ('pending', 'running', 'paused') ORDER BY completed_at LIMIT :limit;

-- name: purge_events(execution)
DELETE FROM state_events WHERE execution = :execution;

-- name: note_purge(execution)
UPDATE state_executions SET purged = 1 WHERE seq = :execution;

-- name: purge_tokens(tenant, cutoff, limit)
DELETE FROM state_tokens WHERE seq IN (SELECT seq FROM state_tokens INDEXED BY state_tokens_by_end
    WHERE tenant_id = :tenant AND coalesce(revoked_at, expires_at) IS NOT NULL
    AND min(coalesce(revoked_at, expires_at), coalesce(expires_at, revoked_at)) < :cutoff LIMIT :limit);

-- ---- effects -----------------------------------------------------------------------------------------------------------------

-- name: get_tool_effect(key, tenant)
SELECT result FROM state_effects WHERE idempotency_key = :key AND tenant_id = :tenant;

-- name: record_effect(key, tenant_id, execution, node_id, result, now)
INSERT INTO state_effects (idempotency_key, tenant_id, execution, node_id, result, recorded_at)
VALUES (:key, :tenant_id, :execution, :node_id, :result, :now) ON CONFLICT (idempotency_key, tenant_id) DO NOTHING;

-- name: drop_reservation(key, tenant_id)
DELETE FROM state_reservations WHERE idempotency_key = :key AND tenant_id = :tenant_id;

-- name: reserve_tool_effect(key, tenant_id, execution, node_id, owner, fence, now, expires_at)
INSERT INTO state_reservations (idempotency_key, tenant_id, execution, node_id, owner, fence, expires_at, reserved_at)
VALUES (:key, :tenant_id, :execution, :node_id, :owner, :fence, :expires_at, :now)
ON CONFLICT (idempotency_key, tenant_id) DO UPDATE SET execution = excluded.execution, node_id = excluded.node_id, owner = excluded.owner,
    fence = excluded.fence, expires_at = excluded.expires_at, reserved_at = excluded.reserved_at
WHERE state_reservations.expires_at <= :now OR state_reservations.owner = excluded.owner;

-- name: reservation_of(key, tenant_id)
SELECT owner, expires_at FROM state_reservations WHERE idempotency_key = :key AND tenant_id = :tenant_id;

-- name: release_tool_reservation(key, tenant, owner, fence)
DELETE FROM state_reservations WHERE idempotency_key = :key AND tenant_id = :tenant AND owner = :owner AND fence = :fence;

-- ---- tokens ------------------------------------------------------------------------------------------------------------------

-- name: create_token(id, tenant_id, token_hash, name, role, created_at, expires_at)
INSERT INTO state_tokens (id, tenant_id, token_hash, name, role, created_at, expires_at)
VALUES (:id, :tenant_id, :token_hash, :name, :role, :created_at, :expires_at);

-- name: validate_token(token_hash, now)
-- From every view: who shows a token is who it says, whatever the view is of.
SELECT id, name, role, created_at, expires_at, tenant_id, last_used_at FROM state_tokens WHERE token_hash = :token_hash AND {usable};

-- name: note_use(token_hash, now, cutoff)
UPDATE state_tokens SET last_used_at = :now
WHERE token_hash = :token_hash AND (last_used_at IS NULL OR last_used_at <= :cutoff) AND {usable};

-- name: list_tokens(tenant)
SELECT id, name, role, created_at, expires_at, tenant_id, last_used_at FROM state_tokens INDEXED BY state_tokens_of_tenant
WHERE tenant_id = :tenant AND revoked_at IS NULL ORDER BY created_at, seq;

-- name: revoke_token(id, tenant, now)
UPDATE state_tokens SET revoked_at = coalesce(revoked_at, :now) WHERE id = :id AND {in_scope};

-- name: end_token(id, tenant, now)
UPDATE state_tokens SET revoked_at = :now WHERE id = :id AND {in_scope} AND {usable} RETURNING name, role, expires_at, tenant_id;
