"""What a step is told about itself, and what it can do beside changing its data."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from wfe_fast.errors import InvalidStateError

if TYPE_CHECKING:
    from wfe_fast.host.flow import Flow
    from wfe_fast.host.outbox import Outbox
    from wfe_fast.persistence.models import ExecutionPointer


class StepContext:
    """The second argument of a step, a condition, or another function of a definition. It is good for that one call."""

    __slots__ = ("_flow", "_outbox", "_pointer")

    def __init__(self, flow: Flow, pointer: ExecutionPointer, outbox: Outbox | None) -> None:
        self._flow = flow
        self._pointer = pointer
        self._outbox = outbox

    @property
    def workflow_id(self) -> str:
        """The workflow's id."""
        return self._flow.instance.id

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self._flow.instance.name

    @property
    def reference(self) -> str | None:
        """What `start` was given as `reference`."""
        return self._flow.instance.reference

    @property
    def item(self) -> Any:
        """The value of the branch that this step runs in; None outside."""
        return self._pointer.context_item

    @property
    def index(self) -> int | None:
        """The position of `item` among the values of its branch, from 0; None outside."""
        return self._flow.index_of(self._pointer)

    @property
    def event(self) -> Any:
        """The data of the event that this step waited for (`StepResult.wait_for`); None before it came."""
        return self._pointer.event_data

    @property
    def event_received(self) -> bool:
        """Whether the event came: an event's data may be None."""
        return self._pointer.event_published

    @property
    def saved(self) -> Any:
        """What this step stored with `StepResult.persist` or `StepResult.sleep`; None before."""
        return self._pointer.persistence_data

    @property
    def outcome(self) -> Any:
        """The outcome of the step before this one; None where it had none."""
        return self._flow.outcome_before(self._pointer)

    @property
    def attempt(self) -> int:
        """1 in the first run, one more after each failure. A run that a crash cut off does not count."""
        return self._pointer.retry_count + 1

    @property
    def idempotency_key(self) -> str:
        """Text that is equal in every attempt of this step and different for every other step: hand it to services that can tell
        a repeated request by such a key."""
        return f"{self._flow.instance.id}:{self._pointer.id}"

    @property
    def stopping(self) -> bool:
        """Whether the host was asked to stop. A long step may answer `StepResult.persist` then, and go on elsewhere."""
        return self._flow.engine.stopping()

    @property
    def claim_lost(self) -> bool:
        """Whether another worker took the workflow over, because its lease could not be renewed. What this step returns is dropped."""
        return self._flow.claim.lost

    def publish(
        self, name: str, key: str = "", data: Any = None, *, at: datetime | None = None, id: str | None = None
    ) -> str:
        """Publish an event as `WorkflowHost.publish` does, in the transaction of this pass: not at all where the step raises.

        Raises:
            InvalidStateError: called by a condition.
        """
        return self._sending().publish(name, key, data, at=at, id=id)

    def start(
        self,
        definition: str,
        data: Any = None,
        *,
        version: int | None = None,
        name: str | None = None,
        id: str | None = None,
        reference: str | None = None,
    ) -> str:
        """Start a workflow as `WorkflowHost.start` does, in the transaction of this pass: not at all where the step raises.

        Raises:
            InvalidStateError: called by a condition.
        """
        return self._sending().start(definition, data, version=version, name=name, id=id, reference=reference)

    def _sending(self) -> Outbox:
        if self._outbox is None:
            raise InvalidStateError("only a step can publish events and start workflows, a condition cannot")
        return self._outbox
