"""Races: threads or processes that stand at one barrier and then all do their job at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier as ProcessBarrier
from threading import Barrier
from typing import Any, Generic, TypeVar

from wfe_fast.testing.store import AnyOpener
from wfe_fast.testing.waiting import PATIENCE, Background

T = TypeVar("T")

#: A child knows what it was told, and has no open database of the parent's: it is forked off a process that has done nothing but import,
#: which takes a twentieth of the time that a start from nothing does.
CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(
    [
        "wfe_fast.testing.killing",
        "wfe_fast.testing.persistence.jobs",
        "wfe_fast.testing.state.jobs",
        "wfe_fast.sqlite",
        "wfe_fast.postgres",  # passed over where its driver is not installed
    ]
)


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """How one racer ended: with a value, or with an error."""

    values: tuple[T, ...] = ()
    error: BaseException | None = None

    def get(self) -> T:
        """The value; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        return self.values[0]


def values(outcomes: Sequence[Outcome[T]]) -> list[T]:
    """What all racers returned; raises the first error."""
    return [outcome.get() for outcome in outcomes]


def winners_and_errors(outcomes: Sequence[Outcome[T]]) -> tuple[list[T], list[BaseException]]:
    """What the racers without an error returned, and the errors of the others."""
    won = [value for outcome in outcomes for value in outcome.values]
    return won, [outcome.error for outcome in outcomes if outcome.error is not None]


def race_threads(jobs: Sequence[Callable[[], T]], timeout: float = PATIENCE) -> list[Outcome[T]]:
    """Run all jobs at once, a thread each, and return their outcomes in order."""
    barrier = Barrier(len(jobs))

    def run(job: Callable[[], T]) -> Outcome[T]:
        barrier.wait(timeout)
        try:
            return Outcome((job(),))
        except Exception as error:
            return Outcome(error=error)

    threads = [Background(partial(run, job)) for job in jobs]
    return [thread.result(timeout) for thread in threads]


def race_processes(
    opener: AnyOpener, job: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], timeout: float = PATIENCE
) -> list[Outcome[Any]]:
    """Run ``job(provider, *arguments[n])`` at once in a process for each n, and return the outcomes in order.

    Each process has a provider of its own, opened before the start. `job` is a function of a module, its result picklable.
    """
    barrier = CHILDREN.Barrier(len(arguments))
    racers = [_Racer(opener, job, args, barrier) for args in arguments]
    try:
        return [racer.outcome(timeout) for racer in racers]
    finally:
        for racer in racers:
            racer.end()


class _Racer:
    def __init__(
        self, opener: AnyOpener, job: Callable[..., Any], args: tuple[Any, ...], barrier: ProcessBarrier
    ) -> None:
        self._receiver, sender = CHILDREN.Pipe(duplex=False)
        self._process = CHILDREN.Process(target=_run_job, args=(opener, job, args, barrier, sender), daemon=True)
        self._process.start()
        sender.close()

    def outcome(self, timeout: float) -> Outcome[Any]:
        assert self._receiver.poll(timeout), f"a process did not end its job within {timeout} s"
        try:
            outcome = self._receiver.recv()
        except EOFError:
            self._process.join(timeout)
            raise AssertionError(f"a process ended with exit code {self._process.exitcode} and no result") from None
        assert isinstance(outcome, Outcome)
        return outcome

    def end(self) -> None:
        self._process.join(1)
        self._process.kill()
        self._process.join()
        self._receiver.close()


def _run_job(
    opener: AnyOpener, job: Callable[..., Any], args: tuple[Any, ...], barrier: ProcessBarrier, sender: Connection
) -> None:
    with opener() as provider:
        barrier.wait(PATIENCE)
        try:
            outcome: Outcome[Any] = Outcome((job(provider, *args),))
        except Exception as error:
            outcome = Outcome(error=error)
    sender.send(outcome)
