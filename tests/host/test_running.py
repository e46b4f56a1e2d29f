"""Running a host: starting, stopping, names, versions, control from outside, fairness."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from tests.host.support import Driver, messages, pointers, statuses
from wfe_fast import (
    DefinitionNotFoundError,
    DuplicateDefinitionError,
    DuplicateWorkflowError,
    InvalidStateError,
    InvalidValueError,
    PointerStatus,
    WorkflowNotFoundError,
    WorkflowStatus,
    WorkflowTerminatedError,
)
from wfe_fast.host import StepContext, StepResult, Suspend, Terminate, WorkflowBuilder, WorkflowHost
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.testing.racing import race_threads, values
from wfe_fast.testing.waiting import PATIENCE, Background, wait_until


def simple(id: str = "simple", version: int = 1, steps: int = 1) -> WorkflowBuilder:
    wf = WorkflowBuilder(id, version)
    for index in range(steps):
        wf.then(lambda data: data.update(steps=data.get("steps", 0) + 1), name=f"step-{index}")
    return wf


class Gate:
    """A step that says that it runs, and runs until it is let go."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self.leave = threading.Event()
        self.contexts: list[StepContext] = []

    def __call__(self, data: Any, ctx: StepContext) -> None:
        self.contexts.append(ctx)
        self.inside.set()
        assert self.leave.wait(PATIENCE)
        data["gate"] = "passed"


def gated(gate: Gate, tail: bool = True) -> WorkflowBuilder:
    wf = WorkflowBuilder("gated")
    wf.then(gate, name="gate")
    if tail:
        wf.then(lambda data: data.update(tail=True), name="tail")
    return wf


# Starting workflows


def test_start_works_before_the_host_runs(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple()])
    workflow_id = host.start("simple")
    assert host.get(workflow_id).status is WorkflowStatus.RUNNABLE
    with host:
        assert host.result(workflow_id, timeout=30) == {"steps": 1}
    assert not host.running


def test_a_start_by_another_host_wakes_this_one_up(open_store: Any) -> None:
    with WorkflowHost(open_store(), [simple()], poll_interval=600):
        other = WorkflowHost(open_store(), [simple()])
        assert other.result(other.start("simple"), timeout=30) == {"steps": 1}


def test_an_unknown_definition_is_an_error(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple()])
    with pytest.raises(DefinitionNotFoundError):
        host.start("other")
    with pytest.raises(DefinitionNotFoundError):
        host.start("simple", version=2)


def test_default_names_are_numbered_for_each_definition(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple("a"), simple("b")])
    ids = [host.start(definition) for definition in "aabab"]
    assert len(set(ids)) == 5
    assert [host.get(workflow_id).name for workflow_id in ids] == ["a-1", "a-2", "b-1", "a-3", "b-2"]


def test_default_names_step_over_one_that_was_given_by_hand(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple("a")])
    host.start("a", name="a-1")
    host.start("a", name="a-2")
    assert host.get(host.start("a")).name == "a-3"


def test_a_name_by_hand_is_kept_and_unique(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple()])
    workflow_id = host.start("simple", name="ci-1.9.0-release")
    assert host.get("ci-1.9.0-release").id == workflow_id == host.get(workflow_id).id
    with pytest.raises(DuplicateWorkflowError) as caught:
        host.start("simple", name="ci-1.9.0-release")
    assert caught.value.field == "name"
    for blank in ("", "  "):
        with pytest.raises(InvalidValueError, match="name"):
            host.start("simple", name=blank)
    assert len(provider.list_workflows().items) == 1


def test_the_same_id_again_is_the_first_workflow(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple(), simple("other")])
    assert host.start("simple", {"n": 1}, id="mine") == "mine"
    assert host.start("simple", {"n": 2}, id="mine") == "mine"
    assert host.get("mine").data == {"n": 1}
    assert provider.next_definition_sequence("simple") == 2
    with pytest.raises(DuplicateWorkflowError) as caught:
        host.start("other", id="mine")
    assert (caught.value.id, caught.value.field) == ("mine", "id")
    with pytest.raises(InvalidValueError, match="id"):
        host.start("simple", id="")


def test_many_threads_start_the_same_and_different_workflows(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple()])
    same = values(race_threads([lambda: host.start("simple", id="one")] * 8))
    assert set(same) == {"one"}
    different = values(race_threads([lambda: host.start("simple")] * 8))
    names = {host.get(workflow_id).name for workflow_id in different}
    assert names == {f"simple-{n}" for n in range(2, 10)}


