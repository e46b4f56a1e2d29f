"""`DurableEngine`: workflows that are plain functions, and go on after a crash."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from uuid import uuid4

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import (
    ExecutionStatus,
    Workflow,
    WorkflowExecution,
    WorkflowGuarantee,
    WorkflowSignal,
    new_id,
)
from wfe_fast.checks import check_bool, check_enum, check_identifier, check_int, check_name
from wfe_fast.clock import Duration, after, checked_seconds
from wfe_fast.codec import decode_json, encode_json
from wfe_fast.durable.handle import WorkflowHandle
from wfe_fast.durable.observers import Observers, log
from wfe_fast.durable.outcomes import Outcome, Waiter, Waiters, look
from wfe_fast.durable.registry import Registry
from wfe_fast.durable.runner import Run, Runner
from wfe_fast.durable.source import EngineSource
from wfe_fast.durable.stuck import Stuck
from wfe_fast.errors import (
    DuplicateExecutionError,
    EngineClosedError,
    ExecutionNotFoundError,
    InvalidValueError,
    NonDeterminismError,
    StoreClosedError,
    StoreUnavailableError,
)
from wfe_fast.workers import WorkerLoop, run_until_signal

F = TypeVar("F", bound=Callable[..., Any])

#: First and longest pause, in seconds, between two looks at an execution that may end in another process.
_FIRST_LOOK, _LONGEST_LOOK = 0.005, 0.25


class DurableEngine:
    """Runs workflow functions on a `CheckpointStore`, which stays the caller's. Thread-safe.

    Its threads begin with the first `start`, `recover` or `serve`, and with a `run` that has to wait; from then on they run whatever is due of
    the registered workflows, their own or what another process has left, until `close`.
    """

    def __init__(
        self,
        store: CheckpointStore,
        *,
        workers: int = 4,
        worker_id: str | None = None,
        lease: Duration = 30.0,
        poll_interval: Duration = 5.0,
        max_recoveries: int = 20,
        observers: Iterable[object] = (),
    ) -> None:
        """
        Args:
            store: where executions are recorded. Its clock says what time it is.
            workers: how many executions the engine's threads run at a time; `run` uses its caller's thread besides.
            worker_id: how claims are signed, for people to read; machine and process by default.
            lease: seconds that a claim of a killed process lasts. Claims of living ones are renewed every third of it.
            poll_interval: seconds after which the threads look for work although nothing woke them.
            max_recoveries: how often in a row an execution is taken over from a process that died or stalled without recording anything. It is
                undone then, without calling its steps again, and fails with a RecoveryLimitError as its reason.
            observers: objects with some of the methods of `Observer`.

        Raises:
            InvalidValueError: a value is of a wrong kind or out of range.
        """
        if not isinstance(store, CheckpointStore):
            raise InvalidValueError("store", "must be a CheckpointStore", store)
        lease = checked_seconds(lease, "lease", minimum=0.001)
        poll_interval = checked_seconds(poll_interval, "poll_interval", minimum=0.001)
        if worker_id is None:
            worker_id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self.worker_id = check_name(worker_id, "worker_id")
        self._store = store
        self._lease = lease
        self._pid = os.getpid()
        self._closing = threading.Event()
        self._changing, self._forgetting = threading.Condition(), threading.Lock()
        self._callers: dict[int, int] = {}
        self._registry = Registry()
        self._observers = Observers(observers)
        self._waiters = Waiters()
        self._stuck = Stuck(self._registry)
        self._runner = Runner(
            store,
            self._registry,
            self._stuck,
            self._observers,
            self._closing,
            check_int(max_recoveries, "max_recoveries", 1),
        )
        self._source = EngineSource(
            store, self._registry, self._work, self._stuck.ids, self._give_back, worker_id, lease
        )
        self._loop: WorkerLoop[Run] = WorkerLoop(
            self._source,
            workers=check_int(workers, "workers", 1),
            lease=lease,
            poll_interval=poll_interval,
            name="wfe-durable",
        )

    # -- workflows ---------------------------------------------------------------------------------------------------------------------

    def workflow(self, name: str) -> Callable[[F], F]:
        """Register the decorated function, which stays as it is, under `name`."""

        def register(fn: F) -> F:
            self.register(name, fn)
            return fn

        return register

    def register(self, name: str, fn: Callable[..., Any]) -> None:
        """Let `name` stand for `fn`, in place of whatever it stood for.

        Raises:
            InvalidValueError: a bad name, or `fn` is not callable.
        """
        self._follow_fork()
        if self._registry.add(name, fn):
            self._stuck.forget_all_of(name)
            self._source.interrupt()  # it waits for work of the workflows that were known when it began

    # -- executions --------------------------------------------------------------------------------------------------------------------

    def run(
        self,
        name: str,
        /,
        *args: Any,
        id: str | None = None,
        ttl: Duration | None = None,
        guarantee: WorkflowGuarantee | None = None,
        **kwargs: Any,
    ) -> Any:
        """Run a workflow and return what its function returned. It runs in this thread until it has to wait.

        Called by a step, it keeps the step's thread until the end: where all `workers` wait like that for workflows that sleep or wait for signals,
        there is nobody left to resume them. Give those an engine of their own.

        Args:
            name: of a registered workflow.
            args, kwargs: JSON values, handed to its function behind the context.
            id: of the execution. The same id again joins the one that there is, or returns its result; the arguments do not count then.
            ttl: how long it may take; then it fails, and its steps are undone.
            guarantee: stored with it.

        Raises:
            WorkflowFailedError, WorkflowCancelledError: it did not return. `UnserializableWorkflowError`, a `SerializationError`, too: for
                a value that JSON cannot hold.
            NonDeterminismError: it does not fit what is recorded of it.
            DuplicateExecutionError: an execution of another workflow has this id.
            DefinitionNotFoundError: no workflow has this name.
            SerializationError: an argument cannot be held as JSON; nothing was stored.
            EngineClosedError: the engine was closed, before or meanwhile; then the execution can be resumed.
        """
        execution, is_new = self._create(name, args, kwargs, id, ttl, guarantee, worker_id=self.worker_id)
        if is_new:
            outcome = self._run_here(Run(execution, fresh=True))
            if outcome is not None:
                return outcome.get()
        return self.result(execution.workflow_execution_id)

    def start(
        self,
        name: str,
        /,
        *args: Any,
        id: str | None = None,
        ttl: Duration | None = None,
        guarantee: WorkflowGuarantee | None = None,
        **kwargs: Any,
    ) -> WorkflowHandle:
        """Store an execution for the engine's threads to run, and return at once. Arguments and errors as of `run`."""
        execution, _ = self._create(name, args, kwargs, id, ttl, guarantee, worker_id=None)
        self._ensure_running()
        return WorkflowHandle(self, execution.workflow_execution_id)

    def handle(self, id: str) -> WorkflowHandle:
        """A handle of an execution that there is.

        Raises:
            ExecutionNotFoundError: there is none.
        """
        self.status(id)
        return WorkflowHandle(self, id)

    def status(self, id: str) -> ExecutionStatus:
        """Where an execution stands.

        Raises:
            ExecutionNotFoundError: there is none with this id.
        """
        status = self._store.execution_status(id)
        if status is None:
            raise ExecutionNotFoundError(id)
        return status

    def result(self, id: str, timeout: Duration | None = None) -> Any:
        """Wait for the end of an execution and return what its function returned.

        Args:
            id: of an execution, wherever it runs.
            timeout: seconds or a timedelta; None = as long as it takes.

        Raises:
            TimeoutError: it did not end in time.
            ExecutionNotFoundError: there is none with this id.
            WorkflowFailedError, WorkflowCancelledError, NonDeterminismError: as `run`.
            EngineClosedError: the engine was closed meanwhile.
        """
        deadline = None if timeout is None else time.monotonic() + checked_seconds(timeout, "timeout")
        self._follow_fork()
        waiter = self._waiters.join(check_identifier(id, "id"))
        try:
            outcome = self._await(id, waiter, deadline)
        finally:
            self._waiters.leave(id, waiter)
        if outcome is None:
            raise TimeoutError(f"execution {id!r} did not end in time")
        return outcome.get()

    def send_signal(self, id: str, name: str, payload: Any = None) -> int:
        """Send a signal to an execution; the id of the signal. It is kept until the execution takes it.

        Raises:
            ExecutionNotFoundError: there is no such execution.
            SerializationError: the payload cannot be held as JSON.
            EngineClosedError: the engine was closed.
        """
        self._check_open()
        signal = WorkflowSignal(
            workflow_execution_id=id, signal_name=name, payload=payload, created_at=self._store.clock()
        )
        return self._store.save_signal(signal)

    def cancel(self, id: str, compensate: bool = False) -> bool:
        """Cancel an execution, wherever it runs. A step that runs now is not interrupted; nothing follows it.

        Args:
            id: of the execution.
            compensate: undo its completed steps first, the last one first. That is done by whoever runs it; `result` waits for it.

        Returns:
            False where it has ended already; nothing changes then.

        Raises:
            ExecutionNotFoundError: there is no such execution.
            EngineClosedError: the engine was closed.
        """
        self._check_open()
        check_bool(compensate, "compensate")
        # Under the lock, so that a run which meets the cancellation in the store is still known here: it tells the end, or else we do.
        with self._forgetting:
            if not self._store.cancel_execution(id, compensate=compensate):
                return False
            run = self._source.active.get(id)
            if run is not None and compensate:
                run.undo = True
            elif run is not None:
                run.lost = True
        if compensate:
            self._ensure_running()
        else:
            self._stuck.forget(id)
            self._source.ended(id)
            if run is None:
                self._tell_end(id)
        return True

    # -- life --------------------------------------------------------------------------------------------------------------------------

    def recover(self) -> int:
        """Claim what nobody holds and hand it to the engine's threads, without waiting for it.

        What a killed process held is taken when its lease has ended: by a later call, or by the threads themselves.

        Returns:
            How many executions were taken up, those included that the threads have taken over since the last call.

        Raises:
            EngineClosedError: the engine was closed.
            StoreUnavailableError: the store cannot serve the call now.
        """
        self._check_open()
        found = self._source.recover()
        self._ensure_running()
        return found

    def serve(self) -> None:
        """Run what is due until SIGTERM or SIGINT, or until `close` is called elsewhere; then close the engine.

        In a thread that is not the main one signals are left alone.

        Raises:
            EngineClosedError: the engine was closed before.
            BaseException: a SystemExit or the like that a workflow has raised.
        """
        self._check_open()
        self._ensure_running()  # not all that there is at once, as `recover` does: other processes serve, too
        run_until_signal(self._loop)
        self.close()

    def close(self) -> None:
        """Let running steps end, give all executions back and end the threads. A second call is harmless. The store stays open.

        Raises:
            BaseException: a SystemExit or the like that a workflow has raised.
        """
        self._follow_fork()
        with self._changing:
            self._closing.set()
        self._waiters.wake_all()
        try:
            self._loop.stop()
        finally:
            with self._changing:
                own = threading.get_ident()
                self._changing.wait_for(lambda: not set(self._callers) - {own})
            self._source.drop_backlog()
            self._source.end()

    def __enter__(self) -> DurableEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closing.is_set()

    # -- inside ------------------------------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        self._follow_fork()
        if self._closing.is_set():
            raise EngineClosedError
        if self._loop.stopping:
            # `serve` is ending, or a SystemExit or the like has ended the threads: nobody would run anything any more.
            raise EngineClosedError("the engine's threads have ended") from self._loop.failure

    def _ensure_running(self) -> None:
        with self._changing:
            if not self._closing.is_set() and not self._loop.running and not self._loop.stopping:
                self._loop.start()

    def _follow_fork(self) -> None:
        """In a forked child: forget the threads, and what they held, which are the parent's."""
        if self._pid != os.getpid():
            self._changing, self._forgetting = threading.Condition(), threading.Lock()
            self._callers = {}
            self._waiters = Waiters()
            self._stuck.follow_fork()
            self._source.follow_fork()
            self._pid = os.getpid()

    def _create(
        self,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        id: str | None,
        ttl: Duration | None,
        guarantee: WorkflowGuarantee | None,
        *,
        worker_id: str | None,
    ) -> tuple[WorkflowExecution, bool]:
        """Store an execution, or find the one that there is; whether it is new."""
        self._check_open()
        self._registry.check(name)
        now = self._store.clock()
        data = {"args": list(args), "kwargs": kwargs}
        for index, value in enumerate(args):
            encode_json(value, f"args[{index}]")
        for key, value in kwargs.items():
            encode_json(value, key)
        execution = WorkflowExecution(
            workflow_execution_id=new_id() if id is None else check_identifier(id, "id"),
            workflow_id=name,
            input_data=decode_json(encode_json(data, "arguments")),
            ttl_expires_at=None if ttl is None else after(now, checked_seconds(ttl, "ttl")),
            guarantee=WorkflowGuarantee.FOREGROUND_ONLY
            if guarantee is None
            else check_enum(guarantee, WorkflowGuarantee, "guarantee"),
            created_at=now,
            updated_at=now,
        )
        workflow = Workflow(workflow_id=name, workflow_type=name, created_at=now)
        stored, is_new = self._store.start_execution(workflow, execution, worker_id=worker_id, lease=self._lease)
        if stored.workflow_id != name:
            raise DuplicateExecutionError(stored.workflow_execution_id)
        if is_new:
            self._observers.on_execution_start(stored.workflow_execution_id, name)
        return stored, is_new

    def _run_here(self, run: Run) -> Outcome | None:
        """Run an execution in the caller's thread."""
        own = threading.get_ident()
        with self._changing:
            self._callers[own] = self._callers.get(own, 0) + 1
        try:
            with self._source.holding(run):
                return self._perform(run)
        finally:
            with self._changing:
                self._callers[own] -= 1
                if not self._callers[own]:
                    del self._callers[own]
                self._changing.notify_all()

    def _perform(self, run: Run) -> Outcome | None:
        """Run an execution, and tell who waits for it."""
        self._source.active[run.id] = run
        try:
            outcome = self._runner.run(run)
        finally:
            with self._forgetting:
                self._source.forget_active(run)
        if outcome is None and run.lost:  # perhaps by a cancellation that came after the body was left
            self._tell_end(run.id)
        if outcome is not None:
            self._source.ended(run.id)
            if outcome.stuck is None:
                self._waiters.tell(outcome)
            else:
                # Not told, but looked for: by the time that somebody hears of it other code may have been registered.
                self._stuck.given_back(run.id)
                self._waiters.wake(run.id)
        return outcome

    def _work(self, run: Run) -> None:
        """Run an execution in a thread of the loop."""
        try:
            self._perform(run)
        except StoreUnavailableError:
            raise
        except Exception as error:  # one execution that cannot be run must not stop the others
            self._observers.on_error(run.id, "the execution cannot be run", error)
            problem = f"it cannot be run: {type(error).__name__}: {error}"
            workflow = run.execution.workflow_id
            self._stuck.leave_alone(
                run.id, workflow, self._registry.get(workflow), NonDeterminismError(run.id, problem)
            )
            self._stuck.given_back(run.id)
            self._waiters.wake(run.id)

    def _give_back(self, run: Run) -> None:
        run.ending = True
        with self._forgetting:
            self._source.forget_active(run)
        try:
            self._store.release_claim(run.execution)
        except StoreUnavailableError as error:  # its lease frees it then
            log.warning("execution %s could not be given back: %s", run.id, error)
        if run.lost:
            self._tell_end(run.id)

    def _tell_end(self, id: str) -> None:
        """Tell of an end that was stored by somebody else than a run of ours, if there is one."""
        try:
            execution = self._store.load_execution(id)
        except (StoreUnavailableError, StoreClosedError) as error:  # whoever waits looks for himself
            log.warning("the end of execution %s cannot be told: %s", id, error)
            return
        outcome = None if execution is None else Outcome.of(execution)
        if outcome is not None:
            self._observers.on_execution_complete(id, outcome.status)
            self._waiters.tell(outcome)

    def _await(self, id: str, waiter: Waiter, deadline: float | None) -> Outcome | None:
        """How an execution has ended; None where that takes too long."""
        pause = _FIRST_LOOK
        while True:
            if waiter.outcome is not None:
                return waiter.outcome
            left = None if deadline is None else deadline - time.monotonic()
            outcome = look(self._store, id, left)
            if outcome is not None:
                self._stuck.forget(id)
                return outcome
            stuck = self._stuck.error_of(id)
            if stuck is not None:  # here; it may have ended elsewhere, and then that counts
                raise stuck
            self._check_open()
            self._ensure_running()
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return None
            waiter.told.wait(pause if left is None else min(pause, left))
            waiter.told.clear()
            pause = min(pause * 2, _LONGEST_LOOK)
