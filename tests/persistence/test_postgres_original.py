"""wfe-postgres and wfe-fast on one database: what the one has stored the other takes over, and both work on it side by side.

The original is played by a plain connection that sends its statements. Where its program is there too, it is asked itself: built in
`benchmarks/originals`, or named by ``WFE_TEST_ORIGINALS``; ``WFE_TEST_ORIGINALS=1`` builds it, which takes minutes and needs cargo.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest

from tests.persistence.original import COLUMNS, NEVER_NULL, Original
from wfe_fast.database.postgres_server import NOT_DURABLE, PostgresServer
from wfe_fast.errors import ConcurrentUpdateError
from wfe_fast.persistence.models import (
    CommandName,
    Event,
    EventSubscription,
    ExecutionError,
    ExecutionPointer,
    PointerStatus,
    ScheduledCommand,
    WorkflowInstance,
    WorkflowStatus,
)
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.persistence.factories import (
    FAR,
    a_pointer,
    a_subscription,
    a_workflow,
    an_event,
    full_pointer,
    pointers,
    subscribe,
)
from wfe_fast.testing.persistence.state import all_workflows

SECOND = datetime(2024, 2, 29, 12, 30, 15, 123_456, tzinfo=timezone.utc)
SETTINGS = {"plain": ("", False), "prefix": ("wfe_", False), "1.10": ("", True)}


@pytest.fixture(params=SETTINGS)
def original(request: pytest.FixtureRequest, postgres_dsn: str, postgres_schema: str) -> Iterator[Original]:
    """The program with a store of its own, as it makes one: with a prefix, and as its release before does it, too."""
    prefix, elsewhere = SETTINGS[request.param]
    books = f"{postgres_schema}_books" if elsewhere else None
    with psycopg.connect(postgres_dsn, autocommit=True) as connection:
        connection.execute("SET client_min_messages = warning")
        original = Original(connection, postgres_schema, prefix, books)
        original.ensure_store_exists()
        yield original
        connection.execute(f'DROP SCHEMA IF EXISTS "{books}" CASCADE'.encode())


@pytest.fixture
def stored(original: Original) -> list[WorkflowInstance]:
    """Workflows that the program has stored, and something of everything else."""
    workflows = [
        a_workflow(id=f"w{number}", name=f"name {number}", status=status, execution_pointers=some_pointers(number))
        for number, status in enumerate(WorkflowStatus)
    ]
    workflows[1].data, workflows[2].data = None, {"n": [1, 2.5, None, "日本"], "deep": {"": []}}
    workflows[2].next_execution, workflows[2].complete_time = None, SECOND
    workflows[3].description, workflows[3].reference, workflows[3].root_workflow_id = "says what", "Ref/1", "w0"
    for workflow in workflows:
        workflow.create_time = SECOND
        original.create_new_workflow(workflow)
    original.persist_workflow(workflows[0], [a_subscription(id="s", workflow_id="w0", execution_pointer_id="w0-1")])
    held = a_subscription(id="held", workflow_id="w0", execution_pointer_id="w0-2", subscription_data={"task": 1})
    original.create_event_subscription(held)
    assert original.set_subscription_token("held", "token", "worker", SECOND)
    original.create_event("waiting", "other", "key", {"amount": 1}, SECOND)
    original.create_event("done", "other", "key", None, SECOND)
    assert original.mark_event_processed("done") == 1
    assert [original.next_definition_sequence("order") for _ in range(3)] == [1, 2, 3]
    original.schedule_command("ProcessWorkflow", "w0", 5_000)
    original.persist_error(SECOND, "w0", "w0-1", "it failed")
    return workflows


def some_pointers(number: int) -> list[ExecutionPointer]:
    """Pointers whose ids do not sort as they lie, one with something in every field."""
    made = [
        a_pointer(id=f"w{number}-{n}", step_id=n, status=status)
        for n, status in reversed(list(enumerate(PointerStatus)))
    ]
    full = full_pointer(f"of w{number}")
    full.context_item = {"item": 2**63}
    return [*made[:5], full, *made[5:]]


@pytest.fixture
def provider(
    original: Original, stored: list[WorkflowInstance], postgres_dsn: str
) -> Iterator[PostgresPersistenceProvider]:
    """Ours, on the store that the program has filled."""
    with opened(original, postgres_dsn) as provider:
        yield provider


def opened(original: Original, dsn: str) -> PostgresPersistenceProvider:
    return PostgresPersistenceProvider(dsn, schema=original.schema, table_prefix=original.prefix)


def content(original: Original) -> dict[str, list[tuple[Any, ...]]]:
    return {table: original.rows(table) for table in COLUMNS}


def kinds(original: Original) -> dict[tuple[str, str], tuple[Any, ...]]:
    """The type of each column of the program's, whether it may be null, and its default."""
    query = (
        "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a"
        " LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = %s::regclass AND a.attnum > 0"
    )
    found = {(table, row[0]): row[1:] for table in COLUMNS for row in original.execute(query, original.table(table))}
    return {(table, name): found[table, name] for table, names in COLUMNS.items() for name in names.split()}


