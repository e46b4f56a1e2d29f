"""The names of the statements. Each database brings the texts in a ``.sql`` file; that they fit is checked when it is loaded."""

from __future__ import annotations

from wfe_fast.database.statements import StatementSet


class Statements(StatementSet):
    """One name down the stack: method, statement, test, benchmark."""

    insert_workflow: str
    insert_pointer: str
    update_pointer: str
    delete_pointer: str
    stored_pointers: str
    persist_step: str
    persist_row: str
    persist_state: str
    get_workflow_instance: str
    get_workflow_instance_by_name: str
    get_workflow_instances: str
    get_runnable_instances: str
    next_definition_sequence: str
    change_status: str
    status_of: str
    delete_workflows: str
    delete_subscriptions_of: str
    delete_errors_of: str
    delete_commands_of: str
    list_workflows: str
    list_workflows_by_status: str
    list_workflows_by_definition: str
    list_workflows_by_reference: str
    count_workflows: str
    oldest_runnable: str
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
    create_event: str
    get_event: str
    event_exists: str
    get_runnable_events: str
    get_events: str
    event_position: str
    get_events_since: str
    mark_event: str
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
    purge_events: str
    create_event_subscription: str
    get_subscriptions: str
    get_first_open_subscription: str
    get_subscription: str
    set_subscription_token: str
    clear_subscription_token: str
    terminate_subscription: str
    subscriptions_of: str
    drop_subscriptions: str
    claim_subscription: str
    open_subscription: str
    renew_subscription: str
    subscription_held: str
    schedule_command: str
    due_commands: str
    lease_command: str
    finish_command: str
    free_command: str
    persist_error: str
    get_errors: str
