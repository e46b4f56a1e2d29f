"""Random sequences of calls, by hypothesis: after each of them the provider must agree with the plain model."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, ClassVar

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from wfe_fast.clock import to_millis
from wfe_fast.errors import WfeError
from wfe_fast.persistence.contract import PersistenceProvider, PersistenceTransaction
from wfe_fast.persistence.models import FINAL_WORKFLOW_STATUSES, ExecutionPointer, WorkflowInstance, WorkflowStatus
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import (
    FAR,
    NAME,
    a_pointer,
    a_subscription,
    a_workflow,
    an_event,
)
from wfe_fast.testing.persistence.model import Held, Model
from wfe_fast.testing.persistence.state import all_workflows, clear, plain

KEYS = ("a", "b")
LEASE = 10.0

_ids = st.sampled_from(["w1", "w2", "w3"])
_keys = st.sampled_from(KEYS)
_some = st.integers(0, 1000)
_moments = st.sampled_from([0, to_millis(START) - 5, 0, to_millis(START) + 20_000, None, to_millis(FAR)])
_running = [WorkflowStatus.RUNNABLE, WorkflowStatus.SUSPENDED]
_statuses = st.sampled_from([WorkflowStatus.RUNNABLE, *WorkflowStatus])
#: How to change a list of pointers: (what, place, value).
_edits = st.lists(st.tuples(st.sampled_from(["add", "drop", "move", "set"]), _some, st.integers(0, 3)), max_size=4)


#: Enough to find what a hand would not try, and little enough for every run of the tests.
#: A failing sequence is shown as it was found: to make it shorter takes minutes, as every step is a real transaction.
SETTINGS = settings(max_examples=60, stateful_step_count=30, deadline=None, database=None, phases=[Phase.generate])


class _UndoError(Exception):
    pass


def _edit(pointers: list[ExecutionPointer], edits: list[tuple[str, int, int]]) -> None:
    for what, place, value in edits:
        if what == "add" and len(pointers) < 8:
            pointers.insert(place % (len(pointers) + 1), a_pointer(persistence_data=[value]))
        elif pointers:
            pointer = pointers[place % len(pointers)]
            if what == "set":
                pointer.persistence_data = [value, {"place": place % 3}]
            else:
                pointers.remove(pointer)
            if what == "move":
                pointers.insert(value % (len(pointers) + 1), pointer)


class Machine(RuleBasedStateMachine):
    """One provider, one model, and callers that hold instances of different ages."""

    provider: ClassVar[PersistenceProvider]
    clock: ClassVar[ManualClock]

    def __init__(self) -> None:
        super().__init__()
        clear(self.provider)
        self.clock.advance((START - self.clock()).total_seconds())
        self.model = Model(self.clock)
        self.held: list[Held] = []
        self.made = 0

    def _same(self, ours: Callable[[], Any], theirs: Callable[[], Any]) -> Any:
        """Both return, or both raise the same kind of error; what the model returned, or None."""
        try:
            expected = ours()
        except WfeError as error:
            try:
                theirs()
            except type(error):
                return None
            raise AssertionError(f"the provider did not raise {type(error).__name__}") from error
        theirs()
        return expected

    def _new(self, kind: str) -> str:
        self.made += 1
        return f"{kind}{self.made}"

    def _hold(self, held: Held) -> None:
        self.held = [*self.held[-5:], held]

    @initialize(next_execution=_moments)
    def begin(self, next_execution: int | None) -> None:
        """Something is there from the start."""
        for id in ("w1", "w2"):
            self.create(id, id, next_execution, WorkflowStatus.RUNNABLE, [("add", 0, 1), ("add", 0, 2)])

    @rule(id=_ids, name=_ids, next_execution=_moments, status=_statuses, edits=_edits)
    def create(self, id: str, name: str, next_execution: int | None, status: WorkflowStatus, edits: Any) -> None:
        """A workflow, maybe under an id or a name that is taken."""
        made = a_workflow(id=id, name=name, next_execution=next_execution, status=status, create_time=START)
        _edit(made.execution_pointers, edits)
        held = self._same(lambda: self.model.create(made), lambda: self.provider.create_new_workflow(made))
        if held is not None:
            self._hold(held)

    @rule(id=_ids)
    def load(self, id: str) -> None:
        """Take a workflow in hand."""
        row = self._same(lambda: self.model.get(id), lambda: self.provider.get_workflow_instance(id))
        if row is not None:
            self._hold(self.model.hold(self.provider.get_workflow_instance(id)))

    def _change(self, held: Held, edits: Any, next_execution: int | None, status: WorkflowStatus) -> None:
        _edit(held.instance.execution_pointers, edits)
        held.instance.next_execution, held.instance.status = next_execution, status
        # Whether a status that is not final takes an old complete_time away is left open.
        held.instance.complete_time = START if status in FINAL_WORKFLOW_STATUSES else None

    def _has_left(self, held: Held) -> bool:
        return any(self.model.subscriptions[id].workflow_id == held.instance.id for id, _ in self.model.left)

    @precondition(lambda self: self.held)
    @rule(
        which=_some,
        edits=_edits,
        next_execution=_moments,
        status=_statuses,
        unchanged=st.booleans(),
        release=st.booleans(),
    )
    def persist(self, which: int, edits: Any, next_execution: Any, status: Any, unchanged: bool, release: bool) -> None:
        """Persist what somebody has in hand, however old it is."""
        held = self.held[which % len(self.held)]
        if self._has_left(held):
            return
        row = self.model.rows.get(held.instance.id)
        beside = row is not None and row.claim is not None and row.claim.status_changed
        options = {"expect_unchanged": unchanged and not beside, "release": release}
        self._change(held, edits, next_execution, status)
        self._same(
            lambda: self.model.persist(held, **options),
            lambda: self.provider.persist_workflow(held.instance, **options),
        )

    @precondition(lambda self: self.held)
    @rule(which=_some, edits=_edits, next_execution=_moments, status=_statuses)
    def persist_and_undo(self, which: int, edits: Any, next_execution: Any, status: Any) -> None:
        """Persist it in a transaction that is rolled back; the object stays in use."""
        held = self.held[which % len(self.held)]
        self._change(held, edits, next_execution, status)
        try:
            with self.provider.transaction() as tx:
                self._try(tx, held)
                raise _UndoError
        except _UndoError:
            pass

    def _try(self, tx: PersistenceTransaction, held: Held) -> None:
        before = held.instance.status, held.instance.complete_time
        try:
            tx.persist_workflow(held.instance)
        except WfeError:  # a claim that was lost, or a workflow that is gone
            return
        finally:
            held.instance.status, held.instance.complete_time = before

    @rule(id=_ids, to=_statuses, only_from=st.sets(st.sampled_from(_running), min_size=1))
    def change_status(self, id: str, to: WorkflowStatus, only_from: set[WorkflowStatus]) -> None:
        """Change the status beside everybody."""
        expected = self._same(
            lambda: self.model.change_status(id, to, only_from),
            lambda: None if id in self.model.rows else self.provider.change_status(id, to, only_from),
        )
        if expected is not None:
            assert self.provider.change_status(id, to, only_from) is expected

    @rule(id=_ids)
    def delete(self, id: str) -> None:
        """Delete a workflow."""
        self._same(lambda: self.model.delete(id), lambda: self.provider.delete_workflow(id))

    @rule(limit=st.integers(1, 3), ahead=st.booleans())
    def claim(self, limit: int, ahead: bool) -> None:
        """Claim what is due."""
        as_at = FAR if ahead else self.clock()
        free = self.model.claimable(as_at)
        claimed = self.provider.claim_runnable_instances("worker", limit, LEASE, as_at=as_at)
        assert len(claimed) == min(limit, len(free)), (
            f"{[one.id for one in claimed]} of {[row.instance.id for row in free]}"
        )
        moments = [instance.next_execution for instance in claimed]
        assert moments == [row.instance.next_execution for row in free[:limit]]
        for instance in claimed:
            held = self.model.claim(instance.id, instance, LEASE)
            row = self.model.rows[instance.id]
            assert instance.claims_without_commit == row.claims_without_commit
            assert plain(instance) == plain(row.instance)
            self._hold(held)

    @precondition(lambda self: self.held)
    @rule(which=_some)
    def renew(self, which: int) -> None:
        """Renew a claim, or find that it is lost."""
        held = self.held[which % len(self.held)]
        lost = self.provider.renew_claims([held.instance], LEASE)
        assert (lost == []) is self.model.renew(held, LEASE)

    @precondition(lambda self: self.held)
    @rule(which=_some)
    def release(self, which: int) -> None:
        """Give a claim back, and the object away."""
        held = self.held[which % len(self.held)]
        if not self._has_left(held):
            self.held.remove(held)
            self.model.release(held)
            self.provider.release_claim(held.instance)

    @precondition(lambda self: not self.model.left)
    @rule(seconds=st.sampled_from([0.001, 3, 11, 25]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @precondition(lambda self: self.held)
    @rule(which=_some, pointer=_some, key=_keys)
    def subscribe(self, which: int, pointer: int, key: str) -> None:
        """A pointer, maybe one that is no longer stored, begins to wait."""
        instance = self.held[which % len(self.held)].instance
        pointers = [one.id for one in instance.execution_pointers] or ["none"]
        made = a_subscription(
            id=self._new("s"),
            workflow_id=instance.id,
            execution_pointer_id=pointers[pointer % len(pointers)],
            event_key=key,
            subscribe_as_of=self.clock(),
        )
        if instance.id in self.model.rows:
            self.model.subscribe(made)
            self.provider.create_event_subscription(made)

    def _dangling(self) -> bool:
        """Whether a subscription's pointer is no longer stored: what an event does to its workflow then is left open."""
        stored = {one.id for row in self.model.rows.values() for one in row.instance.execution_pointers}
        return any(one.execution_pointer_id not in stored for one in self.model.subscriptions.values())

    def _expired_claims(self) -> bool:
        return any(row.claim is not None and row.claim.until <= self.clock() for row in self.model.rows.values())

    @precondition(lambda self: not self._expired_claims() and not self._dangling())
    @rule(key=_keys, again=st.booleans())
    def publish(self, key: str, again: bool) -> None:
        """Publish an event, maybe one that is stored."""
        if again and self.model.events:
            made = an_event(id=min(self.model.events), event_key=key)
        else:
            made = an_event(id=self._new("e"), event_key=key, event_time=self.clock(), event_data=[self.made])
        self.model.publish(made)
        assert self.provider.publish_event(made) == made.id

    @precondition(lambda self: self.model.left)
    @rule()
    def take(self) -> None:
        """Every holder takes what was left, and persists."""
        for held in self.held:
            row = self.model.rows.get(held.instance.id)
            if row is None or row.claim is None or row.claim.number != held.claim or not self._has_left(held):
                continue
            expected = self.model.take(held)
            with self.provider.transaction() as tx:
                assert sorted(event.id for event in tx.take_events(held.instance)) == expected
                tx.persist_workflow(held.instance)
            self._refresh(held)
        assert not self.model.left

    def _refresh(self, held: Held) -> None:
        self.model.persist(held, expect_unchanged=False, release=False)

    @precondition(lambda self: self.model.subscriptions)
    @rule(which=_some, token=_keys, lease=st.sampled_from([None, 5.0]))
    def set_token(self, which: int, token: str, lease: float | None) -> None:
        """An outside worker wants a subscription."""
        id = sorted(self.model.subscriptions)[which % len(self.model.subscriptions)]
        if any(id == left for left, _ in self.model.left):
            return
        expiry = None if lease is None else self.clock() + timedelta(seconds=lease)
        assert self.provider.set_subscription_token(id, token, token, expiry) is self.model.set_token(id, token, expiry)

    @precondition(lambda self: self.model.subscriptions)
    @rule(which=_some)
    def terminate(self, which: int) -> None:
        """A wait ends."""
        id = sorted(self.model.subscriptions)[which % len(self.model.subscriptions)]
        if any(id == left for left, _ in self.model.left):
            return
        self.model.terminate(id)
        self.provider.terminate_subscription(id)

    @staticmethod
    def _fields(instance: WorkflowInstance, early: set[str]) -> Any:
        fields = plain(instance)
        if instance.id in early:
            del fields["next_execution"]
        return fields

    @invariant()
    def everything_agrees(self) -> None:
        """What can be read is what the model says."""
        model = self.model
        ids = sorted(model.rows)
        left = {id for id, _ in model.left}
        # An event that was left may make its workflow due early, so that it is not forgotten if the holder dies.
        early = {model.subscriptions[id].workflow_id for id in left}
        expected = [self._fields(model.rows[id].instance, early) for id in ids]
        assert [self._fields(one, early) for one in all_workflows(self.provider)] == expected
        assert [self._fields(one, early) for one in self.provider.get_workflow_instances(ids)] == expected
        runnable = self.provider.get_runnable_instances(FAR)
        assert set(runnable) - early == {row.instance.id for row in model.runnable(FAR)} - early
        for key in KEYS:
            found = {one.id: one for one in self.provider.get_subscriptions(NAME, key, FAR) if one.id not in left}
            assert found == {
                id: one for id, one in model.subscriptions.items() if one.event_key == key and id not in left
            }
            stored = {one.id: one for one in self.provider.get_events_since(NAME, key, START - timedelta(days=9))}
            assert stored == {one.id: one for one in model.events.values() if one.event_key == key}
        if (
            not left
            and not self._expired_claims()
            and all(row.claim is None or row in model.runnable(self.clock()) for row in model.rows.values())
        ):
            assert self.provider.next_due() == model.next_due()

    def teardown(self) -> None:
        """Start the next example from nothing."""
        clear(self.provider)


class ModelSuite(Suite):
    """The provider agrees with the model."""

    def test_random_calls(self, provider: PersistenceProvider, clock: ManualClock) -> None:
        machine = type("Machine", (Machine,), {"provider": provider, "clock": clock})
        run_state_machine_as_test(machine, settings=SETTINGS)
