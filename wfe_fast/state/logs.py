"""Events, snapshots, and the state that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

from wfe_fast.checks import check_model, check_sequence
from wfe_fast.database.base import Row, Session, UniqueViolation
from wfe_fast.errors import (
    DuplicateEventError,
    DuplicateSnapshotError,
    ExecutionNotFoundError,
    InvalidValueError,
    SequenceConflictError,
)
from wfe_fast.state.checks import check_id, check_sequence_number
from wfe_fast.state.events import AnyEventKind, NodeCompleted
from wfe_fast.state.fold import fold
from wfe_fast.state.kinds import decode_kind
from wfe_fast.state.models import Event, MaterializedState, Snapshot, WorkflowStatus
from wfe_fast.state.operations import Head, all_rows, execution_id_of, month_of, one
from wfe_fast.state.rows import (
    event_from,
    event_row,
    own_event_row,
    snapshot_from,
    snapshot_row,
    status_from,
)
from wfe_fast.state.tenants import TenantMethods
from wfe_fast.stored import json_text, stored_json

#: As many tokens as one event adds at most, so that a month's sum stays inside its column.
_MOST_TOKENS = 2**61


class LogMethods(TenantMethods):
    """See `contract.EventOperations` and `contract.SnapshotOperations`."""

    # -- append ------------------------------------------------------------------------------------------------------------------

    def append_event(self, event: Event, *, expected_sequence: int | None = None) -> int:
        row = event_row(event)
        if expected_sequence is not None:
            check_sequence_number(expected_sequence, "expected_sequence")
        return self._write(self._append_event, str(event.execution_id), [(row, event.kind)], expected_sequence)[0]

    def append_events(self, events: Sequence[Event], *, expected_sequence: int | None = None) -> list[int]:
        checked = check_sequence(events, Event, "events")
        rows = [(event_row(event, f"events[{index}]"), event.kind) for index, event in enumerate(checked)]
        if expected_sequence is not None:
            check_sequence_number(expected_sequence, "expected_sequence")
        executions = {event.execution_id for event in checked}
        if len(executions) > 1:
            raise InvalidValueError("events", "must be of one execution", executions)
        if not rows:
            return []
        return self._write(self._append_event, str(executions.pop()), rows, expected_sequence)

    def _append_event(
        self, session: Session, execution_id: str, rows: list[tuple[Row, AnyEventKind]], expected: int | None
    ) -> list[int]:
        return self._append_to(session, self._head(session, execution_id), execution_id, rows, expected)

    def _append_to(
        self,
        session: Session,
        head: Head,
        execution_id: str,
        rows: list[tuple[Row, AnyEventKind]],
        expected: int | None = None,
    ) -> list[int]:
        """Store those events that are not there yet; the numbers of all."""
        numbers = {row[0]: self._known(session, head.execution, row[0]) for row, _ in rows}
        fresh = {row[0]: (row, kind) for row, kind in reversed(rows) if numbers[row[0]] is None}
        if fresh:
            if expected is not None and expected != head.last_sequence:
                raise SequenceConflictError(execution_id, expected, head.last_sequence)
            ordered = [fresh.pop(row[0]) for row, _ in rows if row[0] in fresh]
            added = self._add_events(session, head, ordered, self._now())
            numbers.update(zip((row[0] for row, _ in ordered), added, strict=True))
        return [number for row, _ in rows if (number := numbers[row[0]]) is not None]

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

    def _add_events(self, session: Session, head: Head, rows: list[tuple[Row, AnyEventKind]], now: int) -> list[int]:
        """Store new events behind the last one, with what they have used; their numbers."""
        first = head.last_sequence + 1
        last = head.last_sequence + len(rows)
        session.run(self._sql.advance_log, (head.execution, last))
        session.run_many(
            self._sql.insert_event, [(head.execution, number, *row) for number, (row, _) in enumerate(rows, first)]
        )
        for _, kind in rows:
            if isinstance(kind, NodeCompleted):
                self._add_usage(session, head.tenant_id, kind, now)
        if self._snapshot_every is not None and last - head.snapshot_at >= self._snapshot_every:
            self._take_snapshot(session, head.execution, now)
        return list(range(first, last + 1))

    def _add_usage(self, session: Session, tenant_id: str, kind: NodeCompleted, now: int) -> None:
        tokens = min((kind.input_tokens or 0) + (kind.output_tokens or 0), _MOST_TOKENS)
        if tokens or kind.cost_usd:
            session.run(self._sql.add_usage, (tenant_id, month_of(now), tokens, float(kind.cost_usd or 0)))

    def _add_own_events(
        self, session: Session, execution: int, tenant_id: str, kinds: Sequence[AnyEventKind], now: int
    ) -> None:
        """Store events of the store's own making."""
        row = session.one(self._sql.log_of, (execution,))
        assert row is not None  # every execution has its log
        head = Head(execution, tenant_id, "", *row)
        self._add_events(session, head, [(own_event_row(str(uuid4()), kind, now), kind) for kind in kinds], now)

    # -- read --------------------------------------------------------------------------------------------------------------------

    def get_events(self, execution_id: UUID) -> list[Event]:
        return self.get_events_since(execution_id, 0)

    def get_events_since(self, execution_id: UUID, sequence: int) -> list[Event]:
        text, id = execution_id_of(execution_id)
        params = (text, self._tenant, check_sequence_number(sequence, "sequence"))
        return [event_from(row, id, self._store) for row in self._read(all_rows, self._sql.events_since, params)]

    def latest_sequence(self, execution_id: UUID) -> int:
        row = self._read(one, self._sql.latest_sequence, (check_id(execution_id, "execution_id"), self._tenant))
        return 0 if row is None else int(row[0])

    # -- snapshots ---------------------------------------------------------------------------------------------------------------

    def write_snapshot(self, snapshot: Snapshot) -> None:
        row = snapshot_row(snapshot)
        try:
            self._write(self._write_snapshot, str(snapshot.execution_id), row)
        except UniqueViolation as error:
            raise DuplicateSnapshotError(row[1]) from error

    def _write_snapshot(self, session: Session, execution_id: str, row: Row) -> None:
        self._store_snapshot(session, self._head(session, execution_id).execution, row)

    def _store_snapshot(self, session: Session, execution: int, row: Row) -> None:
        session.run(self._sql.move_snapshot, (execution, row[1], row[0]))
        session.run(self._sql.write_snapshot, (execution, *row))
        session.run(self._sql.note_snapshot, (execution, row[0]))
        if self._keep_snapshots is not None:
            session.run(self._sql.prune_snapshots, (execution, self._keep_snapshots))

    def latest_snapshot(self, execution_id: UUID) -> Snapshot | None:
        text, id = execution_id_of(execution_id)
        row = self._read(one, self._sql.latest_snapshot, (text, self._tenant))
        return None if row is None else snapshot_from(row, id, self._store)

    def materialize(self, execution_id: UUID) -> MaterializedState:
        return self._folded(*self._snapshot(self._read_fold, check_id(execution_id, "execution_id")))

    def _read_fold(self, session: Session, execution_id: str) -> tuple[Row | None, Row | None, list[Row]]:
        row = session.one(self._sql.execution_head, (execution_id, self._tenant))
        if row is None:
            raise ExecutionNotFoundError(execution_id)
        return self._fold_rows(session, row[0])

    def _fold_rows(self, session: Session, execution: int) -> tuple[Row | None, Row | None, list[Row]]:
        """What a fold needs: the last snapshot, or the input where there is none, and the events behind."""
        base = session.one(self._sql.fold_base, (execution,))
        given = session.one(self._sql.initial_input, (execution,)) if base is None else None
        return base, given, session.all(self._sql.fold_tail, (execution, 0 if base is None else base[0]))

    def _folded(self, base: Row | None, given: Row | None, tail: list[Row]) -> MaterializedState:
        if base is not None:
            _, state, status, completed, active, last = base
            state = MaterializedState(
                current_state=stored_json(state, self._store),
                status=status_from(status, self._store),
                completed_nodes=stored_json(completed, self._store),
                active_nodes=set(stored_json(active, self._store)),
                last_sequence=last,
            )
        else:
            assert given is not None  # the execution was found in this transaction
            state = MaterializedState(current_state=stored_json(given[0], self._store), status=WorkflowStatus.PENDING)
        return fold(state, ((row[0], decode_kind(row[1], row[2], self._store)) for row in tail))

    def _take_snapshot(self, session: Session, execution: int, now: int) -> None:
        """Store what the events have made of an execution by now."""
        state = self._folded(*self._fold_rows(session, execution))
        row = (
            state.last_sequence,
            str(uuid4()),
            state.status.value,
            state.last_sequence,
            now,
            json_text(state.current_state, "state"),
            json_text(state.completed_nodes, "completed_nodes"),
            json_text(sorted(state.active_nodes), "active_nodes"),
        )
        self._store_snapshot(session, execution, row)


def check_event_of(event: Event, execution_id: UUID, kinds: tuple[type, ...], node_id: str | None = None) -> None:
    """Refuse an event that is not about this execution (and node), or of none of these kinds.

    Raises:
        InvalidValueError: see above.
    """
    made = check_model(event, Event, "event")
    if made.execution_id != execution_id:
        raise InvalidValueError("event.execution_id", f"must be {execution_id}", made.execution_id)
    if not isinstance(made.kind, kinds):
        raise InvalidValueError("event.kind", f"must be {' or '.join(kind.__name__ for kind in kinds)}", made.kind)
    found = getattr(made.kind, "node_id", None)
    if node_id is not None and found != node_id:
        raise InvalidValueError("event.kind.node_id", f"must be {node_id!r}", found)
