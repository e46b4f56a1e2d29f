"""Row-level security behind the views of the state backend: a second wall, also for SQL that forgets the tenant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests.state.support import dump_schema
from wfe_fast.errors import InvalidValueError, SerializationError, StoreUnavailableError, WfeError
from wfe_fast.postgres import PostgresBackend, state_schema_script
from wfe_fast.state import Tenant
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.state.calls import MANAGING, READS, WRITES, Owned, build_owned
from wfe_fast.testing.state.factories import QUEUE, an_execution, an_item

#: Every table with somebody's rows, and where it says whose.
TABLES = {
    "state_tenants": "id",
    "state_usage": "tenant_id",
    "state_definitions": "tenant_id",
    "state_executions": "tenant_id",
    "state_logs": "tenant_id",
    "state_events": "tenant_id",
    "state_snapshots": "tenant_id",
    "state_items": "tenant_id",
    "state_effects": "tenant_id",
    "state_reservations": "tenant_id",
    "state_tokens": "tenant_id",
}

HOSTILE = {
    "quotes": "a'; DROP TABLE state_tenants; --\"",
    "settings": "acme', true), set_config('role', 'postgres",
    "percent": "%",
    "backslash": "\\",
    "dollar": "$$",
    "look-alike": "асme",
    "upper case": "ACME",
    "blank behind": "acme ",
    "zero width": "ac\u200bme",
    "newline": "acme\n",
    "1,000 bytes": "x" * 1000,
}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def root(postgres_dsn: str, postgres_empty_schema: str, clock: ManualClock) -> Iterator[PostgresBackend]:
    with PostgresBackend.open(postgres_dsn, schema=postgres_empty_schema, clock=clock) as backend:
        for name in ("acme", "other"):
            backend.create_tenant(Tenant(id=name, name=name))
        yield backend


@pytest.fixture
def owned(root: PostgresBackend, clock: ManualClock) -> Owned:
    return build_owned(root.for_tenant("acme"), clock)


@pytest.fixture
def reader(postgres_dsn: str, postgres_empty_schema: str, owned: Owned) -> Iterator[psycopg.Connection[Any]]:
    """A connection as somebody who has no rights but those of the views' role, and may not pass by its policies."""
    role = f"{postgres_empty_schema}_reader"
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f'CREATE ROLE "{role}" LOGIN IN ROLE "{postgres_empty_schema}_scoped"'.encode())
    try:
        given = psycopg.conninfo.make_conninfo(
            postgres_dsn, user=role, options=f"-c search_path={postgres_empty_schema}"
        )
        with psycopg.connect(given, autocommit=True) as connection:
            yield connection
    finally:
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            connection.execute(f'DROP OWNED BY "{role}"; DROP ROLE "{role}"'.encode())


def count(connection: psycopg.Connection[Any], table: str) -> int:
    row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    assert row is not None
    return int(row[0])


def set_tenant(connection: psycopg.Connection[Any], tenant: str) -> None:
    connection.execute("SELECT set_config('wfe_fast.tenant', %s, FALSE)", [tenant])


def test_every_table_with_a_tenant_has_its_policies(
    postgres_dsn: str, postgres_empty_schema: str, root: PostgresBackend
) -> None:
    with psycopg.connect(postgres_dsn) as connection:
        columns = connection.execute(
            "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = %s AND column_name = 'tenant_id'",
            [postgres_empty_schema],
        ).fetchall()
        policies = connection.execute(
            "SELECT tablename, policyname, permissive FROM pg_policies WHERE schemaname = %s", [postgres_empty_schema]
        ).fetchall()
    assert {name for (name,) in columns} | {"state_tenants"} == TABLES.keys()
    assert sorted(policies) == sorted(
        policy
        for table in TABLES
        for policy in ((table, "state_scope", "PERMISSIVE"), (table, "state_scoped", "RESTRICTIVE"))
    )


