"""What a store of contract C is made of, whichever the database."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

from wfe_fast.checks import check_int
from wfe_fast.clock import Clock, checked_clock
from wfe_fast.errors import InvalidStateError, TenantScopeError
from wfe_fast.state.operations import one
from wfe_fast.state.retention import RetentionMethods

S = TypeVar("S", bound="StoreMethods")

#: Terms and epochs share one number of 63 bits.
_MAX_TERM = 2**31 - 1


class StoreMethods(RetentionMethods):
    """The methods of `contract.StateBackend` that do not depend on how the database opens its transactions."""

    def set_store_term_at_least(self, term: int) -> int:
        return self._raise_term(check_int(term, "term", 0, _MAX_TERM), 0)

    def bump_store_term(self) -> int:
        return self._raise_term(0, 1)

    def _raise_term(self, term: int, step: int) -> int:
        if self._tenant is not None:
            raise TenantScopeError(self._tenant)
        row = self._write(one, self._sql.raise_term, (term, step, _MAX_TERM))
        if row is None or row[0] is None:
            raise InvalidStateError(f"the store's term is {_MAX_TERM}, the largest that there is")
        return int(row[0])

    @abstractmethod
    def close(self) -> None:
        """Let go of the database."""

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def check_options(clock: Clock, snapshot_every: int | None, keep_snapshots: int | None) -> None:
    """Refuse wrong options of a store.

    Raises:
        InvalidValueError: see above.
    """
    checked_clock(clock)
    for name, value in (("snapshot_every", snapshot_every), ("keep_snapshots", keep_snapshots)):
        if value is not None:
            check_int(value, name, 1)
