"""The two sides of a comparison with the floor: a provider, and the bare driver with what the provider would execute."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

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
from wfe_fast.postgres import PostgresBackend, PostgresPersistenceProvider
from wfe_fast.sqlite import SqliteBackend, SqlitePersistenceProvider

Synchronous: TypeAlias = Literal["normal", "full"]


@dataclass(frozen=True)
class Stores:
    """How the stores of a contract are opened: on a path at a level of durability, and in a schema of a server."""

    on_sqlite: Callable[[Path, Synchronous], Any]
    on_postgres: Callable[[str, str], Any]


PROVIDERS = Stores(
    lambda path, synchronous: SqlitePersistenceProvider(path, synchronous=synchronous),
    lambda dsn, schema: PostgresPersistenceProvider(dsn, schema=schema, max_connections=_CONNECTIONS),
)
BACKENDS = Stores(
    lambda path, synchronous: SqliteBackend.open(path, synchronous=synchronous),
    lambda dsn, schema: PostgresBackend.open(dsn, schema=schema),
)

#: As many as there are threads at most.
_CONNECTIONS = 32


@contextmanager
def on_sqlite(
    folder: Path,
    synchronous: Synchronous,
    job: Job,
    size: Size,
    calls: int,
    threads: int = 1,
    stores: Stores = PROVIDERS,
) -> Iterator[dict[str, Contestant]]:
    """Both sides, each on a file of its own."""
    ours, taped, floor = (folder / f"{name}.db" for name in ("ours", "taped", "floor"))
    with stores.on_sqlite(ours, synchronous) as provider:
        job.fill(provider, threads)
    for copy in (taped, floor):
        shutil.copy(ours, copy)
    with recorded_on_sqlite() as found, stores.on_sqlite(taped, synchronous) as provider:
        tapes = [_record(job, provider, found, thread, size, calls) for thread in range(threads)]
    with stores.on_sqlite(ours, synchronous) as provider, ExitStack() as stack:
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
    stores: Stores = PROVIDERS,
) -> Iterator[dict[str, Contestant]]:
    """Both sides, each in a schema of its own on one server; with so many finished workflows in the tables."""
    schemas = ours, taped, floor = [f"{name}_{finished}" for name in ("ours", "taped", "floor")]
    try:
        for schema in schemas:
            with stores.on_postgres(server.dsn, schema) as provider:
                job.fill(provider, threads)
                if finished:
                    fill_with_finished(provider, finished)
        server.sql("VACUUM ANALYZE")
        with (
            stores.on_postgres(server.dsn, taped) as provider,
            recorded_on_postgres(monkeypatch, taped, floor) as found,
        ):
            tapes = [_record(job, provider, found, thread, size, calls) for thread in range(threads)]
        with (
            stores.on_postgres(server.dsn, ours) as provider,
            ExitStack() as stack,
        ):
            executes = [stack.enter_context(postgres_execute(server.dsn)) for _ in range(threads)]
            yield _sides(job, provider, tapes, executes)
    finally:
        server.sql("".join(f"DROP SCHEMA IF EXISTS {schema} CASCADE;" for schema in schemas))


def _record(job: Job, provider: Any, found: list[Statement], thread: int, size: Size, calls: int) -> Tape:
    """What the job executes in all turns of a thread, call by call."""
    turns = []
    for _ in range(ATTEMPTS * (size.turns + 1)):
        found.clear()
        call = job.call(provider, thread)
        made, calls_made = list(found), []
        for _ in range(size.of(calls)):
            found.clear()
            call()
            calls_made.append(list(found))
        turns.append((made, calls_made))
    return Tape(turns)


def _sides(job: Job, provider: Any, tapes: list[Tape], executes: list[Execute]) -> dict[str, Contestant]:
    return {
        "ours": Calls(lambda thread: job.call(provider, thread)),
        "floor": Calls(lambda thread: tapes[thread].play(executes[thread])),
    }
