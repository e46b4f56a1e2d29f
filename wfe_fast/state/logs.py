"""Events, snapshots, and the state that follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from wfe_fast.checks import check_model, check_sequence
from wfe_fast.database.base import UniqueViolation
from wfe_fast.errors import DuplicateSnapshotError, InvalidValueError
from wfe_fast.state.checks import check_id, check_sequence_number
from wfe_fast.state.materialize import materialized
from wfe_fast.state.models import Event, MaterializedState, Snapshot
from wfe_fast.state.operations import all_rows, execution_id_of, one
from wfe_fast.state.rows import event_from, event_row, snapshot_from, snapshot_row
from wfe_fast.state.tenants import TenantMethods


class LogMethods(TenantMethods):
    """See `contract.EventOperations` and `contract.SnapshotOperations`."""

    # -- append ------------------------------------------------------------------------------------------------------------------

    def append_event(self, event: Event, *, expected_sequence: int | None = None) -> int:
        row = event_row(event)
        if expected_sequence is not None:
            check_sequence_number(expected_sequence, "expected_sequence")
        return self._repeat(self._work.append_events, str(event.execution_id), [row], expected_sequence)[0]

    def append_events(self, events: Sequence[Event], *, expected_sequence: int | None = None) -> list[int]:
        checked = check_sequence(events, Event, "events")
        rows = [event_row(event, f"events[{index}]") for index, event in enumerate(checked)]
        if expected_sequence is not None:
            check_sequence_number(expected_sequence, "expected_sequence")
        executions = {event.execution_id for event in checked}
        if len(executions) > 1:
            raise InvalidValueError("events", "must be of one execution", executions)
        if not rows:
            return []
        return self._repeat(self._work.append_events, str(executions.pop()), rows, expected_sequence)

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
            self._repeat(self._work.write_snapshot, str(snapshot.execution_id), row)
        except UniqueViolation as error:
            raise DuplicateSnapshotError(row[1]) from error

    def latest_snapshot(self, execution_id: UUID) -> Snapshot | None:
        text, id = execution_id_of(execution_id)
        row = self._read(one, self._sql.latest_snapshot, (text, self._tenant))
        return None if row is None else snapshot_from(row, id, self._store)

    def materialize(self, execution_id: UUID) -> MaterializedState:
        rows = self._snapshot(self._work.read_fold, check_id(execution_id, "execution_id"))
        return materialized(rows, self._store)


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
