"""Processes that are killed, and processes that work side by side."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.host import worker
from tests.host.support import RESTING, Database, messages, statuses
from wfe_fast import PointerStatus, StoreBusyError, StoreClosedError, WorkflowStatus
from wfe_fast.host import StepContext, StepResult, WorkflowBuilder, WorkflowHost
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.testing.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]


class Workers:
    """Worker processes on one database, which end with the test."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self.running: list[subprocess.Popen[bytes]] = []
        self.killed = 0

    def begin(self, action: str) -> subprocess.Popen[bytes]:
        where = [self._database.url, json.dumps(self._database.options)]
        command = [sys.executable, "-m", "tests.host.worker", *where, str(self._folder), action]
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        self.running.append(process)
        return process

    def replace_the_dead(self, action: str) -> None:
        for process in [process for process in self.running if process.poll() is not None]:
            assert process.returncode == -signal.SIGKILL, f"a worker ended with {process.returncode}"
            self.running.remove(process)
            self.killed += 1
            self.begin(action)

    def log(self, file: str = "log") -> list[str]:
        path = self._folder / file
        return path.read_text().splitlines() if path.exists() else []

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.wait()


@pytest.fixture
def workers(database: Database, tmp_path: Path) -> Iterator[Workers]:
    workers = Workers(database, tmp_path)
    yield workers
    workers.end()


def starter(provider: PersistenceProvider, folder: Path) -> WorkflowHost:
    """A host that starts workflows and runs none."""
    definitions = [worker.chain(folder, kill_before_commit=False), worker.short(folder), worker.poison(folder)]
    return WorkflowHost(provider, definitions)


def all_rest(host: WorkflowHost, ids: list[str]) -> bool:
    return all(host.get(workflow_id).status in RESTING for workflow_id in ids)


def check_chain(host: WorkflowHost, provider: PersistenceProvider, workflow_id: str) -> list[str]:
    """The chain has ended as it does without crashes; return what it recorded."""
    instance = host.get(workflow_id)
    assert messages(provider, workflow_id) == ["ValueError: the first attempt"], instance
    assert instance.status is WorkflowStatus.COMPLETE
    assert instance.data["event"] == "hello"
    done: list[str] = instance.data["done"]
    assert (
        len(done) == 9
    )  # first, unlucky, publish, nap twice, split, inside twice, last: the failed attempt is forgotten
    assert set(statuses(host, workflow_id)) == {PointerStatus.COMPLETE}
    assert provider.subscriptions_of(workflow_id) == []
    return done


@pytest.mark.parametrize("action", ["die before each commit", "die after each commit"])
def test_a_process_killed_at_every_commit_loses_nothing(
    provider: PersistenceProvider, workers: Workers, tmp_path: Path, action: str
) -> None:
    host = starter(provider, tmp_path)
    workflow_id = host.start("chain", {"done": []})
    workers.begin(action)

    def rests() -> bool:
        workers.replace_the_dead(action)
        return all_rest(host, [workflow_id])

    wait_until(rests, "the workflow ends", timeout=3 * PATIENCE)
    done = check_chain(host, provider, workflow_id)
    runs = Counter(workers.log())
    assert set(done) <= set(runs)
    if action == "die after each commit":
        assert workers.killed >= len(runs) - 1
        assert set(runs.values()) == {1}, "a body ran again although it was committed"
    else:
        assert workers.killed == len(runs)
        assert set(runs.values()) == {2}, "a body runs again once for the process that died in it"


def test_processes_killed_at_any_moment_lose_nothing(
    provider: PersistenceProvider, workers: Workers, tmp_path: Path
) -> None:
    host = starter(provider, tmp_path)
    ids = [host.start("chain", {"done": []}) for _ in range(60)]
    for _ in range(3):
        workers.begin("serve")
    generator = random.Random(20261121)
    next_kill = time.monotonic() + 0.5

    def rests() -> bool:
        nonlocal next_kill
        if time.monotonic() >= next_kill and workers.killed < 12:
            generator.choice(workers.running).kill()
            next_kill = time.monotonic() + generator.uniform(0.1, 0.5)
        workers.replace_the_dead("serve")
        return all_rest(host, ids)

    wait_until(rests, "all workflows end", timeout=3 * PATIENCE)
    recorded = [entry for workflow_id in ids for entry in check_chain(host, provider, workflow_id)]
    runs = Counter(workers.log())
    assert set(recorded) <= set(runs)
    # A killed process had at most two bodies that were not committed, one for each of its workers.
    assert sum(runs.values()) - len(runs) <= 2 * (workers.killed + 1)


def test_eight_processes_on_one_database_run_no_body_twice(
    provider: PersistenceProvider, workers: Workers, tmp_path: Path
) -> None:
    host = starter(provider, tmp_path)
    processes = [workers.begin("serve") for _ in range(8)]
    ids: list[str] = []

    def all_have_worked() -> bool:
        ids.extend(host.start("short") for _ in range(10))
        return {str(process.pid) for process in processes} <= set(workers.log("processes"))

    wait_until(all_have_worked, "each process has run a step")
    wait_until(lambda: all_rest(host, ids), "all workflows end")
    for process in processes:
        process.terminate()
    assert [process.wait(PATIENCE) for process in processes] == [0] * 8
    expected = {f"{workflow_id}:{index}:1" for workflow_id in ids for index in range(3)}
    assert Counter(workers.log()) == Counter(expected)
    assert {host.get(workflow_id).status for workflow_id in ids} == {WorkflowStatus.COMPLETE}


