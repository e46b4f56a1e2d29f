"""Make every write of the contract fail on PostgreSQL, at every row that it writes, behind every statement, at its wake-up and at its commit:
what is stored is then exactly as before, and the same call succeeds.

The faults happen inside the server, in triggers on every table: either an error, or the end of the connection's process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from tests.persistence.tables import NAMES, PASSING_BY, TRANSACTIONS, Contents, Moment, Tables
from wfe_fast.errors import InvalidStateError, StoreUnavailableError
from wfe_fast.persistence.models import ScheduledCommand
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.persistence.factories import FAR, a_pointer, a_workflow, an_error
from wfe_fast.testing.persistence.writes import WRITES, World, build_world
from wfe_fast.testing.waiting import wait_until

SCHEMA = "wfe_test_faults"

#: Counts what happens, over all tables and also where it is rolled back; at the planned number it fails.
COUNTER = """
CREATE SEQUENCE steps;
CREATE TABLE plan (fail_at BIGINT, kill BOOLEAN);
INSERT INTO plan VALUES (0, FALSE);
CREATE FUNCTION step() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    n BIGINT := nextval('{schema}.steps');
    planned RECORD;
BEGIN
    SELECT * INTO planned FROM {schema}.plan;
    IF n <> planned.fail_at THEN
        RETURN;
    ELSIF planned.kill THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
        PERFORM pg_sleep(60);
    END IF;
    RAISE 'the planned fault';
END $$;
CREATE FUNCTION step_of_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {schema}.step();
    RETURN coalesce(NEW, OLD);
END $$;
CREATE OR REPLACE FUNCTION wfe_wake() RETURNS void LANGUAGE sql VOLATILE AS $$
    SELECT {schema}.step();
    SELECT pg_notify('{channel}', '');
$$;
"""

TRIGGERS = """
CREATE TRIGGER fault_at_row BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION step_of_trigger();
CREATE TRIGGER fault_behind_statement AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH STATEMENT
    EXECUTE FUNCTION step_of_trigger();
