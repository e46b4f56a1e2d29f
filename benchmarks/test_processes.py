"""Worker processes that share one database: each claims workflows and gives them back, all at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.samples import a_workflow
from benchmarks.turns import Rates
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.sqlite import SqlitePersistenceProvider
from wfe_fast.testing.racing import race_processes, values

Compare = Callable[..., Rates]
Open = Callable[[], PersistenceProvider]

CALLS = 400


class Processes:
    """A contestant of so many processes. Remembers the longest call of any."""

    def __init__(self, open: Open, number: int) -> None:
        self._open = open
        self._number = number
        self.worst = 0.0

    def seconds(self, calls: int, threads: int) -> float:
        each = max(1, calls // self._number)
        arguments = [(f"worker {number}", each) for number in range(self._number)]
        found = values(race_processes(self._open, work, arguments))
        self.worst = max(self.worst, *(worst for _, worst in found))
        # From the barrier on, the slowest one's time is that of all.
        return max(taken for taken, _ in found) / (each * self._number)


def work(provider: PersistenceProvider, name: str, calls: int) -> tuple[float, float]:
    """Claim a workflow, change it, and give it back; the seconds that all and the longest took."""
    begin = time.perf_counter()
    worst = 0.0
    for number in range(calls):
        before = time.perf_counter()
        for claimed in provider.claim_runnable_instances(name, 1, lease=60):
            claimed.execution_pointers[5].retry_count = number
            provider.persist_workflow(claimed, release=True)
        worst = max(worst, time.perf_counter() - before)
    return time.perf_counter() - begin, worst


def compare_numbers(compare: Compare, benchmark: BenchmarkFixture, open: Open) -> None:
    with open() as provider:
        for number in range(64):
            made = a_workflow(10, f"w{number}")
            made.next_execution = 1
            provider.create_new_workflow(made)
    sides = {"ours": Processes(open, 1), "4 processes": Processes(open, 4), "8 processes": Processes(open, 8)}
    compare(sides, calls=CALLS)
    benchmark.extra_info["worst call, milliseconds"] = {
        name: round(side.worst * 1000, 1) for name, side in sides.items()
    }


@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_on_sqlite(compare: Compare, benchmark: BenchmarkFixture, tmp_path: Path, synchronous: str) -> None:
    compare_numbers(
        compare, benchmark, partial(SqlitePersistenceProvider, tmp_path / "store.db", synchronous=synchronous)
    )


def test_on_postgres(compare: Compare, benchmark: BenchmarkFixture, server: PostgresServer) -> None:
    compare_numbers(compare, benchmark, partial(PostgresPersistenceProvider, server.dsn, schema="processes"))
