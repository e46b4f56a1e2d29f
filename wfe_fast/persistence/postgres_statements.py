"""The names of the statements on PostgreSQL."""

from __future__ import annotations

from wfe_fast.persistence.statements import Statements


class PostgresStatements(Statements):
    """What each operation of `work.Work` calls."""

    create: str
    persist: str
    overwrite: str
    lock_workflow_instance: str
    lock_workflow_instance_by_name: str
    lock_workflow_instances: str
    lock: str
    change_status: str
    delete: str
    purge: str
    claim: str
    renew: str
    release: str
    next_due: str
    events_since: str
    publish: str
    dispatch: str
    take: str
    set_subscription_token: str
    claim_subscription: str
    renew_subscription: str
    complete_subscription: str
    due_commands: str
    lease_command: str
    finish_command: str
    persist_errors: str
    truncate_all: str

    def locking(self) -> dict[str, str]:
        """For each statement that reads single workflows the one that keeps others from writing them, too."""
        return {
            self.get_workflow_instance: self.lock_workflow_instance,
            self.get_workflow_instance_by_name: self.lock_workflow_instance_by_name,
            self.get_workflow_instances: self.lock_workflow_instances,
        }
