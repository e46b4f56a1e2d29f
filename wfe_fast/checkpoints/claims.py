"""Who works on an execution: leases with fencing numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from wfe_fast.checkpoints.models import ExecutionStatus, WorkflowExecution
from wfe_fast.checkpoints.operations import Operations
from wfe_fast.checkpoints.rows import fence_of
from wfe_fast.checks import check_enums, check_identifier, check_ids, check_limit, check_name, check_sequence
from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.database.base import Row, Session
from wfe_fast.errors import ClaimLostError
from wfe_fast.stored import json_list

_MICROS = 1_000_000

#: A claim, as it is written down: execution and fencing number.
Claim = tuple[str, "int | None"]


class ClaimMethods(Operations):
    """See `contract.ClaimOperations`."""

    def claim_executions(
        self,
        worker_id: str,
        statuses: ExecutionStatus | Collection[ExecutionStatus],
        limit: int = 1,
        lease: Duration = 30.0,
        *,
        workflows: Iterable[str] | None = None,
        without: Iterable[str] = (),
    ) -> list[WorkflowExecution]:
        check_name(worker_id, "worker_id")
        states = [status.value for status in check_enums(statuses, ExecutionStatus, "statuses")]
        check_limit(limit)
        length = lease_micros(lease)
        known = None if workflows is None else check_workflows(workflows)
        left_out = json_list(check_ids(without, "without"))
        # An idle worker asks often and mostly in vain: that costs a read, and no writer waits for it.
        if not self._in_block() and not self._snapshot(self._do_claimable, states, 1, known, left_out):
            return []
        rows = self._write(self._do_claim, worker_id, states, limit, length, known, left_out)
        return [self._from.execution(row[:-1], claimed=True, taken_over=bool(row[-1])) for row in rows]

    def _do_claimable(
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

    def _do_claim(
        self,
        session: Session,
        worker_id: str,
        statuses: list[str],
        limit: int,
        length: int,
        workflows: list[str] | None,
        without: str,
    ) -> list[Row]:
        """Claim the oldest ones: their columns, and whether a lease had ended."""
        claimed = self._do_claimable(session, statuses, limit, workflows, without)
        # The clock is read inside the transaction: a lease begins when the claim is made, not when the thread began to wait for its turn.
        until = self._now() + length
        session.run_many(self._sql.claim, [(id, worker_id, until) for _, id, _ in claimed])
        rows = []
        for _, id, taken_over in claimed:
            row = session.one(self._sql.load_execution, (id,))
            if row is not None:
                rows.append((*row, taken_over))
        return rows

    def renew_claim(self, execution: WorkflowExecution, lease: Duration = 30.0) -> None:
        if self.renew_claims([execution], lease):
            raise ClaimLostError(execution.workflow_execution_id)

    def renew_claims(self, executions: Iterable[WorkflowExecution], lease: Duration = 30.0) -> list[WorkflowExecution]:
        checked = check_sequence(executions, WorkflowExecution, "executions")
        length = lease_micros(lease)
        claims = [fence_of(item, f"executions[{index}]") for index, item in enumerate(checked)]
        if not claims:
            self._check_usable()
            return []
        renewed = self._write(self._do_renew_claims, claims, length)
        return [item for item, kept in zip(checked, renewed, strict=True) if not kept]

    def _do_renew_claims(self, session: Session, claims: list[Claim], length: int) -> list[bool]:
        """For each claim, whether it still holds."""
        until = self._now() + length
        return [session.run(self._sql.renew_claim, (*claim, until)) == 1 for claim in claims]

    def release_claim(self, execution: WorkflowExecution) -> None:
        claim = fence_of(execution)
        if claim[1] is None:
            self._check_usable()
        else:
            self._write(self._do_release_claim, claim)

    def _do_release_claim(self, session: Session, claim: Claim) -> None:
        session.run(self._sql.release_claim, claim)


def lease_micros(lease: Duration) -> int:
    """A lease in microseconds.

    Raises:
        InvalidValueError: it is no duration, or shorter than a millisecond.
    """
    return int(checked_seconds(lease, "lease", minimum=0.001) * _MICROS)


def check_workflows(workflows: Iterable[str]) -> list[str]:
    """Ids of workflows, each once.

    Raises:
        InvalidValueError: one is a bad identifier.
    """
    return [check_identifier(id, "workflows") for id in dict.fromkeys(check_ids(workflows, "workflows"))]
