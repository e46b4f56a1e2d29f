"""Refusing bad values, before anything is written, in words that name the field.

This is the slow, exact check. Hot paths first try a cheap test that no bad value passes (`rows`, `pointers`) and come here only to
say what is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

from msgspec.structs import replace

from wfe_fast.clock import checked_moment
from wfe_fast.codec import checked_text, encode_json
from wfe_fast.errors import InvalidValueError, SerializationError
from wfe_fast.persistence.models import MAX_INT, ExecutionPointer, PointerStatus

E = TypeVar("E", bound=Enum)
M = TypeVar("M")

#: Bytes of UTF-8 that names, keys and ids may have: so much that any index of PostgreSQL can hold three of them.
MAX_NAME = 1000

#: next_execution and execute_time fit the BIGINT column of a shared PostgreSQL schema.
_MAX_BIGINT = 2**63 - 1


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


def check_address(event_name: object, event_key: object) -> tuple[str, str]:
    """The name and the key of events."""
    return check_name(event_name, "event_name", empty=True), check_name(event_key, "event_key", empty=True)


def check_int(value: object, field: str, low: int = 0, high: int = MAX_INT) -> int:
    """An integer in [low, high]; a bool is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidValueError(field, "must be an integer", value)
    if not low <= value <= high:
        raise InvalidValueError(field, f"must be from {low} to {high}", value)
    return value


def check_millis(value: object, field: str) -> int:
    """Epoch milliseconds."""
    return check_int(value, field, -_MAX_BIGINT - 1, _MAX_BIGINT)


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


def check_optional_limit(value: object, field: str = "limit") -> int:
    """A limit, or -1 for None: what SQLite takes for "all"."""
    return -1 if value is None else check_limit(value, field)


def check_ids(value: object, field: str) -> list[str]:
    """Several ids. A text is iterable, too, but never meant."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidValueError(field, "must be a list of ids", value)
    return [checked_text(item, f"{field}[{index}]") for index, item in enumerate(value)]


def check_addresses(value: object, field: str) -> list[tuple[str, str]]:
    """Several (event name, event key) pairs."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidValueError(field, "must be a list of (event name, event key) pairs", value)
    pairs = []
    for index, item in enumerate(value):
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise InvalidValueError(f"{field}[{index}]", "must be an (event name, event key) pair", item)
        pairs.append(check_address(*item))
    return pairs


def check_definitions(value: object, field: str = "definitions") -> list[tuple[str, int]]:
    """Several (definition id, version) pairs, each once."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidValueError(field, "must be a list of (definition id, version) pairs", value)
    pairs = []
    for index, item in enumerate(value):
        if not isinstance(item, (tuple, list)) or len(item) != 2:
            raise InvalidValueError(f"{field}[{index}]", "must be a (definition id, version) pair", item)
        pairs.append((check_name(item[0], f"{field}[{index}][0]"), check_int(item[1], f"{field}[{index}][1]")))
    return list(dict.fromkeys(pairs))


def check_sequence(value: object, kind: type[M], field: str) -> list[M]:
    """Several models."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidValueError(field, f"must be a list of {kind.__name__}", value)
    return [check_model(item, kind, f"{field}[{index}]") for index, item in enumerate(value)]


def _check_texts(value: object, field: str) -> list[str]:
    if not isinstance(value, list):
        raise InvalidValueError(field, "must be a list of texts", value)
    return [check_name(item, f"{field}[{index}]", empty=True) for index, item in enumerate(value)]


def _check_attributes(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValueError(field, "must be a dict with text keys", value)
    encode_json(value, field)
    return value


def check_pointer(value: object, path: str) -> ExecutionPointer:
    """Every field of an execution pointer.

    Returns:
        A pointer that can be stored as it is: times in UTC.

    Raises:
        InvalidValueError: a value is of a wrong kind or out of range.
        SerializationError: a JSON value is not JSON.
    """
    pointer = check_model(value, ExecutionPointer, path)
    check_name(pointer.id, f"{path}.id")
    check_int(pointer.step_id, f"{path}.step_id")
    check_int(pointer.retry_count, f"{path}.retry_count")
    check_bool(pointer.active, f"{path}.active")
    check_bool(pointer.event_published, f"{path}.event_published")
    check_enum(pointer.status, PointerStatus, f"{path}.status")
    for name in ("event_name", "event_key", "step_name", "predecessor_id"):
        check_optional_name(getattr(pointer, name), f"{path}.{name}")
    for name in ("persistence_data", "event_data", "context_item", "outcome"):
        encode_json(getattr(pointer, name), f"{path}.{name}")
    _check_texts(pointer.children, f"{path}.children")
    _check_texts(pointer.scope, f"{path}.scope")
    _check_attributes(pointer.extension_attributes, f"{path}.extension_attributes")
    return replace(
        pointer,
        sleep_until=check_optional_moment(pointer.sleep_until, f"{path}.sleep_until"),
        start_time=check_optional_moment(pointer.start_time, f"{path}.start_time"),
        end_time=check_optional_moment(pointer.end_time, f"{path}.end_time"),
    )


def unexplained(path: str) -> SerializationError:
    """For a value that the fast test refused and in which the exact one finds nothing (an object with an `__eq__` of its own, say)."""
    return SerializationError(path, "does not come back from JSON as it was")
