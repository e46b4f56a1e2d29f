"""One worker process of the demo, and the pool of them that the parent keeps."""

from __future__ import annotations

import logging
import os
import signal
import time
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from wfe_fast import open_provider
from wfe_fast.cli.engines import DURABLE, HOST, STATE
from wfe_fast.cli.steplog import StepLog
from wfe_fast.cli.steps import build
from wfe_fast.host import WorkflowHost

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.context import SpawnProcess

#: Seconds for which a claim holds: what a killed worker held goes on after this time.
LEASE = 2.0

#: Seconds that a worker may take to end its step when it is told to stop.
GRACE = 1.0

#: Seconds after which a worker notices that its host has stopped by itself.
_LOOK_EVERY = 1.0


class WorkerSettings(msgspec.Struct, frozen=True):
    """What a worker process has to know. `halt_at` is for `StepLog`, `engine` a name of `engines`."""

    database: str
    log: Path
    halt_at: int | None
    engine: str = HOST


def work(settings: WorkerSettings, lifeline: Connection) -> None:
    """Run workflows until the parent lets go of the other end of `lifeline`, be it because it was killed itself."""
    # A step that fails is its workflow's error, and the parent reports it.
    logging.getLogger("wfe_fast").addHandler(logging.NullHandler())
    log = StepLog(settings.log, settings.halt_at)
    if settings.engine == STATE:
        from wfe_fast.cli.state_engine import work_items

        work_items(settings.database, log, lifeline, lease=LEASE, grace=GRACE, look_every=_LOOK_EVERY)
        return
    if settings.engine == DURABLE:
        from wfe_fast.cli.durable_engine import run_executions

        run_executions(settings.database, log, lifeline, lease=LEASE, grace=GRACE, look_every=_LOOK_EVERY)
        return
    with open_provider(settings.database) as provider:
        host = WorkflowHost(provider, [build(log)], workers=1, worker_id=f"demo-{os.getpid()}", lease=LEASE)
        host.open()
        while host.running and not lifeline.poll(_LOOK_EVERY):
            pass
        if not host.stop(timeout=GRACE):
            os._exit(1)  # a step goes on; nothing of it is recorded, so it can be cut off anywhere


class Worker:
    """A worker process, seen from the parent."""

    def __init__(self, settings: WorkerSettings) -> None:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        self._lifeline = ours
        self.process: SpawnProcess = context.Process(target=work, args=(settings, theirs), daemon=True)
        self.process.start()
        theirs.close()

    def let_go(self) -> None:
        """Tell it to stop."""
        self._lifeline.close()


class WorkerPool:
    """Several worker processes; one that dies is replaced.

    `killed` counts those that ended by SIGKILL, `failed` those that ended by themselves although nobody had told them to.
    """

    def __init__(self, count: int, settings: WorkerSettings) -> None:
        self._settings = settings
        self._workers: list[Worker] = []
        self.killed = 0
        self.failed = 0
        for _ in range(count):
            self._workers.append(self._new())

    def _new(self) -> Worker:
        # Ctrl-C reaches the whole process group. The parent tells its workers; they themselves are born with SIGINT blocked, so
        # that one in the middle of its imports shows no traceback. (Starting the tracker, which each spawn needs, unblocks it.)
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return Worker(self._settings)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __len__(self) -> int:
        return len(self._workers)

    def wait(self, timeout: float) -> None:
        """Block until a worker has died, or `timeout` seconds have passed."""
        wait([worker.process.sentinel for worker in self._workers], timeout)

    def replace_dead(self) -> None:
        """Start a new worker for each one that has died."""
        for index, worker in enumerate(self._workers):
            code = worker.process.exitcode
            if code is None:
                continue
            if code == -signal.SIGKILL:
                self.killed += 1
            else:
                self.failed += 1
            worker.let_go()
            self._workers[index] = self._new()

    def kill(self, pid: int) -> None:
        """SIGKILL to one of these workers; to nothing else."""
        for worker in self._workers:
            if worker.process.pid == pid:
                worker.process.kill()

    def stop(self) -> None:
        """Let the workers end their steps, and kill those that take too long."""
        for worker in self._workers:
            worker.let_go()
        deadline = time.monotonic() + 2 * GRACE
        for worker in self._workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
            if worker.process.exitcode is None:
                worker.process.kill()
                worker.process.join()
