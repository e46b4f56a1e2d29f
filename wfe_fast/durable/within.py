"""A call that is given up after a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


def within(seconds: float, name: str, call: Callable[[], Any]) -> list[Any]:
    """Call `call` in a thread of its own, called `name`, and return its result, as a list; an empty one where it has not ended in time. It goes on
    then, and what becomes of it is dropped."""
    returned: list[Any] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(call())
        except BaseException as error:  # handed to the thread that waits
            raised.append(error)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    thread.join(seconds)
    if raised:
        raise raised[0]
    return returned
