"""The demo on PostgreSQL, and the SQL for an administrator."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import psycopg
import pytest

from tests.cli.helpers import PATIENCE, arguments, environment, heavy_folder, report_of, run_demo, small_folder
from wfe_fast.cli.report import without_password
from wfe_fast.cli.steplog import LINE_LENGTH
from wfe_fast.database.postgres_server import NOT_DURABLE, PostgresServer
from wfe_fast.persistence.postgres import MIGRATIONS
from wfe_fast.postgres import PostgresBackend, PostgresCheckpointStore, PostgresPersistenceProvider
from wfe_fast.testing.waiting import wait_until

pytestmark = pytest.mark.once


@pytest.fixture
def database(postgres_dsn: str) -> str:
    """The demo works in the schema that is the default: in a database of its own, so that no other test meets it."""
    name = "wfe_demo"
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name}")
    given = psycopg.conninfo.conninfo_to_dict(postgres_dsn)
    words = "&".join(f"{key}={value}" for key, value in given.items() if key != "dbname")
    return f"postgresql:///{name}?{words}"


def test_a_run_with_a_kill_and_a_second_one(tmp_path: Path, database: str) -> None:
    folder = tmp_path / "folder"
    small_folder(folder)
    on_sqlite = report_of(run_demo(folder, "--json", "--no-kill", cwd=tmp_path))
    first = report_of(run_demo(folder, "--workers", 2, "--database", database, "--json", cwd=tmp_path))
    assert (first["killed"], first["lost"], first["repeated"]) == (1, 0, 0)
    assert first["digest"] == on_sqlite["digest"]
    assert first["steps"] == on_sqlite["steps"]
    second = report_of(run_demo(folder, "--workers", 2, "--database", database, "--json", cwd=tmp_path))
    assert (second["steps_before"], second["repeated"], second["lost"]) == (first["steps"], 0, 0)
    assert second["digest"] == first["digest"]


def test_a_server_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    small_folder(folder)
    report = report_of(run_demo(folder, "--workers", 2, "--database", "postgres", "--json", cwd=tmp_path))
    assert (report["killed"], report["lost"], report["repeated"], report["kept"]) == (1, 0, 0, False)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(report["database"], connect_timeout=5)


def schema_command(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wfe_fast", "schema", *args],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_schema_that_it_prints_is_the_one_that_a_provider_makes(postgres_dsn: str, postgres_schema: str) -> None:
    printed = schema_command("--schema", postgres_schema, "--table-prefix", "p_")
    assert printed.returncode == 0, printed.stderr
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.pgconn.exec_(b"SET client_min_messages = warning")
        result = connection.pgconn.exec_(printed.stdout.encode())
        assert result.error_message == b""
    with PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema, table_prefix="p_") as provider:
        assert provider.next_definition_sequence("order") == 1


def test_the_upgrade_of_tables_that_are_there(postgres_dsn: str, postgres_schema: str) -> None:
    PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema).close()
    newest = len(MIGRATIONS)
    printed = schema_command("--schema", postgres_schema, "--from", str(newest))
    assert printed.returncode == 0, printed.stderr
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        assert connection.pgconn.exec_(printed.stdout.encode()).error_message == b""
    refused = schema_command("--from", str(newest + 1))
    assert refused.returncode == 2
    assert "from_version" in refused.stderr


def test_the_tables_of_checkpoints(postgres_dsn: str, postgres_schema: str) -> None:
    assert '"durable"."step_checkpoints"' in schema_command("--tables", "checkpoints").stdout
    assert '"wfc"."workflows"' in schema_command().stdout
    printed = schema_command("--tables", "checkpoints", "--schema", postgres_schema)
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.pgconn.exec_(b"SET client_min_messages = warning")
        assert connection.pgconn.exec_(printed.stdout.encode()).error_message == b""
    with PostgresCheckpointStore(postgres_dsn, postgres_schema) as store:
        assert store.validate_schema()
        assert store.schema_version > 0


def test_the_schema_of_a_state_backend(postgres_dsn: str, postgres_schema: str) -> None:
    printed = schema_command("--tables", "state", "--schema", postgres_schema, "--table-prefix", "p_")
    assert printed.returncode == 0, printed.stderr
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.pgconn.exec_(b"SET client_min_messages = warning")
        result = connection.pgconn.exec_(printed.stdout.encode())
        assert result.error_message == b""
    with PostgresBackend.open(postgres_dsn, postgres_schema, "p_") as backend:
        assert [tenant.id for tenant in backend.list_tenants()] == ["default"]
        assert backend.for_tenant("default").list_executions() == []


def test_a_schema_that_is_no_name() -> None:
    refused = schema_command("--schema", "wfc; DROP TABLE x")
    assert refused.returncode == 2
    assert "schema" in refused.stderr


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://kim:secret@host/db", "postgresql://kim:***@host/db"),
        ("postgresql://kim@host/db", "postgresql://kim@host/db"),
        ("sqlite:///a:b@c.db", "sqlite:///a:b@c.db"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_is_restarted_half_way(tmp_path: Path, mode: str) -> None:
    heavy_folder(tmp_path / "folder", 15)
    with PostgresServer(settings=NOT_DURABLE) as server:
        running = subprocess.Popen(
            arguments("folder", "--database", server.dsn, "--workers", 2, "--json"),
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

        def has_begun(steps: int) -> bool:
            assert running.poll() is None
            return sum(log.stat().st_size for log in tmp_path.glob("*.log")) >= steps * LINE_LENGTH

        try:
            for steps in (10, 20):
                wait_until(partial(has_begun, steps), "so many steps have begun")
                server.stop(mode)
                server.start()
            said, complained = running.communicate(timeout=PATIENCE)
        finally:
            running.kill()  # it has ended, unless the test fails
        assert running.returncode == 0, complained
    report = json.loads(said.splitlines()[-1])
    assert (report["files"], report["steps"], report["lost"], report["repeated"]) == (15, 60, 0, 0)
    assert (report["killed"], report["errors"]) == (1, [])
