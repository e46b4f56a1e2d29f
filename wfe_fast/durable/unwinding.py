"""How a body is left in its middle, so that it can be resumed by replay."""

from __future__ import annotations

from enum import Enum

from wfe_fast.errors import InvalidStateError


class Why(Enum):
    """Why a body was left."""

    WAITS = "it sleeps or waits, and was given back"
    CLOSING = "the engine is being closed"
    LOST = "somebody else holds it, or it has ended"
    CANCELLED = "it was cancelled, and its steps are to be undone"
    EXPIRED = "its time is over"
    REPLAYED = "all that is recorded was replayed, and nothing more is wanted"
    DIFFERS = "it does something else than what is recorded"


class Unwound(BaseException):
    """Leaves a body. No `Exception`, so that ``except Exception`` in the body does not catch it."""

    def __init__(self, why: Why, error: Exception | None = None) -> None:
        super().__init__(why.value)
        self.why = why
        self.error = error


def is_passed_on(error: BaseException) -> bool:
    """Whether an error passes through a workflow and its steps, because it, or one in its group, is about the process or the body as a whole.

    Everything else is a failure, also what derives from BaseException only, as asyncio.CancelledError does: it must not end the engine's threads.
    """
    if isinstance(error, (Unwound, KeyboardInterrupt, SystemExit)):
        return True
    # By its attribute: Python 3.10 has no groups of its own, but a package for them.
    inside = () if isinstance(error, Exception) else getattr(error, "exceptions", ())
    return any(is_passed_on(each) for each in inside)


class MisuseError(InvalidStateError):
    """A context is used where it must not be. A step lets it through as it is: trying again would not help."""
