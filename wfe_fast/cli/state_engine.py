"""The demo on contract C: an execution for each file, with one work item, an event for each step, and a snapshot at the end.

A worker that takes an item over goes on behind the last step that was recorded. What a stalled one records then is refused: taking over
has stored events, and each step says which event it has seen last.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from wfe_fast.cli.files import FileName, reference_of
from wfe_fast.cli.results import Results
from wfe_fast.cli.steplog import StepLog
from wfe_fast.cli.steps import DEFINITION, STEPS, FileJob, FileSteps, Named
from wfe_fast.errors import DuplicateExecutionError, InvalidTransitionError, LeaseLostError, SequenceConflictError
from wfe_fast.state import (
    Event,
    MaterializedState,
    NodeCompleted,
    NodeScheduled,
    WorkflowCompleted,
    WorkflowExecution,
    WorkflowFailed,
    WorkflowStarted,
    WorkflowStatus,
    WorkItem,
)
from wfe_fast.workers import WorkerLoop

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from wfe_fast.state import StateBackend

_QUEUE = "demo"
#: The node of a file's work item.
_NODE = "file"
#: Every worker that dies costs an attempt, and none of that is the file's fault.
_ATTEMPTS = 1000
_POLL = 0.05
_PAGE = 1000
_ENDED = (WorkflowStatus.COMPLETED, WorkflowStatus.FAILED)


def open_state(database: str) -> StateBackend:
    """The backend on a database (a URL), with its tables."""
    if database.startswith("sqlite:"):
        from wfe_fast.sqlite import SqliteBackend

        return SqliteBackend.open(database)
    from wfe_fast.postgres import PostgresBackend

    return PostgresBackend.open(database)


class StateEngine:
    """The parent's side."""

    def __init__(self, backend: StateBackend) -> None:
        self._backend = backend

    def ended(self) -> int:
        counts = self._backend.count_executions()
        return sum(counts.get(status, 0) for status in _ENDED)

    def results(self, folder: Path) -> Results:
        results = Results()
        for execution in self._executions(reference_of(folder)):
            state = self._backend.materialize(execution.execution_id)
            job, steps = _job_of(state), len(state.completed_nodes.keys() & set(STEPS))
            id = execution.execution_id.hex
            results.steps += steps
            if execution.status not in _ENDED:
                results.open.add(id)
                results.steps_of_open += steps
            elif job.row is not None:
                results.rows[id] = job.row
            elif execution.status is WorkflowStatus.COMPLETED:
                results.lost.add(id)
            else:
                kinds = [event.kind for event in self._backend.get_events(execution.execution_id)]
                reasons = [kind.error for kind in kinds if isinstance(kind, WorkflowFailed)]
                results.failed[id] = (job.file.path, reasons[-1])
        return results

    def _executions(self, reference: str) -> Iterator[WorkflowExecution]:
        after: str | None = None
        while True:
            page = self._backend.list_executions(limit=_PAGE, after=after)
            yield from (one for one in page if (one.workflow_id, one.workflow_version) == (DEFINITION, reference))
            after = page.next
            if after is None:
                return

    def start(self, files: Mapping[str, FileName], folder: Path, log: Path) -> None:
        """One transaction for each; a run that is cut off here goes on here."""
        StepLog(log).close()
        reference = reference_of(folder)
        for workflow_id, file in files.items():
            given = msgspec.to_builtins(FileJob(file))
            execution = WorkflowExecution(
                execution_id=UUID(hex=workflow_id),
                workflow_id=DEFINITION,
                workflow_version=reference,
                status=WorkflowStatus.RUNNING,
                initial_input=given,
                current_state=given,
            )
            kinds = (
                WorkflowStarted(workflow_id=DEFINITION, workflow_version=reference, initial_input=given),
                NodeScheduled(node_id=_NODE, queue_type=_QUEUE),
            )
            item = WorkItem(
                execution_id=execution.execution_id, node_id=_NODE, queue_type=_QUEUE, max_attempts=_ATTEMPTS
            )
            with suppress(DuplicateExecutionError):  # another demo on the same database was faster
                events = [Event(execution_id=execution.execution_id, kind=kind) for kind in kinds]
                self._backend.start_execution(execution, events, item)