def constraints(original: Original) -> set[tuple[Any, ...]]:
    query = (
        "SELECT conrelid::regclass::text, conname, contype::text, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = %s::regnamespace AND contype <> 'n'"
    )
    return set(original.execute(query, f'"{original.schema}"'))


IN_PUBLIC = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"


class TestUpgrade:
    """Opening the program's store."""

    def test_no_row_changes(self, original: Original, stored: list[WorkflowInstance], postgres_dsn: str) -> None:
        books = f"SELECT * FROM {original.bookkeeping}"
        before = content(original), kinds(original), original.execute(books), original.execute(IN_PUBLIC)
        rules = constraints(original)
        for _ in range(2):
            opened(original, postgres_dsn).close()
            assert (content(original), kinds(original), original.execute(books), original.execute(IN_PUBLIC)) == before
            assert constraints(original) >= rules

    def test_everything_is_read(
        self, original: Original, stored: list[WorkflowInstance], provider: PostgresPersistenceProvider
    ) -> None:
        assert provider.get_workflow_instances([one.id for one in stored]) == stored
        assert sorted(all_workflows(provider), key=lambda one: one.id) == stored
        assert provider.get_runnable_instances(FAR) == ["w0"]
        assert provider.get_subscription("held").subscription_data == {"task": 1}
        assert provider.get_subscription("held").external_token == "token"
        assert {one.id for one in provider.subscriptions_of("w0")} == {"s", "held"}
        assert provider.get_events("other", "key", FAR) == ["waiting", "done"]
        assert provider.get_runnable_events(FAR) == ["waiting"]
        assert provider.get_event("done").event_data is None
        error = ExecutionError(error_time=SECOND, workflow_id="w0", execution_pointer_id="w0-1", message="it failed")
        assert provider.get_errors("w0") == [error]
        handled: list[ScheduledCommand] = []
        assert provider.process_commands(FAR, handled.append) == 1
        assert handled == [ScheduledCommand.process_workflow("w0", 5_000)]
        assert provider.next_definition_sequence("order") == 4

    def test_it_works_on(self, stored: list[WorkflowInstance], provider: PostgresPersistenceProvider) -> None:
        (held,) = provider.claim_runnable_instances("worker", 10)
        assert held == stored[0]
        held.execution_pointers[3].persistence_data = {"changed": True}
        del held.execution_pointers[1]
        held.execution_pointers.insert(0, a_pointer(id="first"))
        provider.persist_workflow(held, expect_unchanged=True, release=True)
        assert provider.get_workflow_instance("w0") == held
        provider.publish_event(an_event(id="published"))
        received = {p.id: p.event_data for p in provider.get_workflow_instance("w0").execution_pointers}
        assert received["w0-1"] == received["w0-2"] == {"amount": 12}

    def test_optional_values_that_are_a_json_null(
        self, original: Original, stored: list[WorkflowInstance], provider: PostgresPersistenceProvider
    ) -> None:
        table = original.table("execution_pointers")
        original.execute(f"UPDATE {table} SET outcome = 'null', event_data = 'null' WHERE id = 'pointer-of w1'")
        stored[1].execution_pointers[5].outcome = stored[1].execution_pointers[5].event_data = None
        assert provider.get_workflow_instance("w1") == stored[1]


