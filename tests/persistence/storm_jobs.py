"""What each process of the storm does: everything at once on a few workflows, until its time is over. It reports what it saw."""

from __future__ import annotations

import random
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

from wfe_fast.errors import ConflictError, DuplicateError, NotFoundError
from wfe_fast.persistence.contract import PersistenceProvider, PersistenceTransaction
from wfe_fast.persistence.memory import memory_of
from wfe_fast.persistence.models import ExecutionPointer, ScheduledCommand, WorkflowInstance, WorkflowStatus
from wfe_fast.testing.persistence.factories import NAME, a_pointer, a_subscription, a_workflow, an_error, an_event

IDS = [f"w{number}" for number in range(6)]
KEYS = [f"k{number}" for number in range(4)]

#: What may come of a call where others do theirs.
EXPECTED = (ConflictError, NotFoundError, DuplicateError)

#: A workflow keeps so many pointers.
POINTERS = 8


@dataclass
class Report:
    """What a process did and saw."""

    done: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    backwards: list[tuple[str, int, int]] = field(default_factory=list)
    """Revisions that went back."""
    claims: list[tuple[int, int]] = field(default_factory=list)
    """(number of the row, fencing number) of each claim."""
    numbers: list[int] = field(default_factory=list)
    """What the sequence gave."""
    delivered: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """For each pointer the events that it was seen with."""


def storm(provider: PersistenceProvider, worker: str, seconds: float) -> Report:
    """Do whatever chance says for so many seconds."""
    return Storm(provider, worker).run(seconds)


