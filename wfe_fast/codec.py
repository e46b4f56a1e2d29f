"""JSON in and out, strictly.

msgspec is fast and generous: it writes NaN as ``null``, bytes as base64, sets as arrays, Decimals and datetimes as text, integer
keys as text. Each of these comes back as something else, silently. Here a value either comes back equal or is refused with
the path of the part that JSON cannot hold. The check costs one decode and one comparison, both in C.
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeVar

import msgspec

from wfe_fast.errors import InvalidValueError, SerializationError

_T = TypeVar("_T")

encode_line = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode

#: How a NUL looks in encoded JSON. PostgreSQL's JSONB and text cannot hold one, so neither database takes it.
ESCAPED_NUL = b"\\u0000"


def encode_json(value: Any, field: str) -> bytes:
    """`value` as UTF-8 JSON.

    Raises:
        SerializationError: `value` would not come back equal, or holds a NUL or a lone surrogate; names `field` and the path in it.
    """
    try:
        encoded = encode_line(value)
        if (
            _decode_any(encoded) == value
            and encoded.find(ESCAPED_NUL) < 0  # `in` is slower: it first takes bytes as a number
            # Each level takes two brackets, so that a short text needs no count.
            and (len(encoded) <= 2 * MAX_DEPTH or not too_deep(encoded))
        ):
            return encoded
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        check_json(value, field)
        raise SerializationError(field, f"cannot be held as JSON: {error}") from error
    check_json(value, field)
    if _decode_any(encoded) != value:
        raise SerializationError(field, "does not come back from JSON as it was")
    return encoded  # the text holds a backslash followed by u0000, not a NUL


#: A text, which is passed over, or a number with an exponent that is not negative.
_TEXT_OR_LARGE = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9]+(?:\.[0-9]+)?[eE]\+?[0-9]+')


def with_exact_floats(text: str) -> str:
    """JSON in which large floats stand as the whole numbers that they are: 1e23 as 99999999999999991611392.

    For a database that takes numbers as decimal ones: it would make 100000000000000000000000 of 1e23, and that is another number.
    """
    # From 1e16 on a float is written with an exponent, which has two or three digits. Most texts are through here.
    if "e1" not in text and "e2" not in text and "e3" not in text:
        return text
    return _TEXT_OR_LARGE.sub(_exact, text)


def _exact(found: re.Match[str]) -> str:
    token = found[0]
    if token[0] == '"':
        return token
    value = float(token)
    return str(int(value)) if value.is_integer() else token


def decode_json(text: str | bytes) -> Any:
    """The value of stored JSON text."""
    return _decode_any(text)


def decode_as(text: str | bytes, type: type[_T], field: str) -> _T:
    """Stored or received JSON as `type`.

    Raises:
        SerializationError: it is no JSON, or does not fit `type`.
    """
    try:
        return msgspec.json.decode(text, type=type)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise SerializationError(field, str(error)) from error


def check_json(value: Any, path: str, _depth: int = 0) -> None:
    """Walk `value` and raise for the first part that JSON cannot hold, naming its path. The slow, exact way to say why.

    Raises:
        SerializationError: see above.
    """
    if value is None or value is True or value is False:
        return
    kind = type(value)
    if kind is str:
        problem = text_problem(value)
        if problem:
            raise SerializationError(path, problem)
    elif kind is int:
        _check_integer(value, path)
    elif kind is float:
        if not math.isfinite(value):
            raise SerializationError(path, f"{value!r} is not a JSON number")
    elif _depth >= MAX_DEPTH:
        raise SerializationError(path[:200], f"is nested more than {MAX_DEPTH} levels deep, or contains itself")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            check_json(item, f"{path}[{index}]", _depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise SerializationError(path, f"has a key of type {type(key).__name__}; JSON keys are text")
            problem = text_problem(key)
            if problem:
                raise SerializationError(path, f"has a key that {problem}")
            check_json(item, f"{path}.{key}", _depth + 1)
    elif not isinstance(value, (str, int, float)):
        raise SerializationError(path, f"a {kind.__name__} is not a JSON value")


#: Deeper values are refused (an execution pointer, which holds values, may be two levels deeper). What can be encoded on a shallow stack
#: must be decodable on a deep one (Python's limit is 1,000 frames in all), and SQLite's JSON functions stop at 1,000 levels, so SQL
#: could not read what we had stored.
MAX_DEPTH = 500

#: Both kinds of brackets become one kind, everything else goes.
_BRACKETS = bytes.maketrans(b"[]{}", b"()()")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def too_deep(encoded: bytes) -> bool:
    """Whether JSON may be nested more than MAX_DEPTH levels. Brackets in texts can make it say yes wrongly; `check_json` knows."""
    if encoded.count(b"[") + encoded.count(b"{") <= MAX_DEPTH:
        return False
    # Each round takes the innermost pairs away, in C: a flat document of a megabyte needs two or three rounds.
    brackets = encoded.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"()", b"")
    return bool(brackets)


def _check_integer(value: int, path: str) -> None:
    try:
        str(value)
    except ValueError as error:  # Python's own limit for turning integers into text (4,300 digits by default)
        raise SerializationError(path, "the integer has too many digits") from error


def text_problem(text: str) -> str | None:
    """What is wrong with `text` as stored text, or None: NUL (PostgreSQL cannot hold it) or a lone surrogate (not UTF-8)."""
    if "\0" in text:
        return "contains a NUL character"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "contains a lone surrogate, which UTF-8 cannot hold"
    return None


def checked_text(value: object, field: str, *, max_bytes: int | None = None, empty: bool = True) -> str:
    """`value` as text that both databases can hold.

    Raises:
        InvalidValueError: it is no text, empty where it must not be, or longer than `max_bytes` in UTF-8.
        SerializationError: it holds a NUL or a lone surrogate.
    """
    if not isinstance(value, str):
        raise InvalidValueError(field, "must be text", value)
    problem = text_problem(value)
    if problem:
        raise SerializationError(field, problem)
    if not value and not empty:
        raise InvalidValueError(field, "must not be empty", value)
    if max_bytes is not None and len(value) * 4 > max_bytes and len(value.encode()) > max_bytes:
        raise InvalidValueError(field, f"must be at most {max_bytes} bytes of UTF-8", value)
    return value
