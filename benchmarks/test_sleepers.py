"""Contract B: workflows that sleep. What they cost the process, and how long after its time one goes on, among so many that sleep on."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.sizes import Size
from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import ExecutionStatus, TimerStatus, Workflow, WorkflowExecution, WorkflowTimer
from wfe_fast.clock import from_micros, system_clock, to_micros
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.durable import DurableEngine, WorkflowContext
from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.sqlite import SqliteCheckpointStore
from wfe_fast.testing.waiting import wait_until

SLEEPING, DUE = 100_000, 200
#: Seconds: the shortest sleep of those that become due, the time between two of them, and how long the idle engine is watched.
FIRST, STEP, WATCHED = 2.0, 0.01, 2.0
_BATCH = 500


def fill(store: CheckpointStore, number: int) -> None:
    """Executions that sleep until tomorrow, as the engine leaves them. Batches: one by one it takes minutes."""
    tomorrow = from_micros(to_micros(system_clock()) + 86_400 * 1_000_000)
    store.save_workflow(Workflow(workflow_id="nap", workflow_type="nap"))
    for begin in range(0, number, _BATCH):
        with store.transaction() as tx:
            for one in range(begin, min(begin + _BATCH, number)):
                id = f"sleeps {one}"
                tx.save_execution(
                    WorkflowExecution(workflow_execution_id=id, workflow_id="nap", status=ExecutionStatus.SUSPENDED)
                )
                tx.save_timer(
                    WorkflowTimer(
                        workflow_timer_id=id,
                        workflow_execution_id=id,
                        step_name="nap",
                        fire_at=tomorrow,
                        status=TimerStatus.PENDING,
                    )
                )


def measure(benchmark: BenchmarkFixture, store: CheckpointStore, sleeping: int, due: int) -> None:
    begun: dict[str, float] = {}
    late: list[float] = []

    def nap(ctx: WorkflowContext, seconds: float) -> None:
        at = begun.setdefault(ctx.execution_id, time.time())
        ctx.sleep("nap", seconds)
        late.append((time.time() - at - seconds) * 1000)

    store.migrate()
    fill(store, sleeping)
    before = threading.active_count()
    with DurableEngine(store) as engine:
        engine.register("nap", nap)
        for number in range(due):
            engine.start("nap", FIRST + number * STEP, id=f"due {number}")
        wait_until(lambda: len(late) == due, "all that were due have gone on")
        threads = threading.active_count() - before
        used = time.process_time()
        time.sleep(WATCHED)
        used = time.process_time() - used
    benchmark.pedantic(lambda: None)
    late.sort()
    benchmark.extra_info["milliseconds"] = {
        f"behind its time, median, {sleeping:,} sleeping": round(statistics.median(late), 2),
        "p99": round(late[-1 - due // 100], 2),
    }
    benchmark.extra_info["sizes"] = {
        "threads of the engine": threads,
        "CPU of the idle engine, percent": round(used / WATCHED * 100, 2),
    }


@pytest.fixture
def stores(tmp_path: Path, server: PostgresServer) -> dict[str, Callable[[], CheckpointStore]]:
    return {
        "sqlite": lambda: SqliteCheckpointStore(tmp_path / "sleepers.db"),
        "postgres": lambda: PostgresCheckpointStore(server.dsn, schema="sleepers"),
    }


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_one_goes_on_among_many_that_sleep(
    benchmark: BenchmarkFixture, size: Size, stores: dict[str, Callable[[], CheckpointStore]], database: str
) -> None:
    with stores[database]() as store:
        measure(benchmark, store, size.of(SLEEPING), size.of(DUE))
