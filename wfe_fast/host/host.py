"""`WorkflowHost`: start workflows, publish events, and run what is due, in any number of threads and processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any
from uuid import uuid4

from wfe_fast.clock import Duration, checked_seconds, to_millis
from wfe_fast.codec import checked_text, encode_json
from wfe_fast.errors import (
    DefinitionNotFoundError,
    DuplicateWorkflowError,
    InvalidValueError,
    WorkflowNotFoundError,
    WorkflowSuspendedError,
    WorkflowTerminatedError,
)
from wfe_fast.host.builder import WorkflowBuilder
from wfe_fast.host.definition import Registry
from wfe_fast.host.engine import Engine
from wfe_fast.host.flow import Limits
from wfe_fast.host.outbox import Outbox
from wfe_fast.host.policies import checked_integer
from wfe_fast.host.source import HostSource
from wfe_fast.persistence.contract import PersistenceProvider, PersistenceTransaction
from wfe_fast.persistence.models import WorkflowInstance, WorkflowStatus
from wfe_fast.workers import WorkerLoop, run_until_signal

_RESTING = (WorkflowStatus.COMPLETE, WorkflowStatus.TERMINATED, WorkflowStatus.SUSPENDED)
_LONGEST = 10 * 365 * 86_400.0


@dataclass(frozen=True)
class HostStats:
    """What a host did since it was made, and does now."""

    running: bool
    #: Worker threads, and how many workflows they hold now.
    workers: int
    busy: int
    #: Transactions of workflows, step bodies that answered, step bodies and conditions that raised.
    passes: int
    steps: int
    failures: int
    #: Commits that were refused because another worker had taken the workflow over; claims that ended because nothing could be stored.
    claims_lost: int
    claims_given_up: int


class WorkflowHost:
    """Runs workflows on a `PersistenceProvider`, which stays the caller's.

    ``with WorkflowHost(provider, [wf]) as host:`` starts worker threads and stops them gracefully at the end. Without threads:
    `run_until_idle` and `run_one_pass`. All other methods work in any case, whether the host runs or not. Thread-safe.
    """

    def __init__(
        self,
        provider: PersistenceProvider,
        workflows: Iterable[WorkflowBuilder] = (),
        *,
        workers: int = 4,
        worker_id: str | None = None,
        lease: Duration = 30.0,
        poll_interval: Duration = 5.0,
        max_pointers: int = 10_000,
        max_moves: int = 1_000,
    ) -> None:
        """
        Args:
            provider: where workflows are stored. Its clock says what time it is.
            workflows: the definitions to run, as for `register`.
            workers: how many steps run at a time.
            worker_id: how claims are signed, for people to read; machine and process by default.
            lease: seconds that a claim of a killed process lasts. Claims of living ones are renewed every third of it.
            poll_interval: seconds after which the host looks for work although nothing woke it up.
            max_pointers: a workflow with more execution pointers is suspended.
            max_moves: a workflow that makes more moves without a step body in one pass is suspended.

        Raises:
            InvalidValueError: a value is of a wrong kind or out of range.
            DefinitionError: a workflow is not well-formed.
        """
        if not isinstance(provider, PersistenceProvider):
            raise InvalidValueError("provider", "must be a PersistenceProvider", provider)
        limits = Limits(checked_integer(max_pointers, "max_pointers", 1), checked_integer(max_moves, "max_moves", 1))
        lease = checked_seconds(lease, "lease", minimum=0.001)
        poll_interval = checked_seconds(poll_interval, "poll_interval", minimum=0.001)
        if worker_id is None:
            worker_id = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        checked_text(worker_id, "worker_id", max_bytes=1000, empty=False)
        self.worker_id = worker_id
        self._provider = provider
        self._workers = checked_integer(workers, "workers", 1)
        self._registry = Registry()
        self._engine = Engine(provider, self._registry, limits, lambda: self._loop.stopping)
        self._source = HostSource(self._engine, worker_id, lease)
        self._loop = WorkerLoop(
            self._source, workers=self._workers, lease=lease, poll_interval=poll_interval, name="wfe-host"
        )
        for workflow in workflows:
            self.register(workflow)

    def register(self, workflow: WorkflowBuilder) -> None:
        """Let this host start and run the workflow, as the builder stands now. One of the same id, version and shape is left as it is.

        Raises:
            DefinitionError: it is not well-formed.
            DuplicateDefinitionError: another definition is registered under its id and version.
        """
        if not isinstance(workflow, WorkflowBuilder):
            raise InvalidValueError("workflow", "must be a WorkflowBuilder", workflow)
        self._registry.add(workflow.build())

    # Running

    def open(self) -> WorkflowHost:
        """Start the worker threads, as ``with`` does; `stop` ends them. May be opened again after that.

        Raises:
            InvalidStateError: the host is running.
        """
        self._loop.start()
        return self

    def __enter__(self) -> WorkflowHost:
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether worker threads run in this process. Those of a parent do not count after a fork."""
        return self._loop.running

    def stop(self, timeout: Duration | None = None) -> bool:
        """Claim nothing more, let running steps end and commit, and give all claims back.

        Args:
            timeout: seconds to wait for running steps (`ctx.stopping` tells them); None = as long as they take.

        Returns:
            False where a step still ran then. It goes on, and its pass is committed when it ends.

        Raises:
            BaseException: a KeyboardInterrupt, SystemExit or the like that a step raised and that has stopped the host.
        """
        return self._loop.stop(None if timeout is None else checked_seconds(timeout, "timeout"))

    def run(self, stop_timeout: Duration | None = None) -> bool:
        """Serve until SIGTERM or SIGINT, or until `stop` is called elsewhere; then stop gracefully. A second signal acts as if
        there were no host.

        In a thread that is not the main one signals are left alone.

        Returns:
            What `stop(stop_timeout)` returned.

        Raises:
            BaseException: see `stop`.
        """
        run_until_signal(self._loop)
        return self.stop(stop_timeout)

    def run_one_pass(self) -> bool:
        """In this thread: deliver what is due, claim one workflow, run one pass of it and give it back.

        Returns:
            False where no workflow was due.

        Raises:
            BaseException: see `stop`.
            StoreUnavailableError: the store cannot serve the call now.
        """
        return self._run_claims(1)

    def run_until_idle(self) -> int:
        """In this thread: do all that is due, until nothing is. What sleeps or waits is left.

        Returns:
            How many claims it took.

        Raises:
            BaseException: see `stop`.
            StoreUnavailableError: the store cannot serve the call now.
        """
        claims = 0
        while self._run_claims():
            claims += 1
        return claims

    def _run_claims(self, max_passes: int | None = None) -> bool:
        self._source.maintain()
        claims = self._source.claim(1)
        for claim in claims:
            if max_passes is None:
                self._engine.work(claim)
            else:
                self._engine.work(claim, max_passes)
        return bool(claims)

    def stats(self) -> HostStats:
        """Counts of this host, in this process."""
        counts = self._engine.counts
        return HostStats(
            running=self.running,
            workers=self._workers,
            busy=self._loop.busy,
            passes=counts.passes,
            steps=counts.steps,
            failures=counts.failures,
            claims_lost=counts.claims_lost,
            claims_given_up=counts.claims_given_up,
        )

    # Workflows and events

    def start(
        self,
        definition: str,
        data: Any = None,
        *,
        version: int | None = None,
        name: str | None = None,
        id: str | None = None,
        reference: str | None = None,
        tx: PersistenceTransaction | None = None,
    ) -> str:
        """Start a workflow; return its id. Some host that has its definition registered runs it.

        Args:
            definition: the id of a registered definition.
            data: an object of the definition's type, or JSON that fits it; None = an empty object.
            version: of the definition; the highest that is registered by default.
            name: unique; ``{definition}-{n}`` by default.
            id: unique. A workflow of the same definition that has this id already is the one that is meant: nothing changes then.
            reference: whatever the caller wants to find the workflow by.
            tx: the caller's `provider.transaction()`, for starting it together with other writes. Where two such transactions start one id at
                the same moment, one of them fails with `DuplicateWorkflowError` and can be repeated.

        Raises:
            DefinitionNotFoundError: it is not registered.
            DuplicateWorkflowError: the name is taken, or the id by a workflow of another definition.
            InvalidValueError: a blank name, or another value of a wrong kind.
            SerializationError: the data is not JSON, or does not fit its type; names the field.
        """
        outbox = self._outbox()
        workflow_id = outbox.start(definition, data, version=version, name=name, id=id, reference=reference)
        try:
            with self._joined(tx, outbox) as joined:
                outbox.store(joined)
        except DuplicateWorkflowError as error:
            if tx is not None or not outbox.met(error):
                raise
            with self._joined(tx, outbox) as joined:
                outbox.store(joined)  # somebody started it at the same moment, and now it is there
        return workflow_id

    def publish(
        self,
        name: str,
        key: str = "",
        data: Any = None,
        *,
        at: datetime | None = None,
        id: str | None = None,
        tx: PersistenceTransaction | None = None,
    ) -> str:
        """Store an event and deliver it to every workflow that waits for its name and key, in one transaction; return its id.

        A workflow that begins to wait later finds it, too, unless its `as_of` lies behind the event's time.

        Args:
            name: what happened. Names that begin with ``wfe.`` are the library's own.
            key: to what.
            data: JSON.
            at: the event's time, now by default. One that lies ahead is delivered when it comes.
            id: unique. Publishing the same id again changes nothing.
            tx: the caller's `provider.transaction()`, for publishing it together with other writes.

        Raises:
            InvalidValueError: a name of the library, a naive time, or another value of a wrong kind.
            SerializationError: the data is not JSON.
        """
        outbox = self._outbox()
        event_id = outbox.publish(name, key, data, at=at, id=id)
        with self._joined(tx, outbox) as joined:
            outbox.store(joined)
        return event_id

    def get(self, id_or_name: str) -> WorkflowInstance:
        """The workflow with this id, or else with this name.

        Raises:
            WorkflowNotFoundError: there is neither.
        """
        try:
            return self._provider.get_workflow_instance(id_or_name)
        except WorkflowNotFoundError:
            return self._provider.get_workflow_instance_by_name(id_or_name)

    def suspend(self, id_or_name: str) -> bool:
        """Let no further step of the workflow run. A step that runs now commits its result.

        Returns:
            False where it was not Runnable; nothing changes then.

        Raises:
            WorkflowNotFoundError: there is no such workflow.
        """
        return self._change_status(id_or_name, WorkflowStatus.SUSPENDED, WorkflowStatus.RUNNABLE)

    def resume(self, id_or_name: str) -> bool:
        """Let a suspended workflow run again, a step that failed included (with a fresh count of attempts).

        Returns:
            False where it was not Suspended; nothing changes then.

        Raises:
            WorkflowNotFoundError: there is no such workflow.
        """
        return self._change_status(id_or_name, WorkflowStatus.RUNNABLE, WorkflowStatus.SUSPENDED)

    def terminate(self, id_or_name: str) -> bool:
        """End the workflow and drop its waits. A step that runs now commits its result; nothing follows it.

        Returns:
            False where it had ended already; nothing changes then.

        Raises:
            WorkflowNotFoundError: there is no such workflow.
        """
        return self._change_status(
            id_or_name, WorkflowStatus.TERMINATED, WorkflowStatus.RUNNABLE, WorkflowStatus.SUSPENDED
        )

    def result(self, id_or_name: str, timeout: Duration | None = None) -> Any:
        """Wait until the workflow is Complete and return its data: an object of its definition's type.

        Args:
            id_or_name: which workflow.
            timeout: seconds; None = as long as it takes.

        Raises:
            TimeoutError: it did not complete in time.
            WorkflowTerminatedError, WorkflowSuspendedError: it did not complete, with its last error.
            WorkflowNotFoundError: there is no such workflow.
            SerializationError: its data does not fit the type.
        """
        seconds = _LONGEST if timeout is None else checked_seconds(timeout, "timeout")
        workflow_id = self.get(id_or_name).id
        status = self._provider.wait_for_status(workflow_id, _RESTING, seconds)
        if status is None:
            raise TimeoutError(f"workflow {workflow_id!r} did not complete within {seconds:g} s")
        if status is WorkflowStatus.COMPLETE:
            return self._typed_data(self._provider.get_workflow_instance(workflow_id))
        errors = self._provider.get_errors(workflow_id)
        reason = errors[-1].message if errors else None
        if status is WorkflowStatus.TERMINATED:
            raise WorkflowTerminatedError(workflow_id, reason)
        raise WorkflowSuspendedError(workflow_id, reason)

    def _typed_data(self, instance: WorkflowInstance) -> Any:
        try:
            definition = self._registry.get(instance.workflow_definition_id, instance.version)
        except DefinitionNotFoundError:
            return instance.data
        return definition.model.decode(encode_json(instance.data, "data"))

    def _change_status(self, id_or_name: str, to: WorkflowStatus, *only_from: WorkflowStatus) -> bool:
        workflow_id = self.get(id_or_name).id
        with self._provider.transaction(workflows=[workflow_id]) as tx:
            changed = tx.change_status(workflow_id, to, only_from)
            if changed and to is WorkflowStatus.TERMINATED:
                tx.drop_subscriptions(workflow_id)
            if changed and to is WorkflowStatus.RUNNABLE:
                self._make_due(workflow_id, tx)
        return changed

    def _make_due(self, workflow_id: str, tx: PersistenceTransaction) -> None:
        """Let some host look at the workflow: a pass that ended while it was suspended has left the end to the next one."""
        instance = tx.get_workflow_instance(workflow_id)
        instance.next_execution = to_millis(self._provider.clock())
        tx.persist_workflow(instance)

    def _outbox(self) -> Outbox:
        return Outbox(self._registry, self._provider.clock)

    def _joined(
        self, tx: PersistenceTransaction | None, outbox: Outbox
    ) -> AbstractContextManager[PersistenceTransaction]:
        return self._provider.transaction(publishes=outbox.addresses) if tx is None else nullcontext(tx)
