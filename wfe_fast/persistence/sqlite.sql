-- The statements of contract A on SQLite. Times are microseconds since the epoch, next_execution and execute_time milliseconds.
-- A list travels as one JSON text (json_each), so that the text of a statement never changes and it stays prepared.

-- part: instance
-- A workflow `w`. Its pointers come as one text of lines, in their order (the inner ORDER BY is that of the primary key: nothing is sorted).
w.seq, w.id, w.name, w.root_workflow_id, w.definition_id, w.version, w.description, w.reference, w.next_execution, w.status, w.data,
    w.create_time, w.complete_time, w.revision, w.control, w.claim_fence, w.claims_without_commit,
    (SELECT group_concat(doc, char(10)) FROM (SELECT doc FROM pointers p WHERE p.workflow_id = w.id ORDER BY position)),
    (SELECT max(position) FROM pointers p WHERE p.workflow_id = w.id)

-- part: subscription
id, workflow_id, step_id, execution_pointer_id, event_name, event_key, subscribe_as_of, subscription_data, external_token,
    external_worker_id, external_token_expiry

-- part: event
id, event_name, event_key, event_data, event_time, is_processed

-- part: due
-- As in the two partial indexes on it, or they could not be used.
status = 'Runnable' AND next_execution IS NOT NULL

-- part: free
-- Claimed rows are passed over; there are never more of them than workers.
(claim_until IS NULL OR claim_until <= :now)

-- part: as_known
-- The row must be as the caller knows it; the id, too, should another file have come to this place.
seq = :seq AND id = :id AND revision = :revision AND control = :control AND (:fence IS NULL OR claim_fence = :fence)

-- part: event_left
-- An event that was left for the holder makes the workflow due, whatever its holder says: so that somebody comes and takes it.
EXISTS (SELECT 1 FROM event_subscriptions s INDEXED BY subscriptions_pending_by_workflow
    WHERE s.workflow_id = workflows.id AND s.pending_event_time IS NOT NULL)

-- part: committed
next_execution = CASE WHEN {event_left} THEN min(coalesce(:next_execution, :now), :now) ELSE :next_execution END, data = :data, revision = revision + 1, claims_without_commit = 0,
    claimed_by = CASE WHEN :release THEN NULL ELSE claimed_by END,
    claim_until = CASE WHEN :release THEN NULL ELSE claim_until END

-- ---- workflows -------------------------------------------------------------------------------------------------------------

-- name: insert_workflow(id, name, root_workflow_id, definition_id, version, description, reference, next_execution, status, data, create_time, complete_time)
INSERT INTO workflows (id, name, root_workflow_id, definition_id, version, description, reference, next_execution, status, data,
    create_time, complete_time)
VALUES (:id, :name, :root_workflow_id, :definition_id, :version, :description, :reference, :next_execution, :status, :data,
    :create_time, :complete_time)
RETURNING seq;

-- name: insert_pointer(workflow_id, position, id, doc)
INSERT INTO pointers (workflow_id, position, id, doc) VALUES (:workflow_id, :position, :id, :doc);

-- name: update_pointer(workflow_id, position, doc)
UPDATE pointers SET doc = :doc WHERE workflow_id = :workflow_id AND position = :position;

-- name: delete_pointer(workflow_id, position)
DELETE FROM pointers WHERE workflow_id = :workflow_id AND position = :position;

-- name: stored_pointers(workflow_id)
SELECT position, id, doc FROM pointers WHERE workflow_id = :workflow_id ORDER BY position;

-- name: persist_step(seq, id, now, revision, control, fence, release, next_execution, data)
-- What nearly every step changes. Columns that are not named here, and their indexes, are not touched.
UPDATE workflows SET {committed}
WHERE {as_known};

-- name: persist_row(seq, id, now, revision, control, fence, release, next_execution, data, status, complete_time, name, root_workflow_id, definition_id, version, description, reference, create_time)
-- The same for all fields.
UPDATE workflows SET {committed},
    status = :status, complete_time = :complete_time, name = :name, root_workflow_id = :root_workflow_id,
    definition_id = :definition_id, version = :version, description = :description, reference = :reference, create_time = :create_time
