"""The limits that the server is told, what their breach looks like, and whose clock counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from wfe_fast.clock import system_clock, to_millis
from wfe_fast.database import postgres_clock
from wfe_fast.errors import ConnectionLostError, InvalidValueError, StoreBusyError
from wfe_fast.host import StepContext, StepResult, WorkflowBuilder, WorkflowHost
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import ScheduledCommand, WorkflowInstance
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.persistence.factories import FAR, KEY, NAME, a_workflow, an_event, pointers, waiting_workflow
from wfe_fast.testing.waiting import PATIENCE, wait_until

Open = Callable[..., PostgresPersistenceProvider]
SETTINGS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "application_name")


@pytest.fixture
def open_provider(postgres_dsn: str, postgres_empty_schema: str) -> Iterator[Open]:
    opened: list[PostgresPersistenceProvider] = []

    def open_one(dsn: str = postgres_dsn, **options: Any) -> PostgresPersistenceProvider:
        opened.append(PostgresPersistenceProvider(dsn, schema=postgres_empty_schema, **options))
        return opened[-1]

    yield open_one
    for provider in opened:
        provider.close()


def shown(provider: PostgresPersistenceProvider) -> list[Any]:
    """The settings of one of the provider's connections."""
    session = provider._database.take()
    try:
        rows = [session.one(f"SHOW {name}") for name in SETTINGS]
    finally:
        provider._database.give_back(session)
    return [row[0] for row in rows if row is not None]


class TestWhatIsAskedFor:
    """The connections have the settings that the caller named."""

    def test_by_default(self, open_provider: Open) -> None:
        assert shown(open_provider()) == ["30s", "10s", "1min", "wfe-fast"]

    def test_others(self, open_provider: Open) -> None:
        provider = open_provider(
            statement_timeout=1.5,
            lock_timeout=timedelta(minutes=2),
            idle_in_transaction_timeout=0,
            application_name="it's \\ orders",
        )
        assert shown(provider) == ["1500ms", "2min", "0", "it's \\ orders"]

    def test_the_shortest_and_the_longest(self, open_provider: Open) -> None:
        provider = open_provider(
            statement_timeout=1e9, lock_timeout=1e-9, idle_in_transaction_timeout=timedelta(days=99_999)
        )
        longest = f"{2**31 - 1}ms"
        assert shown(provider)[:3] == [longest, "1ms", longest]

    def test_those_of_the_address_come_first(self, open_provider: Open, postgres_dsn: str) -> None:
        dsn = psycopg.conninfo.make_conninfo(
            postgres_dsn, application_name="theirs", options="-c lock_timeout=77ms -c work_mem=5MB"
        )
        provider = open_provider(dsn)
        assert shown(provider) == ["30s", "77ms", "1min", "theirs"]

    @pytest.mark.parametrize("name", ["statement_timeout", "lock_timeout", "idle_in_transaction_timeout", "timeout"])
    @pytest.mark.parametrize("bad", [-1, float("nan"), float("inf"), "30s", None, True])
    def test_what_is_no_duration_is_refused(self, open_provider: Open, name: str, bad: Any) -> None:
        with pytest.raises(InvalidValueError, match=name):
            open_provider(**{name: bad})

    @pytest.mark.parametrize("bad", [None, 5, "a\0b"])
    def test_what_is_no_name_is_refused(self, open_provider: Open, bad: Any) -> None:
        with pytest.raises(InvalidValueError, match="application_name"):
            open_provider(application_name=bad)


@contextmanager
def row_locked(dsn: str, schema: str) -> Iterator[None]:
    """Somebody else is about to write the workflow `w`."""
    with psycopg.connect(dsn) as connection:
        connection.execute(f"SELECT 1 FROM \"{schema}\".workflows WHERE id = 'w' FOR UPDATE".encode())
        yield
        connection.rollback()


def persist_alone(provider: PersistenceProvider, instance: WorkflowInstance) -> None:
    provider.persist_workflow(instance)


def persist_in_block(provider: PersistenceProvider, instance: WorkflowInstance) -> None:
    with provider.transaction() as tx:
        tx.create_new_workflow(a_workflow(id="beside"))
        assert tx.get_workflow_instance("beside").id == "beside"
        tx.persist_workflow(instance)


class TestBreaches:
    """Whoever meets a limit gets an error of ours, nothing of it is stored, and the store works on."""

    @pytest.mark.parametrize("persist", [persist_alone, persist_in_block])
    @pytest.mark.parametrize("limit", ["statement_timeout", "lock_timeout"])
    def test_a_lock_that_is_not_to_be_had(
        self,
        open_provider: Open,
        postgres_dsn: str,
        postgres_empty_schema: str,
        persist: Callable[[PersistenceProvider, WorkflowInstance], None],
        limit: str,
    ) -> None:
        limits = {"statement_timeout": 0, "lock_timeout": 0, limit: 0.1}
        provider = open_provider(max_connections=1, **limits)
        instance = a_workflow(id="w", execution_pointers=pointers(2))
        provider.create_new_workflow(instance)
        before = provider.get_workflow_instance("w")
        instance.data = {"changed": True}
        instance.execution_pointers.pop()
        with row_locked(postgres_dsn, postgres_empty_schema), pytest.raises(StoreBusyError, match=limit):
            persist(provider, instance)
        assert provider.get_workflow_instances(["w", "beside"]) == [before]
        persist(provider, instance)
        assert provider.get_workflow_instance("w") == instance

    def test_a_block_in_which_nothing_happens(self, open_provider: Open, postgres_dsn: str) -> None:
        provider = open_provider(max_connections=1, idle_in_transaction_timeout=0.1, application_name="idle block")
        provider.create_new_workflow(a_workflow(id="w"))
        there = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'idle block' AND state = 'idle in transaction'"
        for more in (True, False):
            with (
                psycopg.connect(postgres_dsn, autocommit=True) as watcher,
                pytest.raises(ConnectionLostError, match="idle-in-transaction timeout"),
                provider.transaction() as tx,
            ):
                tx.create_new_workflow(a_workflow(id="lost"))
                assert tx.get_workflow_instance("w").id == "w"
                wait_until(lambda: not watcher.execute(there).fetchone(), "the server has ended the connection")
                if more:
                    tx.get_workflow_instance("w")
                tx.create_new_workflow(a_workflow(id="lost, too"))
            assert provider.get_workflow_instances(["lost", "lost, too"]) == []
            provider.next_definition_sequence("order")


