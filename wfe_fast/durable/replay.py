"""One pass over a workflow's function: what is recorded is handed out, what is new is done and recorded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wfe_fast.checkpoints.models import StepCheckpoint, StepKind, StepStatus
from wfe_fast.checks import check_bool, check_identifier
from wfe_fast.clock import Duration, after, checked_seconds
from wfe_fast.codec import decode_json, encode_line
from wfe_fast.durable.journal import Journal
from wfe_fast.durable.observers import Observers
from wfe_fast.durable.policies import NoRetry, RetryPolicy
from wfe_fast.durable.steps import Attempt, Attempts, StepCall
from wfe_fast.durable.unwinding import MisuseError, Unwound, Why
from wfe_fast.durable.values import moment_of, moment_text, typed
from wfe_fast.errors import InvalidStateError, InvalidValueError, NonDeterminismError, SignalTimeoutError

_ONCE = NoRetry()


@dataclass(frozen=True)
class Compensation:
    """How a completed step is undone."""

    position: int
    name: str
    undo: Callable[[Any], object]
    #: What the step returned, as it is recorded: the body may change the value that it got.
    output: bytes
    returns: Any

    def call(self) -> None:
        """Undo the step."""
        self.undo(typed(decode_json(self.output), self.returns, f"step {self.name!r}"))


class Replay:
    """The `WorkflowContext` of one pass.

    Args:
        checks: called before anything new is done; raises Unwound where it must not be.
        undoing: only hand out what is recorded, and leave the function where that ends.
    """

    def __init__(
        self,
        journal: Journal,
        observers: Observers,
        closing: threading.Event,
        checks: Callable[[], None],
        *,
        undoing: bool,
    ) -> None:
        self._journal = journal
        self._checks = checks
        self._undoing = undoing
        self._attempts = Attempts(journal, observers, closing, checks)
        self._thread = threading.get_ident()
        self._ended = False
        self.position = 0
        #: Why the function was left, once it was: it may have swallowed the exception.
        self.unwound: Unwound | None = None
        self.compensations: dict[int, Compensation] = {}

    def end(self) -> None:
        """The function has ended; whoever kept the context cannot use it any more."""
        self._ended = True

    @property
    def execution_id(self) -> str:
        return self._journal.execution_id

    @property
    def idempotency_key(self) -> str:
        return f"{self.execution_id}:{self._current().position}"

    @property
    def attempt(self) -> int:
        return self._current().number

    @property
    def in_doubt(self) -> bool:
        return self._current().doubtful

    def step(
        self,
        name: str,
        fn: Callable[[], Any],
        *,
        retry: RetryPolicy = _ONCE,
        compensate: Callable[[Any], object] | None = None,
        returns: Any = None,
        timeout: Duration | None = None,
        in_doubt: bool = False,
    ) -> Any:
        check_step(name, fn, retry, compensate)
        seconds = None if timeout is None else checked_seconds(timeout, "timeout")
        check_bool(in_doubt, "in_doubt")
        self._enter()
        position = self.position

        def returned(output: Any) -> None:
            if compensate is not None:
                self.compensations[position] = Compensation(position, name, compensate, encode_line(output), returns)

        call = StepCall(position, name, fn, retry, returns, seconds, in_doubt, compensate is not None, returned)
        try:
            rows = self._take(name, StepKind.STEP)
            outcome = self._attempts.recorded(call, rows)
            if outcome is None:
                self._check_new()
                outcome = self._attempts.make(call, rows)
        except Unwound as unwound:
            raise self._leave(unwound) from unwound.error
        return outcome.value

    def sleep(self, name: str, duration: Duration) -> None:
        check_identifier(name, "name")
        seconds = checked_seconds(duration, "duration")
        self._enter()
        try:
            self._sleep(name, seconds)
        except Unwound as unwound:
            raise self._leave(unwound) from unwound.error

    def _sleep(self, name: str, seconds: float) -> None:
        position = self.position
        rows = self._take(name, StepKind.SLEEP)
        if rows and rows[-1].status is StepStatus.COMPLETED:
            return
        self._check_new()
        now = self._journal.now()
        row = rows[-1] if rows else self._waiting_row(position, name, StepKind.SLEEP, after(now, seconds), now)
        until = moment_of(row.input_data["until"])
        if until <= now:
            # Nothing has to be written for that by itself: should the process die first, the time is over all the same.
            self._journal.later(row.copy_with(status=StepStatus.COMPLETED, completed_at=now))
            return
        self._checks()
        raise self._journal.suspend(row, self._journal.timer(position, name, until))

    def wait_signal(self, name: str, type: Any = Any, timeout: Duration | None = None) -> Any:
        check_identifier(name, "name")
        seconds = None if timeout is None else checked_seconds(timeout, "timeout")
        self._enter()
        try:
            row = self._wait(name, seconds)
        except Unwound as unwound:
            raise self._leave(unwound) from unwound.error
        if row.status is StepStatus.FAILED:
            raise SignalTimeoutError(name, row.input_data["timeout"])
        return typed(row.output_data, type, f"signal {name!r}")

    def _wait(self, name: str, seconds: float | None) -> StepCheckpoint:
        """The row of a wait that has an outcome."""
        position = self.position
        rows = self._take(name, StepKind.SIGNAL)
        if rows and rows[-1].status is not StepStatus.INTENT:
            return rows[-1]
        self._check_new()
        self._checks()
        now = self._journal.now()
        until = None if seconds is None else after(now, seconds)
        row = rows[-1] if rows else self._waiting_row(position, name, StepKind.SIGNAL, until, now, seconds)
        until = None if row.input_data is None else moment_of(row.input_data["until"])
        timer = timed_out = None
        if until is not None:
            timer = self._journal.timer(position, name, until)
            if until <= now:
                error = SignalTimeoutError(name, row.input_data["timeout"])
                timed_out = (SignalTimeoutError.__name__, str(error))
        return self._journal.wait_for_signal(row, timer, timed_out)

    def _waiting_row(
        self,
        position: int,
        name: str,
        kind: StepKind,
        until: datetime | None,
        now: datetime,
        seconds: float | None = None,
    ) -> StepCheckpoint:
        """The row of a sleep or a wait that begins now."""
        limits: dict[str, Any] = {} if until is None else {"until": moment_text(until)}
        if seconds is not None:
            limits["timeout"] = seconds
        return self._journal.checkpoint(
            position, name, kind, StepStatus.INTENT, input_data=limits or None, started_at=now
        )

    # -- positions -------------------------------------------------------------------------------------------------------------------

    def _current(self) -> Attempt:
        current = self._attempts.current
        if current is None:
            raise InvalidStateError("no step is running")
        return current

    def _enter(self) -> None:
        """Refuse a call that does not come from the workflow's function, between two steps.

        Raises:
            MisuseError: see above.
            Unwound: the function has swallowed the exception that left it.
        """
        if self._ended:
            raise MisuseError("the workflow's function has ended")
        if self._attempts.current is not None:
            raise MisuseError("a step cannot use the workflow's steps, sleeps and signals")
        if threading.get_ident() != self._thread:
            raise MisuseError("a workflow's function uses its context in its own thread only")
        if self.unwound is not None:
            raise self.unwound

    def _take(self, name: str, kind: StepKind) -> Sequence[StepCheckpoint]:
        """What is recorded at the next position, which has to be of this name and kind."""
        rows = self._journal.rows(self.position)
        if rows and (rows[0].step_name != name or rows[0].kind is not kind):
            there, here = (f"{k.value.lower()} {n!r}" for k, n in ((rows[0].kind, rows[0].step_name), (kind, name)))
            problem = f"position {self.position} is recorded as {there}, but the workflow's function has {here} there"
            raise Unwound(Why.DIFFERS, NonDeterminismError(self.execution_id, problem))
        self.position += 1
        return rows

    def _check_new(self) -> None:
        if self._undoing:
            raise Unwound(Why.REPLAYED)

    def _leave(self, unwound: Unwound) -> Unwound:
        self.unwound = unwound
        return unwound


def check_step(name: object, fn: object, retry: object, compensate: object) -> None:
    """The arguments of a step.

    Raises:
        InvalidValueError: one is of a wrong kind.
    """
    check_identifier(name, "name")
    if not callable(fn):
        raise InvalidValueError("fn", "must be callable", fn)
    if not isinstance(retry, RetryPolicy):
        raise InvalidValueError("retry", "must be a retry policy", retry)
    if compensate is not None and not callable(compensate):
        raise InvalidValueError("compensate", "must be callable", compensate)
