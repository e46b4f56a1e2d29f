"""The conformance suite on SQLite: on a file, and in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.sqlite import SqliteCheckpointStore
from wfe_fast.testing.checkpoints.base import StoresUnderTest
from wfe_fast.testing.checkpoints.store_suite import CrashSuite, RaceSuite, TransactionSuite
from wfe_fast.testing.checkpoints.suite import CheckpointSuite, InProcessCheckpointSuite


class TestFile(CheckpointSuite):
    """All of it, on a file."""

    @pytest.fixture
    def stores(self, tmp_path: Path) -> Iterator[StoresUnderTest]:
        with StoresUnderTest(partial(SqliteCheckpointStore, tmp_path / "test.db")) as stores:
            yield stores


class TestFull:
    """`full` commits in groups: what depends on commits, again."""

    @pytest.fixture
    def stores(self, tmp_path: Path) -> Iterator[StoresUnderTest]:
        with StoresUnderTest(partial(SqliteCheckpointStore, tmp_path / "test.db", synchronous="full")) as stores:
            yield stores

    class TestTransactions(TransactionSuite):
        pass

    class TestRaces(RaceSuite):
        pass

    class TestCrashes(CrashSuite):
        pass


class TestMemory(InProcessCheckpointSuite):
    """A database in memory belongs to one store, so that each test has one only."""

    @pytest.fixture
    def stores(self) -> Iterator[StoresUnderTest]:
        opened: list[CheckpointStore] = []

        def open_once(**options: Any) -> CheckpointStore:
            if not opened:
                opened.append(SqliteCheckpointStore.in_memory(**options))
            return opened[0]

        with StoresUnderTest(open_once) as stores:
            yield stores
