"""The workflows that are stored, and calls of a provider that store them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from wfe_fast import ExecutionPointer, PointerStatus, WorkflowInstance, WorkflowStatus
from wfe_fast.clock import system_clock, to_millis
from wfe_fast.persistence.contract import PersistenceProvider

#: Workflows that are created together.
_BATCH = 500

#: Later than any moment of a benchmark, in epoch milliseconds.
_FAR = to_millis(system_clock()) + 10**9

#: The pointer that changes.
CHANGED = 5


def a_workflow(pointers: int, id: str = "w0") -> WorkflowInstance:
    """A workflow of steps that are done, as a worker has it in the middle of its life."""
    return WorkflowInstance(
        id=id,
        workflow_definition_id="order",
        data={"customer": "A-17", "items": ["tea", "cup"], "total": 25.0},
        execution_pointers=[a_pointer(id, number) for number in range(pointers)],
    )


def a_pointer(workflow: str, number: int) -> ExecutionPointer:
    """A step that is done."""
    now = system_clock()
    return ExecutionPointer(
        id=f"{workflow}-{number}",
        step_id=number,
        step_name=f"step {number}",
        status=PointerStatus.COMPLETE,
        active=False,
        start_time=now,
        end_time=now,
        outcome={"n": number},
    )


def persist_call(provider: PersistenceProvider, id: str) -> Callable[[], None]:
    """One persist of a loaded workflow of which one pointer changes."""
    workflow = provider.get_workflow_instance(id)
    numbers = count(1)

    def persist() -> None:
        workflow.next_execution = workflow.execution_pointers[CHANGED].retry_count = next(numbers)
        provider.persist_workflow(workflow)

    return persist


def _sleeping(id: str, due: int) -> WorkflowInstance:
    """A workflow of one step that goes on at `due`, in epoch milliseconds."""
    return WorkflowInstance(
        id=id,
        workflow_definition_id="order",
        next_execution=due,
        execution_pointers=[ExecutionPointer(id=f"{id}-0", step_id=0, step_name="wait", status=PointerStatus.SLEEPING)],
    )


def fill_with_finished(provider: PersistenceProvider, number: int) -> None:
    """Store so many workflows that are done."""

    def finished(one: int) -> WorkflowInstance:
        done = a_workflow(10, f"f{one}")
        done.status, done.complete_time = WorkflowStatus.COMPLETE, done.create_time
        return done

    _fill(provider, number, finished)


def fill_with_sleeping(provider: PersistenceProvider, due: int, sleeping: int) -> None:
    """Store so many workflows whose time has come, and so many that sleep on."""
    _fill(provider, due, lambda one: _sleeping(f"due{one}", one + 1))
    _fill(provider, sleeping, lambda one: _sleeping(f"sleeps{one}", _FAR + one))


def _fill(provider: PersistenceProvider, number: int, make: Callable[[int], WorkflowInstance]) -> None:
    for begin in range(0, number, _BATCH):
        with provider.transaction() as tx:
            for one in range(begin, min(begin + _BATCH, number)):
                tx.create_new_workflow(make(one))
