"""Schema versions. A *line* is the history of one contract's tables; several lines may share a database.

A migration is a file ``<nnnn>_<name>.sql`` that is never edited after its release: its checksum is stored and compared.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from wfe_fast.errors import SchemaMismatchError

_FILE = re.compile(r"^(?P<version>\d{4})_(?P<name>[a-z_]+)\.(?P<dialect>[a-z]+)\.sql$")


@dataclass(frozen=True)
class Migration:
    """One step of a line."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load_migrations(package: str, dialect: str) -> tuple[Migration, ...]:
    """The migrations in `package` (a package with files ``0001_name.<dialect>.sql``), in order.

    Raises:
        ValueError: the versions are not 1, 2, 3, …
    """
    found = []
    for entry in resources.files(package).iterdir():
        match = _FILE.match(entry.name)
        if match and match["dialect"] == dialect:
            found.append(Migration(int(match["version"]), match["name"], entry.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"{package}: the {dialect} migrations are not numbered 1, 2, 3, …")
    return tuple(found)


def pending_migrations(
    line: str, known: tuple[Migration, ...], applied: list[tuple[int, str]], store: str
) -> tuple[Migration, ...]:
    """Those of `known` that are still to be applied.

    Args:
        applied: version and checksum of each applied migration of the line, in order.

    Raises:
        SchemaMismatchError: a newer version has been here, or the history is not ours.
    """
    if len(applied) > len(known):
        newest = applied[-1][0]
        raise SchemaMismatchError(
            store, f"its {line} tables have version {newest}, newer than the {len(known)} that this release knows"
        )
    for (version, checksum), migration in zip(applied, known, strict=False):
        if (version, checksum) != (migration.version, migration.checksum):
            raise SchemaMismatchError(store, f"migration {version} of its {line} tables is not the one of this release")
    return known[len(applied) :]
