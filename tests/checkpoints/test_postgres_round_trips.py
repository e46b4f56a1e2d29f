"""How often each method waits for the database: once. Counted at the wire, between the store and the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.checkpoints.calls import GATHERED, OUTSIDE, READS, WRITES, World, build_world
from wfe_fast.checkpoints.contract import CheckpointStore, CheckpointTransaction
from wfe_fast.errors import ExecutionNotFoundError, InvalidValueError
from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.testing.checkpoints.factories import a_checkpoint, a_timer, a_workflow, an_execution
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.persistence.writes import methods_of
from wfe_fast.testing.proxy import WireProxy


class _PlannedError(Exception):
    pass


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
def open_store(proxy: WireProxy, postgres_empty_schema: str) -> Iterator[Callable[[], PostgresCheckpointStore]]:
    """Opens a store with one connection, whose way leads through the proxy."""
    opened: list[PostgresCheckpointStore] = []
    clock = ManualClock()

    def open_one() -> PostgresCheckpointStore:
        store = PostgresCheckpointStore(proxy.dsn, postgres_empty_schema, clock=clock, max_connections=1)
        opened.append(store)
        store.migrate()
        store.count_executions()  # connects
        return store

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def world(open_store: Callable[[], PostgresCheckpointStore]) -> World:
    return build_world(open_store())


@pytest.fixture
def store(open_store: Callable[[], PostgresCheckpointStore], world: World) -> PostgresCheckpointStore:
    """A store that has executed next to nothing so far."""
    return open_store()


def method_of(label: str) -> str:
    return label.split()[0]


def test_no_method_is_forgotten() -> None:
    inside = methods_of(CheckpointTransaction)
    assert {*map(method_of, WRITES), *map(method_of, READS)} == inside
    assert methods_of(CheckpointStore) == inside | OUTSIDE
    assert {method_of(label) for label in WRITES} >= GATHERED


@pytest.mark.parametrize("label", [*WRITES, *READS])
def test_a_method_is_one_round_trip_also_at_its_first_use(
    proxy: WireProxy, store: PostgresCheckpointStore, world: World, label: str
) -> None:
    with proxy.counting() as count:
        {**WRITES, **READS}[label](store, world)
    assert count.round_trips == 1, count.messages


@pytest.mark.parametrize("label", [*WRITES, *READS])
def test_a_method_is_one_round_trip_once_it_is_prepared(
    proxy: WireProxy, store: PostgresCheckpointStore, world: World, label: str
) -> None:
    call = {**WRITES, **READS}[label]
    with pytest.raises(_PlannedError), store.transaction() as tx:
        call(tx, world)
        tx.count_executions()  # sends it
        raise _PlannedError
    with proxy.counting() as count:
        call(store, world)
    assert count.round_trips == 1, count.messages


@pytest.mark.parametrize("label", WRITES)
def test_a_block_is_one_round_trip_and_one_more_for_an_answer(
    proxy: WireProxy, store: PostgresCheckpointStore, world: World, label: str
) -> None:
    with proxy.counting() as count, store.transaction() as tx:
        WRITES[label](tx, world)
    assert count.round_trips == (1 if method_of(label) in GATHERED else 2), count.messages


def test_a_block_of_many_writes_is_one_round_trip(proxy: WireProxy, store: PostgresCheckpointStore) -> None:
    with proxy.counting() as count, store.transaction() as tx:
        tx.save_workflow(a_workflow("new"))
        for number in range(50):
            store.save_execution(an_execution(f"e{number}", workflow_id="new"))  # the store's own methods belong to it
            tx.save_checkpoint(a_checkpoint(workflow_execution_id=f"e{number}"))
            tx.save_timer(a_timer(f"t{number}", workflow_execution_id=f"e{number}"))
        tx.delete_execution("e7")
    assert count.round_trips == 1, count.messages
    assert sum(store.count_executions().values()) == 5 + 49


def test_a_refusal_is_one_round_trip(proxy: WireProxy, store: PostgresCheckpointStore, world: World) -> None:
    with proxy.counting() as count:
        with pytest.raises(ExecutionNotFoundError):
            store.save_checkpoint(a_checkpoint(workflow_execution_id="nobody"))
        with pytest.raises(ExecutionNotFoundError):
            store.cancel_execution("nobody")
    assert count.round_trips == 2, count.messages


def test_what_has_nothing_to_ask_asks_nothing(proxy: WireProxy, store: PostgresCheckpointStore, world: World) -> None:
    with proxy.counting() as count:
        store.save_checkpoints([])
        assert store.renew_claims([]) == []
        assert store.load_executions_by_status([]) == []
        with pytest.raises(InvalidValueError):
            store.load_execution("")
        with store.transaction():
            pass
    assert count.round_trips == 0, count.messages


def test_a_look_for_work_is_one_round_trip(proxy: WireProxy, store: PostgresCheckpointStore) -> None:
    with proxy.counting() as count:
        assert store.wait_for_work(60, ["order"])
    assert count.round_trips == 1, count.messages


def test_the_servers_clock_is_asked_once(proxy: WireProxy, postgres_empty_schema: str) -> None:
    with PostgresCheckpointStore(proxy.dsn, postgres_empty_schema) as store:
        assert store.schema_version in (0, 3)  # connects
        with proxy.counting() as count:
            first = store.clock()
            assert store.clock() >= first
        assert count.round_trips == 1, count.messages


def test_the_schema_is_looked_at_in_one_round_trip(proxy: WireProxy, store: PostgresCheckpointStore) -> None:
    with proxy.counting() as count:
        assert store.validate_schema()
        assert store.schema_version == 3
    assert count.round_trips == 2, count.messages
