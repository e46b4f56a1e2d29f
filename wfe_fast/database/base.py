"""What a store may ask of a database, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

Row = tuple[Any, ...]
Params = Sequence[Any]


class UniqueViolation(Exception):
    """A statement would have stored a value twice. Stores turn it into the Duplicate… error of what they store.

    `constraint` tells which columns have to be unique, in the database's words (``workflows.name``).
    """

    def __init__(self, constraint: str) -> None:
        super().__init__(constraint)
        self.constraint = constraint


class RunAgain(Exception):
    """Raised by an operation that nothing was stored of, and that knows more now: it is to be run again in a new transaction."""


class Session(Protocol):
    """A connection in the state that the current operation needs. An operation does not know whether it runs alone or inside a caller's
    transaction. All statements are constant text."""

    def run(self, sql: str, params: Params = ()) -> int:
        """Execute a statement and return how many rows it changed."""
        ...

    def run_many(self, sql: str, rows: Iterable[Params]) -> None:
        """Execute a statement once for each row of parameters."""
        ...

    def one(self, sql: str, params: Params = ()) -> Row | None:
        """The first row of the result, or None."""
        ...

    def all(self, sql: str, params: Params = ()) -> list[Row]:
        """All rows of the result."""
        ...


Work = Callable[..., T]
"""An operation: called with a session and the arguments that were given with it; may be called again after a rollback."""