@pytest.mark.parametrize("table", TABLES)
def test_raw_sql_that_forgets_the_tenant(
    postgres_dsn: str, postgres_empty_schema: str, reader: psycopg.Connection[Any], table: str
) -> None:
    before = dump_schema(postgres_dsn, postgres_empty_schema)
    if table == "state_usage":
        with psycopg.connect(postgres_dsn, autocommit=True) as connection:
            connection.execute(f"INSERT INTO {postgres_empty_schema}.state_usage VALUES ('acme', 1, 1, 1)".encode())
    assert count(reader, table) == 0
    set_tenant(reader, "acme")
    assert count(reader, table) > 0
    set_tenant(reader, "other")
    assert count(reader, table) == (1 if table == "state_tenants" else 0)
    if table == "state_tenants":
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("UPDATE state_tenants SET limits = NULL")
        return
    assert reader.execute(f"UPDATE {table} SET tenant_id = tenant_id".encode()).rowcount == 0
    assert reader.execute(f"DELETE FROM {table}".encode()).rowcount == 0
    after = dump_schema(postgres_dsn, postgres_empty_schema)
    assert {name: rows for name, rows in after.items() if name != "state_usage"} == {
        name: rows for name, rows in before.items() if name != "state_usage"
    }


@pytest.mark.parametrize("table", [name for name in TABLES if name != "state_tenants"])
def test_no_row_can_be_given_to_another_tenant(
    postgres_dsn: str, postgres_empty_schema: str, reader: psycopg.Connection[Any], table: str
) -> None:
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute(f"INSERT INTO {postgres_empty_schema}.state_usage VALUES ('acme', 1, 1, 1)".encode())
    set_tenant(reader, "acme")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        reader.execute(f"UPDATE {table} SET tenant_id = 'other'".encode())


@pytest.mark.parametrize("label", {**WRITES, **READS})
def test_functions_that_are_told_no_tenant(
    postgres_dsn: str, postgres_empty_schema: str, root: PostgresBackend, owned: Owned, label: str
) -> None:
    """As if no statement of a view had its filter: the wall alone keeps every method from another tenant's rows."""
    view = root.for_tenant("other")
    view._tenant = view._calls._tenant = None
    before = dump_schema(postgres_dsn, postgres_empty_schema)
    with suppress(WfeError):
        {**WRITES, **READS}[label](view, owned)
    after = dump_schema(postgres_dsn, postgres_empty_schema)
    for table, column in TABLES.items():
        place = _columns(postgres_dsn, postgres_empty_schema, table).index(column)
        of_owner = [[row for row in dumped[table] if row[place] == "acme"] for dumped in (before, after)]
        if (table, label) in {("state_tokens", "validate_token"), ("state_tokens", "rotate_token")}:
            continue  # who shows a token is who it says, whatever the view
        assert of_owner[0] == of_owner[1], table


def _columns(dsn: str, schema: str, table: str) -> list[str]:
    with psycopg.connect(dsn) as connection:
        cursor = connection.execute(f"SELECT * FROM {schema}.{table} LIMIT 0".encode())
        assert cursor.description is not None
        return [column.name for column in cursor.description]


