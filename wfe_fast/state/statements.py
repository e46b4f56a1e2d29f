"""The names of the statements that every database has. Each database brings the texts in a ``.sql`` file; that they fit is checked when it is
loaded."""

from __future__ import annotations

from wfe_fast.database.statements import StatementSet


class Statements(StatementSet):
    """One name down the stack: method, statement, test."""

    create_tenant: str
    update_tenant: str
    get_tenant: str
    list_tenants: str
    raise_term: str
    get_workflow: str
    get_execution: str
    update_execution_current_state: str
    list_executions: str
    list_executions_by_status: str
    list_executions_of_tenant: str
    list_executions_of_tenant_by_status: str
    count_executions: str
    count_executions_of_tenant: str
    events_since: str
    latest_sequence: str
    latest_snapshot: str
    get_work_item: str
    park_work_item: str
    list_dead_letters: str
    list_dead_letters_of_tenant: str
    get_dead_letter: str
    requeue_dead_letter: str
    get_tool_effect: str
    release_tool_reservation: str
    revoke_token: str
