"""A forked child never uses its parent's connections, and neither loses the other's writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wfe_fast.database.sqlite import SqliteDatabase
from wfe_fast.errors import InvalidStateError
from wfe_fast.testing.waiting import Background

Open = Callable[..., SqliteDatabase]


def insert(session: Any, value: Any) -> None:
    session.run("INSERT INTO t (b) VALUES (?)", (value,))


def count(database: SqliteDatabase) -> int:
    return int(database.read(lambda s: s.one("SELECT count(*) FROM t"))[0])


def in_child(call: Callable[[], None]) -> int:
    """Run `call` in a forked child and return its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            call()
            code = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("use", ["before", "not before"])
def test_a_child_goes_on_with_connections_of_its_own(open_database: Open, use: str) -> None:
    database = open_database()
    if use == "before":
        count(database)
    inherited = database._writer

    def child() -> None:
        assert database._writer is None
        for value in range(20):
            database.write(insert, value)
        assert database._writer is not inherited
        assert count(database) == 20
        database.close()

    assert in_child(child) == 0
    assert count(database) == 20
    database.write(insert, "parent")
    assert count(database) == 21


def test_a_child_that_opens_the_file_anew(open_database: Open, path: Path) -> None:
    database = open_database()
    count(database)

    def child() -> None:
        own = SqliteDatabase(path)
        own.write(insert, 1)
        own.close()

    assert in_child(child) == 0
    assert count(database) == 1


CHILD_OUTLIVES_PARENT = """
import os, sys, time
from wfe_fast.database.sqlite import SqliteDatabase

def insert(session, value):
    session.run("INSERT INTO t (b) VALUES (?)", (value,))

database = SqliteDatabase(sys.argv[1])
database.write(insert, "parent")
reader, writer = os.pipe()
if os.fork() == 0:
    database.write(insert, "child, the parent alive")
    os.write(writer, b"x")
    os.read(0, 1)                      # until the parent has closed the file and another process has opened and closed it
    for value in range(200):
        database.write(insert, value)
    os._exit(0)
os.read(reader, 1)
database.close()
print("closed", flush=True)
os.wait()
"""


def test_a_parent_that_closes_does_not_take_the_log_from_its_child(open_database: Open, path: Path) -> None:
    """Were the child's record of the file's locks the parent's, the last to close would delete the log under the child."""
    open_database().close()
    with subprocess.Popen(
        [sys.executable, "-c", CHILD_OUTLIVES_PARENT, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "closed\n"
        other = SqliteDatabase(path)
        assert count(other) == 2
        other.close()
        parent.communicate("x")
    assert parent.returncode == 0
    database = SqliteDatabase(path)
    assert count(database) == 202
    assert database.read(lambda s: s.one("PRAGMA integrity_check")) == ("ok",)
    database.close()


def test_a_fork_inside_a_block_is_refused_in_the_child_alone(open_database: Open, path: Path) -> None:
    database = open_database()

    def child() -> None:
        for call in (lambda: database.write(insert, 1), lambda: count(database), lambda: SqliteDatabase(path)):
            with pytest.raises(InvalidStateError, match="forked while the database was in use"):
                call()

    with database.block() as block:
        block.run(insert, ("parent",))
        assert in_child(child) == 0
    assert count(database) == 1


def test_a_database_in_memory_does_not_follow(tmp_path: Path) -> None:
    database = SqliteDatabase(":memory:")
    database.write(lambda s: s.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b)"))

    def child() -> None:
        with pytest.raises(InvalidStateError, match="does not follow a fork"):
            count(database)
        SqliteDatabase(":memory:").close()

    assert in_child(child) == 0
    assert count(database) == 0
    database.close()


def test_a_fork_waits_for_writers(open_database: Open) -> None:
    """Threads write while the process forks again and again; each child writes, too, and nothing is lost or damaged."""
    database = open_database()
    stop: list[bool] = []

    def keep_writing() -> int:
        written = 0
        while not stop:
            database.write(insert, "thread")
            written += 1
        return written

    threads = [Background(keep_writing) for _ in range(2)]
    for _ in range(5):
        assert in_child(lambda: database.write(insert, "child")) == 0
    stop.append(True)
    written = sum(thread.result() for thread in threads)
    assert count(database) == written + 5
    assert database.read(lambda s: s.one("PRAGMA integrity_check")) == ("ok",)
