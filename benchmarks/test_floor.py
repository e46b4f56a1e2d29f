"""The jobs of contract A against their floors: the same statements on the bare driver, each side in its turn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.jobs import JOBS, PERSIST, Job
from benchmarks.sides import on_postgres, on_sqlite
from benchmarks.sizes import Size
from benchmarks.turns import Calls, Contestant, Rates, Timed
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.sqlite import SqlitePersistenceProvider

Compare = Callable[..., Rates]

#: Calls of a turn, and the least ratio to the floor that is believable.
CALLS, LEAST = 200, 0.02
FINISHED = 20_000
#: Calls of a turn of all threads together: enough for the slowest one in a thousand.
CALLS_OF_THREADS = 3_200

each_job = pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
each_level = pytest.mark.parametrize("synchronous", ["normal", "full"])


@each_job
@each_level
def test_on_sqlite(
    compare: Compare, size: Size, tmp_path: Path, synchronous: Literal["normal", "full"], job: Job
) -> None:
    with on_sqlite(tmp_path, synchronous, job, size, CALLS) as sides:
        compare(sides, calls=CALLS, at_least={"floor": LEAST})


@each_job
def test_on_postgres(
    compare: Compare, size: Size, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, job: Job
) -> None:
    with on_postgres(server, monkeypatch, job, size, CALLS) as sides:
        compare(sides, calls=CALLS, at_least={"floor": LEAST})


@pytest.mark.parametrize("threads", [1, 8])
def test_persist_among_finished_on_postgres(
    compare: Compare, size: Size, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    """With empty tables and with 20,000 finished workflows in them, in turns."""
    finished = size.of(FINISHED)
    with (
        on_postgres(server, monkeypatch, PERSIST, size, CALLS, threads) as empty,
        on_postgres(server, monkeypatch, PERSIST, size, CALLS, threads, finished) as full,
    ):
        sides = {**empty, **{f"{name}, {FINISHED} finished": side for name, side in full.items()}}
        compare(sides, calls=CALLS, threads=threads, at_least={"floor": LEAST, f"ours, {FINISHED} finished": 0.3})


each_number = pytest.mark.parametrize("threads", [8, 32])


@each_number
@each_level
def test_threads_on_sqlite(
    compare: Compare, benchmark: BenchmarkFixture, tmp_path: Path, synchronous: Literal["normal", "full"], threads: int
) -> None:
    with SqlitePersistenceProvider(tmp_path / "store.db", synchronous=synchronous) as provider:
        compare_threads(compare, benchmark, provider, threads)


@each_number
def test_threads_on_postgres(
    compare: Compare, benchmark: BenchmarkFixture, server: PostgresServer, threads: int
) -> None:
    with PostgresPersistenceProvider(server.dsn, schema=f"threads_{threads}", max_connections=threads) as provider:
        compare_threads(compare, benchmark, provider, threads)


def compare_threads(compare: Compare, benchmark: BenchmarkFixture, provider: PersistenceProvider, threads: int) -> None:
    """Threads that share one provider, against one thread."""
    PERSIST.fill(provider, threads)
    timed = Timed(lambda thread: PERSIST.call(provider, thread))
    sides = {"ours": Calls(timed), "one thread": Single(Calls(lambda thread: PERSIST.call(provider, thread)))}
    compare(sides, calls=CALLS_OF_THREADS // threads, threads=threads)
    benchmark.extra_info["milliseconds"] = timed.milliseconds()


class Single:
    """One thread that does what the others' threads do together."""

    def __init__(self, contestant: Contestant) -> None:
        self._contestant = contestant

    def seconds(self, calls: int, threads: int) -> float:
        return self._contestant.seconds(calls * threads, 1)
