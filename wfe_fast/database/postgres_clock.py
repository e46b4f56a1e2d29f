"""Whose clock decides: the server's, which all machines share, or the caller's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from wfe_fast.clock import Clock, checked_clock, checked_moment, system_clock, to_micros


class ServerClock:
    """The clock of a store on PostgreSQL; called, it returns an aware datetime.

    Args:
        given: the caller's clock, which then decides about leases and due times; None = the server's own.

    Raises:
        InvalidValueError: `given` is not a callable that returns an aware datetime.
    """

    def __init__(self, given: Clock | None) -> None:
        self._given = None if given is None else checked_clock(given)
        #: The server's clock is ahead of ours by so much, where the difference is more than the way to it takes.
        self._ahead = timedelta(0)

    def __call__(self) -> datetime:
        """The present moment; as far as we know it, where the server's clock decides."""
        return system_clock() + self._ahead if self._given is None else self._given()

    def bound(self) -> int | None:
        """What statements get as the present moment: microseconds, or None where the server has to look at its own clock."""
        return None if self._given is None else to_micros(checked_moment(self._given(), "clock"))

    def learn(self, ask: Callable[[], int]) -> None:
        """Find out how far the server's clock is ahead, where it decides. `ask` returns its time in microseconds."""
        if self._given is not None:
            return
        before = to_micros(system_clock())
        now = ask()
        after = to_micros(system_clock())
        if not before <= now <= after:
            self._ahead = timedelta(microseconds=now - (before + after) // 2)
