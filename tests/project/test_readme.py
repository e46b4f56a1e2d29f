"""What the README shows works as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
SAMPLES = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [code.strip() for language, code in BLOCKS if language == "sh"]


def run_sample(code: str, folder: Path) -> str:
    (folder / "sample.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "sample.py"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("code", SAMPLES, ids=lambda code: code.strip().splitlines()[0])
def test_every_sample_runs(code: str, tmp_path: Path) -> None:
    run_sample(code, tmp_path)


def test_the_complete_program_prints_what_the_readme_says_and_does_nothing_twice(tmp_path: Path) -> None:
    (program,) = [code for code in SAMPLES if "WorkflowHost(" in code]
    result = "Order(items=['tea', 'cup'], total=25.0, approved_by='kim')"
    assert result in README
    assert re.fullmatch(rf"charge 25\.0, key \S+\n{re.escape(result)}\n", run_sample(program, tmp_path))
    assert run_sample(program, tmp_path) == f"{result}\n"


def test_the_durable_function_prints_what_the_readme_says_and_does_nothing_twice(tmp_path: Path) -> None:
    (program,) = [code for code in SAMPLES if "DurableEngine(" in code]
    result = "{'total': 12.5, 'approved': True}"
    assert result in README
    assert run_sample(program, tmp_path) == f"charge 12.5 for A-17\n{result}\n"
    assert run_sample(program, tmp_path) == f"{result}\n"


def test_all_code_blocks_are_python_or_shell_and_there_are_some() -> None:
    assert {language for language, _ in BLOCKS} == {"python", "sh"}
    assert len(SAMPLES) >= 1


def test_two_commands_of_one_line_do_their_own_set_up() -> None:
    demo, tests = COMMANDS
    for command in (demo, tests):
        assert re.match(r"python3 -m venv \.venv && \.venv/bin/pip install -q ", command)
        assert "\n" not in command
    assert demo.endswith(".venv/bin/wfe-fast demo")
    assert ".venv/bin/pytest" in tests


def test_the_build_takes_its_commands_from_the_readme() -> None:
    for text, command in zip(["wfe-fast demo", "pytest"], COMMANDS, strict=True):
        found = subprocess.run(
            [ROOT / "ci" / "readme-command", text], capture_output=True, text=True, check=True, timeout=60
        )
        assert found.stdout.strip() == command


def test_every_file_that_the_texts_name_exists() -> None:
    for text in ("README.md", "CONTRIBUTING.md"):
        content = (ROOT / text).read_text(encoding="utf-8")
        named = re.findall(r"\]\(([^)#:]+)\)|`((?:wfe_fast|tests|benchmarks|ci|\.ci)/[\w./-]*)`", content)
        paths = [link or path for link, path in named]
        assert [path for path in paths if not (ROOT / path).exists()] == []
