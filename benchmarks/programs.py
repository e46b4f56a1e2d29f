"""The Rust originals as contestants: the program of `benchmarks/originals` measures a turn of theirs and reports its rate."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

_SOURCES = Path(__file__).parent / "originals"


@dataclass(frozen=True)
class Original:
    """One of the originals.

    Args:
        command: the program and its words, without the number of calls.
        share: the part of the others' calls that it gets: it is slower.
        threaded: whether it knows of threads.
    """

    command: tuple[str, ...]
    share: float = 1.0
    threaded: bool = True

    def seconds(self, calls: int, threads: int) -> float:
        words = [*self.command, "--count", str(max(3, round(calls * self.share)))]
        if self.threaded:
            words += ["--threads", str(threads)]
        report = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        return 1 / float(report["calls_per_second"])


def build() -> str:
    """The program, built by cargo.

    Raises:
        pytest.UsageError: cargo is not installed.
    """
    cargo = shutil.which("cargo")
    if cargo is None:
        raise pytest.UsageError("--originals needs cargo, or the path of the program: --originals=PATH")
    subprocess.run([cargo, "build", "--release", "--manifest-path", str(_SOURCES / "Cargo.toml")], check=True)
    return str(_SOURCES / "target" / "release" / "originals")
