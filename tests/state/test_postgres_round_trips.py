"""How often each method of the state backend waits for the database: once, also through a view. Counted at the wire."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from wfe_fast.errors import WfeError
from wfe_fast.postgres import PostgresBackend
from wfe_fast.state import StateBackend, Tenant, TenantLimits
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.proxy import WireProxy
from wfe_fast.testing.state.calls import MANAGING, READS, WRITES, Owned, build_owned, method_of
from wfe_fast.testing.state.factories import QUEUE, an_execution, an_item

CALLS = {**WRITES, **READS}
#: These ask nothing of the database, or a test below is about them.
OTHERS = {"clock", "tenant_id", "for_tenant", "close", "migrate"}

Opener = Callable[[], PostgresBackend]


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def opener(proxy: WireProxy, postgres_empty_schema: str, clock: ManualClock) -> Iterator[Opener]:
    """Opens a backend with one connection, whose way leads through the proxy."""
    opened: list[PostgresBackend] = []

    def open_one() -> PostgresBackend:
        backend = PostgresBackend.open(proxy.dsn, schema=postgres_empty_schema, clock=clock, max_connections=1)
        opened.append(backend)
        return backend

    yield open_one
    for backend in opened:
        backend.close()


@pytest.fixture(params=["unscoped", "scoped"])
def pair(request: pytest.FixtureRequest, opener: Opener, clock: ManualClock) -> tuple[PostgresBackend, Owned]:
    """A backend, or a view of a tenant with every limit, that has executed nothing so far; and what its caller has."""
    first, fresh = opener(), opener()
    if request.param == "unscoped":
        return fresh, build_owned(first, clock)
    limits = TenantLimits(
        max_workflows=9, max_concurrent_executions=99, max_tokens_per_month=10**9, max_cost_per_month_usd=1e9
    )
    first.create_tenant(Tenant(id="acme", name="A", limits=limits))
    return fresh.for_tenant("acme"), build_owned(first.for_tenant("acme"), clock)


def test_no_method_is_forgotten() -> None:
    public = {name for name, _ in inspect.getmembers(StateBackend) if not name.startswith("_")}
    assert public == {method_of(label) for label in {**CALLS, **MANAGING}} | OTHERS


@pytest.mark.parametrize("label", CALLS)
def test_a_method_is_one_round_trip(proxy: WireProxy, pair: tuple[PostgresBackend, Owned], label: str) -> None:
    """At its first use, when its statements are prepared, and later: the second time it may well be refused."""
    backend, owned = pair
    with proxy.counting() as count:
        CALLS[label](backend, owned)
    assert count.round_trips == 1, count.messages
    with proxy.counting() as count, suppress(WfeError):
        CALLS[label](backend, owned)
    assert count.round_trips == 1, count.messages


@pytest.mark.parametrize("label", MANAGING)
def test_managing_is_one_round_trip(proxy: WireProxy, opener: Opener, clock: ManualClock, label: str) -> None:
    owned = build_owned(opener(), clock)
    backend = opener()
    with proxy.counting() as count:
        MANAGING[label](backend, owned)
    assert count.round_trips == 1, count.messages


def test_a_claim_is_one_round_trip_however_many_there_are(
    proxy: WireProxy, pair: tuple[PostgresBackend, Owned]
) -> None:
    backend, _ = pair
    for number in range(30):
        execution = an_execution()
        backend.create_execution(execution)
        backend.enqueue_work_item(an_item(execution, queue_type=(QUEUE, "model")[number % 2], priority=number % 4))
    with proxy.counting() as count:
        assert len(backend.claim_work_item("w", [QUEUE, "model"], limit=25)) == 25
    assert count.round_trips == 1, count.messages


def test_no_queue_and_no_event_are_none(proxy: WireProxy, pair: tuple[PostgresBackend, Owned]) -> None:
    backend, _ = pair
    with proxy.counting() as count:
        assert backend.claim_work_item("w", []) is None
        assert backend.append_events([]) == []
    assert count.round_trips == 0, count.messages


def test_a_view_of_a_backend_that_was_only_connected(
    proxy: WireProxy, opener: Opener, postgres_empty_schema: str
) -> None:
    opener()
    with PostgresBackend.connect(proxy.dsn, schema=postgres_empty_schema) as backend:
        view = backend.for_tenant("default")
        with proxy.counting() as count:
            assert view.list_executions() == []
        assert count.round_trips == 2, count.messages  # the role of the views is asked for once
        with proxy.counting() as count:
            assert view.list_executions() == []
        assert count.round_trips == 1, count.messages
