"""What a database has to do for contract C beyond single statements: the operations that read and then write.

A database in this process does each as a few small statements in one transaction; one at the other end of a wire as one call. An operation
changes nothing outside the database and may be called again after a rollback. Its scope, its clock and the options for snapshots are those of
the store that it belongs to. Times are microseconds.

What is given is checked. Values that have to be unique and are not are a `UniqueViolation`; everything else is raised as
`contract.StateBackend` says.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from wfe_fast.database.base import Row, Session
from wfe_fast.state.models import WorkflowStatus
from wfe_fast.state.rows import NewEvent

#: So many leases end in one claim at most, so that the first claim after a breakdown does not take for ever. None of them is to be had
#: by this claim: each backs off first.
LARGEST_SWEEP = 200

#: The error of a lease that ran out.
EXPIRED = "lease expired: its worker did not renew it"

#: Microseconds between two notes of a token's use: a note is a write, and most calls must not be one.
NOTE_EVERY = 60_000_000


class Ended(NamedTuple):
    """A lease that has ended without a result: the item's row as it was, its new attempt, and the back-off, None for a dead letter."""

    row: Row
    attempt: int
    delay_ms: int | None


class Effect(NamedTuple):
    """A result to be kept under a key."""

    key: str
    result: str


class Reserved(NamedTuple):
    """What became of a reservation: a result that is there, or who has the key until when; nothing = it is the caller's."""

    result: str | None = None
    owner: str | None = None
    until: int | None = None


#: (at_sequence, state, status, completed_nodes, active_nodes, last_sequence) of what a fold begins with, and (sequence, type, kind) of each
#: event behind it.
FoldRows = tuple[Row, list[Row]]


class ExecutionWork(Protocol):
    """Definitions, executions, events, snapshots."""

    def store_workflow(self, session: Session, row: Row) -> None:
        """`row` = tenant, id, version, program, time."""
        ...

    def create_execution(self, session: Session, tenant: str, row: Row) -> None:
        """`row` as `rows.execution_row` gives it."""
        ...

    def change_status(self, session: Session, id: str, wanted: WorkflowStatus) -> None:
        """Let an execution have another status."""
        ...

    def patch_append_array(self, session: Session, id: str, key: str, value: str) -> None:
        """Append to an array in the state."""
        ...

    def append_events(
        self, session: Session, execution_id: str, events: list[NewEvent], expected: int | None
    ) -> list[int]:
        """Store those events that are not there yet; the numbers of all."""
        ...

    def write_snapshot(self, session: Session, execution_id: str, row: Row) -> None:
        """`row` as `rows.snapshot_row` gives it."""
        ...

    def read_fold(self, session: Session, execution_id: str) -> FoldRows:
        """What a fold needs, as of one moment."""
        ...


class ItemWork(Protocol):
    """Work items, and how their leases end. A `fence` is larger than 0."""

    def enqueue(self, session: Session, execution_id: str, row: Row) -> None:
        """`row` as `rows.item_row` gives it."""
        ...

    def claim(self, session: Session, worker: str, queues: list[str], length: int, most: int) -> list[Row]:
        """Lease up to `most` items for `length`; their rows."""
        ...

    def renew_lease(self, session: Session, id: str, fence: int, length: int) -> int | None:
        """Let a lease begin anew; its end, or None where it is lost."""
        ...

    def complete(self, session: Session, id: str, fence: int) -> bool:
        """Settle an item as done; False where its lease is lost."""
        ...

    def fail(self, session: Session, id: str, fence: int, error: str) -> Ended:
        """End a lease without a result."""
        ...

    def reclaim(self, session: Session) -> list[Ended]:
        """End all leases that have run out."""
        ...

    def bury(self, session: Session, id: str, fence: int | None, error: str) -> None:
        """Give an item up; with a fence only where it is held under it, or waits where that is 0."""
        ...


class TransitionWork(Protocol):
    """Changes that belong together, and effects."""

    def start(self, session: Session, tenant: str, row: Row, events: list[NewEvent], item: Row | None) -> list[int]:
        """`create_execution`, `append_events` and `enqueue`."""
        ...

    def schedule(self, session: Session, execution_id: str, event: NewEvent, item: Row) -> int:
        """An event and an item; nothing where both are there."""
        ...

    def commit_turn(
        self,
        session: Session,
        held: tuple[str, int],
        execution_id: str,
        event: NewEvent,
        completed: bool,
        effect: Effect | None,
        snapshot: bool,
    ) -> int:
        """Settle the item of an id and fence with an event of its own execution and node."""
        ...

    def finish(self, session: Session, execution_id: str, event: NewEvent, wanted: WorkflowStatus) -> int:
        """End an execution with the event that says so."""
        ...

    def reserve(
        self, session: Session, key: str, execution_id: str, node: str, reserver: tuple[str, int], length: int
    ) -> Reserved:
        """Take a key for an owner and fence."""
        ...


class TokenWork(Protocol):
    """Tokens, and what has been kept long enough."""

    def create_token(self, session: Session, row: Row) -> int:
        """`row` = id, tenant, hash, name, role, expiry; the moment of its creation."""
        ...

    def find_token(self, session: Session, hashed: str) -> tuple[Row | None, bool]:
        """The row of a usable token, and whether its use is still to be noted."""
        ...

    def note_use(self, session: Session, hashed: str) -> int | None:
        """Note the use of a token unless that was done lately; when that was."""
        ...

    def list_tokens(self, session: Session) -> list[Row]:
        """The tokens that were not revoked."""
        ...

    def rotate_token(self, session: Session, old: str, new: str, hashed: str) -> Row:
        """End a token and make another one: tenant, name, role, creation, expiry."""
        ...

    def purge(self, session: Session, what: str, before: int, limit: int) -> int:
        """Delete ``dead_letters``, ``work_items`` or ``tokens`` that ended before a moment."""
        ...

    def purge_events(self, session: Session, before: int, limit: int) -> int:
        """Put snapshots in the place of the events of executions that ended before a moment."""
        ...


class Looks(Protocol):
    """Reads that tell whether an attempt, which is mostly in vain, would find something."""

    def claimable(self, session: Session, queues: list[str]) -> bool:
        """Whether `claim` would find something to do: an item, or a lease that has run out."""
        ...


class Work(ExecutionWork, ItemWork, TransitionWork, TokenWork, Protocol):
    """All of it."""

    @property
    def looks(self) -> Looks | None:
        """For a database where a look is cheaper than an attempt: a read that no writer waits for. None = an attempt costs no more."""
        ...