def test_description_and_reference_are_stored(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("w", description="what it does")
    wf.then(lambda data: None, name="nothing")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("w", reference="order 7")
    assert host.get(workflow_id).description == "what it does"
    assert [item.id for item in provider.list_workflows(reference="order 7").items] == [workflow_id]


# Versions


def test_start_takes_the_highest_version_or_the_one_asked_for(driver: Driver) -> None:
    host = driver.use(simple(version=2, steps=2), simple(version=10, steps=3), simple(version=1))
    ids = [host.start("simple"), host.start("simple", version=1), host.start("simple", version=2)]
    assert [driver.result(workflow_id)["steps"] for workflow_id in ids] == [3, 1, 2]
    assert [host.get(workflow_id).version for workflow_id in ids] == [10, 1, 2]


def test_a_workflow_of_an_unknown_version_is_left_alone(open_store: Any) -> None:
    starter = WorkflowHost(open_store(), [simple(version=1), simple(version=2, steps=2)])
    old, new = starter.start("simple", version=1), starter.start("simple")
    with WorkflowHost(open_store(), [simple(version=1)], poll_interval=0.01) as host:
        assert host.result(old, timeout=30) == {"steps": 1}
        later = host.start("simple")
        assert host.result(later, timeout=30) == {"steps": 1}
        assert host.get(new).status is WorkflowStatus.RUNNABLE
        assert statuses(host, new) == [PointerStatus.PENDING]
        host.register(simple(version=2, steps=2))
        assert host.result(new, timeout=30) == {"steps": 2}


def test_a_host_without_definitions_claims_nothing(provider: PersistenceProvider) -> None:
    workflow_id = WorkflowHost(provider, [simple()]).start("simple")
    assert WorkflowHost(provider).run_until_idle() == 0
    assert pointers(WorkflowHost(provider), workflow_id)[0].status is PointerStatus.PENDING


def test_registering_the_same_shape_again_is_harmless_another_one_is_refused(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple(steps=2)])
    host.register(simple(steps=2))
    with pytest.raises(DuplicateDefinitionError):
        host.register(simple(steps=3))
    renamed = WorkflowBuilder("simple")
    renamed.then(lambda data: None, name="step-0")
    renamed.delay(1)
    with pytest.raises(DuplicateDefinitionError):
        host.register(renamed)


def test_what_a_builder_gets_later_does_not_change_what_was_registered(provider: PersistenceProvider) -> None:
    wf = simple()
    host = WorkflowHost(provider, [wf])
    wf.then(lambda data: data.update(more=True), name="more")
    workflow_id = host.start("simple")
    host.run_until_idle()
    assert host.result(workflow_id, timeout=0) == {"steps": 1}


def two_names(first: str, second: str) -> WorkflowBuilder:
    wf = WorkflowBuilder("changed")
    wf.then(lambda data: None, name=first)
    wf.delay(0)
    wf.then(lambda data: data.update(ran=second), name=second)
    return wf


def test_stored_pointers_that_do_not_fit_the_definition_suspend_the_workflow(provider: PersistenceProvider) -> None:
    before = WorkflowHost(provider, [two_names("a", "b")])
    renamed, shortened = before.start("changed"), before.start("changed")
    for workflow_id in (renamed, shortened):
        assert before.run_one_pass()
        assert [p.step_name for p in pointers(before, workflow_id)] == ["a", "delay", "b"]
        assert before.suspend(workflow_id)
    after = WorkflowHost(provider, [two_names("a", "c")])
    assert after.resume(renamed)
    assert after.run_one_pass()
    assert after.get(renamed).status is WorkflowStatus.SUSPENDED
    assert after.get(renamed).data == {}
    assert "DefinitionChangedError: definition 'changed' version 1 calls step 2 'c'" in messages(provider, renamed)[0]
    short = WorkflowBuilder("changed")
    short.then(lambda data: None, name="a")
    assert after.resume(shortened)
    assert WorkflowHost(provider, [short]).run_one_pass()
    assert "has 1 steps" in messages(provider, shortened)[0]
    for workflow_id in (renamed, shortened):
        assert before.resume(workflow_id)
    before.run_until_idle()
    assert before.result(renamed, timeout=0) == before.result(shortened, timeout=0) == {"ran": "b"}


# Control from outside


def test_suspend_and_resume(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple()])
    workflow_id = host.start("simple", name="by name")
    assert host.resume(workflow_id) is False
    assert host.suspend("by name") is True
    assert host.get(workflow_id).status is WorkflowStatus.SUSPENDED
    assert host.suspend(workflow_id) is False
    assert host.run_until_idle() == 0
    assert host.resume(workflow_id) is True
    assert host.get(workflow_id).status is WorkflowStatus.RUNNABLE
    host.run_until_idle()
    assert host.result("by name", timeout=0) == {"steps": 1}
    assert host.suspend(workflow_id) is host.resume(workflow_id) is host.terminate(workflow_id) is False
    assert host.get(workflow_id).status is WorkflowStatus.COMPLETE


