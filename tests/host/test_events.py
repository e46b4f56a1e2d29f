"""Waiting for events and publishing them: first in first out, none lost, none doubled."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from tests.host.support import Driver, messages, pointers, statuses
from wfe_fast import (
    CommandName,
    Event,
    InvalidValueError,
    PointerStatus,
    ScheduledCommand,
    SerializationError,
    WorkflowStatus,
)
from wfe_fast.clock import to_millis
from wfe_fast.host import TIMED_OUT, Retry, StepContext, StepResult, Suspend, WorkflowBuilder, WorkflowHost
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.waiting import wait_until

LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)


def waits(count: int, name: str = "event", **options: Any) -> WorkflowBuilder:
    """A workflow of so many waits in series on the key in its data, each into a field of its own."""
    wf = WorkflowBuilder("waits")
    for index in range(count):
        wf.wait_for(name, key=lambda data: data["key"], into=f"got-{index}", name=f"wait-{index}", **options)
    return wf


def got(data: dict[str, Any]) -> list[Any]:
    """What the waits got, in their order."""
    return [data[field] for field in sorted(data) if field.startswith("got-")]


def test_two_waits_in_series(driver: Driver) -> None:
    host = driver.use(waits(2))
    workflow_id = host.start("waits", {"key": "k"})
    driver.until_waiting(workflow_id)
    (pointer,) = pointers(host, workflow_id)
    assert (pointer.status, pointer.active) == (PointerStatus.WAITING_FOR_EVENT, False)
    assert host.get(workflow_id).status is WorkflowStatus.RUNNABLE
    first = host.publish("event", "k", {"n": 1})
    driver.until(lambda: len(pointers(host, workflow_id)) == 2, "the second wait begins")
    driver.until_waiting(workflow_id)
    host.publish("event", "k", {"n": 2})
    assert got(driver.result(workflow_id)) == [{"n": 1}, {"n": 2}]
    done = pointers(host, workflow_id, "wait-0")[0]
    assert done.event_data == {"n": 1}
    assert done.outcome == {"n": 1}
    assert done.extension_attributes["wfe.event"]["id"] == first
    assert driver.provider.subscriptions_of(workflow_id) == []


def test_five_events_stored_before_the_start_come_in_order(driver: Driver) -> None:
    moments = [LONG_AGO + timedelta(days=day) for day in range(1, 6)]
    wf = WorkflowBuilder("order")
    for index, moment in enumerate(moments):
        wf.wait_for("event", "k", as_of=moment, into=f"got-{index}", name=f"wait-{index}")
    host = driver.use(wf)
    for value in (3, 1, 5, 2, 4):  # stored in any order
        host.publish("event", "k", value, at=moments[value - 1])
    assert got(driver.result(host.start("order"))) == [1, 2, 3, 4, 5]


def test_one_as_of_for_all_waits_gives_the_same_order(driver: Driver) -> None:
    host = driver.use(waits(5, as_of=LONG_AGO))
    for value in (3, 1, 5, 2, 4):
        host.publish("event", "k", value, at=LONG_AGO + timedelta(seconds=value))
    assert got(driver.result(host.start("waits", {"key": "k"}))) == [1, 2, 3, 4, 5]


def test_events_before_the_workflow_was_created_do_not_count_by_default(driver: Driver) -> None:
    host = driver.use(waits(1))
    host.publish("event", "k", "early")
    workflow_id = host.start("waits", {"key": "k"})
    driver.until_waiting(workflow_id)
    host.publish("event", "k", "late")
    assert got(driver.result(workflow_id)) == ["late"]


def test_an_event_between_the_start_and_the_wait_is_not_lost(driver: Driver) -> None:
    host = driver.use(waits(1))
    late = WorkflowHost(driver.provider, [waits(1)])
    workflow_id = late.start("waits", {"key": "k"})
    host.publish("event", "k", "soon")
    assert got(driver.result(workflow_id)) == ["soon"]


def test_a_burst_of_two_events_for_two_waits(driver: Driver) -> None:
    host = driver.use(waits(2))
    workflow_id = host.start("waits", {"key": "k"})
    driver.until_waiting(workflow_id)
    host.publish("event", "k", 1)
    host.publish("event", "k", 2)
    assert got(driver.result(workflow_id)) == [1, 2]


def test_a_hundred_events_in_any_rhythm_come_in_order(driver: Driver) -> None:
    wf = WorkflowBuilder("many")

    def collect(data: Any, ctx: StepContext) -> StepResult | None:
        if ctx.event_received:
            data["seen"].append(ctx.event)
        return StepResult.wait_for("event", "k") if len(data["seen"]) < 100 else None

    wf.then(collect)
    host = driver.use(wf)
    workflow_id = host.start("many", {"seen": []})
    for n in range(100):
        host.publish("event", "k", n)
        if n % 7 == 0:
            driver.until(lambda n=n: len(host.get(workflow_id).data["seen"]) >= n // 2, f"half of {n} are there")
    assert driver.result(workflow_id)["seen"] == list(range(100))


def test_events_of_one_moment_come_in_the_order_of_their_publication(open_store: Any) -> None:
    clock = ManualClock()
    provider = open_store(clock=clock)
    host = WorkflowHost(provider, [waits(4)])
    workflow_id = host.start("waits", {"key": "k"})
    host.publish("event", "k", 0)
    host.run_until_idle()
    host.publish("event", "k", 1)
    host.publish("event", "k", 2)
    host.run_until_idle()
    host.publish("event", "k", 3)
    host.run_until_idle()
    assert got(host.result(workflow_id, timeout=0)) == [0, 1, 2, 3]


def test_a_late_event_with_an_older_time_does_not_overtake(open_store: Any) -> None:
    clock = ManualClock()
    provider = open_store(clock=clock)
    host = WorkflowHost(provider, [waits(2)])
    workflow_id = host.start("waits", {"key": "k"})
    host.run_until_idle()
    clock.advance(100)
    host.publish("event", "k", "newer")
    host.run_until_idle()
    host.publish("event", "k", "older", at=START + timedelta(seconds=50))
    assert host.run_until_idle() == 0
    host.publish("event", "k", "newest", at=START + timedelta(seconds=100))
    host.run_until_idle()
    assert got(host.result(workflow_id, timeout=0)) == ["newer", "newest"]


def test_each_key_and_name_is_a_line_of_its_own(driver: Driver) -> None:
    wf = WorkflowBuilder("keys")
    for index, (name, key) in enumerate([("a", "1"), ("a", "2"), ("b", "1"), ("a", "1"), ("a", "2")]):
        wf.wait_for(name, key, into=f"got-{index}", name=f"wait-{index}")
    host = driver.use(wf)
    workflow_id = host.start("keys")
    for n, (name, key) in enumerate([("b", "1"), ("a", "2"), ("a", "1"), ("a", "2"), ("a", "1")]):
        host.publish(name, key, n)
    assert got(driver.result(workflow_id)) == [2, 1, 0, 4, 3]


def test_every_workflow_that_waits_gets_the_event_once(driver: Driver) -> None:
    host = driver.use(waits(1))
    ids = [host.start("waits", {"key": "k"}) for _ in range(5)] + [host.start("waits", {"key": "other"})]
    for workflow_id in ids:
        driver.until_waiting(workflow_id)
    host.publish("event", "k", "all")
    assert [got(driver.result(workflow_id)) for workflow_id in ids[:5]] == [["all"]] * 5
    assert driver.status(ids[5]) is WorkflowStatus.RUNNABLE


def test_parallel_waits_of_one_workflow_get_it_once_each(driver: Driver) -> None:
    wf = WorkflowBuilder("branches")
    with wf.then(lambda data: StepResult.branch([1, 2, 3]), name="split"):
        wf.wait_for("event", "k")
        wf.then(lambda data, ctx: data["seen"].append([ctx.item, ctx.outcome]), name="note")
    host = driver.use(wf)
    workflow_id = host.start("branches", {"seen": []})
    host.publish("event", "k", "one")
    assert sorted(driver.result(workflow_id)["seen"]) == [[1, "one"], [2, "one"], [3, "one"]]


def test_five_events_right_after_the_start_for_five_branches(driver: Driver) -> None:
    wf = WorkflowBuilder("branches")
    with wf.then(lambda data: StepResult.branch(list("abcde")), name="split"):
        wf.wait_for("event", key=lambda data, ctx: ctx.item)
        wf.then(lambda data, ctx: data["seen"].append([ctx.item, ctx.outcome]), name="note")
    host = driver.use(wf)
    workflow_id = host.start("branches", {"seen": []})
    for key in "ecabd":
        host.publish("event", key, key.upper())
    assert sorted(driver.result(workflow_id)["seen"]) == [[key, key.upper()] for key in "abcde"]


def test_an_event_without_subscribers_is_stored_and_done(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider)
    event_id = host.publish("nobody", data={"n": 1})
    event = provider.get_event(event_id)
    assert (event.event_key, event.event_data, event.is_processed) == ("", {"n": 1}, True)
    assert host.run_until_idle() == 0


def test_the_same_id_again_is_the_first_event(driver: Driver) -> None:
    host = driver.use(waits(2))
    workflow_id = host.start("waits", {"key": "k"})
    assert host.publish("event", "k", 1, id="first") == "first"
    assert host.publish("event", "k", "again", id="first") == "first"
    driver.until(lambda: len(pointers(host, workflow_id)) == 2, "the first wait is done")
    assert host.publish("event", "k", "again", id="first") == "first"
    host.publish("event", "k", 2, id="second")
    assert got(driver.result(workflow_id)) == [1, 2]
    assert driver.provider.get_event("first").event_data == 1


def test_an_event_for_later_is_delivered_when_its_time_comes(driver: Driver) -> None:
    host = driver.use(waits(1))
    workflow_id = host.start("waits", {"key": "k"})
    due = datetime.now(timezone.utc) + timedelta(seconds=0.3)
    host.publish("event", "k", "later", at=due, id="later")
    host.publish("event", "k", "again", at=due + timedelta(hours=1), id="later")
    driver.until_waiting(workflow_id)
    assert got(driver.result(workflow_id)) == ["later"]
    end = host.get(workflow_id).complete_time
    assert end is not None
    assert end >= due


def test_a_null_payload_is_an_event_too(driver: Driver) -> None:
    seen: list[Any] = []

    def twice(data: Any, ctx: StepContext) -> StepResult | None:
        seen.append((ctx.event_received, ctx.event))
        return None if ctx.event_received else StepResult.wait_for("event", "k")

    wf = WorkflowBuilder("null")
    wf.then(twice)
    wf.wait_for("event", "k", into="second")
    host = driver.use(wf)
    workflow_id = host.start("null", {"second": "unset"})
    driver.until_waiting(workflow_id)
    host.publish("event", "k", None)
    host.publish("event", "k", None)
    assert driver.result(workflow_id) == {"second": None}
    assert seen == [(False, None), (True, None)]


def test_a_step_that_waits_on_two_keys_in_turn_keeps_its_place_in_both(driver: Driver) -> None:
    def collect(data: Any, ctx: StepContext) -> StepResult | None:
        if ctx.event_received:
            data["seen"].append(ctx.event)
        n = len(data["seen"])
        return StepResult.wait_for("event", "ab"[n % 2]) if n < 6 else None

    wf = WorkflowBuilder("turns")
    wf.then(collect)
    host = driver.use(wf)
    workflow_id = host.start("turns", {"seen": []})
    for n in range(3):
        host.publish("event", "b", f"b{n}")
    for n in range(3):
        host.publish("event", "a", f"a{n}")
    assert driver.result(workflow_id)["seen"] == ["a0", "b0", "a1", "b1", "a2", "b2"]


def test_a_step_that_fails_after_its_event_keeps_it(driver: Driver) -> None:
    def fails_once(data: Any, ctx: StepContext) -> StepResult | None:
        if not ctx.event_received:
            return StepResult.wait_for("event", "k")
        if ctx.attempt == 1:
            raise ValueError("once")
        data["got"] = ctx.event
        return None

    wf = WorkflowBuilder("keep", on_error=Retry(1, delay=0))
    wf.then(fails_once)
    host = driver.use(wf)
    workflow_id = host.start("keep")
    host.publish("event", "k", "kept")
    assert driver.rest(workflow_id) is WorkflowStatus.COMPLETE
    assert host.get(workflow_id).data == {"got": "kept"}


class Order(msgspec.Struct):
    id: str
    approval: dict[str, int] | None = None


def test_an_event_goes_into_a_typed_field_or_fails_and_can_be_resumed(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("typed", data=Order)
    wf.wait_for("approval", key=lambda order: order.id, into="approval", on_error=Retry(None, delay=0))
    host = WorkflowHost(provider, [wf])
    good, bad = host.start("typed", Order("A")), host.start("typed", Order("B"))
    host.publish("approval", "A", {"level": 2})
    host.publish("approval", "B", "text")
    host.run_until_idle()
    assert host.result(good, timeout=0) == Order("A", {"level": 2})
    assert "Expected `object | null`, got `str`" in messages(provider, bad)[0]
    assert host.get(bad).status is WorkflowStatus.SUSPENDED
    lenient = WorkflowBuilder("typed", data=Order)
    lenient.wait_for("approval", key=lambda order: order.id, into="approval")
    host.resume(bad)
    host.run_until_idle()
    assert len(messages(provider, bad)) == 2  # its event is kept: it fails at the same place again
    assert statuses(host, bad) == [PointerStatus.FAILED]


def test_a_timeout_is_an_outcome(driver: Driver) -> None:
    wf = WorkflowBuilder("timeout")
    wf.wait_for("never", key="k", timeout=timedelta(milliseconds=40), into="field")
    with wf.when(TIMED_OUT):
        wf.then(lambda data: "too late", name="late", into="answer")
    with wf.otherwise():
        wf.then(lambda data: "in time", name="in time", into="answer")
    host = driver.use(wf)
    workflow_id = host.start("timeout", {"field": "as it was"})
    assert driver.result(workflow_id) == {"field": "as it was", "answer": "too late"}
    assert pointers(host, workflow_id)[0].outcome == TIMED_OUT
    assert driver.provider.subscriptions_of(workflow_id) == []
    host.publish("never", "k", "now")
    assert driver.status(workflow_id) is WorkflowStatus.COMPLETE


def test_an_event_before_the_deadline_wins(driver: Driver) -> None:
    host = driver.use(waits(1, timeout=lambda data: 3600))
    workflow_id = host.start("waits", {"key": "k"})
    driver.until_waiting(workflow_id)
    host.publish("event", "k", "in time")
    assert got(driver.result(workflow_id)) == ["in time"]


def timing_out(open_store: Any) -> tuple[ManualClock, PersistenceProvider, WorkflowHost, str]:
    """A workflow that has waited past its deadline while nobody ran it."""
    clock = ManualClock()
    provider = open_store(clock=clock)
    host = WorkflowHost(provider, [waits(1, timeout=10)])
    workflow_id = host.start("waits", {"key": "k"})
    assert host.run_until_idle() == 1
    assert provider.get_workflow_instance(workflow_id).next_execution == to_millis(START + timedelta(seconds=10))
    clock.advance(9.999)
    assert host.run_until_idle() == 0
    clock.advance(0.001)
    return clock, provider, host, workflow_id


def test_a_wait_ends_at_its_deadline(open_store: Any) -> None:
    _, provider, host, workflow_id = timing_out(open_store)
    host.run_until_idle()
    assert host.result(workflow_id, timeout=0) == {"key": "k"}
    assert pointers(host, workflow_id)[0].outcome == TIMED_OUT
    assert provider.subscriptions_of(workflow_id) == []


def test_an_event_that_is_there_when_the_deadline_is_noticed_wins(open_store: Any) -> None:
    _, _, host, workflow_id = timing_out(open_store)
    host.publish("event", "k", "just")
    host.run_until_idle()
    assert got(host.result(workflow_id, timeout=0)) == ["just"]


def test_an_event_that_comes_while_the_pass_of_the_deadline_runs_wins(open_store: Any) -> None:
    """It is left for the claim's holder, who has loaded the workflow without it."""
    clock, provider, host, _ = timing_out(open_store)
    wf = WorkflowBuilder("two")
    with wf.then(lambda data: StepResult.branch(["wait", "publish"]), name="split"):
        with wf.if_(lambda data, ctx: ctx.item == "wait"):
            wf.wait_for("event", "two", timeout=10, into="got")
        with wf.otherwise():
            wf.delay(10)
            wf.then(lambda data: host.publish("event", "two", "while claimed"), name="publish")
    two = WorkflowHost(provider, [wf])
    workflow_id = two.start("two")
    two.run_until_idle()
    clock.advance(10)
    two.run_until_idle()
    assert two.result(workflow_id, timeout=0)["got"] == "while claimed"


