"""Folders to work on, and the real command in a process of its own."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PATIENCE = 120

SOURCE = '"""Some Python."""\n\n\ndef answer(x: int) -> int:\n    return x * 42  # always\n'


def environment(*first: Path) -> dict[str, str]:
    """What a child needs to import the package, whether or not it is installed."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*first, ROOT]))}


def arguments(*args: object) -> list[str]:
    return [sys.executable, "-m", "wfe_fast", "demo", *map(str, args)]


def run_demo(*args: object, cwd: Path, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments(*args),
        cwd=cwd,
        env=environment(*path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON object on the last line of stdout."""
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def small_folder(folder: Path) -> dict[str, bytes]:
    """Fill a folder with some of everything; return the files that count, by their path."""
    files = {
        "a.py": SOURCE.encode(),
        "b/broken.py": b"def (:\n  '''",
        "b/deep/er/notes.txt": "Grüße\nan alle, die dies lesen\nohne Ende".encode(),
        "b.txt": b"one line\n",
        "bytes.bin": bytes(range(256)) * 500,
        "empty": b"",
        "line\nfeed [red].txt": b"x\n\n\n",
    }
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "b" / "__pycache__").mkdir()
    (folder / "b" / "__pycache__" / "a.cpython-310.pyc").write_bytes(b"cached")
    (folder / "link.py").symlink_to(folder / "a.py")
    (folder / "linked").symlink_to(folder / "b")
    return files


def heavy_folder(folder: Path, count: int = 30) -> None:
    """Fill a folder with sources that take a while to tokenise, so that a run can be met in its middle."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"module_{number:03}.py").write_text(SOURCE * 1000, encoding="utf-8")


def digest_of(files: dict[str, bytes]) -> str:
    lines = [f"{path}\0{hashlib.sha256(content).hexdigest()}\n" for path, content in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def tokens_of(files: dict[str, bytes]) -> int:
    total = 0
    for path, content in files.items():
        if path.endswith(".py"):
            try:
                total += len(list(tokenize.tokenize(io.BytesIO(content).readline)))
            except (tokenize.TokenError, SyntaxError):
                continue
    return total