def test_terminate(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple()])
    workflow_id = host.start("simple", name="by name")
    assert host.terminate("by name") is True
    assert host.terminate(workflow_id) is host.suspend(workflow_id) is host.resume(workflow_id) is False
    instance = host.get(workflow_id)
    assert instance.status is WorkflowStatus.TERMINATED
    assert instance.complete_time is not None
    assert host.run_until_idle() == 0
    with pytest.raises(WorkflowTerminatedError):
        host.result(workflow_id, timeout=0)


def test_nothing_of_this_id_or_name(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider)
    for call in (host.get, host.suspend, host.resume, host.terminate, host.result):
        with pytest.raises(WorkflowNotFoundError):
            call("nobody")


@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("control", ["suspend", "resume", "terminate"])
def test_control_while_a_step_runs_keeps_the_result_and_the_status(
    provider: PersistenceProvider, control: str, tail: bool
) -> None:
    gate = Gate()
    with WorkflowHost(provider, [gated(gate, tail)]) as host:
        workflow_id = host.start("gated")
        assert gate.inside.wait(PATIENCE)
        assert host.terminate(workflow_id) if control == "terminate" else host.suspend(workflow_id)
        if control == "resume":
            assert host.resume(workflow_id)
        gate.leave.set()
        wait_until(lambda: host.get(workflow_id).data.get("gate"), "the running pass has committed")
        if control == "terminate":
            wait_until(lambda: host.stats().busy == 0, "the claim has ended")
            instance = host.get(workflow_id)
            assert instance.status is WorkflowStatus.TERMINATED
            assert instance.complete_time is not None
            assert instance.data == {"gate": "passed"}
            return
        if control == "suspend":
            wait_until(lambda: host.stats().busy == 0, "the claim has ended")
            assert host.get(workflow_id).status is WorkflowStatus.SUSPENDED
            assert host.resume(workflow_id)
        expected = {"gate": "passed", "tail": True} if tail else {"gate": "passed"}
        assert host.result(workflow_id, timeout=30) == expected


def test_suspended_while_its_step_fails_for_good_it_does_not_end_as_complete(provider: PersistenceProvider) -> None:
    gate = Gate()
    wf = WorkflowBuilder("failing", on_error=Terminate())

    def body(data: Any, ctx: StepContext) -> None:
        gate(data, ctx)
        raise ValueError("for good")

    wf.then(body)
    with WorkflowHost(provider, [wf]) as host:
        workflow_id = host.start("failing")
        assert gate.inside.wait(PATIENCE)
        assert host.suspend(workflow_id)
        gate.leave.set()
        wait_until(lambda: host.stats().busy == 0, "the claim has ended")
        assert host.get(workflow_id).status is WorkflowStatus.SUSPENDED
        assert host.resume(workflow_id)
        with pytest.raises(WorkflowTerminatedError, match="for good"):
            host.result(workflow_id, timeout=30)


def test_terminated_while_it_begins_to_wait_it_leaves_no_subscription(provider: PersistenceProvider) -> None:
    gate = Gate()
    wf = WorkflowBuilder("gated")
    wf.then(gate, name="gate")
    wf.wait_for("never")
    with WorkflowHost(provider, [wf]) as host:
        workflow_id = host.start("gated")
        assert gate.inside.wait(PATIENCE)
        assert host.terminate(workflow_id)
        gate.leave.set()
        wait_until(lambda: host.stats().busy == 0, "the claim has ended")
        assert pointers(host, workflow_id, "wait_for never")
        assert provider.subscriptions_of(workflow_id) == []


def test_a_workflow_that_is_deleted_while_its_step_runs_is_dropped(provider: PersistenceProvider) -> None:
    gate = Gate()
    with WorkflowHost(provider, [gated(gate), simple()]) as host:
        workflow_id = host.start("gated")
        assert gate.inside.wait(PATIENCE)
        provider.delete_workflow(workflow_id)
        gate.leave.set()
        assert host.result(host.start("simple"), timeout=30) == {"steps": 1}
        wait_until(lambda: host.stats().busy == 0, "the claim has ended")


def test_result_times_out(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple()])
    workflow_id = host.start("simple")
    with pytest.raises(TimeoutError, match="did not complete within 0.01 s"):
        host.result(workflow_id, timeout=timedelta(milliseconds=10))
    waiting = Background(lambda: host.result(workflow_id))
    host.run_until_idle()
    assert waiting.result() == {"steps": 1}


