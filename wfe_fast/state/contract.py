"""Contract C: what a backend for execution state does. The docstrings are the specification.

What holds for every method:

- It is one transaction: stored as a whole when it returns, or not at all when it raises.
- Bad values are refused before anything is written: `InvalidValueError` (a wrong kind, out of range, a naive datetime) or
  `SerializationError` (a NaN, a NUL, what JSON cannot hold), naming the field.
- **Scope.** A backend serves all tenants; a view of one tenant (`StateBackend.for_tenant`) reads, changes and settles only that tenant's
  rows, and says of others' that they are not there. What a view writes is its tenant's. What an unscoped backend writes for an
  execution is that execution's tenant's; where no execution is named, it is the tenant ``default``'s.
- **New work** (`create_execution`, `start_execution`, `enqueue_work_item`, `schedule_node`, `store_workflow`) needs an active tenant that has
  tokens and money left for the month, else `TenantSuspendedError` or `TenantLimitError`; `TenantNotFoundError` where there is no
  such tenant. Everything else goes on, so that what runs can end.
- Durations are seconds, or a timedelta.
- **A connection that breaks** in the middle of a call, where the database is at its other end: what may be done twice without harm is done
  again, which are all reads, `append_event`, `append_events`, `write_snapshot`, `schedule_node`, `finish_execution`, `renew_lease`,
  `reserve_tool_effect`, `validate_token` and `revoke_token`. Of anything else that may have been stored `CommitOutcomeUnknownError` says that
  nobody knows; a lease that was claimed then runs out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol, overload
from uuid import UUID

from wfe_fast.clock import Clock, Duration
from wfe_fast.state.models import (
    ApiToken,
    DeadLetter,
    Event,
    FailOutcome,
    MaterializedState,
    Page,
    ReclaimResult,
    ReserveOutcome,
    Snapshot,
    Tenant,
    WorkflowDefinition,
    WorkflowExecution,
    WorkflowStatus,
    WorkItem,
)


class ExecutionOperations(Protocol):
    """Definitions and executions."""

    def store_workflow(self, definition: WorkflowDefinition) -> None:
        """Store a definition under its tenant, id and version; one that is there is replaced, its time of creation as well.

        Raises:
            TenantLimitError: it would be the tenant's first of a new id, and there are `max_workflows` ids already.
        """
        ...

    def get_workflow(self, workflow_id: str, version: str) -> WorkflowDefinition | None:
        """The definition of exactly this version, or None. An unscoped backend reads the tenant ``default``."""
        ...

    def create_execution(self, execution: WorkflowExecution) -> None:
        """Store a new execution.

        Raises:
            DuplicateExecutionError: its id is taken, be it by another tenant.
            TenantLimitError: `max_concurrent_executions` of the tenant are pending, running or paused.
        """
        ...

    def get_execution(self, execution_id: UUID) -> WorkflowExecution | None:
        """The execution, or None."""
        ...

    def update_execution_status(self, execution_id: UUID, status: WorkflowStatus) -> None:
        """Let the execution have another status. `updated_at` is now, and so is `completed_at` where the status is final. The same status
        again changes nothing. ``CANCELLED`` also ends its queued and claimed items: their holders find that their lease is lost.

        Raises:
            ExecutionNotFoundError: there is none.
            InvalidTransitionError: its status does not lead to the wanted one (see `models.TRANSITIONS`); a final one leads nowhere.
        """
        ...

    def update_execution_current_state(self, execution_id: UUID, state: Any) -> None:
        """Replace the state; `updated_at` is now.

        Raises:
            ExecutionNotFoundError: there is none.
        """
        ...

    def patch_append_array(self, execution_id: UUID, key: str, value: Any) -> None:
        """Append to the array under `key` of the state, which begins where there is none. Any number of callers may do so at once.

        Raises:
            ExecutionNotFoundError: there is none.
            InvalidValueError: the state is no object, or has something else under `key`.
        """
        ...

    def list_executions(
        self,
        status: WorkflowStatus | None = None,
        limit: int = 100,
        offset: int = 0,
        *,
        after: str | WorkflowExecution | None = None,
    ) -> Page[WorkflowExecution]:
        """Executions, the one with the latest update first, equal times by their ids.

        Args:
            after: the `next` of the page before, or its last execution. Unlike `offset` it costs the same on every page.
        """
        ...

    def count_executions(self) -> dict[WorkflowStatus, int]:
        """How many executions there are in each status that any has."""
        ...


class EventOperations(Protocol):
    """What has happened. An execution's events are numbered 1, 2, 3, … without a gap."""

    def append_event(self, event: Event, *, expected_sequence: int | None = None) -> int:
        """Store an event behind the execution's last one and return its number. An event whose id is there already, in the same execution,
        is not stored again, whatever it contains and expects: its first number comes back.

        Args:
            expected_sequence: the number of the last event that the caller has seen, 0 for none.

        Raises:
            ExecutionNotFoundError: there is no such execution.
            SequenceConflictError: there are other events than expected.
            DuplicateEventError: another execution has an event of this id.
        """
        ...

    def append_events(self, events: Sequence[Event], *, expected_sequence: int | None = None) -> list[int]:
        """The same for several events of one execution: all of them, or none. Their numbers."""
        ...

    def get_events(self, execution_id: UUID) -> list[Event]:
        """All events in their order; none where there is no such execution."""
        ...

    def get_events_since(self, execution_id: UUID, sequence: int) -> list[Event]:
        """Those with a larger number than `sequence`."""
        ...

    def latest_sequence(self, execution_id: UUID) -> int:
        """The number of the last event, 0 where there is none."""
        ...

    def write_snapshot(self, snapshot: Snapshot) -> None:
        """Store a snapshot in the place of one of the same execution and number. Only so many of an execution are kept as the store was
        opened with.

        Raises:
            ExecutionNotFoundError: there is no such execution.
            DuplicateSnapshotError: another execution has a snapshot of this id.
        """
        ...

    def latest_snapshot(self, execution_id: UUID) -> Snapshot | None:
        """The one with the largest `at_sequence`, or None."""
        ...

    def materialize(self, execution_id: UUID) -> MaterializedState:
        """What the events have made of the execution: the last snapshot (or the initial input) and the events behind it, no others.

        Raises:
            ExecutionNotFoundError: there is none.
        """
        ...


