"""Query plans and costs: each statement finds its rows by an index and sorts nothing, and costs the same however much lies beside."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints
from uuid import UUID

import apsw
import pytest

from wfe_fast.errors import StoreBusyError
from wfe_fast.sqlite import SqliteBackend
from wfe_fast.state import Event, NodeCompleted, Tenant, ToolCalled
from wfe_fast.state.sqlite import STATEMENTS
from wfe_fast.state.sqlite_statements import SqliteStatements
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.state.factories import QUEUE, an_event, an_execution, an_item, completed

#: Statements that read all of a table, which has a row for each tenant, or one.
WHOLE = {"list_tenants", "tenant_ids", "count_executions"}
NAMES = sorted(get_type_hints(SqliteStatements))


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    path = tmp_path_factory.mktemp("plans") / "test.db"
    with SqliteBackend.open(path):
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        yield connection
        connection.close()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_sorted_and_no_table_is_scanned(empty: apsw.Connection, name: str) -> None:
    sql: str = getattr(STATEMENTS, name)
    parameters = max((int(number) for number in re.findall(r"\?(\d+)", sql)), default=0)
    for row in empty.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * parameters).fetchall():
        line = str(row[3])
        assert "TEMP B-TREE" not in line, line
        if line.startswith("SCAN") and "CONSTANT ROW" not in line:
            assert line.startswith("SCAN (subquery") or name in WHOLE, line


HOT = {
    "ready": "state_items_ready",
    "next_priority": "state_items_ready",
    "ready_of_tenant": "state_items_ready_of_tenant",
    "next_priority_of_tenant": "state_items_ready_of_tenant",
    "expired": "state_items_leased",
    "leased_queue": "state_items_leased",
    "list_executions": "state_executions_by_time",
    "list_executions_by_status": "state_executions_by_status",
    "list_executions_of_tenant": "state_executions_of_tenant",
    "list_executions_of_tenant_by_status": "state_executions_of_tenant_by_status",
    "count_active": "state_executions_active",
    "list_dead_letters": "state_items_dead",
    "list_dead_letters_of_tenant": "state_items_dead_of_tenant",
    "purge_work_items": "state_items_settled",
    "ended_executions": "state_executions_ended",
    "cancel_items": "state_items_live",
    "list_tokens": "state_tokens_of_tenant",
    "validate_token": "sqlite_autoindex_state_tokens",
    "note_use": "sqlite_autoindex_state_tokens",
    "find_event": "sqlite_autoindex_state_events",
    "settled_for": "sqlite_autoindex_state_items",
    "settle_item": "sqlite_autoindex_state_items",
    "renew_lease": "sqlite_autoindex_state_items",
}


@pytest.mark.parametrize("name", HOT)
def test_a_statement_walks_its_index(empty: apsw.Connection, name: str) -> None:
    sql: str = getattr(STATEMENTS, name)
    parameters = max((int(number) for number in re.findall(r"\?(\d+)", sql)), default=0)
    lines = [str(row[3]) for row in empty.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * parameters).fetchall()]
    assert any(HOT[name] in line for line in lines), lines


# -- what whole methods cost, in steps of SQLite's machine -----------------------------------------------------------------------------

_MANY_ITEMS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
INSERT INTO state_items (id, tenant_id, execution, node_id, queue_type, status, priority, available_at, attempt, max_attempts,
    created_at, settled_at, payload)
SELECT printf('%08d-0000-4000-8000-%012d', length(?2), i), CASE WHEN ?4 > 1 THEN 't' || (i % ?4) ELSE 'default' END, 1,
    ?2 || i, 'tool', ?2, 0, i, 0, 3, i,
    CASE ?2 WHEN 'pending' THEN NULL ELSE i END, '{}' FROM n WHERE ?3 IS NULL
"""
_MANY_EVENTS = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
INSERT INTO state_events (execution, tenant_id, sequence, id, type, node_id, kind, created_at)
SELECT 1, 'default', i, 'e' || i, 'tool_called', 'n', '{"type":"tool_called","node_id":"n","tool":"t"}', i FROM n
"""

EXECUTION = an_execution(execution_id=UUID(int=1))


class Steps:
    """Counts the steps of the connections that were opened while it watched."""

    def __init__(self) -> None:
        self.count = 0
        self.writes = 0

    def watch(self, connection: apsw.Connection) -> None:
        def step() -> bool:
            self.count += 1
            return False

        connection.set_progress_handler(step, 1)
        connection.set_commit_hook(self._committed)

    def _committed(self) -> bool:
        self.writes += 1
        return False

    def of(self, call: Callable[[], object]) -> int:
        """The steps of a call."""
        self.count = 0
        call()
        return self.count


@pytest.fixture
def steps() -> Iterator[Steps]:
    steps = Steps()
    yield steps
    apsw.connection_hooks.clear()


def opened(
    path: Path, steps: Steps, *, pending: int, settled: int = 0, tenants: int = 1, events: int = 0
) -> SqliteBackend:
    """A backend on a file with so much in it."""
    with SqliteBackend.open(path, clock=ManualClock()) as backend:
        for number in range(tenants if tenants > 1 else 0):
            backend.create_tenant(Tenant(id=f"t{number}", name="n"))
        backend.create_execution(EXECUTION)

        def fill(session: Any) -> None:
            session.run(_MANY_ITEMS, (pending, "pending", None, tenants))
            if settled:
                session.run(_MANY_ITEMS, (settled, "completed", None, tenants))
            if events:
                session.run(_MANY_EVENTS, (events,))
                session.run("UPDATE state_logs SET last_sequence = ?1", (events,))

        backend.pool.write(fill)
    apsw.connection_hooks.append(steps.watch)
    return SqliteBackend.open(path, clock=ManualClock())


def turn(backend: SqliteBackend, steps: Steps) -> tuple[int, int]:
    """The steps of a claim, and of what settles it."""
    found: list[Any] = []
    claim = steps.of(lambda: found.append(backend.claim_work_item("w", ["model", QUEUE])))
    item = found[0]
    event = Event(
        execution_id=EXECUTION.execution_id,
        kind=NodeCompleted(node_id=item.node_id, output=1, state_patch=None, duration_ms=1),
    )
    return claim, steps.of(lambda: backend.commit_turn(item, event))


@pytest.mark.parametrize(
    "more",
    [{"pending": 100_000}, {"pending": 5000, "tenants": 50}, {"pending": 100, "settled": 1_000_000}],
    ids=["100,000 pending", "50 tenants", "1,000,000 settled"],
)
def test_claim_and_settle_cost_the_same(tmp_path: Path, steps: Steps, more: dict[str, int]) -> None:
    with opened(tmp_path / "few.db", steps, pending=100) as backend:
        few = turn(backend, steps)
    apsw.connection_hooks.clear()
    with opened(tmp_path / "many.db", steps, **more) as backend:
        many = turn(backend, steps)
        if "tenants" in more:
            many = max(many, turn(backend.for_tenant("t7"), steps))
    for cost_of_few, cost_of_many in zip(few, many, strict=True):
        assert cost_of_many <= 1.1 * cost_of_few + 20


def test_append_costs_the_same_at_the_end_of_a_long_log(tmp_path: Path, steps: Steps) -> None:
    costs = []
    for events in (10, 100_000):
        with opened(tmp_path / f"{events}.db", steps, pending=1, events=events) as backend:
            made = an_event(EXECUTION, ToolCalled(node_id="n", tool="t"))
            costs.append(steps.of(partial(backend.append_event, made)))
            assert backend.latest_sequence(EXECUTION.execution_id) == events + 1
        apsw.connection_hooks.clear()
    assert costs[1] <= 1.1 * costs[0] + 20


def test_materialize_reads_the_tail_only(tmp_path: Path, steps: Steps) -> None:
    with opened(tmp_path / "test.db", steps, pending=1, events=100_000) as backend:
        whole = steps.of(lambda: backend.materialize(EXECUTION.execution_id))
        item = backend.claim_work_item("w", [QUEUE])
        assert item is not None
        backend.commit_turn(item, an_event(EXECUTION, completed(item.node_id)), snapshot=True)
        backend.append_event(an_event(EXECUTION, ToolCalled(node_id="n", tool="t")))
        tail = steps.of(lambda: backend.materialize(EXECUTION.execution_id))
    assert tail < 200 < whole


def test_an_empty_queue_costs_no_write(tmp_path: Path, steps: Steps) -> None:
    with opened(tmp_path / "test.db", steps, pending=1) as backend:
        assert backend.claim_work_item("w", ["model"]) is None
        steps.writes = 0
        assert backend.claim_work_item("w", ["model", "general"]) is None
        assert backend.for_tenant("nobody").claim_work_item("w", [QUEUE]) is None
        blocker = apsw.Connection(str(tmp_path / "test.db"))
        blocker.execute("BEGIN IMMEDIATE")
        assert backend.claim_work_item("w", ["model"]) is None
        blocker.close()
        assert steps.writes == 0


def test_a_full_claim_says_something_of_its_own_queues_only(tmp_path: Path, steps: Steps) -> None:
    with opened(tmp_path / "test.db", steps, pending=2) as backend:
        blocker = apsw.Connection(str(tmp_path / "test.db"))

        def finds_nothing_and_waits_for_nobody(*queues: str) -> bool:
            blocker.execute("BEGIN IMMEDIATE")
            try:
                return backend.claim_work_item("w", queues) is None
            finally:
                blocker.execute("ROLLBACK")

        assert backend.claim_work_item("w", [QUEUE]) is not None
        assert finds_nothing_and_waits_for_nobody("model")
        assert backend.claim_work_item("w", [QUEUE]) is not None
        # What was full a moment ago is tried once more; after that it is looked at first.
        assert backend.claim_work_item("w", [QUEUE]) is None
        assert finds_nothing_and_waits_for_nobody(QUEUE)
        blocker.close()


def test_a_claim_that_fails_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    with SqliteBackend.open(path, clock=ManualClock(), busy_timeout=0.01) as backend:
        backend.create_execution(EXECUTION)
        backend.enqueue_work_item(an_item(EXECUTION))
        assert backend.claim_work_item("w", [QUEUE]) is not None
        blocker = apsw.Connection(str(path))
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreBusyError):
            backend.claim_work_item("w", [QUEUE])
        assert backend.claim_work_item("w", [QUEUE]) is None
        blocker.close()


def test_a_token_is_one_look_by_its_hash(tmp_path: Path, steps: Steps) -> None:
    with opened(tmp_path / "test.db", steps, pending=1) as backend:
        secret, _ = backend.create_token("t", "r")
        backend.validate_token(secret)
        few = steps.of(lambda: backend.validate_token(secret))
        for _ in range(300):
            backend.create_token("t", "r")
        assert steps.of(lambda: backend.validate_token(secret)) <= few + 5


def test_items_of_the_future_do_not_cost(tmp_path: Path, steps: Steps) -> None:
    """High priorities that are not due yet stand before what is: each level costs a look, its items nothing."""
    with opened(tmp_path / "test.db", steps, pending=10) as backend:
        alone = turn(backend, steps)[0]
        far = ManualClock()
        far.advance(10_000)
        for number in range(300):
            backend.enqueue_work_item(an_item(EXECUTION, f"f{number}", priority=9, run_at=far()))
        assert turn(backend, steps)[0] <= alone + 150
