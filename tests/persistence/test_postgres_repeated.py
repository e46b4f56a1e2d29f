"""Writes whose connection breaks in the middle: those that do no harm twice are done again, and nobody notices; of all others their caller
is told that nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.persistence.tables import PASSING_BY, TRANSACTIONS, Moment, Tables
from wfe_fast.errors import CommitOutcomeUnknownError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import ScheduledCommand
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.persistence.factories import FAR, NAME, an_event
from wfe_fast.testing.persistence.writes import WRITES, World, build_world
from wfe_fast.testing.proxy import WireProxy
from wfe_fast.testing.waiting import wait_until

#: Writes of the table that do no harm twice, and some more.
REPEATED: dict[str, Callable[[PersistenceProvider, World], object]] = {
    label: call
    for label, call in WRITES.items()
    if label.split()[0]
    in {
        "publish_event",
        "dispatch_events",
        "mark_event_processed",
        "mark_event_unprocessed",
        "renew_claims",
        "release_claim",
        "renew_subscription",
        "schedule_command",
        "purge_workflows",
        "purge_events",
    }
}
REPEATED["schedule_command again"] = lambda p, w: p.schedule_command(ScheduledCommand.process_workflow("stored", 7))

#: All others: somebody has to look.
UNKNOWN = {label: call for label, call in WRITES.items() if label not in REPEATED}


@pytest.fixture
def proxy(postgres_dsn: str) -> Iterator[WireProxy]:
    with WireProxy(postgres_dsn) as proxy:
        yield proxy


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def provider(proxy: WireProxy, postgres_empty_schema: str, clock: ManualClock) -> Iterator[PostgresPersistenceProvider]:
    with PostgresPersistenceProvider(proxy.dsn, schema=postgres_empty_schema, clock=clock) as provider:
        yield provider


@pytest.fixture
def world(provider: PostgresPersistenceProvider, clock: ManualClock) -> World:
    return build_world(provider, clock)


@pytest.fixture
def tables(world: World, postgres_dsn: str, postgres_empty_schema: str) -> Iterator[Tables]:
    with Tables(postgres_dsn, postgres_empty_schema) as tables:
        yield tables


class _PlannedError(Exception):
    pass


def prepare(provider: PostgresPersistenceProvider, call: Callable[[Any, World], object], world: World) -> None:
    """Let the connection know the statement, and the store be as before."""
    with pytest.raises(_PlannedError), provider.transaction() as tx:
        call(tx, world)
        tx.count_workflows()  # sends it
        raise _PlannedError


def arm(proxy: WireProxy, fault: str) -> None:
    """Cut the next write in the middle; or behind its commit, so that its answer is lost."""
    if fault == "lost":
        proxy.lose_answer("Execute")
    else:
        proxy.cut_before("Execute" if fault == "before" else "Sync")


FAULTS = pytest.mark.parametrize("fault", ["before", "middle", "lost"])
PREPARED = pytest.mark.parametrize("prepared", [False, True], ids=["first", "prepared"])


@PREPARED
@FAULTS
@pytest.mark.parametrize("label", REPEATED)
def test_what_does_no_harm_twice_is_done_again(
    proxy: WireProxy,
    provider: PostgresPersistenceProvider,
    world: World,
    tables: Tables,
    label: str,
    fault: str,
    prepared: bool,
) -> None:
    if prepared:
        prepare(provider, REPEATED[label], world)
    moment = Moment(tables, world)
    arm(proxy, fault)
    broken = REPEATED[label](provider, world)
    proxy.clear()
    if label in PASSING_BY:
        wait_until(lambda: tables.execute(TRANSACTIONS) == [], "nobody holds the locks of the first attempt")
        REPEATED[label](provider, world)
    after = tables.contents()
    assert after != moment.dump.contents
    undisturbed = REPEATED[label](provider, moment.restore())
    assert tables.contents() == after
    if "purge" not in label and label != "dispatch_events":  # they count what they found the last time
        assert broken == undisturbed


@FAULTS
@pytest.mark.parametrize("label", UNKNOWN)
def test_of_all_others_nobody_knows(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World, tables: Tables, label: str, fault: str
) -> None:
    before = tables.contents()
    arm(proxy, fault)
    with pytest.raises(CommitOutcomeUnknownError):
        UNKNOWN[label](provider, world)
    if fault == "lost":
        assert tables.contents() != before
    else:
        assert tables.contents() == before


@FAULTS
def test_behind_the_handler_of_a_command(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World, fault: str
) -> None:
    handled: list[str] = []

    def handle(command: ScheduledCommand) -> None:
        handled.append(command.data)
        arm(proxy, fault)

    assert provider.process_commands(FAR, handle) == 1
    proxy.clear()
    assert provider.process_commands(FAR, handle) == 0
    assert handled == ["stored"]


class _HandlerError(Exception):
    pass


@FAULTS
def test_behind_a_handler_that_fails(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World, fault: str
) -> None:
    handled: list[str] = []

    def fail(command: ScheduledCommand) -> None:
        handled.append(command.data)
        arm(proxy, fault)
        raise _HandlerError

    for _ in range(2):  # it was given back, though the connection broke
        with pytest.raises(_HandlerError):
            provider.process_commands(FAR, fail)
        proxy.clear()
    assert handled == ["stored", "stored"]


def test_a_claim_that_was_given_back_twice_holds_nothing(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World
) -> None:
    """Its holder is then as one who has never claimed the workflow."""
    arm(proxy, "lost")
    provider.release_claim(world.held)
    (taken,) = provider.claim_runnable_instances("next", as_at=FAR, limit=1)
    assert taken.id == "held"
    provider.persist_workflow(world.held)


def test_an_id_that_we_make_is_the_same_the_second_time(
    proxy: WireProxy, provider: PostgresPersistenceProvider, world: World
) -> None:
    arm(proxy, "lost")
    id = provider.publish_event(an_event(id="", event_key="stored"))
    assert provider.get_event(id).is_processed
    assert len(provider.get_events(NAME, "stored", FAR)) == 3
