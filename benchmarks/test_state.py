"""Contract C against its floor and beside jamjet-state, which stores at `full` (`--originals`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from benchmarks.programs import Original
from benchmarks.sides import BACKENDS, on_postgres, on_sqlite
from benchmarks.sizes import Size
from benchmarks.state_jobs import TURN, append, claim_and_complete, jobs, long_log, materialize, pending
from benchmarks.turns import Calls, Contestant, Rates
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.sqlite import SqliteBackend

Compare = Callable[..., Rates]

CALLS, LEAST = TURN, 0.02
MANY, EVENTS = 100_000, 10_000

each_job = pytest.mark.parametrize("number", range(len(jobs(0, 0))), ids=[job.name for job in jobs(0, 0)])


@each_job
@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_on_sqlite(
    compare: Compare, size: Size, tmp_path: Path, synchronous: Literal["normal", "full"], number: int
) -> None:
    job = jobs(size.of(MANY), size.of(EVENTS))[number]
    calls = round(CALLS * job.share)
    with on_sqlite(tmp_path, synchronous, job, size, calls, stores=BACKENDS) as sides:
        compare(sides, calls=calls, at_least={"floor": LEAST})


@each_job
def test_on_postgres(
    compare: Compare, size: Size, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    job = jobs(size.of(MANY), size.of(EVENTS))[number]
    calls = round(CALLS * job.share)
    with on_postgres(server, monkeypatch, job, size, calls, stores=BACKENDS) as sides:
        compare(sides, calls=calls, at_least={"floor": LEAST})


@pytest.mark.parametrize("items", [100, MANY])
def test_claims_beside_jamjet(compare: Compare, size: Size, tmp_path: Path, originals: str, items: int) -> None:
    """A unit is a claim and its completion."""
    items = size.of(items)
    command = (originals, "state", "bench", "claim", "--pending", str(items), "--folder", str(tmp_path))
    share = 0.5 if items <= 1000 else 0.1
    beside_jamjet(compare, tmp_path, pending(items), claim_and_complete, Original(command, share, threaded=False))


def test_appending_beside_jamjet(compare: Compare, tmp_path: Path, originals: str) -> None:
    command = (originals, "state", "bench", "append", "--folder", str(tmp_path))
    beside_jamjet(compare, tmp_path, pending(0), append, Original(command, threaded=False))


def test_materializing_beside_jamjet(compare: Compare, size: Size, tmp_path: Path, originals: str) -> None:
    events = size.of(EVENTS)
    command = (originals, "state", "bench", "materialize", "--events", str(events), "--folder", str(tmp_path))
    jamjet = Original(command, threaded=False)
    beside_jamjet(compare, tmp_path, long_log(events), materialize, jamjet, calls=10)


def beside_jamjet(
    compare: Compare,
    folder: Path,
    fill: Callable[[SqliteBackend, int], None],
    call: Callable[[SqliteBackend, int], Callable[[], object]],
    jamjet: Contestant,
    calls: int = CALLS,
) -> None:
    """Our default, our `full`, and the original."""
    with (
        SqliteBackend.open(folder / "normal.db") as normal,
        SqliteBackend.open(folder / "full.db", synchronous="full") as full,
    ):
        for backend in (normal, full):
            fill(backend, 1)
        sides: dict[str, Contestant] = {
            "ours": Calls(lambda _: call(normal, 0)),
            "ours, full": Calls(lambda _: call(full, 0)),
            "jamjet-state": jamjet,
        }
        compare(sides, calls=calls)
