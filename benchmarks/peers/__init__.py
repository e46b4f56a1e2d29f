"""Other projects, each doing the job nearest to one of ours, in a process of its own (extra `bench`).

A module here is a program: `python -m benchmarks.peers.NAME ADDRESS [word...]`. For each line with a number of calls on its standard input it
does them and prints the seconds that one unit took.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Peer:
    """A contestant that another process is."""

    share: float
    into: IO[str]
    out: IO[str]

    def seconds(self, calls: int, threads: int) -> float:
        assert threads == 1
        print(max(1, round(calls * self.share)), file=self.into, flush=True)
        return float(self.out.readline())


@contextmanager
def peer(name: str, *words: str, share: float = 1.0) -> Iterator[Peer]:
    """Start the program; it gets `share` of the others' calls."""
    command = [sys.executable, "-m", f"benchmarks.peers.{name}", *words]
    folder = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Peer(share, process.stdin, process.stdout)
        process.stdin.close()


def serve(do: Callable[[int], object], units: int = 1) -> None:
    """Do what is asked for on standard input. `do` does a number of calls, each of so many units."""
    for line in sys.stdin:
        calls = int(line)
        begin = time.perf_counter()
        do(calls)
        print((time.perf_counter() - begin) / (calls * units), flush=True)