def test_nothing_stays_on_the_connection(root: PostgresBackend, owned: Owned) -> None:
    """The connection of a view's call serves the unscoped backend next."""
    view = root.for_tenant("acme")

    def settings(session: Any) -> tuple[Any, ...]:
        row: tuple[Any, ...] = session.one(
            "SELECT current_user = session_user, current_setting('wfe_fast.tenant', TRUE)"
        )
        return row

    assert view.count_executions()
    with suppress(WfeError):
        view.update_execution_current_state(an_execution().execution_id, 1)
    assert root.pool.read(settings) in ((True, ""), (True, None))
    assert view._read(settings) == (False, "acme")
    assert len(root.list_tenants()) == 3


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_just_other_names(
    postgres_dsn: str, postgres_empty_schema: str, root: PostgresBackend, owned: Owned, name: str
) -> None:
    view = root.for_tenant(HOSTILE[name])
    before = dump_schema(postgres_dsn, postgres_empty_schema)
    for call in ({**WRITES, **READS}).values():
        with suppress(WfeError):
            call(view, owned)
    after = dump_schema(postgres_dsn, postgres_empty_schema)
    before.pop("state_tokens"), after.pop("state_tokens")  # a secret says whose it is, from every view
    assert after == before
    root.create_tenant(Tenant(id=HOSTILE[name], name="n"))
    execution = an_execution()
    view.create_execution(execution)
    view.enqueue_work_item(an_item(execution))
    assert view.list_executions() == [execution]
    item = view.claim_work_item("w", [QUEUE])
    assert item is not None
    assert item.tenant_id == HOSTILE[name]


@pytest.mark.parametrize(("name", "error"), [("x" * 10_000, InvalidValueError), ("a\0b", SerializationError)])
def test_names_that_are_refused(root: PostgresBackend, name: str, error: type[WfeError]) -> None:
    with pytest.raises(error):
        root.for_tenant(name)


# -- whoever the application is ----------------------------------------------------------------------------------------------------------


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.fixture
def login(postgres_dsn: str, postgres_schema: str) -> Iterator[Callable[[str], str]]:
    """Makes a role with some attributes; the address to connect as it."""
    made: list[str] = []

    def make(attributes: str) -> str:
        role = f"{postgres_schema}_app"
        execute(postgres_dsn, f'CREATE ROLE "{role}" LOGIN {attributes}')
        made.append(role)
        database = psycopg.conninfo.conninfo_to_dict(postgres_dsn)["dbname"]
        execute(postgres_dsn, f'GRANT CREATE ON DATABASE "{database}" TO "{role}"')
        return psycopg.conninfo.make_conninfo(postgres_dsn, user=role)

    yield make
    execute(postgres_dsn, f'DROP SCHEMA IF EXISTS "{postgres_schema}" CASCADE')
    execute(postgres_dsn, f'DROP ROLE IF EXISTS "{postgres_schema}_scoped"')
    for role in made:
        execute(postgres_dsn, f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')


def works(root: PostgresBackend, clock: ManualClock) -> None:
    """Every method works, unscoped and through a view."""
    owned = build_owned(root, clock)
    for call in MANAGING.values():
        call(root, owned)
    root.create_tenant(Tenant(id="acme", name="A"))
    build_owned(root.for_tenant("acme"), clock)
    assert len(root.list_executions()) == 4
    assert len(root.for_tenant("acme").list_executions()) == 2


@pytest.mark.parametrize("attributes", ["CREATEROLE", "NOCREATEROLE"])
def test_the_owner_of_the_tables(
    postgres_schema: str, login: Callable[[str], str], attributes: str, clock: ManualClock
) -> None:
    """Who may not make the role has the first wall alone."""
    with PostgresBackend.open(login(attributes), schema=postgres_schema, clock=clock) as root:
        works(root, clock)
        assert root._role() == (f"{postgres_schema}_scoped" if attributes == "CREATEROLE" else None)


def test_behind_the_script_of_an_administrator(
    postgres_dsn: str, postgres_schema: str, login: Callable[[str], str], clock: ManualClock
) -> None:
    dsn = login("")
    with pytest.raises(StoreUnavailableError, match="wfe-fast schema"):
        execute(postgres_dsn, f'CREATE SCHEMA "{postgres_schema}"')
        PostgresBackend.open(dsn, schema=postgres_schema)
    execute(postgres_dsn, state_schema_script(postgres_schema, "p_", grant_to=f"{postgres_schema}_app"))
    with PostgresBackend.open(dsn, schema=postgres_schema, table_prefix="p_", clock=clock) as root:
        works(root, clock)
        assert root._role() == f"{postgres_schema}_scoped"
