"""A context for unit tests of workflow functions: nothing is stored, nobody waits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from wfe_fast.checks import check_bool, check_identifier
from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.codec import decode_json, encode_json, encode_line
from wfe_fast.durable.policies import NoRetry, RetryPolicy
from wfe_fast.durable.replay import Compensation, check_step
from wfe_fast.durable.unwinding import MisuseError, is_passed_on
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
        self._compensations: list[Compensation] = []
        self._attempt: int | None = None
        #: What a step sees as its context's `in_doubt`; to be set by the test.
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
        if self._attempt is None:
            raise InvalidStateError("no step is running")
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
        self._enter(name)
        output, value = self._attempts(name, fn, retry, returns)
        if compensate is not None:
            position = len(self.calls) - 1
            self._compensations.append(Compensation(position, name, compensate, encode_line(output), returns))
        return value

    def _enter(self, name: str) -> None:
        if self._attempt is not None:
            raise MisuseError("a step cannot use the workflow's steps, sleeps and signals")
        self.calls.append(check_identifier(name, "name"))

    def _attempts(self, name: str, fn: Callable[[], Any], retry: RetryPolicy, returns: Any) -> tuple[Any, Any]:
        attempt = 1
        while True:
            self._attempt = attempt
            try:
                return recordable(fn(), returns, f"step {name!r}")
            except (SerializationError, MisuseError):
                raise
            except BaseException as error:
                if is_passed_on(error):
                    raise
                if not retry.goes_on(attempt, error):
                    raise StepFailedError(name, type(error).__name__, error_text(error)) from error
                attempt += 1
            finally:
                self._attempt = None

    def sleep(self, name: str, duration: Duration) -> None:
        """Add to `slept`, in seconds."""
        self._enter(name)
        self.slept += checked_seconds(duration, "duration")

    def wait_signal(self, name: str, type: Any = Any, timeout: Duration | None = None) -> Any:
        """The next one of `signals`; SignalTimeoutError where there is none."""
        self._enter(name)
        waiting = self._signals.get(name)
        if not waiting:
            raise SignalTimeoutError(name, 0.0 if timeout is None else checked_seconds(timeout, "timeout"))
        payload = decode_json(encode_json(waiting.pop(0), f"signal {name!r}"))
        return typed(payload, type, f"signal {name!r}")

    def compensate(self) -> None:
        """Undo the steps that have been done, the last one first."""
        while self._compensations:
            self._compensations.pop().call()
