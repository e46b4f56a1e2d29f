"""The attempts of a step: what is recorded of them, and how further ones are made."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wfe_fast.checkpoints.models import StepCheckpoint, StepKind, StepStatus
from wfe_fast.clock import after
from wfe_fast.durable.journal import Journal
from wfe_fast.durable.observers import Observers
from wfe_fast.durable.policies import RetryPolicy
from wfe_fast.durable.unwinding import MisuseError, Unwound, Why, is_passed_on
from wfe_fast.durable.values import error_text, moment_of, moment_text, recordable, typed
from wfe_fast.durable.within import within
from wfe_fast.errors import NonDeterminismError, SerializationError, StepFailedError, StepTimeoutError

#: A longer pause before the next attempt, in seconds, holds no thread: it is a timer in the store.
_LONGEST_HELD_PAUSE = 1.0
#: How the failure of an attempt is recorded that was given up after its time: it may still go on.
_TIMEOUT = StepTimeoutError.__name__


@dataclass(frozen=True)
class StepCall:
    """A call of `ctx.step`, checked. `returned` is told the JSON value that is recorded, before it is."""

    position: int
    name: str
    fn: Callable[[], Any]
    retry: RetryPolicy
    returns: Any
    timeout: float | None
    in_doubt: bool
    undoable: bool
    returned: Callable[[Any], None]

    @property
    def field(self) -> str:
        """Names the step in errors."""
        return f"step {self.name!r}"


@dataclass(frozen=True)
class Attempt:
    """The attempt that runs now."""

    position: int
    number: int
    doubtful: bool
    started: datetime


@dataclass(frozen=True)
class Value:
    """What a step has returned."""

    value: Any


class Attempts:
    """Makes the attempts of the steps of one body, one after the other."""

    def __init__(
        self, journal: Journal, observers: Observers, closing: threading.Event, checks: Callable[[], None]
    ) -> None:
        self._journal = journal
        self._observers = observers
        self._closing = closing
        self._checks = checks
        self.current: Attempt | None = None

    def recorded(self, call: StepCall, rows: Sequence[StepCheckpoint]) -> Value | None:
        """The outcome that is recorded, or None where there is none yet.

        Raises:
            StepFailedError, SerializationError: it is this failure.
            Unwound: it does not fit the type that the body asks for now.
        """
        for row in rows:
            if row.status is StepStatus.COMPLETED:
                try:
                    value = typed(row.output_data, call.returns, call.field)
                except SerializationError as error:
                    problem = f"{call.field} is recorded with a value that does not fit `returns`: {error.problem}"
                    raise Unwound(Why.DIFFERS, NonDeterminismError(self._journal.execution_id, problem)) from error
                call.returned(row.output_data)
                return Value(value)
            if row.is_final:
                raise _failure(call, row)
        return None

    def make(self, call: StepCall, rows: Sequence[StepCheckpoint]) -> Value:
        """Make attempts until one succeeds, or the policy has had enough.

        Raises:
            StepFailedError, SerializationError: it failed for good.
            Unwound: the next attempt is to be made later, or not by us.
        """
        failures = [row for row in rows if row.status is StepStatus.FAILED]
        count = len(failures)
        number = max((row.attempt for row in rows), default=0) + 1
        doubtful = any(row.status is StepStatus.INTENT or row.error_type == _TIMEOUT for row in rows)
        if failures:
            self._await_turn(call, failures[-1])
        while True:
            self._checks()
            attempt = Attempt(call.position, number, doubtful, self._journal.now())
            outcome = self._attempt(call, attempt)
            if isinstance(outcome, Value):
                return outcome
            count += 1
            self._failed(call, attempt, count, outcome)
            number += 1
            doubtful = doubtful or type(outcome).__name__ == _TIMEOUT  # as it is found in the record after a restart

    def _await_turn(self, call: StepCall, failure: StepCheckpoint) -> None:
        """Leave the body again where the pause behind a failure is not over."""
        retry_at = failure.output_data.get("retry_at") if isinstance(failure.output_data, dict) else None
        if retry_at is not None and moment_of(retry_at) > self._journal.now():
            self._checks()
            timer = self._journal.timer(call.position, call.name, moment_of(retry_at))
            raise self._journal.suspend(failure, timer)

    def _attempt(self, call: StepCall, attempt: Attempt) -> Value | BaseException:
        """One attempt: the value, recorded; or the error."""
        if call.in_doubt:
            self._journal.record(self._row(call, attempt, StepStatus.INTENT))
        self._observers.on_step_start(self._journal.execution_id, call.name, call.position)
        began = time.perf_counter()
        self.current = attempt
        try:
            returned = call.fn() if call.timeout is None else _within(call.timeout, call.name, call.fn)
            elapsed = time.perf_counter() - began
            output, value = recordable(returned, call.returns, call.field)
        except MisuseError:
            raise
        except BaseException as error:
            if is_passed_on(error):
                raise
            return error
        finally:
            self.current = None
        call.returned(output)
        row = self._row(call, attempt, StepStatus.COMPLETED, output_data=output, completed_at=self._journal.now())
        self._journal.record(row, completes=True)
        self._observers.on_step_complete(self._journal.execution_id, call.name, call.position, elapsed)
        return Value(value)

    def _failed(self, call: StepCall, attempt: Attempt, failures: int, error: BaseException) -> None:
        """Record a failure, and wait for the next attempt's turn.

        Raises:
            StepFailedError, SerializationError: there is no next attempt.
            Unwound: its turn comes later.
        """
        now = self._journal.now()
        row = self._row(
            call,
            attempt,
            StepStatus.FAILED,
            error_type=type(error).__name__,
            error_message=error_text(error),
            completed_at=now,
        )
        unfit = type(error) is SerializationError
        if unfit or not call.retry.goes_on(failures, error):
            detail = {"field": error.field} if isinstance(error, SerializationError) else None
            row = row.copy_with(is_final=True, output_data=detail)
            self._journal.record(row)
            self._observers.on_error(self._journal.execution_id, call.field, error)
            raise _failure(call, row) from error
        delay = call.retry.delay(failures)
        self._observers.on_step_retry(self._journal.execution_id, call.name, attempt.number, error)
        if delay > _LONGEST_HELD_PAUSE:
            retry_at = after(now, delay)
            row = row.copy_with(output_data={"retry_at": moment_text(retry_at)})
            raise self._journal.suspend(row, self._journal.timer(call.position, call.name, retry_at))
        self._journal.record(row)
        self._closing.wait(delay)

    def _row(self, call: StepCall, attempt: Attempt, status: StepStatus, **values: Any) -> StepCheckpoint:
        return self._journal.checkpoint(
            call.position,
            call.name,
            StepKind.STEP,
            status,
            attempt=attempt.number,
            started_at=attempt.started,
            compensate_ref=call.name if call.undoable else None,
            **values,
        )


def _failure(call: StepCall, row: StepCheckpoint) -> StepFailedError | SerializationError:
    """The error that a body sees where a step has failed for good: the same at once and on replay."""
    kind, message = row.error_type or "Exception", row.error_message or ""
    # The field tells ours from another library's error of that name.
    if kind == SerializationError.__name__ and isinstance(row.output_data, dict) and "field" in row.output_data:
        field = row.output_data["field"]
        return SerializationError(field, message.removeprefix(f"{field}: "))
    return StepFailedError(call.name, kind, message)


def _within(seconds: float, name: str, fn: Callable[[], Any]) -> Any:
    """Call `fn` in a thread of its own.

    Raises:
        StepTimeoutError: it has not ended in time. It goes on, and what becomes of it is dropped.
    """
    returned = within(seconds, f"step {name}", fn)
    if not returned:
        raise StepTimeoutError(name, seconds)
    return returned[0]
