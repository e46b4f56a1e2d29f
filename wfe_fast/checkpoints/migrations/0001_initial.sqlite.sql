-- Contract B on SQLite. Times are integer microseconds since the epoch, UTC; documents are JSON text.

CREATE TABLE workflows (
    workflow_id TEXT NOT NULL PRIMARY KEY,
    workflow_type TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE workflow_executions (
    workflow_execution_id TEXT NOT NULL PRIMARY KEY,
    workflow_id TEXT NOT NULL REFERENCES workflows (workflow_id),
    status TEXT NOT NULL DEFAULT 'PENDING'
        CHECK (status IN ('PENDING', 'RUNNING', 'SUSPENDED', 'COMPLETED', 'FAILED', 'COMPENSATING', 'CANCELLED')),
    current_step INTEGER NOT NULL DEFAULT 0,
    guarantee TEXT NOT NULL DEFAULT 'FOREGROUND_ONLY' CHECK (guarantee IN ('FOREGROUND_ONLY', 'BEST_EFFORT_BACKGROUND')),
    ttl_expires_at INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    -- Somebody has cancelled it and wants it undone: it then ends as CANCELLED, however it would have ended.
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    -- The signal that a suspended execution waits for, so that sending it wakes this one and no other.
    waiting_for TEXT,
    claimed_by TEXT,
    claim_until INTEGER,
    -- The fencing number: moves with every claim, and with a cancellation, never back.
    claim_fence INTEGER NOT NULL DEFAULT 0,
    -- The large ones last: what stands before them is then read without them.
    error_message TEXT,
    output_data TEXT,
    input_data TEXT
) STRICT;

-- The foreign key's index; also what an engine walks to claim executions of the workflows that it knows.
CREATE INDEX executions_by_workflow ON workflow_executions (workflow_id, status, created_at, workflow_execution_id);
CREATE INDEX executions_of_workflow ON workflow_executions (workflow_id, created_at, workflow_execution_id);
CREATE INDEX executions_by_status ON workflow_executions (status, created_at, workflow_execution_id);
CREATE INDEX executions_by_creation ON workflow_executions (created_at, workflow_execution_id);
CREATE INDEX executions_ended ON workflow_executions (status, updated_at) WHERE status IN ('COMPLETED', 'FAILED', 'CANCELLED');
CREATE INDEX executions_expiring ON workflow_executions (ttl_expires_at) WHERE status = 'SUSPENDED' AND ttl_expires_at IS NOT NULL;

CREATE TABLE step_checkpoints (
    id INTEGER PRIMARY KEY,
    workflow_execution_id TEXT NOT NULL REFERENCES workflow_executions (workflow_execution_id) ON DELETE CASCADE,
    step_index INTEGER NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    step_name TEXT NOT NULL,
    kind TEXT NOT NULL DEFAULT 'STEP' CHECK (kind IN ('STEP', 'SLEEP', 'SIGNAL')),
    status TEXT NOT NULL CHECK (status IN ('INTENT', 'COMPLETED', 'FAILED', 'COMPENSATED')),
    input_data TEXT,
    output_data TEXT,
    error_type TEXT,
    error_message TEXT,
    is_final INTEGER NOT NULL DEFAULT 0,
    compensate_ref TEXT,
    started_at INTEGER,
    completed_at INTEGER,
    -- Its index is the foreign key's, too, and the order in which checkpoints are loaded.
    UNIQUE (workflow_execution_id, step_index, attempt)
) STRICT;

CREATE TABLE workflow_timers (
    workflow_timer_id TEXT NOT NULL PRIMARY KEY,
    workflow_execution_id TEXT NOT NULL REFERENCES workflow_executions (workflow_execution_id) ON DELETE CASCADE,
    step_name TEXT NOT NULL,
    fire_at INTEGER NOT NULL,
    status TEXT NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'FIRED', 'CANCELLED')),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX timers_by_execution ON workflow_timers (workflow_execution_id, status);
CREATE INDEX timers_pending ON workflow_timers (fire_at) WHERE status = 'PENDING';
CREATE INDEX timers_settled ON workflow_timers (created_at) WHERE status IN ('FIRED', 'CANCELLED');

CREATE TABLE workflow_signals (
    -- AUTOINCREMENT: ids are handed out, and a stale one must not meet another signal.
    workflow_signal_id INTEGER PRIMARY KEY AUTOINCREMENT,
    workflow_execution_id TEXT NOT NULL REFERENCES workflow_executions (workflow_execution_id) ON DELETE CASCADE,
    signal_name TEXT NOT NULL,
    payload TEXT,
    status TEXT NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'DELIVERED', 'EXPIRED')),
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX signals_by_execution ON workflow_signals (workflow_execution_id, status, created_at);
CREATE INDEX signals_pending ON workflow_signals (workflow_execution_id, signal_name, created_at) WHERE status = 'PENDING';
CREATE INDEX signals_settled ON workflow_signals (created_at) WHERE status IN ('DELIVERED', 'EXPIRED');
