"""The demo's workflow: digest, measure, compress, catalogue one file. The workflow's data ends as the file's row."""

from __future__ import annotations

import hashlib
import threading
import tokenize
import zlib
from typing import TYPE_CHECKING, Protocol

import msgspec

from wfe_fast.cli.files import FileName
from wfe_fast.host import Terminate, WorkflowBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wfe_fast.cli.steplog import StepLog

DEFINITION = "demo"
STEPS = ("digest", "measure", "compress", "catalogue")

_CHUNK = 1 << 20
_LEVEL = 6


class Row(msgspec.Struct):
    """What the demo finds out about a file. Sizes are bytes; `tokens` only where Python could tokenise it."""

    path: str
    sha256: str
    bytes: int
    lines: int
    words: int
    longest: int
    tokens: int | None
    compressed: int


class FileJob(msgspec.Struct):
    """The workflow's data: the file, and what each step found out."""

    file: FileName
    sha256: str | None = None
    bytes: int = 0
    lines: int | None = None
    words: int = 0
    longest: int = 0
    tokens: int | None = None
    compressed: int | None = None
    row: Row | None = None

    @property
    def recorded(self) -> int:
        """How many steps have left their result here."""
        return sum(result is not None for result in (self.sha256, self.lines, self.compressed, self.row))


class Named(Protocol):
    """What a body is told about itself: the workflow's id in 32 hex digits."""

    @property
    def workflow_id(self) -> str: ...


class FileSteps:
    """The bodies of the steps. Each says first of all in the log that it began."""

    def __init__(self, log: StepLog) -> None:
        self._log = log

    def digest(self, job: FileJob, ctx: Named) -> None:
        """SHA-256 and size of the content."""
        self._begin(0, job, ctx)
        sha256 = hashlib.sha256()
        size = 0
        for chunk in _chunks(job.file):
            sha256.update(chunk)
            size += len(chunk)
        job.sha256, job.bytes = sha256.hexdigest(), size

    def measure(self, job: FileJob, ctx: Named) -> None:
        """Lines, words, the longest line in bytes; tokens of Python source."""
        self._begin(1, job, ctx)
        job.lines, job.words, job.longest = measure_text(_chunks(job.file))
        job.tokens = count_tokens(job.file) if job.file.path.endswith(".py") else None

    def compress(self, job: FileJob, ctx: Named) -> None:
        """Size after zlib at level 6."""
        self._begin(2, job, ctx)
        packer = zlib.compressobj(_LEVEL)
        job.compressed = sum(len(packer.compress(chunk)) for chunk in _chunks(job.file)) + len(packer.flush())

    def catalogue(self, job: FileJob, ctx: Named) -> None:
        """The row; it is stored in the same transaction as the end of this step."""
        self._begin(3, job, ctx)
        assert job.sha256 is not None
        assert job.lines is not None
        assert job.compressed is not None
        job.row = Row(
            job.file.path, job.sha256, job.bytes, job.lines, job.words, job.longest, job.tokens, job.compressed
        )

    def _begin(self, step: int, job: FileJob, ctx: Named) -> None:
        if self._log.begin(step, job.recorded, ctx.workflow_id):
            # Half of the work has begun: hold on to this piece, so that the kill that comes now surely hits a worker in the middle of one.
            threading.Event().wait()


def build(log: StepLog) -> WorkflowBuilder:
    """The workflow ``demo``: four steps, and a file that cannot be read ends it."""
    steps = FileSteps(log)
    builder = WorkflowBuilder(DEFINITION, version=1, data=FileJob)
    for name in STEPS:
        builder.then(getattr(steps, name), name=name, on_error=Terminate())
    return builder


def _chunks(file: FileName) -> Iterator[bytes]:
    with open(file.location, "rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def measure_text(chunks: Iterator[bytes]) -> tuple[int, int, int]:
    """Lines (ended or not), words (separated by white space) and the longest line in bytes of a text in pieces."""
    lines = words = longest = current = 0
    in_word = False
    for chunk in chunks:
        pieces = chunk.split(b"\n")
        lines += len(pieces) - 1
        words += len(chunk.split()) - (in_word and not chunk[:1].isspace())
        in_word = not chunk[-1:].isspace()
        longest = max(longest, current + len(pieces[0]), *(len(piece) for piece in pieces[1:]))
        current = len(pieces[-1]) + (current if len(pieces) == 1 else 0)
    return lines + (current > 0), words, longest


def count_tokens(file: FileName) -> int | None:
    """How many tokens Python finds in a source file; None where it is no Python."""
    with open(file.location, "rb") as stream:
        try:
            return sum(1 for _ in tokenize.tokenize(stream.readline))
        except (tokenize.TokenError, SyntaxError, ValueError):
            return None