class Storm:
    """One process of it."""

    def __init__(self, provider: PersistenceProvider, worker: str) -> None:
        self.provider = provider
        self.worker = worker
        self.report = Report()
        self.chance = random.Random()
        self.count = 0
        self.held: list[WorkflowInstance] = []
        self.copies: list[WorkflowInstance] = []
        self.revisions: dict[int, int] = {}

    def run(self, seconds: float) -> Report:
        actions: list[Callable[[], None]] = [
            self.persist_unchanged,
            self.persist_a_copy,
            self.persist_with_subscriptions,
            self.create_subscription,
            self.publish,
            self.create_event,
            self.dispatch,
            self.claim,
            self.claim_of_definition,
            self.renew,
            self.release,
            self.pass_of_a_claim,
            self.activity,
            self.schedule,
            self.process,
            self.change_status,
            self.delete,
            self.purge,
            self.create,
            self.sequence,
            self.drop,
            self.block_with_hints,
            self.block_with_hints,
            self.block_without_hints,
        ]
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.report.failures:
            action = self.chance.choice(actions)
            try:
                action()
            except EXPECTED as error:
                self.report.refused[f"{action.__name__}: {type(error).__name__}"] += 1
            except Exception:
                self.report.failures.append(f"{action.__name__}: {traceback.format_exc()}")
            else:
                self.report.done[action.__name__] += 1
        return self.report

    # -- what was seen -------------------------------------------------------------------------------------------------------------

    def saw(self, instance: WorkflowInstance) -> WorkflowInstance:
        """Take note of a workflow that was read or written just now, by a transaction that is committed, or has locked it."""
        memory = memory_of(instance)
        assert memory is not None
        last = self.revisions.get(memory.seq, 0)
        if memory.revision < last:
            self.report.backwards.append((instance.id, last, memory.revision))
        self.revisions[memory.seq] = memory.revision
        for pointer in instance.execution_pointers:
            event = pointer.extension_attributes.get("wfe.event")
            if event is not None:
                self.report.delivered[pointer.id].add(event["id"])
        return instance

    def new_id(self) -> str:
        self.count += 1
        return f"{self.worker}-{self.count}"

    def some_id(self) -> str:
        return self.chance.choice(IDS)

    def change(self, instance: WorkflowInstance) -> ExecutionPointer:
        """Something of everything: a new pointer, an old one less, another one changed."""
        instance.data = {"by": self.worker, "count": self.count}
        instance.next_execution = self.chance.choice([None, 0, 5])
        pointer = a_pointer(id=self.new_id(), active=False)
        instance.execution_pointers = [*instance.execution_pointers[-POINTERS:], pointer]
        instance.execution_pointers[0].retry_count += 1
        return pointer

    # -- single calls --------------------------------------------------------------------------------------------------------------

    def persist_unchanged(self) -> None:
        instance = self.saw(self.provider.get_workflow_instance(self.some_id()))
        self.change(instance)
        self.provider.persist_workflow(instance, expect_unchanged=True)
        self.saw(instance)
        self.copies.append(instance)

    def persist_a_copy(self) -> None:
        if self.copies:
            instance = self.copies.pop(self.chance.randrange(len(self.copies)))
            self.change(instance)
            self.provider.persist_workflow(instance)

    def persist_with_subscriptions(self) -> None:
        instance = self.saw(self.provider.get_workflow_instance(self.some_id()))
        made = []
        for key in self.chance.sample(KEYS, 2):
            pointer = self.change(instance)
            made.append(
                a_subscription(id=pointer.id, workflow_id=instance.id, execution_pointer_id=pointer.id, event_key=key)
            )
        self.provider.persist_workflow_with_subscriptions(instance, made)
        self.saw(instance)

    def create_subscription(self) -> None:
        made = a_subscription(id=self.new_id(), workflow_id=self.some_id(), event_key=self.chance.choice(KEYS))
        self.provider.create_event_subscription(made)

    def publish(self) -> None:
        id = self.new_id()
        self.provider.publish_event(
            an_event(id=id, event_key=self.chance.choice(KEYS)), limit=self.chance.choice([1, 500])
        )

    def create_event(self) -> None:
        self.provider.create_event(an_event(id=self.new_id(), event_key=self.chance.choice(KEYS)))

    def dispatch(self) -> None:
        self.provider.dispatch_events(self.chance.choice([1, 10, 500]))

    def claim(self) -> None:
        self.claimed(self.provider.claim_runnable_instances(self.worker, 2, lease=self.chance.choice([0.002, 0.1])))

    def claim_of_definition(self) -> None:
        found = self.provider.claim_runnable_instances(self.worker, 3, lease=0.05, definitions=[("order", 1), ("x", 1)])
        self.claimed(found)

    def claimed(self, found: list[WorkflowInstance]) -> None:
        for instance in found:
            memory = memory_of(instance)
            assert memory is not None
            assert memory.fence is not None
            self.report.claims.append((memory.seq, memory.fence))
            self.held.append(self.saw(instance))

    def renew(self) -> None:
        lost = {id(instance) for instance in self.provider.renew_claims(self.held, 0.1)}
        self.held = [instance for instance in self.held if id(instance) not in lost]

    def release(self) -> None:
        if self.held:
            self.provider.release_claim(self.held.pop(0))

    def activity(self) -> None:
        taken = self.provider.claim_subscription(NAME, self.chance.choice(KEYS), self.worker, 0.05)
        if taken is not None:
            assert taken.external_token is not None
            self.provider.renew_subscription(taken.id, taken.external_token, 0.05)
            if self.chance.random() < 0.5:
                self.provider.complete_subscription(taken.id, taken.external_token, {"by": self.worker})
            else:
                self.provider.clear_subscription_token(taken.id, taken.external_token)

    def schedule(self) -> None:
        self.provider.schedule_command(ScheduledCommand.process_workflow(self.some_id(), self.chance.randrange(9)))

    def process(self) -> None:
        self.provider.process_commands(self.provider.clock(), lambda command: None, lease=0.1)

    def change_status(self) -> None:
        to = self.chance.choice([*([WorkflowStatus.RUNNABLE] * 4), WorkflowStatus.SUSPENDED, WorkflowStatus.TERMINATED])
        self.provider.change_status(self.some_id(), to)

    def delete(self) -> None:
        id = self.some_id()
        self.provider.delete_workflow(id)
        self.provider.create_new_workflow(a_workflow(id=id, execution_pointers=[a_pointer(id=self.new_id())]))

    def purge(self) -> None:
        moment = self.provider.clock() - timedelta(seconds=0.1)
        self.provider.purge_workflows([WorkflowStatus.TERMINATED, WorkflowStatus.COMPLETE], moment)
        self.provider.purge_events(moment)

    def create(self) -> None:
        pointer = a_pointer(id=self.new_id())
        self.provider.create_new_workflow(a_workflow(id=self.some_id(), execution_pointers=[pointer]))

    def sequence(self) -> None:
        self.report.numbers.append(self.provider.next_definition_sequence("order"))

    def drop(self) -> None:
        self.provider.drop_subscriptions(self.some_id())

    # -- blocks --------------------------------------------------------------------------------------------------------------------

    def pass_of_a_claim(self) -> None:
        """As a host does it: take the events that were left, and persist and release the workflow."""
        if not self.held:
            return
        instance = self.held.pop(0)
        with self.provider.transaction(workflows=[instance.id]) as tx:
            tx.take_events(instance)
            self.change(instance)
            tx.persist_workflow(instance, release=True)
        self.saw(instance)

    def block_with_hints(self) -> None:
        ids = self.chance.sample(IDS, 2)
        published, awaited = self.chance.sample(KEYS, 2)
        with self.provider.transaction(workflows=ids, publishes=[(NAME, published)], awaits=[(NAME, awaited)]) as tx:
            found = tx.get_workflow_instances(ids)
            for instance in found:
                self.subscribe(tx, self.saw(instance), awaited)
            if self.chance.random() < 0.3:
                tx.drop_subscriptions(ids[0])
            tx.persist_errors([an_error(id) for id in ids])
            tx.schedule_command(ScheduledCommand.process_workflow(ids[0], 1))
            # At the end: nobody who has delivered waits for a lock any more.
            tx.publish_event(an_event(id=self.new_id(), event_key=published))
        for instance in found:
            self.saw(instance)

    def subscribe(self, tx: PersistenceTransaction, instance: WorkflowInstance, key: str) -> None:
        pointer = self.change(instance)
        made = a_subscription(id=pointer.id, workflow_id=instance.id, execution_pointer_id=pointer.id, event_key=key)
        tx.persist_workflow_with_subscriptions(instance, [made])
        tx.get_events_since(NAME, key, made.subscribe_as_of, limit=1)

    def block_without_hints(self) -> None:
        """In the order of the locks: a key, a workflow, its command."""
        id, key = self.some_id(), self.chance.choice(KEYS)
        with self.provider.transaction() as tx:
            tx.get_events_since(NAME, key, self.provider.clock(), limit=1)
            instance = self.saw(tx.get_workflow_instance(id))
            self.subscribe(tx, instance, key)
            tx.persist_errors([an_error(id)])
            tx.schedule_command(ScheduledCommand.process_workflow(id, 1))
        self.saw(instance)
