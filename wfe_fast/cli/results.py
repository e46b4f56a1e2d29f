"""What the demo has to show: read from the store, and put together as a report."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

from wfe_fast import PointerStatus, WorkflowStatus
from wfe_fast.cli.files import reference_of
from wfe_fast.cli.steps import DEFINITION, FileJob, Row

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from wfe_fast.persistence.contract import PersistenceProvider
    from wfe_fast.persistence.models import WorkflowInstance

_PAGE = 1000


class Results(msgspec.Struct):
    """The workflows of one folder by id: rows of those that are through, path and reason of those that failed, those that go on, and
    those that ended with neither row nor reason.

    `steps` = steps recorded in all of them; `steps_of_open` = in those that go on.
    """

    rows: dict[str, Row] = msgspec.field(default_factory=dict)
    failed: dict[str, tuple[str, str]] = msgspec.field(default_factory=dict)
    open: set[str] = msgspec.field(default_factory=set)
    lost: set[str] = msgspec.field(default_factory=set)
    steps: int = 0
    steps_of_open: int = 0

    @property
    def ids(self) -> set[str]:
        """All of them."""
        return self.open | self.lost | self.rows.keys() | self.failed.keys()


def read_results(provider: PersistenceProvider, folder: Path) -> Results:
    """What the store holds of the demo on `folder`."""
    results = Results()
    for workflow in _workflows(provider, reference_of(folder)):
        steps = sum(pointer.status is PointerStatus.COMPLETE for pointer in workflow.execution_pointers)
        results.steps += steps
        if workflow.status is WorkflowStatus.RUNNABLE:
            results.open.add(workflow.id)
            results.steps_of_open += steps
            continue
        job = msgspec.convert(workflow.data, FileJob)
        if job.row is not None:
            results.rows[workflow.id] = job.row
        elif workflow.status is WorkflowStatus.COMPLETE:
            results.lost.add(workflow.id)
        else:
            errors = provider.get_errors(workflow.id)
            reason = errors[-1].message if errors else workflow.status.value
            results.failed[workflow.id] = (job.file.path, reason)
    return results


def _workflows(provider: PersistenceProvider, reference: str) -> Iterator[WorkflowInstance]:
    after: str | None = None
    while True:
        page = provider.list_workflows(definition_id=DEFINITION, reference=reference, after=after, limit=_PAGE)
        yield from page.items
        after = page.next
        if after is None:
            return


def digest_of(rows: Iterable[Row]) -> str:
    """SHA-256 over one line for each file, sorted by path: the path, a NUL, the file's SHA-256 in hex, a line feed."""
    lines = (f"{row.path}\0{row.sha256}\n" for row in sorted(rows, key=lambda row: row.path))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Report(msgspec.Struct):
    """What the demo did. The counts are of all runs on this database and folder; `workers`, `killed` and `seconds` of this run.

    `steps` = steps recorded, `steps_before` of them by earlier runs. `taken_over` = step bodies that began again in another process.
    `repeated` = bodies that ran again after they had been recorded. `lost` = files without a row and without a reason.
    `errors` = path and reason of what could not be read. `kept` = the database is still there; `engine` did the work.
    """

    folder: str
    database: str
    log: str
    files: int
    bytes: int
    lines: int
    words: int
    longest: int
    tokens: int
    compressed: int
    digest: str
    workers: int
    killed: int
    taken_over: int
    steps: int
    steps_before: int
    repeated: int
    lost: int
    seconds: float
    errors: list[tuple[str, str]]
    kept: bool = True
    engine: str = "host"

    @property
    def steps_per_second(self) -> float:
        """Steps that this run recorded, per second."""
        return (self.steps - self.steps_before) / self.seconds

    @property
    def sound(self) -> bool:
        """Whether nothing was lost, nothing that was recorded ran again, and there is more than errors."""
        return not self.lost and not self.repeated and len(self.errors) < self.files

    def as_json(self) -> str:
        """One line of JSON."""
        fields: dict[str, Any] = msgspec.structs.asdict(self)
        fields["seconds"] = round(self.seconds, 3)
        fields["steps_per_second"] = round(self.steps_per_second, 1)
        fields["errors"] = [{"path": path, "reason": reason} for path, reason in self.errors]
        return msgspec.json.encode(fields).decode()


def totals(rows: Iterable[Row]) -> dict[str, int]:
    """The sums over all rows, and the longest line of all, under the names that `Report` has for them."""
    rows = list(rows)
    return {
        "bytes": sum(row.bytes for row in rows),
        "lines": sum(row.lines for row in rows),
        "words": sum(row.words for row in rows),
        "longest": max((row.longest for row in rows), default=0),
        "tokens": sum(row.tokens or 0 for row in rows),
        "compressed": sum(row.compressed for row in rows),
    }
