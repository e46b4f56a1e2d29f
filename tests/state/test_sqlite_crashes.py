"""A process that is killed with SIGKILL before the n-th statement of a write, for every n: all of the write is there, or nothing of it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import apsw
import pytest

from tests.state.support import dump
from wfe_fast.sqlite import SqliteBackend
from wfe_fast.state import Event, Snapshot, Tenant, TenantLimits, WorkflowCompleted, WorkflowDefinition, WorkflowStatus
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.state.factories import QUEUE, an_event, an_execution, an_item, completed, failed, scheduled

pytestmark = pytest.mark.once

EXECUTION = an_execution(execution_id=UUID(int=1))
OTHER = an_execution(execution_id=UUID(int=2), started_at=START, updated_at=START)
ENDED = an_execution(execution_id=UUID(int=3), started_at=START, updated_at=START)
ITEMS = {
    name: an_item(EXECUTION, name, id=UUID(int=100 + n)) for n, name in enumerate(("a", "b", "last", "dead", "queued"))
}
TOKEN: list[str] = []


def event(kind: Any, number: int = 50) -> Event:
    """An event with an id that is the same every time."""
    return an_event(EXECUTION, kind, id=UUID(int=number), created_at=START)


def prepare(path: Path) -> None:
    """A file with something of everything: two items held, one whose last attempt it is, a dead letter, a queued one."""
    with SqliteBackend.open(path, clock=ManualClock(), snapshot_every=4) as backend:
        backend.create_tenant(Tenant(id="acme", name="A", limits=TenantLimits(max_workflows=3)))
        backend.create_execution(EXECUTION)
        backend.append_events([event(None, 10), event(scheduled("a"), 11)])
        for name in ("a", "b", "last", "dead"):
            ITEMS[name].max_attempts = 1 if name in ("last", "dead") else 3
            backend.enqueue_work_item(ITEMS[name])
        for item in backend.claim_work_item("w", [QUEUE], limit=9):
            ITEMS[item.node_id] = item
        backend.move_to_dead_letter(ITEMS["dead"], "gone")
        backend.enqueue_work_item(ITEMS["queued"])
        backend.create_execution(ENDED)
        backend.append_events(
            [
                Event(id=UUID(int=n), execution_id=ENDED.execution_id, kind=completed(str(n)), created_at=START)
                for n in (20, 21)
            ]
        )
        backend.update_execution_status(ENDED.execution_id, WorkflowStatus.FAILED)
        TOKEN[:] = [backend.create_token("t", "r")[1].id]


LATER = ManualClock(START + timedelta(seconds=61))

WRITES: dict[str, Callable[[SqliteBackend], object]] = {
    "store_workflow": lambda b: b.for_tenant("acme").store_workflow(
        WorkflowDefinition(workflow_id="w", version="1", ir=1, created_at=START)
    ),
    "create_execution": lambda b: b.for_tenant("acme").create_execution(OTHER),
    "start_execution": lambda b: b.start_execution(
        OTHER,
        [Event(id=UUID(int=n), execution_id=OTHER.execution_id, kind=scheduled(), created_at=START) for n in (60, 61)],
        an_item(OTHER, id=UUID(int=62), created_at=START),
    ),
    "schedule_node": lambda b: b.schedule_node(
        event(scheduled("x")), an_item(EXECUTION, "x", id=UUID(int=63), created_at=START)
    ),
    "append_events": lambda b: b.append_events([event(completed("m"), n) for n in (70, 71, 72)]),
    "write_snapshot": lambda b: b.write_snapshot(
        Snapshot(id=UUID(int=80), execution_id=EXECUTION.execution_id, at_sequence=1, state={}, created_at=START)
    ),
    "commit_turn": lambda b: b.commit_turn(
        ITEMS["a"], event(completed("a", idempotency_key="k", input_tokens=5, cost_usd=0.5)), snapshot=True
    ),
    "commit_turn failed": lambda b: b.commit_turn(ITEMS["a"], event(failed("a"))),
    "finish_execution": lambda b: b.finish_execution(event(WorkflowCompleted(final_state=1)), WorkflowStatus.COMPLETED),
    "cancel": lambda b: b.update_execution_status(EXECUTION.execution_id, WorkflowStatus.CANCELLED),
    "fail_work_item": lambda b: b.fail_work_item(ITEMS["a"], "e"),
    "fail_work_item for the last time": lambda b: b.fail_work_item(ITEMS["last"], "e"),
    "park_work_item": lambda b: b.park_work_item(ITEMS["a"], START + timedelta(seconds=99)),
    "move_to_dead_letter": lambda b: b.move_to_dead_letter(ITEMS["a"], "e"),
    "requeue_dead_letter": lambda b: b.requeue_dead_letter(ITEMS["dead"].id),
    "claim_work_item": lambda b: b.claim_work_item("w", [QUEUE], limit=2),
    "claim_work_item that ends leases": lambda b: SqliteBackend(b.pool, clock=LATER).claim_work_item("w", [QUEUE]),
    "reclaim_expired_leases": lambda b: SqliteBackend(b.pool, clock=LATER).reclaim_expired_leases(),
    "rotate_token": lambda b: b.rotate_token(TOKEN[0]),
    "reserve_tool_effect": lambda b: b.reserve_tool_effect("k", EXECUTION.execution_id, "n", "me", 1),
    "purge_events": lambda b: b.purge_events(START + timedelta(seconds=1)),
    "patch_append_array": lambda b: b.patch_append_array(EXECUTION.execution_id, "k", 1),
}

#: Columns whose values are made anew each time.
_MADE = {"state_events": 2, "state_snapshots": 2}


def comparable(rows: dict[str, list[Any]]) -> dict[str, list[str]]:
    """What is stored, without ids that are drawn, secrets, and the moment of the migration."""
    result = {}
    for table, found in rows.items():
        if table in ("wfe_fast_migrations", "state_tenants"):
            continue
        if table == "state_tokens":
            found = [(row[2], row[4], row[9] is None) for row in found]
        place = _MADE.get(table)
        result[table] = sorted(repr(row if place is None else (*row[:place], *row[place + 1 :])) for row in found)
    return result


def run_and_die(path: Path, write: Callable[[SqliteBackend], object], statement: int) -> bool:
    """Run `write` in a child that dies before its `statement`-th statement; whether it died."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            count = 0
            armed = False

            def watch(connection: apsw.Connection) -> None:
                def before_statement(_: object, sql: str, __: object) -> bool:
                    nonlocal count
                    count += armed
                    if count == statement:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return True

                connection.set_exec_trace(before_statement)

            apsw.connection_hooks.append(watch)
            backend = SqliteBackend.open(path, clock=ManualClock(), snapshot_every=4)
            armed = True
            write(backend)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    return status == signal.SIGKILL


def stored(path: Path) -> dict[str, list[str]]:
    with SqliteBackend.open(path) as backend:
        return comparable(dump(backend))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("label", WRITES)
def test_killed_at_every_statement(tmp_path: Path, label: str) -> None:
    prepared = tmp_path / "prepared.db"
    prepare(prepared)
    before = stored(prepared)
    shutil.copy(prepared, tmp_path / "whole.db")
    assert not run_and_die(tmp_path / "whole.db", WRITES[label], -1)
    after = stored(tmp_path / "whole.db")
    assert after != before
    for statement in range(1, 100):
        path = tmp_path / f"{statement}.db"
        shutil.copy(prepared, path)
        died = run_and_die(path, WRITES[label], statement)
        found = stored(path)
        assert found == (before if died else after), f"killed before statement {statement}"
        if not died:
            break
    assert statement > 3
