"""Looking into a database of contract C."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg

from wfe_fast.clock import to_micros
from wfe_fast.database.base import Session
from wfe_fast.postgres import PostgresBackend
from wfe_fast.sqlite import SqliteBackend


def dump(backend: SqliteBackend) -> dict[str, list[Any]]:
    """Every row of every table."""
    return backend.pool.read(_rows)


def _rows(session: Session) -> dict[str, list[Any]]:
    names = [row[0] for row in session.all("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    return {name: sorted(session.all(f'SELECT * FROM "{name}"'), key=repr) for name in names}


def dump_schema(dsn: str, schema: str) -> dict[str, list[Any]]:
    """The same for a schema on PostgreSQL, as somebody who sees all; moments as they are on SQLite."""
    with psycopg.connect(dsn) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1", [schema])
        return {
            name: sorted((_plain(row) for row in connection.execute(f'SELECT * FROM "{schema}"."{name}"')), key=repr)
            for (name,) in names.fetchall()
        }


def _plain(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        to_micros(value) if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value
        for value in row
    )


class PostgresDump:
    """Looks into one schema, whatever the backend."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._dsn = dsn
        self._schema = schema

    def __call__(self, backend: PostgresBackend) -> dict[str, list[Any]]:
        return dump_schema(self._dsn, self._schema)