class TestSideBySide:
    """Both write."""

    def test_what_it_creates(self, original: Original, provider: PostgresPersistenceProvider) -> None:
        made = a_workflow(id="theirs", name="theirs", execution_pointers=some_pointers(9), create_time=SECOND)
        original.create_new_workflow(made)
        assert provider.get_workflow_instance_by_name("theirs") == made
        assert [one.id for one in provider.claim_runnable_instances("worker", 10)] == ["w0", "theirs"]

    @pytest.mark.parametrize("claimed", [False, True])
    def test_its_persist_is_noticed(
        self, original: Original, provider: PostgresPersistenceProvider, claimed: bool
    ) -> None:
        copy = provider.claim_runnable_instances("worker")[0] if claimed else provider.get_workflow_instance("w0")
        provider.persist_workflow(copy, expect_unchanged=True)
        theirs = provider.get_workflow_instance("w0")
        theirs.description = "theirs"
        theirs.execution_pointers = [*theirs.execution_pointers[::-1], a_pointer(id="new")]
        original.persist_workflow(theirs)
        assert provider.get_workflow_instance("w0") == theirs
        copy.description = "ours"
        with pytest.raises(ConcurrentUpdateError):
            provider.persist_workflow(copy, expect_unchanged=True)
        assert provider.get_workflow_instance("w0") == theirs
        provider.persist_workflow(copy)  # the last writer wins
        assert provider.get_workflow_instance("w0") == copy
        original.persist_workflow(theirs)
        assert provider.get_workflow_instance("w0") == theirs

    def test_it_reads_what_we_write(self, original: Original, provider: PostgresPersistenceProvider) -> None:
        ours = a_workflow(id="ours", data={"total": 12.5}, execution_pointers=[*some_pointers(8), *pointers(3)])
        ours.execution_pointers[-2].context_item = {"a": [None]}
        provider.create_new_workflow(ours)
        ours.execution_pointers[4].persistence_data = ["changed"]
        ours.next_execution = 77
        provider.persist_workflow(ours)
        subscribe(provider, ours, key="ours")
        provider.publish_event(an_event(id="e", event_key="ours"))
        provider.create_event(an_event(id="later", event_time=FAR))
        loaded = provider.get_workflow_instance("ours")
        (row,) = original.get_workflow_instances("ours")
        assert (row["data"], row["next_execution"], row["status"]) == ({"total": 12.5}, 77, "Runnable")
        found = {pointer["id"]: pointer for pointer in original.get_pointers("ours")}
        assert found.keys() == {pointer.id for pointer in loaded.execution_pointers}
        for pointer in loaded.execution_pointers:
            for name in COLUMNS["execution_pointers"].split():
                if name not in ("workflow_id", "status"):
                    assert found[pointer.id][name] == getattr(pointer, name), name
            assert found[pointer.id]["status"] == pointer.status.value
        assert set(original.get_runnable_instances(77)) == {"w0", "ours"}
        for table, names in NEVER_NULL.items():
            nulls = " OR ".join(f"{name} IS NULL" for name in names.split())
            assert original.execute(f"SELECT 1 FROM {original.table(table)} WHERE {nulls}") == []

    def test_events_and_subscriptions(self, original: Original, provider: PostgresPersistenceProvider) -> None:
        original.create_event_subscription(a_subscription(id="s2", workflow_id="w0", execution_pointer_id="w0-3"))
        provider.publish_event(an_event(id="e1"))
        received = {p.id: p for p in provider.get_workflow_instance("w0").execution_pointers}
        assert all(received[f"w0-{n}"].event_published for n in (1, 2, 3))
        assert original.terminate_subscription("s2") == 0
        # What it stores is delivered by whichever of our processes comes first.
        subscribe(provider, provider.get_workflow_instance("w0"), key="theirs")
        original.create_event("e2", "order.paid", "theirs", {"from": "the original"}, SECOND)
        while provider.dispatch_events():
            pass
        first = provider.get_workflow_instance("w0").execution_pointers[0]
        assert first.event_data == {"from": "the original"}
        assert original.execute(f"SELECT id FROM {original.table('events')} WHERE is_processed = FALSE") == []

    def test_tokens(self, original: Original, provider: PostgresPersistenceProvider) -> None:
        later = provider.clock() + timedelta(hours=1)
        assert original.set_subscription_token("s", "theirs", "their worker", later)
        assert provider.set_subscription_token("s", "ours", "our worker", later) is False
        assert provider.get_subscription("s").external_token == "theirs"
        provider.clear_subscription_token("s", "theirs")
        assert provider.set_subscription_token("s", "ours", "our worker", later) is True
        assert original.set_subscription_token("s", "theirs", "their worker", later) is False

    def test_a_command_that_it_schedules_while_we_handle_it(
        self, original: Original, provider: PostgresPersistenceProvider
    ) -> None:
        again = [True]

        def handler(command: ScheduledCommand) -> None:
            assert command.command_name is CommandName.PROCESS_WORKFLOW
            if again:
                again.clear()
                original.schedule_command("ProcessWorkflow", "w0", 6_000)

        assert provider.process_commands(FAR, handler) == 1
        assert original.rows("scheduled_commands")[0][1:] == ("ProcessWorkflow", "w0", 6_000)
        provider.schedule_command(ScheduledCommand.process_event("e", 7_000))
        assert original.delete_commands(7_000) == 2
        assert provider.process_commands(FAR, handler) == 0

    def test_sequences(self, original: Original, provider: PostgresPersistenceProvider) -> None:
        drawn = [draw("order") for draw in (original.next_definition_sequence, provider.next_definition_sequence) * 3]
        assert drawn == [4, 5, 6, 7, 8, 9]


