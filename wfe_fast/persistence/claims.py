"""Who works on a workflow: leases with fencing numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from wfe_fast.clock import Duration, checked_moment, checked_seconds, to_millis
from wfe_fast.database.base import Row, Session
from wfe_fast.persistence.memory import memory_of
from wfe_fast.persistence.models import WorkflowInstance
from wfe_fast.persistence.operations import Operations
from wfe_fast.persistence.validation import check_definitions, check_limit, check_model, check_name, check_sequence

_MICROS = 1_000_000


class ClaimMethods(Operations):
    """See `contract.ClaimOperations`."""

    def claim_runnable_instances(
        self,
        worker_id: str,
        limit: int = 1,
        lease: Duration = 30.0,
        *,
        as_at: datetime | None = None,
        definitions: Iterable[tuple[str, int]] | None = None,
    ) -> list[WorkflowInstance]:
        check_name(worker_id, "worker_id")
        check_limit(limit)
        length = lease_micros(lease)
        due = self._now() // 1000 if as_at is None else to_millis(checked_moment(as_at, "as_at"))
        pairs = None if definitions is None else check_definitions(definitions)
        # An idle worker asks often and mostly in vain: that costs a read, and no writer waits for it.
        if not self._in_block() and not self._read(self._claimable, due, pairs, 1):
            return []
        rows = self._write(self._claim, worker_id, due, pairs, limit, length)
        return [self._loaded(row, claimed=True) for row in rows]

    def _claimable(self, session: Session, due: int, pairs: list[tuple[str, int]] | None, limit: int) -> list[Row]:
        """The oldest `limit` workflows that can be claimed: (next_execution, number, id)."""
        now = self._now()
        if pairs is None:
            return session.all(self._sql.claimable, (due, now, limit))
        found: list[Row] = []
        for pair in pairs:
            found += session.all(self._sql.claimable_of, (*pair, due, now, limit))
        return sorted(found)[:limit]

    def _claim(
        self, session: Session, worker_id: str, due: int, pairs: list[tuple[str, int]] | None, limit: int, length: int
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

    def renew_claims(self, instances: Iterable[WorkflowInstance], lease: Duration = 30.0) -> list[WorkflowInstance]:
        checked = check_sequence(instances, WorkflowInstance, "instances")
        length = lease_micros(lease)
        claims = [self._claim_of(instance) for instance in checked]
        held = [claim for claim in claims if claim is not None]
        if held:
            renewed = self._write(self._renew, held, length)
        else:
            renewed = []
            self._check_usable()
        kept = dict(zip(held, renewed, strict=True))
        return [item for item, claim in zip(checked, claims, strict=True) if claim is None or not kept[claim]]

    def _renew(self, session: Session, claims: list[tuple[int, str, int]], length: int) -> list[bool]:
        until = self._now() + length
        return [session.run(self._sql.renew_claim, (*claim, until)) == 1 for claim in claims]

    def release_claim(self, instance: WorkflowInstance) -> None:
        claim = self._claim_of(check_model(instance, WorkflowInstance, "instance"))
        if claim is None:
            self._check_usable()
            return
        released = self._write(self._release, claim)
        memory = memory_of(instance)
        if (
            released and memory is not None
        ):  # an instance whose claim is lost must not persist as if it had never had one
            self._remember(instance, replace(memory, fence=None, claims_without_commit=0))

    def _release(self, session: Session, claim: tuple[int, str, int]) -> bool:
        return session.run(self._sql.release_claim, (*claim, self._now() // 1000)) == 1

    def _claim_of(self, instance: WorkflowInstance) -> tuple[int, str, int] | None:
        memory = self._memory(instance)
        if memory is None or memory.fence is None:
            return None
        return memory.seq, instance.id, memory.fence


def lease_micros(lease: Duration) -> int:
    """A lease in microseconds.

    Raises:
        InvalidValueError: it is no duration, or shorter than a millisecond.
    """
    return int(checked_seconds(lease, "lease", minimum=0.001) * _MICROS)
