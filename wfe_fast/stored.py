"""What values look like in a store, in every contract: times as integers, JSON as text, a list as one bound value."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from wfe_fast.checks import check_optional_moment
from wfe_fast.clock import checked_moment, to_micros
from wfe_fast.codec import decode_json, encode_json
from wfe_fast.errors import CorruptionError


def micros(moment: Any, field: str) -> int:
    """A moment as it is stored."""
    return to_micros(checked_moment(moment, field))


def optional_micros(moment: Any, field: str) -> int | None:
    """An optional moment as it is stored."""
    checked = check_optional_moment(moment, field)
    return None if checked is None else to_micros(checked)


def json_text(value: Any, field: str) -> str:
    """A JSON value as it is stored."""
    return encode_json(value, field).decode()


def stored_json(text: str, store: str) -> Any:
    """The value of a stored JSON text.

    Raises:
        CorruptionError: it is none.
    """
    try:
        return decode_json(text)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CorruptionError(store, f"a stored value is no JSON: {error}") from error


def json_list(values: Iterable[object]) -> str:
    """Checked values as the one bound text in which a list travels."""
    return json.dumps(list(values))
