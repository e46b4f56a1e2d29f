-- Contract A on PostgreSQL. The tables are a superset of those of wfe-postgres 1.10 and 1.11, under their names: what we add is nullable
-- or has a default. So a store that it has made is upgraded in place, and it goes on working on it.
-- `@name` becomes the quoted name in the store's schema, with its prefix.

CREATE TABLE IF NOT EXISTS @workflows (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    root_workflow_id TEXT,
    definition_id TEXT NOT NULL,
    version INT NOT NULL,
    description TEXT,
    reference TEXT,
    status TEXT NOT NULL,
    data JSONB NOT NULL DEFAULT '{}',
    next_execution BIGINT,
    create_time TIMESTAMPTZ NOT NULL,
    complete_time TIMESTAMPTZ,
    last_heartbeat_at TIMESTAMPTZ
);

CREATE TABLE IF NOT EXISTS @definition_sequences (
    definition_id TEXT PRIMARY KEY,
    next_num BIGINT NOT NULL
);

CREATE TABLE IF NOT EXISTS @execution_pointers (
    id TEXT PRIMARY KEY,
    workflow_id TEXT NOT NULL REFERENCES @workflows (id),
    step_id INT NOT NULL,
    active BOOLEAN NOT NULL DEFAULT TRUE,
    status TEXT NOT NULL,
    sleep_until TIMESTAMPTZ,
    persistence_data JSONB,
    start_time TIMESTAMPTZ,
    end_time TIMESTAMPTZ,
    event_name TEXT,
    event_key TEXT,
    event_published BOOLEAN DEFAULT FALSE,
    event_data JSONB,
    step_name TEXT,
    retry_count INT DEFAULT 0,
    children JSONB DEFAULT '[]',
    context_item JSONB,
    predecessor_id TEXT,
    outcome JSONB,
    scope JSONB DEFAULT '[]',
    extension_attributes JSONB DEFAULT '{}'
);

CREATE TABLE IF NOT EXISTS @events (
    id TEXT PRIMARY KEY,
    event_name TEXT NOT NULL,
    event_key TEXT NOT NULL,
    event_data JSONB NOT NULL DEFAULT 'null',
    event_time TIMESTAMPTZ NOT NULL,
    is_processed BOOLEAN DEFAULT FALSE
);

CREATE TABLE IF NOT EXISTS @event_subscriptions (
    id TEXT PRIMARY KEY,
    workflow_id TEXT NOT NULL,
    step_id INT NOT NULL,
    execution_pointer_id TEXT NOT NULL,
    event_name TEXT NOT NULL,
    event_key TEXT NOT NULL,
    subscribe_as_of TIMESTAMPTZ NOT NULL,
    subscription_data JSONB,
    external_token TEXT,
    external_worker_id TEXT,
    external_token_expiry TIMESTAMPTZ
);