WHERE {as_known};

-- name: persist_state(id)
SELECT seq, revision, control, claim_fence, status, complete_time FROM workflows WHERE id = :id;

-- name: get_workflow_instance(id)
SELECT {instance}
FROM workflows w WHERE id = :id;

-- name: get_workflow_instance_by_name(name)
SELECT {instance}
FROM workflows w WHERE name = :name;

-- name: get_workflow_instances(ids)
SELECT {instance}
FROM json_each(:ids) AS wanted CROSS JOIN workflows w ON w.id = wanted.value;

-- name: get_runnable_instances(as_at, limit)
SELECT id FROM workflows INDEXED BY workflows_runnable
WHERE {due} AND next_execution <= :as_at
ORDER BY next_execution, seq LIMIT :limit;

-- name: next_definition_sequence(definition_id)
INSERT INTO definition_sequences (definition_id, next_num) VALUES (:definition_id, 1)
ON CONFLICT (definition_id) DO UPDATE SET next_num = next_num + 1
RETURNING next_num;

-- name: change_status(workflow_id, to, only_from, complete_time)
UPDATE workflows SET status = :to, complete_time = :complete_time, control = control + 1
WHERE id = :workflow_id AND (:only_from IS NULL OR status IN (SELECT value FROM json_each(:only_from)));

-- name: status_of(workflow_id)
SELECT status FROM workflows WHERE id = :workflow_id;

-- name: delete_workflows(ids)
-- The pointers go by their foreign key.
DELETE FROM workflows WHERE id IN (SELECT value FROM json_each(:ids));

-- name: delete_subscriptions_of(ids)
DELETE FROM event_subscriptions WHERE workflow_id IN (SELECT value FROM json_each(:ids));

-- name: delete_errors_of(ids)
DELETE FROM execution_errors WHERE workflow_id IN (SELECT value FROM json_each(:ids));

-- name: delete_commands_of(ids)
DELETE FROM scheduled_commands WHERE command_name = 'ProcessWorkflow' AND data IN (SELECT value FROM json_each(:ids));

-- name: list_workflows(created_before, after_time, after_id, limit)
-- Four statements and not one with every filter in it: each walks the index of its own filter, which one with all could not.
SELECT {instance}
FROM workflows w INDEXED BY workflows_by_create_time
WHERE (create_time, id) > (:after_time, :after_id) AND create_time < :created_before
ORDER BY create_time, id LIMIT :limit;

-- name: list_workflows_by_status(status, definition_id, created_before, after_time, after_id, limit)
SELECT {instance}
FROM workflows w INDEXED BY workflows_by_status
WHERE status = :status AND (create_time, id) > (:after_time, :after_id) AND create_time < :created_before AND (:definition_id IS NULL OR definition_id = :definition_id)
ORDER BY create_time, id LIMIT :limit;

-- name: list_workflows_by_definition(definition_id, created_before, after_time, after_id, limit)
SELECT {instance}
FROM workflows w INDEXED BY workflows_by_definition
WHERE definition_id = :definition_id AND (create_time, id) > (:after_time, :after_id) AND create_time < :created_before
ORDER BY create_time, id LIMIT :limit;

-- name: list_workflows_by_reference(reference, status, definition_id, created_before, after_time, after_id, limit)
SELECT {instance}
FROM workflows w INDEXED BY workflows_by_reference
WHERE reference = :reference AND (create_time, id) > (:after_time, :after_id) AND create_time < :created_before AND (:status IS NULL OR status = :status)
    AND (:definition_id IS NULL OR definition_id = :definition_id)
ORDER BY create_time, id LIMIT :limit;

-- name: count_workflows()
SELECT status, count(*) FROM workflows GROUP BY status;

-- name: oldest_runnable()
SELECT next_execution FROM workflows INDEXED BY workflows_runnable
WHERE {due} ORDER BY next_execution LIMIT 1;

-- name: ended_before(status, cutoff, limit)
SELECT complete_time, id FROM workflows INDEXED BY workflows_by_complete_time
WHERE status = :status AND complete_time IS NOT NULL AND complete_time < :cutoff ORDER BY complete_time LIMIT :limit;

