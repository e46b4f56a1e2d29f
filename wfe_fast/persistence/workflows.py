"""Workflows and their execution pointers: create, persist, read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from msgspec import Struct
from msgspec.structs import replace

from wfe_fast.clock import checked_moment, from_micros, to_millis
from wfe_fast.codec import encode_json
from wfe_fast.database.base import Row, Session, UniqueViolation
from wfe_fast.errors import (
    ClaimLostError,
    ConcurrentUpdateError,
    DuplicatePointerError,
    DuplicateSubscriptionError,
    DuplicateWorkflowError,
    InvalidStateError,
    WfeError,
    WorkflowNotFoundError,
)
from wfe_fast.persistence.memory import Head, Memory
from wfe_fast.persistence.models import (
    FINAL_WORKFLOW_STATUSES,
    EventSubscription,
    ExecutionPointer,
    WorkflowInstance,
    WorkflowStatus,
    new_id,
)
from wfe_fast.persistence.operations import Operations, all_rows, one
from wfe_fast.persistence.pointers import NOTHING, Plan, Stored, encode_pointers, plan_changes
from wfe_fast.persistence.rows import (
    check_due,
    check_status,
    head_of,
    json_list,
    json_text,
    micros,
    optional_micros,
    raw_head_of,
    subscription_row,
)
from wfe_fast.persistence.validation import (
    check_bool,
    check_enum,
    check_enums,
    check_ids,
    check_model,
    check_name,
    check_optional_limit,
    check_sequence,
)

#: Later than any datetime, and far inside what the column holds.
_MAX_MILLIS = 2**62


class Change(Struct):
    """A persist, checked and encoded: what the transaction has to do."""

    id: str
    memory: Memory | None
    head: Head
    raw_head: tuple[object, ...]
    due: int | None
    status: WorkflowStatus
    complete_time: int | None
    data: str
    lines: list[bytes]
    pointers: list[ExecutionPointer]
    plan: Plan | None
    """The writes where the stored pointers are as `memory` says; None where they have to be read first."""
    subscriptions: list[Row]
    expect_unchanged: bool
    release: bool


class WorkflowMethods(Operations):
    """See `contract.WorkflowOperations`."""

    # -- create ----------------------------------------------------------------------------------------------------------------

    def create_new_workflow(self, instance: WorkflowInstance) -> str:
        check_model(instance, WorkflowInstance, "instance")
        id = check_name(instance.id, "id", empty=True) or new_id()
        head = head_of(instance)
        head = (head[0] or id, *head[1:])
        lines, changed = encode_pointers(instance.execution_pointers)
        plan = plan_changes(NOTHING, lines, changed, instance.execution_pointers)
        status = check_status(instance)
        completed = optional_micros(instance.complete_time, "complete_time")
        name, root, definition, version, description, reference, created = head
        due, data = check_due(instance), json_text(instance.data, "data")
        row = (id, name, root, definition, version, description, reference, due, status.value, data, created, completed)
        try:
            seq = self._write(self._create, row, plan)
        except UniqueViolation as error:
            raise _duplicate(error, id, name) from error
        instance.id = id
        instance.name = name
        raw = raw_head_of(instance)
        self._remember(instance, Memory(self._store, seq, 1, 0, None, 0, status, completed, head, raw, plan.result))
        return id

    def _create(self, session: Session, row: Row, plan: Plan) -> int:
        inserted = session.one(self._sql.insert_workflow, row)
        assert inserted is not None  # an INSERT with RETURNING returns its row, or raises
        id = row[0]
        session.run_many(self._sql.insert_pointer, [(id, *pointer) for pointer in plan.inserts])
        return int(inserted[0])

    # -- persist ---------------------------------------------------------------------------------------------------------------

    def persist_workflow(
        self, instance: WorkflowInstance, *, expect_unchanged: bool = False, release: bool = False
    ) -> None:
        self._persist_instance(instance, [], expect_unchanged, release)

    def persist_workflow_with_subscriptions(
        self,
        instance: WorkflowInstance,
        subscriptions: Sequence[EventSubscription],
        *,
        expect_unchanged: bool = False,
        release: bool = False,
    ) -> None:
        checked = check_sequence(subscriptions, EventSubscription, "subscriptions")
        rows = [subscription_row(item, f"subscriptions[{index}]") for index, item in enumerate(checked)]
        self._persist_instance(instance, rows, expect_unchanged, release)
        for item, row in zip(checked, rows, strict=True):
            item.id = row[0]

    def _persist_instance(
        self, instance: WorkflowInstance, subscriptions: list[Row], expect_unchanged: bool, release: bool
    ) -> None:
        change = self._checked_change(instance, subscriptions, expect_unchanged, release)
        try:
            memory = self._write(self._persist, change)
        except UniqueViolation as error:
            raise _duplicate(error, change.id, change.head[0], subscriptions) from error
        self._remember(instance, memory)
        if not instance.name:
            instance.name = change.head[0]
        if memory.status is not instance.status:
            instance.status = memory.status
            completed = memory.complete_time
            instance.complete_time = None if completed is None else from_micros(completed)

    def _checked_change(
        self, instance: WorkflowInstance, subscriptions: list[Row], expect_unchanged: bool, release: bool
    ) -> Change:
        """Check and encode everything, before the transaction begins: other writers do not wait for that."""
        # Every persist comes this way: the exact checks are called only where a glance does not settle it.
        if type(instance) is not WorkflowInstance:
            check_model(instance, WorkflowInstance, "instance")
        if expect_unchanged is not False:
            check_bool(expect_unchanged, "expect_unchanged")
        if release is not False:
            check_bool(release, "release")
        memory = self._memory(instance)
        raw = raw_head_of(instance)
        id = instance.id
        # What is the same as last time was checked then; a comparison of eight identical objects costs a tenth of the checks.
        if memory is not None and raw == memory.raw_head:
            head = memory.head
        else:
            check_name(id, "id")
            head = head_of(instance)
            if not head[0]:
                head = (id, *head[1:])
        if expect_unchanged and memory is None:
            raise InvalidStateError("expect_unchanged needs an instance that was loaded, created or persisted before")
        due = instance.next_execution
        if due is not None and not (type(due) is int and 0 <= due <= _MAX_MILLIS):
            check_due(instance)
        status = instance.status
        if type(status) is not WorkflowStatus:
            check_status(instance)
        stored = None if memory is None else memory.stored
        pointers = instance.execution_pointers
        lines, changed = encode_pointers(pointers, NOTHING if stored is None else stored)
        return Change(
            id,
            memory,
            head,
            raw,
            due,
            status,
            None if instance.complete_time is None else micros(instance.complete_time, "complete_time"),
            encode_json(instance.data, "data").decode(),
            lines,
            pointers,
            None if stored is None else plan_changes(stored, lines, changed, pointers),
            subscriptions,
            expect_unchanged,
            release,
        )

    def _persist(self, session: Session, change: Change) -> Memory:
        """The transaction: in the common case one UPDATE that only succeeds where the row is as the caller knows it, and its pointers."""
        memory = change.memory
        if memory is None or change.plan is None or not self._update_row(session, change, memory, change.status):
            return self._persist_after_look(session, change)
        self._write_pointers(session, change.id, change.plan)
        if change.subscriptions:
            session.run_many(self._sql.create_event_subscription, change.subscriptions)
        return _next_memory(change, memory, change.status, change.complete_time, change.plan.result)

    def _update_row(self, session: Session, change: Change, known: Memory, status: WorkflowStatus) -> bool:
        step = (
            known.seq,
            change.id,
            self._now() // 1000,
            known.revision,
            known.control,
            known.fence,
            # Only its own claim is given back, not that of somebody who holds the workflow meanwhile.
            change.release and known.fence is not None,
            change.due,
            change.data,
        )
        if change.head == known.head and status is known.status and change.complete_time == known.complete_time:
            return session.run(self._sql.persist_step, step) == 1
        name, root, definition, version, description, reference, created = change.head
        row = (status.value, change.complete_time, name, root, definition, version, description, reference, created)
        return session.run(self._sql.persist_row, (*step, *row)) == 1

    def _write_pointers(self, session: Session, id: str, plan: Plan) -> None:
        if plan.deletes:
            session.run_many(self._sql.delete_pointer, [(id, position) for position in plan.deletes])
        for position, line in plan.updates:
            session.run(self._sql.update_pointer, (id, position, line))
        if plan.inserts:
            session.run_many(self._sql.insert_pointer, [(id, *pointer) for pointer in plan.inserts])

    def _persist_after_look(self, session: Session, change: Change) -> Memory:
        """Somebody changed the row, or the caller knows nothing of it: look, decide who wins, and write against what is there."""
        row = session.one(self._sql.persist_state, (change.id,))
        if row is None:
            raise WorkflowNotFoundError(change.id)
        seq, revision, control, fence, stored_status, stored_completed = row
        memory = change.memory
        held = memory is not None and memory.fence is not None
        if memory is not None:
            # Another number: deleted and created again.
            replaced = memory.seq != seq
            if held and (replaced or memory.fence != fence):
                raise ClaimLostError(change.id)
            changed = replaced or memory.revision != revision or (memory.control != control and not held)
            if change.expect_unchanged and changed:
                raise ConcurrentUpdateError(change.id)
        status = WorkflowStatus(stored_status)
        if memory is not None and held and memory.control != control and status is not memory.status:
            # Set beside the claim, by change_status: it stays, and the holder learns of it.
            change = replace(change, complete_time=stored_completed)
        else:
            status = change.status
        return self._overwrite(session, change, seq, revision, control, fence if held else None, status)

    def _overwrite(
        self,
        session: Session,
        change: Change,
        seq: int,
        revision: int,
        control: int,
        fence: int | None,
        status: WorkflowStatus,
    ) -> Memory:
        """Write all of the workflow over what is stored now, which nobody else can change in this transaction."""
        rows = session.all(self._sql.stored_pointers, (change.id,))
        stored = Stored([row[2].encode() for row in rows], [row[1] for row in rows], [row[0] for row in rows])
        everything = list(range(len(change.lines)))
        plan = plan_changes(stored, change.lines, everything, change.pointers)
        # The stored head may be anybody's: one that equals no other has all fields written.
        known = Memory(
            self._store, seq, revision, control, fence, 0, status, None, ("", None, "", -1, None, None, 0), (), None
        )
        updated = self._update_row(session, change, known, status)
        assert updated  # the row was read in this transaction, and there is one writer at a time
        self._write_pointers(session, change.id, plan)
        session.run_many(self._sql.create_event_subscription, change.subscriptions)
        return _next_memory(change, known, status, change.complete_time, plan.result)

    # -- read ------------------------------------------------------------------------------------------------------------------

    def get_workflow_instance(self, id: str) -> WorkflowInstance:
        row = self._read(one, self._sql.get_workflow_instance, (check_name(id, "id", empty=True),))
        if row is None:
            raise WorkflowNotFoundError(id)
        return self._loaded(row)

    def get_workflow_instance_by_name(self, name: str) -> WorkflowInstance:
        row = self._read(one, self._sql.get_workflow_instance_by_name, (check_name(name, "name", empty=True),))
        if row is None:
            raise WorkflowNotFoundError(name)
        return self._loaded(row)

    def get_workflow_instances(self, ids: Iterable[str]) -> list[WorkflowInstance]:
        wanted = check_ids(ids, "ids")
        rows = self._read(all_rows, self._sql.get_workflow_instances, (json_list(wanted),))
        return [self._loaded(row) for row in rows]

    def get_runnable_instances(self, as_at: datetime, limit: int | None = None) -> list[str]:
        params = (to_millis(checked_moment(as_at, "as_at")), check_optional_limit(limit))
        return [row[0] for row in self._read(all_rows, self._sql.get_runnable_instances, params)]

    def next_definition_sequence(self, definition_id: str) -> int:
        row = self._write(one, self._sql.next_definition_sequence, (check_name(definition_id, "definition_id"),))
        assert row is not None  # an upsert with RETURNING returns its row
        return int(row[0])

    def change_status(
        self, workflow_id: str, to: WorkflowStatus, only_from: Collection[WorkflowStatus] | None = None
    ) -> bool:
        check_name(workflow_id, "workflow_id", empty=True)
        check_enum(to, WorkflowStatus, "to")
        sources = None
        if only_from is not None:
            sources = json_list(status.value for status in check_enums(only_from, WorkflowStatus, "only_from"))
        completed = self._now() if to in FINAL_WORKFLOW_STATUSES else None
        return self._write(self._change_status, workflow_id, to.value, sources, completed)

    def _change_status(
        self, session: Session, workflow_id: str, to: str, sources: str | None, completed: int | None
    ) -> bool:
        if session.run(self._sql.change_status, (workflow_id, to, sources, completed)):
            return True
        if session.one(self._sql.status_of, (workflow_id,)) is None:
            raise WorkflowNotFoundError(workflow_id)
        return False


def _next_memory(
    change: Change, known: Memory, status: WorkflowStatus, complete_time: int | None, stored: Stored
) -> Memory:
    fence = None if change.release else known.fence
    # By position: keywords cost half a microsecond here, and every persist comes this way.
    return Memory(
        known.store,
        known.seq,
        known.revision + 1,
        known.control,
        fence,
        0,
        status,
        complete_time,
        change.head,
        change.raw_head,
        stored,
    )


def _duplicate(error: UniqueViolation, id: str, name: str, subscriptions: Sequence[Row] = ()) -> WfeError:
    """What a value that has to be unique, and is not, means to the caller of create or persist."""
    constraint = error.constraint
    if "pointers" in constraint:
        return DuplicatePointerError(id, "an id in workflow")
    if "subscriptions" in constraint:
        return DuplicateSubscriptionError(", ".join(row[0] for row in subscriptions))
    if "name" in constraint:
        return DuplicateWorkflowError(name, "name")
    return DuplicateWorkflowError(id)
