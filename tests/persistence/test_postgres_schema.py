"""Where the tables of a store lie, who may make them, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from wfe_fast.database.postgres_names import Names
from wfe_fast.database.postgres_schema import Schema
from wfe_fast.errors import InvalidValueError, SchemaMismatchError, StoreUnavailableError
from wfe_fast.persistence.postgres import LINE, MIGRATIONS
from wfe_fast.postgres import PostgresPersistenceProvider, schema_script
from wfe_fast.testing.persistence import jobs
from wfe_fast.testing.persistence.factories import a_workflow, pointers
from wfe_fast.testing.racing import race_processes, values

HOSTILE = [
    "wfc; DROP TABLE x",
    "wfc--comment",
    "1wfc",
    "has space",
    "public.wfc",
    '"quoted"',
    "x" * 64,
    "nul\0",
    "größe",
    "wfc\n",
]


def execute(dsn: str, statement: str, *params: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement, params or None)
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("name", ["", *HOSTILE, "pg_", "pg_catalog", "pg_temp", "pg_wfc", "information_schema"])
def test_hostile_schemas_are_refused(postgres_dsn: str, name: str) -> None:
    with pytest.raises(InvalidValueError, match="schema"):
        PostgresPersistenceProvider(postgres_dsn, schema=name)
    with pytest.raises(InvalidValueError, match="schema"):
        schema_script(name)


@pytest.mark.parametrize("name", [*HOSTILE, "x" * 29])
def test_hostile_prefixes_are_refused(postgres_dsn: str, postgres_schema: str, name: str) -> None:
    with pytest.raises(InvalidValueError, match="table_prefix"):
        PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema, table_prefix=name)
    assert execute(postgres_dsn, "SELECT 1 FROM pg_namespace WHERE nspname = %s", postgres_schema) == []


def test_the_longest_prefix_works_and_nothing_is_in_public(postgres_dsn: str, postgres_schema: str) -> None:
    in_public = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    before = execute(postgres_dsn, in_public)
    open_one = partial(PostgresPersistenceProvider, postgres_dsn, schema=postgres_schema, table_prefix="X" * 28)
    for number in range(2):
        with open_one() as provider:
            provider.create_new_workflow(a_workflow(id=str(number), execution_pointers=pointers(2)))
            assert provider.get_workflow_instance(str(number)).execution_pointers != []
    assert execute(postgres_dsn, in_public) == before


def test_another_prefix_is_refused(postgres_dsn: str, postgres_schema: str) -> None:
    content = "SELECT relname FROM pg_class WHERE relnamespace = %s::regnamespace ORDER BY 1"
    PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema, table_prefix="a_").close()
    before = execute(postgres_dsn, content, postgres_schema)
    for prefix in ("", "b_"):
        with pytest.raises(SchemaMismatchError, match="have the prefix 'a_'"):
            PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema, table_prefix=prefix)
    assert execute(postgres_dsn, content, postgres_schema) == before


def test_a_newer_version_is_refused(postgres_dsn: str, postgres_schema: str) -> None:
    PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema).close()
    table = f'"{postgres_schema}".wfe_fast_migrations'
    execute(postgres_dsn, f"INSERT INTO {table} VALUES ('persistence', 99, 'later', 'x', 0, '')")
    before = execute(postgres_dsn, f"SELECT * FROM {table}")
    with pytest.raises(SchemaMismatchError, match="newer"):
        PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema)
    assert execute(postgres_dsn, f"SELECT * FROM {table}") == before


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_several_processes_open_a_new_store_at_once(postgres_dsn: str, postgres_schema: str, isolation: str) -> None:
    options = "-c default_transaction_isolation=" + isolation.replace(" ", "\\ ")
    dsn = psycopg.conninfo.make_conninfo(postgres_dsn, options=options)
    opener = partial(PostgresPersistenceProvider, dsn, schema=postgres_schema)
    assert values(race_processes(opener, jobs.open_and_ensure, [()] * 4)) == [True] * 4
    found = execute(postgres_dsn, f'SELECT version FROM "{postgres_schema}".wfe_fast_migrations ORDER BY 1')
    assert found == [(migration.version,) for migration in MIGRATIONS]


class TestPlainRole:
    """A role that may not create anything."""

    @pytest.fixture
    def role(self, postgres_dsn: str, postgres_schema: str) -> Iterator[str]:
        role = f"{postgres_schema}_role"
        execute(postgres_dsn, f'CREATE ROLE "{role}" LOGIN')
        yield role
        execute(postgres_dsn, f'DROP OWNED BY "{role}"; DROP ROLE "{role}"')

    @pytest.fixture
    def dsn(self, postgres_dsn: str, role: str) -> str:
        return psycopg.conninfo.make_conninfo(postgres_dsn, user=role)

    @pytest.mark.parametrize("exists", [False, True], ids=["no schema", "a schema to use"])
    def test_it_is_told_what_to_run(
        self, postgres_dsn: str, postgres_schema: str, role: str, dsn: str, exists: bool
    ) -> None:
        if exists:
            execute(
                postgres_dsn,
                f'CREATE SCHEMA "{postgres_schema}"; GRANT USAGE ON SCHEMA "{postgres_schema}" TO "{role}"',
            )
        with pytest.raises(StoreUnavailableError) as raised:
            PostgresPersistenceProvider(dsn, schema=postgres_schema, table_prefix="p_")
        assert f"`wfe-fast schema --tables persistence --schema {postgres_schema} --table-prefix p_`" in str(
            raised.value
        )
        made = execute(
            postgres_dsn,
            "SELECT 1 FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %s",
            postgres_schema,
        )
        assert made == []

    def test_it_works_behind_the_script(self, postgres_dsn: str, postgres_schema: str, role: str, dsn: str) -> None:
        execute(postgres_dsn, schema_script(postgres_schema, "p_", grant_to=role))
        with PostgresPersistenceProvider(dsn, schema=postgres_schema, table_prefix="p_") as provider:
            instance = a_workflow(id="w", execution_pointers=pointers(2))
            provider.create_new_workflow(instance)
            instance.execution_pointers.pop()
            provider.persist_workflow(instance)
            assert provider.get_workflow_instance("w") == instance
            provider.truncate_all()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            execute(dsn, f'DELETE FROM "{postgres_schema}".wfe_fast_migrations')

    def test_without_the_grants_it_is_told_of_them(
        self, postgres_dsn: str, postgres_schema: str, role: str, dsn: str
    ) -> None:
        execute(postgres_dsn, schema_script(postgres_schema))
        with pytest.raises(StoreUnavailableError, match="--grant-to"):
            PostgresPersistenceProvider(dsn, schema=postgres_schema)
        execute(postgres_dsn, f'GRANT USAGE ON SCHEMA "{postgres_schema}" TO "{role}"')
        with pytest.raises(
            StoreUnavailableError, match="--from VERSION.*--grant-to.* the line persistence in wfe_fast_"
        ):
            PostgresPersistenceProvider(dsn, schema=postgres_schema)
        execute(postgres_dsn, schema_script(postgres_schema, grant_to=role, from_version=len(MIGRATIONS)))
        with PostgresPersistenceProvider(dsn, schema=postgres_schema) as provider:
            assert provider.next_definition_sequence("order") == 1

    @pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
    def test_it_is_told_how_old_tables_are_upgraded(
        self, postgres_dsn: str, postgres_schema: str, role: str, dsn: str, version: int
    ) -> None:
        older = Schema(Names(postgres_schema, "p_"), "", LINE, MIGRATIONS[:version])
        execute(postgres_dsn, older.full_script(grant_to=role))
        with pytest.raises(StoreUnavailableError, match=f"--table-prefix p_ --from {version}`"):
            PostgresPersistenceProvider(dsn, schema=postgres_schema, table_prefix="p_")
        execute(postgres_dsn, schema_script(postgres_schema, "p_", grant_to=role, from_version=version))
        with PostgresPersistenceProvider(dsn, schema=postgres_schema, table_prefix="p_") as provider:
            provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(2)))

    def test_an_upgrade_of_another_version_changes_nothing(self, postgres_dsn: str, postgres_schema: str) -> None:
        names = Names(postgres_schema)
        content = "SELECT oid, relname FROM pg_class WHERE relnamespace = %s::regnamespace ORDER BY 1"
        functions = "SELECT oid, proname FROM pg_proc WHERE pronamespace = %s::regnamespace ORDER BY 1"
        for version, other, prefix in ((1, 2, ""), (2, 1, ""), (2, 2, "p_")):
            execute(postgres_dsn, Schema(names, "", LINE, MIGRATIONS[:version]).full_script())
            before = execute(postgres_dsn, content, postgres_schema), execute(postgres_dsn, functions, postgres_schema)
            with pytest.raises(psycopg.errors.RaiseException, match=f"do not have version {other}"):
                execute(postgres_dsn, schema_script(postgres_schema, prefix, from_version=other))
            after = execute(postgres_dsn, content, postgres_schema), execute(postgres_dsn, functions, postgres_schema)
            assert after == before
            execute(postgres_dsn, f'DROP SCHEMA "{postgres_schema}" CASCADE')

    @pytest.mark.parametrize("version", [-1, len(MIGRATIONS) + 1, True, "2", None])
    def test_a_version_that_is_not_known_is_refused(self, version: Any) -> None:
        with pytest.raises(InvalidValueError, match="from_version"):
            schema_script(from_version=version)

    @pytest.mark.parametrize("name", ["", "x" * 64, "a\0b"])
    def test_what_is_no_role_is_refused(self, name: str) -> None:
        with pytest.raises(InvalidValueError, match="grant_to"):
            schema_script(grant_to=name)


def test_a_search_path_of_the_database_does_no_harm(postgres_dsn: str, postgres_schema: str) -> None:
    evil = f"{postgres_schema}_evil"
    role = f"{postgres_schema}_hostile"
    execute(
        postgres_dsn,
        f"""CREATE ROLE "{role}" SUPERUSER LOGIN; CREATE SCHEMA "{evil}";
        CREATE FUNCTION "{evil}".pg_notify(text, text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil'; END $$;
        CREATE FUNCTION "{evil}".hashtextextended(text, bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil'; END $$;
        ALTER ROLE "{role}" SET search_path = "{evil}", pg_catalog""",
    )
    try:
        dsn = psycopg.conninfo.make_conninfo(postgres_dsn, user=role)
        with pytest.raises(psycopg.errors.RaiseException):
            execute(dsn, "SELECT pg_notify('a', 'b')")
        with PostgresPersistenceProvider(dsn, schema=postgres_schema) as provider:
            provider.create_new_workflow(a_workflow(id="w"))
            assert provider.get_workflow_instance("w").id == "w"
    finally:
        execute(postgres_dsn, f'DROP SCHEMA IF EXISTS "{evil}", "{postgres_schema}" CASCADE; DROP OWNED BY "{role}"')
        execute(postgres_dsn, f'DROP ROLE "{role}"')
