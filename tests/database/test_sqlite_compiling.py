"""A statement is compiled once, whatever is bound to it: SQLite would otherwise spend more on compiling than on executing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest

from benchmarks.jobs import JOBS, Job
from benchmarks.state_jobs import jobs as state_jobs
from benchmarks.test_checkpoints import STEP
from wfe_fast.checkpoints import ExecutionStatus
from wfe_fast.sqlite import SqliteBackend, SqliteCheckpointStore, SqlitePersistenceProvider

Compiling = list[str]


@pytest.fixture
def compiling() -> Iterator[Compiling]:
    """What is asked of the authorizer, on all connections that are opened meanwhile: SQLite asks while it compiles a statement, and only then."""
    found: Compiling = []

    def authorize(action: int, *about: str | None) -> int:
        found.append(f"{apsw.mapping_authorizer_function[action]} {about}")
        return apsw.SQLITE_OK

    def hook(connection: apsw.Connection) -> None:
        connection.authorizer = authorize

    apsw.connection_hooks.append(hook)
    yield found
    apsw.connection_hooks.remove(hook)


def check(compiling: Compiling, call: Callable[[], object], times: int = 10) -> None:
    """Everything is compiled by the first calls."""
    for _ in range(times):
        call()
    assert compiling
    compiling.clear()
    for _ in range(times):
        call()
    assert compiling == []


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_workflows(tmp_path: Path, compiling: Compiling, job: Job) -> None:
    with SqlitePersistenceProvider(tmp_path / "test.db") as provider:
        job.fill(provider, 1)
        check(compiling, job.call(provider, 0))


@pytest.mark.parametrize("job", state_jobs(100, 100), ids=lambda job: job.name)
def test_items_and_events(tmp_path: Path, compiling: Compiling, job: Job) -> None:
    with SqliteBackend.open(tmp_path / "test.db") as backend:
        job.fill(backend, 1)
        check(compiling, job.call(backend, 0))


def test_checkpoints(tmp_path: Path, compiling: Compiling) -> None:
    with SqliteCheckpointStore(tmp_path / "test.db") as store:
        STEP.fill(store, 1)
        step = STEP.call(store, 0)

        def call() -> None:
            step()
            store.load_execution("e0")
            store.load_checkpoints("e0")
            store.claim_executions("worker", ExecutionStatus.COMPENSATING)
            store.wait_for_work(0, ["order"])

        check(compiling, call)
