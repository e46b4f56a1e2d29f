"""The two sides of a comparison with the floor: a provider, and the bare driver with what the provider would execute."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import pytest

from benchmarks.jobs import Job
from benchmarks.samples import fill_with_finished
from benchmarks.sizes import ATTEMPTS, Size
from benchmarks.tapes import (
    Execute,
    Statement,
    Tape,
    postgres_execute,
    recorded_on_postgres,
    recorded_on_sqlite,
    sqlite_execute,
)
from benchmarks.turns import Calls, Contestant
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.sqlite import SqlitePersistenceProvider


@contextmanager
def on_sqlite(
    folder: Path, synchronous: Literal["normal", "full"], job: Job, size: Size, calls: int, threads: int = 1
) -> Iterator[dict[str, Contestant]]:
    """Both sides, each on a file of its own."""
    ours, taped, floor = (folder / f"{name}.db" for name in ("ours", "taped", "floor"))
    with SqlitePersistenceProvider(ours, synchronous=synchronous) as provider:
        job.fill(provider, threads)
    for copy in (taped, floor):
        shutil.copy(ours, copy)
    with recorded_on_sqlite() as found, SqlitePersistenceProvider(taped, synchronous=synchronous) as provider:
        tapes = [_record(job, provider, found, thread, size, calls) for thread in range(threads)]
    with SqlitePersistenceProvider(ours, synchronous=synchronous) as provider, ExitStack() as stack:
        executes = [stack.enter_context(sqlite_execute(str(floor), synchronous)) for _ in range(threads)]
        yield _sides(job, provider, tapes, executes)


@contextmanager
def on_postgres(
    server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    job: Job,
    size: Size,
    calls: int,
    threads: int = 1,
    finished: int = 0,
) -> Iterator[dict[str, Contestant]]:
    """Both sides, each in a schema of its own on one server; with so many finished workflows in the tables."""
    schemas = ours, taped, floor = [f"{name}_{finished}" for name in ("ours", "taped", "floor")]
    try:
        for schema in schemas:
            with PostgresPersistenceProvider(server.dsn, schema=schema) as provider:
                job.fill(provider, threads)
                fill_with_finished(provider, finished)
        server.sql("VACUUM ANALYZE")
        with (
            PostgresPersistenceProvider(server.dsn, schema=taped) as provider,
            recorded_on_postgres(monkeypatch, taped, floor) as found,
        ):
            tapes = [_record(job, provider, found, thread, size, calls) for thread in range(threads)]
        with (
            PostgresPersistenceProvider(server.dsn, schema=ours, max_connections=max(10, threads)) as provider,
            ExitStack() as stack,
        ):
            executes = [stack.enter_context(postgres_execute(server.dsn)) for _ in range(threads)]
            yield _sides(job, provider, tapes, executes)
    finally:
        server.sql("".join(f"DROP SCHEMA IF EXISTS {schema} CASCADE;" for schema in schemas))


def _record(
    job: Job, provider: PersistenceProvider, found: list[Statement], thread: int, size: Size, calls: int
) -> Tape:
    """What the job executes in all turns of a thread, call by call."""
    taped = []
    for _ in range(ATTEMPTS * (size.turns + 1)):
        call = job.call(provider, thread)
        for _ in range(size.of(calls)):
            found.clear()
            call()
            taped.append(list(found))
    return Tape(taped)


def _sides(
    job: Job, provider: PersistenceProvider, tapes: list[Tape], executes: list[Execute]
) -> dict[str, Contestant]:
    return {
        "ours": Calls(lambda thread: job.call(provider, thread)),
        "floor": Calls(lambda thread: tapes[thread].play(executes[thread])),
    }
