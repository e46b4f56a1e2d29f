"""Waiting for something in the database without polling its tables."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from wfe_fast.database.changes import ChangeSignal

T = TypeVar("T")


class Waitable(Protocol):
    """A database that tells of its changes."""

    changes: ChangeSignal

    def wait(self, since: int, seconds: float, interrupts: int | None = None) -> None:
        """Block until the counts of `changes` are not these any more, or for so many seconds; maybe less."""
        ...


def wait_for(
    database: Waitable, look: Callable[[], tuple[T | None, float | None]], seconds: float, *, interruptible: bool
) -> T | None:
    """What `look` has found, at once or after a change; None after `seconds`.

    Args:
        look: looks into the database; returns what was waited for, or else in how many seconds it comes by itself, as far as that is known.
        interruptible: whether to give up, as if the time were over, when the waits are interrupted from now on.
    """
    deadline = time.monotonic() + seconds
    interrupts = database.changes.interrupts if interruptible else None
    while True:
        since = database.changes.count
        found, ahead = look()
        if found is not None:
            return found
        left = deadline - time.monotonic()
        if left <= 0 or interrupts not in (None, database.changes.interrupts):
            return None
        database.wait(since, left if ahead is None else min(left, ahead), interrupts)


def wait_until_due(database: Waitable, look: Callable[[], tuple[int | None, int]], seconds: float) -> bool:
    """Block until what `look` has found is due; False after `seconds`, and where the waits were interrupted.

    Args:
        look: when there will be something to do (None: never, as things are) and what time it is, both in microseconds.
    """

    def due() -> tuple[bool | None, float | None]:
        at, now = look()
        if at is None:
            return None, None
        return (True, None) if at <= now else (None, (at - now) / 1_000_000)

    return wait_for(database, due, seconds, interruptible=True) is True
