"""What the `store` fixture yields, and the fixtures that all suites of contract C share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wfe_fast.state.contract import StateBackend
from wfe_fast.state.models import Tenant, WorkflowExecution
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.state.factories import an_execution
from wfe_fast.testing.store import Opener


class StateUnderTest:
    """One empty database. Leaving it closes all backends that `open` gave.

    Args:
        opener: opens a backend on this database, with the options that it is given; picklable, so that another process can call it.
        dump: every row of every table that a backend sees, as something that can be compared.
    """

    def __init__(self, opener: Opener, dump: Callable[[Any], Any]) -> None:
        self.opener = opener
        self._dump = dump
        self._opened: list[StateBackend] = []

    def open(self, **options: Any) -> StateBackend:
        """A further backend on the database, closed at the end of the test."""
        backend: StateBackend = self.opener(**options)
        self._opened.append(backend)
        return backend

    def dump(self) -> Any:
        """All that is stored."""
        return self._dump(self._opened[0])

    def close(self) -> None:
        """Close every backend that `open` gave."""
        while self._opened:
            self._opened.pop().close()

    def __enter__(self) -> StateUnderTest:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Suite:
    """Base of the suites."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """The time of `root`."""
        return ManualClock()

    @pytest.fixture
    def root(self, store: StateUnderTest, clock: ManualClock) -> StateBackend:
        """An unscoped backend, for which time passes when the test says so."""
        return store.open(clock=clock)


class BothScopes(Suite):
    """Tests that hold for a backend of all tenants and for a view of one."""

    @pytest.fixture(params=["unscoped", "scoped"])
    def backend(self, request: pytest.FixtureRequest, root: StateBackend) -> StateBackend:
        """The backend, or a view of the tenant ``acme``."""
        if request.param == "unscoped":
            return root
        root.create_tenant(Tenant(id="acme", name="Acme"))
        return root.for_tenant("acme")

    @pytest.fixture
    def execution(self, backend: StateBackend) -> WorkflowExecution:
        """A running execution that is stored."""
        made = an_execution()
        backend.create_execution(made)
        return made
