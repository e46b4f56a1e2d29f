"""Waiting for work without polling the tables."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterable

from wfe_fast.checkpoints.claims import check_workflows
from wfe_fast.checkpoints.operations import Operations
from wfe_fast.checks import check_ids
from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.stored import json_list


class WaitingMethods(Operations):
    """The waiting method of `contract.CheckpointStore`."""

    @abstractmethod
    def _change_count(self) -> int:
        """A number that moves with every commit."""

    @abstractmethod
    def _await_change(self, since: int, seconds: float) -> None:
        """Block until that number is not `since` any more, or for so long at most."""

    def wait_for_work(self, timeout: Duration, workflows: Iterable[str], without: Iterable[str] = ()) -> bool:
        seconds = checked_seconds(timeout, "timeout")
        known = check_workflows(workflows)
        left_out = json_list(check_ids(without, "without"))
        self._refuse_in_block()
        deadline = time.monotonic() + seconds
        while True:
            since = self._change_count()
            due, now = self._snapshot(self._work.next_work, known, left_out)
            pause = deadline - time.monotonic()
            if due is not None:
                ahead = (due - now) / 1_000_000
                if ahead <= 0:
                    return True
                pause = min(pause, ahead)
            if pause <= 0:
                return False
            self._await_change(since, pause)
