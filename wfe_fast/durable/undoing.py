"""Compensation: the completed steps of an execution are undone, the last one first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from wfe_fast.checkpoints.models import StepKind, StepStatus
from wfe_fast.durable.journal import Journal
from wfe_fast.durable.observers import Observers
from wfe_fast.durable.replay import Compensation
from wfe_fast.durable.unwinding import Unwound, Why, is_passed_on
from wfe_fast.durable.values import error_text

#: How often undoing a step is tried, and the first pause between two attempts, in seconds, which doubles.
_ATTEMPTS, _PAUSE = 3, 0.1


def undo(
    journal: Journal,
    compensations: Mapping[int, Compensation],
    observers: Observers,
    closing: threading.Event,
    is_lost: Callable[[], bool],
) -> None:
    """Undo what is not undone yet, and record each. One that cannot be undone is recorded as FAILED, and the others follow.

    Raises:
        Unwound: the engine is being closed, or the claim is lost; whoever claims the execution goes on.
    """
    left = [
        compensations[position] for position in sorted(compensations, reverse=True) if position not in journal.undone
    ]
    observers.on_compensation_start(journal.execution_id, [item.name for item in left])
    for item in left:
        started = journal.now()
        error = _attempts(item, journal, observers, closing, is_lost)
        row = journal.checkpoint(
            item.position,
            f"{item.name}:compensate",
            StepKind.STEP,
            StepStatus.COMPENSATED if error is None else StepStatus.FAILED,
            attempt=0,
            started_at=started,
            completed_at=journal.now(),
            error_type=None if error is None else type(error).__name__,
            error_message=None if error is None else error_text(error),
            is_final=error is not None,
        )
        journal.record_undone(row)


def _attempts(
    item: Compensation, journal: Journal, observers: Observers, closing: threading.Event, is_lost: Callable[[], bool]
) -> BaseException | None:
    """Undo one step: None, or the error of the last attempt."""
    pause = _PAUSE
    for attempt in range(1, _ATTEMPTS + 1):
        if is_lost():
            raise Unwound(Why.LOST)
        if closing.is_set():
            raise Unwound(Why.CLOSING)
        try:
            item.call()
            return None
        except BaseException as error:
            if is_passed_on(error):
                raise
            observers.on_error(journal.execution_id, f"undoing step {item.name!r}, attempt {attempt}", error)
            if attempt == _ATTEMPTS:
                return error
            closing.wait(pause)
            pause *= 2
    return None
