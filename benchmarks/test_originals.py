"""Contract A beside the Rust crates wfe-sqlite and wfe-postgres, given the same jobs (`--originals`). They store at `full`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from benchmarks.jobs import CREATE, GETS, PERSISTS, Job
from benchmarks.programs import Original
from benchmarks.samples import a_pointer, a_workflow, fill_with_finished, fill_with_sleeping
from benchmarks.sizes import Size
from benchmarks.turns import Calls, Contestant, Rates
from wfe_fast.clock import system_clock
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.sqlite import SqlitePersistenceProvider

Compare = Callable[..., Rates]
#: How long the pointer lists are that the program makes for a job.
POINTERS = {job.name: job.name.rpartition(" ")[2] for job in (*PERSISTS, CREATE, *GETS)}


@contextmanager
def ours(folder: Path, fill: Callable[[PersistenceProvider], object]) -> Iterator[dict[str, SqlitePersistenceProvider]]:
    """A provider as it is by default, and one that is as durable as the original."""
    with (
        SqlitePersistenceProvider(folder / "normal.db") as normal,
        SqlitePersistenceProvider(folder / "full.db", synchronous="full") as full,
    ):
        for provider in (normal, full):
            fill(provider)
        yield {"ours": normal, "ours, full": full}


@pytest.mark.parametrize("job", [*PERSISTS, CREATE, *GETS], ids=lambda job: job.name)
def test_on_sqlite(compare: Compare, tmp_path: Path, originals: str, job: Job) -> None:
    what = {"persist": "persist", "create": "create", "get": "get"}[job.name.partition("_")[0]]
    command = (originals, "sqlite", "bench", what, "--pointers", POINTERS[job.name], "--folder", str(tmp_path))
    with ours(tmp_path, lambda provider: job.fill(provider, 1)) as providers:
        sides: dict[str, Contestant] = {
            name: Calls(lambda _, provider=provider: job.call(provider, 0)) for name, provider in providers.items()
        }
        sides["wfe-sqlite"] = Original(command, share={"10": 0.5, "100": 0.25, "1000": 0.05}[POINTERS[job.name]])
        compare(sides, calls=400)


def test_growing_on_sqlite(compare: Compare, size: Size, tmp_path: Path, originals: str) -> None:
    """A workflow that grows to 1,000 pointers, a persist for each."""
    pointers = size.of(1000)

    def grow(provider: PersistenceProvider) -> Callable[[], None]:
        def one_life() -> None:
            workflow = a_workflow(0, f"g{next(numbers)}")
            provider.create_new_workflow(workflow)
            for number in range(pointers):
                workflow.execution_pointers.append(a_pointer(workflow.id, number))
                provider.persist_workflow(workflow)

        return one_life

    numbers = count(1)
    with ours(tmp_path, lambda provider: None) as providers:
        sides: dict[str, Contestant] = {
            name: Calls(lambda _, provider=provider: grow(provider), units=pointers, calls=1)
            for name, provider in providers.items()
        }
        command = (originals, "sqlite", "bench", "grow", "--pointers", str(pointers), "--folder", str(tmp_path))
        sides["wfe-sqlite"] = Original(command, threaded=False)
        compare(sides, calls=1)


@pytest.mark.parametrize("sleeping", [1_000, 100_000, 1_000_000])
def test_runnable_on_sqlite(compare: Compare, size: Size, tmp_path: Path, originals: str, sleeping: int) -> None:
    """100 due workflows among sleeping ones."""
    sleeping = size.of(sleeping)
    command = (originals, "sqlite", "bench", "runnable", "--due", "100", "--sleeping", str(sleeping))
    with ours(tmp_path, lambda provider: fill_with_sleeping(provider, 100, sleeping)) as providers:
        now = system_clock()
        provider = providers["ours"]
        sides = {
            "ours": Calls(lambda _: lambda: provider.get_runnable_instances(now)),
            "wfe-sqlite": Original((*command, "--folder", str(tmp_path)), share=0.1, threaded=False),
        }
        compare(sides, calls=300)


@pytest.mark.parametrize("finished", [0, 20_000])
@pytest.mark.parametrize("threads", [1, 8])
def test_persist_on_postgres(
    compare: Compare, size: Size, server: PostgresServer, originals: str, threads: int, finished: int
) -> None:
    finished = size.of(finished) if finished else 0
    dsn = f"postgresql:///postgres?host={server.folder}&user=postgres"
    command = (originals, "postgres", "bench", "persist", "--pointers", "10", "--finished", str(finished), "--dsn", dsn)
    job = PERSISTS[0]
    with PostgresPersistenceProvider(server.dsn, schema=f"originals_{finished}_{threads}") as provider:
        job.fill(provider, threads)
        fill_with_finished(provider, finished)
        server.sql("VACUUM ANALYZE")
        sides = {
            "ours": Calls(lambda thread: job.call(provider, thread)),
            "wfe-postgres": Original(command, share=0.25),
        }
        compare(sides, calls=200, threads=threads)
