"""Refusing bad values of contract C, in words that name the field."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from wfe_fast.checks import check_int, check_name
from wfe_fast.clock import Duration, checked_seconds
from wfe_fast.codec import checked_text
from wfe_fast.errors import InvalidValueError
from wfe_fast.paging import EVER
from wfe_fast.stored import micros

#: Before every other id.
NO_ID = str(UUID(int=0))

#: Numbers of events and priorities fit a 64-bit column with room to add to them.
MAX_NUMBER = 2**53


def check_id(value: object, field: str) -> str:
    """A UUID, as text."""
    if not isinstance(value, UUID):
        raise InvalidValueError(field, "must be a UUID", value)
    return str(value)


def check_label(value: object, field: str) -> str:
    """A name, as plain text: members of text enums and tenant ids are text of a kind of their own."""
    text = check_name(value, field)
    return text if type(text) is str else str.__str__(text)


def check_optional_label(value: object, field: str) -> str | None:
    """A name as plain text, or None."""
    return None if value is None else check_label(value, field)


def check_queues(value: object, field: str = "queue_types") -> list[str]:
    """Several queue types, each once."""
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise InvalidValueError(field, "must be a list of queue types", value)
    return list(dict.fromkeys(check_label(item, f"{field}[{index}]") for index, item in enumerate(value)))


def check_sequence_number(value: object, field: str) -> int:
    """The number of an event; 0 = before the first."""
    return check_int(value, field, 0, MAX_NUMBER)


def lease_micros(lease: Duration, field: str = "lease") -> int:
    """A lease in microseconds.

    Raises:
        InvalidValueError: it is no duration, or shorter than a millisecond.
    """
    return int(checked_seconds(lease, field, minimum=0.001) * 1_000_000)


def cutoff(older_than: datetime | Duration, now: int) -> int:
    """A moment, or an age counted back from `now`, in microseconds.

    Raises:
        InvalidValueError: it is neither, or a naive datetime.
    """
    if isinstance(older_than, datetime):
        return micros(older_than, "older_than")
    return now - int(checked_seconds(older_than, "older_than") * 1_000_000)


#: What `page_key` writes.
_PAGE_KEY = re.compile(r"(-?[0-9]{1,19}):([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def page_key(moment: int, id: UUID) -> str:
    """Where a page goes on whose last row has this moment (in microseconds) and id."""
    return f"{moment}:{id}"


def parse_page_key(after: object) -> tuple[int, str] | None:
    """The moment and the id behind which a page begins; None for the first one.

    Raises:
        InvalidValueError: it is not the `next` of a page.
    """
    if after is None:
        return None
    found = _PAGE_KEY.fullmatch(checked_text(after, "after"))
    moment = int(found[1]) if found else 0
    if found is None or abs(moment) > EVER:
        raise InvalidValueError("after", "must be the `next` of a page", after)
    return moment, found[2]
