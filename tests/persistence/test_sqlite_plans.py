"""The query plan of every statement: it finds its rows by an index and sorts nothing; and its cost follows the rows it returns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_type_hints

import apsw
import pytest

from wfe_fast.clock import to_micros, to_millis
from wfe_fast.persistence.models import ScheduledCommand, WorkflowStatus
from wfe_fast.persistence.sqlite import STATEMENTS
from wfe_fast.persistence.statements import Statements
from wfe_fast.sqlite import SqlitePersistenceProvider
from wfe_fast.testing.clock import START
from wfe_fast.testing.persistence.factories import (
    FAR,
    KEY,
    NAME,
    a_subscription,
    a_workflow,
    an_error,
    an_event,
    pointers,
)

#: What a statement must walk. A statement that is not here inserts, or finds one row by its key: `KEYED` says which.
INDEXES: dict[str, str] = {
    "get_runnable_instances": "workflows_runnable",
    "claimable": "workflows_runnable",
    "claimable_of": "workflows_runnable_by_definition",
    "oldest_runnable": "workflows_runnable",
    "next_due_workflows": "workflows_runnable",
    "next_due_workflows_of": "workflows_runnable_by_definition",
    "list_workflows": "workflows_by_create_time",
    "list_workflows_by_status": "workflows_by_status",
    "list_workflows_by_definition": "workflows_by_definition",
    "list_workflows_by_reference": "workflows_by_reference",
    "ended_before": "workflows_by_complete_time",
    "count_workflows": "workflows_by_status",
    "get_runnable_events": "events_unprocessed",
    "next_due_event": "events_due",
    "unprocessed": "events_due",
    "unprocessed_of_key": "events_unprocessed_by_key",
    "get_events": "events_by_key",
    "get_events_since": "events_by_key",
    "purge_events": "events_processed",
    "get_subscriptions": "subscriptions_by_key",
    "get_first_open_subscription": "subscriptions_open",
    "open_subscription": "subscriptions_open",
    "matching_subscriptions": "subscriptions_open",
    "overtake_pending": "subscriptions_pending",
    "subscriptions_of": "subscriptions_by_workflow",
    "drop_subscriptions": "subscriptions_by_workflow",
    "pending_of": "subscriptions_pending_by_workflow",
    "delete_subscriptions_of": "subscriptions_by_workflow",
    "due_commands": "commands_by_time",
    "next_due_commands": "commands_by_time",
    "get_errors": "errors_by_workflow",
    "delete_errors_of": "errors_by_workflow",
}
#: Statements that insert: there is nothing to find.
INSERTS = {
    "insert_workflow",
    "insert_pointer",
    "next_definition_sequence",
    "create_event",
    "create_event_subscription",
    "schedule_command",
    "persist_error",
}
KEYED = sorted(set(get_type_hints(Statements)) - set(INDEXES) - INSERTS)
#: These walk an index from its beginning, since there all of it, or its first entries, is what they ask for.
WALKS = {"count_workflows", "oldest_runnable", "next_due_workflows", "next_due_event", "next_due_commands"}


def fill(provider: SqlitePersistenceProvider, sleeping: int) -> None:
    """100 workflows that are due, and many that sleep or are over; events, subscriptions, errors, commands."""
    for start in range(0, sleeping + 100, 500):
        with provider.transaction() as tx:
            for number in range(start, min(start + 500, sleeping + 100)):
                due = number < 100
                instance = a_workflow(
                    id=f"w{number}",
                    workflow_definition_id=f"d{number % 5}",
                    reference=f"r{number % 50}",
                    next_execution=number if due else to_millis(FAR) + number,
                    status=WorkflowStatus.RUNNABLE if due or number % 2 else WorkflowStatus.COMPLETE,
                    complete_time=None if due or number % 2 else START,
                    execution_pointers=pointers(2),
                )
                tx.create_new_workflow(instance)
                tx.create_event_subscription(
                    a_subscription(id=f"s{number}", workflow_id=f"w{number}", event_key=KEY if due else f"k{number}")
                )
                tx.create_event(
                    an_event(
                        id=f"e{number}",
                        event_key=KEY if due else f"k{number}",
                        event_time=START + timedelta(seconds=number),
                        is_processed=not due,
                    )
                )
                tx.persist_errors([an_error(f"w{number}")])
                tx.schedule_command(ScheduledCommand.process_workflow(f"w{number}", number if due else to_millis(FAR)))


def filled(folder: Path, sleeping: int) -> Iterator[apsw.Connection]:
    """A file that the provider made, with so many workflows that sleep."""
    with SqlitePersistenceProvider(folder / "test.db") as provider:
        fill(provider, sleeping)
        connection = apsw.Connection(str(folder / "test.db"), flags=apsw.SQLITE_OPEN_READONLY)
        yield connection
        connection.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    yield from filled(tmp_path_factory.mktemp("small"), 400)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[apsw.Connection]:
    yield from filled(tmp_path_factory.mktemp("large"), 4000)


def plan(database: apsw.Connection, name: str) -> list[str]:
    """The lines of a statement's query plan."""
    sql: str = getattr(STATEMENTS, name)
    parameters = max((int(number) for number in re.findall(r"\?(\d+)", sql)), default=0)
    rows = database.execute(f"EXPLAIN QUERY PLAN {sql}", (None,) * parameters).fetchall()
    return [str(row[3]) for row in rows]


