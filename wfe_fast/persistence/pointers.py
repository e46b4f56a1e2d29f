"""Execution pointers as stored lines, and the smallest set of writes that turns the stored ones into the given ones.

A pointer is stored as the JSON text that msgspec makes of it. All pointers of an instance are encoded, about 0.3 µs each, and
compared with the lines that the store is known to hold. So a nested value that was changed in place is noticed, and a step that
changes one pointer of a thousand writes one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, count
from operator import ne
from typing import Any

import msgspec

from wfe_fast.clock import UTC
from wfe_fast.codec import ESCAPED_NUL
from wfe_fast.errors import DuplicatePointerError, InvalidValueError
from wfe_fast.persistence.models import ExecutionPointer
from wfe_fast.persistence.validation import MAX_NAME, check_pointer, unexplained

#: The key of `extension_attributes` under which a pointer says which event it got.
EVENT_ATTRIBUTE = "wfe.event"

_encode = msgspec.json.Encoder().encode
_encode_lines = msgspec.json.Encoder().encode_lines
_decoder = msgspec.json.Decoder(ExecutionPointer)


class Stored:
    """The pointers that the store is known to hold: a line and an id each, and the positions under which they lie (ascending)."""

    __slots__ = ("_lines", "_text", "ids", "nulls", "positions")

    def __init__(self, lines: list[bytes], ids: list[str], positions: Sequence[int], nulls: bool = False) -> None:
        self._lines: list[bytes] | None = lines
        self._text: str | None = None
        self.ids = ids
        self.positions = positions
        self.nulls = nulls
        """Whether a line may hold a null: see `encode_pointers`."""

    @classmethod
    def loaded(cls, text: str | None, ids: list[str]) -> Stored:
        """Pointers that lie at 0, 1, 2, …, with their lines as one text. It is cut when somebody persists; who only reads does not pay."""
        stored = cls([], ids, range(len(ids)))
        if text:
            stored._lines = None
            stored._text = text
        return stored

    @property
    def lines(self) -> list[bytes]:
        lines = self._lines
        if lines is None:
            text = (self._text or "").encode()
            lines = self._lines = text.split(b"\n")
            self.nulls = b"null" in text
            self._text = None
        return lines


#: What a store holds of a new workflow.
NOTHING = Stored([], [], range(0))


class Plan(msgspec.Struct):
    """Writes that lead from what is stored to `result`. Deletes come first: an id may move to another position."""

    result: Stored
    updates: list[tuple[int, str]] = []
    deletes: list[int] = []
    inserts: list[tuple[int, str, str]] = []


def decode_lines(text: str) -> list[ExecutionPointer]:
    """The pointers of stored lines."""
    return _decoder.decode_lines(text)


def encode_pointers(pointers: object, stored: Stored = NOTHING) -> tuple[list[bytes], list[int]]:
    """The lines of `pointers`, and the indexes of those that differ from the stored line at their place. These are checked.

    Raises:
        InvalidValueError: see `check_pointer`; or `pointers` is no list.
        SerializationError: see `check_pointer`.
    """
    if not isinstance(pointers, list):
        raise InvalidValueError("execution_pointers", "must be a list of ExecutionPointer", pointers)
    try:
        lines = _encode_lines(pointers).split(b"\n")  # no line break inside a line: JSON writes it as an escape
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
        for index, pointer in enumerate(pointers):
            check_pointer(pointer, f"execution_pointers[{index}]")
        raise unexplained("execution_pointers") from error
    lines.pop()
    # A value that is JSON already may hold a line break. (What is no pointer has no line of one: it is found among those that differ.)
    if len(lines) != len(pointers):
        for index, pointer in enumerate(pointers):
            check_pointer(pointer, f"execution_pointers[{index}]")
        raise unexplained("execution_pointers")
    known = stored._lines
    if known is None:
        known = stored.lines
    # In C: 23 µs for a thousand.
    changed = list(compress(count(), map(ne, lines, known)))
    if len(lines) > len(known):
        changed.extend(range(len(known), len(lines)))
    for index in changed:
        lines[index] = _checked_line(lines[index], pointers[index], index)
    if stored.nulls:
        # An equal text may have become of another value. NaN is written as null, and would be lost in silence: looked at, which costs little
        # as nulls are rare (a field that is None is left out). Of a tuple for the stored list and the like nothing is lost, for the
        # stored value stays; such a value is noticed with the next real change of its pointer.
        for index, line in enumerate(lines):
            if b"null" in line:
                _checked_line(line, pointers[index], index)
    return lines, changed


def _checked_line(line: bytes, pointer: object, index: int) -> bytes:
    """`line`, after making sure that it holds `pointer` and nothing that cannot be stored."""
    try:
        back = _decoder.decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return _checked_slowly(pointer, index)
    if (
        back == pointer
        and len(line) <= MAX_NAME  # then no name in it is longer
        and back.id
        # `find`, not `in`, which first takes what it looks for as a number, and makes and drops an exception: 0.4 µs each.
        and line.find(ESCAPED_NUL) < 0
        and (back.sleep_until is None or back.sleep_until.tzinfo is UTC)
        and (back.start_time is None or back.start_time.tzinfo is UTC)
        and (back.end_time is None or back.end_time.tzinfo is UTC)
    ):
        return line
    return _checked_slowly(pointer, index)


def _checked_slowly(pointer: object, index: int) -> bytes:
    path = f"execution_pointers[{index}]"
    pointer = check_pointer(pointer, path)
    line = _encode(pointer)
    if _decoder.decode(line) != pointer:
        raise unexplained(path)
    return line


def plan_changes(stored: Stored, lines: list[bytes], changed: list[int], pointers: list[ExecutionPointer]) -> Plan:
    """Writes that make the stored pointers exactly the given ones.

    Args:
        lines: the lines of `pointers`, of which `changed` differ from those stored at the same place.

    Raises:
        DuplicatePointerError: two pointers have one id.
    """
    ids = stored.ids
    positions = stored.positions
    nulls = stored.nulls
    length = len(ids)
    updates: list[tuple[int, str]] = []
    inserts: list[tuple[int, str, str]] = []
    if len(lines) < length:
        return _changes(stored, lines, [pointer.id for pointer in pointers])
    if len(lines) > length:
        # Plain growth; whether what was there before has stayed in its place the loop will tell.
        ids = ids + [pointer.id for pointer in pointers[length:]]
        positions = _with_more(positions, len(lines) - length)
    for index in changed:
        line = lines[index]
        nulls = nulls or line.find(b"null") >= 0
        if index >= length:
            inserts.append((positions[index], ids[index], line.decode()))
        elif pointers[index].id == ids[index]:
            updates.append((positions[index], line.decode()))
        else:
            return _changes(stored, lines, [pointer.id for pointer in pointers])
    if inserts:
        _refuse_duplicates(ids)
    return Plan(Stored(lines, ids, positions, nulls), updates, [], inserts)


def _with_more(positions: Sequence[int], more: int) -> Sequence[int]:
    """`positions` and so many behind them."""
    if isinstance(positions, range):
        return range(len(positions) + more)
    behind = positions[-1] + 1 if positions else 0
    return [*positions, *range(behind, behind + more)]


def _changes(stored: Stored, lines: list[bytes], ids: list[str]) -> Plan:
    """The general case: some were added, removed or moved."""
    _refuse_duplicates(ids)
    kept, positions = _places(stored, ids)
    plan = Plan(Stored(lines, ids, positions, any(b"null" in line for line in lines)))
    for index, line in enumerate(lines):
        old = kept.get(index)
        if old is None:
            plan.inserts.append((positions[index], ids[index], line.decode()))
        elif stored.lines[old] != line:
            plan.updates.append((positions[index], line.decode()))
    staying = set(kept.values())
    plan.deletes = [position for index, position in enumerate(stored.positions) if index not in staying]
    return plan


def _places(stored: Stored, ids: list[str]) -> tuple[dict[int, int], Sequence[int]]:
    """Which pointers stay where they are (new index: old index), and the position of each.

    A stored pointer that still comes behind its predecessor stays. The others go where there is room between those that stay; where
    there is none, everything from there on gets new positions at the end.
    """
    old_positions = stored.positions
    at = {id: index for index, id in enumerate(stored.ids)}
    kept: dict[int, int] = {}
    positions: list[int] = []
    last_old = last = -1
    for index, id in enumerate(ids):
        old = at.get(id, -1)
        if old <= last_old:
            continue
        missing = index - len(positions)
        if old_positions[old] - last - 1 < missing:
            last = old_positions[-1]
            break
        positions.extend(range(last + 1, last + 1 + missing))
        last = old_positions[old]
        positions.append(last)
        kept[index] = last_old = old
    positions.extend(range(last + 1, last + 1 + len(ids) - len(positions)))
    contiguous = range(len(ids))
    return kept, contiguous if positions == list(contiguous) else positions


def _refuse_duplicates(ids: list[str]) -> None:
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        for id in ids:
            if id in seen:
                raise DuplicatePointerError(id)
            seen.add(id)


def receive(pointer: ExecutionPointer, event_id: str | None, event_time: int, data: Any) -> None:
    """What the delivery of an event does to a pointer. `event_time` in microseconds; without `event_id` it came from an activity."""
    pointer.event_data = data
    pointer.event_published = True
    pointer.active = True
    if event_id is not None:
        # By this an engine knows which events of the key lie behind the one that this wait got.
        attributes = dict(pointer.extension_attributes)
        attributes[EVENT_ATTRIBUTE] = {"id": event_id, "time": event_time}
        pointer.extension_attributes = attributes
