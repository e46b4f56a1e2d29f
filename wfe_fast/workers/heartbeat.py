"""One thread that keeps every claim of a loop alive, however long its item takes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")

log = logging.getLogger("wfe_fast.workers")


class Heartbeat(Generic[Item]):
    """Renews what `held` names every `lease / 3` seconds, until `finish` is called.

    A renewal that fails is tried again after a tenth of the lease: two thirds of a lease are left for that. The thread never dies of it,
    because a claim that is still held by the database's account must not be lost for a passing fault.
    """

    def __init__(
        self,
        held: Callable[[], Sequence[Item]],
        renew: Callable[[Sequence[Item]], Collection[Item]],
        forget: Callable[[Item], None],
        lease: float,
        name: str,
    ) -> None:
        self._held = held
        self._renew = renew
        self._forget = forget
        self._lease = lease
        self._finished = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"{name}-heartbeat", daemon=True)

    def finish(self) -> None:
        """Let the thread end. May be called by any thread, more than once."""
        self._finished.set()

    def _run(self) -> None:
        pause = self._lease / 3
        while not self._finished.wait(pause):
            pause = self._lease / 3 if self._beat() else self._lease / 10

    def _beat(self) -> bool:
        """Renew once; False where that failed."""
        items = self._held()
        if not items:
            return True
        try:
            for item in self._renew(items):
                self._forget(item)
        except Exception:  # whatever it was, the next beat may succeed
            log.warning("%s could not renew %d claims", self.thread.name, len(items), exc_info=True)
            return False
        return True
