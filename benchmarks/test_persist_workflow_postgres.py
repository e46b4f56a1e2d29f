"""`persist_workflow` on PostgreSQL with one of ten pointers changed, against its floor: the same statement on bare psycopg, prepared, in autocommit
mode, with values that are encoded already: one round trip each. Both take turns on one durable server; the ratio counts."""

from __future__ import annotations

import json
import re
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import psycopg
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.test_persist_workflow import CHANGED, a_workflow
from wfe_fast import WorkflowInstance, WorkflowStatus
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.persistence.postgres import PostgresPersistenceProvider

TURNS, CALLS, THREADS = 12, 200, 8
FINISHED = 20_000
BATCH = 500

Call = Callable[[], None]


def workflow(id: str) -> WorkflowInstance:
    made = a_workflow(10)
    made.id = id
    for number, pointer in enumerate(made.execution_pointers):
        pointer.id = f"{id}-{number}"
    return made


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(settings={"max_connections": "100"}) as server:
        yield server


@pytest.fixture(scope="module", params=[0, FINISHED], ids=["empty tables", f"{FINISHED} finished"])
def provider(server: PostgresServer, request: pytest.FixtureRequest) -> Iterator[PostgresPersistenceProvider]:
    with PostgresPersistenceProvider(server.dsn, schema=f"bench_{request.param}") as provider:
        for number in range(THREADS):
            provider.create_new_workflow(workflow(f"w{number}"))
        for begin in range(0, request.param, BATCH):
            with provider.transaction() as tx:
                for number in range(begin, begin + BATCH):
                    done = workflow(f"f{number}")
                    done.status, done.complete_time = WorkflowStatus.COMPLETE, done.create_time
                    tx.create_new_workflow(done)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")
        yield provider


def provider_call(provider: PostgresPersistenceProvider, id: str) -> Call:
    """One persist of a loaded workflow."""
    loaded = provider.get_workflow_instance(id)
    numbers = count(1)

    def persist() -> None:
        loaded.next_execution = loaded.execution_pointers[CHANGED].retry_count = next(numbers)
        provider.persist_workflow(loaded)

    return persist


def floor_call(connection: psycopg.Connection, provider: PostgresPersistenceProvider, id: str) -> Call:
    """The same statement, with everything ready."""
    names = provider._database.names
    sql = re.sub(r"\$\d+", "%s", provider._sql.persist).encode()
    row = names.resolve("SELECT seq, revision, data::text FROM @workflows WHERE id = %s").encode()
    seq, revision, data = connection.execute(row, [id]).fetchone() or (0, 0, "")
    pointer = names.resolve("SELECT doc FROM @execution_pointers WHERE workflow_id = %s AND position = %s").encode()
    (document,) = connection.execute(pointer, [id, CHANGED]).fetchone() or ("",)
    digits = re.compile(r',"retry_count":\d+')
    plain = digits.sub("", document)
    updates = [json.dumps([[CHANGED, f'{plain[:-1]},"retry_count":{number}}}']]) for number in range(1, 101)]
    revisions = count(revision)
    cursor = connection.cursor()

    def persist() -> None:
        now = next(revisions)
        cursor.execute(
            sql,
            (
                id,
                seq,
                now,
                None,
                0,
                None,
                False,
                False,
                now + 1,
                now,
                data,
                None,
                None,
                updates[now % 100],
                *[None] * 3,
            ),
            prepare=True,
        ).fetchall()

    return persist


def seconds(calls: list[Call]) -> float:
    """Seconds of one call, over CALLS of them in each of as many threads as there are calls."""
    barrier = threading.Barrier(len(calls) + 1)

    def run(call: Call) -> None:
        barrier.wait()
        for _ in range(CALLS):
            call()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    barrier.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - begin) / (CALLS * len(calls))


@pytest.mark.parametrize("threads", [1, THREADS])
def test_persist_workflow_on_postgres(
    benchmark: BenchmarkFixture, server: PostgresServer, provider: PostgresPersistenceProvider, threads: int
) -> None:
    ids = [f"w{number}" for number in range(threads)]
    connections = [psycopg.connect(server.dsn, autocommit=True) for _ in ids]
    ours: list[float] = []
    floor: list[float] = []
    for _ in range(TURNS):
        ours.append(seconds([provider_call(provider, id) for id in ids]))
        floor.append(seconds([floor_call(c, provider, id) for c, id in zip(connections, ids, strict=True)]))
    for connection in connections:
        connection.close()
    ratios = sorted(bare / mine for mine, bare in zip(ours, floor, strict=True))
    benchmark.pedantic(provider_call(provider, ids[0]), rounds=TURNS, iterations=CALLS, warmup_rounds=1)
    benchmark.extra_info.update(
        ours_per_second=round(1 / statistics.median(ours)),
        floor_per_second=round(1 / statistics.median(floor)),
        ratio=round(statistics.median(ratios), 2),
        ratio_quartiles=[round(ratios[len(ratios) // 4], 2), round(ratios[3 * len(ratios) // 4], 2)],
    )
