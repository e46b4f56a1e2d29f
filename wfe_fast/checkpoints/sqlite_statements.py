"""The names of the statements on SQLite."""

from __future__ import annotations

from wfe_fast.checkpoints.statements import Statements


class SqliteStatements(Statements):
    """What the operations of `work.Work` are made of."""

    add_workflow: str
    save_execution: str
    save_claimed_execution: str
    start_execution: str
    load_executions_by_status: str
    delete_completed_before: str
    save_checkpoint: str
    checkpoint_at: str
    save_timer: str
    fire_timers: str
    cancel_timers: str
    cancel_timer: str
    add_signal: str
    save_signal: str
    oldest_signal: str
    deliver_signal: str
    expire_signals: str
    claimable: str
    claimable_of: str
    claim: str
    renew_claim: str
    release_claim: str
    any_claimable: str
    next_lease_end: str
    advance_step: str
    advance: str
    cancel_execution: str
    cancel_and_compensate: str
    wake_executions: str
    wake_waiting: str
    expired_executions: str
    next_expiry: str
    schema_columns: str
    schema_indexes: str
