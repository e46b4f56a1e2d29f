"""The connections of a store, and why there is none."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Any

import psycopg
import psycopg_pool

Pool = psycopg_pool.ConnectionPool[psycopg.Connection[Any]]

#: Seconds after which the pool gives an attempt to connect up. A call that waits begins another one; the pool's own pauses grow to minutes.
_GIVE_UP = 3.0


class Failure:
    """Why the last attempt to connect failed: None where it succeeded. The pool itself only writes it into its log."""

    text: str | None = None


def open_pool(conninfo: str, max_size: int, name: str, failure: Failure) -> Pool:
    """A pool with one connection, or more where they are needed, that tells `failure` of its attempts."""

    class Connection(psycopg.Connection[Any]):
        """One whose failure to come about is told."""

        @classmethod
        def connect(cls, conninfo: str = "", **kwargs: Any) -> Any:
            try:
                connection = super().connect(conninfo, **kwargs)
            except psycopg.Error as error:
                failure.text = " ".join(str(error).split())
                raise
            failure.text = None
            return connection

    pool: Pool = psycopg_pool.ConnectionPool(
        conninfo,
        connection_class=Connection,
        min_size=1,
        max_size=max_size,
        kwargs={"autocommit": True},
        name=name,
        reconnect_timeout=_GIVE_UP,
        open=True,
    )
    _opened[pool] = os.getpid()
    return pool


#: Pools that are open, with the process that has opened them.
_opened: weakref.WeakKeyDictionary[Pool, int] = weakref.WeakKeyDictionary()


def _close_all() -> None:
    """Close what nobody has closed: the threads of a pool would hold up the end of the program for seconds each. Not in a forked child, which would
    close its parent's connections."""
    for pool, pid in list(_opened.items()):
        if pid == os.getpid():
            pool.close()


atexit.register(_close_all)
