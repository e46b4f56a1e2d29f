-- The statements of contract A on PostgreSQL; those that read and then write call a function of the migrations. Each is one round trip.
-- Times are microseconds since the epoch here, next_execution and execute_time milliseconds. A list travels as one JSON text, so that the
-- text of a statement never changes and it stays prepared. Every parameter has a cast, or a function that says its type.
-- `@name` becomes the quoted name in the store's schema, with its prefix.

-- part: columns
-- A workflow `w` with its pointers `p`, which come as one text of lines, in their order.
w.seq, w.id, w.name, w.root_workflow_id, w.definition_id, w.version, w.description, w.reference, w.next_execution, w.status,
    w.data::text, @wfe_micros(w.create_time), @wfe_micros(w.complete_time), w.revision, w.control, w.claim_fence, w.claims_without_commit,
    p.lines, p.last_position

-- part: pointers
CROSS JOIN LATERAL (SELECT string_agg(coalesce(p.doc, @wfe_doc(p)), chr(10) ORDER BY p.position, p.id) AS lines,
    max(p.position) AS last_position FROM @execution_pointers p WHERE p.workflow_id = w.id) AS p

-- part: subscription
id, workflow_id, step_id, execution_pointer_id, event_name, event_key, @wfe_micros(subscribe_as_of), subscription_data::text, external_token,
    external_worker_id, @wfe_micros(external_token_expiry)

-- part: due
-- As in the two partial indexes on it, or they could not be used.
status = 'Runnable' AND next_execution IS NOT NULL

-- part: page
(w.create_time, w.id COLLATE "C") > (@wfe_moment(:after_time::bigint), :after_id::text) AND w.create_time < @wfe_moment(:created_before::bigint)
ORDER BY w.create_time, w.id COLLATE "C" LIMIT :limit::int

-- part: page_of
-- The same in the order that only the indexes by a field have: the planner would walk the one by time alone and throw most of it away.
(@wfe_micros(w.create_time), w.id COLLATE "C") > (:after_time::bigint, :after_id::text)
    AND @wfe_micros(w.create_time) < :created_before::bigint
ORDER BY @wfe_micros(w.create_time), w.id COLLATE "C" LIMIT :limit::int

-- ---- workflows -------------------------------------------------------------------------------------------------------------

-- name: create(id, name, root, definition, version, description, reference, due, status, data, created, completed, pointers)
SELECT @wfe_create(:id, :name, :root, :definition, :version, :description, :reference, :due, :status, :data, :created, :completed, :pointers);

-- name: persist(id, seq, revision, doubts, control, fence, release, expect, next, due, data, row, deletes, updates, inserts, subscriptions, now)
SELECT @wfe_persist(:id, :seq, :revision, :doubts, :control, :fence, :release, :expect, :next, :due, :data, :row, :deletes, :updates,
    :inserts, :subscriptions, :now);

-- name: overwrite(id, seq, revision, doubts, control, fence, known_status, release, expect, next, stride, due, data, row, pointers, subscriptions, now)
SELECT * FROM @wfe_overwrite(:id, :seq, :revision, :doubts, :control, :fence, :known_status, :release, :expect, :next, :stride, :due, :data, :row,
    :pointers, :subscriptions, :now);

-- name: get_workflow_instance(id)
SELECT {columns} FROM @workflows w {pointers} WHERE w.id = :id::text;

-- name: get_workflow_instance_by_name(name)
SELECT {columns} FROM @workflows w {pointers} WHERE w.name = :name::text;

-- name: get_workflow_instances(ids)
SELECT {columns} FROM json_array_elements_text(:ids::json) WITH ORDINALITY AS wanted (id, n) JOIN @workflows w ON w.id = wanted.id {pointers}
ORDER BY wanted.n;

-- name: lock_workflow_instance(id)
SELECT * FROM @wfe_lock_instances(ARRAY[:id::text]);

-- name: lock_workflow_instance_by_name(name)
SELECT * FROM @wfe_lock_instances(ARRAY(SELECT id FROM @workflows WHERE name = :name::text)) WHERE name = :name::text;

-- name: lock_workflow_instances(ids)
SELECT * FROM @wfe_lock_instances(ARRAY(SELECT json_array_elements_text(:ids::json)));

-- name: lock(publishes, awaits, workflows)
SELECT * FROM @wfe_lock(:publishes, :awaits, ARRAY(SELECT json_array_elements_text(:workflows::json)));

-- name: get_runnable_instances(as_at, limit)
SELECT id FROM @workflows WHERE {due} AND next_execution <= :as_at::bigint
ORDER BY next_execution, seq LIMIT nullif(:limit::int, -1);

-- name: next_definition_sequence(definition_id)
INSERT INTO @definition_sequences AS s (definition_id, next_num) VALUES (:definition_id::text, 1)
ON CONFLICT (definition_id) DO UPDATE SET next_num = s.next_num + 1 RETURNING next_num;

-- name: change_status(workflow_id, to, only_from, final, now)
SELECT @wfe_change_status(:workflow_id, :to, :only_from, :final, :now);

