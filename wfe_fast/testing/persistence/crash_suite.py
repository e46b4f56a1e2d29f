"""Processes killed with SIGKILL at random moments: what was acknowledged is there, nothing is half there, and work goes on."""

from __future__ import annotations

import random
from typing import Any

import pytest

from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import ScheduledCommand, WorkflowInstance
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.killing import Victim
from wfe_fast.testing.persistence import jobs
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import FAR, NAME, a_workflow, pointers
from wfe_fast.testing.persistence.state import all_workflows, drain_commands
from wfe_fast.testing.store import StoreUnderTest

ROUNDS = 4


def _numbers(instance: WorkflowInstance) -> set[int]:
    """The numbers in the data, the description and the pointers: one, if the write was whole."""
    numbers = {instance.data["number"], int(instance.description or -1)}
    return numbers | {pointer.persistence_data["number"] for pointer in instance.execution_pointers}


class CrashSuite(Suite):
    """After a SIGKILL at any moment."""

    @pytest.fixture
    def chance(self) -> random.Random:
        """When to kill; other moments each time."""
        return random.Random()

    def _kill_soon(self, victim: Victim, chance: random.Random) -> list[Any]:
        victim.await_acknowledgements(chance.randrange(1, 60))
        return victim.kill(after=chance.random() * 0.002)

    def test_creates(self, store: StoreUnderTest, chance: random.Random) -> None:
        for round in range(ROUNDS):
            acknowledged = self._kill_soon(Victim(store.opener, jobs.create_for_ever, f"r{round}"), chance)
            with store.opener() as provider:
                found = [one for one in all_workflows(provider) if one.id.startswith(f"r{round}-")]
                assert {one.id for one in found} >= set(acknowledged)
                assert len(found) <= len(acknowledged) + 1
                for instance in found:
                    assert instance.id == f"r{round}-{instance.data['number']}"
                    assert [p.step_id for p in instance.execution_pointers] == [0, 1, 2, 3, 4]

    def test_persists(self, store: StoreUnderTest, chance: random.Random) -> None:
        with store.opener() as provider:
            first = a_workflow(id="w", data={"number": 0}, description="0", execution_pointers=pointers(5))
            for pointer in first.execution_pointers:
                pointer.persistence_data = {"number": 0}
            provider.create_new_workflow(first)
        for _ in range(ROUNDS):
            acknowledged = self._kill_soon(Victim(store.opener, jobs.persist_for_ever, "w"), chance)
            with store.opener() as provider:
                loaded = provider.get_workflow_instance("w")
                assert len(loaded.execution_pointers) == 5
                (number,) = _numbers(loaded)
                assert acknowledged[-1] <= number <= acknowledged[-1] + 1

    def test_transactions(self, store: StoreUnderTest, chance: random.Random) -> None:
        total = 0
        with store.opener() as provider:
            provider.create_new_workflow(a_workflow(id="total", data={"count": 0}))
        for round in range(ROUNDS):
            acknowledged = self._kill_soon(Victim(store.opener, jobs.move_for_ever, f"r{round}"), chance)
            with store.opener() as provider:
                found = {one.id for one in all_workflows(provider) if one.id.startswith(f"r{round}-")}
                assert found >= set(acknowledged)
                assert len(found) <= len(acknowledged) + 1
                total += len(found)
                assert provider.get_workflow_instance("total").data == {"count": total}
                assert {id for id in found if len(provider.get_errors(id)) == 1} == found
                assert set(provider.get_events(NAME, f"r{round}", FAR)) == found
                assert {sub.id for sub in provider.get_subscriptions(NAME, f"r{round}", FAR)} == found
                assert {command.data for command in drain_commands(provider)} == found

    def test_events(self, store: StoreUnderTest, chance: random.Random) -> None:
        for round in range(ROUNDS):
            acknowledged = self._kill_soon(Victim(store.opener, jobs.publish_for_ever, f"r{round}"), chance)
            with store.opener() as provider:
                assert len(provider.get_workflow_instances([id for _, id in acknowledged])) == len(acknowledged)
                for what, id in acknowledged:
                    instance = provider.get_workflow_instance(id)
                    published = bool(provider.get_events(NAME, id, FAR))
                    received = instance.execution_pointers[0].event_data == id
                    waits = len(provider.subscriptions_of(id)) == 1
                    assert published is received is not waits
                    assert (instance.next_execution is not None) is received
                    assert published or what == "waits"

    def test_claims(self, store: StoreUnderTest, chance: random.Random) -> None:
        clock = ManualClock()
        with store.opener() as provider:
            for number in range(3):
                provider.create_new_workflow(a_workflow(id=str(number), data={"count": 0}))
        for round in range(ROUNDS):
            acknowledged = self._kill_soon(Victim(store.opener, jobs.work_for_ever, str(round)), chance)
            with store.opener(clock=clock) as provider:
                for instance in all_workflows(provider):
                    steps = [pointer.step_id for pointer in instance.execution_pointers]
                    assert steps == list(range(1, instance.data["count"] + 1))
                counts = {one.id: one.data["count"] for one in all_workflows(provider)}
                told = {id: count for what, id, count in acknowledged if what == "counted"}
                assert all(0 <= counts[id] - count <= 1 for id, count in told.items())
                # This clock is far ahead: every lease has ended, so all of them can go on.
                taken_over = provider.claim_runnable_instances("next", 10)
                assert len(taken_over) == 3
                for instance in taken_over:
                    provider.persist_workflow(instance, release=True)

    def test_a_claim_of_a_dead_process_holds_until_its_lease_ends(self, store: StoreUnderTest) -> None:
        with store.opener() as provider:
            provider.create_new_workflow(a_workflow(id="w", data={"count": 0}))
        victim = Victim(store.opener, jobs.claim_and_wait)
        victim.await_acknowledgements(1)
        victim.kill()
        with store.opener() as provider:
            assert provider.claim_runnable_instances("too early") == []
        clock = ManualClock()
        with store.opener(clock=clock) as provider:
            (instance,) = provider.claim_runnable_instances("next")
            assert instance.claims_without_commit == 2

    def test_a_command_whose_handler_died(self, store: StoreUnderTest) -> None:
        clock = ManualClock()
        with store.opener(clock=clock) as provider:
            for moment, data in enumerate(("first", "second", "third")):
                provider.schedule_command(ScheduledCommand.process_workflow(data, moment))
        victim = Victim(store.opener, jobs.die_in_a_handler)
        assert victim.await_death() == ["first", "second"]
        with store.opener(clock=clock) as provider:  # by this clock the lease has ended long ago
            assert [command.data for command in drain_commands(provider)] == ["second", "third"]

    def test_in_the_middle_of_a_transaction(self, store: StoreUnderTest) -> None:
        for _ in range(2):
            victim = Victim(store.opener, jobs.die_in_a_transaction)
            acknowledged = victim.await_death()
            assert acknowledged == ["before", "in the transaction"]
            with store.opener() as provider:
                assert [one.id for one in all_workflows(provider)] == ["before"]
                assert provider.get_runnable_events(FAR) == []
                provider.delete_workflow("before")

    def test_beside_a_process_that_lives(self, store: StoreUnderTest, chance: random.Random) -> None:
        """Killing one process disturbs no other: the one that lives reads and writes on, through its open provider."""
        survivor: PersistenceProvider = store.open()
        for round in range(3):
            victim = Victim(store.opener, jobs.create_for_ever, f"r{round}")
            victim.await_acknowledgements(5)
            mine = [survivor.create_new_workflow(a_workflow()) for _ in range(10)]
            acknowledged = self._kill_soon(victim, chance)
            mine += [survivor.create_new_workflow(a_workflow()) for _ in range(10)]
            wanted = [*acknowledged, *mine]
            assert len(survivor.get_workflow_instances(wanted)) == len(wanted)
            with store.opener() as provider:
                assert len(provider.get_workflow_instances(wanted)) == len(wanted)
