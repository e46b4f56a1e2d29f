"""The worker loop: one dispatcher that claims, some workers, one heartbeat.

The dispatcher never claims more than there are idle workers, so that nothing lies claimed and untouched while another process could
work on it. With nothing to claim it blocks in `WorkSource.wait`.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Generic, TypeVar

from wfe_fast.errors import InvalidStateError, StoreUnavailableError
from wfe_fast.workers.heartbeat import Heartbeat
from wfe_fast.workers.source import WorkSource

Item = TypeVar("Item")

log = logging.getLogger("wfe_fast.workers")

#: Longest time, in seconds, that `WorkSource.wait` is asked to block: how quickly the dispatcher notices a `stop` whose interrupt came in the
#: moment before it began to wait, and `wait_for_stop` a signal.
_WAIT_SLICE = 0.25
#: How often, in seconds, `WorkSource.maintain` is called while claims keep succeeding.
_MAINTENANCE_INTERVAL = 0.2
#: First and longest pause, in seconds, where something was said to be due but could not be claimed.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.25
#: First and longest pause, in seconds, after the store was unavailable.
_FIRST_OUTAGE_PAUSE, _LONGEST_OUTAGE_PAUSE = 0.05, 5.0


class WorkerLoop(Generic[Item]):
    """Runs a `WorkSource` with `workers` threads. Can be started again after it was stopped; thread-safe.

    In a process that was forked while the loop ran, the loop counts as stopped: its threads exist in the parent only.
    """

    def __init__(
        self, source: WorkSource[Item], *, workers: int, lease: float, poll_interval: float, name: str = "worker"
    ) -> None:
        """
        Args:
            workers: how many items are worked on at a time.
            lease: seconds that a claim holds; all held ones are renewed every third of it.
            poll_interval: seconds after which the dispatcher tries to claim although nothing woke it up.
            name: how the threads are called.
        """
        self._source = source
        self._workers = workers
        self._lease = lease
        self._poll_interval = poll_interval
        self._name = name
        self._session: _Session[Item] | None = None

    def _current(self) -> _Session[Item] | None:
        session = self._session
        return session if session is not None and session.pid == os.getpid() else None

    @property
    def running(self) -> bool:
        """Whether the loop was started, in this process, and not stopped."""
        session = self._current()
        return session is not None and not session.stopping.is_set()

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for (or forced by an exception) since the last start."""
        session = self._current()
        return session is not None and session.stopping.is_set()

    @property
    def failure(self) -> BaseException | None:
        """What has stopped the loop, until `stop` raises it."""
        session = self._current()
        return None if session is None else session.failure

    @property
    def busy(self) -> int:
        """How many items are held now."""
        session = self._current()
        return 0 if session is None else len(session.held_items())

    def start(self) -> None:
        """Start the threads.

        Raises:
            InvalidStateError: the loop is running.
        """
        if self.running:
            raise InvalidStateError("the host is running already")
        self._session = _Session(self._source, self._workers, self._lease, self._poll_interval, self._name)
        self._session.start()

    def request_stop(self) -> None:
        """Ask the loop to stop, without waiting for it."""
        session = self._current()
        if session is not None:
            session.request_stop()

    def wait_for_stop(self, woken: queue.SimpleQueue[object]) -> None:
        """Block until a stop is asked for, an exception stops the loop, or somebody puts something into `woken`.

        A signal handler may do the latter: `SimpleQueue.put` is re-entrant, which `Event.set` is not.
        """
        session = self._current()
        if session is not None:
            session.tell_end(woken)
            while True:
                # Again and again: Python runs a signal's handler between two of its instructions, so a signal that comes in the moment
                # before the wait begins does not end it.
                with suppress(queue.Empty):
                    woken.get(timeout=_WAIT_SLICE)
                    return

    def stop(self, timeout: float | None = None) -> bool:
        """Claim nothing more, give back what no worker has begun, and wait until the workers have ended.

        A thread of the loop itself may call it; it is then not waited for.

        Returns:
            False where something had not ended after `timeout` seconds; it goes on, and ends with the item that it works on.

        Raises:
            BaseException: what stopped the loop, once.
        """
        session = self._current()
        if session is None:
            return True
        session.request_stop()
        ended = session.join(timeout)
        failure, session.failure = session.failure, None
        if failure is not None:
            raise failure
        return ended


