"""What the demo's step bodies did, told by themselves and not by the engine: a log opened with O_APPEND.

A body writes one line when it begins: its number, how many steps its data shows as recorded, its process, its workflow. What
data shows came out of the store, so it was recorded; a body that begins although its result was seen there is a repeat.
All lines are of one length, and the system puts each one whole behind the last; so the place where a line ended up says how many
bodies had begun, over all processes.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

#: step, recorded, pid (10 digits), workflow id (32 digits), separated by blanks and ended by a line feed
LINE_LENGTH = 48


class Line(NamedTuple):
    """A step body began."""

    step: int
    recorded: int
    pid: int
    workflow_id: str


def _written(line: Line) -> bytes:
    return f"{line.step} {line.recorded} {line.pid:010d} {line.workflow_id}\n".encode()


def _read(text: bytes) -> Line:
    step, recorded, pid, workflow_id = text.split()
    return Line(int(step), int(recorded), int(pid), workflow_id.decode())


class StepLog:
    """The writing side, one in each worker process.

    Args:
        path: the file; it is made where it is missing.
        halt_at: a length of the file, or None. The one body whose line makes the file this long is to hold still.
    """

    def __init__(self, path: Path, halt_at: int | None = None) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._halt_at = halt_at

    def begin(self, step: int, recorded: int, workflow_id: str) -> bool:
        """Write a line; return whether the body that wrote it is the one to hold still."""
        os.write(self._file, _written(Line(step, recorded, os.getpid(), workflow_id)))
        return self._halt_at is not None and os.lseek(self._file, 0, os.SEEK_CUR) == self._halt_at

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)


class StepAccount:
    """The reading side: counts what the log tells about some workflows.

    `begun`: bodies that began. `repeated`: those that began although their result had been recorded. `taken_over`: those that began again
    in another process, since the first one had not recorded them.
    """

    def __init__(self, path: Path, workflow_ids: Collection[str]) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CREAT, 0o600)
        self._wanted = frozenset(workflow_ids)
        self._last: dict[str, Line] = {}
        self._recorded: dict[str, int] = {}
        self.size = 0
        self.begun = 0
        self.repeated = 0
        self.taken_over = 0
        self.update()

    def update(self) -> None:
        """Read what was written since the last call."""
        fresh = os.pread(self._file, os.fstat(self._file).st_size - self.size, self.size)
        whole = len(fresh) - len(fresh) % LINE_LENGTH
        self.size += whole
        for start in range(0, whole, LINE_LENGTH):
            self._count(_read(fresh[start : start + LINE_LENGTH]))

    def _count(self, line: Line) -> None:
        workflow_id = line.workflow_id
        if workflow_id not in self._wanted:
            return
        recorded = max(line.recorded, self._recorded.get(workflow_id, 0))
        self._recorded[workflow_id] = recorded
        before = self._last.get(workflow_id)
        self._last[workflow_id] = line
        self.begun += 1
        if line.step < recorded:
            self.repeated += 1
        elif before is not None and before.step == line.step and before.pid != line.pid:
            self.taken_over += 1

    def pid_at(self, size: int) -> int:
        """The process whose line made the file `size` bytes long."""
        return _read(os.pread(self._file, LINE_LENGTH, size - LINE_LENGTH)).pid

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
