"""One writer, many threads: a fair line, shared commits, and each member's own result or error."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from wfe_fast.database.base import UniqueViolation
from wfe_fast.database.sqlite import SqliteDatabase
from wfe_fast.errors import InvalidStateError, StoreBusyError, StoreFullError, WfeError
from wfe_fast.testing.waiting import Background, wait_until

Open = Callable[..., SqliteDatabase]

LEVELS = pytest.mark.parametrize("synchronous", ["normal", "full"])


def insert(session: Any, value: Any) -> Any:
    session.run("INSERT INTO t (b) VALUES (?)", (value,))
    return value


def insert_then_fail(session: Any, value: Any) -> None:
    insert(session, value)
    raise LookupError(value)


def stored(database: SqliteDatabase) -> list[Any]:
    return [row[0] for row in database.read(lambda s: s.all("SELECT b FROM t ORDER BY a"))]


class Line:
    """Members that stand in line behind a block, so that the first of them serves all the others."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._queue = database._queue
        self.members: list[Background[Any]] = []

    def add(self, call: Callable[[], Any]) -> Background[Any]:
        length = len(self._queue._line)
        member = Background(call)
        self.members.append(member)
        wait_until(lambda: len(self._queue._line) > length, "the member stands in line")
        return member


@LEVELS
def test_members_share_a_commit_and_each_gets_its_own_result(open_database: Open, synchronous: str) -> None:
    database = open_database(synchronous=synchronous)
    line = Line(database)
    with database.block():
        for value in range(10):
            line.add(lambda value=value: database.write(insert, value))
        before = database.changes.count
    assert [member.result() for member in line.members] == list(range(10))
    assert stored(database) == list(range(10))
    assert database.changes.count == before + 2  # the block's commit, and one for all ten


@LEVELS
def test_a_failing_member_does_not_fail_the_others(open_database: Open, synchronous: str) -> None:
    database = open_database(synchronous=synchronous)
    line = Line(database)
    with database.block():
        for value in range(9):
            work = insert_then_fail if value % 3 == 0 else insert
            line.add(lambda work=work, value=value: database.write(work, value))
    for value, member in enumerate(line.members):
        if value % 3 == 0:
            with pytest.raises(LookupError, match=str(value)):
                member.result()
        else:
            assert member.result() == value
    assert stored(database) == [1, 2, 4, 5, 7, 8]


def test_a_statement_that_fails_is_its_members_own(open_database: Open) -> None:
    database = open_database()
    line = Line(database)
    with database.block():
        for key in (1, 1, 2):
            line.add(lambda key=key: database.write(lambda s: s.run("INSERT INTO t (a) VALUES (?)", (key,))))
    with pytest.raises(UniqueViolation, match=r"t\.a"):
        line.members[1].result()
    assert [member.result() for member in line.members[::2]] == [1, 1]


def test_a_block_in_line_begins_a_transaction_of_its_own(open_database: Open) -> None:
    """It may wait for a member that came before it; in one transaction with that member it would wait for ever."""
    database = open_database()
    line = Line(database)

    def in_block(before: Background[Any]) -> Any:
        with database.block() as block:
            seen = before.result()
            block.run(insert, ("second",))
            return seen

    with database.block():
        first = line.add(lambda: database.write(insert, "first"))
        second = line.add(lambda: in_block(first))
        third = line.add(lambda: database.write(insert, "third"))
    assert second.result() == "first"
    third.result()
    assert stored(database) == ["first", "second", "third"]


def fill(session: Any, size: int) -> int:
    session.run("INSERT INTO t (b) VALUES (zeroblob(?))", (size,))
    return size


def test_a_full_database_fails_only_whom_it_must(open_database: Open) -> None:
    """SQLite rolls the whole transaction back then; the small members are done again, alone."""
    database = open_database()
    pages = database.read(lambda s: s.one("PRAGMA page_count")[0])
    database.locked(lambda: database._writer_session().run(f"PRAGMA max_page_count = {pages + 20}"))
    line = Line(database)
    with database.block():
        for size in (100, 10_000_000, 200):
            line.add(lambda size=size: database.write(fill, size))
    assert line.members[0].result() == 100
    with pytest.raises(StoreFullError, match=r"test\.db: the disk or the database is full"):
        line.members[1].result()
    assert line.members[2].result() == 200
    assert database.read(lambda s: s.all("SELECT length(b) FROM t")) == [(100,), (200,)]


def test_the_patience_of_a_thread_in_line_ends(open_database: Open) -> None:
    database = open_database(busy_timeout=0.05)
    with database.block() as block:
        block.run(insert, ("kept",))
        with pytest.raises(StoreBusyError, match=r"test\.db: other threads hold the database"):
            Background(lambda: database.write(insert, "lost")).result()
    assert stored(database) == ["kept"]
    database.write(insert, "later")
    assert stored(database) == ["kept", "later"]


def test_a_block_in_line_loses_its_patience_too(open_database: Open) -> None:
    database = open_database(busy_timeout=0.05)

    def in_block() -> None:
        with database.block():
            pass

    with database.block(), pytest.raises(StoreBusyError):
        Background(in_block).result()


class _Interrupt(BaseException):
    """As KeyboardInterrupt is one."""


def _interrupted(session: Any) -> None:
    insert(session, "half")
    raise _Interrupt


def test_an_interrupt_alone_leaves_nothing(open_database: Open) -> None:
    database = open_database()
    with pytest.raises(_Interrupt):
        database.write(_interrupted)
    database.write(insert, "next")
    assert stored(database) == ["next"]