-- ---- claims ----------------------------------------------------------------------------------------------------------------

-- name: claimable(as_at, now, limit)
SELECT next_execution, seq, id FROM workflows INDEXED BY workflows_runnable
WHERE {due} AND next_execution <= :as_at AND {free}
ORDER BY next_execution, seq LIMIT :limit;

-- name: claimable_of(definition_id, version, as_at, now, limit)
SELECT next_execution, seq, id FROM workflows INDEXED BY workflows_runnable_by_definition
WHERE {due} AND definition_id = :definition_id AND version = :version AND next_execution <= :as_at AND {free}
ORDER BY next_execution, seq LIMIT :limit;

-- name: claim(seq, worker_id, until)
UPDATE workflows SET claimed_by = :worker_id, claim_until = :until, claim_fence = claim_fence + 1,
    claims_without_commit = claims_without_commit + 1
WHERE seq = :seq;

-- name: renew_claim(seq, id, fence, until)
UPDATE workflows SET claim_until = :until
WHERE seq = :seq AND id = :id AND claim_fence = :fence AND claim_until IS NOT NULL;

-- name: release_claim(seq, id, fence, now)
UPDATE workflows SET claimed_by = NULL, claim_until = NULL,
    next_execution = CASE WHEN {event_left} THEN min(coalesce(next_execution, :now), :now) ELSE next_execution END
WHERE seq = :seq AND id = :id AND claim_fence = :fence AND claim_until IS NOT NULL;

-- name: claim_fence_of(id)
SELECT claim_fence FROM workflows WHERE id = :id;

-- name: next_due_workflows(limit)
SELECT next_execution, claim_until FROM workflows INDEXED BY workflows_runnable
WHERE {due} ORDER BY next_execution, seq LIMIT :limit;

-- name: next_due_workflows_of(definition_id, version, limit)
SELECT next_execution, claim_until FROM workflows INDEXED BY workflows_runnable_by_definition
WHERE {due} AND definition_id = :definition_id AND version = :version ORDER BY next_execution, seq LIMIT :limit;

-- name: next_due_event()
SELECT due_at FROM events INDEXED BY events_due WHERE is_processed = 0 ORDER BY due_at LIMIT 1;

-- name: next_due_commands(limit)
SELECT execute_time, lease_until FROM scheduled_commands INDEXED BY commands_by_time ORDER BY execute_time, id LIMIT :limit;

-- ---- events ----------------------------------------------------------------------------------------------------------------

-- name: create_event(id, event_name, event_key, event_data, event_time, is_processed, due_at)
INSERT INTO events (id, event_name, event_key, event_data, event_time, is_processed, due_at)
VALUES (:id, :event_name, :event_key, :event_data, :event_time, :is_processed, :due_at);

-- name: get_event(id)
SELECT {event} FROM events WHERE id = :id;

-- name: event_exists(id)
SELECT 1 FROM events WHERE id = :id;

-- name: get_runnable_events(as_at, limit)
SELECT id FROM events INDEXED BY events_unprocessed WHERE is_processed = 0 AND event_time <= :as_at
ORDER BY event_time, seq LIMIT :limit;

-- name: get_events(event_name, event_key, as_of)
SELECT id FROM events INDEXED BY events_by_key
WHERE event_name = :event_name AND event_key = :event_key AND event_time <= :as_of ORDER BY event_time, seq;

-- name: event_position(id)
SELECT event_time, seq FROM events WHERE id = :id;

-- name: get_events_since(event_name, event_key, since, after_time, after_seq, limit)
SELECT {event} FROM events INDEXED BY events_by_key
WHERE event_name = :event_name AND event_key = :event_key AND (event_time, seq) > (:after_time, :after_seq)
    AND event_time >= :since
ORDER BY event_time, seq LIMIT :limit;

-- name: mark_event(id, is_processed)
UPDATE events SET is_processed = :is_processed WHERE id = :id;

-- name: unprocessed_of_key(event_name, event_key, now, limit)
SELECT seq, id, event_name, event_key, event_data, event_time FROM events INDEXED BY events_unprocessed_by_key
WHERE is_processed = 0 AND event_name = :event_name AND event_key = :event_key AND due_at <= :now
ORDER BY event_time, seq LIMIT :limit;

