"""Failing steps: Retry, Suspend, Terminate, and what is no `Exception`."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from tests.host.support import Driver, messages, pointers, statuses
from wfe_fast import PointerStatus, WorkflowStatus, WorkflowSuspendedError, WorkflowTerminatedError
from wfe_fast.host import Retry, StepContext, StepResult, Suspend, Terminate, WorkflowBuilder, WorkflowHost
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.waiting import wait_until


class Boom(Exception):
    """What failing steps raise."""


def failing(times: int) -> Any:
    """A step that fails so many times."""

    def fail(data: Any, ctx: StepContext) -> None:
        data["attempts"] = ctx.attempt
        if ctx.attempt <= times:
            raise Boom(f"attempt {ctx.attempt}")

    return fail


def test_retry_runs_again_until_it_works(driver: Driver) -> None:
    wf = WorkflowBuilder("retry")
    wf.then(failing(1), on_error=Retry(delay=timedelta(milliseconds=10)))
    workflow_id = driver.use(wf).start("retry")
    assert driver.rest(workflow_id) is WorkflowStatus.COMPLETE
    assert pointers(driver.host, workflow_id)[0].retry_count == 1
    assert driver.host.get(workflow_id).data == {"attempts": 2}


def test_n_retries_are_n_plus_one_runs_then_suspend(driver: Driver) -> None:
    wf = WorkflowBuilder("retry")
    wf.then(failing(99), on_error=Retry(3, delay=0))
    workflow_id = driver.use(wf).start("retry")
    assert driver.rest(workflow_id) is WorkflowStatus.SUSPENDED
    assert messages(driver.provider, workflow_id) == [f"Boom: attempt {n}" for n in (1, 2, 3, 4)]
    assert statuses(driver.host, workflow_id) == [PointerStatus.FAILED]
    with pytest.raises(WorkflowSuspendedError, match="attempt 4"):
        driver.host.result(workflow_id, timeout=0)


def test_the_default_policy_is_three_retries_a_minute_apart(open_store: Any) -> None:
    clock = ManualClock()
    provider = open_store(clock=clock)
    wf = WorkflowBuilder("default")
    wf.then(failing(99))
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("default")
    for attempt in (1, 2, 3):
        assert host.run_until_idle() == 1
        (pointer,) = pointers(host, workflow_id)
        assert (pointer.status, pointer.retry_count, pointer.active) == (PointerStatus.SLEEPING, attempt, True)
        assert pointer.sleep_until == clock() + timedelta(seconds=60)
        assert host.run_until_idle() == 0
        clock.advance(60)
    assert host.run_until_idle() == 1
    assert host.get(workflow_id).status is WorkflowStatus.SUSPENDED
    assert len(messages(provider, workflow_id)) == 4


def test_backoff_grows_up_to_max_delay_and_no_end_means_no_end(open_store: Any) -> None:
    clock = ManualClock()
    provider = open_store(clock=clock)
    wf = WorkflowBuilder("backoff")
    wf.then(failing(99), on_error=Retry(None, delay=2, backoff=10, max_delay=500))
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("backoff")
    waits = []
    for _ in range(6):
        host.run_until_idle()
        wait = pointers(host, workflow_id)[0].sleep_until - clock()
        waits.append(wait.total_seconds())
        clock.advance(waits[-1])
    assert waits == [2, 20, 200, 500, 500, 500]


def test_max_delay_never_shortens_the_delay_itself() -> None:
    assert Retry(delay=7200).next_wait(0, Boom()) == 7200
    assert Retry(None, delay=10, backoff=1e6).next_wait(1_000_000, Boom()) == 3600


def test_jitter_stays_within_its_share() -> None:
    waits = [Retry(delay=100, jitter=0.5).next_wait(0, Boom()) or 0 for _ in range(200)]
    assert 50 <= min(waits) < 75 < 125 < max(waits) <= 150


def test_unless_is_not_worth_a_retry(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("unless")
    wf.then(failing(99), on_error=Retry(3, delay=0, unless=(KeyError, Boom), then=Terminate()))
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("unless")
    host.run_until_idle()
    assert len(messages(provider, workflow_id)) == 1
    assert host.get(workflow_id).status is WorkflowStatus.TERMINATED


def test_resume_runs_the_failed_step_again_with_a_fresh_count(driver: Driver) -> None:
    runs: list[int] = []

    def fails_three_times(data: Any, ctx: StepContext) -> None:
        runs.append(ctx.attempt)
        if len(runs) <= 3:
            raise Boom(f"run {len(runs)}")

    wf = WorkflowBuilder("resume")
    wf.then(fails_three_times, on_error=Retry(1, delay=0))
    wf.then(lambda data: data.update(tail=True), name="tail")
    workflow_id = driver.use(wf).start("resume")
    assert driver.rest(workflow_id) is WorkflowStatus.SUSPENDED
    assert runs == [1, 2]
    assert driver.host.resume(workflow_id)
    driver.until(lambda: len(runs) >= 4, "it ran again")
    assert driver.rest(workflow_id) is WorkflowStatus.COMPLETE
    assert runs == [1, 2, 1, 2]
    assert driver.host.get(workflow_id).data == {"tail": True}
    assert statuses(driver.host, workflow_id) == [PointerStatus.COMPLETE] * 2


def test_suspend_at_once_leaves_the_pointer_failed_and_inactive(driver: Driver) -> None:
    wf = WorkflowBuilder("suspend", on_error=Suspend())
    wf.then(failing(1))
    workflow_id = driver.use(wf).start("suspend")
    assert driver.rest(workflow_id) is WorkflowStatus.SUSPENDED
    (pointer,) = pointers(driver.host, workflow_id)
    assert (pointer.status, pointer.active) == (PointerStatus.FAILED, False)
    assert pointer.end_time is not None
    assert driver.host.get(workflow_id).complete_time is None
    driver.host.resume(workflow_id)
    driver.until(lambda: len(messages(driver.provider, workflow_id)) == 2, "it failed again")
    assert driver.rest(workflow_id) is WorkflowStatus.SUSPENDED


def test_suspended_by_a_condition_and_resumed(provider: PersistenceProvider) -> None:
    open_gate: list[bool] = []

    def condition(data: Any) -> bool:
        if not open_gate:
            raise Boom("closed")
        return True

    wf = WorkflowBuilder("condition", on_error=Suspend())
    with wf.if_(condition):
        wf.then(lambda data: data.update(inside=True), name="inside")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("condition")
    host.run_until_idle()
    assert host.get(workflow_id).status is WorkflowStatus.SUSPENDED
    open_gate.append(True)
    host.resume(workflow_id)
    host.run_until_idle()
    assert host.result(workflow_id, timeout=0) == {"inside": True}


def test_terminate_ends_at_once_and_cancels_what_is_open(driver: Driver) -> None:
    def child(data: Any, ctx: StepContext) -> None:
        if ctx.item == "fails":
            raise Boom("the end")

    wf = WorkflowBuilder("terminate", on_error=Terminate())
    with wf.then(lambda data: StepResult.branch(["waits", "fails"]), name="split"):
        with wf.if_(lambda data, ctx: ctx.item == "waits"):
            wf.wait_for("never")
        wf.then(child)
    wf.then(lambda data: data.update(tail=True), name="tail")
    workflow_id = driver.use(wf).start("terminate")
    assert driver.rest(workflow_id) is WorkflowStatus.TERMINATED
    instance = driver.host.get(workflow_id)
    assert instance.complete_time is not None
    assert instance.data == {}
    found = {(p.step_name, p.status) for p in instance.execution_pointers}
    assert found == {
        ("split", PointerStatus.CANCELLED),
        ("if", PointerStatus.CANCELLED),
        ("if", PointerStatus.COMPLETE),
        ("wait_for never", PointerStatus.CANCELLED),
        ("child", PointerStatus.FAILED),
    }
    assert driver.provider.subscriptions_of(workflow_id) == []
    assert not any(p.active for p in instance.execution_pointers)
    with pytest.raises(WorkflowTerminatedError, match="the end"):
        driver.host.result(workflow_id, timeout=0)


def test_one_failing_workflow_does_not_stop_the_others(driver: Driver) -> None:
    wf = WorkflowBuilder("mixed", on_error=Suspend())

    def maybe(data: Any) -> None:
        if data["fail"]:
            raise Boom("this one")

    wf.then(maybe)
    host = driver.use(wf)
    ids = [host.start("mixed", {"fail": n % 3 == 0}) for n in range(9)]
    ends = [driver.rest(workflow_id) for workflow_id in ids]
    assert ends == [WorkflowStatus.SUSPENDED, WorkflowStatus.COMPLETE, WorkflowStatus.COMPLETE] * 3


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (Boom("NUL \0 and \ud800"), "Boom: NUL \\0 and \\ud800"),
        (Boom(), "Boom"),
        (Unspeakable(), "Unspeakable: (its text cannot be shown)"),
        (Boom("x" * 20_000), "Boom: " + "x" * 9_994),
    ],
)
def test_any_exception_can_be_stored(provider: PersistenceProvider, error: Exception, message: str) -> None:
    def fail(data: Any) -> None:
        raise error

    wf = WorkflowBuilder("text", on_error=Suspend())
    wf.then(fail)
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("text")
    host.run_until_idle()
    assert messages(provider, workflow_id) == [message]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_a_base_exception_stores_nothing_and_comes_out(
    provider: PersistenceProvider, kind: type[BaseException]
) -> None:
    interrupted: list[bool] = []

    def body(data: Any, ctx: StepContext) -> None:
        data["attempt"] = ctx.attempt
        if not interrupted:
            interrupted.append(True)
            raise kind("stop it")

    wf = WorkflowBuilder("interrupt")
    wf.then(body)
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("interrupt")
    with pytest.raises(kind):
        host.run_until_idle()
    instance = host.get(workflow_id)
    assert instance.data == {}
    assert instance.execution_pointers[0].retry_count == 0
    assert messages(provider, workflow_id) == []
    assert host.run_until_idle() == 1  # the claim was given back, nobody has to wait for its lease
    assert host.result(workflow_id, timeout=0) == {"attempt": 1}


@pytest.mark.parametrize("how", ["stop", "with", "run"])
def test_a_base_exception_in_a_worker_thread_stops_the_host_which_raises_it(
    provider: PersistenceProvider, how: str
) -> None:
    interrupted: list[bool] = []

    def body(data: Any) -> None:
        if not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt("in a worker")

    wf = WorkflowBuilder("interrupt")
    wf.then(body)
    host = WorkflowHost(provider, [wf], workers=2)
    workflow_id = host.start("interrupt")
    if how == "run":
        with pytest.raises(KeyboardInterrupt, match="in a worker"):
            host.run()
    elif how == "with":
        with pytest.raises(KeyboardInterrupt, match="in a worker"), host:
            wait_until(lambda: not host.running, "the host has stopped")
    else:
        host.open()
        wait_until(lambda: not host.running, "the host has stopped")
        with pytest.raises(KeyboardInterrupt, match="in a worker"):
            host.stop()
    assert not host.running
    assert host.stop() is True  # raised once
    assert messages(provider, workflow_id) == []
    with host:
        assert host.result(workflow_id, timeout=30) == {}


@pytest.mark.parametrize("before", ["delay", "wait", "if", "when", "branch"])
def test_the_idempotency_key_is_equal_where_a_pass_was_cut_off(provider: PersistenceProvider, before: str) -> None:
    """The pointer of the body is made in the same pass that runs it; cut off before its commit it has to be made alike."""
    keys: list[str] = []

    def body(data: Any, ctx: StepContext) -> None:
        keys.append(ctx.idempotency_key)
        if len(keys) < 3:
            raise KeyboardInterrupt

    wf = WorkflowBuilder("cut")
    if before == "delay":
        wf.delay(0)
        wf.then(body)
    elif before == "wait":
        wf.wait_for("event")
        wf.then(body)
    elif before == "if":
        with wf.if_(lambda data: True), wf.if_(lambda data: True):
            wf.then(body)
    elif before == "when":
        wf.delay(0)
        with wf.when(None):
            wf.then(body)
    else:
        with wf.then(lambda data: StepResult.branch([1]), name="split"):
            wf.delay(0)
            wf.then(body)
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("cut")
    host.publish("event")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            host.run_until_idle()
    host.run_until_idle()
    assert host.get(workflow_id).status is WorkflowStatus.COMPLETE
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_pointer_ids_differ_within_and_between_workflows(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("ids")
    with wf.then(lambda data: StepResult.branch([1, 1, 1]), name="split"):
        with wf.if_(lambda data: True):
            wf.then(lambda data: None, name="one")
            wf.then(lambda data: None, name="two")
        wf.delay(0)
    wf.delay(0)
    host = WorkflowHost(provider, [wf])
    ids = [host.start("ids") for _ in range(3)]
    host.run_until_idle()
    found = [pointer.id for workflow_id in ids for pointer in pointers(host, workflow_id)]
    assert len(found) == len(set(found)) == 3 * (1 + 3 * 4 + 1)
