"""What PostgreSQL does for each call among 20,000 other workflows, in the plans that it keeps for prepared statements: it walks indexes, and visits
hardly more rows than it returns or changes. Statements inside of functions included."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import psycopg_pool
import pytest

from tests.persistence.reads import LOOKS
from wfe_fast.clock import to_millis
from wfe_fast.persistence.contract import PersistenceProvider, PersistenceTransaction
from wfe_fast.persistence.models import WorkflowStatus
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.persistence.factories import FAR, NAME, an_event
from wfe_fast.testing.persistence.writes import WRITES, World, build_world

OTHERS = 20_000

#: 20,000 workflows of which every second one is over, with pointers, subscriptions, events, errors and commands.
FILL = """
INSERT INTO {0}.workflows (id, name, definition_id, version, reference, status, next_execution, create_time, complete_time)
SELECT 'w' || n, 'w' || n, 'd' || n % 5, 1, 'r' || n % 500, CASE WHEN n % 2 = 0 THEN 'Complete' ELSE 'Runnable' END,
    CASE WHEN n % 2 = 1 THEN {1} + n END, '2020-01-01'::timestamptz + n * interval '1 minute',
    CASE WHEN n % 2 = 0 THEN '2029-01-01'::timestamptz + n * interval '1 minute' END FROM generate_series(1, {2}) AS n;
