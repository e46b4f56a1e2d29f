"""Every error that wfe-fast raises, as one tree.

::

    WfeError
    ├── InvalidValueError (ValueError)       an argument or a field has a wrong value; nothing was written
    ├── SerializationError (ValueError)      a value that JSON cannot hold, or stored JSON that does not fit its type
    ├── InvalidStateError (RuntimeError)     the call does not fit the state of the object
    │   ├── StoreClosedError  EngineClosedError
    │   ├── InvalidTransitionError           a status does not lead to the wanted one
    │   └── ExecutionEndedError              an execution that has ended takes no new work
    ├── NotFoundError (LookupError)
    │   ├── WorkflowNotFoundError  EventNotFoundError  SubscriptionNotFoundError  DefinitionNotFoundError
    │   └── ExecutionNotFoundError  WorkItemNotFoundError  DeadLetterNotFoundError  TenantNotFoundError  TokenNotFoundError
    ├── DuplicateError
    │   ├── DuplicateWorkflowError  DuplicatePointerError  DuplicateEventError
    │   ├── DuplicateSubscriptionError  DuplicateDefinitionError
    │   └── DuplicateExecutionError  DuplicateSnapshotError  DuplicateWorkItemError  DuplicateTenantError
    ├── ConflictError
    │   ├── ConcurrentUpdateError            another writer came first
    │   ├── ClaimLostError                   the lease was taken over
    │   ├── ActivityLostError                another worker took the activity
    │   ├── LeaseLostError                   the lease on a work item was taken over, or the item is settled
    │   └── SequenceConflictError            an execution has other events than its caller knows
    ├── TenantError                          a tenant may not do this
    │   ├── TenantSuspendedError  TenantLimitError  TenantScopeError
    ├── StoreUnavailableError                the database cannot serve the call now; nothing of it was stored
    │   ├── StoreBusyError  StoreFullError  StoreReadOnlyError
    │   ├── ConnectionLostError              the connection broke, and does not come back; nothing of the call was stored
    │   └── CommitOutcomeUnknownError        the connection broke while the database committed: stored or not, nobody can say
    ├── SchemaMismatchError                  not our database, or of a newer version; it was left as it is
    ├── CorruptionError                      the database, or a value in it, is damaged
    ├── DefinitionError                      a mistake in a workflow definition
    │   └── DefinitionChangedError           stored work does not fit the definition
    ├── NonDeterminismError                  a workflow function does not fit what is recorded of its run
    ├── RecoveryLimitError                   an execution ends whoever runs it, again and again
    ├── StepFailedError                      a step failed for good; what a workflow function may catch
    ├── StepTimeoutError (TimeoutError)      an attempt of a step took too long
    ├── SignalTimeoutError (TimeoutError)    a signal did not come in time
    └── WorkflowEndedError                   a workflow did not end as its caller waited for
        ├── WorkflowTerminatedError  WorkflowSuspendedError
        └── WorkflowFailedError  WorkflowCancelledError

Each error keeps its facts in attributes, makes its message of them, and survives pickling. Where a driver's exception was the
cause, it is the ``__cause__``; no driver exception reaches a caller by itself.
"""

from __future__ import annotations

_SHOWN = 80


def _shown(value: object) -> str:
    """A value's repr, cut so that a message stays readable."""
    try:
        text = repr(value)
    except Exception as error:  # a caller's own __repr__ must not hide the error that we are about to report
        text = f"<{type(value).__name__} whose repr failed: {type(error).__name__}>"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


class WfeError(Exception):
    """Base of every error of this library."""

    def _message(self) -> str:
        return " ".join(str(arg) for arg in self.args)

    def __str__(self) -> str:
        return self._message()


class InvalidValueError(WfeError, ValueError):
    """A value was refused before anything was written. `field` names it, `problem` says what is wrong, `value` is its repr."""

    def __init__(self, field: str, problem: str, value: object = None) -> None:
        # The repr is kept, not the value: a value that was refused may well be one that cannot be pickled.
        shown = value if isinstance(value, _Shown) else _Shown(_shown(value))
        super().__init__(field, problem, shown)
        self.field = field
        self.problem = problem
        self.value = str(shown)

    def _message(self) -> str:
        return f"{self.field}: {self.problem} (got {self.value})"


class _Shown(str):
    """A repr that was taken already (so that unpickling an error does not take the repr of a repr)."""

    __slots__ = ()


