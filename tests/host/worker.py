"""A worker process: ``python worker.py URL OPTIONS FOLDER ACTION``, the provider's options as JSON.

Its steps write what they did to a log that is only ever appended to."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from wfe_fast import open_provider
from wfe_fast.host import Retry, StepContext, StepResult, WorkflowBuilder, WorkflowHost

#: Seconds that a claim of a killed process lasts.
LEASE = 0.5


def log(folder: Path, line: str, file: str = "log") -> None:
    """Append a line, whatever other processes append at the same time."""
    descriptor = os.open(folder / file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def first_time(folder: Path, what: str) -> bool:
    """Whether no process has asked this before."""
    try:
        os.close(os.open(folder / what.replace(":", "_"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def chain(folder: Path, *, kill_before_commit: bool) -> WorkflowBuilder:
    """A bit of everything: steps, a case, a condition, a wait, a sleep, a branch, a retry."""

    def work(data: dict[str, Any], ctx: StepContext) -> Any:
        name = f"{ctx.idempotency_key}:{ctx.attempt}:{ctx.index}:{ctx.saved}"
        log(folder, name)
        data["done"].append(name)
        if kill_before_commit and first_time(folder, f"died-{name}"):
            die()
        return "on"

    def unlucky(data: dict[str, Any], ctx: StepContext) -> Any:
        answer = work(data, ctx)
        if ctx.attempt == 1:
            raise ValueError("the first attempt")
        return answer

    def nap(data: dict[str, Any], ctx: StepContext) -> Any:
        work(data, ctx)
        return None if ctx.saved else StepResult.sleep(0.01, True)

    def publish(data: dict[str, Any], ctx: StepContext) -> None:
        ctx.publish("event", ctx.workflow_id, "hello")
        work(data, ctx)

    def split(data: dict[str, Any], ctx: StepContext) -> StepResult:
        work(data, ctx)
        return StepResult.branch(["x", "y"])

    wf = WorkflowBuilder("chain", on_error=Retry(1, delay=0.01))
    wf.then(work, name="first")
    with wf.when("on"):
        wf.then(unlucky)
    wf.then(publish)
    with wf.if_(lambda data: True):
        wf.wait_for("event", key=lambda data, ctx: ctx.workflow_id, into="event")
        wf.delay(0.01)
        wf.then(nap)
    with wf.then(split):
        wf.then(work, name="inside")
    wf.then(work, name="last")
    return wf


def short(folder: Path) -> WorkflowBuilder:
    """Three steps."""
    wf = WorkflowBuilder("short")
    for index in range(3):

        def work(data: Any, ctx: StepContext, index: int = index) -> None:
            log(folder, f"{ctx.workflow_id}:{index}:{ctx.attempt}")
            log(folder, str(os.getpid()), "processes")

        wf.then(work, name=f"s{index}")
    return wf


def poison(folder: Path) -> WorkflowBuilder:
    """A step that kills its process, each time."""

    def kills(data: Any, ctx: StepContext) -> None:
        log(folder, f"attempt {ctx.attempt}")
        die()

    wf = WorkflowBuilder("poison")
    wf.then(kills)
    return wf


def hosting(url: str, options: dict[str, Any], folder: Path, action: str) -> None:
    definitions = [chain(folder, kill_before_commit=action == "die before each commit"), short(folder), poison(folder)]
    with open_provider(url, **options) as provider:
        host = WorkflowHost(provider, definitions, workers=2, lease=LEASE, poll_interval=0.5)
        if action == "serve":
            host.run()
        elif action == "die after each commit":
            while not host.run_one_pass():
                provider.wait_for_work(0.25)
            die()
        else:
            while True:
                if not host.run_one_pass():
                    provider.wait_for_work(0.25)


if __name__ == "__main__":
    hosting(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
