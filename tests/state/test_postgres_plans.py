"""What PostgreSQL does for each call of the state backend among many others' rows, in the plans that it keeps for prepared statements: it walks
indexes, and visits hardly more rows than it returns or changes. Statements inside of functions included."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import psycopg
import psycopg_pool
import pytest

from wfe_fast.postgres import PostgresBackend
from wfe_fast.state import Snapshot, Tenant, TenantLimits, ToolCalled, WorkItem
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.state.calls import MANAGING, READS, WRITES, Owned, build_owned
from wfe_fast.testing.state.factories import QUEUE, an_event, an_execution, completed

#: {0} = the schema, {1} = how many executions, {2} = over how many tenants: with five events, an item that waits, one that is settled and a dead
#: letter each, and a token for every tenth.
FILL = """
INSERT INTO {0}.state_executions (id, tenant_id, status, started_at, updated_at, completed_at, workflow_id, workflow_version, segment_number,
    initial_input, current_state)
SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, {3}, CASE WHEN n % 2 = 0 THEN 'failed' ELSE 'running' END,
    '2020-01-01', '2020-01-01'::timestamptz + n * interval '1 minute', CASE WHEN n % 2 = 0 THEN '2999-01-01'::timestamptz END, 'w', '1', 0,
    '{{}}', '{{}}' FROM generate_series(1, {1}) AS n;
INSERT INTO {0}.state_logs (execution, tenant_id, last_sequence) SELECT seq, tenant_id, 5 FROM {0}.state_executions
WHERE id < '00000000-0000-4000-9000-000000000000' ON CONFLICT DO NOTHING;
INSERT INTO {0}.state_events (execution, tenant_id, sequence, id, type, node_id, kind, created_at)
SELECT x.seq, x.tenant_id, k, gen_random_uuid(), 'node_completed', 'n', '{{"type":"node_completed","node_id":"n","output":1,"state_patch":null,'
    '"duration_ms":1}}', '2020-01-01' FROM {0}.state_executions x, generate_series(1, 5) AS k WHERE x.id < '00000000-0000-4000-9000-000000000000';
INSERT INTO {0}.state_snapshots (execution, tenant_id, at_sequence, id, status, last_sequence, created_at, state, completed_nodes, active_nodes)
SELECT x.seq, x.tenant_id, 4, gen_random_uuid(), 'running', 4, '2020-01-01', '1', '{{}}', '[]' FROM {0}.state_executions x
WHERE x.id < '00000000-0000-4000-9000-000000000000';
INSERT INTO {0}.state_items (id, tenant_id, execution, node_id, queue_type, status, priority, available_at, attempt, max_attempts, created_at,
    settled_at, last_error, payload)
SELECT gen_random_uuid(), x.tenant_id, x.seq, s, '{4}', s, 0, '2020-01-01'::timestamptz + x.seq * interval '1 second', 0, 3, '2020-01-01',
    CASE WHEN s <> 'pending' THEN '2999-01-01'::timestamptz END, 'e', '{{}}'
FROM {0}.state_executions x, unnest(ARRAY['pending', 'completed', 'dead_lettered']) AS s WHERE x.id < '00000000-0000-4000-9000-000000000000';
INSERT INTO {0}.state_tokens (id, tenant_id, token_hash, name, role, created_at, expires_at)
SELECT 't' || n, {3}, 'h' || n, 'n', 'r', '2020-01-01', '2999-01-01' FROM generate_series(1, {1}, 10) AS n;
INSERT INTO {0}.state_definitions (tenant_id, workflow_id, version, ir, created_at) SELECT {3}, 'w' || n, '1', '1', '2020-01-01'
FROM generate_series(1, {1}) AS n;
"""
MORE_ITEMS = """
INSERT INTO {0}.state_items (id, tenant_id, execution, node_id, queue_type, status, priority, available_at, attempt, max_attempts, created_at,
    settled_at, payload)
