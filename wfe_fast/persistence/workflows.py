"""Workflows and their execution pointers: create, persist, read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from wfe_fast.clock import checked_moment, from_micros, to_millis
from wfe_fast.codec import encode_json
from wfe_fast.database.base import Row, UniqueViolation
from wfe_fast.errors import (
    DuplicatePointerError,
    DuplicateSubscriptionError,
    DuplicateWorkflowError,
    InvalidStateError,
    WfeError,
    WorkflowNotFoundError,
)
from wfe_fast.persistence.memory import Memory
from wfe_fast.persistence.models import (
    EventSubscription,
    WorkflowInstance,
    WorkflowStatus,
    new_id,
)
from wfe_fast.persistence.operations import Operations, all_rows, one
from wfe_fast.persistence.pointers import NOTHING, encode_pointers, plan_changes
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
from wfe_fast.persistence.work import Change

#: Later than any datetime, and far inside what the column holds.
_MAX_MILLIS = 2**62


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
        due, data = check_due(instance), self._work.json(json_text(instance.data, "data"))
        row = (id, name, root, definition, version, description, reference, due, status.value, data, created, completed)
        raw = (id, name, *raw_head_of(instance)[2:])

        def stored(seq: int) -> None:
            memory = Memory(self._store, seq, 1, 0, None, 0, status, completed, head, raw, plan.result)
            self._remember(instance, memory)

        self._store_for(instance, self._work.create, (row, plan), stored, lambda error: _duplicate(error, id, name))
        instance.id = id
        instance.name = name
        return id

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
        rows = [
            subscription_row(item, self._work.json, f"subscriptions[{index}]") for index, item in enumerate(checked)
        ]
        self._persist_instance(instance, rows, expect_unchanged, release)
        for item, row in zip(checked, rows, strict=True):
            item.id = row[0]

    def _persist_instance(
        self, instance: WorkflowInstance, subscriptions: list[Row], expect_unchanged: bool, release: bool
    ) -> None:
        change = self._checked_change(instance, subscriptions, expect_unchanged, release)

        def persisted(memory: Memory) -> None:
            self._remember(instance, memory)
            if not instance.name:
                instance.name = change.head[0]
            if memory.status is not instance.status:
                instance.status = memory.status
                completed = memory.complete_time
                instance.complete_time = None if completed is None else from_micros(completed)

        def duplicate(error: UniqueViolation) -> WfeError:
            return _duplicate(error, change.id, change.head[0], subscriptions)

        self._store_for(instance, self._work.persist, (change,), persisted, duplicate)

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
            self._work.json(encode_json(instance.data, "data").decode()),
            lines,
            pointers,
            None if stored is None else plan_changes(stored, lines, changed, pointers),
            subscriptions,
            expect_unchanged,
            release,
        )

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
        sources = None if only_from is None else check_enums(only_from, WorkflowStatus, "only_from")
        return self._write(self._work.change_status, workflow_id, to, sources)


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
