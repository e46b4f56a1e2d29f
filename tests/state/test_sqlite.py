"""The conformance suite on SQLite: on a file, and in memory."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.state.support import dump
from wfe_fast.sqlite import SqliteBackend
from wfe_fast.testing.state.base import StateUnderTest
from wfe_fast.testing.state.suite import StateSuite


class TestFile(StateSuite):
    """All of it, on a file."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[StateUnderTest]:
        with StateUnderTest(partial(SqliteBackend.open, tmp_path / "test.db"), dump) as store:
            yield store
