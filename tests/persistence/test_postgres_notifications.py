"""How whoever waits learns of a commit on PostgreSQL: by one notification for each transaction, in every process, also after the connection
that listens was lost."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from functools import partial

import psycopg
import pytest

from wfe_fast.database import postgres
from wfe_fast.database.notifications import Notifications
from wfe_fast.database.postgres_names import Names
from wfe_fast.database.postgres_server import NOT_DURABLE, PostgresServer
from wfe_fast.persistence.models import ScheduledCommand, WorkflowStatus
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.killing import Victim
from wfe_fast.testing.persistence import jobs
from wfe_fast.testing.persistence.factories import FAR, a_subscription, a_workflow, an_error, an_event, waiting_workflow
from wfe_fast.testing.persistence.writes import WRITES, build_world
from wfe_fast.testing.proxy import WireProxy
from wfe_fast.testing.waiting import PATIENCE, Background, wait_until

#: Those of the writes behind which something may be due that was not, or a workflow has another status, or is gone.
WAKING = {
    "create_new_workflow",
    "persist_workflow release",
    "change_status",
    "delete_workflow",
    "purge_workflows",
    "release_claim",
    "create_event",
    "mark_event_unprocessed",
    "publish_event",
    "publish_event limit",
    "dispatch_events",
    "complete_subscription",
    "schedule_command",
}
#: A wait that ends before was woken; nobody looks by himself so early.
LONG = 100 * PATIENCE


class Listener:
    """A plain connection that listens to what a store tells."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._channel = Names(schema).channel
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._connection.execute(f'LISTEN "{self._channel}"')

    def count(self) -> int:
        """How many notifications there were since the last look."""
        # They come in the order of the commits, so that this one is the last.
        self._connection.execute("SELECT pg_notify(%s, 'last')", [self._channel])
        for told, notification in enumerate(self._connection.notifies(timeout=PATIENCE)):
            if notification.payload == "last":
                return told
        raise AssertionError("the notification did not come")

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def open_provider(
    postgres_dsn: str, postgres_empty_schema: str
) -> Iterator[Callable[..., PostgresPersistenceProvider]]:
    opened: list[PostgresPersistenceProvider] = []

    def open_one(dsn: str = postgres_dsn, **options: object) -> PostgresPersistenceProvider:
        opened.append(PostgresPersistenceProvider(dsn, schema=postgres_empty_schema, **options))
        return opened[-1]

    yield open_one
    for provider in opened:
        provider.close()


@pytest.fixture
def listener(
    postgres_dsn: str, postgres_empty_schema: str, open_provider: Callable[..., PostgresPersistenceProvider]
) -> Iterator[Listener]:
    listener = Listener(postgres_dsn, postgres_empty_schema)
    yield listener
    listener.close()


@pytest.fixture
def nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiters of this process do not look by themselves: what wakes them up is a notification, or a new connection of the listener."""
    monkeypatch.setattr(postgres, "_LOOK_AGAIN", LONG)


class TestHowMany:
    """One for each transaction at most."""

    def test_every_write_is_in_the_table(self) -> None:
        assert set(WRITES) > WAKING

    @pytest.mark.parametrize("label", WRITES)
    def test_a_method(
        self, open_provider: Callable[..., PostgresPersistenceProvider], listener: Listener, label: str
    ) -> None:
        clock = ManualClock()
        provider = open_provider(clock=clock)
        world = build_world(provider, clock)
        listener.count()
        WRITES[label](provider, world)
        assert listener.count() == (label in WAKING)

    def test_a_block_of_many_writes(
        self, open_provider: Callable[..., PostgresPersistenceProvider], listener: Listener
    ) -> None:
        provider = open_provider()
        with provider.transaction() as tx:
            for number in range(20):
                instance = a_workflow(id=str(number))
                tx.create_new_workflow(instance)
                waiting_workflow(tx)
                tx.schedule_command(ScheduledCommand.process_workflow(instance.id, number))
                tx.publish_event(an_event())
                assert tx.change_status(instance.id, WorkflowStatus.SUSPENDED)
                assert listener.count() == 0
        assert listener.count() == 1

    def test_a_block_that_wakes_nobody(
        self, open_provider: Callable[..., PostgresPersistenceProvider], listener: Listener
    ) -> None:
        provider = open_provider()
        with provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="w", next_execution=None))
            tx.create_new_workflow(a_workflow(status=WorkflowStatus.SUSPENDED))
            tx.create_event_subscription(a_subscription())
            tx.persist_errors([an_error("w")])
            assert tx.next_definition_sequence("order") == 1
        assert listener.count() == 0

    def test_a_block_that_is_rolled_back(
        self, open_provider: Callable[..., PostgresPersistenceProvider], listener: Listener
    ) -> None:
        provider = open_provider()
        with pytest.raises(ZeroDivisionError), provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="w"))
            assert tx.get_workflow_instance("w").id == "w"
            raise ZeroDivisionError
        assert listener.count() == 0

    def test_a_publication_to_many(
        self, open_provider: Callable[..., PostgresPersistenceProvider], listener: Listener
    ) -> None:
        provider = open_provider()
        waiting = [waiting_workflow(provider)[0].id for _ in range(30)]
        listener.count()
        provider.publish_event(an_event())
        assert listener.count() == 1
        assert provider.get_runnable_instances(FAR) == waiting

    def test_handled_commands(
        self, open_provider: Callable[..., PostgresPersistenceProvider], listener: Listener
    ) -> None:
        provider = open_provider()
        for number in range(3):
            provider.schedule_command(ScheduledCommand.process_workflow(str(number), number))
        assert listener.count() == 3
        assert provider.process_commands(FAR, lambda _: None) == 3
        assert listener.count() == 0


LISTENING = "SELECT pid FROM pg_stat_activity WHERE query = %s AND state = 'idle'"


def listening_pids(dsn: str, schema: str) -> set[int]:
    """The server's processes behind the connections by which providers listen."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        rows = connection.execute(LISTENING, [f'LISTEN "{Names(schema).channel}"'])
        return {row[0] for row in rows}


