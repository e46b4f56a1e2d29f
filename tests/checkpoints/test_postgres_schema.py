"""Where the tables of checkpoints lie in a PostgreSQL database, who may make them, and who else is there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import psycopg
import pytest

from wfe_fast.checkpoints.postgres import LINE, MIGRATIONS
from wfe_fast.errors import InvalidValueError, SchemaMismatchError, StoreUnavailableError
from wfe_fast.postgres import PostgresCheckpointStore, PostgresPersistenceProvider, checkpoint_schema_script
from wfe_fast.testing.checkpoints.factories import (
    EXECUTION,
    a_checkpoint,
    a_signal,
    a_timer,
    a_workflow,
    an_execution,
)
from wfe_fast.testing.racing import race_processes, values

TABLES = {"workflows", "workflow_executions", "step_checkpoints", "workflow_timers", "workflow_signals"}
VERSION = len(MIGRATIONS)


def execute(dsn: str, statement: str, *params: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(
            f"SET client_min_messages = warning; {statement}" if not params else statement, params
        )
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []


def content(dsn: str, schema: str) -> list[tuple[Any, ...]]:
    """The relations of a schema with their columns, and its history."""
    columns = execute(
        dsn,
        "SELECT c.relname, a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "JOIN pg_attribute a ON a.attrelid = c.oid WHERE n.nspname = %s ORDER BY 1, 2",
        schema,
    )
    if not any(name == "wfe_fast_migrations" for name, _ in columns):
        return columns
    return columns + execute(dsn, f'SELECT * FROM "{schema}".wfe_fast_migrations ORDER BY line, version')


def fill(store: PostgresCheckpointStore) -> None:
    store.save_workflow(a_workflow())
    store.save_execution(an_execution())
    store.save_checkpoint(a_checkpoint())
    store.save_timer(a_timer())
    store.save_signal(a_signal())


def test_opening_it_touches_nothing(postgres_dsn: str, postgres_schema: str) -> None:
    with PostgresCheckpointStore("postgresql://nobody@127.0.0.1:1/nothing"):
        pass
    with PostgresCheckpointStore(postgres_dsn, postgres_schema) as store:
        assert store.schema_version == 0
        report = store.validate_schema()
        assert not report
        assert set(report.missing_tables) == TABLES
        assert report.missing_columns == []
        with pytest.raises(SchemaMismatchError):
            store.load_workflow("w")
        assert content(postgres_dsn, postgres_schema) == []
        store.migrate()
        assert store.schema_version == VERSION
        fill(store)
        assert store.load_execution(EXECUTION) == an_execution()


def test_the_schema_is_durable_by_default(postgres_dsn: str) -> None:
    store = PostgresCheckpointStore(postgres_dsn)
    assert store._database.names.schema == "durable"
    assert '"durable"."workflow_executions"' in checkpoint_schema_script()
    store.close()


def test_every_foreign_key_has_an_index(postgres_dsn: str, postgres_schema: str) -> None:
    with PostgresCheckpointStore(postgres_dsn, postgres_schema) as store:
        store.migrate()
    found = execute(
        postgres_dsn,
        "SELECT r.conrelid::regclass::text, EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = r.conrelid "
        "AND i.indkey[0] = r.conkey[1] AND i.indpred IS NULL) FROM pg_constraint r WHERE r.contype = 'f' "
        "AND r.connamespace = %s::regnamespace",
        postgres_schema,
    )
    assert len(found) == 4
    assert all(has_index for _, has_index in found), found


def test_wrong_words_are_refused_by_the_tables(postgres_dsn: str, postgres_schema: str) -> None:
    with PostgresCheckpointStore(postgres_dsn, postgres_schema) as store:
        store.migrate()
        fill(store)
    for table, column in [
        ("workflow_executions", "status"),
        ("workflow_executions", "guarantee"),
        ("step_checkpoints", "status"),
        ("step_checkpoints", "kind"),
        ("workflow_timers", "status"),
        ("workflow_signals", "status"),
    ]:
        with pytest.raises(psycopg.errors.CheckViolation):
            execute(postgres_dsn, f"UPDATE \"{postgres_schema}\".{table} SET {column} = 'SOMETHING'")


def test_what_is_missing_is_reported(postgres_dsn: str, postgres_schema: str) -> None:
    with PostgresCheckpointStore(postgres_dsn, postgres_schema, "p_") as store:
        store.migrate()
        assert store.validate_schema()
        schema = f'"{postgres_schema}"'
        execute(postgres_dsn, f'DROP INDEX {schema}.p_timers_pending; DROP FUNCTION {schema}."p_wfe_step"')
        execute(postgres_dsn, f"ALTER TABLE {schema}.p_step_checkpoints RENAME COLUMN error_type TO other")
        report = store.validate_schema()
        assert not report.is_valid
        assert (report.missing_tables, report.missing_indexes) == ([], ["timers_pending"])
        assert report.missing_columns == ["step_checkpoints.error_type"]
        assert list(report.pragma_issues) == ["wfe_step"]
        execute(postgres_dsn, f"DROP TABLE {schema}.p_workflow_signals")
        assert store.validate_schema().missing_tables == ["workflow_signals"]


def test_a_newer_version_is_refused(postgres_dsn: str, postgres_schema: str) -> None:
    with PostgresCheckpointStore(postgres_dsn, postgres_schema) as store:
        store.migrate()
        table = f'"{postgres_schema}".wfe_fast_migrations'
        execute(postgres_dsn, f"INSERT INTO {table} VALUES ('{LINE}', 99, 'later', 'x', 0, '')")
        before = content(postgres_dsn, postgres_schema)
        with pytest.raises(SchemaMismatchError, match="newer"):
            store.migrate()
        assert content(postgres_dsn, postgres_schema) == before


@pytest.mark.parametrize("prefix", ["", "p_"])
def test_another_contracts_schema_is_refused_and_left_as_it_is(
    postgres_dsn: str, postgres_schema: str, prefix: str
) -> None:
    PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema, table_prefix=prefix).close()
    before = content(postgres_dsn, postgres_schema)
    with PostgresCheckpointStore(postgres_dsn, postgres_schema, prefix) as store:
        with pytest.raises(SchemaMismatchError, match="no room"):
            store.migrate()
        assert store.schema_version == 0
    assert content(postgres_dsn, postgres_schema) == before
    PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema, table_prefix=prefix).close()


@pytest.mark.parametrize("prefix", ["", "p_"])
def test_the_other_contract_is_refused_here(postgres_dsn: str, postgres_schema: str, prefix: str) -> None:
    with PostgresCheckpointStore(postgres_dsn, postgres_schema, prefix) as store:
        store.migrate()
        before = content(postgres_dsn, postgres_schema)
        with pytest.raises(SchemaMismatchError, match="no room"):
            PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema, table_prefix=prefix)
        assert content(postgres_dsn, postgres_schema) == before
        assert store.validate_schema()


def test_two_contracts_share_a_schema_by_their_prefixes(postgres_dsn: str, postgres_schema: str) -> None:
    with (
        PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema, table_prefix="a_") as provider,
        PostgresCheckpointStore(postgres_dsn, postgres_schema, "b_") as store,
    ):
        store.migrate()
        fill(store)
        assert store.validate_schema()
        assert provider.count_workflows() == {}


def test_another_programs_tables_are_left_as_they_are(postgres_dsn: str, postgres_schema: str) -> None:
    execute(
        postgres_dsn, f'CREATE SCHEMA "{postgres_schema}"; CREATE TABLE "{postgres_schema}".workflow_timers (x INT)'
    )
    before = content(postgres_dsn, postgres_schema)
    with (
        PostgresCheckpointStore(postgres_dsn, postgres_schema) as store,
        pytest.raises(SchemaMismatchError, match="workflow_timers"),
    ):
        store.migrate()
    assert content(postgres_dsn, postgres_schema) == before


def migrate(store: PostgresCheckpointStore) -> int:
    store.migrate()
    return store.schema_version


def test_processes_that_migrate_together_all_succeed(postgres_dsn: str, postgres_schema: str) -> None:
    opener = partial(PostgresCheckpointStore, postgres_dsn, postgres_schema)
    assert values(race_processes(opener, migrate, [()] * 3)) == [VERSION] * 3


def test_the_longest_prefix_works_and_nothing_is_in_public(postgres_dsn: str, postgres_schema: str) -> None:
    in_public = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    before = execute(postgres_dsn, in_public)
    with PostgresCheckpointStore(postgres_dsn, postgres_schema, "X" * 28) as store:
        store.migrate()
        fill(store)
        assert store.validate_schema()
    assert execute(postgres_dsn, in_public) == before


@pytest.mark.parametrize(
    "options",
    [
        {"dsn": None},
        {"schema": 'x"; DROP TABLE y'},
        {"table_prefix": "1"},
        {"clock": 1},
        {"timeout": -1},
        {"max_connections": 0},
        {"dsn": "host"},
    ],
    ids=str,
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError) as caught:
        PostgresCheckpointStore(**{"dsn": "postgresql://localhost/x", **options})
    assert caught.value.field in options


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

    def test_it_is_told_what_to_run(self, dsn: str, postgres_schema: str) -> None:
        with (
            PostgresCheckpointStore(dsn, postgres_schema) as store,
            pytest.raises(StoreUnavailableError, match=f"schema --tables checkpoints --schema {postgres_schema}"),
        ):
            store.migrate()

    def test_it_works_behind_the_script(self, postgres_dsn: str, postgres_schema: str, role: str, dsn: str) -> None:
        execute(postgres_dsn, checkpoint_schema_script(postgres_schema, "p_", grant_to=role))
        with PostgresCheckpointStore(dsn, postgres_schema, "p_") as store:
            store.migrate()
            fill(store)
            (held,) = store.claim_executions("worker", an_execution().status)
            store.advance_execution(held, [a_checkpoint(1)])
            assert store.validate_schema()
            store.delete_execution(EXECUTION)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            execute(dsn, f'DELETE FROM "{postgres_schema}".wfe_fast_migrations')
