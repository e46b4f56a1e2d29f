"""The operations of contract B on SQLite: small statements in one transaction."""

from __future__ import annotations

from collections.abc import Callable

from wfe_fast.checkpoints.models import FINAL_STATUSES, ExecutionStatus, StepStatus
from wfe_fast.checkpoints.sqlite_statements import SqliteStatements
from wfe_fast.checkpoints.work import RUNNABLE, Claim, Progress
from wfe_fast.database.base import Row, Session
from wfe_fast.errors import ClaimLostError, ExecutionNotFoundError, WorkflowNotFoundError
from wfe_fast.stored import json_list

_RUNNING = ExecutionStatus.RUNNING.value
_FINAL = frozenset(status.value for status in FINAL_STATUSES)
_RUNNABLE = json_list(RUNNABLE)

#: Where a checkpoint's row has what a wait changes.
_STATUS, _OUTPUT, _MESSAGE, _ENDED, _TYPE, _IS_FINAL = 3, 5, 6, 10, 12, 13


class SqliteWork:
    """See `work.Work`.

    Args:
        now: the present moment in microseconds.
    """

    def __init__(self, sql: SqliteStatements, now: Callable[[], int]) -> None:
        self._sql = sql
        self._now = now

    @property
    def looks(self) -> SqliteWork:
        # An idle worker asks often and mostly in vain.
        return self

    def _refusal(self, session: Session, execution_id: str) -> Exception:
        """Why a write below an execution found nothing to write to."""
        if session.one(self._sql.execution_state, (execution_id,)) is None:
            return ExecutionNotFoundError(execution_id)
        return ClaimLostError(execution_id)

    # -- executions and what belongs to them -------------------------------------------------------------------------------------------

    def save_execution(self, session: Session, row: Row, fence: int | None) -> None:
        sql = self._sql.save_execution if fence is None else self._sql.save_claimed_execution
        if session.run(sql, row if fence is None else (*row, fence)):
            return
        if fence is not None:
            state = session.one(self._sql.execution_state, row[:1])
            if state is None:
                raise ExecutionNotFoundError(row[0])
            if state[1] != fence:
                raise ClaimLostError(row[0])
        raise WorkflowNotFoundError(row[1])

    def load_by_status(self, session: Session, statuses: list[str]) -> list[Row]:
        return [row for status in statuses for row in session.all(self._sql.load_executions_by_status, (status,))]

    def delete_completed_before(self, session: Session, statuses: list[str], cutoff: int) -> int:
        return sum(session.run(self._sql.delete_completed_before, (status, cutoff)) for status in statuses)

    def save_checkpoints(self, session: Session, rows: list[Row]) -> None:
        for row in rows:
            if not session.run(self._sql.save_checkpoint, row):
                raise self._refusal(session, row[0])

    def save_timer(self, session: Session, row: Row) -> None:
        if not session.run(self._sql.save_timer, row):
            raise self._refusal(session, row[1])

    def save_signal(self, session: Session, id: int | None, row: Row, wakes: bool) -> int:
        sql = self._sql.add_signal if id is None else self._sql.save_signal
        saved = session.one(sql, row if id is None else (id, *row))
        if saved is None:
            raise self._refusal(session, row[0])
        if wakes:
            session.run(self._sql.wake_waiting, (row[0], row[1], self._now()))
        return int(saved[0])

    # -- claims ------------------------------------------------------------------------------------------------------------------------

    def anything_claimable(
        self, session: Session, statuses: list[str], workflows: list[str] | None, without: str
    ) -> bool:
        return bool(self._claimable(session, statuses, 1, workflows, without))

    def _claimable(
        self, session: Session, statuses: list[str], limit: int, workflows: list[str] | None, without: str
    ) -> list[Row]:
        """The oldest `limit` executions that can be claimed: (created_at, id, whether a lease on it has ended)."""
        now = self._now()
        found: list[Row] = []
        for status in statuses:
            if workflows is None:
                found += session.all(self._sql.claimable, (status, now, without, limit))
            else:
                for workflow in workflows:
                    found += session.all(self._sql.claimable_of, (workflow, status, now, without, limit))
        return sorted(found)[:limit]

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
        claimed = self._claimable(session, statuses, limit, workflows, without)
        # The clock is read inside the transaction: a lease begins when the claim is made, not when the thread began to wait for its turn.
        until = self._now() + length
        session.run_many(self._sql.claim, [(id, worker_id, until) for _, id, _ in claimed])
        rows = []
        for _, id, taken_over in claimed:
            row = session.one(self._sql.load_execution, (id,))
            if row is not None:
                rows.append((*row, taken_over))
        return rows

    def renew(self, session: Session, claims: list[Claim], length: int) -> list[bool]:
        until = self._now() + length
        return [session.run(self._sql.renew_claim, (*claim, until)) == 1 for claim in claims]

    def release(self, session: Session, claim: Claim) -> None:
        session.run(self._sql.release_claim, claim)

    # -- what engines do ---------------------------------------------------------------------------------------------------------------

    def start(self, session: Session, workflow: Row, row: Row, length: int) -> tuple[Row, bool]:
        session.run(self._sql.add_workflow, workflow)
        until = None if row[-1] is None else self._now() + length
        is_new = session.run(self._sql.start_execution, (*row, until)) == 1
        stored = session.one(self._sql.load_execution, row[:1])
        assert stored is not None  # it was there, or was inserted, in this transaction
        return stored, is_new

    def advance(self, session: Session, progress: Progress) -> str:
        status = self._move(session, progress, progress.status, None, release=progress.release)
        for row in progress.timers:
            session.run(self._sql.save_timer, row)
        if status in _FINAL:
            self._settle(session, progress.execution_id)
        return status

    def _move(
        self, session: Session, progress: Progress, status: str, waiting_for: str | None, *, release: bool
    ) -> str:
        """Change the execution under its claim and store the checkpoints; the status that it has then."""
        now = self._now()
        goes_on = status == _RUNNING and progress.output is None and progress.error is None and not release
        id, fence = progress.execution_id, progress.fence
        if not goes_on or not session.run(
            self._sql.advance_step, (id, fence, progress.current_step, now, progress.counts)
        ):
            outcome = (progress.output, progress.error)
            row = (id, fence, status, progress.current_step, *outcome, now, waiting_for, release, progress.counts)
            if not session.run(self._sql.advance, row):
                raise self._refusal(session, id)
            state = session.one(self._sql.execution_state, (id,))
            assert state is not None  # it was changed just now
            status = str(state[0])
        for checkpoint in progress.checkpoints:
            session.run(self._sql.save_checkpoint, checkpoint)
        return status

    def _settle(self, session: Session, execution_id: str) -> None:
        """An execution has ended: nothing of it is waited for any more."""
        session.run(self._sql.cancel_timers, (execution_id,))
        session.run(self._sql.expire_signals, (execution_id,))

    def wait_for_signal(
        self, session: Session, progress: Progress, wait: Row, timed_out: tuple[str, str] | None
    ) -> tuple[str, Row]:
        id, index, name, attempt = wait[0], wait[1], wait[2], wait[7]
        before = session.one(self._sql.checkpoint_at, (id, index, attempt))
        if before is not None and before[4] != StepStatus.INTENT.value:
            return self._move(session, progress, _RUNNING, None, release=False), before
        signal = session.one(self._sql.oldest_signal, (id, name))
        row = list(wait)
        if signal is None and timed_out is None:
            status = self._move(session, progress, ExecutionStatus.SUSPENDED.value, name, release=True)
            for timer in progress.timers:
                session.run(self._sql.save_timer, timer)
        else:
            status = self._move(session, progress, _RUNNING, None, release=False)
            if status != ExecutionStatus.COMPENSATING.value:
                self._end_wait(session, row, signal, timed_out, progress.timers)
        session.run(self._sql.save_checkpoint, row)
        stored = session.one(self._sql.checkpoint_at, (id, index, attempt))
        assert stored is not None  # it was stored just now
        return status, stored

    def _end_wait(
        self,
        session: Session,
        row: list[object],
        signal: Row | None,
        timed_out: tuple[str, str] | None,
        timers: list[Row],
    ) -> None:
        """Let the wait's row have its outcome: the signal, or that it did not come in time."""
        row[_ENDED] = self._now()
        if signal is not None:
            row[_STATUS], row[_OUTPUT] = StepStatus.COMPLETED.value, signal[1]
            session.run(self._sql.deliver_signal, signal[:1])
        elif timed_out is not None:
            row[_STATUS], row[_IS_FINAL] = StepStatus.FAILED.value, 1
            row[_TYPE], row[_MESSAGE] = timed_out
        for timer in timers:
            session.run(self._sql.cancel_timer, timer[:1])

    def cancel(self, session: Session, execution_id: str, compensate: bool) -> bool:
        now = self._now()
        if not compensate and session.run(self._sql.cancel_execution, (execution_id, now)):
            self._settle(session, execution_id)
            return True
        if session.run(self._sql.cancel_and_compensate, (execution_id, now)):
            return True
        if session.one(self._sql.execution_state, (execution_id,)) is None:
            raise ExecutionNotFoundError(execution_id)
        return False

    # -- what is due -------------------------------------------------------------------------------------------------------------------

    def anything_due(self, session: Session) -> bool:
        now = self._now()
        rows = (session.one(self._sql.next_due), session.one(self._sql.next_expiry))
        return any(row is not None and row[0] <= now for row in rows)

    def wake_due(self, session: Session, limit: int) -> int:
        now = self._now()
        timers = session.all(self._sql.load_due_timers, (now, limit))
        expired = session.all(self._sql.expired_executions, (now, limit))
        if timers:
            session.run(self._sql.fire_timers, (json_list(timer[0] for timer in timers),))
        ids = [*(timer[1] for timer in timers), *(row[0] for row in expired)]
        if ids:
            session.run(self._sql.wake_executions, (json_list(dict.fromkeys(ids)), now))
        return len(ids)

    def next_work(self, session: Session, workflows: list[str], without: str) -> tuple[int | None, int]:
        now = self._now()
        known = json_list(workflows)
        if session.one(self._sql.any_claimable, (known, _RUNNABLE, now, without)):
            return now, now
        rows = (
            session.one(self._sql.next_due),
            session.one(self._sql.next_expiry),
            session.one(self._sql.next_lease_end, (known, _RUNNABLE, without)),
        )
        return min((row[0] for row in rows if row is not None and row[0] is not None), default=None), now