def _job_of(state: MaterializedState) -> FileJob:
    """The job as the recorded steps have left it."""
    done = state.completed_nodes
    fields: dict[str, Any] = dict(state.current_state)
    for step in STEPS:
        fields.update(done.get(step, {}))
    return msgspec.convert(fields, FileJob)


class _Named:
    """What a step body is told about itself."""

    def __init__(self, workflow_id: str) -> None:
        self.workflow_id = workflow_id


class FileSource:
    """Claims items and does the steps of their files. See `wfe_fast.workers.WorkSource`."""

    def __init__(self, backend: StateBackend, log: StepLog, lease: float) -> None:
        self._backend = backend
        self._steps = FileSteps(log)
        self._lease = lease
        self._worker = f"demo-{os.getpid()}"
        self._interrupted = threading.Event()

    def claim(self, limit: int) -> Sequence[WorkItem]:
        return self._backend.claim_work_item(self._worker, [_QUEUE], lease=self._lease, limit=limit)

    def wait(self, timeout: float) -> bool:
        self._interrupted.wait(min(timeout, _POLL))
        return False

    def interrupt(self) -> None:
        self._interrupted.set()

    def maintain(self) -> bool:
        return False

    def release(self, item: WorkItem) -> None:
        with suppress(LeaseLostError):
            self._backend.park_work_item(item, self._backend.clock())

    def renew(self, items: Sequence[WorkItem]) -> Collection[WorkItem]:
        lost = []
        for item in items:
            try:
                self._backend.renew_lease(item, self._lease)
            except LeaseLostError:
                lost.append(item)
        return lost

    def work(self, item: WorkItem) -> None:
        # Somebody else has taken the file over: it is theirs now, and nothing of ours was recorded.
        with suppress(LeaseLostError, SequenceConflictError, InvalidTransitionError):
            state = self._backend.materialize(item.execution_id)
            if state.status not in _ENDED:
                self._do_steps(item.execution_id, _job_of(state), state.last_sequence)
            done = NodeCompleted(node_id=_NODE, output=None, state_patch=None, duration_ms=0)
            event = Event(execution_id=item.execution_id, kind=done)
            self._backend.commit_turn(item, event, snapshot=True)

    def _do_steps(self, id: UUID, job: FileJob, seen: int) -> None:
        """Do what is not recorded yet, record each step, and end the execution."""
        for step in STEPS[job.recorded :]:
            before = msgspec.to_builtins(job)
            body: Callable[[FileJob, Named], None] = getattr(self._steps, step)
            try:
                body(job, _Named(id.hex))
            except Exception as error:  # the file's own, to be reported with it
                failed = Event(execution_id=id, kind=WorkflowFailed(error=f"{type(error).__name__}: {error}"))
                self._backend.finish_execution(failed, WorkflowStatus.FAILED)
                return
            found = {name: value for name, value in msgspec.to_builtins(job).items() if value != before[name]}
            kind = NodeCompleted(node_id=step, output=found, state_patch=None, duration_ms=0)
            seen = self._backend.append_event(Event(execution_id=id, kind=kind), expected_sequence=seen)
        ended = Event(execution_id=id, kind=WorkflowCompleted(final_state=msgspec.to_builtins(job)))
        self._backend.finish_execution(ended, WorkflowStatus.COMPLETED)


def work_items(
    database: str, log: StepLog, lifeline: Connection, *, lease: float, grace: float, look_every: float
) -> None:
    """Work on files until the parent lets go of the other end of `lifeline`."""
    logging.getLogger("wfe_fast").addHandler(logging.NullHandler())
    with open_state(database) as backend:
        source = FileSource(backend, log, lease)
        loop = WorkerLoop(source, workers=1, lease=lease, poll_interval=_POLL, name="demo")
        loop.start()
        while loop.running and not lifeline.poll(look_every):
            pass
        if not loop.stop(timeout=grace):
            os._exit(1)  # a step goes on; nothing of it is recorded, so it can be cut off anywhere
