"""What goes wrong in a body, in its code or in its process, and what the engine makes of it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from wfe_fast import (
    EngineClosedError,
    NonDeterminismError,
    StepFailedError,
    UnserializableWorkflowError,
    WorkflowCancelledError,
    WorkflowFailedError,
)
from wfe_fast.checkpoints import ExecutionStatus
from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.durable import DurableEngine, Fixed, Observer
from wfe_fast.testing import FakeContext
from wfe_fast.testing.waiting import PATIENCE, wait_until

S = ExecutionStatus


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


# -- errors that are no Exception --------------------------------------------------------------------------------------------------


class _OwnError(BaseException):
    pass


@pytest.mark.parametrize("error", [asyncio.CancelledError("stop"), _OwnError("stop")])
def test_an_error_that_is_no_exception_is_a_failure_like_others(engine: DurableEngine, error: BaseException) -> None:
    undone: list[int] = []
    engine.register("step", lambda ctx: ctx.step("s", raising(error)))
    engine.register("body", raising(error))
    engine.register("well", lambda ctx: 1)

    @engine.workflow("undoing")
    def undoing(ctx: Any) -> None:
        ctx.step("kept", lambda: 1, compensate=undone.append)
        ctx.step("odd", lambda: 2, compensate=raising(error))
        raise error

    for name in ("step", "body", "undoing"):
        with pytest.raises(WorkflowFailedError, match=f"{type(error).__name__}: stop"):
            engine.start(name).result(timeout=PATIENCE)
    assert undone == [1]
    assert engine.start("well").result(timeout=PATIENCE) == 1
    with pytest.raises(StepFailedError, match="stop"):
        FakeContext().step("s", raising(error))


def test_what_ends_the_threads_is_told_to_everybody(store: CheckpointStore) -> None:
    engine = DurableEngine(store)
    engine.register("exit", raising(SystemExit(3)))
    engine.register("well", lambda ctx: 1)
    waiting = engine.start("exit")
    with pytest.raises(EngineClosedError, match="threads have ended") as caught:
        waiting.result(timeout=PATIENCE)
    assert isinstance(caught.value.__cause__, SystemExit)
    for call in (lambda: engine.start("well"), lambda: engine.run("well"), engine.recover, waiting.result):
        with pytest.raises(EngineClosedError):
            call()
    assert store.count_executions().total() == 1, "nothing was stored that nobody would run"
    with pytest.raises(SystemExit):
        engine.close()


# -- errors that are called like ours ------------------------------------------------------------------------------------------------


def test_another_librarys_error_of_the_same_name_is_an_ordinary_one(engine: DurableEngine) -> None:
    theirs = type("SerializationError", (Exception,), {"__module__": "theirs"})
    caught: list[str] = []

    @engine.workflow("caught")
    def body(ctx: Any) -> str:
        try:
            ctx.step("s", raising(theirs("bad row")))
        except StepFailedError as error:
            caught.append(str(error))
        ctx.sleep("nap", 0.001)
        return "done"

    engine.register("body", raising(theirs("bad row")))
    assert engine.run("caught") == "done"
    assert caught == ["step 's' failed: SerializationError: bad row"] * 2
    with pytest.raises(WorkflowFailedError, match="theirs.SerializationError: bad row") as found:
        engine.run("body")
    assert not isinstance(found.value, UnserializableWorkflowError)


# -- code that does not fit its record -----------------------------------------------------------------------------------------------


def _stuck(engine: DurableEngine, id: str) -> None:
    """Let an execution of `w` have a first step `a`, and then code that has another one."""
    engine.register("w", lambda ctx: (ctx.step("a", lambda: 1), ctx.wait_signal("go")))
    engine.start("w", id=id)
    wait_until(lambda: engine.status(id) is S.SUSPENDED, "it waits")
    engine.register("w", lambda ctx: ctx.step("b", lambda: 1))
    engine.send_signal(id, "go")
    with pytest.raises(NonDeterminismError):
        engine.result(id, timeout=PATIENCE)


def test_a_success_leaves_no_message_of_what_it_could_not_go_on_for(
    engine: DurableEngine, store: CheckpointStore
) -> None:
    _stuck(engine, "x")
    stuck = store.load_execution("x")
    assert stuck is not None
    assert stuck.error_message is not None
    assert stuck.error_message.startswith("NonDeterminismError: ")
    engine.register("w", lambda ctx: (ctx.step("a", lambda: 1), ctx.wait_signal("go"))[0])
    assert engine.result("x", timeout=PATIENCE) == 1
    ended = store.load_execution("x")
    assert ended is not None
    assert ended.error_message is None


def test_the_reason_of_a_failure_outlives_code_that_does_not_fit(
    open_store: Callable[..., CheckpointStore], store: CheckpointStore
) -> None:
    undone: list[int] = []
    closing: list[Callable[[], None]] = []

    def body(ctx: Any) -> None:
        ctx.step("a", lambda: 1, compensate=undone.append)
        ctx.step("b", lambda: 2, compensate=lambda _: closing.pop()() if closing else None)
        raise ValueError("card refused")

    first = DurableEngine(store)
    first.register("w", body)
    closing.append(first._closing.set)  # in the middle of the undoing
    with pytest.raises((WorkflowFailedError, EngineClosedError)):
        first.run("w", id="x")
    first.close()
    with open_store() as other, DurableEngine(other) as wrong:
        wrong.register("w", lambda ctx: ctx.step("z", lambda: 1))
        with pytest.raises(NonDeterminismError):
            wrong.result("x", timeout=PATIENCE)
    with DurableEngine(store) as engine:
        engine.register("w", body)
        with pytest.raises(WorkflowFailedError, match="ValueError: card refused"):
            engine.result("x", timeout=PATIENCE)
    assert undone == [1]


@pytest.mark.parametrize("end", ["cancelled", "completed elsewhere"])
def test_what_is_stuck_here_can_end_all_the_same(
    engine: DurableEngine, open_store: Callable[..., CheckpointStore], end: str
) -> None:
    _stuck(engine, "x")
    if end == "cancelled":
        assert engine.cancel("x") is True
        with pytest.raises(WorkflowCancelledError):
            engine.result("x", timeout=PATIENCE)
        return
    with open_store() as other, DurableEngine(other) as fitting:
        fitting.register("w", lambda ctx: (ctx.step("a", lambda: 1), ctx.wait_signal("go"))[0])
        assert fitting.result("x", timeout=PATIENCE) == 1
    assert engine.result("x", timeout=PATIENCE) == 1
    assert engine.run("w", id="x") == 1


# -- what a step is told -------------------------------------------------------------------------------------------------------------


def test_a_step_is_undone_with_what_it_returned(engine: DurableEngine) -> None:
    undone: list[Any] = []

    def body(ctx: Any) -> None:
        receipt = ctx.step("charge", lambda: {"id": 1, "seats": ["a"]}, compensate=undone.append)
        receipt["id"] = 99
        receipt["seats"].pop()
        raise ValueError("too late")

    engine.register("w", body)
    with pytest.raises(WorkflowFailedError):
        engine.run("w")
    fake = FakeContext()
    with pytest.raises(ValueError, match="too late"):
        body(fake)
    fake.compensate()
    assert undone == [{"id": 1, "seats": ["a"]}] * 2


@pytest.mark.parametrize("delay", [0.0, 1.05])
def test_an_attempt_that_was_given_up_after_its_time_leaves_doubt(engine: DurableEngine, delay: float) -> None:
    """Whether the next attempt follows at once, or comes from a timer."""
    seen: list[bool] = []
    second = threading.Event()

    def slow(ctx: Any) -> str:
        seen.append(ctx.in_doubt)
        if len(seen) == 1:
            second.wait(PATIENCE)
        second.set()
        return "done"

    engine.register("w", lambda ctx: ctx.step("s", lambda: slow(ctx), timeout=2, retry=Fixed(delay, 2)))
    assert engine.run("w") == "done"
    assert seen == [False, True]


# -- processes and threads -----------------------------------------------------------------------------------------------------------


def test_a_workflow_that_is_registered_late_is_run_at_once(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads wait for work of the workflows that were known when they began to wait."""
    monkeypatch.setattr("wfe_fast.workers.loop._WAIT_SLICE", 5.0)
    waits: list[bool] = []
    wait_for_work = store.wait_for_work

    def noted(*args: Any) -> bool:
        waits.append(True)
        return wait_for_work(*args)

    monkeypatch.setattr(store, "wait_for_work", noted)
    took = []
    with DurableEngine(store, poll_interval=2 * PATIENCE) as engine:
        engine.register("early", lambda ctx: 1)
        engine.start("early").result(timeout=PATIENCE)
        for number in range(3):
            wait_until(lambda: waits, "the threads wait again")
            waits.clear()
            began = time.monotonic()
            engine.register(f"late {number}", lambda ctx: 1)
            assert engine.start(f"late {number}").result(timeout=PATIENCE) == 1
            took.append(time.monotonic() - began)
    assert min(took) < 2.5, f"without being woken each takes about five seconds: {took}"


