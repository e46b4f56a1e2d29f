"""Control flow: `when`, `otherwise`, `if_`, `delay`, the limits, and the mistakes that a builder refuses."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from tests.host.support import Driver, messages, pointers, statuses
from wfe_fast import (
    DefinitionError,
    InvalidStateError,
    InvalidValueError,
    PointerStatus,
    SerializationError,
    WorkflowStatus,
)
from wfe_fast.host import Retry, StepContext, StepResult, Suspend, Terminate, WorkflowBuilder, WorkflowHost, step
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.testing.clock import ManualClock


def mark(name: str) -> Any:
    """A step that notes that it ran."""

    def note(data: Any) -> None:
        data.setdefault("ran", []).append(name)

    note.__name__ = name
    return note


def decisions(*cases: Any, otherwise: bool = False) -> WorkflowBuilder:
    wf = WorkflowBuilder("decide")
    wf.then(lambda data: data["answer"], name="decide")
    for case in cases:
        with wf.when(case):
            wf.then(mark(f"case {case!r}"))
            wf.then(mark(f"more of {case!r}"))
    if otherwise:
        with wf.otherwise():
            wf.then(mark("otherwise"))
    wf.then(mark("tail"))
    return wf


@pytest.mark.parametrize(
    ("answer", "ran"),
    [
        ("yes", ["case 'yes'", "more of 'yes'", "tail"]),
        ("no", ["case 'no'", "more of 'no'", "tail"]),
        ("perhaps", ["otherwise", "tail"]),
        (None, ["otherwise", "tail"]),
    ],
)
def test_the_case_that_equals_the_outcome_runs(driver: Driver, answer: Any, ran: list[str]) -> None:
    workflow_id = driver.use(decisions("no", "yes", otherwise=True)).start("decide", {"answer": answer})
    assert driver.result(workflow_id)["ran"] == ran


def test_no_match_just_goes_on(driver: Driver) -> None:
    workflow_id = driver.use(decisions("no", "yes")).start("decide", {"answer": "perhaps"})
    assert driver.result(workflow_id)["ran"] == ["tail"]


def test_equality_is_that_of_json(provider: PersistenceProvider) -> None:
    host = WorkflowHost(provider, [decisions(1, True, [1, {"a": True}], [1, {"a": 1}], {"b": None})])
    expected = {
        "1": (1, "1"),
        "1.0": (1.0, "1"),
        "true": (True, "True"),
        "list": ([1, {"a": True}], "[1, {'a': True}]"),
        "other list": ([1, {"a": 1}], "[1, {'a': 1}]"),
        "object": ({"b": None}, "{'b': None}"),
    }
    ids = {name: host.start("decide", {"answer": answer}) for name, (answer, _) in expected.items()}
    ids["longer"] = host.start("decide", {"answer": [1, {"a": True}, 2]})
    ids["other key"] = host.start("decide", {"answer": {"c": None}})
    host.run_until_idle()
    for name, (_, case) in expected.items():
        assert host.result(ids[name], timeout=0)["ran"][0] == f"case {case}", name
    assert host.result(ids["longer"], timeout=0)["ran"] == ["tail"]
    assert host.result(ids["other key"], timeout=0)["ran"] == ["tail"]


def test_when_stands_behind_any_step_and_inside_blocks(driver: Driver) -> None:
    wf = WorkflowBuilder("nested")
    with wf.if_(lambda data: data["n"] > 0):
        wf.then(lambda data: data["n"], name="number")
        with wf.when(1):
            wf.then(lambda data, ctx: ctx.outcome, name="inner", into="outcome inside")
            with wf.when(1):
                wf.then(mark("one"))
        with wf.when(2):
            wf.then(mark("two"))
        wf.then(lambda data, ctx: ctx.outcome, name="behind", into="outcome behind")
    with wf.when(True):
        wf.then(mark("it held"))
    with wf.otherwise():
        wf.then(mark("it did not"))
    host = driver.use(wf)
    ids = [host.start("nested", {"n": n}) for n in (1, 2, 0)]
    results = [driver.result(workflow_id) for workflow_id in ids]
    assert results[0] == {"n": 1, "ran": ["one", "it held"], "outcome inside": 1, "outcome behind": 1}
    assert results[1] == {"n": 2, "ran": ["two", "it held"], "outcome behind": 2}
    assert results[2] == {"n": 0, "ran": ["it did not"]}


@pytest.mark.parametrize("n", [0, 1])
def test_if_runs_its_block_or_otherwise(driver: Driver, n: int) -> None:
    wf = WorkflowBuilder("if")
    with wf.if_(lambda data: data["n"]):
        wf.then(mark("then"))
        wf.then(mark("more"))
    with wf.otherwise():
        wf.then(mark("otherwise"))
    wf.then(mark("tail"))
    workflow_id = driver.use(wf).start("if", {"n": n})
    assert driver.result(workflow_id)["ran"] == (["then", "more", "tail"] if n else ["otherwise", "tail"])
    inside = [p for p in pointers(driver.host, workflow_id) if p.scope]
    assert [p.status for p in inside] == [PointerStatus.COMPLETE] * (2 if n else 1)
    (container,) = pointers(driver.host, workflow_id, "if")
    assert container.outcome is bool(n)
    assert all(p.scope == [container.id] for p in inside)


def test_if_without_otherwise_goes_on(driver: Driver) -> None:
    wf = WorkflowBuilder("if")
    with wf.if_(lambda data, ctx: ctx.outcome):
        wf.then(mark("then"))
    wf.then(mark("tail"))
    workflow_id = driver.use(wf).start("if")
    assert driver.result(workflow_id)["ran"] == ["tail"]
    assert [p for p in pointers(driver.host, workflow_id) if p.scope] == []


def test_control_flow_moves_on_in_the_pass_of_the_step_before(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("moves")
    wf.then(lambda data: 1, name="first")
    with wf.when(1), wf.if_(lambda data: True), wf.if_(lambda data: True):
        wf.then(mark("deep"))
    with wf.if_(lambda data: False):
        wf.then(mark("never"))
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("moves")
    passes = 0
    while host.run_one_pass():
        passes += 1
    assert passes == 2  # one for each body; the last one also ends the workflow
    assert host.result(workflow_id, timeout=0) == {"ran": ["deep"]}


def test_a_workflow_of_conditions_alone_completes(driver: Driver) -> None:
    wf = WorkflowBuilder("conditions")
    with wf.if_(lambda data: False):
        wf.then(mark("never"))
    assert driver.result(driver.use(wf).start("conditions")) == {}


def test_a_delay_longer_than_the_poll_interval_never_ends_early(driver: Driver) -> None:
    wf = WorkflowBuilder("delay")
    wf.delay(0.12)
    wf.then(lambda data: datetime.now(timezone.utc).isoformat(), name="after", into="after")
    host = driver.use(wf, poll_interval=0.05)
    workflow_id = host.start("delay")
    ended = datetime.fromisoformat(driver.result(workflow_id)["after"])
    assert ended - host.get(workflow_id).create_time >= timedelta(seconds=0.12)
    assert statuses(host, workflow_id) == [PointerStatus.COMPLETE] * 2


def test_a_delay_costs_a_row_and_no_pass(open_store: Any) -> None:
    clock = ManualClock()
    provider = open_store(clock=clock)
    wf = WorkflowBuilder("delay")
    wf.delay(lambda data, ctx: timedelta(days=data["days"]))
    wf.then(mark("after"))
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("delay", {"days": 2})
    assert host.run_until_idle() == 1
    (pointer,) = pointers(host, workflow_id)
    assert (pointer.status, pointer.active) == (PointerStatus.SLEEPING, True)
    assert pointer.sleep_until == clock() + timedelta(days=2)
    clock.advance(2 * 86_400 - 0.001)
    assert host.run_until_idle() == 0
    clock.advance(0.001)
    assert host.run_until_idle() == 1
    assert host.result(workflow_id, timeout=0) == {"days": 2, "ran": ["after"]}


def test_a_sleep_between_two_milliseconds_is_due_at_the_later_one(open_store: Any) -> None:
    clock = ManualClock()
    clock.advance(0.000_4)
    provider = open_store(clock=clock)
    wf = WorkflowBuilder("delay")
    wf.delay(0.001)
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("delay")
    host.run_until_idle()
    clock.advance(0.000_999)
    assert host.run_until_idle() == 0
    clock.advance(0.001)
    host.run_until_idle()
    assert host.get(workflow_id).status is WorkflowStatus.COMPLETE


@pytest.mark.parametrize("wrong", [-1, "5", None])
def test_a_delay_that_is_none_is_a_failure(provider: PersistenceProvider, wrong: Any) -> None:
    wf = WorkflowBuilder("delay", on_error=Suspend())
    wf.delay(lambda data: wrong)
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("delay")
    host.run_until_idle()
    assert messages(provider, workflow_id)[0].startswith("InvalidValueError: delay: ")


def test_a_delay_that_fails_once_still_sleeps(open_store: Any) -> None:
    clock = ManualClock()
    provider = open_store(clock=clock)

    def how_long(data: Any, ctx: StepContext) -> int:
        if ctx.attempt == 1:
            raise ValueError("not yet")
        return 100

    wf = WorkflowBuilder("delay")
    wf.delay(how_long, on_error=Retry(1, delay=5))
    host = WorkflowHost(provider, [wf])
    workflow_id = host.start("delay")
    host.run_until_idle()
    clock.advance(5)
    host.run_until_idle()
    (pointer,) = pointers(host, workflow_id)
    assert pointer.sleep_until == clock() + timedelta(seconds=100)
    clock.advance(100)
    host.run_until_idle()
    assert host.get(workflow_id).status is WorkflowStatus.COMPLETE


def test_a_condition_that_raises_follows_the_policy(driver: Driver) -> None:
    def condition(data: Any, ctx: StepContext) -> bool:
        if ctx.attempt < 3:
            raise ValueError(f"attempt {ctx.attempt}")
        return True

    wf = WorkflowBuilder("condition", on_error=Terminate())
    with wf.if_(condition, on_error=Retry(2, delay=0)):
        wf.then(mark("then"))
    workflow_id = driver.use(wf).start("condition")
    assert driver.rest(workflow_id) is WorkflowStatus.COMPLETE
    assert messages(driver.provider, workflow_id) == ["ValueError: attempt 1", "ValueError: attempt 2"]


def test_too_many_moves_suspend_the_workflow_which_can_go_on(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("moves")
    for _ in range(25):
        with wf.if_(lambda data: False):
            wf.then(mark("never"))
    host = WorkflowHost(provider, [wf], max_moves=10)
    workflow_id = host.start("moves")
    host.run_until_idle()
    assert host.get(workflow_id).status is WorkflowStatus.SUSPENDED
    assert messages(provider, workflow_id) == ["LimitError: the workflow made 10 moves in one pass"]
    assert host.resume(workflow_id)
    host.run_until_idle()
    assert host.resume(workflow_id)
    host.run_until_idle()
    assert host.get(workflow_id).status is WorkflowStatus.COMPLETE


def test_too_many_pointers_suspend_the_workflow(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("pointers")
    for index in range(4):
        wf.then(mark(f"step-{index}"))
    host = WorkflowHost(provider, [wf], max_pointers=2)
    workflow_id = host.start("pointers")
    host.run_until_idle()
    assert host.get(workflow_id).status is WorkflowStatus.SUSPENDED
    assert messages(provider, workflow_id) == ["LimitError: the workflow has more than 2 execution pointers"]
    assert host.get(workflow_id).data == {"ran": ["step-0", "step-1"]}
    roomier = WorkflowHost(provider, [wf])
    assert roomier.resume(workflow_id)
    roomier.run_until_idle()
    assert roomier.result(workflow_id, timeout=0) == {"ran": [f"step-{index}" for index in range(4)]}


def test_too_large_a_branch_suspends_the_workflow_without_a_retry(provider: PersistenceProvider) -> None:
    wf = WorkflowBuilder("branch", on_error=Retry(None, delay=0, then=Terminate()))
    with wf.then(lambda data: StepResult.branch(range(100)), name="split"):
        wf.then(mark("child"))
    host = WorkflowHost(provider, [wf], max_pointers=50)
    workflow_id = host.start("branch")
    host.run_until_idle()
    assert host.get(workflow_id).status is WorkflowStatus.SUSPENDED
    assert messages(provider, workflow_id) == ["LimitError: the workflow would have more than 50 execution pointers"]


class Small(msgspec.Struct):
    field: int = 0


def nothing(data: Any) -> None:
    """A step that does nothing."""


async def coroutine(data: Any) -> None:
    """No step: nobody would await it."""


def generator(data: Any) -> Any:
    """No step: nobody would exhaust it."""
    yield data


def no_steps(wf: WorkflowBuilder) -> None:
    wf.build()


def empty_block(wf: WorkflowBuilder) -> None:
    with wf.if_(bool):
        pass


def if_without_with(wf: WorkflowBuilder) -> None:
    wf.if_(bool)
    wf.build()


def if_without_with_before_otherwise(wf: WorkflowBuilder) -> None:
    wf.if_(bool)
    wf.otherwise()


def when_without_with(wf: WorkflowBuilder) -> None:
    wf.then(nothing)
    wf.when(1)
    wf.build()


def otherwise_behind_nothing(wf: WorkflowBuilder) -> None:
    wf.otherwise()


def otherwise_behind_a_step(wf: WorkflowBuilder) -> None:
    wf.then(nothing)
    wf.otherwise()


def otherwise_twice(wf: WorkflowBuilder) -> None:
    with wf.if_(bool):
        wf.then(nothing)
    with wf.otherwise():
        wf.then(nothing)
    wf.otherwise()


def when_behind_nothing(wf: WorkflowBuilder) -> None:
    wf.when(1)


def when_behind_nothing_in_a_block(wf: WorkflowBuilder) -> None:
    wf.then(nothing)
    with wf.if_(bool):
        wf.when(1)


def when_behind_otherwise(wf: WorkflowBuilder) -> None:
    wf.then(nothing)
    with wf.when(1):
        wf.then(nothing)
    with wf.otherwise():
        wf.then(nothing)
    wf.when(2)


def when_twice_the_same(wf: WorkflowBuilder) -> None:
    wf.then(nothing)
    with wf.when({"a": [1]}):
        wf.then(nothing)
    wf.when({"a": [1]})


def block_opened_late(wf: WorkflowBuilder) -> None:
    block = wf.then(nothing)
    wf.then(nothing)
    with block:
        wf.then(nothing)


def block_opened_twice(wf: WorkflowBuilder) -> None:
    block = wf.then(nothing)
    with block:
        wf.then(nothing)
    with block:
        wf.then(nothing)


def built_inside_a_block(wf: WorkflowBuilder) -> None:
    with wf.if_(bool):
        wf.then(nothing)
        wf.build()


def no_function(wf: WorkflowBuilder) -> None:
    wf.then("nothing")  # type: ignore[arg-type]


def no_parameters(wf: WorkflowBuilder) -> None:
    wf.then(lambda: None)


def three_parameters(wf: WorkflowBuilder) -> None:
    wf.then(lambda data, ctx, more: None)


def keyword_parameters(wf: WorkflowBuilder) -> None:
    def needs(data: Any, *, more: int) -> None:
        """It cannot be called."""

    wf.then(needs)


def a_coroutine(wf: WorkflowBuilder) -> None:
    wf.then(coroutine)


def a_generator(wf: WorkflowBuilder) -> None:
    wf.then(generator)


def an_unknown_field(wf: WorkflowBuilder) -> None:
    typed = WorkflowBuilder("typed", data=Small)
    typed.then(nothing, into="field")
    typed.then(nothing, into="other")


@pytest.mark.parametrize(
    "mistake",
    [
        no_steps,
        empty_block,
        if_without_with,
        if_without_with_before_otherwise,
        when_without_with,
        otherwise_behind_nothing,
        otherwise_behind_a_step,
        otherwise_twice,
        when_behind_nothing,
        when_behind_nothing_in_a_block,
        when_behind_otherwise,
        when_twice_the_same,
        block_opened_late,
        block_opened_twice,
        built_inside_a_block,
        no_function,
        no_parameters,
        three_parameters,
        keyword_parameters,
        a_coroutine,
        a_generator,
        an_unknown_field,
    ],
)
def test_mistakes_in_a_builder_are_definition_errors(mistake: Any) -> None:
    with pytest.raises(DefinitionError):
        mistake(WorkflowBuilder("mistake"))


def test_an_exception_inside_a_block_comes_out_as_it_is() -> None:
    wf = WorkflowBuilder("w")
    with pytest.raises(KeyError), wf.if_(bool):
        raise KeyError("mine")


@pytest.mark.parametrize(
    "make",
    [
        lambda: WorkflowBuilder(""),
        lambda: WorkflowBuilder("  "),
        lambda: WorkflowBuilder(5),  # type: ignore[arg-type]
        lambda: WorkflowBuilder("x" * 1001),
        lambda: WorkflowBuilder("w", version=-1),
        lambda: WorkflowBuilder("w", version=True),
        lambda: WorkflowBuilder("w", version="1"),  # type: ignore[arg-type]
        lambda: WorkflowBuilder("w", data=5),
        lambda: WorkflowBuilder("w", on_error=Retry),  # type: ignore[arg-type]
        lambda: WorkflowBuilder("w").then(nothing, on_error=Suspend),  # type: ignore[arg-type]
        lambda: WorkflowBuilder("w").then(nothing, name=""),
        lambda: WorkflowBuilder("w").then(nothing, into=""),
        lambda: WorkflowBuilder("w").delay(-1),
        lambda: WorkflowBuilder("w").delay("1"),  # type: ignore[arg-type]
        lambda: WorkflowBuilder("w").wait_for(""),
        lambda: WorkflowBuilder("w").wait_for("wfe.activity"),
        lambda: WorkflowBuilder("w").wait_for("name", 5),  # type: ignore[arg-type]
        lambda: WorkflowBuilder("w").wait_for("name", timeout=-1),
        lambda: WorkflowBuilder("w").wait_for("name", as_of=datetime.fromisoformat("2026-01-01T00:00:00")),
        lambda: step(on_error="retry"),  # type: ignore[arg-type]
        lambda: Retry(-1),
        lambda: Retry(1.5),  # type: ignore[arg-type]
        lambda: Retry(delay=-1),
        lambda: Retry(backoff=0.5),
        lambda: Retry(backoff="2"),  # type: ignore[arg-type]
        lambda: Retry(max_delay=-1),
        lambda: Retry(jitter=2),
        lambda: Retry(unless=ValueError()),  # type: ignore[arg-type]
        lambda: Retry(unless=(ValueError, 5)),  # type: ignore[arg-type]
        lambda: Retry(then=Retry()),  # type: ignore[arg-type]
    ],
)
def test_bad_values_are_refused_and_named(make: Any) -> None:
    with pytest.raises(InvalidValueError):
        make()


def test_a_case_must_be_json() -> None:
    wf = WorkflowBuilder("w")
    wf.then(nothing)
    with pytest.raises(SerializationError, match="value"):
        wf.when({1, 2})


@pytest.mark.parametrize(
    "options", [{"workers": 0}, {"lease": 0}, {"poll_interval": "x"}, {"worker_id": ""}, {"max_moves": True}]
)
def test_a_host_refuses_bad_options(provider: PersistenceProvider, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        WorkflowHost(provider, **options)


def test_a_host_needs_a_provider_and_builders(provider: PersistenceProvider) -> None:
    with pytest.raises(InvalidValueError, match="provider"):
        WorkflowHost("sqlite:///x.db")  # type: ignore[arg-type]
    with pytest.raises(InvalidValueError, match="workflow"):
        WorkflowHost(provider, ["order"])  # type: ignore[list-item]
    with pytest.raises(InvalidStateError), WorkflowHost(provider) as host:
        host.open()
