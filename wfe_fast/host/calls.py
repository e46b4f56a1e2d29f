"""The functions that a definition is made of, and how they are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from wfe_fast.errors import DefinitionError
from wfe_fast.host.policies import Policy, checked_policy

if TYPE_CHECKING:
    from wfe_fast.host.context import StepContext

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS = "__wfe_step__"


@dataclass(frozen=True)
class StepDefaults:
    """What `step` attached to a function."""

    name: str | None = None
    into: str | None = None
    on_error: Policy | None = None


def step(*, name: str | None = None, into: str | None = None, on_error: Policy | None = None) -> Callable[[F], F]:
    """Defaults that travel with a step function: ``@step(on_error=Retry(5, delay=2))``. What `then` is given goes before.

    Args:
        name: the step's name, instead of the function's.
        into: the field of the data that receives the outcome.
        on_error: what happens when the function raises.

    Raises:
        InvalidValueError: `on_error` is no policy.
    """
    if on_error is not None:
        checked_policy(on_error, "on_error")
    defaults = StepDefaults(name, into, on_error)

    def attach(function: F) -> F:
        setattr(function, _DEFAULTS, defaults)
        return function

    return attach


def defaults_of(function: object) -> StepDefaults:
    """What `step` attached to `function`, or nothing."""
    found = getattr(function, _DEFAULTS, None)
    return found if isinstance(found, StepDefaults) else StepDefaults()


_NOT_PLAIN = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)


class Call:
    """A caller's function of the data, or of the data and the context."""

    __slots__ = ("function", "with_context")

    def __init__(self, function: object, what: str) -> None:
        """
        Args:
            function: what to call.
            what: how an error names it.

        Raises:
            DefinitionError: it cannot be called with one argument or two, or it is asynchronous.
        """
        if not callable(function):
            raise DefinitionError(f"{what} must be a function, not {type(function).__name__}")
        if any(test(called) for test in _NOT_PLAIN for called in (function, type(function).__call__)):
            raise DefinitionError(f"{what} must be a plain function, not a coroutine or a generator")
        self.function: Callable[..., Any] = function
        self.with_context = _wants_context(function, what)

    def __call__(self, data: Any, context: StepContext) -> Any:
        return self.function(data, context) if self.with_context else self.function(data)

    @property
    def name(self) -> str:
        """The function's name (of the function inside, for a `functools.partial`)."""
        inner = getattr(self.function, "func", self.function)
        return str(getattr(inner, "__name__", type(inner).__name__))


def _wants_context(function: Callable[..., Any], what: str) -> bool:
    """Whether the function has a second parameter for the context.

    One with a default counts only where it is called ``ctx``, so that ``lambda data, n=n: …`` keeps its own value.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions that are written in C do not tell
        return False
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not positional or len(required) > 2 or keywords:
        raise DefinitionError(f"{what} must take the data, or the data and the context")
    return len(required) == 2 or (len(positional) > 1 and positional[1].name == "ctx")
