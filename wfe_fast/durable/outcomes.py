"""How an execution has ended, and what that means to whoever waits for it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import FINAL_STATUSES, ExecutionStatus, WorkflowExecution
from wfe_fast.durable.observers import log
from wfe_fast.durable.values import error_text
from wfe_fast.durable.within import within
from wfe_fast.errors import (
    ExecutionNotFoundError,
    NonDeterminismError,
    SerializationError,
    StepFailedError,
    StoreUnavailableError,
    UnserializableWorkflowError,
    WfeError,
    WorkflowCancelledError,
    WorkflowFailedError,
)

#: What a look may take, in seconds, however little time there is.
_SHORTEST_LOOK = 1.0


def reason_of(error: BaseException) -> str:
    """What is stored as the message of an execution that this error has ended."""
    text = error_text(error)
    if isinstance(error, (StepFailedError, _TtlExpiredError)):
        return text
    kind = type(error).__name__
    if kind == SerializationError.__name__ and not isinstance(error, SerializationError):
        kind = f"{type(error).__module__}.{kind}"  # another library's: `Outcome.get` must not take it for ours
    return f"{kind}: {text}" if text else kind


class _TtlExpiredError(WfeError):
    """The time of an execution is over."""


def ttl_expired() -> Exception:
    """The error that ends an execution whose time is over."""
    return _TtlExpiredError("TTL expired")


@dataclass(frozen=True)
class Outcome:
    """The end of an execution; `cause` where this process has seen it. `stuck`: it has not ended, but cannot go on here."""

    execution_id: str
    status: ExecutionStatus
    value: Any = None
    reason: str | None = None
    cause: BaseException | None = None
    stuck: NonDeterminismError | None = None

    @classmethod
    def of(cls, execution: WorkflowExecution, cause: BaseException | None = None) -> Outcome | None:
        """The outcome that is stored, or None where there is none yet."""
        if execution.status not in FINAL_STATUSES:
            return None
        id, reason = execution.workflow_execution_id, execution.error_message
        return cls(id, execution.status, execution.output_data, reason, cause)

    def get(self) -> Any:
        """What the workflow returned.

        Raises:
            WorkflowFailedError, WorkflowCancelledError: it did not return.
            NonDeterminismError: it cannot go on here.
        """
        if self.stuck is not None:
            raise self.stuck
        if self.status is ExecutionStatus.COMPLETED:
            return self.value
        if self.status is ExecutionStatus.CANCELLED:
            raise WorkflowCancelledError(self.execution_id, self.reason)
        if (self.reason or "").startswith(f"{SerializationError.__name__}: "):
            raise UnserializableWorkflowError(self.execution_id, self.reason) from self.cause
        raise WorkflowFailedError(self.execution_id, self.reason) from self.cause


def look(store: CheckpointStore, id: str, seconds: float | None) -> Outcome | None:
    """The end of an execution that is stored, if there is one, and the store can say so now.

    Args:
        seconds: for how long to look: a store that is away may let a call wait. None = as long as it takes.

    Raises:
        ExecutionNotFoundError: there is no such execution.
    """
    if seconds is None:
        return _look(store, id)
    found = within(max(seconds, _SHORTEST_LOOK), "wfe-durable-look", lambda: _look(store, id))
    return found[0] if found else None


def _look(store: CheckpointStore, id: str) -> Outcome | None:
    try:
        status = store.execution_status(id)
        if status is None:
            raise ExecutionNotFoundError(id)
        execution = store.load_execution(id) if status in FINAL_STATUSES else None
    except StoreUnavailableError as error:
        log.warning("execution %s cannot be looked at: %s", id, error)
        return None
    return None if execution is None else Outcome.of(execution)


class Waiters:
    """Threads of this process that wait for ends; told at once of those that happen here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Waiter]] = {}

    def join(self, execution_id: str) -> Waiter:
        """Begin to wait for an execution."""
        waiter = Waiter()
        with self._lock:
            self._waiting.setdefault(execution_id, []).append(waiter)
        return waiter

    def leave(self, execution_id: str, waiter: Waiter) -> None:
        """End waiting."""
        with self._lock:
            waiters = self._waiting.get(execution_id, [])
            waiters.remove(waiter)
            if not waiters:
                self._waiting.pop(execution_id, None)

    def tell(self, outcome: Outcome) -> None:
        """An execution has ended here."""
        for waiter in self._of(outcome.execution_id):
            waiter.outcome = outcome
            waiter.told.set()

    def wake(self, execution_id: str) -> None:
        """Let who waits for an execution look again."""
        for waiter in self._of(execution_id):
            waiter.told.set()

    def _of(self, execution_id: str) -> list[Waiter]:
        with self._lock:
            return list(self._waiting.get(execution_id, ()))

    def wake_all(self) -> None:
        """Let everybody look again."""
        with self._lock:
            waiters = [waiter for some in self._waiting.values() for waiter in some]
        for waiter in waiters:
            waiter.told.set()


class Waiter:
    """One thread that waits."""

    def __init__(self) -> None:
        self.told = threading.Event()
        self.outcome: Outcome | None = None
