"""Tenants: scopes, suspension, limits, hostile names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from uuid import UUID

import pytest

from wfe_fast.errors import (
    DuplicateTenantError,
    InvalidValueError,
    SerializationError,
    TenantLimitError,
    TenantNotFoundError,
    TenantScopeError,
    TenantSuspendedError,
    WfeError,
)
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.events import NodeCompleted, WorkflowFailed
from wfe_fast.state.models import (
    ApiToken,
    Snapshot,
    Tenant,
    TenantId,
    TenantLimits,
    TenantStatus,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowStatus,
    WorkItem,
)
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.state.base import StateUnderTest, Suite
from wfe_fast.testing.state.factories import (
    QUEUE,
    an_event,
    an_execution,
    an_item,
    claimed,
    completed,
    scheduled,
)


@dataclass
class World:
    """What the tenant ``owner`` has."""

    execution: WorkflowExecution
    event_id: UUID
    snapshot: Snapshot
    held: WorkItem
    queued: WorkItem
    dead: WorkItem
    token: ApiToken


def build_world(owner: StateBackend) -> World:
    """One of everything."""
    owner.store_workflow(WorkflowDefinition(workflow_id="w", version="1", ir="secret"))
    execution = an_execution()
    owner.create_execution(execution)
    event = an_event(execution)
    owner.append_event(event)
    snapshot = Snapshot(execution_id=execution.execution_id, at_sequence=1, state="secret")
    owner.write_snapshot(snapshot)
    done = claimed(owner, execution, "done")
    owner.commit_turn(done, an_event(execution, completed("done", idempotency_key="k", cost_usd=1.0)))
    dead = claimed(owner, execution, "dead")
    owner.move_to_dead_letter(dead, "secret")
    held = claimed(owner, execution, "held")
    queued = an_item(execution, "queued")
    owner.enqueue_work_item(queued)
    owner.reserve_tool_effect("r", execution.execution_id, "n", "me", 1)
    _, token = owner.create_token("t", "r")
    ended = an_execution()
    owner.create_execution(ended)
    owner.append_event(an_event(ended))
    owner.update_execution_status(ended.execution_id, WorkflowStatus.FAILED)
    return World(execution, event.id, snapshot, held, queued, dead, token)


_E = "ExecutionNotFoundError"
_L = "LeaseLostError"
_D = "DeadLetterNotFoundError"
_S = "TenantScopeError"

#: Each public method, used on what another tenant has: what it returns, or the name of its error.
FOREIGN: dict[str, tuple[Any, Callable[[StateBackend, World], object]]] = {
    "get_workflow": (None, lambda b, w: b.get_workflow("w", "1")),
    "create_execution": ("DuplicateExecutionError", lambda b, w: b.create_execution(w.execution)),
    "get_execution": (None, lambda b, w: b.get_execution(w.execution.execution_id)),
    "update_execution_status": (
        _E,
        lambda b, w: b.update_execution_status(w.execution.execution_id, WorkflowStatus.CANCELLED),
    ),
    "update_execution_current_state": (_E, lambda b, w: b.update_execution_current_state(w.execution.execution_id, 1)),
    "patch_append_array": (_E, lambda b, w: b.patch_append_array(w.execution.execution_id, "k", 1)),
    "list_executions": ([], lambda b, w: [*b.list_executions(), *b.list_executions(WorkflowStatus.RUNNING)]),
    "count_executions": ({}, lambda b, w: b.count_executions()),
    "append_event": (_E, lambda b, w: b.append_event(an_event(w.execution))),
    "append_events": (_E, lambda b, w: b.append_events([an_event(w.execution, id=w.event_id)])),
    "get_events": ([], lambda b, w: b.get_events(w.execution.execution_id)),
    "get_events_since": ([], lambda b, w: b.get_events_since(w.execution.execution_id, 0)),
    "latest_sequence": (0, lambda b, w: b.latest_sequence(w.execution.execution_id)),
    "write_snapshot": (_E, lambda b, w: b.write_snapshot(w.snapshot)),
    "latest_snapshot": (None, lambda b, w: b.latest_snapshot(w.execution.execution_id)),
    "materialize": (_E, lambda b, w: b.materialize(w.execution.execution_id)),
    "enqueue_work_item": (_E, lambda b, w: b.enqueue_work_item(an_item(w.execution))),
    "get_work_item": (None, lambda b, w: b.get_work_item(w.held.id)),
    "claim_work_item": ([], lambda b, w: b.claim_work_item("thief", [QUEUE], limit=9)),
    "renew_lease": (_L, lambda b, w: b.renew_lease(w.held)),
    "complete_work_item": (_L, lambda b, w: b.complete_work_item(w.held)),
    "fail_work_item": (_L, lambda b, w: b.fail_work_item(w.held, "e")),
    "park_work_item": (_L, lambda b, w: b.park_work_item(w.held, START)),
    "move_to_dead_letter": ("WorkItemNotFoundError", lambda b, w: b.move_to_dead_letter(w.held.id, "e")),
    "list_dead_letters": ([], lambda b, w: b.list_dead_letters()),
    "get_dead_letter": (_D, lambda b, w: b.get_dead_letter(w.dead.id)),
    "requeue_dead_letter": (_D, lambda b, w: b.requeue_dead_letter(w.dead.id)),
    "purge_dead_letters": (0, lambda b, w: b.purge_dead_letters(0)),
    "start_execution": (
        "DuplicateExecutionError",
        lambda b, w: b.start_execution(w.execution, [an_event(w.execution)], an_item(w.execution)),
    ),
    "schedule_node": (_E, lambda b, w: b.schedule_node(an_event(w.execution, scheduled()), an_item(w.execution))),
    "commit_turn": (_L, lambda b, w: b.commit_turn(w.held, an_event(w.execution, completed("held")), snapshot=True)),
    "finish_execution": (
        _E,
        lambda b, w: b.finish_execution(an_event(w.execution, WorkflowFailed(error="e")), WorkflowStatus.FAILED),
    ),
    "get_tool_effect": (None, lambda b, w: b.get_tool_effect("k")),
    "reserve_tool_effect": (_E, lambda b, w: b.reserve_tool_effect("k", w.execution.execution_id, "n", "me", 1)),
    "release_tool_reservation": (False, lambda b, w: b.release_tool_reservation("r", "me", 1)),
    "list_tokens": ([], lambda b, w: b.list_tokens()),
    "revoke_token": ("TokenNotFoundError", lambda b, w: b.revoke_token(w.token.id)),
    "rotate_token": ("TokenNotFoundError", lambda b, w: b.rotate_token(w.token.id)),
    "create_tenant": (_S, lambda b, w: b.create_tenant(Tenant(id="new", name="n"))),
    "get_tenant": (None, lambda b, w: b.get_tenant("owner")),
    "update_tenant": (_S, lambda b, w: b.update_tenant(Tenant(id="thief", name="n"))),
    "for_tenant": (_S, lambda b, w: b.for_tenant("owner")),
    "set_store_term_at_least": (_S, lambda b, w: b.set_store_term_at_least(5)),
    "bump_store_term": (_S, lambda b, w: b.bump_store_term()),
    "purge_work_items": (0, lambda b, w: b.purge_work_items(0)),
    "purge_events": (0, lambda b, w: b.purge_events(0)),
    "purge_tokens": (0, lambda b, w: b.purge_tokens(0)),
    "reclaim_expired_leases": ((0, 0), lambda b, w: _counts(b)),
}
#: These name nothing that another tenant could have, or (validate_token) answer every view alike.
OWN = {"store_workflow", "create_token", "validate_token", "list_tenants", "clock", "tenant_id", "migrate", "close"}

HOSTILE = {
    "quotes": "a'; DROP TABLE state_tenants; --\"",
    "percent": "%",
    "underscore": "_",
    "star": "*",
    "look-alike": "оwner",
    "upper case": "OWNER",
    "blank behind": "owner ",
    "zero width": "owner\u200b",
    "composed": "ównér",
    "emoji": "😀",
    "dots": "../owner",
    "newline": "owner\n",
    "1,000 bytes": "x" * 1000,
}


def _counts(backend: StateBackend) -> tuple[int, int]:
    result = backend.reclaim_expired_leases()
    return len(result.retryable), len(result.exhausted)


class ScopeSuite(Suite):
    """A view of one tenant against what another one has."""

    @pytest.fixture
    def world(self, root: StateBackend, clock: ManualClock) -> World:
        root.create_tenant(Tenant(id="owner", name="Owner"))
        root.create_tenant(Tenant(id="thief", name="Thief"))
        made = build_world(root.for_tenant("owner"))
        clock.advance(3600)
        return made

    def test_every_method_is_here(self) -> None:
        public = {name for name, _ in inspect.getmembers(StateBackend) if not name.startswith("_")}
        assert public == FOREIGN.keys() | OWN

    @pytest.mark.parametrize("method", FOREIGN)
    def test_nothing_is_read_and_nothing_changed(
        self, root: StateBackend, world: World, store: StateUnderTest, method: str
    ) -> None:
        expected, call = FOREIGN[method]
        before = store.dump()
        thief = root.for_tenant("thief")
        try:
            result = call(thief, world)
        except WfeError as error:
            assert type(error).__name__ == expected
            assert "secret" not in str(error)
        else:
            assert result == expected
        assert store.dump() == before

    @pytest.mark.parametrize("name", HOSTILE)
    def test_hostile_names_are_just_other_names(
        self, root: StateBackend, world: World, store: StateUnderTest, name: str
    ) -> None:
        view = root.for_tenant(HOSTILE[name])
        for create in (False, True):
            if create:
                root.create_tenant(Tenant(id=HOSTILE[name], name="n"))
            before = store.dump()
            assert view.get_execution(world.execution.execution_id) is None
            assert (view.list_executions(), view.get_events(world.execution.execution_id)) == ([], [])
            assert view.claim_work_item("w", [QUEUE]) is None
            assert len(view.list_tenants()) == create
            assert view.purge_events(0) == view.purge_work_items(0) == view.purge_dead_letters(0) == 0
            assert store.dump() == before
        view.create_execution(an_execution())
        assert len(view.list_executions()) == 1
        found = root.get_tenant(HOSTILE[name])
        assert found is not None
        assert found.id == HOSTILE[name]

    @pytest.mark.parametrize("name", ["", "x" * 1001, "x" * 10_000, "ж" * 501, None, 5, b"owner"])
    def test_names_that_are_refused(self, root: StateBackend, world: World, store: StateUnderTest, name: Any) -> None:
        before = store.dump()
        for call in (root.for_tenant, lambda name: root.create_tenant(Tenant(id=name, name="n"))):
            with pytest.raises(InvalidValueError):
                call(name)
        assert store.dump() == before

    @pytest.mark.parametrize("name", ["a\0b", "\udead"])
    def test_names_that_no_database_holds(self, root: StateBackend, name: str) -> None:
        with pytest.raises(SerializationError):
            root.for_tenant(name)

    def test_a_tenant_that_is_not_there(self, root: StateBackend, store: StateUnderTest) -> None:
        ghost = root.for_tenant(TenantId("ghost"))
        before = store.dump()
        for call in (
            lambda: ghost.create_execution(an_execution()),
            lambda: ghost.store_workflow(WorkflowDefinition(workflow_id="w", version="1", ir=1)),
            lambda: ghost.create_token("t", "r"),
        ):
            with pytest.raises(TenantNotFoundError, match="no tenant 'ghost'"):
                call()
        assert (ghost.list_tenants(), ghost.list_executions()) == ([], [])
        assert store.dump() == before

    def test_workers_serve_all_tenants(self, root: StateBackend, world: World) -> None:
        """Claim unscoped, go on in the item's own tenant; what is written is that tenant's either way."""
        items = root.claim_work_item("w", [QUEUE], limit=9)
        assert [item.tenant_id for item in items] == ["owner"]
        view = root.for_tenant(items[0].tenant_id)
        number = view.commit_turn(items[0], an_event(world.execution, completed(items[0].node_id)), snapshot=True)
        assert view.latest_sequence(world.execution.execution_id) == number
        root.append_event(an_event(world.execution))
        root.enqueue_work_item(an_item(world.execution, "unscoped"))
        assert view.latest_sequence(world.execution.execution_id) == number + 1
        mine = view.claim_work_item("w", [QUEUE])
        assert mine is not None
        assert (mine.node_id, mine.tenant_id) == ("unscoped", "owner")

    def test_definitions_and_lists_are_each_tenants_own(self, root: StateBackend, world: World) -> None:
        thief = root.for_tenant("thief")
        thief.store_workflow(WorkflowDefinition(workflow_id="w", version="1", ir="mine"))
        root.store_workflow(WorkflowDefinition(workflow_id="w", version="1", ir="default's"))
        views = [root.for_tenant("owner"), thief, root, root.for_tenant("default")]
        irs = [found.ir for view in views if (found := view.get_workflow("w", "1"))]
        assert irs == ["secret", "mine", "default's", "default's"]
        assert len(root.list_executions()) == 2

    def test_an_id_of_another_tenants_event(self, root: StateBackend, world: World, store: StateUnderTest) -> None:
        thief = root.for_tenant("thief")
        own = an_execution()
        thief.create_execution(own)
        before = store.dump()
        with pytest.raises(WfeError) as caught:
            thief.append_event(an_event(own, id=world.event_id))
        assert type(caught.value).__name__ == "DuplicateEventError"
        assert str(world.execution.execution_id) not in str(caught.value)
        assert store.dump() == before

    def test_scope_error_is_one_of_ours(self, root: StateBackend) -> None:
        with pytest.raises(TenantScopeError, match="acme"):
            root.for_tenant("acme").for_tenant("acme")


#: New work of each kind.
WORK: dict[str, Callable[[StateBackend, WorkflowExecution], object]] = {
    "create_execution": lambda b, e: b.create_execution(an_execution()),
    "start_execution": lambda b, e: b.start_execution(an_execution()),
    "enqueue_work_item": lambda b, e: b.enqueue_work_item(an_item(e, "new")),
    "schedule_node": lambda b, e: b.schedule_node(an_event(e, scheduled("new")), an_item(e, "new")),
    "store_workflow": lambda b, e: b.store_workflow(WorkflowDefinition(workflow_id="w", version="1", ir=1)),
}


class TenantSuite(Suite):
    """Managing tenants, suspension, limits."""

    @pytest.fixture
    def acme(self, root: StateBackend) -> StateBackend:
        root.create_tenant(Tenant(id="acme", name="Acme"))
        return root.for_tenant("acme")

    def test_create_read_update(self, root: StateBackend, clock: ManualClock) -> None:
        made = Tenant(
            id="acme",
            name="Acme",
            policy={"rules": [1]},
            limits=TenantLimits(max_workflows=5, max_cost_per_month_usd=1.5),
            created_at=START,
            updated_at=START,
        )
        root.create_tenant(made)
        assert root.get_tenant("acme") == made
        assert root.for_tenant("acme").get_tenant("acme") == made
        assert [tenant.id for tenant in root.list_tenants()] == ["default", "acme"]
        assert root.for_tenant("acme").list_tenants() == [made]
        assert root.get_tenant("nobody") is None
        clock.advance(5)
        changed = Tenant(id="acme", name="New", status=TenantStatus.SUSPENDED)
        root.update_tenant(changed)
        found = root.get_tenant("acme")
        assert found is not None
        assert (found.name, found.status, found.policy, found.limits) == ("New", TenantStatus.SUSPENDED, None, None)
        assert (found.created_at, found.updated_at) == (START, clock())
        with pytest.raises(DuplicateTenantError):
            root.create_tenant(made)
        with pytest.raises(TenantNotFoundError):
            root.update_tenant(Tenant(id="nobody", name="n"))

    def test_an_unknown_status_is_an_error(self, root: StateBackend) -> None:
        wrong: Any = "frozen"
        with pytest.raises(InvalidValueError, match="status"):
            root.create_tenant(Tenant(id="a", name="n", status=wrong))
        with pytest.raises(ValueError, match="frozen"):
            TenantStatus("frozen")

    @pytest.mark.parametrize("work", WORK)
    @pytest.mark.parametrize("status", [TenantStatus.SUSPENDED, TenantStatus.ARCHIVED])
    @pytest.mark.parametrize("scoped", [True, False])
    def test_no_new_work(
        self,
        root: StateBackend,
        acme: StateBackend,
        store: StateUnderTest,
        work: str,
        status: TenantStatus,
        scoped: bool,
    ) -> None:
        execution = an_execution()
        acme.create_execution(execution)
        item = claimed(acme, execution)
        root.update_tenant(Tenant(id="acme", name="Acme", status=status))
        before = store.dump()
        if scoped or work in ("enqueue_work_item", "schedule_node"):
            with pytest.raises(TenantSuspendedError, match=status.value):
                WORK[work](acme if scoped else root, execution)
            assert store.dump() == before
        acme.renew_lease(item)
        acme.commit_turn(item, an_event(execution, completed()))
        acme.update_execution_status(execution.execution_id, WorkflowStatus.COMPLETED)
        assert acme.latest_sequence(execution.execution_id) == 1

    def test_concurrent_executions(self, root: StateBackend, acme: StateBackend, store: StateUnderTest) -> None:
        root.update_tenant(Tenant(id="acme", name="A", limits=TenantLimits(max_concurrent_executions=2)))
        first = an_execution(status=WorkflowStatus.PAUSED)
        acme.create_execution(first)
        acme.create_execution(an_execution(status=WorkflowStatus.COMPLETED))
        acme.start_execution(an_execution(status=WorkflowStatus.PENDING))
        before = store.dump()
        for call in (acme.create_execution, acme.start_execution):
            with pytest.raises(TenantLimitError) as caught:
                call(an_execution())
            assert (caught.value.limit, caught.value.maximum) == ("max_concurrent_executions", 2)
        assert store.dump() == before
        root.create_execution(an_execution())
        acme.update_execution_status(first.execution_id, WorkflowStatus.CANCELLED)
        acme.create_execution(an_execution())

    def test_workflows(self, root: StateBackend, acme: StateBackend) -> None:
        root.update_tenant(Tenant(id="acme", name="A", limits=TenantLimits(max_workflows=2)))
        for id, version in (("a", "1"), ("b", "1"), ("a", "2"), ("b", "1")):
            acme.store_workflow(WorkflowDefinition(workflow_id=id, version=version, ir=1))
        with pytest.raises(TenantLimitError, match="max_workflows of 2"):
            acme.store_workflow(WorkflowDefinition(workflow_id="c", version="1", ir=1))
        root.store_workflow(WorkflowDefinition(workflow_id="c", version="1", ir=1))

    @pytest.mark.parametrize("work", WORK)
    @pytest.mark.parametrize(
        ("limits", "name"),
        [
            (TenantLimits(max_tokens_per_month=10), "max_tokens_per_month"),
            (TenantLimits(max_cost_per_month_usd=1.5), "max_cost_per_month_usd"),
        ],
    )
    def test_a_month(self, store: StateUnderTest, limits: TenantLimits, name: str, work: str) -> None:
        clock = ManualClock(datetime(2100, 1, 31, 23, 59, 58, tzinfo=timezone.utc))
        root = store.open(clock=clock)
        root.create_tenant(Tenant(id="acme", name="A", limits=limits))
        acme = root.for_tenant("acme")
        execution = an_execution()
        acme.create_execution(execution)
        acme.append_event(an_event(execution, completed(input_tokens=4, output_tokens=5, cost_usd=1.0)))
        item = claimed(acme, execution)
        acme.commit_turn(item, an_event(execution, completed(input_tokens=1, cost_usd=0.5)))
        before = store.dump()
        with pytest.raises(TenantLimitError, match=name):
            WORK[work](acme, execution)
        assert store.dump() == before
        clock.advance(2)
        WORK[work](acme, execution)

    def test_limits_beyond_32_bits(self, root: StateBackend, acme: StateBackend) -> None:
        many = TenantLimits(max_workflows=3_000_000_000, max_concurrent_executions=3_000_000_000)
        root.update_tenant(Tenant(id="acme", name="A", limits=many))
        acme.store_workflow(WorkflowDefinition(workflow_id="w", version="1", ir=1))
        acme.create_execution(an_execution())
        acme.start_execution(an_execution())
        found = root.get_tenant("acme")
        assert found is not None
        assert found.limits == many

    def test_a_negative_cost_gives_nothing_back(self, root: StateBackend, acme: StateBackend) -> None:
        root.update_tenant(Tenant(id="acme", name="A", limits=TenantLimits(max_cost_per_month_usd=1.0)))
        execution = an_execution()
        acme.create_execution(execution)
        acme.append_events(
            [an_event(execution, completed(cost_usd=1.0)), an_event(execution, completed(cost_usd=-1.0))]
        )
        kind = acme.get_events(execution.execution_id)[-1].kind
        assert isinstance(kind, NodeCompleted)
        assert kind.cost_usd == -1.0
        with pytest.raises(TenantLimitError, match="max_cost_per_month_usd"):
            acme.create_execution(an_execution())

    def test_wrong_limits(self, root: StateBackend) -> None:
        half: Any = 1.5
        for limits in (
            TenantLimits(max_workflows=-1),
            TenantLimits(max_tokens_per_month=half),
            TenantLimits(max_cost_per_month_usd=float("nan")),
            TenantLimits(max_cost_per_month_usd=10**400),
            TenantLimits(max_concurrent_executions=True),
            {"max_workflows": 1},
        ):
            wrong: Any = limits
            with pytest.raises(InvalidValueError, match="limits"):
                root.create_tenant(Tenant(id="a", name="n", limits=wrong))
