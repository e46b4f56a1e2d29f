"""Lists in pages: some items, and the key behind which the next page begins. Keys are (time, id), so that every order is total."""

from __future__ import annotations

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from wfe_fast.checks import check_name
from wfe_fast.clock import UTC, to_micros
from wfe_fast.errors import InvalidValueError

T = TypeVar("T")

#: Beyond any datetime, in microseconds, on either side.
EVER = 2**62


class Page(msgspec.Struct, Generic[T], kw_only=True, frozen=True):
    """Some of the items of a list, and where the next page begins: hand `next` in as `after`. None = this was the last page."""

    items: list[T]
    next: str | None = None


def page_key(moment: datetime, id: str) -> str:
    """Where a page goes on whose last item has this time and id."""
    return f"{to_micros(moment.astimezone(UTC))}:{id}"


def page_start(after: str | None) -> tuple[int, str]:
    """The (time in microseconds, id) behind which a page begins.

    Raises:
        InvalidValueError: `after` is not the `next` of a page.
    """
    if after is None:
        return -EVER, ""
    check_name(after, "after", empty=True)
    time, separator, id = after.partition(":")
    try:
        if not separator:
            raise ValueError
        if not -EVER <= int(time) <= EVER:
            raise ValueError
        return int(time), id
    except ValueError as error:
        raise InvalidValueError("after", "must be the `next` of a page", after) from error
