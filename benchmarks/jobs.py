"""What is measured of contract A: jobs as a caller does them, each with the state that it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

from benchmarks.samples import a_workflow, fill_with_sleeping, persist_call
from wfe_fast import Event, EventSubscription, ScheduledCommand, WorkflowInstance
from wfe_fast.clock import EPOCH, system_clock
from wfe_fast.persistence.contract import PersistenceProvider

Call = Callable[[], object]


@dataclass(frozen=True)
class Job:
    """A job.

    Args:
        fill: brings a new store into the state that the job needs, for so many threads.
        call: makes what the thread of this number does again and again.
        share: the part of a turn's calls that it gets; less where it is slow.
    """

    name: str
    fill: Callable[[Any, int], None]
    call: Callable[[Any, int], Call]
    share: float = 1.0


#: So many objects lie ready for one turn, which has no more calls.
PREPARED = 500

#: Numbers that no other call has, of this process.
_numbers = count(1)


def _nothing(provider: PersistenceProvider, threads: int) -> None:
    """An empty store does."""


def _one_each(pointers: int) -> Callable[[PersistenceProvider, int], None]:
    def fill(provider: PersistenceProvider, threads: int) -> None:
        for thread in range(threads):
            provider.create_new_workflow(a_workflow(pointers, f"w{thread}"))

    return fill


def _create(provider: PersistenceProvider, thread: int) -> Call:
    made: Iterator[WorkflowInstance] = iter([a_workflow(10, f"c{next(_numbers)}") for _ in range(PREPARED)])
    return lambda: provider.create_new_workflow(next(made))


def _get(provider: PersistenceProvider, thread: int) -> Call:
    return lambda: provider.get_workflow_instance(f"w{thread}")


def _fill_due(provider: PersistenceProvider, threads: int) -> None:
    fill_with_sleeping(provider, due=100, sleeping=0)


def _runnable(provider: PersistenceProvider, thread: int) -> Call:
    now = system_clock()
    return lambda: provider.get_runnable_instances(now)


def _claim(provider: PersistenceProvider, thread: int) -> Call:
    def claim_and_release() -> None:
        for instance in provider.claim_runnable_instances(f"worker {thread}", 1, lease=60):
            provider.persist_workflow(instance, release=True)

    return claim_and_release


def _deliver(provider: PersistenceProvider, thread: int) -> Call:
    """An event is waited for, comes, and is taken up."""
    workflow = provider.get_workflow_instance(f"w{thread}")

    def deliver() -> None:
        key = f"k{next(_numbers)}"
        subscription = EventSubscription(
            id=key,
            workflow_id=workflow.id,
            step_id=1,
            execution_pointer_id="p",
            event_name="paid",
            event_key=key,
            subscribe_as_of=EPOCH,
        )
        provider.create_event_subscription(subscription)
        provider.publish_event(
            Event(id=key, event_name="paid", event_key=key, event_data={"sum": 5}, event_time=EPOCH + timedelta(days=1))
        )
        provider.take_events(workflow)

    return deliver


def _event(provider: PersistenceProvider, thread: int) -> Call:
    def store_and_mark() -> None:
        id = f"e{next(_numbers)}"
        provider.create_event(Event(id=id, event_name="paid", event_key=id, event_data={"sum": 5}, event_time=EPOCH))
        provider.mark_event_processed(id)

    return store_and_mark


def _command(provider: PersistenceProvider, thread: int) -> Call:
    def schedule_and_process() -> None:
        provider.schedule_command(ScheduledCommand.process_workflow(f"x{next(_numbers)}", 1))
        provider.process_commands(system_clock(), lambda command: None)

    return schedule_and_process


def _step(provider: PersistenceProvider, thread: int) -> Call:
    """What a host stores when a step is done: data, pointer, an event for others, and a command, together."""
    workflow: Any = provider.get_workflow_instance(f"w{thread}")
    numbers = count(1)

    def step() -> None:
        number = next(numbers)
        workflow.next_execution = workflow.execution_pointers[5].retry_count = number
        with provider.transaction() as tx:
            tx.persist_workflow(workflow)
            tx.create_event(
                Event(id=f"s{next(_numbers)}", event_name="done", event_key="k", event_data=None, event_time=EPOCH)
            )
            tx.schedule_command(ScheduledCommand.process_workflow(f"w{thread}", number))

    return step


def _persist(provider: PersistenceProvider, thread: int) -> Call:
    return persist_call(provider, f"w{thread}")


PERSISTS = [Job(f"persist_workflow {n}", _one_each(n), _persist) for n in (10, 100, 1000)]
PERSIST = PERSISTS[0]
CREATE = Job("create_new_workflow 10", _nothing, _create)
GETS = [Job(f"get_workflow_instance {n}", _one_each(n), _get) for n in (10, 100)]

JOBS = [
    *PERSISTS,
    CREATE,
    *GETS,
    Job("get_runnable_instances 100", _fill_due, _runnable),
    Job("claim and release", _fill_due, _claim),
    Job("subscribe, publish, take", _one_each(1), _deliver),
    Job("create and mark event", _nothing, _event),
    Job("schedule and process command", _nothing, _command),
    Job("transaction of a step", _one_each(10), _step),
]
