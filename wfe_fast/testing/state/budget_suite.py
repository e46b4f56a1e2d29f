"""Budgets inside of states: they add up, and are there after a restart."""

from __future__ import annotations

from typing import Any

import pytest

from wfe_fast.errors import InvalidValueError
from wfe_fast.state.budget import BUDGET_KEY, BudgetState
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.models import WorkflowExecution
from wfe_fast.testing.state.base import BothScopes, StateUnderTest
from wfe_fast.testing.state.factories import an_event, an_execution, claimed, completed


class BudgetSuite(BothScopes):
    """See `budget.BudgetState`."""

    def test_it_goes_through_states_and_snapshots(
        self, backend: StateBackend, execution: WorkflowExecution, store: StateUnderTest
    ) -> None:
        budget = BudgetState()
        calls = [
            (10_000, 5_000, 0.016),
            (12_000, 6_000, 0.018),
            (8_000, 4_000, 0.012),
            (7_000, 4_000, 0.010),
            (5_000, 3_000, 0.008),
        ]
        for number, (given, taken, cost) in enumerate(calls):
            item = claimed(backend, execution, f"n{number}")
            found = BudgetState.of(backend.materialize(execution.execution_id).current_state)
            assert found == budget
            budget = found.used(input_tokens=given, output_tokens=taken, cost_usd=cost, tool_calls=2)
            patch = {**budget.as_patch(), "last": number}
            done = completed(item.node_id, state_patch=patch)
            backend.commit_turn(item, an_event(execution, done), snapshot=number % 2 == 0)
        again = store.open()
        state = again.materialize(execution.execution_id).current_state
        found = BudgetState.of(state)
        assert (found.total_input_tokens, found.total_output_tokens, found.total_tokens) == (42_000, 22_000, 64_000)
        assert found.total_cost_usd == pytest.approx(0.064)
        assert (found.iteration_count, found.tool_call_count) == (5, 10)
        assert state["last"] == 4

    def test_what_is_beside_it_stays(self, backend: StateBackend) -> None:
        state = BudgetState(iteration_count=3).into({"kept": [1]})
        execution = an_execution(initial_input=state)
        backend.create_execution(execution)
        found = backend.materialize(execution.execution_id).current_state
        assert found["kept"] == [1]
        assert BudgetState.of(found) == BudgetState(iteration_count=3)
        assert BudgetState(iteration_count=1).into([1]) == BudgetState(iteration_count=1).as_patch()

    @pytest.mark.parametrize(
        "state", [None, 1, [], {}, {BUDGET_KEY: None}, {BUDGET_KEY: {"total_input_tokens": -1}}, {BUDGET_KEY: "x"}]
    )
    def test_where_there_is_none(self, state: Any) -> None:
        assert BudgetState.of(state) == BudgetState()

    def test_each_limit_is_looked_at_by_itself(self) -> None:
        budget = BudgetState()
        for _ in range(30):
            budget = budget.used(input_tokens=20_000, cost_usd=0.5)
        assert budget.total_tokens > 500_000
        assert not budget.total_cost_usd > 15.0
        assert budget.used(cost_usd=0.5).total_cost_usd > 15.0

    def test_errors_in_a_row(self) -> None:
        budget = BudgetState().failed(3).failed(3)
        assert (budget.consecutive_error_count, budget.circuit_breaker_tripped) == (2, False)
        assert budget.used().consecutive_error_count == 0
        tripped = budget.failed(3)
        assert (tripped.consecutive_error_count, tripped.circuit_breaker_tripped) == (3, True)
        assert tripped.used().circuit_breaker_tripped

    def test_what_is_no_counter(self) -> None:
        wrong: Any = "many"
        for budget in (
            BudgetState(total_input_tokens=-1),
            BudgetState(iteration_count=2**32),
            BudgetState(tool_call_count=wrong),
        ):
            with pytest.raises(InvalidValueError, match="budget"):
                budget.as_patch()
