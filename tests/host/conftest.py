"""The databases that the host is tested on, and the ways in which its passes are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.host.support import Database, Driver
from wfe_fast import open_provider
from wfe_fast.persistence.contract import PersistenceProvider


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Any) -> Database:
    """A new, empty database. A further kind of database is a further parameter here."""
    if request.param == "sqlite":
        return Database(f"sqlite:///{tmp_path}/host.db", {}, {"busy_timeout": 0.01})
    dsn, schema = (request.getfixturevalue(name) for name in ("postgres_dsn", "postgres_empty_schema"))
    return Database(dsn, {"schema": schema}, {"lock_timeout": 0.01})


@pytest.fixture
def open_store(database: Database) -> Iterator[Callable[..., PersistenceProvider]]:
    """Opens one more provider on the database; all are closed at the end of the test."""
    opened: list[PersistenceProvider] = []

    def open_one(**options: Any) -> PersistenceProvider:
        provider = open_provider(database.url, **database.options, **options)
        opened.append(provider)
        return provider

    yield open_one
    for provider in opened:
        provider.close()


@pytest.fixture
def provider(open_store: Callable[..., PersistenceProvider]) -> PersistenceProvider:
    """One provider on the database."""
    return open_store()


@pytest.fixture(params=["threaded", "reopened"])
def driver(request: pytest.FixtureRequest, open_store: Callable[..., PersistenceProvider]) -> Iterator[Driver]:
    """Runs workflows with threads, or with everything closed and opened again between every two passes."""
    with Driver(open_store, threaded=request.param == "threaded") as driver:
        yield driver