class Waiting:
    """A thread that waits in a provider for a workflow, which listens by now."""

    def __init__(self, provider: PostgresPersistenceProvider) -> None:
        self._provider = provider
        self.thread = Background(lambda: provider.wait_for_work(LONG))
        self.await_listening(0)

    @property
    def seen(self) -> int:
        """How often the provider took note of changes, or of the chance that it had missed some."""
        return self._provider._database.changes.count

    def await_listening(self, seen: int) -> None:
        """Return when the listener has connected since `seen`, and the thread waits again."""
        wait_until(lambda: self.seen > seen, "the listener has connected")
        self.thread.wait_until_inside("wait")
        assert not self.thread.done


@pytest.mark.usefixtures("nobody_looks")
class TestAListenerThatIsLost:
    """It comes back, and then it is again a notification that wakes waiters up."""

    def test_another_process_wakes_a_waiter(
        self, postgres_dsn: str, postgres_empty_schema: str, open_provider: Callable[..., PostgresPersistenceProvider]
    ) -> None:
        waiting = Waiting(open_provider())
        writer = Victim(
            partial(PostgresPersistenceProvider, postgres_dsn, schema=postgres_empty_schema), jobs.create_one
        )
        assert waiting.thread.result() is True
        writer.await_death()

    def test_its_connection_is_terminated(
        self, postgres_dsn: str, postgres_schema: str, open_provider: Callable[..., PostgresPersistenceProvider]
    ) -> None:
        with (
            PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema) as waiter,
            PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema) as writer,
        ):
            waiting = Waiting(waiter)
            for _ in range(2):
                (pid,) = listening_pids(postgres_dsn, postgres_schema)
                seen = waiting.seen
                with psycopg.connect(postgres_dsn) as connection:
                    connection.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
                waiting.await_listening(seen)
                assert listening_pids(postgres_dsn, postgres_schema) != {pid}
            writer.create_new_workflow(a_workflow())
            assert waiting.thread.result() is True

    def test_the_server_is_restarted(self) -> None:
        with (
            PostgresServer(settings=NOT_DURABLE) as server,
            PostgresPersistenceProvider(server.dsn) as waiter,
            PostgresPersistenceProvider(server.dsn) as writer,
        ):
            waiting = Waiting(waiter)
            seen = waiting.seen
            server.restart()
            waiting.await_listening(seen)
            writer.create_new_workflow(a_workflow())
            assert waiting.thread.result() is True

    def test_what_came_meanwhile_is_seen_when_it_is_back(
        self, postgres_dsn: str, open_provider: Callable[..., PostgresPersistenceProvider]
    ) -> None:
        with WireProxy(postgres_dsn) as proxy:
            waiting = Waiting(open_provider(proxy.dsn))
            with proxy.refusing():
                proxy.cut_all()
                wait_until(lambda: proxy.connections == 0, "the connections are cut")
                open_provider().create_new_workflow(a_workflow())
                assert not waiting.thread.done
            assert waiting.thread.result() is True


class TestClose:
    """The end does not wait for a server that does not answer."""

    def test_while_it_connects(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            dsn = f"postgresql://127.0.0.1:{port}/nowhere?connect_timeout={int(LONG)}"
            notifications = Notifications(dsn, "changes", lambda: None)
            connection, _ = silent.accept()
            Background(notifications.close).result()
        connection.close()  # so the attempt ends, and the thread with it
        wait_until(lambda: not notifications._thread.is_alive(), "the thread ends")
        notifications.close()

    def test_a_provider_whose_server_does_not_answer_any_more(
        self, postgres_dsn: str, open_provider: Callable[..., PostgresPersistenceProvider]
    ) -> None:
        with WireProxy(postgres_dsn) as proxy:
            dsn = psycopg.conninfo.make_conninfo(proxy.dsn, connect_timeout=int(LONG))
            provider = open_provider(dsn)
            waiting = Waiting(provider)
            held = proxy.hold("Startup")
            proxy.cut_all()
            held.await_reached()
            Background(provider.close).result()
            with pytest.raises(Exception, match="closed"):
                waiting.thread.result()

    def test_while_it_listens(
        self, postgres_dsn: str, open_provider: Callable[..., PostgresPersistenceProvider]
    ) -> None:
        provider = open_provider()
        waiting = Waiting(provider)
        listens = provider._database._notifications
        assert listens is not None
        provider.close()
        assert not listens._thread.is_alive()
        with pytest.raises(Exception, match="closed"):
            waiting.thread.result()
