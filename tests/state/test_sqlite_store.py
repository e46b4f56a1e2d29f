"""What is SQLite's own about the state backend: files, tables, what is stored to the byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import apsw
import pytest

from tests.state.support import dump
from wfe_fast.errors import CorruptionError, SchemaMismatchError, StoreUnavailableError
from wfe_fast.sqlite import SqliteBackend, SqlitePersistenceProvider
from wfe_fast.state import Snapshot, Tenant, TenantLimits, ToolCalled, UnknownEventKind, WorkflowStatus
from wfe_fast.testing.persistence.factories import a_workflow
from wfe_fast.testing.state.factories import QUEUE, an_event, an_execution, an_item, claimed, completed

#: What a newer release might have written: not as this one would.
ODD = '{ "b":1.50, "type" : "quantum_leap","a":1e5,"\\u0061b":"\\u00e9\\/","n":12345678901234567890123 }'


def stored_kinds(backend: SqliteBackend) -> list[str]:
    return [row[6] for row in dump(backend)["state_events"]]


def rewrite(path: Path, sql: str, *params: Any) -> None:
    """Change a file behind the backend's back."""
    connection = apsw.Connection(str(path))
    connection.execute(sql, params)
    connection.close()


def test_an_unknown_kind_is_stored_again_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    first, second = an_execution(), an_execution()
    with SqliteBackend.open(path) as backend:
        backend.create_execution(first)
        backend.create_execution(second)
        backend.append_event(an_event(first, ToolCalled(node_id="n", tool="t")))
    rewrite(path, "UPDATE state_events SET type = 'quantum_leap', kind = ?", ODD)
    with SqliteBackend.open(path) as backend:
        (event,) = backend.get_events(first.execution_id)
        assert event.kind == UnknownEventKind(
            "quantum_leap", {"b": 1.5, "a": 1e5, "ab": "é/", "n": 12345678901234567890123}
        )
        backend.append_event(an_event(second, event.kind))
        assert stored_kinds(backend) == [ODD, ODD]
        assert backend.materialize(second.execution_id).last_sequence == 1
        # Changed by the caller it is another one.
        assert isinstance(event.kind, UnknownEventKind)
        event.kind.fields["b"] = 2
        backend.append_event(an_event(second, event.kind))
        assert '"b":2' in "".join(stored_kinds(backend))


def test_damaged_values_are_said_to_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    execution = an_execution()
    with SqliteBackend.open(path) as backend:
        backend.create_tenant(Tenant(id="acme", name="A", limits=TenantLimits(max_workflows=1)))
        backend.create_execution(execution)
        backend.append_event(an_event(execution))
    for sql in (
        'UPDATE state_events SET kind = \'{"type":"workflow_started"}\'',
        "UPDATE state_executions SET current_state = '{', initial_input = '{'",
        "UPDATE state_tenants SET limits = '{\"max_workflows\":\"many\"}' WHERE id = 'acme'",
    ):
        rewrite(path, sql)
    with SqliteBackend.open(path) as backend:
        for call in (
            lambda: backend.get_events(execution.execution_id),
            lambda: backend.get_execution(execution.execution_id),
            lambda: backend.materialize(execution.execution_id),
            lambda: backend.get_tenant("acme"),
            lambda: backend.for_tenant("acme").create_execution(an_execution()),
        ):
            with pytest.raises(CorruptionError):
                call()


@pytest.mark.parametrize(
    "damage",
    [
        "active_nodes = '5'",
        "active_nodes = '[1]'",
        "active_nodes = '{}'",
        "active_nodes = 'null'",
        "completed_nodes = '[]'",
    ],
)
def test_a_damaged_snapshot_is_said_to_be_damaged(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "test.db"
    execution = an_execution()
    with SqliteBackend.open(path) as backend:
        backend.create_execution(execution)
        item = claimed(backend, execution)
        backend.write_snapshot(Snapshot(execution_id=execution.execution_id, at_sequence=1, state={}))
    rewrite(path, f"UPDATE state_snapshots SET {damage}")
    with SqliteBackend.open(path) as backend:
        for call in (
            lambda: backend.latest_snapshot(execution.execution_id),
            lambda: backend.materialize(execution.execution_id),
            lambda: backend.commit_turn(item, an_event(execution, completed()), snapshot=True),
        ):
            with pytest.raises(CorruptionError, match="nodes"):
                call()


def test_an_unknown_session_type_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    execution = an_execution(session_type="resumable")
    with SqliteBackend.open(path) as backend:
        backend.create_execution(execution)
        rewrite(path, "UPDATE state_executions SET session_type = 'other'")
        for call in (lambda: backend.get_execution(execution.execution_id), lambda: list(backend.list_executions())):
            with pytest.raises(CorruptionError, match="session type is 'other'"):
                call()


def test_connect_leaves_the_tables_to_migrate(tmp_path: Path) -> None:
    with SqliteBackend.connect(f"sqlite:///{tmp_path}/test.db", synchronous="full", busy_timeout=1) as backend:
        with pytest.raises(StoreUnavailableError):
            backend.list_tenants()
        backend.migrate()
        backend.migrate()
        assert [tenant.id for tenant in backend.list_tenants()] == ["default"]
        assert backend.path == str(tmp_path / "test.db")
        assert backend.pool.path == backend.path


def test_a_newer_schema_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    with SqliteBackend.open(path) as backend:
        before = dump(backend)
    rewrite(path, "INSERT INTO wfe_fast_migrations VALUES ('state', 2, 'later', 'x', 0)")
    with pytest.raises(SchemaMismatchError):
        SqliteBackend.open(path)
    rewrite(path, "DELETE FROM wfe_fast_migrations WHERE version = 2")
    with SqliteBackend.open(path) as backend:
        assert dump(backend) == before


def test_both_contracts_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    with SqlitePersistenceProvider(path) as provider, SqliteBackend.open(path) as backend:
        provider.create_new_workflow(a_workflow(id="w"))
        execution = an_execution()
        backend.create_execution(execution)
        assert provider.get_workflow_instance("w").id == "w"
        assert backend.get_execution(execution.execution_id) == execution


def test_the_secret_is_in_no_file(tmp_path: Path) -> None:
    with SqliteBackend.open(tmp_path / "test.db") as backend:
        secrets = [backend.create_token("t", "r")[0] for _ in range(3)]
        secrets.append(backend.rotate_token(backend.list_tokens()[0].id)[0])
        for secret in secrets:
            backend.validate_token(secret)
        files = sorted(tmp_path.iterdir())
        assert [file.name for file in files] == ["test.db", "test.db-shm", "test.db-wal"]
        content = b"".join(file.read_bytes() for file in files if file.name != "test.db")
    content += (tmp_path / "test.db").read_bytes()
    assert b"state_tokens" in content
    for secret in secrets:
        assert secret[3:].encode() not in content


def test_in_memory() -> None:
    with SqliteBackend.open(":memory:") as backend:
        execution = an_execution()
        backend.create_execution(execution)
        item = claimed(backend, execution)
        assert backend.commit_turn(item, an_event(execution, completed()), snapshot=True) == 1
        backend.enqueue_work_item(an_item(execution, "m"))
        assert len(backend.claim_work_item("w", [QUEUE], limit=5)) == 1
        assert backend.materialize(execution.execution_id).status is WorkflowStatus.PENDING
        assert backend.get_execution(uuid4()) is None
