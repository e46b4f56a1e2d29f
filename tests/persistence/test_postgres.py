"""The conformance suite on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.persistence.suite import PersistenceSuite
from wfe_fast.testing.store import StoreUnderTest


class TestPostgres(PersistenceSuite):
    """All of it."""

    @pytest.fixture
    def store(self, postgres_dsn: str, postgres_schema: str) -> Iterator[StoreUnderTest]:
        with StoreUnderTest(partial(PostgresPersistenceProvider, postgres_dsn, schema=postgres_schema)) as store:
            yield store
