"""The databases that the host is tested on, and the ways in which its passes are run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.host.support import Driver
from wfe_fast import open_provider
from wfe_fast.persistence.contract import PersistenceProvider


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """A new, empty database. A further kind of database is a further parameter here."""
    assert request.param == "sqlite"
    return f"sqlite:///{tmp_path}/host.db"


@pytest.fixture
def open_store(database_url: str) -> Iterator[Callable[..., PersistenceProvider]]:
    """Opens one more provider on the database; all are closed at the end of the test."""
    opened: list[PersistenceProvider] = []

    def open_one(**options: Any) -> PersistenceProvider:
        provider = open_provider(database_url, **options)
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
