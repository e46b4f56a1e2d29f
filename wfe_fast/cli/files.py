"""The files that the demo works on, and their names.

A name on disk is bytes. Nearly always they are UTF-8; the others are shown with escapes (``caf\\xe9.txt``) and carried as hex digits.
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_INSTALLED = frozenset({"site-packages", "dist-packages"})


class FileName(msgspec.Struct, frozen=True):
    """Where a file is: `folder` and `path` (relative, with slashes) as text; `raw` = the whole path in hex where it is not UTF-8."""

    folder: str
    path: str
    raw: str | None = None

    @property
    def location(self) -> str | bytes:
        """What `open` takes."""
        return os.path.join(self.folder, self.path) if self.raw is None else bytes.fromhex(self.raw)

    @property
    def workflow_id(self) -> str:
        """The same for the same file in every run: 32 hex digits."""
        location = self.location
        whole = os.fsencode(location) + b"\0" + os.fsencode(self.folder)
        return hashlib.sha256(whole).hexdigest()[:32]


class Listing(msgspec.Struct):
    """The regular files below a folder in the order of their paths, and what could not be listed: (path, reason)."""

    files: list[FileName]
    problems: list[tuple[str, str]]


def standard_library() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def shown(name: str) -> str:
    """A name as text that UTF-8 can hold."""
    return os.fsencode(name).decode(errors="backslashreplace")


def reference_of(folder: Path) -> str:
    """What the workflows of one folder have in common, whatever its length."""
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]


def list_files(folder: Path, without: Collection[Path] = ()) -> Listing:
    """The regular files below `folder`. Links are not followed; ``__pycache__`` is left out, as are the packages installed into a
    standard library.

    Args:
        folder: an absolute path.
        without: absolute paths of files that are none of the work, such as the demo's own database.
    """
    listing = Listing([], [])
    skipped = {os.fspath(path) for path in without}
    below_library = folder == standard_library().resolve()
    for path in _walk(os.fspath(folder), _INSTALLED if below_library else frozenset(), listing.problems):
        if path not in skipped:
            listing.files.append(_named(folder, path))
    listing.files.sort(key=lambda file: file.path)
    return listing


def _walk(folder: str, leave_out: frozenset[str], problems: list[tuple[str, str]]) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        problems.append((shown(folder), error.strerror or str(error)))
        return
    for entry in found:
        if entry.is_file(follow_symlinks=False):
            yield entry.path
        elif entry.is_dir(follow_symlinks=False) and entry.name != "__pycache__" and entry.name not in leave_out:
            yield from _walk(entry.path, frozenset(), problems)


def _named(folder: Path, path: str) -> FileName:
    relative = os.path.relpath(path, folder).replace(os.sep, "/")
    plain = shown(path) == path
    return FileName(shown(os.fspath(folder)), shown(relative), None if plain else os.fsencode(path).hex())
