"""Connections that break or are borrowed, locks that others hold, and the clock and the notifications of the server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg.rows import dict_row

from tests.checkpoints.calls import GATHERED, REPEATED, WRITES, World, build_world
from wfe_fast.checkpoints import ExecutionStatus, StepKind, StepStatus, WorkflowExecution
from wfe_fast.clock import system_clock
from wfe_fast.database.postgres_server import NOT_DURABLE, PostgresServer
from wfe_fast.errors import (
    ClaimLostError,
    CommitOutcomeUnknownError,
    InvalidStateError,
    StoreBusyError,
    StoreUnavailableError,
)
from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.testing.checkpoints.factories import (
    EXECUTION,
    WORKFLOW,
    a_checkpoint,
    a_signal,
    a_timer,
    a_workflow,
    an_execution,
    at,
    claimed,
)
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.killing import Victim
from wfe_fast.testing.proxy import WireProxy
from wfe_fast.testing.racing import race_threads, values
from wfe_fast.testing.waiting import Background, wait_until

S = ExecutionStatus


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: WireProxy, postgres_empty_schema: str) -> Iterator[PostgresCheckpointStore]:
    with PostgresCheckpointStore(proxy.dsn, postgres_empty_schema, clock=ManualClock()) as store:
        store.migrate()
        yield store


@pytest.fixture
def world(store: PostgresCheckpointStore) -> World:
    return build_world(store)


# -- connections that break --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [label for label in WRITES if label.split()[0] in GATHERED | REPEATED])
def test_a_write_that_may_be_repeated_is(
    store: PostgresCheckpointStore, proxy: WireProxy, world: World, label: str
) -> None:
    """Its answer was lost: it is done again, on another connection, and nobody hears of it."""
    for fault in (partial(proxy.lose_answer, "Execute"), partial(proxy.cut_before, "Sync")):
        rule = fault()
        WRITES[label](store, world)
        assert rule.reached


@pytest.mark.parametrize("label", [label for label in WRITES if label.split()[0] not in GATHERED | REPEATED])
def test_of_any_other_the_caller_is_told_that_nobody_knows(
    store: PostgresCheckpointStore, proxy: WireProxy, world: World, label: str
) -> None:
    store.count_executions()
    rule = proxy.lose_answer("Execute")
    with pytest.raises(CommitOutcomeUnknownError):
        WRITES[label](store, world)
    assert rule.reached
    assert store.load_execution("held") is not None


def test_repeating_a_step_settles_an_unknown_commit(
    store: PostgresCheckpointStore, proxy: WireProxy, world: World
) -> None:
    for index, fault in enumerate((partial(proxy.lose_answer, "Execute"), partial(proxy.cut_before, "Sync"))):
        row = a_checkpoint(3 + index, workflow_execution_id="held", output_data=index)
        changed = world.held.copy_with(current_step=4 + index)
        fault()
        with pytest.raises(CommitOutcomeUnknownError):
            store.advance_execution(changed, [row])
        assert store.advance_execution(changed, [row]) is S.RUNNING
        found = store.load_checkpoints("held")
        assert (len(found), found[-1].output_data) == (4 + index, index)


def test_an_unknown_commit_of_a_block(store: PostgresCheckpointStore, proxy: WireProxy, world: World) -> None:
    proxy.lose_commit()
    with pytest.raises(CommitOutcomeUnknownError), store.transaction() as tx:
        tx.save_execution(an_execution("one"))
        tx.save_execution(an_execution("two"))
    assert store.load_execution("one") == an_execution("one")
    assert store.load_execution("two") == an_execution("two")


def test_a_block_that_breaks_before_its_end_has_stored_nothing(
    store: PostgresCheckpointStore, proxy: WireProxy, world: World
) -> None:
    with pytest.raises(StoreUnavailableError), store.transaction() as tx:
        tx.save_execution(an_execution("one"))
        assert tx.execution_status("one") is S.RUNNING
        proxy.cut_all()
        tx.load_execution("one")
    assert store.load_execution("one") is None


def test_a_refusal_inside_a_block_takes_all_of_it_back(store: PostgresCheckpointStore, world: World) -> None:
    with pytest.raises(InvalidStateError, match="nobody"), store.transaction() as tx:
        tx.save_execution(an_execution("one"))
        with pytest.raises(Exception, match="nobody"):
            tx.cancel_execution("nobody")
    assert store.load_execution("one") is None


def test_a_restart_of_the_server_is_waited_for() -> None:
    with PostgresServer(settings=NOT_DURABLE) as server, PostgresCheckpointStore(server.dsn) as store:
        store.migrate()
        store.save_workflow(a_workflow())
        store.save_execution(an_execution())
        server.stop("immediate")
        call = Background(lambda: store.load_execution(EXECUTION)).wait_until_inside("getconn")
        server.start()
        assert call.result() == an_execution()
        server.restart()
        store.save_checkpoint(a_checkpoint())
        assert len(store.load_checkpoints(EXECUTION)) == 1


def test_a_server_that_does_not_come_back_is_an_error_of_ours() -> None:
    with PostgresServer(settings=NOT_DURABLE) as server, PostgresCheckpointStore(server.dsn, timeout=0.2) as store:
        store.migrate()
        server.stop("immediate")
        with pytest.raises(StoreUnavailableError):
            store.load_execution(EXECUTION)
        server.start()


def test_the_clock_is_our_own_while_nobody_has_told_us_the_servers() -> None:
    with PostgresServer(settings=NOT_DURABLE) as server, PostgresCheckpointStore(server.dsn, timeout=0.2) as store:
        server.stop("immediate")
        assert abs(store.clock() - system_clock()) < timedelta(seconds=60)
        assert not store._learned
        server.start()
        wait_until(lambda: store.clock() and store._learned, "the server is asked")


def test_a_child_opens_connections_of_its_own(store: PostgresCheckpointStore, world: World) -> None:
    child = os.fork()
    if child == 0:
        try:
            store.save_execution(an_execution("child"))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert store.load_execution("child") == an_execution("child")


PROGRAM = """
import os, sys
from wfe_fast.postgres import PostgresCheckpointStore