def test_a_stored_event_that_nobody_has_delivered_wins_over_the_deadline(open_store: Any) -> None:
    clock, provider, host, workflow_id = timing_out(open_store)
    provider.create_event(Event(event_name="event", event_key="k", event_data="stored", event_time=clock()))
    (claimed,) = provider.claim_runnable_instances("test", 1, 0.001)
    clock.advance(1)
    assert claimed.id == workflow_id
    assert host._run_claims(1)
    host.run_until_idle()
    assert got(host.result(workflow_id, timeout=0)) == ["stored"]


def test_an_event_that_a_workflow_has_taken_is_not_given_to_it_twice(open_store: Any) -> None:
    """An event that still counts as unprocessed is delivered again to whoever waits now: one that had it waits on."""
    clock = ManualClock()
    provider = open_store(clock=clock)
    collect = WorkflowBuilder("collect")

    def body(data: Any, ctx: StepContext) -> StepResult | None:
        if ctx.event_received:
            data["seen"].append(ctx.event)
        return StepResult.wait_for("event", "k") if len(data["seen"]) < 2 else None

    collect.then(body)
    host = WorkflowHost(provider, [waits(2, timeout=100), collect])
    ids = [host.start("waits", {"key": "k"}), host.start("collect", {"seen": []})]
    event_id = host.publish("event", "k", 1)
    host.run_until_idle()
    provider.mark_event_unprocessed(event_id)
    host.run_until_idle()
    assert [host.get(workflow_id).status for workflow_id in ids] == [WorkflowStatus.RUNNABLE] * 2
    assert [len(provider.subscriptions_of(workflow_id)) for workflow_id in ids] == [1, 1]
    assert host.get(ids[0]).next_execution == to_millis(clock() + timedelta(seconds=100))
    host.publish("event", "k", 2)
    host.run_until_idle()
    assert got(host.result(ids[0], timeout=0)) == [1, 2]
    assert host.result(ids[1], timeout=0)["seen"] == [1, 2]


