"""The names of the statements on PostgreSQL."""

from __future__ import annotations

from wfe_fast.state.statements import Statements


class PostgresStatements(Statements):
    """What each operation of `work.Work` calls, and how a call gets its scope."""

    prepare: str
    scope: str
    scope_alone: str
    store_workflow: str
    create_execution: str
    change_status: str
    patch_append_array: str
    append_events: str
    write_snapshot: str
    materialize: str
    enqueue: str
    claim: str
    renew_lease: str
    complete_work_item: str
    fail: str
    reclaim: str
    bury: str
    start_execution: str
    schedule_node: str
    commit_turn: str
    finish_execution: str
    reserve_tool_effect: str
    create_token: str
    validate_token: str
    rotate_token: str
    list_tokens: str
    list_tokens_of_tenant: str
    purge: str
    purge_events: str
