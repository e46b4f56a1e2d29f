"""Who waits for whom on PostgreSQL: in one order, so that there is no deadlock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from threading import Barrier
from typing import Any

import pytest

from tests.persistence.tables import Tables, deadlocks
from wfe_fast.errors import WorkflowNotFoundError
from wfe_fast.persistence.models import WorkflowInstance
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.persistence.factories import (
    EARLY,
    FAR,
    KEY,
    NAME,
    a_pointer,
    a_subscription,
    a_workflow,
    an_event,
    pointers,
    subscribe,
    waiting_workflow,
)
from wfe_fast.testing.racing import race_threads, values
from wfe_fast.testing.waiting import PATIENCE, Background, wait_until

#: Somebody waits for a key, or a row.
WAITING = "SELECT 1 FROM pg_locks WHERE NOT granted"

Open = Callable[[], PostgresPersistenceProvider]


@pytest.fixture
def open_provider(postgres_dsn: str, postgres_empty_schema: str) -> Open:
    return partial(PostgresPersistenceProvider, postgres_dsn, schema=postgres_empty_schema)


@pytest.fixture
def tables(open_provider: Open, postgres_dsn: str, postgres_empty_schema: str) -> Iterator[Tables]:
    open_provider().close()
    with Tables(postgres_dsn, postgres_empty_schema) as tables:
        yield tables


@pytest.mark.parametrize("known", [True, False], ids=["a known row", "whatever is there"])
def test_a_key_is_locked_before_a_row(
    open_provider: Open, tables: Tables, postgres_dsn: str, postgres_empty_schema: str, known: bool
) -> None:
    with open_provider() as provider, Tables(postgres_dsn, postgres_empty_schema) as publisher:
        instance = a_workflow(id="w", execution_pointers=pointers(2))
        provider.create_new_workflow(instance)
        mine = instance if known else a_workflow(id="w", name="w")
        publisher.execute("BEGIN")
        publisher.execute("SELECT pg_advisory_xact_lock(wfe_key(%s, %s))", NAME, KEY)
        call = Background(
            lambda: provider.persist_workflow_with_subscriptions(mine, [a_subscription(id="s", workflow_id="w")])
        )
        wait_until(lambda: tables.execute(WAITING), "the key is waited for")
        tables.execute("SELECT 1 FROM workflows WHERE id = 'w' FOR UPDATE NOWAIT")
        publisher.execute("COMMIT")
        call.result()
        assert provider.get_subscription("s").workflow_id == "w"


def test_subscribers_and_publishers_do_not_wait_in_a_circle(open_provider: Open, postgres_dsn: str) -> None:
    before = deadlocks(postgres_dsn)
    with open_provider() as provider:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(1)))

        def subscribe_again_and_again() -> None:
            for _ in range(150):
                instance = provider.get_workflow_instance("w")
                provider.persist_workflow_with_subscriptions(instance, [a_subscription(workflow_id="w")])

        def publish_in_blocks() -> None:
            for _ in range(150):
                with provider.transaction(workflows=["w"], publishes=[(NAME, KEY)]) as tx:
                    instance = tx.get_workflow_instance("w")
                    instance.execution_pointers = [a_pointer()]
                    tx.persist_workflow(instance)
                    tx.publish_event(an_event())

        jobs = [subscribe_again_and_again, publish_in_blocks, subscribe_again_and_again, publish_in_blocks]
        assert values(race_threads(jobs)) == [None] * 4
    assert deadlocks(postgres_dsn) == before


@pytest.mark.parametrize("label", ["take", "drop", "drop of a pointer", "delete"])
def test_subscriptions_are_locked_in_one_order(
    open_provider: Open, tables: Tables, postgres_dsn: str, postgres_empty_schema: str, label: str
) -> None:
    """In that of their numbers, whatever index leads to them: behind the one that is held here, nothing is locked."""
    with open_provider() as provider, Tables(postgres_dsn, postgres_empty_schema) as holder:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(1)))
        (held,) = provider.claim_runnable_instances("worker")
        for number in range(5):
            # The oldest one is stored last, so that the indexes have another order.
            subscribe(provider, held, key=f"{number}", subscribe_as_of=EARLY - timedelta(days=number))
            provider.publish_event(an_event(event_key=f"{number}", event_time=EARLY - timedelta(days=number)))
        holder.execute("BEGIN")
        holder.execute("SELECT 1 FROM event_subscriptions WHERE event_key = '2' FOR UPDATE")
        calls: dict[str, Callable[[], object]] = {
            "take": partial(provider.take_events, held),
            "drop": partial(provider.drop_subscriptions, "w"),
            "drop of a pointer": partial(provider.drop_subscriptions, "w", held.execution_pointers[0].id),
            "delete": partial(provider.delete_workflow, "w"),
        }
        call = Background(calls[label])
        wait_until(lambda: tables.execute(WAITING), "the subscription is waited for")
        free = tables.execute("SELECT event_key FROM event_subscriptions ORDER BY seq FOR UPDATE SKIP LOCKED")
        assert free == [("3",), ("4",)]
        holder.execute("COMMIT")
        call.result()
        assert provider.subscriptions_of("w") == []


@pytest.mark.parametrize("clock", [None, ManualClock()], ids=["the server's clock", "a clock that stands still"])
@pytest.mark.parametrize(
    "lock",
    [
        "SELECT 1 FROM workflows FOR UPDATE",
        "SELECT 1 FROM event_subscriptions FOR UPDATE",
        f"SELECT pg_advisory_xact_lock_shared(wfe_key('{NAME}', '{KEY}'))",
    ],
    ids=["workflows", "subscriptions", "key"],
)
def test_whoever_dispatches_does_not_spin_while_a_delivery_is_held_up(
    open_provider: Callable[..., PostgresPersistenceProvider], tables: Tables, lock: str, clock: ManualClock | None
) -> None:
    with open_provider(clock=clock) as provider:
        instance, _ = waiting_workflow(provider)
        provider.create_event(an_event())
        tables.execute("BEGIN")
        tables.execute(lock)
        looks = 0
        end = time.monotonic() + 1
        while (left := end - time.monotonic()) > 0:
            if provider.wait_for_work(left):
                looks += 1
                assert provider.dispatch_events() == 0
        assert 2 <= looks <= 10
        assert provider.dispatch_events() == 0
        due = provider.next_due()
        assert due is not None
        assert timedelta(0) < due - provider.clock() <= timedelta(seconds=0.3)
        tables.execute("COMMIT")
        wait_until(lambda: provider.wait_for_work(60) and provider.dispatch_events(), "the event is delivered")
        assert provider.get_workflow_instance(instance.id).execution_pointers[0].event_published


@pytest.mark.parametrize("label", ["delete", "read"])
def test_a_workflow_that_is_deleted_and_made_again_while_it_is_waited_for(
    open_provider: Open, tables: Tables, label: str
) -> None:
    """It is another row, with pointers of its own: found as a whole, or not at all."""
    with open_provider() as provider:
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(2)))

        def read() -> WorkflowInstance:
            with provider.transaction() as tx:
                return tx.get_workflow_instance("w")

        with provider.transaction() as tx:
            tx.delete_workflow("w")
            tx.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(3)))
            tx.count_workflows()  # sends it
            call: Background[Any] = Background(read if label == "read" else partial(provider.delete_workflow, "w"))
            wait_until(lambda: tables.execute(WAITING), "the row is waited for")
        if label == "delete":
            call.result()
            assert tables.execute("SELECT 1 FROM execution_pointers") == []
        with pytest.raises(WorkflowNotFoundError):
            read() if label == "delete" else call.result()


def test_two_blocks_that_publish_to_each_other_and_drop_their_own(open_provider: Open, postgres_dsn: str) -> None:
    """What a delivery has passed by, because its workflow is locked, it does not hold."""
    before = deadlocks(postgres_dsn)
    with open_provider() as provider:
        for id, key in (("a", "to a"), ("b", "to b")):
            waiting_workflow(provider, id=id, key=key)
        opened, published, dropped = Barrier(2), Barrier(2), Barrier(2)

        def block(own: str, other: str) -> int:
            with provider.transaction(workflows=[own], publishes=[(NAME, f"to {other}")]) as tx:
                tx.count_workflows()  # opens it, so that each has locked its own before the other one delivers
                opened.wait(PATIENCE)
                tx.publish_event(an_event(id=f"from {own}", event_key=f"to {other}"))
                tx.count_workflows()  # sends it
                published.wait(PATIENCE)
                count = tx.drop_subscriptions(own)
                dropped.wait(PATIENCE)
                return count

        assert values(race_threads([partial(block, "a", "b"), partial(block, "b", "a")])) == [1, 1]
        wait_until(
            lambda: not provider.get_runnable_events(FAR) or provider.dispatch_events() < 0, "both are processed"
        )
    assert deadlocks(postgres_dsn) == before
