-- Contract C on PostgreSQL. Times are TIMESTAMPTZ; a month is year * 12 + month - 1, in UTC. JSON is kept as the text that it was given as, so that
-- numbers and unknown kinds of events come back as they were. `@name` becomes the quoted name in the store's schema, with its prefix.
-- Between the tables executions are named by numbers of our own, which are smaller than their ids.
-- Tenants are never deleted, and whatever is stored for one passes the gate that reads its row: a foreign key would only lock that one row for
-- everybody who stores something.

CREATE TABLE @state_identity (
    id INT PRIMARY KEY CHECK (id = 1),
    -- The upper half of every fencing number: raised after a failover, it makes all older fences smaller.
    term BIGINT NOT NULL
);

CREATE TABLE @state_tenants (
    id TEXT NOT NULL CONSTRAINT "{prefix}state_tenants_id" PRIMARY KEY,
    seq BIGINT GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'suspended', 'archived')),
    policy TEXT,
    limits TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);

-- What a tenant has used in a month: written in the transaction of the event that says so.
CREATE TABLE @state_usage (
    tenant_id TEXT NOT NULL,
    month INT NOT NULL,
    tokens BIGINT NOT NULL,
    cost_usd DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (tenant_id, month)
) WITH (fillfactor = 50);

CREATE TABLE @state_definitions (
    tenant_id TEXT NOT NULL,
    workflow_id TEXT NOT NULL,
    version TEXT NOT NULL,
    ir TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (tenant_id, workflow_id, version)
);

CREATE TABLE @state_executions (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id UUID NOT NULL CONSTRAINT "{prefix}state_executions_id" UNIQUE,
    tenant_id TEXT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'running', 'paused', 'completed', 'failed', 'cancelled', 'limit_exceeded')),
    -- Whether its events were removed after its end: so that they are looked for once.
    purged BOOLEAN NOT NULL DEFAULT FALSE,
    started_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    completed_at TIMESTAMPTZ,
    workflow_id TEXT NOT NULL,
    workflow_version TEXT NOT NULL,
    session_type TEXT,
    parent_execution_id UUID,
    segment_number BIGINT NOT NULL,
    initial_input TEXT NOT NULL,
    current_state TEXT NOT NULL
);
-- One list for each filter, in the order of the list: with all filters in one statement none could be walked.
CREATE INDEX "{prefix}state_executions_time" ON @state_executions (updated_at DESC, id);
CREATE INDEX "{prefix}state_executions_status" ON @state_executions (status, updated_at DESC, id);
CREATE INDEX "{prefix}state_executions_tenant" ON @state_executions (tenant_id, updated_at DESC, id);
CREATE INDEX "{prefix}state_executions_tenant_st" ON @state_executions (tenant_id, status, updated_at DESC, id);
-- Those that count towards a tenant's limit.
CREATE INDEX "{prefix}state_executions_active" ON @state_executions (tenant_id) WHERE status IN ('pending', 'running', 'paused');
CREATE INDEX "{prefix}state_executions_ended" ON @state_executions (tenant_id, completed_at)
    WHERE completed_at IS NOT NULL AND NOT purged;

-- The number of an execution's last event. Apart from the execution, so that an event does not write the state again, and waits for nobody who
-- does; and not the largest number among the events, since those may be removed. Its row is the lock that appends wait for.
CREATE TABLE @state_logs (
    execution BIGINT PRIMARY KEY REFERENCES @state_executions (seq),
    tenant_id TEXT NOT NULL,
    last_sequence BIGINT NOT NULL DEFAULT 0,
    -- Where the last snapshot was taken.
    snapshot_at BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Written behind the lock of the log's row only, which has the foreign key.
CREATE TABLE @state_events (
    execution BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    id UUID NOT NULL CONSTRAINT "{prefix}state_events_id" UNIQUE,
    tenant_id TEXT NOT NULL,
    type TEXT NOT NULL,
    node_id TEXT,
    kind TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (execution, sequence)
);

CREATE TABLE @state_snapshots (
    execution BIGINT NOT NULL REFERENCES @state_executions (seq),
    at_sequence BIGINT NOT NULL,
    id UUID NOT NULL CONSTRAINT "{prefix}state_snapshots_id" UNIQUE,
    tenant_id TEXT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'running', 'paused', 'completed', 'failed', 'cancelled', 'limit_exceeded')),
    last_sequence BIGINT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    state TEXT NOT NULL,
    completed_nodes TEXT NOT NULL,
    active_nodes TEXT NOT NULL,
    PRIMARY KEY (execution, at_sequence)
);

