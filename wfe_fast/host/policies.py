"""What happens when a step fails: try again, suspend the workflow, or terminate it."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TypeAlias

from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.errors import InvalidValueError
from wfe_fast.persistence.models import MAX_INT


@dataclass(frozen=True)
class Suspend:
    """The workflow is Suspended. `resume` runs the failed step again, with a fresh count of attempts."""


@dataclass(frozen=True)
class Terminate:
    """The workflow is Terminated at once; what was still open in it is Cancelled and its waits are dropped."""


@dataclass(frozen=True)
class Retry:
    """Run the step again, `max_retries` times at most (so it runs once more than that); then apply `then`.

    The n-th retry waits ``delay * backoff ** (n - 1)``, at most `max_delay` (or `delay`, where that is longer), made shorter or longer at
    random by up to `jitter` of it.

    Args:
        max_retries: None = without end.
        delay: seconds or a timedelta, 0 allowed.
        backoff: factor between one wait and the next, at least 1.
        max_delay: where the growth by `backoff` ends, seconds or a timedelta.
        jitter: a share between 0 and 1.
        unless: exception types that are not worth a retry: `then` applies at once.
        then: `Suspend()` (also where it is None) or `Terminate()`.

    Raises:
        InvalidValueError: a value is of a wrong kind or out of range.
    """

    max_retries: int | None = 3
    delay: Duration = 60.0
    backoff: float = 1.0
    max_delay: Duration = 3600.0
    jitter: float = 0.0
    unless: type[BaseException] | tuple[type[BaseException], ...] = ()
    then: Suspend | Terminate | None = None

    def __post_init__(self) -> None:
        if self.max_retries is not None:
            checked_integer(self.max_retries, "max_retries", 0)
        checked_seconds(self.delay, "delay")
        _check_number(self.backoff, "backoff", 1, 1e6)
        checked_seconds(self.max_delay, "max_delay")
        _check_number(self.jitter, "jitter", 0, 1)
        kinds = self.unless if isinstance(self.unless, tuple) else (self.unless,)
        for kind in kinds:
            _check_exception_type(kind)
        _check_last(self.then)

    def next_wait(self, retries: int, error: BaseException) -> float | None:
        """Seconds until the next attempt after `retries` ones were made again; None where there is none."""
        if isinstance(error, self.unless) or (self.max_retries is not None and retries >= self.max_retries):
            return None
        delay = checked_seconds(self.delay, "delay")
        longest = max(delay, checked_seconds(self.max_delay, "max_delay"))
        try:
            wait = min(delay * self.backoff**retries, longest)
        except OverflowError:
            wait = longest
        return wait * (1 + self.jitter * random.uniform(-1, 1))


Policy: TypeAlias = Retry | Suspend | Terminate


def checked_policy(value: object, field: str) -> Policy:
    """`value`, a policy.

    Raises:
        InvalidValueError: it is something else (the class instead of an instance, for example).
    """
    if isinstance(value, (Retry, Suspend, Terminate)):
        return value
    raise InvalidValueError(field, "must be Retry(…), Suspend() or Terminate()", value)


def _check_exception_type(kind: object) -> None:
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise InvalidValueError("unless", "must be an exception type or a tuple of them", kind)


def _check_last(policy: object) -> None:
    if policy is not None and not isinstance(policy, (Suspend, Terminate)):
        raise InvalidValueError("then", "must be Suspend() or Terminate()", policy)


def checked_integer(value: object, field: str, lowest: int) -> int:
    """`value`, an integer from `lowest` to the largest that can be stored.

    Raises:
        InvalidValueError: it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= MAX_INT:
        raise InvalidValueError(field, f"must be an integer from {lowest} to {MAX_INT}", value)
    return value


def _check_number(value: object, field: str, lowest: float, highest: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not lowest <= value <= highest:
        raise InvalidValueError(field, f"must be a number from {lowest:g} to {highest:g}", value)
