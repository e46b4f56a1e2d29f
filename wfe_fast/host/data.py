"""A workflow's data: a JSON document in the store, a fresh object of the caller's type for each step."""

from __future__ import annotations

from typing import Any

import msgspec

from wfe_fast.codec import decode_json, encode_json
from wfe_fast.errors import InvalidValueError, SerializationError


class DataModel:
    """How the data of one definition is read and written.

    With a type (a msgspec.Struct, a dataclass, a TypedDict, or what else msgspec can decode) data may hold whatever that type can hold, a Decimal
    for example: msgspec converts it on the way. Without one data is plain JSON, and nothing is converted.
    """

    def __init__(self, type: Any = None) -> None:
        """
        Raises:
            InvalidValueError: msgspec cannot decode `type`.
        """
        self.type = type
        self._decoder: msgspec.json.Decoder[Any] | None = None
        if type is not None:
            try:
                self._decoder = msgspec.json.Decoder(type)
            except TypeError as error:
                raise InvalidValueError("data", f"is no type that msgspec can decode: {error}", type) from error

    @property
    def name(self) -> str:
        """The type's name, for comparing definitions."""
        return "" if self.type is None else str(getattr(self.type, "__qualname__", self.type))

    def decode(self, encoded: bytes) -> Any:
        """A new object of what `encode` made.

        Raises:
            SerializationError: it does not fit the type.
        """
        if self._decoder is None:
            return decode_json(encoded)
        try:
            return self._decoder.decode(encoded)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise SerializationError("data", str(error)) from error

    def encode(self, value: Any) -> bytes:
        """`value` as JSON that `decode` can read.

        Raises:
            SerializationError: JSON cannot hold it, or it does not fit the type; names the field.
        """
        encoded = encode_json(self._plain(value, "data"), "data")
        if self._decoder is not None:
            self.decode(encoded)
        return encoded

    def first(self, value: Any) -> Any:
        """The JSON document of a new workflow: of an object of the type, of JSON that fits it, or of nothing (= an empty object).

        Raises:
            SerializationError: see `encode`.
        """
        encoded = self.encode({} if value is None else value)
        # Decoded and encoded once more, so that defaults of the type are stored as they are now, whatever later code makes of them.
        return decode_json(encoded if self._decoder is None else self.encode(self.decode(encoded)))

    def jsonable(self, value: Any, field: str) -> Any:
        """A copy of `value` as JSON: what a step hands out beside its data. Typed workflows convert it as they do their data.

        Raises:
            SerializationError: JSON cannot hold it.
        """
        if value is None or value is True or value is False:
            return value
        return decode_json(encode_json(self._plain(value, field), field))

    def put(self, data: Any, field: str, value: Any) -> None:
        """Set a field of a decoded object.

        Raises:
            InvalidValueError: `data` is no object.
        """
        if isinstance(data, dict):
            data[field] = value
        elif isinstance(data, msgspec.Struct):
            msgspec.structs.force_setattr(data, field, value)
        elif data is None or isinstance(data, (str, int, float, list)):
            raise InvalidValueError("into", "the workflow's data is no object, so it has no fields", field)
        else:
            object.__setattr__(data, field, value)

    def has_field(self, field: str) -> bool:
        """Whether data may have this field, as far as the type tells."""
        names = getattr(self.type, "__struct_fields__", None) or getattr(self.type, "__annotations__", None)
        return names is None or field in names

    def _plain(self, value: Any, field: str) -> Any:
        if self._decoder is None:
            return value
        try:
            return msgspec.to_builtins(value, str_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise SerializationError(field, str(error)) from error
