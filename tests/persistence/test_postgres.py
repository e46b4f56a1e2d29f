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
    def store(self, postgres_dsn: str, postgres_empty_schema: str) -> Iterator[StoreUnderTest]:
        opener = partial(PostgresPersistenceProvider, postgres_dsn, schema=postgres_empty_schema)
        with StoreUnderTest(opener) as store:
            yield store
