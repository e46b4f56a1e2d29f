"""The names of the statements. Each database brings the texts in a ``.sql`` file; that they fit is checked when it is loaded."""

from __future__ import annotations

from wfe_fast.database.statements import StatementSet


class Statements(StatementSet):
    """One name down the stack: method, statement, test, benchmark."""

    save_workflow: str
    add_workflow: str
    load_workflow: str
    save_execution: str
    save_claimed_execution: str
    start_execution: str
    load_execution: str
    execution_state: str
    workflow_exists: str
    load_executions_by_status: str
    list_executions: str
    list_executions_by_status: str
    list_executions_by_workflow: str
    list_executions_by_both: str
    count_executions: str
    delete_execution: str
    delete_completed_before: str
    save_checkpoint: str
    load_checkpoints: str
    checkpoint_at: str
    save_timer: str
    load_pending_timers: str
    load_due_timers: str
    next_due: str
    fire_timers: str
    cancel_timers: str
    cancel_timer: str
    delete_old_timers: str
    add_signal: str
    save_signal: str
    load_pending_signals: str
    load_pending_signals_named: str
    oldest_signal: str
    deliver_signal: str
    expire_signals: str
    delete_old_signals: str
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
    schema_version: str
    schema_columns: str
    schema_indexes: str
