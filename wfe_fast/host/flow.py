"""One claimed workflow in memory: its pointers, how they move, and what the next commit has to write beside them."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

from wfe_fast.clock import after, to_micros, to_millis
from wfe_fast.codec import decode_json, encode_line
from wfe_fast.errors import DefinitionError, InvalidStateError, SerializationError
from wfe_fast.host import waits
from wfe_fast.host.context import StepContext
from wfe_fast.host.policies import Retry, Suspend, Terminate
from wfe_fast.persistence.models import (
    FINAL_POINTER_STATUSES,
    FINAL_WORKFLOW_STATUSES,
    ExecutionError,
    ExecutionPointer,
    PointerStatus,
    WorkflowInstance,
    WorkflowStatus,
)

if TYPE_CHECKING:
    from wfe_fast.host.calls import Call
    from wfe_fast.host.definition import Definition
    from wfe_fast.host.engine import Claim, Engine
    from wfe_fast.host.steps import Step

log = logging.getLogger("wfe_fast.host")

#: Marks a Failed pointer that runs again when its suspended workflow is resumed.
_RESUMABLE = "wfe.resumable"
#: When a pointer answered `persist`, in microseconds: who waits longest runs first.
_RAN = "wfe.ran"
#: Position of `context_item` among the values of its branch.
_INDEX = "wfe.index"

_LONGEST_MESSAGE = 10_000

#: Namespace of the ids of execution pointers.
_POINTERS = UUID("7d0a1a4e-5f0b-4c59-9f52-0f2f3a4d8c11")


@dataclass(frozen=True)
class Limits:
    """Beyond these a workflow is Suspended, with an error that says so."""

    pointers: int = 10_000
    moves: int = 1_000


class LimitError(InvalidStateError):
    """A workflow reached one of the `Limits`."""


class Flow:
    """A claimed workflow. Changes nothing but memory; `Engine` commits."""

    def __init__(self, claim: Claim, definition: Definition, engine: Engine) -> None:
        """
        Raises:
            DefinitionChangedError: a stored pointer does not fit the definition.
        """
        self.claim = claim
        self.instance: WorkflowInstance = claim.instance
        self.definition = definition
        self.engine = engine
        self.limits = engine.limits
        self.now: datetime = engine.clock()
        self.moves = 0
        self.errors: list[ExecutionError] = []
        self.waits: list[waits.Wait] = []
        self._data = encode_line(self.instance.data)
        self._by_id: dict[str, ExecutionPointer] = {}
        self._open: dict[str, ExecutionPointer] = {}
        self._to_look_at: deque[ExecutionPointer] = deque()
        self._bodies: dict[str, ExecutionPointer] = {}
        self._resting: dict[str, ExecutionPointer] = {}
        self._open_inside: Counter[str] = Counter()
        for pointer in self.instance.execution_pointers:
            definition.step_of(pointer)
            self._by_id[pointer.id] = pointer
            if pointer.status not in FINAL_POINTER_STATUSES or _RESUMABLE in pointer.extension_attributes:
                self._opened(pointer)
        self.may_have_subscriptions = bool(self.open_waits())
        if any(_RAN in pointer.extension_attributes for pointer in self._to_look_at):
            self._to_look_at = deque(sorted(self._to_look_at, key=self._due_since))

    # Data

    def fresh_data(self) -> Any:
        """The workflow's data, decoded anew.

        Raises:
            SerializationError: it does not fit the definition's type.
        """
        return self.definition.model.decode(self._data)

    def store_data(self, encoded: bytes) -> None:
        """Make `encoded` (of `DataModel.encode`) the workflow's data."""
        if encoded != self._data:
            self._data = encoded
            self.instance.data = decode_json(encoded)

    def evaluate(self, call: Call, pointer: ExecutionPointer) -> Any:
        """Ask a condition, or another function whose effect on the data is forgotten."""
        return call(self.fresh_data(), StepContext(self, pointer, None))

    # What is due

    def begin_pass(self, now: datetime) -> None:
        """Look anew at what was not due: it may have become so by time or by an event."""
        self.now = now
        self.moves = 0
        self._to_look_at.extend(self._resting.values())
        self._resting.clear()
        if len(self._by_id) > self.limits.pointers:
            self.suspend(LimitError(f"the workflow has more than {self.limits.pointers} execution pointers"))

    def advance(self) -> None:
        """Move every pointer that is due and has no body, and those that become due by it."""
        while self._to_look_at and self._runs():
            pointer = self._to_look_at.popleft()
            if pointer.id not in self._open:
                continue
            if not self._is_due(pointer):
                self._resting[pointer.id] = pointer
            elif not self._moves_by_itself(pointer):
                self._bodies[pointer.id] = pointer
            elif self.moves >= self.limits.moves:
                self._to_look_at.append(pointer)
                self.suspend(LimitError(f"the workflow made {self.limits.moves} moves in one pass"), pointer)
            else:
                self.moves += 1
                self._move(pointer)
                self.look_at(pointer)
        if not self._open and self._runs():
            self._end_by_itself()

    def take_body(self) -> ExecutionPointer | None:
        """The pointer whose step is to run in this pass, if there is one: that which waits longest for its turn."""
        if not self._bodies or not self._runs():
            return None
        return self._bodies.pop(next(iter(self._bodies)))

    def look_at(self, pointer: ExecutionPointer) -> None:
        """After a pointer was changed: it may be due again, behind all others."""
        self._to_look_at.append(pointer)

    def is_due(self) -> bool:
        """Whether another pass can follow at once."""
        return bool(self._bodies) or any(map(self._is_due, chain(self._resting.values(), self._to_look_at)))

    def _runs(self) -> bool:
        return self.instance.status is WorkflowStatus.RUNNABLE

    def _is_due(self, pointer: ExecutionPointer) -> bool:
        if pointer.status is PointerStatus.FAILED:  # an open one: the workflow was resumed
            return True
        return pointer.active and (pointer.sleep_until is None or pointer.sleep_until <= self.now)

    def _moves_by_itself(self, pointer: ExecutionPointer) -> bool:
        return not self.step_of(pointer).has_body or self._has_taken_before(pointer)

    def _has_taken_before(self, pointer: ExecutionPointer) -> bool:
        return pointer.status is PointerStatus.WAITING_FOR_EVENT and waits.was_taken_before(pointer)

    def _due_since(self, pointer: ExecutionPointer) -> int:
        """Since when a pointer could run, in microseconds. One that asks again and again takes turns with the others by this."""
        ran = pointer.extension_attributes.get(_RAN)
        if isinstance(ran, int):
            return ran
        before = self._by_id.get(pointer.predecessor_id or "")
        since = pointer.sleep_until or (before and (before.end_time or before.start_time)) or self.instance.create_time
        return to_micros(since)

    def _move(self, pointer: ExecutionPointer) -> None:
        if self._has_taken_before(pointer):
            waits.begin_again(self, pointer)
            return
        step = self.step_of(pointer)
        self.wake(pointer)
        try:
            step.enter(self, pointer)
        except Exception as error:
            self.fail(pointer, error)

    def wake(self, pointer: ExecutionPointer) -> None:
        """A due pointer begins, or goes on."""
        if pointer.status is PointerStatus.FAILED:
            pointer.retry_count = 0
            pointer.end_time = None
            pointer.extension_attributes.pop(_RESUMABLE, None)
        pointer.status = PointerStatus.RUNNING
        pointer.active = True
        pointer.sleep_until = None
        if pointer.start_time is None:
            pointer.start_time = self.now

    def step_of(self, pointer: ExecutionPointer) -> Step:
        """The step that a pointer stands at."""
        return self.definition.steps[pointer.step_id]

    def open_waits(self) -> list[ExecutionPointer]:
        """The pointers that wait for an event which has not come."""
        return [p for p in self._open.values() if p.status is PointerStatus.WAITING_FOR_EVENT and not p.active]

    def next_execution(self) -> int | None:
        """When the workflow is due next, in epoch milliseconds: rounded up, for a sleep must not end early."""
        if self.instance.status in FINAL_WORKFLOW_STATUSES:
            return None
        if self.is_due():
            return to_millis(self.now)
        moments = [moment for pointer in self._open.values() if (moment := self._due_at(pointer)) is not None]
        return -(-to_micros(min(moments)) // 1000) if moments else None

    def _due_at(self, pointer: ExecutionPointer) -> datetime | None:
        if pointer.active:
            return pointer.sleep_until
        return waits.deadline(pointer) if pointer.status is PointerStatus.WAITING_FOR_EVENT else None

    # Moving pointers

    def spawn(
        self, step_id: int, scope: list[str], before: ExecutionPointer, item: Any = None, index: int | None = None
    ) -> ExecutionPointer:
        """A new pointer, due now."""
        pointer = ExecutionPointer(
            id=_successor_id(before, step_id, index),
            step_id=step_id,
            step_name=self.definition.steps[step_id].name,
            scope=scope,
            predecessor_id=before.id,
            context_item=item,
        )
        if index is not None:
            pointer.extension_attributes[_INDEX] = index
        self.instance.execution_pointers.append(pointer)
        self._by_id[pointer.id] = pointer
        self._opened(pointer)
        return pointer

    def spawn_inside(self, container: ExecutionPointer, step_id: int, item: tuple[Any, int] | None = None) -> None:
        """Begin a block of `container`, which waits for its end. Without `item` the block has that of its container."""
        value, index = (container.context_item, self.index_of(container)) if item is None else item
        child = self.spawn(step_id, [*container.scope, container.id], container, value, index)
        container.children.append(child.id)
        container.status = PointerStatus.RUNNING
        container.active = False

    def complete(self, pointer: ExecutionPointer, outcome: Any = None) -> None:
        """The pointer is done: its successor begins, or its block ends."""
        if outcome is not None:
            pointer.outcome = outcome
        pointer.status = PointerStatus.COMPLETE
        self._closed(pointer)
        following = self.step_of(pointer).next
        if following is not None:
            self.spawn(following, list(pointer.scope), pointer, pointer.context_item, self.index_of(pointer))
        elif pointer.scope and not self._open_inside[pointer.scope[-1]]:
            container = self._by_id[pointer.scope[-1]]
            self.step_of(container).block_done(self, container)

    def sleep(self, pointer: ExecutionPointer, until: datetime) -> None:
        """Let the pointer be due at `until`."""
        pointer.status = PointerStatus.SLEEPING
        pointer.active = True
        pointer.sleep_until = until

    def run_again(self, pointer: ExecutionPointer) -> None:
        """Let the pointer run in a pass of its own, after others that are due."""
        pointer.active = True
        pointer.extension_attributes[_RAN] = to_micros(self.now)

    def index_of(self, pointer: ExecutionPointer) -> int | None:
        """The position of the pointer's item among the values of its branch."""
        index = pointer.extension_attributes.get(_INDEX)
        return index if isinstance(index, int) else None

    def outcome_before(self, pointer: ExecutionPointer) -> Any:
        """The outcome of the step before this one; for the first step of a block, of what stands before the block."""
        before = self._by_id.get(pointer.predecessor_id or "")
        while before is not None and before.id in pointer.scope:
            before = self._by_id.get(before.predecessor_id or "")
        return None if before is None else before.outcome

    def check_room(self, wanted: int) -> None:
        """
        Raises:
            LimitError: so many more pointers would be too many.
        """
        if len(self._by_id) + wanted > self.limits.pointers:
            raise LimitError(f"the workflow would have more than {self.limits.pointers} execution pointers")

    def _opened(self, pointer: ExecutionPointer) -> None:
        self._open[pointer.id] = pointer
        self.look_at(pointer)
        if pointer.scope:
            self._open_inside[pointer.scope[-1]] += 1

    def _closed(self, pointer: ExecutionPointer) -> None:
        pointer.active = False
        pointer.end_time = self.now
        if self._open.pop(pointer.id, None) is not None and pointer.scope:
            self._open_inside[pointer.scope[-1]] -= 1

    # Failing and ending

    def fail(self, pointer: ExecutionPointer, error: Exception) -> None:
        """User code raised at this pointer: what its policy says happens."""
        step = self.step_of(pointer)
        policy = Suspend() if isinstance(error, LimitError) else step.on_error or self.definition.on_error
        self.record(error, pointer)
        if isinstance(policy, Retry):
            hopeless = isinstance(error, (SerializationError, DefinitionError))  # it would fail the same way again
            wait = None if hopeless else policy.next_wait(pointer.retry_count, error)
            if wait is not None:
                pointer.retry_count += 1
                self.sleep(pointer, after(self.now, wait))
                return
            policy = policy.then or Suspend()
        pointer.status = PointerStatus.FAILED
        pointer.active = False
        pointer.end_time = self.now
        if isinstance(policy, Terminate):
            self._closed(pointer)
            self.end(WorkflowStatus.TERMINATED)
        else:
            pointer.extension_attributes[_RESUMABLE] = True
            self.instance.status = WorkflowStatus.SUSPENDED

    def suspend(self, error: Exception, pointer: ExecutionPointer | None = None) -> None:
        """Stop the workflow where it stands, until somebody resumes it."""
        self.record(error, pointer)
        self.instance.status = WorkflowStatus.SUSPENDED

    def record(self, error: Exception, pointer: ExecutionPointer | None) -> None:
        """Let the next commit store the error."""
        name = pointer.step_name if pointer else None
        log.warning("workflow %s, step %s failed: %s", self.instance.id, name, describe(error), exc_info=error)
        self.errors.append(execution_error(self.instance, pointer, error, self.now))

    def end(self, status: WorkflowStatus) -> None:
        """The workflow ends now; what is open is Cancelled."""
        for pointer in list(self._open.values()):
            pointer.status = PointerStatus.CANCELLED
            pointer.sleep_until = None
            self._closed(pointer)
        self.instance.status = status
        self.instance.complete_time = self.now

    def _end_by_itself(self) -> None:
        # A failure that nothing has handled must not end as Complete. Such a pointer is left where a workflow that was
        # terminated by its policy was suspended and resumed by somebody else in that very moment.
        failed = any(p.status is PointerStatus.FAILED for p in self.instance.execution_pointers)
        self.end(WorkflowStatus.TERMINATED if failed else WorkflowStatus.COMPLETE)


def _successor_id(before: ExecutionPointer, step_id: int, index: int | None) -> str:
    """The id of the pointer that follows `before` at a step.

    The same each time: a pass may make a pointer and run its body, and where it is cut off before its commit the next one makes the pointer
    anew. `StepContext.idempotency_key` has to be equal in both.
    """
    return str(uuid5(_POINTERS, f"{before.id}:{step_id}:{index}"))


def execution_error(
    instance: WorkflowInstance, pointer: ExecutionPointer | None, error: Exception, now: datetime
) -> ExecutionError:
    """The error as the store keeps it."""
    return ExecutionError(
        error_time=now,
        workflow_id=instance.id,
        execution_pointer_id=pointer.id if pointer else "",
        message=describe(error),
    )


def describe(error: Exception) -> str:
    """Type and text of an error, in a form that every database can hold."""
    try:
        text = str(error)
    except Exception:  # the user's own __str__ must not hide the failure
        text = "(its text cannot be shown)"
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line[:_LONGEST_MESSAGE].replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
