"""Scheduled commands and execution errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime

from wfe_fast.clock import Duration, checked_moment, to_millis
from wfe_fast.errors import InvalidStateError, InvalidValueError, WfeError
from wfe_fast.persistence.claims import lease_micros
from wfe_fast.persistence.models import ExecutionError, ScheduledCommand
from wfe_fast.persistence.operations import Operations, all_rows, run
from wfe_fast.persistence.rows import command_from, command_row, error_from, error_row
from wfe_fast.persistence.validation import check_name, check_optional_limit, check_sequence


class CommandMethods(Operations):
    """See `contract.CommandOperations` and `contract.PersistenceProvider.process_commands`."""

    def supports_scheduled_commands(self) -> bool:
        return True

    def schedule_command(self, command: ScheduledCommand) -> None:
        self._store_for(None, run, (self._sql.schedule_command, command_row(command)), repeatable=True)

    def process_commands(
        self, as_of: datetime, handler: Callable[[ScheduledCommand], object], *, lease: Duration = 60.0
    ) -> int:
        due = to_millis(checked_moment(as_of, "as_of"))
        if not callable(handler):
            raise InvalidValueError("handler", "must be callable", handler)
        length = lease_micros(lease)
        if self._in_block():
            raise InvalidStateError("commands cannot be processed inside a transaction block")
        handled = 0
        # The commands that are due now, with their revisions: one that its own handler schedules again has another, and is left.
        for id, revision, name, data, execute_time in self._read(self._work.due_commands, due):
            until = self._write(self._work.lease_command, id, revision, length)
            if until is None:
                continue
            try:
                handler(command_from(name, data, execute_time))
            except BaseException:
                with suppress(WfeError):  # then its lease frees it; what the handler raised matters more
                    self._repeat(run, self._sql.free_command, (id, until))
                raise
            self._repeat(self._work.finish_command, id, revision, until)
            handled += 1
        return handled

    def persist_errors(self, errors: Sequence[ExecutionError]) -> None:
        checked = check_sequence(errors, ExecutionError, "errors")
        rows = [error_row(error, f"errors[{index}]") for index, error in enumerate(checked)]
        if rows:
            self._store_for(None, self._work.add_errors, (rows,))
        else:
            self._check_usable()

    def get_errors(self, workflow_id: str, limit: int | None = None) -> list[ExecutionError]:
        params = (check_name(workflow_id, "workflow_id", empty=True), check_optional_limit(limit))
        return [error_from(row) for row in self._read(all_rows, self._sql.get_errors, params)]
