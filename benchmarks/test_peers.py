"""Contract A beside other projects' nearest equals, each as it ships (extra `bench`). What differs stands beside each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from benchmarks.jobs import PERSIST
from benchmarks.peers import peer
from benchmarks.samples import a_workflow
from benchmarks.turns import Calls, Rates
from wfe_fast import WorkflowStatus
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.sqlite import SqlitePersistenceProvider

Compare = Callable[..., Rates]


@pytest.fixture
def normal(tmp_path: Path) -> Iterator[SqlitePersistenceProvider]:
    with SqlitePersistenceProvider(tmp_path / "normal.db") as provider:
        yield provider


@pytest.fixture
def full(tmp_path: Path) -> Iterator[SqlitePersistenceProvider]:
    with SqlitePersistenceProvider(tmp_path / "full.db", synchronous="full") as provider:
        yield provider


def test_saving_on_sqlite(
    compare: Compare, tmp_path: Path, normal: SqlitePersistenceProvider, full: SqlitePersistenceProvider
) -> None:
    """`persist_workflow` with ten pointers, one changed, and LangGraph's `SqliteSaver.put` with ten channels, one changed.

    The saver keeps every checkpoint, whole; we keep the state that is in force. It has WAL and synchronous=FULL: `full` is its equal.
    """
    pytest.importorskip("langgraph.checkpoint.sqlite")
    for provider in (normal, full):
        PERSIST.fill(provider, 1)
    with peer("langgraph_saver", str(tmp_path / "langgraph.db"), share=0.5) as langgraph:
        sides = {
            "ours": Calls(lambda _: PERSIST.call(normal, 0)),
            "ours, full": Calls(lambda _: PERSIST.call(full, 0)),
            "LangGraph SqliteSaver": langgraph,
        }
        compare(sides, calls=400)


def test_saving_on_postgres(compare: Compare, server: PostgresServer) -> None:
    """`persist_workflow` with ten pointers, one changed, and LangGraph's `PostgresSaver.put` with ten channels, one changed.

    The saver keeps every checkpoint; it stores the changed channel and the checkpoint.
    """
    pytest.importorskip("langgraph.checkpoint.postgres")
    with PostgresPersistenceProvider(server.dsn, schema="peers") as provider:
        PERSIST.fill(provider, 1)
        with peer("langgraph_saver", server.dsn, share=0.5) as langgraph:
            sides = {"ours": Calls(lambda _: PERSIST.call(provider, 0)), "LangGraph PostgresSaver": langgraph}
            compare(sides, calls=200)


def test_a_job_from_queue_to_result(
    compare: Compare, tmp_path: Path, normal: SqlitePersistenceProvider, full: SqlitePersistenceProvider
) -> None:
    """A workflow of one step is created, claimed and completed; a Huey task is put into the queue, taken out, and its result is stored.

    Huey has WAL with synchronous=FULL, and takes a task out of the queue before it runs: a killed process loses it. Ours is leased.
    """
    pytest.importorskip("huey")
    numbers = count()

    def work(provider: SqlitePersistenceProvider) -> Callable[[], None]:
        def one() -> None:
            provider.create_new_workflow(a_workflow(1, f"j{next(numbers)}"))
            (claimed,) = provider.claim_runnable_instances("worker", 1, lease=60)
            claimed.status = WorkflowStatus.COMPLETE
            provider.persist_workflow(claimed, release=True)

        return one

    with peer("huey_tasks", str(tmp_path / "huey.db")) as huey:
        sides = {"ours": Calls(lambda _: work(normal)), "ours, full": Calls(lambda _: work(full)), "Huey": huey}
        compare(sides, calls=200)
