"""Processes that are killed, and others that go on: ``python crasher.py FOLDER WORKFLOW MODE [DSN SCHEMA]``. Prints a line of JSON for each crash.

Modes: ``every`` = before each single write; ``A-B`` = before the writes A to B; ``random:N`` = N times anywhere, by a count of Python's calls;
``poison`` = by the workflow itself, each time that it runs.

The parent opens nothing and has no threads, so that its children can be forked: a thousand processes cost no imports.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from wfe_fast.checkpoints import ExecutionStatus, StepStatus
from wfe_fast.checkpoints.contract import CheckpointStore
from wfe_fast.clock import system_clock
from wfe_fast.durable import DurableEngine, Fixed, WorkflowContext
from wfe_fast.errors import WorkflowFailedError
from wfe_fast.postgres import PostgresCheckpointStore
from wfe_fast.sqlite import SqliteCheckpointStore

#: How often an execution may be taken over in a row.
LIMIT = 3

Opener = Callable[..., CheckpointStore]


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def later(hours: int) -> Callable[[], datetime]:
    """A clock by which every lease of a process that was killed has ended; so nobody waits for that, and none ends because the machine is slow."""
    return lambda: system_clock() + timedelta(hours=hours)


def mortal(store: Any, kill_before: int) -> CheckpointStore:
    """Let the process die before the write of this number."""
    write, numbers = store._database.write, itertools.count(1)

    def counted(*args: Any, **options: Any) -> Any:
        if next(numbers) == kill_before:
            kill_myself()
        return write(*args, **options)

    store._database.write = counted
    found: CheckpointStore = store
    return found


class Countdown:
    """Counts calls and returns of Python and C functions in all threads, and kills the process at one of them; 0 = at none."""

    def __init__(self, kill_at: int) -> None:
        self.count = 0
        self._kill_at = kill_at
        threading.setprofile(self)
        sys.setprofile(self)

    def __call__(self, *_: object) -> None:
        self.count += 1
        if self.count == self._kill_at:
            kill_myself()

    def end(self) -> int:
        sys.setprofile(None)
        threading.setprofile(None)
        return self.count


def build(engine: DurableEngine, folder: Path) -> None:
    """Workflows of 20 steps: one that succeeds, one that is patient with its failure, and one that fails at its end and is undone."""

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

    def step(ctx: WorkflowContext, name: str, delay: float) -> str:
        retry = Fixed(delay if name == "flaky" else 0.0, 2)
        undo = (lambda value: log(f"undo-{value}")) if name.endswith(("2", "4")) else None
        return ctx.step(name, lambda: work(ctx, name), retry=retry, compensate=undo, in_doubt=True)

    def body(ctx: WorkflowContext, delay: float = 0.0) -> list[str]:
        done = [step(ctx, f"a{number}", delay) for number in range(6)]
        ctx.sleep("nap", 0.005)
        done += [step(ctx, "flaky", delay), step(ctx, "send-x", delay)]
        done.append(ctx.wait_signal("send-x", str))
        done += [step(ctx, f"b{number}", delay) for number in range(5)]
        ctx.sleep("second nap", 0.005)
        done += [step(ctx, "send-y", delay), ctx.wait_signal("send-y", str, timeout=60)]
        return done + [step(ctx, f"c{number}", delay) for number in range(6)]

    def bad(ctx: WorkflowContext) -> None:
        body(ctx)
        raise RuntimeError("in the end")

    def poison(ctx: WorkflowContext, undoing: bool) -> None:
        def undo(value: str) -> None:
            log(f"undo-{value}")
            if undoing and value == "b":
                kill_myself()

        for name in ("a", "b", "c"):
            ctx.step(name, lambda name=name: log(name), compensate=undo)
        ctx.step("poison", lambda: (log("poison"), kill_myself()), in_doubt=True)

    engine.register("good", body)
    # Over a second: then the pause before the next attempt is a timer in the store.
    engine.register("patient", lambda ctx: body(ctx, 1.05))
    engine.register("bad", bad)
    engine.register("poison", lambda ctx: poison(ctx, False))
    engine.register("poison undoing", lambda ctx: poison(ctx, True))


def first(opener: Opener, folder: Path, workflow: str, kill_before: int, kill_at: int | None) -> None:
    """Run it, until the kill."""
    store = mortal(opener(), kill_before)
    engine = DurableEngine(store, workers=2)
    build(engine, folder)
    countdown = None if kill_at is None else Countdown(kill_at)
    with suppress(WorkflowFailedError):
        engine.run(workflow, id=folder.name)
    if countdown is not None:
        (folder / "calls").write_text(str(countdown.end()))
    (folder / "survived").touch()


def again(opener: Opener, folder: Path, workflow: str, hours: int) -> None:
    """Take up what killed ones have left, side by side with another process that does so, too."""
    engine = DurableEngine(opener(clock=later(hours)), workers=2, max_recoveries=LIMIT)
    build(engine, folder)
    engine.recover()
    try:
        result: Any = engine.run(workflow, id=folder.name)
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


def end_of(child: int) -> int:
    """The exit code of a child; negative = it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def report(opener: Opener, folder: Path, deaths: int) -> None:
    """Say what has become of it."""
    results = [json.loads(path.read_text()) for path in folder.glob("result-*")]
    log = (folder / "log").read_text().splitlines()
    with opener() as store:
        execution = store.load_execution(folder.name)
        assert execution is not None
        rows = [(row.step_name, row.attempt, row.status.value) for row in store.load_checkpoints(folder.name)]
        pending = len([timer for timer in store.load_pending_timers() if timer.workflow_execution_id == folder.name])
        assert store.count_executions()[ExecutionStatus.RUNNING] == 0
    facts = {"results": results, "log": log, "rows": rows, "status": execution.status.value, "pending": pending}
    print(json.dumps({**facts, "message": execution.error_message, "deaths": deaths}), flush=True)


