"""Races: threads of one provider, and processes with a provider each, start at a barrier and want the same."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from wfe_fast.errors import ConcurrentUpdateError, WfeError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import ScheduledCommand, WorkflowStatus
from wfe_fast.testing.persistence import jobs
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import (
    FAR,
    KEY,
    NAME,
    a_pointer,
    a_subscription,
    a_workflow,
    an_event,
    pointers,
    waiting_workflow,
)
from wfe_fast.testing.persistence.state import all_workflows
from wfe_fast.testing.racing import race_processes, race_threads, values, winners_and_errors
from wfe_fast.testing.store import StoreUnderTest

Job = Callable[..., Any]
#: Runs ``job(provider, *arguments)`` for each arguments at once, and returns the results; raises the first error.
Race = Callable[[Job, Sequence[tuple[Any, ...]]], list[Any]]

RACERS = 4


class RaceSuite(Suite):
    """Nothing is handed out twice, nothing is lost, nothing is half there."""

    @pytest.fixture
    def shared(self, store: StoreUnderTest) -> PersistenceProvider:
        """A provider on the machine's clock."""
        return store.open()

    @pytest.fixture(params=["threads", "processes", "providers"])
    def race(self, request: pytest.FixtureRequest, store: StoreUnderTest, shared: PersistenceProvider) -> Race:
        """Threads of one provider, processes, or threads with a provider each."""

        def by_processes(job: Job, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
            return values(race_processes(store.opener, job, arguments))

        def by_threads(job: Job, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
            own = request.param == "providers"
            providers = [store.open() if own else shared for _ in arguments]
            calls = [partial(job, provider, *args) for provider, args in zip(providers, arguments, strict=True)]
            return values(race_threads(calls))

        return by_processes if request.param == "processes" else by_threads

    def test_creates(self, race: Race, shared: PersistenceProvider) -> None:
        made = race(jobs.create_many, [(f"{racer}-", 10) for racer in range(RACERS)])
        ids = sorted(id for ids in made for id in ids)
        assert len(set(ids)) == 10 * RACERS
        found = shared.get_workflow_instances(ids)
        assert [instance.id for instance in found] == ids
        assert {len(instance.execution_pointers) for instance in found} == {3}

    def test_one_name_once(self, race: Race, shared: PersistenceProvider) -> None:
        names = [f"name {number}" for number in range(12)]
        won = race(jobs.create_named, [(names,)] * RACERS)
        assert sorted(name for names in won for name in names) == sorted(names)
        assert sorted(instance.name for instance in all_workflows(shared)) == sorted(names)

    def test_sequence_numbers(self, race: Race) -> None:
        drawn = race(jobs.draw_sequence, [("order", 25)] * RACERS)
        assert sorted(number for numbers in drawn for number in numbers) == list(range(1, 25 * RACERS + 1))
        assert all(numbers == sorted(numbers) for numbers in drawn)

    def test_each_workflow_is_claimed_once(self, race: Race, shared: PersistenceProvider) -> None:
        for number in range(40):
            shared.create_new_workflow(a_workflow(id=str(number)))
        claimed = race(jobs.claim_until_none, [(str(racer), 1 + racer) for racer in range(RACERS)])
        assert sorted(id for ids in claimed for id in ids) == sorted(map(str, range(40)))

    def test_claim_work_release(self, race: Race, shared: PersistenceProvider) -> None:
        for number in range(6):
            shared.create_new_workflow(a_workflow(id=str(number), data={"count": 0}))
        passes = race(jobs.work_until_done, [(str(racer),) for racer in range(RACERS)])
        assert sum(passes) == 60
        for instance in all_workflows(shared):
            assert (instance.data, instance.status) == ({"count": 10}, WorkflowStatus.COMPLETE)
            assert [pointer.step_id for pointer in instance.execution_pointers] == list(range(1, 11))

    def test_each_command_is_handled_once(self, race: Race, shared: PersistenceProvider) -> None:
        expected = sorted(map(str, range(40)))
        for number, data in enumerate(expected):
            shared.schedule_command(ScheduledCommand.process_workflow(data, number))
        handled = race(jobs.process_all, [(40,)] * RACERS)
        assert sorted(data for found in handled for data in found) == expected

    def test_one_token(self, race: Race, shared: PersistenceProvider) -> None:
        shared.create_event_subscription(a_subscription(id="s"))
        tokens = [str(racer) for racer in range(RACERS)]
        won = race(jobs.set_token, [("s", token) for token in tokens])
        assert won.count(True) == 1
        assert shared.get_subscription("s").external_token == tokens[won.index(True)]

    def test_each_activity_is_taken_once(self, race: Race, shared: PersistenceProvider) -> None:
        for number in range(30):
            shared.create_event_subscription(a_subscription(id=str(number)))
        taken = race(jobs.claim_subscriptions, [(str(racer),) for racer in range(RACERS)])
        assert sorted(id for ids in taken for id in ids) == sorted(map(str, range(30)))

    def test_no_update_is_lost(self, race: Race, shared: PersistenceProvider) -> None:
        shared.create_new_workflow(a_workflow(id="w", data={"marks": []}))
        race(jobs.persist_unchanged, [("w", f"{racer}:", 8) for racer in range(RACERS)])
        loaded = shared.get_workflow_instance("w")
        expected = [f"{racer}:{number}" for racer in range(RACERS) for number in range(8)]
        assert sorted(loaded.data["marks"]) == expected
        assert [pointer.step_name for pointer in loaded.execution_pointers] == loaded.data["marks"]

    def test_publish_against_subscribe(self, race: Race, shared: PersistenceProvider) -> None:
        """Either the one that begins to wait finds the event, or the event finds the one that waits. Never neither, never both."""
        for round in range(3 if race.__name__ == "by_processes" else 15):
            ids = [f"{round}-{number}" for number in range(2)]
            for id in ids:
                shared.create_new_workflow(a_workflow(id=id, execution_pointers=[a_pointer()]))
            key = str(round)
            everybody = [(jobs.subscribe_in_a_pass, id, key) for id in ids] + [(jobs.publish, key, key)]
            seen = race(_call, everybody)
            for id, found in zip(ids, seen, strict=False):
                received = shared.get_workflow_instance(id).execution_pointers[0].event_data
                assert (found, received) in (([key], None), ([], key))

    def test_the_same_events_published_by_all(self, race: Race, shared: PersistenceProvider) -> None:
        waiting = [waiting_workflow(shared)[0] for _ in range(5)]
        ids = [f"e{number}" for number in range(5)]
        race(jobs.publish_many, [(ids[racer:] + ids[:racer],) for racer in range(RACERS)])
        assert sorted(shared.get_events(NAME, KEY, FAR)) == ids
        received = [shared.get_workflow_instance(one.id).execution_pointers[0].event_data for one in waiting]
        assert len(set(received)) == 1
        assert received[0] in ids

    def test_dispatch(self, race: Race, shared: PersistenceProvider) -> None:
        waiting = [waiting_workflow(shared)[0] for _ in range(30)]
        jobs.publish(shared, "other", 0)
        shared.publish_event(an_event(id="e", event_data=1), limit=1)
        race(jobs.dispatch_until_none, [(3,)] * RACERS)
        found = shared.get_workflow_instances([one.id for one in waiting])
        assert [one.execution_pointers[0].event_data for one in found] == [1] * 30
        assert shared.get_event("e").is_processed is True
        assert shared.get_subscriptions(NAME, KEY, FAR) == []

    def test_many_open_a_new_store_at_once(self, store: StoreUnderTest) -> None:
        assert values(race_processes(store.opener, jobs.open_and_ensure, [()] * 6)) == [True] * 6

    def test_threads_open_a_new_store_at_once(self, store: StoreUnderTest) -> None:
        outcomes = race_threads([lambda: jobs.open_and_ensure(store.open())] * 6)
        assert values(outcomes) == [True] * 6

    def test_exactly_one_persist_of_one_revision(self, shared: PersistenceProvider) -> None:
        shared.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(3)))
        for _ in range(10):
            loaded = [shared.get_workflow_instance("w") for _ in range(8)]
            for number, instance in enumerate(loaded):
                instance.data = {"by": number}
                instance.execution_pointers[number % 3].persistence_data = {"by": number}
            outcomes = race_threads(
                [partial(shared.persist_workflow, instance, expect_unchanged=True) for instance in loaded]
            )
            won, errors = winners_and_errors(outcomes)
            assert len(won) == 1
            assert {type(error) for error in errors} == {ConcurrentUpdateError}
            assert shared.get_workflow_instance("w") == loaded[outcomes.index(next(o for o in outcomes if o.values))]

    def test_readers_see_whole_workflows_while_they_are_written(self, shared: PersistenceProvider) -> None:
        shared.create_new_workflow(a_workflow(id="w", data=0, execution_pointers=pointers(20)))

        def write() -> None:
            instance = shared.get_workflow_instance("w")
            for number in range(60):
                instance.data = number
                instance.execution_pointers = [a_pointer(outcome=number) for _ in range(20 - number % 7)]
                shared.persist_workflow(instance)

        def read() -> None:
            while True:
                seen = shared.get_workflow_instance("w")
                if seen.data == 59:
                    return
                outcomes = {pointer.outcome for pointer in seen.execution_pointers}
                assert outcomes in ({seen.data}, {None}), "a torn read"
                assert len(seen.execution_pointers) == 20 - seen.data % 7

        values(race_threads([write, read, read, read]))

    def test_claims_renewals_and_takeovers(self, shared: PersistenceProvider) -> None:
        """Leases so short that they end under their holders: a count is still never lost, and never counted twice."""
        shared.create_new_workflow(a_workflow(id="w", data={"count": 0}))

        def work(worker: str) -> int:
            commits = 0
            for _ in range(60):
                for instance in shared.claim_runnable_instances(worker, lease=0.001):
                    instance.data["count"] += 1
                    try:
                        shared.persist_workflow(instance, release=True)
                    except WfeError:
                        continue
                    commits += 1
            return commits

        counted = values(race_threads([partial(work, str(racer)) for racer in range(RACERS)]))
        assert shared.get_workflow_instance("w").data["count"] == sum(counted) > 0

    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child(self, store: StoreUnderTest, shared: PersistenceProvider) -> None:
        """A child of fork opens the store for itself; the provider that it inherited works or refuses, and harms nobody."""
        shared.create_new_workflow(a_workflow(id="before"))
        fork = multiprocessing.get_context("fork")
        receiver, sender = fork.Pipe(duplex=False)
        child = fork.Process(target=_in_the_child, args=(store.opener, shared, sender.send), daemon=True)
        child.start()
        shared.create_new_workflow(a_workflow(id="parent"))
        assert receiver.poll(60)
        inherited, created = receiver.recv()
        child.join(60)
        assert child.exitcode == 0
        assert inherited in ("worked", "refused")
        expected = {"before": 1, "parent": 1, created: 1} | ({"inherited": 1} if inherited == "worked" else {})
        assert Counter(instance.id for instance in all_workflows(shared)) == expected
        shared.create_new_workflow(a_workflow(id="after"))


def _call(provider: PersistenceProvider, job: Job, *arguments: Any) -> Any:
    """One job among several kinds."""
    return job(provider, *arguments)


def _in_the_child(
    opener: Callable[..., PersistenceProvider], inherited: PersistenceProvider, send: Callable[[Any], None]
) -> None:
    try:
        inherited.create_new_workflow(a_workflow(id="inherited"))
        answer = "worked"
    except WfeError:
        answer = "refused"
    with opener() as provider:
        created = provider.create_new_workflow(a_workflow(id=f"child {os.getpid()}"))
    send((answer, created))
