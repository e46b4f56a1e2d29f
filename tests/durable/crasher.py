"""Processes that are killed between any two writes: ``python crasher.py FOLDER WORKFLOW MODE``. Prints a line of JSON for each crash.

The parent opens nothing and has no threads, so that its children can be forked: a thousand processes cost no imports.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from wfe_fast.checkpoints import StepStatus
from wfe_fast.durable import DurableEngine, Fixed, WorkflowContext
from wfe_fast.errors import WorkflowFailedError
from wfe_fast.sqlite import SqliteCheckpointStore

LEASE = 0.25


class MortalStore(SqliteCheckpointStore):
    """Kills its process before the write of this number."""

    kill_before = 0
    writes = 0

    def _write(self, work: Callable[..., Any], *args: Any) -> Any:
        self.writes += 1
        if self.writes == self.kill_before:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._write(work, *args)


def build(engine: DurableEngine, folder: Path) -> None:
    """Two workflows of 20 steps: one that succeeds, and one that fails at its end and is undone."""

    def log(line: str) -> str:
        descriptor = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(descriptor, f"{line}\n".encode())
        os.close(descriptor)
        return line

    def work(ctx: WorkflowContext, name: str) -> str:
        log(f"{name} {ctx.attempt} {'doubt' if ctx.in_doubt else 'first'}")
        if name == "flaky" and failures(ctx) == 0:
            raise ValueError("not yet")
        if name.startswith("send"):
            engine.send_signal(ctx.execution_id, name, name)
        return name

    def failures(ctx: WorkflowContext) -> int:
        rows = engine._store.load_checkpoints(ctx.execution_id)
        return sum(row.status is StepStatus.FAILED and row.step_name == "flaky" for row in rows)

    def step(ctx: WorkflowContext, name: str) -> str:
        retry = Fixed(1.05 if name == "flaky" and folder.name == "durable-retry" else 0.0, 2)
        undo = (lambda value: log(f"undo-{value}")) if name.endswith(("2", "4")) else None
        return ctx.step(name, lambda: work(ctx, name), retry=retry, compensate=undo, in_doubt=True)

    def body(ctx: WorkflowContext) -> list[str]:
        done = [step(ctx, f"a{number}") for number in range(6)]
        ctx.sleep("nap", 0.005)
        done += [step(ctx, "flaky"), step(ctx, "send-x")]
        done.append(ctx.wait_signal("send-x", str))
        done += [step(ctx, f"b{number}") for number in range(5)]
        ctx.sleep("second nap", 0.005)
        done += [step(ctx, "send-y"), ctx.wait_signal("send-y", str, timeout=60)]
        return done + [step(ctx, f"c{number}") for number in range(6)]

    def bad(ctx: WorkflowContext) -> None:
        body(ctx)
        raise RuntimeError("in the end")

    engine.register("good", body)
    engine.register("bad", bad)


def first(folder: Path, workflow: str, kill_before: int) -> None:
    """Run it, until the kill."""
    store = MortalStore(folder / "test.db")
    store.kill_before = kill_before
    engine = DurableEngine(store, lease=LEASE, workers=2)
    build(engine, folder)
    with suppress(WorkflowFailedError):
        engine.run(workflow, id="x")
    (folder / "survived").touch()


def again(folder: Path, workflow: str) -> None:
    """Take up what the killed one has left, side by side with another process that does so, too."""
    engine = DurableEngine(SqliteCheckpointStore(folder / "test.db"), lease=LEASE, workers=2)
    build(engine, folder)
    engine.recover()
    try:
        result: Any = engine.run(workflow, id="x")
    except WorkflowFailedError as error:
        result = error.reason
    (folder / f"result-{os.getpid()}").write_text(json.dumps(result))
    engine.close()


def forked(job: Callable[..., None], *args: Any) -> int:
    child = os.fork()
    if child:
        return child
    try:
        job(*args)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def report(folder: Path) -> bool:
    """Say what has become of it; whether the first process had survived."""
    results = [json.loads(path.read_text()) for path in folder.glob("result-*")]
    log = (folder / "log").read_text().splitlines()
    with SqliteCheckpointStore(folder / "test.db") as store:
        (execution,) = store.list_executions().items
        rows = [(row.step_name, row.attempt, row.status.value) for row in store.load_checkpoints("x")]
        pending = len(store.load_pending_timers())
    facts = {"results": results, "log": log, "rows": rows, "status": execution.status.value, "pending": pending}
    print(json.dumps(facts), flush=True)
    return (folder / "survived").exists()


def crash(folder: Path, workflow: str, kill_before: int, delay: float | None) -> bool:
    folder.mkdir()
    child = forked(first, folder, workflow, kill_before)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not (folder / "test.db").exists():
        return False
    for child in [forked(again, folder, workflow) for _ in range(2)]:
        _, code = os.waitpid(child, 0)
        assert code == 0, code
    return report(folder)


def main(folder: Path, workflow: str, mode: str) -> None:
    if mode == "every":
        number = 2  # the first write makes the tables
        while not crash(folder / str(number), workflow, number, None):
            number += 1
        return
    chance = random.Random(7)
    for number in range(int(mode)):
        crash(folder / str(number), workflow, 0, chance.uniform(0.03, 0.3))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