class _Session(Generic[Item]):
    """One run of the loop, from start to stop."""

    def __init__(self, source: WorkSource[Item], workers: int, lease: float, poll_interval: float, name: str) -> None:
        self.pid = os.getpid()
        self.stopping = threading.Event()
        self.failure: BaseException | None = None
        self._source = source
        self._poll_interval = poll_interval
        self._changed = threading.Condition()
        self._idle = workers
        self._alive = workers
        self._held: dict[int, Item] = {}
        self._handed_over: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._outage_pause = _FIRST_OUTAGE_PAUSE
        self._to_tell: list[queue.SimpleQueue[object]] = []
        self._heartbeat: Heartbeat[Item] = Heartbeat(self.held_items, source.renew, self._forget, lease, name)
        self._threads = [
            threading.Thread(target=self._dispatch, name=f"{name}-dispatcher", daemon=True),
            *(threading.Thread(target=self._work, name=f"{name}-{n}", daemon=True) for n in range(1, workers + 1)),
            self._heartbeat.thread,
        ]

    def start(self) -> None:
        # The dispatcher last: nothing is claimed, and so nothing can stop the loop, before every thread that a stop waits for is there.
        for thread in reversed(self._threads):
            thread.start()

    def held_items(self) -> Sequence[Item]:
        with self._changed:
            return list(self._held.values())

    def _forget(self, item: Item) -> None:
        with self._changed:
            self._held.pop(id(item), None)

    def request_stop(self) -> None:
        with self._changed:
            self.stopping.set()
            self._changed.notify_all()
            told, self._to_tell = self._to_tell, []
        self._source.interrupt()
        for waiting in told:
            waiting.put(None)

    def tell_end(self, woken: queue.SimpleQueue[object]) -> None:
        with self._changed:
            if not self.stopping.is_set():
                self._to_tell.append(woken)
                return
        woken.put(None)

    def join(self, timeout: float | None) -> bool:
        deadline = None if timeout is None else time.monotonic() + timeout
        others = [thread for thread in self._threads if thread is not threading.current_thread()]
        if len(others) < len(self._threads):
            others.remove(self._heartbeat.thread)  # it ends after the last worker, and this is one
        for thread in others:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in others)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            if self.failure is None:
                self.failure = error
        self.request_stop()

    # The dispatcher thread

    def _dispatch(self) -> None:
        try:
            while not self.stopping.is_set():
                try:
                    self._dispatch_until_stopped()
                except StoreUnavailableError as error:
                    log.warning("the store is unavailable, trying again in %.2f s: %s", self._outage_pause, error)
                    self.stopping.wait(self._outage_pause)
                    self._outage_pause = min(self._outage_pause * 2, _LONGEST_OUTAGE_PAUSE)
        except BaseException as error:
            self._fail(error)
        finally:
            for _ in self._threads:
                self._handed_over.put(None)

    def _dispatch_until_stopped(self) -> None:
        pause = _FIRST_PAUSE
        woken = False
        maintained = float("-inf")
        while (limit := self._await_idle_worker()) > 0:
            busy_with_others = False
            if woken or time.monotonic() - maintained >= _MAINTENANCE_INTERVAL:
                busy_with_others = self._source.maintain()
                maintained = time.monotonic()
            items = self._source.claim(limit)
            self._hand_over(items)
            self._outage_pause = _FIRST_OUTAGE_PAUSE
            if items or busy_with_others:
                pause = _FIRST_PAUSE
                woken = False
                continue
            if (
                woken
            ):  # something is said to be due, but another process was quicker, or nobody can claim it: never spin
                self.stopping.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE, self._poll_interval)
            woken = self._await_work()
            if not woken:
                pause = _FIRST_PAUSE

    def _await_idle_worker(self) -> int:
        """Block until a worker is idle; return how many are, 0 where the loop stops."""
        with self._changed:
            while self._idle == 0 and not self.stopping.is_set():
                self._changed.wait()
            return 0 if self.stopping.is_set() else self._idle

    def _await_work(self) -> bool:
        deadline = time.monotonic() + self._poll_interval
        while not self.stopping.is_set() and (rest := deadline - time.monotonic()) > 0:
            if self._source.wait(min(rest, _WAIT_SLICE)):
                return True
        return False

    def _hand_over(self, items: Sequence[Item]) -> None:
        with self._changed:
            for item in items:
                self._held[id(item)] = item
            self._idle -= len(items)
        for item in items:
            self._handed_over.put(item)

    # The worker threads

    def _work(self) -> None:
        while (item := self._handed_over.get()) is not None:
            try:
                if self.stopping.is_set():
                    self._source.release(item)
                else:
                    self._source.work(item)
            except StoreUnavailableError as error:
                log.warning("the store is unavailable, a claim is left to its lease: %s", error)
            except BaseException as error:
                self._fail(error)
            finally:
                with self._changed:
                    self._held.pop(id(item), None)
                    self._idle += 1
                    self._changed.notify_all()
        with self._changed:
            self._alive -= 1
            if self._alive == 0:
                self._heartbeat.finish()
