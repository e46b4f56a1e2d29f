"""Make every write of the contract fail at its n-th statement, for every n: what is stored is then exactly as before.

The faults are real errors of the driver on the provider's own connections: either a statement is refused before it runs, as on a full
disk, or SQLite itself interrupts it in the middle.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from wfe_fast.errors import InvalidStateError, StoreFullError, StoreUnavailableError
from wfe_fast.sqlite import SqlitePersistenceProvider
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.persistence.factories import a_workflow, an_error, pointers
from wfe_fast.testing.persistence.writes import WRITES, World, build_world


class Faults:
    """Counts the statements of all connections that are opened while it is installed, and makes them fail from the n-th on."""

    def __init__(self) -> None:
        self.fail_at: int | None = None
        self.inside = False
        self.count = 0
        self.happened = 0

    def watch(self, connection: apsw.Connection) -> None:
        """For `apsw.connection_hooks`."""

        def before_statement(_: object, sql: str, __: object) -> bool:
            connection.set_progress_handler(None)
            if self.fail_at is None or sql.startswith("ROLLBACK"):
                return True
            self.count += 1
            if self.count >= self.fail_at:
                self.happened += 1
                if not self.inside:
                    raise apsw.FullError("database or disk is full")
                connection.set_progress_handler(lambda: True, 1)
            return True

        connection.set_exec_trace(before_statement)

    def arm(self, statement: int, *, inside: bool) -> None:
        """From its `statement`-th statement on (1 = the first) everything fails, but for a rollback."""
        self.fail_at, self.inside, self.count, self.happened = statement, inside, 0, 0

    def disarm(self) -> None:
        """Let everything succeed again."""
        self.fail_at = None


@pytest.fixture
def faults() -> Iterator[Faults]:
    """Watches the connections that the test opens."""
    faults = Faults()
    apsw.connection_hooks.append(faults.watch)
    yield faults
    apsw.connection_hooks.remove(faults.watch)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["normal", "full"])
def provider(
    request: pytest.FixtureRequest, faults: Faults, tmp_path: Path, clock: ManualClock
) -> Iterator[SqlitePersistenceProvider]:
    with SqlitePersistenceProvider(tmp_path / "test.db", synchronous=request.param, clock=clock) as provider:
        yield provider


@pytest.fixture
def world(provider: SqlitePersistenceProvider, clock: ManualClock) -> World:
    return build_world(provider, clock)


@pytest.fixture
def observer(world: World, tmp_path: Path) -> Iterator[apsw.Connection]:
    """A connection that reads what is stored, whatever the provider does. It is used while nothing fails."""
    connection = apsw.Connection(str(tmp_path / "test.db"), flags=apsw.SQLITE_OPEN_READONLY)
    yield connection
    connection.close()


def stored(observer: apsw.Connection) -> dict[str, list[Any]]:
    """Every row of every table."""
    tables = [name for (name,) in observer.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
    return {table: sorted(observer.execute(f'SELECT * FROM "{table}"').fetchall(), key=repr) for table in tables}


@pytest.mark.parametrize("inside", [False, True], ids=["before", "inside"])
@pytest.mark.parametrize("label", WRITES)
def test_fault_at_every_statement(
    provider: SqlitePersistenceProvider,
    world: World,
    observer: apsw.Connection,
    faults: Faults,
    label: str,
    inside: bool,
) -> None:
    before = stored(observer)
    for statement in range(1, 200):
        faults.arm(statement, inside=inside)
        try:
            WRITES[label](provider, world)
        except StoreUnavailableError as error:
            assert error.store == provider.path
            assert isinstance(error, StoreFullError) is not inside
            assert isinstance(error.__cause__, apsw.Error)
            faults.disarm()
            assert stored(observer) == before, f"after a fault in statement {statement}"
            continue
        faults.disarm()
        if faults.happened == 0:
            break  # it was past its last statement
        assert inside, "a statement was refused, and the call returned"
        # COMMIT and BEGIN may be too short to be interrupted: then all of it was done.
        assert stored(observer) != before
        break
    else:
        pytest.fail("the write never succeeded")
    assert statement > 2, "no statement of the write failed"
    assert stored(observer) != before
    provider.create_new_workflow(a_workflow(id="afterwards"))
    assert provider.get_workflow_instance("afterwards").id == "afterwards"


@pytest.mark.parametrize("caught", [False, True], ids=["comes out", "caught"])
@pytest.mark.parametrize("label", WRITES)
def test_fault_at_every_statement_of_a_transaction(
    provider: SqlitePersistenceProvider,
    world: World,
    observer: apsw.Connection,
    faults: Faults,
    label: str,
    caught: bool,
) -> None:
    """Two writes and the one in question; where its error is caught, the block can only be left."""
    before = stored(observer)
    for statement in range(1, 200):
        try:
            with provider.transaction() as tx:
                tx.persist_errors([an_error("stored"), an_error("held")])
                tx.create_new_workflow(a_workflow(id="beside", execution_pointers=pointers(2)))
                faults.arm(statement, inside=False)
                try:
                    WRITES[label](tx, world)
                except StoreUnavailableError:
                    faults.disarm()
                    if not caught:
                        raise
        except StoreUnavailableError:
            assert not caught or faults.fail_at is not None  # the commit failed, outside of our `try`
        except InvalidStateError:
            assert caught
        else:
            faults.disarm()
            assert faults.happened == 0
            break
        faults.disarm()
        assert stored(observer) == before, f"after a fault in statement {statement}"
    assert statement > 1, "no statement of the write failed"
    assert len(provider.get_errors("held")) == 1
    assert provider.get_workflow_instance("beside").execution_pointers != []


def test_a_fault_while_reading_harms_nothing(
    provider: SqlitePersistenceProvider, world: World, observer: apsw.Connection, faults: Faults
) -> None:
    for inside in (False, True):
        faults.arm(1, inside=inside)
        with pytest.raises(StoreUnavailableError):
            provider.get_workflow_instance("stored")
        with pytest.raises(StoreUnavailableError):
            provider.list_workflows()
        faults.disarm()
        assert provider.get_workflow_instance("stored").id == "stored"
