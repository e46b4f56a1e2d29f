"""What people see of the demo: a bar while it runs, tables at the end."""

from __future__ import annotations

import re
import shlex
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from wfe_fast.cli.engines import DURABLE, HOST, STATE

if TYPE_CHECKING:
    from types import TracebackType

    from wfe_fast.cli.demo import Progress
    from wfe_fast.cli.results import Report

_ERRORS_SHOWN = 20


class ProgressBar:
    """A bar on stderr. Where stderr is no terminal, nothing."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._bar = Bar(
            BarColumn(bar_width=None),
            TextColumn(
                "{task.completed}/{task.total} files {task.fields[rate]:,.0f} steps/s {task.fields[workers]} workers"
                " {task.fields[kills]} killed {task.fields[takeovers]} taken over"
            ),
            TimeElapsedColumn(),
            expand=True,
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._began = time.monotonic()
        self._steps_before = 0

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Draw what is known now."""
        if self._task is None:
            self._steps_before = progress.steps
            self._task = self._bar.add_task("demo", total=progress.files, rate=0.0, workers=0, kills=0, takeovers=0)
        self._bar.update(
            self._task,
            completed=progress.ended,
            rate=(progress.steps - self._steps_before) / max(time.monotonic() - self._began, 0.001),
            workers=progress.workers,
            kills=progress.kills,
            takeovers=progress.takeovers,
        )


def print_report(console: Console, report: Report) -> None:
    """The tables of the end, and what to look at next."""
    console.print(_results(report))
    if report.errors:
        console.print(_errors(report))
    console.print(_next(report), soft_wrap=True)


def _results(report: Report) -> Table:
    table = Table(show_header=False)
    table.add_column()
    table.add_column(justify="right", overflow="fold")
    for name, value in (
        ("folder", report.folder),
        ("files", f"{report.files:,}"),
        ("bytes", f"{report.bytes:,}"),
        ("tokens", f"{report.tokens:,}"),
        ("compressed size", f"{report.compressed:,}"),
        ("steps recorded", f"{report.steps:,}"),
        ("  by earlier runs", f"{report.steps_before:,}"),
        ("steps a second", f"{report.steps_per_second:,.0f}"),
        ("seconds", f"{report.seconds:,.1f}"),
        ("worker processes", f"{report.workers:,}"),
        ("  killed", f"{report.killed:,}"),
        ("steps taken over", f"{report.taken_over:,}"),
        ("files lost", f"{report.lost:,}"),
        ("steps repeated", f"{report.repeated:,}"),
        ("files in error", f"{len(report.errors):,}"),
    ):
        table.add_row(name, Text(value))
    return table


def _errors(report: Report) -> Table:
    table = Table(title="in error")
    table.add_column("path", overflow="fold")
    table.add_column("reason", overflow="fold")
    for path, reason in report.errors[:_ERRORS_SHOWN]:
        table.add_row(Text(path), Text(reason))
    if len(report.errors) > _ERRORS_SHOWN:
        table.add_row(f"and {len(report.errors) - _ERRORS_SHOWN:,} more", "")
    return table


_LOOK = "import sys, wfe_fast; print(wfe_fast.open_provider(sys.argv[1]).list_workflows(limit=1).items[0])"


_LOOK_AT_STATE = "import sys; from wfe_fast.{0} import {1}; print({1}.connect(sys.argv[1]).list_executions(limit=1)[0])"


_LOOK_AT_CHECKPOINTS = (
    "import sys; from wfe_fast.{0} import {1} as Store; print(Store(sys.argv[1]).list_executions(limit=1).items[0])"
)


def _look(report: Report) -> str:
    """A program that shows the first workflow."""
    module = "sqlite" if report.database.startswith("sqlite:") else "postgres"
    if report.engine == STATE:
        return _LOOK_AT_STATE.format(module, f"{module.capitalize()}Backend")
    if report.engine == DURABLE:
        return _LOOK_AT_CHECKPOINTS.format(module, f"{module.capitalize()}CheckpointStore")
    return _LOOK


def without_password(url: str) -> str:
    """A database's URL as it may be shown."""
    return re.sub(r"(://[^:/@]*):[^/@]*@", r"\1:***@", url)


def _next(report: Report) -> Text:
    if not report.kept:
        return Text(
            f"\nThe database is gone with the server. When each step body began, and in which process:\n  {report.log}\n"
        )
    return Text(
        f"""
What to look at next:
  the first workflow, with its four steps and its row:
    {shlex.join([sys.executable, "-c", _look(report), report.database])}
  when each step body began, and in which process:
    {report.log}
  the same command on the same database goes on where it stopped, and does nothing twice:
    {"" if report.engine == HOST else f"--engine {report.engine} "}--database {shlex.quote(report.database)}
"""
    )
