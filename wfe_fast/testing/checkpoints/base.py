"""The fixtures that all suites of contract B share. They stand on one fixture, `stores`, which the user of a suite provides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest

from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.testing.checkpoints.factories import a_workflow
from wfe_fast.testing.clock import ManualClock

#: Opens a store on one database; takes the option `clock`. Picklable.
CheckpointOpener: TypeAlias = Callable[..., CheckpointStore]


class StoresUnderTest:
    """One empty database, to be opened any number of times, here and in other processes. Leaving it closes what `open` gave.

    Args:
        opener: opens a store on this database, with the options that it is given; picklable.
    """

    def __init__(self, opener: CheckpointOpener) -> None:
        self.opener = opener
        self._opened: list[CheckpointStore] = []

    def open(self, **options: Any) -> CheckpointStore:
        """A further store on the database, migrated."""
        store = self.opener(**options)
        self._opened.append(store)
        store.migrate()
        return store

    def close(self) -> None:
        """Close every store that `open` gave."""
        while self._opened:
            self._opened.pop().close()

    def __enter__(self) -> StoresUnderTest:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Suite:
    """Base of the suites."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The time of `store`."""
        return ManualClock()

    @pytest.fixture
    def empty(self, stores: StoresUnderTest, clock: ManualClock) -> CheckpointStore:
        """A store on the database under test, for which time passes when the test says so."""
        return stores.open(clock=clock)

    @pytest.fixture
    def store(self, empty: CheckpointStore) -> CheckpointStore:
        """The same with the workflow of the factories, without which there is no execution."""
        empty.save_workflow(a_workflow())
        return empty
