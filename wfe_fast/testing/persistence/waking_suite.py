"""Wake-ups: `next_due`, `wait_for_work`, `wait_for_status`."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta

import pytest

from wfe_fast.clock import from_millis, system_clock, to_millis
from wfe_fast.errors import StoreClosedError, WorkflowNotFoundError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import ScheduledCommand, WorkflowStatus
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.killing import Victim
from wfe_fast.testing.persistence import jobs
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import FAR, a_workflow, an_error, an_event, subscribe, waiting_workflow
from wfe_fast.testing.store import StoreUnderTest
from wfe_fast.testing.waiting import PATIENCE, Background

#: A waiter that was woken returns long before this; one that was not, after `PATIENCE`.
SOON = PATIENCE / 4
#: For waits that are to end without a wake-up.
SHORT = 0.15

Write = Callable[[PersistenceProvider], object]


def _resume(provider: PersistenceProvider) -> object:
    return provider.change_status("suspended", WorkflowStatus.RUNNABLE)


def _persist_due(provider: PersistenceProvider) -> None:
    instance = provider.get_workflow_instance("sleeping")
    instance.next_execution = 0
    provider.persist_workflow(instance)


def _transaction(provider: PersistenceProvider) -> object:
    with provider.transaction() as tx:
        tx.persist_errors([an_error("w")])
        return tx.create_new_workflow(a_workflow())


#: What makes something due, on a store prepared by `_prepare`.
WAKING: dict[str, Write] = {
    "create a workflow": lambda p: p.create_new_workflow(a_workflow()),
    "persist": _persist_due,
    "resume": _resume,
    "publish": lambda p: p.publish_event(an_event()),
    "create an event": lambda p: p.create_event(an_event()),
    "mark an event": lambda p: p.mark_event_unprocessed("processed"),
    "schedule a command": lambda p: p.schedule_command(ScheduledCommand.process_workflow("w", 0)),
    "transaction": _transaction,
}
#: What changes the store, but makes nothing due.
NOT_WAKING: dict[str, Write] = {
    "a suspended workflow": lambda p: p.create_new_workflow(a_workflow(status=WorkflowStatus.SUSPENDED)),
    "a workflow for later": lambda p: p.create_new_workflow(a_workflow(next_execution=to_millis(FAR))),
    "an error": lambda p: p.persist_errors([an_error("w")]),
    "a subscription": lambda p: subscribe(p, p.get_workflow_instance("waiting"), key="other"),
    "an event for later": lambda p: p.create_event(an_event(event_time=FAR)),
    "an event for nobody": lambda p: p.publish_event(an_event(event_key="nobody's")),
    "a command for later": lambda p: p.schedule_command(ScheduledCommand.process_workflow("w", to_millis(FAR))),
    "a sequence": lambda p: p.next_definition_sequence("order"),
}


def _prepare(provider: PersistenceProvider) -> None:
    provider.create_new_workflow(a_workflow(id="suspended", status=WorkflowStatus.SUSPENDED))
    provider.create_new_workflow(a_workflow(id="sleeping", next_execution=to_millis(FAR)))
    waiting_workflow(provider, id="waiting")
    provider.create_event(an_event(id="processed", is_processed=True))


class NextDueSuite(Suite):
    """`next_due`: the earliest of everything."""

    def test_nothing(self, provider: PersistenceProvider) -> None:
        assert provider.next_due() is None
        provider.create_new_workflow(a_workflow(next_execution=None))
        provider.create_new_workflow(a_workflow(status=WorkflowStatus.SUSPENDED))
        provider.create_event(an_event(is_processed=True))
        assert provider.next_due() is None

    def test_the_earliest(self, provider: PersistenceProvider) -> None:
        def seconds(n: int) -> int:
            return to_millis(START) + n * 1000

        provider.create_new_workflow(a_workflow(next_execution=seconds(50)))
        assert provider.next_due() == from_millis(seconds(50))
        provider.schedule_command(ScheduledCommand.process_workflow("w", seconds(40)))
        assert provider.next_due() == from_millis(seconds(40))
        provider.create_event(an_event(id="e", event_time=START + timedelta(seconds=30)))
        assert provider.next_due() == START + timedelta(seconds=30)
        provider.create_new_workflow(a_workflow(next_execution=seconds(-20)))
        assert provider.next_due() == from_millis(seconds(-20))

    def test_a_claimed_one_is_due_when_its_lease_ends(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        provider.create_new_workflow(a_workflow())
        (held,) = provider.claim_runnable_instances("worker", lease=10)
        assert provider.next_due() == clock() + timedelta(seconds=10)
        clock.advance(4)
        provider.renew_claims([held], 10)
        assert provider.next_due() == clock() + timedelta(seconds=10)
        provider.release_claim(held)
        due = provider.next_due()
        assert due is not None
        assert due <= clock()

    def test_a_claimed_one_that_sleeps_longer_than_its_lease(
        self, provider: PersistenceProvider, clock: ManualClock
    ) -> None:
        provider.create_new_workflow(a_workflow())
        (held,) = provider.claim_runnable_instances("worker", lease=10)
        wake = to_millis(clock() + timedelta(seconds=60))
        held.next_execution = wake
        provider.persist_workflow(held)
        due = provider.next_due()
        assert due is not None
        assert clock() + timedelta(seconds=10) <= due <= from_millis(wake)

    def test_definitions(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(workflow_definition_id="a", next_execution=1))
        provider.create_new_workflow(a_workflow(workflow_definition_id="b", next_execution=2))
        assert provider.next_due() == from_millis(1)
        assert provider.next_due([("b", 1), ("c", 1)]) == from_millis(2)
        assert provider.next_due([("b", 2)]) is provider.next_due([]) is None
        provider.claim_runnable_instances("worker", definitions=[("a", 1)])
        assert provider.next_due([("b", 1)]) == from_millis(2)

    def test_a_claim_of_another_definition_is_not_asked_about(self, provider: PersistenceProvider) -> None:
        provider.create_new_workflow(a_workflow(workflow_definition_id="a"))
        provider.claim_runnable_instances("worker")
        assert provider.next_due([("b", 1)]) is None
        assert provider.next_due([("a", 1)]) is not None


class WakeUpSuite(Suite):
    """Blocking until there is something to do. Time is the machine's here."""

    @pytest.fixture
    def waker(self, store: StoreUnderTest) -> PersistenceProvider:
        """A provider on the machine's clock, with a few things that are not due."""
        provider = store.open()
        _prepare(provider)
        return provider

    def _wakes(self, waiter: PersistenceProvider, write: Callable[[], object]) -> None:
        thread = Background(lambda: waiter.wait_for_work(PATIENCE)).wait_until_inside("wait_for_work")
        assert not thread.done
        began = time.monotonic()
        write()
        assert thread.result() is True
        assert time.monotonic() - began < SOON

    @pytest.mark.parametrize("write", WAKING)
    def test_a_write_of_another_thread(self, waker: PersistenceProvider, write: str) -> None:
        self._wakes(waker, lambda: WAKING[write](waker))

    @pytest.mark.parametrize("write", WAKING)
    def test_a_write_of_another_provider(self, waker: PersistenceProvider, store: StoreUnderTest, write: str) -> None:
        other = store.open()
        self._wakes(waker, lambda: WAKING[write](other))

    def test_a_write_of_another_process(self, waker: PersistenceProvider, store: StoreUnderTest) -> None:
        thread = Background(lambda: waker.wait_for_work(PATIENCE)).wait_until_inside("wait_for_work")
        writer = Victim(store.opener, jobs.create_one)
        writer.await_acknowledgements(1)
        began = time.monotonic()
        assert thread.result() is True
        assert time.monotonic() - began < SOON
        writer.await_death()

    def test_something_is_due_already(self, waker: PersistenceProvider) -> None:
        waker.create_new_workflow(a_workflow())
        assert waker.wait_for_work(PATIENCE) is True
        assert waker.wait_for_work(0) is True

    def test_nothing_comes(self, waker: PersistenceProvider) -> None:
        assert waker.wait_for_work(0) is False
        assert waker.wait_for_work(timedelta(seconds=SHORT)) is False

    def test_an_interrupt_ends_every_wait_that_is_under_way_and_no_later_one(self, waker: PersistenceProvider) -> None:
        waker.interrupt_waits()
        began = time.monotonic()
        assert waker.wait_for_work(SHORT) is False
        assert time.monotonic() - began > SHORT * 0.9
        threads = [Background(lambda: waker.wait_for_work(PATIENCE)).wait_until_inside("wait") for _ in range(2)]
        completed = Background(lambda: waker.wait_for_status("waiting", [WorkflowStatus.COMPLETE], PATIENCE))
        completed.wait_until_inside("wait")
        waker.interrupt_waits()
        assert [thread.result(SOON) for thread in threads] == [False] * 2
        waker.change_status("waiting", WorkflowStatus.COMPLETE)
        assert completed.result() is WorkflowStatus.COMPLETE
        waker.create_new_workflow(a_workflow())
        assert waker.wait_for_work(PATIENCE) is True
        waker.close()
        waker.interrupt_waits()

    @pytest.mark.parametrize("write", NOT_WAKING)
    def test_not_woken_for_nothing(self, waker: PersistenceProvider, store: StoreUnderTest, write: str) -> None:
        other = store.open()
        thread = Background(lambda: waker.wait_for_work(SHORT)).wait_until_inside("wait_for_work")
        NOT_WAKING[write](other)
        assert thread.result() is False

    @pytest.mark.parametrize("kind", ["workflow", "event", "command", "lease"])
    def test_time_comes(self, waker: PersistenceProvider, kind: str) -> None:
        soon = system_clock() + timedelta(seconds=0.3)
        if kind == "workflow":
            waker.create_new_workflow(a_workflow(next_execution=to_millis(soon)))
        if kind == "event":
            waker.create_event(an_event(event_time=soon))
        if kind == "command":
            waker.schedule_command(ScheduledCommand.process_workflow("w", to_millis(soon)))
        if kind == "lease":
            waker.create_new_workflow(a_workflow())
            assert len(waker.claim_runnable_instances("worker", lease=0.3)) == 1
            soon = system_clock() + timedelta(seconds=0.2)
        began = time.monotonic()
        assert waker.wait_for_work(PATIENCE) is True
        assert time.monotonic() - began < SOON
        assert to_millis(system_clock()) >= to_millis(soon)

    def test_a_released_claim(self, waker: PersistenceProvider) -> None:
        waker.create_new_workflow(a_workflow())
        (held,) = waker.claim_runnable_instances("worker", lease=3600)
        self._wakes(waker, lambda: waker.release_claim(held))

    def test_only_what_this_one_can_run(self, waker: PersistenceProvider) -> None:
        mine = [("mine", 1)]
        waker.create_new_workflow(a_workflow(workflow_definition_id="other"))
        assert waker.wait_for_work(SHORT, mine) is False
        thread = Background(lambda: waker.wait_for_work(PATIENCE, mine)).wait_until_inside("wait_for_work")
        waker.create_new_workflow(a_workflow(workflow_definition_id="mine"))
        assert thread.result(SOON) is True

    def test_several_waiters(self, waker: PersistenceProvider) -> None:
        threads = [
            Background(lambda: waker.wait_for_work(PATIENCE)).wait_until_inside("wait_for_work") for _ in range(5)
        ]
        waker.create_new_workflow(a_workflow())
        assert [thread.result(SOON) for thread in threads] == [True] * 5

    def test_closing_ends_the_wait(self, store: StoreUnderTest, waker: PersistenceProvider) -> None:
        waits: list[Callable[[], object]] = [
            lambda: waker.wait_for_work(PATIENCE),
            lambda: waker.wait_for_status("waiting", [WorkflowStatus.COMPLETE], PATIENCE),
        ]
        names = ("wait_for_work", "wait_for_status")
        threads = [Background(wait).wait_until_inside(name) for wait, name in zip(waits, names, strict=True)]
        waker.close()
        for thread in threads:
            with pytest.raises(StoreClosedError):
                thread.result(SOON)

    def test_status_is_there_already(self, waker: PersistenceProvider) -> None:
        for statuses in ([WorkflowStatus.SUSPENDED], set(WorkflowStatus)):
            assert waker.wait_for_status("suspended", statuses, PATIENCE) is WorkflowStatus.SUSPENDED
        assert waker.wait_for_status("suspended", [WorkflowStatus.SUSPENDED], 0) is WorkflowStatus.SUSPENDED

    def test_status_does_not_come(self, waker: PersistenceProvider) -> None:
        assert waker.wait_for_status("suspended", [WorkflowStatus.COMPLETE], SHORT) is None
        assert waker.wait_for_status("suspended", [], 0) is None

    @pytest.mark.parametrize("way", ["change", "persist", "another provider", "another process"])
    def test_status_comes(self, waker: PersistenceProvider, store: StoreUnderTest, way: str) -> None:
        final = [WorkflowStatus.COMPLETE, WorkflowStatus.TERMINATED]
        thread = Background(lambda: waker.wait_for_status("waiting", final, PATIENCE))
        thread.wait_until_inside("wait_for_status")
        waker.change_status("waiting", WorkflowStatus.SUSPENDED)
        assert not thread.done
        if way == "change":
            waker.change_status("waiting", WorkflowStatus.TERMINATED)
        if way == "another provider":
            store.open().change_status("waiting", WorkflowStatus.TERMINATED)
        if way == "persist":
            instance = waker.get_workflow_instance("waiting")
            instance.status = WorkflowStatus.TERMINATED
            waker.persist_workflow(instance)
        if way == "another process":
            assert Victim(store.opener, jobs.terminate, "waiting").await_death() == [True]
        assert thread.result(SOON) is WorkflowStatus.TERMINATED

    def test_status_of_nobody(self, waker: PersistenceProvider) -> None:
        with pytest.raises(WorkflowNotFoundError):
            waker.wait_for_status("nobody", [WorkflowStatus.COMPLETE], PATIENCE)

    def test_status_of_one_that_is_deleted_meanwhile(self, waker: PersistenceProvider) -> None:
        thread = Background(lambda: waker.wait_for_status("waiting", [WorkflowStatus.COMPLETE], PATIENCE))
        thread.wait_until_inside("wait_for_status")
        waker.delete_workflow("waiting")
        with pytest.raises(WorkflowNotFoundError):
            thread.result(SOON)
