"""How much room things take: memory of this process, bytes of a file, milliseconds of an import. Each in a fresh process."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.sizes import Size

Record = Callable[[dict[str, float]], None]

#: What the programs below begin with: the memory that the process has, in bytes.
_MEMORY = """
import gc, json, sys

def memory():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
"""

_IDLE = """
from wfe_fast import open_provider
before = memory()
providers = [open_provider(f"sqlite:///{sys.argv[1]}/{number}.db") for number in range(20)]
print(json.dumps([(memory() - before) / len(providers)]))
"""

_LOADED = """
from benchmarks.samples import a_workflow
from wfe_fast import open_provider
number = int(sys.argv[2])
with open_provider(f"sqlite:///{sys.argv[1]}/store.db") as provider:
    ids = [provider.create_new_workflow(a_workflow(10, f"w{n}")) for n in range(number)]
    first = provider.get_workflow_instances(ids[:10])
    before = memory()
    loaded = provider.get_workflow_instances(ids)
    print(json.dumps([(memory() - before) / len(loaded)]))
"""

_FILE = """
import os, time
from benchmarks.samples import fill_with_sleeping
from wfe_fast import open_provider
number = int(sys.argv[2])
path = f"{sys.argv[1]}/store.db"
with open_provider(f"sqlite:///{path}") as provider:
    begin = time.perf_counter()
    fill_with_sleeping(provider, 0, number)
    rate = number / (time.perf_counter() - begin)
print(json.dumps([os.stat(path).st_size / number, rate]))
"""

_IMPORT = """
import time
begin = time.perf_counter()
import wfe_fast
taken = time.perf_counter() - begin
assert not {"apsw", "psycopg"} & set(sys.modules)
print(json.dumps([taken * 1000]))
"""


def run(program: str, *words: object) -> list[float]:
    command = [sys.executable, "-c", _MEMORY + program, *map(str, words)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    return list(json.loads(done.stdout))


@pytest.fixture
def record(benchmark: BenchmarkFixture) -> Record:
    def record(sizes: dict[str, float]) -> None:
        benchmark.pedantic(lambda: None)
        benchmark.extra_info["sizes"] = {name: float(f"{value:.4g}") for name, value in sizes.items()}

    return record


def test_import(record: Record, size: Size) -> None:
    """No driver is loaded."""
    taken = [milliseconds for _ in range(size.turns) for milliseconds in run(_IMPORT)]
    record({"import wfe_fast, milliseconds": statistics.median(taken)})


def test_memory(record: Record, size: Size, tmp_path: Path) -> None:
    (idle,) = run(_IDLE, tmp_path)
    (loaded,) = run(_LOADED, tmp_path, size.of(10_000))
    record({"an idle provider, KiB": idle / 1024, "a loaded workflow of 10 pointers, KiB": loaded / 1024})


def test_file(record: Record, size: Size, tmp_path: Path) -> None:
    """Workflows of one pointer, created 500 in a transaction."""
    number = size.of(1_000_000)
    bytes_each, rate = run(_FILE, tmp_path, number)
    record({f"bytes of a file for each of {number:,} workflows": bytes_each, "workflows created per second": rate})