store = PostgresCheckpointStore(*sys.argv[1:])
store.count_executions()
"""
#: The child ends with all that belongs to it; that is not its parent's connections.
FORKS = """
if os.fork() == 0:
    sys.exit()
os.wait()
assert store.count_executions() == {}
"""


@pytest.mark.parametrize("program", [PROGRAM, PROGRAM + FORKS], ids=["alone", "with a child"])
def test_a_program_that_closes_nothing_ends_all_the_same(
    store: PostgresCheckpointStore, postgres_dsn: str, postgres_empty_schema: str, program: str
) -> None:
    """Without a word; the pool's threads would say that they could not be stopped."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program, postgres_dsn, postgres_empty_schema]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- a pool of the caller's --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(postgres_dsn: str) -> Iterator[psycopg_pool.ConnectionPool[Any]]:
    def configure(connection: psycopg.Connection[Any]) -> None:
        connection.execute("SET default_transaction_isolation = 'serializable'")
        connection.execute("SET search_path = information_schema")
        connection.commit()

    kwargs = {"row_factory": dict_row}
    with psycopg_pool.ConnectionPool(
        postgres_dsn, min_size=1, max_size=4, kwargs=kwargs, configure=configure, open=True
    ) as pool:
        yield pool


def test_a_borrowed_pool_whatever_its_connections_are_set_to(
    pool: psycopg_pool.ConnectionPool[Any], postgres_empty_schema: str
) -> None:
    with PostgresCheckpointStore(schema=postgres_empty_schema, pool=pool, clock=ManualClock()) as store:
        store.migrate()
    # One that does not migrate, and so does not know how transactions are isolated there.
    with PostgresCheckpointStore(schema=postgres_empty_schema, pool=pool, clock=ManualClock()) as store:
        store.save_workflow(a_workflow())
        held = claimed(store)
        for number in range(40):
            store.save_signal(a_signal(payload=number))
        waits = [partial(take_all, store, held, start) for start in (0, 100, 200)]
        taken = [payload for some in values(race_threads(waits)) for payload in some]
        assert sorted(taken) == list(range(40))
        assert store.validate_schema()
    assert not pool.closed
    with pool.connection() as connection:
        assert connection.row_factory is dict_row
        assert not connection.autocommit


def take_all(store: PostgresCheckpointStore, held: Any, start: int) -> list[Any]:
    taken = []
    for index in range(start, start + 99):
        wait = a_checkpoint(index, kind=StepKind.SIGNAL, step_name="approval", status=StepStatus.INTENT)
        status, stored = store.wait_for_signal(held, wait, timed_out=("T", "none left"))
        assert status is S.RUNNING
        if stored.status is StepStatus.FAILED:
            break
        taken.append(stored.output_data)
    return taken


