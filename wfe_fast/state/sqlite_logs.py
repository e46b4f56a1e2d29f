"""Tenants' gates, executions, events and snapshots on SQLite: small statements in one transaction, which nobody else writes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple
from uuid import uuid4

from wfe_fast.clock import from_micros
from wfe_fast.codec import encode_line
from wfe_fast.database.base import Row, Session
from wfe_fast.errors import (
    DuplicateEventError,
    ExecutionNotFoundError,
    InvalidTransitionError,
    InvalidValueError,
    SequenceConflictError,
    TenantLimitError,
    TenantNotFoundError,
    TenantSuspendedError,
)
from wfe_fast.state.events import AnyEventKind
from wfe_fast.state.materialize import materialized
from wfe_fast.state.models import (
    TERMINAL_STATUSES,
    TRANSITIONS,
    TenantLimits,
    TenantStatus,
    WorkflowStatus,
)
from wfe_fast.state.rows import NewEvent, limits_from, own_event_row
from wfe_fast.state.sqlite_statements import SqliteStatements
from wfe_fast.state.work import FoldRows


class Head(NamedTuple):
    """What a write has to know of its execution."""

    execution: int
    tenant_id: str
    status: str
    last_sequence: int
    snapshot_at: int


class SqliteLogs:
    """See `work.ExecutionWork`.

    Args:
        store: names the database in errors.
        tenant: the only tenant whose rows there are; None = all.
        now: the present moment, in microseconds; read inside the transaction, so that it does not lie before the wait for its turn.
        snapshot_every, keep_snapshots: see `SqliteBackend.connect`.
    """

    def __init__(
        self,
        sql: SqliteStatements,
        store: str,
        tenant: str | None,
        now: Callable[[], int],
        snapshot_every: int | None,
        keep_snapshots: int | None,
    ) -> None:
        self._sql = sql
        self._store = store
        self._tenant = tenant
        self._now = now
        self._snapshot_every = snapshot_every
        self._keep_snapshots = keep_snapshots

    def _head(self, session: Session, execution_id: str) -> Head:
        """The execution that a write is about.

        Raises:
            ExecutionNotFoundError: there is none, or none in this scope.
        """
        row = session.one(self._sql.execution_head, (execution_id, self._tenant))
        if row is None:
            raise ExecutionNotFoundError(execution_id)
        return Head(*row)

    def _log_head(self, session: Session, execution: int, tenant_id: str) -> Head:
        """The same for an execution whose number is known, where its status does not matter."""
        row = session.one(self._sql.log_of, (execution,))
        assert row is not None  # every execution has its log
        return Head(execution, tenant_id, "", *row)

    def _tenants_in_scope(self, session: Session) -> list[str]:
        """Whose rows a method that works tenant by tenant has to visit."""
        if self._tenant is not None:
            return [self._tenant]
        return [row[0] for row in session.all(self._sql.tenant_ids)]

    # -- the gate that new work passes -----------------------------------------------------------------------------------------------

    def _admit(self, session: Session, tenant_id: str, now: int) -> TenantLimits | None:
        """Let the tenant have new work, and return its limits.

        Raises:
            TenantNotFoundError: there is no such tenant.
            TenantSuspendedError: it is not active.
            TenantLimitError: it has used up its tokens or its money for this month.
        """
        row = session.one(self._sql.tenant_gate, (tenant_id,))
        if row is None:
            raise TenantNotFoundError(tenant_id)
        if row[0] != TenantStatus.ACTIVE.value:
            raise TenantSuspendedError(tenant_id, row[0])
        if row[1] is None:
            return None
        limits = limits_from(row[1], self._store)
        tokens, cost = limits.max_tokens_per_month, limits.max_cost_per_month_usd
        if tokens is not None or cost is not None:
            used = session.one(self._sql.usage_of, (tenant_id, month_of(now))) or (0, 0.0)
            if tokens is not None and used[0] >= tokens:
                raise TenantLimitError(tenant_id, "max_tokens_per_month", tokens)
            if cost is not None and used[1] >= cost:
                raise TenantLimitError(tenant_id, "max_cost_per_month_usd", cost)
        return limits

    def _admit_execution(self, session: Session, tenant_id: str, now: int) -> None:
        """`_admit` for one more execution."""
        limits = self._admit(session, tenant_id, now)
        most = None if limits is None else limits.max_concurrent_executions
        if most is not None:
            row = session.one(self._sql.count_active, (tenant_id, most))
            if row is None or row[0] >= most:
                raise TenantLimitError(tenant_id, "max_concurrent_executions", most)

    # -- definitions and executions --------------------------------------------------------------------------------------------------

    def store_workflow(self, session: Session, row: Row) -> None:
        tenant_id, workflow_id = row[:2]
        limits = self._admit(session, tenant_id, self._now())
        most = None if limits is None else limits.max_workflows
        if most is not None:
            found = session.one(self._sql.count_other_workflows, (tenant_id, workflow_id))
            count, known = found or (0, 0)
            if not known and count >= most:
                raise TenantLimitError(tenant_id, "max_workflows", most)
        session.run(self._sql.store_workflow, row)

    def create_execution(self, session: Session, tenant: str, row: Row) -> None:
        self._create(session, tenant, row)

    def _create(self, session: Session, tenant: str, row: Row) -> Head:
        self._admit_execution(session, tenant, self._now())
        inserted = session.one(self._sql.insert_execution, (tenant, *row))
        assert inserted is not None  # an INSERT with RETURNING returns its row, or raises
        session.run(self._sql.insert_log, inserted)
        return Head(inserted[0], tenant, row[3], 0, 0)

    def change_status(self, session: Session, id: str, wanted: WorkflowStatus) -> None:
        head = self._head(session, id)
        if head.status != wanted.value:
            self._set_status(session, head, id, wanted, self._now())

    def _set_status(self, session: Session, head: Head, id: str, wanted: WorkflowStatus, now: int) -> None:
        """Let an execution have another status, where its own leads there."""
        if wanted not in TRANSITIONS.get(WorkflowStatus(head.status), ()):
            raise InvalidTransitionError(id, head.status, wanted.value)
        session.run(
            self._sql.set_status, (head.execution, wanted.value, now, now if wanted in TERMINAL_STATUSES else None)
        )
        if wanted is WorkflowStatus.CANCELLED:
            session.run(self._sql.cancel_items, (head.execution, now))

    def patch_append_array(self, session: Session, id: str, key: str, value: str) -> None:
        path = _path(key)
        if session.run(self._sql.patch_append_array, (id, self._tenant, path, f"{path}[#]", value, self._now())):
            return
        row = session.one(self._sql.state_type, (id, self._tenant))
        if row is None:
            raise ExecutionNotFoundError(id)
        if row[0] != "object":
            raise InvalidValueError("current_state", "must be an object where something is appended in it", row[0])
        raise InvalidValueError("key", "names something in the state that is not an array", key)

    # -- append ----------------------------------------------------------------------------------------------------------------------

    def append_events(
        self, session: Session, execution_id: str, events: list[NewEvent], expected: int | None
    ) -> list[int]:
        return self._append_to(session, self._head(session, execution_id), execution_id, events, expected)

    def _append_to(
        self, session: Session, head: Head, execution_id: str, events: list[NewEvent], expected: int | None = None
    ) -> list[int]:
        """Store those events that are not there yet; the numbers of all."""
        numbers = {event.id: self._known(session, head.execution, event.id) for event in events}
        fresh = {event.id: event for event in reversed(events) if numbers[event.id] is None}
        if fresh:
            if expected is not None and expected != head.last_sequence:
                raise SequenceConflictError(execution_id, expected, head.last_sequence)
            ordered = [fresh.pop(event.id) for event in events if event.id in fresh]
            added = self._add_events(session, head, ordered, self._now())
            numbers.update(zip((event.id for event in ordered), added, strict=True))
        return [number for event in events if (number := numbers[event.id]) is not None]

    def _known(self, session: Session, execution: int, id: str) -> int | None:
        """The number under which an event of this execution was stored before, or None where its id is new.

        Raises:
            DuplicateEventError: the id is another execution's, be it this tenant's or not.
        """
        row = session.one(self._sql.find_event, (id,))
        if row is None:
            return None
        if row[0] != execution:
            raise DuplicateEventError(id)
        return int(row[1])

    def _add_events(self, session: Session, head: Head, events: list[NewEvent], now: int) -> list[int]:
        """Store new events behind the last one, with what they have used; their numbers."""
        first = head.last_sequence + 1
        last = head.last_sequence + len(events)
        session.run(self._sql.advance_log, (head.execution, last))
        session.run_many(
            self._sql.insert_event,
            [(head.execution, head.tenant_id, number, *event[:5]) for number, event in enumerate(events, first)],
        )
        for event in events:
            if event.tokens or event.cost:
                session.run(self._sql.add_usage, (head.tenant_id, month_of(now), event.tokens, event.cost))
        if self._snapshot_every is not None and last - head.snapshot_at >= self._snapshot_every:
            self._take_snapshot(session, head, now)
        return list(range(first, last + 1))

    def _add_own_events(
        self, session: Session, execution: int, tenant_id: str, kinds: Sequence[AnyEventKind], now: int
    ) -> None:
        """Store events of the store's own making."""
        head = self._log_head(session, execution, tenant_id)
        self._add_events(session, head, [own_event_row(str(uuid4()), kind, now) for kind in kinds], now)

    # -- snapshots -------------------------------------------------------------------------------------------------------------------

    def write_snapshot(self, session: Session, execution_id: str, row: Row) -> None:
        self._store_snapshot(session, self._head(session, execution_id), row)

    def _store_snapshot(self, session: Session, head: Head, row: Row) -> None:
        execution = head.execution
        session.run(self._sql.move_snapshot, (execution, row[1], row[0]))
        session.run(self._sql.write_snapshot, (execution, head.tenant_id, *row))
        session.run(self._sql.note_snapshot, (execution,))
        if self._keep_snapshots is not None:
            session.run(self._sql.prune_snapshots, (execution, self._keep_snapshots))

    def read_fold(self, session: Session, execution_id: str) -> FoldRows:
        return self._fold_rows(session, self._head(session, execution_id).execution)

    def _fold_rows(self, session: Session, execution: int) -> FoldRows:
        base = session.one(self._sql.fold_base, (execution,))
        if base is None:
            given = session.one(self._sql.initial_input, (execution,))
            assert given is not None  # the execution was found in this transaction
            base = (0, given[0], WorkflowStatus.PENDING.value, "{}", "[]", 0)
        return base, session.all(self._sql.fold_tail, (execution, base[0]))

    def _take_snapshot(self, session: Session, head: Head, now: int) -> None:
        """Store what the events have made of an execution by now."""
        state = materialized(self._fold_rows(session, head.execution), self._store)
        row = (
            state.last_sequence,
            str(uuid4()),
            state.status.value,
            state.last_sequence,
            now,
            # Of values that were checked when they came: an output of the greatest depth is one level deeper among the others.
            encode_line(state.current_state).decode(),
            encode_line(state.completed_nodes).decode(),
            encode_line(sorted(state.active_nodes)).decode(),
        )
        self._store_snapshot(session, head, row)


def month_of(now: int) -> int:
    """The month of a moment in microseconds: year * 12 + month - 1, in UTC."""
    moment = from_micros(now)
    return moment.year * 12 + moment.month - 1


def _path(key: str) -> str:
    """The place of `key` in an object, as a JSON path. What has a meaning in a path is written as an escape."""
    special = {'"', "\\"}
    escaped = "".join(f"\\u{ord(char):04x}" if char in special or char < " " else char for char in key)
    return f'$."{escaped}"'
