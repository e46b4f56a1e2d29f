"""The floor of a job: its own statements, with the values that it binds, on the bare driver in a tight loop.

The statements are recorded while the job is done once on a store that is in the same state, so each job has a floor without a line written for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apsw
import psycopg
import pytest

from wfe_fast.database.postgres_session import PostgresSession

#: A statement and what is bound to it.
Statement = tuple[Any, Any]
Execute = Callable[[Any, Any], Any]


class Tape:
    """The statements of turn after turn: what was done to make the call, and what each call did."""

    def __init__(self, turns: Iterable[tuple[Sequence[Statement], Sequence[Sequence[Statement]]]]) -> None:
        self._turns = iter(turns)

    def play(self, execute: Execute) -> Callable[[], None]:
        """A call of this floor for the next turn: executes what the next recorded call did, and fetches what it returns."""
        made, turn = next(self._turns)
        for statement, values in made:
            execute(statement, values)
        calls = iter(turn)

        def replay() -> None:
            for statement, values in next(calls):
                execute(statement, values)

        return replay


@contextmanager
def recorded_on_sqlite() -> Iterator[list[Statement]]:
    """Collects what is executed on connections that are made inside."""
    found: list[Statement] = []

    def trace(cursor: object, statement: str, values: Any) -> bool:
        found.append((statement, values))
        return True

    def hook(connection: apsw.Connection) -> None:
        connection.exec_trace = trace  # type: ignore[assignment]

    apsw.connection_hooks.append(hook)
    try:
        yield found
    finally:
        apsw.connection_hooks.remove(hook)


@contextmanager
def sqlite_execute(path: str, synchronous: str) -> Iterator[Execute]:
    """What executes a statement on a bare connection."""
    connection = apsw.Connection(path, statementcachesize=512)
    for setting in (f"synchronous = {synchronous}", "foreign_keys = ON", "busy_timeout = 10000"):
        connection.execute(f"PRAGMA {setting}")
    execute = connection.cursor().execute
    yield lambda statement, values: execute(statement, values).fetchall()
    connection.close()


@contextmanager
def recorded_on_postgres(monkeypatch: pytest.MonkeyPatch, schema: str, floor: str) -> Iterator[list[Statement]]:
    """Collects what is sent to `schema`, for another schema in the same state; what is sent together is one list."""
    found: list[Statement] = []
    ask = PostgresSession.ask

    def record(self: PostgresSession, requests: Sequence[Statement]) -> Any:
        found.append(([(sql.replace(f'"{schema}"', f'"{floor}"').encode(), values) for sql, values in requests], None))
        return ask(self, requests)

    with monkeypatch.context() as patch:
        patch.setattr(PostgresSession, "ask", record)
        yield found


@contextmanager
def postgres_execute(dsn: str) -> Iterator[Execute]:
    """What executes together on a bare connection what was sent together, prepared."""
    connection = psycopg.connect(dsn, autocommit=True)
    cursor = psycopg.RawCursor(connection)  # its placeholders are the server's own

    def execute(requests: list[Statement], _: None) -> None:
        if len(requests) == 1:
            cursor.execute(*requests[0], prepare=True)
        else:
            with connection.pipeline():
                for statement, values in requests:
                    cursor.execute(statement, values or None, prepare=True)
        if cursor.description is not None:
            cursor.fetchall()

    yield execute
    connection.close()
