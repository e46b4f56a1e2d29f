"""What an execution has used so far, kept inside its state, so that it is in every snapshot and survives restarts without a table."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from wfe_fast.errors import InvalidValueError
from wfe_fast.state.events import UInt32, UInt64

#: Where it is in the state.
BUDGET_KEY = "__budget"


class BudgetState(msgspec.Struct, kw_only=True):
    """Counters of tokens, money, iterations, calls of tools, and errors in a row.

    They travel in `NodeCompleted.state_patch`: ``state_patch=budget.as_patch()``.
    """

    total_input_tokens: UInt64 = 0
    total_output_tokens: UInt64 = 0
    total_cost_usd: float = 0.0
    iteration_count: UInt32 = 0
    tool_call_count: UInt32 = 0
    consecutive_error_count: UInt32 = 0
    circuit_breaker_tripped: bool = False

    @classmethod
    def of(cls, state: Any) -> BudgetState:
        """The budget in a state. Where there is none, or something else in its place, everything is 0: other programs write states, too."""
        stored = state.get(BUDGET_KEY) if isinstance(state, dict) else None
        try:
            return msgspec.convert(stored, cls)
        except (msgspec.MsgspecError, ValueError):
            return cls()

    def as_patch(self) -> dict[str, Any]:
        """The patch of a state that puts this budget into it, and leaves everything else.

        Raises:
            InvalidValueError: a counter is negative, too large or no number.
        """
        fields = msgspec.to_builtins(self)
        try:
            msgspec.convert(fields, type(self))
        except (msgspec.MsgspecError, ValueError) as error:
            raise InvalidValueError("budget", str(error), fields) from error
        return {BUDGET_KEY: fields}

    def into(self, state: Any) -> dict[str, Any]:
        """The state with this budget in it; what is no object becomes one.

        Raises:
            InvalidValueError: see `as_patch`.
        """
        return {**(state if isinstance(state, dict) else {}), **self.as_patch()}

    @property
    def total_tokens(self) -> int:
        """Input and output together."""
        return self.total_input_tokens + self.total_output_tokens

    def used(
        self, *, input_tokens: int = 0, output_tokens: int = 0, cost_usd: float = 0.0, tool_calls: int = 0
    ) -> BudgetState:
        """The budget after one more iteration that used so much and ended well."""
        return replace(
            self,
            total_input_tokens=self.total_input_tokens + input_tokens,
            total_output_tokens=self.total_output_tokens + output_tokens,
            total_cost_usd=self.total_cost_usd + cost_usd,
            iteration_count=self.iteration_count + 1,
            tool_call_count=self.tool_call_count + tool_calls,
            consecutive_error_count=0,
        )

    def failed(self, threshold: int) -> BudgetState:
        """The budget after an error; `threshold` of them in a row trip the breaker, which stays so."""
        errors = self.consecutive_error_count + 1
        return replace(
            self,
            consecutive_error_count=errors,
            circuit_breaker_tripped=self.circuit_breaker_tripped or errors >= threshold,
        )
