"""The proxy counts what a client waits for, and breaks a connection exactly where it is told to."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import psycopg
import pytest

from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.errors import InvalidValueError
from wfe_fast.testing.proxy import WireProxy
from wfe_fast.testing.waiting import Background, wait_until

Connection = psycopg.Connection[tuple[object, ...]]


@pytest.fixture
def table(postgres_dsn: str, postgres_schema: str) -> str:
    """A table `(a int PRIMARY KEY)`, by its full name."""
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {postgres_schema}")
        connection.execute(f"CREATE TABLE {postgres_schema}.t (a int PRIMARY KEY)")
    return f"{postgres_schema}.t"


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
def connection(proxy: WireProxy) -> Iterator[Connection]:
    """A connection through the proxy, in autocommit mode, with statements prepared at their first use."""
    with psycopg.connect(proxy.dsn, autocommit=True, prepare_threshold=0) as connection:
        yield connection


def stored(dsn: str, table: str) -> list[object]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute(f"SELECT a FROM {table} ORDER BY a")]


# Counting


def test_connecting_and_closing_are_no_round_trips(proxy: WireProxy) -> None:
    with proxy.counting() as count:
        with psycopg.connect(proxy.dsn, autocommit=True):
            wait_until(lambda: proxy.connections == 1, "the proxy has the connection")
        wait_until(lambda: proxy.connections == 0, "the connection has ended")
    assert (count.round_trips, proxy.round_trips) == (0, 0)
    assert [message.kind for message in count.messages] == ["Startup", "Terminate"]


def test_a_simple_query_is_one(proxy: WireProxy, connection: Connection) -> None:
    with proxy.counting() as count:
        connection.execute("SELECT 1", prepare=False)
    assert count.round_trips == 1, count


def test_a_simple_query_protocol_is_one(proxy: WireProxy, connection: Connection) -> None:
    with proxy.counting() as count:
        result = connection.pgconn.exec_(b"SELECT 1; SELECT 2; SELECT 3")
    assert result.get_value(0, 0) == b"3"
    assert count.round_trips == 1, count
    assert [str(message) for message in count.messages] == ["Query SELECT 1; SELECT 2; SELECT 3"]


def test_a_prepared_execution_is_one_after_the_first(proxy: WireProxy, connection: Connection) -> None:
    with proxy.counting() as first:
        connection.execute("SELECT %s::int", (1,))
    assert first.round_trips == 2, first
    with proxy.counting() as count:
        assert connection.execute("SELECT %s::int", (2,)).fetchone() == (2,)
    assert count.round_trips == 1, count
    assert [message.kind for message in count.messages] == ["Bind", "Describe", "Execute", "Sync"]
    assert {message.text for message in count.messages[:3]} == {"SELECT $1::int"}


def test_a_pipeline_is_one(proxy: WireProxy, connection: Connection, table: str) -> None:
    def five(first: int) -> None:
        with connection.pipeline():
            for value in range(first, first + 5):
                connection.execute(f"INSERT INTO {table} VALUES (%s)", (value,))

    for first in range(0, 500, 5):
        with proxy.counting() as count:
            five(first)
        assert count.round_trips == 1, count
        assert sum(message.kind == "Execute" for message in count.messages) == 5


def test_a_transaction_statement_by_statement_is_three(proxy: WireProxy, connection: Connection, table: str) -> None:
    with proxy.counting() as count, connection.transaction():
        connection.execute(f"INSERT INTO {table} VALUES (1)", prepare=False)
    assert count.round_trips == 3, count


def test_a_transaction_in_a_pipeline_is_one(proxy: WireProxy, connection: Connection, table: str) -> None:
    with proxy.counting() as count, connection.pipeline():
        connection.execute("BEGIN")
        connection.execute(f"INSERT INTO {table} VALUES (1)")
        connection.execute("COMMIT")
    assert count.round_trips == 1, count


def test_results_that_are_waited_for_within_a_pipeline_are_round_trips(
    proxy: WireProxy, connection: Connection
) -> None:
    with proxy.counting() as count, connection.pipeline():
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert connection.execute("SELECT 2").fetchone() == (2,)
        connection.execute("SELECT 3")
    assert count.round_trips == 3, count


def test_a_pipeline_with_large_results_is_one(proxy: WireProxy, connection: Connection) -> None:
    with proxy.counting() as count, connection.pipeline():
        cursors = [connection.execute("SELECT repeat('x', 1000) FROM generate_series(1, 2000)") for _ in range(5)]
    assert [len(cursor.fetchall()) for cursor in cursors] == [2000] * 5
    assert count.round_trips == 1, count


def test_a_pipeline_that_fails_is_one(proxy: WireProxy, connection: Connection) -> None:
    for _ in range(50):
        with proxy.counting() as count, pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
            connection.execute("SELECT 1 / 0")
            for _ in range(5):
                connection.execute("SELECT 1")
        assert count.round_trips == 1, count
        assert connection.execute("SELECT 4").fetchone() == (4,)


def test_a_pipeline_that_is_synchronized_and_not_waited_for_is_one(proxy: WireProxy, connection: Connection) -> None:
    pgconn = connection.pgconn

    def next_result() -> object:
        """As libpq's own call, which would keep the proxy's thread from running while it waits."""
        wait_until(lambda: pgconn.consume_input() or not pgconn.is_busy(), "a result is there")
        return pgconn.get_result()

    pgconn.enter_pipeline_mode()
    with proxy.counting() as count:
        for _ in range(20):
            pgconn.send_query_params(b"SELECT 1", None)
            pgconn.pipeline_sync()
        for _ in range(20):
            results = [next_result(), next_result(), next_result()]
            assert [result is None for result in results] == [False, True, False]
    pgconn.exit_pipeline_mode()
    assert count.round_trips == 1, count


def test_a_statement_that_fails_is_one(proxy: WireProxy, connection: Connection) -> None:
    for _ in range(3):
        with proxy.counting() as count, pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1 / 0", prepare=False)
        assert count.round_trips == 1, count


def test_copying_is_two_since_the_client_waits_for_the_word_go(
    proxy: WireProxy, connection: Connection, table: str
) -> None:
    with proxy.counting() as count, connection.cursor().copy(f"COPY {table} FROM STDIN") as copy:
        for value in range(1000):
            copy.write_row((value,))
    assert count.round_trips == 2, count
    with proxy.counting() as count, connection.cursor().copy(f"COPY {table} TO STDOUT") as copy:
        assert len(list(copy.rows())) == 1000
    assert count.round_trips == 1, count


def test_a_notification_is_none(proxy: WireProxy, connection: Connection, postgres_dsn: str) -> None:
    connection.execute("LISTEN wire_proxy")
    with proxy.counting() as count, psycopg.connect(postgres_dsn, autocommit=True) as other:
        other.execute("NOTIFY wire_proxy, 'it'")
        assert [notification.payload for notification in connection.notifies(stop_after=1)] == ["it"]
    assert count.round_trips == 0, count


def test_threads_are_counted_together(proxy: WireProxy) -> None:
    def ten() -> None:
        with psycopg.connect(proxy.dsn, autocommit=True) as own:
            for _ in range(10):
                own.execute("SELECT 1", prepare=False)

    with proxy.counting() as count:
        threads = [Background(ten) for _ in range(4)]
        for thread in threads:
            thread.result()
    assert count.round_trips == 40
    assert "40 round trips: " in repr(count)


def test_a_block_counts_its_own(proxy: WireProxy, connection: Connection) -> None:
    with proxy.counting() as outer:
        connection.execute("SELECT 1", prepare=False)
        with proxy.counting() as inner:
            connection.execute("SELECT 1", prepare=False)
    connection.execute("SELECT 1", prepare=False)
    assert (inner.round_trips, outer.round_trips, proxy.round_trips) == (1, 2, 3)


# Faults


def test_a_cut_before_a_message_keeps_it_from_the_server(
    proxy: WireProxy, connection: Connection, postgres_dsn: str, table: str
) -> None:
    statement = f"INSERT INTO {table} VALUES (%s)"
    connection.execute(statement, (1,))
    rule = proxy.cut_before("Execute", "INSERT", nth=2)
    connection.execute(statement, (2,))
    assert not rule.reached
    with pytest.raises(psycopg.OperationalError):
        connection.execute(statement, (3,))
    assert rule.reached
    assert stored(postgres_dsn, table) == [1, 2]


def test_a_cut_before_the_commit_rolls_back(
    proxy: WireProxy, connection: Connection, postgres_dsn: str, table: str
) -> None:
    proxy.cut_before(text="COMMIT")
    with pytest.raises(psycopg.OperationalError), connection.transaction():
        connection.execute(f"INSERT INTO {table} VALUES (1)")
    assert stored(postgres_dsn, table) == []


def test_a_cut_before_the_synchronisation_rolls_a_pipeline_back(
    proxy: WireProxy, connection: Connection, postgres_dsn: str, table: str
) -> None:
    proxy.cut_before("Sync")
    with pytest.raises(psycopg.OperationalError), connection.pipeline():
        for value in range(5):
            connection.execute(f"INSERT INTO {table} VALUES (%s)", (value,), prepare=False)
    wait_until(lambda: proxy.connections == 0, "the server has noticed")
    assert stored(postgres_dsn, table) == []


@pytest.mark.parametrize("text", ["INSERT", "COMMIT"])
def test_an_answer_is_lost_and_the_work_is_done(
    proxy: WireProxy, connection: Connection, postgres_dsn: str, table: str, text: str
) -> None:
    proxy.lose_answer("Execute", text)
    with pytest.raises(psycopg.OperationalError), connection.pipeline():
        connection.execute("BEGIN")
        connection.execute(f"INSERT INTO {table} VALUES (1)")
        connection.execute("COMMIT")
    assert stored(postgres_dsn, table) == [1]


def test_a_commit_is_lost_however_it_is_made(proxy: WireProxy, postgres_dsn: str, table: str) -> None:
    def alone(connection: Connection) -> None:
        connection.execute(f"INSERT INTO {table} VALUES (1)")

    def in_a_transaction(connection: Connection) -> None:
        with connection.transaction():
            connection.execute(f"INSERT INTO {table} VALUES (2)")

    def in_a_pipeline(connection: Connection) -> None:
        with connection.pipeline():
            connection.execute(f"INSERT INTO {table} VALUES (%s)", (3,))
            connection.execute(f"SELECT a FROM {table}")

    def as_a_simple_query(connection: Connection) -> None:
        result = connection.pgconn.exec_(f"BEGIN; INSERT INTO {table} VALUES (4); COMMIT".encode())
        raise psycopg.OperationalError(result.error_message)

    for write in (alone, in_a_transaction, in_a_pipeline, as_a_simple_query):
        with psycopg.connect(proxy.dsn, autocommit=True) as connection:
            proxy.lose_commit()
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() is not None
            with pytest.raises(psycopg.OperationalError, match="server closed the connection"):
                write(connection)
    assert stored(postgres_dsn, table) == [1, 2, 3, 4]


def test_what_is_rolled_back_is_no_commit(
    proxy: WireProxy, connection: Connection, postgres_dsn: str, table: str
) -> None:
    proxy.lose_commit(nth=2)
    insert = f"INSERT INTO {table} VALUES (1)"
    with connection.transaction(force_rollback=True):
        connection.execute(insert)
    with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
        connection.execute(insert)
        connection.execute("SELECT 1 / 0")
    connection.execute("BEGIN")
    with pytest.raises(psycopg.errors.DivisionByZero):
        connection.execute("SELECT 1 / 0")
    connection.execute("COMMIT")
    connection.execute(insert)
    with pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute(insert)
    with pytest.raises(psycopg.OperationalError):
        connection.execute(f"UPDATE {table} SET a = 2")
    assert stored(postgres_dsn, table) == [2]


def test_a_held_message_waits_and_others_pass(
    proxy: WireProxy, connection: Connection, postgres_dsn: str, table: str
) -> None:
    rule = proxy.hold(text="INSERT")
    insertion = Background(lambda: connection.execute(f"INSERT INTO {table} VALUES (1)"))
    rule.await_reached()
    with psycopg.connect(proxy.dsn) as other:
        assert other.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    assert not insertion.done
    rule.release()
    insertion.result()
    assert stored(postgres_dsn, table) == [1]


def test_a_delay_meets_every_message_that_fits(proxy: WireProxy, connection: Connection) -> None:
    rule = proxy.delay(60, text="SELECT 1")
    assert connection.execute("SELECT 2").fetchone() == (2,)
    delayed = Background(lambda: connection.execute("SELECT 1", prepare=False).fetchone())
    rule.await_reached()
    assert not delayed.done
    rule.release()
    assert delayed.result() == (1,)
    proxy.clear()
    proxy.delay(0.001)
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_new_connections_are_refused_and_the_others_stay(proxy: WireProxy, connection: Connection) -> None:
    with proxy.refusing():
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(proxy.dsn)
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with psycopg.connect(proxy.dsn) as other:
        assert other.execute("SELECT 1").fetchone() == (1,)


def test_all_connections_are_cut(proxy: WireProxy, connection: Connection) -> None:
    proxy.cut_all()
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    wait_until(lambda: proxy.connections == 0, "the connection has ended")
    with psycopg.connect(proxy.dsn) as other:
        assert other.execute("SELECT 1").fetchone() == (1,)


def test_forgotten_faults_do_not_happen(proxy: WireProxy, connection: Connection, table: str) -> None:
    proxy.cut_before("Sync")
    proxy.lose_answer("Sync")
    proxy.lose_commit()
    held = proxy.hold()
    proxy.clear()
    connection.execute(f"INSERT INTO {table} VALUES (1)")
    assert not held.reached


# The proxy itself


def test_a_server_by_tcp_with_a_password() -> None:
    with PostgresServer(tcp=True) as server, WireProxy(server.tcp_dsn) as proxy:
        with psycopg.connect(proxy.dsn) as connection, proxy.counting() as count:
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert count.round_trips == 2, count  # BEGIN and SELECT
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(proxy.dsn)
        server.start()
        with psycopg.connect(proxy.dsn) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_running_query_can_be_cancelled(proxy: WireProxy, connection: Connection) -> None:
    sleeping = Background(lambda: connection.execute("SELECT pg_sleep(600)"))
    with psycopg.connect(proxy.dsn, autocommit=True) as other:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = %s"
        pid = connection.info.backend_pid
        wait_until(lambda: other.execute(query, (pid,)).fetchone() == (1,), "the query runs")
    connection.cancel_safe()
    with pytest.raises(psycopg.errors.QueryCanceled):
        sleeping.result()


def test_encryption_is_refused_and_the_client_goes_on_without(proxy: WireProxy) -> None:
    with psycopg.connect(proxy.dsn, sslmode="prefer") as connection:
        assert not connection.pgconn.ssl_in_use
    with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
        psycopg.connect(proxy.dsn, sslmode="require")


def test_a_closed_proxy_has_no_connection_and_no_thread(postgres_dsn: str) -> None:
    proxy = WireProxy(postgres_dsn)
    with psycopg.connect(proxy.dsn) as connection:
        rule = proxy.hold(text="SELECT")
        held = Background(lambda: connection.execute("SELECT 1"))
        rule.await_reached()
        proxy.close()
        proxy.close()
        with pytest.raises(psycopg.OperationalError):
            held.result()
    assert proxy.connections == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port))


@pytest.mark.parametrize("dsn", ["postgresql://postgres@/postgres", "host=a,b", "nonsense", "port=1"])
def test_what_is_not_one_server_s_address_is_refused(dsn: str) -> None:
    with pytest.raises(InvalidValueError, match="dsn"):
        WireProxy(dsn)


def test_a_count_begins_at_one(proxy: WireProxy) -> None:
    for refuse in (proxy.cut_before, proxy.lose_answer, proxy.hold, proxy.lose_commit):
        with pytest.raises(InvalidValueError, match="nth"):
            refuse(nth=0)


def test_the_address_keeps_what_the_server_s_says(postgres_dsn: str) -> None:
    with WireProxy(f"{postgres_dsn}&application_name=a%26b&sslmode=prefer") as proxy:
        assert "sslmode" not in proxy.dsn
        with psycopg.connect(proxy.dsn) as connection:
            assert connection.execute("SHOW application_name").fetchone() == ("a&b",)