SELECT (lpad('{2}', 8, '0') || '-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, {4},
    (SELECT min(x.seq) FROM {0}.state_executions x WHERE x.tenant_id = {4}), '{1}' || n,
    '{3}', '{1}', 0, '2020-01-01'::timestamptz + n * interval '1 second', 0, 3, '2020-01-01',
    CASE WHEN '{1}' <> 'pending' THEN '2020-01-01'::timestamptz + n * interval '1 second' END, '{{}}' FROM generate_series(1, {2}) AS n;
"""
MORE_EVENTS = """
INSERT INTO {0}.state_events (execution, tenant_id, sequence, id, type, node_id, kind, created_at)
SELECT (SELECT max(seq) FROM {0}.state_executions), 'default', n, gen_random_uuid(), 'tool_called', 'n',
    '{{"type":"tool_called","node_id":"n","tool":"t"}}', '2020-01-01' FROM generate_series(1, {1}) AS n;
UPDATE {0}.state_logs SET last_sequence = {1} WHERE execution = (SELECT max(seq) FROM {0}.state_executions);
"""


class HeldConnection(psycopg_pool.ConnectionPool[psycopg.Connection[Any]]):
    """Always the same connection, which plans once for all parameters."""

    def __init__(self, connection: psycopg.Connection[Any], dsn: str) -> None:
        super().__init__(dsn, open=False)
        self.held = connection

    def getconn(self, timeout: float | None = None) -> psycopg.Connection[Any]:
        return self.held

    def putconn(self, conn: psycopg.Connection[Any]) -> None:
        pass


class Cost(NamedTuple):
    """What a call visited: rows read one after the other, rows or index entries found by an index, and pages."""

    scanned: int
    fetched: int
    pages: int


@dataclass
class Store:
    """A store, and the one connection to it."""

    backend: PostgresBackend
    connection: psycopg.Connection[Any]
    schema: str
    clock: ManualClock

    def fill(self, text: str, *words: object) -> None:
        self.connection.execute(text.format(self.schema, *words).encode())
        self.connection.execute(f"ANALYZE {', '.join(self._tables())}".encode())

    def settle(self) -> None:
        """Let no item wait that a test has left."""
        self.connection.execute(
            f"UPDATE {self.schema}.state_items SET status = 'cancelled', settled_at = '2020-01-01', fence = 0"
            f" WHERE queue_type = '{QUEUE}' AND settled_at IS NULL".encode()
        )

    def _tables(self) -> list[str]:
        rows = self.connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [self.schema])
        return [f"{self.schema}.{name}" for (name,) in rows.fetchall()]

    def _visited(self) -> Cost:
        # What a session has counted is told at the end of a transaction, once a second at most, unless it is asked for.
        self.connection.execute("SELECT pg_stat_force_next_flush()")
        row = self.connection.execute(
            """SELECT sum(seq_tup_read), sum(coalesce(idx_tup_fetch, 0)) + (SELECT sum(idx_tup_read) FROM pg_stat_user_indexes
                WHERE schemaname = %(schema)s), (SELECT sum(coalesce(heap_blks_hit, 0) + coalesce(heap_blks_read, 0)
                + coalesce(idx_blks_hit, 0) + coalesce(idx_blks_read, 0)) FROM pg_statio_user_tables WHERE schemaname = %(schema)s)
            FROM pg_stat_user_tables WHERE schemaname = %(schema)s""",
            {"schema": self.schema},
        ).fetchone()
        assert row is not None
        return Cost(*(int(value) for value in row))

    def cost_of(self, call: Callable[[], object]) -> Cost:
        """What a call visited. It was done once before, so that planning it visits nothing."""
        before = self._visited()
        call()
        after = self._visited()
        return Cost(*(now - then for now, then in zip(after, before, strict=True)))


@contextmanager
def opened(dsn: str, schema: str) -> Iterator[Store]:
    """A new store in a schema of this name."""
    clock = ManualClock()
    schema = f"{schema}_{os.getpid()}"  # several processes may test on one server
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"SET client_min_messages = warning; DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
        # The plan that serves all parameters, as a statement gets it that was executed a few times.
        connection.execute("SET plan_cache_mode = force_generic_plan; SET stats_fetch_consistency = none")
        with PostgresBackend.open(pool=HeldConnection(connection, dsn), schema=schema, clock=clock) as backend:
            yield Store(backend, connection, schema, clock)
        connection.execute(f"DROP SCHEMA {schema} CASCADE; DROP ROLE {schema}_scoped".encode())


# -- every method ------------------------------------------------------------------------------------------------------------------------

OTHERS = 20_000
#: How many rows and index entries a call may visit: the most are pages of a hundred with their executions.
MOST = 700
#: These read all that there is of something, by their nature.
UNBOUNDED = {"count_executions", "list_tokens"}
CALLS = {label: call for label, call in {**WRITES, **READS}.items() if label not in UNBOUNDED}


@pytest.fixture(scope="module")
def crowded(postgres_dsn: str) -> Iterator[Store]:
    with opened(postgres_dsn, "wfe_test_state_plans") as store:
        limits = TenantLimits(
            max_workflows=10**9, max_concurrent_executions=10**6, max_tokens_per_month=10**9, max_cost_per_month_usd=1e9
        )
        store.backend.create_tenant(Tenant(id="acme", name="A", limits=limits))
        for number in range(10):
            store.backend.create_tenant(Tenant(id=f"t{number}", name="n"))
        store.fill(FILL, OTHERS, 10, "CASE WHEN n % 20 = 0 THEN 'default' ELSE 't' || n % 10 END", "elsewhere")
        yield store


@pytest.mark.parametrize("scoped", [False, True], ids=["unscoped", "scoped"])
@pytest.mark.parametrize("label", CALLS)
def test_a_call_visits_few_rows_and_scans_no_table(crowded: Store, label: str, scoped: bool) -> None:
    view = crowded.backend.for_tenant("acme") if scoped else crowded.backend
    costs = []
    for _ in range(2):  # the first one plans
        owned: Owned = build_owned(view, crowded.clock)
        costs.append(crowded.cost_of(partial(CALLS[label], view, owned)))
        crowded.settle()
    assert costs[1].scanned <= _small_tables(crowded), costs
    assert costs[1].fetched <= MOST, costs


def _small_tables(store: Store) -> int:
    """A table of one page may be read as it lies: the tenants, and what they have used."""
    row = store.connection.execute(f"SELECT count(*) FROM {store.schema}.state_tenants".encode()).fetchone()
    assert row is not None
    return 3 * int(row[0])


# -- claim and settle ------------------------------------------------------------------------------------------------------------------


def turn(store: Store, view: PostgresBackend) -> tuple[Cost, Cost]:
    """What a claim, and what settles it, visit."""
    found: list[WorkItem] = []

    def claim() -> None:
        item = view.claim_work_item("w", ["model", QUEUE])
        assert item is not None
        found.append(item)

    def settle() -> None:
        item = found.pop()
        done = completed(item.node_id, state_patch=None)
        view.commit_turn(item, an_event(an_execution(execution_id=item.execution_id), done))

    claim()
    settle()
    return store.cost_of(claim), store.cost_of(settle)


@pytest.fixture(scope="module")
def few(postgres_dsn: str) -> tuple[tuple[Cost, Cost], tuple[Cost, Cost]]:
    """What a turn costs with 100 items that wait: unscoped, and through a view."""
    with opened(postgres_dsn, "wfe_test_state_few") as store:
        store.backend.create_execution(an_execution())
        store.fill(MORE_ITEMS, "pending", 100, QUEUE, "'default'")
        return turn(store, store.backend), turn(store, store.backend.for_tenant("default"))


@pytest.mark.parametrize(
    ("pending", "settled", "tenants"),
    [(100_000, 0, 1), (100_000, 0, 50), (100, 1_000_000, 1)],
    ids=["100,000 pending", "50 tenants", "1,000,000 completed"],
)
def test_claim_and_settle_cost_the_same(
    postgres_dsn: str,
    few: tuple[tuple[Cost, Cost], tuple[Cost, Cost]],
    pending: int,
    settled: int,
    tenants: int,
) -> None:
    with opened(postgres_dsn, "wfe_test_state_many") as store:
        for number in range(tenants if tenants > 1 else 0):
            store.backend.create_tenant(Tenant(id=f"t{number}", name="n"))
            store.backend.for_tenant(f"t{number}").create_execution(an_execution())
        store.backend.create_execution(an_execution())
        tenant = "'default'" if tenants == 1 else f"'t' || n % {tenants}"
        store.fill(MORE_ITEMS, "pending", pending, QUEUE, tenant)
        if settled:
            store.fill(MORE_ITEMS, "completed", settled, QUEUE, tenant)
        views = (store.backend, store.backend.for_tenant("default" if tenants == 1 else "t7"))
        many = (turn(store, views[0]), turn(store, views[1]))
    for small, large in zip(few, many, strict=True):
        for one, other in zip(small, large, strict=True):
            # Tables with a row for each tenant, or execution of these, may be read as they lie.
            assert other.scanned + other.fetched <= 60 + 6 * tenants, (few, many)
            # A larger index is one or two pages deeper, and a call looks into about ten.
            assert other.pages <= one.pages + 30, (few, many)


def test_items_of_the_future_do_not_cost(postgres_dsn: str) -> None:
    """High priorities that are not due yet stand before what is: each level costs a look, its items nothing."""
    with opened(postgres_dsn, "wfe_test_state_future") as store:
        store.backend.create_execution(an_execution())
        store.fill(MORE_ITEMS, "pending", 100, QUEUE, "'default'")
        alone = turn(store, store.backend)[0]
        store.connection.execute(
            f"""INSERT INTO {store.schema}.state_items (id, tenant_id, execution, node_id, queue_type, status, priority, available_at, attempt,
                max_attempts, created_at, payload) SELECT gen_random_uuid(), 'default', 1, 'f' || n, '{QUEUE}', 'pending', 9, '2999-01-01', 0, 3,
                '2020-01-01', '{{}}' FROM generate_series(1, 5000) AS n""".encode()
        )
        crowd = turn(store, store.backend)[0]
        assert crowd.scanned + crowd.fetched <= alone.scanned + alone.fetched + 30, (alone, crowd)


# -- long logs -------------------------------------------------------------------------------------------------------------------------


def test_a_long_log(postgres_dsn: str) -> None:
    """An append costs the same at its end, and materialize reads the last snapshot and what lies behind it."""
    costs = []
    for events in (10, 100_000):
        with opened(postgres_dsn, "wfe_test_state_log") as store:
            backend, execution = store.backend, an_execution()
            backend.create_execution(execution)
            store.fill(MORE_EVENTS, events)
            backend.append_event(an_event(execution))
            append = partial(backend.append_event, an_event(execution, ToolCalled(node_id="n", tool="t")))
            costs.append(store.cost_of(append))
            assert backend.latest_sequence(execution.execution_id) == events + 2
            whole = store.cost_of(partial(backend.materialize, execution.execution_id))
            backend.write_snapshot(_snapshot(backend, execution.execution_id))
            backend.append_event(an_event(execution))
            tail = store.cost_of(partial(backend.materialize, execution.execution_id))
            assert tail.fetched + tail.scanned <= 20 < whole.fetched + whole.scanned + 15
    assert costs[1].scanned + costs[1].fetched <= costs[0].scanned + costs[0].fetched + 5, costs
    assert costs[1].pages <= costs[0].pages + 15, costs


def _snapshot(backend: PostgresBackend, id: Any) -> Any:
    state = backend.materialize(id)
    return Snapshot(execution_id=id, at_sequence=state.last_sequence, state=state.current_state)


def test_managing_calls_are_walks_too(crowded: Store) -> None:
    owned = build_owned(crowded.backend, crowded.clock)
    crowded.settle()
    for label in ("update_tenant", "bump_store_term"):
        MANAGING[label](crowded.backend, owned)
        assert crowded.cost_of(partial(MANAGING[label], crowded.backend, owned)).scanned <= _small_tables(crowded)


def test_an_empty_queue_costs_no_write(crowded: Store) -> None:
    """No transaction gets a number, which only one that writes or locks something needs."""

    def next_number() -> int:
        row = crowded.connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
        assert row is not None
        return int(row[0])

    views = (crowded.backend, crowded.backend.for_tenant("t1"), crowded.backend.for_tenant("nobody"))
    for view in views:
        view.claim_work_item("w", ["model"])
    before = next_number()
    for view in views:
        assert view.claim_work_item("w", ["model", "general"]) is None
        assert view.reclaim_expired_leases().retryable == []
    assert next_number() == before
