"""Who works on an execution: leases with fencing numbers."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from wfe_fast.checkpoints.models import ExecutionStatus, WorkflowExecution
from wfe_fast.checkpoints.operations import Operations
from wfe_fast.checkpoints.rows import fence_of
from wfe_fast.checks import check_enums, check_identifier, check_ids, check_limit, check_name, check_sequence
from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.errors import ClaimLostError
from wfe_fast.stored import json_list

_MICROS = 1_000_000


class ClaimMethods(Operations):
    """See `contract.ClaimOperations`."""

    #: What the last claim asked for, where it got as many as it wanted. The next one that asks for the same most likely finds some, too, and
    #: does not look before.
    _found_plenty: object = None

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
        wanted = (states, known, left_out)
        looks = None if self._found_plenty == wanted else self._looks()
        if looks and not self._snapshot(looks.anything_claimable, states, known, left_out):
            return []
        self._found_plenty = None  # where the write fails
        rows = self._write(self._work.claim, worker_id, states, limit, length, known, left_out)
        self._found_plenty = wanted if len(rows) == limit else None
        return [self._from.execution(row[:-1], claimed=True, taken_over=bool(row[-1])) for row in rows]

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
        renewed = self._repeat(self._work.renew, claims, length)
        return [item for item, kept in zip(checked, renewed, strict=True) if not kept]

    def release_claim(self, execution: WorkflowExecution) -> None:
        claim = fence_of(execution)
        if claim[1] is None:
            self._check_usable()
        else:
            self._store(self._work.release, claim)


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
