"""A connection that breaks while PostgreSQL commits: nobody knows then whether it was stored. What the caller can still do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.persistence.tables import TRANSACTIONS, Tables
from wfe_fast.errors import CommitOutcomeUnknownError, ConcurrentUpdateError, ConnectionLostError, StoreUnavailableError
from wfe_fast.persistence.memory import memory_of
from wfe_fast.persistence.models import ScheduledCommand, WorkflowInstance
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.persistence.factories import (
    NAME,
    a_pointer,
    a_subscription,
    a_workflow,
    an_error,
    an_event,
    pointers,
)
from wfe_fast.testing.proxy import WireProxy
from wfe_fast.testing.waiting import wait_until


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
def provider(proxy: WireProxy, postgres_empty_schema: str) -> Iterator[PostgresPersistenceProvider]:
    with PostgresPersistenceProvider(proxy.dsn, schema=postgres_empty_schema) as provider:
        yield provider


@pytest.fixture
def instance(provider: PostgresPersistenceProvider) -> WorkflowInstance:
    instance = a_workflow(id="w", data={"tries": 0}, execution_pointers=pointers(3))
    provider.create_new_workflow(instance)
    provider.persist_workflow(instance)  # so that its statement is prepared
    return instance


#: The statement, and not the one that begins a transaction, READ COMMITTED.
COMMIT = re.compile("COMMIT")

Way = Callable[[PostgresPersistenceProvider, WorkflowInstance, bool], None]


def persist(provider: PostgresPersistenceProvider, instance: WorkflowInstance, expect: bool) -> None:
    provider.persist_workflow(instance, expect_unchanged=expect)


def persist_in_block(provider: PostgresPersistenceProvider, instance: WorkflowInstance, expect: bool) -> None:
    with provider.transaction() as tx:
        tx.persist_workflow(instance, expect_unchanged=expect)


def persist_twice_in_block(provider: PostgresPersistenceProvider, instance: WorkflowInstance, expect: bool) -> None:
    with provider.transaction() as tx:
        tx.persist_workflow(instance, expect_unchanged=expect)
        instance.data["twice"] = True
        tx.persist_workflow(instance, expect_unchanged=expect)


def persist_behind_a_read(provider: PostgresPersistenceProvider, instance: WorkflowInstance, expect: bool) -> None:
    with provider.transaction(workflows=["w"]) as tx:
        tx.persist_workflow(instance, expect_unchanged=expect)
        assert tx.get_errors("w") == []


WAYS = pytest.mark.parametrize(
    "way", [persist, persist_in_block, persist_twice_in_block, persist_behind_a_read], ids=lambda way: way.__name__
)
FAULT = pytest.mark.parametrize("fault", ["stored", "undone"])
EXPECT = pytest.mark.parametrize("expect", [False, True], ids=["whatever", "unchanged"])


def change(instance: WorkflowInstance) -> None:
    instance.data["tries"] += 1
    instance.execution_pointers.append(a_pointer(step_id=7))


@dataclass
class Cutter:
    """Cuts connections while they commit."""

    provider: PostgresPersistenceProvider
    proxy: WireProxy

    def arm(self, fault: str, *, block: bool) -> None:
        """Let the next commit be stored without an answer, or the connection be cut in front of what makes the server commit."""
        if not block:
            self.proxy.lose_answer("Execute") if fault == "stored" else self.proxy.cut_before("Sync")
        else:
            cut = self.proxy.lose_answer if fault == "stored" else self.proxy.cut_before
            cut("Execute", COMMIT)

    def fail(self, fault: str, way: Way, instance: WorkflowInstance, expect: bool) -> None:
        """Change the instance, and persist it in vain."""
        change(instance)
        self.arm(fault, block=way is not persist)
        with pytest.raises(CommitOutcomeUnknownError):
            way(self.provider, instance, expect)


@pytest.fixture
def cutter(provider: PostgresPersistenceProvider, proxy: WireProxy) -> Cutter:
    return Cutter(provider, proxy)


@WAYS
@EXPECT
@pytest.mark.parametrize(
    "faults", ["stored", "undone", "stored stored", "undone stored stored", "stored undone undone"]
)
def test_persisting_again_after_unknown_commits(
    provider: PostgresPersistenceProvider,
    instance: WorkflowInstance,
    cutter: Cutter,
    way: Way,
    expect: bool,
    faults: str,
) -> None:
    for fault in faults.split():
        cutter.fail(fault, way, instance, expect)
    change(instance)
    way(provider, instance, expect)
    assert provider.get_workflow_instance("w") == instance
    memory = memory_of(instance)
    assert memory is not None
    assert memory.doubts == ()
    persist(provider, instance, expect=True)


@WAYS
@FAULT
def test_another_writer_behind_an_unknown_commit(
    provider: PostgresPersistenceProvider, instance: WorkflowInstance, cutter: Cutter, way: Way, fault: str
) -> None:
    """What it has written is noticed, and replaced only by who does not ask."""
    cutter.fail(fault, way, instance, True)
    other = provider.get_workflow_instance("w")
    other.data["other"] = True
    provider.persist_workflow(other)
    change(instance)
    with pytest.raises(ConcurrentUpdateError):
        way(provider, instance, True)
    assert provider.get_workflow_instance("w") == other
    way(provider, instance, False)
    assert provider.get_workflow_instance("w") == instance


def test_a_claim_is_kept_over_unknown_commits(
    provider: PostgresPersistenceProvider, instance: WorkflowInstance, cutter: Cutter
) -> None:
    (held,) = provider.claim_runnable_instances("worker")
    for way in (persist, persist_in_block):
        cutter.fail("stored", way, held, True)
    provider.persist_workflow(held, expect_unchanged=True, release=True)
    assert provider.get_workflow_instance("w") == held
    assert [one.id for one in provider.claim_runnable_instances("next")] == ["w"]


@FAULT
def test_subscriptions_that_may_be_there_already(
    provider: PostgresPersistenceProvider, instance: WorkflowInstance, cutter: Cutter, fault: str
) -> None:
    made = [a_subscription(id=f"s{number}", workflow_id="w") for number in range(2)]
    cutter.arm(fault, block=False)
    with pytest.raises(CommitOutcomeUnknownError):
        provider.persist_workflow_with_subscriptions(instance, made)
    made.append(a_subscription(id="s2", workflow_id="w"))
    provider.persist_workflow_with_subscriptions(instance, made, expect_unchanged=True)
    assert [one.id for one in provider.subscriptions_of("w")] == ["s0", "s1", "s2"]


def test_a_block_is_stored_as_a_whole(provider: PostgresPersistenceProvider, cutter: Cutter) -> None:
    provider.create_new_workflow(a_workflow(id="warm"))
    cutter.arm("stored", block=True)
    with pytest.raises(CommitOutcomeUnknownError), provider.transaction() as tx:
        tx.create_new_workflow(a_workflow(id="one"))
        tx.create_new_workflow(a_workflow(id="two"))
    assert len(provider.get_workflow_instances(["one", "two"])) == 2


def stored_parts(tables: Tables, id: str) -> tuple[bool, ...]:
    """Which parts of the block of this workflow are in the store."""
    statements = (
        "SELECT count(*) FROM workflows WHERE id = %s AND description = 'changed'",
        "SELECT count(*) FROM execution_pointers WHERE workflow_id = %s AND step_id = 7",
        "SELECT count(*) FROM workflows WHERE id = 'beside ' || %s",
        "SELECT count(*) FROM events WHERE id = %s AND is_processed",
        "SELECT count(*) FROM scheduled_commands WHERE data = %s",
        "SELECT count(*) FROM execution_errors WHERE workflow_id = %s",
    )
    counts = [tables.execute(statement, id)[0][0] for statement in statements]
    assert set(counts) <= {0, 1}
    return tuple(count == 1 for count in counts)


def work_in_a_block(provider: PostgresPersistenceProvider, instance: WorkflowInstance, *, again: bool = False) -> None:
    """A block with answers in the middle; once more, without what cannot be stored twice."""
    id = instance.id
    with provider.transaction(workflows=[id], publishes=[(NAME, id)]) as tx:
        if not again:
            tx.create_new_workflow(a_workflow(id=f"beside {id}"))
            tx.persist_errors([an_error(id)])
        tx.persist_workflow(instance, expect_unchanged=True)
        assert tx.get_event("other").id == "other"
        tx.schedule_command(ScheduledCommand.process_workflow(id, 5))
        assert tx.subscriptions_of(id) == []
        tx.publish_event(an_event(id=id, event_key=id))


@pytest.mark.parametrize("fault", ["cut_before", "lose_answer"])
def test_a_cut_at_every_message_of_a_block(
    provider: PostgresPersistenceProvider, proxy: WireProxy, postgres_dsn: str, postgres_empty_schema: str, fault: str
) -> None:
    provider.create_event(an_event(id="other"))
    told: set[tuple[type, bool]] = set()
    with Tables(postgres_dsn, postgres_empty_schema) as tables:
        for nth in range(1, 500):
            instance = a_workflow(id=f"w{nth}")
            provider.create_new_workflow(instance)
            instance.description = "changed"
            instance.execution_pointers = [a_pointer(step_id=7)]
            rule = getattr(proxy, fault)(nth=nth)
            try:
                work_in_a_block(provider, instance)
            except StoreUnavailableError as error:
                proxy.clear()
                wait_until(lambda: tables.execute(TRANSACTIONS) == [], "the server has noticed it")
                parts = stored_parts(tables, instance.id)
                assert len(set(parts)) == 1, f"half of the block was stored at message {nth}: {parts}"
                told.add((type(error), parts[0]))
                work_in_a_block(provider, instance, again=parts[0])
            proxy.clear()
            assert all(stored_parts(tables, instance.id)), f"at message {nth}"
            assert provider.get_workflow_instance(instance.id) == instance
            if not rule.reached:
                break
    assert not rule.reached
    assert nth > 20
    wanted = {(ConnectionLostError, False), (CommitOutcomeUnknownError, fault == "lose_answer")}
    assert wanted <= told
    assert (ConnectionLostError, True) not in told