@pytest.mark.parametrize("name", sorted(get_type_hints(Statements)))
def test_nothing_is_sorted_and_no_table_is_scanned(database: apsw.Connection, name: str) -> None:
    for line in plan(database, name):
        assert "TEMP B-TREE" not in line, line
        if line.startswith("SCAN") and "json_each" not in line and "VIRTUAL TABLE" not in line:
            inner = line.startswith("SCAN (subquery")
            assert inner or (name in WALKS and "INDEX" in line), line


@pytest.mark.parametrize("name", INDEXES)
def test_a_statement_walks_its_index(database: apsw.Connection, name: str) -> None:
    lines = plan(database, name)
    assert any(re.search(rf"USING (COVERING )?INDEX {INDEXES[name]}\b", line) for line in lines), lines


@pytest.mark.parametrize("name", KEYED)
def test_one_row_is_found_by_its_key(database: apsw.Connection, name: str) -> None:
    lines = plan(database, name)
    keys = ("USING INTEGER PRIMARY KEY (rowid=?)", "sqlite_autoindex", "USING PRIMARY KEY")
    assert any(line.startswith("SEARCH") and any(key in line for key in keys) for line in lines), lines


_NOW = to_micros(START)
_ALL = 2**62

#: Hot statements with parameters for which they return the same rows, however much sleeps beside them.
COSTS: dict[str, tuple[Any, ...]] = {
    "get_runnable_instances": (to_millis(START), -1),
    "claimable": (to_millis(START), _NOW, 100),
    "claimable_of": ("d1", 1, to_millis(START), _NOW, 100),
    "next_due_workflows": (10,),
    "oldest_runnable": (),
    "get_workflow_instance": ("w7",),
    "get_workflow_instance_by_name": ("w7",),
    "persist_state": ("w7",),
    "stored_pointers": ("w7",),
    "list_workflows": (_ALL, -_ALL, "", 20),
    "get_runnable_events": (_ALL, -1),
    "get_events": (NAME, KEY, _ALL),
    "unprocessed": (_ALL, 50),
    "unprocessed_of_key": (NAME, KEY, _ALL, 50),
    "get_subscriptions": (NAME, KEY, _ALL),
    "get_first_open_subscription": (NAME, KEY, _ALL, _NOW),
    "matching_subscriptions": (NAME, KEY, _ALL, 100),
    "subscriptions_of": ("w7", None),
    "due_commands": (to_millis(START), _ALL),
    "get_errors": ("w7", -1),
    "next_due_event": (),
    "next_due_commands": (10,),
}


def steps(database: apsw.Connection, name: str) -> tuple[int, int]:
    """How many rows the statement returns, and how many steps of SQLite's machine that takes."""
    count = 0

    def step() -> bool:
        nonlocal count
        count += 1
        return False

    database.set_progress_handler(step, 1)
    try:
        rows = database.execute(getattr(STATEMENTS, name), COSTS[name]).fetchall()
    finally:
        database.set_progress_handler(None)
    return len(rows), count


@pytest.mark.parametrize("name", COSTS)
def test_the_cost_follows_the_rows_returned(small: apsw.Connection, database: apsw.Connection, name: str) -> None:
    """The same rows cost the same steps among ten times as many that are not asked for."""
    rows_among_few, among_few = steps(small, name)
    rows, among_many = steps(database, name)
    assert rows == rows_among_few > 0
    assert among_many <= 1.3 * among_few + 50
