"""What a database has to do when the process is forked. A child never uses its parent's connections."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Forkable(Protocol):
    """Something with connections."""

    path: str

    @property
    def fork_unsafe(self) -> bool:
        """Whether something was under way when the process was copied."""
        ...

    def before_fork(self) -> None: ...

    def after_fork_in_parent(self) -> None: ...

    def after_fork_in_child(self) -> None: ...


#: Files that were in use when this process was forked off: it may not open them.
unsafe_paths: set[str] = set()

#: Held while a store is being opened, and around a fork: two threads that fork at once would each undo what the other has prepared, and a
#: child that was copied in the middle of an opening would find SQLite's own locks held for ever.
_lock = threading.RLock()

_open: weakref.WeakSet[Forkable] = weakref.WeakSet()
_forking: list[Forkable] = []


def follow_forks(database: Forkable) -> None:
    """Call the hooks of `database` around every fork from now on, for as long as it lives."""
    _open.add(database)


@contextmanager
def no_fork() -> Iterator[None]:
    """Keep other threads from forking the process until the block ends."""
    with _lock:
        yield


def _before() -> None:
    _lock.acquire()
    _forking[:] = list(_open)
    for database in _forking:
        database.before_fork()


def _in_parent() -> None:
    for database in _forking:
        database.after_fork_in_parent()
    _lock.release()


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()
    unsafe_paths.update(database.path for database in _forking if database.fork_unsafe)
    for database in _forking:
        database.after_fork_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
