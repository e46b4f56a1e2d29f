"""The operations of contract B on PostgreSQL: one call each, so that each is one round trip. What they do stands in the functions of the
migrations."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from wfe_fast.checkpoints.models import ExecutionStatus
from wfe_fast.checkpoints.postgres_statements import PostgresStatements
from wfe_fast.checkpoints.work import Claim, Progress
from wfe_fast.codec import encode_line
from wfe_fast.database.base import Row, Session
from wfe_fast.stored import json_list

_RUNNING = ExecutionStatus.RUNNING.value

#: Where a checkpoint's row has what makes its key, and what is a truth value here.
_ID, _INDEX, _ATTEMPT, _IS_FINAL = 0, 1, 7, 13


class PostgresWork:
    """See `work.Work`.

    Args:
        bound_now: the present moment in microseconds, or None where the server's clock decides.
    """

    #: An attempt that finds nothing is one round trip, as a look would be.
    looks = None

    def __init__(self, sql: PostgresStatements, bound_now: Callable[[], int | None]) -> None:
        self._sql = sql
        self._now = bound_now

    def _value(self, session: Session, sql: str, *params: Any) -> Any:
        """The one value that a function returns."""
        row = session.one(sql, params)
        return None if row is None else row[0]

    # -- executions and what belongs to them -------------------------------------------------------------------------------------------

    def save_execution(self, session: Session, row: Row, fence: int | None) -> None:
        session.run(self._sql.save_execution, (*row, fence))

    def load_by_status(self, session: Session, statuses: list[str]) -> list[Row]:
        return session.all(self._sql.load_by_status, (json_list(statuses),))

    def delete_completed_before(self, session: Session, statuses: list[str], cutoff: int) -> int:
        return session.run(self._sql.delete_completed_before, (json_list(statuses), cutoff))

    def save_checkpoints(self, session: Session, rows: list[Row]) -> None:
        session.run(self._sql.save_checkpoints, (_checkpoints(rows),))

    def save_timer(self, session: Session, row: Row) -> None:
        session.run(self._sql.save_timer, (row[1], row[-1], _lists([row])))

    def save_signal(self, session: Session, id: int | None, row: Row, wakes: bool) -> int:
        return int(self._value(session, self._sql.save_signal, id, *row, wakes, self._now()))

    # -- claims ------------------------------------------------------------------------------------------------------------------------

    def claim(
        self,
        session: Session,
        worker_id: str,
        statuses: list[str],
        limit: int,
        length: int,
        workflows: list[str] | None,
        without: str,
    ) -> list[Row]:
        known = None if workflows is None else json_list(workflows)
        params = (worker_id, json_list(statuses), limit, length, known, without, self._now())
        return session.all(self._sql.claim, params)

    def renew(self, session: Session, claims: list[Claim], length: int) -> list[bool]:
        return [row[0] for row in session.all(self._sql.renew, (_lists(claims), length, self._now()))]

    def release(self, session: Session, claim: Claim) -> None:
        session.run(self._sql.release, claim)

    # -- what engines do ---------------------------------------------------------------------------------------------------------------

    def start(self, session: Session, workflow: Row, row: Row, length: int) -> tuple[Row, bool]:
        stored = session.one(self._sql.start, (*workflow, *row, length, self._now()))
        assert stored is not None  # the function returns a row
        return stored[:-1], stored[-1]

    def advance(self, session: Session, progress: Progress) -> str:
        goes_on = progress.status == _RUNNING and progress.output is None and progress.error is None
        if goes_on and not progress.release and not progress.timers and len(progress.checkpoints) == 1:
            return self._step(session, progress, progress.checkpoints[0])
        stored = self._value(
            session,
            self._sql.advance,
            progress.execution_id,
            progress.fence,
            progress.status,
            progress.current_step,
            progress.output,
            progress.error,
            progress.release,
            progress.counts,
            _checkpoints(progress.checkpoints),
            _lists(progress.timers),
            self._now(),
        )
        return str(stored)

    def _step(self, session: Session, progress: Progress, row: Row) -> str:
        """One more step is recorded, and the execution goes on."""
        position = (progress.execution_id, progress.fence, progress.current_step)
        params = (*position, *row[_INDEX:_IS_FINAL], row[_IS_FINAL] == 1, self._now())
        return str(self._value(session, self._sql.step, *params))

    def wait_for_signal(
        self, session: Session, progress: Progress, wait: Row, timed_out: tuple[str, str] | None
    ) -> tuple[str, Row]:
        row = session.one(
            self._sql.wait_for_signal,
            (
                progress.execution_id,
                progress.fence,
                progress.current_step,
                encode_line(wait).decode(),
                _checkpoints(progress.checkpoints),
                _lists(progress.timers),
                *(timed_out or (None, None)),
                self._now(),
            ),
        )
        assert row is not None  # the function returns a row
        return row[0], row[1:]

    def cancel(self, session: Session, execution_id: str, compensate: bool) -> bool:
        return bool(self._value(session, self._sql.cancel, execution_id, compensate, self._now()))

    # -- what is due -------------------------------------------------------------------------------------------------------------------

    def wake_due(self, session: Session, limit: int) -> int:
        return int(self._value(session, self._sql.wake_due, limit, self._now()))

    def next_work(self, session: Session, workflows: list[str], without: str) -> tuple[int | None, int]:
        row = session.one(self._sql.next_work, (json_list(workflows), without, self._now()))
        assert row is not None  # the function returns a row
        return row[0], row[1]


def _lists(rows: Iterable[Row]) -> str | None:
    """Rows as the one text in which they travel; None for none."""
    listed = list(rows)
    return encode_line(listed).decode() if listed else None


def _checkpoints(rows: list[Row]) -> str | None:
    """The same of checkpoints. One statement stores them, so that a position and attempt may be there once: the last one counts."""
    if len(rows) > 1:
        rows = list({(row[_ID], row[_INDEX], row[_ATTEMPT]): row for row in rows}.values())
    return _lists(rows)
