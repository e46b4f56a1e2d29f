"""Looking into an SQLite file of contract C."""

from __future__ import annotations

from typing import Any

from wfe_fast.database.base import Session
from wfe_fast.sqlite import SqliteBackend


def dump(backend: SqliteBackend) -> dict[str, list[Any]]:
    """Every row of every table."""
    return backend.pool.read(_rows)


def _rows(session: Session) -> dict[str, list[Any]]:
    names = [row[0] for row in session.all("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    return {name: sorted(session.all(f'SELECT * FROM "{name}"'), key=repr) for name in names}
