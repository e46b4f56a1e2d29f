"""All suites of contract C in one class."""

from __future__ import annotations

from wfe_fast.testing.state.argument_suite import StateArgumentSuite
from wfe_fast.testing.state.budget_suite import BudgetSuite
from wfe_fast.testing.state.dead_letter_suite import DeadLetterSuite
from wfe_fast.testing.state.event_suite import EventSuite
from wfe_fast.testing.state.execution_suite import ExecutionSuite
from wfe_fast.testing.state.item_suite import LeaseEndSuite, LeaseFencingSuite, QueueSuite
from wfe_fast.testing.state.race_suite import StateRaceSuite
from wfe_fast.testing.state.tenant_suite import ScopeSuite, TenantSuite
from wfe_fast.testing.state.token_suite import TokenSuite
from wfe_fast.testing.state.transition_suite import EffectSuite, RetentionSuite, TransitionSuite


class StateSuite:
    """Everything, as classes within one: their tests may have equal names."""

    class TestExecutions(ExecutionSuite):
        """Definitions and executions."""

    class TestEvents(EventSuite):
        """Events and snapshots."""

    class TestBudgets(BudgetSuite):
        """Budgets in states."""

    class TestQueues(QueueSuite):
        """Enqueue and claim."""

    class TestLeaseEnds(LeaseEndSuite):
        """How a lease ends."""

    class TestFencing(LeaseFencingSuite):
        """Lost leases."""

    class TestDeadLetters(DeadLetterSuite):
        """Items that were given up."""

    class TestTransitions(TransitionSuite):
        """Changes that belong together."""

    class TestEffects(EffectSuite):
        """What must not happen twice."""

    class TestRetention(RetentionSuite):
        """Deleting."""

    class TestScopes(ScopeSuite):
        """One tenant against another."""

    class TestTenants(TenantSuite):
        """Managing tenants."""

    class TestTokens(TokenSuite):
        """Tokens."""

    class TestRaces(StateRaceSuite):
        """Threads and processes at once."""

    class TestArguments(StateArgumentSuite):
        """Bad input."""
