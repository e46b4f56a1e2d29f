"""One connection through a `WireProxy`: a thread that carries bytes both ways and does what the rules say."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, Thread

from wfe_fast.testing.faults import Traffic
from wfe_fast.testing.waiting import PATIENCE
from wfe_fast.testing.wire import Conversation, Message

_CHUNK = 1 << 16


class Link:
    """Carries one client's connection until one side ends or it is cut.

    Args:
        client: the connection that the client made.
        server: a connection to the server.
        traffic: what all connections share.
        settle: how many seconds the end of an answer waits for more of the client.
        forget: called with this link when it has ended.
    """

    def __init__(
        self,
        client: socket.socket,
        server: socket.socket,
        traffic: Traffic,
        settle: float,
        forget: Callable[[Link], None],
    ) -> None:
        self._client = client
        self._server = server
        self._traffic = traffic
        self._settle = settle
        self._forget = forget
        self._conversation = Conversation()
        self._to_client = bytearray()
        self._to_server = bytearray()
        self._kept = bytearray()
        self._losing = False
        self._closing = Lock()
        self._closed = False
        self._thread = Thread(target=self._run, name="wire-proxy-link", daemon=True)

    def start(self) -> None:
        """Begin to carry."""
        self._client.setblocking(False)
        self._server.setblocking(False)
        if self._server.family != socket.AF_UNIX:
            self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._thread.start()

    def cut(self) -> None:
        """End both connections. The server still gets what it was sent, as it would where a network breaks behind it."""
        with self._closing, suppress(OSError):
            if not self._closed:
                self._client.shutdown(socket.SHUT_RDWR)
                self._server.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """End both connections, and wait until the thread has ended."""
        self.cut()
        with self._closing, suppress(OSError):
            if not self._closed:
                self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        try:
            with suppress(OSError):  # one side is gone, so that the other goes, too
                while self._step():
                    pass
                self._finish()
        finally:
            with self._closing:
                self._closed = True
                self._client.close()
                self._server.close()
            self._forget(self)

    def _step(self) -> bool:
        """Wait for bytes and carry them. Whether the connection goes on."""
        poll = select.poll()
        poll.register(self._client, select.POLLIN | (select.POLLOUT if self._to_client else 0))
        poll.register(self._server, select.POLLIN | (select.POLLOUT if self._to_server else 0))
        ready = dict(poll.poll())
        client, server = ready.get(self._client.fileno(), 0), ready.get(self._server.fileno(), 0)
        if client & ~select.POLLOUT and not self._carry_from_client():
            return False
        if server & ~select.POLLOUT and not self._carry_from_server():
            return False
        _send(self._client, self._to_client)
        _send(self._server, self._to_server)
        return True

    def _carry_from_client(self) -> bool:
        data = _receive(self._client)
        if data is None:
            return True
        return data != b"" and all(self._pass_on(message) for message in self._conversation.from_client(data))

    def _pass_on(self, message: Message) -> bool:
        """Send a client's message on, as the rules say. Whether the connection goes on."""
        if message.kind in ("SSLRequest", "GSSENCRequest"):
            self._to_client += b"N"
            return True
        for rule in self._traffic.meet(message):
            if rule.action == "cut":
                return False
            if rule.action == "lose":
                self._losing = True
            else:
                self._flush_to_server()
                rule.hold()
        self._traffic.note(message, int(self._conversation.sent(message)))
        self._to_server += message.raw
        return True

    def _carry_from_server(self) -> bool:
        data = _receive(self._server)
        if data is None:
            return True
        if not data:
            return False
        conversation = self._conversation
        before, was_under_way = conversation.commits, conversation.under_way
        conversation.answered(data)
        self._kept += data
        if was_under_way and not conversation.under_way and self._client_sends_more():
            conversation.went_on()
            if not self._carry_from_client():
                return False
        if self._traffic.loses(conversation.commits - before):
            self._losing = True
        if conversation.under_way and (self._losing or self._traffic.keeps_answers):
            return True
        if self._losing:
            return False
        self._to_client += self._kept
        self._kept.clear()
        return True

    def _client_sends_more(self) -> bool:
        """Whether the client sends more although it has not got the end of this answer yet."""
        poll = select.poll()
        poll.register(self._client, select.POLLIN)
        return bool(poll.poll(self._settle * 1000))

    def _flush_to_server(self) -> None:
        self._server.setblocking(True)
        self._server.sendall(self._to_server)
        self._server.setblocking(False)
        self._to_server.clear()

    def _finish(self) -> None:
        """Each side gets what was sent to it before the end; the server is waited for, since one that is hung up on reads no further."""
        if not self._losing:
            self._client.setblocking(True)
            self._client.sendall(self._to_client + self._kept)
        with suppress(OSError):
            self._client.shutdown(socket.SHUT_RDWR)
        self._flush_to_server()
        self._server.shutdown(socket.SHUT_WR)
        self._server.setblocking(True)
        while self._server.recv(_CHUNK):
            pass


def _receive(source: socket.socket) -> bytes | None:
    """What has arrived: nothing at the end of the connection, None where it was woken up for nothing."""
    try:
        return source.recv(_CHUNK)
    except BlockingIOError:
        return None


def _send(target: socket.socket, waiting: bytearray) -> None:
    if waiting:
        with suppress(BlockingIOError):
            del waiting[: target.send(waiting)]
