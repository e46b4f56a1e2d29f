"""What the processes do that are interrupted with Ctrl-C in the middle of a call. Each says `ready` before it, waits for `go`, and says what
came of it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing.synchronize import Event as ProcessEvent

from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import WorkflowInstance
from wfe_fast.testing.killing import Acknowledge
from wfe_fast.testing.persistence.factories import a_workflow, pointers


def _number(instance: WorkflowInstance, number: int) -> None:
    instance.data = {"number": number}
    instance.execution_pointers = pointers(number)


def _report(acknowledge: Acknowledge, go: ProcessEvent, call: Callable[[], object]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    acknowledge(("ready", os.getpid()))
    go.wait()
    try:
        call()
    except KeyboardInterrupt:
        acknowledge(("interrupted",))
    else:
        acknowledge(("returned",))


def persist(provider: PersistenceProvider, acknowledge: Acknowledge, go: ProcessEvent, prepared: bool) -> None:
    """Persist the workflow `w`, whose row is locked, with the number 2; and then with 3."""
    instance = provider.get_workflow_instance("w")
    if prepared:  # then the call waits inside of libpq
        provider.persist_workflow(instance)
    _number(instance, 2)
    _report(acknowledge, go, lambda: provider.persist_workflow(instance))
    acknowledge(("read", provider.get_workflow_instance("w").data["number"]))
    _number(instance, 3)
    provider.persist_workflow(instance, expect_unchanged=True)  # nobody but ourselves has written it
    acknowledge(("stored", provider.get_workflow_instance("w") == instance))


def block(provider: PersistenceProvider, acknowledge: Acknowledge, go: ProcessEvent, when: str) -> None:
    """Make the workflow `new`, and persist `w`, whose row is locked, in one block; and then make `after`."""
    instance = provider.get_workflow_instance("w")

    def transaction() -> None:
        with provider.transaction() as tx:
            tx.create_new_workflow(a_workflow(id="new"))
            if when == "behind an answer":
                assert tx.get_workflow_instance("new").id == "new"
            if when != "at its end":
                tx.get_workflow_instance("w")
            _number(instance, 2)
            tx.persist_workflow(instance)

    _report(acknowledge, go, transaction)
    provider.create_new_workflow(a_workflow(id="after"))
    acknowledge(("stored", provider.get_workflow_instance("after").id == "after"))
