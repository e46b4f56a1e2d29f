"""Schema versions on PostgreSQL: tables of a line in a schema, with a prefix."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import errors
from psycopg.rows import tuple_row

from wfe_fast.database.base import Row
from wfe_fast.database.migrations import Migration, pending_migrations
from wfe_fast.database.postgres_names import Names
from wfe_fast.errors import InvalidValueError, SchemaMismatchError, StoreUnavailableError

_TABLE = "wfe_fast_migrations"

_CREATE_SCHEMA = 'CREATE SCHEMA IF NOT EXISTS "{schema}"'

_CREATE_TABLE = """CREATE TABLE IF NOT EXISTS "{schema}".wfe_fast_migrations (line TEXT NOT NULL, version INT NOT NULL, name TEXT NOT NULL,
    checksum TEXT NOT NULL, applied_at BIGINT NOT NULL, prefix TEXT NOT NULL, PRIMARY KEY (line, version))"""

_HISTORY = """SELECT version, checksum, prefix FROM "{schema}".wfe_fast_migrations WHERE line = %s ORDER BY version"""

_APPLIED = """INSERT INTO "{schema}".wfe_fast_migrations (line, version, name, checksum, applied_at, prefix)
    VALUES ('%s', %d, '%s', '%s', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, '{prefix}')"""


_TABLES = re.compile(r"^CREATE TABLE (?:IF NOT EXISTS )?@(\w+)", re.MULTILINE)
#: Tables that a line makes for itself alone, and does not take over where they are there.
_OWN_TABLES = re.compile(r"^CREATE TABLE @(\w+)", re.MULTILINE)
_COLUMNS = re.compile(r"^CREATE TABLE @(\w+) \(\n(.*?)^\)", re.MULTILINE | re.DOTALL)
_COLUMN = re.compile(r"^    ([a-z_]+) ", re.MULTILINE)
_INDEXES = re.compile(r'^CREATE (?:UNIQUE )?INDEX (?:IF NOT EXISTS )?"\{prefix\}(\w+)"', re.MULTILINE)
_SEQUENCES = re.compile(r"^CREATE SEQUENCE (?:IF NOT EXISTS )?@(\w+)", re.MULTILINE)
_FUNCTIONS = re.compile(r"^CREATE FUNCTION @(\w+)", re.MULTILINE)

# The sequences of SERIAL columns have names that the server chooses: they are found by the tables that own them.
_GRANTS = """
GRANT USAGE ON SCHEMA "{schema}" TO <role>;
GRANT SELECT ON "{schema}".wfe_fast_migrations TO <role>;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {tables} TO <role>;
{sequence_grant}
GRANT EXECUTE ON FUNCTION {functions} TO <role>;
DO $grants$
DECLARE owned TEXT;
BEGIN
    FOR owned IN SELECT d.objid::regclass::text FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
        WHERE d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjid = ANY (ARRAY[{regclasses}]::regclass[])
    LOOP
        EXECUTE 'GRANT USAGE ON SEQUENCE ' || owned || ' TO ' || <text>;
    END LOOP;
END $grants$;
"""

#: Whoever runs a script that was printed for an older version than the tables have must not get half of it.
_GUARD = """{lock};
DO $guard$
DECLARE found TEXT[];
BEGIN
    SELECT array_agg(prefix || ' ' || checksum ORDER BY version) INTO found FROM "{schema}".wfe_fast_migrations WHERE line = '{line}';
    IF found IS DISTINCT FROM ARRAY[{expected}] THEN
        RAISE EXCEPTION 'the {line} tables in schema {schema} do not have version {version} of wfe-fast; nothing was changed';
    END IF;
END $guard$;

