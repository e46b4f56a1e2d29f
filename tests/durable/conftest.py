"""The stores on which the engine is tested: one on each database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.durable import DurableEngine
from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.sqlite import SqliteCheckpointStore


@pytest.fixture(params=["sqlite", "postgres"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., CheckpointStore]:
    """Opens a store on one database, here and in other processes; with the options that it is given."""
    if request.param == "sqlite":
        return partial(SqliteCheckpointStore, tmp_path / "test.db")
    opener = partial(
        PostgresCheckpointStore,
        request.getfixturevalue("postgres_dsn"),
        request.getfixturevalue("postgres_empty_schema"),
    )
    with opener() as store:
        store.migrate()
    return opener


@pytest.fixture
def store(open_store: Callable[..., CheckpointStore]) -> Iterator[CheckpointStore]:
    with open_store() as store:
        yield store


@pytest.fixture
def engine(store: CheckpointStore) -> Iterator[DurableEngine]:
    with DurableEngine(store) as engine:
        yield engine
