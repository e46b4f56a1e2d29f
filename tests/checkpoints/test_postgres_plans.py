"""What PostgreSQL does for each call among 20,000 other executions, in the plans that it keeps for prepared statements: it walks indexes, and visits
hardly more rows than it returns or changes. Statements inside of functions included."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import psycopg
import psycopg_pool
import pytest

from tests.checkpoints.calls import READS, RUNNABLE, WRITES, World, build_world
from wfe_fast.checkpoints import ExecutionStatus
from wfe_fast.checkpoints.contract import CheckpointTransaction
from wfe_fast.clock import to_micros
from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.testing.checkpoints.factories import WORKFLOW, at
from wfe_fast.testing.clock import START, ManualClock

OTHERS = 20_000

#: 20,000 executions of five workflows: half of them are over, a quarter sleeps, a quarter is held; with checkpoints, timers and signals.
FILL = """
INSERT INTO {0}.workflows (workflow_id, workflow_type, created_at) SELECT 'd' || n, 'd' || n, 0 FROM generate_series(0, 4) AS n;
INSERT INTO {0}.workflow_executions (workflow_execution_id, workflow_id, status, ttl_expires_at, created_at, updated_at, claimed_by,
    claim_until, claim_fence)
SELECT 'e' || n, 'd' || n % 5, (ARRAY['COMPLETED', 'SUSPENDED', 'FAILED', 'RUNNING'])[n % 4 + 1], {1} + 1000000 + n, {1} + n, {1} + n,
    CASE WHEN n % 4 = 3 THEN 'somebody' END, CASE WHEN n % 4 = 3 THEN {1} + 60000000 + n END, n % 2 FROM generate_series(1, {2}) AS n;