#: How wrong the client's clock is.
WRONG = [timedelta(hours=1), timedelta(hours=-1)]


@pytest.mark.parametrize("wrong", WRONG, ids=["ahead", "behind"])
class TestAWrongClock:
    """Where the client's clock is an hour wrong it is the server's by which leases and due times go."""

    @pytest.fixture
    def misled(self, open_provider: Open, monkeypatch: pytest.MonkeyPatch, wrong: timedelta) -> PersistenceProvider:
        """A provider on a machine whose clock is wrong."""
        monkeypatch.setattr(postgres_clock, "system_clock", lambda: system_clock() + wrong)
        return open_provider()

    @pytest.fixture
    def other(
        self, open_provider: Open, misled: PersistenceProvider, monkeypatch: pytest.MonkeyPatch
    ) -> PersistenceProvider:
        """A provider on another machine, whose clock is right."""
        monkeypatch.setattr(postgres_clock, "system_clock", system_clock)
        return open_provider()

    def test_its_clock_is_the_servers(self, misled: PersistenceProvider) -> None:
        assert abs(misled.clock() - system_clock()) < timedelta(minutes=1)

    def test_leases(self, misled: PersistenceProvider, other: PersistenceProvider) -> None:
        for holder, next_one in ((misled, other), (other, misled)):
            instance = a_workflow(next_execution=0)
            holder.create_new_workflow(instance)
            (held,) = holder.claim_runnable_instances("holder", lease=600)
            assert next_one.claim_runnable_instances("next") == []
            assert holder.renew_claims([held], 0.05) == []
            take_over = partial(next_one.claim_runnable_instances, "next", lease=600)
            wait_until(take_over, "the lease ends")
            assert holder.renew_claims([held], 600) == [held]

    def test_what_is_due(self, misled: PersistenceProvider, other: PersistenceProvider) -> None:
        now = other.clock()
        due = a_workflow(id="due", next_execution=to_millis(now - timedelta(minutes=1)))
        later = a_workflow(id="later", next_execution=to_millis(now + timedelta(minutes=10)))
        for instance in (due, later):
            other.create_new_workflow(instance)
        assert [one.id for one in misled.claim_runnable_instances("worker", 10)] == ["due"]
        assert misled.wait_for_work(0) is False

    def test_events(self, misled: PersistenceProvider, other: PersistenceProvider) -> None:
        now = other.clock()
        instance, _ = waiting_workflow(other)
        misled.create_event(an_event(id="later", event_time=now + timedelta(minutes=10)))
        assert misled.dispatch_events() == 0
        misled.create_event(an_event(id="due", event_time=now - timedelta(minutes=1)))
        assert misled.dispatch_events() > 0
        assert other.get_workflow_instance(instance.id).execution_pointers[0].event_published
        assert [one.id for one in other.claim_runnable_instances("worker", 10)] == [instance.id]

    def test_activities_and_commands(self, misled: PersistenceProvider, other: PersistenceProvider) -> None:
        waiting_workflow(other)
        taken = misled.claim_subscription(NAME, KEY, "worker", 600)
        assert taken is not None
        assert other.claim_subscription(NAME, KEY, "next", 600) is None
        assert misled.renew_subscription(taken.id, taken.external_token or "", 0.05)
        wait_until(lambda: other.claim_subscription(NAME, KEY, "next", 600), "the token expires")
        other.schedule_command(ScheduledCommand.process_workflow("w", 0))
        # While it is handled nobody else takes it, by whatever clock.
        handled = misled.process_commands(
            FAR, lambda _: None if not other.process_commands(FAR, lambda _: None) else 1 / 0
        )
        assert handled == 1

    def test_a_host(self, misled: PersistenceProvider) -> None:
        ended: list[datetime] = []

        def nap(data: Any, ctx: StepContext) -> StepResult | None:
            ended.append(system_clock())
            return None if ctx.saved else StepResult.sleep(0.2, True)

        workflow = WorkflowBuilder("clock")
        workflow.then(nap)
        workflow.wait_for("event", "k", into="got")
        workflow.delay(0.01)
        with WorkflowHost(misled, [workflow], lease=5) as host:
            host.publish("event", "k", "early", at=misled.clock() - timedelta(minutes=10))
            id = host.start("clock")
            host.publish("event", "k", "there")
            assert host.result(id, timeout=PATIENCE) == {"got": "there"}
        assert ended[1] - ended[0] >= timedelta(seconds=0.2)
