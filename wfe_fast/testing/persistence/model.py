"""A provider that is as plain as can be: dictionaries, no database, no thread. What every provider has to agree with.

Only what the contract promises is here; an id, a token and an order that it leaves open are taken from the provider under test.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from wfe_fast.clock import from_millis, to_micros, to_millis
from wfe_fast.errors import (
    ClaimLostError,
    ConcurrentUpdateError,
    DuplicateEventError,
    DuplicateWorkflowError,
    SubscriptionNotFoundError,
    WorkflowNotFoundError,
)
from wfe_fast.persistence.models import (
    FINAL_WORKFLOW_STATUSES,
    Event,
    EventSubscription,
    WorkflowInstance,
    WorkflowStatus,
)


@dataclass
class Claim:
    """Who holds a workflow, under which number, until when; and what was done beside it."""

    number: int
    until: datetime
    status_changed: bool = False


@dataclass
class Row:
    """A stored workflow."""

    instance: WorkflowInstance
    revision: int
    claim: Claim | None = None
    claims_without_commit: int = 0


@dataclass
class Held:
    """What a caller has in hand: an instance, and what it knew when it got it."""

    instance: WorkflowInstance
    revision: int
    status: WorkflowStatus
    claim: int | None = None


@dataclass
class Model:
    """The state, and each operation on it."""

    now: Callable[[], datetime]
    rows: dict[str, Row] = field(default_factory=dict)
    events: dict[str, Event] = field(default_factory=dict)
    subscriptions: dict[str, EventSubscription] = field(default_factory=dict)
    left: list[tuple[str, Event]] = field(default_factory=list)
    numbers: int = 0

    def _number(self) -> int:
        self.numbers += 1
        return self.numbers

    def _row(self, id: str) -> Row:
        if id not in self.rows:
            raise WorkflowNotFoundError(id)
        return self.rows[id]

    def create(self, instance: WorkflowInstance) -> Held:
        """`create_new_workflow`."""
        if instance.id in self.rows:
            raise DuplicateWorkflowError(instance.id)
        if any(row.instance.name == instance.name for row in self.rows.values()):
            raise DuplicateWorkflowError(instance.name, "name")
        self.rows[instance.id] = Row(copy.deepcopy(instance), self._number())
        return self.hold(instance)

    def get(self, id: str) -> Row:
        """`get_workflow_instance`."""
        return self._row(id)

    def hold(self, instance: WorkflowInstance, claim: int | None = None) -> Held:
        """Somebody got this object of a stored workflow."""
        row = self._row(instance.id)
        return Held(instance, row.revision, row.instance.status, claim)

    def persist(self, held: Held, *, expect_unchanged: bool, release: bool) -> None:
        """`persist_workflow`."""
        row = self._row(held.instance.id)
        mine = row.claim if row.claim is not None and row.claim.number == held.claim else None
        if held.claim is not None and mine is None:
            raise ClaimLostError(held.instance.id)
        if expect_unchanged and row.revision != held.revision:
            raise ConcurrentUpdateError(held.instance.id)
        if mine is not None and mine.status_changed and row.instance.status is not held.status:
            held.instance.status = row.instance.status
            held.instance.complete_time = row.instance.complete_time
        row.instance = copy.deepcopy(held.instance)
        held.status = held.instance.status
        row.revision = held.revision = self._number()
        row.claims_without_commit = 0
        if mine is not None:
            mine.status_changed = False
            if release:
                row.claim = held.claim = None

    def change_status(self, id: str, to: WorkflowStatus, only_from: Iterable[WorkflowStatus]) -> bool:
        """`change_status`."""
        row = self._row(id)
        if row.instance.status not in set(only_from):
            return False
        row.instance.status = to
        if to in FINAL_WORKFLOW_STATUSES:
            row.instance.complete_time = self.now()
        row.revision = self._number()
        if row.claim is not None:
            row.claim.status_changed = True
        return True

    def delete(self, id: str) -> None:
        """`delete_workflow`."""
        self._row(id)
        del self.rows[id]
        self.subscriptions = {key: sub for key, sub in self.subscriptions.items() if sub.workflow_id != id}
        self.left = [(key, event) for key, event in self.left if key in self.subscriptions]

    def _is_free(self, row: Row) -> bool:
        return row.claim is None or row.claim.until <= self.now()

    def runnable(self, as_at: datetime) -> list[Row]:
        """`get_runnable_instances`, without a promise about the order of equal ones."""
        due = to_millis(as_at)
        found = [
            (row.instance.next_execution, row)
            for row in self.rows.values()
            if row.instance.status is WorkflowStatus.RUNNABLE
            and row.instance.next_execution is not None
            and row.instance.next_execution <= due
        ]
        return [row for _, row in sorted(found, key=lambda pair: pair[0])]

    def claimable(self, as_at: datetime) -> list[Row]:
        """What `claim_runnable_instances` chooses from."""
        return [row for row in self.runnable(as_at) if self._is_free(row)]

    def claim(self, id: str, instance: WorkflowInstance, lease: float) -> Held:
        """The provider gave this one to a claim."""
        row = self._row(id)
        assert self._is_free(row)
        row.claim = Claim(self._number(), self.now() + timedelta(seconds=lease))
        row.claims_without_commit += 1
        return self.hold(instance, row.claim.number)

    def renew(self, held: Held, lease: float) -> bool:
        """`renew_claims` of one; whether it is still held."""
        row = self.rows.get(held.instance.id)
        if row is None or row.claim is None or row.claim.number != held.claim:
            return False
        row.claim.until = self.now() + timedelta(seconds=lease)
        return True

    def release(self, held: Held) -> None:
        """`release_claim`."""
        row = self.rows.get(held.instance.id)
        if row is not None and row.claim is not None and row.claim.number == held.claim:
            row.claim = None

    def subscribe(self, subscription: EventSubscription) -> None:
        """`create_event_subscription`."""
        self.subscriptions[subscription.id] = copy.deepcopy(subscription)

    def terminate(self, id: str) -> None:
        """`terminate_subscription`."""
        if id not in self.subscriptions:
            raise SubscriptionNotFoundError(id)
        del self.subscriptions[id]
        self.left = [(key, event) for key, event in self.left if key != id]

    def set_token(self, id: str, token: str, expiry: datetime | None) -> bool:
        """`set_subscription_token`."""
        if id not in self.subscriptions:
            raise SubscriptionNotFoundError(id)
        found = self.subscriptions[id]
        if found.external_token and (found.external_token_expiry is None or found.external_token_expiry > self.now()):
            return False
        found.external_token, found.external_worker_id, found.external_token_expiry = token, token, expiry
        return True

    def store_event(self, event: Event) -> None:
        """`create_event`."""
        if event.id in self.events:
            raise DuplicateEventError(event.id)
        self.events[event.id] = copy.deepcopy(event)

    def publish(self, event: Event) -> None:
        """`publish_event` with a limit that is never reached; nothing earlier is unprocessed."""
        if event.id in self.events:
            return
        self.events[event.id] = copy.deepcopy(event)
        self.events[event.id].is_processed = True
        for subscription in list(self.subscriptions.values()):
            wanted = (subscription.event_name, subscription.event_key) == (event.event_name, event.event_key)
            if wanted and subscription.subscribe_as_of <= event.event_time:
                self._deliver(subscription, event)

    def _deliver(self, subscription: EventSubscription, event: Event) -> None:
        row = self.rows.get(subscription.workflow_id)
        if row is not None and row.instance.status not in FINAL_WORKFLOW_STATUSES and not self._is_free(row):
            self.left.append((subscription.id, event))
            return
        del self.subscriptions[subscription.id]
        if row is None or row.instance.status in FINAL_WORKFLOW_STATUSES:
            return
        self._give(row.instance, subscription.execution_pointer_id, event)
        row.revision = self._number()

    def take(self, held: Held) -> list[str]:
        """`take_events`: the ids of the events taken, in order of id. One for each wait, the oldest."""
        taken = []
        for id, event in sorted(self.left, key=lambda pair: pair[1].event_time):
            subscription = self.subscriptions.get(id)
            if subscription is not None and subscription.workflow_id == held.instance.id:
                taken.append(event.id)
                del self.subscriptions[id]
                self._give(held.instance, subscription.execution_pointer_id, event)
        self.left = [pair for pair in self.left if pair[0] in self.subscriptions]
        return sorted(taken)

    def _give(self, instance: WorkflowInstance, pointer_id: str, event: Event) -> None:
        for pointer in instance.execution_pointers:
            if pointer.id == pointer_id:
                pointer.event_data, pointer.event_published, pointer.active = event.event_data, True, True
                recorded = {"id": event.id, "time": to_micros(event.event_time)}
                pointer.extension_attributes = {**pointer.extension_attributes, "wfe.event": recorded}
        now, due = to_millis(self.now()), instance.next_execution
        instance.next_execution = now if due is None else min(due, now)

    def next_due(self) -> datetime | None:
        """The earliest of what is due or will be; None where nothing is."""
        moments: list[Any] = [event.event_time for event in self.events.values() if not event.is_processed]
        for row in self.runnable(datetime.max.replace(tzinfo=self.now().tzinfo)):
            due = from_millis(row.instance.next_execution or 0)
            moments.append(due if self._is_free(row) or row.claim is None else max(due, row.claim.until))
        return min(moments, default=None)
