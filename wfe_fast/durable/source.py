"""The engine's work, as the worker loop sees it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.checkpoints.models import ExecutionStatus, WorkflowExecution
from wfe_fast.durable.observers import log
from wfe_fast.durable.registry import Registry
from wfe_fast.durable.runner import Run
from wfe_fast.workers import Heartbeat

#: Whoever claims an execution in one of these runs it. (A suspended one is woken first.)
_RUNNABLE = (ExecutionStatus.PENDING, ExecutionStatus.RUNNING, ExecutionStatus.COMPENSATING)
#: How many executions one claim of `recover` takes.
_BATCH = 200


class EngineSource:
    """Claims executions of the registered workflows and wakes what is due.

    Args:
        run: runs one of them.
        stuck: ids of executions that cannot go on here.
    """

    def __init__(
        self,
        store: CheckpointStore,
        registry: Registry,
        run: Callable[[Run], None],
        stuck: Callable[[], Sequence[str]],
        give_back: Callable[[Run], None],
        worker_id: str,
        lease: float,
    ) -> None:
        self._store = store
        self._registry = registry
        self._run = run
        self._stuck = stuck
        self._give_back = give_back
        self._worker_id = worker_id
        self._lease = lease
        self._lock = threading.Lock()
        self._backlog: deque[Run] = deque()
        #: What this process holds outside the loop: the backlog, and what callers run themselves.
        self._held: dict[int, Run] = {}
        self._heartbeat: Heartbeat[Run] | None = None
        #: How many executions the loop has taken over since somebody asked.
        self._taken_over = 0
        #: Ids of executions that were begun here and have not ended here.
        self._begun: set[str] = set()
        #: What is held, also what nobody has begun, by its id: so that it can be told of its cancellation at once.
        self.active: dict[str, Run] = {}

    def follow_fork(self) -> None:
        """In a forked child: what is held is the parent's, and so are the threads."""
        self._lock = threading.Lock()
        self._backlog.clear()
        self._held.clear()
        self._heartbeat = None
        self.active.clear()

    # -- what the loop asks for --------------------------------------------------------------------------------------------------------

    def claim(self, limit: int) -> list[Run]:
        """What `recover` has claimed already, or else what is due."""
        with self._lock:
            ready = [self._backlog.popleft() for _ in range(min(limit, len(self._backlog)))]
            for run in ready:
                self._held.pop(id(run), None)
        if ready:
            return ready
        claimed = self._claim(limit)
        self._taken_over += sum(run.recovered for run in claimed)
        return claimed

    def wait(self, timeout: float) -> bool:
        """Block until an execution can be claimed or something is due."""
        if self._backlog:
            return True
        return self._store.wait_for_work(timeout, self._registry.names, self._stuck())

    def interrupt(self) -> None:
        """End the wait."""
        self._store.interrupt_waits()

    def maintain(self) -> bool:
        """Wake what is due."""
        return self._store.wake_due() > 0

    def work(self, item: Run) -> None:
        """Run an execution."""
        self._run(item)

    def release(self, item: Run) -> None:
        """Give back an execution that no worker has begun."""
        self._give_back(item)

    def renew(self, items: Sequence[Run]) -> list[Run]:
        """Renew the claims; those that are lost are marked."""
        held = {id(item.execution): item for item in items if not item.ending and not item.lost}
        if not held:
            return []
        lost = []
        for execution in self._store.renew_claims([item.execution for item in held.values()], self._lease):
            item = held[id(execution)]
            if not item.ending:  # otherwise its worker has just given it back itself
                item.lost = True
                lost.append(item)
                log.warning("the claim of execution %s is lost", item.id)
        return lost

    # -- what the engine asks for ------------------------------------------------------------------------------------------------------

    def recover(self) -> int:
        """Wake what is due and claim what nobody holds, for the loop to run; how many executions that were, with those that the loop itself
        has taken over since the last call."""
        while self._store.wake_due():
            pass
        found = 0
        while claimed := self._claim(_BATCH):
            found += len(claimed)
            for run in claimed:
                run.recovered = True
            with self._lock:
                self._backlog.extend(claimed)
                self._held.update((id(run), run) for run in claimed)
            self._keep_alive()
        taken_over, self._taken_over = self._taken_over, 0
        return found + taken_over

    def ended(self, execution_id: str) -> None:
        """An execution has ended here."""
        self._begun.discard(execution_id)

    @contextmanager
    def holding(self, run: Run) -> Iterator[None]:
        """Renew a claim that the caller works on itself."""
        self._begun.add(run.id)
        with self._lock:
            self._held[id(run)] = run
        self._keep_alive()
        try:
            yield
        finally:
            with self._lock:
                self._held.pop(id(run), None)

    def drop_backlog(self) -> None:
        """Give back what nobody has begun."""
        with self._lock:
            left = list(self._backlog)
            self._backlog.clear()
            for run in left:
                self._held.pop(id(run), None)
        for run in left:
            self._give_back(run)

    def end(self) -> None:
        """Renew nothing more."""
        with self._lock:
            heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.finish()
            heartbeat.thread.join()

    def _claim(self, limit: int) -> list[Run]:
        names = self._registry.names
        if not names:
            return []
        claimed = self._store.claim_executions(
            self._worker_id, _RUNNABLE, limit, self._lease, workflows=names, without=self._stuck()
        )
        runs = [Run(execution, recovered=self._is_anothers(execution)) for execution in claimed]
        self.active.update((run.id, run) for run in runs)
        return runs

    def forget_active(self, run: Run) -> None:
        """A run is over. Its execution may be given back already, and run again by another thread."""
        if self.active.get(run.id) is run:
            del self.active[run.id]

    def _is_anothers(self, execution: WorkflowExecution) -> bool:
        """Whether somebody else has begun the execution and left it."""
        id = execution.workflow_execution_id
        left = execution.taken_over or ((execution.fence or 0) > 1 and id not in self._begun)
        self._begun.add(id)
        return left

    def _keep_alive(self) -> None:
        """Let there be a thread that renews what is held outside the loop."""
        with self._lock:
            if self._heartbeat is not None:
                return
            self._heartbeat = Heartbeat(self._held_items, self.renew, self._forget, self._lease, "wfe-durable-own")
            self._heartbeat.thread.start()

    def _held_items(self) -> list[Run]:
        with self._lock:
            return list(self._held.values())

    def _forget(self, run: Run) -> None:
        with self._lock:
            self._held.pop(id(run), None)
