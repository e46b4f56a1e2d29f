"""Refusing bad values, before anything is written, in words that name the field: what every contract checks alike."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from enum import Enum
from typing import TypeVar

from wfe_fast.clock import checked_moment
from wfe_fast.codec import checked_text
from wfe_fast.errors import InvalidValueError

E = TypeVar("E", bound=Enum)
M = TypeVar("M")

#: Bytes of UTF-8 that names, keys and ids may have: so much that any index of PostgreSQL can hold three of them.
MAX_NAME = 1000

#: Characters that an identifier may have.
MAX_IDENTIFIER = 256

#: The largest integer of a 32-bit column.
MAX_INT = 2**31 - 1


def check_model(value: object, kind: type[M], field: str) -> M:
    """`value`, which must be a `kind`."""
    if not isinstance(value, kind):
        raise InvalidValueError(field, f"must be a {kind.__name__}", value)
    return value


def check_name(value: object, field: str, *, empty: bool = False) -> str:
    """A name, key or id."""
    return checked_text(value, field, max_bytes=MAX_NAME, empty=empty)


def check_optional_name(value: object, field: str) -> str | None:
    """A name, key or id, or None."""
    return None if value is None else check_name(value, field, empty=True)


def check_int(value: object, field: str, low: int = 0, high: int = MAX_INT) -> int:
    """An integer in [low, high]; a bool is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValueError(field, "must be an integer", value)
    if not low <= value <= high:
        raise InvalidValueError(field, f"must be from {low} to {high}", value)
    return value


def check_bool(value: object, field: str) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise InvalidValueError(field, "must be True or False", value)
    return value


def check_enum(value: object, kind: type[E], field: str) -> E:
    """A member of `kind`, not its text."""
    if not isinstance(value, kind):
        raise InvalidValueError(field, f"must be a {kind.__name__}", value)
    return value


def check_enums(value: object, kind: type[E], field: str) -> list[E]:
    """One member of `kind` or a collection of them, as a list without repetition."""
    if isinstance(value, kind):
        return [value]
    if isinstance(value, (str, bytes)) or not isinstance(value, Collection):
        raise InvalidValueError(field, f"must be a {kind.__name__} or a collection of them", value)
    return list(dict.fromkeys(check_enum(item, kind, field) for item in value))


def check_optional_moment(value: object, field: str) -> datetime | None:
    """An aware datetime, in UTC, or None."""
    return None if value is None else checked_moment(value, field)


def check_limit(value: object, field: str = "limit") -> int:
    """How many at most: 1 or more."""
    return check_int(value, field, 1)


def check_ids(value: object, field: str) -> list[str]:
    """Several ids. A text is iterable, too, but never meant."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidValueError(field, "must be a list of ids", value)
    return [checked_text(item, f"{field}[{index}]") for index, item in enumerate(value)]


def check_sequence(value: object, kind: type[M], field: str) -> list[M]:
    """Several models."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidValueError(field, f"must be a list of {kind.__name__}", value)
    return [check_model(item, kind, f"{field}[{index}]") for index, item in enumerate(value)]


def check_identifier(value: object, field: str, longest: int = MAX_IDENTIFIER) -> str:
    """A name or id: not empty, no white space around it, no control characters, at most `longest` characters.

    Raises:
        InvalidValueError: it is none.
        SerializationError: it holds a lone surrogate.
    """
    if not isinstance(value, str):
        raise InvalidValueError(field, "must be text", value)
    if not value.strip():
        raise InvalidValueError(field, "must not be empty or blank", value)
    if value != value.strip():
        raise InvalidValueError(field, "must not begin or end with white space", value)
    if len(value) > longest:
        raise InvalidValueError(field, f"must have at most {longest} characters", value)
    if not value.isprintable() and any(character < " " or character == "\x7f" for character in value):
        raise InvalidValueError(field, "must not contain control characters", value)
    return value if value.isascii() else checked_text(value, field)
