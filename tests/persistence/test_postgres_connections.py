"""Connections to PostgreSQL that break, are borrowed, or are copied by a fork."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.rows import dict_row

from wfe_fast.database.postgres_server import NOT_DURABLE, PostgresServer
from wfe_fast.errors import InvalidStateError, StoreUnavailableError
from wfe_fast.postgres import PostgresPersistenceProvider, schema_script
from wfe_fast.testing.persistence.factories import a_workflow, pointers
from wfe_fast.testing.proxy import WireProxy
from wfe_fast.testing.racing import race_threads, values
from wfe_fast.testing.waiting import Background, wait_until


def in_child(call: Callable[[], None]) -> int:
    """Run `call` in a forked child and return its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def execute(dsn: str, statement: str, *params: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, params or None)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
def provider(proxy: WireProxy, postgres_schema: str) -> Iterator[PostgresPersistenceProvider]:
    with PostgresPersistenceProvider(proxy.dsn, schema=postgres_schema) as provider:
        yield provider


def test_a_read_whose_answer_was_lost_is_done_again(provider: PostgresPersistenceProvider, proxy: WireProxy) -> None:
    provider.create_new_workflow(a_workflow(id="w"))
    provider.get_workflow_instance("w")
    rule = proxy.lose_answer("Execute")
    assert provider.get_workflow_instance("w").id == "w"
    assert rule.reached


def test_a_killed_backend_is_not_noticed(
    provider: PostgresPersistenceProvider, postgres_dsn: str, postgres_schema: str
) -> None:
    provider.create_new_workflow(a_workflow(id="w"))
    pids = execute(postgres_dsn, "SELECT pid FROM pg_stat_activity WHERE application_name = 'wfe-fast'")
    assert pids
    for (pid,) in pids:
        execute(postgres_dsn, "SELECT pg_terminate_backend(%s, 10000)", pid)
    wait_until(lambda: provider.get_workflow_instance("w").id == "w", "a read succeeds")
    provider.create_new_workflow(a_workflow(id="after"))


@pytest.mark.parametrize("block", [False, True], ids=["alone", "block"])
def test_a_restart_with_many_open_connections(block: bool) -> None:
    with PostgresServer(settings=NOT_DURABLE) as server, PostgresPersistenceProvider(server.dsn) as provider:
        provider.create_new_workflow(a_workflow(id="w"))

        def use() -> str:
            with provider.transaction() as tx:
                tx.get_workflow_instances(["nothing"])
                wait_until(lambda: len(provider._database._blocks) == 10, "all threads have a block")
                held.append(1)
                wait_until(lambda: len(held) == 10, "all threads had a connection")
            return "done"

        held: list[int] = []
        assert values(race_threads([use] * 10)) == ["done"] * 10
        server.restart()
        if block:
            with provider.transaction() as tx:
                tx.create_new_workflow(a_workflow(id="after"))
        else:
            provider.create_new_workflow(a_workflow(id="after"))
        assert provider.get_workflow_instance("w").id == "w"
        assert provider.get_workflow_instance("after").id == "after"


def test_a_call_waits_for_a_server_that_is_away() -> None:
    with PostgresServer(settings=NOT_DURABLE) as server, PostgresPersistenceProvider(server.dsn) as provider:
        provider.create_new_workflow(a_workflow(id="w"))
        server.stop("immediate")
        call = Background(lambda: provider.get_workflow_instance("w")).wait_until_inside("getconn")
        server.start()
        assert call.result().id == "w"


def test_a_server_that_stays_away_is_told_of_with_the_reason() -> None:
    with (
        PostgresServer(settings=NOT_DURABLE) as server,
        PostgresPersistenceProvider(server.dsn, timeout=1) as provider,
    ):
        provider.create_new_workflow(a_workflow(id="w"))
        server.stop("immediate")
        with pytest.raises(StoreUnavailableError, match=r"no connection within 1 s: connection .* failed: .*"):
            provider.get_workflow_instance("w")
        with (
            pytest.raises(StoreUnavailableError, match=r"no connection within 1 s: connection .* failed: .*"),
            provider.transaction() as tx,
        ):
            tx.get_workflow_instance("w")
        server.start()
        assert provider.get_workflow_instance("w").id == "w"


def test_a_server_that_takes_no_more_connections_says_so(postgres_dsn: str, postgres_schema: str) -> None:
    role = f"{postgres_schema}_role"
    execute(postgres_dsn, f'CREATE ROLE "{role}" LOGIN')
    execute(postgres_dsn, schema_script(postgres_schema, grant_to=role))
    try:
        dsn = psycopg.conninfo.make_conninfo(postgres_dsn, user=role)
        with PostgresPersistenceProvider(dsn, schema=postgres_schema, timeout=1) as provider, psycopg.connect(dsn):
            execute(postgres_dsn, f'ALTER ROLE "{role}" CONNECTION LIMIT 1')
            execute(
                postgres_dsn,
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = %s AND application_name = 'wfe-fast'",
                role,
            )
            with pytest.raises(StoreUnavailableError, match="too many connections for role"):
                provider.count_workflows()
    finally:
        execute(postgres_dsn, f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def test_a_pool_that_is_used_up_says_so(postgres_dsn: str, postgres_schema: str) -> None:
    with PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema, timeout=0.2, max_connections=1) as provider:
        with provider.transaction() as tx:
            tx.count_workflows()
            with pytest.raises(StoreUnavailableError, match=r"no connection within 0\.2 s: all 1 are in use"):
                Background(provider.count_workflows).result()
        assert sum(provider.count_workflows().values()) == 0


