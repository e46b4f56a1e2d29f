"""`persist_workflow` with 10 pointers of which one changed, beside its floor: the same statements on the bare driver, with values
that are encoded already. The ratio of the two is what counts; times are those of one machine."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Literal

import apsw
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from wfe_fast import ExecutionPointer, WorkflowInstance
from wfe_fast.persistence.sqlite import STATEMENTS
from wfe_fast.sqlite import SqlitePersistenceProvider

LEVELS: list[Literal["normal", "full"]] = ["normal", "full"]
POINTERS = 10


def a_workflow() -> WorkflowInstance:
    pointers = [ExecutionPointer(step_id=number, step_name=f"step {number}") for number in range(POINTERS)]
    data = {"customer": "A-17", "items": ["tea", "cup"], "total": 25.0}
    return WorkflowInstance(id="one", workflow_definition_id="order", execution_pointers=pointers, data=data)


@pytest.mark.parametrize("synchronous", LEVELS)
def test_provider(benchmark: BenchmarkFixture, tmp_path: Path, synchronous: Literal["normal", "full"]) -> None:
    benchmark.group = f"persist_workflow, {POINTERS} pointers, {synchronous}"
    with SqlitePersistenceProvider(tmp_path / "store.db", synchronous=synchronous) as provider:
        workflow = a_workflow()
        provider.create_new_workflow(workflow)
        numbers = count(1)

        def persist() -> None:
            workflow.execution_pointers[5].retry_count = next(numbers)
            provider.persist_workflow(workflow)

        benchmark(persist)
        assert provider.get_workflow_instance("one").execution_pointers == workflow.execution_pointers


@pytest.mark.parametrize("synchronous", LEVELS)
def test_floor(benchmark: BenchmarkFixture, tmp_path: Path, synchronous: Literal["normal", "full"]) -> None:
    benchmark.group = f"persist_workflow, {POINTERS} pointers, {synchronous}"
    with SqlitePersistenceProvider(tmp_path / "store.db", synchronous=synchronous) as provider:
        provider.create_new_workflow(a_workflow())
    connection = apsw.Connection(str(tmp_path / "store.db"), statementcachesize=512)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA foreign_keys = ON")
    execute = connection.cursor().execute
    ((sequence, revision, data),) = execute("SELECT seq, revision, data FROM workflows")
    (document,) = execute("SELECT doc FROM execution_pointers WHERE position = 5").fetchall()[0]
    documents = [document.replace('"step_id":5', f'"step_id":5,"retry_count":{number}') for number in range(1, 1000)]
    revisions = count(revision)

    def persist() -> None:
        revision = next(revisions)
        execute("BEGIN IMMEDIATE")
        execute(STATEMENTS.persist_step, (sequence, "one", revision, 0, None, False, 0, data))
        execute(STATEMENTS.update_pointer, ("one", 5, documents[revision % 999]))
        execute("COMMIT")

    benchmark(persist)
    ((stored,),) = execute("SELECT revision FROM workflows").fetchall()
    assert stored == next(revisions)
    connection.close()
