"""A transaction that a caller holds open over several operations."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import apsw

from wfe_fast.database.base import Work
from wfe_fast.database.sqlite_connection import SqliteSession, translated
from wfe_fast.errors import InvalidStateError

T = TypeVar("T")


class Block:
    """A transaction that a thread holds open over several operations."""

    def __init__(self, session: SqliteSession) -> None:
        self.session = session
        self.thread = threading.get_ident()
        self.failure: BaseException | None = None
        self.open = True

    def run(self, work: Work[T], args: tuple[Any, ...]) -> T:
        """Run an operation in this transaction.

        A refusal that has written nothing leaves the block usable; anything else has rolled all of it back.

        Raises:
            InvalidStateError: the block has ended, failed, or belongs to another thread.
        """
        if not self.open:
            raise InvalidStateError("the transaction has ended")
        if self.thread != threading.get_ident():
            raise InvalidStateError("the transaction belongs to another thread")
        if self.failure is not None:
            raise InvalidStateError(f"the transaction was rolled back: {self.failure}") from self.failure
        session = self.session
        before = session.total_changes()
        try:
            return work(session, *args)
        except BaseException as error:
            ours = translated(error, session.path) if isinstance(error, apsw.Error) else error
            if isinstance(error, apsw.Error) or session.total_changes() != before or not session.in_transaction():
                self.failure = ours
                session.rollback()
            if ours is error:
                raise
            raise ours from error
