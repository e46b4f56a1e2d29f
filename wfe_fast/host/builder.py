"""How a workflow is written down: one call a step, one ``with`` a block."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, TypeVar

from wfe_fast.clock import Duration, checked_moment, checked_seconds
from wfe_fast.codec import checked_text
from wfe_fast.errors import DefinitionError, InvalidValueError
from wfe_fast.host.calls import Call, defaults_of
from wfe_fast.host.data import DataModel
from wfe_fast.host.definition import Definition
from wfe_fast.host.policies import Policy, Retry, checked_integer, checked_policy
from wfe_fast.host.results import checked_event_name, checked_key, same_json
from wfe_fast.host.steps import BodyStep, DelayStep, IfStep, Step, SwitchStep, WaitStep

T = TypeVar("T")

_MAX_NAME = 1000


@dataclass
class _Line:
    """A chain of steps that is being written: of the workflow, or of a block of `owner`."""

    owner: Step | None = None
    last: Step | None = None
    otherwise_done: bool = False


class Block:
    """What a ``with`` opens: the steps written inside form a block of the step."""

    def __init__(self, builder: WorkflowBuilder, owner: Step) -> None:
        self._builder = builder
        self._owner = owner

    def __enter__(self) -> None:
        self._builder._open(self._owner)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._builder._close(empty_allowed=error is not None)


class WorkflowBuilder:
    """Writes down one version of a workflow. Hand it to `WorkflowHost`, or to `WorkflowHost.register`.

    Steps run in the order in which they are written. Functions take the data, or the data and a `StepContext`. Mistakes raise
    `DefinitionError` where they are made, or when the workflow is registered.
    """

    def __init__(
        self,
        id: str,
        version: int = 1,
        data: Any = None,
        *,
        description: str | None = None,
        on_error: Policy | None = None,
    ) -> None:
        """
        Args:
            id: what `WorkflowHost.start` calls it.
            version: running workflows stay on the version that they were started with.
            data: the type of the data, which msgspec can decode (a Struct, for example); None = plain JSON.
            description: stored with each workflow.
            on_error: for steps that have no policy of their own; `Retry()` by default, three retries a minute apart.

        Raises:
            InvalidValueError: a value is of a wrong kind, the id is blank.
        """
        if not checked_text(id, "id", max_bytes=_MAX_NAME).strip():
            raise InvalidValueError("id", "must not be blank", id)
        self.id = id
        self.version = checked_integer(version, "version", 0)
        self._description = None if description is None else checked_text(description, "description")
        self._model = DataModel(data)
        self._on_error = Retry() if on_error is None else checked_policy(on_error, "on_error")
        self._steps: list[Step] = []
        self._lines = [_Line()]

    def then(
        self,
        function: Callable[..., Any],
        *,
        name: str | None = None,
        into: str | None = None,
        on_error: Policy | None = None,
    ) -> Block:
        """A step that runs `function`. ``with wf.then(split):`` holds the block that a `StepResult.branch` of it runs.

        Args:
            function: takes the data, or the data and the context. Its answer: None = go on, a `StepResult`, or the step's outcome.
            name: by default the function's. Stored workflows find their step by number and name.
            into: the field of the data that receives the outcome.
            on_error: what happens when the function raises.
        """
        call = Call(function, "a step")
        defaults = defaults_of(function)
        common = self._common(
            _first(name, defaults.name, call.name), _first(on_error, defaults.on_error), _first(into, defaults.into)
        )
        step = BodyStep(**common, function=call)
        self._add(step)
        return Block(self, step)

    def if_(self, condition: Callable[..., Any], *, name: str | None = None, on_error: Policy | None = None) -> Block:
        """``with wf.if_(condition):`` runs its block where the condition holds; `otherwise` may follow."""
        call = Call(condition, "a condition")
        step = IfStep(**self._common(_first(name, "if"), on_error), condition=call)
        self._add(step)
        return Block(self, step)

    def when(self, value: Any) -> Block:
        """``with wf.when(value):`` behind a step: runs its block where the step's outcome equals `value` (JSON).

        Several may follow one another; the first that is equal runs, `otherwise` where none is. Without a match the line goes on.

        Raises:
            DefinitionError: it stands behind nothing, or behind `otherwise`, or the same value has a case already.
            SerializationError: `value` is not JSON.
        """
        line = self._lines[-1]
        case = self._model.jsonable(value, "value")
        switch = line.last
        if switch is None:
            raise DefinitionError("when() stands behind no step")
        if not isinstance(switch, SwitchStep):
            switch = SwitchStep(**self._common("when", None))
            self._add(switch)
        elif line.otherwise_done:
            raise DefinitionError("when() stands behind otherwise()")
        if any(same_json(case, known) for known in switch.cases):
            raise DefinitionError(f"when({value!r}) is there twice")
        switch.cases.append(case)
        return Block(self, switch)

    def otherwise(self) -> Block:
        """``with wf.otherwise():`` directly behind the block of `if_` or `when`: what runs where that does not.

        Raises:
            DefinitionError: it stands behind something else, or is there already.
        """
        line = self._lines[-1]
        if not isinstance(line.last, (IfStep, SwitchStep)):
            raise DefinitionError("otherwise() stands behind neither if_() nor when()")
        if line.otherwise_done:
            raise DefinitionError("otherwise() is there twice")
        if problem := line.last.problem():
            raise DefinitionError(problem)
        line.otherwise_done = True
        return Block(self, line.last)

    def delay(
        self, t: Duration | Callable[..., Any], *, name: str | None = None, on_error: Policy | None = None
    ) -> WorkflowBuilder:
        """Go on after `t` (seconds, a timedelta, or a function that returns one), never earlier. Costs a row meanwhile, no thread."""
        duration = Call(t, "a delay") if callable(t) else checked_seconds(t, "delay")
        self._add(DelayStep(**self._common(_first(name, "delay"), on_error), duration=duration))
        return self

    def wait_for(
        self,
        event_name: str,
        key: str | Callable[..., Any] = "",
        *,
        into: str | None = None,
        as_of: datetime | Callable[..., Any] | None = None,
        timeout: Duration | Callable[..., Any] | None = None,
        name: str | None = None,
        on_error: Policy | None = None,
    ) -> WorkflowBuilder:
        """Wait for an event of this name and key. Its data is the step's outcome.

        Args:
            event_name: what `publish` calls it.
            key: text, or a function that returns it.
            into: the field of the data that receives the event's data. It stays as it is where the wait times out.
            as_of: events before this moment do not count: a datetime or a function that returns one; the workflow's creation by default.
            timeout: seconds, a timedelta, or a function that returns one; then the outcome is `TIMED_OUT`.
            name: the step's name, ``wait_for <event>`` by default.
            on_error: what happens when one of the functions raises.
        """
        step = WaitStep(
            **self._common(_first(name, f"wait_for {event_name}"), on_error, into),
            event_name=checked_event_name(event_name),
            key=Call(key, "key") if callable(key) else checked_key(key),
            as_of=_call_or(checked_moment, as_of, "as_of"),
            timeout=_call_or(checked_seconds, timeout, "timeout"),
        )
        self._add(step)
        return self

    def build(self) -> Definition:
        """The definition as it stands now.

        Raises:
            DefinitionError: it has no steps, or a step or a block is not complete.
        """
        if not self._steps:
            raise DefinitionError(f"workflow {self.id!r} has no steps")
        if len(self._lines) > 1:
            raise DefinitionError(f"workflow {self.id!r} is built inside one of its own blocks")
        for step in self._steps:
            if problem := step.problem():
                raise DefinitionError(problem)
        steps = tuple(copy(step) for step in self._steps)
        return Definition(self.id, self.version, self._description, self._model, self._on_error, steps)

    def _common(self, name: str, on_error: Policy | None, into: str | None = None) -> dict[str, Any]:
        """What every kind of step has."""
        if into is not None and not self._model.has_field(checked_text(into, "into", empty=False)):
            raise DefinitionError(f"into={into!r}: {self._model.name} has no such field")
        return {
            "id": len(self._steps),
            "name": checked_text(name, "name", max_bytes=_MAX_NAME, empty=False),
            "parent": None if self._lines[-1].owner is None else self._lines[-1].owner.id,
            "on_error": None if on_error is None else checked_policy(on_error, "on_error"),
            "into": into,
        }

    def _add(self, step: Step) -> None:
        line = self._lines[-1]
        self._steps.append(step)
        if line.last is not None:
            line.last.next = step.id
        elif line.owner is not None:
            line.owner.blocks.append(step.id)
        line.last = step
        line.otherwise_done = False

    def _open(self, owner: Step) -> None:
        if self._lines[-1].last is not owner:
            raise DefinitionError(f"the block of {owner.name!r} must be opened where the step is written")
        if isinstance(owner, BodyStep) and owner.blocks:
            raise DefinitionError(f"step {owner.name!r} has a block already")
        self._lines.append(_Line(owner))

    def _close(self, *, empty_allowed: bool) -> None:
        line = self._lines.pop()
        if line.last is None and line.owner is not None and not empty_allowed:
            raise DefinitionError(f"a block of {line.owner.name!r} is empty")


def _first(*values: Any) -> Any:
    """The first that is given."""
    return next((value for value in values if value is not None), None)


def _call_or(check: Callable[[object, str], T], value: object, field: str) -> T | Call | None:
    """A function as a `Call`, None as it is, anything else checked."""
    if value is None:
        return None
    return Call(value, field) if callable(value) else check(value, field)
