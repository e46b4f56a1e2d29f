"""Who works on a workflow: leases with fencing numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from wfe_fast.clock import Duration, checked_moment, checked_seconds, to_millis
from wfe_fast.persistence.memory import memory_of
from wfe_fast.persistence.models import WorkflowInstance
from wfe_fast.persistence.operations import Operations
from wfe_fast.persistence.validation import check_definitions, check_limit, check_model, check_name, check_sequence
from wfe_fast.persistence.work import ClaimKey

_MICROS = 1_000_000


class ClaimMethods(Operations):
    """See `contract.ClaimOperations`."""

    #: What the last claim asked for, where it got as many as it wanted. The next one that asks for the same most likely finds some, too, and
    #: does not look before.
    _found_plenty: object = None

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
        due = None if as_at is None else to_millis(checked_moment(as_at, "as_at"))
        pairs = None if definitions is None else check_definitions(definitions)
        wanted = (pairs,)
        looks = None if self._found_plenty == wanted else self._looks()
        if looks and not self._read(looks.claimable, due, pairs):
            return []
        self._found_plenty = None  # where the write fails
        rows = self._write(self._work.claim, worker_id, due, pairs, limit, length)
        self._found_plenty = wanted if len(rows) == limit else None
        return [self._loaded(row, claimed=True) for row in rows]

    def renew_claims(self, instances: Iterable[WorkflowInstance], lease: Duration = 30.0) -> list[WorkflowInstance]:
        checked = check_sequence(instances, WorkflowInstance, "instances")
        length = lease_micros(lease)
        claims = [self._claim_of(instance) for instance in checked]
        held = [claim for claim in claims if claim is not None]
        if held:
            renewed = self._repeat(self._work.renew, held, length)
        else:
            renewed = []
            self._check_usable()
        kept = dict(zip(held, renewed, strict=True))
        return [item for item, claim in zip(checked, claims, strict=True) if claim is None or not kept[claim]]

    def release_claim(self, instance: WorkflowInstance) -> None:
        claim = self._claim_of(check_model(instance, WorkflowInstance, "instance"))
        if claim is None:
            self._check_usable()
            return

        def done(released: bool) -> None:
            memory = memory_of(instance)
            if released and memory is not None:  # one whose claim is lost must not persist as if it had never had one
                self._remember(instance, replace(memory, fence=None, claims_without_commit=0))

        self._store_for(instance, self._work.release, (claim,), done, repeatable=True)

    def _claim_of(self, instance: WorkflowInstance) -> ClaimKey | None:
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
