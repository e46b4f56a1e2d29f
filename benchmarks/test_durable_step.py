"""Contract B: a durable step, beside DBOS as it ships and with equal durability.

A unit is one step of a workflow that runs as a whole, its start and its end included, so both do the same: record the start, the result of each
step, and the end. DBOS writes its SQLite file with a rollback journal and synchronous=FULL; with WAL it is on equal terms with ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path

import pytest

from benchmarks.peers import peer
from benchmarks.sizes import Size
from benchmarks.turns import Calls, Contestant, Rates
from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.database.postgres_server import PostgresServer
from wfe_fast.durable import DurableEngine, WorkflowContext
from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.sqlite import SqliteCheckpointStore

Compare = Callable[..., Rates]

STEPS = 100
_ids = count(1)


def nothing() -> int:
    return 17


def many_steps(ctx: WorkflowContext, steps: int) -> int:
    for number in range(steps):
        ctx.step(f"step {number}", nothing)
    return steps


def wait_behind_steps(ctx: WorkflowContext, steps: int) -> int:
    many_steps(ctx, steps)
    ctx.wait_signal("go", bool)
    return steps


@contextmanager
def steps_on(store: CheckpointStore, steps: int) -> Iterator[Contestant]:
    """Workflows of so many steps, one after the other."""
    store.migrate()
    with store, DurableEngine(store) as engine:
        engine.register("many steps", many_steps)
        yield Calls(lambda _: lambda: engine.run("many steps", steps, id=f"w{next(_ids)}"), units=steps)


def test_a_step_on_sqlite(compare: Compare, size: Size, tmp_path: Path) -> None:
    pytest.importorskip("dbos")
    steps = size.of(STEPS)
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(steps_on(SqliteCheckpointStore(tmp_path / f"{name}.db", level), steps))
            for name, level in (("ours", "normal"), ("ours, full", "full"))
        }
        for name, words in (
            ("DBOS", []),
            ("DBOS, WAL normal", ["normal"]),
            ("DBOS, WAL full", ["full"]),
        ):
            path = tmp_path / f"dbos {'-'.join(words)}.db"
            sides[name] = stack.enter_context(peer("dbos_steps", f"sqlite:///{path}", str(steps), *words, share=0.2))
        compare(sides, calls=5)


def test_a_step_on_postgres(compare: Compare, size: Size, server: PostgresServer) -> None:
    """Both with the server's own durability."""
    pytest.importorskip("dbos")
    steps = size.of(STEPS)
    server.sql("CREATE DATABASE dbos_steps")
    url = f"postgresql://postgres@/dbos_steps?host={server.folder}"
    with (
        steps_on(PostgresCheckpointStore(server.dsn, schema="bench_steps"), steps) as ours,
        peer("dbos_steps", url, str(steps), share=0.2) as dbos,
    ):
        compare({"ours": ours, "DBOS": dbos}, calls=5)
