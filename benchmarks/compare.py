"""`python -m benchmarks.compare`: run the benchmarks, and write what came out as JSON, as a Markdown table and as plots.

Words behind the command are pytest's: `--size small`, `-k durable`, `--originals` (builds the Rust originals with cargo), `--originals=PROGRAM`.
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
from wfe_fast.clock import system_clock
from wfe_fast.database.postgres_server import PostgresServer

RESULTS = Path(__file__).parent / "results"

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
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "results.md").write_text(markdown(results))
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


def markdown(results: dict[str, Any]) -> str:
    """The table: one line for each benchmark and whom it compares with."""
    setting = results["setting"]
    lines = [
        f"Measured on {setting['date']} with `{setting['command']}`: {setting['machine']};",
        ", ".join(f"{name} {number}" for name, number in setting["versions"].items()) + ".",
        "Medians over the turns, quartiles in brackets. A ratio of 2 means: twice as fast as that one, turn against turn.",
        "",
        "| benchmark | ours, per second | beside | per second | ratio |",
        "|---|---|---|---|---|",
    ]
    compared = [each for each in results["results"] if "ratio" in each]
    for each in compared:
        first = [
            f"{each['file'].removeprefix('test_')}: {each['name'].removeprefix('test_')}",
            _spread(each["per_second"]["ours"]),
        ]
        for name, ratio in each["ratio"].items():
            lines.append("| " + " | ".join([*first, name, _spread(each["per_second"][name]), _spread(ratio)]) + " |")
            first = ["", ""]
    lines += ["", "| room | |", "|---|---|"]
    for each in results["results"]:
        lines += [f"| {name} | {value:,.4g} |" for name, value in each.get("sizes", {}).items()]
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    median, low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values)
    return f"{median} ({low}–{high})"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
