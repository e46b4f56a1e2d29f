"""The conformance suite on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.state.support import PostgresDump
from wfe_fast.postgres import PostgresBackend
from wfe_fast.testing.state.base import StateUnderTest
from wfe_fast.testing.state.suite import StateSuite


class TestPostgres(StateSuite):
    """All of it."""

    @pytest.fixture
    def store(self, postgres_dsn: str, postgres_empty_schema: str) -> Iterator[StateUnderTest]:
        opener = partial(PostgresBackend.open, postgres_dsn, schema=postgres_empty_schema)
        with StateUnderTest(opener, PostgresDump(postgres_dsn, postgres_empty_schema)) as store:
            yield store
