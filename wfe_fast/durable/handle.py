"""What `start` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wfe_fast.checkpoints.models import ExecutionStatus
from wfe_fast.clock import Duration

if TYPE_CHECKING:
    from wfe_fast.durable.engine import DurableEngine


class WorkflowHandle:
    """An execution, wherever it runs."""

    def __init__(self, engine: DurableEngine, id: str) -> None:
        self._engine = engine
        self.id = id

    def __repr__(self) -> str:
        return f"<WorkflowHandle {self.id}>"

    def result(self, timeout: Duration | None = None) -> Any:
        """See `DurableEngine.result`."""
        return self._engine.result(self.id, timeout)

    def status(self) -> ExecutionStatus:
        """See `DurableEngine.status`."""
        return self._engine.status(self.id)

    def cancel(self, compensate: bool = False) -> bool:
        """See `DurableEngine.cancel`."""
        return self._engine.cancel(self.id, compensate)
