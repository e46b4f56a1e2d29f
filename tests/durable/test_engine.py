"""What the engine does, rule by rule."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from wfe_fast import (
    DefinitionNotFoundError,
    DuplicateExecutionError,
    EngineClosedError,
    ExecutionNotFoundError,
    InvalidStateError,
    InvalidValueError,
    NonDeterminismError,
    SerializationError,
    SignalTimeoutError,
    StepFailedError,
    WorkflowCancelledError,
    WorkflowFailedError,
)
from wfe_fast.checkpoints import ExecutionStatus, StepStatus, Workflow, WorkflowExecution, WorkflowGuarantee
from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.durable import DurableEngine, Exponential, Fixed, NoRetry, Observer, RetryPolicy
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.waiting import Background, wait_until

S = ExecutionStatus


def rows(store: CheckpointStore, id: str) -> list[tuple[int, str, int, str]]:
    return [(row.step_index, row.step_name, row.attempt, row.status.value) for row in store.load_checkpoints(id)]


def fail(message: str = "boom") -> None:
    raise ValueError(message)


class Once:
    """A function that fails so many times, and counts its calls."""

    def __init__(self, failures: int = 0, value: Any = "done") -> None:
        self.failures, self.value, self.calls = failures, value, 0

    def __call__(self) -> Any:
        self.calls += 1
        if self.calls <= self.failures:
            fail()
        return self.value


def test_steps_are_recorded_and_the_result_is_kept(engine: DurableEngine, store: CheckpointStore) -> None:
    calls: list[int] = []

    @engine.workflow("sum")
    def body(ctx: Any, first: int, *, second: int) -> dict[str, int]:
        assert ctx.execution_id == "x"
        for value in (first, second):
            ctx.step(f"step {value}", lambda value=value: calls.append(value) or value)
        return {"total": first + second}

    assert engine.run("sum", 1, second=2, id="x", guarantee=WorkflowGuarantee.BEST_EFFORT_BACKGROUND) == {"total": 3}
    assert engine.run("sum", 5, second=6, id="x") == {"total": 3}
    assert calls == [1, 2]
    assert rows(store, "x") == [(0, "step 1", 1, "COMPLETED"), (1, "step 2", 1, "COMPLETED")]
    execution = store.load_execution("x")
    assert execution is not None
    assert (execution.status, execution.current_step, execution.output_data) == (S.COMPLETED, 2, {"total": 3})
    assert execution.guarantee is WorkflowGuarantee.BEST_EFFORT_BACKGROUND
    workflow = store.load_workflow("sum")
    assert workflow is not None
    assert workflow.workflow_type == "sum"


def test_ids_and_names(engine: DurableEngine) -> None:
    engine.register("a", lambda ctx: 1)
    engine.register("b", lambda ctx: 2)
    engine.run("a", id="x")
    with pytest.raises(DuplicateExecutionError):
        engine.run("b", id="x")
    with pytest.raises(DefinitionNotFoundError):
        engine.run("c")
    with pytest.raises(SerializationError, match=r"args\[0\]"):
        engine.run("a", {1})
    for bad in ("", " x", "x" * 257, "a\nb"):
        with pytest.raises(InvalidValueError):
            engine.register(bad, lambda ctx: 1)
        with pytest.raises(InvalidValueError):
            engine.run("a", id=bad)
    for call in (engine.status, engine.handle, engine.result, engine.cancel):
        with pytest.raises(ExecutionNotFoundError):
            call("nobody")


def test_values_are_the_same_at_once_and_on_replay(engine: DurableEngine, store: CheckpointStore) -> None:
    class Order(msgspec.Struct):
        at: datetime
        items: list[str]

    order = Order(datetime(2026, 1, 1, tzinfo=timezone.utc), ["tea"])
    seen: list[Any] = []

    @engine.workflow("typed")
    def body(ctx: Any) -> None:
        seen.append([ctx.step("order", lambda: order, returns=Order), ctx.step("plain", lambda: [1, {"a": None}])])
        ctx.sleep("nap", 0.001)

    engine.run("typed")
    assert seen == [[order, [1, {"a": None}]]] * 2


def test_a_failed_step_can_be_caught_and_fails_the_same_on_replay(engine: DurableEngine) -> None:
    seen: list[tuple[str, str, bool]] = []
    failing = Once(9)

    @engine.workflow("w")
    def body(ctx: Any) -> str:
        try:
            ctx.step("bad", failing)
        except StepFailedError as error:
            seen.append((str(error), error.type_name, error.__cause__ is None))
        ctx.sleep("nap", 0.001)
        return ctx.step("good", lambda: "went on")

    assert engine.run("w") == "went on"
    assert seen == [("step 'bad' failed: ValueError: boom", "ValueError", False), (*seen[0][:2], True)]
    assert failing.calls == 1


def test_an_uncaught_failure_undoes_the_steps_in_reverse(engine: DurableEngine, store: CheckpointStore) -> None:
    undone: list[str] = []
    flaky = Once(2)

    @engine.workflow("w")
    def body(ctx: Any) -> None:
        ctx.step("same", lambda: 1, compensate=lambda value: undone.append(f"first {value}"))
        ctx.step("plain", lambda: 2)
        ctx.step("same", lambda: 3, compensate=lambda value: (flaky(), undone.append(f"second {value}")))
        ctx.step("bad", fail, compensate=lambda value: undone.append("never"))

    with pytest.raises(WorkflowFailedError, match="ValueError: boom") as caught:
        engine.run("w", id="x")
    assert isinstance(caught.value.__cause__, StepFailedError)
    assert undone == ["second 3", "first 1"]
    assert [row for row in rows(store, "x") if row[2] == 0] == [
        (0, "same:compensate", 0, "COMPENSATED"),
        (2, "same:compensate", 0, "COMPENSATED"),
    ]
    with pytest.raises(WorkflowFailedError, match="ValueError: boom"):
        engine.run("w", id="x")
    assert engine.status("x") is S.FAILED


def test_what_cannot_be_undone_is_recorded_and_the_others_follow(engine: DurableEngine, store: CheckpointStore) -> None:
    undone: list[int] = []

    @engine.workflow("w")
    def body(ctx: Any) -> None:
        ctx.step("a", lambda: 1, compensate=undone.append)
        ctx.step("b", lambda: 2, compensate=lambda value: fail("cannot"))
        raise RuntimeError("so there")

    with pytest.raises(WorkflowFailedError, match="RuntimeError: so there"):
        engine.run("w", id="x")
    assert undone == [1]
    assert (1, "b:compensate", 0, "FAILED") in rows(store, "x")


def test_attempts_are_recorded_truthfully(engine: DurableEngine, store: CheckpointStore) -> None:
    function = Once(2)
    engine.register("w", lambda ctx: ctx.step("s", function, retry=Exponential(3, first=0.001, jitter=0.5)))
    assert engine.run("w", id="x") == "done"
    assert rows(store, "x") == [(0, "s", 1, "FAILED"), (0, "s", 2, "FAILED"), (0, "s", 3, "COMPLETED")]
    engine.register("v", lambda ctx: ctx.step("s", Once(9), retry=Fixed(0, 3)))
    with pytest.raises(WorkflowFailedError):
        engine.run("v", id="y")
    assert [row[2:] for row in rows(store, "y")] == [(1, "FAILED"), (2, "FAILED"), (3, "FAILED")]
    once = Once(9)
    engine.register("u", lambda ctx: ctx.step("s", once, retry=Fixed(0, 3, non_retryable=ValueError)))
    with pytest.raises(WorkflowFailedError):
        engine.run("u")
    assert once.calls == 1


def test_a_long_pause_is_a_timer(engine: DurableEngine, store: CheckpointStore) -> None:
    function = Once(1)
    engine.register("w", lambda ctx: ctx.step("s", function, retry=Fixed(1.01, 2)))
    running = Background(lambda: engine.run("w", id="x"))
    wait_until(lambda: len(store.load_pending_timers()) == 1, "the retry is a timer")
    assert engine.status("x") is S.SUSPENDED
    assert running.result() == "done"
    assert [row[2:] for row in rows(store, "x")] == [(1, "FAILED"), (2, "COMPLETED")]


def test_who_is_woken_too_early_goes_back_to_sleep(open_store: Callable[..., CheckpointStore]) -> None:
    """The pause before the next attempt is recorded: it holds whoever lets the execution run before it is over."""
    clock = ManualClock()
    function = Once(1)
    with open_store(clock=clock) as store, DurableEngine(store) as engine:
        engine.register("w", lambda ctx: ctx.step("s", function, retry=Fixed(3600, 2)))
        handle = engine.start("w", id="x")
        wait_until(lambda: engine.status("x") is S.SUSPENDED, "it waits for its next attempt")
        before = store.load_execution("x")
        assert before is not None
        clock.advance(60)
        store.save_execution(before.copy_with(status=S.RUNNING, updated_at=clock()))
        wait_until(lambda: engine.status("x") is S.SUSPENDED, "it sleeps again")
        assert function.calls == 1
        assert [timer.fire_at for timer in store.load_pending_timers()] == [before.updated_at + timedelta(hours=1)]
        clock.advance(3600)
        assert handle.result(timeout=60) == "done"
        assert [row[2:] for row in rows(store, "x")] == [(1, "FAILED"), (2, "COMPLETED")]


def test_a_step_may_take_only_so_long(engine: DurableEngine) -> None:
    released = threading.Event()
    engine.register("w", lambda ctx: ctx.step("slow", released.wait, timeout=0.01))
    with pytest.raises(WorkflowFailedError, match="StepTimeoutError"):
        engine.run("w")
    released.set()
    engine.register("v", lambda ctx: ctx.step("quick", lambda: 1, timeout=60))
    assert engine.run("v") == 1
    engine.register("u", lambda ctx: ctx.step("bad", fail, timeout=60))
    with pytest.raises(WorkflowFailedError, match="ValueError: boom"):
        engine.run("u")


def test_an_execution_that_is_not_there_has_no_result(engine: DurableEngine) -> None:
    for timeout in (None, 0, 60):
        with pytest.raises(ExecutionNotFoundError, match="nobody"):
            engine.result("nobody", timeout=timeout)


@pytest.mark.parametrize("value", [{1}, float("nan"), (1,), b"x", object()], ids=lambda value: type(value).__name__)
def test_what_json_cannot_hold_fails_the_workflow_and_names_the_step(engine: DurableEngine, value: Any) -> None:
    engine.register("step", lambda ctx: ctx.step("odd", lambda: value, retry=Fixed(0, 5)))
    engine.register("result", lambda ctx: value)
    for name, field in (("step", "odd"), ("result", "result")):
        for _ in range(2):
            with pytest.raises(SerializationError, match=field) as caught:
                engine.run(name, id=name)
            assert isinstance(caught.value, WorkflowFailedError)
        assert engine.status(name) is S.FAILED


def test_signals_are_taken_one_by_one_in_order(engine: DurableEngine, store: CheckpointStore) -> None:
    engine.register("w", lambda ctx: [ctx.wait_signal(name) for name in ["go", *["s"] * 5]][1:])
    handle = engine.start("w")
    for number in range(6):
        engine.send_signal(handle.id, "s", number)
    engine.send_signal(handle.id, "go")
    assert handle.result(timeout=60) == [0, 1, 2, 3, 4]
    assert store.load_pending_signals(handle.id) == []


def test_a_signal_that_does_not_come_or_does_not_fit(engine: DurableEngine) -> None:
    @engine.workflow("late")
    def late(ctx: Any) -> str:
        for _ in range(2):
            with pytest.raises(SignalTimeoutError, match=r"within 0\.01 s"):
                ctx.wait_signal("s", timeout=0.01)
        ctx.sleep("nap", 0.001)
        return "went on"

    assert engine.run("late") == "went on"

    @engine.workflow("odd")
    def odd(ctx: Any) -> int:
        with pytest.raises(SerializationError, match="signal 's'"):
            ctx.wait_signal("s", int)
        return ctx.wait_signal("s", int)

    handle = engine.start("odd")
    engine.send_signal(handle.id, "s", "text")
    engine.send_signal(handle.id, "s", 5)
    assert handle.result(timeout=60) == 5


def test_cancelling(engine: DurableEngine, store: CheckpointStore) -> None:
    undone: list[int] = []

    @engine.workflow("w")
    def body(ctx: Any) -> None:
        ctx.step("a", lambda: 1, compensate=undone.append)
        ctx.wait_signal("never")

    for compensate in (False, True):
        handle = engine.start("w")
        wait_until(lambda handle=handle: handle.status() is S.SUSPENDED, "it waits")
        assert handle.cancel(compensate=compensate)
        with pytest.raises(WorkflowCancelledError):
            handle.result(timeout=60)
        assert undone == ([1] if compensate else [])
        assert handle.status() is S.CANCELLED
        assert not handle.cancel()


@pytest.mark.parametrize("compensate", [False, True])
def test_cancelling_while_a_step_runs(engine: DurableEngine, compensate: bool) -> None:
    inside, go_on = threading.Event(), threading.Event()
    undone: list[int] = []
    after: list[int] = []

    @engine.workflow("w")
    def body(ctx: Any) -> None:
        try:
            ctx.step("a", lambda: (inside.set(), go_on.wait(60), 1)[2], compensate=undone.append)
        except Exception:
            after.append(0)
        ctx.step("b", lambda: after.append(1))

    handle = engine.start("w")
    assert inside.wait(60)
    assert handle.cancel(compensate=compensate)
    go_on.set()
    with pytest.raises(WorkflowCancelledError):
        handle.result(timeout=60)
    assert after == []
    assert undone == ([1] if compensate else [])


def test_its_time_is_over(engine: DurableEngine, store: CheckpointStore) -> None:
    undone: list[int] = []

    @engine.workflow("w")
    def body(ctx: Any) -> None:
        ctx.step("a", lambda: 1, compensate=undone.append)
        ctx.sleep("long", timedelta(days=1))

    with pytest.raises(WorkflowFailedError, match="TTL expired"):
        engine.run("w", id="x", ttl=0.05)
    assert undone == [1]
    assert store.load_pending_timers() == []
    assert engine.status("x") is S.FAILED


def test_other_code_than_what_is_recorded(store: CheckpointStore) -> None:
    def before(ctx: Any) -> int:
        ctx.step("a", lambda: 1)
        ctx.wait_signal("go")
        return 1

    others = {
        "name": lambda ctx: ctx.step("b", lambda: 1),
        "kind": lambda ctx: ctx.sleep("a", 1),
        "end": lambda ctx: 1,
        "error": lambda ctx: fail(),
    }
    with DurableEngine(store) as engine:
        engine.register("w", before)
        handle = engine.start("w", id="x")
        wait_until(lambda: handle.status() is S.SUSPENDED, "it waits")
    for number, body in enumerate(others.values()):
        with DurableEngine(store) as engine:
            engine.register("w", body)
            engine.send_signal("x", "go" if number == 0 else "other")
            engine.recover()
            with pytest.raises(NonDeterminismError):
                engine.result("x", timeout=60)
        execution = store.load_execution("x")
        assert execution is not None
        assert execution.status is S.RUNNING
        assert "NonDeterminismError" in (execution.error_message or "")
    with DurableEngine(store) as engine:
        engine.register("w", before)
        engine.recover()
        assert engine.result("x", timeout=60) == 1


def test_a_body_is_not_left_by_an_exception_that_it_catches(engine: DurableEngine) -> None:
    caught: list[str] = []

    @engine.workflow("w")
    def body(ctx: Any) -> str:
        try:
            ctx.sleep("nap", 0.01)
        except Exception:
            caught.append("never")
        return "done"

    assert engine.run("w") == "done"
    assert caught == []


def test_a_context_is_used_where_it_belongs(engine: DurableEngine) -> None:
    kept: list[Any] = []

    @engine.workflow("w")
    def body(ctx: Any) -> int:
        kept.append(ctx)
        with pytest.raises(InvalidStateError, match="step"):
            ctx.step("outer", lambda: ctx.step("inner", lambda: 1))
        with pytest.raises(InvalidStateError, match="thread"):
            Background(lambda: ctx.step("elsewhere", lambda: 1)).result()
        with pytest.raises(InvalidStateError):
            _ = ctx.attempt
        for bad in ({"fn": 1}, {"retry": 3}, {"compensate": 1}, {"timeout": -1}, {"in_doubt": 1}):
            with pytest.raises(InvalidValueError):
                ctx.step("s", **{"fn": lambda: 1, **bad})
        return 1

    assert engine.run("w") == 1
    with pytest.raises(InvalidStateError, match="ended"):
        kept[0].step("late", lambda: 1)


def test_a_clean_shutdown_leaves_everything_to_be_resumed(store: CheckpointStore) -> None:
    inside, go_on = threading.Event(), threading.Event()
    calls: list[str] = []

    def body(ctx: Any) -> list[str]:
        ctx.step("a", lambda: (calls.append("a"), inside.set(), go_on.wait(60))[0])
        ctx.step("b", lambda: calls.append("b"))
        return calls

    engine = DurableEngine(store)
    engine.register("w", body)
    running = Background(lambda: engine.run("w", id="x"))
    assert inside.wait(60)
    closing = Background(engine.close).wait_until_inside("close")
    wait_until(lambda: engine.closed, "it is being closed")
    go_on.set()
    closing.result()
    with pytest.raises(EngineClosedError):
        running.result()
    engine.close()
    for call in (engine.run, engine.start):
        with pytest.raises(EngineClosedError):
            call("w")
    assert calls == ["a"]
    with DurableEngine(store) as other:
        other.register("other", lambda ctx: 1)
        assert other.recover() == 0, "what is not registered is left alone"
        other.register("w", body)
        assert other.result("x", timeout=60) == ["a", "b"]
        assert other.recover() == 1, "be it that the threads were quicker"


def test_serving_until_it_is_closed(store: CheckpointStore) -> None:
    engine = DurableEngine(store)
    engine.register("w", lambda ctx: ctx.wait_signal("go"))
    serving = Background(engine.serve).wait_until_inside("wait_for_stop")
    handle = engine.start("w")
    engine.send_signal(handle.id, "go", [1])
    assert handle.result(timeout=60) == [1]
    engine.close()
    serving.result()
    with pytest.raises(EngineClosedError):
        engine.serve()


def test_many_sleep_and_hold_no_threads(engine: DurableEngine, store: CheckpointStore) -> None:
    engine.register("w", lambda ctx: ctx.sleep("for ever", timedelta(days=1)))
    engine.register("short", lambda ctx: ctx.sleep("nap", 0.01))
    for _ in range(300):
        engine.start("w")
    wait_until(lambda: store.count_executions()[S.SUSPENDED] == 300, "all sleep")
    assert threading.active_count() < 20
    engine.run("short")


def test_observers_are_told_of_everything(store: CheckpointStore) -> None:
    seen: list[str] = []

    class Everything(Observer):
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("on_"):
                return super().__getattribute__(name)
            return lambda *facts: (seen.append(name), fail())

    def body(ctx: Any) -> None:
        ctx.step("a", Once(1), retry=Fixed(0, 2), compensate=lambda value: None)
        ctx.step("b", fail)

    store.start_execution(
        Workflow(workflow_id="w", workflow_type="w"), WorkflowExecution(workflow_execution_id="x", workflow_id="w")
    )
    with DurableEngine(store, observers=[Everything(), object()]) as engine:
        engine.register("v", body)
        with pytest.raises(WorkflowFailedError):
            engine.run("v")
        engine.register("w", lambda ctx: ctx.wait_signal("go"))
        engine.recover()
        engine.send_signal("x", "go")
        engine.result("x", timeout=60)
    assert {name for name in vars(Observer) if name.startswith("on_")} == set(seen)


def test_policies_in_json() -> None:
    for policy in (NoRetry(), Fixed(0.25, 3), Exponential(5, first=0.1, factor=3.0, max=60, jitter=0.5)):
        assert RetryPolicy.from_json(policy.to_json()) == policy
    assert [Exponential(9, first=0.1, max=0.5).delay(n) for n in (1, 2, 3, 4, 500_000)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    for bad in ({"type": "other"}, {"type": "fixed"}, {}, {"type": "fixed", "maxAttempts": 0, "delayMs": 1}, 5):
        with pytest.raises(InvalidValueError):
            RetryPolicy.from_json(bad)  # type: ignore[arg-type]
    for call in (
        lambda: Fixed(-1, 2),
        lambda: Fixed(1, True),
        lambda: Exponential(2, jitter=2),
        lambda: Fixed(1, 2, 5),
    ):
        with pytest.raises(InvalidValueError):
            call()


def test_a_failed_attempt_keeps_its_row(engine: DurableEngine, store: CheckpointStore) -> None:
    engine.register("w", lambda ctx: ctx.step("s", fail, in_doubt=True))
    with pytest.raises(WorkflowFailedError):
        engine.run("w", id="x")
    (row,) = store.load_checkpoints("x")
    assert (row.status, row.error_type, row.error_message, row.is_final) == (
        StepStatus.FAILED,
        "ValueError",
        "boom",
        True,
    )