CREATE CONSTRAINT TRIGGER fault_at_commit AFTER INSERT OR UPDATE OR DELETE ON {table} DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION step_of_trigger();
"""


#: Of these it depends on what is locked which rows they take.
CLAIMING = {"claim_runnable_instances", "claim_subscription"}


class Hand:
    """The time of the world that the store is in."""

    def __init__(self) -> None:
        self.clock = ManualClock()

    def __call__(self) -> datetime:
        return self.clock()


@dataclass
class Bench:
    """A store with a world, and faults in it."""

    provider: PostgresPersistenceProvider
    tables: Tables
    moment: Moment
    hand: Hand
    world: World

    def arm(self, step: int, *, kill: bool = False) -> None:
        """Let the `step`-th thing that happens from now on fail, once."""
        self.tables.execute("UPDATE plan SET fail_at = %s, kill = %s", step, kill)
        self.tables.execute("SELECT setval('steps', 1, FALSE)")

    def disarm(self) -> int:
        """Let nothing fail; how much has happened."""
        self.tables.execute("UPDATE plan SET fail_at = 0")
        ((count, called),) = self.tables.execute("SELECT last_value, is_called FROM steps")
        return int(count) if called else 0

    def restore(self) -> World:
        """Make everything what it was."""
        self.world = self.moment.restore()
        self.hand.clock = self.world.clock
        return self.world

    def wait_for_the_end(self) -> None:
        """Until no transaction is open."""
        wait_until(lambda: self.tables.execute(TRANSACTIONS) == [], "the process has ended")

    def set_clock_back(self, world: World) -> None:
        self.hand.clock = world.clock = ManualClock(START)


@pytest.fixture(scope="module")
def bench(postgres_dsn: str) -> Iterator[Bench]:
    hand = Hand()
    with Tables(postgres_dsn, SCHEMA) as tables:
        tables.execute(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE")
        with PostgresPersistenceProvider(postgres_dsn, schema=SCHEMA, clock=hand) as provider:
            world = build_world(provider, hand.clock)
            moment = Moment(tables, world)
            tables.script(COUNTER.format(schema=SCHEMA, channel=provider._database.names.channel))
            for name in NAMES:
                tables.script(TRIGGERS.format(table=name))
            yield Bench(provider, tables, moment, hand, world)
        tables.execute("SET client_min_messages = warning")
        tables.execute(f"DROP SCHEMA {SCHEMA} CASCADE")


def alone(provider: PostgresPersistenceProvider, call: Callable[[Any, World], object], world: World) -> None:
    call(provider, world)


def in_a_block(provider: PostgresPersistenceProvider, call: Callable[[Any, World], object], world: World) -> None:
    with provider.transaction() as tx:
        tx.persist_errors([an_error("stored", error_time=START), an_error("held", error_time=START)])
        tx.create_new_workflow(a_workflow(id="beside", create_time=START, execution_pointers=[a_pointer(id="beside")]))
        call(tx, world)


@pytest.mark.parametrize("way", [alone, in_a_block], ids=["alone", "in a block"])
@pytest.mark.parametrize("label", WRITES)
def test_a_fault_at_every_step(bench: Bench, label: str, way: Callable[..., None]) -> None:
    world = bench.restore()
    before = bench.tables.exact()
    for step in range(1, 1000):
        bench.arm(step)
        bench.set_clock_back(world)
        try:
            way(bench.provider, WRITES[label], world)
        except StoreUnavailableError as error:
            assert "the planned fault" in str(error)
        else:
            break
        assert bench.disarm() == step
        assert bench.tables.exact() == before, f"after a fault at step {step}"
    assert step > 1, "nothing failed"
    after = bench.tables.contents()
    assert bench.disarm() == step - 1, "it has failed once more, and nobody has heard of it"
    undisturbed = bench.restore()
    way(bench.provider, WRITES[label], undisturbed)
    assert bench.tables.contents() == after


@pytest.mark.parametrize("label", WRITES)
def test_a_fault_that_is_caught_inside_a_block(bench: Bench, label: str) -> None:
    """All of the block is undone, and it can only be left."""
    world = bench.restore()
    before = bench.tables.exact()
    caught = 0
    bench.arm(1)
    with pytest.raises(InvalidStateError), bench.provider.transaction() as tx:
        try:
            WRITES[label](tx, world)
            tx.count_workflows()  # sends it
        except StoreUnavailableError:
            caught += 1
        with pytest.raises(InvalidStateError):
            tx.count_workflows()
    assert caught == 1
    bench.disarm()
    assert bench.tables.exact() == before


@pytest.mark.parametrize("label", WRITES)
def test_a_killed_server_process_at_every_step(bench: Bench, label: str) -> None:
    call = WRITES[label]
    call(bench.provider, bench.restore())
    expected = bench.tables.contents()
    for step in range(1, 1000):
        happened = killed_at(bench, call, step)
        if label.split()[0] in CLAIMING:
            # The second attempt has passed by what the first one had locked still, and taken others: so once more, from the start.
            wait_until(partial(repeated_until, bench, call, step, expected), "nothing was locked any more")
        elif label.split()[0] in PASSING_BY and bench.tables.contents() != expected:
            bench.wait_for_the_end()
            call(bench.provider, bench.world)
        assert bench.tables.contents() == expected, f"behind a kill at step {step}"
        if happened < step:
            break
    assert step > 1, "nothing was killed"


def repeated_until(bench: Bench, call: Callable[[Any, World], object], step: int, expected: Contents) -> bool:
    if bench.tables.contents() != expected:
        killed_at(bench, call, step)
    return bench.tables.contents() == expected


def killed_at(bench: Bench, call: Callable[[Any, World], object], step: int) -> int:
    """Kill the process at a step of the call, from the start, and let it succeed, by itself or when it is made again. How much happened."""
    world = bench.restore()
    before = bench.tables.exact()
    bench.arm(step, kill=True)
    try:
        call(bench.provider, world)
    except StoreUnavailableError:
        bench.disarm()
        bench.set_clock_back(world)
        bench.wait_for_the_end()
        assert bench.tables.exact() == before
        call(bench.provider, world)
    return bench.disarm()


@pytest.mark.parametrize("kill", [False, True], ids=["error", "kill"])
def test_a_fault_around_the_handler_of_a_command(bench: Bench, kill: bool) -> None:
    """Before it, the handler is not called; behind it, the command is handled again when the lease has ended."""
    for step in range(1, 100):
        world = bench.restore()
        handled: list[ScheduledCommand] = []
        bench.arm(step, kill=kill)
        try:
            bench.provider.process_commands(FAR, handled.append)
        except StoreUnavailableError:
            bench.wait_for_the_end()
        bench.disarm()
        seen = len(handled)
        world.clock.advance(61)
        bench.provider.process_commands(FAR, handled.append)
        bench.provider.process_commands(FAR, handled.append)
        assert {command.data for command in handled} == {"stored"}
        assert bench.tables.execute("SELECT 1 FROM scheduled_commands") == []
        if len(handled) == seen == 1 and step > 6:
            break
        assert seen <= 1
        assert len(handled) <= 2
    assert step > 6
