"""The conformance suite of the state backend through PgBouncer in transaction pooling, where a connection is one's own for one transaction only: a
view's tenant and role must come and go with each call.

Where a machine has no PgBouncer, the suite is not there; that the missing program is said, a test of contract A shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
import pytest

from tests.state.support import PostgresDump
from wfe_fast.postgres import PostgresBackend
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.pgbouncer import PgBouncer, find_pgbouncer
from wfe_fast.testing.plugin import empty_tables
from wfe_fast.testing.state.base import StateUnderTest
from wfe_fast.testing.state.calls import READS, WRITES, build_owned
from wfe_fast.testing.state.suite import StateSuite
from wfe_fast.testing.waiting import wait_until

SCHEMA = "wfe_pgbouncer_state"

Open = Callable[..., PostgresBackend]


@pytest.fixture(scope="module")
def opener(postgres_dsn: str) -> Iterator[Open]:
    """Opens backends on one schema, whose way leads through a PgBouncer."""
    with PgBouncer(postgres_dsn) as bouncer:
        yield partial(PostgresBackend.open, bouncer.dsn, SCHEMA, pgbouncer=True)
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        connection.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE; DROP ROLE IF EXISTS {SCHEMA}_scoped".encode())


if find_pgbouncer() is not None or "CI" in os.environ:

    class TestThroughPgBouncer(StateSuite):
        """All but bad input, which does not depend on the way to the server."""

        TestArguments = None  # type: ignore[assignment]

        @pytest.fixture
        def store(self, postgres_dsn: str, opener: Open) -> Iterator[StateUnderTest]:
            with psycopg.connect(postgres_dsn, autocommit=True) as connection:
                # The connections behind PgBouncer stay, so that it is looked whether they do something.
                busy = "SELECT 1 FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid()"
                wait_until(lambda: not connection.execute(busy).fetchone(), "the test before has ended")
                empty_tables(connection, SCHEMA)
            with StateUnderTest(opener, PostgresDump(postgres_dsn, SCHEMA)) as store:
                yield store


@pytest.mark.parametrize("label", {**WRITES, **READS})
def test_nothing_is_prepared(postgres_dsn: str, postgres_empty_schema: str, label: str) -> None:
    """Each method, unscoped and through a view, with what PgBouncer asks for; on the server itself, so that it is tested everywhere."""
    clock = ManualClock()
    with PostgresBackend.open(
        postgres_dsn, postgres_empty_schema, pgbouncer=True, max_connections=1, clock=clock
    ) as root:
        for backend in (root.for_tenant("default"), root):
            with_owned = build_owned(backend, clock)
            {**WRITES, **READS}[label](backend, with_owned)
            root.pool.write(lambda session: session.run("SELECT 1"))
            prepared = root.pool.read(lambda session: session.all("SELECT name FROM pg_prepared_statements"))
            assert prepared == []
            left = (
                "UPDATE {}.state_items SET status = 'cancelled', settled_at = now(), fence = 0 WHERE settled_at IS NULL"
            )
            with psycopg.connect(postgres_dsn, autocommit=True) as connection:
                connection.execute(left.format(postgres_empty_schema).encode())
