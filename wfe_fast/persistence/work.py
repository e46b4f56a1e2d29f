"""What a database has to do for contract A beyond single statements: the operations that read and then write.

A database in this process does each as a few small statements in one transaction; one at the other end of a wire as one call. An operation
changes nothing outside the database and may be called again after a rollback. Times are microseconds, `due` is in milliseconds.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from wfe_fast.database.base import Row, Session
from wfe_fast.persistence.memory import Head, Memory
from wfe_fast.persistence.models import ExecutionPointer, WorkflowStatus
from wfe_fast.persistence.pointers import Plan, Stored

#: (definition id, version)
Pairs = list[tuple[str, int]]
#: (number of the row, workflow id, fencing number)
ClaimKey = tuple[int, str, int]


class Change(Struct):
    """A persist, checked and encoded: what the transaction has to do."""

    id: str
    memory: Memory | None
    head: Head
    raw_head: tuple[object, ...]
    due: int | None
    status: WorkflowStatus
    complete_time: int | None
    data: str
    lines: list[bytes]
    pointers: list[ExecutionPointer]
    plan: Plan | None
    """The writes where the stored pointers are as `memory` says; None where they have to be read first."""
    subscriptions: list[Row]
    expect_unchanged: bool
    release: bool
    stride: int = 1
    """By how much it moves the revision."""
    revision: int = 0
    """The revision that the row gets, where nobody else has moved it; once there is a result, in any case."""


class WorkflowWork(Protocol):
    """Workflows, their pointers and their claims."""

    def create(self, session: Session, row: Row, plan: Plan) -> int:
        """Store a workflow and its pointers; the number of its row."""
        ...

    def persist(self, session: Session, change: Change) -> Memory:
        """Store `change`; what its instance has to know from then on.

        Raises:
            WorkflowNotFoundError, ClaimLostError, ConcurrentUpdateError: see `contract.WorkflowOperations.persist_workflow`.
        """
        ...

    def change_status(
        self, session: Session, workflow_id: str, to: WorkflowStatus, only_from: list[WorkflowStatus] | None
    ) -> bool:
        """Set the status beside a claim; False where the present one is not in `only_from`.

        Raises:
            WorkflowNotFoundError: no workflow has this id.
        """
        ...

    def claim(
        self, session: Session, worker_id: str, due: int | None, pairs: Pairs | None, limit: int, length: int
    ) -> list[Row]:
        """Lease up to `limit` workflows that are due at `due` (None = now), oldest first; their rows."""
        ...

    def renew(self, session: Session, claims: list[ClaimKey], length: int) -> list[bool]:
        """Let claims end `length` from now; which of them are still held."""
        ...

    def release(self, session: Session, claim: ClaimKey) -> bool:
        """Give a claim back; False where it is lost."""
        ...

    def delete(self, session: Session, ids: list[str]) -> int:
        """Delete workflows with everything of them; how many there were."""
        ...

    def purge(self, session: Session, statuses: list[str], cutoff: int, limit: int) -> int:
        """`delete` for up to `limit` workflows of these statuses that were complete before `cutoff`, oldest first."""
        ...


class EventWork(Protocol):
    """Events, subscriptions, commands, errors, and what comes next."""

    def events_since(
        self, session: Session, address: tuple[str, str], start: int, after_id: str | None, limit: int
    ) -> list[Row]:
        """Events of a name and key from `start` on, behind `after_id`."""
        ...

    def publish(self, session: Session, row: Row, limit: int) -> bool:
        """Store an event that is not there yet, and deliver it and what of its name and key came before, to `limit` subscriptions at most.

        Returns:
            Whether somebody else's transaction stood in the way of a delivery, which is left to `dispatch` then.
        """
        ...

    def dispatch(self, session: Session, limit: int) -> int:
        """Deliver what is due; how many deliveries and finished events that were."""
        ...

    def take(self, session: Session, workflow_id: str, fence: int | None) -> list[Row]:
        """Drop the subscriptions of a workflow on which events were left, and return them.

        Raises:
            WorkflowNotFoundError, ClaimLostError: nothing was dropped.
        """
        ...

    def set_token(self, session: Session, id: str, token: str, worker_id: str, expiry: int | None) -> bool:
        """Take a subscription under a token; False where another one holds it.

        Raises:
            SubscriptionNotFoundError: it is not there.
        """
        ...

    def claim_open(
        self, session: Session, address: tuple[str, str], token: str, worker_id: str, length: int
    ) -> Row | None:
        """Take the oldest open subscription of a name and key under `token`; its row."""
        ...

    def renew_subscription(self, session: Session, id: str, token: str, length: int) -> bool:
        """Let a token end `length` from now; False where it no longer holds."""
        ...

    def complete(self, session: Session, id: str, token: str, data: str) -> None:
        """Deliver `data` to one subscription.

        Raises:
            SubscriptionNotFoundError: `token` does not hold it.
        """
        ...

    def add_errors(self, session: Session, rows: list[Row]) -> None:
        """Store errors."""
        ...

    def due_commands(self, session: Session, due: int) -> list[Row]:
        """Commands that are due and that nobody handles: (id, revision, name, data, execute_time), oldest first."""
        ...

    def lease_command(self, session: Session, id: int, revision: int, length: int) -> int | None:
        """Take a command; the end of the lease, by which we know it again, or None where somebody else has it or it was changed."""
        ...

    def finish_command(self, session: Session, id: int, revision: int, until: int) -> None:
        """Remove a command that was handled, or only free it where it was scheduled again meanwhile."""
        ...

    def next_due(self, session: Session, pairs: Pairs | None) -> tuple[int | None, int]:
        """The earliest moment at which there is something to do, and the present one."""
        ...


class Looks(Protocol):
    """Reads that tell whether an attempt, which is mostly in vain, would find something."""

    def claimable(self, session: Session, due: int | None, pairs: Pairs | None) -> bool:
        """Whether `claim` would find something, as a read."""
        ...

    def undelivered(self, session: Session) -> bool:
        """Whether `dispatch` would find something, as a read."""
        ...

    def pending(self, session: Session, workflow_id: str) -> bool:
        """Whether `take` would find something, as a read."""
        ...

    def open_subscription(self, session: Session, address: tuple[str, str]) -> bool:
        """Whether `claim_open` would find something, as a read."""
        ...


class Work(WorkflowWork, EventWork, Protocol):
    """All of it."""

    def json(self, text: str) -> str:
        """A JSON value's text as the database keeps its value: what a row gets for `data`, an event's or a subscription's data."""
        ...

    @property
    def looks(self) -> Looks | None:
        """For a database where a look is cheaper than an attempt: a read that no writer waits for. None = an attempt costs no more."""
        ...


def next_memory(
    change: Change, known: Memory, status: WorkflowStatus, complete_time: int | None, stored: Stored, revision: int
) -> Memory:
    """What an instance has to know after a persist."""
    fence = None if change.release else known.fence
    # By position: keywords cost half a microsecond here, and every persist comes this way.
    return Memory(
        known.store,
        known.seq,
        revision,
        known.control,
        fence,
        0,
        status,
        complete_time,
        change.head,
        change.raw_head,
        stored,
    )
