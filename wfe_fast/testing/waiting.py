"""Wait for a condition, never for a time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from threading import Event as Signal
from threading import Thread
from typing import Generic, TypeVar

T = TypeVar("T")

#: Far more than anything here takes; only a test that fails waits so long.
PATIENCE = 60.0


def wait_until(condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
    """Return as soon as `condition()` is true; AssertionError naming `what` after `timeout` seconds."""
    never = Signal()
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"gave up waiting until {what}"
        never.wait(0.002)


class Background(Generic[T]):
    """`call` in a thread of its own."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value.append(self._call())
        except BaseException as error:  # handed to the thread that asks for the result
            self._error = error

    @property
    def done(self) -> bool:
        """Whether the call has returned or raised."""
        return not self._thread.is_alive()

    def wait_until_inside(self, function: str) -> Background[T]:
        """Return once the thread is inside a function of this name: then what follows happens during that call."""
        wait_until(lambda: self.done or self._is_inside(function), f"the thread is inside {function}()")
        return self

    def _is_inside(self, function: str) -> bool:
        frame = sys._current_frames().get(self._thread.ident or 0)
        while frame is not None:
            if frame.f_code.co_name == function:
                return True
            frame = frame.f_back
        return False

    def result(self, timeout: float = PATIENCE) -> T:
        """What the call returned; raises what it raised, and AssertionError where it still runs after `timeout` seconds."""
        self._thread.join(timeout)
        assert self.done, f"the thread did not end within {timeout} s"
        if self._error is not None:
            raise self._error
        return self._value[0]