# Starting and stopping the host


def test_a_host_can_be_opened_again(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple()])
    assert host.stop() is True
    for _ in range(3):
        with host:
            assert host.running
            assert host.result(host.start("simple"), timeout=30) == {"steps": 1}
        assert not host.running
        assert host.stop() is True
    with host, pytest.raises(InvalidStateError):
        host.open()


def test_stop_waits_for_a_running_step_which_commits(provider: PersistenceProvider) -> None:
    gate = Gate()
    host = WorkflowHost(provider, [gated(gate)], lease=0.6).open()
    workflow_id = host.start("gated")
    assert gate.inside.wait(PATIENCE)
    assert gate.contexts[0].stopping is False
    assert host.stop(timeout=0.7) is False  # longer than a lease: the heartbeat has to go on meanwhile
    assert gate.contexts[0].stopping is True
    assert not host.running
    gate.leave.set()
    assert host.stop() is True
    assert gate.contexts[0].claim_lost is False
    instance = host.get(workflow_id)
    assert instance.data == {"gate": "passed"}
    assert statuses(host, workflow_id) == [PointerStatus.COMPLETE, PointerStatus.PENDING]
    assert host.run_until_idle() == 1  # the claim was given back
    assert host.result(workflow_id, timeout=0)["tail"] is True


def test_a_step_that_outlives_its_lease_keeps_its_claim(open_store: Any) -> None:
    gate = Gate()
    with WorkflowHost(open_store(), [gated(gate)], lease=0.3) as host:
        workflow_id = host.start("gated")
        assert gate.inside.wait(PATIENCE)
        began = time.monotonic()
        thief = open_store()
        wait_until(lambda: thief.claim_runnable_instances("thief") or time.monotonic() - began > 1.2, "four leases")
        gate.leave.set()
        assert host.result(workflow_id, timeout=30) == {"gate": "passed", "tail": True}
        assert len(gate.contexts) == 1
        assert host.stats().claims_lost == 0


def test_a_lost_claim_is_told_to_the_step_and_commits_nothing(open_store: Any) -> None:
    """The second provider's clock runs an hour ahead, so it takes the claim over before any heartbeat."""
    gate = Gate()

    def ahead() -> datetime:
        return datetime.now(timezone.utc) + timedelta(hours=1)

    with WorkflowHost(open_store(), [gated(gate)], lease=0.6) as host:
        workflow_id = host.start("gated")
        assert gate.inside.wait(PATIENCE)
        (taken,) = open_store(clock=ahead).claim_runnable_instances("thief", lease=0.001)
        assert taken.id == workflow_id
        wait_until(lambda: gate.contexts[0].claim_lost, "the step is told")
        gate.leave.set()
        wait_until(lambda: host.stats().claims_lost == 1, "the commit was refused")
        assert host.get(workflow_id).data == {}
    assert statuses(host, workflow_id) == [PointerStatus.PENDING]


def test_a_claim_lost_without_a_heartbeat_commits_nothing_either(open_store: Any) -> None:
    provider = open_store()

    def steals(data: Any) -> None:
        data["stored"] = True
        if not stolen:
            thief = open_store(clock=lambda: datetime.now(timezone.utc) + timedelta(hours=1))
            stolen.extend(thief.claim_runnable_instances("thief", lease=0.001))

    stolen: list[Any] = []
    wf = WorkflowBuilder("stolen")
    wf.then(steals)
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("stolen")
    assert host.run_one_pass()
    assert len(stolen) == 1
    assert host.stats().claims_lost == 1
    assert host.get(workflow_id).data == {}


def test_a_step_may_stop_its_own_host(provider: PersistenceProvider) -> None:
    stopped: list[bool] = []
    wf = WorkflowBuilder("stops")
    wf.then(lambda data: stopped.append(host.stop()), name="stop")
    wf.then(lambda data: None, name="tail")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("stops")
    host.open()
    wait_until(lambda: stopped, "the step has stopped the host")
    assert host.stop() is True
    assert stopped == [True]
    assert statuses(host, workflow_id) == [PointerStatus.COMPLETE, PointerStatus.PENDING]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_serves_until_a_signal_and_then_stops_gracefully(provider: PersistenceProvider, number: int) -> None:
    gate = Gate()
    host = WorkflowHost(provider, [gated(gate)])
    workflow_id = host.start("gated")
    before = signal.getsignal(number)

    def send() -> None:
        try:
            assert gate.inside.wait(PATIENCE)
            os.kill(os.getpid(), number)
            wait_until(lambda: gate.contexts[0].stopping, "the step is told")
        finally:
            gate.leave.set()
            host.stop()

    sender = Background(send)
    assert host.run() is True
    sender.result()
    assert signal.getsignal(number) is before
    assert host.get(workflow_id).data == {"gate": "passed"}
    assert not host.running


