"""What the engine costs on PostgreSQL, counted at the wire: a step is one round trip, a replayed one none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from wfe_fast.durable import DurableEngine, Fixed
from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.testing.proxy import WireProxy


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
def store(proxy: WireProxy, postgres_empty_schema: str) -> Iterator[PostgresCheckpointStore]:
    with PostgresCheckpointStore(proxy.dsn, postgres_empty_schema) as store:
        store.migrate()
        store.clock()  # asks for the server's, once
        yield store


def steps(ctx: Any, count: int, **options: Any) -> int:
    return sum(ctx.step(f"step {number}", lambda number=number: number, **options) for number in range(count))


@pytest.mark.parametrize("count", [0, 1, 10, 50])
def test_a_run_is_one_round_trip_for_each_step_and_two_more(
    proxy: WireProxy, store: PostgresCheckpointStore, count: int
) -> None:
    with DurableEngine(store) as engine:
        engine.register("w", steps)
        with proxy.counting() as counted:
            assert engine.run("w", count) == count * (count - 1) // 2
        assert counted.round_trips == count + 2, counted.messages


def test_a_step_is_one_transaction(proxy: WireProxy, store: PostgresCheckpointStore) -> None:
    """One statement outside of any block: checkpoint and position are stored together or not at all."""
    with DurableEngine(store) as engine:
        engine.register("w", steps)
        engine.run("w", 1)
        with proxy.counting() as counted:
            engine.run("w", 5)
        texts = [message.text for message in counted.messages if message.kind == "Execute"]
        assert sum("wfe_step" in text for text in texts) == 5
        assert len(texts) == 7
        assert not any(text.startswith(("BEGIN", "COMMIT")) for text in texts)


def test_in_doubt_tracking_and_each_failed_attempt_are_one_more(
    proxy: WireProxy, store: PostgresCheckpointStore
) -> None:
    failures = iter([True, True, False])

    def flaky() -> str:
        if next(failures):
            raise ValueError("not yet")
        return "done"

    with DurableEngine(store) as engine:
        engine.register("doubt", lambda ctx: steps(ctx, 4, in_doubt=True))
        engine.register("flaky", lambda ctx: ctx.step("flaky", flaky, retry=Fixed(0, 3)))
        with proxy.counting() as counted:
            engine.run("doubt")
        assert counted.round_trips == 2 * 4 + 2, counted.messages
        with proxy.counting() as counted:
            assert engine.run("flaky") == "done"
        assert counted.round_trips == 3 + 2, counted.messages


class Interrupted(KeyboardInterrupt):
    pass


def test_a_replayed_step_costs_nothing_and_the_record_is_read_once(
    proxy: WireProxy, store: PostgresCheckpointStore
) -> None:
    interrupted = [True]

    def body(ctx: Any) -> int:
        total = steps(ctx, 40)
        if interrupted:
            raise Interrupted
        return total + int(ctx.step("last", lambda: 1))

    first = DurableEngine(store)
    first.register("w", body)
    with pytest.raises(Interrupted):
        first.run("w", id="x")
    first.close()
    interrupted.clear()
    with DurableEngine(store) as engine:
        engine.register("w", body)
        with proxy.counting() as counted:
            engine.recover()
            assert engine.result("x") == 40 * 39 // 2 + 1
        texts = [message.text for message in counted.messages if message.kind == "Execute"]
    assert sum("step_checkpoints" in text for text in texts) == 1, texts
    assert sum("wfe_step" in text for text in texts) == 1, texts
    assert sum("wfe_advance" in text for text in texts) == 1, texts


def test_a_signal_that_is_there_is_one_round_trip(proxy: WireProxy, store: PostgresCheckpointStore) -> None:
    def body(ctx: Any) -> list[Any]:
        for number in range(3):
            ctx.step(f"send {number}", lambda number=number: engine.send_signal(ctx.execution_id, "s", number))
        return [ctx.wait_signal("s") for _ in range(3)]

    with DurableEngine(store) as engine:
        engine.register("w", body)
        with proxy.counting() as counted:
            assert engine.run("w") == [0, 1, 2]
    assert counted.round_trips == 3 * 2 + 3 + 2, counted.messages