class WorkItemOperations(Protocol):
    """Work for nodes, handed out under leases.

    A claimed item carries a fence that is larger than any that it had before, as long as it is stored. The id of an item is not to be used
    again after the item was purged: its fences would begin anew. Whoever renews or settles the item shows it; `LeaseLostError` = it
    is not the one under which the item is held now: the lease was taken over, or the item is settled, cancelled or another
    tenant's. Then nothing was changed. A lease that has run out, but that nobody took over, is still its holder's.

    **A lease that ends without a result** ends in one way, whoever notices: a claim, `reclaim_expired_leases`, or the worker itself
    (`fail_work_item`). The attempt grows by one. Below `max_attempts` the item goes back to its queue for 2^min(attempt, 6) seconds, with
    the events NodeFailed (of the attempt that failed) and RetryScheduled; else it becomes a dead letter, with NodeFailed that is not
    retryable. The error stays with the item.
    """

    def enqueue_work_item(self, item: WorkItem) -> UUID:
        """Put an item into its queue and return its id, which no item had before, not even one that was purged. Its lease fields and its
        tenant do not count.

        Raises:
            ExecutionNotFoundError: there is no such execution.
            ExecutionEndedError: its status is final.
            DuplicateWorkItemError: an item has this id, or another item of the node is queued or claimed.
        """
        ...

    def get_work_item(self, item_id: UUID) -> WorkItem | None:
        """The item, whatever has become of it, or None."""
        ...

    @overload
    def claim_work_item(
        self, worker_id: str, queue_types: Iterable[str], *, lease: Duration = 60.0, limit: None = None
    ) -> WorkItem | None: ...

    @overload
    def claim_work_item(
        self, worker_id: str, queue_types: Iterable[str], *, lease: Duration = 60.0, limit: int
    ) -> list[WorkItem]: ...

    def claim_work_item(
        self, worker_id: str, queue_types: Iterable[str], *, lease: Duration = 60.0, limit: int | None = None
    ) -> WorkItem | list[WorkItem] | None:
        """Lease the first available item of these queues: by priority, then by how long it has been available, over all the queues.
        Leases of these queues that have run out are ended first. Where there is nothing to do, nothing is written.

        Returns:
            The item or None; with `limit` a list of at most so many.
        """
        ...

    def renew_lease(self, item: WorkItem, lease: Duration = 60.0) -> WorkItem:
        """Let the lease begin anew; the item with its new end.

        Raises:
            LeaseLostError: see above.
        """
        ...

    def complete_work_item(self, item: WorkItem) -> None:
        """Settle the item as done.

        Raises:
            LeaseLostError: see above.
        """
        ...

    def fail_work_item(self, item: WorkItem, error: str) -> FailOutcome:
        """End the lease without a result, as above.

        Returns:
            `Retryable` with the back-off, or `Exhausted`; the item in it has the new attempt.

        Raises:
            LeaseLostError: see above.
        """
        ...

    def park_work_item(self, item: WorkItem, until: datetime) -> None:
        """Give the item back to its queue, from which nobody gets it before `until`. The attempt grows by one, but no parking makes
        a dead letter.

        Raises:
            LeaseLostError: see above.
        """
        ...

    def reclaim_expired_leases(self) -> ReclaimResult:
        """End all leases that have run out, as above."""
        ...

    def move_to_dead_letter(self, item: WorkItem | UUID, error: str) -> None:
        """Give an item up. A live one leaves the event NodeFailed.

        Args:
            item: the item as the caller holds it; or its id, which takes it from whoever holds it, in any status.

        Raises:
            WorkItemNotFoundError: there is none.
            LeaseLostError: it is not held under the lease that `item` shows; where that is none (its fence is 0), it does not wait. What
                is settled is given up by its id only.
        """
        ...


