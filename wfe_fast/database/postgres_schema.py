"""Schema versions on PostgreSQL: tables of a line in a schema, with a prefix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import tuple_row

from wfe_fast.database.base import Row
from wfe_fast.database.migrations import Migration, pending_migrations
from wfe_fast.database.postgres_names import Names
from wfe_fast.errors import SchemaMismatchError, StoreUnavailableError

_TABLE = "wfe_fast_migrations"

_CREATE_SCHEMA = 'CREATE SCHEMA IF NOT EXISTS "{schema}"'

_CREATE_TABLE = """CREATE TABLE IF NOT EXISTS "{schema}".wfe_fast_migrations (line TEXT NOT NULL, version INT NOT NULL, name TEXT NOT NULL,
    checksum TEXT NOT NULL, applied_at BIGINT NOT NULL, prefix TEXT NOT NULL, PRIMARY KEY (line, version))"""

_HISTORY = """SELECT version, checksum, prefix FROM "{schema}".wfe_fast_migrations WHERE line = %s ORDER BY version"""

_APPLIED = """INSERT INTO "{schema}".wfe_fast_migrations (line, version, name, checksum, applied_at, prefix)
    VALUES ('%s', %d, '%s', '%s', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, '{prefix}')"""


_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"

#: What comes with the tables of another program is slow on large ones: no time limit of the connection's counts, for who waits neither. Behind
#: the lock one has to see what its last holder has committed.
_PREPARATIONS = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL lock_timeout = 0",
    "SET LOCAL client_min_messages = warning",
)


class Schema:
    """The tables of a line.

    Args:
        store: names the database in errors.
    """

    def __init__(self, names: Names, store: str, line: str, migrations: tuple[Migration, ...]) -> None:
        self._names = names
        self._store = store
        self._line = line
        self._migrations = migrations

    def script(self, pending: Sequence[Migration] | None = None) -> str:
        """The SQL that makes the tables (or applies what is pending), for somebody who may do so."""
        parts = [_CREATE_SCHEMA, _CREATE_TABLE]
        for migration in self._migrations if pending is None else pending:
            parts.append(migration.sql.strip().rstrip(";"))
            parts.append(_APPLIED % (self._line, migration.version, migration.name, migration.checksum))
        return self._names.resolve(";\n\n".join(parts) + ";\n")

    def bring_up_to_date(self, connection: psycopg.Connection[Any]) -> bool:
        """Apply what is pending, in one transaction. `connection` is in autocommit mode.

        Returns:
            Whether transactions on such a connection are isolated in another way than READ COMMITTED, if they do not say how.

        Raises:
            SchemaMismatchError: a newer release has been here, or the tables have another prefix; nothing was changed.
            StoreUnavailableError: the role may not create what is missing.
            psycopg.Error: anything else.
        """
        # A caller's pool may have cursors that make something else of a row.
        cursor = psycopg.Cursor(connection, row_factory=tuple_row)
        try:
            if self._pending(cursor):
                with connection.transaction():
                    for statement in _PREPARATIONS:
                        cursor.execute(statement)
                    # Held to the end, by whoever comes first: the others then find nothing to do.
                    cursor.execute(_LOCK, [f"wfe_fast {self._names.schema}"])
                    pending = self._pending(cursor)
                    if pending:
                        self._apply(cursor, pending)
            isolation = cursor.execute("SHOW default_transaction_isolation").fetchone()
            return isolation != ("read committed",)
        except errors.InsufficientPrivilege as error:
            raise StoreUnavailableError(self._store, self._advice(error)) from error

    def _apply(self, cursor: psycopg.Cursor[Row], pending: Sequence[Migration]) -> None:
        script = self.script(pending)
        found = cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [self._names.schema]).fetchone()
        if found:
            # Where it is there already, even IF NOT EXISTS asks for the right to create schemas.
            script = script.partition(";\n\n")[2]
        result = cursor.connection.pgconn.exec_(script.encode())
        if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)

    def _pending(self, cursor: psycopg.Cursor[Row]) -> tuple[Migration, ...]:
        exists = cursor.execute(
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
            [self._names.schema, _TABLE],
        ).fetchone()
        if not exists:
            return self._migrations
        rows = cursor.execute(self._names.resolve(_HISTORY).encode(), [self._line]).fetchall()
        prefixes = {row[2] for row in rows}
        if prefixes - {self._names.prefix}:
            (other,) = prefixes - {self._names.prefix}
            raise SchemaMismatchError(
                self._store,
                f"its {self._line} tables have the prefix {other!r}, not {self._names.prefix!r}; nothing was changed",
            )
        return pending_migrations(self._line, self._migrations, [(row[0], row[1]) for row in rows], self._store)

    def _advice(self, error: psycopg.Error) -> str:
        return (
            f"the role may not create what is missing ({str(error).strip().splitlines()[0]}); let an administrator run what"
            f" `wfe-fast schema --schema {self._names.schema}"
            + (f" --table-prefix {self._names.prefix}" if self._names.prefix else "")
            + "` prints, as the role that is to own the tables"
        )