def test_a_purged_position_does_not_bring_old_events_back(open_store: Any) -> None:
    clock = ManualClock()
    provider = open_store(clock=clock)
    host = WorkflowHost(provider, [waits(2)])
    workflow_id = host.start("waits", {"key": "k"})
    host.run_until_idle()
    clock.advance(1)
    host.publish("event", "k", 1)
    clock.advance(1)
    provider.purge_events(timedelta(seconds=0.5))
    host.run_until_idle()
    host.publish("event", "k", 2)
    host.run_until_idle()
    assert got(host.result(workflow_id, timeout=0)) == [1, 2]


def test_a_workflow_takes_what_it_published_itself(driver: Driver) -> None:
    wf = WorkflowBuilder("own")
    wf.then(lambda data, ctx: ctx.publish("event", ctx.workflow_id, "mine"), name="publish")
    wf.wait_for("event", key=lambda data, ctx: ctx.workflow_id, into="got")
    assert driver.result(driver.use(wf).start("own"))["got"] == "mine"


def test_a_suspended_workflow_takes_its_event_and_goes_on_when_resumed(driver: Driver) -> None:
    host = driver.use(waits(1))
    workflow_id = host.start("waits", {"key": "k"})
    driver.until_waiting(workflow_id)
    assert host.suspend(workflow_id)
    host.publish("event", "k", "meanwhile")
    assert driver.status(workflow_id) is WorkflowStatus.SUSPENDED
    assert host.resume(workflow_id)
    assert got(driver.result(workflow_id)) == ["meanwhile"]


