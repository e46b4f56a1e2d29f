"""The store is away for five seconds in the middle of a run: workflows go on behind that, and nothing is lost or done twice."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import pytest

from wfe_fast.checkpoints import ExecutionStatus
from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.database.postgres_server import NOT_DURABLE, PostgresServer
from wfe_fast.durable import DurableEngine, Fixed
from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.sqlite import SqliteCheckpointStore
from wfe_fast.testing.waiting import wait_until

pytestmark = pytest.mark.once

S = ExecutionStatus

#: Seconds; nobody waits for them but the call whose time-out is this.
AWAY = 5

#: Another process holds the write lock of an SQLite file, until its input ends.
HOLDER = """
import sys, apsw

connection = apsw.Connection(sys.argv[1])
connection.set_busy_timeout(30_000)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
connection.execute("ROLLBACK")
"""


class Outage:
    """A store that can be taken away and given back."""

    def __init__(self, store: CheckpointStore, begin: Callable[[], None], end: Callable[[], None]) -> None:
        self.store, self.begin, self.end = store, begin, end


def sqlite(path: Path) -> Iterator[Outage]:
    holders: list[subprocess.Popen[str]] = []

    def begin() -> None:
        command = [sys.executable, "-c", HOLDER, str(path)]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"

    def end() -> None:
        _, _ = holders[0].communicate()

    with SqliteCheckpointStore(path, busy_timeout=0.2) as store:
        yield Outage(store, begin, end)


def postgres() -> Iterator[Outage]:
    with PostgresServer(settings=NOT_DURABLE) as server, PostgresCheckpointStore(server.dsn) as store:
        store.migrate()
        yield Outage(store, lambda: server.stop("immediate"), server.start)


@pytest.fixture(params=["sqlite", "postgres"])
def outage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Outage]:
    yield from sqlite(tmp_path / "test.db") if request.param == "sqlite" else postgres()


def test_workflows_go_on_behind_it(outage: Outage) -> None:
    """Four are in the middle of a step; others sleep, and have a signal waiting for them and an attempt that fails before them."""
    store = outage.store
    inside, back = Barrier(5), Event()
    calls: Counter[str] = Counter()

    def once(name: str, fail_first: bool = False) -> str:
        calls[name] += 1
        if fail_first and calls[name] == 1:
            raise ValueError("not yet")
        return name

    def busy(ctx: Any) -> list[str]:
        def held() -> str:
            inside.wait(60)
            assert back.wait(60)
            return once(f"{ctx.execution_id} held")

        return [ctx.step("held", held), ctx.step("next", lambda: once(f"{ctx.execution_id} next"))]

    def lazy(ctx: Any) -> list[str]:
        name = ctx.execution_id
        first = ctx.step("first", lambda: once(f"{name} first"))
        ctx.sleep("nap", 1.5)
        retried = ctx.step("retried", lambda: once(f"{name} retried", fail_first=True), retry=Fixed(1.2, 3))
        return [first, retried, ctx.wait_signal("go")]

    with DurableEngine(store, workers=4) as engine:
        engine.register("busy", busy)
        engine.register("lazy", lazy)
        sleeping = [engine.start("lazy", id=f"lazy {number}") for number in range(6)]
        wait_until(lambda: store.count_executions()[S.SUSPENDED] == 6, "they sleep")
        running = [engine.start("busy", id=f"busy {number}") for number in range(4)]
        inside.wait(60)
        for handle in sleeping:
            engine.send_signal(handle.id, "go", "went")
        outage.begin()
        back.set()
        with pytest.raises(TimeoutError, match="did not end in time"):
            running[0].result(timeout=AWAY)
        outage.end()
        for handle in running:
            assert handle.result(timeout=120) == [f"{handle.id} held", f"{handle.id} next"]
        for handle in sleeping:
            assert handle.result(timeout=120) == [f"{handle.id} first", f"{handle.id} retried", "went"]
        expected = {f"{handle.id} {step}": 1 for handle in running for step in ("held", "next")}
        expected |= {f"{handle.id} first": 1 for handle in sleeping}
        expected |= {f"{handle.id} retried": 2 for handle in sleeping}
        assert calls == expected
        assert store.count_executions() == {S.COMPLETED: 10}
        assert store.load_pending_timers() == []


def test_an_end_that_is_there_is_found_whatever_the_time(outage: Outage) -> None:
    with DurableEngine(outage.store) as engine:
        engine.register("w", lambda ctx: 5)
        engine.run("w", id="x")
        assert engine.result("x", timeout=0) == 5


def test_an_outage_while_steps_are_undone(outage: Outage) -> None:
    undone: list[str] = []

    def undo(value: str) -> None:
        if not undone:
            outage.begin()
        undone.append(value)

    def body(ctx: Any) -> None:
        for name in ("a", "b", "c"):
            ctx.step(name, lambda name=name: name, compensate=undo)
        raise ValueError("boom")

    with DurableEngine(outage.store) as engine:
        engine.register("w", body)
        handle = engine.start("w")
        with pytest.raises(TimeoutError, match="did not end in time"):
            handle.result(timeout=AWAY)
        outage.end()
        with pytest.raises(Exception, match="boom"):
            handle.result(timeout=120)
    assert undone == ["c", "b", "a"]
    rows = [(row.step_name, row.status.value) for row in outage.store.load_checkpoints(handle.id) if row.attempt == 0]
    assert rows == [(f"{name}:compensate", "COMPENSATED") for name in ("a", "b", "c")]
