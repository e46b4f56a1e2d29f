"""How often each method waits for the database: once. Counted at the wire, between the provider and the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest

from tests.persistence.reads import LOOKS
from wfe_fast.errors import InvalidValueError, WorkflowNotFoundError
from wfe_fast.persistence.contract import PersistenceProvider, PersistenceTransaction
from wfe_fast.persistence.models import ScheduledCommand, WorkflowStatus
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.persistence.factories import (
    FAR,
    KEY,
    NAME,
    a_pointer,
    a_subscription,
    a_workflow,
    an_error,
    an_event,
    pointers,
    waiting_workflow,
)
from wfe_fast.testing.persistence.writes import READS, WRITES, World, build_world, methods_of
from wfe_fast.testing.proxy import WireProxy

#: A method that knows the answer itself.
SILENT = {"supports_scheduled_commands"}
#: What a provider has besides the methods of a transaction. Each of them that talks to the database has a test of its own below.
OUTSIDE = {
    "transaction",
    "process_commands",
    "next_due",
    "wait_for_work",
    "wait_for_status",
    "interrupt_waits",
    "ensure_store_exists",
    "close",
}
#: Writes whose caller needs no answer: inside a block they wait for the next call that needs one, or for its end.
GATHERED = {
    "create_new_workflow",
    "persist_workflow",
    "persist_workflow_with_subscriptions",
    "release_claim",
    "create_event",
    "publish_event",
    "create_event_subscription",
    "schedule_command",
    "persist_errors",
}


class _PlannedError(Exception):
    pass


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def open_provider(
    proxy: WireProxy, postgres_empty_schema: str, clock: ManualClock
) -> Iterator[Callable[[], PostgresPersistenceProvider]]:
    """Opens a provider with one connection, whose way leads through the proxy."""
    opened: list[PostgresPersistenceProvider] = []

    def open_one() -> PostgresPersistenceProvider:
        provider = PostgresPersistenceProvider(proxy.dsn, schema=postgres_empty_schema, clock=clock, max_connections=1)
        opened.append(provider)
        provider.count_workflows()  # connects
        return provider

    yield open_one
    for provider in opened:
        provider.close()


@pytest.fixture
def world(open_provider: Callable[[], PostgresPersistenceProvider], clock: ManualClock) -> World:
    return build_world(open_provider(), clock)


@pytest.fixture
def provider(open_provider: Callable[[], PostgresPersistenceProvider], world: World) -> PostgresPersistenceProvider:
    """A provider that has executed next to nothing so far."""
    return open_provider()


def method_of(label: str) -> str:
    return label.split()[0]


def test_no_method_is_forgotten() -> None:
    inside = methods_of(PersistenceTransaction)
    assert {*map(method_of, WRITES), *map(method_of, LOOKS)} | SILENT == inside
    assert {method_of(label) for label in LOOKS} | SILENT == READS
    assert methods_of(PersistenceProvider) == inside | OUTSIDE
    assert {method_of(label) for label in WRITES} >= GATHERED


@pytest.mark.parametrize("label", [*WRITES, *LOOKS])
def test_a_method_is_one_round_trip_also_at_its_first_use(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World, label: str
) -> None:
    """A statement is prepared in the round trip of its first use."""
    with proxy.counting() as count:
        {**WRITES, **LOOKS}[label](provider, world)
    assert count.round_trips == 1, count.messages


@pytest.mark.parametrize("label", [*WRITES, *LOOKS])
def test_a_method_is_one_round_trip_once_it_is_prepared(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World, label: str
) -> None:
    call = {**WRITES, **LOOKS}[label]
    with pytest.raises(_PlannedError), provider.transaction() as tx:
        call(tx, world)
        tx.count_workflows()  # sends it
        raise _PlannedError
    provider.get_workflow_instance("stored")  # in a block it is another statement
    with proxy.counting() as count:
        call(provider, world)
    assert count.round_trips == 1, count.messages


@pytest.mark.parametrize("label", WRITES)
def test_a_block_is_one_round_trip_and_one_more_for_an_answer(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World, label: str
) -> None:
    with proxy.counting() as count, provider.transaction() as tx:
        WRITES[label](tx, world)
    assert count.round_trips == (1 if method_of(label) in GATHERED else 2), count.messages


@pytest.mark.parametrize("label", LOOKS)
def test_a_block_of_one_read_is_two_round_trips(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World, label: str
) -> None:
    with proxy.counting() as count, provider.transaction() as tx:
        LOOKS[label](tx, world)
    assert count.round_trips == 2, count.messages


def test_a_block_of_all_writes_together_is_one_round_trip(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World
) -> None:
    hints = {"workflows": ["stored", "held"], "publishes": [(NAME, KEY)], "awaits": [(NAME, "stored")]}
    with proxy.counting() as count, provider.transaction(**hints) as tx:
        tx.create_new_workflow(a_workflow(id="new", execution_pointers=pointers(3)))
        world.stored.execution_pointers[0].persistence_data = {"changed": 1}
        tx.persist_workflow(world.stored)
        world.held.execution_pointers.append(a_pointer(id="appended"))
        tx.persist_workflow_with_subscriptions(world.held, [a_subscription(workflow_id="held") for _ in range(3)])
        tx.release_claim(world.held)
        tx.create_event(an_event(event_key="stored"))
        tx.publish_event(an_event(id="published"))
        tx.publish_event(an_event(id="published too"))
        tx.create_event_subscription(a_subscription(event_key="stored"))
        tx.schedule_command(ScheduledCommand.process_event("event", 5))
        tx.persist_errors([an_error("stored"), an_error("held")])
    # Whose claim it is the release asks the instance, which learns it from the persist before: so that one is sent first.
    assert count.round_trips == 2, count.messages
    assert provider.get_workflow_instance("new").execution_pointers[2].persistence_data == {"number": 2}
    assert provider.get_workflow_instance("stored") == world.stored
    assert provider.get_event("published too").is_processed


def test_a_hundred_writes_are_one_round_trip(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World
) -> None:
    with proxy.counting() as count, provider.transaction() as tx:
        for number in range(50):
            tx.create_new_workflow(a_workflow(id=f"w{number}", execution_pointers=pointers(5)))
            tx.publish_event(an_event(id=f"e{number}"))
    assert count.round_trips == 1, count.messages


def test_an_empty_block_is_none(proxy: WireProxy, provider: PostgresPersistenceProvider) -> None:
    with proxy.counting() as count:
        with provider.transaction():
            pass
        with provider.transaction(workflows=["stored"], publishes=[(NAME, KEY)]):
            pass
        with pytest.raises(_PlannedError), provider.transaction() as tx:
            tx.publish_event(an_event())
            raise _PlannedError
    assert count.round_trips == 0, count.messages


def test_a_block_that_reads_writes_and_is_undone(proxy: WireProxy, provider: PostgresPersistenceProvider) -> None:
    with proxy.counting() as count, pytest.raises(_PlannedError), provider.transaction() as tx:
        instance = tx.get_workflow_instance("stored")
        tx.persist_workflow(instance)
        raise _PlannedError
    assert count.round_trips == 2, count.messages  # the read, and the rollback: the write never left


def test_what_has_nothing_to_ask_asks_nothing(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World
) -> None:
    with proxy.counting() as count:
        assert provider.supports_scheduled_commands()
        assert provider.renew_claims([world.stored]) == [world.stored]
        provider.release_claim(world.stored)
        provider.persist_errors([])
        with pytest.raises(InvalidValueError):
            provider.get_workflow_instance(5)  # type: ignore[arg-type]
    assert count.round_trips == 0, count.messages


def test_a_refusal_is_one_round_trip(proxy: WireProxy, provider: PostgresPersistenceProvider) -> None:
    with proxy.counting() as count:
        with pytest.raises(WorkflowNotFoundError):
            provider.persist_workflow(a_workflow(id="nobody"))
        with pytest.raises(WorkflowNotFoundError):
            provider.change_status("nobody", WorkflowStatus.SUSPENDED)
    assert count.round_trips == 2, count.messages


# -- the exceptions ------------------------------------------------------------------------------------------------------------


def test_a_copy_that_is_out_of_date_needs_a_second_attempt_with_all_of_it(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World
) -> None:
    copy = provider.get_workflow_instance("stored")
    world.stored.data = {"by": "another one"}
    provider.persist_workflow(world.stored)
    copy.data = {"by": "us"}
    with proxy.counting() as count:
        provider.persist_workflow(copy)
    assert count.round_trips == 2, count.messages
    copy.data = {"by": "us again"}
    with proxy.counting() as count:
        provider.persist_workflow(copy)
    assert count.round_trips == 1, count.messages


def test_commands_are_listed_and_each_is_leased_and_finished(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World
) -> None:
    provider.schedule_command(ScheduledCommand.process_event("event", 5))
    with proxy.counting() as count:
        assert provider.process_commands(FAR, lambda _: None) == 2
    assert count.round_trips == 1 + 2 * 2, count.messages
    with proxy.counting() as count:
        assert provider.process_commands(FAR, lambda _: None) == 0
    assert count.round_trips == 1, count.messages


def test_a_command_whose_handler_fails_is_given_back(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World
) -> None:
    def fail(_: ScheduledCommand) -> None:
        raise _PlannedError

    with proxy.counting() as count, pytest.raises(_PlannedError):
        provider.process_commands(FAR, fail)
    assert count.round_trips == 3, count.messages


# -- what only a provider has --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("definitions", [None, [("order", 1), ("other", 2)]])
def test_what_is_next_is_one_round_trip(
    proxy: WireProxy, provider: PostgresPersistenceProvider, definitions: list[tuple[str, int]] | None
) -> None:
    with proxy.counting() as count:
        assert provider.next_due(definitions) is not None
    assert count.round_trips == 1, count.messages
    with proxy.counting() as count:
        assert provider.wait_for_work(60, definitions)
    assert count.round_trips == 1, count.messages


def test_a_status_that_is_there_is_one_round_trip(proxy: WireProxy, provider: PostgresPersistenceProvider) -> None:
    with proxy.counting() as count:
        assert provider.wait_for_status("finished", {WorkflowStatus.COMPLETE}, 60) is WorkflowStatus.COMPLETE
        assert provider.wait_for_status("stored", {WorkflowStatus.COMPLETE}, 0) is None
    assert count.round_trips == 2, count.messages


def test_whoever_waits_looks_once_and_listens_on_another_connection(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World
) -> None:
    """A fifth of a second of waiting: the look before it and the one at its end, and one to begin to listen."""
    with proxy.counting() as count:
        assert provider.wait_for_status("stored", {WorkflowStatus.COMPLETE}, 0.2) is None
    listens = [message for message in count.messages if "LISTEN" in message.text]
    assert listens
    looks = [message for message in count.messages if message.kind == "Execute" and "status" in message.text]
    assert 2 <= len(looks) <= 3, count.messages


def test_closing_is_none(proxy: WireProxy, provider: PostgresPersistenceProvider) -> None:
    with proxy.counting() as count:
        provider.close()
    assert count.round_trips == 0, count.messages


def test_a_store_that_is_up_to_date_is_checked_on_a_connection_of_its_own(
    proxy: WireProxy, provider: PostgresPersistenceProvider
) -> None:
    with proxy.counting() as count:
        provider.ensure_store_exists()
    assert 1 <= count.round_trips <= 4, count.messages


# -- many at once --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("waiting", [1, 40])
def test_a_publication_is_one_round_trip_however_many_wait(
    proxy: WireProxy, provider: PostgresPersistenceProvider, waiting: int
) -> None:
    for _ in range(waiting):
        waiting_workflow(provider, key="many")
    with proxy.counting() as count:
        provider.publish_event(an_event(id="for all", event_key="many"))
    assert count.round_trips == 1, count.messages
    assert provider.get_event("for all").is_processed


@pytest.mark.parametrize("definitions", [None, [("many", 1), ("few", 1)]])
def test_a_claim_is_one_round_trip_however_many_are_due(
    proxy: WireProxy, provider: PostgresPersistenceProvider, definitions: list[tuple[str, int]] | None
) -> None:
    due: datetime = START - timedelta(days=1)
    for number in range(30):
        instance = a_workflow(workflow_definition_id="many" if number % 3 else "few", execution_pointers=pointers(3))
        instance.next_execution = int(due.timestamp() * 1000) + number
        provider.create_new_workflow(instance)
    with proxy.counting() as count:
        assert len(provider.claim_runnable_instances("worker", 25, definitions=definitions)) == 25
    assert count.round_trips == 1, count.messages
