"""Workflows, their pointers and their claims on SQLite: small statements in one transaction, which nobody else writes in."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from wfe_fast.database.base import Row, Session
from wfe_fast.errors import ClaimLostError, ConcurrentUpdateError, WorkflowNotFoundError
from wfe_fast.persistence.memory import Memory
from wfe_fast.persistence.models import FINAL_WORKFLOW_STATUSES, WorkflowStatus
from wfe_fast.persistence.pointers import Plan, Stored, plan_changes
from wfe_fast.persistence.rows import json_list
from wfe_fast.persistence.sqlite_statements import SqliteStatements
from wfe_fast.persistence.work import Change, ClaimKey, Pairs, next_memory


class SqliteWorkflows:
    """See `work.WorkflowWork`.

    Args:
        store: names the database, in errors and in what instances remember.
        now: the present moment, in microseconds.
    """

    def __init__(self, sql: SqliteStatements, store: str, now: Callable[[], int]) -> None:
        self._sql = sql
        self._store = store
        self._now = now

    def create(self, session: Session, row: Row, plan: Plan) -> int:
        inserted = session.one(self._sql.insert_workflow, row)
        assert inserted is not None  # an INSERT with RETURNING returns its row, or raises
        id = row[0]
        session.run_many(self._sql.insert_pointer, [(id, *pointer) for pointer in plan.inserts])
        return int(inserted[0])

    def persist(self, session: Session, change: Change) -> Memory:
        """The transaction: in the common case one UPDATE that only succeeds where the row is as the caller knows it, and its pointers."""
        memory = change.memory
        if memory is None or change.plan is None or not self._update_row(session, change, memory, change.status):
            return self._persist_after_look(session, change)
        self._write_pointers(session, change.id, change.plan)
        if change.subscriptions:
            session.run_many(self._sql.create_event_subscription, change.subscriptions)
        return next_memory(change, memory, change.status, change.complete_time, change.plan.result, memory.revision + 1)

    def _update_row(self, session: Session, change: Change, known: Memory, status: WorkflowStatus) -> bool:
        step = (
            known.seq,
            change.id,
            self._now() // 1000,
            known.revision,
            known.control,
            known.fence,
            # Only its own claim is given back, not that of somebody who holds the workflow meanwhile.
            change.release and known.fence is not None,
            change.due,
            change.data,
        )
        if change.head == known.head and status is known.status and change.complete_time == known.complete_time:
            return session.run(self._sql.persist_step, step) == 1
        name, root, definition, version, description, reference, created = change.head
        row = (status.value, change.complete_time, name, root, definition, version, description, reference, created)
        return session.run(self._sql.persist_row, (*step, *row)) == 1

    def _write_pointers(self, session: Session, id: str, plan: Plan) -> None:
        if plan.deletes:
            session.run_many(self._sql.delete_pointer, [(id, position) for position in plan.deletes])
        for position, line in plan.updates:
            session.run(self._sql.update_pointer, (id, position, line))
        if plan.inserts:
            session.run_many(self._sql.insert_pointer, [(id, *pointer) for pointer in plan.inserts])

    def _persist_after_look(self, session: Session, change: Change) -> Memory:
        """Somebody changed the row, or the caller knows nothing of it: look, decide who wins, and write against what is there."""
        row = session.one(self._sql.persist_state, (change.id,))
        if row is None:
            raise WorkflowNotFoundError(change.id)
        seq, revision, control, fence, stored_status, stored_completed = row
        memory = change.memory
        held = memory is not None and memory.fence is not None
        if memory is not None:
            # Another number: deleted and created again.
            replaced = memory.seq != seq
            if held and (replaced or memory.fence != fence):
                raise ClaimLostError(change.id)
            changed = replaced or memory.revision != revision or (memory.control != control and not held)
            if change.expect_unchanged and changed:
                raise ConcurrentUpdateError(change.id)
        status = WorkflowStatus(stored_status)
        if memory is not None and held and memory.control != control and status is not memory.status:
            # Set beside the claim, by change_status: it stays, and the holder learns of it. One that has ended waits for nothing any more.
            subscriptions = [] if status in FINAL_WORKFLOW_STATUSES else change.subscriptions
            change = replace(change, complete_time=stored_completed, subscriptions=subscriptions)
        else:
            status = change.status
        return self._overwrite(session, change, seq, revision, control, fence if held else None, status)

    def _overwrite(
        self,
        session: Session,
        change: Change,
        seq: int,
        revision: int,
        control: int,
        fence: int | None,
        status: WorkflowStatus,
    ) -> Memory:
        """Write all of the workflow over what is stored now, which nobody else can change in this transaction."""
        rows = session.all(self._sql.stored_pointers, (change.id,))
        stored = Stored([row[2].encode() for row in rows], [row[1] for row in rows], [row[0] for row in rows])
        everything = list(range(len(change.lines)))
        plan = plan_changes(stored, change.lines, everything, change.pointers)
        # The stored head may be anybody's: one that equals no other has all fields written.
        known = Memory(
            self._store, seq, revision, control, fence, 0, status, None, ("", None, "", -1, None, None, 0), (), None
        )
        updated = self._update_row(session, change, known, status)
        assert updated  # the row was read in this transaction, and there is one writer at a time
        self._write_pointers(session, change.id, plan)
        session.run_many(self._sql.create_event_subscription, change.subscriptions)
        return next_memory(change, known, status, change.complete_time, plan.result, revision + 1)

    # -- control -----------------------------------------------------------------------------------------------------------------

    def change_status(
        self, session: Session, workflow_id: str, to: WorkflowStatus, only_from: list[WorkflowStatus] | None
    ) -> bool:
        sources = None if only_from is None else json_list(status.value for status in only_from)
        completed = self._now() if to in FINAL_WORKFLOW_STATUSES else None
        if session.run(self._sql.change_status, (workflow_id, to.value, sources, completed)):
            return True
        if session.one(self._sql.status_of, (workflow_id,)) is None:
            raise WorkflowNotFoundError(workflow_id)
        return False

    # -- claims ------------------------------------------------------------------------------------------------------------------

    def claimable(self, session: Session, due: int | None, pairs: Pairs | None) -> bool:
        return bool(self._claimable(session, due, pairs, 1))

    def _claimable(self, session: Session, due: int | None, pairs: Pairs | None, limit: int) -> list[Row]:
        """The oldest `limit` workflows that can be claimed: (next_execution, number, id)."""
        now = self._now()
        due = now // 1000 if due is None else due
        if pairs is None:
            return session.all(self._sql.claimable, (due, now, limit))
        found: list[Row] = []
        for pair in pairs:
            found += session.all(self._sql.claimable_of, (*pair, due, now, limit))
        return sorted(found)[:limit]

    def claim(
        self, session: Session, worker_id: str, due: int | None, pairs: Pairs | None, limit: int, length: int
    ) -> list[Row]:
        claimed = self._claimable(session, due, pairs, limit)
        # The clock is read inside the transaction: a lease begins when the claim is made, not when the thread began to wait for its turn.
        until = self._now() + length
        session.run_many(self._sql.claim, [(seq, worker_id, until) for _, seq, _ in claimed])
        rows = []
        for _, _, id in claimed:
            row = session.one(self._sql.get_workflow_instance, (id,))
            if row is not None:
                rows.append(row)
        return rows

    def renew(self, session: Session, claims: list[ClaimKey], length: int) -> list[bool]:
        until = self._now() + length
        return [session.run(self._sql.renew_claim, (*claim, until)) == 1 for claim in claims]

    def release(self, session: Session, claim: ClaimKey) -> bool:
        return session.run(self._sql.release_claim, (*claim, self._now() // 1000)) == 1

    # -- retention ---------------------------------------------------------------------------------------------------------------

    def purge(self, session: Session, statuses: list[str], cutoff: int, limit: int) -> int:
        ended: list[Row] = []
        for status in statuses:
            ended += session.all(self._sql.ended_before, (status, cutoff, limit))
        return self.delete(session, [id for _, id in sorted(ended)[:limit]]) if ended else 0

    def delete(self, session: Session, ids: list[str]) -> int:
        """Delete workflows with everything of them; how many there were."""
        wanted = (json_list(ids),)
        gone = session.run(self._sql.delete_workflows, wanted)
        if gone:  # of one that is not there, nothing else is dropped either
            session.run(self._sql.delete_subscriptions_of, wanted)
            session.run(self._sql.delete_errors_of, wanted)
            session.run(self._sql.delete_commands_of, wanted)
        return gone
