"""The worker loop alone, on a source of work that is kept in memory."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from wfe_fast.errors import InvalidStateError, StoreBusyError
from wfe_fast.testing.waiting import PATIENCE, Background, wait_until
from wfe_fast.workers import WorkerLoop


@dataclass(eq=False)
class Item:
    """A piece of work: a function."""

    job: Callable[[], object]


@dataclass
class Source:
    """A queue of items, with leases that only the test ends."""

    queued: deque[Item] = field(default_factory=deque)
    released: list[Item] = field(default_factory=list)
    renewed: list[int] = field(default_factory=list)
    lost: list[Item] = field(default_factory=list)
    claims: list[int] = field(default_factory=list)
    failures: deque[BaseException] = field(default_factory=deque)
    renewal_failures: deque[Exception] = field(default_factory=deque)
    chores: int = 0
    #: Says that something is due although nothing can be claimed.
    misleading: bool = False
    interrupted: bool = False
    #: Waits until it is interrupted, however long it takes.
    endless: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, *jobs: Callable[[], object]) -> list[Item]:
        items = [Item(job) for job in jobs]
        with self.changed:
            self.queued.extend(items)
            self.changed.notify_all()
        return items

    def claim(self, limit: int) -> Sequence[Item]:
        with self.changed:
            self.claims.append(limit)
            if self.failures:
                raise self.failures.popleft()
            return [self.queued.popleft() for _ in range(min(limit, len(self.queued)))]

    def wait(self, timeout: float) -> bool:
        with self.changed:
            return self.misleading or self.changed.wait_for(
                lambda: self.interrupted or bool(self.queued or self.chores), None if self.endless else timeout
            )

    def interrupt(self) -> None:
        with self.changed:
            self.interrupted = True
            self.changed.notify_all()

    def maintain(self) -> bool:
        with self.changed:
            done, self.chores = self.chores, 0
            return done > 0

    def work(self, item: Item) -> None:
        item.job()

    def release(self, item: Item) -> None:
        self.released.append(item)

    def renew(self, items: Sequence[Item]) -> Collection[Item]:
        self.renewed.append(len(items))
        if self.renewal_failures:
            raise self.renewal_failures.popleft()
        return [item for item in items if item in self.lost]


@contextmanager
def running(
    source: Source, workers: int = 2, lease: float = 30.0, poll_interval: float = 5.0
) -> Iterator[WorkerLoop[Item]]:
    loop = WorkerLoop(source, workers=workers, lease=lease, poll_interval=poll_interval)
    loop.start()
    yield loop
    assert loop.stop(PATIENCE)


def nothing() -> None:
    """A job that is done at once."""


def test_everything_is_worked_on_once() -> None:
    source, done = Source(), []
    with running(source, workers=3):
        source.add(*[lambda n=n: done.append(n) for n in range(200)])
        wait_until(lambda: len(done) == 200, "all is done")
    assert sorted(done) == list(range(200))


def test_never_more_is_claimed_than_there_are_idle_workers() -> None:
    source, gate = Source(), threading.Event()
    with running(source, workers=2) as loop:
        source.add(*[lambda: gate.wait(PATIENCE)] * 5)
        wait_until(lambda: len(source.queued) == 3, "two are claimed")
        assert loop.busy == 2
        claims = len(source.claims)
        gate.set()
        wait_until(lambda: not source.queued and loop.busy == 0, "all is done")
        assert max(source.claims) == 2
        assert min(source.claims[claims:]) >= 1


def test_it_blocks_while_there_is_nothing_to_do() -> None:
    source = Source()
    with running(source, poll_interval=600):
        wait_until(lambda: source.claims, "it has looked once")
        done = threading.Event()
        assert not done.wait(0.6)
        assert len(source.claims) == 1
        source.add(done.set)
        assert done.wait(PATIENCE)


def test_the_poll_interval_is_a_net_below_missed_wake_ups() -> None:
    source = Source()
    with running(source, poll_interval=0.02):
        wait_until(lambda: len(source.claims) > 5, "it looks although nothing wakes it up")


def test_a_source_that_says_due_and_gives_nothing_does_not_make_it_spin() -> None:
    source = Source(misleading=True)
    with running(source):
        assert not threading.Event().wait(1.0)
        assert 2 < len(source.claims) < 40
        done = threading.Event()
        source.add(done.set)
        assert done.wait(PATIENCE)


def test_chores_are_done_beside_the_work() -> None:
    source = Source(chores=1)
    with running(source):
        wait_until(lambda: not source.chores, "they are done at the start")
        with source.changed:
            source.chores = 5
            source.changed.notify_all()
        wait_until(lambda: not source.chores, "they are done when they wake it up")


def test_leases_are_renewed_every_third_while_work_goes_on() -> None:
    source, gate = Source(), threading.Event()
    with running(source, lease=0.03):
        source.add(lambda: gate.wait(PATIENCE), lambda: gate.wait(PATIENCE))
        wait_until(lambda: source.renewed.count(2) > 3, "both are renewed")
        gate.set()
    assert set(source.renewed) <= {1, 2}


def test_a_renewal_that_fails_is_tried_again() -> None:
    source, gate = Source(), threading.Event()
    source.renewal_failures.extend([StoreBusyError("memory", "busy"), RuntimeError("anything")])
    with running(source, lease=0.03):
        source.add(lambda: gate.wait(PATIENCE))
        wait_until(lambda: len(source.renewed) > 4, "renewing goes on")
        gate.set()


def test_a_lost_claim_is_renewed_no_more() -> None:
    source, gate = Source(), threading.Event()
    with running(source, lease=0.03) as loop:
        lost, kept = source.add(lambda: gate.wait(PATIENCE), lambda: gate.wait(PATIENCE))
        wait_until(lambda: 2 in source.renewed, "both are renewed")
        source.lost.append(lost)
        wait_until(lambda: source.renewed[-3:] == [1, 1, 1], "one is renewed alone")
        assert loop.busy == 1
        gate.set()
    assert kept not in source.lost


def test_stop_is_quick_while_it_waits_and_it_can_start_again() -> None:
    source = Source()
    loop = WorkerLoop(source, workers=2, lease=30, poll_interval=600)
    assert loop.stop() is True
    assert (loop.running, loop.stopping, loop.busy) == (False, False, 0)
    for _ in range(2):
        loop.start()
        with pytest.raises(InvalidStateError):
            loop.start()
        assert (loop.running, loop.stopping) == (True, False)
        assert loop.stop(timeout=2) is True
        assert (loop.running, loop.stopping) == (False, True)


def test_stop_interrupts_the_wait() -> None:
    loop = WorkerLoop(Source(endless=True), workers=1, lease=30, poll_interval=600)
    loop.start()
    assert loop.stop(PATIENCE) is True


def test_stop_waits_for_work_that_has_begun_and_says_where_it_goes_on() -> None:
    source, gate, begun, done = Source(), threading.Event(), threading.Event(), []
    loop = WorkerLoop(source, workers=1, lease=0.03, poll_interval=5)
    loop.start()
    source.add(lambda: (begun.set(), gate.wait(PATIENCE), done.append(1)))
    assert begun.wait(PATIENCE)
    assert loop.stop(timeout=0.05) is False
    renewed = len(source.renewed)
    wait_until(lambda: len(source.renewed) > renewed + 2, "its lease is renewed on")
    loop.start()  # with the old worker still at work
    second = threading.Event()
    source.add(second.set)
    assert second.wait(PATIENCE)
    gate.set()
    wait_until(lambda: done, "the old worker ends its item")
    assert loop.stop() is True


def test_what_was_claimed_but_not_begun_is_given_back() -> None:
    """The claim returns while the loop is being stopped, so the item reaches its worker after that."""
    entered, leave = threading.Event(), threading.Event()

    class Slow(Source):
        def claim(self, limit: int) -> Sequence[Item]:
            items = super().claim(limit)
            if items:
                entered.set()
                assert leave.wait(PATIENCE)
            return items

    source = Slow()
    worked: list[int] = []
    (item,) = source.add(lambda: worked.append(1))
    loop = WorkerLoop(source, workers=1, lease=30, poll_interval=5)
    loop.start()
    assert entered.wait(PATIENCE)
    loop.request_stop()
    leave.set()
    assert loop.stop(PATIENCE) is True
    assert source.released == [item]
    assert worked == []


def test_an_outage_of_the_store_does_not_end_it() -> None:
    source, done = Source(), threading.Event()
    source.failures.extend([StoreBusyError("memory", "busy"), StoreBusyError("memory", "busy")])
    with running(source) as loop:
        source.add(lambda: (_ for _ in ()).throw(StoreBusyError("memory", "busy")), done.set)
        assert done.wait(PATIENCE)
        wait_until(lambda: loop.busy == 0, "both are done")
        assert loop.running


@pytest.mark.parametrize("where", ["work", "claim"])
@pytest.mark.parametrize("error", [KeyboardInterrupt("stop"), SystemExit(3), RuntimeError("a mistake")])
def test_any_other_exception_stops_it_and_comes_out_of_stop_once(where: str, error: BaseException) -> None:
    source = Source()

    def fail() -> None:
        raise error

    if where == "claim":
        source.failures.append(error)
    loop = WorkerLoop(source, workers=2, lease=30, poll_interval=5)
    loop.start()
    source.add(nothing if where == "claim" else fail, nothing)
    wait_until(lambda: not loop.running, "it has stopped")
    with pytest.raises(type(error)) as caught:
        loop.stop()
    assert caught.value is error
    assert loop.stop() is True
    loop.start()
    done = threading.Event()
    source.add(done.set)
    assert done.wait(PATIENCE)
    assert loop.stop() is True


def test_of_two_failures_the_first_comes_out() -> None:
    source, both = Source(), threading.Barrier(2)

    def fail(error: BaseException) -> None:
        both.wait(PATIENCE)
        raise error

    errors = [KeyboardInterrupt("one"), KeyboardInterrupt("two")]
    loop = WorkerLoop(source, workers=2, lease=30, poll_interval=5)
    loop.start()
    source.add(*[lambda error=error: fail(error) for error in errors])
    wait_until(lambda: not loop.running, "it has stopped")
    with pytest.raises(KeyboardInterrupt):
        loop.stop()
    assert loop.stop() is True


def test_a_worker_may_stop_its_own_loop() -> None:
    source, answers = Source(), []
    loop = WorkerLoop(source, workers=2, lease=30, poll_interval=5)
    loop.start()
    source.add(lambda: answers.append(loop.stop()))
    wait_until(lambda: answers, "it has stopped itself")
    assert answers == [True]
    assert loop.stop() is True


def test_waiting_for_the_stop_ends_with_it() -> None:
    loop = WorkerLoop(Source(), workers=1, lease=30, poll_interval=5)
    loop.wait_for_stop(queue.SimpleQueue())  # it does not run, so there is nothing to wait for
    loop.start()
    waiting = Background(lambda: loop.wait_for_stop(queue.SimpleQueue())).wait_until_inside("wait_for_stop")
    assert loop.stop() is True
    assert waiting.result() is None
    loop.wait_for_stop(queue.SimpleQueue())


def test_in_a_forked_child_it_counts_as_stopped_and_can_be_started() -> None:
    source = Source()
    with running(source) as loop:
        wait_until(lambda: source.claims, "it runs")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                fresh = Source()
                loop._source = fresh
                was_stopped = not loop.running and loop.busy == 0 and loop.stop() is True
                loop.request_stop()
                loop.start()
                done = threading.Event()
                fresh.add(done.set)
                code = 0 if was_stopped and done.wait(PATIENCE) and loop.stop(PATIENCE) else 1
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert loop.running
