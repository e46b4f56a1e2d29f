"""What was given up, and what has been kept long enough."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from wfe_fast.checks import check_limit
from wfe_fast.clock import Duration, to_micros
from wfe_fast.database.base import UniqueViolation
from wfe_fast.errors import DeadLetterNotFoundError, DuplicateWorkItemError
from wfe_fast.paging import EVER
from wfe_fast.state.checks import NO_ID, check_id, cutoff, page_key, parse_page_key
from wfe_fast.state.models import DeadLetter, Page, WorkItem
from wfe_fast.state.operations import all_rows, one
from wfe_fast.state.rows import dead_letter_from, item_from
from wfe_fast.state.tokens import TokenMethods


class RetentionMethods(TokenMethods):
    """See `contract.DeadLetterOperations` and `contract.RetentionOperations`."""

    # -- dead letters --------------------------------------------------------------------------------------------------------------

    def list_dead_letters(self, limit: int = 100, after: str | DeadLetter | None = None) -> Page[DeadLetter]:
        most = check_limit(limit)
        key = parse_page_key(_page_key(after) if isinstance(after, DeadLetter) else after)
        span = (*(key or (-EVER, NO_ID)), most + 1)
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
            row = self._write(one, self._sql.requeue_dead_letter, (id, self._tenant, self._bound_now()))
        except UniqueViolation as error:
            raise DuplicateWorkItemError(id, "node_id") from error
        if row is None:
            raise DeadLetterNotFoundError(id)
        return item_from(row, self._store)

    def purge_dead_letters(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        return self._purge("dead_letters", older_than, limit)

    # -- retention -----------------------------------------------------------------------------------------------------------------

    def purge_work_items(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        return self._purge("work_items", older_than, limit)

    def purge_tokens(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        return self._purge("tokens", older_than, limit)

    def _purge(self, what: str, older_than: datetime | Duration, limit: int) -> int:
        return self._write(self._work.purge, what, cutoff(older_than, self._now()), check_limit(limit))

    def purge_events(self, older_than: datetime | Duration, limit: int = 1000) -> int:
        return self._write(self._work.purge_events, cutoff(older_than, self._now()), check_limit(limit))


def _page_key(letter: DeadLetter) -> str:
    """Where a page that ends with `letter` goes on."""
    return page_key(to_micros(letter.dead_lettered_at), letter.id)
