"""The names of the statements on SQLite."""

from __future__ import annotations

from wfe_fast.persistence.statements import Statements


class SqliteStatements(Statements):
    """What each operation of `work.Work` consists of."""

    insert_workflow: str
    insert_pointer: str
    update_pointer: str
    delete_pointer: str
    stored_pointers: str
    persist_step: str
    persist_row: str
    persist_state: str
    change_status: str
    delete_workflows: str
    delete_subscriptions_of: str
    delete_errors_of: str
    delete_commands_of: str
    ended_before: str
    claimable: str
    claimable_of: str
    claim: str
    renew_claim: str
    release_claim: str
    claim_fence_of: str
    next_due_workflows: str
    next_due_workflows_of: str
    next_due_event: str
    next_due_commands: str
    event_exists: str
    event_position: str
    get_events_since: str
    unprocessed_of_key: str
    unprocessed: str
    matching_subscriptions: str
    overtake_pending: str
    leave_event: str
    note_left_event: str
    pointer_to_deliver: str
    make_due: str
    delete_subscription: str
    pending_of: str
    set_subscription_token: str
    claim_subscription: str
    open_subscription: str
    renew_subscription: str
    subscription_held: str
    due_commands: str
    lease_command: str
    finish_command: str
    persist_error: str
