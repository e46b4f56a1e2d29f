"""Refusing bad values, before anything is written, in words that name the field.

This is the slow, exact check. Hot paths first try a cheap test that no bad value passes (`rows`, `pointers`) and come here only to
say what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec.structs import replace

from wfe_fast.checks import MAX_NAME as MAX_NAME
from wfe_fast.checks import check_bool as check_bool
from wfe_fast.checks import check_enum as check_enum
from wfe_fast.checks import check_enums as check_enums
from wfe_fast.checks import check_ids as check_ids
from wfe_fast.checks import check_int as check_int
from wfe_fast.checks import check_limit as check_limit
from wfe_fast.checks import check_model as check_model
from wfe_fast.checks import check_name as check_name
from wfe_fast.checks import check_optional_moment as check_optional_moment
from wfe_fast.checks import check_optional_name as check_optional_name
from wfe_fast.checks import check_sequence as check_sequence
from wfe_fast.codec import encode_json
from wfe_fast.errors import InvalidValueError, SerializationError
from wfe_fast.persistence.models import ExecutionPointer, PointerStatus

#: next_execution and execute_time fit the BIGINT column of a shared PostgreSQL schema.
_MAX_BIGINT = 2**63 - 1


def check_address(event_name: object, event_key: object) -> tuple[str, str]:
    """The name and the key of events."""
    return check_name(event_name, "event_name", empty=True), check_name(event_key, "event_key", empty=True)


def check_millis(value: object, field: str) -> int:
    """Epoch milliseconds."""
    return check_int(value, field, -_MAX_BIGINT - 1, _MAX_BIGINT)


def check_optional_limit(value: object, field: str = "limit") -> int:
    """A limit, or -1 for None: what SQLite takes for "all"."""
    return -1 if value is None else check_limit(value, field)


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
