"""Waiting for work without polling the tables."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from functools import partial

from wfe_fast.checkpoints.claims import check_workflows
from wfe_fast.checkpoints.operations import Operations
from wfe_fast.checks import check_ids
from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.database.waiting import Waitable, wait_until_due
from wfe_fast.stored import json_list


class WaitingMethods(Operations):
    """The waiting method of `contract.CheckpointStore`."""

    @abstractmethod
    def _waitable(self) -> Waitable:
        """The database, to wait for its changes."""

    def wait_for_work(self, timeout: Duration, workflows: Iterable[str], without: Iterable[str] = ()) -> bool:
        seconds = checked_seconds(timeout, "timeout")
        known = check_workflows(workflows)
        left_out = json_list(check_ids(without, "without"))
        self._refuse_in_block()
        look = partial(self._snapshot, self._work.next_work, known, left_out)
        return wait_until_due(self._waitable(), look, seconds)

    def interrupt_waits(self) -> None:
        self._waitable().changes.interrupt()
