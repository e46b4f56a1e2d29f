"""Which function a workflow's name stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wfe_fast.checks import check_identifier
from wfe_fast.errors import DefinitionNotFoundError, InvalidValueError

Body = Callable[..., Any]


class Registry:
    """Names and functions. Reading needs no lock: a dict is replaced, never changed."""

    def __init__(self) -> None:
        self._bodies: dict[str, Body] = {}

    def add(self, name: str, body: Body) -> bool:
        """Let `name` stand for `body`; whether that is a change.

        Raises:
            InvalidValueError: a bad name, or `body` is not callable.
        """
        check_identifier(name, "name")
        if not callable(body):
            raise InvalidValueError("fn", "must be callable", body)
        changed = self._bodies.get(name) is not body
        self._bodies = {**self._bodies, name: body}
        return changed

    def get(self, name: str) -> Body | None:
        """The function, or None."""
        return self._bodies.get(name)

    def check(self, name: str) -> str:
        """`name`, where it is registered.

        Raises:
            DefinitionNotFoundError: it is not.
        """
        if check_identifier(name, "name") not in self._bodies:
            raise DefinitionNotFoundError(name)
        return name

    @property
    def names(self) -> list[str]:
        """All names."""
        return list(self._bodies)