def test_connections_that_are_gone_are_forgotten(provider: PostgresPersistenceProvider, proxy: WireProxy) -> None:
    for number in range(5):
        provider.create_new_workflow(a_workflow(id=str(number)))
        proxy.cut_all()
        wait_until(lambda: proxy.connections <= 1, "the connections are cut")
        provider.get_workflow_instance(str(number))
    assert len(provider._database._sessions) <= provider._database._max_connections


class TestBorrowedPool:
    """The caller's own pool."""

    @pytest.fixture
    def pool(self, postgres_dsn: str) -> Iterator[psycopg_pool.ConnectionPool[Any]]:
        def configure(connection: psycopg.Connection[Any]) -> None:
            connection.execute("SET search_path = information_schema")
            connection.execute("SET application_name = 'theirs'")
            connection.execute("SET default_transaction_isolation = 'serializable'")
            connection.commit()

        kwargs = {"row_factory": dict_row}
        with psycopg_pool.ConnectionPool(
            postgres_dsn, min_size=1, max_size=1, kwargs=kwargs, configure=configure, open=True
        ) as pool:
            yield pool

    def test_its_connections_come_back_as_they_were(
        self, pool: psycopg_pool.ConnectionPool[Any], postgres_schema: str
    ) -> None:
        def looks() -> tuple[Any, ...]:
            with pool.connection() as connection:
                names = ("search_path", "application_name", "default_transaction_isolation", "statement_timeout")
                settings = [connection.execute(f"SHOW {name}").fetchone() for name in names]
                return (connection.autocommit, connection.row_factory, settings)

        before = looks()
        with PostgresPersistenceProvider(pool=pool, schema=postgres_schema) as provider:
            provider.create_new_workflow(a_workflow(id="w"))
            with provider.transaction() as tx:
                tx.create_new_workflow(a_workflow(id="v"))
            with pytest.raises(ZeroDivisionError), provider.transaction() as tx:
                tx.get_workflow_instance("w")
                raise ZeroDivisionError
            assert looks() == before
        assert not pool.closed
        assert looks() == before

    def test_two_stores_on_one_pool(self, pool: psycopg_pool.ConnectionPool[Any], postgres_schema: str) -> None:
        with (
            PostgresPersistenceProvider(pool=pool, schema=postgres_schema) as one,
            PostgresPersistenceProvider(pool=pool, schema=postgres_schema) as two,
        ):
            for number, provider in enumerate((one, two, one, two)):
                provider.create_new_workflow(a_workflow(id=str(number)))
                assert provider.get_workflow_instance(str(number)).id == str(number)

    def test_statements_that_the_application_has_dropped_are_prepared_again(
        self, pool: psycopg_pool.ConnectionPool[Any], postgres_schema: str
    ) -> None:
        with PostgresPersistenceProvider(pool=pool, schema=postgres_schema) as provider:
            for number in range(3):
                provider.create_new_workflow(a_workflow(id=str(number)))
                with pool.connection() as connection:
                    connection.execute("DEALLOCATE ALL")
                with provider.transaction() as tx:
                    tx.create_new_workflow(a_workflow(id=f"in block {number}"))
                with pool.connection() as connection:
                    connection.execute("DEALLOCATE ALL")
            assert sum(provider.count_workflows().values()) == 6


class TestForks:
    """A child never touches its parent's connections."""

    def test_a_child_opens_its_own(self, provider: PostgresPersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="parent"))

        def child() -> None:
            provider.create_new_workflow(a_workflow(id="child"))
            assert provider.get_workflow_instance("parent").id == "parent"

        assert in_child(child) == 0
        assert {one.id for one in provider.get_workflow_instances(["parent", "child"])} == {"parent", "child"}

    def test_a_child_inside_a_block_is_refused(self, provider: PostgresPersistenceProvider) -> None:
        with provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="sent"))
            assert tx.get_workflow_instance("sent").id == "sent"
            tx.create_new_workflow(a_workflow(id="gathered"))

            def child() -> None:
                with pytest.raises(InvalidStateError):
                    tx.get_workflow_instance("sent")
                with pytest.raises(InvalidStateError):
                    tx._block.commit()
                tx._block.end()

            assert in_child(child) == 0
            assert tx.get_workflow_instance("gathered").id == "gathered"
        assert len(provider.get_workflow_instances(["sent", "gathered"])) == 2


def test_settings_of_the_database_do_no_harm(postgres_dsn: str, postgres_schema: str) -> None:
    options = "-c default_transaction_isolation=serializable"
    dsn = psycopg.conninfo.make_conninfo(postgres_dsn, options=options)
    with PostgresPersistenceProvider(dsn, schema=postgres_schema) as provider:
        assert provider._database._isolate
        instance = a_workflow(id="w", execution_pointers=pointers(2))
        provider.create_new_workflow(instance)
        with pytest.raises(Exception, match="exists already"):
            provider.create_new_workflow(a_workflow(id="w"))
        numbers = values(race_threads([lambda: provider.next_definition_sequence("order")] * 8))
        assert sorted(numbers) == list(range(1, 9))
        with provider.transaction() as tx:
            tx.persist_workflow(instance)
        assert provider.get_workflow_instance("w") == instance
    with PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema) as provider:
        assert not provider._database._isolate
