"""What the demo asks of an engine, whichever it is; and the workflow host as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from wfe_fast import WorkflowStatus, open_provider
from wfe_fast.cli.files import FileName, reference_of
from wfe_fast.cli.results import Results, read_results
from wfe_fast.cli.steplog import StepLog
from wfe_fast.cli.steps import DEFINITION, FileJob, build
from wfe_fast.host import WorkflowHost

if TYPE_CHECKING:
    from wfe_fast.persistence.contract import PersistenceProvider

HOST, STATE, DURABLE = "host", "state", "durable"

_BATCH = 500


class Engine(Protocol):
    """One engine on one database."""

    def ended(self) -> int:
        """How many files are through, of whatever folder."""
        ...

    def results(self, folder: Path) -> Results:
        """What the store holds of the demo on `folder`."""
        ...

    def start(self, files: Mapping[str, FileName], folder: Path, log: Path) -> None:
        """Give the workers these files, by their workflow ids."""
        ...


class HostEngine:
    """A workflow for each file, on contract A."""

    def __init__(self, provider: PersistenceProvider) -> None:
        self._provider = provider

    def ended(self) -> int:
        counts = self._provider.count_workflows()
        return sum(count for status, count in counts.items() if status is not WorkflowStatus.RUNNABLE)

    def results(self, folder: Path) -> Results:
        return read_results(self._provider, folder)

    def start(self, files: Mapping[str, FileName], folder: Path, log: Path) -> None:
        """Many in one transaction; a run that is cut off here goes on here."""
        with closing(StepLog(log)) as step_log:
            host = WorkflowHost(self._provider, [build(step_log)])
        reference = reference_of(folder)
        left = iter(files.items())
        while batch := list(islice(left, _BATCH)):
            with self._provider.transaction() as tx:
                for workflow_id, file in batch:
                    # The name is given, so that none is drawn from the definition's sequence.
                    host.start(DEFINITION, FileJob(file), id=workflow_id, name=workflow_id, reference=reference, tx=tx)


@contextmanager
def open_engine(name: str, database: str) -> Iterator[Engine]:
    """The engine of this name on a database (a URL), until the block ends."""
    if name == STATE:
        from wfe_fast.cli.state_engine import StateEngine, open_state

        with open_state(database) as backend:
            yield StateEngine(backend)
    elif name == DURABLE:
        from wfe_fast.cli.durable_engine import CheckpointEngine, open_checkpoints

        with open_checkpoints(database) as store:
            yield CheckpointEngine(store)
    else:
        with open_provider(database) as provider:
            yield HostEngine(provider)
