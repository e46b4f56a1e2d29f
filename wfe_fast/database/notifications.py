"""LISTEN on a connection of its own: how a process learns of the commits of others."""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psycopg

_log = logging.getLogger("wfe_fast.database")

#: Seconds between attempts to connect again, the first and the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0

#: How long `close` waits for the thread, in seconds: far longer than it takes to end, but no attempt to connect is waited for.
_GOODBYE = 0.5


class Notifications:
    """Calls `on_change` for every notification on `channel`, and after each time that the connection was made: then some may have been missed.

    Its thread ends by `close`, and with the process.
    """

    def __init__(self, conninfo: str, channel: str, on_change: Callable[[], None]) -> None:
        self._conninfo = conninfo
        self._channel = channel
        self._on_change = on_change
        self._closing = threading.Event()
        # A byte in the one wakes up who listens to the other.
        self._bell, self._rung = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"wfe-fast listener {channel}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and its connection. One that is being made to a server that does not answer ends by itself, when the attempt does."""
        self._closing.set()
        with suppress(OSError):  # the thread has ended already
            self._bell.send(b"!")
        self._thread.join(_GOODBYE)

    def _run(self) -> None:
        with self._bell, self._rung:
            self._listen_again_and_again()

    def _listen_again_and_again(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            begun = time.monotonic()
            try:
                self._listen()
            except (psycopg.Error, OSError) as error:
                _log.info("the listener for changes lost its connection and makes a new one: %s", error)
            pause = _FIRST_PAUSE if time.monotonic() - begun > _LONGEST_PAUSE else min(2 * pause, _LONGEST_PAUSE)
            self._closing.wait(pause)

    def _listen(self) -> None:
        connection: psycopg.Connection[Any]
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            if self._closing.is_set():
                return
            connection.execute(f'LISTEN "{self._channel}"')
            self._on_change()
            poll = select.poll()
            poll.register(connection.pgconn.socket, select.POLLIN)
            poll.register(self._rung, select.POLLIN)
            while True:
                poll.poll()
                if self._closing.is_set():
                    return
                connection.pgconn.consume_input()
                told = False
                while connection.pgconn.notifies() is not None:
                    told = True
                if told:
                    self._on_change()
                elif connection.pgconn.status != psycopg.pq.ConnStatus.OK:
                    raise psycopg.OperationalError("the connection was closed")
