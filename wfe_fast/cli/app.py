"""The commands and their options."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from msgspec import structs
from rich.console import Console

import wfe_fast
from wfe_fast.cli.demo import NothingToDoError, Settings, WorkersFailError, run_demo, work_list
from wfe_fast.cli.engines import DURABLE, HOST, STATE
from wfe_fast.cli.files import standard_library
from wfe_fast.cli.report import ProgressBar, print_report, without_password
from wfe_fast.database.sqlite_connection import sqlite_path

_STOPPED = 130
#: Instead of a URL: a PostgreSQL server of the run's own.
_OWN_SERVER = "postgres"
_FILES_OF_A_DATABASE = ("", "-wal", "-shm", "-journal")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(wfe_fast.__version__, prog_name="wfe-fast")
def commands() -> None:
    """Workflow persistence for Python programs that block."""


@commands.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--workers", default=4, show_default=True, type=click.IntRange(1, 64), help="Worker processes.")
@click.option(
    "--database",
    metavar="URL",
    help="Where to keep the workflows: sqlite:///FILE (a new one here by default), postgresql://..., or just postgres: a server for this run.",
)
@click.option(
    "--engine",
    default=HOST,
    show_default=True,
    type=click.Choice([HOST, STATE, DURABLE]),
    help="What does the work: the workflow host, work items of the state backend, or functions of DurableEngine.",
)
@click.option("--no-kill", is_flag=True, help="Let all workers live.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def demo(folder: Path | None, workers: int, database: str | None, engine: str, no_kill: bool, as_json: bool) -> int:
    """Run four recorded steps over every file below FOLDER, and kill a worker half-way.

    FOLDER is the standard library of this Python where it is left out. Each file is a workflow: digest, measure, compress,
    catalogue. The same command on the same database goes on where it stopped.
    """
    console = Console(stderr=as_json, highlight=False)
    with _database(database) as url:
        settings = _settings(folder or standard_library(), url, workers, kill=not no_kill, kept=database != _OWN_SERVER)
        settings = _with_engine(settings, engine)
        try:
            listing = work_list(settings)
        except NothingToDoError as error:
            raise click.UsageError(str(error)) from error
        console.print(f"database: {without_password(url)}", markup=False, soft_wrap=True)
        try:
            with ProgressBar() as bar:
                report = run_demo(settings, listing, bar.show)
        except KeyboardInterrupt:
            chosen = "" if engine == HOST else f"--engine {engine} "
            go_on = f"; to go on: {chosen}--database {without_password(url)}" if settings.kept else ""
            click.echo(f"stopped{go_on}", err=True)
            return _STOPPED
    print_report(console, report)
    if as_json:
        click.echo(report.as_json())
    return 0 if report.sound else 1


@commands.command()
@click.option(
    "--tables",
    default="persistence",
    show_default=True,
    type=click.Choice(["persistence", "checkpoints", "state"]),
    help="Of which contract: the workflow host's, DurableEngine's, or the state backend's.",
)
@click.option("--schema", help="The schema that is to hold the tables; wfc, durable or state by default.")
@click.option("--table-prefix", default="", help="What the name of each table begins with.")
@click.option("--grant-to", help="The role that is to use the tables, where another one is to own them.")
@click.option(
    "--from",
    "from_version",
    default=0,
    show_default="no tables",
    type=click.IntRange(0),
    help="The version that the tables have: the highest of their line in wfe_fast_migrations.",
)
def schema(tables: str, schema: str | None, table_prefix: str, grant_to: str | None, from_version: int) -> int:
    """Print the SQL that makes the tables on PostgreSQL, or upgrades them.

    For an administrator to run, where the application's role may not create them.
    """
    from wfe_fast.postgres import checkpoint_schema_script, schema_script, state_schema_script

    scripts = {
        "persistence": (schema_script, "wfc"),
        "checkpoints": (checkpoint_schema_script, "durable"),
        "state": (state_schema_script, "state"),
    }
    script, usual = scripts[tables]
    click.echo(script(schema or usual, table_prefix, grant_to=grant_to, from_version=from_version), nl=False)
    return 0


@contextmanager
def _database(database: str | None) -> Iterator[str]:
    """The URL of the database to work on; the word for it starts a server that is gone afterwards."""
    if database != _OWN_SERVER:
        yield database or _new_database()
        return
    from wfe_fast.database.postgres_server import PostgresServer

    with PostgresServer() as server:
        yield server.dsn


def _new_database() -> str:
    return f"sqlite:///wfe-demo-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.db"


def _settings(folder: Path, url: str, workers: int, *, kill: bool, kept: bool) -> Settings:
    """The settings; the log lies beside a database that is a file, else in the working folder."""
    folder = folder.resolve()
    if not url.startswith("sqlite:"):
        log = Path(f"wfe-demo-{hashlib.sha256(url.encode()).hexdigest()[:12]}.log").resolve()
        return Settings(folder, url, log, workers, kill, frozenset({log}), kept)
    path = sqlite_path(url)
    if path == ":memory:":
        raise click.BadParameter("several processes cannot share a database in memory", param_hint="--database")
    file = Path(path).resolve()
    log = file.with_name(file.name + ".log")
    files = {file.with_name(file.name + suffix) for suffix in _FILES_OF_A_DATABASE}
    return Settings(folder, url, log, workers, kill, frozenset(files | {log}))


def _with_engine(settings: Settings, engine: str) -> Settings:
    """The settings for an engine, which has a log of its own: what another one has recorded it does not know."""
    logs = {name: settings.log.with_suffix(f".{name}.log") for name in (STATE, DURABLE)}
    log = logs.get(engine, settings.log)
    return structs.replace(settings, engine=engine, log=log, without=settings.without | set(logs.values()))


def run() -> int:
    """Run the command line; return the exit code."""
    try:
        code: int = commands.main(standalone_mode=False) or 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        code = _STOPPED
    except wfe_fast.InvalidValueError as error:
        code = _failed(error, 2)
    except (wfe_fast.WfeError, WorkersFailError) as error:
        code = _failed(error, 1)
    return code


def _failed(error: Exception, code: int) -> int:
    sys.stderr.write(f"wfe-fast: {error}\n")
    return code