-- name: status_of(workflow_id)
SELECT status FROM @workflows WHERE id = :workflow_id::text;

-- name: delete(ids)
SELECT @wfe_delete(ARRAY(SELECT json_array_elements_text(:ids::json)));

-- name: purge(statuses, cutoff, limit)
SELECT @wfe_purge(:statuses, :cutoff, :limit);

-- name: list_workflows(created_before, after_time, after_id, limit)
SELECT {columns} FROM @workflows w {pointers} WHERE {page};

-- name: list_workflows_by_status(status, definition_id, created_before, after_time, after_id, limit)
SELECT {columns} FROM @workflows w {pointers}
WHERE w.status = :status::text AND (:definition_id::text IS NULL OR w.definition_id = :definition_id::text) AND {page_of};

-- name: list_workflows_by_definition(definition_id, created_before, after_time, after_id, limit)
SELECT {columns} FROM @workflows w {pointers} WHERE w.definition_id = :definition_id::text AND {page_of};

-- name: list_workflows_by_reference(reference, status, definition_id, created_before, after_time, after_id, limit)
SELECT {columns} FROM @workflows w {pointers} WHERE w.reference = :reference::text AND (:status::text IS NULL OR w.status = :status::text)
    AND (:definition_id::text IS NULL OR w.definition_id = :definition_id::text) AND {page_of};

-- name: count_workflows()
SELECT status, count(*) FROM @workflows GROUP BY status;

-- name: oldest_runnable()
SELECT next_execution FROM @workflows WHERE {due} ORDER BY next_execution LIMIT 1;

-- ---- claims ----------------------------------------------------------------------------------------------------------------

-- name: claim(worker_id, due, pairs, limit, length, now)
SELECT * FROM @wfe_claim(:worker_id, :due, :pairs, :limit, :length, :now);

-- name: renew(claims, length, now)
SELECT held FROM @wfe_renew(:claims, :length, :now);

-- name: release(seq, id, fence, now)
SELECT @wfe_release(:seq, :id, :fence, :now);

-- name: next_due(pairs, now, events_wait)
SELECT due, now FROM @wfe_next_due(:pairs, :now, :events_wait);

-- ---- events ----------------------------------------------------------------------------------------------------------------

-- name: create_event(id, event_name, event_key, event_data, event_time, is_processed, due_at)
-- Its own time is all that decides when it is due; the parameter is there for a database that cannot leave it out.
SELECT @wfe_create_event(:id, :event_name, :event_key, :event_data, coalesce(:event_time::bigint, :due_at::bigint), :is_processed::int <> 0);

-- name: get_event(id)
SELECT id, event_name, event_key, event_data::text, @wfe_micros(event_time), coalesce(is_processed, FALSE) FROM @events WHERE id = :id::text;

-- name: get_runnable_events(as_at, limit)
SELECT id FROM @events WHERE is_processed IS NOT TRUE AND event_time <= @wfe_moment(:as_at::bigint)
ORDER BY event_time, seq LIMIT nullif(:limit::int, -1);

-- name: get_events(event_name, event_key, as_of)
SELECT id FROM @events
WHERE event_name = :event_name::text AND event_key = :event_key::text AND event_time <= @wfe_moment(:as_of::bigint) ORDER BY event_time, seq;

-- name: events_since(event_name, event_key, start, after_id, limit, lock)
SELECT * FROM @wfe_events_since(:event_name, :event_key, :start, :after_id, :limit, :lock);

-- name: mark_event(id, is_processed)
WITH marked AS (UPDATE @events SET is_processed = :is_processed::int <> 0 WHERE id = :id::text RETURNING is_processed)
SELECT CASE WHEN NOT is_processed THEN @wfe_wake() END FROM marked;

-- name: publish(id, event_name, event_key, event_data, event_time, limit, now)
SELECT @wfe_publish(:id, :event_name, :event_key, :event_data, :event_time, :limit, :now);

-- name: dispatch(limit, now)
SELECT done, held_up FROM @wfe_dispatch(:limit, :now);

-- name: take(workflow_id, fence)
SELECT * FROM @wfe_take(:workflow_id, :fence);

-- name: purge_events(cutoff, limit)
DELETE FROM @events WHERE id = ANY (ARRAY(
    SELECT id FROM @events WHERE is_processed AND event_time < @wfe_moment(:cutoff::bigint) ORDER BY event_time LIMIT :limit::int
    FOR UPDATE SKIP LOCKED));

-- ---- subscriptions ---------------------------------------------------------------------------------------------------------

-- name: create_event_subscription(id, workflow_id, step_id, execution_pointer_id, event_name, event_key, subscribe_as_of, subscription_data, external_token, external_worker_id, external_token_expiry)
SELECT @wfe_create_subscription(json_build_array(json_build_array(:id::text, :workflow_id::text, :step_id::int, :execution_pointer_id::text,
    :event_name::text, :event_key::text, :subscribe_as_of::bigint, :subscription_data::text, :external_token::text,
    :external_worker_id::text, :external_token_expiry::bigint))::text);

