"""The names of the statements. Each database brings the texts in a ``.sql`` file; that they fit is checked when it is loaded."""

from __future__ import annotations

from wfe_fast.database.statements import StatementSet


class Statements(StatementSet):
    """Those that the methods use by themselves. One name down the stack: method, statement, test, benchmark."""

    get_workflow_instance: str
    get_workflow_instance_by_name: str
    get_workflow_instances: str
    get_runnable_instances: str
    next_definition_sequence: str
    status_of: str
    list_workflows: str
    list_workflows_by_status: str
    list_workflows_by_definition: str
    list_workflows_by_reference: str
    count_workflows: str
    oldest_runnable: str
    create_event: str
    get_event: str
    get_runnable_events: str
    get_events: str
    mark_event: str
    purge_events: str
    create_event_subscription: str
    get_subscriptions: str
    get_first_open_subscription: str
    get_subscription: str
    clear_subscription_token: str
    terminate_subscription: str
    subscriptions_of: str
    drop_subscriptions: str
    schedule_command: str
    free_command: str
    get_errors: str