def test_a_terminated_workflow_drops_its_waits(driver: Driver) -> None:
    host = driver.use(waits(1))
    workflow_id = host.start("waits", {"key": "k"})
    driver.until_waiting(workflow_id)
    assert host.terminate(workflow_id)
    assert driver.provider.subscriptions_of(workflow_id) == []
    host.publish("event", "k", "too late")
    assert host.get(workflow_id).data == {"key": "k"}


@pytest.mark.parametrize("wrong", [5, None, "x" * 1001])
def test_a_key_that_is_none_is_a_failure(provider: PersistenceProvider, wrong: Any) -> None:
    wf = WorkflowBuilder("key", on_error=Suspend())
    wf.wait_for("event", key=lambda data: wrong)
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("key")
    host.run_until_idle()
    assert messages(provider, workflow_id)[0].startswith("InvalidValueError: key: ")


@pytest.mark.parametrize("function", ["as_of", "timeout"])
def test_a_moment_or_a_timeout_that_is_none_is_a_failure(provider: PersistenceProvider, function: str) -> None:
    wf = WorkflowBuilder("key", on_error=Suspend())
    wf.wait_for("event", **{function: lambda data: "text"})
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("key")
    host.run_until_idle()
    assert messages(provider, workflow_id)[0].startswith(f"InvalidValueError: {function}: ")


