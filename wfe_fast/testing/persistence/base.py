"""The fixtures that all suites of contract A share. They stand on one fixture, `store`, which the user of a suite provides."""

from __future__ import annotations

import pytest

from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.store import StoreUnderTest


class Suite:
    """Base of the suites."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The time of `provider`."""
        return ManualClock()

    @pytest.fixture
    def provider(self, store: StoreUnderTest, clock: ManualClock) -> PersistenceProvider:
        """A provider on the store under test, for which time passes when the test says so."""
        return store.open(clock=clock)
