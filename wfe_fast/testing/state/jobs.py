"""What racing threads and processes do. Functions of a module, so that a process that starts from nothing finds them."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from wfe_fast.errors import InvalidTransitionError, LeaseLostError
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.events import NodeScheduled, ToolCalled, WorkflowCompleted
from wfe_fast.state.models import Event, WorkflowStatus, WorkItem
from wfe_fast.testing.state.factories import QUEUE, completed


def append_many(backend: StateBackend, execution_id: UUID, racer: str, count: int) -> list[int]:
    """Append events one by one; their numbers."""
    events = [Event(execution_id=execution_id, kind=ToolCalled(node_id=racer, tool=str(n))) for n in range(count)]
    return [backend.append_event(event) for event in events]


def claim_all(backend: StateBackend, worker: str, limit: int) -> list[str]:
    """Claim until nothing is left; the ids."""
    found: list[str] = []
    while items := backend.claim_work_item(worker, ["model", QUEUE], lease=600, limit=limit):
        found += [str(item.id) for item in items]
    return found


def patch_many(backend: StateBackend, execution_id: UUID, racer: str, count: int) -> int:
    """Append to one array."""
    for number in range(count):
        backend.patch_append_array(execution_id, "marks", f"{racer}:{number}")
    return count


def cancel_or_work(backend: StateBackend, execution_id: UUID, role: str) -> list[str]:
    """Cancel the execution, or claim and complete its items as long as there are any; what was completed."""
    if role == "cancel":
        backend.update_execution_status(execution_id, WorkflowStatus.CANCELLED)
        return []
    done: list[str] = []
    while (item := backend.claim_work_item(role, [QUEUE], lease=600)) is not None:
        try:
            backend.commit_turn(item, Event(execution_id=execution_id, kind=completed(item.node_id)))
        except LeaseLostError:
            continue
        done.append(item.node_id)
    return done


def complete_or_reclaim(backend: StateBackend, item_id: UUID, role: str) -> str:
    """Settle an item whose lease has run out, or end its lease; who won."""
    if role == "reclaim":
        return "reclaim" if backend.reclaim_expired_leases().retryable else ""
    item = backend.get_work_item(item_id)
    assert item is not None
    try:
        backend.complete_work_item(item)
    except LeaseLostError:
        return ""
    return "complete"


def snapshot_or_append(backend: StateBackend, execution_id: UUID, role: str, count: int) -> int:
    """Complete nodes and take snapshots as one transaction, or append events beside it."""
    if role == "append":
        return len(append_many(backend, execution_id, role, count))
    done = 0
    while (item := backend.claim_work_item(role, [QUEUE], lease=600)) is not None:
        backend.commit_turn(item, Event(execution_id=execution_id, kind=completed(item.node_id)), snapshot=True)
        done += 1
    return done


def finish(backend: StateBackend, execution_id: UUID, racer: str) -> bool:
    """Try to end the execution; whether it was us."""
    event = Event(execution_id=execution_id, kind=WorkflowCompleted(final_state=racer))
    try:
        backend.finish_execution(event, WorkflowStatus.COMPLETED)
    except InvalidTransitionError:
        return False
    return True


def work_and_tell(backend: StateBackend, acknowledge: Callable[[object], None], execution_id: UUID) -> None:
    """Schedule and commit nodes, one after the other and with snapshots, and tell of each."""
    number = 0
    while True:
        node = f"n{number}"
        kind = NodeScheduled(node_id=node, queue_type=QUEUE)
        backend.schedule_node(
            Event(execution_id=execution_id, kind=kind),
            WorkItem(execution_id=execution_id, node_id=node, queue_type=QUEUE),
        )
        item = backend.claim_work_item("victim", [QUEUE], lease=600)
        assert item is not None
        done = completed(node, idempotency_key=node, input_tokens=1)
        backend.commit_turn(item, Event(execution_id=execution_id, kind=done), snapshot=number % 3 == 0)
        acknowledge(node)
        number += 1