-- name: unprocessed(now, limit)
SELECT seq, id, event_name, event_key, event_data, event_time FROM events INDEXED BY events_due
WHERE is_processed = 0 AND due_at <= :now ORDER BY due_at, seq LIMIT :limit;

-- name: matching_subscriptions(event_name, event_key, event_time, limit)
SELECT s.seq, s.workflow_id, s.execution_pointer_id, w.status, w.claim_until IS NOT NULL
FROM event_subscriptions s INDEXED BY subscriptions_open LEFT JOIN workflows w ON w.id = s.workflow_id
WHERE s.pending_event_time IS NULL AND s.event_name = :event_name AND s.event_key = :event_key AND s.subscribe_as_of <= :event_time
ORDER BY s.subscribe_as_of, s.seq LIMIT :limit;

-- name: overtake_pending(event_name, event_key, event_time, id, event_data)
-- Of what is left for a claim holder the oldest counts, also where it was published last.
UPDATE event_subscriptions INDEXED BY subscriptions_pending
SET pending_event_id = :id, pending_event_time = :event_time, pending_event_data = :event_data
WHERE event_name = :event_name AND event_key = :event_key AND subscribe_as_of <= :event_time AND pending_event_time > :event_time
    AND pending_event_id IS NOT NULL;

-- name: leave_event(seq, id, event_time, event_data)
UPDATE event_subscriptions SET pending_event_id = :id, pending_event_time = :event_time, pending_event_data = :event_data
WHERE seq = :seq;

-- name: note_left_event(workflow_id, now)
-- Should the holder be dead, the workflow must be due for the next one.
UPDATE workflows SET next_execution = min(coalesce(next_execution, :now), :now) WHERE id = :workflow_id;

-- name: pointer_to_deliver(workflow_id, id)
SELECT position, doc FROM pointers WHERE workflow_id = :workflow_id AND id = :id;

-- name: make_due(workflow_id, now)
UPDATE workflows SET revision = revision + 1, next_execution = min(coalesce(next_execution, :now), :now) WHERE id = :workflow_id;

-- name: delete_subscription(seq)
DELETE FROM event_subscriptions WHERE seq = :seq;

-- name: pending_of(workflow_id)
SELECT seq, id, execution_pointer_id, event_name, event_key, pending_event_id, pending_event_time, pending_event_data
FROM event_subscriptions INDEXED BY subscriptions_pending_by_workflow
WHERE workflow_id = :workflow_id AND pending_event_time IS NOT NULL;

-- name: purge_events(cutoff, limit)
DELETE FROM events WHERE seq IN (
    SELECT seq FROM events INDEXED BY events_processed WHERE is_processed = 1 AND event_time < :cutoff
    ORDER BY event_time LIMIT :limit);

-- ---- subscriptions ---------------------------------------------------------------------------------------------------------

-- name: create_event_subscription(id, workflow_id, step_id, execution_pointer_id, event_name, event_key, subscribe_as_of, subscription_data, external_token, external_worker_id, external_token_expiry)
INSERT INTO event_subscriptions (id, workflow_id, step_id, execution_pointer_id, event_name, event_key, subscribe_as_of,
    subscription_data, external_token, external_worker_id, external_token_expiry)
VALUES (:id, :workflow_id, :step_id, :execution_pointer_id, :event_name, :event_key, :subscribe_as_of, :subscription_data,
    :external_token, :external_worker_id, :external_token_expiry);

-- name: get_subscriptions(event_name, event_key, as_of)
SELECT {subscription}
FROM event_subscriptions INDEXED BY subscriptions_by_key
WHERE event_name = :event_name AND event_key = :event_key AND subscribe_as_of <= :as_of ORDER BY subscribe_as_of, seq;

-- name: get_first_open_subscription(event_name, event_key, as_of, now)
SELECT {subscription}
FROM event_subscriptions INDEXED BY subscriptions_open
WHERE pending_event_time IS NULL AND event_name = :event_name AND event_key = :event_key AND subscribe_as_of <= :as_of
    AND (external_token IS NULL OR external_token_expiry <= :now)
