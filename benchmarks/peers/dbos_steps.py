"""DBOS: workflows of steps that do nothing. Words: the URL of its system database, the steps of a workflow, and for SQLite, where its
journal is to be WAL, the level of `synchronous`."""

from __future__ import annotations

import sys
from typing import Any

import sqlalchemy
from dbos import DBOS

from benchmarks.peers import serve


def use_wal(synchronous: str) -> None:
    """DBOS leaves SQLite as it is: a rollback journal, synchronous=FULL."""

    @sqlalchemy.event.listens_for(sqlalchemy.Engine, "connect")
    def set_pragmas(connection: Any, record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")


def main(url: str, steps: str, *synchronous: str) -> None:
    if synchronous:
        use_wal(*synchronous)
    DBOS(
        config={"name": "bench", "system_database_url": url, "run_admin_server": False, "log_level": "ERROR"},
    )

    @DBOS.step()
    def step(number: int) -> int:
        return number

    @DBOS.workflow()
    def workflow(steps: int) -> int:
        for number in range(steps):
            step(number)
        return steps

    DBOS.launch()
    serve(lambda calls: [workflow(int(steps)) for _ in range(calls)], int(steps))
    DBOS.destroy()


if __name__ == "__main__":
    main(*sys.argv[1:])