class SerializationError(WfeError, ValueError):
    """A value is not JSON (NaN, NUL, bytes, a set, a key that is not text, …), or stored JSON does not fit its type."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem

    def _message(self) -> str:
        return f"{self.field}: {self.problem}"


class InvalidStateError(WfeError, RuntimeError):
    """The call does not fit the state of the object, for example a transaction that has ended."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class StoreClosedError(InvalidStateError):
    """The store was closed."""

    def __init__(self, problem: str = "the store is closed") -> None:
        super().__init__(problem)


class InvalidTransitionError(InvalidStateError):
    """The execution `id` has the status `current`, from which none leads to `wanted`. Nothing was written."""

    def __init__(self, id: str, current: str, wanted: str) -> None:
        super().__init__(f"execution {_shown(id)} is {current}, which does not lead to {wanted}")
        self.args = (id, current, wanted)
        self.id = id
        self.current = current
        self.wanted = wanted

    def _message(self) -> str:
        return self.problem


class ExecutionEndedError(InvalidStateError):
    """The execution `id` has ended (`status`) and takes no new work."""

    def __init__(self, id: str, status: str) -> None:
        super().__init__(f"execution {_shown(id)} is {status} and takes no new work")
        self.args = (id, status)
        self.id = id
        self.status = status

    def _message(self) -> str:
        return self.problem


class EngineClosedError(InvalidStateError):
    """The engine was closed."""

    def __init__(self, problem: str = "the engine is closed") -> None:
        super().__init__(problem)


class NotFoundError(WfeError, LookupError):
    """Something with this id is not there. `kind` says what, `id` which."""

    kind = "item"

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id

    def _message(self) -> str:
        return f"no {self.kind} {_shown(self.id)}"


class WorkflowNotFoundError(NotFoundError):
    """No workflow has this id (or name)."""

    kind = "workflow"


class EventNotFoundError(NotFoundError):
    """No event has this id."""

    kind = "event"


class SubscriptionNotFoundError(NotFoundError):
    """No subscription has this id, it was terminated, or the given token does not hold it."""

    kind = "subscription"


class DefinitionNotFoundError(NotFoundError):
    """No workflow definition is registered under this id (and version)."""

    kind = "definition"

    def __init__(self, id: str, version: int | None = None) -> None:
        super().__init__(id)
        self.args = (id, version)
        self.version = version

    def _message(self) -> str:
        suffix = "" if self.version is None else f" version {self.version}"
        return f"no definition {_shown(self.id)}{suffix}"


class ExecutionNotFoundError(NotFoundError):
    """No execution has this id, or it is another tenant's."""

    kind = "execution"


class WorkItemNotFoundError(NotFoundError):
    """No work item has this id, or it is another tenant's."""

    kind = "work item"


class DeadLetterNotFoundError(NotFoundError):
    """No dead letter has this id, or it is another tenant's."""

    kind = "dead letter"


class TenantNotFoundError(NotFoundError):
    """No tenant has this id."""

    kind = "tenant"


class TokenNotFoundError(NotFoundError):
    """No token has this id, or it is another tenant's."""

    kind = "token"


class DuplicateError(WfeError):
    """Something with this `id` is there already; nothing was stored. `field` is what has to be unique."""

    kind = "item"

    def __init__(self, id: str, field: str = "id") -> None:
        super().__init__(id, field)
        self.id = id
        self.field = field

    def _message(self) -> str:
        return f"{self.kind} with {self.field} {_shown(self.id)} exists already"


class DuplicateWorkflowError(DuplicateError):
    """A workflow with this id or name exists. `field` is ``"id"`` or ``"name"``."""

    kind = "workflow"


class DuplicatePointerError(DuplicateError):
    """Two execution pointers would share one id."""

    kind = "execution pointer"


class DuplicateEventError(DuplicateError):
    """An event with this id exists."""

    kind = "event"


class DuplicateSubscriptionError(DuplicateError):
    """A subscription with this id exists."""

    kind = "subscription"


class DuplicateDefinitionError(DuplicateError):
    """Another definition is registered under the same id and version."""

    kind = "definition"


class DuplicateExecutionError(DuplicateError):
    """An execution with this id exists, or one of another workflow."""

    kind = "execution"


class DuplicateSnapshotError(DuplicateError):
    """Another execution has a snapshot with this id."""

    kind = "snapshot"


