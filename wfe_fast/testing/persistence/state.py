"""All that a provider can be asked about what it stores, as plain values that two moments can be compared by."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import msgspec

from wfe_fast.persistence.contract import PersistenceProvider, PersistenceTransaction
from wfe_fast.persistence.models import ScheduledCommand, WorkflowInstance
from wfe_fast.testing.persistence.factories import EARLY, FAR, KEY, NAME


class _UndoError(Exception):
    pass


def plain(value: Any) -> Any:
    """A model as dictionaries and lists."""
    return msgspec.to_builtins(value)


def exact(value: Any) -> str:
    """A value as text that tells True from 1 and 1 from 1.0, but not one order of keys from another."""
    return json.dumps(plain(value), sort_keys=True)


def all_workflows(store: PersistenceTransaction) -> list[WorkflowInstance]:
    """Every workflow, page by page."""
    found: list[WorkflowInstance] = []
    after = None
    while True:
        page = store.list_workflows(after=after, limit=100)
        found += page.items
        if page.next is None:
            return found
        after = page.next


def everything(provider: PersistenceProvider, keys: Iterable[tuple[str, str]] = ((NAME, KEY),)) -> dict[str, Any]:
    """What the store holds: workflows, subscriptions, errors, events of `keys`, claims, what is due.

    Claims show in who could be claimed, which is asked in a transaction that is rolled back. Commands show in `next_due` only, since
    they cannot be read without being handled: see `drain_commands`.
    """
    workflows = all_workflows(provider)
    ids = sorted({workflow.id for workflow in workflows} | {"nobody"})
    names = sorted(set(keys))
    return {
        "listed": plain(workflows),
        "loaded": plain(provider.get_workflow_instances(ids)),
        "subscriptions": {id: plain(provider.subscriptions_of(id)) for id in ids},
        "found": {f"{name}/{key}": plain(provider.get_subscriptions(name, key, FAR)) for name, key in names},
        "errors": {id: plain(provider.get_errors(id)) for id in ids},
        "events": {f"{name}/{key}": plain(provider.get_events_since(name, key, EARLY)) for name, key in names},
        "runnable events": provider.get_runnable_events(FAR),
        "runnable": provider.get_runnable_instances(FAR),
        "counts": provider.count_workflows(),
        "next due": provider.next_due(),
        "claimable": claimable(provider),
    }


def claimable(provider: PersistenceProvider) -> dict[str, int]:
    """Which workflows a worker would get now if all were due, and their `claims_without_commit` then."""
    found: dict[str, int] = {}
    try:
        with provider.transaction() as tx:
            for instance in tx.claim_runnable_instances("curious", limit=10_000, as_at=FAR):
                found[instance.id] = instance.claims_without_commit
            raise _UndoError
    except _UndoError:
        return found


def drain_commands(provider: PersistenceProvider) -> list[ScheduledCommand]:
    """Handle and return every command, oldest first."""
    found: list[ScheduledCommand] = []
    provider.process_commands(FAR, found.append)
    return found


def clear(provider: PersistenceProvider) -> None:
    """Delete everything that the contract can delete (sequences stay)."""
    for workflow in all_workflows(provider):
        provider.delete_workflow(workflow.id)
    for event_id in provider.get_runnable_events(FAR):
        provider.mark_event_processed(event_id)
    while provider.purge_events(FAR):
        pass
    drain_commands(provider)
