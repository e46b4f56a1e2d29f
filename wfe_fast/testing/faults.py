"""What a `WireProxy` counts, and what it does to the messages that pass through it."""

from __future__ import annotations

import re
from threading import Event, RLock
from typing import TypeAlias

from wfe_fast.errors import InvalidValueError
from wfe_fast.testing.waiting import PATIENCE
from wfe_fast.testing.wire import Message

#: What a rule looks for in the SQL of a message: a part of it, or a pattern that all of it matches.
Wanted: TypeAlias = "str | re.Pattern[str] | None"


class Count:
    """What clients did during a block of `WireProxy.counting`."""

    def __init__(self) -> None:
        self.round_trips = 0
        self.messages: list[Message] = []

    def __repr__(self) -> str:
        """For the message of a test that fails: what was sent."""
        return f"{self.round_trips} round trips: {'; '.join(map(str, self.messages))}"


class Rule:
    """What is done with the nth message that fits, by its kind and by a part of its SQL; with `again`, with all behind it, too."""

    def __init__(
        self,
        action: str,
        kind: str | None,
        text: Wanted,
        *,
        nth: int = 1,
        seconds: float = PATIENCE,
        again: bool = False,
    ) -> None:
        self.action = action
        self._kind = kind
        self._text = text
        self._left = checked_nth(nth)
        self._seconds = seconds
        self._again = again
        self._reached = Event()
        self._released = Event()

    @property
    def reached(self) -> bool:
        """Whether the message has come."""
        return self._reached.is_set()

    def await_reached(self) -> None:
        """Return once the message has come; AssertionError where none does."""
        assert self._reached.wait(PATIENCE), "no message came that fits"

    def release(self) -> None:
        """Let a message that is held or delayed go on."""
        self._released.set()

    def meets(self, message: Message) -> bool:
        """Take note of a message. Whether it is its turn."""
        if self._kind not in (None, message.kind) or not self._fits(message.text):
            return False
        self._left -= 1
        if self._left > 0 or (self._left < 0 and not self._again):
            return False
        self._reached.set()
        return True

    def _fits(self, text: str) -> bool:
        if isinstance(self._text, re.Pattern):
            return self._text.fullmatch(text) is not None
        return self._text is None or self._text in text

    def hold(self) -> None:
        """Wait until the message may go on."""
        self._released.wait(self._seconds)


class Traffic:
    """What all connections of a proxy share. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._rules: list[Rule] = []
        self._counts: list[Count] = []
        self._commits_to_lose = 0
        self.round_trips = 0

    def add(self, rule: Rule) -> Rule:
        """Have a rule from now on."""
        with self._lock:
            self._rules.append(rule)
        return rule

    def lose_commit(self, nth: int) -> None:
        """Lose the answer to the nth commit from now on."""
        with self._lock:
            self._commits_to_lose = checked_nth(nth)

    def clear(self) -> None:
        """Forget all rules, and let go what they hold."""
        with self._lock:
            rules, self._rules, self._commits_to_lose = self._rules, [], 0
        for rule in rules:
            rule.release()

    def begin(self, count: Count) -> None:
        """Count in `count`, too."""
        with self._lock:
            self._counts.append(count)

    def end(self, count: Count) -> None:
        """Count in `count` no longer."""
        with self._lock:
            self._counts.remove(count)

    def meet(self, message: Message) -> list[Rule]:
        """The rules whose turn it is with this message."""
        with self._lock:
            return [rule for rule in self._rules if rule.meets(message)]

    def note(self, message: Message, round_trips: int) -> None:
        """Count a message that goes on to the server."""
        with self._lock:
            self.round_trips += round_trips
            for count in self._counts:
                count.round_trips += round_trips
                count.messages.append(message)

    @property
    def keeps_answers(self) -> bool:
        """Whether an answer has to be known as a whole before the client gets any of it."""
        return self._commits_to_lose > 0

    def loses(self, commits: int) -> bool:
        """Whether an answer that tells of so many commits is to be lost."""
        with self._lock:
            before, self._commits_to_lose = self._commits_to_lose, max(0, self._commits_to_lose - commits)
            return before > 0 and self._commits_to_lose == 0


def checked_nth(nth: int) -> int:
    """`nth`, where it counts from 1."""
    if nth < 1:
        raise InvalidValueError("nth", "has to be 1 or more", nth)
    return nth