class DuplicateWorkItemError(DuplicateError):
    """A work item with this id exists (`field` is ``"id"``), or its node has a live one already (``"node_id"``)."""

    kind = "work item"


class DuplicateTenantError(DuplicateError):
    """A tenant with this id exists."""

    kind = "tenant"


class ConflictError(WfeError):
    """Somebody else changed or took what the caller was working on; nothing was written."""

    kind = "item"
    problem = "was changed by another writer"

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self.id = id

    def _message(self) -> str:
        return f"{self.kind} {_shown(self.id)} {self.problem}"


class ConcurrentUpdateError(ConflictError):
    """The workflow was changed since it was loaded."""

    kind = "workflow"
    problem = "was changed since it was loaded"


class ClaimLostError(ConflictError):
    """The lease ran out and another worker took the workflow over."""

    kind = "workflow"
    problem = "was taken over by another claim"


class ActivityLostError(ConflictError):
    """The activity's lease ran out and another worker took it over, or its workflow no longer waits."""

    kind = "activity"
    problem = "was taken over by another worker or is no longer wanted"


class LeaseLostError(ConflictError):
    """The lease on the work item was taken over, the item is settled, or it is not the caller's."""

    kind = "work item"
    problem = "is not held under this lease"


class SequenceConflictError(ConflictError):
    """The execution `id` has `actual` as the number of its last event, not `expected`."""

    kind = "execution"

    def __init__(self, id: str, expected: int, actual: int) -> None:
        super().__init__(id)
        self.args = (id, expected, actual)
        self.expected = expected
        self.actual = actual

    def _message(self) -> str:
        return f"{super()._message()}: its last event has the number {self.actual}, not {self.expected}"


class TenantError(WfeError):
    """The tenant `tenant_id` may not do this; nothing was written."""

    problem = "may not do this"

    def __init__(self, tenant_id: str) -> None:
        super().__init__(tenant_id)
        self.tenant_id = tenant_id

    def _message(self) -> str:
        return f"tenant {_shown(self.tenant_id)} {self.problem}"


class TenantSuspendedError(TenantError):
    """The tenant is suspended or archived (`status`) and takes no new work."""

    def __init__(self, tenant_id: str, status: str) -> None:
        super().__init__(tenant_id)
        self.args = (tenant_id, status)
        self.status = status

    def _message(self) -> str:
        return f"tenant {_shown(self.tenant_id)} is {self.status} and takes no new work"


class TenantLimitError(TenantError):
    """The tenant has used up one of its limits. `limit` is the field of `TenantLimits`, `maximum` its value."""

    def __init__(self, tenant_id: str, limit: str, maximum: float) -> None:
        super().__init__(tenant_id)
        self.args = (tenant_id, limit, maximum)
        self.limit = limit
        self.maximum = maximum

    def _message(self) -> str:
        return f"tenant {_shown(self.tenant_id)} has reached its {self.limit} of {self.maximum}"


class TenantScopeError(TenantError):
    """A view of one tenant cannot do what concerns the others."""

    problem = "cannot manage tenants from its own view"


class StoreUnavailableError(WfeError):
    """The database at `store` cannot serve the call now. What the call would have written was not written."""

    def __init__(self, store: str, problem: str) -> None:
        super().__init__(store, problem)
        self.store = store
        self.problem = problem

    def _message(self) -> str:
        return f"{self.store}: {self.problem}"


class StoreBusyError(StoreUnavailableError):
    """Another writer held the database for longer than `busy_timeout`. Safe to try again."""


class ConnectionLostError(StoreUnavailableError):
    """The connection to the database broke and could not be made again in time. Nothing of the call was stored. Safe to try again."""


class CommitOutcomeUnknownError(StoreUnavailableError):
    """The connection broke after the database was told to commit and before it answered: either all of the call was stored or nothing.

    A workflow that is persisted again, by the same instance, is stored then, whatever became of the attempts before, and `expect_unchanged` refuses
    only where somebody else has written it. What does no harm twice never ends so: it is done again by itself. For anything else, look.
    """


class StoreFullError(StoreUnavailableError):
    """The disk, the quota or the database's own size limit is full."""


class StoreReadOnlyError(StoreUnavailableError):
    """The database file or its folder may not be written."""


