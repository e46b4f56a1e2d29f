"""What a body sees of values that are recorded: the same on the first run and on replay."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from wfe_fast.clock import checked_moment
from wfe_fast.codec import ESCAPED_NUL, decode_as, decode_json, encode_json, encode_line
from wfe_fast.errors import SerializationError

#: Characters of an error's text that are kept.
_LONGEST_TEXT = 1000


def recordable(value: Any, returns: Any, field: str) -> tuple[Any, Any]:
    """What a function returned, as the JSON value that is recorded and as the value that the body gets.

    Args:
        value: what was returned.
        returns: the type that it is decoded to; None = it is a JSON value.
        field: names it in an error.

    Raises:
        SerializationError: it would not come back from its record as it was.
    """
    if returns is None:
        again = decode_json(encode_json(value, field))
        return again, again
    try:
        encoded = encode_line(value)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        raise SerializationError(field, f"cannot be held as JSON: {error}") from error
    decoded = decode_as(encoded, returns, field)
    if decoded != value or ESCAPED_NUL in encoded:
        raise SerializationError(field, "does not come back from JSON as it was")
    return decode_json(encoded), decoded


def typed(value: Any, type: Any, field: str) -> Any:
    """A recorded JSON value as `type`.

    Raises:
        SerializationError: it does not fit.
    """
    return value if type is None or type is Any else decode_as(encode_line(value), type, field)


def error_text(error: BaseException) -> str:
    """What an error says, as text that can be stored."""
    try:
        text = str(error)
    except Exception as broken:  # its own __str__ must not hide it
        text = f"its text cannot be had: {type(broken).__name__}"
    text = text.replace("\0", "\\0").encode(errors="backslashreplace").decode()
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"


def moment_text(moment: datetime) -> str:
    """A moment, as it stands in a record."""
    return moment.isoformat()


def moment_of(text: str) -> datetime:
    """The moment of such a text."""
    return checked_moment(datetime.fromisoformat(text), "until")