-- name: get_subscriptions(event_name, event_key, as_of)
SELECT {subscription} FROM @event_subscriptions WHERE event_name = :event_name::text AND event_key = :event_key::text
    AND subscribe_as_of <= @wfe_moment(:as_of::bigint) ORDER BY subscribe_as_of, seq;

-- name: get_first_open_subscription(event_name, event_key, as_of, now)
SELECT {subscription} FROM @event_subscriptions WHERE pending_event_time IS NULL AND event_name = :event_name::text
    AND event_key = :event_key::text AND subscribe_as_of <= @wfe_moment(:as_of::bigint)
    AND (external_token IS NULL OR external_token_expiry <= @wfe_now(:now::bigint)) ORDER BY subscribe_as_of, seq LIMIT 1;

-- name: get_subscription(id)
SELECT {subscription} FROM @event_subscriptions WHERE id = :id::text;

-- name: set_subscription_token(id, token, worker_id, expiry, now)
SELECT @wfe_set_token(:id, :token, :worker_id, :expiry, :now);

-- name: clear_subscription_token(id, token)
UPDATE @event_subscriptions SET external_token = NULL, external_worker_id = NULL, external_token_expiry = NULL
WHERE id = :id::text AND external_token = :token::text;

-- name: terminate_subscription(id)
DELETE FROM @event_subscriptions WHERE id = :id::text;

-- name: subscriptions_of(workflow_id, pointer_id)
SELECT {subscription} FROM @event_subscriptions WHERE workflow_id = :workflow_id::text
    AND (:pointer_id::text IS NULL OR execution_pointer_id = :pointer_id::text) ORDER BY subscribe_as_of, seq;

-- name: drop_subscriptions(workflow_id, pointer_id)
DELETE FROM @event_subscriptions WHERE id = ANY (ARRAY(SELECT id FROM @event_subscriptions
    WHERE workflow_id = :workflow_id::text AND (:pointer_id::text IS NULL OR execution_pointer_id = :pointer_id::text)
    ORDER BY seq FOR UPDATE));

-- name: claim_subscription(event_name, event_key, token, worker_id, length, now)
UPDATE @event_subscriptions SET external_token = :token::text, external_worker_id = :worker_id::text,
    external_token_expiry = @wfe_now(:now::bigint) + :length::bigint * interval '1 microsecond'
WHERE id = (SELECT id FROM @event_subscriptions WHERE pending_event_time IS NULL AND event_name = :event_name::text
    AND event_key = :event_key::text AND (external_token IS NULL OR external_token_expiry <= @wfe_now(:now::bigint))
    ORDER BY subscribe_as_of, seq LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING {subscription};

-- name: renew_subscription(id, token, length, now)
UPDATE @event_subscriptions SET external_token_expiry = @wfe_now(:now::bigint) + :length::bigint * interval '1 microsecond'
WHERE id = :id::text AND external_token = :token::text AND pending_event_time IS NULL;

-- name: complete_subscription(id, token, data, now)
SELECT @wfe_complete(:id, :token, :data, :now);

-- ---- commands and errors ---------------------------------------------------------------------------------------------------

-- name: schedule_command(command_name, data, execute_time)
SELECT @wfe_schedule(:command_name, :data, :execute_time);

-- name: due_commands(as_of, now)
SELECT id, revision, command_name, data, execute_time FROM @scheduled_commands
WHERE execute_time <= :as_of::bigint AND (lease_until IS NULL OR lease_until <= @wfe_now(:now::bigint)) ORDER BY execute_time, id;

-- name: lease_command(id, revision, length, now)
UPDATE @scheduled_commands SET lease_until = @wfe_now(:now::bigint) + :length::bigint * interval '1 microsecond'
WHERE id = :id::bigint AND revision = :revision::bigint AND (lease_until IS NULL OR lease_until <= @wfe_now(:now::bigint))
RETURNING @wfe_micros(lease_until);

-- name: finish_command(id, revision, until)
SELECT @wfe_finish_command(:id, :revision, :until);

-- name: free_command(id, until)
UPDATE @scheduled_commands SET lease_until = NULL WHERE id = :id::bigint AND lease_until = @wfe_moment(:until::bigint);

-- name: persist_errors(errors)
INSERT INTO @execution_errors (error_time, workflow_id, execution_pointer_id, message)
SELECT @wfe_moment((r.value ->> 0)::bigint), r.value ->> 1, r.value ->> 2, r.value ->> 3
FROM json_array_elements(:errors::json) WITH ORDINALITY AS r (value, n) ORDER BY r.n;

-- name: get_errors(workflow_id, limit)
SELECT @wfe_micros(error_time), workflow_id, execution_pointer_id, message FROM @execution_errors
WHERE workflow_id = :workflow_id::text ORDER BY error_time, id LIMIT nullif(:limit::int, -1);

-- ---- the store -------------------------------------------------------------------------------------------------------------

-- name: truncate_all()
TRUNCATE @execution_errors, @execution_pointers, @event_subscriptions, @events, @scheduled_commands, @definition_sequences, @workflows;
