-- Contract C on SQLite. Times are integer microseconds since the epoch, UTC; a month is year * 12 + month - 1. Ids of the contract are text,
-- and found by their unique index; between the tables rows are named by numbers of our own, which are smaller. AUTOINCREMENT: a
-- number never comes again.

CREATE TABLE state_identity (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    -- The upper half of every fencing number: raised after a failover, it makes all older fences smaller.
    term INTEGER NOT NULL
) STRICT;
INSERT INTO state_identity (id, term) VALUES (1, 0);

CREATE TABLE state_tenants (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('active', 'suspended', 'archived')),
    policy TEXT,
    limits TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;
CREATE INDEX state_tenants_by_time ON state_tenants (created_at);
INSERT INTO state_tenants (id, name, status, created_at, updated_at)
    VALUES ('default', 'Default', 'active', unixepoch() * 1000000, unixepoch() * 1000000);

-- What a tenant has used in a month: written in the transaction of the event that says so.
CREATE TABLE state_usage (
    tenant_id TEXT NOT NULL REFERENCES state_tenants (id),
    month INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL,
    PRIMARY KEY (tenant_id, month)
) STRICT, WITHOUT ROWID;

CREATE TABLE state_definitions (
    tenant_id TEXT NOT NULL REFERENCES state_tenants (id),
    workflow_id TEXT NOT NULL,
    version TEXT NOT NULL,
    ir TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, workflow_id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE state_executions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL REFERENCES state_tenants (id),
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'running', 'paused', 'completed', 'failed', 'cancelled', 'limit_exceeded')),
    -- Whether its events were removed after its end: so that they are looked for once.
    purged INTEGER NOT NULL DEFAULT 0,
    started_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    completed_at INTEGER,
    workflow_id TEXT NOT NULL,
    workflow_version TEXT NOT NULL,
    session_type TEXT,
    parent_execution_id TEXT,
    segment_number INTEGER NOT NULL,
    initial_input TEXT NOT NULL,
    current_state TEXT NOT NULL
) STRICT;
-- One list for each filter, in the order of the list: with all filters in one statement none could be walked.
CREATE INDEX state_executions_by_time ON state_executions (updated_at DESC, id);
CREATE INDEX state_executions_by_status ON state_executions (status, updated_at DESC, id);
CREATE INDEX state_executions_of_tenant ON state_executions (tenant_id, updated_at DESC, id);
CREATE INDEX state_executions_of_tenant_by_status ON state_executions (tenant_id, status, updated_at DESC, id);
-- Those that count towards a tenant's limit.
CREATE INDEX state_executions_active ON state_executions (tenant_id) WHERE status IN ('pending', 'running', 'paused');
CREATE INDEX state_executions_ended ON state_executions (tenant_id, completed_at)
    WHERE completed_at IS NOT NULL AND purged = 0;

-- The number of an execution's last event. Apart from the execution, so that an event does not write the state again; and not the largest
-- number among the events, since those may be removed.
CREATE TABLE state_logs (
    execution INTEGER PRIMARY KEY REFERENCES state_executions (seq),
    last_sequence INTEGER NOT NULL DEFAULT 0,
    -- Where the last snapshot was taken.
    snapshot_at INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE state_events (
    execution INTEGER NOT NULL REFERENCES state_executions (seq),
    sequence INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL REFERENCES state_tenants (id),
    type TEXT NOT NULL,
    node_id TEXT,
    kind TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (execution, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE state_snapshots (
    execution INTEGER NOT NULL REFERENCES state_executions (seq),
    at_sequence INTEGER NOT NULL,
    id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL REFERENCES state_tenants (id),
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'running', 'paused', 'completed', 'failed', 'cancelled', 'limit_exceeded')),
    last_sequence INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    state TEXT NOT NULL,
    completed_nodes TEXT NOT NULL,
    active_nodes TEXT NOT NULL,
    PRIMARY KEY (execution, at_sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE state_items (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL REFERENCES state_tenants (id),
    execution INTEGER NOT NULL REFERENCES state_executions (seq),
    node_id TEXT NOT NULL,
    queue_type TEXT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('pending', 'claimed', 'completed', 'failed', 'cancelled', 'dead_lettered')),
    priority INTEGER NOT NULL,
    -- From when it may be claimed, and where it stands in its queue: the latest of its creation, its run_at, the end of its back-off.
    available_at INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    max_attempts INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    run_at INTEGER,
    worker_id TEXT,
    lease_until INTEGER,
    -- The number that its holder has to show; 0 where nobody holds it. The epoch moves with every claim and every return, never back.
    fence INTEGER NOT NULL DEFAULT 0,
    epoch INTEGER NOT NULL DEFAULT 0,
    settled_at INTEGER,
    last_error TEXT,
    payload TEXT NOT NULL
) STRICT;
-- One live item for a node. By settled_at, which a claim does not change, so that a claim need not write this index.
CREATE UNIQUE INDEX state_items_live ON state_items (execution, node_id) WHERE settled_at IS NULL;
-- Partial, so that what is settled costs nothing here. Twice: for workers of all tenants, and for one tenant's.
CREATE INDEX state_items_ready ON state_items (queue_type, priority, available_at) WHERE status = 'pending';
CREATE INDEX state_items_ready_of_tenant ON state_items (tenant_id, queue_type, priority, available_at)
    WHERE status = 'pending';
-- Once: there are never more leases than workers, and what has run out is ended by the next claim.
CREATE INDEX state_items_leased ON state_items (queue_type, lease_until) WHERE status = 'claimed';
CREATE INDEX state_items_settled ON state_items (tenant_id, settled_at)
    WHERE status IN ('completed', 'failed', 'cancelled');
CREATE INDEX state_items_dead ON state_items (settled_at, id) WHERE status = 'dead_lettered';
CREATE INDEX state_items_dead_of_tenant ON state_items (tenant_id, settled_at, id) WHERE status = 'dead_lettered';

CREATE TABLE state_effects (
    idempotency_key TEXT NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES state_tenants (id),
    execution INTEGER NOT NULL REFERENCES state_executions (seq),
    node_id TEXT NOT NULL,
    result TEXT NOT NULL,
    recorded_at INTEGER NOT NULL,
    PRIMARY KEY (idempotency_key, tenant_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE state_reservations (
    idempotency_key TEXT NOT NULL,
    tenant_id TEXT NOT NULL REFERENCES state_tenants (id),
    execution INTEGER NOT NULL REFERENCES state_executions (seq),
    node_id TEXT NOT NULL,
    owner TEXT NOT NULL,
    fence INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    reserved_at INTEGER NOT NULL,
    PRIMARY KEY (idempotency_key, tenant_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE state_tokens (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant_id TEXT NOT NULL REFERENCES state_tenants (id),
    -- The SHA-256 of the whole secret, in hex. The secret has 256 random bits, so that a slow hash would protect nothing more.
    token_hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    last_used_at INTEGER,
    revoked_at INTEGER
) STRICT;
CREATE INDEX state_tokens_of_tenant ON state_tokens (tenant_id, created_at);
CREATE INDEX state_tokens_by_end ON state_tokens (tenant_id, min(coalesce(revoked_at, expires_at), coalesce(expires_at, revoked_at)))
    WHERE coalesce(revoked_at, expires_at) IS NOT NULL;
