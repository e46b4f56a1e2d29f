"""Writes of the state backend that are cut off anywhere on PostgreSQL: all of a write is there, or nothing of it, and nobody is told otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.state.support import dump_schema
from wfe_fast.errors import CommitOutcomeUnknownError, StoreUnavailableError, WfeError
from wfe_fast.postgres import PostgresBackend
from wfe_fast.state import NodeCompleted, NodeScheduled, StateBackend, Tenant
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.killing import Victim
from wfe_fast.testing.proxy import WireProxy
from wfe_fast.testing.state import jobs
from wfe_fast.testing.state.calls import MANAGING, READS, WRITES, Owned, build_owned, method_of
from wfe_fast.testing.state.factories import an_execution

#: Repeated by the backend itself when a connection breaks in the middle: to do them twice is to do them once.
REPEATED = {
    "append_event",
    "append_events",
    "write_snapshot",
    "schedule_node",
    "finish_execution",
    "reserve_tool_effect",
    "renew_lease",
    "revoke_token",
    "validate_token",
}

#: On each table, for each row that is written: draw a number, and at the chosen one fail, or end this very connection.
TRAP = """
CREATE SEQUENCE {0}.trap_count;
CREATE TABLE {0}.trap_plan (at BIGINT, kill BOOLEAN);
INSERT INTO {0}.trap_plan VALUES (0, FALSE);
GRANT ALL ON SEQUENCE {0}.trap_count TO PUBLIC;
GRANT ALL ON {0}.trap_plan TO PUBLIC;
CREATE FUNCTION {0}.trap() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF nextval('{0}.trap_count') = (SELECT at FROM {0}.trap_plan) THEN
        IF (SELECT kill FROM {0}.trap_plan) THEN
            PERFORM pg_terminate_backend(pg_backend_pid());
        END IF;
        RAISE EXCEPTION 'trapped' USING ERRCODE = '58000';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;
DO $$
DECLARE name TEXT;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = '{0}' AND tablename LIKE 'state_%' LOOP
        EXECUTE format('CREATE TRIGGER trap BEFORE INSERT OR UPDATE OR DELETE ON {0}.%I FOR EACH ROW EXECUTE FUNCTION {0}.trap()', name);
    END LOOP;
END $$;
"""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class Trap:
    """Fails, or ends the connection, at the n-th row that is written from now on."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._dsn, self._schema = dsn, schema
        self._execute(TRAP.format(schema))

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(f"SET client_min_messages = warning; {statement}".encode())

    def set(self, at: int, *, kill: bool) -> None:
        schema = self._schema
        self._execute(
            f"UPDATE {schema}.trap_plan SET at = {at}, kill = {kill}; SELECT setval('{schema}.trap_count', 1, FALSE)"
        )

    def dump(self) -> dict[str, list[Any]]:
        found = dump_schema(self._dsn, self._schema)
        return {name: rows for name, rows in found.items() if name != "trap_plan"}

    def sprung(self) -> bool:
        """Whether the row has come."""
        with psycopg.connect(self._dsn) as connection:
            row = connection.execute(
                f"SELECT (SELECT last_value FROM {self._schema}.trap_count) >= at FROM {self._schema}.trap_plan".encode()
            ).fetchone()
        assert row is not None
        return bool(row[0])


@pytest.fixture(scope="module")
def schema(postgres_dsn: str) -> Iterator[str]:
    name = f"wfe_test_state_traps_{os.getpid()}"  # several processes may test on one server
    yield name
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"SET client_min_messages = warning; DROP SCHEMA IF EXISTS {name} CASCADE;".encode())
        connection.execute(f"DROP ROLE IF EXISTS {name}_scoped".encode())


@pytest.fixture(scope="module")
def trap(postgres_dsn: str, schema: str) -> Trap:
    PostgresBackend.open(postgres_dsn, schema=schema).close()
    return Trap(postgres_dsn, schema)


