"""Who is told what the engine does: a logger, and callbacks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from wfe_fast.checkpoints.models import ExecutionStatus
from wfe_fast.durable.unwinding import is_passed_on
from wfe_fast.errors import InvalidValueError

log = logging.getLogger("wfe_fast.durable")


class Observer:
    """Base of observers: override what you want to know. What a method raises is logged and goes no further.

    The methods are called by the thread that does the work, so they had better be quick.
    """

    def on_execution_start(self, execution_id: str, workflow: str) -> None:
        """A new execution was stored."""

    def on_execution_complete(self, execution_id: str, status: ExecutionStatus) -> None:
        """An execution has ended, in whichever final status."""

    def on_step_start(self, execution_id: str, step: str, index: int) -> None:
        """The function of a step is about to be called."""

    def on_step_complete(self, execution_id: str, step: str, index: int, elapsed: float) -> None:
        """A step was recorded; its function took `elapsed` seconds."""

    def on_step_retry(self, execution_id: str, step: str, attempt: int, error: BaseException) -> None:
        """An attempt has failed, and another one follows."""

    def on_compensation_start(self, execution_id: str, steps: Sequence[str]) -> None:
        """These steps are about to be undone, in this order."""

    def on_recovery_start(self, execution_id: str) -> None:
        """An execution goes on here that another one, or an earlier run of this program, has left."""

    def on_recovery_complete(self, execution_id: str, success: bool) -> None:
        """It has come to its end, or to its next wait; not `success` where it failed or could not go on."""

    def on_error(self, execution_id: str, context: str, error: BaseException) -> None:
        """Something has failed: a step for good, a compensation, a workflow, or the engine's own work on it."""


class Observers(Observer):
    """Tells all of them, and the logger ``wfe_fast.durable``."""

    def __init__(self, observers: Iterable[object]) -> None:
        if not isinstance(observers, Iterable):
            raise InvalidValueError("observers", "must be a list of objects", observers)
        self._observers = tuple(observers)

    def _tell(self, event: str, *facts: object) -> None:
        log.debug("%s %s", event, facts)
        for observer in self._observers:
            method = getattr(observer, event, None)
            if method is None:
                continue
            try:
                method(*facts)
            except BaseException as error:
                if is_passed_on(error):
                    raise
                log.exception("%s of an observer has failed", event)

    def on_execution_start(self, execution_id: str, workflow: str) -> None:
        self._tell("on_execution_start", execution_id, workflow)

    def on_execution_complete(self, execution_id: str, status: ExecutionStatus) -> None:
        self._tell("on_execution_complete", execution_id, status)

    def on_step_start(self, execution_id: str, step: str, index: int) -> None:
        self._tell("on_step_start", execution_id, step, index)

    def on_step_complete(self, execution_id: str, step: str, index: int, elapsed: float) -> None:
        self._tell("on_step_complete", execution_id, step, index, elapsed)

    def on_step_retry(self, execution_id: str, step: str, attempt: int, error: BaseException) -> None:
        log.info("execution %s: step %r is tried again after attempt %d: %r", execution_id, step, attempt, error)
        self._tell("on_step_retry", execution_id, step, attempt, error)

    def on_compensation_start(self, execution_id: str, steps: Sequence[str]) -> None:
        log.info("execution %s: these steps are undone: %s", execution_id, steps)
        self._tell("on_compensation_start", execution_id, steps)

    def on_recovery_start(self, execution_id: str) -> None:
        log.info("execution %s is taken up again", execution_id)
        self._tell("on_recovery_start", execution_id)

    def on_recovery_complete(self, execution_id: str, success: bool) -> None:
        self._tell("on_recovery_complete", execution_id, success)

    def on_error(self, execution_id: str, context: str, error: BaseException) -> None:
        log.warning("execution %s: %s: %r", execution_id, context, error)
        self._tell("on_error", execution_id, context, error)
