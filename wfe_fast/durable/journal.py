"""The record of one execution, while it is held: what is there, and how more is written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import (
    ExecutionStatus,
    StepCheckpoint,
    StepKind,
    StepStatus,
    WorkflowExecution,
    WorkflowTimer,
)
from wfe_fast.durable.observers import log
from wfe_fast.durable.unwinding import Unwound, Why
from wfe_fast.errors import (
    ClaimLostError,
    ExecutionNotFoundError,
    NonDeterminismError,
    StoreClosedError,
    StoreUnavailableError,
)

T = TypeVar("T")

#: First and longest pause, in seconds, while the store is unavailable.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0


def persistently(call: Callable[[], T], closing: threading.Event, execution_id: str) -> T:
    """`call`, again and again while the store is unavailable: what was done must not be forgotten for a passing fault.

    Raises:
        Unwound: the claim is lost; or the engine is being closed meanwhile, and the claim is left to its lease.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            return call()
        except (ClaimLostError, ExecutionNotFoundError) as error:
            raise Unwound(Why.LOST, error) from error
        except StoreClosedError as error:
            raise Unwound(Why.CLOSING, error) from error
        except StoreUnavailableError as error:
            if closing.is_set():
                raise Unwound(Why.CLOSING, error) from error
            log.warning(
                "execution %s: the store is unavailable, trying again in %.2f s: %s", execution_id, pause, error
            )
            closing.wait(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


class Journal:
    """What is recorded of an execution that this process holds."""

    def __init__(
        self,
        store: CheckpointStore,
        execution: WorkflowExecution,
        checkpoints: Iterable[StepCheckpoint],
        closing: threading.Event,
        ending: Callable[[bool], None],
    ) -> None:
        """
        Args:
            ending: told that the claim is about to be given back, or that it was not: a renewal in between means nothing.
        """
        self.execution = execution
        self._ending = ending
        self.execution_id = execution.workflow_execution_id
        self._store = store
        self._closing = closing
        self._rows: dict[int, list[StepCheckpoint]] = {}
        #: The rows of steps that were undone (or could not be), by position.
        self.undone: dict[int, StepCheckpoint] = {}
        #: What is to be written with the next write, and needs none of its own.
        self._unsaved: list[StepCheckpoint] = []
        for item in checkpoints:
            if item.attempt == 0:
                self.undone[item.step_index] = item
            else:
                self._rows.setdefault(item.step_index, []).append(item)
        self.positions = max(self._rows, default=-1) + 1
        self.completed = sum(
            any(row.status is StepStatus.COMPLETED and row.kind is StepKind.STEP for row in rows)
            for rows in self._rows.values()
        )

    def now(self) -> datetime:
        """The store's time."""
        return self._store.clock()

    def rows(self, position: int) -> Sequence[StepCheckpoint]:
        """What was recorded at a position, by attempt."""
        return self._rows.get(position, ())

    def name_after(self, position: int) -> str | None:
        """What is recorded at or behind a position, if anything."""
        later = [index for index in self._rows if index >= position]
        return self._rows[min(later)][0].step_name if later else None

    def checkpoint(self, position: int, name: str, kind: StepKind, status: StepStatus, **values: Any) -> StepCheckpoint:
        """A new row."""
        return StepCheckpoint(
            workflow_execution_id=self.execution_id,
            step_index=position,
            step_name=name,
            kind=kind,
            status=status,
            **values,
        )

    def timer(self, position: int, name: str, fire_at: datetime) -> WorkflowTimer:
        """The timer of a position; there is one at a time."""
        return WorkflowTimer(
            workflow_timer_id=f"{self.execution_id}:{position}",
            workflow_execution_id=self.execution_id,
            step_name=name,
            fire_at=fire_at,
            created_at=self.now(),
        )

    def later(self, row: StepCheckpoint) -> None:
        """Record `row` with whatever is written next."""
        self._unsaved.append(row)

    def record(self, row: StepCheckpoint, *, completes: bool = False) -> None:
        """Record a row, and that one more step is completed, in one transaction.

        Raises:
            Unwound: the claim is lost, or somebody wants the steps undone (the row is recorded then).
        """
        self.completed += completes
        self._write(ExecutionStatus.RUNNING, [row])

    def suspend(self, row: StepCheckpoint, timer: WorkflowTimer) -> Unwound:
        """Record a row, wait for a timer and give the execution back, in one transaction; what to raise then.

        Raises:
            Unwound: as `record`.
        """
        self._write(ExecutionStatus.SUSPENDED, [row], [timer], release=True)
        return Unwound(Why.WAITS)

    def wait_for_signal(
        self, row: StepCheckpoint, timer: WorkflowTimer | None, timed_out: tuple[str, str] | None
    ) -> StepCheckpoint:
        """Take a signal, or record that none came in time, or give the execution back until one comes; the wait's row.

        Raises:
            Unwound: it waits; or as `record`.
        """
        unsaved = self._unsaved
        held = self._changed(ExecutionStatus.RUNNING)
        self._ending(True)
        status, stored = self._persist(
            lambda: self._store.wait_for_signal(held, row, unsaved, timer=timer, timed_out=timed_out)
        )
        self._unsaved = []
        self._ending(status is ExecutionStatus.SUSPENDED)
        if status is ExecutionStatus.COMPENSATING:
            self._undo()
        if stored.status is StepStatus.INTENT:
            raise Unwound(Why.WAITS)
        return stored

    def begin_undoing(self, error: str | None) -> None:
        """The steps are to be undone, whatever happens to this process."""
        status = self._advance(ExecutionStatus.COMPENSATING, [], error=error)
        self.execution = self.execution.copy_with(
            status=status, error_message=self.execution.error_message if error is None else error
        )

    def record_undone(self, row: StepCheckpoint) -> None:
        """Record that a step was undone, or could not be."""
        self.undone[row.step_index] = row
        self._advance(ExecutionStatus.COMPENSATING, [row])

    def end(self, status: ExecutionStatus, *, output: Any = None, error: str | None = None) -> ExecutionStatus:
        """End the execution and give it back, in one transaction; how it has ended (COMPENSATING: it has not, see `record`)."""
        return self._advance(status, [], output=output, error=error, release=True)

    def leave(self, error: str) -> None:
        """Give the execution back as it is, with a message. One that says why its steps are being undone stays."""
        known = self.execution.error_message
        if known is not None and not known.startswith(f"{NonDeterminismError.__name__}: "):
            error = known
        self._advance(self.execution.status, [], error=error, release=True)
        self.give_back()

    def give_back(self) -> None:
        """Give the execution back as it is."""
        self._persist(lambda: self._store.release_claim(self.execution))

    # -- writing ---------------------------------------------------------------------------------------------------------------------

    def _write(
        self,
        status: ExecutionStatus,
        rows: list[StepCheckpoint],
        timers: Sequence[WorkflowTimer] = (),
        *,
        release: bool = False,
    ) -> None:
        if self._advance(status, rows, timers, release=release) is ExecutionStatus.COMPENSATING:
            self._undo()

    def _advance(
        self,
        status: ExecutionStatus,
        rows: list[StepCheckpoint],
        timers: Sequence[WorkflowTimer] = (),
        *,
        output: Any = None,
        error: str | None = None,
        release: bool = False,
    ) -> ExecutionStatus:
        held = self._changed(status, output, error)
        everything = [*self._unsaved, *rows]
        self._ending(release)
        stored = self._persist(lambda: self._store.advance_execution(held, everything, timers=timers, release=release))
        self._unsaved = []
        if stored is ExecutionStatus.COMPENSATING:  # then the claim goes on, whatever was asked for
            self._ending(False)
        return stored

    def _changed(self, status: ExecutionStatus, output: Any = None, error: str | None = None) -> WorkflowExecution:
        return self.execution.copy_with(
            status=status, current_step=self.completed, output_data=output, error_message=error
        )

    def _undo(self) -> None:
        self.execution = self.execution.copy_with(status=ExecutionStatus.COMPENSATING, cancel_requested=True)
        raise Unwound(Why.CANCELLED)

    def _persist(self, call: Callable[[], T]) -> T:
        return persistently(call, self._closing, self.execution_id)