CREATE TABLE @state_items (
    id UUID NOT NULL CONSTRAINT "{prefix}state_items_id" PRIMARY KEY,
    -- Decides between items that have been available equally long.
    seq BIGINT GENERATED ALWAYS AS IDENTITY,
    tenant_id TEXT NOT NULL,
    execution BIGINT NOT NULL REFERENCES @state_executions (seq),
    node_id TEXT NOT NULL,
    queue_type TEXT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'claimed', 'completed', 'failed', 'cancelled', 'dead_lettered')),
    priority INT NOT NULL,
    -- From when it may be claimed, and where it stands in its queue: the latest of its creation, its run_at, the end of its back-off.
    available_at TIMESTAMPTZ NOT NULL,
    attempt INT NOT NULL,
    max_attempts INT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    run_at TIMESTAMPTZ,
    worker_id TEXT,
    lease_until TIMESTAMPTZ,
    -- The number that its holder has to show; 0 where nobody holds it. The epoch moves with every claim and every return, never back.
    fence BIGINT NOT NULL DEFAULT 0,
    epoch BIGINT NOT NULL DEFAULT 0,
    settled_at TIMESTAMPTZ,
    last_error TEXT,
    payload TEXT NOT NULL
);
-- One live item for a node.
CREATE UNIQUE INDEX "{prefix}state_items_node_id" ON @state_items (execution, node_id) WHERE settled_at IS NULL;
-- Partial, so that what is settled costs nothing here. Twice: for workers of all tenants, and for one tenant's.
CREATE INDEX "{prefix}state_items_ready" ON @state_items (queue_type, priority DESC, available_at, seq) WHERE status = 'pending';
CREATE INDEX "{prefix}state_items_ready_tenant" ON @state_items (tenant_id, queue_type, priority DESC, available_at, seq)
    WHERE status = 'pending';
-- Once: there are never more leases than workers, and what has run out is ended by the next claim.
CREATE INDEX "{prefix}state_items_leased" ON @state_items (queue_type, lease_until) WHERE status = 'claimed';
CREATE INDEX "{prefix}state_items_settled" ON @state_items (tenant_id, settled_at)
    WHERE status IN ('completed', 'failed', 'cancelled');
CREATE INDEX "{prefix}state_items_dead" ON @state_items (settled_at, id) WHERE status = 'dead_lettered';
CREATE INDEX "{prefix}state_items_dead_tenant" ON @state_items (tenant_id, settled_at, id) WHERE status = 'dead_lettered';

CREATE TABLE @state_effects (
    idempotency_key TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    execution BIGINT NOT NULL REFERENCES @state_executions (seq),
    node_id TEXT NOT NULL,
    result TEXT NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (idempotency_key, tenant_id)
);

CREATE TABLE @state_reservations (
    idempotency_key TEXT NOT NULL,
    tenant_id TEXT NOT NULL,
    execution BIGINT NOT NULL REFERENCES @state_executions (seq),
    node_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    fence BIGINT NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    reserved_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (idempotency_key, tenant_id)
);

CREATE TABLE @state_tokens (
    id TEXT NOT NULL CONSTRAINT "{prefix}state_tokens_id" PRIMARY KEY,
    seq BIGINT GENERATED ALWAYS AS IDENTITY,
    tenant_id TEXT NOT NULL,
    -- The SHA-256 of the whole secret, in hex. The secret has 256 random bits, so that a slow hash would protect nothing more.
    token_hash TEXT NOT NULL CONSTRAINT "{prefix}state_tokens_hash" UNIQUE,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ,
    last_used_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ
);
CREATE INDEX "{prefix}state_tokens_tenant" ON @state_tokens (tenant_id, created_at, seq);
CREATE INDEX "{prefix}state_tokens_end" ON @state_tokens (tenant_id, least(revoked_at, expires_at))
    WHERE coalesce(revoked_at, expires_at) IS NOT NULL;

-- An item as its callers see it, its times in microseconds.
CREATE TYPE @state_item AS (id UUID, execution_id UUID, node_id TEXT, queue_type TEXT, payload TEXT, attempt INT, max_attempts INT,
    created_at BIGINT, lease_until BIGINT, worker_id TEXT, fence BIGINT, tenant_id TEXT, priority INT, run_at BIGINT);
