"""wfe-postgres 1.11, played by a plain connection: its tables, its bookkeeping, and the statements that it sends."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from wfe_fast.persistence.models import EventSubscription, ExecutionPointer, WorkflowInstance

_TABLES = (Path(__file__).parent / "original.sql").read_text(encoding="utf-8")

#: The columns that it knows, in its order.
COLUMNS = {
    "workflows": "id name root_workflow_id definition_id version description reference status data next_execution create_time"
    " complete_time last_heartbeat_at",
    "definition_sequences": "definition_id next_num",
    "execution_pointers": "id workflow_id step_id active status sleep_until persistence_data start_time end_time event_name event_key"
    " event_published event_data step_name retry_count children context_item predecessor_id outcome scope extension_attributes",
    "events": "id event_name event_key event_data event_time is_processed",
    "event_subscriptions": "id workflow_id step_id execution_pointer_id event_name event_key subscribe_as_of subscription_data"
    " external_token external_worker_id external_token_expiry",
    "execution_errors": "id error_time workflow_id execution_pointer_id message",
    "scheduled_commands": "id command_name data execute_time",
}
#: Columns that may be null for the database, and not for the program, which panics then.
NEVER_NULL = {
    "execution_pointers": "event_published retry_count children scope extension_attributes",
    "events": "is_processed",
}
_BOOKKEEPING = """(version BIGINT PRIMARY KEY, description TEXT NOT NULL, installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
    success BOOLEAN NOT NULL, checksum BYTEA NOT NULL, execution_time BIGINT NOT NULL)"""
#: Of its first migration without a prefix.
_CHECKSUM = "5312d9875ee833137bdf12dca44359ee1b0bfef8dcd102537c19c83bb95029e349e9d33aa1401b060378468d1e3e5c2c"
_POINTER_COLUMNS = COLUMNS["execution_pointers"].split()


class Original:
    """The program.

    Args:
        connection: in autocommit mode.
        schema, prefix: its options.
        books: the schema of its bookkeeping: 1.10 has it where the connection's search_path leads, and 1.11 beside the tables.
    """

    def __init__(
        self, connection: psycopg.Connection[Any], schema: str, prefix: str = "", books: str | None = None
    ) -> None:
        self._connection = connection
        self.schema = schema
        self.prefix = prefix
        self._books = books or schema
        self.bookkeeping = f'"{self._books}"."{"_wfe_sqlx_migrations" if prefix else "_sqlx_migrations"}"'

    def ensure_store_exists(self) -> None:
        """What it does at each start. It asks its bookkeeping first, and looks at no table."""
        for name in (self.schema, self._books):
            self.execute(f'CREATE SCHEMA IF NOT EXISTS "{name}"')
        self.execute(f"CREATE TABLE IF NOT EXISTS {self.bookkeeping} {_BOOKKEEPING}")
        if self.execute(f"SELECT version FROM {self.bookkeeping}") == [(1,)]:
            return
        with self._connection.transaction():
            self.execute(f'SET LOCAL search_path TO "{self.schema}"')
            self._connection.execute(_TABLES.replace("@", self.prefix).encode())
            insert = f"INSERT INTO {self.bookkeeping} VALUES (1, 'initial', DEFAULT, TRUE, %s, -1)"
            self.execute(insert, bytes.fromhex(_CHECKSUM))

    def table(self, name: str) -> str:
        return f'"{self.schema}"."{self.prefix}{name}"'

    def execute(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        cursor = self._connection.execute(statement.encode(), params)
        return cursor.fetchall() if cursor.description else []

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """All rows of a table, as far as it knows their columns."""
        names = ", ".join(COLUMNS[table].split())
        return self.execute(f"SELECT {names} FROM {self.table(table)} ORDER BY 1")

    # -- its methods -----------------------------------------------------------------------------------------------------------

    def create_new_workflow(self, w: WorkflowInstance) -> None:
        with self._connection.transaction():
            self.execute(
                f"INSERT INTO {self.table('workflows')} (id, name, root_workflow_id, definition_id, version, description, reference, status,"
                " data, next_execution, create_time, complete_time) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                *(w.id, w.name or w.id, *_fields(w)),
            )
            self._insert_pointers(w.id, w.execution_pointers)

    def persist_workflow(self, w: WorkflowInstance, subscriptions: Iterable[EventSubscription] = ()) -> None:
        with self._connection.transaction():
            self.execute(
                f"UPDATE {self.table('workflows')} SET name = %s, root_workflow_id = %s, definition_id = %s, version = %s, description = %s,"
                " reference = %s, status = %s, data = %s, next_execution = %s, create_time = %s, complete_time = %s,"
                " last_heartbeat_at = now() WHERE id = %s",
                *(w.name, *_fields(w), w.id),
            )
            self.execute(f"DELETE FROM {self.table('execution_pointers')} WHERE workflow_id = %s", w.id)
            self._insert_pointers(w.id, w.execution_pointers)
            for subscription in subscriptions:
                self.create_event_subscription(subscription)

    def _insert_pointers(self, workflow_id: str, pointers: Iterable[ExecutionPointer]) -> None:
        columns, places = ", ".join(_POINTER_COLUMNS), ", ".join(["%s"] * len(_POINTER_COLUMNS))
        insert = f"INSERT INTO {self.table('execution_pointers')} ({columns}) VALUES ({places})"
        for pointer in pointers:
            self.execute(insert, *_pointer_row(workflow_id, pointer))

    def create_event_subscription(self, s: EventSubscription) -> None:
        columns = COLUMNS["event_subscriptions"].split()
        values = [getattr(s, name) for name in columns]
        values[7] = None if values[7] is None else Jsonb(values[7])
        names, places = ", ".join(columns), ", ".join(["%s"] * len(columns))
        self.execute(f"INSERT INTO {self.table('event_subscriptions')} ({names}) VALUES ({places})", *values)

    def get_workflow_instances(self, id: str) -> list[dict[str, Any]]:
        return self._whole(f"SELECT * FROM {self.table('workflows')} WHERE id = %s", id)

    def get_pointers(self, workflow_id: str) -> list[dict[str, Any]]:
        return self._whole(f"SELECT * FROM {self.table('execution_pointers')} WHERE workflow_id = %s", workflow_id)

    def _whole(self, query: str, id: str) -> list[dict[str, Any]]:
        cursor = self._connection.execute(query.encode(), [id])
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def get_runnable_instances(self, millis: int) -> list[str]:
        query = f"SELECT id FROM {self.table('workflows')} WHERE status = 'Runnable' AND next_execution <= %s"
        return [row[0] for row in self.execute(query, millis)]

    def next_definition_sequence(self, definition_id: str) -> int:
        ((number,),) = self.execute(
            f"INSERT INTO {self.table('definition_sequences')} (definition_id, next_num) VALUES (%s, 1) ON CONFLICT (definition_id)"
            f" DO UPDATE SET next_num = {self.prefix}definition_sequences.next_num + 1 RETURNING next_num",
            definition_id,
        )
        return int(number)

    def create_event(self, id: str, name: str, key: str, data: Any, time: datetime) -> None:
        columns = "id, event_name, event_key, event_data, event_time, is_processed"
        insert = f"INSERT INTO {self.table('events')} ({columns}) VALUES (%s, %s, %s, %s, %s, FALSE)"
        self.execute(insert, id, name, key, Jsonb(data), time)

    def mark_event_processed(self, id: str) -> int:
        return self._changed(f"UPDATE {self.table('events')} SET is_processed = TRUE WHERE id = %s", id)

    def set_subscription_token(self, id: str, token: str, worker: str, expiry: datetime) -> bool:
        update = (
            f"UPDATE {self.table('event_subscriptions')} SET external_token = %s, external_worker_id = %s, external_token_expiry = %s"
            " WHERE id = %s AND external_token IS NULL"
        )
        return self._changed(update, token, worker, expiry, id) == 1

    def terminate_subscription(self, id: str) -> int:
        return self._changed(f"DELETE FROM {self.table('event_subscriptions')} WHERE id = %s", id)

    def schedule_command(self, name: str, data: str, millis: int) -> None:
        self.execute(
            f"INSERT INTO {self.table('scheduled_commands')} (command_name, data, execute_time) VALUES (%s, %s, %s)"
            " ON CONFLICT (command_name, data) DO UPDATE SET execute_time = %s",
            *(name, data, millis, millis),
        )

    def delete_commands(self, millis: int) -> int:
        return self._changed(f"DELETE FROM {self.table('scheduled_commands')} WHERE execute_time <= %s", millis)

    def persist_error(self, time: datetime, workflow_id: str, pointer_id: str, message: str) -> None:
        columns = "error_time, workflow_id, execution_pointer_id, message"
        insert = f"INSERT INTO {self.table('execution_errors')} ({columns}) VALUES (%s, %s, %s, %s)"
        self.execute(insert, time, workflow_id, pointer_id, message)

    def _changed(self, statement: str, *params: Any) -> int:
        return self._connection.execute(statement.encode(), params).rowcount


def _fields(w: WorkflowInstance) -> tuple[Any, ...]:
    """What it writes of a workflow behind its name."""
    head = (w.root_workflow_id, w.workflow_definition_id, w.version, w.description, w.reference, w.status.value)
    return (*head, Jsonb(w.data), w.next_execution, w.create_time, w.complete_time)


def _pointer_row(workflow_id: str, pointer: ExecutionPointer) -> list[Any]:
    required = {"children", "scope", "extension_attributes"}
    optional = {"persistence_data", "event_data", "context_item", "outcome"}
    row: list[Any] = []
    for name in _POINTER_COLUMNS:
        value = workflow_id if name == "workflow_id" else getattr(pointer, name)
        if name == "status":
            value = value.value
        elif name in required or (name in optional and value is not None):
            value = Jsonb(value)
        row.append(value)
    return row