class SchemaMismatchError(WfeError):
    """The database at `store` is not one of ours, or a newer version made it. Nothing in it was changed."""

    def __init__(self, store: str, problem: str) -> None:
        super().__init__(store, problem)
        self.store = store
        self.problem = problem

    def _message(self) -> str:
        return f"{self.store}: {self.problem}"


class CorruptionError(WfeError):
    """The database at `store` is damaged: a page, or a value that cannot have been written by this library."""

    def __init__(self, store: str, problem: str) -> None:
        super().__init__(store, problem)
        self.store = store
        self.problem = problem

    def _message(self) -> str:
        return f"{self.store}: {self.problem}"


class DefinitionError(WfeError):
    """A workflow definition is not well-formed."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class DefinitionChangedError(DefinitionError):
    """A stored execution pointer does not fit the definition that is registered under its workflow's id and version."""


class WorkflowEndedError(WfeError):
    """A workflow did not end as its caller waited for."""

    problem = "ended"

    def __init__(self, workflow_id: str, reason: str | None = None) -> None:
        super().__init__(workflow_id, reason)
        self.workflow_id = workflow_id
        self.reason = reason

    def _message(self) -> str:
        suffix = "" if self.reason is None else f": {self.reason}"
        return f"workflow {_shown(self.workflow_id)} {self.problem}{suffix}"


class WorkflowTerminatedError(WorkflowEndedError):
    """The workflow was terminated."""

    problem = "was terminated"


class WorkflowSuspendedError(WorkflowEndedError):
    """The workflow is suspended and will not go on by itself."""

    problem = "is suspended"


class WorkflowFailedError(WorkflowEndedError):
    """The workflow's function raised; `reason` says what. Where this process has seen the exception, it is the ``__cause__``."""

    problem = "failed"


class UnserializableWorkflowError(WorkflowFailedError, SerializationError):
    """The workflow failed because JSON cannot hold a value of it: what a step or its function returned, or a payload that does not fit."""

    def __init__(self, workflow_id: str, reason: str | None = None) -> None:
        WorkflowFailedError.__init__(self, workflow_id, reason)
        field, _, problem = (reason or "").removeprefix("SerializationError: ").partition(": ")
        self.field = field
        self.problem = problem

    def _message(self) -> str:
        return f"workflow {_shown(self.workflow_id)} failed: {self.reason}"


class WorkflowCancelledError(WorkflowEndedError):
    """The workflow was cancelled."""

    problem = "was cancelled"


class NonDeterminismError(WfeError):
    """The function of a workflow does something else at a position than what is recorded there. The execution is left as it is."""

    def __init__(self, execution_id: str, problem: str) -> None:
        super().__init__(execution_id, problem)
        self.execution_id = execution_id
        self.problem = problem

    def _message(self) -> str:
        return f"execution {_shown(self.execution_id)}: {self.problem}"


class RecoveryLimitError(WfeError):
    """Whoever ran an execution died or stalled, so many times in a row without recording anything; it is not taken up again."""

    def __init__(self, execution_id: str, takeovers: int) -> None:
        super().__init__(execution_id, takeovers)
        self.execution_id = execution_id
        self.takeovers = takeovers

    def _message(self) -> str:
        return (
            f"execution {_shown(self.execution_id)} was taken over {self.takeovers} times in a row and got no further"
        )


class StepFailedError(WfeError):
    """A step failed for good: `type_name` and `message` tell of its last error, which is the ``__cause__`` where it has just happened."""

    def __init__(self, step: str, type_name: str, message: str) -> None:
        super().__init__(step, type_name, message)
        self.step = step
        self.type_name = type_name
        self.message = message

    def _message(self) -> str:
        what = f"{self.type_name}: {self.message}" if self.message else self.type_name
        return f"step {_shown(self.step)} failed: {what}"


class StepTimeoutError(WfeError, TimeoutError):
    """An attempt of a step took longer than its `timeout`, in seconds."""

    def __init__(self, step: str, timeout: float) -> None:
        super().__init__(step, timeout)
        self.step = step
        self.timeout = timeout

    def _message(self) -> str:
        return f"step {_shown(self.step)} took longer than {self.timeout:g} s"


class SignalTimeoutError(WfeError, TimeoutError):
    """No signal of this name came within `timeout` seconds."""

    def __init__(self, signal: str, timeout: float) -> None:
        super().__init__(signal, timeout)
        self.signal = signal
        self.timeout = timeout

    def _message(self) -> str:
        return f"no signal {_shown(self.signal)} came within {self.timeout:g} s"
