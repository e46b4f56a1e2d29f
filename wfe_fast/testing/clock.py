"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from threading import Lock

#: Where a `ManualClock` begins: later than every moment that a model takes from the machine's clock, so that those lie in its past.
START = datetime(2100, 1, 1, 12, tzinfo=timezone.utc)


class ManualClock:
    """A clock for a provider's `clock` option. Safe to read and move from any thread."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now
        self._lock = Lock()

    def __call__(self) -> datetime:
        with self._lock:
            return self._now

    def advance(self, seconds: float) -> datetime:
        """Move on by `seconds` and return the new now."""
        with self._lock:
            self._now += timedelta(seconds=seconds)
            return self._now