class DeadLetterOperations(Protocol):
    """Items that were given up."""

    def list_dead_letters(self, limit: int = 100, after: str | DeadLetter | None = None) -> Page[DeadLetter]:
        """Dead letters, the oldest first.

        Args:
            after: the `next` of the page before, or its last item.
        """
        ...

    def get_dead_letter(self, item_id: UUID) -> DeadLetter:
        """One of them.

        Raises:
            DeadLetterNotFoundError: there is none.
        """
        ...

    def requeue_dead_letter(self, item_id: UUID) -> WorkItem:
        """Put it back into its queue, with attempt 0, from which nobody gets it before its `run_at`.

        Raises:
            DeadLetterNotFoundError: there is none.
            DuplicateWorkItemError: another item of its node is queued or claimed.
        """
        ...

    def purge_dead_letters(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        """Delete at most `limit` that were given up before a moment, or longer ago than a duration; how many. Their ids are not to be used
        again."""
        ...


class TransitionOperations(Protocol):
    """Changes that belong together."""

    def start_execution(
        self, execution: WorkflowExecution, events: Sequence[Event] = (), item: WorkItem | None = None
    ) -> int:
        """`create_execution`, its first events and its first item; the number of the last event."""
        ...

    def schedule_node(self, event: Event, item: WorkItem) -> int:
        """A NodeScheduled event and the item of that node; the event's number. The same call again changes nothing, until the item is purged.

        Raises:
            InvalidValueError: the event is of another kind, or not about the item's execution and node.
            ExecutionNotFoundError, ExecutionEndedError, DuplicateWorkItemError, DuplicateEventError: as above.
        """
        ...

    def commit_turn(self, item: WorkItem, event: Event, *, snapshot: bool = False) -> int:
        """Settle an item, and store how: a NodeCompleted or NodeFailed event of its own execution and node. A NodeCompleted with an
        `idempotency_key` is recorded as the effect of that key, unless one is recorded. Returns the event's number.

        Args:
            snapshot: take a snapshot as well.

        Raises:
            InvalidValueError: the event is of another kind, execution or node.
            LeaseLostError: see `WorkItemOperations`.
        """
        ...

    def finish_execution(self, event: Event, status: WorkflowStatus) -> int:
        """Let an execution end, with the event that says so; the event's number. The same call again changes nothing.

        Raises:
            InvalidValueError: the status is not final, or not that of a WorkflowCompleted, WorkflowFailed or WorkflowCancelled.
            ExecutionNotFoundError: there is none.
            InvalidTransitionError: it has ended already, by another event; or its status does not lead there.
        """
        ...


class EffectOperations(Protocol):
    """What must not happen twice: reserve the key, do it, and commit the result under it. Keys are each tenant's own."""

    def get_tool_effect(self, idempotency_key: str) -> dict[str, Any] | None:
        """The result that was recorded first under the key, or None. An unscoped backend looks in the tenant ``default``."""
        ...

    def reserve_tool_effect(
        self,
        idempotency_key: str,
        execution_id: UUID,
        node_id: str,
        owner: str,
        fence: int,
        ttl: Duration = 300.0,
    ) -> ReserveOutcome:
        """Take the key until `ttl` is over: `Acquired` where it is free, its time has run out, or the same owner has it; `Held` where
        another owner has it; `Recorded` where there is a result.

        Raises:
            ExecutionNotFoundError: there is no such execution.
        """
        ...

    def release_tool_reservation(self, idempotency_key: str, owner: str, fence: int) -> bool:
        """Give the key back; whether this owner had it, with this fence. An unscoped backend gives back keys of the tenant ``default``."""
        ...


class TokenOperations(Protocol):
    """Who may call. Only the SHA-256 of a secret is stored."""

    def create_token(self, name: str, role: str, *, expires_at: datetime | None = None) -> tuple[str, ApiToken]:
        """A new token: its secret (``jj_`` and 64 hex digits), which is nowhere afterwards, and what may be known of it."""
        ...

    def validate_token(self, token: str) -> ApiToken | None:
        """Whose secret this is, from every view; None where it is nobody's, expired or revoked. Its use is noted once a minute at most."""
        ...

    def list_tokens(self) -> list[ApiToken]:
        """The tokens that were not revoked; an unscoped backend lists those of all tenants, tenant by tenant."""
        ...

    def revoke_token(self, token_id: str) -> None:
        """End a token at once. A second time changes nothing.

        Raises:
            InvalidValueError: this is a secret and not an id; the error does not show it.
            TokenNotFoundError: there is none.
        """
        ...

    def rotate_token(self, token_id: str) -> tuple[str, ApiToken]:
        """Another secret for the same name, role, tenant and expiry; the old token ends at once.

        Raises:
            InvalidValueError: this is a secret and not an id; the error does not show it.
            TokenNotFoundError: there is none, or it has ended.
        """
        ...


class TenantOperations(Protocol):
    """Tenants. A view of one may read itself, and manages none."""

    def create_tenant(self, tenant: Tenant) -> None:
        """Store a new tenant.

        Raises:
            DuplicateTenantError: its id is taken.
            TenantScopeError: this is a view of one tenant.
        """
        ...

    def get_tenant(self, tenant_id: str) -> Tenant | None:
        """The tenant, or None; from a view, itself or None."""
        ...

    def list_tenants(self) -> list[Tenant]:
        """All tenants, oldest first; from a view, itself."""
        ...

    def update_tenant(self, tenant: Tenant) -> None:
        """Replace name, status, policy and limits; None clears. `updated_at` is now.

        Raises:
            TenantNotFoundError: there is none.
            TenantScopeError: this is a view of one tenant.
        """
        ...


class RetentionOperations(Protocol):
    """Delete at most `limit` of what ended before a moment, or longer ago than a duration; how many were deleted."""

    def purge_work_items(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        """Items that are completed, failed or cancelled. Their ids are not to be used again."""
        ...

    def purge_events(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        """Events of executions whose status is final, of at most `limit` executions. A snapshot keeps what they say, so `materialize` and
        `latest_sequence` answer as before. The ids of deleted events are forgotten."""
        ...

    def purge_tokens(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        """Tokens that have expired or were revoked."""
        ...


class StateBackend(
    ExecutionOperations,
    EventOperations,
    WorkItemOperations,
    DeadLetterOperations,
    TransitionOperations,
    EffectOperations,
    TokenOperations,
    TenantOperations,
    RetentionOperations,
    Protocol,
):
    """All of it."""

    @property
    def clock(self) -> Clock:
        """What this store takes for now."""
        ...

    @property
    def tenant_id(self) -> str | None:
        """The tenant that this view shows; None = all of them."""
        ...

    def for_tenant(self, tenant_id: str) -> StateBackend:
        """A view of one tenant, on the same connections. Whether there is such a tenant is not looked at: reads of one that is not there
        find nothing, and writes say so.

        Raises:
            TenantScopeError: this is a view already.
        """
        ...

    def set_store_term_at_least(self, term: int) -> int:
        """Raise the upper half of all fences to come to `term`, never lower it; the term. After a failover to a copy that may have missed
        claims, a larger term makes their fences invalid.

        Raises:
            TenantScopeError: this is a view of one tenant.
        """
        ...

    def bump_store_term(self) -> int:
        """Raise it by one.

        Raises:
            InvalidStateError: it is the largest there is, 2^31 - 1. Nothing was changed.
            TenantScopeError: this is a view of one tenant.
        """
        ...

    def migrate(self) -> None:
        """Bring the tables up to date. Idempotent, safe when many processes do it at once.

        Raises:
            SchemaMismatchError: a newer release has been here; nothing was changed.
        """
        ...

    def close(self) -> None:
        """Let go of the database; a view lets go of nothing. A second call is harmless."""
        ...

    def __enter__(self) -> StateBackend: ...

    def __exit__(self, *exc_info: object) -> None: ...