CREATE TABLE IF NOT EXISTS @execution_errors (
    id SERIAL PRIMARY KEY,
    error_time TIMESTAMPTZ NOT NULL,
    workflow_id TEXT NOT NULL,
    execution_pointer_id TEXT NOT NULL,
    message TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS @scheduled_commands (
    id SERIAL PRIMARY KEY,
    command_name TEXT NOT NULL,
    data TEXT NOT NULL,
    execute_time BIGINT NOT NULL,
    UNIQUE (command_name, data)
);

-- ---- what we add -----------------------------------------------------------------------------------------------------------

ALTER TABLE @workflows
    -- A number that never comes again: a workflow that was deleted and made again is another one. It also decides between equal times.
    ADD COLUMN IF NOT EXISTS seq BIGSERIAL,
    -- Moves with every write of the content: how a stale copy is noticed.
    ADD COLUMN IF NOT EXISTS revision BIGINT NOT NULL DEFAULT 1,
    -- Moves when the status is set beside a claim: how the holder's next persist knows that it has to look.
    ADD COLUMN IF NOT EXISTS control BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS claimed_by TEXT,
    ADD COLUMN IF NOT EXISTS claim_until TIMESTAMPTZ,
    -- The fencing number: moves with every claim, never back.
    ADD COLUMN IF NOT EXISTS claim_fence BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS claims_without_commit INT NOT NULL DEFAULT 0;

-- Rows that wfe-postgres inserts lie in the order of their insertion, behind any position of ours.
CREATE SEQUENCE IF NOT EXISTS @pointer_positions START 1000000000;
ALTER TABLE @execution_pointers
    ADD COLUMN IF NOT EXISTS position BIGINT NOT NULL DEFAULT nextval('@pointer_positions'),
    -- The whole pointer as one JSON text, from which it is read: ten documents are read and decoded in a tenth of the time of ten times 21
    -- columns, and unchanged ones are recognised. The columns are written from it. Null where somebody else has written the row.
    ADD COLUMN IF NOT EXISTS doc TEXT;

ALTER TABLE @events
    -- The order in which events were stored: it decides between events of one moment.
    ADD COLUMN IF NOT EXISTS seq BIGSERIAL,
    -- From when it is to be delivered: its time, or the moment of its publication where that comes first. Null = its time.
    ADD COLUMN IF NOT EXISTS due_at TIMESTAMPTZ;

ALTER TABLE @event_subscriptions
    ADD COLUMN IF NOT EXISTS seq BIGSERIAL,
    -- The event that was left here because the workflow was claimed; its holder takes it.
    ADD COLUMN IF NOT EXISTS pending_event_id TEXT,
    ADD COLUMN IF NOT EXISTS pending_event_time TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS pending_event_data JSONB;

ALTER TABLE @scheduled_commands
    -- Moves whenever the command is scheduled again: a handler that began before does not remove what came after.
    ADD COLUMN IF NOT EXISTS revision BIGINT NOT NULL DEFAULT 1,
    ADD COLUMN IF NOT EXISTS lease_until TIMESTAMPTZ;

CREATE FUNCTION @wfe_micros(moment TIMESTAMPTZ) RETURNS BIGINT LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (extract(epoch FROM moment) * 1000000)::bigint
$$;

-- Partial, so that its size, and the cost of finding what is due, follow the runnable rows and not the stored ones.
CREATE INDEX IF NOT EXISTS "{prefix}workflows_runnable" ON @workflows (next_execution, seq)
    WHERE status = 'Runnable' AND next_execution IS NOT NULL;
-- `+ 0`, and microseconds below, so that no other index has this order: the planner, who does not know the parameters, would walk the one
-- above and throw away what is of other definitions.
CREATE INDEX IF NOT EXISTS "{prefix}workflows_runnable_of" ON @workflows (definition_id, version, (next_execution + 0), seq)
    WHERE status = 'Runnable' AND next_execution IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS "{prefix}workflows_seq" ON @workflows (seq);
CREATE INDEX IF NOT EXISTS "{prefix}workflows_by_time" ON @workflows (create_time, id COLLATE "C");
CREATE INDEX IF NOT EXISTS "{prefix}workflows_by_status" ON @workflows (status, @wfe_micros(create_time), id COLLATE "C");
CREATE INDEX IF NOT EXISTS "{prefix}workflows_by_definition" ON @workflows (definition_id, @wfe_micros(create_time), id COLLATE "C");
CREATE INDEX IF NOT EXISTS "{prefix}workflows_by_reference" ON @workflows (reference, @wfe_micros(create_time), id COLLATE "C")
    WHERE reference IS NOT NULL;
CREATE INDEX IF NOT EXISTS "{prefix}workflows_by_end" ON @workflows (status, complete_time, id COLLATE "C")
    WHERE complete_time IS NOT NULL;
-- wfe-postgres has no index that leads to the pointers of a workflow: with 20,000 finished workflows its persist falls to an eighth.
CREATE INDEX IF NOT EXISTS "{prefix}pointers_of_workflow" ON @execution_pointers (workflow_id, position);
CREATE INDEX IF NOT EXISTS "{prefix}events_by_key" ON @events (event_name, event_key, event_time, seq);
CREATE INDEX IF NOT EXISTS "{prefix}events_unprocessed" ON @events (event_time, seq) WHERE is_processed IS NOT TRUE;
CREATE INDEX IF NOT EXISTS "{prefix}events_due" ON @events ((coalesce(due_at, event_time)), seq) WHERE is_processed IS NOT TRUE;
CREATE INDEX IF NOT EXISTS "{prefix}events_due_by_key" ON @events (event_name, event_key, event_time, seq)
    WHERE is_processed IS NOT TRUE;
CREATE INDEX IF NOT EXISTS "{prefix}events_processed" ON @events (event_time) WHERE is_processed;
CREATE INDEX IF NOT EXISTS "{prefix}subs_by_key" ON @event_subscriptions (event_name, event_key, subscribe_as_of, seq);
-- Delivery and activities walk only what is still to be delivered, and never what a claim holder has yet to take.
CREATE INDEX IF NOT EXISTS "{prefix}subs_open" ON @event_subscriptions (event_name, event_key, subscribe_as_of, seq)
    WHERE pending_event_time IS NULL;
-- Nearly always empty: what is left for claim holders.
CREATE INDEX IF NOT EXISTS "{prefix}subs_pending" ON @event_subscriptions (event_name, event_key, pending_event_time)
    WHERE pending_event_time IS NOT NULL;
CREATE INDEX IF NOT EXISTS "{prefix}subs_pending_of" ON @event_subscriptions (workflow_id) WHERE pending_event_time IS NOT NULL;
CREATE INDEX IF NOT EXISTS "{prefix}subs_of_workflow" ON @event_subscriptions (workflow_id, subscribe_as_of, seq);
CREATE INDEX IF NOT EXISTS "{prefix}commands_by_time" ON @scheduled_commands (execute_time, id);
CREATE INDEX IF NOT EXISTS "{prefix}errors_of_workflow" ON @execution_errors (workflow_id, error_time, id);

-- ---- writes of wfe-postgres ------------------------------------------------------------------------------------------------

-- It sets last_heartbeat_at with every persist, and nobody else does. Then our revision has to move, or a stale copy would go unnoticed.
CREATE FUNCTION @wfe_move_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.revision := OLD.revision + 1;
    RETURN NEW;
END $$;
CREATE TRIGGER "{prefix}wfe_foreign_persist" BEFORE UPDATE OF last_heartbeat_at ON @workflows FOR EACH ROW
    WHEN (NEW.revision = OLD.revision) EXECUTE FUNCTION @wfe_move_revision();
CREATE TRIGGER "{prefix}wfe_foreign_schedule" BEFORE UPDATE OF execute_time ON @scheduled_commands FOR EACH ROW
    WHEN (NEW.revision = OLD.revision) EXECUTE FUNCTION @wfe_move_revision();

-- A pointer whose columns somebody sets without its document.
CREATE FUNCTION @wfe_drop_doc() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.doc := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER "{prefix}wfe_foreign_pointer" BEFORE UPDATE OF step_id, active, status, sleep_until, persistence_data, start_time, end_time,
    event_name, event_key, event_published, event_data, step_name, retry_count, children, context_item, predecessor_id, outcome, scope,
    extension_attributes ON @execution_pointers FOR EACH ROW
    WHEN (NEW.doc IS NOT NULL AND NEW.doc = OLD.doc) EXECUTE FUNCTION @wfe_drop_doc();
