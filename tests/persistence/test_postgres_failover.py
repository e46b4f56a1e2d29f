"""The primary server dies under worker processes, and its replica takes over: nothing acknowledged is lost, nothing is claimed twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from tests.persistence.failover_jobs import work_through_a_failover
from wfe_fast.database.postgres_server import NOT_DURABLE, PostgresServer
from wfe_fast.errors import ClaimLostError, StoreUnavailableError, WfeError
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.killing import Victim
from wfe_fast.testing.persistence.factories import a_workflow
from wfe_fast.testing.racing import CHILDREN

pytestmark = pytest.mark.once

WORKERS = 3
SHARED = [f"shared-{number}" for number in range(4)]
#: Acknowledgements of each worker before the primary dies, and marks of each on the new one.
BEFORE, AFTER = 60, 20


@pytest.fixture
def primary() -> Iterator[PostgresServer]:
    with PostgresServer(settings=NOT_DURABLE, tcp=True) as server:
        yield server


@pytest.fixture
def replica(primary: PostgresServer) -> Iterator[PostgresServer]:
    with primary.replica() as server:
        primary.replicate_synchronously()
        yield server


def address_of(*servers: PostgresServer) -> str:
    """Of whichever of them may be written."""
    parts = [psycopg.conninfo.conninfo_to_dict(server.tcp_dsn) for server in servers]
    together = {name: ",".join(str(part[name]) for part in parts) for name in ("host", "port")}
    return psycopg.conninfo.make_conninfo("", **{**parts[0], **together, "target_session_attrs": "read-write"})


def await_end(victim: Victim) -> None:
    """Return when a worker has done its work."""
    while victim.acknowledged[-1][0] != "done":
        victim.await_acknowledgements(len(victim.acknowledged) + 1)


def test_workers_go_on_with_the_replica(primary: PostgresServer, replica: PostgresServer) -> None:
    dsn = address_of(primary, replica)
    promoted = CHILDREN.Event()
    with PostgresPersistenceProvider(dsn) as provider:
        for id in SHARED:
            provider.create_new_workflow(a_workflow(id=id, data={"marks": []}))
        opener = partial(PostgresPersistenceProvider, dsn)
        victims = [Victim(opener, work_through_a_failover, f"w{n}", promoted, AFTER) for n in range(WORKERS)]
        try:
            for victim in victims:
                victim.await_acknowledgements(BEFORE)
            primary.stop("immediate")
            replica.promote()
            promoted.set()
            for victim in victims:
                await_end(victim)
        finally:
            told = [item for victim in victims for item in victim.kill()]
        # This provider has come through it, too.
        check_nothing_lost(provider, told)


def check_nothing_lost(provider: PostgresPersistenceProvider, told: list[tuple[Any, ...]]) -> None:
    errors = [item[1] for item in told if item[0] == "failed"]
    assert all(isinstance(error, WfeError) for error in errors), errors
    # What is there to be said when a server is gone: that it is gone, that a commit is unknown, that a claim has passed to somebody else.
    assert all(isinstance(error, (StoreUnavailableError, ClaimLostError)) for error in errors), errors
    created = [item[1] for item in told if item[0] == "created"]
    assert [one.id for one in provider.get_workflow_instances(created)] == created
    claims = Counter(item[1:] for item in told if item[0] == "claimed")
    assert set(claims.values()) == {1}, "two workers had one claim"
    acknowledged = {id: {item[2] for item in told if item[:2] == ("marked", id)} for id in SHARED}
    for instance in provider.get_workflow_instances(SHARED):
        marks = Counter(instance.data["marks"])
        # A worker that had written over another one's mark would be seen here.
        assert set(marks) >= acknowledged[instance.id]
        assert set(marks.values()) == {1}
        assert [pointer.step_name for pointer in instance.execution_pointers] == instance.data["marks"]
    assert sum(map(len, acknowledged.values())) >= WORKERS * AFTER
