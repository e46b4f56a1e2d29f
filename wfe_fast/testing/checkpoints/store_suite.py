"""The store as a whole: schema, transactions, bad arguments, life and death, races, crashes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from wfe_fast.checkpoints.contract import CheckpointStore, CheckpointTransaction
from wfe_fast.checkpoints.models import ExecutionStatus
from wfe_fast.errors import (
    ClaimLostError,
    ExecutionNotFoundError,
    InvalidStateError,
    InvalidValueError,
    SerializationError,
    StoreClosedError,
    WfeError,
)
from wfe_fast.testing.checkpoints.base import StoresUnderTest, Suite
from wfe_fast.testing.checkpoints.factories import (
    EXECUTION,
    WORKFLOW,
    a_checkpoint,
    a_signal,
    a_timer,
    a_workflow,
    an_execution,
    at,
    claimed,
    ids,
    saved,
)
from wfe_fast.testing.killing import Acknowledge, Victim
from wfe_fast.testing.racing import race_processes, race_threads, values, winners_and_errors

RUNNING = ExecutionStatus.RUNNING


class SchemaSuite(Suite):
    """The tables."""

    def test_a_new_store_is_valid(self, empty: CheckpointStore) -> None:
        report = empty.validate_schema()
        assert (report.missing_tables, report.missing_indexes, report.missing_columns) == ([], [], [])
        assert report.pragma_issues == {}
        assert report
        assert report.is_valid

    def test_migrating_again_changes_nothing(self, store: CheckpointStore) -> None:
        version = store.schema_version
        store.migrate()
        assert store.schema_version == version >= 1
        assert store.load_workflow(WORKFLOW) == a_workflow()

    def test_it_is_what_the_contract_says(self, empty: CheckpointStore) -> None:
        assert isinstance(empty, CheckpointStore)
        with empty.transaction() as tx:
            assert not isinstance(tx, CheckpointStore)


class TransactionSuite(Suite):
    """Several saves in one transaction."""

    def everything(self, store: CheckpointTransaction) -> None:
        store.save_workflow(a_workflow("new"))
        store.save_execution(an_execution("new", workflow_id="new"))
        store.save_checkpoints(
            [a_checkpoint(workflow_execution_id="new"), a_checkpoint(1, workflow_execution_id="new")]
        )
        store.save_timer(a_timer(workflow_execution_id="new"))
        store.save_signal(a_signal(workflow_execution_id="new"))

    def test_all_of_it(self, store: CheckpointStore) -> None:
        with store.transaction() as tx:
            self.everything(tx)
            assert tx.load_execution("new") is not None
        assert len(store.load_checkpoints("new")) == 2
        assert len(store.load_pending_timers()) == len(store.load_pending_signals("new")) == 1

    def test_nothing_of_it(self, store: CheckpointStore) -> None:
        with pytest.raises(ZeroDivisionError), store.transaction() as tx:
            self.everything(tx)
            raise ZeroDivisionError
        assert store.load_workflow("new") is None
        assert store.load_execution("new") is None
        assert store.load_pending_timers() == []

    def test_a_failed_write_takes_all_of_it_back(self, store: CheckpointStore) -> None:
        with pytest.raises(WfeError), store.transaction() as tx:
            tx.save_execution(an_execution())
            tx.save_checkpoints([a_checkpoint(), a_checkpoint(workflow_execution_id="nobody")])
        assert store.load_execution(EXECUTION) is None

    def test_a_refused_value_leaves_it_usable(self, store: CheckpointStore) -> None:
        with store.transaction() as tx:
            tx.save_execution(an_execution())
            with pytest.raises(InvalidValueError):
                tx.save_checkpoint(a_checkpoint(attempt=-1))
            tx.save_checkpoint(a_checkpoint())
        assert len(store.load_checkpoints(EXECUTION)) == 1

    def test_a_refusal_is_raised_at_its_end_at_the_latest(self, store: CheckpointStore) -> None:
        with pytest.raises(ExecutionNotFoundError, match="nobody"), store.transaction() as tx:
            tx.save_execution(an_execution())
            tx.save_timer(a_timer(workflow_execution_id="nobody"))
        assert store.load_execution(EXECUTION) is None

    def test_the_stores_own_methods_belong_to_it(self, store: CheckpointStore) -> None:
        with pytest.raises(ZeroDivisionError), store.transaction():
            saved(store, an_execution())
            assert store.load_executions_by_status([RUNNING]) == [an_execution()]
            raise ZeroDivisionError
        assert store.load_execution(EXECUTION) is None

    def test_claims_and_progress_inside(self, store: CheckpointStore) -> None:
        saved(store, an_execution())
        with store.transaction() as tx:
            (held,) = tx.claim_executions("worker", RUNNING)
            assert tx.advance_execution(held.copy_with(current_step=1), [a_checkpoint()]) is RUNNING
            assert tx.wake_due() == 0
        assert len(store.load_checkpoints(EXECUTION)) == 1

    def test_one_in_another_is_refused(self, store: CheckpointStore) -> None:
        with store.transaction(), pytest.raises(InvalidStateError), store.transaction():
            pass

    def test_after_its_end_it_is_of_no_use(self, store: CheckpointStore) -> None:
        with store.transaction() as tx:
            pass
        with pytest.raises(InvalidStateError):
            tx.save_execution(an_execution())
        with pytest.raises(InvalidStateError):
            tx.save_checkpoints([])

    def test_nobody_waits_inside(self, store: CheckpointStore) -> None:
        with store.transaction(), pytest.raises(InvalidStateError, match="wait"):
            store.wait_for_work(1, [WORKFLOW])


BAD_IDENTIFIERS = ["", " ", " a", "a ", "a\nb", "a\x7fb", "\x00", "x" * 301, 1, None, b"a"]
NAIVE = datetime(2020, 1, 1)
NOT_JSON: list[Any] = [float("nan"), {1, 2}, b"x", {1: 2}, (1, 2), "a\x00b", "\ud800"]

Call = Callable[[CheckpointStore, Any], object]

IDENTIFIERS: dict[str, Call] = {
    "workflow_id": lambda store, bad: store.save_workflow(a_workflow(bad)),
    "workflow_type": lambda store, bad: store.save_workflow(a_workflow("w", workflow_type=bad)),
    "load_workflow": lambda store, bad: store.load_workflow(bad),
    "workflow_execution_id": lambda store, bad: store.save_execution(an_execution(bad)),
    "load_execution": lambda store, bad: store.load_execution(bad),
    "delete_execution": lambda store, bad: store.delete_execution(bad),
    "cancel_execution": lambda store, bad: store.cancel_execution(bad),
    "step_name": lambda store, bad: store.save_checkpoint(a_checkpoint(step_name=bad)),
    "checkpoint": lambda store, bad: store.save_checkpoint(a_checkpoint(workflow_execution_id=bad)),
    "load_checkpoints": lambda store, bad: store.load_checkpoints(bad),
    "workflow_timer_id": lambda store, bad: store.save_timer(a_timer(bad)),
    "timer": lambda store, bad: store.save_timer(a_timer(step_name=bad)),
    "signal_name": lambda store, bad: store.save_signal(a_signal(bad)),
    "load_pending_signals": lambda store, bad: store.load_pending_signals(bad),
}
VALUES: dict[str, tuple[Call, list[Any]]] = {
    "workflow": (lambda store, bad: store.save_workflow(bad), [None, an_execution()]),
    "execution": (lambda store, bad: store.save_execution(bad), [None, a_workflow()]),
    "checkpoints": (lambda store, bad: store.save_checkpoints(bad), [None, "abc", [1], a_checkpoint()]),
    "version": (lambda store, bad: store.save_workflow(a_workflow(version=bad)), [None, "1", True, -1, 2**31]),
    "created_at": (lambda store, bad: store.save_workflow(a_workflow(created_at=bad)), [None, NAIVE, "2020-01-01"]),
    "status": (lambda store, bad: store.save_execution(an_execution(status=bad)), [None, "RUNNING"]),
    "current_step": (lambda store, bad: store.save_execution(an_execution(current_step=bad)), [None, -1, 1.5]),
    "guarantee": (lambda store, bad: store.save_execution(an_execution(guarantee=bad)), [None, "FOREGROUND_ONLY"]),
    "ttl_expires_at": (lambda store, bad: store.save_execution(an_execution(ttl_expires_at=bad)), [NAIVE, 1]),
    "updated_at": (lambda store, bad: store.save_execution(an_execution(updated_at=bad)), [None, NAIVE]),
    "error_message": (lambda store, bad: store.save_execution(an_execution(error_message=bad)), [1, b"x"]),
    "fence": (lambda store, bad: store.save_execution(an_execution(fence=bad)), [-1, "1"]),
    "step_index": (lambda store, bad: store.save_checkpoint(a_checkpoint(bad, step_name="x")), [None, -1, "0"]),
    "attempt": (lambda store, bad: store.save_checkpoint(a_checkpoint(attempt=bad)), [None, -1, True]),
    "is_final": (lambda store, bad: store.save_checkpoint(a_checkpoint(is_final=bad)), [None, 1]),
    "started_at": (lambda store, bad: store.save_checkpoint(a_checkpoint(started_at=bad)), [NAIVE, 1]),
    "fire_at": (lambda store, bad: store.save_timer(a_timer(fire_at=bad)), [None, NAIVE]),
    "workflow_signal_id": (lambda store, bad: store.save_signal(a_signal(workflow_signal_id=bad)), [0, "1", 2**63]),
    "cutoff": (lambda store, bad: store.delete_completed_before(bad), [None, NAIVE, 5]),
    "cutoff of timers": (lambda store, bad: store.delete_old_timers(bad), [None, NAIVE]),
    "cutoff of signals": (lambda store, bad: store.delete_old_signals(bad), [None, NAIVE]),
    "now": (lambda store, bad: store.load_due_timers(bad), [None, NAIVE]),
    "limit of timers": (lambda store, bad: store.load_due_timers(at(0), bad), [0, None, "1"]),
    "limit": (lambda store, bad: store.list_executions(limit=bad), [0, -1, None, "1", True]),
    "worker_id": (lambda store, bad: store.claim_executions(bad, RUNNING), ["", None, "x" * 1001]),
    "statuses": (lambda store, bad: store.claim_executions("w", bad), ["RUNNING", ["RUNNING"], None]),
    "lease": (lambda store, bad: store.claim_executions("w", RUNNING, lease=bad), [0, -1, "1", None, float("nan")]),
    "workflows": (lambda store, bad: store.claim_executions("w", RUNNING, workflows=bad), ["order", [1], 1]),
    "timeout": (lambda store, bad: store.wait_for_work(bad, []), [-1, None]),
    "compensate": (lambda store, bad: store.cancel_execution(EXECUTION, compensate=bad), [None, 1]),
}


class ArgumentSuite(Suite):
    """Bad arguments are refused before anything is written, with an error that names the field."""

    @pytest.fixture
    def store(self, empty: CheckpointStore) -> CheckpointStore:
        empty.save_workflow(a_workflow())
        saved(empty, an_execution())
        return empty

    @pytest.mark.parametrize("name", IDENTIFIERS)
    @pytest.mark.parametrize("bad", BAD_IDENTIFIERS, ids=repr)
    def test_identifiers(self, store: CheckpointStore, name: str, bad: Any) -> None:
        with pytest.raises(InvalidValueError) as caught:
            IDENTIFIERS[name](store, bad)
        assert caught.value.field.rpartition(".")[2].endswith(("_id", "_type", "_name"))
        assert store.count_executions() == {RUNNING: 1}

    @pytest.mark.parametrize("length", [256, 257])
    def test_the_longest_identifier(self, store: CheckpointStore, length: int) -> None:
        execution = an_execution("é" * length)
        if length == 256:
            assert store.load_execution(saved(store, execution).workflow_execution_id) == execution
        else:
            with pytest.raises(InvalidValueError, match="256"):
                store.save_execution(execution)

    @pytest.mark.parametrize(
        ("name", "bad"), [(name, bad) for name, (_, bads) in VALUES.items() for bad in bads], ids=repr
    )
    def test_values(self, store: CheckpointStore, name: str, bad: Any) -> None:
        with pytest.raises(InvalidValueError) as caught:
            VALUES[name][0](store, bad)
        assert name.partition(" ")[0] in caught.value.field
        assert store.load_execution(EXECUTION) == an_execution()
        assert [*store.load_checkpoints(EXECUTION), *store.load_pending_timers()] == []

    @pytest.mark.parametrize("bad", NOT_JSON, ids=repr)
    def test_documents(self, store: CheckpointStore, bad: Any) -> None:
        calls: dict[str, Callable[[], object]] = {
            "input_data": lambda: store.save_execution(an_execution(input_data=bad)),
            "output_data": lambda: store.save_checkpoint(a_checkpoint(output_data={"a": [bad]})),
            "payload": lambda: store.save_signal(a_signal(payload=bad)),
        }
        for field, call in calls.items():
            with pytest.raises(SerializationError, match=field):
                call()
        assert store.load_execution(EXECUTION) == an_execution()
        assert [*store.load_checkpoints(EXECUTION), *store.load_pending_signals(EXECUTION)] == []


class LifeSuite(Suite):
    """Closing."""

    def test_a_closed_store_says_so(self, store: CheckpointStore) -> None:
        held = claimed(store)
        store.close()
        store.close()
        calls: list[Callable[[], object]] = [
            lambda: store.load_execution(EXECUTION),
            lambda: store.save_execution(an_execution()),
            lambda: store.save_checkpoints([]),
            lambda: store.load_executions_by_status([]),
            lambda: store.advance_execution(held),
            lambda: store.renew_claims([]),
            lambda: store.release_claim(an_execution()),
            store.migrate,
        ]
        for call in calls:
            with pytest.raises(StoreClosedError):
                call()

    def test_a_with_block_closes(self, stores: StoresUnderTest) -> None:
        with stores.open() as store:
            store.save_workflow(a_workflow())
        with pytest.raises(StoreClosedError):
            store.load_workflow(WORKFLOW)


def claim_all(store: CheckpointStore, worker: str) -> list[str]:
    """Claim until there is nothing left; the ids."""
    found: list[str] = []
    while batch := store.claim_executions(worker, RUNNING, limit=3):
        found += ids(batch)
    return found


def count_up(store: CheckpointStore, worker: str, rounds: int) -> int:
    """Claim with leases that end at once, and count in the execution's position; how often that was stored."""
    stored = 0
    for _ in range(rounds):
        for held in store.claim_executions(worker, RUNNING, lease=0.001):
            try:
                store.advance_execution(held.copy_with(current_step=held.current_step + 1), release=True)
            except ClaimLostError:
                continue
            stored += 1
    return stored


