"""What the worker processes of the failover test do."""

from __future__ import annotations

from contextlib import suppress
from multiprocessing.synchronize import Event as ProcessEvent

from wfe_fast.errors import CommitOutcomeUnknownError, DuplicateWorkflowError, WfeError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.memory import memory_of
from wfe_fast.persistence.models import WorkflowInstance
from wfe_fast.testing.killing import Acknowledge
from wfe_fast.testing.persistence.factories import a_pointer, a_workflow

#: So short that what a lost answer leaves claimed is free again soon, and that a worker may well lose a claim while there is no server.
LEASE = 2.0
#: Where they stop in any case.
MOST = 20_000


def work_through_a_failover(
    provider: PersistenceProvider, acknowledge: Acknowledge, worker: str, promoted: ProcessEvent, rounds: int
) -> None:
    """Create a workflow, claim one of those that all share, put a mark on it, and so on, until `rounds` marks after `promoted` were stored.

    Acknowledges ``("created", id)``, ``("claimed", id, fence)``, ``("marked", id, mark)``, ``("failed", error)``, and at last ``("done",)``.
    """
    for number in range(MOST):
        after = promoted.is_set()
        name = f"{worker}-{number}"
        try:
            _create(provider, acknowledge, name)
            rounds -= _mark(provider, acknowledge, worker, name) and after
        except Exception as error:  # the test looks whether it is one of ours
            acknowledge(("failed", error))
        if rounds == 0:
            acknowledge(("done",))
            return


def _create(provider: PersistenceProvider, acknowledge: Acknowledge, id: str) -> None:
    try:
        provider.create_new_workflow(a_workflow(id=id, next_execution=None))
    except CommitOutcomeUnknownError as error:
        acknowledge(("failed", error))
        with suppress(DuplicateWorkflowError):  # it was stored
            provider.create_new_workflow(a_workflow(id=id, next_execution=None))
    acknowledge(("created", id))


def _mark(provider: PersistenceProvider, acknowledge: Acknowledge, worker: str, mark: str) -> bool:
    """Whether there was a workflow to be marked, and the mark was stored."""
    for instance in provider.claim_runnable_instances(worker, lease=LEASE):
        memory = memory_of(instance)
        assert memory is not None
        acknowledge(("claimed", instance.id, memory.fence))
        instance.data["marks"].append(mark)
        instance.execution_pointers.append(a_pointer(step_name=mark))
        instance.next_execution = len(instance.data["marks"])  # the others come first now
        _persist(provider, acknowledge, instance)
        acknowledge(("marked", instance.id, mark))
        return True
    return False


def _persist(provider: PersistenceProvider, acknowledge: Acknowledge, instance: WorkflowInstance) -> None:
    for _ in range(3):
        try:
            provider.persist_workflow(instance, release=True)
        except CommitOutcomeUnknownError as error:
            acknowledge(("failed", error))  # persisting it again settles it, or says that somebody else has it now
        else:
            return
    raise WfeError("three commits in a row had an unknown outcome")
