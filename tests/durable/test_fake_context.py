"""Workflow functions are plain functions: they can be called with a fake context."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from wfe_fast import InvalidStateError, SerializationError, SignalTimeoutError, StepFailedError
from wfe_fast.durable import DurableEngine, Fixed
from wfe_fast.sqlite import SqliteCheckpointStore
from wfe_fast.testing import FakeContext


def test_the_decorated_function_is_still_that_function() -> None:
    undone: list[float] = []
    with SqliteCheckpointStore.in_memory() as store, DurableEngine(store) as engine:

        @engine.workflow("order")
        def order(ctx: Any, id: str) -> dict[str, Any]:
            total = ctx.step("price", lambda: 12.5, compensate=undone.append, in_doubt=True, timeout=5)
            ctx.sleep("cool-off", timedelta(days=3))
            return {"total": total, "approved": ctx.wait_signal("approval", bool), "key": id}

    ctx = FakeContext(signals={"approval": [True]})
    assert order(ctx, "A") == {"total": 12.5, "approved": True, "key": "A"}
    assert (ctx.calls, ctx.slept) == (["price", "cool-off", "approval"], 3 * 86_400)
    ctx.compensate()
    assert undone == [12.5]
    with pytest.raises(SignalTimeoutError):
        order(FakeContext(), "A")


def test_steps_fail_as_they_do_in_an_engine() -> None:
    ctx = FakeContext()
    seen: list[tuple[int, str]] = []

    def flaky() -> str:
        seen.append((ctx.attempt, ctx.idempotency_key))
        if ctx.attempt < 3:
            raise ValueError("boom")
        return "done"

    assert ctx.step("s", flaky, retry=Fixed(99, 3)) == "done"
    assert seen == [(1, "test:0"), (2, "test:0"), (3, "test:0")]
    with pytest.raises(StepFailedError, match="ValueError: boom"):
        ctx.step("t", flaky, retry=Fixed(0, 2))
    with pytest.raises(SerializationError, match="odd"):
        ctx.step("odd", lambda: {1})
    with pytest.raises(InvalidStateError, match="step"):
        ctx.step("outer", lambda: ctx.step("inner", lambda: 1))
    with pytest.raises(InvalidStateError):
        _ = ctx.attempt
