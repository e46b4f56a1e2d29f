"""The main job with functions of DurableEngine, on both databases."""

from __future__ import annotations

import subprocess
import zlib
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import PATIENCE, digest_of, environment, report_of, run_demo, small_folder, tokens_of
from tests.cli.test_postgres import database as postgres_database  # a database of its own
from wfe_fast.checkpoints import ExecutionStatus, StepStatus
from wfe_fast.cli.durable_engine import CheckpointEngine, open_checkpoints, workflow_of
from wfe_fast.cli.files import FileName
from wfe_fast.cli.steplog import LINE_LENGTH, StepLog
from wfe_fast.cli.steps import DEFINITION, STEPS, FileSteps
from wfe_fast.durable import DurableEngine
from wfe_fast.sqlite import SqliteCheckpointStore
from wfe_fast.testing.waiting import wait_until

pytestmark = pytest.mark.once

__all__ = ["postgres_database"]

S = ExecutionStatus


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "folder").mkdir()
    return small_folder(tmp_path / "folder")


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/d.db"
    found: str = request.getfixturevalue("postgres_database")
    return found


def run(*args: object, cwd: Path) -> dict[str, Any]:
    return report_of(run_demo(*args, "--engine", "durable", "--json", cwd=cwd))


def log_of(folder: Path) -> bytes:
    (log,) = folder.glob("*.durable.log")
    return log.read_bytes()


def test_a_run_with_a_kill_loses_nothing_and_repeats_nothing(tmp_path: Path, files: dict[str, bytes], url: str) -> None:
    report = run("folder", "--workers", 2, "--database", url, cwd=tmp_path)
    assert (report["engine"], report["files"], report["bytes"]) == (
        "durable",
        len(files),
        sum(map(len, files.values())),
    )
    assert report["digest"] == digest_of(files)
    assert report["tokens"] == tokens_of(files) > 0
    assert report["compressed"] == sum(len(zlib.compress(content, 6)) for content in files.values())
    assert (report["workers"], report["killed"], report["taken_over"]) == (2, 1, 1)
    assert (report["steps"], report["repeated"], report["lost"], report["errors"]) == (4 * len(files), 0, 0, [])
    with open_checkpoints(url) as store:
        assert store.count_executions() == {S.COMPLETED: len(files)}
        for execution in store.list_executions().items:
            rows = store.load_checkpoints(execution.workflow_execution_id)
            assert [(row.step_name, row.status) for row in rows] == [(name, StepStatus.COMPLETED) for name in STEPS]


def test_a_second_run_does_nothing_twice(tmp_path: Path, files: dict[str, bytes], url: str) -> None:
    first = run("folder", "--database", url, "--no-kill", cwd=tmp_path)
    log = log_of(tmp_path)
    again = run("folder", "--database", url, cwd=tmp_path)
    assert log_of(tmp_path) == log
    assert again["steps"] == again["steps_before"] == first["steps"] == len(log) // LINE_LENGTH
    assert again["digest"] == digest_of(files)
    assert (first["killed"], again["killed"], again["lost"], again["repeated"]) == (0, 0, 0, 0)


def test_it_agrees_with_the_host(tmp_path: Path, files: dict[str, bytes], url: str) -> None:
    ours = run("folder", "--no-kill", "--database", url, cwd=tmp_path)
    host = report_of(run_demo("folder", "--no-kill", "--database", "sqlite:///h.db", "--json", cwd=tmp_path))
    for name in ("files", "bytes", "lines", "words", "longest", "tokens", "compressed", "digest", "errors", "lost"):
        assert ours[name] == host[name], name


def test_what_to_look_at(tmp_path: Path, files: dict[str, bytes], url: str) -> None:
    done = run_demo("folder", "--engine", "durable", "--no-kill", "--database", url, cwd=tmp_path)
    (look,) = [line for line in done.stdout.splitlines() if "list_executions" in line]
    seen = subprocess.run(
        look, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert seen.stdout.startswith("WorkflowExecution("), seen.stderr
    assert "--engine durable --database" in done.stdout


def test_a_server_of_its_own(tmp_path: Path, files: dict[str, bytes]) -> None:
    report = run("folder", "--workers", 2, "--database", "postgres", cwd=tmp_path)
    assert (report["killed"], report["lost"], report["repeated"], report["kept"]) == (1, 0, 0, False)
    assert report["digest"] == digest_of(files)


def test_another_engines_file_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    run("folder", "--no-kill", "--database", "sqlite:///d.db", cwd=tmp_path)
    refused = run_demo("folder", "--no-kill", "--database", "sqlite:///d.db", cwd=tmp_path)
    assert refused.returncode == 1
    assert "no room" in refused.stderr


class TestInside:
    """What the command does not show."""

    def test_a_file_that_cannot_be_read_and_another_folders(self, tmp_path: Path, files: dict[str, bytes]) -> None:
        with SqliteCheckpointStore.in_memory() as store:
            parent = CheckpointEngine(store)
            for folder, paths in (("folder", ["missing", "a.py"]), ("other", ["gone"]), ("folder", ["missing"])):
                made = [FileName(str(tmp_path / folder), path) for path in paths]
                parent.start({file.workflow_id: file for file in made}, tmp_path / folder, tmp_path / "log")
            assert parent.results(tmp_path / "folder").open == {
                FileName(str(tmp_path / "folder"), path).workflow_id for path in ("missing", "a.py")
            }
            with DurableEngine(store) as engine:
                engine.register(DEFINITION, workflow_of(FileSteps(StepLog(tmp_path / "log"))))
                assert engine.recover() == 3
                wait_until(lambda: parent.ended() == 3, "all have ended")
            results = parent.results(tmp_path / "folder")
            ((path, reason),) = results.failed.values()
            assert path == "missing"
            assert reason.startswith("FileNotFoundError")
            assert (len(results.rows), len(results.lost), len(results.open), results.steps) == (1, 0, 0, 4)
