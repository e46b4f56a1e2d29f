"""What an instance in memory knows of its row in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wfe_fast.persistence.models import WorkflowInstance, WorkflowStatus
    from wfe_fast.persistence.pointers import Stored

#: The fields that hardly ever change after the creation, as they are stored; a step that leaves them alone does not write them.
Head = tuple[str, "str | None", str, int, "str | None", "str | None", int]


@dataclass(slots=True)
class Memory:
    """The row as it was when the instance was last loaded, created or persisted.

    `store` and `seq` name the row. `revision` and `control` tell whether it was changed since, `fence` under which claim it was loaded (None:
    none). `raw_head` are the instance's id and its own values that became `head`. `stored` is None where the positions of the pointers are not
    known and have to be asked for.
    """

    store: str
    seq: int
    revision: int
    control: int
    fence: int | None
    claims_without_commit: int
    status: WorkflowStatus
    complete_time: int | None
    head: Head
    raw_head: tuple[object, ...]
    stored: Stored | None
    doubts: tuple[int, ...] = ()
    """Revisions that the row may have instead: one for each persist since then of which nobody knows whether it was stored."""


def memory_of(instance: WorkflowInstance) -> Memory | None:
    """What `instance` knows, or None where it was neither loaded nor created nor persisted."""
    memory: Memory | None = instance.__dict__.get("memory")
    return memory


def remember(instance: WorkflowInstance, memory: Memory | None) -> None:
    """Let `instance` know `memory` and nothing else."""
    known: dict[str, Any] = instance.__dict__
    known["memory"] = memory
