"""What can only be met on PostgreSQL, where transactions of several owners are open at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.host.support import Database
from wfe_fast import DuplicateWorkflowError, WorkflowStatus
from wfe_fast.host import StepContext, WorkflowBuilder, WorkflowHost
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.waiting import PATIENCE, Background, wait_until


@pytest.fixture
def database(postgres_dsn: str, postgres_empty_schema: str) -> Database:
    return Database(postgres_dsn, {"schema": postgres_empty_schema}, {})


@pytest.fixture
def other(database: Database) -> Iterator[PostgresPersistenceProvider]:
    """Somebody else's."""
    with PostgresPersistenceProvider(database.url, **database.options) as provider:
        yield provider


def await_lock(dsn: str) -> None:
    """Return when a connection waits for what another one's transaction will have done."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    with psycopg.connect(dsn, autocommit=True) as connection:
        wait_until(lambda: connection.execute(waiting).fetchone(), "somebody waits")


def definitions() -> list[WorkflowBuilder]:
    child = WorkflowBuilder("child")
    child.then(lambda data: None, name="nothing")
    runs: list[int] = []

    def begin(data: Any, ctx: StepContext) -> int:
        ctx.start("child", id="one")
        runs.append(1)
        return len(runs)

    parent = WorkflowBuilder("parent")
    parent.then(begin, into="runs")
    return [child, parent]


def test_a_child_that_somebody_starts_at_the_same_moment(
    provider: PostgresPersistenceProvider, other: PostgresPersistenceProvider, database: Database
) -> None:
    host = WorkflowHost(provider, definitions())
    parent = host.start("parent")
    with other.transaction() as tx:
        WorkflowHost(other, definitions()).start("child", id="one", tx=tx)
        assert tx.get_workflow_instance("one").id == "one"
        passes = Background(host.run_until_idle)
        await_lock(database.url)
    passes.result()
    assert host.result(parent, timeout=PATIENCE) == {"runs": 1}
    assert host.get("one").status is WorkflowStatus.COMPLETE
    assert host.stats().claims_given_up == 0


@pytest.mark.parametrize("joined", [False, True], ids=["alone", "in a block"])
def test_a_start_of_what_somebody_starts_at_the_same_moment(
    provider: PostgresPersistenceProvider, other: PostgresPersistenceProvider, database: Database, joined: bool
) -> None:
    host = WorkflowHost(provider, definitions())

    def start() -> str:
        if not joined:
            return host.start("child", id="one")
        with provider.transaction() as tx:
            tx.next_definition_sequence("beside")
            return host.start("child", id="one", tx=tx)

    with other.transaction() as tx:
        WorkflowHost(other, definitions()).start("child", id="one", tx=tx)
        assert tx.get_workflow_instance("one").id == "one"
        started = Background(start)
        await_lock(database.url)
    if joined:
        with pytest.raises(DuplicateWorkflowError):
            started.result()
        assert provider.next_definition_sequence("beside") == 1
        assert start() == "one"
    else:
        assert started.result() == "one"


def test_a_name_that_somebody_takes_at_the_same_moment(
    provider: PostgresPersistenceProvider, other: PostgresPersistenceProvider, database: Database
) -> None:
    host = WorkflowHost(provider, definitions())
    with other.transaction() as tx:
        WorkflowHost(other, definitions()).start("child", name="taken", tx=tx)
        assert tx.get_workflow_instance_by_name("taken").name == "taken"
        started = Background(lambda: host.start("child", id="mine", name="taken"))
        await_lock(database.url)
    with pytest.raises(DuplicateWorkflowError, match="name"):
        started.result()
    assert provider.get_workflow_instances(["mine"]) == []
