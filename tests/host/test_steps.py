"""Steps and their data."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, TypedDict

import msgspec
import pytest

from tests.host.support import Driver, messages, pointers, statuses
from wfe_fast import (
    DefinitionNotFoundError,
    InvalidStateError,
    InvalidValueError,
    PointerStatus,
    SerializationError,
    WorkflowStatus,
    WorkflowSuspendedError,
)
from wfe_fast.host import Retry, StepContext, StepResult, Suspend, WorkflowBuilder, WorkflowHost, step
from wfe_fast.persistence.contract import PersistenceProvider


class Sum(msgspec.Struct):
    left: int
    right: int
    total: int | None = None
    exact: Decimal = Decimal("0.1")


def test_basic_two_steps_run_once_each(driver: Driver) -> None:
    runs: list[str] = []
    wf = WorkflowBuilder("basic")
    wf.then(lambda data: runs.append("one"), name="one")
    wf.then(lambda data: runs.append("two"), name="two")
    workflow_id = driver.use(wf).start("basic")
    assert driver.result(workflow_id) == {}
    assert runs == ["one", "two"]
    instance = driver.host.get(workflow_id)
    assert instance.status is WorkflowStatus.COMPLETE
    assert instance.complete_time is not None
    assert instance.next_execution is None
    assert [p.status for p in instance.execution_pointers] == [PointerStatus.COMPLETE] * 2
    assert all(p.start_time and p.end_time and not p.active for p in instance.execution_pointers)


def test_three_steps_are_wired_in_their_order(driver: Driver) -> None:
    wf = WorkflowBuilder("line")
    for name in "abc":
        wf.then(lambda data, name=name: data.setdefault("seen", []).append(name), name=name)
    workflow_id = driver.use(wf).start("line")
    assert driver.result(workflow_id) == {"seen": ["a", "b", "c"]}
    chain = pointers(driver.host, workflow_id)
    assert [p.step_id for p in chain] == [0, 1, 2]
    assert [p.predecessor_id for p in chain] == [None, chain[0].id, chain[1].id]


def test_data_io_typed_data_goes_in_and_comes_out(driver: Driver) -> None:
    wf = WorkflowBuilder("sum", data=Sum)
    wf.then(lambda data: data.left + data.right, name="add", into="total")
    wf.then(lambda data: setattr(data, "exact", data.exact * 10), name="scale")
    workflow_id = driver.use(wf).start("sum", Sum(2, 3, exact=Decimal("12345678.9012345678")))
    result = driver.result(workflow_id)
    assert result == Sum(2, 3, 5, Decimal("123456789.0123456780"))
    assert type(result.exact) is Decimal
    assert pointers(driver.host, workflow_id, "add")[0].outcome == 5


def test_an_eighteen_digit_decimal_survives_every_pass(driver: Driver) -> None:
    wf = WorkflowBuilder("decimal", data=Sum)
    seen: list[Decimal] = []
    for index in range(3):
        wf.then(lambda data: seen.append(data.exact), name=f"look-{index}")
    workflow_id = driver.use(wf).start("decimal", Sum(1, 1, exact=Decimal("0.123456789012345678")))
    driver.result(workflow_id)
    assert seen == [Decimal("0.123456789012345678")] * 3


def test_dynamic_data_io_a_result_under_a_computed_key(driver: Driver) -> None:
    def put(data: dict[str, Any]) -> None:
        data[f"value-{data['n']}"] = data["n"] * 2

    wf = WorkflowBuilder("dynamic")
    wf.then(put)
    workflow_id = driver.use(wf).start("dynamic", {"n": 21})
    assert driver.result(workflow_id) == {"n": 21, "value-21": 42}


def test_typed_data_may_be_started_from_json_and_gets_its_defaults(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("sum", data=Sum)
    wf.then(lambda data: None, name="nothing")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("sum", {"left": 1, "right": 2})
    assert host.get(workflow_id).data == {"left": 1, "right": 2, "total": None, "exact": "0.1"}
    host.run_until_idle()
    assert host.result(workflow_id) == Sum(1, 2)


@dataclass
class Plain:
    when: datetime
    numbers: dict[int, str]
    tags: frozenset[str] = frozenset()


class Typed(TypedDict):
    amount: Decimal


class Frozen(msgspec.Struct, frozen=True):
    amount: int = 0


def test_other_types_that_msgspec_knows(provider: PersistenceProvider) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=timezone.utc)
    plain = WorkflowBuilder("plain", data=Plain)
    plain.then(lambda data: "x", name="into", into="tags", on_error=Suspend())
    typed = WorkflowBuilder("typed", data=Typed)
    typed.then(lambda data: data["amount"] + 1, name="more", into="amount")
    frozen = WorkflowBuilder("frozen", data=Frozen)
    frozen.then(lambda data: data.amount + 1, name="more", into="amount")
    host = WorkflowHost(provider, [plain, typed, frozen])
    ids = [
        host.start("plain", Plain(moment, {7: "seven"})),
        host.start("typed", {"amount": Decimal("1.5")}),
        host.start("frozen"),
    ]
    host.run_until_idle()
    assert host.get(ids[0]).data == {"when": "2026-01-02T03:04:05.000678Z", "numbers": {"7": "seven"}, "tags": []}
    assert "data: Expected `array`, got `str` - at `$.tags`" in messages(provider, ids[0])[0]
    assert host.result(ids[1]) == {"amount": Decimal("2.5")}
    assert host.result(ids[2]) == Frozen(1)


def test_the_result_of_an_unknown_definition_is_plain_json(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("sum", data=Sum)
    wf.then(lambda data: None, name="nothing")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("sum", Sum(1, 2))
    host.run_until_idle()
    assert WorkflowHost(provider).result(workflow_id)["left"] == 1


def test_what_a_raising_step_did_to_data_is_forgotten(driver: Driver) -> None:
    seen: list[dict[str, Any]] = []

    def fails_once(data: dict[str, Any], ctx: StepContext) -> None:
        seen.append(copy.deepcopy(data))
        data["nested"]["spoilt"] = True
        if ctx.attempt == 1:
            raise ValueError("once")

    wf = WorkflowBuilder("forget", on_error=Retry(1, delay=0))
    wf.then(fails_once)
    workflow_id = driver.use(wf).start("forget", {"nested": {}})
    assert driver.rest(workflow_id) is WorkflowStatus.COMPLETE
    assert seen == [{"nested": {}}, {"nested": {}}]
    assert driver.host.get(workflow_id).data == {"nested": {"spoilt": True}}
    assert messages(driver.provider, workflow_id) == ["ValueError: once"]


def test_what_a_condition_did_to_data_is_forgotten(driver: Driver) -> None:
    def condition(data: dict[str, Any]) -> bool:
        data["spoilt"] = True
        return True

    wf = WorkflowBuilder("forget")
    with wf.if_(condition):
        wf.then(lambda data: data.get("spoilt", "clean"), name="look", into="answer")
    assert driver.result(driver.use(wf).start("forget")) == {"answer": "clean"}


def test_the_context_tells_who_and_where(driver: Driver) -> None:
    seen: dict[str, Any] = {}

    def look(data: Any, ctx: StepContext) -> None:
        names = "item index event event_received saved outcome attempt workflow_id name reference stopping claim_lost"
        seen.update({name: getattr(ctx, name) for name in names.split()}, key=ctx.idempotency_key)

    wf = WorkflowBuilder("context")
    wf.then(lambda data: "before", name="first")
    wf.then(look)
    workflow_id = driver.use(wf).start("context", name="its name", reference="its reference")
    driver.result(workflow_id)
    key = seen.pop("key")
    assert seen == {
        "item": None,
        "index": None,
        "event": None,
        "event_received": False,
        "saved": None,
        "outcome": "before",
        "attempt": 1,
        "workflow_id": workflow_id,
        "name": "its name",
        "reference": "its reference",
        "stopping": False,
        "claim_lost": False,
    }
    assert workflow_id in key


def test_the_idempotency_key_is_equal_in_every_attempt_and_new_in_every_step(driver: Driver) -> None:
    keys: dict[str, list[str]] = {"a": [], "b": []}

    def fails_twice(data: Any, ctx: StepContext) -> None:
        keys["a"].append(ctx.idempotency_key)
        if ctx.attempt < 3:
            raise RuntimeError(f"attempt {ctx.attempt}")

    wf = WorkflowBuilder("keys", on_error=Retry(2, delay=0))
    wf.then(fails_twice)
    wf.then(lambda data, ctx: keys["b"].append(ctx.idempotency_key), name="b")
    workflow_id = driver.use(wf).start("keys")
    assert driver.rest(workflow_id) is WorkflowStatus.COMPLETE
    assert len(keys["a"]) == 3
    assert len(set(keys["a"])) == 1
    assert keys["b"] != keys["a"][:1]
    assert pointers(driver.host, workflow_id, "fails_twice")[0].retry_count == 2


def test_persist_runs_the_step_again_with_what_it_saved(driver: Driver) -> None:
    def count(data: Any, ctx: StepContext) -> StepResult | None:
        n = (ctx.saved or {"n": 0})["n"] + 1
        data["rounds"] = n
        return StepResult.persist({"n": n}) if n < 5 else None

    wf = WorkflowBuilder("count")
    wf.then(count)
    workflow_id = driver.use(wf).start("count")
    assert driver.result(workflow_id) == {"rounds": 5}
    assert len(pointers(driver.host, workflow_id)) == 1


def test_sleep_runs_the_step_again_and_never_early(driver: Driver) -> None:
    moments: list[datetime] = []

    def nap(data: Any, ctx: StepContext) -> StepResult:
        moments.append(datetime.now(timezone.utc))
        return StepResult.next() if ctx.saved else StepResult.sleep(timedelta(milliseconds=30), "slept")

    wf = WorkflowBuilder("nap")
    wf.then(nap)
    workflow_id = driver.use(wf).start("nap")
    driver.result(workflow_id)
    assert len(moments) == 2
    assert moments[1] - moments[0] >= timedelta(milliseconds=30)


def test_a_sleeping_pointer_is_stored_as_one(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("sleep")
    wf.then(lambda data: StepResult.sleep(3600, {"marker": 1}), name="sleeper")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("sleep")
    assert host.run_until_idle() == 1
    (pointer,) = pointers(host, workflow_id)
    assert (pointer.status, pointer.active, pointer.persistence_data) == (PointerStatus.SLEEPING, True, {"marker": 1})
    instance = host.get(workflow_id)
    assert instance.status is WorkflowStatus.RUNNABLE
    assert instance.next_execution is not None
    assert instance.next_execution >= pointer.sleep_until.timestamp() * 1000
    assert host.run_until_idle() == 0


def test_a_branch_runs_its_block_once_for_each_value(driver: Driver) -> None:
    def collect(data: Any, ctx: StepContext) -> None:
        data["seen"].append([ctx.index, ctx.item])

    def check(data: Any, ctx: StepContext) -> None:
        data["later"].append([ctx.index, ctx.item])

    wf = WorkflowBuilder("branch")
    with wf.then(lambda data: StepResult.branch(data["values"], {"kept": True}), name="split"):
        wf.then(collect)
        with wf.if_(lambda data, ctx: ctx.item > 1):
            wf.then(check)
    wf.then(lambda data: data.update(tail=data.get("tail", 0) + 1), name="tail")
    workflow_id = driver.use(wf).start("branch", {"values": [1, 2, 3], "seen": [], "later": []})
    data = driver.result(workflow_id)
    assert sorted(data["seen"]) == [[0, 1], [1, 2], [2, 3]]
    assert sorted(data["later"]) == [[1, 2], [2, 3]]
    assert data["tail"] == 1
    (split,) = pointers(driver.host, workflow_id, "split")
    children = pointers(driver.host, workflow_id, "collect")
    assert split.children == [child.id for child in children]
    assert split.persistence_data == {"kept": True}
    assert split.status is PointerStatus.COMPLETE
    assert [child.scope for child in children] == [[split.id]] * 3
    assert [child.context_item for child in children] == [1, 2, 3]
    assert [p.context_item for p in pointers(driver.host, workflow_id, "check")] == [2, 3]


def test_a_branch_pointer_is_running_and_inactive_over_its_children(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("branch")
    with wf.then(lambda data: StepResult.branch(["a", "b", "c"]), name="split"):
        wf.then(lambda data: None, name="child")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("branch")
    assert host.run_one_pass()
    assert len(pointers(host, workflow_id)) == 4
    (split,) = pointers(host, workflow_id, "split")
    assert (split.status, split.active) == (PointerStatus.RUNNING, False)


def test_a_branch_without_values_is_done_at_once(driver: Driver) -> None:
    wf = WorkflowBuilder("branch")
    with wf.then(lambda data: StepResult.branch([]), name="split"):
        wf.then(lambda data: data.update(child=True), name="child")
    wf.then(lambda data: data.update(tail=True), name="tail")
    assert driver.result(driver.use(wf).start("branch")) == {"tail": True}


def test_branches_within_branches(driver: Driver) -> None:
    wf = WorkflowBuilder("nested")
    with wf.then(lambda data: StepResult.branch([1, 2]), name="outer"):
        with wf.then(lambda data, ctx: StepResult.branch([ctx.item * 10, ctx.item * 10 + 1]), name="inner"):
            wf.then(lambda data, ctx: data["seen"].append(ctx.item), name="leaf")
        wf.then(lambda data, ctx: data["after"].append(ctx.item), name="after")
    data = driver.result(driver.use(wf).start("nested", {"seen": [], "after": []}))
    assert sorted(data["seen"]) == [10, 11, 20, 21]
    assert sorted(data["after"]) == [1, 2]


def test_branches_take_turns_where_one_would_run_for_ever(provider: PersistenceProvider) -> None:
    def poll(data: Any, ctx: StepContext) -> StepResult | None:
        if ctx.item == "slow":
            return StepResult.persist(1) if not data["stop"] else None
        if ctx.saved is None or ctx.saved < 5:
            return StepResult.persist((ctx.saved or 0) + 1)
        data["stop"] = True
        return None

    wf = WorkflowBuilder("turns")
    with wf.then(lambda data: StepResult.branch(["slow", "quick"]), name="split"):
        wf.then(poll)
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("turns", {"stop": False})
    passes = 0
    while host.run_one_pass():
        passes += 1
        assert passes < 30
    assert host.get(workflow_id).status is WorkflowStatus.COMPLETE


def test_a_branch_without_a_block_fails_without_a_retry(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("branch")
    wf.then(lambda data: StepResult.branch([1]), name="split")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("branch")
    host.run_until_idle()
    assert messages(provider, workflow_id) == [
        "DefinitionError: step 'split' branches but has no block: write `with wf.then(split):`"
    ]
    assert host.get(workflow_id).status is WorkflowStatus.SUSPENDED


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        (object(), "outcome"),
        ({"deep": [1, {2, 3}]}, "outcome.deep[1]"),
        (float("nan"), "outcome"),
        (StepResult.persist(b"bytes"), "saved"),
        (StepResult.branch([1, Decimal(1)]), "values[1]"),
    ],
)
def test_an_answer_that_json_cannot_hold_is_a_failure_without_a_retry(
    provider: PersistenceProvider, answer: Any, field: str
) -> None:
    wf = WorkflowBuilder("bad", on_error=Retry(None, delay=0))
    wf.then(lambda data: answer, name="bad")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("bad")
    host.run_until_idle()
    (message,) = messages(provider, workflow_id)
    assert message.startswith(f"SerializationError: {field}: ")
    with pytest.raises(WorkflowSuspendedError, match="SerializationError"):
        host.result(workflow_id, timeout=0)


def test_data_that_json_cannot_hold_is_a_failure_without_a_retry_and_names_the_field(
    provider: PersistenceProvider,
) -> None:
    wf = WorkflowBuilder("bad", on_error=Retry(None, delay=0))
    wf.then(lambda data: data["list"].append({"deep": Decimal(1)}), name="bad")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("bad", {"list": [0]})
    host.run_until_idle()
    assert messages(provider, workflow_id) == ["SerializationError: data.list[1].deep: a Decimal is not a JSON value"]
    assert host.get(workflow_id).data == {"list": [0]}
    assert statuses(host, workflow_id) == [PointerStatus.FAILED]


def test_typed_data_that_does_not_fit_its_type_is_a_failure_without_a_retry(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("bad", data=Sum, on_error=Retry(None, delay=0))
    wf.then(lambda data: setattr(data, "left", "text"), name="bad")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("bad", Sum(1, 2))
    host.run_until_idle()
    assert messages(provider, workflow_id) == ["SerializationError: data: Expected `int`, got `str` - at `$.left`"]


def test_an_object_that_msgspec_cannot_convert_is_a_failure_without_a_retry(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("bad", data=Sum, on_error=Retry(None, delay=0))
    wf.then(lambda data: object(), name="bad")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("bad", Sum(1, 2))
    host.run_until_idle()
    assert messages(provider, workflow_id)[0].startswith("SerializationError: outcome: ")


def test_stored_data_that_does_not_fit_the_type_is_a_failure_without_a_retry(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("bad", data=Sum, on_error=Retry(None, delay=0))
    ran: list[Sum] = []
    wf.then(ran.append, name="step")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("bad", Sum(1, 2))
    instance = provider.get_workflow_instance(workflow_id)
    instance.data = {"left": "x"}
    provider.persist_workflow(instance)
    host.run_until_idle()
    assert len(messages(provider, workflow_id)) == 1
    assert ran == []
    assert host.get(workflow_id).status is WorkflowStatus.SUSPENDED


def test_into_needs_data_with_fields(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("list", on_error=Suspend())
    wf.then(lambda data: 1, name="one", into="field")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("list", [1, 2])
    host.run_until_idle()
    assert messages(provider, workflow_id)[0].startswith("InvalidValueError: into: ")
    assert host.get(workflow_id).data == [1, 2]


@pytest.mark.parametrize("data", [{"a": float("inf")}, {"a": {1: 2}}, b"bytes", {"a": "\0"}, {"a": ("tuple",)}])
def test_start_refuses_data_that_json_cannot_hold(provider: PersistenceProvider, data: Any) -> None:
    wf = WorkflowBuilder("w")
    wf.then(lambda data: None, name="nothing")
    host = WorkflowHost(provider, [wf])
    with pytest.raises(SerializationError, match="data"):
        host.start("w", data)
    assert provider.list_workflows().items == []
    assert provider.next_definition_sequence("w") == 1


def test_start_refuses_data_that_does_not_fit_its_type(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("sum", data=Sum)
    wf.then(lambda data: None, name="nothing")
    host = WorkflowHost(provider, [wf])
    for data in (None, {"left": 1}, {"left": 1, "right": "x"}, Sum("x", 2), [1]):  # type: ignore[arg-type]
        with pytest.raises(SerializationError, match="data"):
            host.start("sum", data)
    assert provider.list_workflows().items == []


def test_falsy_answers_are_outcomes_and_none_is_not(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("falsy")
    answers = [0, False, "", [], None, StepResult.outcome(0), StepResult.next()]
    for index, answer in enumerate(answers):
        wf.then(lambda data, answer=answer: answer, name=f"step-{index}", into=f"field-{index}")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("falsy")
    host.run_until_idle()
    assert [p.outcome for p in pointers(host, workflow_id)] == [0, False, "", [], None, 0, None]
    assert host.get(workflow_id).data == {"field-0": 0, "field-1": False, "field-2": "", "field-3": [], "field-5": 0}


def test_defaults_travel_with_a_function_and_then_goes_before(provider: PersistenceProvider) -> None:
    @step(name="named", into="field", on_error=Retry(1, delay=0))
    def work(data: Any, ctx: StepContext) -> int:
        if ctx.attempt == 1:
            raise ValueError("once")
        return 7

    wf = WorkflowBuilder("defaults", on_error=Suspend())
    wf.then(work)
    wf.then(work, name="other", into="second")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("defaults")
    host.run_until_idle()
    assert host.result(workflow_id, timeout=0) == {"field": 7, "second": 7}
    assert [p.step_name for p in pointers(host, workflow_id)] == ["named", "other"]


def test_objects_and_partials_can_be_steps(provider: PersistenceProvider) -> None:
    class Adder:
        def __init__(self, amount: int) -> None:
            self.amount = amount

        def __call__(self, data: Any, ctx: StepContext) -> None:
            data["n"] += self.amount

        def method(self, data: Any) -> None:
            data["n"] += self.amount * 100

    def scale(factor: int, data: Any) -> None:
        data["n"] *= factor

    def anything(*args: Any) -> None:
        args[0]["args"] = len(args)

    def optional(data: Any, ctx: StepContext | None = None) -> None:
        data["optional"] = ctx is not None

    wf = WorkflowBuilder("callables")
    wf.then(Adder(2))
    wf.then(Adder(1).method)
    wf.then(functools.partial(scale, 3))
    wf.then(anything)
    wf.then(optional)
    wf.then(dict.copy, name="builtin")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("callables", {"n": 1})
    host.run_until_idle()
    assert host.result(workflow_id, timeout=0) == {"n": 309, "args": 2, "optional": True}
    names = [p.step_name for p in pointers(host, workflow_id)]
    assert names == ["Adder", "method", "scale", "anything", "optional", "builtin"]


def test_a_condition_can_neither_publish_nor_start(provider: PersistenceProvider) -> None:
    def condition(data: Any, ctx: StepContext) -> bool:
        with pytest.raises(InvalidStateError):
            ctx.start("conditions")
        ctx.publish("never")
        return True

    wf = WorkflowBuilder("conditions", on_error=Suspend())
    with wf.if_(condition):
        wf.then(lambda data: None, name="nothing")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("conditions")
    host.run_until_idle()
    assert messages(provider, workflow_id)[0].startswith("InvalidStateError: only a step can publish")


def test_a_step_starts_and_publishes_as_part_of_its_pass(driver: Driver) -> None:
    def parent(data: Any, ctx: StepContext) -> None:
        data["child"] = ctx.start("child", {"key": ctx.workflow_id}, reference="from parent", name=f"{ctx.name} child")
        data["event"] = ctx.publish("hello", ctx.workflow_id, {"attempt": ctx.attempt})
        if ctx.attempt == 1:
            raise ValueError("nothing of this attempt counts")

    parent_wf = WorkflowBuilder("parent", on_error=Retry(1, delay=0))
    parent_wf.then(parent)
    child_wf = WorkflowBuilder("child")
    child_wf.wait_for(
        "hello", key=lambda data: data["key"], as_of=lambda data: datetime(2000, 1, 1, tzinfo=timezone.utc)
    )
    child_wf.then(lambda data, ctx: ctx.outcome, name="store", into="got")
    host = driver.use(parent_wf, child_wf)
    parent_id = host.start("parent")
    assert driver.rest(parent_id) is WorkflowStatus.COMPLETE
    data = host.get(parent_id).data
    assert driver.result(data["child"])["got"] == {"attempt": 2}
    assert host.get(data["child"]).reference == "from parent"
    assert len(driver.provider.list_workflows(definition_id="child").items) == 1
    assert driver.provider.get_event(data["event"]).event_data == {"attempt": 2}


def test_a_step_that_starts_something_wrong_fails(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("w", on_error=Suspend())
    wf.then(lambda data, ctx: ctx.start("unknown"), name="bad")
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("w")
    host.run_until_idle()
    assert messages(provider, workflow_id) == [f"DefinitionNotFoundError: {DefinitionNotFoundError('unknown')}"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: StepResult.sleep(-1),
        lambda: StepResult.sleep("5"),  # type: ignore[arg-type]
        lambda: StepResult.wait_for(""),
        lambda: StepResult.wait_for("wfe.internal"),
        lambda: StepResult.wait_for("name", 5),  # type: ignore[arg-type]
        lambda: StepResult.wait_for("name", "key", datetime.fromisoformat("2026-01-01T00:00:00")),
        lambda: StepResult.branch("text"),
        lambda: StepResult.branch(5),  # type: ignore[arg-type]
    ],
)
def test_wrong_answers_are_refused_where_they_are_made(make: Any) -> None:
    with pytest.raises(InvalidValueError):
        make()
