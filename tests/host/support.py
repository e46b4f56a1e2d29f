"""What the tests of the host share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wfe_fast import PointerStatus, WorkflowStatus
from wfe_fast.host import WorkflowBuilder, WorkflowHost
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.testing.waiting import PATIENCE, wait_until

RESTING = {WorkflowStatus.COMPLETE, WorkflowStatus.SUSPENDED, WorkflowStatus.TERMINATED}


@dataclass(frozen=True)
class Database:
    """Where a test's store is, what it is opened with there, and with what besides to give up almost at once what somebody else holds."""

    url: str
    options: dict[str, Any]
    impatient: dict[str, Any]


class Driver:
    """Runs the workflows of a test: with worker threads, or one pass at a time, each with a host and a provider of its own."""

    def __init__(self, open_store: Callable[..., PersistenceProvider], *, threaded: bool) -> None:
        self.threaded = threaded
        self._open_store = open_store
        self._workflows: tuple[WorkflowBuilder, ...] = ()
        self._options: dict[str, Any] = {}
        self.provider = open_store()
        self.host = WorkflowHost(self.provider)

    def use(self, *workflows: WorkflowBuilder, **options: Any) -> WorkflowHost:
        """Run these from now on; return a host that can start them. `options` are the host's."""
        self._workflows, self._options = workflows, options
        self.host = WorkflowHost(self.provider, workflows, **options)
        if self.threaded:
            self.host.open()
        return self.host

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Run until `condition()` is true."""
        wait_until(lambda: condition() or (not self.threaded and self._one_pass() and condition()), what)

    def _one_pass(self) -> bool:
        provider = self._open_store()
        try:
            host = WorkflowHost(provider, self._workflows, **self._options)
            if not host.run_one_pass():
                provider.wait_for_work(0.25)
            return True
        finally:
            provider.close()

    def status(self, workflow_id: str) -> WorkflowStatus:
        return self.host.get(workflow_id).status

    def rest(self, workflow_id: str) -> WorkflowStatus:
        """Run until the workflow is Complete, Suspended or Terminated."""
        self.until(lambda: self.status(workflow_id) in RESTING, f"workflow {workflow_id} rests")
        return self.status(workflow_id)

    def result(self, workflow_id: str) -> Any:
        """Run until the workflow is Complete, without an error; return its data."""
        self.rest(workflow_id)
        data = self.host.result(workflow_id, timeout=PATIENCE)
        assert self.provider.get_errors(workflow_id) == []
        return data

    def until_waiting(self, workflow_id: str, count: int = 1) -> None:
        """Run until so many subscriptions of the workflow are stored."""
        self.until(lambda: len(self.provider.subscriptions_of(workflow_id)) == count, f"{workflow_id} waits")

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.host.stop()


def pointers(host: WorkflowHost, workflow_id: str, step_name: str | None = None) -> list[Any]:
    """The pointers of a workflow, or those at one step."""
    found = host.get(workflow_id).execution_pointers
    return [pointer for pointer in found if step_name in (None, pointer.step_name)]


def statuses(host: WorkflowHost, workflow_id: str, step_name: str | None = None) -> list[PointerStatus]:
    """Their statuses."""
    return [pointer.status for pointer in pointers(host, workflow_id, step_name)]


def messages(provider: PersistenceProvider, workflow_id: str) -> list[str]:
    """What the stored errors of a workflow say."""
    return [error.message for error in provider.get_errors(workflow_id)]