def test_a_step_that_kills_its_process_is_stopped_after_five_claims(
    provider: PersistenceProvider, workers: Workers, tmp_path: Path
) -> None:
    host = starter(provider, tmp_path)
    workflow_id = host.start("poison")
    workers.begin("work")

    def rests() -> bool:
        workers.replace_the_dead("work")
        return all_rest(host, [workflow_id])

    wait_until(rests, "the workflow is stopped")
    assert host.get(workflow_id).status is WorkflowStatus.SUSPENDED
    assert workers.log() == ["attempt 1"] * 5
    (message,) = messages(provider, workflow_id)
    assert message.startswith("LimitError: 5 claims without a commit")
    assert host.resume(workflow_id)
    wait_until(lambda: workers.running[0].poll() is not None, "it runs again when it is resumed")


def test_what_a_killed_process_held_is_taken_over_when_its_lease_ends(
    provider: PersistenceProvider, tmp_path: Path
) -> None:
    host = starter(provider, tmp_path)
    workflow_id = host.start("short")
    (held,) = provider.claim_runnable_instances("dead", lease=0.4)
    assert held.id == workflow_id
    assert host.run_until_idle() == 0
    with host:
        assert host.result(workflow_id, timeout=30) == {}


# A store that is not available


@contextmanager
def another_writer(open_store: Callable[..., PersistenceProvider]) -> Iterator[None]:
    """Somebody else holds the database for writing; all that there is of it, where a database is not held as a whole."""
    with open_store().transaction() as tx:
        held = {instance.workflow_definition_id: instance.id for instance in tx.list_workflows().items}
        for definition_id in held:
            tx.next_definition_sequence(definition_id)
        assert len(tx.get_workflow_instances(list(held.values()))) == len(held)
        yield


def test_a_commit_is_tried_again_while_the_store_is_busy_and_the_body_runs_once(
    open_store: Callable[..., PersistenceProvider], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    provider = open_store(**database.impatient)
    runs: list[int] = []
    wf = WorkflowBuilder("busy")

    def body(data: Any) -> None:
        runs.append(1)
        blocker.__enter__()

    wf.then(body)
    wf.wait_for("event", "k", into="got")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("busy")
    blocker = another_writer(open_store)
    # The block belongs to the thread that opened it, which is the one that commits: so it is let go from the log message of the retry.
    let_go = [True]

    def release_on_retry(record: Any) -> bool:
        if "tried again" in record.getMessage() and let_go:
            let_go.clear()
            blocker.__exit__(None, None, None)
        return True

    caplog.handler.addFilter(release_on_retry)
    try:
        host.run_until_idle()
    finally:
        caplog.handler.removeFilter(release_on_retry)
    host.publish("event", "k", "there")
    host.run_until_idle()
    assert host.result(workflow_id, timeout=0) == {"got": "there"}
    assert runs == [1]
    assert host.stats().claims_given_up == 0


def test_a_store_that_stays_busy_ends_the_claim_and_the_workflow_goes_on_later(
    open_store: Callable[..., PersistenceProvider],
    database: Database,
) -> None:
    provider = open_store(**database.impatient)
    runs: list[int] = []
    wf = WorkflowBuilder("busy")

    def body(data: Any, ctx: StepContext) -> None:
        runs.append(ctx.attempt)
        if len(runs) == 1:
            blocker.__enter__()

    wf.then(body)
    host = WorkflowHost(provider, [wf], lease=3)
    workflow_id = host.start("busy")
    blocker = another_writer(open_store)
    assert host.run_one_pass()
    assert host.stats().claims_given_up == 1
    with pytest.raises(StoreBusyError):
        host.start("busy")
    blocker.__exit__(None, None, None)
    with host:
        assert host.result(workflow_id, timeout=30) == {}
    assert runs == [1, 1]


def test_a_running_host_survives_a_busy_store(
    open_store: Callable[..., PersistenceProvider], database: Database
) -> None:
    provider = open_store(**database.impatient)
    wf = WorkflowBuilder("sleeper")
    wf.then(lambda data, ctx: None if ctx.saved else StepResult.sleep(0.1, True), name="sleeper")
    with WorkflowHost(provider, [wf], lease=0.2) as host:
        workflow_id = host.start("sleeper")
        wait_until(lambda: statuses(host, workflow_id) == [PointerStatus.SLEEPING], "it sleeps")
        with another_writer(open_store):
            release = time.monotonic() + 0.5
            wait_until(lambda: time.monotonic() > release, "it has become due meanwhile")
            assert host.running
        assert host.result(workflow_id, timeout=30) == {}


def test_closing_the_provider_stops_the_host_which_says_why(open_store: Callable[..., PersistenceProvider]) -> None:
    provider = open_store()
    host = WorkflowHost(provider, [worker.short(Path("/nowhere"))]).open()
    provider.close()
    wait_until(lambda: not host.running, "the host stops")
    with pytest.raises(StoreClosedError):
        host.stop()


def test_a_commit_that_fails_for_another_reason_gives_the_claim_up(provider: PersistenceProvider) -> None:
    """Two starts race for one name between the check and the commit: the loser's pass is rolled back and runs again."""
    wf = WorkflowBuilder("parent")
    attempts: list[int] = []

    def body(data: Any, ctx: StepContext) -> None:
        attempts.append(1)
        ctx.start("parent", name="taken")

    wf.then(body)
    host = WorkflowHost(provider, [wf])
    taken = host.start("parent", name="taken")
    host.suspend(taken)
    loser = host.start("parent")
    host.run_until_idle()
    assert len(attempts) == 5
    assert host.get(loser).status is WorkflowStatus.SUSPENDED
    assert messages(provider, loser)[0].startswith("LimitError: 5 claims without a commit")
    assert host.stats().claims_given_up == 5