def test_an_interrupt_of_the_one_who_serves_leaves_the_others_in_line(open_database: Open) -> None:
    database = open_database()
    line = Line(database)
    serving: list[int] = []

    def interrupted_once(session: Any) -> str:
        insert(session, "again")
        if not serving:
            serving.append(threading.get_ident())
            raise _Interrupt
        return "again"

    with database.block():
        first = line.add(lambda: database.write(insert, "lost with its thread"))
        others = [line.add(lambda: database.write(interrupted_once)), line.add(lambda: database.write(insert, "last"))]
    with pytest.raises(_Interrupt):
        first.result()
    assert [member.result() for member in others] == ["again", "last"]
    assert stored(database) == ["again", "last"]


@LEVELS
def test_many_threads_lose_nothing(open_database: Open, synchronous: str) -> None:
    database = open_database(synchronous=synchronous)

    def job(thread: int) -> None:
        for step in range(40):
            assert database.write(insert, thread * 1000 + step) == thread * 1000 + step

    threads = [Background(lambda thread=thread: job(thread)) for thread in range(16)]
    for thread in threads:
        thread.result()
    values = stored(database)
    assert len(values) == 16 * 40
    for thread in range(16):  # each thread's own writes in its own order
        assert [value for value in values if value // 1000 == thread] == [thread * 1000 + step for step in range(40)]


# -- blocks --------------------------------------------------------------------------------------------------------------------


def test_a_refusal_before_anything_was_written_leaves_the_block_usable(open_database: Open) -> None:
    database = open_database()

    def refuse(session: Any) -> None:
        raise LookupError

    with database.block() as block:
        block.run(insert, (1,))
        with pytest.raises(LookupError):
            block.run(refuse, ())
        block.run(insert, (2,))
    assert stored(database) == [1, 2]


@pytest.mark.parametrize("work", [insert_then_fail, lambda s, v: s.run("INSERT INTO t (a) VALUES (1)")])
def test_anything_else_ends_the_block(open_database: Open, work: Callable[..., Any]) -> None:
    database = open_database()
    database.write(lambda s: s.run("INSERT INTO t (a, b) VALUES (1, 'old')"))

    def in_block() -> None:
        with database.block() as block:
            block.run(insert, ("lost",))
            with pytest.raises((LookupError, UniqueViolation)):
                block.run(work, ("too",))
            with pytest.raises(InvalidStateError, match="was rolled back"):
                block.run(insert, ("also",))

    with pytest.raises(InvalidStateError, match="was rolled back"):
        in_block()
    assert stored(database) == ["old"]


def test_a_block_ends_with_its_with(open_database: Open) -> None:
    database = open_database()
    with database.block() as block:
        pass
    with pytest.raises(InvalidStateError, match="has ended"):
        block.run(insert, (1,))


def test_a_block_belongs_to_its_thread(open_database: Open) -> None:
    database = open_database()
    with database.block() as block, pytest.raises(InvalidStateError, match="another thread"):
        Background(lambda: block.run(insert, (1,))).result()


def test_no_block_in_a_block_and_no_end_in_one(open_database: Open) -> None:
    database = open_database()
    with database.block():
        with pytest.raises(InvalidStateError, match="in a transaction block already"), database.block():
            pass
        with pytest.raises(InvalidStateError, match="cannot be closed"):
            database.close()
    database.write(insert, 1)


def test_every_error_of_the_driver_is_ours(open_database: Open) -> None:
    database = open_database()
    for call in (database.write, database.read, database.snapshot):
        with pytest.raises(WfeError, match="nonsense"):
            call(lambda s: s.run("nonsense"))


@pytest.mark.parametrize("kind", ["write", "snapshot"])
def test_a_connection_that_cannot_even_roll_back_is_replaced(open_database: Open, kind: str) -> None:
    database = open_database()

    def never_ends(session: Any) -> None:
        session.all("SELECT count(*) FROM t")
        session.connection.set_progress_handler(lambda: True, 1)
        session.all("SELECT count(*) FROM t, t AS u")

    with pytest.raises(WfeError):
        getattr(database, kind)(never_ends)
    database.write(insert, 1)
    assert database.snapshot(lambda s: s.all("SELECT b FROM t")) == [(1,)]


def test_readers_take_turns(open_database: Open) -> None:
    """Threads that read in tight loops do not starve one that comes now and then."""
    database = open_database(busy_timeout=20)
    stop = threading.Event()

    def tight() -> int:
        reads = 0
        while not stop.is_set():
            database.read(lambda s: s.all("SELECT count(*) FROM t"))
            reads += 1
        return reads

    threads = [Background(tight) for _ in range(12)]
    for _ in range(50):
        database.read(lambda s: s.all("SELECT count(*) FROM t"))
    stop.set()
    assert all(thread.result() for thread in threads)


def test_a_reader_that_finds_none_in_time(open_database: Open) -> None:
    database = open_database(busy_timeout=0.05)
    release = threading.Event()
    held = [Background(lambda: database.read(lambda s: release.wait())) for _ in range(4)]
    for thread in held:
        thread.wait_until_inside("wait")
    with pytest.raises(StoreBusyError):
        database.read(lambda s: s.all("SELECT 1"))
    release.set()
    assert all(thread.result() for thread in held)
    assert database.read(lambda s: s.all("SELECT 1")) == [(1,)]
