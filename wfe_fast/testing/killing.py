"""Processes that are ended with SIGKILL, and what they had acknowledged by then."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeAlias

from wfe_fast.testing.racing import CHILDREN
from wfe_fast.testing.store import AnyOpener
from wfe_fast.testing.waiting import PATIENCE

#: Tells the parent that a write has returned. What was told before the kill has to be there after it.
Acknowledge: TypeAlias = Callable[[Any], None]


class Victim:
    """A process that runs ``job(provider, acknowledge, *arguments)`` on its own provider until it is killed.

    `job` is a function of a module; it writes, and calls `acknowledge(item)` after each write that returned.
    """

    def __init__(self, opener: AnyOpener, job: Callable[..., Any], *arguments: Any) -> None:
        self._receiver, sender = CHILDREN.Pipe(duplex=False)
        self._process = CHILDREN.Process(target=_run, args=(opener, job, arguments, sender), daemon=True)
        self._process.start()
        sender.close()
        self.acknowledged: list[Any] = []

    def await_acknowledgements(self, count: int, timeout: float = PATIENCE) -> None:
        """Return when the process has acknowledged `count` writes in all."""
        while len(self.acknowledged) < count:
            assert self._receiver.poll(timeout), f"no acknowledgement within {timeout} s"
            assert self._read_one(), f"the process ended by itself, exit code {self._exit_code()}"

    def kill(self, after: float = 0.0) -> list[Any]:
        """SIGKILL the process `after` so many seconds and return everything that it had acknowledged."""
        moment = time.perf_counter() + after
        while time.perf_counter() < moment:  # a sleep is too coarse to hit the middle of a write
            pass
        self._process.kill()
        self._process.join()
        while self._read_one():
            pass
        self._receiver.close()
        return self.acknowledged

    def await_death(self, timeout: float = PATIENCE) -> list[Any]:
        """Return when the process has ended by itself: what it had acknowledged."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"the process did not end within {timeout} s"
        return self.kill()

    def _read_one(self) -> bool:
        try:
            self.acknowledged.append(self._receiver.recv())
        except EOFError:  # also in the middle of a message: that write was not acknowledged
            return False
        return True

    def _exit_code(self) -> int | None:
        self._process.join(PATIENCE)
        return self._process.exitcode


def _run(opener: AnyOpener, job: Callable[..., Any], arguments: tuple[Any, ...], sender: Connection) -> None:
    with opener() as provider:
        job(provider, sender.send, *arguments)
