-- Contract B on PostgreSQL. Times are integer microseconds since the epoch, UTC, as on SQLite. Documents are JSON as text: stored as they come,
-- which costs no parsing; cast them (`output_data::jsonb`) to look into them. Ids are ordered by their bytes, so that every order is the same on both.
-- `@name` becomes the quoted name in the store's schema, with its prefix.

CREATE TABLE @workflows (
    workflow_id TEXT COLLATE "C" PRIMARY KEY,
    workflow_type TEXT NOT NULL,
    version INT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL
);

CREATE TABLE @workflow_executions (
    workflow_execution_id TEXT COLLATE "C" PRIMARY KEY,
    workflow_id TEXT COLLATE "C" NOT NULL REFERENCES @workflows (workflow_id),
    status TEXT NOT NULL DEFAULT 'PENDING'
        CHECK (status IN ('PENDING', 'RUNNING', 'SUSPENDED', 'COMPLETED', 'FAILED', 'COMPENSATING', 'CANCELLED')),
    current_step INT NOT NULL DEFAULT 0,
    guarantee TEXT NOT NULL DEFAULT 'FOREGROUND_ONLY' CHECK (guarantee IN ('FOREGROUND_ONLY', 'BEST_EFFORT_BACKGROUND')),
    ttl_expires_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    -- When it ended, for retention. An index on updated_at would get an entry with every step.
    ended_at BIGINT GENERATED ALWAYS AS (CASE WHEN status IN ('COMPLETED', 'FAILED', 'CANCELLED') THEN updated_at END) STORED,
    -- Somebody has cancelled it and wants it undone: it then ends as CANCELLED, however it would have ended.
    cancel_requested BOOLEAN NOT NULL DEFAULT FALSE,
    -- The signal that a suspended execution waits for, so that sending it wakes this one and no other.
    waiting_for TEXT,
    claimed_by TEXT,
    claim_until BIGINT,
    -- The fencing number: moves with every claim, and with a cancellation, never back.
    claim_fence BIGINT NOT NULL DEFAULT 0,
    -- How many leases in a row have ended without anything being recorded in between: how an execution is known that ends whoever runs it.
    takeovers INT NOT NULL DEFAULT 0,
    error_message TEXT,
    output_data TEXT,
    input_data TEXT
-- Room in each page, so that the next version of a row, which each step makes, stays in it and needs no entry in any index.
) WITH (fillfactor = 70);

-- The foreign key's index; also what an engine walks to claim executions of the workflows that it knows. `+ 0`, so that no other index has this
-- order: the planner, who does not know the parameters, might walk one of those and throw most of it away.
CREATE INDEX "{prefix}executions_by_workflow" ON @workflow_executions (workflow_id, status, (created_at + 0), workflow_execution_id);
CREATE INDEX "{prefix}executions_of_workflow" ON @workflow_executions (workflow_id, created_at, workflow_execution_id);
CREATE INDEX "{prefix}executions_by_status" ON @workflow_executions (status, created_at, workflow_execution_id);
CREATE INDEX "{prefix}executions_by_creation" ON @workflow_executions (created_at, workflow_execution_id);
CREATE INDEX "{prefix}executions_ended" ON @workflow_executions (status, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX "{prefix}executions_expiring" ON @workflow_executions (ttl_expires_at)
    WHERE status = 'SUSPENDED' AND ttl_expires_at IS NOT NULL;

CREATE TABLE @step_checkpoints (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    workflow_execution_id TEXT COLLATE "C" NOT NULL REFERENCES @workflow_executions (workflow_execution_id) ON DELETE CASCADE,
    step_index INT NOT NULL,
    attempt INT NOT NULL DEFAULT 1,
    step_name TEXT NOT NULL,
    kind TEXT NOT NULL DEFAULT 'STEP' CHECK (kind IN ('STEP', 'SLEEP', 'SIGNAL')),
    status TEXT NOT NULL CHECK (status IN ('INTENT', 'COMPLETED', 'FAILED', 'COMPENSATED')),
    input_data TEXT,
    output_data TEXT,
    error_type TEXT,
    error_message TEXT,
    is_final BOOLEAN NOT NULL DEFAULT FALSE,
    compensate_ref TEXT,
    started_at BIGINT,
    completed_at BIGINT,
    -- Its index is the foreign key's, too, and the order in which checkpoints are loaded.
    PRIMARY KEY (workflow_execution_id, step_index, attempt)
);

CREATE TABLE @workflow_timers (
    workflow_timer_id TEXT COLLATE "C" PRIMARY KEY,
    workflow_execution_id TEXT COLLATE "C" NOT NULL REFERENCES @workflow_executions (workflow_execution_id) ON DELETE CASCADE,
    step_name TEXT NOT NULL,
    fire_at BIGINT NOT NULL,
    status TEXT NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'FIRED', 'CANCELLED')),
    created_at BIGINT NOT NULL
);

CREATE INDEX "{prefix}timers_by_execution" ON @workflow_timers (workflow_execution_id, status);
CREATE INDEX "{prefix}timers_pending" ON @workflow_timers (fire_at, workflow_timer_id) WHERE status = 'PENDING';
CREATE INDEX "{prefix}timers_settled" ON @workflow_timers (created_at) WHERE status IN ('FIRED', 'CANCELLED');

CREATE SEQUENCE @signal_ids;
CREATE TABLE @workflow_signals (
    -- From a sequence: ids are handed out, and a stale one must not meet another signal.
    workflow_signal_id BIGINT PRIMARY KEY DEFAULT nextval('@signal_ids'),
    workflow_execution_id TEXT COLLATE "C" NOT NULL REFERENCES @workflow_executions (workflow_execution_id) ON DELETE CASCADE,
    signal_name TEXT NOT NULL,
    payload TEXT,
    status TEXT NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'DELIVERED', 'EXPIRED')),
    created_at BIGINT NOT NULL
);

CREATE INDEX "{prefix}signals_by_execution" ON @workflow_signals (workflow_execution_id, status, created_at, workflow_signal_id);
CREATE INDEX "{prefix}signals_pending" ON @workflow_signals (workflow_execution_id, signal_name, created_at, workflow_signal_id)
    WHERE status = 'PENDING';
CREATE INDEX "{prefix}signals_settled" ON @workflow_signals (created_at) WHERE status IN ('DELIVERED', 'EXPIRED');