def test_it_starts_on_a_store_of_ours(postgres_dsn: str, postgres_schema: str) -> None:
    with (
        psycopg.connect(postgres_dsn, autocommit=True) as connection,
        PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema) as provider,
    ):
        connection.execute("SET client_min_messages = warning")
        ours = a_workflow(id="ours", name="ours", execution_pointers=pointers(3))
        provider.create_new_workflow(ours)
        original = Original(connection, postgres_schema)
        for _ in range(2):
            original.ensure_store_exists()
        ours.description = "theirs"
        original.persist_workflow(ours)
        assert provider.get_workflow_instance("ours").description == "theirs"
        provider.ensure_store_exists()
        PostgresPersistenceProvider(postgres_dsn, schema=postgres_schema).close()


SOURCES = Path(__file__).parents[2] / "benchmarks" / "originals"
BUILT = SOURCES / "target" / "release" / "originals"
ASKED = os.environ.get("WFE_TEST_ORIGINALS", "")

if ASKED or BUILT.exists():

    @pytest.fixture(scope="module")
    def program() -> str:
        if ASKED not in ("", "1"):
            return ASKED
        if not BUILT.exists():
            cargo = shutil.which("cargo")
            assert cargo is not None, "WFE_TEST_ORIGINALS=1 needs cargo"
            build = [cargo, "build", "--release", "-j", "2", "--manifest-path", str(SOURCES / "Cargo.toml")]
            subprocess.run(build, check=True)
        return str(BUILT)

    @pytest.mark.parametrize("prefix", ["", "wfe_"])
    def test_the_program_itself(program: str, prefix: str) -> None:
        with PostgresServer(settings=NOT_DURABLE) as server:
            # Its driver wants a host in front of a user.
            dsn = f"postgresql:///postgres?host={server.folder}&user=postgres&port={server.port}"

            def ask(command: str, *options: str) -> Any:
                words = [program, "postgres", command, "--dsn", dsn, "--prefix", prefix, *options]
                return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)

            ask("init")
            filled = ask("fill")
            with PostgresPersistenceProvider(server.dsn, table_prefix=prefix) as provider:
                check_what_it_filled(provider, filled)
                assert ask("init") is None
                assert ask("list") == filled
                richest = max(filled["workflows"], key=lambda workflow: len(workflow["execution_pointers"]))
                copy = provider.get_workflow_instance(richest["id"])
                ask("persist", "--id", copy.id, "--set", "description=theirs")
                with pytest.raises(ConcurrentUpdateError):
                    provider.persist_workflow(copy, expect_unchanged=True)
                theirs = provider.get_workflow_instance(copy.id)
                assert theirs.description == "theirs"
                assert theirs.execution_pointers == copy.execution_pointers
                theirs.execution_pointers[1].persistence_data = {"ours": [1]}
                provider.persist_workflow(theirs, expect_unchanged=True)
                ours = a_workflow(id="ours", execution_pointers=[full_pointer("ours"), *pointers(2)])
                provider.create_new_workflow(ours)
                for instance in (theirs, ours):
                    read = ask("get", "--id", instance.id)
                    assert [p["id"] for p in read["execution_pointers"]] == [p.id for p in instance.execution_pointers]
                    assert read["execution_pointers"][1]["persistence_data"] == (
                        instance.execution_pointers[1].persistence_data
                    )
                subscribe(provider, ours, key="k7")
                event_id = ask("event", "--set", f"event_name={an_event().event_name}", "--set", "event_key=k7")
                while provider.dispatch_events():
                    pass
                assert provider.get_event(event_id).is_processed
                assert provider.get_workflow_instance("ours").execution_pointers[0].event_published


def check_what_it_filled(provider: PostgresPersistenceProvider, filled: dict[str, Any]) -> None:
    """What the program printed of its store is what we read there."""
    for given in filled["workflows"]:
        read = msgspec.to_builtins(provider.get_workflow_instance(given["id"]))
        assert read["name"] == given["name"]
        assert read["data"] == given["data"]
        assert [p["id"] for p in read["execution_pointers"]] == [p["id"] for p in given["execution_pointers"]]
    for given in filled["events"]:
        assert isinstance(provider.get_event(given["id"]), Event)
    for given in filled["subscriptions"]:
        assert isinstance(provider.get_subscription(given["id"]), EventSubscription)
