"""PostgreSQL's protocol, version 3, as far as one has to know it to count round trips and to cut a connection at a chosen message."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_STARTUP_CODES: Final = {80877102: "CancelRequest", 80877103: "SSLRequest", 80877104: "GSSENCRequest"}
_CLIENT_KINDS: Final = {
    "B": "Bind",
    "C": "Close",
    "D": "Describe",
    "E": "Execute",
    "F": "FunctionCall",
    "H": "Flush",
    "P": "Parse",
    "Q": "Query",
    "S": "Sync",
    "X": "Terminate",
    "c": "CopyDone",
    "d": "CopyData",
    "f": "CopyFail",
    "p": "Password",
}
#: The server's message that ends its answer to a client's message. What is not here is not answered.
_LAST_ANSWERS: Final = {
    "Parse": "1",
    "Bind": "2",
    "Close": "3",
    "Describe": "Tn",
    "Execute": "CIs",
    "Sync": "Z",
    "Query": "Z",
    "FunctionCall": "Z",
}
#: With these a client asks for the answers to all that it has sent; after others the server may keep them back.
_ASKING: Final = {"Sync", "Query", "Flush", "FunctionCall", "CopyDone", "CopyFail"}
#: Statements whose commit changes nothing that somebody else could see.
_READING: Final = {
    *(
        "SELECT",
        "SHOW",
        "SET",
        "RESET",
        "FETCH",
        "MOVE",
        "DECLARE",
        "CLOSE",
        "PREPARE",
        "DEALLOCATE",
        "DISCARD",
        "LOCK",
    ),
    *("LISTEN", "UNLISTEN", "SAVEPOINT", "RELEASE", "EXPLAIN"),
}


@dataclass(frozen=True)
class Message:
    """A message of a client. `text` is its SQL, for a bind, describe or execute that of the prepared statement; `raw` its bytes."""

    kind: str
    text: str
    raw: bytes

    def __str__(self) -> str:
        return f"{self.kind} {' '.join(self.text.split())}".strip()


class Splitter:
    """Cuts a stream of bytes into messages."""

    def __init__(self, *, starts_typed: bool) -> None:
        self._typed = starts_typed
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        """Every message that is complete with `data`: its kind, and its bytes. Before the start-up message there are no types."""
        self._bytes += data
        while True:
            head = 1 if self._typed else 0
            if len(self._bytes) < head + 4:
                return
            (length,) = struct.unpack_from(">I", self._bytes, head)
            if len(self._bytes) < head + length:
                return
            raw = bytes(self._bytes[: head + length])
            del self._bytes[: head + length]
            yield (chr(raw[0]) if self._typed else self._startup_kind(raw)), raw

    def _startup_kind(self, raw: bytes) -> str:
        (code,) = struct.unpack_from(">I", raw, 4)
        kind = _STARTUP_CODES.get(code, "Startup")
        self._typed = kind == "Startup"
        return kind


class Conversation:
    """What one client and its server have said: which answers are outstanding, and how often the client waited for some.

    A round trip begins with the first message that a client sends while nothing is outstanding. It ends when all that was sent is
    answered, and the client had asked for the answers. Connecting is none, nor is saying goodbye.
    """

    def __init__(self) -> None:
        self._client = Splitter(starts_typed=False)
        self._server = Splitter(starts_typed=True)
        self._outstanding: deque[str] = deque()
        self._statements: dict[bytes, str] = {}
        self._portals: dict[bytes, str] = {}
        self._skipping = False
        self._last_sent = ""
        self._ready = False
        self._status = "I"
        self.under_way = False
        self.commits = 0
        self._in_block = False
        self._written = False

    def from_client(self, data: bytes) -> Iterator[Message]:
        """The messages that are complete with `data`. Each has to be told to `sent` when it goes on to the server."""
        for kind, raw in self._client.feed(data):
            name = _CLIENT_KINDS.get(kind, kind)
            yield Message(name, self._text(name, raw[5:]), raw)

    def sent(self, message: Message) -> bool:
        """Take note of a message to the server. Whether it begins a round trip."""
        kind = message.kind
        if not self._ready or kind == "Terminate":
            return False
        # A Flush asks for answers and has none of its own: alone it is nothing.
        begins = not self.under_way and kind != "Flush"
        self.under_way = self.under_way or begins
        self._last_sent = kind
        if kind in _LAST_ANSWERS and (not self._skipping or kind == "Sync"):
            self._outstanding.append(kind)
        self._end_if_answered()
        return begins

    def answered(self, data: bytes) -> None:
        """Take note of what the server sent."""
        for kind, raw in self._server.feed(data):
            self._note(kind, raw)

    def went_on(self) -> None:
        """The client has sent more before it saw the last answer: what is told to `sent` next belongs to this round trip still."""
        self.under_way = True

    def _note(self, kind: str, raw: bytes) -> None:
        if kind == "Z":
            self._note_ready(chr(raw[5]))
        elif kind == "E":
            self._note_error()
        elif kind in "GW":  # the server waits for data, and does not answer what was sent behind the COPY
            self._outstanding = deque(name for name in self._outstanding if name != "Sync")
            self.under_way = False
            return
        else:
            if kind == "C":
                self._note_command(raw[5:-1].decode(errors="replace"))
            if self._outstanding and kind in _LAST_ANSWERS[self._outstanding[0]]:
                self._outstanding.popleft()
        self._end_if_answered()

    def _end_if_answered(self) -> None:
        if not self._outstanding and self._last_sent in _ASKING:
            self.under_way = False

    def _note_ready(self, status: str) -> None:
        self._ready, self._skipping = True, False
        while self._outstanding and self._outstanding.popleft() not in ("Sync", "Query", "FunctionCall"):
            pass
        if self._written and status == "I" and not self._in_block:
            self.commits += 1
        self._written, self._in_block = False, status != "I"

    def _note_error(self) -> None:
        """The server skips everything up to the next Sync, but for a simple query, which it ends by itself."""
        self._written = False
        if self._outstanding and self._outstanding[0] in ("Query", "FunctionCall"):
            return
        self._skipping = self._ready
        while self._outstanding and self._outstanding[0] != "Sync":
            self._outstanding.popleft()

    def _note_command(self, tag: str) -> None:
        word = tag.partition(" ")[0]
        if word in ("BEGIN", "START"):
            self._in_block = True
        elif word in ("COMMIT", "ROLLBACK"):
            self.commits += word == "COMMIT"
            self._in_block = self._written = False
        elif word not in _READING and not self._in_block:
            self._written = True

    def _text(self, kind: str, body: bytes) -> str:
        """The SQL that a message is about, by the names that earlier messages gave."""
        if kind == "Query":
            return _until_nul(body).decode(errors="replace")
        if kind == "Parse":
            name, _, rest = body.partition(b"\0")
            self._statements[name] = _until_nul(rest).decode(errors="replace")
            return self._statements[name]
        if kind == "Bind":
            portal, _, rest = body.partition(b"\0")
            self._portals[portal] = self._statements.get(_until_nul(rest), "")
            return self._portals[portal]
        if kind == "Execute":
            return self._portals.get(_until_nul(body), "")
        if kind in ("Describe", "Close"):
            names = self._statements if body[:1] == b"S" else self._portals
            return names.get(_until_nul(body[1:]), "")
        return ""


def _until_nul(data: bytes) -> bytes:
    return data.partition(b"\0")[0]
