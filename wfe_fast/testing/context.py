"""A context for unit tests of workflow functions: nothing is stored, nobody waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from wfe_fast.checks import check_bool, check_identifier
from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.durable.policies import NoRetry, RetryPolicy
from wfe_fast.durable.replay import check_step
from wfe_fast.durable.unwinding import MisuseError
from wfe_fast.durable.values import error_text, recordable, typed
from wfe_fast.errors import InvalidStateError, SerializationError, SignalTimeoutError, StepFailedError

_ONCE = NoRetry()


class FakeContext:
    """Stands in for the context of a workflow function, which is then called like any function: ``order(FakeContext(), "A-17")``.

    Steps are called (and tried again, without pauses), sleeps are over at once, signals come from `signals`. Values go through JSON as they do in
    an engine. Afterwards `calls` has the names in order, and `compensate` does what a failure would have undone.

    Args:
        signals: for each name what its waits get, in order; a wait that finds nothing more times out.
    """

    def __init__(self, signals: Mapping[str, Iterable[Any]] | None = None, execution_id: str = "test") -> None:
        self.execution_id = execution_id
        self.calls: list[str] = []
        self.slept: float = 0.0
        self._signals = {name: list(payloads) for name, payloads in (signals or {}).items()}
        self._compensations: list[tuple[Callable[[Any], object], Any]] = []
        self._attempt: int | None = None
        self.in_doubt = False

    @property
    def attempt(self) -> int:
        """In a step: which attempt this is, from 1."""
        if self._attempt is None:
            raise InvalidStateError("no step is running")
        return self._attempt

    @property
    def idempotency_key(self) -> str:
        """In a step: a text that no other step has."""
        return f"{self.execution_id}:{len(self.calls) - 1}"

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
        """Call `fn`, and again as `retry` says. `timeout` and `in_doubt` are only checked."""
        check_step(name, fn, retry, compensate)
        check_bool(in_doubt, "in_doubt")
        if timeout is not None:
            checked_seconds(timeout, "timeout")
        if self._attempt is not None:
            raise MisuseError("a step cannot use the workflow's steps, sleeps and signals")
        self.calls.append(name)
        value = self._attempts(name, fn, retry, returns)
        if compensate is not None:
            self._compensations.append((compensate, value))
        return value

    def _attempts(self, name: str, fn: Callable[[], Any], retry: RetryPolicy, returns: Any) -> Any:
        attempt = 1
        while True:
            self._attempt = attempt
            try:
                return recordable(fn(), returns, f"step {name!r}")[1]
            except (SerializationError, MisuseError):
                raise
            except Exception as error:
                if not retry.goes_on(attempt, error):
                    raise StepFailedError(name, type(error).__name__, error_text(error)) from error
                attempt += 1
            finally:
                self._attempt = None

    def sleep(self, name: str, duration: Duration) -> None:
        """Add to `slept`, in seconds."""
        self.calls.append(check_identifier(name, "name"))
        self.slept += checked_seconds(duration, "duration")

    def wait_signal(self, name: str, type: Any = Any, timeout: Duration | None = None) -> Any:
        """The next one of `signals`; SignalTimeoutError where there is none."""
        self.calls.append(check_identifier(name, "name"))
        waiting = self._signals.get(name)
        if not waiting:
            raise SignalTimeoutError(name, 0.0 if timeout is None else checked_seconds(timeout, "timeout"))
        return typed(waiting.pop(0), type, f"signal {name!r}")

    def compensate(self) -> None:
        """Undo the steps that have been done, the last one first."""
        while self._compensations:
            undo, value = self._compensations.pop()
            undo(value)
