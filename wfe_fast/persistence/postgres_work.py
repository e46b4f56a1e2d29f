"""The operations of contract A on PostgreSQL: one call each, so that each is one round trip. What they do stands in the functions of the
migrations."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

from wfe_fast.codec import encode_line, with_exact_floats
from wfe_fast.database.base import Row, RunAgain, Session
from wfe_fast.database.postgres_block import PostgresBlock
from wfe_fast.database.postgres_session import StatementFailed
from wfe_fast.persistence.memory import Memory
from wfe_fast.persistence.models import FINAL_WORKFLOW_STATUSES, WorkflowStatus
from wfe_fast.persistence.pointers import Plan, Stored
from wfe_fast.persistence.postgres_statements import PostgresStatements
from wfe_fast.persistence.rows import json_list
from wfe_fast.persistence.work import Change, ClaimKey, Pairs, next_memory

#: The functions' word for: the row is not as the caller knows it, so everything has to be sent.
_STALE = "WFST1"

#: A revision moves by a random step. After a commit whose outcome is unknown the caller knows by the number whether it was his.
_STRIDE_BITS = 20


#: Seconds until events that other transactions hold up are said to be due again: the first time, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25


class PostgresWork:
    """See `work.Work`.

    Args:
        store: names the database, in errors and in what instances remember.
        bound_now: the present moment in microseconds, or None where the server's clock decides.
        block: the caller's transaction that this thread has open.
    """

    #: An attempt that finds nothing is one round trip, as a look would be.
    looks = None

    def __init__(
        self,
        sql: PostgresStatements,
        store: str,
        bound_now: Callable[[], int | None],
        block: Callable[[], PostgresBlock | None],
    ) -> None:
        self._sql = sql
        self._store = store
        self._now = bound_now
        self._block = block
        #: How long, in seconds, nobody need look whether events can be delivered that other transactions hold up; 0 = there are none.
        self._pause = 0.0
        self._paused_until = 0.0

    def opening(
        self, workflows: list[str], publishes: list[tuple[str, str]], awaits: list[tuple[str, str]]
    ) -> tuple[str, Row]:
        """The request by which a caller's transaction takes its locks."""
        return self._sql.lock, (json.dumps(publishes), json.dumps(awaits), json_list(workflows))

    def _value(self, session: Session, sql: str, *params: Any) -> Any:
        """The one value that a function returns."""
        row = session.one(sql, params)
        return None if row is None else row[0]

    #: JSONB has decimal numbers.
    json = staticmethod(with_exact_floats)

    # -- workflows -------------------------------------------------------------------------------------------------------------

    def create(self, session: Session, row: Row, plan: Plan) -> int:
        return int(self._value(session, self._sql.create, *row, _lists(plan.inserts)))

    def persist(self, session: Session, change: Change) -> Memory:
        if change.stride == 1:
            change.stride = 2 + random.getrandbits(_STRIDE_BITS)
        memory = change.memory
        if memory is not None:
            known = max(memory.revision, *memory.doubts) if memory.doubts else memory.revision
            change.revision = known + change.stride
        if memory is None or change.plan is None or not self._may_assume(change.id, memory):
            return self._overwrite(session, change)
        status = change.status
        row = None
        if not (
            change.head == memory.head and status is memory.status and change.complete_time == memory.complete_time
        ):
            row = _row(change)
        plan = change.plan
        try:
            revision = self._value(
                session,
                self._sql.persist,
                change.id,
                memory.seq,
                memory.revision,
                _array(memory.doubts),
                memory.control,
                memory.fence,
                change.release,
                change.expect_unchanged,
                change.revision,
                change.due,
                change.data,
                row,
                _lists(plan.deletes),
                _lists(plan.updates),
                _lists(plan.inserts),
                _lists(change.subscriptions),
                self._now(),
            )
        except StatementFailed as failed:
            if failed.code != _STALE:
                raise
            change.plan = None
            raise RunAgain from failed
        return next_memory(change, memory, status, change.complete_time, plan.result, revision)

    def _may_assume(self, id: str, memory: Memory) -> bool:
        """Whether it will turn out early enough that a row is not as `memory` says: later than the first answer to the caller a block cannot
        begin again."""
        block = self._block()
        known = (memory.seq, memory.revision, memory.control, memory.fence)
        return block is None or not block.answered or block.known.get(id) == known

    def _overwrite(self, session: Session, change: Change) -> Memory:
        """All of it, whatever is stored."""
        memory = change.memory
        pointers = [[pointer.id, line.decode()] for pointer, line in zip(change.pointers, change.lines, strict=True)]
        row = session.one(
            self._sql.overwrite,
            (
                change.id,
                *(
                    (None, None, None, None, None, None)
                    if memory is None
                    else (
                        memory.seq,
                        memory.revision,
                        _array(memory.doubts),
                        memory.control,
                        memory.fence,
                        memory.status.value,
                    )
                ),
                change.release,
                change.expect_unchanged,
                None if memory is None else change.revision,
                change.stride,
                change.due,
                change.data,
                _row(change),
                encode_line(pointers).decode(),
                _lists(change.subscriptions),
                self._now(),
            ),
        )
        assert row is not None  # the function returns a row, or raises
        seq, revision, control, status, completed = row
        change.revision = revision
        fence = None if memory is None else memory.fence
        known = Memory(self._store, seq, revision, control, fence, 0, change.status, None, change.head, (), None)
        ids = [pointer.id for pointer in change.pointers]
        stored = Stored(change.lines, ids, range(len(ids)), any(b"null" in line for line in change.lines))
        return next_memory(change, known, WorkflowStatus(status), completed, stored, revision)

    def change_status(
        self, session: Session, workflow_id: str, to: WorkflowStatus, only_from: list[WorkflowStatus] | None
    ) -> bool:
        sources = None if only_from is None else json_list(status.value for status in only_from)
        final = to in FINAL_WORKFLOW_STATUSES
        return bool(self._value(session, self._sql.change_status, workflow_id, to.value, sources, final, self._now()))

    def delete(self, session: Session, ids: list[str]) -> int:
        return int(self._value(session, self._sql.delete, json_list(ids)))

    def purge(self, session: Session, statuses: list[str], cutoff: int, limit: int) -> int:
        return int(self._value(session, self._sql.purge, json_list(statuses), cutoff, limit))

    # -- claims ----------------------------------------------------------------------------------------------------------------

    def claim(
        self, session: Session, worker_id: str, due: int | None, pairs: Pairs | None, limit: int, length: int
    ) -> list[Row]:
        return session.all(self._sql.claim, (worker_id, due, _pairs(pairs), limit, length, self._now()))

    def renew(self, session: Session, claims: list[ClaimKey], length: int) -> list[bool]:
        return [row[0] for row in session.all(self._sql.renew, (_lists(claims), length, self._now()))]

    def release(self, session: Session, claim: ClaimKey) -> bool:
        return bool(self._value(session, self._sql.release, *claim, self._now()))

    # -- events ----------------------------------------------------------------------------------------------------------------

    def events_since(
        self, session: Session, address: tuple[str, str], start: int, after_id: str | None, limit: int
    ) -> list[Row]:
        return session.all(self._sql.events_since, (*address, start, after_id, limit, self._block() is not None))

    def publish(self, session: Session, row: Row, limit: int) -> bool:
        return bool(self._value(session, self._sql.publish, *row[:5], limit, self._now()))

    def dispatch(self, session: Session, limit: int) -> int:
        row = session.one(self._sql.dispatch, (limit, self._now()))
        assert row is not None  # the function returns a row
        done, held_up = row
        if done or not held_up:
            self._pause = 0.0
        else:
            self._pause = min(2 * self._pause, _LONGEST_PAUSE) or _FIRST_PAUSE
            self._paused_until = time.monotonic() + self._pause
        return int(done)

    def take(self, session: Session, workflow_id: str, fence: int | None) -> list[Row]:
        return session.all(self._sql.take, (workflow_id, fence))

    # -- subscriptions ---------------------------------------------------------------------------------------------------------

    def set_token(self, session: Session, id: str, token: str, worker_id: str, expiry: int | None) -> bool:
        return bool(self._value(session, self._sql.set_subscription_token, id, token, worker_id, expiry, self._now()))

    def claim_open(
        self, session: Session, address: tuple[str, str], token: str, worker_id: str, length: int
    ) -> Row | None:
        return session.one(self._sql.claim_subscription, (*address, token, worker_id, length, self._now()))

    def renew_subscription(self, session: Session, id: str, token: str, length: int) -> bool:
        return session.run(self._sql.renew_subscription, (id, token, length, self._now())) == 1

    def complete(self, session: Session, id: str, token: str, data: str) -> None:
        self._value(session, self._sql.complete_subscription, id, token, data, self._now())

    # -- commands, errors, what comes next -------------------------------------------------------------------------------------

    def add_errors(self, session: Session, rows: list[Row]) -> None:
        session.run(self._sql.persist_errors, (_lists(rows),))

    def due_commands(self, session: Session, due: int) -> list[Row]:
        return session.all(self._sql.due_commands, (due, self._now()))

    def lease_command(self, session: Session, id: int, revision: int, length: int) -> int | None:
        until: int | None = self._value(session, self._sql.lease_command, id, revision, length, self._now())
        return until

    def finish_command(self, session: Session, id: int, revision: int, until: int) -> None:
        self._value(session, self._sql.finish_command, id, revision, until)

    def next_due(self, session: Session, pairs: Pairs | None) -> tuple[int | None, int]:
        left = self._paused_until - time.monotonic() if self._pause else 0.0
        wait = int(left * 1_000_000) if left > 0 else None
        row = session.one(self._sql.next_due, (_pairs(pairs), self._now(), wait))
        assert row is not None  # the function returns a row
        return row[0], row[1]


def _lists(rows: list[Any]) -> str | None:
    """Rows as the one text in which they travel; None for none."""
    return encode_line(rows).decode() if rows else None


def _array(numbers: tuple[int, ...]) -> str | None:
    """Numbers as the server reads an array; None for none."""
    return "{" + ",".join(map(str, numbers)) + "}" if numbers else None


def _pairs(pairs: Pairs | None) -> str | None:
    return None if pairs is None else json.dumps(pairs)


def _row(change: Change) -> str:
    """The fields that hardly ever change."""
    return encode_line([change.status.value, change.complete_time, *change.head]).decode()
