"""The demo: one workflow per file, worker processes that run them, one of them killed half-way, and the account of it."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from wfe_fast.cli.engines import HOST, Engine, open_engine
from wfe_fast.cli.files import Listing, list_files, shown
from wfe_fast.cli.report import without_password
from wfe_fast.cli.results import Report, Results, digest_of, totals
from wfe_fast.cli.steplog import LINE_LENGTH, StepAccount
from wfe_fast.cli.steps import STEPS
from wfe_fast.cli.worker import WorkerPool, WorkerSettings

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_EVERY = 0.05


class NothingToDoError(Exception):
    """The folder is missing, is no folder, or holds no file."""


class WorkersFailError(Exception):
    """Workers end by themselves, again and again."""


class Settings(msgspec.Struct, frozen=True):
    """What to do: with which folder, database (a URL), log, how many processes, and whether to kill one of them.

    `without` = files that are none of the work, wherever they lie; `kept` = the database is still there afterwards; `engine` = a name
    of `engines`.
    """

    folder: Path
    database: str
    log: Path
    workers: int
    kill: bool
    without: frozenset[Path] = frozenset()
    kept: bool = True
    engine: str = HOST


class Progress(msgspec.Struct):
    """How far this run is: files that ended out of `files`, step bodies begun, worker processes, kills and takeovers."""

    ended: int
    files: int
    steps: int
    workers: int
    kills: int
    takeovers: int


def work_list(settings: Settings) -> Listing:
    """The files to work on.

    Raises:
        NothingToDoError: there is no such folder, or no file in it.
    """
    if not settings.folder.is_dir():
        raise NothingToDoError(f"{shown(str(settings.folder))} is not a folder")
    listing = list_files(settings.folder, settings.without)
    if not listing.files:
        raise NothingToDoError(f"{shown(str(settings.folder))} holds no files")
    return listing


def run_demo(settings: Settings, listing: Listing, show: Callable[[Progress], None]) -> Report:
    """Do all of it, or what earlier runs on the same database have left.

    Raises:
        WorkersFailError: more workers ended by themselves than were started at first.
        WfeError: the database cannot be used.
    """
    began = time.monotonic()
    with open_engine(settings.engine, settings.database) as engine:
        run = _Run(settings, engine, listing)
        with closing(StepAccount(settings.log, run.ids)) as account:
            results, killed = (run.before, 0) if not run.pending else run.work_off(account, show)
            account.update()
            return _report(settings, run, account, results, began, killed=killed)


class _Run:
    """One run of the demo, with what it found when it began."""

    def __init__(self, settings: Settings, engine: Engine, listing: Listing) -> None:
        self._settings = settings
        self._engine = engine
        # Counted first: what ends in between, by another demo on the same database, is then counted as ended and not waited for.
        self._ended_before = engine.ended()
        self.before = before = engine.results(settings.folder)
        self._new = {file.workflow_id: file for file in listing.files if file.workflow_id not in before.ids}
        self.listing = listing
        self.ids = before.ids | self._new.keys()
        self.pending = len(self._new) + len(before.open)

    def work_off(self, account: StepAccount, show: Callable[[Progress], None]) -> tuple[Results, int]:
        """Start the workers, give them the files, see them through. Return what the store holds then, and how many workers were killed."""
        settings = self._settings
        halt_at = self._half_way(account.size) if settings.kill else None
        pool = WorkerPool(settings.workers, WorkerSettings(settings.database, settings.log, halt_at, settings.engine))
        try:
            self._engine.start(self._new, settings.folder, settings.log)
            while True:
                self._look_after(pool)
                account.update()
                if halt_at is not None and account.size >= halt_at:
                    pool.kill(account.pid_at(halt_at))
                    halt_at = None
                ended = min(self._engine.ended() - self._ended_before, self.pending)
                show(Progress(ended, self.pending, account.begun, len(pool), pool.killed, account.taken_over))
                if ended == self.pending and not (results := self._engine.results(settings.folder)).open:
                    return results, pool.killed
                pool.wait(_LOOK_EVERY)
        finally:
            pool.stop()

    def _half_way(self, size: int) -> int:
        """How long the log will be when half of the steps that are still to do have begun."""
        steps = self.pending * len(STEPS) - self.before.steps_of_open
        return size + LINE_LENGTH * (steps // 2 + 1)

    def _look_after(self, pool: WorkerPool) -> None:
        pool.replace_dead()
        if pool.failed > self._settings.workers:
            raise WorkersFailError(f"{pool.failed} workers ended by themselves; what they said stands above")


def _report(
    settings: Settings, run: _Run, account: StepAccount, results: Results, began: float, *, killed: int
) -> Report:
    return Report(
        folder=shown(str(settings.folder)),
        database=without_password(settings.database),
        kept=settings.kept,
        engine=settings.engine,
        log=shown(str(settings.log)),
        files=len(run.ids),
        **totals(results.rows.values()),
        digest=digest_of(results.rows.values()),
        workers=settings.workers,
        killed=killed,
        taken_over=account.taken_over,
        steps=results.steps,
        steps_before=run.before.steps,
        repeated=account.repeated,
        lost=len(run.ids - results.rows.keys() - results.failed.keys()),
        seconds=time.monotonic() - began,
        errors=sorted([*results.failed.values(), *run.listing.problems]),
    )