def test_a_forked_child_holds_what_it_runs_itself(open_store: Callable[..., CheckpointStore]) -> None:
    """The parent's heartbeat does not renew for the child, nor does the child give back what the parent holds."""
    store = open_store()
    engine = DurableEngine(store, lease=2)
    engine.register("well", lambda ctx: 1)
    engine.register("long", lambda ctx: ctx.step("s", lambda: time.sleep(5) or os.getpid()))
    engine.run("well", id="w")  # from then on there is a thread that renews
    child = os.fork()
    if child == 0:
        try:
            status = 0 if engine.result("w") == 1 and engine.run("long", id="x") == os.getpid() else 1
            engine.close()
            os._exit(status)
        except BaseException:
            os._exit(2)
    wait_until(lambda: store.execution_status("x") is not None, "the child has begun")
    engine.recover()  # takes it over as soon as its lease ends
    ended: list[int] = []

    def has_ended() -> bool:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            ended.append(os.waitstatus_to_exitcode(status))
        return bool(ended)

    wait_until(has_ended, "the child has ended")
    assert ended == [0]
    assert engine.result("x", timeout=PATIENCE) == child
    engine.close()
    store.close()


def test_the_end_by_a_cancellation_is_told_once_whenever_it_comes(engine: DurableEngine) -> None:
    told: list[str] = []

    class Ends(Observer):
        def on_execution_complete(self, execution_id: str, status: ExecutionStatus) -> None:
            told.append(f"{execution_id} {status.value}")

        def on_recovery_complete(self, execution_id: str, success: bool) -> None:
            engine.cancel(execution_id)  # it is given back already, and not forgotten yet

    engine._observers = engine._runner._observers = type(engine._observers)([Ends()])
    engine.register("w", lambda ctx: (ctx.wait_signal("first"), ctx.wait_signal("second")))
    engine.start("w", id="x")
    wait_until(lambda: engine.status("x") is S.SUSPENDED, "it waits")
    engine._source._begun.clear()  # as if another process had begun it
    engine.send_signal("x", "first")
    with pytest.raises(WorkflowCancelledError):
        engine.result("x", timeout=PATIENCE)
    engine.close()  # nothing comes later
    assert told == ["x CANCELLED"]


