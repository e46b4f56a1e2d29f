"""What the tests of the database layer share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wfe_fast.database.sqlite import SqliteDatabase


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "test.db"


@pytest.fixture
def open_database(path: Path) -> Iterator[Callable[..., SqliteDatabase]]:
    """Open the test's file; closed at the end. It has a table `t (a INTEGER PRIMARY KEY, b)`."""
    opened: list[SqliteDatabase] = []

    def open_it(**options: Any) -> SqliteDatabase:
        database = SqliteDatabase(path, **options)
        opened.append(database)
        database.write(make_table)
        return database

    yield open_it
    for database in opened:
        database.close()


def make_table(session: Any) -> None:
    session.run("PRAGMA application_id = 0x57464546")
    session.run("CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b)")
