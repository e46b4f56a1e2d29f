"""A workflow that sleeps costs rows, and nothing else."""

from __future__ import annotations

import threading

from wfe_fast.checkpoints import ExecutionStatus
from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.durable import DurableEngine, WorkflowContext
from wfe_fast.testing.waiting import wait_until


def asleep(store: CheckpointStore, number: int) -> bool:
    return store.count_executions().get(ExecutionStatus.SUSPENDED) == number


def test_many_sleep_without_a_thread(engine: DurableEngine, store: CheckpointStore) -> None:
    def nap(ctx: WorkflowContext, seconds: float) -> str:
        ctx.sleep("nap", seconds)
        return "awake"

    engine.register("nap", nap)
    engine.start("nap", 3600, id="first")
    wait_until(lambda: asleep(store, 1), "it sleeps")
    threads = threading.active_count()
    for number in range(300):
        engine.start("nap", 3600, id=f"sleeps {number}")
    wait_until(lambda: asleep(store, 301), "all of them sleep")
    assert threading.active_count() < threads + 5  # a pool may have opened another connection
    assert engine.run("nap", 0.05, id="due") == "awake"
    assert asleep(store, 301)
