"""Ctrl-C in the middle of a call on PostgreSQL: nothing is half there, and the store works on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.persistence import interrupted_jobs
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.killing import Victim
from wfe_fast.testing.persistence.factories import a_workflow, pointers
from wfe_fast.testing.racing import CHILDREN
from wfe_fast.testing.waiting import wait_until

NAME = "to be interrupted"


@pytest.fixture
def provider(postgres_dsn: str, postgres_empty_schema: str) -> Iterator[PostgresPersistenceProvider]:
    with PostgresPersistenceProvider(postgres_dsn, schema=postgres_empty_schema) as provider:
        provider.create_new_workflow(a_workflow(id="w", data={"number": 1}, execution_pointers=pointers(1)))
        yield provider


def backends(dsn: str, condition: str) -> int:
    """How many connections of the process are in that state."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        query = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = '{NAME}' AND {condition}"
        row = connection.execute(query.encode()).fetchone()
        assert row is not None
        return int(row[0])


@contextmanager
def row_locked(dsn: str, schema: str) -> Iterator[None]:
    """Nobody can write the workflow `w` meanwhile."""
    with psycopg.connect(dsn) as connection:
        connection.execute(f"SELECT 1 FROM \"{schema}\".workflows WHERE id = 'w' FOR UPDATE".encode())
        yield
        connection.rollback()


def interrupted(dsn: str, schema: str, job: Callable[..., None], argument: object, *, released: bool) -> list[Any]:
    """Run the job in a process, and send it Ctrl-C while its call waits for the row, which is `released` then; or only after it has said
    that it was interrupted. What it said."""
    go = CHILDREN.Event()
    victim = Victim(partial(PostgresPersistenceProvider, dsn, schema=schema, application_name=NAME), job, go, argument)
    victim.await_acknowledgements(1)
    with row_locked(dsn, schema):
        go.set()
        wait_until(lambda: backends(dsn, "wait_event_type = 'Lock'") == 1, "the call waits for the row")
        os.kill(victim.acknowledged[0][1], signal.SIGINT)
        if not released:
            victim.await_acknowledgements(2)
    told = victim.await_death()
    wait_until(lambda: backends(dsn, "TRUE") == 0, "the server is done with what it was sent")
    return told


def number_of(provider: PostgresPersistenceProvider) -> int:
    """The number in the workflow's data, with as many pointers."""
    instance = provider.get_workflow_instance("w")
    number: int = instance.data["number"]
    assert len(instance.execution_pointers) == number
    return number


@pytest.mark.parametrize("prepared", [False, True], ids=["first use", "prepared"])
def test_in_a_call(
    provider: PostgresPersistenceProvider, postgres_dsn: str, postgres_empty_schema: str, prepared: bool
) -> None:
    # A prepared statement waits inside of libpq, so that the interrupt comes out when the server has answered.
    told = interrupted(postgres_dsn, postgres_empty_schema, interrupted_jobs.persist, prepared, released=prepared)
    assert [item[0] for item in told] == ["ready", "interrupted", "read", "stored"]
    assert told[2][1] in (1, 2)
    assert told[3][1] is True
    assert number_of(provider) == 3


@pytest.mark.parametrize("when", ["at its beginning", "behind an answer", "at its end"])
def test_in_a_block(
    provider: PostgresPersistenceProvider, postgres_dsn: str, postgres_empty_schema: str, when: str
) -> None:
    prepared = when == "behind an answer"
    told = interrupted(postgres_dsn, postgres_empty_schema, interrupted_jobs.block, when, released=prepared)
    assert told[1:] == [("interrupted",), ("stored", True)]
    stored = {one.id for one in provider.get_workflow_instances(["new", "after"])}
    if when == "at its end":  # the server had got all of it, with the COMMIT, and may have done it or not
        assert (number_of(provider), stored) in ((1, {"after"}), (2, {"new", "after"}))
    else:
        assert (number_of(provider), stored) == (1, {"after"})
