"""The conformance suite on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.testing.checkpoints.base import StoresUnderTest
from wfe_fast.testing.checkpoints.suite import CheckpointSuite


class TestPostgres(CheckpointSuite):
    """All of it."""

    @pytest.fixture
    def stores(self, postgres_dsn: str, postgres_empty_schema: str) -> Iterator[StoresUnderTest]:
        with StoresUnderTest(partial(PostgresCheckpointStore, postgres_dsn, postgres_empty_schema)) as stores:
            yield stores
