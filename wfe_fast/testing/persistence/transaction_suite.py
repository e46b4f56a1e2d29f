"""`transaction()`: several writes as one, for every write there is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from threading import Event as Signal
from typing import Any

import pytest

from wfe_fast.errors import (
    DuplicateEventError,
    DuplicateWorkflowError,
    InvalidStateError,
    InvalidValueError,
    SerializationError,
    WfeError,
    WorkflowNotFoundError,
)
from wfe_fast.persistence.contract import PersistenceProvider, PersistenceTransaction
from wfe_fast.persistence.models import ScheduledCommand, WorkflowStatus
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import (
    FAR,
    KEY,
    NAME,
    a_subscription,
    a_workflow,
    an_error,
    an_event,
    pointers,
)
from wfe_fast.testing.persistence.state import all_workflows, claimable, drain_commands, everything
from wfe_fast.testing.persistence.writes import KEYS, READS, WRITES, build_world, methods_of
from wfe_fast.testing.store import StoreUnderTest
from wfe_fast.testing.waiting import PATIENCE, Background

#: Between the end of the lease that the world's holder has, and the end of the one that it renews to.
LATER = 2700.0


class _PlannedError(Exception):
    pass


class AtomicitySuite(Suite):
    """All of a block is stored, or nothing: each write alone, and all of them together."""

    def test_the_table_has_every_write(self) -> None:
        assert {label.split()[0] for label in WRITES} == methods_of(PersistenceTransaction) - READS

    def _state(self, provider: PersistenceProvider, clock: ManualClock) -> dict[str, Any]:
        state = everything(provider, KEYS)
        clock.advance(LATER)
        state["claimable later"] = claimable(provider)
        clock.advance(-LATER)
        try:
            with provider.transaction() as tx:
                state["sequence"] = tx.next_definition_sequence("order")
                raise _PlannedError
        except _PlannedError:
            return state

    @pytest.mark.parametrize("label", WRITES)
    @pytest.mark.parametrize("error", [_PlannedError, KeyboardInterrupt])
    def test_each_write_is_undone(
        self, provider: PersistenceProvider, clock: ManualClock, label: str, error: type[BaseException]
    ) -> None:
        world = build_world(provider, clock)
        before = self._state(provider, clock)
        raised = error("planned")
        with pytest.raises(error) as caught, provider.transaction() as tx:
            WRITES[label](tx, world)
            raise raised
        assert caught.value is raised
        assert self._state(provider, clock) == before
        assert [command.data for command in drain_commands(provider)] == ["stored"]

    @pytest.mark.parametrize("label", WRITES)
    def test_each_write_is_stored(self, provider: PersistenceProvider, clock: ManualClock, label: str) -> None:
        world = build_world(provider, clock)
        before = self._state(provider, clock)
        with provider.transaction() as tx:
            WRITES[label](tx, world)
        assert self._state(provider, clock) != before or label.startswith("schedule_command")
        commands = 1 - (label == "delete_workflow") + (label == "schedule_command")
        assert len(drain_commands(provider)) == commands

    @pytest.mark.parametrize("label", WRITES)
    def test_each_write_does_the_same_alone(self, store: StoreUnderTest, clock: ManualClock, label: str) -> None:
        """Inside a block that commits, and by itself on a world that was undone, a write leads to the same state."""
        provider = store.open(clock=clock)
        world = build_world(provider, clock)
        seen: list[dict[str, Any]] = []
        with pytest.raises(_PlannedError), provider.transaction() as tx:
            WRITES[label](tx, world)
            seen.append(_visible(tx))
            raise _PlannedError
        WRITES[label](provider, world)
        assert _visible(provider) == seen[0]

    @pytest.mark.parametrize("keep", [True, False])
    def test_many_writes_together(self, provider: PersistenceProvider, clock: ManualClock, keep: bool) -> None:
        world = build_world(provider, clock)
        before = self._state(provider, clock)
        together = [
            *("create_new_workflow", "persist_workflow claimed", "persist_errors", "create_event_subscription"),
            *("create_event", "publish_event", "schedule_command", "set_subscription_token", "claim_subscription"),
            *("complete_subscription", "change_status", "next_definition_sequence"),
        ]
        try:
            with provider.transaction() as tx:
                for label in together:
                    WRITES[label](tx, world)
                if not keep:
                    raise _PlannedError
        except _PlannedError:
            assert self._state(provider, clock) == before
            assert len(drain_commands(provider)) == 1
        else:
            assert provider.get_workflow_instance("new").execution_pointers != []
            assert provider.get_workflow_instance("held").description == "changed"
            assert len(provider.get_errors("stored")) == 4
            assert provider.get_event("published").is_processed
            assert provider.get_workflow_instance("stored").status is WorkflowStatus.TERMINATED
            assert provider.next_definition_sequence("order") == 3
            assert len(drain_commands(provider)) == 2


def _visible(store: PersistenceTransaction) -> dict[str, Any]:
    """What can be read inside a block and outside, without tokens that are new each time."""
    subscriptions = [sub for name, key in [*KEYS, (NAME, "open")] for sub in store.get_subscriptions(name, key, FAR)]
    workflows = all_workflows(store)
    return {
        "workflows": [(one.id, one.status, one.description, one.next_execution, one.data) for one in workflows],
        "pointers": [[(p.id, p.event_data, p.persistence_data) for p in one.execution_pointers] for one in workflows],
        "subscriptions": [(sub.id, sub.external_worker_id) for sub in subscriptions],
        "events": [
            (e.id, e.is_processed)
            for name, key in KEYS
            for e in store.get_events_since(name, key, START.min.replace(tzinfo=START.tzinfo))
        ],
        "errors": [error.message for error in store.get_errors("stored")],
        "runnable": store.get_runnable_instances(FAR),
        "oldest": store.oldest_runnable(),
    }


class TransactionSuite(Suite):
    """What holds inside a block, around it, and after it."""

    def test_reads_see_the_writes_of_the_block(self, provider: PersistenceProvider) -> None:
        with provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="w", name="n", execution_pointers=pointers(2)))
            tx.create_event_subscription(a_subscription(id="s", workflow_id="w"))
            tx.create_event(an_event(id="e"))
            tx.persist_errors([an_error("w")])
            for reader in (tx, provider):
                assert reader.get_workflow_instance_by_name("n") == reader.get_workflow_instances(["w"])[0]
                assert len(reader.get_workflow_instance("w").execution_pointers) == 2
                assert reader.list_workflows().items == [reader.get_workflow_instance("w")]
                assert reader.count_workflows()[WorkflowStatus.RUNNABLE] == 1
                assert reader.get_runnable_instances(START) == ["w"]
                assert reader.get_runnable_events(START) == reader.get_events(NAME, KEY, START) == ["e"]
                assert reader.get_event("e").event_key == KEY
                assert reader.get_subscriptions(NAME, KEY, START) == reader.subscriptions_of("w")
                assert reader.get_first_open_subscription(NAME, KEY, START) == reader.get_subscription("s")
                assert len(reader.get_errors("w")) == 1
            tx.terminate_subscription("s")
            assert tx.subscriptions_of("w") == []
            loaded = tx.get_workflow_instance("w")
            loaded.execution_pointers.reverse()
            tx.persist_workflow(loaded, expect_unchanged=True)
            assert tx.get_workflow_instance("w") == loaded
        assert provider.get_workflow_instance("w") == loaded

    def test_calls_on_the_provider_join(self, provider: PersistenceProvider) -> None:
        before = everything(provider)
        with pytest.raises(_PlannedError), provider.transaction() as tx:
            provider.create_new_workflow(a_workflow(id="w"))
            assert tx.get_workflow_instance("w").id == "w"
            provider.create_event(an_event())
            raise _PlannedError
        assert everything(provider) == before

    def test_a_second_block_is_refused(self, provider: PersistenceProvider) -> None:
        with provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="w"))
            with pytest.raises(InvalidStateError), provider.transaction():
                pytest.fail("a block was opened in a block")
            tx.create_event(an_event(id="e"))
        assert provider.get_workflow_instance("w").id == "w"
        assert provider.get_event("e").id == "e"

    @pytest.mark.parametrize("failed", [False, True])
    def test_after_its_block_it_is_over(self, provider: PersistenceProvider, failed: bool) -> None:
        blocks: list[PersistenceTransaction] = []
        try:
            with provider.transaction() as tx:
                blocks.append(tx)
                if failed:
                    raise _PlannedError
        except _PlannedError:
            assert failed
        before = everything(provider)
        (tx,) = blocks
        for call in _calls(tx):
            with pytest.raises(InvalidStateError):
                call()
        with provider.transaction(), pytest.raises(InvalidStateError):
            tx.create_event(an_event())
        assert everything(provider) == before

    def test_it_belongs_to_its_thread(self, provider: PersistenceProvider) -> None:
        with provider.transaction() as tx:
            for call in _calls(tx):
                with pytest.raises(InvalidStateError):
                    Background(call).result()
            tx.create_new_workflow(a_workflow(id="w"))
        assert [one.id for one in all_workflows(provider)] == ["w"]

    def test_a_write_of_another_thread_stays_outside(self, provider: PersistenceProvider) -> None:
        started = Signal()

        def write() -> str:
            started.set()
            return provider.create_new_workflow(a_workflow(id="outside"))

        with pytest.raises(_PlannedError), provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="inside"))
            writer = Background(write)
            assert started.wait(PATIENCE)
            raise _PlannedError
        assert writer.result() == "outside"
        assert [one.id for one in all_workflows(provider)] == ["outside"]

    def test_threads_one_block_each(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="w", data={"n": 0}))

        def add() -> None:
            for _ in range(20):
                with provider.transaction() as tx:
                    instance = tx.get_workflow_instance("w")
                    instance.data["n"] += 1
                    tx.persist_workflow(instance)
                    tx.persist_errors([an_error("w")])

        for thread in [Background(add) for _ in range(6)]:
            thread.result()
        assert provider.get_workflow_instance("w").data == {"n": 120}
        assert len(provider.get_errors("w")) == 120

    def test_a_refused_value_leaves_it_usable(self, provider: PersistenceProvider) -> None:
        with provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="first"))
            with pytest.raises(InvalidValueError):
                tx.create_new_workflow(a_workflow(id="bad", version=-1))
            with pytest.raises(SerializationError):
                tx.create_new_workflow(a_workflow(id="bad", execution_pointers=[*pointers(2)], data={"x": b"x"}))
            with pytest.raises(InvalidStateError):
                tx.persist_workflow(a_workflow(id="first"), expect_unchanged=True)
            with pytest.raises(WorkflowNotFoundError):
                tx.get_workflow_instance("bad")
            tx.create_new_workflow(a_workflow(id="second"))
        assert sorted(one.id for one in all_workflows(provider)) == ["first", "second"]

    def test_a_failed_statement_undoes_all_and_the_block_can_only_be_left(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(id="taken"))
        before = everything(provider)
        with pytest.raises(InvalidStateError), provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="first"))
            with pytest.raises(DuplicateWorkflowError):
                tx.create_new_workflow(a_workflow(id="taken"))
                tx.count_workflows()  # who gathers writes says it with the next answer
            for call in (*_calls(tx), *_calls(provider)):
                with pytest.raises(InvalidStateError):
                    call()
        assert everything(provider) == before
        provider.create_new_workflow(a_workflow(id="first"))

    def test_a_failed_statement_and_another_error(self, provider: PersistenceProvider) -> None:
        provider.create_event(an_event(id="taken"))
        before = everything(provider)
        with pytest.raises(_PlannedError), provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="first"))
            with pytest.raises(DuplicateEventError):
                tx.create_event(an_event(id="taken"))
                tx.count_workflows()
            raise _PlannedError
        assert everything(provider) == before

    def test_an_error_that_is_caught_leaves_all_or_nothing(self, provider: PersistenceProvider) -> None:
        """Whether a conflict dooms the block is the provider's choice; half of it is never stored."""
        instance = a_workflow(id="w", execution_pointers=pointers(3))
        provider.create_new_workflow(instance)
        provider.persist_workflow(provider.get_workflow_instance("w"))
        before = everything(provider)
        stored = True
        try:
            with provider.transaction() as tx:
                tx.create_new_workflow(a_workflow(id="beside"))
                instance.execution_pointers.clear()
                with pytest.raises(WfeError):
                    tx.persist_workflow_with_subscriptions(instance, [a_subscription()], expect_unchanged=True)
                    tx.count_workflows()
        except InvalidStateError:
            stored = False
        assert (len(provider.get_workflow_instances(["beside"])) == 1) is stored
        if stored:
            provider.delete_workflow("beside")
        assert everything(provider) == before

    def test_waiting_calls_are_refused_inside(self, provider: PersistenceProvider) -> None:
        provider.schedule_command(ScheduledCommand.process_workflow("w", 0))
        provider.create_new_workflow(a_workflow(id="w"))
        with provider.transaction():
            for call in (
                lambda: provider.process_commands(START, print),
                lambda: provider.wait_for_work(0),
                lambda: provider.wait_for_status("w", [WorkflowStatus.RUNNABLE], 0),
            ):
                with pytest.raises(InvalidStateError):
                    call()
        assert len(drain_commands(provider)) == 1

    def test_an_empty_block_and_one_left_by_return(self, provider: PersistenceProvider) -> None:
        def leave() -> str:
            with provider.transaction() as tx:
                return tx.create_new_workflow(a_workflow(id="w"))

        with provider.transaction():
            pass
        assert leave() == "w"
        assert provider.get_workflow_instance("w").id == "w"


class IsolationSuite(Suite):
    """Who is outside of a block sees nothing of it before its end, and does not wait to see that."""

    def test_nobody_else_sees_them_before_the_end(
        self, provider: PersistenceProvider, store: StoreUnderTest, clock: ManualClock
    ) -> None:
        other = store.open(clock=clock)
        with provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="w"))
            tx.create_event(an_event(id="e"))
            for reader in (other, provider):
                assert Background(partial(reader.get_workflow_instances, ["w"])).result() == []
                assert Background(partial(reader.get_runnable_events, FAR)).result() == []
        for reader in (other, provider):
            assert len(Background(partial(reader.get_workflow_instances, ["w"])).result()) == 1


def _calls(store: PersistenceTransaction) -> list[Callable[[], object]]:
    return [
        lambda: store.create_new_workflow(a_workflow()),
        lambda: store.get_workflow_instances(["w"]),
        lambda: store.create_event(an_event()),
        lambda: store.claim_runnable_instances("worker"),
    ]
