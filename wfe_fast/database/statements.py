"""SQL as named, constant text in ``.sql`` files beside the code that uses it.

::

    -- name: get_event(id)
    -- comments that say why
    SELECT … FROM events WHERE id = :id;

    -- part: runnable
    status = 'Runnable' AND …

A part is text that several statements share; they name it as ``{runnable}``. The head names the statement and its parameters in the
order in which the code binds them; the text uses them as ``:name``. At import the names become the driver's placeholders, and
the files are checked against the class that declares the statements: a statement that nobody declares, a declaration without
statement, an unknown or unused parameter is an error then, not at run time.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import resources
from typing import TypeVar, get_type_hints

_HEAD = re.compile(
    r"^-- (?:part: (?P<part>[a-z_]+)|name: (?P<name>[a-z_]+)\((?P<params>[a-z_, ]*)\))[ \t]*$", re.MULTILINE
)
_PART = re.compile(r"\{([a-z_]+)\}")
_PARAMETER = re.compile(r"(?<!:):([a-z_]+)\b")
_COMMENT = re.compile(r"--[^\n]*")

S = TypeVar("S", bound="StatementSet")


def numbered(position: int) -> str:
    """SQLite's placeholder of the parameter at `position` (from 1)."""
    return f"?{position}"


class StatementSet:
    """Base of a class whose annotations name the statements of a store: ``get_event: str``."""

    @classmethod
    def load(cls: type[S], package: str, *files: str, placeholder: Callable[[int], str] = numbered) -> S:
        """Read the statements of this class from `files` in `package`.

        Raises:
            ValueError: the files and the class, or a head and its text, do not fit.
        """
        statements: dict[str, str] = {}
        for file in files:
            text = resources.files(package).joinpath(file).read_text(encoding="utf-8")
            for name, sql in parse(text, placeholder).items():
                if name in statements:
                    raise ValueError(f"{file}: statement {name} is there twice")
                statements[name] = sql
        declared = set(get_type_hints(cls))
        if declared != set(statements):
            raise ValueError(f"{cls.__name__} and {', '.join(files)} differ in {sorted(declared ^ set(statements))}")
        loaded = cls()
        for name, sql in statements.items():
            setattr(loaded, name, sql)
        return loaded

    def resolved(self: S, resolve: Callable[[str], str]) -> S:
        """The same statements with each text changed by `resolve`."""
        copy = type(self)()
        for name in get_type_hints(type(self)):
            setattr(copy, name, resolve(getattr(self, name)))
        return copy


def parse(text: str, placeholder: Callable[[int], str] = numbered) -> dict[str, str]:
    """The statements of one file, by name, with the driver's placeholders.

    Raises:
        ValueError: a name is there twice, a part is missing, or a head's parameters are not those of its text.
    """
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    parts: dict[str, str] = {}
    statements: dict[str, str] = {}
    for head, end in zip(heads, ends, strict=True):
        body = " ".join(_COMMENT.sub("", text[head.end() : end]).split()).rstrip(";")
        name, target = (head["part"], parts) if head["part"] else (head["name"], statements)
        if name in target:
            raise ValueError(f"{name} is there twice")
        body = _with_parts(name, body, parts)
        if target is parts:
            parts[name] = body
            continue
        params = [param.strip() for param in head["params"].split(",") if param.strip()]
        used = set(_PARAMETER.findall(body))
        if used != set(params) or len(params) != len(set(params)):
            raise ValueError(f"statement {name}: its head and its text differ in {sorted(used ^ set(params))}")
        positions = {param: placeholder(index) for index, param in enumerate(params, 1)}
        statements[name] = _with_placeholders(body, positions)
    return statements


def _with_parts(name: str, body: str, parts: dict[str, str]) -> str:
    unknown = set(_PART.findall(body)) - set(parts)
    if unknown:
        raise ValueError(f"{name}: no part is called {', '.join(sorted(unknown))}")
    return _PART.sub(lambda match: parts[match[1]], body)


def _with_placeholders(body: str, positions: dict[str, str]) -> str:
    return _PARAMETER.sub(lambda match: positions[match[1]], body)
