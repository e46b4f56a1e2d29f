"""The kinds of events: what can happen to an execution. One struct each, told apart by ``type`` in JSON.

A kind that this release does not know is an `UnknownEventKind`; it is stored again as it was read.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, TypeAlias, get_args

import msgspec
from msgspec import Meta, field

UInt32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
UInt64 = Annotated[int, Meta(ge=0)]
Moment = Annotated[datetime, Meta(tz=True)]


def _snake_case(name: str) -> str:
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")


class ProvenanceMetadata(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Where an output comes from."""

    model_id: str | None = None
    model_version: str | None = None
    confidence: float | None = None
    verified: bool = False
    source: str | None = None
    trust_domain: str | None = None
    evidence_refs: list[str] = field(default_factory=list)


class _Kind(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag=_snake_case):
    """Base of the kinds; those with a `node_id` are about one node."""


class WorkflowStarted(_Kind, kw_only=True):
    """The execution began."""

    workflow_id: str
    workflow_version: str
    initial_input: Any


class WorkflowCompleted(_Kind, kw_only=True):
    """It ended well, with this state."""

    final_state: Any


class WorkflowFailed(_Kind, kw_only=True):
    """It ended with an error."""

    error: str


class WorkflowCancelled(_Kind, kw_only=True):
    """Somebody ended it."""

    reason: str | None = None


class NodeScheduled(_Kind, kw_only=True):
    """The node waits in a queue."""

    node_id: str
    queue_type: str


class NodeStarted(_Kind, kw_only=True):
    """A worker has begun."""

    node_id: str
    worker_id: str
    attempt: UInt32


class NodeCompleted(_Kind, kw_only=True):
    """The node ended well; `state_patch` (RFC 7396) changes the state. The first result under an `idempotency_key` is kept."""

    node_id: str
    output: Any
    state_patch: Any
    duration_ms: UInt64
    gen_ai_system: str | None = None
    gen_ai_model: str | None = None
    input_tokens: UInt64 | None = None
    output_tokens: UInt64 | None = None
    finish_reason: str | None = None
    cost_usd: float | None = None
    provenance: ProvenanceMetadata | None = None
    idempotency_key: str | None = None


class NodeFailed(_Kind, kw_only=True):
    """An attempt failed; `attempt` is the one that did."""

    node_id: str
    error: str
    attempt: UInt32
    retryable: bool


class NodeSkipped(_Kind, kw_only=True):
    """The node is left out."""

    node_id: str
    reason: str


class NodeCancelled(_Kind, kw_only=True):
    """The node was ended from outside."""

    node_id: str


class RetryScheduled(_Kind, kw_only=True):
    """`attempt` begins in `delay_ms` milliseconds at the earliest."""

    node_id: str
    attempt: UInt32
    delay_ms: UInt64


class InterruptRaised(_Kind, kw_only=True):
    """The execution pauses for a review."""

    node_id: str
    reason: str
    state_for_review: Any


class ApprovalReceived(_Kind, kw_only=True):
    """Somebody has decided: `decision` is ``approved`` or ``rejected``."""

    node_id: str
    user_id: str
    decision: str
    comment: str | None = None
    state_patch: Any = None


class TimerCreated(_Kind, kw_only=True):
    """A timer runs until `fire_at`."""

    node_id: str
    fire_at: Moment
    correlation_key: str | None = None


class TimerFired(_Kind, kw_only=True):
    """A timer has run out."""

    node_id: str
    correlation_key: str | None = None


class ExternalEventReceived(_Kind, kw_only=True):
    """Something came from outside."""

    correlation_key: str
    payload: Any


class ChildWorkflowStarted(_Kind, kw_only=True):
    """The node began another execution."""

    node_id: str
    child_execution_id: str
    child_workflow_id: str


class ChildWorkflowCompleted(_Kind, kw_only=True):
    """The other execution ended well."""

    node_id: str
    child_execution_id: str
    result: Any


class ChildWorkflowFailed(_Kind, kw_only=True):
    """The other execution failed."""

    node_id: str
    child_execution_id: str
    error: str


class BudgetExceeded(_Kind, kw_only=True):
    """More was used than allowed."""

    node_id: str
    kind: str
    limit: UInt64
    current: UInt64


class TokenBudgetExceeded(_Kind, kw_only=True):
    """More tokens were used than allowed; `kind` is ``input_tokens``, ``output_tokens`` or ``total_tokens``."""

    node_id: str
    kind: str
    limit: UInt64
    current: UInt64


class CostBudgetExceeded(_Kind, kw_only=True):
    """More money was spent than allowed."""

    node_id: str
    limit_usd: float
    current_usd: float


class AutonomyLimitReached(_Kind, kw_only=True):
    """An agent may not go on by itself."""

    node_id: str
    agent_ref: str
    limit_type: str
    limit_value: Any
    actual_value: Any


class CircuitBreakerTripped(_Kind, kw_only=True):
    """An agent failed too often in a row."""

    node_id: str
    agent_ref: str
    consecutive_errors: UInt32
    threshold: UInt32


class EscalationRequired(_Kind, kw_only=True):
    """Somebody else has to decide."""

    node_id: str
    agent_ref: str
    reason: str
    escalation_target: str


class PolicyViolation(_Kind, kw_only=True):
    """A rule forbade something; `decision` is ``blocked`` or ``require_approval``."""

    node_id: str
    rule: str
    decision: str
    policy_scope: str


class ToolApprovalRequired(_Kind, kw_only=True):
    """A tool waits for an approval."""

    node_id: str
    tool_name: str
    approver: str
    context: Any


