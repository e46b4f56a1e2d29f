"""What a step can answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from wfe_fast.clock import Duration, checked_moment, checked_seconds
from wfe_fast.codec import checked_text
from wfe_fast.errors import InvalidValueError

#: The outcome of a wait whose `timeout` passed. Text, so that it can be stored and compared: ``with wf.when(TIMED_OUT):``.
TIMED_OUT = "wfe.timed_out"

#: Event names that begin so are the library's own.
RESERVED = "wfe."

_MAX_NAME = 1000


class Kind(Enum):
    """What a `StepResult` asks for."""

    NEXT = "next"
    PERSIST = "persist"
    SLEEP = "sleep"
    WAIT = "wait_for"
    BRANCH = "branch"


@dataclass(frozen=True)
class StepResult:
    """The answer of a step. Make it with `next`, `outcome`, `persist`, `sleep`, `wait_for` or `branch`.

    A step may as well return None (= `next`) or any other value (= `outcome` of it). What it changed in the data is kept with all of them.
    """

    kind: Kind
    value: Any = None
    seconds: float = 0.0
    event_name: str = ""
    event_key: str = ""
    as_of: datetime | None = None
    values: list[Any] = field(default_factory=list)

    @staticmethod
    def next() -> StepResult:
        """The step is done, without an outcome."""
        return StepResult(Kind.NEXT)

    @staticmethod
    def outcome(value: Any) -> StepResult:
        """The step is done; `value` (JSON) is compared by `when` and put where `into=` says."""
        return StepResult(Kind.NEXT, value)

    @staticmethod
    def persist(data: Any = None) -> StepResult:
        """Store `data` (JSON, then in `ctx.saved`) and run this step again, in a pass of its own."""
        return StepResult(Kind.PERSIST, data)

    @staticmethod
    def sleep(t: Duration, data: Any = None) -> StepResult:
        """Store `data` as `persist` does and run this step again after `t` (seconds or a timedelta), never earlier.

        Raises:
            InvalidValueError: `t` is no duration.
        """
        return StepResult(Kind.SLEEP, data, seconds=checked_seconds(t, "sleep"))

    @staticmethod
    def wait_for(name: str, key: str = "", as_of: datetime | None = None) -> StepResult:
        """Run this step again when it got an event of this name and key: its data is then in `ctx.event`.

        Args:
            name: the event's name.
            key: the event's key.
            as_of: events before this moment do not count; by default those before the workflow was created.

        Raises:
            InvalidValueError: a name of the library, a wrong kind, a naive datetime.
        """
        moment = None if as_of is None else checked_moment(as_of, "as_of")
        return StepResult(Kind.WAIT, event_name=checked_event_name(name), event_key=checked_key(key), as_of=moment)

    @staticmethod
    def branch(values: Iterable[Any], data: Any = None) -> StepResult:
        """Run the block of this step (``with wf.then(step):``) once for each of `values` (JSON, then in `ctx.item`).

        The step is done when all of them are. `data` is stored with the step.

        Raises:
            InvalidValueError: `values` is text or no iterable.
        """
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise InvalidValueError("values", "must be a list of values", values)
        return StepResult(Kind.BRANCH, data, values=list(values))


def checked_event_name(name: object, field: str = "name") -> str:
    """`name`, where a caller may use it for an event.

    Raises:
        InvalidValueError: it is no text, empty, too long, or one of the library's own.
    """
    text = checked_text(name, field, max_bytes=_MAX_NAME, empty=False)
    if text.startswith(RESERVED):
        raise InvalidValueError(field, f"names that begin with {RESERVED!r} are the library's own", name)
    return text


def checked_key(key: object, field: str = "key") -> str:
    """`key`, where it can be an event's key.

    Raises:
        InvalidValueError: it is no text or too long.
    """
    return checked_text(key, field, max_bytes=_MAX_NAME)


def same_json(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal. Unlike Python, JSON tells ``true`` from ``1``."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_json, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_json(value, other[key]) for key, value in one.items())
    return bool(one == other)
