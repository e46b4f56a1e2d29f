"""Where the tables of a store lie in a PostgreSQL database: in a schema, with a prefix. Both are part of SQL text, so they are strict."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from wfe_fast.errors import InvalidValueError

#: PostgreSQL cuts longer names off, silently.
_LONGEST = 63

#: The longest name that any of our lines gives to a table, an index or a function, and wfe-postgres to an index.
_LONGEST_NAME = 35

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_REFERENCE = re.compile(r"@([a-z_]+)\b")


@dataclass(frozen=True)
class Names:
    """A schema and a prefix.

    Raises:
        InvalidValueError: one is not made of ASCII letters, digits and underscores, or is too long, or the schema is PostgreSQL's own.
    """

    schema: str
    prefix: str = ""

    def __post_init__(self) -> None:
        _check(self.schema, "schema", _LONGEST)
        if self.schema.startswith("pg_") or self.schema == "information_schema":
            raise InvalidValueError("schema", "must not be one of PostgreSQL's own", self.schema)
        if self.prefix != "":
            _check(self.prefix, "table_prefix", _LONGEST - _LONGEST_NAME)

    def resolve(self, text: str) -> str:
        """`text` with ``@name`` as the quoted name of a table or function of the store, and ``{schema}``, ``{prefix}``, ``{channel}``."""
        text = _REFERENCE.sub(lambda match: f'"{self.schema}"."{self.prefix}{match[1]}"', text)
        for word in ("schema", "prefix", "channel"):
            text = text.replace(f"{{{word}}}", getattr(self, word))
        return text

    def own_name(self, name: str) -> str:
        """A name in the database without the prefix."""
        return name.removeprefix(self.prefix)

    @property
    def channel(self) -> str:
        """The channel on which changes of the store are told."""
        return "wfe_" + hashlib.sha256(f"{self.schema}.{self.prefix}".encode()).hexdigest()[:24]


def _check(value: object, field: str, longest: int) -> None:
    if not isinstance(value, str):
        raise InvalidValueError(field, "must be text", value)
    if not _NAME.fullmatch(value):
        raise InvalidValueError(
            field, "must be ASCII letters, digits and underscores, and not begin with a digit", value
        )
    if len(value) > longest:
        raise InvalidValueError(field, f"must be at most {longest} bytes long", value)
