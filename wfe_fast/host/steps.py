"""The kinds of steps: what each does when its pointer is due. A new kind of control flow is a new class here.

Steps with a body (`has_body`) run user code in a pass of their own; all others only move pointers, and may evaluate a condition.
A step that opens a block keeps its pointer Running and inactive until the pointers inside are done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from wfe_fast.clock import after, checked_moment, checked_seconds
from wfe_fast.errors import DefinitionError
from wfe_fast.host import waits
from wfe_fast.host.calls import Call
from wfe_fast.host.policies import Policy
from wfe_fast.host.results import TIMED_OUT, Kind, StepResult, checked_key, same_json
from wfe_fast.persistence.models import ExecutionPointer, PointerStatus

if TYPE_CHECKING:
    from wfe_fast.host.flow import Flow


@dataclass(kw_only=True)
class Step:
    """One numbered step.

    `parent` is the step whose block it stands in, `next` the one behind it in that block, `blocks` the first steps of its own blocks.
    """

    id: int
    name: str
    parent: int | None
    on_error: Policy | None = None
    into: str | None = None
    next: int | None = None
    blocks: list[int] = field(default_factory=list)

    has_body: ClassVar[bool] = False

    def enter(self, flow: Flow, pointer: ExecutionPointer) -> None:
        """Move the pointer, which is due. Either all of the move happens, or an exception and nothing of it."""
        raise NotImplementedError

    def block_done(self, flow: Flow, pointer: ExecutionPointer) -> None:
        """Go on: every pointer inside this one is final."""
        flow.complete(pointer)

    def shape(self) -> tuple[object, ...]:
        """What stored pointers at this step depend on."""
        return (type(self).__name__, self.name, self.parent, self.next, tuple(self.blocks), self.into)

    def problem(self) -> str | None:
        """What is missing for the definition to be complete."""
        return None


@dataclass(kw_only=True)
class BodyStep(Step):
    """A function of the user."""

    function: Call

    has_body: ClassVar[bool] = True

    def settle(self, flow: Flow, pointer: ExecutionPointer, data: Any, answer: Any) -> None:
        """Store what the function did to `data`, and do what it answered: all, or an exception and nothing."""
        result = answer if isinstance(answer, StepResult) else StepResult(Kind.NEXT, answer)
        model = flow.definition.model
        what = "outcome" if result.kind is Kind.NEXT else "saved"
        value = model.jsonable(result.value, what)
        if result.kind is Kind.NEXT and result.value is not None and self.into is not None:
            model.put(data, self.into, result.value)
        values = [model.jsonable(item, f"values[{index}]") for index, item in enumerate(result.values)]
        if result.kind is Kind.BRANCH:
            self._check_branch(flow, values)
        flow.store_data(model.encode(data))
        if result.kind is Kind.NEXT:
            flow.complete(pointer, value)
        elif result.kind is Kind.WAIT:
            waits.begin(flow, pointer, result.event_name, result.event_key, result.as_of)
        else:
            pointer.persistence_data = value
            pointer.status = PointerStatus.RUNNING
            if result.kind is Kind.BRANCH:
                self._branch(flow, pointer, values)
            elif result.kind is Kind.SLEEP:
                flow.sleep(pointer, after(flow.now, result.seconds))
            else:
                flow.run_again(pointer)

    def _check_branch(self, flow: Flow, values: list[Any]) -> None:
        if values and not self.blocks:
            raise DefinitionError(f"step {self.name!r} branches but has no block: write `with wf.then({self.name}):`")
        flow.check_room(len(values))

    def _branch(self, flow: Flow, pointer: ExecutionPointer, values: list[Any]) -> None:
        for index, value in enumerate(values):
            flow.spawn_inside(pointer, self.blocks[0], item=(value, index))
        if values:
            pointer.active = False
        else:
            flow.complete(pointer)


@dataclass(kw_only=True)
class IfStep(Step):
    """`if_`: its block, or the one of `otherwise`. Its outcome is whether the condition held."""

    condition: Call

    def enter(self, flow: Flow, pointer: ExecutionPointer) -> None:
        holds = bool(flow.evaluate(self.condition, pointer))
        index = 0 if holds else 1
        pointer.outcome = holds
        if index < len(self.blocks):
            flow.spawn_inside(pointer, self.blocks[index])
        else:
            flow.complete(pointer, holds)

    def problem(self) -> str | None:
        return None if self.blocks else f"{self.name!r} has no block: write `with wf.if_(…):`"


@dataclass(kw_only=True)
class SwitchStep(Step):
    """`when` … `otherwise` behind a step: the first case equal to that step's outcome, which is its own outcome, too."""

    cases: list[Any] = field(default_factory=list)

    def enter(self, flow: Flow, pointer: ExecutionPointer) -> None:
        outcome = flow.outcome_before(pointer)
        equal = (index for index, case in enumerate(self.cases) if same_json(case, outcome))
        index = next(equal, len(self.cases))  # `otherwise` stands behind the last case
        pointer.outcome = outcome
        if index < len(self.blocks):
            flow.spawn_inside(pointer, self.blocks[index])
        else:
            flow.complete(pointer, outcome)

    def shape(self) -> tuple[object, ...]:
        return (*super().shape(), repr(self.cases))

    def problem(self) -> str | None:
        return None if len(self.blocks) >= len(self.cases) else f"{self.name!r} has no block: write `with wf.when(…):`"


@dataclass(kw_only=True)
class DelayStep(Step):
    """`delay`: sleeps once."""

    duration: float | Call

    def enter(self, flow: Flow, pointer: ExecutionPointer) -> None:
        if pointer.persistence_data is not None:  # it has slept; a pointer that sleeps before a retry has nothing here
            flow.complete(pointer)
            return
        duration = self.duration
        if isinstance(duration, Call):
            duration = checked_seconds(flow.evaluate(duration, pointer), "delay")
        pointer.persistence_data = duration
        flow.sleep(pointer, after(flow.now, duration))


@dataclass(kw_only=True)
class WaitStep(Step):
    """`wait_for`: waits for an event, whose data becomes the outcome; `TIMED_OUT` where none came in time."""

    event_name: str
    key: str | Call
    as_of: datetime | Call | None
    timeout: float | Call | None

    def enter(self, flow: Flow, pointer: ExecutionPointer) -> None:
        if pointer.event_published:
            self._finish(flow, pointer)
        elif waits.timed_out(pointer):
            flow.complete(pointer, TIMED_OUT)
        else:
            self._begin(flow, pointer)

    def _begin(self, flow: Flow, pointer: ExecutionPointer) -> None:
        key = checked_key(flow.evaluate(self.key, pointer)) if isinstance(self.key, Call) else self.key
        as_of = flow.evaluate(self.as_of, pointer) if isinstance(self.as_of, Call) else self.as_of
        timeout = flow.evaluate(self.timeout, pointer) if isinstance(self.timeout, Call) else self.timeout
        deadline = None if timeout is None else after(flow.now, checked_seconds(timeout, "timeout"))
        as_of = None if as_of is None else checked_moment(as_of, "as_of")
        waits.begin(flow, pointer, self.event_name, key, as_of, deadline)

    def _finish(self, flow: Flow, pointer: ExecutionPointer) -> None:
        if self.into is not None:
            data = flow.fresh_data()
            flow.definition.model.put(data, self.into, pointer.event_data)
            flow.store_data(flow.definition.model.encode(data))
        flow.complete(pointer, pointer.event_data)

    def shape(self) -> tuple[object, ...]:
        return (*super().shape(), self.event_name)
