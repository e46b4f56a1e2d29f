"""When a failed step is tried again. The JSON form is that of the durable_workflow family."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wfe_fast.checks import check_int
from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.errors import InvalidValueError

Classes = tuple[type[BaseException], ...]


def _checked_classes(value: object) -> Classes:
    classes = value if isinstance(value, tuple) else (value,)
    if not all(isinstance(item, type) and issubclass(item, BaseException) for item in classes):
        raise InvalidValueError("non_retryable", "must be an exception class or a tuple of them", value)
    return classes


def _number(value: object, name: str, low: float, high: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidValueError(name, f"must be a number from {low:g} to {high:g}", value)
    return float(value)


def _millis(seconds: Duration) -> int:
    return round(checked_seconds(seconds, "delay") * 1000)


@dataclass(frozen=True)
class RetryPolicy(ABC):
    """How often a step is tried, the first attempt included, and how long after a failure."""

    @property
    def attempts(self) -> int:
        """How many attempts there are at most."""
        return 1

    def is_retryable(self, _error: BaseException) -> bool:
        """Whether another attempt may help against this error."""
        return True

    def delay(self, _failures: int) -> float:
        """Seconds between the failure of this number (from 1) and the next attempt."""
        return 0.0

    def goes_on(self, failures: int, error: BaseException) -> bool:
        """Whether another attempt follows after so many failures."""
        return failures < self.attempts and self.is_retryable(error)

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The policy as an object that JSON can hold; times in whole milliseconds, exception classes left out."""

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> RetryPolicy:
        """The policy of such an object.

        Raises:
            InvalidValueError: its type is not known, a key is missing, or a value is out of range.
        """
        if not isinstance(data, Mapping):
            raise InvalidValueError("policy", "must be an object", data)
        try:
            kind = data["type"]
            if kind == "none":
                return NoRetry()
            if kind == "fixed":
                return Fixed(_seconds(data["delayMs"]), data["maxAttempts"])
            if kind == "exponential":
                return Exponential(
                    data["maxAttempts"],
                    first=_seconds(data["initialDelayMs"]),
                    factor=data["multiplier"],
                    max=_seconds(data["maxDelayMs"]),
                    jitter=data.get("jitter", 0.0),
                )
        except KeyError as error:
            raise InvalidValueError(str(error.args[0]), "is missing", dict(data)) from error
        raise InvalidValueError("type", "must be none, fixed or exponential", kind)


def _seconds(millis: object) -> float:
    return _number(millis, "milliseconds", 0, 1e15) / 1000


@dataclass(frozen=True)
class NoRetry(RetryPolicy):
    """One attempt."""

    def to_json(self) -> dict[str, Any]:
        return {"type": "none"}


@dataclass(frozen=True)
class Fixed(RetryPolicy):
    """The same pause after each failure.

    Args:
        delay: seconds or a timedelta.
        max_attempts: the first one included.
        non_retryable: exception classes after which there is no further attempt.

    Raises:
        InvalidValueError: a value is of a wrong kind or out of range.
    """

    # `pause`, since a method is called `delay`; the parameter keeps the name that the contract gives it.
    pause: float = field(init=False)
    max_attempts: int
    non_retryable: Classes

    def __init__(self, delay: Duration, max_attempts: int, non_retryable: type[BaseException] | Classes = ()) -> None:
        object.__setattr__(self, "pause", checked_seconds(delay, "delay"))
        object.__setattr__(self, "max_attempts", check_int(max_attempts, "max_attempts", 1))
        object.__setattr__(self, "non_retryable", _checked_classes(non_retryable))

    @property
    def attempts(self) -> int:
        return self.max_attempts

    def is_retryable(self, _error: BaseException) -> bool:
        return not isinstance(_error, self.non_retryable)

    def delay(self, _failures: int) -> float:
        return self.pause

    def to_json(self) -> dict[str, Any]:
        return {"type": "fixed", "maxAttempts": self.max_attempts, "delayMs": _millis(self.pause)}


@dataclass(frozen=True)
class Exponential(RetryPolicy):
    """Pauses that grow.

    Args:
        max_attempts: the first one included.
        first: the first pause, seconds or a timedelta.
        factor: what each further pause is multiplied by.
        max: the longest pause.
        jitter: each pause is multiplied by a random number from ``1 - jitter`` to ``1 + jitter``; after the cut to `max`.
        non_retryable: exception classes after which there is no further attempt.

    Raises:
        InvalidValueError: a value is of a wrong kind or out of range.
    """

    max_attempts: int
    first: float
    factor: float
    max: float
    jitter: float
    non_retryable: Classes

    def __init__(
        self,
        max_attempts: int,
        first: Duration = 1.0,
        factor: float = 2.0,
        max: Duration = 300.0,
        jitter: float = 0.0,
        non_retryable: type[BaseException] | Classes = (),
    ) -> None:
        object.__setattr__(self, "max_attempts", check_int(max_attempts, "max_attempts", 1))
        object.__setattr__(self, "first", checked_seconds(first, "first"))
        object.__setattr__(self, "factor", _number(factor, "factor", 1, 1e6))
        object.__setattr__(self, "max", checked_seconds(max, "max"))
        object.__setattr__(self, "jitter", _number(jitter, "jitter", 0, 1))
        object.__setattr__(self, "non_retryable", _checked_classes(non_retryable))

    @property
    def attempts(self) -> int:
        return self.max_attempts

    def is_retryable(self, _error: BaseException) -> bool:
        return not isinstance(_error, self.non_retryable)

    def delay(self, _failures: int) -> float:
        try:
            pause = min(self.first * self.factor ** (_failures - 1), self.max)
        except OverflowError:
            pause = self.max
        if self.jitter:
            pause *= random.uniform(1 - self.jitter, 1 + self.jitter)
        return pause

    def to_json(self) -> dict[str, Any]:
        return {
            "type": "exponential",
            "maxAttempts": self.max_attempts,
            "initialDelayMs": _millis(self.first),
            "multiplier": self.factor,
            "maxDelayMs": _millis(self.max),
            "jitter": self.jitter,
        }
