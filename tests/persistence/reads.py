"""Every read of the contract, each as one call on the world of `build_world`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from wfe_fast.persistence.contract import PersistenceTransaction
from wfe_fast.persistence.models import WorkflowStatus
from wfe_fast.testing.clock import START
from wfe_fast.testing.persistence.factories import FAR, KEY, NAME
from wfe_fast.testing.persistence.writes import World

#: A label that begins with the method's name → the call.
LOOKS: dict[str, Callable[[PersistenceTransaction, World], object]] = {
    "get_runnable_instances": lambda tx, w: tx.get_runnable_instances(FAR),
    "get_workflow_instance": lambda tx, w: tx.get_workflow_instance("stored"),
    "get_workflow_instance_by_name": lambda tx, w: tx.get_workflow_instance_by_name("stored"),
    "get_workflow_instances": lambda tx, w: tx.get_workflow_instances(["stored", "held", "nobody", "finished"]),
    "list_workflows": lambda tx, w: tx.list_workflows(limit=2),
    "list_workflows by status": lambda tx, w: tx.list_workflows(status=WorkflowStatus.RUNNABLE),
    "list_workflows by definition": lambda tx, w: tx.list_workflows(definition_id="order"),
    "list_workflows by reference": lambda tx, w: tx.list_workflows(reference="none", created_after=START),
    "count_workflows": lambda tx, w: tx.count_workflows(),
    "oldest_runnable": lambda tx, w: tx.oldest_runnable(),
    "get_event": lambda tx, w: tx.get_event("event"),
    "get_runnable_events": lambda tx, w: tx.get_runnable_events(FAR, 5),
    "get_events": lambda tx, w: tx.get_events(NAME, KEY, FAR),
    "get_events_since": lambda tx, w: tx.get_events_since(NAME, "stored", START - timedelta(days=1), after_id="event"),
    "get_subscriptions": lambda tx, w: tx.get_subscriptions(NAME, KEY, FAR),
    "get_first_open_subscription": lambda tx, w: tx.get_first_open_subscription(NAME, KEY, FAR),
    "get_subscription": lambda tx, w: tx.get_subscription(w.open.id),
    "subscriptions_of": lambda tx, w: tx.subscriptions_of("stored"),
    "get_errors": lambda tx, w: tx.get_errors("stored"),
}
