"""What a workflow's function is given: recorded steps, sleeps and signals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, overload

from wfe_fast.clock import Duration
from wfe_fast.durable.policies import RetryPolicy

T = TypeVar("T")


class WorkflowContext(Protocol):
    """The first argument of a workflow's function.

    What the function does between its steps is done again whenever it is resumed, so it has to be deterministic: whatever comes from outside
    (time, chance, files, services) belongs into a step. Its calls are recorded by their position; names say that the position is still the same.
    """

    @property
    def execution_id(self) -> str:
        """The id of this execution."""
        ...

    @property
    def idempotency_key(self) -> str:
        """In a step: a text that is equal on every attempt of this step, after crashes too, and on no other step."""
        ...

    @property
    def attempt(self) -> int:
        """In a step: which attempt this is, from 1."""
        ...

    @property
    def in_doubt(self) -> bool:
        """In a step: whether an earlier attempt had begun, and nobody knows how far it came: its process died (recorded with ``in_doubt=True``
        only), or it was given up after its `timeout` and may still go on."""
        ...

    @overload
    def step(
        self,
        name: str,
        fn: Callable[[], T],
        *,
        retry: RetryPolicy = ...,
        compensate: Callable[[T], object] | None = None,
        returns: None = None,
        timeout: Duration | None = None,
        in_doubt: bool = False,
    ) -> T: ...

    @overload
    def step(
        self,
        name: str,
        fn: Callable[[], object],
        *,
        retry: RetryPolicy = ...,
        compensate: Callable[[T], object] | None = None,
        returns: type[T],
        timeout: Duration | None = None,
        in_doubt: bool = False,
    ) -> T: ...

    @overload
    def step(
        self,
        name: str,
        fn: Callable[[], object],
        *,
        retry: RetryPolicy = ...,
        compensate: Callable[[Any], object] | None = None,
        returns: Any,
        timeout: Duration | None = None,
        in_doubt: bool = False,
    ) -> Any:
        """Call `fn` and record what it returned; on replay return that without calling it.

        Args:
            name: says what happens here.
            fn: a function without arguments. It returns a JSON value, or one that fits `returns`.
            retry: when a failed attempt is followed by another one.
            compensate: undoes the step where the workflow fails or is cancelled later. Given what the step returned, whatever the function has
                done with that value since.
            returns: a type that msgspec decodes (a struct, a dataclass, ``list[datetime]``, …). Type checkers infer the result from a class, not
                from a union.
            timeout: seconds that an attempt may take. Its thread cannot be ended: it goes on, and what it returns is dropped.
            in_doubt: record the beginning, too (one more transaction), so that `ctx.in_doubt` tells the next attempt of a crash in this one.

        Raises:
            StepFailedError: it failed for good; recorded, and the same on replay.
            SerializationError: what it returned cannot be recorded; recorded, and the same on replay.
            InvalidValueError: an argument is of a wrong kind.
            InvalidStateError: called inside a step, from another thread, or after the end of the function.
        """
        ...

    def sleep(self, name: str, duration: Duration) -> None:
        """Go on after `duration` (seconds or a timedelta), counted from the first time that the function came here. Holds no thread."""
        ...

    @overload
    def wait_signal(self, name: str, *, timeout: Duration | None = None) -> Any: ...

    @overload
    def wait_signal(self, name: str, type: type[T], timeout: Duration | None = None) -> T: ...

    @overload
    def wait_signal(self, name: str, type: Any, timeout: Duration | None = None) -> Any:
        """Take the oldest signal of this name that was not taken yet, or wait for one. Holds no thread while it waits.

        Args:
            name: the signal's name.
            type: what the payload is decoded to.
            timeout: seconds or a timedelta, counted from the first time that the function came here.

        Raises:
            SignalTimeoutError: none came in time; recorded, and the same on replay.
            SerializationError: the payload does not fit; the signal stays taken.
        """
        ...
