"""Contract B against its floor: what a durable step costs the store, and a whole one in the engine; a replay on PostgreSQL.

The floor is what the store executes for a step, with the same values, on the bare driver. A step of the engine is measured in a workflow of many, its
start and end included, against a floor of as many steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Literal

import pytest

from benchmarks.jobs import Call, Job
from benchmarks.sides import Stores, on_postgres, on_sqlite
from benchmarks.sizes import ATTEMPTS, Size
from benchmarks.test_durable_step import many_steps, steps_on, wait_behind_steps
from benchmarks.turns import Calls, Rates
from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import ExecutionStatus, StepCheckpoint, StepStatus, Workflow, WorkflowExecution
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.durable import DurableEngine
from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.sqlite import SqliteCheckpointStore
from wfe_fast.testing.waiting import wait_until

Compare = Callable[..., Rates]

CALLS = 300
STEPS = 1000
_ids = count(1)


def _open_on_postgres(dsn: str, schema: str) -> PostgresCheckpointStore:
    store = PostgresCheckpointStore(dsn, schema)
    store.migrate()
    return store


STORES = Stores(SqliteCheckpointStore, _open_on_postgres)


def _fill(store: CheckpointStore, threads: int) -> None:
    for thread in range(threads):
        execution = WorkflowExecution(workflow_execution_id=f"e{thread}", workflow_id="order")
        store.start_execution(Workflow(workflow_id="order", workflow_type="order"), execution, worker_id="worker")


def _step(store: CheckpointStore, thread: int) -> Call:
    """A step of an execution that is held: its checkpoint, and the position behind it."""
    execution = store.load_execution(f"e{thread}")
    assert execution is not None
    held, positions = execution.copy_with(fence=1), count(len(store.load_checkpoints(f"e{thread}")))

    def step() -> None:
        position = next(positions)
        row = StepCheckpoint(
            workflow_execution_id=held.workflow_execution_id,
            step_index=position,
            step_name="step",
            status=StepStatus.COMPLETED,
            output_data={"total": 12.5, "number": position},
        )
        store.advance_execution(held.copy_with(current_step=position + 1), [row])

    return step


STEP = Job("step", _fill, _step)


@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_a_step_against_the_floor_on_sqlite(
    compare: Compare, size: Size, tmp_path: Path, synchronous: Literal["normal", "full"]
) -> None:
    with on_sqlite(tmp_path, synchronous, STEP, size, CALLS, stores=STORES) as sides:
        compare(sides, calls=CALLS)


@pytest.mark.parametrize("threads", [1, 8])
def test_a_step_against_the_floor_on_postgres(
    compare: Compare, size: Size, server: PostgresServer, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    calls = CALLS // threads
    with on_postgres(server, monkeypatch, STEP, size, calls, threads, stores=STORES) as sides:
        compare(sides, calls=calls, threads=threads)


@pytest.fixture(params=["sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CheckpointStore]:
    if request.param == "sqlite":
        with SqliteCheckpointStore(tmp_path / "engine.db") as store:
            yield store
        return
    server: PostgresServer = request.getfixturevalue("server")
    with _open_on_postgres(server.dsn, "bench_engine") as store:
        yield store
    server.sql("DROP SCHEMA bench_engine CASCADE")


def test_a_step_of_the_engine_beside_one_of_the_store(compare: Compare, size: Size, store: CheckpointStore) -> None:
    """What the engine adds to the store: context, decoding, observers."""
    _fill(store, 1)
    steps = size.of(100)
    step = _step(store, 0)
    with ExitStack() as stack:
        engine = stack.enter_context(steps_on(store, steps))
        compare(
            {"ours": engine, "store": Calls(lambda _: lambda: [step() for _ in range(steps)], units=steps)}, calls=3
        )


def test_a_replay_on_both(compare: Compare, size: Size, store: CheckpointStore) -> None:
    """A workflow is resumed behind 1,000 recorded steps, and one records as many. A unit is one step."""
    steps = size.of(STEPS)
    ids = [f"r{number}" for number in range(ATTEMPTS * (size.turns + 1) + 1)]
    left = iter(ids)
    with DurableEngine(store) as engine:
        engine.register("many steps", many_steps)
        engine.register("waits behind them", wait_behind_steps)
        for id in ids:
            engine.start("waits behind them", steps, id=id)
        wait_until(lambda: store.count_executions().get(ExecutionStatus.SUSPENDED) == len(ids), "all of them wait")

        def resume() -> None:
            id = next(left)
            engine.send_signal(id, "go", True)
            engine.result(id, timeout=60)

        recording = Calls(lambda _: lambda: engine.run("many steps", steps, id=f"w{next(_ids)}"), units=steps, calls=1)
        compare({"ours": Calls(lambda _: resume, units=steps, calls=1), "recording": recording}, calls=1)
