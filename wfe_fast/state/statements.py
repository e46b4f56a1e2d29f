"""The names of the statements. Each database brings the texts in a ``.sql`` file; that they fit is checked when it is loaded."""

from __future__ import annotations

from wfe_fast.database.statements import StatementSet


class Statements(StatementSet):
    """One name down the stack: method, statement, test."""

    create_tenant: str
    update_tenant: str
    get_tenant: str
    list_tenants: str
    tenant_ids: str
    tenant_gate: str
    usage_of: str
    add_usage: str
    count_active: str
    count_other_workflows: str
    raise_term: str
    store_workflow: str
    get_workflow: str
    insert_execution: str
    insert_log: str
    get_execution: str
    execution_head: str
    set_status: str
    cancel_items: str
    update_execution_current_state: str
    patch_append_array: str
    state_type: str
    list_executions: str
    list_executions_by_status: str
    list_executions_of_tenant: str
    list_executions_of_tenant_by_status: str
    count_executions: str
    count_executions_of_tenant: str
    find_event: str
    log_of: str
    advance_log: str
    insert_event: str
    events_since: str
    latest_sequence: str
    move_snapshot: str
    write_snapshot: str
    note_snapshot: str
    prune_snapshots: str
    latest_snapshot: str
    fold_base: str
    initial_input: str
    fold_tail: str
    insert_item: str
    item_exists: str
    get_work_item: str
    next_priority: str
    ready: str
    next_priority_of_tenant: str
    ready_of_tenant: str
    claim_item: str
    leased_queue: str
    expired: str
    held_item: str
    any_item: str
    renew_lease: str
    settle_item: str
    park_work_item: str
    retry_item: str
    bury_item: str
    list_dead_letters: str
    list_dead_letters_of_tenant: str
    get_dead_letter: str
    requeue_dead_letter: str
    purge_dead_letters: str
    purge_work_items: str
    ended_executions: str
    purge_events: str
    note_purge: str
    purge_tokens: str
    get_tool_effect: str
    record_effect: str
    drop_reservation: str
    reserve_tool_effect: str
    reservation_of: str
    release_tool_reservation: str
    create_token: str
    validate_token: str
    note_use: str
    list_tokens: str
    revoke_token: str
    end_token: str
