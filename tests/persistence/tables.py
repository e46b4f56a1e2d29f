"""The tables of a store on PostgreSQL, as they are: to be compared, and to be put back."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from wfe_fast.persistence.memory import memory_of, remember
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.persistence.writes import World
from wfe_fast.testing.waiting import wait_until

NAMES = (
    "workflows",
    "execution_pointers",
    "definition_sequences",
    "events",
    "event_subscriptions",
    "execution_errors",
    "scheduled_commands",
)

#: Numbers that a sequence gave or that are drawn by chance: two runs of the same calls differ in them and in nothing else.
CHANCE = {
    "workflows": {"seq", "revision"},
    "events": {"seq"},
    "event_subscriptions": {"seq", "external_token"},
    "execution_errors": {"id"},
    # Scheduled once more, it is another time, though nothing else has changed.
    "scheduled_commands": {"id", "revision"},
}

Contents = dict[str, list[dict[str, Any]]]


#: Transactions of others.
TRANSACTIONS = """SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'
    AND datname = current_database() AND xact_start IS NOT NULL"""

#: Connections of others to this database.
OTHERS = "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database() AND backend_type = 'client backend'"

#: Methods that leave alone what somebody has locked; and for a moment a connection that is gone still has its locks.
PASSING_BY = {"claim_runnable_instances", "claim_subscription", "dispatch_events", "purge_events", "renew_claims"}

DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"


def deadlocks(dsn: str) -> int:
    """How many deadlocks there have been in the database. Waits until nobody else is connected: a connection tells of them at its end."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        wait_until(lambda: connection.execute(OTHERS).fetchall() == [], "all connections have ended")
        (count,) = connection.execute(DEADLOCKS).fetchone() or (None,)
        assert isinstance(count, int)
        return count


@dataclass(frozen=True)
class Dump:
    """All rows of all tables, in the server's own form."""

    texts: dict[str, bytes]
    contents: Contents


class Moment:
    """A world as it is now, in the tables and in memory, to come back to any number of times."""

    def __init__(self, tables: Tables, world: World) -> None:
        self._tables = tables
        self._world = world
        self._now = world.clock()
        self._instances = {
            name: (copy.deepcopy(instance), memory_of(instance))
            for name, instance in (("stored", world.stored), ("held", world.held))
        }
        self.dump = tables.dump()

    def restore(self) -> World:
        """Go back; the world as it was then."""
        self._tables.restore(self.dump)
        loaded = {}
        for name, (instance, memory) in self._instances.items():
            loaded[name] = copy.deepcopy(instance)
            remember(loaded[name], memory)
        return replace(self._world, clock=ManualClock(self._now), **loaded)


class Tables:
    """A connection of its own to the tables of `schema`. A context manager."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)
        self._connection.execute("SELECT set_config('search_path', %s, FALSE)", [f'"{schema}"'])

    def __enter__(self) -> Tables:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._connection.close()

    def execute(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        """Any statement, its names in the store's schema."""
        cursor = self._connection.execute(statement.encode(), params or None)
        return cursor.fetchall() if cursor.description else []

    def script(self, text: str) -> None:
        """Several statements without parameters."""
        result = self._connection.pgconn.exec_(text.encode())
        if result.status == psycopg.pq.ExecStatus.FATAL_ERROR:
            raise psycopg.errors.error_from_result(result)

    def exact(self) -> dict[str, list[str]]:
        """Every row of every table, each column of it."""
        return {name: [row[0] for row in self.execute(f"SELECT t::text FROM {name} t ORDER BY 1")] for name in NAMES}

    def contents(self) -> Contents:
        """Every row of every table, without what is left to chance."""
        found: Contents = {}
        for name in NAMES:
            rows = [
                row[0]
                for row in self.execute(f"SELECT to_jsonb(t) - %s::text[] FROM {name} t", list(CHANCE.get(name, ())))
            ]
            found[name] = sorted(rows, key=repr)
        return found

    def dump(self) -> Dump:
        """All of it, for `restore`."""
        texts: dict[str, bytes] = {}
        for name in NAMES:
            with self._connection.cursor().copy(f"COPY {name} TO STDOUT".encode()) as copy:
                texts[name] = b"".join(bytes(part) for part in copy)
        return Dump(texts, self.contents())

    def restore(self, dump: Dump) -> None:
        """Make the tables what they were. Sequences go on."""
        self.execute(f"TRUNCATE {', '.join(NAMES)}")
        for name in NAMES:
            with self._connection.cursor().copy(f"COPY {name} FROM STDIN".encode()) as copy:
                copy.write(dump.texts[name])
