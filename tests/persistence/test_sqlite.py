"""The conformance suite on SQLite: on a file at both levels of durability, and in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.sqlite import SqlitePersistenceProvider
from wfe_fast.testing.persistence.crash_suite import CrashSuite
from wfe_fast.testing.persistence.race_suite import RaceSuite
from wfe_fast.testing.persistence.suite import InProcessSuite, PersistenceSuite
from wfe_fast.testing.persistence.transaction_suite import AtomicitySuite, TransactionSuite
from wfe_fast.testing.store import StoreUnderTest


class TestFile(PersistenceSuite):
    """All of it, on a file."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[StoreUnderTest]:
        with StoreUnderTest(partial(SqlitePersistenceProvider, tmp_path / "test.db")) as store:
            yield store


class TestFull:
    """`full` commits in groups: what depends on commits, again."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[StoreUnderTest]:
        with StoreUnderTest(partial(SqlitePersistenceProvider, tmp_path / "test.db", synchronous="full")) as store:
            yield store

    class TestAtomicity(AtomicitySuite):
        pass

    class TestTransactions(TransactionSuite):
        pass

    class TestRaces(RaceSuite):
        pass

    class TestCrashes(CrashSuite):
        pass


class TestMemory(InProcessSuite):
    """A database in memory belongs to one provider, so that each test has one only."""

    @pytest.fixture
    def store(self) -> Iterator[StoreUnderTest]:
        opened: list[PersistenceProvider] = []

        def open_once(**options: Any) -> PersistenceProvider:
            if not opened:
                opened.append(SqlitePersistenceProvider(":memory:", **options))
            return opened[0]

        with StoreUnderTest(open_once) as store:
            yield store
