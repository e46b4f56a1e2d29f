"""The operations of contract C on PostgreSQL: one call each, so that each is one round trip. What they do stands in the functions of the
migrations."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from wfe_fast.codec import encode_line
from wfe_fast.database.base import Row, Session
from wfe_fast.state.models import TERMINAL_STATUSES, TRANSITIONS, WorkflowStatus
from wfe_fast.state.postgres_statements import PostgresStatements
from wfe_fast.state.rows import NewEvent
from wfe_fast.state.work import EXPIRED, LARGEST_SWEEP, NOTE_EVERY, Effect, Ended, FoldRows, Reserved
from wfe_fast.stored import json_list

#: For each status, as a list in JSON, those that lead to it.
_LEADING_TO = {
    wanted: json_list(status.value for status, following in TRANSITIONS.items() if wanted in following)
    for wanted in WorkflowStatus
}


class PostgresWork:
    """See `work.Work`.

    Args:
        tenant: the only tenant whose rows there are; None = all.
        bound_now: the present moment in microseconds, or None where the server's clock decides.
        snapshot_every, keep_snapshots: see `PostgresBackend`.
    """

    #: An attempt that finds nothing is one round trip, as a look would be.
    looks = None

    def __init__(
        self,
        sql: PostgresStatements,
        tenant: str | None,
        bound_now: Callable[[], int | None],
        snapshot_every: int | None,
        keep_snapshots: int | None,
    ) -> None:
        self._sql = sql
        self._tenant = tenant
        self._now = bound_now
        self._snapshots = (snapshot_every, keep_snapshots)

    def _value(self, session: Session, sql: str, *params: Any) -> Any:
        """The one value that a function returns."""
        row = session.one(sql, params)
        return None if row is None else row[0]

    def _numbers(self, session: Session, sql: str, *params: Any) -> list[int]:
        """What a function returns that stores events; its last parameters are the options for snapshots and the present moment."""
        found: list[int] = json.loads(self._value(session, sql, *params, *self._snapshots, self._now()))
        return found

    def prepare(self, session: Session) -> tuple[int, str | None]:
        """Store what every store has; the server's time, and the role as which views may work."""
        row = session.one(self._sql.prepare)
        assert row is not None  # a SELECT without FROM returns a row
        return row[0], row[1]

    # -- executions, events, snapshots -------------------------------------------------------------------------------------------------

    def store_workflow(self, session: Session, row: Row) -> None:
        self._value(session, self._sql.store_workflow, *row, self._now())

    def create_execution(self, session: Session, tenant: str, row: Row) -> None:
        self._value(session, self._sql.create_execution, tenant, _text(row), self._now())

    def change_status(self, session: Session, id: str, wanted: WorkflowStatus) -> None:
        final = wanted in TERMINAL_STATUSES
        sources = _LEADING_TO[wanted]
        self._value(session, self._sql.change_status, id, self._tenant, wanted.value, sources, final, self._now())

    def patch_append_array(self, session: Session, id: str, key: str, value: str) -> None:
        self._value(session, self._sql.patch_append_array, id, self._tenant, key, value, self._now())

    def append_events(
        self, session: Session, execution_id: str, events: list[NewEvent], expected: int | None
    ) -> list[int]:
        return self._numbers(session, self._sql.append_events, execution_id, self._tenant, expected, _text(events))

    def write_snapshot(self, session: Session, execution_id: str, row: Row) -> None:
        self._value(session, self._sql.write_snapshot, execution_id, self._tenant, *row, self._snapshots[1])

    def read_fold(self, session: Session, execution_id: str) -> FoldRows:
        base, *tail = session.all(self._sql.materialize, (execution_id, self._tenant))
        at, _, state, *others = base
        return (at, state, *others), [row[:3] for row in tail]

    # -- work items --------------------------------------------------------------------------------------------------------------------

    def enqueue(self, session: Session, execution_id: str, row: Row) -> None:
        self._value(session, self._sql.enqueue, execution_id, self._tenant, _text(row), self._now())

    def claim(self, session: Session, worker: str, queues: list[str], length: int, most: int) -> list[Row]:
        what = (worker, json_list(queues), self._tenant, length, most, LARGEST_SWEEP, EXPIRED)
        return session.all(self._sql.claim, (*what, *self._snapshots, self._now()))

    def renew_lease(self, session: Session, id: str, fence: int, length: int) -> int | None:
        until: int | None = self._value(session, self._sql.renew_lease, id, fence, self._tenant, length, self._now())
        return until

    def complete(self, session: Session, id: str, fence: int) -> bool:
        return session.run(self._sql.complete_work_item, (id, fence, self._tenant, self._now())) == 1

    def fail(self, session: Session, id: str, fence: int, error: str) -> Ended:
        row = session.one(self._sql.fail, (id, fence, self._tenant, error, *self._snapshots, self._now()))
        assert row is not None  # the function returns a row, or raises
        return Ended(row[:-2], *row[-2:])

    def reclaim(self, session: Session) -> list[Ended]:
        rows = session.all(self._sql.reclaim, (self._tenant, EXPIRED, *self._snapshots, self._now()))
        return [Ended(row[:-2], *row[-2:]) for row in rows]

    def bury(self, session: Session, id: str, fence: int | None, error: str) -> None:
        self._value(session, self._sql.bury, id, fence, self._tenant, error, *self._snapshots, self._now())

    # -- transitions and effects -------------------------------------------------------------------------------------------------------

    def start(self, session: Session, tenant: str, row: Row, events: list[NewEvent], item: Row | None) -> list[int]:
        execution, first = _text(row), None if item is None else _text(item)
        return self._numbers(
            session, self._sql.start_execution, tenant, row[0], execution, _text(events), row[3], first
        )

    def schedule(self, session: Session, execution_id: str, event: NewEvent, item: Row) -> int:
        what = (execution_id, self._tenant, event.id, _text([event]), item[0], _text(item))
        return self._numbers(session, self._sql.schedule_node, *what)[0]

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
        status = "completed" if completed else "failed"
        what = (*held, self._tenant, status, execution_id, event.node_id, _text([event]))
        return self._numbers(session, self._sql.commit_turn, *what, *(effect or (None, None)), snapshot)[0]

    def finish(self, session: Session, execution_id: str, event: NewEvent, wanted: WorkflowStatus) -> int:
        what = (execution_id, self._tenant, event.id, _text([event]), wanted.value, _LEADING_TO[wanted])
        return self._numbers(session, self._sql.finish_execution, *what)[0]

    def reserve(
        self, session: Session, key: str, execution_id: str, node: str, reserver: tuple[str, int], length: int
    ) -> Reserved:
        what = (key, execution_id, self._tenant, node, *reserver, length, self._now())
        row = session.one(self._sql.reserve_tool_effect, what)
        assert row is not None  # the function returns a row, or raises
        return Reserved(*row)

    # -- tokens and retention ----------------------------------------------------------------------------------------------------------

    def create_token(self, session: Session, row: Row) -> int:
        return int(self._value(session, self._sql.create_token, *row, self._now()))

    def find_token(self, session: Session, hashed: str) -> tuple[Row | None, bool]:
        return session.one(self._sql.validate_token, (hashed, NOTE_EVERY, self._now())), False

    def note_use(self, session: Session, hashed: str) -> int | None:
        row, _ = self.find_token(session, hashed)
        return None if row is None else row[6]

    def list_tokens(self, session: Session) -> list[Row]:
        if self._tenant is None:
            return session.all(self._sql.list_tokens)
        return session.all(self._sql.list_tokens_of_tenant, (self._tenant,))

    def rotate_token(self, session: Session, old: str, new: str, hashed: str) -> Row:
        row = session.one(self._sql.rotate_token, (old, self._tenant, new, hashed, self._now()))
        assert row is not None  # the function returns a row, or raises
        return row

    def purge(self, session: Session, what: str, before: int, limit: int) -> int:
        return int(self._value(session, self._sql.purge, what, self._tenant, before, limit))

    def purge_events(self, session: Session, before: int, limit: int) -> int:
        what = (self._tenant, before, limit, self._snapshots[1], self._now())
        return int(self._value(session, self._sql.purge_events, *what))


def _text(rows: Any) -> str:
    """A row, or several, as the one text in which they travel."""
    return encode_line(rows).decode()
