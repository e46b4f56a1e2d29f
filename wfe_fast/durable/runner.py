"""Runs a claimed execution: calls its function, and settles how that came out."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import ExecutionStatus, WorkflowExecution
from wfe_fast.durable.journal import Journal, persistently
from wfe_fast.durable.observers import Observers, log
from wfe_fast.durable.outcomes import Outcome, reason_of, ttl_expired
from wfe_fast.durable.registry import Body, Registry
from wfe_fast.durable.replay import Replay
from wfe_fast.durable.stuck import Stuck
from wfe_fast.durable.undoing import undo
from wfe_fast.durable.unwinding import Unwound, Why, is_passed_on
from wfe_fast.durable.values import recordable
from wfe_fast.errors import NonDeterminismError, RecoveryLimitError


@dataclass(eq=False)
class Run:
    """An execution that this process holds."""

    execution: WorkflowExecution
    #: Nothing can be recorded of it yet: it was created just now.
    fresh: bool = False
    #: Somebody else, or an earlier run of this program, has left it.
    recovered: bool = False
    #: Another worker has taken it over, or it was cancelled; set by other threads.
    lost: bool = False
    #: It was cancelled, and its steps are to be undone; set by other threads.
    undo: bool = False
    #: It is given back, or is about to be: a renewal that fails from now on means nothing.
    ending: bool = False

    def set_ending(self, ending: bool) -> None:
        """Say that the claim is about to be given back, or that it was not."""
        self.ending = ending

    @property
    def id(self) -> str:
        """The execution's id."""
        return self.execution.workflow_execution_id


class Runner:
    """Runs executions. Thread-safe; knows no threads of its own."""

    def __init__(
        self,
        store: CheckpointStore,
        registry: Registry,
        stuck: Stuck,
        observers: Observers,
        closing: threading.Event,
        max_recoveries: int,
    ) -> None:
        self._store = store
        self._registry = registry
        self.stuck = stuck
        self._observers = observers
        self._closing = closing
        self._max_recoveries = max_recoveries

    def run(self, run: Run) -> Outcome | None:
        """Run an execution until it ends, or is given back because it waits or the engine is being closed.

        Returns:
            How it has ended; None where it has not.

        Raises:
            BaseException: a KeyboardInterrupt or the like in user code; the execution was given back.
        """
        if run.recovered:
            self._observers.on_recovery_start(run.id)
        outcome = None
        success = False
        try:
            outcome = self._run(run)
            success = outcome is None or outcome.status is ExecutionStatus.COMPLETED
        finally:
            run.ending = True
            if run.recovered:
                self._observers.on_recovery_complete(run.id, success)
        if outcome is not None and outcome.stuck is None:
            self._observers.on_execution_complete(run.id, outcome.status)
        return outcome

    def _run(self, run: Run) -> Outcome | None:
        body = self._registry.get(run.execution.workflow_id)
        try:
            if body is None:
                self._give_back(run)
                return None
            rows = (
                [] if run.fresh else persistently(lambda: self._store.load_checkpoints(run.id), self._closing, run.id)
            )
            journal = Journal(self._store, run.execution, rows, self._closing, run.set_ending)
            if run.execution.takeovers > self._max_recoveries:
                given_up = self._give_up(run, journal)
                if given_up is not None:
                    return given_up
            return _Pass(self, run, body, journal).make()
        except Unwound as unwound:
            return self._left(run, unwound)
        except BaseException:
            self._give_back(run)
            raise

    def _give_up(self, run: Run, journal: Journal) -> Outcome | None:
        """An execution seems to end whoever runs it. Let it be undone; where that is what ends them, too, let it have failed.

        Returns:
            How it has ended; None where it is to be undone first.
        """
        error = RecoveryLimitError(run.id, run.execution.takeovers)
        self.error(run, "the execution is given up", error)
        reason = reason_of(error)
        if run.execution.status is not ExecutionStatus.COMPENSATING:
            journal.begin_undoing(reason)
            run.execution = journal.execution.copy_with(error_message=reason)
            return None
        return Outcome(run.id, journal.end(ExecutionStatus.FAILED, error=reason), reason=reason, cause=error)

    def _left(self, run: Run, unwound: Unwound) -> Outcome | None:
        """A body was left without an outcome of its own."""
        run.ending = True
        if unwound.why is Why.CLOSING:
            self._give_back(run)
        elif unwound.why is Why.LOST:
            log.info("execution %s: nothing more is recorded here: %s", run.id, unwound.error or unwound)
            return self._stored_outcome(run)
        return None

    def _stored_outcome(self, run: Run) -> Outcome | None:
        """How the execution has ended elsewhere, if it has."""
        try:
            execution = persistently(lambda: self._store.load_execution(run.id), self._closing, run.id)
        except Unwound:
            return None
        return None if execution is None else Outcome.of(execution)

    def _give_back(self, run: Run) -> None:
        run.ending = True
        try:
            self._store.release_claim(run.execution)
        except Exception as error:  # its lease frees it then
            log.warning("execution %s could not be given back: %s", run.id, error)

    # -- what a pass uses --------------------------------------------------------------------------------------------------------------

    def replay(self, run: Run, journal: Journal) -> Replay:
        """A context for the body."""
        return Replay(
            journal,
            self._observers,
            self._closing,
            lambda: self._check(run),
            undoing=run.execution.status is ExecutionStatus.COMPENSATING,
        )

    def _check(self, run: Run) -> None:
        """Whether something new may be done now."""
        if run.lost:
            raise Unwound(Why.LOST)
        if run.undo:
            raise Unwound(Why.CANCELLED)
        if self.is_expired(run):
            raise Unwound(Why.EXPIRED)
        if self._closing.is_set():
            raise Unwound(Why.CLOSING)

    def is_expired(self, run: Run) -> bool:
        """Whether the execution's time is over."""
        expires = run.execution.ttl_expires_at
        return expires is not None and self._store.clock() > expires

    def undo(self, run: Run, journal: Journal, replay: Replay) -> None:
        """Undo the completed steps."""
        undo(journal, replay.compensations, self._observers, self._closing, lambda: run.lost)

    def error(self, run: Run, context: str, error: BaseException) -> None:
        """Tell of an error."""
        self._observers.on_error(run.id, context, error)


