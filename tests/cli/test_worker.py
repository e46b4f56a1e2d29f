"""The pool of worker processes, with processes that do not do as they are told."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from wfe_fast import WorkflowStatus, open_provider
from wfe_fast.cli import results
from wfe_fast.cli.files import FileName, reference_of
from wfe_fast.cli.results import read_results
from wfe_fast.cli.steplog import LINE_LENGTH, StepAccount, StepLog
from wfe_fast.cli.steps import DEFINITION, FileJob, build
from wfe_fast.cli.worker import GRACE, WorkerPool, WorkerSettings
from wfe_fast.host import WorkflowHost
from wfe_fast.testing.waiting import wait_until


def start_files(folder: Path, url: str, names: list[str]) -> list[str]:
    """Start the workflow of each file; return their ids."""
    log = StepLog(folder / "log")
    with open_provider(url) as provider:
        host = WorkflowHost(provider, [build(log)])
        files = [FileName(str(folder), name) for name in names]
        for file in files:
            host.start(DEFINITION, FileJob(file), id=file.workflow_id, reference=reference_of(folder))
    log.close()
    return [file.workflow_id for file in files]


def test_a_worker_in_the_middle_of_a_step_is_cut_off_and_nothing_of_it_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    url = f"sqlite:///{tmp_path}/demo.db"
    (workflow_id,) = start_files(tmp_path, url, ["a"])
    account = StepAccount(tmp_path / "log", [workflow_id])
    pool = WorkerPool(1, WorkerSettings(url, tmp_path / "log", halt_at=2 * LINE_LENGTH))
    wait_until(lambda: (tmp_path / "log").stat().st_size == 2 * LINE_LENGTH, "the second step holds still")
    pool.stop()
    account.update()
    assert account.begun == 2
    account.close()
    with open_provider(url) as provider:
        assert provider.get_workflow_instance(workflow_id).status is WorkflowStatus.RUNNABLE
        assert read_results(provider, tmp_path).steps == 1


def test_a_worker_that_does_not_answer_is_killed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    url = f"sqlite:///{tmp_path}/demo.db"
    (workflow_id,) = start_files(tmp_path, url, ["a"])
    pool = WorkerPool(1, WorkerSettings(url, tmp_path / "log", halt_at=LINE_LENGTH))
    wait_until(lambda: (tmp_path / "log").stat().st_size == LINE_LENGTH, "the first step holds still")
    account = StepAccount(tmp_path / "log", [workflow_id])
    os.kill(account.pid_at(LINE_LENGTH), signal.SIGSTOP)
    account.close()
    pool.stop()
    pool.wait(0)
    pool.replace_dead()
    assert (pool.killed, pool.failed, len(pool)) == (1, 0, 1)
    pool.stop()


def test_a_dead_worker_is_replaced_and_another_one_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/demo.db"
    open_provider(url).close()
    pool = WorkerPool(2, WorkerSettings(url, tmp_path / "missing" / "log", None))
    pool.kill(os.getpid())  # not one of them

    def one_has_failed() -> bool:
        pool.wait(GRACE)
        pool.replace_dead()
        return pool.failed >= 2

    wait_until(one_has_failed, "both workers have ended by themselves")
    assert (pool.killed, len(pool)) == (0, 2)
    pool.stop()


def test_results_come_in_pages_and_tell_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_PAGE", 2)
    url = f"sqlite:///{tmp_path}/demo.db"
    ids = start_files(tmp_path, url, ["a", "b", "c", "d", "e"])
    with open_provider(url) as provider:
        provider.change_status(ids[0], WorkflowStatus.COMPLETE)  # without a row: lost
        provider.change_status(ids[1], WorkflowStatus.TERMINATED)
        provider.change_status(ids[2], WorkflowStatus.SUSPENDED)
        found = read_results(provider, tmp_path)
        assert read_results(provider, tmp_path / "other").ids == set()
    assert found.open == set(ids[3:])
    assert found.failed == {ids[1]: ("b", "Terminated"), ids[2]: ("c", "Suspended")}
    assert found.rows == {}
    assert found.lost == {ids[0]}
    assert found.ids == set(ids)
