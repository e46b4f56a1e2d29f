-- Contract A on SQLite. Times are integer microseconds since the epoch, UTC; next_execution and execute_time are milliseconds.

CREATE TABLE workflows (
    -- A number of our own, so that a persist finds its row by it and secondary indexes do not repeat a 36-byte id. AUTOINCREMENT: a
    -- number never comes again, or a stale copy of a deleted workflow could write over the one that was created in its place.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    root_workflow_id TEXT,
    definition_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    description TEXT,
    reference TEXT,
    next_execution INTEGER,
    status TEXT NOT NULL CHECK (status IN ('Runnable', 'Suspended', 'Complete', 'Terminated')),
    data TEXT NOT NULL,
    create_time INTEGER NOT NULL,
    complete_time INTEGER,
    -- Moves with every write of the content: how a stale copy is noticed.
    revision INTEGER NOT NULL DEFAULT 1,
    -- Moves when the status is set beside a claim: how the holder's next persist knows that it has to look.
    control INTEGER NOT NULL DEFAULT 0,
    claimed_by TEXT,
    claim_until INTEGER,
    -- The fencing number: moves with every claim, never back.
    claim_fence INTEGER NOT NULL DEFAULT 0,
    claims_without_commit INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Partial, so that its size, and the cost of finding what is due, follow the runnable rows and not the stored ones. Equal times come
-- in the order of creation, since the rowid follows.
CREATE INDEX workflows_runnable ON workflows (next_execution) WHERE status = 'Runnable' AND next_execution IS NOT NULL;
-- For hosts that know some definitions only: what they do not know they do not walk over, however much of it is due or asleep.
CREATE INDEX workflows_runnable_by_definition ON workflows (definition_id, version, next_execution)
    WHERE status = 'Runnable' AND next_execution IS NOT NULL;
CREATE INDEX workflows_by_create_time ON workflows (create_time, id);
CREATE INDEX workflows_by_status ON workflows (status, create_time, id);
CREATE INDEX workflows_by_definition ON workflows (definition_id, create_time, id);
CREATE INDEX workflows_by_reference ON workflows (reference, create_time, id) WHERE reference IS NOT NULL;
CREATE INDEX workflows_by_complete_time ON workflows (status, complete_time) WHERE complete_time IS NOT NULL;

CREATE TABLE definition_sequences (
    definition_id TEXT PRIMARY KEY,
    next_num INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A pointer is one JSON document: ten are read in half the time that 22 plain columns take. Without rowid the pointers of a workflow lie
-- side by side, in their order.
CREATE TABLE pointers (
    workflow_id TEXT NOT NULL REFERENCES workflows (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (workflow_id, position),
    UNIQUE (workflow_id, id)
) STRICT, WITHOUT ROWID;

-- The same as columns, for who looks with SQL. A view: generated columns of the table, virtual ones too, are computed with every write, which
-- took a sixth of a persist.
CREATE VIEW execution_pointers AS SELECT
    id,
    workflow_id,
    position,
    doc ->> '$.step_id' AS step_id,
    coalesce(doc ->> '$.active', 1) AS active,
    coalesce(doc ->> '$.status', 'Pending') AS status,
    unixepoch(substr(doc ->> '$.sleep_until', 1, 19)) * 1000000
        + CASE substr(doc ->> '$.sleep_until', 20, 1) WHEN '.' THEN CAST(substr(doc ->> '$.sleep_until', 21, 6) AS INTEGER) ELSE 0 END AS sleep_until,
    doc -> '$.persistence_data' AS persistence_data,
    unixepoch(substr(doc ->> '$.start_time', 1, 19)) * 1000000
        + CASE substr(doc ->> '$.start_time', 20, 1) WHEN '.' THEN CAST(substr(doc ->> '$.start_time', 21, 6) AS INTEGER) ELSE 0 END AS start_time,
    unixepoch(substr(doc ->> '$.end_time', 1, 19)) * 1000000
        + CASE substr(doc ->> '$.end_time', 20, 1) WHEN '.' THEN CAST(substr(doc ->> '$.end_time', 21, 6) AS INTEGER) ELSE 0 END AS end_time,
    doc ->> '$.event_name' AS event_name,
    doc ->> '$.event_key' AS event_key,
    coalesce(doc ->> '$.event_published', 0) AS event_published,
    doc -> '$.event_data' AS event_data,
    doc ->> '$.step_name' AS step_name,
    coalesce(doc ->> '$.retry_count', 0) AS retry_count,
    coalesce(doc -> '$.children', '[]') AS children,
    doc -> '$.context_item' AS context_item,
    doc ->> '$.predecessor_id' AS predecessor_id,
    doc -> '$.outcome' AS outcome,
    coalesce(doc -> '$.scope', '[]') AS scope,
    coalesce(doc -> '$.extension_attributes', '{}') AS extension_attributes
FROM pointers;

CREATE TABLE events (
    -- The order in which events were stored: it decides between events of one moment.
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    event_name TEXT NOT NULL,
    event_key TEXT NOT NULL,
    event_data TEXT NOT NULL,
    event_time INTEGER NOT NULL,
    -- From when it is to be delivered: its time, or the moment of its publication where that comes first.
    due_at INTEGER NOT NULL,
    is_processed INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX events_by_key ON events (event_name, event_key, event_time);
CREATE INDEX events_unprocessed ON events (event_time) WHERE is_processed = 0;
CREATE INDEX events_due ON events (due_at) WHERE is_processed = 0;
CREATE INDEX events_unprocessed_by_key ON events (event_name, event_key, event_time) WHERE is_processed = 0;
CREATE INDEX events_processed ON events (event_time) WHERE is_processed = 1;

CREATE TABLE event_subscriptions (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    workflow_id TEXT NOT NULL,
    step_id INTEGER NOT NULL,
    execution_pointer_id TEXT NOT NULL,
    event_name TEXT NOT NULL,
    event_key TEXT NOT NULL,
    subscribe_as_of INTEGER NOT NULL,
    subscription_data TEXT,
    external_token TEXT,
    external_worker_id TEXT,
    external_token_expiry INTEGER,
    -- The event that was left here because the workflow was claimed; its holder takes it. Null in all three where there is none.
    pending_event_id TEXT,
    pending_event_time INTEGER,
    pending_event_data TEXT
) STRICT;

CREATE INDEX subscriptions_by_key ON event_subscriptions (event_name, event_key, subscribe_as_of);
-- Delivery and activities walk only what is still to be delivered, and never what a claim holder has yet to take.
CREATE INDEX subscriptions_open ON event_subscriptions (event_name, event_key, subscribe_as_of)
    WHERE pending_event_time IS NULL;
-- Nearly always empty: what is left for claim holders.
CREATE INDEX subscriptions_pending ON event_subscriptions (event_name, event_key, pending_event_time)
    WHERE pending_event_time IS NOT NULL;
CREATE INDEX subscriptions_pending_by_workflow ON event_subscriptions (workflow_id) WHERE pending_event_time IS NOT NULL;
CREATE INDEX subscriptions_by_workflow ON event_subscriptions (workflow_id, subscribe_as_of);

CREATE TABLE scheduled_commands (
    -- AUTOINCREMENT: who has read a list of due commands must not take a new one for one of them that is gone.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    command_name TEXT NOT NULL,
    data TEXT NOT NULL,
    execute_time INTEGER NOT NULL,
    -- Moves whenever the command is scheduled again: a handler that began before does not remove what came after.
    revision INTEGER NOT NULL DEFAULT 1,
    lease_until INTEGER,
    UNIQUE (command_name, data)
) STRICT;

CREATE INDEX commands_by_time ON scheduled_commands (execute_time);

CREATE TABLE execution_errors (
    id INTEGER PRIMARY KEY,
    error_time INTEGER NOT NULL,
    workflow_id TEXT NOT NULL,
    execution_pointer_id TEXT NOT NULL,
    message TEXT NOT NULL
) STRICT;

CREATE INDEX errors_by_workflow ON execution_errors (workflow_id, error_time);