class _Pass:
    """One call of a workflow's function, and what follows from it."""

    def __init__(self, runner: Runner, run: Run, body: Body, journal: Journal) -> None:
        self._runner = runner
        self._run = run
        self._body = body
        self._journal = journal
        self._replay = runner.replay(run, journal)

    def make(self) -> Outcome | None:
        """Call the function.

        Raises:
            Unwound: it was left, and nothing more is to be done here.
        """
        replay = self._replay
        undoing = self._run.execution.status is ExecutionStatus.COMPENSATING
        result: Any = None
        failure: BaseException | None = None
        try:
            result = self._call()
        except Unwound:
            pass  # the context knows, also where the function has swallowed it
        except BaseException as error:
            if is_passed_on(error):
                raise
            failure = error
        finally:
            replay.end()
        if replay.unwound is not None:
            return self._unwound(replay.unwound)
        left = self._journal.name_after(replay.position)
        if left is not None:
            problem = f"position {replay.position} is recorded as {left!r}, but the workflow's function ended before it"
            return self._differs(NonDeterminismError(self._run.id, problem))
        if undoing:
            return self._fail(None)
        if failure is None and not self._runner.is_expired(self._run):
            return self._complete(result)
        return self._fail(failure or ttl_expired())

    def _call(self) -> Any:
        data = self._run.execution.input_data
        if not isinstance(data, dict):
            data = {}
        return self._body(self._replay, *data.get("args", ()), **data.get("kwargs", {}))

    def _unwound(self, unwound: Unwound) -> Outcome | None:
        why = unwound.why
        if why is Why.EXPIRED:
            return self._fail(ttl_expired())
        if why in (Why.CANCELLED, Why.REPLAYED):
            return self._fail(None)
        if why is Why.DIFFERS and isinstance(unwound.error, NonDeterminismError):
            return self._differs(unwound.error)
        raise unwound

    def _differs(self, error: NonDeterminismError) -> Outcome:
        """The function does not fit the record: leave the execution as it is, so that the code can be rolled back."""
        self._runner.error(self._run, "the workflow's function does not fit its record", error)
        stuck, id = self._runner.stuck, self._run.id
        stuck.leave_alone(id, self._run.execution.workflow_id, self._body, error)
        try:
            self._journal.leave(reason_of(error))
        except BaseException:
            stuck.forget(id)  # it is somebody else's now, or nobody knows
            raise
        return Outcome(self._run.id, self._run.execution.status, reason=str(error), stuck=error)

    def _complete(self, result: Any) -> Outcome | None:
        try:
            output, value = recordable(result, None, "result")
        except Exception as error:
            return self._fail(error)
        status = self._journal.end(ExecutionStatus.COMPLETED, output=output)
        if status is ExecutionStatus.COMPENSATING:  # somebody has cancelled it in this very moment
            return self._fail(None)
        return Outcome(self._run.id, status, value)

    def _fail(self, error: BaseException | None) -> Outcome:
        """Undo what is to be undone, and end as FAILED or CANCELLED. None: why is recorded already."""
        journal, replay = self._journal, self._replay
        reason = None if error is None else reason_of(error)
        if error is not None:
            self._runner.error(self._run, "the workflow failed", error)
        if any(position not in journal.undone for position in replay.compensations):
            if self._run.execution.status is not ExecutionStatus.COMPENSATING:
                journal.begin_undoing(reason)
            self._runner.undo(self._run, journal, replay)
        status = journal.end(ExecutionStatus.FAILED, error=reason)
        if reason is None:
            reason = self._run.execution.error_message
        if status is ExecutionStatus.CANCELLED:
            reason = self._run.execution.error_message
        return Outcome(self._run.id, status, reason=reason, cause=error)
