"""The entry point: with and without the packages of the extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

import wfe_fast
from tests.cli.helpers import PATIENCE, environment
from wfe_fast.cli import main


def call(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("package", ["click", "rich"])
def test_without_the_extra_it_says_in_one_line_how_to_get_it(package: str) -> None:
    done = call(f"import sys; sys.modules[{package!r}] = None\nfrom wfe_fast.cli import main\nsys.exit(main())")
    assert done.returncode == 2
    assert done.stderr == "wfe-fast: the commands need the extra 'cli': pip install 'wfe-fast[cli]'\n"
    assert done.stdout == ""


def test_another_missing_package_is_not_taken_for_the_extra() -> None:
    done = call("import sys; sys.modules['apsw'] = None\nfrom wfe_fast.cli import main\nsys.exit(main())")
    assert done.returncode == 1
    assert "apsw" in done.stderr
    assert "pip install" not in done.stderr


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["wfe-fast", "--version"])
    assert main() == 0
    assert wfe_fast.__version__ in capsys.readouterr().out


def test_help_tells_every_option(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["wfe-fast", "demo", "--help"])
    assert main() == 0
    told = capsys.readouterr().out
    for option in ("FOLDER", "--workers", "--database", "--no-kill", "--json"):
        assert option in told
