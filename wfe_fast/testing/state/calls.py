"""Every method of the contract, used on what its caller has: for tests that count, measure or break each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from wfe_fast.state.contract import StateBackend
from wfe_fast.state.events import WorkflowCompleted
from wfe_fast.state.models import (
    ApiToken,
    Event,
    Snapshot,
    Tenant,
    TenantLimits,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowStatus,
    WorkItem,
)
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.state.factories import (
    QUEUE,
    an_event,
    an_execution,
    an_item,
    claimed,
    completed,
    failed,
    scheduled,
)


@dataclass
class Owned:
    """Something of everything, in the tenant of a backend or view.

    `clock` has passed the end of the lease of `expired`; `held` and `last`, which has no attempt left, are still held.
    """

    clock: ManualClock
    execution: WorkflowExecution
    event: Event
    held: WorkItem
    last: WorkItem
    expired: WorkItem
    queued: WorkItem
    dead: WorkItem
    secret: str
    token: ApiToken
    ended: WorkflowExecution


def build_owned(backend: StateBackend, clock: ManualClock) -> Owned:
    """One of everything."""
    backend.store_workflow(WorkflowDefinition(workflow_id="w", version="1", ir={"a": 1}))
    execution = an_execution(current_state={"list": [1]})
    backend.create_execution(execution)
    event = an_event(execution)
    backend.append_event(event)
    backend.write_snapshot(Snapshot(execution_id=execution.execution_id, at_sequence=1, state={"s": 1}))
    backend.commit_turn(
        claimed(backend, execution, "done"), an_event(execution, completed("done", idempotency_key="k"))
    )
    dead = claimed(backend, execution, "dead")
    backend.move_to_dead_letter(dead, "hopeless")
    backend.reserve_tool_effect("r", execution.execution_id, "n", "me", 1, 10_000)
    secret, token = backend.create_token("t", "r", expires_at=START + timedelta(days=9))
    ended = an_execution()
    backend.create_execution(ended)
    backend.append_events([an_event(ended), an_event(ended, completed("n"))])
    backend.update_execution_status(ended.execution_id, WorkflowStatus.FAILED)
    held = _held(backend, execution, "held", 3, 3600)
    last = _held(backend, execution, "last", 1, 3600)
    expired = _held(backend, execution, "expired", 3, 1)
    queued = an_item(execution, "queued")
    backend.enqueue_work_item(queued)
    clock.advance(100)
    return Owned(clock, execution, event, held, last, expired, queued, dead, secret, token, ended)


def _held(backend: StateBackend, execution: WorkflowExecution, node: str, attempts: int, lease: float) -> WorkItem:
    backend.enqueue_work_item(an_item(execution, node, max_attempts=attempts))
    item = backend.claim_work_item("worker", [QUEUE], lease=lease)
    assert item is not None
    return item


#: A label that begins with the method's name → a call that changes something.
WRITES: dict[str, Callable[[StateBackend, Owned], object]] = {
    "store_workflow": lambda b, o: b.store_workflow(WorkflowDefinition(workflow_id="v", version="1", ir=2)),
    "create_execution": lambda b, o: b.create_execution(an_execution()),
    "update_execution_status": lambda b, o: b.update_execution_status(o.execution.execution_id, WorkflowStatus.PAUSED),
    "update_execution_status cancelled": lambda b, o: b.update_execution_status(
        o.execution.execution_id, WorkflowStatus.CANCELLED
    ),
    "update_execution_current_state": lambda b, o: b.update_execution_current_state(o.execution.execution_id, {"n": 1}),
    "patch_append_array": lambda b, o: b.patch_append_array(o.execution.execution_id, "list", 2),
    "append_event": lambda b, o: b.append_event(an_event(o.execution), expected_sequence=3),
    "append_events": lambda b, o: b.append_events(
        [an_event(o.execution, completed(node, input_tokens=3, cost_usd=0.5)) for node in "abc"]
    ),
    "write_snapshot": lambda b, o: b.write_snapshot(
        Snapshot(execution_id=o.execution.execution_id, at_sequence=2, state={})
    ),
    "enqueue_work_item": lambda b, o: b.enqueue_work_item(an_item(o.execution, "new")),
    "claim_work_item": lambda b, o: b.claim_work_item("w", ["model", QUEUE]),
    "claim_work_item several": lambda b, o: b.claim_work_item("w", [QUEUE], limit=5),
    "renew_lease": lambda b, o: b.renew_lease(o.held, 7200),
    "complete_work_item": lambda b, o: b.complete_work_item(o.held),
    "fail_work_item": lambda b, o: b.fail_work_item(o.held, "e"),
    "fail_work_item for the last time": lambda b, o: b.fail_work_item(o.last, "e"),
    "park_work_item": lambda b, o: b.park_work_item(o.held, o.clock()),
    "reclaim_expired_leases": lambda b, o: b.reclaim_expired_leases(),
    "move_to_dead_letter": lambda b, o: b.move_to_dead_letter(o.held, "e"),
    "move_to_dead_letter by id": lambda b, o: b.move_to_dead_letter(o.queued.id, "e"),
    "requeue_dead_letter": lambda b, o: b.requeue_dead_letter(o.dead.id),
    "purge_dead_letters": lambda b, o: b.purge_dead_letters(1, limit=20),
    "start_execution": lambda b, o: _start(b),
    "schedule_node": lambda b, o: b.schedule_node(an_event(o.execution, scheduled("x")), an_item(o.execution, "x")),
    "commit_turn": lambda b, o: b.commit_turn(
        o.held,
        an_event(o.execution, completed("held", idempotency_key="r", input_tokens=5, cost_usd=0.25)),
        snapshot=True,
    ),
    "commit_turn failed": lambda b, o: b.commit_turn(o.held, an_event(o.execution, failed("held"))),
    "finish_execution": lambda b, o: b.finish_execution(
        an_event(o.execution, WorkflowCompleted(final_state=1)), WorkflowStatus.COMPLETED
    ),
    "finish_execution cancelled": lambda b, o: b.finish_execution(
        an_event(o.execution, failed()), WorkflowStatus.CANCELLED
    ),
    "reserve_tool_effect": lambda b, o: b.reserve_tool_effect("new", o.execution.execution_id, "n", "me", 1),
    "release_tool_reservation": lambda b, o: b.release_tool_reservation("r", "me", 1),
    "create_token": lambda b, o: b.create_token("n", "r"),
    "validate_token": lambda b, o: b.validate_token(o.secret),
    "revoke_token": lambda b, o: b.revoke_token(o.token.id),
    "rotate_token": lambda b, o: b.rotate_token(o.token.id),
    "purge_work_items": lambda b, o: b.purge_work_items(1, limit=20),
    "purge_events": lambda b, o: b.purge_events(1, limit=5),
    "purge_tokens": lambda b, o: b.purge_tokens(o.clock() + timedelta(days=99)),
}

#: What a view of one tenant may not do.
MANAGING: dict[str, Callable[[StateBackend, Owned], object]] = {
    "create_tenant": lambda b, o: b.create_tenant(Tenant(id="new", name="n", limits=TenantLimits(max_workflows=1))),
    "update_tenant": lambda b, o: b.update_tenant(Tenant(id="default", name="changed")),
    "set_store_term_at_least": lambda b, o: b.set_store_term_at_least(5),
    "bump_store_term": lambda b, o: b.bump_store_term(),
}

READS: dict[str, Callable[[StateBackend, Owned], object]] = {
    "get_workflow": lambda b, o: b.get_workflow("w", "1"),
    "get_execution": lambda b, o: b.get_execution(o.execution.execution_id),
    "list_executions": lambda b, o: b.list_executions(limit=2),
    "list_executions by status": lambda b, o: b.list_executions(WorkflowStatus.RUNNING, after=o.ended),
    "count_executions": lambda b, o: b.count_executions(),
    "get_events": lambda b, o: b.get_events(o.execution.execution_id),
    "get_events_since": lambda b, o: b.get_events_since(o.execution.execution_id, 1),
    "latest_sequence": lambda b, o: b.latest_sequence(o.execution.execution_id),
    "latest_snapshot": lambda b, o: b.latest_snapshot(o.execution.execution_id),
    "materialize": lambda b, o: b.materialize(o.execution.execution_id),
    "get_work_item": lambda b, o: b.get_work_item(o.held.id),
    "claim_work_item of nothing": lambda b, o: b.claim_work_item("w", ["model", "general"]),
    "list_dead_letters": lambda b, o: b.list_dead_letters(),
    "get_dead_letter": lambda b, o: b.get_dead_letter(o.dead.id),
    "get_tool_effect": lambda b, o: b.get_tool_effect("k"),
    "list_tokens": lambda b, o: b.list_tokens(),
    "get_tenant": lambda b, o: b.get_tenant(b.tenant_id or "default"),
    "list_tenants": lambda b, o: b.list_tenants(),
}


def _start(backend: StateBackend) -> int:
    execution = an_execution()
    events = [an_event(execution), an_event(execution, scheduled())]
    return backend.start_execution(execution, events, an_item(execution))


def method_of(label: str) -> str:
    """The method that a label is about."""
    return label.split()[0]
