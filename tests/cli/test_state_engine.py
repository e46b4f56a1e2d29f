"""The main job with work items of the state backend."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import psycopg
import pytest

from tests.cli.helpers import PATIENCE, digest_of, environment, report_of, run_demo, small_folder, tokens_of
from wfe_fast.cli.files import FileName
from wfe_fast.cli.state_engine import FileSource, StateEngine
from wfe_fast.cli.steplog import LINE_LENGTH, StepLog
from wfe_fast.postgres import PostgresBackend
from wfe_fast.sqlite import SqliteBackend
from wfe_fast.state import NodeCompleted, WorkflowStatus
from wfe_fast.testing.clock import ManualClock

pytestmark = pytest.mark.once


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "folder").mkdir()
    return small_folder(tmp_path / "folder")


def run(*args: object, cwd: Path) -> dict[str, Any]:
    return report_of(run_demo(*args, "--engine", "state", "--json", cwd=cwd))


def test_a_run_with_a_kill_loses_nothing_and_repeats_nothing(tmp_path: Path, files: dict[str, bytes]) -> None:
    report = run("folder", "--workers", 2, "--database", "sqlite:///d.db", cwd=tmp_path)
    assert (report["engine"], report["files"], report["bytes"]) == ("state", len(files), sum(map(len, files.values())))
    assert report["digest"] == digest_of(files)
    assert report["tokens"] == tokens_of(files) > 0
    assert report["compressed"] == sum(len(zlib.compress(content, 6)) for content in files.values())
    assert (report["workers"], report["killed"], report["taken_over"]) == (2, 1, 1)
    assert (report["steps"], report["repeated"], report["lost"], report["errors"]) == (4 * len(files), 0, 0, [])
    with SqliteBackend.open(tmp_path / "d.db") as backend:
        assert backend.count_executions() == {WorkflowStatus.COMPLETED: len(files)}
        for execution in backend.list_executions():
            events = backend.get_events(execution.execution_id)
            nodes = [event.kind.node_id for event in events if isinstance(event.kind, NodeCompleted)]
            assert nodes == ["digest", "measure", "compress", "catalogue", "file"]
            snapshot = backend.latest_snapshot(execution.execution_id)
            assert snapshot is not None
            assert snapshot.at_sequence == len(events)
        assert backend.claim_work_item("w", ["demo"]) is None


def test_a_second_run_does_nothing_twice(tmp_path: Path, files: dict[str, bytes]) -> None:
    first = run("folder", "--database", "sqlite:///d.db", "--no-kill", cwd=tmp_path)
    log = (tmp_path / "d.db.state.log").read_bytes()
    again = run("folder", "--database", "sqlite:///d.db", cwd=tmp_path)
    assert (tmp_path / "d.db.state.log").read_bytes() == log
    assert again["steps"] == again["steps_before"] == first["steps"] == len(log) // LINE_LENGTH
    assert again["digest"] == digest_of(files)
    assert (first["killed"], again["killed"], again["lost"], again["repeated"]) == (0, 0, 0, 0)


def test_both_engines_agree(tmp_path: Path, files: dict[str, bytes]) -> None:
    ours = run("folder", "--no-kill", "--database", "sqlite:///d.db", cwd=tmp_path)
    host = report_of(run_demo("folder", "--no-kill", "--database", "sqlite:///d.db", "--json", cwd=tmp_path))
    for name in ("files", "bytes", "lines", "words", "longest", "tokens", "compressed", "digest", "errors", "lost"):
        assert ours[name] == host[name], name


def test_what_to_look_at(tmp_path: Path, files: dict[str, bytes]) -> None:
    done = run_demo("folder", "--engine", "state", "--no-kill", cwd=tmp_path)
    (look,) = [line for line in done.stdout.splitlines() if "list_executions" in line]
    seen = subprocess.run(
        look, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert seen.stdout.startswith("WorkflowExecution(")
    assert "--engine state --database" in done.stdout


def test_on_postgres(tmp_path: Path, files: dict[str, bytes], postgres_dsn: str) -> None:
    """A run with a kill, and a second one that finds nothing to do; in a database of its own, so that no other test meets it."""
    name = "wfe_demo_state"
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
    words = {**psycopg.conninfo.conninfo_to_dict(postgres_dsn)}
    words.pop("dbname", None)
    database = f"postgresql:///{name}?{urlencode(words)}"
    first = run("folder", "--workers", 2, "--database", database, cwd=tmp_path)
    assert (first["killed"], first["lost"], first["repeated"], first["errors"]) == (1, 0, 0, [])
    assert (first["digest"], first["steps"]) == (digest_of(files), 4 * len(files))
    done = run_demo("folder", "--engine", "state", "--database", database, cwd=tmp_path)
    (look,) = [line for line in done.stdout.splitlines() if "list_executions" in line]
    seen = subprocess.run(
        look, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert seen.stdout.startswith("WorkflowExecution(")
    with PostgresBackend.connect(database) as backend:
        assert backend.count_executions() == {WorkflowStatus.COMPLETED: len(files)}
        for execution in backend.list_executions():
            nodes = [
                one.kind.node_id
                for one in backend.get_events(execution.execution_id)
                if type(one.kind) is NodeCompleted
            ]
            assert nodes == ["digest", "measure", "compress", "catalogue", "file"]


def test_on_a_server_of_its_own(tmp_path: Path, files: dict[str, bytes]) -> None:
    report = run("folder", "--workers", 2, "--database", "postgres", cwd=tmp_path)
    assert (report["killed"], report["lost"], report["repeated"], report["kept"]) == (1, 0, 0, False)
    assert report["digest"] == digest_of(files)


class TestSource:
    """One worker, in this process."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock()

    @pytest.fixture
    def backend(self, tmp_path: Path, clock: ManualClock) -> Any:
        with SqliteBackend.open(tmp_path / "d.db", clock=clock) as backend:
            yield backend

    def start(self, backend: SqliteBackend, tmp_path: Path, *paths: str) -> list[UUID]:
        made = [FileName(str(tmp_path / "folder"), path) for path in paths]
        StateEngine(backend).start({file.workflow_id: file for file in made}, tmp_path / "folder", tmp_path / "log")
        return [UUID(hex=file.workflow_id) for file in made]

    def source(self, backend: SqliteBackend, tmp_path: Path, lease: float = 60.0) -> FileSource:
        return FileSource(backend, StepLog(tmp_path / "log"), lease)

    def test_a_file_that_cannot_be_read(self, backend: SqliteBackend, tmp_path: Path, files: dict[str, bytes]) -> None:
        self.start(backend, tmp_path, "missing", "a.py")
        self.start(backend, tmp_path, "missing")
        source = self.source(backend, tmp_path)
        for item in source.claim(5):
            source.work(item)
        engine = StateEngine(backend)
        assert engine.ended() == 2
        results = engine.results(tmp_path / "folder")
        ((path, reason),) = results.failed.values()
        assert path == "missing"
        assert reason.startswith("FileNotFoundError")
        assert (len(results.rows), len(results.lost), len(results.open), results.steps) == (1, 0, 0, 4)

    def test_a_stalled_worker_records_nothing(
        self, backend: SqliteBackend, tmp_path: Path, files: dict[str, bytes], clock: ManualClock
    ) -> None:
        (id,) = self.start(backend, tmp_path, "a.py")
        source = self.source(backend, tmp_path)
        (stalled,) = source.claim(1)
        clock.advance(61)
        assert source.claim(1) == []
        clock.advance(2)
        (taken,) = source.claim(1)
        assert source.renew([stalled, taken]) == [stalled]
        source.release(stalled)
        source.work(taken)
        events = backend.get_events(id)
        source.work(stalled)
        assert backend.get_events(id) == events

    def test_an_item_that_was_not_settled_after_the_end(
        self, backend: SqliteBackend, tmp_path: Path, files: dict[str, bytes], clock: ManualClock
    ) -> None:
        self.start(backend, tmp_path, "a.py")
        source = self.source(backend, tmp_path)
        (item,) = source.claim(1)
        source.release(item)
        (item,) = source.claim(1)
        backend.update_execution_status(item.execution_id, WorkflowStatus.FAILED)
        source.work(item)
        assert source.claim(1) == []
        assert source.maintain() is source.wait(0.001) is False