def write_steps(store: CheckpointStore, acknowledge: Acknowledge, id: str) -> None:
    """Record steps until the process is killed."""
    held, _ = store.start_execution(a_workflow(), an_execution(id), worker_id="victim")
    for index in range(10**6):
        checkpoint = a_checkpoint(index, workflow_execution_id=id, output_data=index)
        store.advance_execution(held.copy_with(current_step=index + 1), [checkpoint])
        acknowledge(index)


class RaceSuite(Suite):
    """Threads and processes at once."""

    def test_threads_claim_nothing_twice(self, store: CheckpointStore) -> None:
        for number in range(40):
            saved(store, an_execution(f"e{number}"))
        found = values(race_threads([partial(claim_all, store, f"worker {number}") for number in range(6)]))
        assert sorted(id for some in found for id in some) == sorted(f"e{number}" for number in range(40))

    def test_processes_claim_nothing_twice(self, stores: StoresUnderTest, store: CheckpointStore) -> None:
        for number in range(40):
            saved(store, an_execution(f"e{number}"))
        found = values(race_processes(stores.opener, claim_all, [("a",), ("b",)]))
        assert sorted(id for some in found for id in some) == sorted(f"e{number}" for number in range(40))

    def test_no_count_is_lost_where_leases_end_under_their_holders(self, stores: StoresUnderTest) -> None:
        store = stores.open()
        store.save_workflow(a_workflow())
        saved(store, an_execution())
        counted = values(race_threads([partial(count_up, store, str(number), 40) for number in range(4)]))
        found = store.load_execution(EXECUTION)
        assert found is not None
        assert found.current_step == sum(counted) > 0

    def test_an_id_is_started_once(self, store: CheckpointStore) -> None:
        starts = [partial(store.start_execution, a_workflow(), an_execution(input_data=number)) for number in range(8)]
        outcomes = values(race_threads(starts))
        assert [is_new for _, is_new in outcomes].count(True) == 1
        assert len({stored.input_data for stored, _ in outcomes}) == 1

    def test_a_signal_is_taken_once(self, store: CheckpointStore) -> None:
        held = claimed(store)
        for number in range(6):
            store.save_signal(a_signal(payload=number))
        waits = [partial(store.wait_for_signal, held, a_checkpoint(index, step_name="approval")) for index in range(6)]
        won, errors = winners_and_errors(race_threads(waits))
        assert errors == []
        assert len(won) == 6
        assert store.load_pending_signals(EXECUTION) == []


class CrashSuite(Suite):
    """Processes that are killed."""

    @pytest.mark.parametrize("count", [1, 20, 200])
    def test_what_was_acknowledged_is_there_and_nothing_is_half_there(
        self, stores: StoresUnderTest, store: CheckpointStore, count: int
    ) -> None:
        victim = Victim(stores.opener, write_steps, EXECUTION)
        victim.await_acknowledgements(count)
        acknowledged = victim.kill(after=0.001 * count / 200)
        execution = store.load_execution(EXECUTION)
        assert execution is not None
        found = store.load_checkpoints(EXECUTION)
        assert [item.output_data for item in found] == list(range(len(found)))
        assert len(found) >= len(acknowledged) >= count
        assert execution.current_step == len(found), "checkpoint and position are stored together"