INSERT INTO {0}.execution_pointers (id, workflow_id, step_id, status, position, doc)
SELECT 'w' || n || '-' || k, 'w' || n, k, 'Complete', k, '{{"id":"w' || n || '-' || k || '","step_id":0}}'
FROM generate_series(1, {2}) AS n, generate_series(0, 4) AS k;
INSERT INTO {0}.event_subscriptions (id, workflow_id, step_id, execution_pointer_id, event_name, event_key, subscribe_as_of)
SELECT 's' || n, 'w' || n, 0, 'w' || n || '-0', '{3}', 'k' || n, '2020-01-01' FROM generate_series(1, {2}) AS n;
INSERT INTO {0}.events (id, event_name, event_key, event_time, is_processed)
SELECT 'e' || n, '{3}', 'k' || n, CASE WHEN n % 2 = 0 THEN '2030-01-01' ELSE '2999-01-01' END::timestamptz + n * interval '1 minute', n % 2 = 0
FROM generate_series(1, {2}) AS n;
INSERT INTO {0}.execution_errors (error_time, workflow_id, execution_pointer_id, message)
SELECT '2020-01-01', 'w' || n, 'p', 'failed' FROM generate_series(1, {2}) AS n;
INSERT INTO {0}.scheduled_commands (command_name, data, execute_time)
SELECT 'ProcessWorkflow', 'w' || n, {1} + n FROM generate_series(1, {2}) AS n;
ANALYZE {0}.workflows, {0}.execution_pointers, {0}.event_subscriptions, {0}.events, {0}.execution_errors, {0}.scheduled_commands;
"""

#: Calls beside those of the two tables.
MORE: dict[str, Callable[[PersistenceProvider, World], object]] = {
    "claim_runnable_instances of definitions": lambda p, w: p.claim_runnable_instances(
        "other", 5, as_at=FAR, definitions=[("d1", 1), ("order", 1)]
    ),
    "claim_runnable_instances in vain": lambda p, w: p.claim_runnable_instances(
        "other", 5, as_at=START - timedelta(days=9), definitions=[("d1", 1)]
    ),
    "get_runnable_instances limit": lambda p, w: p.get_runnable_instances(FAR, 7),
    "get_runnable_events limit": lambda p, w: p.get_runnable_events(FAR, 7),
    "list_workflows of all three": lambda p, w: p.list_workflows(
        reference="r7", status=WorkflowStatus.RUNNABLE, definition_id="d2", limit=5
    ),
    "list_workflows from a moment on": lambda p, w: p.list_workflows(
        created_after=START - timedelta(days=2000), limit=5
    ),
    "purge_workflows of several": lambda p, w: p.purge_workflows(
        [WorkflowStatus.COMPLETE, WorkflowStatus.TERMINATED], FAR, limit=5
    ),
    "purge_events limit": lambda p, w: p.purge_events(FAR, limit=5),
    "next_due": lambda p, w: p.next_due(),
    "next_due of definitions": lambda p, w: p.next_due([("d1", 1), ("nobody", 1)]),
    "publish_event nobody waits for": lambda p, w: p.publish_event(an_event(event_key="none")),
    "take_events of nothing": lambda p, w: p.take_events(w.stored),
    "subscriptions_of a pointer": lambda p, w: p.subscriptions_of("w7", "w7-0"),
    "get_workflow_instances": lambda p, w: p.get_workflow_instances([f"w{number}" for number in range(20)]),
}
#: What a call asks about the whole store, or about more than 100 of the other workflows, in the two tables.
UNBOUNDED = {
    "get_runnable_instances": "all that will ever be due",
    "count_workflows": "all of them",
    "list_workflows by status": "100 of them",
    "purge_events": "all that is processed",
    "purge_workflows": "1,000 that are over",
}
CALLS = {label: call for label, call in {**WRITES, **LOOKS, **MORE}.items() if label not in UNBOUNDED}

#: How many rows a call may visit in all tables: the most are three pages of workflows with their pointers.
MOST = 250


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
class Store:
    """A filled store, and the one connection to it."""

    provider: PostgresPersistenceProvider
    world: World
    connection: psycopg.Connection[Any]
    schema: str


@pytest.fixture(scope="module")
def store(postgres_dsn: str) -> Iterator[Store]:
    schema = "wfe_test_plans"
    clock = ManualClock()
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        # The plan that serves all parameters, as a statement gets it that was executed a few times.
        connection.execute("SET plan_cache_mode = force_generic_plan")
        pool = HeldConnection(connection, postgres_dsn)
        with PostgresPersistenceProvider(pool=pool, schema=schema, clock=clock) as provider:
            world = build_world(provider, clock)
            connection.execute(FILL.format(schema, to_millis(FAR) - 50_000, OTHERS, NAME))
            yield Store(provider, world, connection, schema)
        connection.execute("SET client_min_messages = warning")
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


#: Of each table, how many rows were read one after the other, and how many by an index.
Visits = dict[str, tuple[int, int]]


def visited(store: Store) -> Visits:
    """What the open transaction has visited so far."""
    rows = store.connection.execute(
        "SELECT relname, seq_tup_read, coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables WHERE schemaname = %s",
        [store.schema],
    ).fetchall()
    return {name: (scanned, fetched) for name, scanned, fetched in rows}


class _PlannedError(Exception):
    pass


def undone(
    store: Store, call: Callable[..., object], look: Callable[[Store], Visits] = visited
) -> tuple[Visits, Visits, object]:
    """What a call visited, and its result; in the end it never was."""
    with suppress(_PlannedError), store.provider.transaction() as tx:
        tx.get_subscriptions("nothing", "none", FAR)
        before = look(store)
        result = call(Both(tx, store.provider), store.world)
        tx.get_subscriptions("nothing", "none", FAR)  # sends what was gathered
        after = look(store)
        raise _PlannedError
    return before, after, result


class Both:
    """The methods of a transaction, and what only its provider has."""

    def __init__(self, tx: PersistenceTransaction, provider: PersistenceProvider) -> None:
        self._tx, self._provider = tx, provider

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx if hasattr(self._tx, name) else self._provider, name)


@pytest.mark.parametrize("label", CALLS)
def test_a_call_visits_few_rows_and_scans_no_table(store: Store, label: str) -> None:
    before, after, result = undone(store, CALLS[label])
    scanned = {name: after[name][0] - before[name][0] for name in after}
    fetched = {name: after[name][1] - before[name][1] for name in after}
    assert not any(scanned.values()), (scanned, result)
    assert sum(fetched.values()) <= MOST, (fetched, result)


OF_A_WORKFLOW = "the pointers of each workflow, which an index gives in this order already"
WANTED = "the rows that were asked for, by the order of asking or of locking"
KEYS = "the names and keys of the given subscriptions"
SUBSCRIPTIONS = "the subscriptions of one workflow, before they are locked"
FIRST_OF_EACH = "the first rows of each definition, or status, up to the limit: each comes from an index in its order"

#: What is sorted in a call, and why that is little. Nothing else is: what has an order has it from an index.
SORTED = {
    "persist_workflow_with_subscriptions": [KEYS],
    "create_event_subscription": [KEYS],
    "delete_workflow": [WANTED, SUBSCRIPTIONS],
    "purge_workflows": [FIRST_OF_EACH, WANTED, SUBSCRIPTIONS],
    "purge_workflows of several": [FIRST_OF_EACH, WANTED, SUBSCRIPTIONS],
    "claim_runnable_instances": [OF_A_WORKFLOW],
    "claim_runnable_instances of definitions": [FIRST_OF_EACH, WANTED, OF_A_WORKFLOW],
    "claim_runnable_instances in vain": [FIRST_OF_EACH],
    "renew_claims": [WANTED],
    "take_events": [SUBSCRIPTIONS],
    "take_events of nothing": [SUBSCRIPTIONS],
    "drop_subscriptions": [SUBSCRIPTIONS],
    "get_workflow_instance": [WANTED, WANTED, OF_A_WORKFLOW],
    "get_workflow_instance_by_name": [WANTED, WANTED, OF_A_WORKFLOW],
    "get_workflow_instances": [WANTED, WANTED, OF_A_WORKFLOW],
    "list_workflows": [OF_A_WORKFLOW],
    "list_workflows by status": [OF_A_WORKFLOW],
    "list_workflows by definition": [OF_A_WORKFLOW],
    "list_workflows by reference": [OF_A_WORKFLOW],
    "list_workflows of all three": [OF_A_WORKFLOW],
    "list_workflows from a moment on": [OF_A_WORKFLOW],
}


def sorts_of(store: Store, call: Callable[..., object]) -> int:
    """How many sorts there are in the plans of all statements of a call, those inside of functions included."""
    plans: list[str] = []

    def note(diagnostic: psycopg.errors.Diagnostic) -> None:
        plans.append(diagnostic.message_detail or "")

    store.connection.execute("DISCARD PLANS; SET debug_print_plan = on; SET client_min_messages = log")
    store.connection.add_notice_handler(note)
    try:
        # Without a look at what was visited: that statement of ours sorts where the server has many tables.
        undone(store, call, lambda _: {})
    finally:
        store.connection.remove_notice_handler(note)
        store.connection.execute("RESET debug_print_plan; RESET client_min_messages")
    found = [plan for plan in plans if "{PLANNEDSTMT" in plan]
    assert len(found) > 2, "the server has not told its plans"
    return sum(len(re.findall(r"\{(?:INCREMENTAL)?SORT\b", plan)) for plan in found)


@pytest.mark.parametrize("label", [*WRITES, *LOOKS, *MORE])
def test_a_call_sorts_nothing_but_a_few_rows(store: Store, label: str) -> None:
    """Also those of whose rows there may be any number: they are walked in the order that an index has."""
    assert sorts_of(store, {**WRITES, **LOOKS, **MORE}[label]) <= len(SORTED.get(label, []))


def test_a_sort_is_seen(store: Store) -> None:
    assert sorts_of(store, LOOKS["list_workflows"]) > 0