INSERT INTO {0}.step_checkpoints (workflow_execution_id, step_index, step_name, status)
SELECT 'e' || n, k, 'step', 'COMPLETED' FROM generate_series(1, {2}) AS n, generate_series(0, 4) AS k;
INSERT INTO {0}.workflow_timers (workflow_timer_id, workflow_execution_id, step_name, fire_at, status, created_at)
SELECT 't' || n, 'e' || n, 'pause', {1} + 9000000 + n, CASE WHEN n % 4 = 1 THEN 'PENDING' ELSE 'FIRED' END, {1} + n
FROM generate_series(1, {2}) AS n;
INSERT INTO {0}.workflow_signals (workflow_execution_id, signal_name, status, created_at)
SELECT 'e' || n, 'approval', CASE WHEN n % 4 = 1 THEN 'PENDING' ELSE 'DELIVERED' END, {1} + n FROM generate_series(1, {2}) AS n;
"""
TABLES = ("workflows", "workflow_executions", "step_checkpoints", "workflow_timers", "workflow_signals")

MORE: dict[str, Callable[[Any, World], object]] = {
    "claim_executions in vain": lambda s, w: s.claim_executions("other", RUNNABLE, 5, workflows=["nobody"]),
    "claim_executions leases that have ended": lambda s, w: s.claim_executions(
        "other", RUNNABLE, 50, workflows=[WORKFLOW]
    ),
    "wait_for_work": lambda s, w: s.wait_for_work(0, [WORKFLOW]),
    "advance_execution that sleeps": lambda s, w: s.advance_execution(
        w.held.copy_with(status=ExecutionStatus.SUSPENDED), release=True
    ),
    "delete_completed_before the first": lambda s, w: s.delete_completed_before(
        at(0.00001), [ExecutionStatus.COMPLETED, ExecutionStatus.FAILED]
    ),
    "delete_old_timers the first": lambda s, w: s.delete_old_timers(at(0.00001)),
    "delete_old_signals the first": lambda s, w: s.delete_old_signals(at(0.00001)),
}
#: What a call asks about the whole store.
UNBOUNDED = {"count_executions", "load_pending_timers", "load_executions_by_status"}
#: Claims walk what is held in the part of the index in which they look: that is as much as is worked on at the moment.
WALKS_HELD = {"claim_executions"}
CALLS = {label: call for label, call in {**WRITES, **READS, **MORE}.items() if label not in UNBOUNDED | WALKS_HELD}

#: How many rows a call may visit in all tables: the most are twenty checkpoints, or all that belongs to ten executions that are deleted.
MOST = 150


class HeldConnection(psycopg_pool.ConnectionPool[psycopg.Connection[Any]]):
    """Always the same connection, whatever is open on it."""

    def __init__(self, connection: psycopg.Connection[Any], dsn: str) -> None:
        super().__init__(dsn, open=False)
        self.held = connection

    def getconn(self, timeout: float | None = None) -> psycopg.Connection[Any]:
        return self.held

    def putconn(self, conn: psycopg.Connection[Any]) -> None:
        pass


@dataclass
class Filled:
    """A filled store, and the one connection to it."""

    store: PostgresCheckpointStore
    world: World
    connection: psycopg.Connection[Any]
    schema: str


@pytest.fixture(scope="module", params=["analysed", "planned when empty"])
def filled(postgres_dsn: str, request: pytest.FixtureRequest) -> Iterator[Filled]:
    """One whose tables the planner knows, and one whose plans were made while it held next to nothing, and of which it has heard nothing since."""
    schema = "wfe_test_checkpoint_plans"
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        # The plan that serves all parameters, as a statement gets it that was executed a few times.
        connection.execute("SET plan_cache_mode = force_generic_plan")
        pool = HeldConnection(connection, postgres_dsn)
        with PostgresCheckpointStore(schema=schema, pool=pool, clock=ManualClock()) as store:
            store.migrate()
            for table in TABLES:
                connection.execute(f"ALTER TABLE {schema}.{table} SET (autovacuum_enabled = off)")
            world = build_world(store)
            filled = Filled(store, world, connection, schema)
            if request.param == "planned when empty":
                for call in CALLS.values():
                    undone(filled, call)
            connection.execute(FILL.format(schema, to_micros(START), OTHERS))
            if request.param == "analysed":
                connection.execute(f"ANALYZE {', '.join(f'{schema}.{table}' for table in TABLES)}")
            yield filled
        connection.execute("SET client_min_messages = warning")
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


#: Of each table, how many rows were read one after the other, and how many by an index.
Visits = dict[str, tuple[int, int]]


def visited(filled: Filled) -> Visits:
    """What the open transaction has visited so far."""
    rows = filled.connection.execute(
        "SELECT relname, seq_tup_read, coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE schemaname = %s",
        [filled.schema],
    ).fetchall()
    return {name: (scanned, fetched) for name, scanned, fetched in rows}


class _PlannedError(Exception):
    pass


class Inside:
    """The methods of a transaction, and the look of a store that waits, which asks for no block."""

    def __init__(self, tx: CheckpointTransaction, store: PostgresCheckpointStore) -> None:
        self._tx, self._store = tx, store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    def wait_for_work(self, timeout: float, workflows: list[str]) -> object:
        return self._store._read(self._store._work.next_work, workflows, "[]")


def undone(filled: Filled, call: Callable[[Any, World], object]) -> tuple[Visits, Visits, object]:
    """What a call visited, and its result; in the end it never was."""
    with suppress(_PlannedError), filled.store.transaction() as tx:
        tx.load_workflow("nothing")
        before = visited(filled)
        result = call(Inside(tx, filled.store), filled.world)
        tx.load_workflow("nothing")  # sends what was gathered
        after = visited(filled)
        raise _PlannedError
    return before, after, result


@pytest.mark.parametrize("label", CALLS)
def test_a_call_visits_few_rows_and_scans_no_table(filled: Filled, label: str) -> None:
    before, after, result = undone(filled, CALLS[label])
    scanned = {name: after[name][0] - before[name][0] for name in after if name != "workflows"}
    fetched = {name: after[name][1] - before[name][1] for name in after}
    assert not any(scanned.values()), (scanned, result)
    assert sum(fetched.values()) <= MOST, (fetched, result)


@pytest.mark.parametrize("label", sorted(UNBOUNDED - {"count_executions"} | WALKS_HELD))
def test_what_asks_for_much_scans_no_table(filled: Filled, label: str) -> None:
    before, after, result = undone(filled, {**WRITES, **READS}[label])
    scanned = {name: after[name][0] - before[name][0] for name in after if name != "workflows"}
    assert not any(scanned.values()), (scanned, result)


def test_a_step_leaves_all_indexes_alone(filled: Filled) -> None:
    """The next version of the execution's row lies in the same page, and no index hears of it."""
    moved = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE schemaname = %s AND relname = 'workflow_executions'"
    with suppress(_PlannedError), filled.store.transaction() as tx:
        tx.load_workflow("nothing")
        before = filled.connection.execute(moved, [filled.schema]).fetchone()
        for _ in range(3):
            WRITES["advance_execution"](tx, filled.world)
        after = filled.connection.execute(moved, [filled.schema]).fetchone()
        raise _PlannedError
    assert before is not None
    assert after == (before[0] + 3, before[1] + 3)
