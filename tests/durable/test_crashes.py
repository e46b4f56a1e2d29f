"""A workflow whose process is killed between any two writes, or at any time, goes on to the same end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

STEPS = [
    *(f"a{n}" for n in range(6)),
    "flaky",
    "send-x",
    *(f"b{n}" for n in range(5)),
    "send-y",
    *(f"c{n}" for n in range(6)),
]
RESULT = [*STEPS[:8], "send-x", *STEPS[8:14], "send-y", *STEPS[14:]]


def crashes(folder: Path, workflow: str, mode: str) -> list[dict[str, Any]]:
    """What has become of the workflow after each crash."""
    command = [sys.executable, "-m", "tests.durable.crasher", str(folder), workflow, mode]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(facts: dict[str, Any], workflow: str) -> None:
    lines = [line for line in facts["log"] if not line.startswith("undo-")]
    runs = Counter(line.split()[0] for line in lines)
    expected = Counter(STEPS) + Counter(["flaky"])  # it fails once
    repeated = runs - expected
    assert runs - repeated == expected, "each step ran"
    assert repeated.total() <= 1, f"at most the step that was running runs again: {repeated}"
    for name in repeated:
        assert any(line.startswith(f"{name} ") and line.endswith(" doubt") for line in lines), lines
    assert sum(line.endswith(" doubt") for line in lines) <= 1 + ("flaky" in repeated or repeated.total() == 0)
    completed = Counter(name for name, attempt, status in facts["rows"] if status == "COMPLETED")
    assert completed == Counter(["nap", "second nap", "send-x", "send-y"]) + Counter(STEPS)
    assert facts["pending"] == 0
    undone = [line for line in facts["log"] if line.startswith("undo-")]
    if workflow == "good":
        assert facts["status"] == "COMPLETED"
        assert facts["results"] == [RESULT, RESULT]
        assert undone == []
    else:
        assert facts["status"] == "FAILED"
        assert facts["results"] == ["RuntimeError: in the end"] * 2
        order = ["undo-c4", "undo-c2", "undo-b4", "undo-b2", "undo-a4", "undo-a2"]
        assert sorted(set(undone), key=undone.index) == order
        assert len(undone) <= len(order) + 1, "at most the one that was running is undone again"
        recorded = Counter(name for name, attempt, status in facts["rows"] if status == "COMPENSATED")
        assert recorded == Counter(f"{line.removeprefix('undo-')}:compensate" for line in order)


@pytest.mark.parametrize("workflow", ["good", "bad"])
def test_killed_before_every_single_write(tmp_path: Path, workflow: str) -> None:
    found = crashes(tmp_path, workflow, "every")
    assert len(found) > 45
    for facts in found:
        check(facts, workflow)


@pytest.mark.parametrize("workflow", ["good", "bad"])
def test_killed_at_any_time(tmp_path: Path, workflow: str) -> None:
    found = crashes(tmp_path, workflow, "12")
    assert len(found) > 3
    for facts in found:
        check(facts, workflow)
