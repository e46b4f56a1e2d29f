"""What the errors of PostgreSQL mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from wfe_fast.database.base import UniqueViolation
from wfe_fast.database.postgres_names import Names
from wfe_fast.database.postgres_session import StatementFailed
from wfe_fast.errors import (
    CorruptionError,
    SchemaMismatchError,
    StoreBusyError,
    StoreFullError,
    StoreReadOnlyError,
    StoreUnavailableError,
)

_BUSY = {
    "40001": "it was in conflict with other transactions, again and again",
    "40P01": "it was in a deadlock with other transactions, again and again",
    "55P03": "a lock was not to be had within lock_timeout",
    "57014": "the statement took longer than statement_timeout, or was cancelled",
}
_FULL = ("53100", "53200", "53400", "54000")
_CORRUPT = ("XX001", "XX002")
_MISSING = ("42P01", "42703", "42883", "3F000")


def error_of(
    failed: StatementFailed, store: str, names: Names, refusals: Mapping[str, Callable[[str], Exception]]
) -> Exception:
    """The error that says what a failed statement means: one of ours, or what a store turns into one."""
    code, message = failed.code, f"{failed.message} ({failed.code})"
    if code == "23505":
        return UniqueViolation(names.own_name(failed.constraint))
    if code in refusals:
        return refusals[code](failed.message)
    if code in _BUSY:
        return StoreBusyError(store, f"{_BUSY[code]}: {message}")
    if code in _FULL:
        return StoreFullError(store, message)
    if code == "25006":
        return StoreReadOnlyError(store, f"the server may not be written: {message}")
    if code in _CORRUPT:
        return CorruptionError(store, message)
    if code in _MISSING:
        return SchemaMismatchError(store, f"its tables are not as this release needs them: {message}")
    return StoreUnavailableError(store, message)
