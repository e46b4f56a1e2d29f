"""Time: one way to read it and one way to write it down.

A clock is a callable that returns an aware datetime, so that a test can pin it. Stored times are integer microseconds since
1970-01-01 UTC: they sort as numbers (RFC 3339 text does not, where the fraction is missing) and hold a datetime exactly
(a float of seconds does not, past the year 2255).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import TypeAlias

from wfe_fast.errors import InvalidValueError

Clock: TypeAlias = Callable[[], datetime]
Duration: TypeAlias = "float | timedelta"

UTC = timezone.utc
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_SECOND = 1_000_000


def system_clock() -> datetime:
    """Now, by the machine's clock, in UTC."""
    return datetime.now(UTC)


def checked_clock(value: object, field: str = "clock") -> Clock:
    """`value` as a clock.

    Raises:
        InvalidValueError: it is not a callable that returns an aware datetime.
    """
    if not callable(value):
        raise InvalidValueError(field, "must be a callable that returns an aware datetime", value)
    checked_moment(value(), field)
    return value


def to_micros(moment: datetime) -> int:
    """Microseconds since the epoch of an aware datetime, exact."""
    delta = moment - EPOCH
    return (delta.days * 86_400 + delta.seconds) * _ONE_SECOND + delta.microseconds


def from_micros(micros: int) -> datetime:
    """The UTC datetime of `micros` microseconds since the epoch, exact."""
    seconds, rest = divmod(micros, _ONE_SECOND)
    return EPOCH + timedelta(0, seconds, rest)


def to_millis(moment: datetime) -> int:
    """Milliseconds since the epoch of an aware datetime, rounded down."""
    return to_micros(moment) // 1000


def from_millis(millis: int) -> datetime:
    """The UTC datetime of `millis` milliseconds since the epoch; the last representable moment for anything later."""
    try:
        return from_micros(millis * 1000)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if millis > 0 else datetime.min.replace(tzinfo=UTC)


def checked_moment(value: object, field: str) -> datetime:
    """`value` as a UTC datetime.

    Raises:
        InvalidValueError: it is no datetime, has no zone, or does not lie in the years 1 to 9999 in UTC.
    """
    if not isinstance(value, datetime):
        raise InvalidValueError(field, "must be a datetime with a zone", value)
    if value.tzinfo is UTC:
        return value
    if value.utcoffset() is None:
        raise InvalidValueError(field, "must be a datetime with a zone, not a naive one", value)
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise InvalidValueError(field, "must lie in the years 1 to 9999 in UTC", value) from error


def checked_seconds(value: object, field: str, *, minimum: float = 0.0) -> float:
    """A duration (seconds as int or float, or a timedelta) in seconds.

    Raises:
        InvalidValueError: it is of another type, not finite, or below `minimum`.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            seconds = float(value)
        except OverflowError as error:
            raise InvalidValueError(field, "must be a finite number of seconds", value) from error
    else:
        raise InvalidValueError(field, "must be seconds (a number) or a timedelta", value)
    if not minimum <= seconds <= _LONGEST:
        raise InvalidValueError(field, f"must be from {minimum:g} to {_LONGEST:g} seconds", value)
    return seconds


#: A thousand years: any moment of this millennium plus a duration stays inside the years that a datetime can hold.
_LONGEST = 1000 * 365.25 * 86_400


def after(moment: datetime, seconds: float) -> datetime:
    """`moment` plus `seconds`; the last representable moment where that would lie behind it."""
    try:
        return moment + timedelta(seconds=seconds)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)