"""

_HAS_HISTORY = (
    "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s"
)

_TAKEN = """SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = ANY (%s)"""

#: Lines have tables of equal names: where one is, with the same prefix, there is no room for another.
_OTHER_LINES = """SELECT 'tables of ' || line FROM "{schema}".wfe_fast_migrations WHERE line <> %s AND prefix = %s"""

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"

#: What comes with the tables of another program is slow on large ones: no time limit of the connection's counts, for who waits neither. Behind
#: the lock one has to see what its last holder has committed.
_PREPARATIONS = (
    "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL lock_timeout = 0",
    "SET LOCAL client_min_messages = warning",
)


def declared(migrations: tuple[Migration, ...]) -> set[tuple[str, str, str]]:
    """What a line that makes its tables for itself has in the end, without a prefix: ("column", table, column), ("index", name, "") and
    ("function", name, "")."""
    text = "\n".join(migration.sql for migration in migrations)
    return {
        *(("column", table, column) for table, body in _COLUMNS.findall(text) for column in _COLUMN.findall(body)),
        *(("index", name, "") for name in _INDEXES.findall(text)),
        *(("function", name, "") for name in _FUNCTIONS.findall(text)),
    }


def _checked_version(value: object, newest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= newest:
        raise InvalidValueError("from_version", f"must be a version that this release knows, 0 to {newest}", value)
    return value


class Schema:
    """The tables of a line.

    Args:
        store: names the database in errors.
        grants: what a role that uses the tables gets besides them; ``<role>`` is its name, ``<text>`` the same as a text.
    """

    def __init__(
        self, names: Names, store: str, line: str, migrations: tuple[Migration, ...], grants: str = ""
    ) -> None:
        self._names = names
        self._store = store
        self._line = line
        self._migrations = migrations
        self._more_grants = grants
        #: The version that the tables had when they were looked at last; None where the role may not read it.
        self._found: int | None = 0

    def full_script(self, grant_to: str | None = None, from_version: int = 0) -> str:
        """The SQL by which somebody who may do so makes the tables, or upgrades them, in one transaction.

        Args:
            grant_to: the role that gets the rights to use them, and no others.
            from_version: the version that the tables have: run where they have another one, the script fails and changes nothing.

        Raises:
            InvalidValueError: `grant_to` cannot be the name of a role, or no such version is known.
        """
        version = _checked_version(from_version, len(self._migrations))
        grants = "" if grant_to is None else self._grants(grant_to)
        made = self._guard(version) + self._migrating(self._migrations[version:]) if version else self.script()
        return f"BEGIN;\n\n{made}{grants}\nCOMMIT;\n"

    def _guard(self, version: int) -> str:
        expected = (f"'{self._names.prefix} {known.checksum}'" for known in self._migrations[:version])
        lock = _LOCK % f"'wfe_fast {self._names.schema}'"
        return _GUARD.format(
            lock=lock, schema=self._names.schema, line=self._line, expected=", ".join(expected), version=version
        )

    def _grants(self, role: str) -> str:
        if not role or "\0" in role or len(role.encode()) > 63:
            raise InvalidValueError("grant_to", "must be the name of a role, 1 to 63 bytes without NUL", role)
        text = "\n".join(migration.sql for migration in self._migrations)
        tables, sequences, functions = (
            [f"@{name}" for name in pattern.findall(text)] for pattern in (_TABLES, _SEQUENCES, _FUNCTIONS)
        )
        parts = {
            "tables": ", ".join(tables),
            "sequence_grant": f"GRANT USAGE ON SEQUENCE {', '.join(sequences)} TO <role>;" if sequences else "",
            "functions": ", ".join(functions),
            "regclasses": ", ".join(f"'{name}'" for name in tables),
        }
        script = self._names.resolve(_GRANTS.format(schema="{schema}", **parts) + self._more_grants)
        quoted = '"' + role.replace('"', '""') + '"'
        literal = "'" + quoted.replace("'", "''") + "'"
        return script.replace("<role>", quoted).replace("<text>", literal)

    def script(self, pending: Sequence[Migration] | None = None) -> str:
        """The SQL that makes the tables (or applies what is pending)."""
        first = self._names.resolve(f"{_CREATE_SCHEMA};\n\n{_CREATE_TABLE};\n\n")
        return first + self._migrating(self._migrations if pending is None else pending)

    def _migrating(self, pending: Sequence[Migration]) -> str:
        parts = []
        for migration in pending:
            parts.append(migration.sql.strip().rstrip(";"))
            parts.append(_APPLIED % (self._line, migration.version, migration.name, migration.checksum))
        return self._names.resolve("".join(f"{part};\n\n" for part in parts))

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
                        self._refuse_others(cursor, pending)
                        self._apply(cursor, pending)
            isolation = cursor.execute("SHOW default_transaction_isolation").fetchone()
            return isolation != ("read committed",)
        except errors.InsufficientPrivilege as error:
            raise StoreUnavailableError(self._store, self._advice(error)) from error

    def _refuse_others(self, cursor: psycopg.Cursor[Row], pending: Sequence[Migration]) -> None:
        """Look for tables of another line, or of another program, that stand where ours would.

        Raises:
            SchemaMismatchError: there are some.
        """
        text = "\n".join(migration.sql for migration in pending)
        names = [self._names.prefix + name for name in _OWN_TABLES.findall(text)]
        found = cursor.execute(_TAKEN, [self._names.schema, names]).fetchall()
        if not found and cursor.execute(_HAS_HISTORY, [self._names.schema, _TABLE]).fetchone():
            others = self._names.resolve(_OTHER_LINES).encode()
            found = cursor.execute(others, [self._line, self._names.prefix]).fetchall()
        if found:
            problem = (
                f"schema {self._names.schema} has no room for the {self._line} tables: it holds {found[0][0]} of others"
            )
            raise SchemaMismatchError(self._store, f"{problem}; nothing was changed")

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
        self._found = 0
        if not cursor.execute(_HAS_HISTORY, [self._names.schema, _TABLE]).fetchone():
            return self._migrations
        self._found = None
        rows = cursor.execute(self._names.resolve(_HISTORY).encode(), [self._line]).fetchall()
        self._found = len(rows)
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
            f"the role may not create or use the tables ({str(error).strip().splitlines()[0]}); let an administrator run what"
            f" `wfe-fast schema --tables {self._line} --schema {self._names.schema}"
            + (f" --table-prefix {self._names.prefix}" if self._names.prefix else "")
            + (f" --from {'VERSION' if self._found is None else self._found}" if self._found != 0 else "")
            + "` prints, as the role that is to own the tables, with --grant-to and the name of this role"
            + (f" (VERSION is the highest of the line {self._line} in {_TABLE})" if self._found is None else "")
        )
