"""The JSON form of the models: how data of the durable_workflow family is read and written."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from functools import cache
from typing import Any, ClassVar, TypeVar, get_type_hints

import msgspec
from msgspec.structs import FieldInfo, fields, replace

from wfe_fast.clock import UTC, checked_moment
from wfe_fast.codec import decode_json, encode_json
from wfe_fast.errors import InvalidValueError, SerializationError

J = TypeVar("J", bound="JsonForm")

_NOTHING: frozenset[str] = frozenset()


class JsonForm(msgspec.Struct, kw_only=True, frozen=True):
    """Base of the models."""

    #: Fields that JSON must have although the constructor has a default.
    _json_required: ClassVar[frozenset[str]] = _NOTHING
    #: Fields that are any value here and JSON text there.
    _documents: ClassVar[frozenset[str]] = _NOTHING
    #: Fields that JSON does not have.
    _not_in_json: ClassVar[frozenset[str]] = _NOTHING
    #: Fields that JSON has only where they differ from their default.
    _json_if_set: ClassVar[frozenset[str]] = _NOTHING

    def copy_with(self: J, **changes: Any) -> J:
        """A copy with other values for some fields; None is a value like any other.

        Raises:
            InvalidValueError: there is no such field.
        """
        unknown = sorted(changes.keys() - set(self.__struct_fields__))
        if unknown:
            raise InvalidValueError(unknown[0], f"is no field of a {type(self).__name__}", changes[unknown[0]])
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """The model as an object that JSON can hold: camelCase keys, nulls included.

        Raises:
            InvalidValueError: a time is naive or no datetime.
            SerializationError: a document cannot be held as JSON.
        """
        found: dict[str, Any] = {}
        for info in fields(self):
            name, value = info.name, getattr(self, info.name)
            if name in self._not_in_json or (name in self._json_if_set and value == info.default):
                continue
            if name in self._documents and value is not None:
                value = encode_json(value, name).decode()
            elif isinstance(value, datetime):
                value = _time_text(checked_moment(value, name))
            elif isinstance(value, Enum):
                value = value.value
            found[_camel(name)] = value
        return found

    @classmethod
    def from_json(cls: type[J], data: Mapping[str, Any] | str | bytes) -> J:
        """The model of such an object, or of its text. Keys that are not known are ignored; a document that is no JSON text is kept as it is.

        Raises:
            InvalidValueError: a key is missing, or a value does not fit; names the key.
            SerializationError: the text is no JSON.
        """
        if isinstance(data, (str, bytes)):
            try:
                data = decode_json(data)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                raise SerializationError("data", f"is no JSON: {error}") from error
        if not isinstance(data, Mapping):
            raise InvalidValueError("data", "must be an object", data)
        values = {}
        for info in fields(cls):
            key = _camel(info.name)
            if info.name in cls._not_in_json:
                continue
            if key in data:
                values[info.name] = cls._parsed(info, key, data[key])
            elif info.required or info.name in cls._json_required:
                raise InvalidValueError(key, "is missing", dict(data))
        return cls(**values)

    @classmethod
    def _parsed(cls, info: FieldInfo, key: str, value: Any) -> Any:
        if info.name in cls._documents:
            return _document(key, value)
        if value is not None and info.name.endswith("_at"):
            return _moment(key, value)
        try:
            return msgspec.convert(value, _types(cls)[info.name])
        except msgspec.ValidationError as error:
            raise InvalidValueError(key, str(error), value) from error


@cache
def _types(cls: type[JsonForm]) -> dict[str, Any]:
    return get_type_hints(cls)


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def _time_text(moment: datetime) -> str:
    """Milliseconds, or microseconds where there are some, and ``Z``."""
    precision = "microseconds" if moment.microsecond % 1000 else "milliseconds"
    return moment.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def _moment(key: str, value: Any) -> datetime:
    """A stored time. Where it names no zone it is UTC."""
    if not isinstance(value, str):
        raise InvalidValueError(key, "must be a time as text", value)
    text = value[:-1] + "+00:00" if value.endswith(("Z", "z")) else value
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidValueError(key, "must be an ISO 8601 time", value) from error
    return checked_moment(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC), key)


def _document(key: str, value: Any) -> Any:
    """The value of a document's text; the text itself where it is no JSON."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidValueError(key, "must be JSON text", value)
    try:
        return decode_json(value)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return value
