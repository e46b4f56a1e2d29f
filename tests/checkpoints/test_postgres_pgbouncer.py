"""The conformance suite of checkpoints through PgBouncer in transaction pooling, where a connection is one's own for one transaction only.

Where a machine has no PgBouncer, the suite is not there; that the missing program is said, a test of contract A shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
import pytest

from tests.checkpoints.calls import READS, WRITES, build_world
from wfe_fast.durable import DurableEngine
from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.testing.checkpoints.base import StoresUnderTest
from wfe_fast.testing.checkpoints.suite import CheckpointSuite
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.pgbouncer import PgBouncer, find_pgbouncer
from wfe_fast.testing.plugin import empty_tables
from wfe_fast.testing.waiting import wait_until

SCHEMA = "wfe_pgbouncer_checkpoints"

Open = Callable[..., PostgresCheckpointStore]


@pytest.fixture(scope="module")
def opener(postgres_dsn: str) -> Iterator[Open]:
    """Opens stores on one schema, whose way leads through a PgBouncer."""
    with PgBouncer(postgres_dsn) as bouncer:
        opener = partial(PostgresCheckpointStore, bouncer.dsn, SCHEMA, pgbouncer=True)
        with opener() as store:
            store.migrate()
        yield opener
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f'SET client_min_messages = warning; DROP SCHEMA "{SCHEMA}" CASCADE'.encode())


if find_pgbouncer() is not None or "CI" in os.environ:

    class TestThroughPgBouncer(CheckpointSuite):
        """All but crashes and bad input, which do not depend on the way to the server."""

        TestCrashes = None  # type: ignore[assignment]
        TestArguments = None  # type: ignore[assignment]

        @pytest.fixture
        def stores(self, postgres_dsn: str, opener: Open) -> Iterator[StoresUnderTest]:
            with psycopg.connect(postgres_dsn, autocommit=True) as connection:
                # The connections behind PgBouncer stay, so that it is looked whether they do something.
                busy = "SELECT 1 FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid()"
                wait_until(lambda: not connection.execute(busy).fetchone(), "the test before has ended")
                empty_tables(connection, SCHEMA)
            with StoresUnderTest(opener) as stores:
                yield stores

    def test_nothing_is_left_on_the_connection_behind_it(postgres_dsn: str, postgres_schema: str) -> None:
        with PgBouncer(postgres_dsn, pool_size=1) as bouncer:
            with PostgresCheckpointStore(bouncer.dsn, postgres_schema, pgbouncer=True, clock=ManualClock()) as store:
                store.migrate()
                world = build_world(store)
                for call in (*WRITES.values(), *READS.values()):
                    try:
                        call(store, world)
                    except Exception as error:  # what an earlier call has ended or taken
                        assert type(error).__name__ in ("ClaimLostError", "ExecutionNotFoundError")
            with psycopg.connect(bouncer.dsn, autocommit=True, prepare_threshold=None) as connection:
                for question in (
                    "SELECT name FROM pg_prepared_statements",
                    "SELECT pg_listening_channels()",
                    "SELECT 1 WHERE current_setting('search_path') NOT LIKE '%public%'",
                ):
                    assert connection.execute(question.encode()).fetchall() == [], question

    def test_an_engine_behind_it(opener: Open) -> None:
        with opener() as store, DurableEngine(store) as engine:
            engine.register("w", lambda ctx: [ctx.step("a", lambda: 1), ctx.sleep("nap", 0.01), ctx.wait_signal("go")])
            handle = engine.start("w")
            engine.send_signal(handle.id, "go", 2)
            assert handle.result(timeout=60) == [1, None, 2]
