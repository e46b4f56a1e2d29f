"""The operations of contract C on SQLite: transitions, effects, tokens and retention, on top of executions and items."""

from __future__ import annotations

from wfe_fast.database.base import Row, Session
from wfe_fast.errors import (
    InvalidTransitionError,
    InvalidValueError,
    TenantNotFoundError,
    TokenNotFoundError,
)
from wfe_fast.state.models import WorkflowStatus
from wfe_fast.state.rows import NewEvent
from wfe_fast.state.sqlite_items import SqliteItems
from wfe_fast.state.work import NOTE_EVERY, Effect, Looks, Reserved


class SqliteWork(SqliteItems):
    """See `work.Work`."""

    @property
    def looks(self) -> Looks:
        """An idle worker asks often and mostly in vain: a read, that no writer waits for."""
        return self

    # -- changes that belong together --------------------------------------------------------------------------------------------------

    def start(self, session: Session, tenant: str, row: Row, events: list[NewEvent], item: Row | None) -> list[int]:
        head = self._create(session, tenant, row)
        numbers = self._append_to(session, head, row[0], events)
        if item is not None:
            self._add_item(session, head, row[0], item, self._now())
        return numbers

    def schedule(self, session: Session, execution_id: str, event: NewEvent, item: Row) -> int:
        head = self._head(session, execution_id)
        known = self._known(session, head.execution, event.id)
        if known is not None and session.one(self._sql.item_exists, (item[0], head.execution)):
            return known  # done before, by a call whose answer was lost
        now = self._now()
        self._admit(session, head.tenant_id, now)
        (number,) = self._append_to(session, head, execution_id, [event])
        self._add_item(session, head, execution_id, item, now)
        return number

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
        now = self._now()
        execution, found, node, tenant = self._settle(session, held, "completed" if completed else "failed", now)
        # The caller's item may have been changed since it was claimed: what counts is the stored one.
        if (execution_id, event.node_id) != (found, node):
            raise InvalidValueError("event", "is not about the item's own execution and node", execution_id)
        head = self._log_head(session, execution, tenant)
        (number,) = self._append_to(session, head, execution_id, [event])
        if effect is not None:
            # The first result stays, and the reservation goes.
            session.run(self._sql.record_effect, (effect.key, tenant, execution, node, effect.result, now))
            session.run(self._sql.drop_reservation, (effect.key, tenant))
        if snapshot:
            self._take_snapshot(session, head, now)
        return number

    def finish(self, session: Session, execution_id: str, event: NewEvent, wanted: WorkflowStatus) -> int:
        head = self._head(session, execution_id)
        if head.status == wanted.value:
            known = self._known(session, head.execution, event.id)
            if known is None:
                raise InvalidTransitionError(execution_id, head.status, wanted.value)
            return known  # done before, by a call whose answer was lost
        self._set_status(session, head, execution_id, wanted, self._now())
        return self._append_to(session, head, execution_id, [event])[0]

    def reserve(
        self, session: Session, key: str, execution_id: str, node: str, reserver: tuple[str, int], length: int
    ) -> Reserved:
        head = self._head(session, execution_id)
        recorded = session.one(self._sql.get_tool_effect, (key, head.tenant_id))
        if recorded is not None:
            return Reserved(result=recorded[0])
        now = self._now()
        params = (key, head.tenant_id, head.execution, node, *reserver, now, now + length)
        if session.run(self._sql.reserve_tool_effect, params):
            return Reserved()
        row = session.one(self._sql.reservation_of, (key, head.tenant_id))
        assert row is not None  # it was in the way a moment ago, in this transaction
        return Reserved(owner=row[0], until=row[1])

    # -- tokens ------------------------------------------------------------------------------------------------------------------------

    def create_token(self, session: Session, row: Row) -> int:
        id, tenant, hashed, name, role, expires = row
        if session.one(self._sql.tenant_gate, (tenant,)) is None:
            raise TenantNotFoundError(tenant)
        now = self._now()
        session.run(self._sql.create_token, (id, tenant, hashed, name, role, now, expires))
        return now

    def find_token(self, session: Session, hashed: str) -> tuple[Row | None, bool]:
        now = self._now()
        row = session.one(self._sql.validate_token, (hashed, now))
        return row, row is not None and (row[6] is None or row[6] <= now - NOTE_EVERY)

    def note_use(self, session: Session, hashed: str) -> int | None:
        now = self._now()
        return now if session.run(self._sql.note_use, (hashed, now, now - NOTE_EVERY)) else None

    def list_tokens(self, session: Session) -> list[Row]:
        tenants = self._tenants_in_scope(session)
        return [row for tenant in tenants for row in session.all(self._sql.list_tokens, (tenant,))]

    def rotate_token(self, session: Session, old: str, new: str, hashed: str) -> Row:
        now = self._now()
        ended = session.one(self._sql.end_token, (old, self._tenant, now))
        if ended is None:
            raise TokenNotFoundError(old)
        name, role, expires, tenant = ended
        session.run(self._sql.create_token, (new, tenant, hashed, name, role, now, expires))
        return tenant, name, role, now, expires

    # -- retention ---------------------------------------------------------------------------------------------------------------------

    def purge(self, session: Session, what: str, before: int, limit: int) -> int:
        sql = {
            "dead_letters": self._sql.purge_dead_letters,
            "work_items": self._sql.purge_work_items,
            "tokens": self._sql.purge_tokens,
        }[what]
        deleted = 0
        for tenant in self._tenants_in_scope(session):
            if deleted < limit:
                deleted += session.run(sql, (tenant, before, limit - deleted))
        return deleted

    def purge_events(self, session: Session, before: int, limit: int) -> int:
        ended: list[tuple[int, str]] = []
        for tenant in self._tenants_in_scope(session):
            if len(ended) < limit:
                rows = session.all(self._sql.ended_executions, (tenant, before, limit - len(ended)))
                ended += [(row[0], tenant) for row in rows]
        deleted = 0
        for execution, tenant in ended:
            head = self._log_head(session, execution, tenant)
            if head.snapshot_at < head.last_sequence:
                # What the events say stays: the snapshot takes their place.
                self._take_snapshot(session, head, self._now())
            deleted += session.run(self._sql.purge_events, (execution,))
            session.run(self._sql.note_purge, (execution,))
        return deleted
