"""The main job, run as people run it."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import zlib
from pathlib import Path

import pytest

from tests.cli.helpers import (
    PATIENCE,
    arguments,
    digest_of,
    environment,
    heavy_folder,
    report_of,
    run_demo,
    small_folder,
    tokens_of,
)
from wfe_fast import WorkflowStatus, open_provider
from wfe_fast.cli.files import FileName, reference_of
from wfe_fast.cli.steplog import LINE_LENGTH, StepLog
from wfe_fast.cli.steps import DEFINITION, FileJob, build
from wfe_fast.host import WorkflowHost
from wfe_fast.testing.waiting import wait_until

pytestmark = pytest.mark.once


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    (tmp_path / "folder").mkdir()
    return small_folder(tmp_path / "folder")


def test_a_run_with_a_kill_loses_nothing_and_repeats_nothing(tmp_path: Path, files: dict[str, bytes]) -> None:
    done = run_demo("folder", "--workers", 2, "--json", cwd=tmp_path)
    report = report_of(done)
    assert report["files"] == len(files)
    assert report["bytes"] == sum(map(len, files.values()))
    assert report["digest"] == digest_of(files)
    assert report["tokens"] == tokens_of(files) > 0
    assert report["compressed"] == sum(len(zlib.compress(content, 6)) for content in files.values())
    assert (report["workers"], report["killed"], report["taken_over"]) == (2, 1, 1)
    assert (report["steps"], report["repeated"], report["lost"]) == (4 * len(files), 0, 0)
    assert report["errors"] == []
    # What the killed worker held could be taken over only when its lease had ended.
    assert 2 < report["seconds"] < PATIENCE
    assert len(done.stdout.splitlines()) == 1


def test_one_worker_and_one_file_are_enough_for_a_kill(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "only.txt").write_bytes(b"text")
    report = report_of(run_demo("folder", "--workers", 1, "--json", cwd=tmp_path))
    assert (report["files"], report["killed"], report["taken_over"], report["lost"]) == (1, 1, 1, 0)
    assert (report["steps"], report["repeated"]) == (4, 0)


def test_no_kill(tmp_path: Path, files: dict[str, bytes]) -> None:
    report = report_of(run_demo("folder", "--no-kill", "--json", cwd=tmp_path))
    assert (report["workers"], report["killed"], report["taken_over"]) == (4, 0, 0)
    assert (report["digest"], report["lost"], report["repeated"]) == (digest_of(files), 0, 0)


def test_the_default_database_is_a_new_file_here_that_others_cannot_read(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    done = run_demo("folder", "--no-kill", cwd=tmp_path)
    (database,) = tmp_path.glob("wfe-demo-*.db")
    assert done.returncode == 0
    assert f"database: sqlite:///{database.name}" in done.stdout
    assert stat.S_IMODE(database.stat().st_mode) == 0o600
    with open_provider(f"sqlite:///{database}") as provider:
        assert provider.count_workflows()[WorkflowStatus.COMPLETE] == len(files)


def test_the_table(tmp_path: Path, files: dict[str, bytes]) -> None:
    done = run_demo("folder", "--no-kill", cwd=tmp_path)
    for name in ("files", "bytes", "tokens", "compressed size", "steps recorded", "steps a second", "steps taken over"):
        assert name in done.stdout
    rows = {
        cells[0]: cells[-1] for line in done.stdout.splitlines() if len(cells := line.strip("│┃ ").split(" │ ")) == 2
    }
    values = {name.strip(): value.strip() for name, value in rows.items()}
    assert values["files"] == str(len(files))
    assert values["bytes"] == f"{sum(map(len, files.values())):,}"
    (look,) = [line for line in done.stdout.splitlines() if "list_workflows" in line]
    seen = subprocess.run(
        look, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert seen.stdout.startswith("WorkflowInstance(")
    assert values["files lost"] == values["steps repeated"] == values["files in error"] == "0"


def test_a_second_run_on_the_same_database_does_nothing_twice(tmp_path: Path, files: dict[str, bytes]) -> None:
    first = report_of(run_demo("folder", "--database", "sqlite:///demo.db", "--no-kill", "--json", cwd=tmp_path))
    log = (tmp_path / "demo.db.log").read_bytes()
    again = report_of(run_demo("folder", "--database", "sqlite:///demo.db", "--json", cwd=tmp_path))
    assert (tmp_path / "demo.db.log").read_bytes() == log
    assert again["steps"] == again["steps_before"] == first["steps"] == len(log) // LINE_LENGTH
    assert again["digest"] == first["digest"] == digest_of(files)
    assert (again["killed"], again["lost"], again["repeated"]) == (0, 0, 0)


def test_its_own_files_are_none_of_the_work(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a")
    for _ in range(2):
        report = report_of(run_demo(".", "--database", "sqlite:///demo.db", "--no-kill", "--json", cwd=tmp_path))
        assert report["files"] == 1


def test_two_folders_in_one_database(tmp_path: Path, files: dict[str, bytes]) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.py").write_bytes(b"x = 1\n")
    for folder, content in (("folder", files), ("other", {"a.py": b"x = 1\n"})):
        report = report_of(run_demo(folder, "--database", "sqlite:///d.db", "--no-kill", "--json", cwd=tmp_path))
        assert (report["files"], report["digest"]) == (len(content), digest_of(content))


def test_a_file_that_cannot_be_read_is_an_error_and_the_rest_goes_on(tmp_path: Path, files: dict[str, bytes]) -> None:
    folder = tmp_path / "folder"
    gone = FileName(str(folder), "gone [bold].txt")
    # An earlier run has listed it; now it is not there any more.
    log = StepLog(tmp_path / "demo.db.log")
    with open_provider(f"sqlite:///{tmp_path}/demo.db") as provider:
        host = WorkflowHost(provider, [build(log)])
        host.start(DEFINITION, FileJob(gone), id=gone.workflow_id, reference=reference_of(folder))
    log.close()
    done = run_demo("folder", "--database", "sqlite:///demo.db", "--no-kill", "--json", cwd=tmp_path)
    report = report_of(done)
    assert (report["files"], report["lost"], report["repeated"]) == (len(files) + 1, 0, 0)
    assert report["digest"] == digest_of(files)
    (error,) = report["errors"]
    assert error["path"] == "gone [bold].txt"
    assert "No such file" in error["reason"]
    assert "gone [bold].txt" in done.stderr


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with open(os.fsencode(folder) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"coffee")
    report = report_of(run_demo("folder", "--no-kill", "--json", cwd=tmp_path))
    assert (report["files"], report["lost"], report["errors"]) == (1, 0, [])
    assert report["digest"] == digest_of({"caf\\xe9.txt": b"coffee"})


@pytest.mark.parametrize("whole_group", [True, False], ids=["Ctrl-C", "a signal to the parent"])
def test_interrupted_it_stops_at_once_and_goes_on_later(tmp_path: Path, whole_group: bool) -> None:
    heavy_folder(tmp_path / "folder")
    log = tmp_path / "demo.db.log"
    running = subprocess.Popen(
        arguments("folder", "--database", "sqlite:///demo.db", "--no-kill", "--workers", 2),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: log.exists() and log.stat().st_size >= 10 * LINE_LENGTH, "the log grows")
    if whole_group:
        os.killpg(running.pid, signal.SIGINT)
    else:
        running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=PATIENCE)  # until the last process that holds the other end has ended
    assert running.returncode == 130
    assert said == "stopped; to go on: --database sqlite:///demo.db\n"

    report = report_of(run_demo("folder", "--database", "sqlite:///demo.db", "--no-kill", "--json", cwd=tmp_path))
    assert 0 < report["steps_before"] < report["steps"] == 4 * 30
    assert (report["files"], report["lost"], report["repeated"]) == (30, 0, 0)


def test_when_the_parent_is_killed_its_workers_end_and_the_next_run_goes_on(tmp_path: Path) -> None:
    heavy_folder(tmp_path / "folder")
    log = tmp_path / "demo.db.log"
    running = subprocess.Popen(
        arguments("folder", "--database", "sqlite:///demo.db", "--workers", 2),
        cwd=tmp_path,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    wait_until(lambda: log.exists() and log.stat().st_size >= 10 * LINE_LENGTH, "the log grows")
    running.kill()
    running.communicate(timeout=PATIENCE)  # until its workers, which hold the other end, have ended
    report = report_of(run_demo("folder", "--database", "sqlite:///demo.db", "--json", cwd=tmp_path))
    assert (report["files"], report["lost"], report["repeated"], report["killed"]) == (30, 0, 0, 1)
    assert report["taken_over"] >= 1


def test_workers_that_end_by_themselves_end_the_run(tmp_path: Path, files: dict[str, bytes]) -> None:
    poison = tmp_path / "poison"
    poison.mkdir()
    (poison / "sitecustomize.py").write_text(
        "import os, sys\nif '--multiprocessing-fork' in sys.orig_argv:\n    os._exit(3)\n", encoding="utf-8"
    )
    done = run_demo("folder", "--workers", 2, cwd=tmp_path, path=(poison,))
    assert done.returncode == 1
    # One more than were started at first; or more, where several had died by the time of one look.
    assert re.search(r"wfe-fast: [3-9] workers ended by themselves", done.stderr)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["missing"], "is not a folder"),
        (["empty"], "holds no files"),
        (["file"], "is not a folder"),
        (["full", "--workers", "0"], "--workers"),
        (["full", "--database", "sqlite://:memory:"], "cannot share a database in memory"),
        (["full", "--database", "nonsense:x"], "nonsense"),
        (["full", "--surprise"], "--surprise"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_leaves_nothing(tmp_path: Path, args: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    (tmp_path / "file").touch()
    done = run_demo(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, files: dict[str, bytes]) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(b"this is not a database, but it is long enough to look like one" * 100)
    content = other.read_bytes()
    done = run_demo("folder", "--database", "sqlite:///other.db", cwd=tmp_path)
    assert done.returncode == 1
    assert "other.db" in done.stderr
    assert "Traceback" not in done.stderr
    assert other.read_bytes() == content
