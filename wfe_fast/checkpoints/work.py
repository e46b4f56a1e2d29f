"""What a database has to do for contract B beyond single statements: the operations that read and then write.

A database in this process does each as a few small statements in one transaction; one at the other end of a wire as one call. An operation
changes nothing outside the database and may be called again after a rollback. Times are microseconds.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from wfe_fast.database.base import Row, Session

#: A claim, as it is written down: execution and fencing number.
Claim = tuple[str, "int | None"]


class Progress(Struct):
    """What `advance_execution` stores, checked and encoded. The rows of checkpoints and timers end with the fence."""

    execution_id: str
    fence: int
    status: str
    current_step: int
    output: str | None
    error: str | None
    release: bool
    counts: bool
    """Whether it is progress: more than that something is about to be tried."""
    checkpoints: list[Row]
    timers: list[Row]


class RecordWork(Protocol):
    """Executions and what belongs to them."""

    def save_execution(self, session: Session, row: Row, fence: int | None) -> None:
        """Store an execution, where `fence` is given only under that claim.

        Raises:
            WorkflowNotFoundError, ExecutionNotFoundError, ClaimLostError: nothing was stored.
        """
        ...

    def load_by_status(self, session: Session, statuses: list[str]) -> list[Row]:
        """The executions in these statuses, in any order."""
        ...

    def delete_completed_before(self, session: Session, statuses: list[str], cutoff: int) -> int:
        """Delete executions in these statuses; how many that were."""
        ...

    def save_checkpoints(self, session: Session, rows: list[Row]) -> None:
        """Store checkpoints, one after the other; their rows end with the fence.

        Raises:
            ExecutionNotFoundError, ClaimLostError: nothing was stored.
        """
        ...

    def save_timer(self, session: Session, row: Row) -> None:
        """Store a timer; its row ends with the fence. Raises as `save_checkpoints`."""
        ...

    def save_signal(self, session: Session, id: int | None, row: Row, wakes: bool) -> int:
        """Store a signal, whose row ends with the fence, and wake who waits for it; its id. Raises as `save_checkpoints`."""
        ...


class ClaimWork(Protocol):
    """Claims."""

    def claim(
        self,
        session: Session,
        worker_id: str,
        statuses: list[str],
        limit: int,
        length: int,
        workflows: list[str] | None,
        without: str,
    ) -> list[Row]:
        """Claim the oldest ones: their columns, and whether a lease had ended."""
        ...

    def renew(self, session: Session, claims: list[Claim], length: int) -> list[bool]:
        """For each claim, whether it still holds; it then ends `length` from now."""
        ...

    def release(self, session: Session, claim: Claim) -> None:
        """Give a claim back, where it holds."""
        ...


class EngineWork(Protocol):
    """What engines do."""

    def start(self, session: Session, workflow: Row, row: Row, length: int) -> tuple[Row, bool]:
        """Store an execution (id, workflow, input, ttl, guarantee, created_at, worker) that is not there yet.

        Returns:
            The execution's columns, and whether it was created just now.
        """
        ...

    def advance(self, session: Session, progress: Progress) -> str:
        """The status that the execution has afterwards.

        Raises:
            ExecutionNotFoundError, ClaimLostError: nothing was stored.
        """
        ...

    def wait_for_signal(
        self, session: Session, progress: Progress, wait: Row, timed_out: tuple[str, str] | None
    ) -> tuple[str, Row]:
        """The execution's status and the wait's checkpoint afterwards. Raises as `advance`."""
        ...

    def cancel(self, session: Session, execution_id: str, compensate: bool) -> bool:
        """Whether something was changed.

        Raises:
            ExecutionNotFoundError: it is not there.
        """
        ...

    def wake_due(self, session: Session, limit: int) -> int:
        """Fire what is due; how many timers and executions that were."""
        ...

    def next_work(self, session: Session, workflows: list[str], without: str) -> tuple[int | None, int]:
        """The earliest moment at which there is something to claim or to wake, and the present one."""
        ...


class Looks(Protocol):
    """Reads that tell whether an attempt, which is mostly in vain, would find something."""

    def anything_claimable(
        self, session: Session, statuses: list[str], workflows: list[str] | None, without: str
    ) -> bool:
        """Whether `claim` would find something."""
        ...

    def anything_due(self, session: Session) -> bool:
        """Whether `wake_due` would find something."""
        ...


class Work(RecordWork, ClaimWork, EngineWork, Protocol):
    """All of it."""

    @property
    def looks(self) -> Looks | None:
        """For a database where a look is cheaper than an attempt: a read that no writer waits for. None = an attempt costs no more."""
        ...


#: An execution in one of these is run by whoever claims it. (A suspended one is woken first.)
RUNNABLE = ("PENDING", "RUNNING", "COMPENSATING")