def test_publish_refuses_what_cannot_be_an_event(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider)
    for arguments in [
        {"name": ""},
        {"name": "wfe.internal"},
        {"name": 5},
        {"name": "n", "key": None},
        {"name": "n", "at": datetime.fromisoformat("2026-01-01T00:00:00")},
        {"name": "n", "at": "now"},
        {"name": "n", "id": ""},
    ]:
        with pytest.raises(InvalidValueError):
            host.publish(**arguments)  # type: ignore[arg-type]
    for data in (float("nan"), {"a": {1}}, Order("struct")):
        with pytest.raises(SerializationError, match="data"):
            host.publish("n", data=data)
    assert provider.get_events("n", "", datetime.now(timezone.utc)) == []


def test_publish_and_start_join_the_transaction_of_the_caller(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [waits(1)])
    with pytest.raises(ZeroDivisionError), provider.transaction() as tx:
        rolled_back = host.start("waits", {"key": "k"}, tx=tx)
        host.publish("event", "k", "rolled back", id="rolled back", tx=tx)
        raise ZeroDivisionError
    assert provider.get_workflow_instances([rolled_back]) == []
    with provider.transaction() as tx:
        workflow_id = host.start("waits", {"key": "k"}, tx=tx)
        host.publish("event", "k", "together", tx=tx)
    host.run_until_idle()
    assert got(host.result(workflow_id, timeout=0)) == ["together"]


