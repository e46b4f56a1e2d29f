"""The host's work, as the worker loop sees it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from wfe_fast.clock import to_millis
from wfe_fast.errors import ConcurrentUpdateError, WorkflowNotFoundError
from wfe_fast.host.engine import Claim, Engine
from wfe_fast.persistence.models import FINAL_WORKFLOW_STATUSES, CommandName, ScheduledCommand

log = logging.getLogger("wfe_fast.host")

#: How many batches of event deliveries one `maintain` makes at most, so that claims are not held up.
_BATCHES = 20


class HostSource:
    """Claims workflows of the registered definitions, works on them, and delivers events and commands that are due."""

    def __init__(self, engine: Engine, worker_id: str, lease: float) -> None:
        self._engine = engine
        self._provider = engine.provider
        self._worker_id = worker_id
        self._lease = lease

    def claim(self, limit: int) -> list[Claim]:
        """Claim up to `limit` workflows that are due. Definitions that are not registered here are left alone."""
        definitions = self._engine.registry.keys
        if not definitions:
            return []
        found = self._provider.claim_runnable_instances(
            self._worker_id, limit=limit, lease=self._lease, definitions=definitions
        )
        return [Claim(instance) for instance in found]

    def wait(self, timeout: float) -> bool:
        """Block until a workflow, an event or a command may be due."""
        return self._provider.wait_for_work(timeout, definitions=self._engine.registry.keys)

    def interrupt(self) -> None:
        """End the wait."""
        self._provider.interrupt_waits()

    def maintain(self) -> bool:
        """Deliver events whose time has come, and handle commands that are due."""
        handled = self._provider.process_commands(self._provider.clock(), self._handle)
        return self._dispatch_events() or handled > 0

    def work(self, item: Claim) -> None:
        """Run passes of a claimed workflow."""
        self._engine.work(item)

    def release(self, item: Claim) -> None:
        """Give back a workflow that was claimed but not worked on."""
        self._engine.release(item)

    def renew(self, items: Sequence[Claim]) -> list[Claim]:
        """Renew the claims; those that are lost are marked."""
        held = {id(item.instance): item for item in items if not item.ending and not item.lost}
        if not held:
            return []
        lost = []
        for instance in self._provider.renew_claims([item.instance for item in held.values()], self._lease):
            item = held[id(instance)]
            if not item.ending:  # otherwise the worker has just given it back itself
                item.lost = True
                lost.append(item)
                log.warning("the claim of workflow %s is lost: another worker took it over", instance.id)
        return lost

    def _dispatch_events(self) -> bool:
        for batch in range(_BATCHES):
            if self._provider.dispatch_events() == 0:
                return batch > 0
        return True

    def _handle(self, command: ScheduledCommand) -> None:
        if command.command_name is CommandName.PROCESS_EVENT:
            self._dispatch_events()
        else:
            self._make_due(command.data)

    def _make_due(self, workflow_id: str) -> None:
        try:
            while not self._try_make_due(workflow_id):
                pass  # somebody else has just written it: look again
        except WorkflowNotFoundError:
            log.warning("a scheduled command asks for workflow %s, which is not there", workflow_id)

    def _try_make_due(self, workflow_id: str) -> bool:
        instance = self._provider.get_workflow_instance(workflow_id)
        now = to_millis(self._provider.clock())
        if instance.status in FINAL_WORKFLOW_STATUSES:
            return True
        if instance.next_execution is not None and instance.next_execution <= now:
            return True
        instance.next_execution = now
        try:
            self._provider.persist_workflow(instance, expect_unchanged=True)
        except ConcurrentUpdateError:
            return False
        return True
