"""The names of the statements on SQLite."""

from __future__ import annotations

from wfe_fast.state.statements import Statements


class SqliteStatements(Statements):
    """The small statements of which the operations of `work.Work` are made."""

    tenant_ids: str
    tenant_gate: str
    usage_of: str
    add_usage: str
    count_active: str
    count_other_workflows: str
    store_workflow: str
    insert_execution: str
    insert_log: str
    execution_head: str
    set_status: str
    cancel_items: str
    patch_append_array: str
    state_type: str
    find_event: str
    log_of: str
    advance_log: str
    insert_event: str
    move_snapshot: str
    write_snapshot: str
    note_snapshot: str
    prune_snapshots: str
    fold_base: str
    initial_input: str
    fold_tail: str
    insert_item: str
    item_exists: str
    next_priority: str
    ready: str
    next_priority_of_tenant: str
    ready_of_tenant: str
    claim_item: str
    claimed_item: str
    leased_queue: str
    expired: str
    held_item: str
    any_item: str
    renew_lease: str
    settled_for: str
    settle_item: str
    retry_item: str
    bury_item: str
    purge_dead_letters: str
    purge_work_items: str
    ended_executions: str
    purge_events: str
    note_purge: str
    purge_tokens: str
    record_effect: str
    drop_reservation: str
    reserve_tool_effect: str
    reservation_of: str
    create_token: str
    validate_token: str
    note_use: str
    list_tokens: str
    end_token: str
