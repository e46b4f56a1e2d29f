"""Measuring side by side: contestants take turns in one run, so that whatever else the machine does falls on all of them. Ratios count."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Call = Callable[[], object]


class Contestant(Protocol):
    """Who does the job."""

    def seconds(self, calls: int, threads: int) -> float:
        """How long one unit of the job takes, over so many calls in each of so many threads."""
        ...


@dataclass(frozen=True)
class Calls:
    """A contestant in this process.

    Args:
        make: makes, outside of the time that is taken, what the thread of this number calls in one turn.
        units: how many times a call does the job (the steps of a workflow that is run as a whole).
        calls: how many calls a turn has, where they are not as many as the others'.
    """

    make: Callable[[int], Call]
    units: int = 1
    calls: int | None = None

    def seconds(self, calls: int, threads: int) -> float:
        number = self.calls or calls
        taken = _time_of([self.make(thread) for thread in range(threads)], number)
        return taken / (number * self.units * threads)


class Timed:
    """Makes calls like another `Calls.make`, and keeps how many seconds each took."""

    def __init__(self, make: Callable[[int], Call]) -> None:
        self._make = make
        self._taken: list[float] = []

    def __call__(self, thread: int) -> Call:
        call, keep = self._make(thread), self._taken.append

        def timed() -> None:
            begin = time.perf_counter()
            call()
            keep(time.perf_counter() - begin)

        return timed

    def milliseconds(self) -> dict[str, float]:
        """Of all calls: what one in a thousand exceeded, and the longest."""
        ordered = sorted(self._taken)
        return {"p99.9": round(ordered[-1 - len(ordered) // 1000] * 1000, 2), "longest": round(ordered[-1] * 1000, 2)}


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        ordered = sorted(values)
        return cls(statistics.median(ordered), ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4])

    def rounded(self) -> list[float]:
        return [float(f"{value:.4g}") for value in (self.median, self.low, self.high)]


class Rates:
    """What came out: of each contestant the seconds that one unit took, turn by turn."""

    def __init__(self, seconds: dict[str, list[float]]) -> None:
        self.seconds = seconds

    def per_second(self, name: str) -> Spread:
        return Spread.of([1 / taken for taken in self.seconds[name]])

    def ratio(self, name: str, to: str) -> Spread:
        """How many times as fast as another one, turn against turn."""
        return Spread.of([b / a for a, b in zip(self.seconds[name], self.seconds[to], strict=True)])

    def as_info(self) -> dict[str, Any]:
        """For the report of a benchmark: rates of all, and the ratio of each side of ours to each other, as median and quartiles."""
        ours = [name for name in self.seconds if name.startswith("ours")]
        others = [name for name in self.seconds if name not in ours]
        return {
            "per_second": {name: self.per_second(name).rounded() for name in self.seconds},
            "ratio": {name: {other: self.ratio(name, other).rounded() for other in others} for name in ours},
        }


def take_turns(contestants: Mapping[str, Contestant], *, turns: int, calls: int, threads: int = 1) -> Rates:
    """Let each contestant do its calls, one after the other, again and again; the first turn only warms up."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(turns + 1):
        for name, contestant in contestants.items():
            seconds = contestant.seconds(calls, threads)
            if turn:
                taken[name].append(seconds)
    return Rates(taken)


def _time_of(made: list[Call], calls: int) -> float:
    """How many seconds it takes until each thread has called its own so often."""
    if len(made) == 1:
        begin = time.perf_counter()
        _repeat(made[0], calls)
        return time.perf_counter() - begin
    barrier = threading.Barrier(len(made) + 1)

    def run(call: Call) -> None:
        barrier.wait()
        _repeat(call, calls)

    threads = [threading.Thread(target=run, args=(call,)) for call in made]
    for thread in threads:
        thread.start()
    barrier.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begin


def _repeat(call: Call, times: int) -> None:
    for _ in range(times):
        call()