def test_a_command_makes_its_workflow_due_or_delivers_its_event(open_store: Any) -> None:
    clock = ManualClock()
    provider = open_store(clock=clock)
    wf = WorkflowBuilder("sleeper")
    wf.then(lambda data: StepResult.sleep(1000) if not data.update(runs=1) else None, name="sleeper")
    host = WorkflowHost(provider, [wf, waits(1)])
    sleeper = host.start("sleeper")
    waiter = host.start("waits", {"key": "k"})
    done = host.start("waits", {"key": "k"})
    host.run_until_idle()
    host.terminate(done)
    stored = host.publish("event", "k", "stored", at=clock() + timedelta(seconds=5))
    soon = to_millis(clock()) + 5_000
    for workflow_id in (sleeper, done, "nobody"):
        provider.schedule_command(ScheduledCommand.process_workflow(workflow_id, soon))
    provider.schedule_command(ScheduledCommand.process_event(stored, soon))
    assert host.run_until_idle() == 0
    clock.advance(5)
    assert host.run_until_idle() == 2
    assert host.get(sleeper).data == {"runs": 1}  # it was looked at, and sleeps on
    assert got(host.result(waiter, timeout=0)) == ["stored"]
    assert provider.process_commands(clock() + timedelta(days=1), lambda command: None) == 0


def test_a_command_meets_another_writer(open_store: Any) -> None:
    """Between the look at the workflow and the write somebody else writes it: the command looks again."""
    clock = ManualClock()
    interfere: list[str] = []

    def interfering_clock() -> datetime:
        if interfere:
            workflow_id = interfere.pop()
            other = open_store(clock=clock)
            instance = other.get_workflow_instance(workflow_id)
            instance.reference = "written meanwhile"
            other.persist_workflow(instance)
        return clock()

    provider = open_store(clock=interfering_clock)
    wf = WorkflowBuilder("sleeper")
    wf.delay(1000)
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("sleeper")
    host.run_until_idle()
    interfere.append(workflow_id)
    assert host._source._try_make_due(workflow_id) is False
    host._source._make_due(workflow_id)
    instance = host.get(workflow_id)
    assert instance.reference == "written meanwhile"
    assert instance.next_execution == to_millis(clock())
    host._source._make_due(workflow_id)  # it is due already


def test_a_running_host_handles_commands_and_late_events(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [waits(1)])
    with host:
        workflow_id = host.start("waits", {"key": "k"})
        wait_until(lambda: provider.subscriptions_of(workflow_id), "it waits")
        provider.create_event(Event(event_name="event", event_key="k", event_data="left"))
        assert got(host.result(workflow_id, timeout=30)) == ["left"]
        command = ScheduledCommand(
            command_name=CommandName.PROCESS_WORKFLOW,
            data=workflow_id,
            execute_time=to_millis(datetime.now(timezone.utc)),
        )
        provider.schedule_command(command)
        wait_until(lambda: provider.next_due() is None, "the command was handled")