def test_run_in_another_thread_ends_with_stop(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple()]).open()
    running = Background(host.run).wait_until_inside("wait_for_stop")
    assert host.result(host.start("simple"), timeout=30) == {"steps": 1}
    assert host.stop() is True
    assert running.result() is True


def test_run_one_pass_runs_one_body(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [simple(steps=3)])
    workflow_id = host.start("simple")
    for n in (1, 2, 3):
        assert host.run_one_pass() is True
        assert host.get(workflow_id).data == {"steps": n}
    assert host.run_one_pass() is False
    assert host.get(workflow_id).status is WorkflowStatus.COMPLETE


def test_stats_count_what_was_done(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("fails", on_error=Suspend())
    wf.then(lambda data: 1 / 0, name="fails")
    host = WorkflowHost(provider, [simple(steps=2), wf], workers=3)
    for definition in ("simple", "fails"):
        host.start(definition)
    host.run_until_idle()
    stats = host.stats()
    assert (stats.passes, stats.steps, stats.failures, stats.busy, stats.workers) == (3, 3, 1, 0, 3)
    assert (stats.running, stats.claims_lost, stats.claims_given_up) == (False, 0, 0)


def test_a_forked_child_counts_as_stopped(provider: PersistenceProvider) -> None:
    with WorkflowHost(provider, [simple()]) as host:
        host.result(host.start("simple"), timeout=30)
        child = os.fork()
        if child == 0:
            stopped = not host.running and host.stop() and host.stats().busy == 0
            os._exit(0 if stopped else 1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert host.running
        assert host.result(host.start("simple"), timeout=30) == {"steps": 1}


# Fairness


def test_an_endless_workflow_beside_a_hundred_short_ones_on_one_worker(provider: PersistenceProvider) -> None:
    endless = WorkflowBuilder("endless")
    endless.then(lambda data, ctx: StepResult.persist((ctx.saved or 0) + 1), name="again")
    host = WorkflowHost(provider, [endless, simple()], workers=1)
    endless_id = host.start("endless")
    with host:
        wait_until(lambda: pointers(host, endless_id)[0].persistence_data, "the endless one runs")
        ids = [host.start("simple") for _ in range(100)]
        for workflow_id in ids:
            assert host.result(workflow_id, timeout=PATIENCE) == {"steps": 1}
        assert host.get(endless_id).status is WorkflowStatus.RUNNABLE
    due = host.get(endless_id).next_execution
    assert due is not None
    assert due > host.get(endless_id).create_time.timestamp() * 1000


def test_a_claim_ends_after_a_second_although_its_workflow_could_go_on(provider: PersistenceProvider) -> None:
    def spins(data: Any, ctx: StepContext) -> StepResult:
        until = time.monotonic() + 0.4
        while time.monotonic() < until:
            pass
        return StepResult.persist((ctx.saved or 0) + 1)

    endless = WorkflowBuilder("endless")
    endless.then(spins)
    host = WorkflowHost(provider, [endless])
    workflow_id = host.start("endless")
    assert host._run_claims()
    assert pointers(host, workflow_id)[0].persistence_data == 3


def test_a_host_claims_no_more_than_it_has_idle_workers(open_store: Any) -> None:
    gate = Gate()
    host = WorkflowHost(open_store(), [gated(gate)], workers=2)
    ids = [host.start("gated") for _ in range(6)]
    with host:
        wait_until(lambda: len(gate.contexts) == 2, "both workers work")
        assert host.stats().busy == 2
        others = open_store().claim_runnable_instances("other", limit=10)
        assert len(others) == 4
        gate.leave.set()
        held = {item.id for item in others}
        for workflow_id in ids:
            if workflow_id not in held:
                assert host.result(workflow_id, timeout=30)["tail"]


def test_four_workers_work_at_the_same_time(provider: PersistenceProvider) -> None:
    barrier = threading.Barrier(4)
    wf = WorkflowBuilder("together")
    wf.then(lambda data: barrier.wait(PATIENCE) and None, name="meet")
    with WorkflowHost(provider, [wf], workers=4) as host:
        ids = [host.start("together") for _ in range(4)]
        for workflow_id in ids:
            host.result(workflow_id, timeout=PATIENCE)
