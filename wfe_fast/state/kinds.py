"""Event kinds to JSON text and back, strictly: what would not come back equal is refused, with the field that is wrong."""

from __future__ import annotations

from typing import Any, get_type_hints

import msgspec

from wfe_fast.codec import ESCAPED_NUL, check_json, checked_text, decode_json, encode_json, encode_line, too_deep
from wfe_fast.errors import CorruptionError, InvalidValueError, SerializationError
from wfe_fast.state.events import KINDS, KNOWN_TYPES, TYPE_OF, AnyEventKind, EventKind, UnknownEventKind

_decode = msgspec.json.Decoder(EventKind).decode

#: Under this key an unknown kind remembers the text that was stored.
_RAW = "raw"


def encode_kind(kind: object, field: str) -> tuple[str, str]:
    """The name and the JSON text of a kind.

    Raises:
        InvalidValueError: it is no kind, or a field has a wrong type.
        SerializationError: a field holds what JSON cannot.
    """
    if isinstance(kind, UnknownEventKind):
        return _encode_unknown(kind, field)
    name = TYPE_OF.get(type(kind))
    if name is None:
        raise InvalidValueError(field, "must be an event kind", kind)
    try:
        encoded = encode_line(kind)
        if _decode(encoded) == kind and ESCAPED_NUL not in encoded and not too_deep(encoded):
            return name, encoded.decode()
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        _explain(kind, field)
        raise SerializationError(field, f"cannot be held as JSON: {error}") from error
    _explain(kind, field)
    if _decode(encoded) != kind:
        raise SerializationError(field, "does not come back from JSON as it was")
    return name, encoded.decode()  # a text holds a backslash followed by u0000, not a NUL


def _encode_unknown(kind: UnknownEventKind, field: str) -> tuple[str, str]:
    name = checked_text(kind.type, f"{field}.type", max_bytes=200, empty=False)
    if name in KNOWN_TYPES:
        raise InvalidValueError(f"{field}.type", "is the name of a known kind", name)
    fields: object = kind.fields
    if not isinstance(fields, dict) or "type" in fields:
        raise InvalidValueError(f"{field}.fields", 'must be a dict without the key "type"', fields)
    whole = {"type": name, **fields}
    text = encode_json(whole, f"{field}.fields").decode()
    raw: str | None = kind.__dict__.get(_RAW)
    if raw is None:
        return name, text
    stored = decode_json(raw)
    # As texts, since what is another value in JSON may be an equal one here: true, 1 and 1.0.
    same = encode_line({"type": stored.pop("type"), **stored}).decode() == text
    return name, raw if same else text


def decode_kind(name: str, text: str, store: str) -> AnyEventKind:
    """The kind of a stored row.

    Raises:
        CorruptionError: the text is not what this library writes.
    """
    try:
        if name in KNOWN_TYPES:
            known: EventKind = _decode(text)
            return known
        fields = decode_json(text)
        del fields["type"]
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptionError(store, f"a stored event of type {name} cannot be read: {error}") from error
    kind = UnknownEventKind(name, fields)
    kind.__dict__[_RAW] = text
    return kind


_TYPES: dict[type, dict[str, Any]] = {kind: get_type_hints(kind, include_extras=True) for kind in KINDS}


def _explain(kind: Any, field: str) -> None:
    """Raise for the first field that is wrong; return where none is."""
    for name, wanted in _TYPES[type(kind)].items():
        value = getattr(kind, name)
        path = f"{field}.{name}"
        if wanted is not Any:
            try:
                msgspec.convert(value, wanted)
            except (msgspec.MsgspecError, ValueError, TypeError) as error:
                raise InvalidValueError(path, str(error), value) from error
        check_json(msgspec.to_builtins(value, str_keys=False) if _is_typed(value) else value, path)


def _is_typed(value: object) -> bool:
    """Whether a value is one that JSON shows in another form: a moment, or a struct."""
    return isinstance(value, msgspec.Struct) or hasattr(value, "isoformat")
