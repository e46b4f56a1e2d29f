"""The names of the statements on PostgreSQL."""

from __future__ import annotations

from wfe_fast.checkpoints.statements import Statements


class PostgresStatements(Statements):
    """What each operation of `work.Work` calls."""

    save_execution: str
    load_by_status: str
    delete_completed_before: str
    save_checkpoints: str
    save_timer: str
    save_signal: str
    claim: str
    renew: str
    release: str
    start: str
    step: str
    advance: str
    wait_for_signal: str
    cancel: str
    wake_due: str
    next_work: str
    server_time: str
    schema_objects: str