def crash(opener: Opener, folder: Path, workflow: str, kill_before: int = 0, kill_at: int | None = None) -> bool:
    """One crash, and what follows from it; False where there was none."""
    folder.mkdir()
    code = end_of(forked(first, opener, folder, workflow, kill_before, kill_at))
    # A call to be killed at may come after the last one that was measured, by when the workflow has ended.
    assert code == -signal.SIGKILL or (code == 0 and (folder / "survived").exists()), code
    for child in [forked(again, opener, folder, workflow, 1) for _ in range(2)]:
        assert end_of(child) == 0
    assert end_of(forked(report, opener, folder, int(code != 0))) == 0
    return code != 0


def poison(opener: Opener, folder: Path, workflow: str) -> None:
    """Run it in one process after the other, until one survives."""
    folder.mkdir()
    for deaths in range(50):
        code = end_of(forked(again, opener, folder, workflow, deaths))
        assert code in (0, -signal.SIGKILL), code
        if code == 0:
            assert end_of(forked(report, opener, folder, deaths)) == 0
            return
    raise AssertionError("there is no end to it")


def main(folder: Path, workflow: str, mode: str, *postgres: str) -> None:
    folder.mkdir(exist_ok=True)
    opener: Opener = (
        partial(PostgresCheckpointStore, *postgres) if postgres else partial(SqliteCheckpointStore, folder / "test.db")
    )
    if mode == "poison":
        poison(opener, folder / f"{workflow}-{mode}", workflow)
    elif mode == "every":
        number = 1
        while crash(opener, folder / f"{workflow}-{number}", workflow, number):
            number += 1
    elif mode.startswith("random:"):
        measured = folder / f"{workflow}-measured"
        crash(opener, measured, workflow, kill_at=0)
        calls, chance = int((measured / "calls").read_text()), random.Random(7)
        for number in range(int(mode.removeprefix("random:"))):
            crash(opener, folder / f"{workflow}-at-{number}", workflow, kill_at=chance.randrange(1, calls))
    else:
        start, end = map(int, mode.split("-"))
        for number in range(start, end + 1):
            crash(opener, folder / f"{workflow}-{number}", workflow, number)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
