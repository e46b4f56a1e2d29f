"""Huey: a task from being put into the queue to its result. Word: the path of its SQLite file."""

from __future__ import annotations

import sys

from huey import SqliteHuey

from benchmarks.peers import serve


def main(path: str) -> None:
    huey = SqliteHuey(filename=path)

    @huey.task()
    def task(number: int) -> int:
        return number

    def work(calls: int) -> None:
        for number in range(calls):
            task(number)
            huey.execute(huey.dequeue())

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
