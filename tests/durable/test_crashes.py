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

from wfe_fast.postgres import PostgresCheckpointStore

pytestmark = pytest.mark.once

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


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest) -> list[str]:
    """What the crasher is told of the database; nothing = a file in its folder."""
    if request.param == "sqlite":
        return []
    place = [request.getfixturevalue("postgres_dsn"), request.getfixturevalue("postgres_empty_schema")]
    with PostgresCheckpointStore(*place) as store:
        store.migrate()
    return place


def crashes(folder: Path, workflow: str, mode: str, database: list[str]) -> list[dict[str, Any]]:
    """What has become of the workflow after each crash."""
    command = [sys.executable, "-m", "tests.durable.crasher", str(folder), workflow, mode, *database]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, check=False)
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
    if workflow != "bad":
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
def test_killed_before_every_single_write(tmp_path: Path, workflow: str, database: list[str]) -> None:
    found = crashes(tmp_path, workflow, "every", database)
    assert len(found) > 45
    assert [facts["deaths"] for facts in found] == [1] * (len(found) - 1) + [0]
    for facts in found:
        check(facts, workflow)


@pytest.mark.parametrize("workflow", ["good", "bad"])
def test_killed_anywhere(tmp_path: Path, workflow: str, database: list[str]) -> None:
    """Also in the middle of a write, of a read and of a step; where, is counted and not timed."""
    found = crashes(tmp_path, workflow, "random:12", database)
    assert [facts["deaths"] for facts in found].count(1) > 6
    for facts in found:
        check(facts, workflow)


def test_killed_around_an_attempt_that_is_made_later(tmp_path: Path, database: list[str]) -> None:
    """The step fails, and its next attempt waits for a timer."""
    found = crashes(tmp_path, "patient", "15-20", database)
    assert [facts["deaths"] for facts in found] == [1] * 6
    for facts in found:
        check(facts, "patient")


@pytest.mark.parametrize("workflow", ["poison", "poison undoing"])
def test_what_kills_whoever_runs_it_is_not_run_for_ever(tmp_path: Path, workflow: str, database: list[str]) -> None:
    """The limit is three: the first run, three takeovers, and then it is undone, for which the same holds."""
    (facts,) = crashes(tmp_path, workflow, "poison", database)
    log = Counter(facts["log"])
    assert facts["log"][:3] == ["a", "b", "c"]
    assert (log["a"], log["poison"]) == (1, 4)
    assert facts["status"] == "FAILED"
    assert facts["results"] == [facts["message"]]
    assert "RecoveryLimitError" in facts["message"]
    undone = [name for name, attempt, status in facts["rows"] if status == "COMPENSATED"]
    if workflow == "poison":
        assert facts["deaths"] == 4
        assert facts["log"][7:] == ["undo-c", "undo-b", "undo-a"]
        assert undone == ["a:compensate", "b:compensate", "c:compensate"]
    else:
        assert facts["deaths"] == 8
        assert facts["log"][7:] == ["undo-c", *["undo-b"] * 4]
        assert undone == ["c:compensate"]
