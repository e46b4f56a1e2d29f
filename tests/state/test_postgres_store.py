"""What is PostgreSQL's own about the state backend: schemas, clocks, secrets, what is stored to the byte, and the fold inside the database."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.state.support import dump_schema
from wfe_fast.clock import system_clock
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.errors import (
    CorruptionError,
    InvalidValueError,
    LeaseLostError,
    SchemaMismatchError,
    StoreUnavailableError,
    TenantLimitError,
)
from wfe_fast.postgres import PostgresBackend, PostgresCheckpointStore, state_schema_script
from wfe_fast.state import (
    Acquired,
    ApprovalReceived,
    Event,
    Held,
    InterruptRaised,
    MaterializedState,
    NodeCancelled,
    NodeCompleted,
    NodeFailed,
    NodeScheduled,
    NodeSkipped,
    NodeStarted,
    Snapshot,
    StrategyLimitHit,
    Tenant,
    TenantLimits,
    ToolCalled,
    UnknownEventKind,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowStarted,
    WorkflowStatus,
)
from wfe_fast.state.fold import fold
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.racing import race_threads, values, winners_and_errors
from wfe_fast.testing.state.factories import QUEUE, an_event, an_execution, an_item, claimed, completed
from wfe_fast.testing.waiting import wait_until

#: What a newer release might have written: not as this one would.
ODD = '{ "b":1.50, "type" : "quantum_leap","a":1e5,"\\u0061b":"\\u00e9\\/","n":12345678901234567890123 }'


@pytest.fixture
def backend(postgres_dsn: str, postgres_empty_schema: str) -> Iterator[PostgresBackend]:
    with PostgresBackend.open(postgres_dsn, postgres_empty_schema, clock=ManualClock()) as backend:
        yield backend


def execute(dsn: str, statement: str, *params: Any) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode(), params or None)


# -- what is stored ----------------------------------------------------------------------------------------------------------------------


def test_an_unknown_kind_is_stored_again_byte_for_byte(
    postgres_dsn: str, postgres_empty_schema: str, backend: PostgresBackend
) -> None:
    first, second = an_execution(), an_execution()
    backend.create_execution(first)
    backend.create_execution(second)
    backend.append_event(an_event(first, ToolCalled(node_id="n", tool="t")))
    execute(postgres_dsn, f"UPDATE {postgres_empty_schema}.state_events SET type = 'quantum_leap', kind = %s", ODD)
    (event,) = backend.get_events(first.execution_id)
    assert event.kind == UnknownEventKind(
        "quantum_leap", {"b": 1.5, "a": 1e5, "ab": "é/", "n": 12345678901234567890123}
    )
    backend.append_event(an_event(second, event.kind))
    rows = dump_schema(postgres_dsn, postgres_empty_schema)["state_events"]
    assert [row[6] for row in rows] == [ODD, ODD]


def test_numbers_keep_their_value_in_a_patched_state(backend: PostgresBackend) -> None:
    state = {"f": 1e23, "g": 1e300, "i": 10**25, "small": 5e-324, "list": [1.0, -0.0]}
    execution = an_execution(current_state=state, initial_input=state)
    backend.create_execution(execution)
    backend.patch_append_array(execution.execution_id, "list", 1e22)
    found = backend.get_execution(execution.execution_id)
    assert found is not None
    assert found.current_state == {**state, "list": [1.0, -0.0, 1e22]}
    assert type(found.current_state["f"]) is float
    item = claimed(backend, execution)
    backend.commit_turn(item, an_event(execution, completed(state_patch={"new": 1e24})), snapshot=True)
    assert backend.materialize(execution.execution_id).current_state == {**state, "new": 1e24}


def test_damaged_values_are_said_to_be_damaged(
    postgres_dsn: str, postgres_empty_schema: str, backend: PostgresBackend
) -> None:
    execution = an_execution()
    backend.create_tenant(Tenant(id="acme", name="A", limits=TenantLimits(max_concurrent_executions=1)))
    backend.create_execution(execution)
    item = claimed(backend, execution)
    backend.append_event(an_event(execution))
    for statement in (
        'UPDATE {}.state_events SET kind = \'{{"type":"workflow_started"\'',
        "UPDATE {}.state_executions SET current_state = '{{', initial_input = '{{'",
        "UPDATE {}.state_tenants SET limits = '{{\"max_concurrent_executions\":\"many\"}}' WHERE id = 'acme'",
    ):
        execute(postgres_dsn, statement.format(postgres_empty_schema))
    for call in (
        lambda: backend.get_events(execution.execution_id),
        lambda: backend.get_execution(execution.execution_id),
        lambda: backend.materialize(execution.execution_id),
        lambda: backend.get_tenant("acme"),
        lambda: backend.for_tenant("acme").create_execution(an_execution()),
        lambda: backend.commit_turn(item, an_event(execution, completed()), snapshot=True),
        lambda: backend.patch_append_array(execution.execution_id, "k", 1),
    ):
        with pytest.raises(CorruptionError):
            call()


def test_a_damaged_snapshot_and_session_type(
    postgres_dsn: str, postgres_empty_schema: str, backend: PostgresBackend
) -> None:
    execution = an_execution(session_type="resumable")
    id = execution.execution_id
    backend.create_execution(execution)
    backend.write_snapshot(Snapshot(execution_id=id, at_sequence=1, state={}))
    execute(postgres_dsn, f"UPDATE {postgres_empty_schema}.state_executions SET session_type = 'other'")
    with pytest.raises(CorruptionError, match="session type is 'other'"):
        backend.get_execution(id)
    for damage in ("active_nodes = '5'", "active_nodes = '[1]', completed_nodes = '{}'", "completed_nodes = '[]'"):
        execute(postgres_dsn, f"UPDATE {postgres_empty_schema}.state_snapshots SET {damage}")
        for call in (partial(backend.latest_snapshot, id), partial(backend.materialize, id)):
            with pytest.raises(CorruptionError, match="nodes"):
                call()


# -- the fold in the database against the one in Python --------------------------------------------------------------------------------

NODES = st.sampled_from(["a", "b", "ж", "A", "a b", ""])
SCALARS = st.none() | st.booleans() | st.integers(-5, 10**20) | st.sampled_from([0.5, 1e23, "x", "ж\n", ""])
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c", "ж", ""]), inner, max_size=3)
    ),
    max_leaves=8,
)
KINDS = st.one_of(
    st.builds(NodeCompleted, node_id=NODES, output=VALUES, state_patch=VALUES, duration_ms=st.just(1)),
    st.builds(NodeScheduled, node_id=NODES, queue_type=st.just("q")),
    st.builds(NodeStarted, node_id=NODES, worker_id=st.just("w"), attempt=st.just(0)),
    st.builds(NodeFailed, node_id=NODES, error=st.just("e"), attempt=st.just(0), retryable=st.booleans()),
    st.builds(NodeSkipped, node_id=NODES, reason=st.just("r")),
    st.builds(NodeCancelled, node_id=NODES),
    st.builds(ToolCalled, node_id=NODES, tool=st.just("t")),
    st.builds(WorkflowStarted, workflow_id=st.just("w"), workflow_version=st.just("1"), initial_input=VALUES),
    st.builds(InterruptRaised, node_id=NODES, reason=st.just("r"), state_for_review=VALUES),
    st.builds(ApprovalReceived, node_id=NODES, user_id=st.just("u"), decision=st.just("approved"), state_patch=VALUES),
    st.builds(WorkflowCompleted, final_state=VALUES),
    st.builds(WorkflowFailed, error=st.just("e")),
    st.builds(WorkflowCancelled),
    st.builds(StrategyLimitHit, limit_type=st.just("t"), limit_value=VALUES, actual_value=VALUES),
    st.just(UnknownEventKind("other", {"node_id": "a"})),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=VALUES, kinds=st.lists(KINDS, min_size=1, max_size=12), every=st.integers(1, 4))
def test_both_folds_are_one(
    postgres_dsn: str, postgres_empty_schema: str, backend: PostgresBackend, given: Any, kinds: list[Any], every: int
) -> None:
    """Snapshots that the database takes every few events, one on top of the other, say what all events say."""
    with PostgresBackend.connect(
        postgres_dsn, postgres_empty_schema, clock=ManualClock(), snapshot_every=every, max_connections=1
    ) as folding:
        execution = an_execution(initial_input=given)
        folding.create_execution(execution)
        for kind in kinds:
            folding.append_event(Event(execution_id=execution.execution_id, kind=kind))
        expected = fold(MaterializedState(current_state=given), list(enumerate(kinds, 1)))
        found = folding.materialize(execution.execution_id)
        assert found == expected
        assert json.dumps(found.current_state, sort_keys=True) == json.dumps(expected.current_state, sort_keys=True)
        snapshot = folding.latest_snapshot(execution.execution_id)
        assert (snapshot is not None) is (len(kinds) >= every)
        if snapshot is not None and snapshot.at_sequence == len(kinds):
            assert (snapshot.state, snapshot.status) == (expected.current_state, expected.status)
            assert (snapshot.completed_nodes, snapshot.active_nodes) == (
                expected.completed_nodes,
                expected.active_nodes,
            )


def test_the_deepest_patch(backend: PostgresBackend) -> None:
    patch: Any = 1
    for _ in range(495):
        patch = {"d": patch}
    execution = an_execution(initial_input=patch)
    backend.create_execution(execution)
    item = claimed(backend, execution)
    backend.commit_turn(item, an_event(execution, completed(state_patch={**patch, "e": 1})), snapshot=True)
    assert backend.materialize(execution.execution_id).current_state == {**patch, "e": 1}


# -- races that the others' suite does not have ------------------------------------------------------------------------------------------


def test_limits_hold_in_a_race(postgres_dsn: str, postgres_empty_schema: str) -> None:
    with PostgresBackend.open(postgres_dsn, postgres_empty_schema) as backend:
        backend.create_tenant(Tenant(id="acme", name="A", limits=TenantLimits(max_concurrent_executions=3)))
        view = backend.for_tenant("acme")
        outcomes = race_threads([lambda: view.create_execution(an_execution())] * 8)
        won, errors = winners_and_errors(outcomes)
        assert len(won) == 3
        assert {type(error) for error in errors} == {TenantLimitError}
        assert len(view.list_executions()) == 3


def test_one_gets_the_key(postgres_dsn: str, postgres_empty_schema: str) -> None:
    with PostgresBackend.open(postgres_dsn, postgres_empty_schema) as backend:
        execution = an_execution()
        backend.create_execution(execution)
        jobs = [
            partial(backend.reserve_tool_effect, "k", execution.execution_id, "n", f"owner {number}", number)
            for number in range(8)
        ]
        found = values(race_threads(jobs))
        assert [type(one) for one in found].count(Acquired) == 1
        assert [type(one) for one in found].count(Held) == 7


def test_the_same_call_at_once(postgres_dsn: str, postgres_empty_schema: str) -> None:
    """A scheduler that asks again while the first answer is still on its way."""
    with PostgresBackend.open(postgres_dsn, postgres_empty_schema) as backend:
        execution = an_execution()
        backend.create_execution(execution)
        event = an_event(execution, NodeScheduled(node_id="n", queue_type=QUEUE))
        item = an_item(execution)
        assert values(race_threads([lambda: backend.schedule_node(event, item)] * 6)) == [1] * 6
        assert values(race_threads([lambda: backend.append_event(an_event(execution, id=event.id))] * 6)) == [1] * 6
        ended = an_event(execution, WorkflowCompleted(final_state=1))
        assert values(race_threads([lambda: backend.finish_execution(ended, WorkflowStatus.COMPLETED)] * 6)) == [2] * 6


def test_nobody_waits_in_a_circle(postgres_dsn: str, postgres_empty_schema: str) -> None:
    """Everything at once in two executions: no deadlock, and nothing but the expected errors."""
    with PostgresBackend.open(postgres_dsn, postgres_empty_schema, snapshot_every=7) as backend:
        executions = [an_execution(), an_execution()]
        for execution in executions:
            backend.create_execution(execution)
        before = deadlocks(postgres_dsn)
        racers = [partial(_everything, backend, executions, number) for number in range(8)]
        turns = sum(values(race_threads(racers)))
        assert deadlocks(postgres_dsn) == before
        total = 0
        for execution in executions:
            events = backend.get_events(execution.execution_id)
            assert [event.sequence for event in events] == list(range(1, len(events) + 1))
            total += sum(isinstance(event.kind, NodeCompleted) for event in events)
            nodes = {event.kind.node_id for event in events if isinstance(event.kind, NodeCompleted)}
            assert set(backend.materialize(execution.execution_id).completed_nodes) == nodes
        assert total == turns


def _everything(backend: PostgresBackend, executions: list[Any], racer: int) -> int:
    turns = 0
    for round in range(25):
        mine = executions[(racer + round) % 2]
        node = f"{racer}-{round}"
        backend.schedule_node(an_event(mine, NodeScheduled(node_id=node, queue_type=QUEUE)), an_item(mine, node))
        for item in backend.claim_work_item(f"w{racer}", [QUEUE], lease=0.001 if round % 3 == 0 else 60, limit=2):
            execution = next(one for one in executions if one.execution_id == item.execution_id)
            try:
                if round % 4 == 1:
                    backend.fail_work_item(item, "e")
                else:
                    done = completed(item.node_id, input_tokens=1)
                    backend.commit_turn(item, an_event(execution, done), snapshot=round % 5 == 0)
                    turns += 1
            except LeaseLostError:
                continue
        backend.reclaim_expired_leases()
        backend.patch_append_array(mine.execution_id, "marks", node)
    return turns


def deadlocks(dsn: str) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").fetchone()
    assert row is not None
    return int(row[0])


# -- secrets -----------------------------------------------------------------------------------------------------------------------------


def test_a_secret_is_nowhere_on_the_server() -> None:
    """Neither in a table, nor in what the server writes down to recover or to tell of errors and statements."""
    with PostgresServer(
        settings={"log_statement": "all", "log_min_error_statement": "debug5", "fsync": "off"}
    ) as server:
        with PostgresBackend.open(server.dsn) as backend:
            secrets = [backend.create_token("t", "r")[0] for _ in range(3)]
            secrets.append(backend.rotate_token(backend.list_tokens()[0].id)[0])
            for secret in secrets:
                backend.validate_token(secret)
                backend.for_tenant("default").validate_token(secret)
            with pytest.raises(StoreUnavailableError):
                backend.pool.read(lambda session: session.one("SELECT 1 / 0"))
            shown = repr(backend) + repr(backend.list_tokens()) + repr(dump_schema(server.dsn, "state"))
        execute(server.dsn, "CHECKPOINT")
        with psycopg.connect(server.dsn) as connection:
            row = connection.execute("SHOW data_directory").fetchone()
        assert row is not None
        folder = Path(row[0])
        files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        content = b"".join(file.read_bytes() for file in files) + shown.encode()
        log = (folder.parent / "log").read_bytes()
    assert b"state_create_token" in log
    assert b"division by zero" in log
    content += log
    for secret in secrets:
        assert secret[3:].encode() not in content


# -- schemas, clocks, pools --------------------------------------------------------------------------------------------------------------


def test_connect_leaves_the_tables_to_migrate(postgres_dsn: str, postgres_schema: str) -> None:
    with PostgresBackend.connect(postgres_dsn, postgres_schema) as backend:
        with pytest.raises(SchemaMismatchError):
            backend.list_tenants()
        backend.migrate()
        backend.migrate()
        assert [tenant.id for tenant in backend.list_tenants()] == ["default"]


def test_a_newer_schema_is_left_alone(postgres_dsn: str, postgres_schema: str) -> None:
    PostgresBackend.open(postgres_dsn, postgres_schema).close()
    execute(
        postgres_dsn, f"INSERT INTO {postgres_schema}.wfe_fast_migrations VALUES ('state', 99, 'later', 'x', 0, '')"
    )
    before = dump_schema(postgres_dsn, postgres_schema)
    with pytest.raises(SchemaMismatchError, match="newer"):
        PostgresBackend.open(postgres_dsn, postgres_schema)
    assert dump_schema(postgres_dsn, postgres_schema) == before


@pytest.mark.parametrize("theirs", ["contract", "program"])
def test_a_schema_that_is_somebody_elses(postgres_dsn: str, postgres_schema: str, theirs: str) -> None:
    if theirs == "contract":
        with PostgresCheckpointStore(postgres_dsn, postgres_schema) as store:
            store.migrate()
    else:
        execute(
            postgres_dsn, f"CREATE SCHEMA {postgres_schema}; CREATE TABLE {postgres_schema}.state_items (mine TEXT)"
        )
    before = dump_schema(postgres_dsn, postgres_schema)
    with pytest.raises(SchemaMismatchError, match="no room"):
        PostgresBackend.open(postgres_dsn, postgres_schema)
    assert dump_schema(postgres_dsn, postgres_schema) == before


def test_names_that_are_refused(postgres_dsn: str) -> None:
    for schema, prefix in (("x" * 57, ""), ("state; DROP", ""), ("state", 'p"')):
        for call in (
            partial(PostgresBackend, postgres_dsn, schema, prefix),
            partial(state_schema_script, schema, prefix),
        ):
            with pytest.raises(InvalidValueError, match="schema|prefix"):
                call()


def test_the_longest_names_work(postgres_dsn: str, postgres_schema: str) -> None:
    with PostgresBackend.open(postgres_dsn, postgres_schema, "X" * 28) as backend:
        execution = an_execution()
        backend.create_execution(execution)
        assert backend.for_tenant("default").list_executions() == [execution]


def test_the_servers_clock_decides(postgres_dsn: str, postgres_empty_schema: str) -> None:
    with PostgresBackend.open(postgres_dsn, postgres_empty_schema) as backend:
        execution = an_execution()
        backend.create_execution(execution)
        item = claimed(backend, execution)
        assert item.lease_expires_at is not None
        assert abs((item.lease_expires_at - system_clock()).total_seconds() - 60) < 30
        assert abs((backend.clock() - system_clock()).total_seconds()) < 30
        assert backend.reclaim_expired_leases().retryable == []
        short = claimed(backend, execution, "m")
        backend.renew_lease(short, 0.001)
        found: list[Any] = []
        wait_until(lambda: bool(found.extend(backend.reclaim_expired_leases().retryable) or found), "the lease ends")
        assert [one.id for one in found] == [short.id]


@pytest.mark.parametrize("isolation", ["serializable", "read committed"])
def test_a_pool_of_the_callers(postgres_dsn: str, postgres_empty_schema: str, isolation: str) -> None:
    """Views as well leave its connections as they were, however its transactions are isolated."""

    def configure(connection: psycopg.Connection[Any]) -> None:
        connection.execute(f"SET default_transaction_isolation = '{isolation}'".encode())
        connection.commit()

    with psycopg_pool.ConnectionPool(postgres_dsn, min_size=1, max_size=1, configure=configure, open=True) as pool:
        with PostgresBackend.open(pool=pool, schema=postgres_empty_schema) as backend:
            view = backend.for_tenant("default")
            execution = an_execution()
            view.create_execution(execution)
            with pytest.raises(Exception, match="exists already"):
                view.create_execution(execution)
            numbers = values(race_threads([lambda: view.append_event(an_event(execution))] * 6))
            assert sorted(numbers) == [1, 2, 3, 4, 5, 6]
        with pool.connection() as connection:
            row = connection.execute("SELECT current_user = session_user").fetchone()
            assert row == (True,)
            assert not connection.autocommit
        assert not pool.closed


@pytest.mark.parametrize("option", [{"clock": 5}, {"snapshot_every": 0}, {"keep_snapshots": -1}, {"timeout": -1}])
def test_wrong_options(postgres_dsn: str, option: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError, match=next(iter(option))):
        PostgresBackend(postgres_dsn, **option)
