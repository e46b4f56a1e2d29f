"""`persist_workflow` with one pointer changed, against its floor: the same statements on the bare driver in a tight loop, with values
that are encoded already. Both take turns on one file, so that whatever else the machine does falls on both. The ratio counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Literal

import apsw
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from wfe_fast import ExecutionPointer, PointerStatus, WorkflowInstance
from wfe_fast.clock import system_clock
from wfe_fast.persistence.sqlite import STATEMENTS
from wfe_fast.sqlite import SqlitePersistenceProvider

TURNS, CALLS = 40, 200
CHANGED = 5


def a_workflow(pointers: int) -> WorkflowInstance:
    """A workflow of steps that are done, as a worker has it in the middle of its life."""
    now = system_clock()
    return WorkflowInstance(
        id="one",
        workflow_definition_id="order",
        data={"customer": "A-17", "items": ["tea", "cup"], "total": 25.0},
        execution_pointers=[
            ExecutionPointer(
                step_id=number,
                step_name=f"step {number}",
                status=PointerStatus.COMPLETE,
                active=False,
                start_time=now,
                end_time=now,
                outcome={"n": number},
            )
            for number in range(pointers)
        ],
    )


def provider_call(provider: SqlitePersistenceProvider) -> Callable[[], None]:
    """One persist of a loaded workflow."""
    workflow = provider.get_workflow_instance("one")
    numbers = count(1)

    def persist() -> None:
        workflow.next_execution = workflow.execution_pointers[CHANGED].retry_count = next(numbers)
        provider.persist_workflow(workflow)

    return persist


def floor_call(connection: apsw.Connection) -> Callable[[], None]:
    """The same statements, with everything ready."""
    execute = connection.cursor().execute
    ((sequence, revision, data),) = execute("SELECT seq, revision, data FROM workflows").fetchall()
    ((document,),) = execute("SELECT doc FROM execution_pointers WHERE position = ?", (CHANGED,)).fetchall()
    # Another text each time: SQLite leaves a page alone that would be written with what it holds already.
    documents = [document.replace('"retry_count":', f'"retry_count":{number % 9 + 1}') for number in range(100)]
    revisions = count(revision)

    def persist() -> None:
        revision = next(revisions)
        execute("BEGIN IMMEDIATE")
        execute(STATEMENTS.persist_step, (sequence, "one", 0, revision, 0, None, False, revision, data))
        execute(STATEMENTS.update_pointer, ("one", CHANGED, documents[revision % 100]))
        execute("COMMIT")

    return persist


def seconds(call: Callable[[], None]) -> float:
    """Seconds of one call, over CALLS of them."""
    begin = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - begin) / CALLS


@pytest.mark.parametrize("pointers", [10, 100, 1000])
@pytest.mark.parametrize("synchronous", ["normal", "full"])
def test_persist_workflow(
    benchmark: BenchmarkFixture, tmp_path: Path, synchronous: Literal["normal", "full"], pointers: int
) -> None:
    path = tmp_path / "store.db"
    with SqlitePersistenceProvider(path, synchronous=synchronous) as provider:
        provider.create_new_workflow(a_workflow(pointers))
        connection = apsw.Connection(str(path), statementcachesize=512)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        ours: list[float] = []
        floor: list[float] = []
        for _ in range(TURNS):
            ours.append(seconds(provider_call(provider)))
            floor.append(seconds(floor_call(connection)))
        connection.close()
        benchmark.pedantic(provider_call(provider), rounds=TURNS, iterations=CALLS, warmup_rounds=1)
    ratios = sorted(bare / mine for mine, bare in zip(ours, floor, strict=True))
    benchmark.extra_info.update(
        ours_per_second=round(1 / statistics.median(ours)),
        floor_per_second=round(1 / statistics.median(floor)),
        ratio=round(statistics.median(ratios), 2),
        ratio_quartiles=[round(ratios[len(ratios) // 4], 2), round(ratios[3 * len(ratios) // 4], 2)],
    )
