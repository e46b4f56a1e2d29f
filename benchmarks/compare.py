"""`python -m benchmarks.compare`: run the benchmarks, and write what came out as JSON, as a Markdown table, as plots, and in the README.

Words behind the command are pytest's: `--size small`, `-k durable`, `--originals` (builds the Rust originals with cargo), `--originals=PROGRAM`.
A part of it, or a small size, is printed and kept nowhere.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import apsw
import pytest

from benchmarks.plots import draw
from benchmarks.tables import whole, with_blocks
from wfe_fast.clock import system_clock
from wfe_fast.database.postgres_server import PostgresServer

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"

_VERSIONS = (
    "apsw",
    "psycopg",
    "msgspec",
    "dbos",
    "langgraph-checkpoint-sqlite",
    "langgraph-checkpoint-postgres",
    "huey",
)


def main(words: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        code = pytest.main([str(RESULTS.parent), "-q", f"--benchmark-json={report}", *words])
        found = json.loads(report.read_text())["benchmarks"] if report.exists() and report.stat().st_size else []
    if not found:
        return code or 1
    results = {"setting": _setting(words), "results": [_result(each) for each in found]}
    if any(not word.startswith("--originals") for word in words):
        print(whole(results))  # a part of it, or a small size: nothing to keep
        return code
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "results.md").write_text(whole(results))
    README.write_text(with_blocks(README.read_text(), results))
    draw(results["results"], RESULTS)
    return code


def _setting(words: list[str]) -> dict[str, Any]:
    """On what it was measured, and how to repeat it."""
    with PostgresServer() as server:
        postgres = server.sql("SHOW server_version")
    return {
        "date": system_clock().date().isoformat(),
        "command": " ".join(["python -m benchmarks.compare", *(word.partition("=")[0] for word in words)]),
        "machine": f"{platform.system()} {platform.machine()}, {_cores()} cores, {_processor()}",
        "versions": {
            "Python": platform.python_version(),
            "SQLite": apsw.sqlite_lib_version(),
            "PostgreSQL": postgres,
            **{name: version(name) for name in _VERSIONS},
        },
    }


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _result(found: dict[str, Any]) -> dict[str, Any]:
    return {"name": found["name"], "file": Path(found["fullname"].partition("::")[0]).stem, **found["extra_info"]}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
