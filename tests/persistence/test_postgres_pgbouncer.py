"""The conformance suite through PgBouncer in transaction pooling, where a connection is one's own for one transaction only.

Left out, to save time, is what does not depend on the way to the server: the model and the crash suite (how operations act on each other, what
a killed process leaves), and those of values (what is refused is refused before anything is sent, and the rest is bytes).

Where a machine has no PgBouncer, the suite is not there, and it is tested that the missing program is said; a build machine has to have one.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.persistence.reads import LOOKS
from wfe_fast.database import postgres
from wfe_fast.errors import StoreUnavailableError
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.persistence.factories import FAR, a_workflow, pointers
from wfe_fast.testing.persistence.suite import PersistenceSuite
from wfe_fast.testing.persistence.writes import WRITES, build_world
from wfe_fast.testing.pgbouncer import PgBouncer, find_pgbouncer
from wfe_fast.testing.plugin import empty_tables
from wfe_fast.testing.racing import race_threads, values
from wfe_fast.testing.store import StoreUnderTest
from wfe_fast.testing.waiting import PATIENCE, Background, wait_until

EXPECTED = find_pgbouncer() is not None or "CI" in os.environ

#: One schema for all tests: a new one for each would take longer than the tests.
SCHEMA = f"wfe_pgbouncer_{uuid.uuid4().hex}"

Open = Callable[..., PostgresPersistenceProvider]


@pytest.fixture(scope="module")
def opener(postgres_dsn: str) -> Iterator[Open]:
    """Opens providers on one schema, whose way leads through a PgBouncer."""
    with PgBouncer(postgres_dsn) as bouncer:
        opener = partial(PostgresPersistenceProvider, bouncer.dsn, schema=SCHEMA, pgbouncer=True)
        opener().close()
        yield opener
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f'SET client_min_messages = warning; DROP SCHEMA "{SCHEMA}" CASCADE'.encode())


if EXPECTED:

    class TestThroughPgBouncer(PersistenceSuite):
        """All but what is named above."""

        TestModel = None
        TestCrashes = None
        TestFields = None
        TestArguments = None
        TestValues = None

        @pytest.fixture
        def store(self, postgres_dsn: str, opener: Open) -> Iterator[StoreUnderTest]:
            with psycopg.connect(postgres_dsn, autocommit=True) as connection:
                # The connections behind PgBouncer stay, so that it is looked whether they do something.
                busy = f"SELECT 1 FROM pg_stat_activity WHERE state <> 'idle' AND pid <> pg_backend_pid() AND query LIKE '%{SCHEMA}%'"
                wait_until(lambda: not connection.execute(busy.encode()).fetchone(), "the test before has ended")
                empty_tables(connection, SCHEMA)
            with StoreUnderTest(opener) as store:
                yield store

    class TestTheConnectionsBehindIt:
        """What the providers leave on the connections that all share."""

        @pytest.fixture
        def bouncer(self, postgres_dsn: str) -> Iterator[PgBouncer]:
            with PgBouncer(postgres_dsn, pool_size=1) as bouncer:
                yield bouncer

        @pytest.fixture
        def open_provider(self, bouncer: PgBouncer, postgres_schema: str) -> Iterator[Open]:
            opener = partial(PostgresPersistenceProvider, bouncer.dsn, schema=postgres_schema, pgbouncer=True)
            with StoreUnderTest(opener) as store:
                yield store.open

        def ask(self, bouncer: PgBouncer, query: str) -> list[tuple[Any, ...]]:
            """Ask the one connection that there is, by the way that the providers take."""
            with psycopg.connect(bouncer.dsn, autocommit=True, prepare_threshold=None) as connection:
                return connection.execute(query.encode()).fetchall()

        def test_nothing_is_prepared_set_or_listened_to(self, bouncer: PgBouncer, open_provider: Open) -> None:
            backend = self.ask(bouncer, "SELECT pg_backend_pid()")
            names = ("statement_timeout", "lock_timeout", "search_path", "default_transaction_isolation")
            settings = "SELECT " + ", ".join(f"current_setting('{name}')" for name in names)
            before = self.ask(bouncer, settings)
            clock = ManualClock()
            provider = open_provider(clock=clock)
            for label, call in {**WRITES, **LOOKS}.items():
                provider.truncate_all()
                world = build_world(provider, clock)
                call(provider, world)
                world.held.data = {"label": label}
                with provider.transaction() as tx:
                    tx.persist_workflow(world.held)
            assert self.ask(bouncer, "SELECT name, statement FROM pg_prepared_statements") == []
            assert self.ask(bouncer, "SELECT pg_listening_channels()") == []
            assert self.ask(bouncer, settings) == before
            assert self.ask(bouncer, "SELECT pg_backend_pid()") == backend

        def test_a_wake_up_by_the_servers_own_address(
            self, bouncer: PgBouncer, open_provider: Open, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
        ) -> None:
            monkeypatch.setattr(postgres, "_LOOK_AGAIN", 100 * PATIENCE)  # so that it is the notification that wakes up
            waiter, writer = open_provider(listen_dsn=postgres_dsn), open_provider()
            thread = Background(lambda: waiter.wait_for_work(100 * PATIENCE))
            wait_until(lambda: waiter._database.changes.count > 0, "the listener has connected")
            thread.wait_until_inside("wait")
            writer.create_new_workflow(a_workflow())
            assert thread.result() is True

        def test_many_more_clients_than_connections(self, open_provider: Open) -> None:
            providers = [open_provider() for _ in range(8)]
            for number, provider in enumerate(providers):
                provider.create_new_workflow(a_workflow(id=str(number), execution_pointers=pointers(2)))

            def work(provider: PostgresPersistenceProvider) -> list[int]:
                drawn = []
                for _ in range(5):
                    with provider.transaction() as tx:
                        drawn.append(tx.next_definition_sequence("order"))
                        (held,) = tx.claim_runnable_instances("worker", lease=600)
                        held.data["turns"] = held.data.get("turns", 0) + 1
                        tx.persist_workflow(held, release=True)
                return drawn

            drawn = values(race_threads([partial(work, provider) for provider in providers]))
            assert sorted(number for numbers in drawn for number in numbers) == list(range(1, 41))
            found = providers[0].get_workflow_instances(providers[0].get_runnable_instances(FAR))
            assert sum(instance.data["turns"] for instance in found if instance.data) == 40
else:

    def test_a_missing_one_is_said(postgres_dsn: str) -> None:
        with pytest.raises(StoreUnavailableError, match="PgBouncer: there is none on this machine"):
            PgBouncer(postgres_dsn)
