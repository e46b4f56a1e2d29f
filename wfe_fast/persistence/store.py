"""What a store of contract A is made of, whichever the database."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from wfe_fast.persistence.claims import ClaimMethods
from wfe_fast.persistence.commands import CommandMethods
from wfe_fast.persistence.queries import QueryMethods
from wfe_fast.persistence.subscriptions import SubscriptionMethods
from wfe_fast.persistence.waiting import WaitingMethods
from wfe_fast.persistence.workflows import WorkflowMethods

S = TypeVar("S", bound="StoreMethods")


class TransactionMethods(WorkflowMethods, ClaimMethods, SubscriptionMethods, QueryMethods, CommandMethods):
    """The methods of `contract.PersistenceTransaction`."""


class StoreMethods(TransactionMethods, WaitingMethods):
    """The methods of `contract.PersistenceProvider` that do not depend on how the database opens its transactions."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the database."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
