"""Passes: one step body and one transaction each, for as long as a claim lasts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wfe_fast.clock import Clock
from wfe_fast.errors import (
    ClaimLostError,
    DefinitionChangedError,
    DuplicateWorkflowError,
    StoreUnavailableError,
    WfeError,
    WorkflowNotFoundError,
)
from wfe_fast.host import waits
from wfe_fast.host.context import StepContext
from wfe_fast.host.definition import Registry
from wfe_fast.host.flow import Flow, LimitError, Limits, execution_error
from wfe_fast.host.outbox import Outbox
from wfe_fast.host.steps import BodyStep
from wfe_fast.persistence.contract import PersistenceProvider, PersistenceTransaction
from wfe_fast.persistence.models import (
    FINAL_WORKFLOW_STATUSES,
    EventSubscription,
    ExecutionPointer,
    WorkflowInstance,
    WorkflowStatus,
)

log = logging.getLogger("wfe_fast.host")

#: A workflow that was claimed so often without a commit kills its workers, or cannot be stored.
MAX_CLAIMS_WITHOUT_COMMIT = 5
#: When a claim ends although its workflow could go on: after so many passes, or so many seconds.
_MAX_PASSES, _MAX_SECONDS = 100, 1.0
#: How often a commit is tried while the store is unavailable, and the first pause between two attempts, in seconds, which doubles.
_COMMIT_ATTEMPTS, _COMMIT_PAUSE = 6, 0.05


@dataclass(eq=False)
class Claim:
    """A workflow that this process holds."""

    instance: WorkflowInstance
    #: Another worker took it over; set by the heartbeat.
    lost: bool = False
    #: The claim is given back, or is about to be: a renewal that fails from now on means nothing.
    ending: bool = False


@dataclass
class Counts:
    """What an engine did since it was made. Guarded by `lock`."""

    passes: int = 0
    steps: int = 0
    failures: int = 0
    claims_lost: int = 0
    claims_given_up: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **amounts: int) -> None:
        """Add to some of the counts."""
        with self.lock:
            for name, amount in amounts.items():
                setattr(self, name, getattr(self, name) + amount)


class Engine:
    """Works on claimed workflows. Thread-safe; knows no threads of its own."""

    def __init__(
        self, provider: PersistenceProvider, registry: Registry, limits: Limits, stopping: Callable[[], bool]
    ) -> None:
        self.provider = provider
        self.registry = registry
        self.limits = limits
        self.stopping = stopping
        self.clock: Clock = provider.clock
        self.counts = Counts()

    def work(self, claim: Claim, max_passes: int = _MAX_PASSES) -> None:
        """Run passes until nothing is due, or the claim's share is used up; the claim is given back then.

        Raises:
            BaseException: a KeyboardInterrupt or the like in user code. Nothing of that pass is stored, the claim is given back.
        """
        try:
            self._work(claim, max_passes)
        except Exception:  # one workflow that cannot be worked on must not stop the others
            log.exception("workflow %s: its claim is given up", claim.instance.id)
            self.counts.add(claims_given_up=1)
            if claim.instance.claims_without_commit > MAX_CLAIMS_WITHOUT_COMMIT:
                claim.ending = True  # it could not even be suspended: let the lease keep it from coming at full speed
            else:
                self.release(claim)
        except BaseException:
            self.release(claim)
            raise

    def release(self, claim: Claim) -> None:
        """Give a claim back without storing anything; where that fails its lease ends by itself."""
        claim.ending = True
        try:
            self.provider.release_claim(claim.instance)
        except WfeError as error:
            log.warning("workflow %s: its claim could not be given back: %s", claim.instance.id, error)

    def _work(self, claim: Claim, max_passes: int) -> None:
        instance = claim.instance
        if instance.claims_without_commit > MAX_CLAIMS_WITHOUT_COMMIT:
            problem = (
                f"{MAX_CLAIMS_WITHOUT_COMMIT} claims without a commit: a step kills its process, or cannot be stored"
            )
            self._suspend(claim, LimitError(problem))
            return
        definition = self.registry.get(instance.workflow_definition_id, instance.version)
        try:
            flow = Flow(claim, definition, self)
        except DefinitionChangedError as error:
            self._suspend(claim, error)
            return
        share = _Share(max_passes)
        while not claim.ending:
            self._pass(flow, share)

    def _suspend(self, claim: Claim, error: Exception) -> None:
        """Suspend a workflow without running anything of it."""
        instance = claim.instance
        log.error("workflow %s is suspended: %s", instance.id, error)
        instance.status = WorkflowStatus.SUSPENDED
        claim.ending = True
        with self.provider.transaction() as tx:
            tx.persist_workflow(instance, release=True)
            tx.persist_errors([execution_error(instance, None, error, self.clock())])

    def _pass(self, flow: Flow, share: _Share) -> None:
        outbox = Outbox(self.registry, self.clock)
        flow.begin_pass(self.clock())
        flow.advance()
        pointer = flow.take_body()
        if pointer is not None:
            self._run_body(flow, pointer, outbox)
            flow.look_at(pointer)
            flow.advance()
        share.passes += 1
        failures = len(flow.errors)
        if self._commit(flow, outbox, share):
            self.counts.add(passes=1, steps=pointer is not None, failures=failures)

    def _run_body(self, flow: Flow, pointer: ExecutionPointer, outbox: Outbox) -> None:
        """Run a step's function and apply its answer, or its failure."""
        step = flow.step_of(pointer)
        assert isinstance(step, BodyStep)
        flow.wake(pointer)
        try:
            data = flow.fresh_data()
            answer = step.function(data, StepContext(flow, pointer, outbox))
            flow.now = self.clock()
            step.settle(flow, pointer, data, answer)
        except Exception as error:
            flow.now = self.clock()
            outbox.clear()
            flow.fail(pointer, error)

    # Committing

    def _commit(self, flow: Flow, outbox: Outbox, share: _Share) -> bool:
        """Store what the pass did; False where that is no longer wanted.

        Raises:
            StoreUnavailableError: it was not there for the last of several attempts, either.
        """
        pause = _COMMIT_PAUSE
        met = False
        for attempt in range(1, _COMMIT_ATTEMPTS + 1):
            before = _Before(flow)
            try:
                self._write(flow, outbox, share)
            except ClaimLostError as error:
                self._lost(flow.claim, error)
            except WorkflowNotFoundError:
                log.warning("workflow %s was deleted while a step of it ran", flow.instance.id)
                flow.claim.ending = True
            except DuplicateWorkflowError as error:
                before.restore()
                if met or not outbox.met(error):
                    raise
                met = True  # somebody started a child of ours at the same moment, and now it is there
                continue
            except StoreUnavailableError as error:
                before.restore()
                if attempt == _COMMIT_ATTEMPTS or flow.claim.lost:
                    raise
                log.warning("workflow %s: commit is tried again in %.2f s: %s", flow.instance.id, pause, error)
                time.sleep(pause)
                pause *= 2
                continue
            else:
                self._committed(flow)
                return True
            break
        return False

    def _write(self, flow: Flow, outbox: Outbox, share: _Share) -> None:
        if outbox.empty and not flow.errors and not flow.may_have_subscriptions:
            # One call is a transaction, too, and one whose commit the store can share among threads.
            self._persist(flow, [], share, self.provider)
            return
        own, awaits = flow.instance.id, waits.addresses(flow)
        with self.provider.transaction(workflows=[own], publishes=outbox.addresses, awaits=awaits) as tx:
            outbox.store(tx)  # first, so that the workflow can take an event that it has published itself
            subscriptions = waits.settle(flow, tx)
            self._persist(flow, subscriptions, share, tx)
            if flow.instance.status in FINAL_WORKFLOW_STATUSES:
                tx.drop_subscriptions(flow.instance.id)
            if flow.errors:
                tx.persist_errors(flow.errors)

    def _persist(
        self, flow: Flow, subscriptions: list[EventSubscription], share: _Share, tx: PersistenceTransaction
    ) -> None:
        instance = flow.instance
        instance.next_execution = flow.next_execution()
        flow.claim.ending = (
            instance.status is not WorkflowStatus.RUNNABLE or not flow.is_due() or share.used_up() or self.stopping()
        )
        # Where somebody has set another status meanwhile, that one is stored, and in the instance afterwards.
        tx.persist_workflow_with_subscriptions(instance, subscriptions, release=flow.claim.ending)

    def _committed(self, flow: Flow) -> None:
        flow.errors.clear()
        flow.waits.clear()
        if flow.instance.status is not WorkflowStatus.RUNNABLE and not flow.claim.ending:
            self.release(flow.claim)

    def _lost(self, claim: Claim, error: ClaimLostError) -> None:
        claim.lost = claim.ending = True
        self.counts.add(claims_lost=1)
        log.warning("nothing of this pass was stored: %s", error)


class _Share:
    """How much of a claim is used up."""

    def __init__(self, max_passes: int) -> None:
        self.passes = 0
        self._max_passes = max_passes
        self._until = time.monotonic() + _MAX_SECONDS

    def used_up(self) -> bool:
        return self.passes >= self._max_passes or time.monotonic() >= self._until


class _Before:
    """What a transaction changes in memory, to be put back where it is rolled back and tried again."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        instance = flow.instance
        self._fields = (instance.status, instance.next_execution, instance.complete_time)
        self._pointers: list[tuple[ExecutionPointer, bool, bool, Any, dict[str, Any]]] = [
            (p, p.active, p.event_published, p.event_data, dict(p.extension_attributes)) for p in flow.open_waits()
        ]

    def restore(self) -> None:
        instance = self._flow.instance
        instance.status, instance.next_execution, instance.complete_time = self._fields
        self._flow.claim.ending = False
        for pointer, active, published, data, attributes in self._pointers:
            pointer.active, pointer.event_published, pointer.event_data = active, published, data
            pointer.extension_attributes = attributes