ORDER BY subscribe_as_of, seq LIMIT 1;

-- name: get_subscription(id)
SELECT {subscription}
FROM event_subscriptions WHERE id = :id;

-- name: set_subscription_token(id, token, worker_id, expiry, now)
UPDATE event_subscriptions SET external_token = :token, external_worker_id = :worker_id, external_token_expiry = :expiry
WHERE id = :id AND pending_event_time IS NULL AND (external_token IS NULL OR external_token_expiry <= :now);

-- name: clear_subscription_token(id, token)
UPDATE event_subscriptions SET external_token = NULL, external_worker_id = NULL, external_token_expiry = NULL
WHERE id = :id AND external_token = :token;

-- name: terminate_subscription(id)
DELETE FROM event_subscriptions WHERE id = :id;

-- name: subscriptions_of(workflow_id, pointer_id)
SELECT {subscription}
FROM event_subscriptions INDEXED BY subscriptions_by_workflow
WHERE workflow_id = :workflow_id AND (:pointer_id IS NULL OR execution_pointer_id = :pointer_id) ORDER BY subscribe_as_of, seq;

-- name: drop_subscriptions(workflow_id, pointer_id)
DELETE FROM event_subscriptions
WHERE workflow_id = :workflow_id AND (:pointer_id IS NULL OR execution_pointer_id = :pointer_id);

-- name: claim_subscription(id, token, worker_id, expiry)
UPDATE event_subscriptions SET external_token = :token, external_worker_id = :worker_id, external_token_expiry = :expiry WHERE id = :id;

-- name: open_subscription(event_name, event_key, now)
SELECT id FROM event_subscriptions INDEXED BY subscriptions_open
WHERE pending_event_time IS NULL AND event_name = :event_name AND event_key = :event_key
    AND (external_token IS NULL OR external_token_expiry <= :now)
ORDER BY subscribe_as_of, seq LIMIT 1;

-- name: renew_subscription(id, token, expiry)
UPDATE event_subscriptions SET external_token_expiry = :expiry
WHERE id = :id AND external_token = :token AND pending_event_time IS NULL;

-- name: subscription_held(id, token)
SELECT s.seq, s.workflow_id, s.execution_pointer_id, w.status, w.claim_until IS NOT NULL
FROM event_subscriptions s LEFT JOIN workflows w ON w.id = s.workflow_id
WHERE s.id = :id AND s.external_token = :token AND s.pending_event_time IS NULL;

-- ---- commands and errors -----------------------------------------------------------------------------------------------------

-- name: schedule_command(command_name, data, execute_time)
INSERT INTO scheduled_commands (command_name, data, execute_time) VALUES (:command_name, :data, :execute_time)
ON CONFLICT (command_name, data) DO UPDATE SET execute_time = excluded.execute_time, revision = revision + 1;

-- name: due_commands(as_of, now)
SELECT id, revision, command_name, data, execute_time FROM scheduled_commands INDEXED BY commands_by_time
WHERE execute_time <= :as_of AND (lease_until IS NULL OR lease_until <= :now) ORDER BY execute_time, id;

-- name: lease_command(id, revision, now, until)
UPDATE scheduled_commands SET lease_until = :until
WHERE id = :id AND revision = :revision AND (lease_until IS NULL OR lease_until <= :now);

-- name: finish_command(id, revision, until)
DELETE FROM scheduled_commands WHERE id = :id AND revision = :revision AND lease_until = :until;

-- name: free_command(id, until)
UPDATE scheduled_commands SET lease_until = NULL WHERE id = :id AND lease_until = :until;

-- name: persist_error(error_time, workflow_id, execution_pointer_id, message)
INSERT INTO execution_errors (error_time, workflow_id, execution_pointer_id, message)
VALUES (:error_time, :workflow_id, :execution_pointer_id, :message);

-- name: get_errors(workflow_id, limit)
SELECT error_time, workflow_id, execution_pointer_id, message FROM execution_errors INDEXED BY errors_by_workflow
WHERE workflow_id = :workflow_id ORDER BY error_time, id LIMIT :limit;