# -- locks that others hold --------------------------------------------------------------------------------------------------------


@contextmanager
def locked(dsn: str, schema: str, id: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody holds the row of an execution."""
    with psycopg.connect(dsn) as connection:
        connection.execute(
            f'SELECT 1 FROM "{schema}".workflow_executions WHERE workflow_execution_id = %s FOR UPDATE', [id]
        )
        yield connection


def test_who_looks_for_work_passes_over_what_others_hold(
    store: PostgresCheckpointStore, world: World, postgres_dsn: str, postgres_empty_schema: str
) -> None:
    store.save_execution(an_execution("also free", created_at=at(1)))
    with locked(postgres_dsn, postgres_empty_schema, "free"):
        assert [item.workflow_execution_id for item in store.claim_executions("other", S.RUNNING, 5)] == ["also free"]
        assert store.renew_claims([world.held, world.second]) == []
    assert [item.workflow_execution_id for item in store.claim_executions("other", S.RUNNING, 5)] == ["free"]


def test_a_timer_of_what_others_hold_is_left_and_the_rest_fires(
    store: PostgresCheckpointStore, world: World, postgres_dsn: str, postgres_empty_schema: str
) -> None:
    store.save_execution(an_execution("also sleeping", status=S.SUSPENDED))
    store.save_timer(a_timer("also due", workflow_execution_id="also sleeping"))
    with locked(postgres_dsn, postgres_empty_schema, "sleeping"):
        assert store.wake_due() == 1
        assert store.execution_status("also sleeping") is S.RUNNING
        assert store.wake_due() == 0
        assert store.wait_for_work(60, ["unknown"]), "it is due all the same"
    assert store.wake_due() == 1
    assert store.execution_status("sleeping") is S.RUNNING


def waits_for_a_lock(dsn: str) -> bool:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return bool(connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchall())


def test_a_timer_that_was_cancelled_meanwhile_wakes_nobody(
    store: PostgresCheckpointStore, world: World, postgres_dsn: str, postgres_empty_schema: str
) -> None:
    with psycopg.connect(postgres_dsn) as other:
        other.execute(f"UPDATE \"{postgres_empty_schema}\".workflow_timers SET status = 'CANCELLED'")
        waking = Background(store.wake_due)
        wait_until(lambda: waits_for_a_lock(postgres_dsn), "the server says that it waits")
    assert waking.result() == 0
    assert store.execution_status("sleeping") is S.SUSPENDED


def test_a_signal_that_is_being_sent_is_seen_by_who_begins_to_wait(
    store: PostgresCheckpointStore, world: World, postgres_dsn: str
) -> None:
    """The wait comes to its lock while the sender holds it; what the sender stored it sees behind that."""
    wait = a_checkpoint(
        9, workflow_execution_id="held", kind=StepKind.SIGNAL, step_name="late", status=StepStatus.INTENT
    )
    with store.transaction() as tx:
        tx.save_signal(a_signal("late", workflow_execution_id="held", payload="here"))
        waiting = Background(lambda: store.wait_for_signal(world.held, wait))
        wait_until(lambda: waits_for_a_lock(postgres_dsn), "the server says that it waits")
    status, stored = waiting.result()
    assert (status, stored.output_data) == (S.RUNNING, "here")


def test_a_write_that_comes_behind_a_takeover_is_refused(
    store: PostgresCheckpointStore, world: World, postgres_dsn: str
) -> None:
    """The holder's write waits for the lock of whoever takes the execution over, and then sees the new fence."""
    clock = store._server_clock._given
    assert isinstance(clock, ManualClock)
    held = world.held
    writes: list[Callable[[WorkflowExecution], object]] = [
        lambda held: store.save_timer(a_timer("late", workflow_execution_id="held"), claim=held),
        lambda held: store.save_checkpoint(a_checkpoint(9, workflow_execution_id="held"), claim=held),
        lambda held: store.advance_execution(held, [a_checkpoint(9, workflow_execution_id="held")]),
        lambda held: store.save_execution(held.copy_with(current_step=9)),
    ]
    for write in writes:
        clock.advance(31)
        with store.transaction() as tx:
            taken = tx.claim_executions("other", S.RUNNING, 5)
            writing: Background[object] = Background(partial(write, held))
            wait_until(lambda: waits_for_a_lock(postgres_dsn), "the server says that it waits")
        with pytest.raises(ClaimLostError, match="held"):
            writing.result()
        (held,) = (item for item in taken if item.workflow_execution_id == "held")
    assert len(store.load_checkpoints("held")) == 3


def test_a_lock_that_is_held_too_long_is_an_error_of_ours(
    proxy: WireProxy, world: World, postgres_dsn: str, postgres_empty_schema: str
) -> None:
    with (
        PostgresCheckpointStore(proxy.dsn, postgres_empty_schema, lock_timeout=0.05) as store,
        locked(postgres_dsn, postgres_empty_schema, "free"),
    ):
        with pytest.raises(StoreBusyError):
            store.cancel_execution("free")
        assert store.execution_status("free") is S.RUNNING


def test_blocks_that_wait_for_each_other_come_to_an_end(store: PostgresCheckpointStore, world: World) -> None:
    """They save two executions in opposite orders; the server ends one of them, which begins again."""

    def save(ids: tuple[str, str], step: int) -> None:
        for _ in range(20):
            with store.transaction() as tx:
                for id in ids:
                    tx.save_execution(an_execution(id, current_step=step))

    values(race_threads([partial(save, ("free", "ended"), 1), partial(save, ("ended", "free"), 2)]))
    found = [store.load_execution(id) for id in ("free", "ended")]
    assert len({execution.current_step for execution in found if execution}) == 1


# -- clock and notifications -------------------------------------------------------------------------------------------------------


def test_the_servers_clock_decides(postgres_dsn: str, postgres_empty_schema: str) -> None:
    with PostgresCheckpointStore(postgres_dsn, postgres_empty_schema) as store:
        store.migrate()
        store.save_workflow(a_workflow())
        store.save_execution(an_execution(created_at=store.clock()))
        store.save_timer(a_timer(fire_at=store.clock()))
        assert store.wake_due() == 1
        (held,) = store.claim_executions("worker", S.RUNNING, lease=0.001)
        wait_until(lambda: store.claim_executions("other", S.RUNNING), "the lease ends by the server's clock")
        with pytest.raises(ClaimLostError):
            store.advance_execution(held)


def wake_by(store: PostgresCheckpointStore, kind: str) -> None:
    """What lets there be something to do, by another process."""
    if kind == "start":
        store.start_execution(a_workflow(), an_execution("new"))
    elif kind == "save":
        store.save_execution(an_execution("new"))
    elif kind == "timer":
        store.save_timer(a_timer("soon", fire_at=store.clock()))
    elif kind == "signal":
        store.save_signal(a_signal())
    elif kind == "cancel":
        store.cancel_execution(EXECUTION, compensate=True)


def act(store: PostgresCheckpointStore, acknowledge: Callable[[object], None], kind: str) -> None:
    wake_by(store, kind)
    acknowledge(kind)


@pytest.mark.parametrize("kind", ["start", "save", "timer", "signal", "cancel"])
def test_who_waits_is_told_by_the_server(postgres_dsn: str, postgres_empty_schema: str, kind: str) -> None:
    """Without the notification it would look again after five seconds only; the look behind the notification is counted instead of a time."""
    opener = partial(PostgresCheckpointStore, postgres_dsn, postgres_empty_schema)
    with opener() as store:
        store.migrate()
        store.start_execution(a_workflow(), an_execution(), worker_id="worker")
        (held,) = store.load_executions_by_status(S.RUNNING)
        wait = a_checkpoint(kind=StepKind.SIGNAL, step_name="approval", status=StepStatus.INTENT)
        store.wait_for_signal(held.copy_with(fence=1), wait)
        notified = count_notifications(store)
        waiting = Background(lambda: store.wait_for_work(60, [WORKFLOW])).wait_until_inside("wait")
        wait_until(lambda: notified() > 0, "it listens")
        before = notified()
        victim = Victim(opener, act, kind)
        victim.await_acknowledgements(1)
        wait_until(lambda: notified() > before, "it is told")
        assert waiting.result()
        victim.kill()


def count_notifications(store: PostgresCheckpointStore) -> Callable[[], int]:
    """How often the listener has said that something changed."""
    told: list[None] = []
    bump = store._database.bump

    def counted() -> None:
        told.append(None)
        bump()

    store._database.bump = counted  # type: ignore[method-assign]
    return lambda: len(told)
