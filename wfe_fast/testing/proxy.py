"""A proxy between a client and a PostgreSQL server, that counts round trips and breaks connections where a test wants them broken.

::

    with WireProxy(postgres_dsn) as proxy, psycopg.connect(proxy.dsn) as connection:
        with proxy.counting() as count:
            connection.execute("SELECT 1")
        assert count.round_trips == 1, count
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, Thread
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from wfe_fast.errors import InvalidValueError
from wfe_fast.testing.faults import Count, Rule, Traffic, Wanted
from wfe_fast.testing.link import Link
from wfe_fast.testing.waiting import PATIENCE

_ADDRESS = {"host", "hostaddr", "port", "user", "password", "dbname"}
#: The proxy reads what passes, so that there is no encryption: a client that asks for it is told no, one that wants nothing else would go.
_ENCRYPTION = ("ssl", "gss", "channel_binding")


class WireProxy:
    """A TCP proxy on the loopback address in front of the server at `dsn`; connect to its own `dsn`.

    A **round trip** is counted when a client sends something while all that it had sent before has been answered. A simple query is one, as is
    an execution of a prepared statement, and a pipeline of any length up to its synchronisation; BEGIN, a statement and COMMIT, each waited
    for, are three. Connecting and closing are none.

    Faults meet the connections that are there and those to come, each once: the nth message that fits, counted over all connections from the
    call on. `kind` is a message's name in PostgreSQL's protocol (``Query``, ``Parse``, ``Bind``, ``Execute``, ``Sync``, …), `text` a part of
    the statement, or a pattern of its whole text; it is known for prepared statements, too. None fits everything.

    Args:
        dsn: one server, by TCP or by the folder of its Unix socket.
        settle: how many seconds an answer is held back to see whether the client sends more without waiting for it.

    Raises:
        InvalidValueError: `dsn` is not the address of one server.
    """

    def __init__(self, dsn: str, *, settle: float = 0.002) -> None:
        self._parameters = address_parts(dsn)
        self._settle = settle
        self._traffic = Traffic()
        self._lock = Lock()
        self._links: set[Link] = set()
        self._refusing = self._closed = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._accepting = Thread(target=self._accept, name="wire-proxy", daemon=True)
        self._accepting.start()

    @property
    def dsn(self) -> str:
        """The address to connect to instead of the server's."""
        parts = {name: quote(value, safe="") for name, value in self._parameters.items()}
        login = ":".join(parts[name] for name in ("user", "password") if name in parts)
        others = "&".join(f"{name}={value}" for name, value in parts.items() if _is_passed_on(name))
        return f"postgresql://{login}@127.0.0.1:{self.port}/{parts.get('dbname', '')}{'?' if others else ''}{others}"

    @property
    def round_trips(self) -> int:
        """How many round trips there were since the proxy began."""
        return self._traffic.round_trips

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        with self._lock:
            return len(self._links)

    @contextmanager
    def counting(self) -> Iterator[Count]:
        """Count the round trips, and keep the messages, of a block."""
        count = Count()
        self._traffic.begin(count)
        try:
            yield count
        finally:
            self._traffic.end(count)

    def cut_before(self, kind: str | None = None, text: Wanted = None, nth: int = 1) -> Rule:
        """Cut the connection instead of forwarding the message; what came before it is forwarded."""
        return self._traffic.add(Rule("cut", kind, text, nth=nth))

    def lose_answer(self, kind: str | None = None, text: Wanted = None, nth: int = 1) -> Rule:
        """Forward the message, let the server do all that was sent with it up to the next synchronisation, and cut the connection when it
        has, so that the client never hears of it."""
        return self._traffic.add(Rule("lose", kind, text, nth=nth))

    def lose_commit(self, nth: int = 1) -> None:
        """Cut the connection when the server has committed, instead of forwarding what it says. A commit is a COMMIT, or a statement that
        writes outside of a transaction."""
        self._traffic.lose_commit(nth)

    def delay(self, seconds: float, kind: str | None = None, text: Wanted = None) -> Rule:
        """Forward every message that fits only after so many seconds. `release` of what is returned ends that."""
        return self._traffic.add(Rule("hold", kind, text, seconds=seconds, again=True))

    def hold(self, kind: str | None = None, text: Wanted = None, nth: int = 1) -> Rule:
        """Keep a message, and all that comes behind it on its connection. `await_reached` of what is returned waits for it, `release` lets it
        go on."""
        return self._traffic.add(Rule("hold", kind, text, nth=nth))

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Take no new connection during a block: each is closed at once."""
        self._refusing = True
        try:
            yield
        finally:
            self._refusing = False

    def cut_all(self) -> None:
        """Cut every connection that there is."""
        for link in self._all_links():
            link.cut()

    def clear(self) -> None:
        """Forget every fault that has not happened yet, and let go what is held."""
        self._traffic.clear()

    def close(self) -> None:
        """Cut every connection and stop listening. Again, it does nothing."""
        if self._closed:
            return
        self._closed = True
        self.clear()
        with socket.create_connection(("127.0.0.1", self.port)):  # wakes the thread up that waits for one
            self._accepting.join(PATIENCE)
        self._listener.close()
        for link in self._all_links():
            link.abort()

    def __enter__(self) -> WireProxy:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _all_links(self) -> list[Link]:
        with self._lock:
            return list(self._links)

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._closed or self._refusing:
                client.close()
            if self._closed:
                return
            if not self._refusing:
                self._connect(client)

    def _connect(self, client: socket.socket) -> None:
        try:
            server = self._dial()
        except OSError:  # as the server itself: whoever connects is told so by the end of the connection
            client.close()
            return
        link = Link(client, server, self._traffic, self._settle, self._forget)
        with self._lock:
            self._links.add(link)
        link.start()

    def _forget(self, link: Link) -> None:
        with self._lock:
            self._links.discard(link)

    def _dial(self) -> socket.socket:
        host, port = self._parameters["host"], self._parameters.get("port", "5432")
        if not host.startswith("/"):
            return socket.create_connection((self._parameters.get("hostaddr", host), int(port)))
        server = socket.socket(socket.AF_UNIX)
        try:
            server.connect(f"{host}/.s.PGSQL.{port}")
        except OSError:
            server.close()
            raise
        return server


def _is_passed_on(name: str) -> bool:
    return name not in _ADDRESS and not name.startswith(_ENCRYPTION)


def address_parts(dsn: str) -> dict[str, str]:
    """The parts of the address of one server, all as text; InvalidValueError where it is none."""
    try:
        parts: dict[str, Any] = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError as error:
        raise InvalidValueError("dsn", f"is not an address: {str(error).strip()}") from error
    parameters = {name: str(value) for name, value in parts.items()}
    if not parameters.get("host") or "," in parameters["host"]:
        raise InvalidValueError("dsn", "has to name one host", parameters.get("host"))
    if not all(value.isprintable() for value in parameters.values()):
        raise InvalidValueError("dsn", "has to be text in one line", dsn)
    return parameters
