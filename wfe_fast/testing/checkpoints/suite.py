"""All suites of contract B in one class."""

from __future__ import annotations

from wfe_fast.testing.checkpoints.claim_suite import ClaimSuite, FencingSuite
from wfe_fast.testing.checkpoints.engine_suite import (
    AdvanceSuite,
    CancelSuite,
    SignalWaitSuite,
    StartSuite,
    WakeSuite,
)
from wfe_fast.testing.checkpoints.execution_suite import (
    ByStatusSuite,
    DeleteSuite,
    ExecutionSuite,
    ListSuite,
    WorkflowSuite,
)
from wfe_fast.testing.checkpoints.record_suite import CheckpointRowSuite, ReferenceSuite, SignalSuite, TimerSuite
from wfe_fast.testing.checkpoints.store_suite import (
    ArgumentSuite,
    CrashSuite,
    LifeSuite,
    RaceSuite,
    SchemaSuite,
    TransactionSuite,
)


class InProcessCheckpointSuite:
    """What a store has to do that lives in one process, with one connection. Subclass it, and override the fixture `stores`."""

    class TestWorkflows(WorkflowSuite):
        pass

    class TestExecutions(ExecutionSuite):
        pass

    class TestByStatuss(ByStatusSuite):
        pass

    class TestLists(ListSuite):
        pass

    class TestDeletes(DeleteSuite):
        pass

    class TestCheckpointRows(CheckpointRowSuite):
        pass

    class TestTimers(TimerSuite):
        pass

    class TestSignals(SignalSuite):
        pass

    class TestReferences(ReferenceSuite):
        pass

    class TestClaims(ClaimSuite):
        pass

    class TestFencings(FencingSuite):
        pass

    class TestStarts(StartSuite):
        pass

    class TestAdvances(AdvanceSuite):
        pass

    class TestWakes(WakeSuite):
        pass

    class TestSignalWaits(SignalWaitSuite):
        pass

    class TestCancels(CancelSuite):
        pass

    class TestSchemas(SchemaSuite):
        pass

    class TestTransactions(TransactionSuite):
        pass

    class TestArguments(ArgumentSuite):
        pass

    class TestLifes(LifeSuite):
        pass


class CheckpointSuite(InProcessCheckpointSuite):
    """All of contract B. Subclass it, and override the fixture `stores`."""

    class TestRaces(RaceSuite):
        pass

    class TestCrashes(CrashSuite):
        pass