class StrategyStarted(_Kind, kw_only=True):
    """A strategy began."""

    strategy: str
    config: Any


class PlanGenerated(_Kind, kw_only=True):
    """A strategy has a plan."""

    steps: list[str]


class IterationStarted(_Kind, kw_only=True):
    """A round of a strategy began."""

    iteration: UInt32


class ToolCalled(_Kind, kw_only=True):
    """The node called a tool."""

    node_id: str
    tool: str


class CriticVerdict(_Kind, kw_only=True):
    """A result was judged."""

    node_id: str
    score: float
    passed: bool
    feedback: str | None = None


class IterationCompleted(_Kind, kw_only=True):
    """A round of a strategy ended."""

    iteration: UInt32
    cost_delta_usd: float | None = None
    input_tokens: UInt64
    output_tokens: UInt64


class StrategyLimitHit(_Kind, kw_only=True):
    """A strategy may not go on; the execution ends."""

    limit_type: str
    limit_value: Any
    actual_value: Any


class StrategyCompleted(_Kind, kw_only=True):
    """A strategy ended."""

    iterations: UInt32
    total_cost_usd: float | None = None


class CoordinatorDiscovery(_Kind, kw_only=True):
    """A coordinator looked for agents."""

    node_id: str
    query_skills: list[str]
    query_trust_domain: str | None = None
    candidates: list[Any]
    filtered_out: list[Any]


class CoordinatorScoring(_Kind, kw_only=True):
    """A coordinator has ranked the agents."""

    node_id: str
    rankings: list[Any]
    spread: float
    weights: Any


class CoordinatorDecision(_Kind, kw_only=True):
    """A coordinator chose an agent, or none."""

    node_id: str
    selected: str | None = None
    method: str
    reasoning: str | None = None
    confidence: float
    rejected: list[Any]
    tiebreaker_tokens: Any = None
    tiebreaker_cost: float | None = None


class AgentToolInvoked(_Kind, kw_only=True):
    """An agent was called as a tool."""

    node_id: str
    agent_uri: str
    mode: str
    protocol: str
    input_hash: str


class AgentToolProgress(_Kind, kw_only=True):
    """It has sent a part of its output."""

    node_id: str
    chunk_index: UInt32
    partial_output_summary: str


class AgentToolTurn(_Kind, kw_only=True):
    """One turn of a conversation with it."""

    node_id: str
    turn_number: UInt32
    direction: str
    content_summary: str
    tokens: UInt32
    cost: float


class AgentToolCompleted(_Kind, kw_only=True):
    """It ended well."""

    node_id: str
    output: Any
    provenance: Any = None
    total_cost: float
    latency_ms: UInt64
    total_turns: UInt32 | None = None


class AgentToolTerminated(_Kind, kw_only=True):
    """It was stopped before its end."""

    node_id: str
    reason: str
    chunks_received: UInt32
    partial_output: Any = None
    cost: float


class AgentToolFailed(_Kind, kw_only=True):
    """It failed."""

    node_id: str
    failure_type: str
    message: str
    retryable: bool


class UnknownEventKind(msgspec.Struct, dict=True):
    """A kind that this release does not know: its name, and its other fields as JSON values.

    One that was read remembers the bytes that were stored, and is stored again byte for byte.
    """

    type: str
    fields: dict[str, Any] = field(default_factory=dict)


EventKind: TypeAlias = (
    WorkflowStarted
    | WorkflowCompleted
    | WorkflowFailed
    | WorkflowCancelled
    | NodeScheduled
    | NodeStarted
    | NodeCompleted
    | NodeFailed
    | NodeSkipped
    | NodeCancelled
    | RetryScheduled
    | InterruptRaised
    | ApprovalReceived
    | TimerCreated
    | TimerFired
    | ExternalEventReceived
    | ChildWorkflowStarted
    | ChildWorkflowCompleted
    | ChildWorkflowFailed
    | BudgetExceeded
    | TokenBudgetExceeded
    | CostBudgetExceeded
    | AutonomyLimitReached
    | CircuitBreakerTripped
    | EscalationRequired
    | PolicyViolation
    | ToolApprovalRequired
    | StrategyStarted
    | PlanGenerated
    | IterationStarted
    | ToolCalled
    | CriticVerdict
    | IterationCompleted
    | StrategyLimitHit
    | StrategyCompleted
    | CoordinatorDiscovery
    | CoordinatorScoring
    | CoordinatorDecision
    | AgentToolInvoked
    | AgentToolProgress
    | AgentToolTurn
    | AgentToolCompleted
    | AgentToolTerminated
    | AgentToolFailed
)

AnyEventKind: TypeAlias = EventKind | UnknownEventKind

KINDS: tuple[type[msgspec.Struct], ...] = get_args(EventKind)

#: The name in JSON of each kind.
TYPE_OF: dict[type, str] = {kind: str(kind.__struct_config__.tag) for kind in KINDS}
KNOWN_TYPES = frozenset(TYPE_OF.values())


def type_of(kind: AnyEventKind) -> str:
    """The kind's name in JSON, such as ``node_started``."""
    return kind.type if isinstance(kind, UnknownEventKind) else TYPE_OF[type(kind)]


def node_id_of(kind: AnyEventKind) -> str | None:
    """The node that an event of this kind is about, or None."""
    found = kind.fields.get("node_id") if isinstance(kind, UnknownEventKind) else getattr(kind, "node_id", None)
    return found if isinstance(found, str) else None
