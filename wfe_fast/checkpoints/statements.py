"""The names of the statements. Each database brings the texts in a ``.sql`` file; that they fit is checked when it is loaded."""

from __future__ import annotations

from wfe_fast.database.statements import StatementSet


class Statements(StatementSet):
    """What both databases have. One name down the stack: method, statement, test, benchmark."""

    save_workflow: str
    load_workflow: str
    load_execution: str
    execution_state: str
    list_executions: str
    list_executions_by_status: str
    list_executions_by_workflow: str
    list_executions_by_both: str
    count_executions: str
    delete_execution: str
    load_checkpoints: str
    load_pending_timers: str
    load_due_timers: str
    next_due: str
    delete_old_timers: str
    load_pending_signals: str
    load_pending_signals_named: str
    delete_old_signals: str
    schema_version: str
