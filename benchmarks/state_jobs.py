"""What is measured of contract C."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count, islice
from uuid import UUID

from benchmarks.jobs import Call, Job
from wfe_fast.state import (
    Event,
    NodeCompleted,
    NodeScheduled,
    NodeStarted,
    WorkflowExecution,
    WorkflowStatus,
    WorkItem,
)
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.events import AnyEventKind

QUEUE = "tools"

#: As many items as a turn takes.
TURN = 200

#: The execution of all events and items. Recorded statements name it, so it is the same in each store.
EXECUTION = UUID(int=1)

#: Ids of items, in the order in which they are made.
_ids = map(UUID, (f"{number:032x}" for number in count(2)))


def _execution(backend: StateBackend, threads: int) -> None:
    backend.create_execution(
        WorkflowExecution(
            execution_id=EXECUTION, workflow_id="order", workflow_version="1.0.0", status=WorkflowStatus.RUNNING
        )
    )


def enqueue(backend: StateBackend, number: int) -> None:
    """Put so many items into the queue."""
    for id in islice(_ids, number):
        backend.enqueue_work_item(
            WorkItem(
                id=id,
                execution_id=EXECUTION,
                node_id=f"charge {id}",
                queue_type=QUEUE,
                payload={"order": "A-17", "amount": 25.0},
            )
        )


def pending(items: int) -> Callable[[StateBackend, int], None]:
    def fill(backend: StateBackend, threads: int) -> None:
        _execution(backend, threads)
        enqueue(backend, items)

    return fill


def claim_and_complete(backend: StateBackend, thread: int) -> Call:
    """As many items as a turn takes are put into the queue before it, so that about as many are pending all the time."""
    enqueue(backend, TURN)

    def claim_and_complete() -> None:
        item = backend.claim_work_item("worker", [QUEUE])
        assert item is not None
        backend.complete_work_item(item)

    return claim_and_complete


def append(backend: StateBackend, thread: int) -> Call:
    numbers = count()
    return lambda: backend.append_event(
        Event(execution_id=EXECUTION, kind=NodeScheduled(node_id=f"node {next(numbers)}", queue_type=QUEUE))
    )


def _kind(number: int) -> AnyEventKind:
    """The event of this number: of 50 nodes, one after the other, each is scheduled, starts and ends well."""
    step, part = divmod(number - 1, 3)
    node = f"node {step % 50}"
    if part == 0:
        return NodeScheduled(node_id=node, queue_type=QUEUE)
    if part == 1:
        return NodeStarted(node_id=node, worker_id="w", attempt=0)
    return NodeCompleted(node_id=node, output=number, state_patch={f"result {step % 50}": number}, duration_ms=5)


def long_log(events: int) -> Callable[[StateBackend, int], None]:
    """One execution with so many events and no snapshot."""

    def fill(backend: StateBackend, threads: int) -> None:
        _execution(backend, threads)
        for begin in range(1, events + 1, 1000):
            kinds = map(_kind, range(begin, min(begin + 1000, events + 1)))
            backend.append_events([Event(execution_id=EXECUTION, kind=kind) for kind in kinds])

    return fill


def materialize(backend: StateBackend, thread: int) -> Call:
    return lambda: backend.materialize(EXECUTION)


def jobs(many: int, events: int) -> list[Job]:
    """Claims among a few and among many pending items, appending to a short and to a long log, and folding the long one."""
    return [
        Job("claim and complete, 100 pending", pending(100), claim_and_complete),
        Job("claim and complete, many pending", pending(many), claim_and_complete),
        Job("append, short log", _execution, append),
        Job("append, long log", long_log(events), append),
        Job("materialize a long log", long_log(events), materialize, share=0.05),
    ]
