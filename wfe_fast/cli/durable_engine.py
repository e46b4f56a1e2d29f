"""The demo on contract B: an execution for each file, whose function does the four steps; each returns what it has found out.

A worker that takes an execution over calls the function again: the steps that are recorded hand out what they had found, and it goes on
behind them. What a stalled worker records then is refused by its claim's number.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import msgspec

from wfe_fast.checkpoints import ExecutionStatus, StepStatus, Workflow, WorkflowExecution
from wfe_fast.cli.files import FileName, reference_of
from wfe_fast.cli.results import Results
from wfe_fast.cli.steplog import StepLog
from wfe_fast.cli.steps import DEFINITION, STEPS, FileJob, FileSteps, Named, Row
from wfe_fast.durable import DurableEngine, WorkflowContext

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from wfe_fast.checkpoints.contract import CheckpointStore

_PAGE = 1000
_BATCH = 500
_ENDED = (ExecutionStatus.COMPLETED, ExecutionStatus.FAILED, ExecutionStatus.CANCELLED)


def open_checkpoints(database: str) -> CheckpointStore:
    """The store on a database (a URL), with its tables."""
    if database.startswith("sqlite:"):
        from wfe_fast.sqlite import SqliteCheckpointStore

        return SqliteCheckpointStore(database)
    from wfe_fast.postgres import PostgresCheckpointStore

    store = PostgresCheckpointStore(database)
    try:
        store.migrate()
    except BaseException:
        store.close()
        raise
    return store


class CheckpointEngine:
    """The parent's side."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store

    def ended(self) -> int:
        counts = self._store.count_executions()
        return sum(counts.get(status, 0) for status in _ENDED)

    def results(self, folder: Path) -> Results:
        results = Results()
        for execution in self._executions(reference_of(folder)):
            id, steps = execution.workflow_execution_id, execution.current_step
            results.steps += steps
            if execution.status not in _ENDED:
                results.open.add(id)
                results.steps_of_open += steps
            elif execution.status is not ExecutionStatus.COMPLETED:
                file = msgspec.convert(execution.input_data["args"][0], FileName)
                results.failed[id] = (file.path, self._reason(execution))
            elif execution.output_data is None:
                results.lost.add(id)
            else:
                results.rows[id] = msgspec.convert(execution.output_data, Row)
        return results

    def _reason(self, execution: WorkflowExecution) -> str:
        rows = self._store.load_checkpoints(execution.workflow_execution_id)
        failures = [f"{row.error_type}: {row.error_message}" for row in rows if row.status is StepStatus.FAILED]
        return failures[-1] if failures else str(execution.error_message)

    def _executions(self, reference: str) -> Iterator[WorkflowExecution]:
        after: str | None = None
        while True:
            page = self._store.list_executions(workflow_id=DEFINITION, after=after, limit=_PAGE)
            yield from (one for one in page.items if one.input_data["args"][1] == reference)
            after = page.next
            if after is None:
                return

    def start(self, files: Mapping[str, FileName], folder: Path, log: Path) -> None:
        """Many in one transaction; a run that is cut off here goes on here, and what another demo on the same database has begun stays as it is."""
        StepLog(log).close()
        reference = reference_of(folder)
        now = self._store.clock()
        workflow = Workflow(workflow_id=DEFINITION, workflow_type=DEFINITION, created_at=now)
        left = iter(files.items())
        while batch := list(islice(left, _BATCH)):
            with self._store.transaction() as tx:
                for id, file in batch:
                    arguments = {"args": [msgspec.to_builtins(file), reference], "kwargs": {}}
                    execution = WorkflowExecution(
                        workflow_execution_id=id, workflow_id=DEFINITION, input_data=arguments, created_at=now
                    )
                    tx.start_execution(workflow, execution)


class _Named:
    """What a step body is told about itself."""

    def __init__(self, workflow_id: str) -> None:
        self.workflow_id = workflow_id


def workflow_of(steps: FileSteps) -> Callable[..., object]:
    """The function of the workflow ``demo``: four steps, and the row as its result; a file that cannot be read ends it."""

    def demo(ctx: WorkflowContext, file: dict[str, Any], _reference: str) -> object:
        fields: dict[str, Any] = {"file": file}
        for step in STEPS:
            fields.update(ctx.step(step, partial(_found, getattr(steps, step), fields, ctx.execution_id)))
        return fields.get("row")

    return demo


def _found(body: Callable[[FileJob, Named], None], fields: dict[str, Any], id: str) -> dict[str, Any]:
    """What a step finds out beyond what is known."""
    job = msgspec.convert(fields, FileJob)
    before = msgspec.to_builtins(job)
    body(job, _Named(id))
    return {name: value for name, value in msgspec.to_builtins(job).items() if value != before[name]}


def run_executions(
    database: str, log: StepLog, lifeline: Connection, *, lease: float, grace: float, look_every: float
) -> None:
    """Run workflows until the parent lets go of the other end of `lifeline`."""
    logging.getLogger("wfe_fast").addHandler(logging.NullHandler())
    with open_checkpoints(database) as store:
        engine = DurableEngine(store, workers=1, worker_id=f"demo-{os.getpid()}", lease=lease)
        engine.register(DEFINITION, workflow_of(FileSteps(log)))
        serving = Thread(target=engine.serve, name="demo", daemon=True)
        serving.start()
        while serving.is_alive() and not lifeline.poll(look_every):
            pass
        closing = Thread(target=engine.close, name="demo-close", daemon=True)
        closing.start()
        closing.join(grace)
        if closing.is_alive():
            os._exit(1)  # a step goes on; nothing of it is recorded, so it can be cut off anywhere
