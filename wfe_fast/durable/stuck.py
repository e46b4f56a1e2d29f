"""Executions that do not fit their workflow's function, in this process and until that is another one."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from wfe_fast.durable.registry import Body, Registry
from wfe_fast.errors import NonDeterminismError


@dataclass
class _Entry:
    workflow: str
    error: NonDeterminismError
    #: Its execution was given back, with the message: before that nobody is told.
    is_given_back: bool = False


class Stuck:
    """Which executions are left alone here, and why. Thread-safe."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}

    def follow_fork(self) -> None:
        """In a forked child: a thread of the parent may hold the lock for ever."""
        self._lock = threading.Lock()

    def leave_alone(self, execution_id: str, workflow: str, body: Body | None, error: NonDeterminismError) -> None:
        """`body` does not fit the record of an execution. To be called before that is given back, or it would be claimed again."""
        with self._lock:
            # Another function may have been registered meanwhile, for which the execution is to be tried again.
            if self._registry.get(workflow) is body:
                self._entries[execution_id] = _Entry(workflow, error)

    def given_back(self, execution_id: str) -> None:
        """From now on whoever waits for the execution may be told."""
        with self._lock:
            entry = self._entries.get(execution_id)
            if entry is not None:
                entry.is_given_back = True

    def forget(self, execution_id: str) -> None:
        """The execution has ended."""
        with self._lock:
            self._entries.pop(execution_id, None)

    def forget_all_of(self, workflow: str) -> None:
        """Another function stands for the workflow. To be called after it was registered."""
        with self._lock:
            self._entries = {id: entry for id, entry in self._entries.items() if entry.workflow != workflow}

    def ids(self) -> list[str]:
        """What is not to be claimed."""
        with self._lock:
            return list(self._entries)

    def error_of(self, execution_id: str) -> NonDeterminismError | None:
        """Why an execution cannot go on here; None where it can."""
        with self._lock:
            entry = self._entries.get(execution_id)
            return entry.error if entry is not None and entry.is_given_back else None
