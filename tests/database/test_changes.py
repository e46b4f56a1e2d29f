"""Threads learn of commits, of this process and of others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from wfe_fast.database.changes import ChangeSignal
from wfe_fast.database.sqlite import SqliteDatabase
from wfe_fast.errors import StoreClosedError
from wfe_fast.testing.waiting import PATIENCE, Background

Open = Callable[..., SqliteDatabase]


def _settled(signal: ChangeSignal) -> int:
    """The count once nothing moves it any more: the first look counts by itself."""
    count = signal.count
    while signal.wait(count, 0.03):
        count = signal.count
    return count


def test_a_wait_ends_with_its_time(open_database: Open) -> None:
    signal = open_database().changes
    assert not signal.wait(_settled(signal), 0.02)


def test_a_commit_before_the_wait_is_not_missed(open_database: Open) -> None:
    database = open_database()
    since = _settled(database.changes)
    database.write(lambda s: s.run("INSERT INTO t (b) VALUES (1)"))
    assert database.changes.wait(since, 0)


def test_a_commit_of_another_thread_wakes_all(open_database: Open) -> None:
    database = open_database()
    since = _settled(database.changes)
    waiters = [Background(lambda: database.changes.wait(since, PATIENCE)).wait_until_inside("wait") for _ in range(3)]
    database.write(lambda s: s.run("INSERT INTO t (b) VALUES (1)"))
    assert all(waiter.result() for waiter in waiters)


def test_a_commit_of_another_process_wakes(open_database: Open, path: Path) -> None:
    database = open_database()
    since = _settled(database.changes)
    waiter = Background(lambda: database.changes.wait(since, PATIENCE)).wait_until_inside("wait")
    script = f"import apsw; apsw.Connection({str(path)!r}).execute('INSERT INTO t (b) VALUES (1)')"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert waiter.result()


def test_a_read_and_a_rollback_wake_nobody(open_database: Open) -> None:
    database = open_database()
    since = _settled(database.changes)
    database.read(lambda s: s.all("SELECT * FROM t"))
    with pytest.raises(LookupError), database.block():
        raise LookupError
    assert not database.changes.wait(since, 0.03)


def test_close_ends_the_waiting(open_database: Open) -> None:
    database = open_database()
    since = _settled(database.changes)
    waiter = Background(lambda: database.changes.wait(since, PATIENCE)).wait_until_inside("wait")
    database.close()
    with suppress(StoreClosedError):  # a look may have found the store closed
        assert waiter.result()