def rebuilt(dsn: str, schema: str, clock: ManualClock, scoped: bool) -> tuple[PostgresBackend, PostgresBackend, Owned]:
    """A backend on the emptied schema, itself or a view of it, and what its caller has."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"UPDATE {schema}.trap_plan SET at = 0".encode())
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = %s", [schema]).fetchall()
        tables = ", ".join(f"{schema}.{name}" for (name,) in names if name.startswith("state_"))
        connection.execute(f"TRUNCATE {tables} RESTART IDENTITY".encode())
    backend = PostgresBackend.open(dsn, schema=schema, clock=clock, snapshot_every=5)
    if not scoped:
        return backend, backend, build_owned(backend, clock)
    backend.create_tenant(Tenant(id="acme", name="A"))
    view = backend.for_tenant("acme")
    return backend, view, build_owned(view, clock)


@pytest.mark.parametrize("label", {**WRITES, **MANAGING})
def test_a_fault_at_every_row(postgres_dsn: str, schema: str, trap: Trap, clock: ManualClock, label: str) -> None:
    call = {**WRITES, **MANAGING}[label]
    backend, view, owned = rebuilt(postgres_dsn, schema, clock, label in WRITES)
    with backend:
        before = trap.dump()
        for row in range(1, 60):
            trap.set(row, kill=False)
            try:
                call(view, owned)
            except StoreUnavailableError as error:
                assert "trapped" in str(error)
                assert trap.dump() == before, f"after a fault at row {row}"
                continue
            break
        assert trap.dump() != before
        assert 2 <= row < 59


#: Changes of several rows.
ATOMIC = [
    "start_execution",
    "schedule_node",
    "commit_turn",
    "commit_turn failed",
    "finish_execution",
    "finish_execution cancelled",
    "update_execution_status cancelled",
    "append_events",
    "write_snapshot",
    "claim_work_item several",
    "fail_work_item",
    "fail_work_item for the last time",
    "reclaim_expired_leases",
    "move_to_dead_letter",
    "rotate_token",
    "purge_events",
]


#: These pass over what is locked.
PASSING_OVER = {"claim_work_item several", "reclaim_expired_leases", "purge_events"}


def sizes(dumped: dict[str, list[Any]]) -> dict[str, int]:
    return {name: len(rows) for name, rows in dumped.items()}


@pytest.mark.parametrize("label", ATOMIC)
def test_a_connection_that_is_ended_at_every_row(
    postgres_dsn: str, schema: str, trap: Trap, clock: ManualClock, label: str
) -> None:
    """The server rolls back. Where it says so, and where a call may be done twice, the call begins again, and has happened once."""
    backend, view, owned = rebuilt(postgres_dsn, schema, clock, False)
    with backend:
        WRITES[label](view, owned)
    whole = sizes(trap.dump())
    for row in range(1, 60):
        backend, view, owned = rebuilt(postgres_dsn, schema, ManualClock(), row % 2 == 0)
        with backend:
            before = trap.dump()
            trap.set(row, kill=True)
            try:
                WRITES[label](view, owned)
            except CommitOutcomeUnknownError:
                assert method_of(label) not in REPEATED
                assert trap.dump() == before, f"ended at row {row}"
                continue
            sprung = trap.sprung()
            if label in PASSING_OVER:
                # Some rows were perhaps still locked by the connection that had been ended: what was left out, the next call takes.
                trap.set(0, kill=False)
                WRITES[label](view, owned)
        found = sizes(trap.dump())
        found["state_tenants"] = whole["state_tenants"]
        assert found == whole, f"ended at row {row}"
        if not sprung:
            break
    assert 2 <= row < 59


# -- the wire ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture(params=["unscoped", "scoped"])
def pair(
    request: pytest.FixtureRequest, proxy: WireProxy, postgres_empty_schema: str, clock: ManualClock
) -> Iterator[tuple[StateBackend, Owned]]:
    """A backend, or a view, whose way leads through the proxy."""
    with PostgresBackend.open(proxy.dsn, schema=postgres_empty_schema, clock=clock, max_connections=1) as root:
        view = root
        if request.param == "scoped":
            root.create_tenant(Tenant(id="acme", name="A"))
            view = root.for_tenant("acme")
        yield view, build_owned(view, clock)


@pytest.mark.parametrize("label", {**WRITES, **READS})
def test_an_answer_that_is_lost(
    postgres_dsn: str, postgres_empty_schema: str, proxy: WireProxy, pair: tuple[StateBackend, Owned], label: str
) -> None:
    """What may be done twice is done again; of anything else it is said that nobody knows, though it was stored."""
    backend, owned = pair
    before = dump_schema(postgres_dsn, postgres_empty_schema)
    rule = proxy.lose_answer("Sync")
    if method_of(label) == "claim_work_item" or (label in WRITES and method_of(label) not in REPEATED):
        with pytest.raises(CommitOutcomeUnknownError):
            {**WRITES, **READS}[label](backend, owned)
        assert rule.reached
        assert (dump_schema(postgres_dsn, postgres_empty_schema) != before) is (label in WRITES)
        return
    {**WRITES, **READS}[label](backend, owned)
    assert rule.reached
    if label in ("append_event", "append_events", "schedule_node", "finish_execution"):
        known = {row[0] for row in before["state_logs"]}
        assert {row[0] for row in dump_schema(postgres_dsn, postgres_empty_schema)["state_logs"]} == known
        sequences = [event.sequence for event in backend.get_events(owned.execution.execution_id)]
        assert sequences == list(range(1, len(sequences) + 1))
        added = 3 if label == "append_events" else 1
        assert len(sequences) == 3 + added


@pytest.mark.parametrize("kind", ["Bind", "Sync"])
@pytest.mark.parametrize("label", ATOMIC)
def test_a_connection_that_is_cut_while_sending(
    postgres_dsn: str,
    postgres_empty_schema: str,
    proxy: WireProxy,
    pair: tuple[StateBackend, Owned],
    label: str,
    kind: str,
) -> None:
    """All or nothing; and where the error says that nobody knows, nothing else is claimed."""
    backend, owned = pair
    before = dump_schema(postgres_dsn, postgres_empty_schema)
    proxy.cut_before(kind)
    try:
        WRITES[label](backend, owned)
    except CommitOutcomeUnknownError:
        proxy.clear()
        after = dump_schema(postgres_dsn, postgres_empty_schema)
        if after == before:
            WRITES[label](backend, owned)
    assert dump_schema(postgres_dsn, postgres_empty_schema) != before


# -- SIGKILL -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("acknowledged", [1, 2, 3, 5, 8])
def test_a_killed_worker(postgres_dsn: str, postgres_schema: str, acknowledged: int) -> None:
    """What it was told is there; the rest of its last node is there as a whole, or not at all."""
    opener: Callable[..., PostgresBackend] = partial(PostgresBackend.open, postgres_dsn, schema=postgres_schema)
    with opener() as backend:
        execution = an_execution()
        backend.create_execution(execution)
        victim = Victim(opener, jobs.work_and_tell, execution.execution_id)
        victim.await_acknowledgements(acknowledged)
        told = victim.kill()
        events = backend.get_events(execution.execution_id)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        done = [event.kind.node_id for event in events if isinstance(event.kind, NodeCompleted)]
        begun = [event.kind.node_id for event in events if isinstance(event.kind, NodeScheduled)]
        assert done[: len(told)] == told
        assert len(done) in (len(told), len(told) + 1)
        assert len(begun) in (len(done), len(done) + 1)
        assert set(backend.materialize(execution.execution_id).completed_nodes) == set(done)
        for node in begun:
            assert (backend.get_tool_effect(node) is not None) == (node in done)
        left = backend.claim_work_item("next", ["tool"])
        held = [row for row in dump_schema(postgres_dsn, postgres_schema)["state_items"] if "claimed" in row]
        assert len(held) + (left is None) >= 1 if begun == done else len(held) == 1


def test_a_server_that_is_away_says_so(proxy: WireProxy, postgres_empty_schema: str) -> None:
    with PostgresBackend.open(proxy.dsn, schema=postgres_empty_schema, timeout=0.2) as backend, proxy.refusing():
        proxy.cut_all()
        for _ in range(3):
            with pytest.raises(WfeError) as raised:
                backend.for_tenant("default").list_executions()
            assert isinstance(raised.value, StoreUnavailableError)
