"""Scheduled commands, and the errors of steps."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from wfe_fast.clock import from_millis, to_millis
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import ExecutionError, ScheduledCommand
from wfe_fast.testing.clock import START, ManualClock
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import FAR, a_workflow, an_error
from wfe_fast.testing.persistence.state import drain_commands
from wfe_fast.testing.store import StoreUnderTest
from wfe_fast.testing.waiting import Background

NOW = to_millis(START)


def _workflow(data: str, moment: int = NOW) -> ScheduledCommand:
    return ScheduledCommand.process_workflow(data, moment)


def _schedule(provider: PersistenceProvider, **moments: int) -> None:
    for data, moment in moments.items():
        provider.schedule_command(_workflow(data, moment))


def _handled(provider: PersistenceProvider, as_of: datetime = START) -> list[str]:
    found: list[str] = []
    count = provider.process_commands(as_of, lambda command: found.append(command.data))
    assert count == len(found)
    return found


class CommandSuite(Suite):
    """`schedule_command` and `process_commands`."""

    def test_supported(self, provider: PersistenceProvider) -> None:
        assert provider.supports_scheduled_commands() is True

    def test_a_command_is_handled_once(self, provider: PersistenceProvider) -> None:
        commands = [_workflow("é", -5), ScheduledCommand.process_event("", 0)]
        for command in commands:
            provider.schedule_command(command)
        found: list[ScheduledCommand] = []
        assert provider.process_commands(START, found.append) == 2
        assert found == commands
        assert provider.process_commands(FAR, found.append) == 0

    def test_due_ones_oldest_first(self, provider: PersistenceProvider) -> None:
        _schedule(provider, c=NOW, a=NOW - 10, later=NOW + 1, b=NOW - 5, far=2**63 - 1)
        assert _handled(provider) == ["a", "b", "c"]
        assert _handled(provider, START + timedelta(microseconds=999)) == []
        assert _handled(provider, START + timedelta(milliseconds=1)) == ["later"]
        assert _handled(provider, FAR) == []

    def test_scheduling_twice_moves_it(self, provider: PersistenceProvider) -> None:
        _schedule(provider, a=NOW - 5, b=NOW - 4)
        _schedule(provider, a=NOW + 5, b=NOW - 9)
        assert _handled(provider) == ["b"]
        _schedule(provider, a=NOW)
        assert _handled(provider) == ["a"]
        assert _handled(provider, FAR) == []

    def test_the_name_is_part_of_what_is_unique(self, provider: PersistenceProvider) -> None:
        provider.schedule_command(ScheduledCommand.process_event("a", 1))
        provider.schedule_command(ScheduledCommand.process_workflow("a", 2))
        assert [command.execute_time for command in drain_commands(provider)] == [1, 2]

    @pytest.mark.parametrize("error", [ValueError("planned"), KeyboardInterrupt()])
    def test_a_handler_that_raises_leaves_its_command_and_the_rest(
        self, provider: PersistenceProvider, error: BaseException
    ) -> None:
        _schedule(provider, a=1, b=2, c=3)
        seen: list[str] = []

        def handle(command: ScheduledCommand) -> None:
            seen.append(command.data)
            if command.data == "b":
                raise error

        with pytest.raises(type(error)) as caught:
            provider.process_commands(START, handle)
        assert caught.value is error
        assert seen == ["a", "b"]
        assert _handled(provider) == ["b", "c"]

    @pytest.mark.parametrize("moment", [2, 1, NOW - 1, NOW + 5])
    def test_rescheduled_while_it_is_handled_is_kept(self, provider: PersistenceProvider, moment: int) -> None:
        _schedule(provider, a=2)

        def handle(command: ScheduledCommand) -> None:
            assert len(seen) < 2, "a command that its handler schedules again is for the next call"
            seen.append(command.execute_time)
            provider.schedule_command(_workflow("a", moment))

        seen: list[int] = []
        provider.process_commands(START, handle)
        assert [command.execute_time for command in drain_commands(provider)] == [moment]

    def test_no_transaction_is_open_while_the_handler_runs(
        self, provider: PersistenceProvider, store: StoreUnderTest, clock: ManualClock
    ) -> None:
        other = store.open(clock=clock)
        _schedule(provider, a=1)

        def handle(command: ScheduledCommand) -> None:
            assert other.process_commands(START, lambda _: pytest.fail("handled twice at once")) == 0
            other.create_new_workflow(a_workflow(id="other"))
            Background(lambda: provider.create_new_workflow(a_workflow(id="thread"))).result()
            with provider.transaction() as tx:
                tx.create_new_workflow(a_workflow(id="here"))

        assert provider.process_commands(START, handle) == 1
        assert len(other.get_workflow_instances(["other", "thread", "here"])) == 3

    def test_a_handler_that_hangs_holds_its_command_for_the_lease(
        self, provider: PersistenceProvider, store: StoreUnderTest, clock: ManualClock
    ) -> None:
        other = store.open(clock=clock)
        _schedule(provider, a=1)

        def handle(_: ScheduledCommand) -> None:
            assert _handled(other) == []
            clock.advance(9.999)
            assert _handled(other) == []
            clock.advance(0.002)
            assert _handled(other) == ["a"]

        provider.process_commands(START, handle, lease=10)
        assert _handled(provider, FAR) == []

    def test_what_another_took_over_and_rescheduled_is_kept(
        self, provider: PersistenceProvider, store: StoreUnderTest, clock: ManualClock
    ) -> None:
        other = store.open(clock=clock)
        _schedule(provider, a=1)

        def handle(_: ScheduledCommand) -> None:
            clock.advance(11)
            assert _handled(other) == ["a"]
            _schedule(other, a=1)

        provider.process_commands(START, handle, lease=10)
        assert _handled(provider, FAR) == ["a"]

    def test_the_rest_is_not_held_longer_than_the_lease(
        self, provider: PersistenceProvider, store: StoreUnderTest, clock: ManualClock
    ) -> None:
        """A slow handler of the first command: meanwhile another process either takes the rest, or waits for it; none runs twice."""
        other = store.open(clock=clock)
        _schedule(provider, a=1, b=2, c=3)
        seen: list[str] = []

        def handle(command: ScheduledCommand) -> None:
            seen.append(command.data)
            if command.data == "a":
                seen.extend(_handled(other))

        provider.process_commands(START, handle)
        assert sorted(seen) == ["a", "b", "c"]
        assert _handled(provider, FAR) == []

    def test_a_new_command_is_not_taken_for_one_that_is_gone(
        self, provider: PersistenceProvider, store: StoreUnderTest, clock: ManualClock
    ) -> None:
        """While we handle the first, another process handles the second, and a third is stored, maybe in its place."""
        other = store.open(clock=clock)
        _schedule(provider, a=1, b=2)
        seen: list[str] = []

        def handle(command: ScheduledCommand) -> None:
            seen.append(command.data)
            if command.data == "a":
                seen.extend(_handled(other))
                _schedule(other, later=NOW + 1)

        provider.process_commands(START, handle)
        assert seen == ["a", "b"]
        assert _handled(provider, FAR) == ["later"]

    def test_a_handler_may_schedule_others(self, provider: PersistenceProvider) -> None:
        _schedule(provider, a=1)
        provider.process_commands(START, lambda _: _schedule(provider, later=NOW + 1))
        assert _handled(provider, FAR) == ["later"]

    def test_many(self, provider: PersistenceProvider) -> None:
        expected = [f"c{number:04}" for number in range(700)]
        with provider.transaction() as tx:
            for number, data in enumerate(expected):
                tx.schedule_command(_workflow(data, number))
        assert _handled(provider) == expected


class ErrorSuite(Suite):
    """`persist_errors` and `get_errors`."""

    def test_twice(self, provider: PersistenceProvider) -> None:
        for message in ("first", "second"):
            provider.persist_errors([an_error("w", message=message)])
        assert [error.message for error in provider.get_errors("w")] == ["first", "second"]

    def test_every_field_comes_back(self, provider: PersistenceProvider) -> None:
        error = ExecutionError(
            error_time=from_millis(NOW) + timedelta(microseconds=7),
            workflow_id="w",
            execution_pointer_id="p",
            message="é\n" * 5000,
        )
        provider.persist_errors((error,))
        assert provider.get_errors("w") == [error]

    def test_none_is_nothing(self, provider: PersistenceProvider) -> None:
        provider.persist_errors([])
        assert provider.get_errors("w") == []

    def test_of_one_workflow_oldest_first_and_limit(self, provider: PersistenceProvider) -> None:
        made = [an_error("w", message=str(n), error_time=START + timedelta(seconds=n)) for n in range(5)]
        provider.persist_errors([made[0], an_error("v"), *made[1:]])
        assert provider.get_errors("w") == made
        assert provider.get_errors("w", 2) == made[:2]
        assert len(provider.get_errors("v")) == 1
        assert provider.get_errors("x") == []

    def test_errors_of_one_moment_keep_their_order(self, provider: PersistenceProvider) -> None:
        made = [an_error("w", message=str(n), error_time=START) for n in range(12)]
        provider.persist_errors(made[:6])
        provider.persist_errors(made[6:])
        assert provider.get_errors("w") == made
