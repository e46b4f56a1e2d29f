"""Worker processes that share one database: each claims workflows and gives them back, or claims and completes items of one queue, all at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.programs import Original
from benchmarks.samples import a_workflow
from benchmarks.state_jobs import QUEUE, enqueue, pending
from benchmarks.turns import Contestant, Rates
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.postgres import PostgresBackend, PostgresPersistenceProvider
from wfe_fast.sqlite import SqliteBackend, SqlitePersistenceProvider
from wfe_fast.state.contract import StateBackend
from wfe_fast.testing.racing import race_processes, values

T = TypeVar("T")
Compare = Callable[..., Rates]
#: Does so many calls in the name of a worker, and returns how many seconds all and the longest took.
Work = Callable[[Any, str, int], tuple[float, float]]
Open = Callable[[], Any]

CALLS = 400


class Processes:
    """A contestant of so many processes. Remembers the longest call of any.

    Args:
        prepare: called before each turn with the number of its calls.
    """

    def __init__(self, open: Open, work: Work, prepare: Callable[[int], None], number: int) -> None:
        self._open, self._work, self._prepare = open, work, prepare
        self._number = number
        self.worst = 0.0

    def seconds(self, calls: int, threads: int) -> float:
        each = max(1, calls // self._number)
        self._prepare(each * self._number)
        arguments = [(f"worker {number}", each) for number in range(self._number)]
        found = values(race_processes(self._open, self._work, arguments))
        self.worst = max(self.worst, *(worst for _, worst in found))
        # From the barrier on, the slowest one's time is that of all.
        return max(taken for taken, _ in found) / (each * self._number)


class Stopwatch:
    """Makes calls, and knows how long the longest took."""

    def __init__(self) -> None:
        self._begin = time.perf_counter()
        self.longest = 0.0

    def __call__(self, call: Callable[..., T], *args: Any, **options: Any) -> T:
        begin = time.perf_counter()
        result = call(*args, **options)
        self.longest = max(self.longest, time.perf_counter() - begin)
        return result

    def seconds(self) -> tuple[float, float]:
        """Of all together, and of the longest call."""
        return time.perf_counter() - self._begin, self.longest


def work(provider: PersistenceProvider, name: str, calls: int) -> tuple[float, float]:
    """Claim a workflow, change it, and give it back."""
    watch = Stopwatch()
    for number in range(calls):
        for claimed in watch(provider.claim_runnable_instances, name, 1, lease=60):
            claimed.execution_pointers[5].retry_count = number
            watch(provider.persist_workflow, claimed, release=True)
    return watch.seconds()


def drain(backend: StateBackend, name: str, calls: int) -> tuple[float, float]:
    """Claim an item of the one queue and complete it."""
    watch = Stopwatch()
    for _ in range(calls):
        item = watch(backend.claim_work_item, name, [QUEUE])
        assert item is not None
        watch(backend.complete_work_item, item)
    return watch.seconds()


def compare_numbers(
    compare: Compare, benchmark: BenchmarkFixture, open: Open, work: Work, prepare: Callable[[int], None]
) -> None:
    sides = {
        name: Processes(open, work, prepare, number)
        for name, number in {"ours": 1, "4 processes": 4, "8 processes": 8}.items()
    }
    compare(sides, calls=CALLS)
    benchmark.extra_info["milliseconds"] = {
        f"longest, {name}": round(side.worst * 1000, 1) for name, side in sides.items()
    }


def compare_workers(compare: Compare, benchmark: BenchmarkFixture, open: Open) -> None:
    with open() as provider:
        for number in range(64):
            made = a_workflow(10, f"w{number}")
            made.next_execution = 1
            provider.create_new_workflow(made)
    compare_numbers(compare, benchmark, open, work, lambda calls: None)


def compare_drains(compare: Compare, benchmark: BenchmarkFixture, open: Open) -> None:
    with open() as backend:
        pending(0)(backend, 1)
        compare_numbers(compare, benchmark, open, drain, lambda calls: enqueue(backend, calls))


@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_on_sqlite(compare: Compare, benchmark: BenchmarkFixture, tmp_path: Path, synchronous: str) -> None:
    compare_workers(
        compare, benchmark, partial(SqlitePersistenceProvider, tmp_path / "store.db", synchronous=synchronous)
    )


def test_on_postgres(compare: Compare, benchmark: BenchmarkFixture, server: PostgresServer) -> None:
    compare_workers(compare, benchmark, partial(PostgresPersistenceProvider, server.dsn, schema="processes"))


@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_draining_on_sqlite(compare: Compare, benchmark: BenchmarkFixture, tmp_path: Path, synchronous: str) -> None:
    compare_drains(compare, benchmark, partial(SqliteBackend.open, tmp_path / "state.db", synchronous=synchronous))


def test_draining_on_postgres(compare: Compare, benchmark: BenchmarkFixture, server: PostgresServer) -> None:
    compare_drains(compare, benchmark, partial(PostgresBackend.open, server.dsn, schema="draining"))


def test_draining_beside_jamjet(compare: Compare, benchmark: BenchmarkFixture, tmp_path: Path, originals: str) -> None:
    """8 processes of each. The original has a file of its own for each turn, ours go on with theirs."""
    sides: dict[str, Contestant] = {}
    with ExitStack() as stack:
        for name, synchronous in {"ours": "normal", "ours, full": "full"}.items():
            open = partial(SqliteBackend.open, tmp_path / f"{synchronous}.db", synchronous=synchronous)
            backend = stack.enter_context(open())
            pending(0)(backend, 1)
            sides[name] = Processes(open, drain, partial(enqueue, backend), 8)
        command = (originals, "state", "bench", "drain", "--processes", "8", "--folder", str(tmp_path))
        sides["jamjet-state"] = Original(command, threaded=False)
        compare(sides, calls=CALLS)
