"""What a store of contract B is made of, whichever the database."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from wfe_fast.checkpoints.claims import ClaimMethods
from wfe_fast.checkpoints.executions import ExecutionMethods
from wfe_fast.checkpoints.records import RecordMethods
from wfe_fast.checkpoints.running import RunningMethods
from wfe_fast.checkpoints.waiting import WaitingMethods

S = TypeVar("S", bound="StoreMethods")


class TransactionMethods(ExecutionMethods, RecordMethods, ClaimMethods, RunningMethods):
    """The methods of `contract.CheckpointTransaction`."""


class StoreMethods(TransactionMethods, WaitingMethods):
    """The methods of `contract.CheckpointStore` that do not depend on how the database opens its transactions."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the database."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
