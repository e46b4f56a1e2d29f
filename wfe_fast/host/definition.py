"""Workflow definitions: numbered steps, each of which knows its block and what follows it; and the registry of a host."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from wfe_fast.errors import DefinitionChangedError, DefinitionNotFoundError, DuplicateDefinitionError
from wfe_fast.host.data import DataModel
from wfe_fast.host.policies import Policy
from wfe_fast.host.steps import Step
from wfe_fast.persistence.models import ExecutionPointer


@dataclass(frozen=True)
class Definition:
    """One version of a workflow. Step 0 is the first; a step's id is its index in `steps`."""

    id: str
    version: int
    description: str | None
    model: DataModel
    on_error: Policy
    steps: tuple[Step, ...]

    def step_of(self, pointer: ExecutionPointer) -> Step:
        """The step that a stored pointer stands at.

        Raises:
            DefinitionChangedError: there is none of this id, or it has another name.
        """
        steps = self.steps
        if pointer.step_id >= len(steps):
            problem = f"has {len(steps)} steps, a stored pointer is at step {pointer.step_id} ({pointer.step_name!r})"
        elif pointer.step_name is not None and steps[pointer.step_id].name != pointer.step_name:
            name = steps[pointer.step_id].name
            problem = f"calls step {pointer.step_id} {name!r}, a stored pointer calls it {pointer.step_name!r}"
        else:
            return steps[pointer.step_id]
        raise DefinitionChangedError(f"definition {self.id!r} version {self.version} {problem}")

    def shape(self) -> tuple[object, ...]:
        """What stored workflows depend on. Functions may change their code, so it is not part of it."""
        return (self.model.name, *(step.shape() for step in self.steps))


class Registry:
    """The definitions of a host, by id and version. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._versions: dict[str, dict[int, Definition]] = {}
        self._keys: tuple[tuple[str, int], ...] = ()

    @property
    def keys(self) -> tuple[tuple[str, int], ...]:
        """All (id, version) pairs."""
        return self._keys

    def add(self, definition: Definition) -> None:
        """Register a definition; one of the same shape that is there already stays.

        Raises:
            DuplicateDefinitionError: another one is registered under this id and version.
        """
        with self._lock:
            versions = self._versions.setdefault(definition.id, {})
            known = versions.get(definition.version)
            if known is None:
                self._versions[definition.id] = {**versions, definition.version: definition}
                self._keys = (*self._keys, (definition.id, definition.version))
            elif known.shape() != definition.shape():
                raise DuplicateDefinitionError(definition.id, f"id, version {definition.version}")

    def get(self, id: str, version: int | None = None) -> Definition:
        """The definition; its highest version where none is given.

        Raises:
            DefinitionNotFoundError: it is not registered.
        """
        versions = self._versions.get(id)
        if versions and version is None:
            return versions[max(versions)]
        if not versions or version not in versions:
            raise DefinitionNotFoundError(id, version)
        return versions[version]
