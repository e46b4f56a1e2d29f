"""All suites of contract A in one class."""

from __future__ import annotations

from wfe_fast.testing.persistence.argument_suite import ArgumentSuite
from wfe_fast.testing.persistence.claim_suite import ClaimSuite, FencingSuite
from wfe_fast.testing.persistence.command_suite import CommandSuite, ErrorSuite
from wfe_fast.testing.persistence.crash_suite import CrashSuite
from wfe_fast.testing.persistence.delivery_suite import PublishSuite, TakeEventsSuite
from wfe_fast.testing.persistence.event_suite import EventSuite
from wfe_fast.testing.persistence.extremes_suite import ValueSuite
from wfe_fast.testing.persistence.model_suite import ModelSuite
from wfe_fast.testing.persistence.pointer_suite import LastWriterSuite, PointerSuite
from wfe_fast.testing.persistence.query_suite import ListSuite, RetentionSuite
from wfe_fast.testing.persistence.race_suite import RaceSuite
from wfe_fast.testing.persistence.revision_suite import ControlSuite, RevisionSuite
from wfe_fast.testing.persistence.rollback_suite import RollbackSuite
from wfe_fast.testing.persistence.subscription_suite import ActivitySuite, SubscriptionSuite
from wfe_fast.testing.persistence.transaction_suite import AtomicitySuite, IsolationSuite, TransactionSuite
from wfe_fast.testing.persistence.values_suite import FieldSuite
from wfe_fast.testing.persistence.waking_suite import NextDueSuite, WakeUpSuite
from wfe_fast.testing.persistence.workflow_suite import CreateSuite, PersistSuite, RunnableSuite


class InProcessSuite:
    """What a store has to keep within one process: everything but isolation, wake-ups, races and crashes."""

    class TestCreates(CreateSuite):
        pass

    class TestPersists(PersistSuite):
        pass

    class TestRunnable(RunnableSuite):
        pass

    class TestPointers(PointerSuite):
        pass

    class TestLastWriter(LastWriterSuite):
        pass

    class TestClaims(ClaimSuite):
        pass

    class TestFencing(FencingSuite):
        pass

    class TestRevisions(RevisionSuite):
        pass

    class TestControl(ControlSuite):
        pass

    class TestAtomicity(AtomicitySuite):
        pass

    class TestTransactions(TransactionSuite):
        pass

    class TestRollbacks(RollbackSuite):
        pass

    class TestEvents(EventSuite):
        pass

    class TestPublish(PublishSuite):
        pass

    class TestTakeEvents(TakeEventsSuite):
        pass

    class TestSubscriptions(SubscriptionSuite):
        pass

    class TestActivities(ActivitySuite):
        pass

    class TestCommands(CommandSuite):
        pass

    class TestErrors(ErrorSuite):
        pass

    class TestLists(ListSuite):
        pass

    class TestRetention(RetentionSuite):
        pass

    class TestNextDue(NextDueSuite):
        pass

    class TestFields(FieldSuite):
        pass

    class TestValues(ValueSuite):
        pass

    class TestArguments(ArgumentSuite):
        pass

    class TestModel(ModelSuite):
        pass


class PersistenceSuite(InProcessSuite):
    """All of contract A. Subclass it, and override the fixture `store`."""

    class TestIsolation(IsolationSuite):
        pass

    class TestWakeUps(WakeUpSuite):
        pass

    class TestRaces(RaceSuite):
        pass

    class TestCrashes(CrashSuite):
        pass
