"""What the `store` fixture yields: one empty database, to be opened any number of times, here and in other processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypeAlias

from wfe_fast.persistence.contract import PersistenceProvider

#: Opens a provider (or a backend of another contract) on one database; takes its options as keywords. Picklable.
Opener: TypeAlias = Callable[..., Any]

#: Opens any store, whatever its contract.
AnyOpener: TypeAlias = Callable[..., AbstractContextManager[Any]]


class StoreUnderTest:
    """One database under test. Leaving it closes all providers that `open` gave.

    Args:
        opener: opens a provider on this database, with the options that it is given; picklable, so that another process can call it.
    """

    def __init__(self, opener: Opener) -> None:
        self.opener = opener
        self._opened: list[PersistenceProvider] = []

    def open(self, **options: Any) -> PersistenceProvider:
        """A further provider on the database, closed at the end of the test."""
        provider: PersistenceProvider = self.opener(**options)
        self._opened.append(provider)
        return provider

    def close(self) -> None:
        """Close every provider that `open` gave."""
        while self._opened:
            self._opened.pop().close()

    def __enter__(self) -> StoreUnderTest:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