def test_what_was_claimed_and_not_begun_can_be_cancelled(store: CheckpointStore) -> None:
    ran: list[str] = []
    told: list[str] = []
    gate = threading.Event()

    class Ends(Observer):
        def on_execution_complete(self, execution_id: str, status: ExecutionStatus) -> None:
            told.append(f"{execution_id} {status.value}")

    def body(ctx: Any) -> None:
        ctx.step("s", lambda: ran.append(ctx.execution_id))
        ctx.step("t", lambda: gate.wait(PATIENCE))

    with DurableEngine(store, workers=1) as stores:  # executions that nobody holds
        stores._ensure_running = lambda: None  # type: ignore[method-assign]
        stores.register("w", body)
        for id in ("a", "b", "c"):
            stores.start("w", id=id)
    with DurableEngine(store, workers=1, observers=[Ends()]) as engine:
        engine.register("w", body)
        assert engine.recover() == 3
        wait_until(lambda: ran, "the first one runs")
        others = sorted({"a", "b", "c"} - set(ran))
        assert engine.cancel(others[0]) is True
        gate.set()
        engine.result(others[1], timeout=PATIENCE)
        with pytest.raises(WorkflowCancelledError):
            engine.result(others[0], timeout=PATIENCE)
    assert others[0] not in ran
    assert sorted(told) == sorted(f"{id} {'CANCELLED' if id == others[0] else 'COMPLETED'}" for id in "abc")


def test_a_group_with_something_about_the_process_passes_through(engine: DurableEngine) -> None:
    class Group(BaseException):  # like BaseExceptionGroup, which Python 3.10 does not have
        exceptions = (ValueError("no"), KeyboardInterrupt("yes"))

    engine.register("w", lambda ctx: ctx.step("s", raising(Group())))
    with pytest.raises(Group):
        engine.run("w", id="x")
    assert engine.status("x") is S.RUNNING
