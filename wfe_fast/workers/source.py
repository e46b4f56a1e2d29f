"""What an engine tells the loop: where work comes from, and how it is done."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class WorkSource(Protocol[Item]):
    """Where claimed items come from. An item is whatever the engine claims; the loop only hands it around.

    `claim`, `wait` and `maintain` are called by the dispatcher thread, `work` and `release` by worker threads (`release` by the dispatcher,
    too), `renew` by the heartbeat thread: an implementation has to be thread-safe.

    Any of them may raise `StoreUnavailableError`: the loop logs it, waits a little and goes on. Any other exception stops the loop, which
    raises it from `stop()`.
    """

    def claim(self, limit: int) -> Sequence[Item]:
        """Lease up to `limit` items; none where nothing is due."""
        ...

    def wait(self, timeout: float) -> bool:
        """Block until something may be due and return True; False after `timeout` seconds."""
        ...

    def interrupt(self) -> None:
        """Let a `wait` that blocks now return, whatever it returns. Called by any thread, when the loop is to stop."""
        ...

    def maintain(self) -> bool:
        """Do what is due beside the items, in bounded time; return whether there was something."""
        ...

    def work(self, item: Item) -> None:
        """Work on an item until its claim ends. The item is given back, or settled, when the call returns or raises."""
        ...

    def release(self, item: Item) -> None:
        """Give back an item that no worker has begun."""
        ...

    def renew(self, items: Sequence[Item]) -> Collection[Item]:
        """Let the leases of these items begin anew; return those whose claim is lost (the loop renews them no more)."""
        ...
