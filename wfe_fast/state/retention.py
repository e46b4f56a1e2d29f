"""What was given up, and what has been kept long enough."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from wfe_fast.checks import check_limit
from wfe_fast.clock import Duration, to_micros
from wfe_fast.database.base import Row, Session, UniqueViolation
from wfe_fast.errors import DeadLetterNotFoundError, DuplicateWorkItemError
from wfe_fast.state.checks import check_id, cutoff, page_key, parse_page_key
from wfe_fast.state.models import DeadLetter, Page, WorkItem
from wfe_fast.state.operations import all_rows, one
from wfe_fast.state.rows import dead_letter_from, item_from
from wfe_fast.state.tokens import TokenMethods

#: Before any datetime, in microseconds.
_EVER = -(2**62)


class RetentionMethods(TokenMethods):
    """See `contract.DeadLetterOperations` and `contract.RetentionOperations`."""

    # -- dead letters --------------------------------------------------------------------------------------------------------------

    def list_dead_letters(self, limit: int = 100, after: str | DeadLetter | None = None) -> Page[DeadLetter]:
        most = check_limit(limit)
        key = parse_page_key(_page_key(after) if isinstance(after, DeadLetter) else after)
        span = (*(key or (_EVER, "")), most + 1)
        if self._tenant is None:
            rows = self._read(all_rows, self._sql.list_dead_letters, span)
        else:
            rows = self._read(all_rows, self._sql.list_dead_letters_of_tenant, (self._tenant, *span))
        items = [dead_letter_from(row, self._store) for row in rows[:most]]
        return Page(items, _page_key(items[-1]) if len(rows) > most else None)

    def get_dead_letter(self, item_id: UUID) -> DeadLetter:
        id = check_id(item_id, "item_id")
        row = self._read(one, self._sql.get_dead_letter, (id, self._tenant))
        if row is None:
            raise DeadLetterNotFoundError(id)
        return dead_letter_from(row, self._store)

    def requeue_dead_letter(self, item_id: UUID) -> WorkItem:
        id = check_id(item_id, "item_id")
        try:
            row = self._write(self._requeue, id)
        except UniqueViolation as error:
            raise DuplicateWorkItemError(id, "node_id") from error
        return item_from(row, self._store)

    def _requeue(self, session: Session, id: str) -> Row:
        row = session.one(self._sql.requeue_dead_letter, (id, self._tenant, self._now()))
        if row is None:
            raise DeadLetterNotFoundError(id)
        return row

    def purge_dead_letters(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        return self._purge(self._sql.purge_dead_letters, older_than, limit)

    # -- retention -----------------------------------------------------------------------------------------------------------------

    def purge_work_items(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        return self._purge(self._sql.purge_work_items, older_than, limit)

    def purge_tokens(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        return self._purge(self._sql.purge_tokens, older_than, limit)

    def _purge(self, sql: str, older_than: datetime | Duration, limit: int) -> int:
        return self._write(self._purge_rows, sql, cutoff(older_than, self._now()), check_limit(limit))

    def _purge_rows(self, session: Session, sql: str, before: int, limit: int) -> int:
        deleted = 0
        for tenant in self._tenants_in_scope(session):
            if deleted < limit:
                deleted += session.run(sql, (tenant, before, limit - deleted))
        return deleted

    def purge_events(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        return self._write(self._purge_events, cutoff(older_than, self._now()), check_limit(limit))

    def _purge_events(self, session: Session, before: int, limit: int) -> int:
        ended: list[Row] = []
        for tenant in self._tenants_in_scope(session):
            if len(ended) < limit:
                ended += session.all(self._sql.ended_executions, (tenant, before, limit - len(ended)))
        deleted = 0
        for (execution,) in ended:
            log = session.one(self._sql.log_of, (execution,))
            if log is not None and log[1] < log[0]:
                # What the events say stays: the snapshot takes their place.
                self._take_snapshot(session, execution, self._now())
            deleted += session.run(self._sql.purge_events, (execution,))
            session.run(self._sql.note_purge, (execution,))
        return deleted


def _page_key(letter: DeadLetter) -> str:
    """Where a page that ends with `letter` goes on."""
    return page_key(to_micros(letter.dead_lettered_at), letter.id)
