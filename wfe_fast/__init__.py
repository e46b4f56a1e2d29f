"""Workflow persistence for Python programs that block: embedded, synchronous, and hard to kill.

Importing this module loads no database driver; `open_provider` loads the one that it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wfe_fast.errors import (
    ActivityLostError,
    ClaimLostError,
    CommitOutcomeUnknownError,
    ConcurrentUpdateError,
    ConflictError,
    ConnectionLostError,
    CorruptionError,
    DefinitionChangedError,
    DefinitionError,
    DefinitionNotFoundError,
    DuplicateDefinitionError,
    DuplicateError,
    DuplicateEventError,
    DuplicateExecutionError,
    DuplicatePointerError,
    DuplicateSubscriptionError,
    DuplicateWorkflowError,
    EngineClosedError,
    EventNotFoundError,
    ExecutionNotFoundError,
    InvalidStateError,
    InvalidValueError,
    NonDeterminismError,
    NotFoundError,
    RecoveryLimitError,
    SchemaMismatchError,
    SerializationError,
    SignalTimeoutError,
    StepFailedError,
    StepTimeoutError,
    StoreBusyError,
    StoreClosedError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
    SubscriptionNotFoundError,
    UnserializableWorkflowError,
    WfeError,
    WorkflowCancelledError,
    WorkflowEndedError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    WorkflowSuspendedError,
    WorkflowTerminatedError,
)
from wfe_fast.persistence.models import (
    CommandName,
    Event,
    EventSubscription,
    ExecutionError,
    ExecutionPointer,
    Page,
    PointerStatus,
    ScheduledCommand,
    WorkflowInstance,
    WorkflowStatus,
)

if TYPE_CHECKING:
    from wfe_fast.persistence.contract import PersistenceProvider

__version__ = "0.1.0"


def open_provider(url: str, **options: Any) -> PersistenceProvider:
    """Open the store that `url` names.

    Args:
        url: ``sqlite:///relative.db``, ``sqlite:////absolute.db``, ``sqlite://:memory:`` or ``postgresql://user@host/database``.
        options: the keywords of the provider's class: `wfe_fast.sqlite.SqlitePersistenceProvider` or
            `wfe_fast.postgres.PostgresPersistenceProvider`.

    Raises:
        InvalidValueError: the URL's scheme is not known, or an option's value is wrong.
        InvalidStateError: the driver for it is not installed.
        TypeError: the provider has no such option.
    """
    if not isinstance(url, str):
        raise InvalidValueError("url", "must be text", url)
    if url.partition(":")[0] == "sqlite":
        from wfe_fast.sqlite import SqlitePersistenceProvider

        return SqlitePersistenceProvider(url, **options)
    if url.partition(":")[0] in ("postgresql", "postgres"):
        try:
            from wfe_fast.postgres import PostgresPersistenceProvider
        except ImportError as error:
            raise InvalidStateError(
                f"PostgreSQL needs a driver: pip install 'wfe-fast[postgres-binary]' ({error})"
            ) from error

        return PostgresPersistenceProvider(url, **options)
    raise InvalidValueError("url", "must begin with sqlite: or postgresql:", url)


__all__ = [
    "ActivityLostError",
    "ClaimLostError",
    "CommandName",
    "CommitOutcomeUnknownError",
    "ConcurrentUpdateError",
    "ConflictError",
    "ConnectionLostError",
    "CorruptionError",
    "DefinitionChangedError",
    "DefinitionError",
    "DefinitionNotFoundError",
    "DuplicateDefinitionError",
    "DuplicateError",
    "DuplicateEventError",
    "DuplicateExecutionError",
    "DuplicatePointerError",
    "DuplicateSubscriptionError",
    "DuplicateWorkflowError",
    "EngineClosedError",
    "Event",
    "EventNotFoundError",
    "EventSubscription",
    "ExecutionError",
    "ExecutionNotFoundError",
    "ExecutionPointer",
    "InvalidStateError",
    "InvalidValueError",
    "NonDeterminismError",
    "NotFoundError",
    "Page",
    "PointerStatus",
    "RecoveryLimitError",
    "ScheduledCommand",
    "SchemaMismatchError",
    "SerializationError",
    "SignalTimeoutError",
    "StepFailedError",
    "StepTimeoutError",
    "StoreBusyError",
    "StoreClosedError",
    "StoreFullError",
    "StoreReadOnlyError",
    "StoreUnavailableError",
    "SubscriptionNotFoundError",
    "UnserializableWorkflowError",
    "WfeError",
    "WorkflowCancelledError",
    "WorkflowEndedError",
    "WorkflowFailedError",
    "WorkflowInstance",
    "WorkflowNotFoundError",
    "WorkflowStatus",
    "WorkflowSuspendedError",
    "WorkflowTerminatedError",
    "__version__",
    "open_provider",
]
