"""The specification of contract A. What stands here holds on every database.

Common to all methods:

- They block, may be called from any thread, and are **atomic**: all of a call is stored, or nothing.
- Arguments are checked before anything is written. `InvalidValueError` = a wrong kind, a naive datetime, text where an enum is meant, out
  of range; `SerializationError` = not JSON (NaN, NUL, a lone surrogate, bytes, a set, a tuple, a Decimal, a key that is not text). Both
  name the field.
- `StoreClosedError` after `close()`, `StoreUnavailableError` where the database cannot serve the call now (nothing of it was stored),
  `CorruptionError` where it is damaged.
- A connection to a database elsewhere may break before the answer has come. Then the call is made again by itself where it changes nothing,
  or where it does no harm twice: `publish_event`, `dispatch_events`, `mark_event_processed`, `mark_event_unprocessed`, `renew_claims`,
  `release_claim`, `renew_subscription`, `schedule_command` (a command that was handled in between is handled once more), `purge_workflows`,
  `purge_events` (what these and `dispatch_events` return is the count of the last time), and what `process_commands` does behind a handler.
  Any other, and a `transaction()` block that was committing, is a `CommitOutcomeUnknownError`; see there for what can be done.
- Datetimes are aware and come back in UTC, to the microsecond. Durations are seconds (a number) or a timedelta. `next_execution` and
  `execute_time` are epoch milliseconds. Sizes: integers up to 2**31 - 1, names and keys up to 1,000 bytes of UTF-8.
- The names and the rules of the first part of each class are those of WFE 1.10; where ours differ, the docstring says how.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

from wfe_fast.clock import Clock, Duration
from wfe_fast.persistence.models import (
    Event,
    EventSubscription,
    ExecutionError,
    Page,
    ScheduledCommand,
    WorkflowInstance,
    WorkflowStatus,
)


class WorkflowOperations(Protocol):
    """Workflows and their execution pointers."""

    def create_new_workflow(self, instance: WorkflowInstance) -> str:
        """Store a new workflow with its pointers and return its id.

        An empty id becomes a new UUID, an empty name the id; both are written into `instance`, which is then as if loaded.

        Raises:
            DuplicateWorkflowError: the id or the name is taken.
            DuplicatePointerError: two pointers share an id.
        """
        ...

    def persist_workflow(
        self, instance: WorkflowInstance, *, expect_unchanged: bool = False, release: bool = False
    ) -> None:
        """Store every field of `instance` and make the stored pointers exactly the given ones, in their order.

        Only pointers that differ from what `instance` was loaded with are written, nested values that were changed in place included.
        The last writer wins, unless `expect_unchanged` is set or the instance is claimed. A status that `change_status` set while this
        claim was held is kept and written into `instance`.

        Args:
            instance: the workflow; its revision in memory moves on when the call returns.
            expect_unchanged: refuse where another writer came first since `instance` was loaded.
            release: give the claim back in the same transaction.

        Raises:
            WorkflowNotFoundError: no workflow has this id.
            DuplicateWorkflowError: another workflow has this name.
            DuplicatePointerError: two pointers share an id.
            ConcurrentUpdateError: with `expect_unchanged`, the workflow was changed since it was loaded.
            ClaimLostError: it was loaded by a claim that another one has followed.
            InvalidStateError: `expect_unchanged` on an instance that was neither loaded nor created.
        """
        ...

    def persist_workflow_with_subscriptions(
        self,
        instance: WorkflowInstance,
        subscriptions: Sequence[EventSubscription],
        *,
        expect_unchanged: bool = False,
        release: bool = False,
    ) -> None:
        """`persist_workflow` and `create_event_subscription` for each subscription, in one transaction. Where `change_status` has ended the
        workflow while this claim was held, the subscriptions are not stored: it waits for nothing any more.

        Raises:
            DuplicateSubscriptionError: a subscription's id is taken.
        """
        ...

    def get_runnable_instances(self, as_at: datetime, limit: int | None = None) -> list[str]:
        """Ids of workflows with status Runnable and `next_execution` at or before `as_at`, oldest first. A plain read: claimed ones too."""
        ...

    def get_workflow_instance(self, id: str) -> WorkflowInstance:
        """The workflow with its pointers in their order, all from one snapshot.

        Raises:
            WorkflowNotFoundError: no workflow has this id.
        """
        ...

    def get_workflow_instance_by_name(self, name: str) -> WorkflowInstance:
        """`get_workflow_instance` by name.

        Raises:
            WorkflowNotFoundError: no workflow has this name.
        """
        ...

    def get_workflow_instances(self, ids: Iterable[str]) -> list[WorkflowInstance]:
        """The workflows with these ids in the order asked, all from one snapshot; ids that are not there are left out."""
        ...

    def next_definition_sequence(self, definition_id: str) -> int:
        """1, 2, 3, … for each definition; never the same number twice, unless its transaction was rolled back."""
        ...

    def change_status(
        self, workflow_id: str, to: WorkflowStatus, only_from: Collection[WorkflowStatus] | None = None
    ) -> bool:
        """Set the status alone, also while a worker holds the workflow; Complete and Terminated set `complete_time`, too.

        The holder's next persist keeps this status and stores the rest.

        Returns:
            False where the workflow's status is not in `only_from`; nothing is changed then.

        Raises:
            WorkflowNotFoundError: no workflow has this id.
        """
        ...

    def delete_workflow(self, id: str) -> None:
        """Delete the workflow with its pointers, subscriptions, errors and scheduled command.

        Raises:
            WorkflowNotFoundError: no workflow has this id.
        """
        ...

    def list_workflows(
        self,
        *,
        status: WorkflowStatus | None = None,
        definition_id: str | None = None,
        reference: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page[WorkflowInstance]:
        """Workflows that match all given filters, in the order of `create_time` and id.

        Args:
            created_after: only workflows created at this moment or later.
            created_before: only workflows created before this moment.
            after: `next` of the page before; text that is no such key is an `InvalidValueError`.
            limit: at most so many, at least 1.
        """
        ...

    def count_workflows(self, by: str = "status") -> dict[WorkflowStatus, int]:
        """How many workflows there are in each status; a status that none has counts 0."""
        ...

    def oldest_runnable(self) -> datetime | None:
        """The earliest `next_execution` of all Runnable workflows, or None: how far behind the workers are."""
        ...

    def purge_workflows(
        self,
        status: WorkflowStatus | Collection[WorkflowStatus],
        older_than: datetime | Duration,
        limit: int = 1000,
    ) -> int:
        """Delete up to `limit` workflows of these statuses whose `complete_time` lies before `older_than`, oldest first.

        Args:
            status: one status or several. A workflow without a complete_time is never purged.
            older_than: a moment, or an age.

        Returns:
            How many were deleted; fewer than `limit` means that none is left.
        """
        ...


class ClaimOperations(Protocol):
    """Who works on a workflow: leases with fencing numbers. No separate lock service is needed."""

    def claim_runnable_instances(
        self,
        worker_id: str,
        limit: int = 1,
        lease: Duration = 30.0,
        *,
        as_at: datetime | None = None,
        definitions: Iterable[tuple[str, int]] | None = None,
    ) -> list[WorkflowInstance]:
        """Lease the oldest runnable workflows that nobody holds, or whose lease has run out, and return them loaded.

        Two calls never return the same workflow within one lease, whatever the number of threads, processes and machines.

        Args:
            worker_id: who claims; shown to people, not compared.
            limit: at most so many.
            lease: how long the claim holds without `renew_claims`.
            as_at: what is due at this moment (now by default). It does not move the clock by which leases end.
            definitions: only workflows of these (definition id, version) pairs.
        """
        ...

    def renew_claims(self, instances: Iterable[WorkflowInstance], lease: Duration = 30.0) -> list[WorkflowInstance]:
        """Let the claims of these instances end `lease` from now.

        Returns:
            The instances whose claim is lost: taken over, released, never claimed, or deleted.
        """
        ...

    def release_claim(self, instance: WorkflowInstance) -> None:
        """Give the claim back without storing anything else. Harmless where the claim is lost."""
        ...


class EventOperations(Protocol):
    """Events, and their delivery to the workflows that wait."""

    def create_event(self, event: Event) -> str:
        """Store an event for later delivery and return its id; an empty id becomes a new UUID.

        Raises:
            DuplicateEventError: the id is taken.
        """
        ...

    def get_event(self, id: str) -> Event:
        """The event.

        Raises:
            EventNotFoundError: no event has this id.
        """
        ...

    def get_runnable_events(self, as_at: datetime, limit: int | None = None) -> list[str]:
        """Ids of unprocessed events with `event_time` at or before `as_at`, oldest first."""
        ...

    def get_events(self, event_name: str, event_key: str, as_of: datetime) -> list[str]:
        """Ids of events of this name and key with `event_time` at or before `as_of`, oldest first, processed or not."""
        ...

    def get_events_since(
        self,
        event_name: str,
        event_key: str,
        since: datetime,
        *,
        after_id: str | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        """Events of this name and key with `event_time` at or after `since`, oldest first, processed or not.

        Args:
            after_id: only events behind this one (events of one moment lie in the order in which they were stored).
            limit: at most so many.
        """
        ...

    def mark_event_processed(self, id: str) -> None:
        """Say that the event was delivered.

        Raises:
            EventNotFoundError: no event has this id.
        """
        ...

    def mark_event_unprocessed(self, id: str) -> None:
        """Let the event be delivered again.

        Raises:
            EventNotFoundError: no event has this id.
        """
        ...

    def publish_event(self, event: Event, *, limit: int = 500) -> str:
        """Store the event and deliver it, in one transaction; return its id. The id of a stored event returns it and changes nothing.

        Delivery: the pointer of each subscription to this name and key (with `subscribe_as_of` at or before `event_time`) gets `event_data`,
        `event_published` and `active`; its workflow becomes runnable now; the subscription goes; the event is processed. Earlier events of
        the same name and key that are still unprocessed go first. A finished workflow only loses its subscription. A workflow that is
        claimed is not touched: the event is left for its holder (see `take_events`).

        Args:
            limit: at most so many deliveries in this transaction; the rest is left to `dispatch_events`.
        """
        ...

    def dispatch_events(self, limit: int = 500) -> int:
        """Deliver unprocessed events whose time has come, oldest first, as `publish_event` does.

        Returns:
            How many deliveries were made and events finished; 0 = nothing was left to do, or only what open transactions of others hold up:
            that is tried again when `next_due` says so.
        """
        ...

    def take_events(self, instance: WorkflowInstance) -> list[Event]:
        """Give the events that were left for a claimed workflow to the pointers of `instance`, and drop their subscriptions.

        To be called in the transaction that persists the instance; where that is rolled back, load the instance again. One event per
        subscription, the oldest. Events are left by any publisher between the claim and the transaction.

        Returns:
            The events taken, oldest first. One that `complete_subscription` left has the subscription's id.

        Raises:
            ClaimLostError: the claim was taken over.
        """
        ...

    def purge_events(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        """Delete up to `limit` processed events whose `event_time` lies before `older_than` (a moment, or an age); return how many."""
        ...


class SubscriptionOperations(Protocol):
    """Subscriptions: who waits for what, and the tokens under which outside workers take them."""

    def create_event_subscription(self, subscription: EventSubscription) -> str:
        """Store a subscription and return its id; an empty id becomes a new UUID. Its workflow need not be there.

        Raises:
            DuplicateSubscriptionError: the id is taken.
        """
        ...

    def get_subscriptions(self, event_name: str, event_key: str, as_of: datetime) -> list[EventSubscription]:
        """Subscriptions of this name and key with `subscribe_as_of` at or before `as_of`, oldest first, those with a token too."""
        ...

    def get_first_open_subscription(self, event_name: str, event_key: str, as_of: datetime) -> EventSubscription | None:
        """The oldest such subscription that has no token, or one whose expiry has passed."""
        ...

    def get_subscription(self, id: str) -> EventSubscription:
        """The subscription.

        Raises:
            SubscriptionNotFoundError: it is not there, or was terminated.
        """
        ...

    def set_subscription_token(self, id: str, token: str, worker_id: str, expiry: datetime | None) -> bool:
        """Take the subscription under `token` until `expiry` (None = without end), where no unexpired token is held.

        Returns:
            False where one is held; nothing is changed then.

        Raises:
            SubscriptionNotFoundError: it is not there, or was terminated.
        """
        ...

    def clear_subscription_token(self, id: str, token: str) -> None:
        """Give the subscription back.

        Raises:
            SubscriptionNotFoundError: it is not there, or `token` does not hold it.
        """
        ...

    def terminate_subscription(self, id: str) -> None:
        """Drop the subscription.

        Raises:
            SubscriptionNotFoundError: it is not there, or was terminated already.
        """
        ...

    def subscriptions_of(self, workflow_id: str, pointer_id: str | None = None) -> list[EventSubscription]:
        """The subscriptions of a workflow, or of one of its pointers, oldest first."""
        ...

    def drop_subscriptions(self, workflow_id: str, pointer_id: str | None = None) -> int:
        """Drop the subscriptions of a workflow, or of one of its pointers; return how many there were."""
        ...

    def claim_subscription(
        self, event_name: str, event_key: str, worker_id: str, lease: Duration
    ) -> EventSubscription | None:
        """Take the oldest open subscription under a new token for `lease`; None where none is open. Never one to two workers."""
        ...

    def renew_subscription(self, id: str, token: str, lease: Duration) -> bool:
        """Let the token end `lease` from now; False where it no longer holds the subscription. One that ran out but that nobody took is renewed."""
        ...

    def complete_subscription(self, id: str, token: str, event_data: Any) -> None:
        """Deliver `event_data` to this one subscription, as `publish_event` would. A token that ran out still does, until another took it.

        Raises:
            SubscriptionNotFoundError: `token` does not hold the subscription.
        """
        ...


class CommandOperations(Protocol):
    """Scheduled commands and errors."""

    def supports_scheduled_commands(self) -> bool:
        """True."""
        ...

    def schedule_command(self, command: ScheduledCommand) -> None:
        """Store a command. One with the same name and data is there once: its `execute_time` moves."""
        ...

    def persist_errors(self, errors: Sequence[ExecutionError]) -> None:
        """Store all errors."""
        ...

    def get_errors(self, workflow_id: str, limit: int | None = None) -> list[ExecutionError]:
        """The errors of a workflow, oldest first."""
        ...


@runtime_checkable
class PersistenceTransaction(
    WorkflowOperations, ClaimOperations, EventOperations, SubscriptionOperations, CommandOperations, Protocol
):
    """The methods inside a `transaction()` block: one atomic unit, whose reads see its own writes."""


@runtime_checkable
class PersistenceProvider(PersistenceTransaction, Protocol):
    """All of contract A. A context manager: leaving it closes the provider."""

    @property
    def clock(self) -> Clock:
        """What this provider takes for now."""
        ...

    def transaction(
        self,
        *,
        workflows: Iterable[str] = (),
        publishes: Iterable[tuple[str, str]] = (),
        awaits: Iterable[tuple[str, str]] = (),
    ) -> AbstractContextManager[PersistenceTransaction]:
        """One atomic unit of several calls: ``with provider.transaction() as tx: tx.persist_workflow(…); tx.create_event(…)``.

        An exception rolls all back and comes out. The block belongs to the thread that opened it; calls on the provider itself, in that
        thread, join the block. A value that is refused leaves the block usable; a statement that failed has rolled all back, and the block
        can only be left. A database at the other end of a wire may gather writes whose caller needs no answer, and send them with the next call that
        does, or at the end: what it has to say against one of them is raised then.

        Args:
            workflows: ids of workflows that the block will write. It locks them, and what the next two tell, at its beginning, in an order that
                is the same for all, so that two blocks do not wait for each other. Whatever is not told is locked when it is needed.
            publishes: names and keys under which it will publish events. A publication locks what it reaches, whatever was told: so it comes behind
                what may have to wait for a lock.
            awaits: names and keys under which it will look for events, or subscribe.

        Raises:
            InvalidStateError: the thread is in a block already; a call on `tx` after its block or from another thread; the block is left
                normally although a failed statement has rolled it back.
        """
        ...

    def process_commands(
        self, as_of: datetime, handler: Callable[[ScheduledCommand], object], *, lease: Duration = 60.0
    ) -> int:
        """Call `handler` for each command due at `as_of` (cut to milliseconds), oldest first; return how many were handled.

        A command is removed after its handler returned, and only if it was not scheduled again meanwhile. No transaction is open while the
        handler runs. An exception of the handler leaves its command and the rest for the next call, and comes out. Two processes
        never handle one command at the same time, unless a handler takes longer than `lease`; one whose handler's process died is free
        again after it.

        Raises:
            InvalidStateError: called inside a transaction block.
        """
        ...

    def next_due(self, definitions: Iterable[tuple[str, int]] | None = None) -> datetime | None:
        """When there will be something to do: the earliest of unclaimed runnable workflows (of `definitions`, where given), the ends of
        claims on due ones, unprocessed events and commands; None where there is nothing. Events that `dispatch_events` could not deliver, because
        an open transaction holds what they go to, are due a little later (up to a quarter of a second)."""
        ...

    def wait_for_work(self, timeout: Duration, definitions: Iterable[tuple[str, int]] | None = None) -> bool:
        """Block until `next_due` has come, be it by a change of any process, and return True; False after `timeout`, or after `interrupt_waits`.

        Raises:
            InvalidStateError: called inside a transaction block.
        """
        ...

    def interrupt_waits(self) -> None:
        """Let each `wait_for_work` on this object that blocks now return at once: a worker that stops need not wait for its time. Any
        thread may call it; harmless where nobody waits, and after `close`."""
        ...

    def wait_for_status(
        self, workflow_id: str, statuses: Collection[WorkflowStatus], timeout: Duration
    ) -> WorkflowStatus | None:
        """Block until the workflow has one of `statuses` and return it; None after `timeout`.

        Raises:
            WorkflowNotFoundError: no workflow has this id.
            InvalidStateError: called inside a transaction block.
        """
        ...

    def ensure_store_exists(self) -> None:
        """Create or upgrade the tables. Idempotent, safe when many processes start at once.

        Raises:
            SchemaMismatchError: the database is not ours or was made by a newer version; nothing in it was changed.
        """
        ...

    def close(self) -> None:
        """Let go of the database. Every later call raises `StoreClosedError`; a second `close()` is harmless."""
        ...

    def __enter__(self) -> PersistenceProvider: ...

    def __exit__(self, *exc_info: object) -> None: ...
