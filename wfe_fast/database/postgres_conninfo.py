"""Connection strings: what a caller gave, with our settings where he has made none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import psycopg

from wfe_fast.database.postgres_names import Names
from wfe_fast.database.postgres_pool import Pool
from wfe_fast.errors import InvalidValueError


def conninfo_from(dsn: object, field: str) -> str:
    """A connection string that libpq can read.

    Raises:
        InvalidValueError: it is none.
    """
    if not isinstance(dsn, str) or not dsn.strip() or "\0" in dsn:
        raise InvalidValueError(field, "must be a postgresql: URL or a connection string", dsn)
    try:
        return psycopg.conninfo.make_conninfo(dsn)
    except psycopg.Error as error:
        # Not the value: it may hold a password.
        raise InvalidValueError(field, f"is no connection string: {str(error).strip()}", "…") from error


#: Keywords of `psycopg.connect` that are no part of a connection string.
_NO_PARAMETERS = {"autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory"}


def conninfo_of(pool: Pool) -> str:
    """Where the connections of a caller's pool lead."""
    given, kwargs = pool.conninfo, pool.kwargs or {}
    given = given() if callable(given) else given
    kwargs = kwargs() if callable(kwargs) else kwargs
    return psycopg.conninfo.make_conninfo(
        given, **{name: value for name, value in kwargs.items() if name not in _NO_PARAMETERS}
    )


def with_settings(conninfo: str, application_name: str, limits: Mapping[str, float]) -> str:
    """The connection string with our settings, where the caller has not made his own."""
    given = psycopg.conninfo.conninfo_to_dict(conninfo)
    options = [f"-c {name}={min(math.ceil(seconds * 1000), _LONGEST_LIMIT)}" for name, seconds in limits.items()]
    if limits:
        # Whatever the role or the database has: functions rely on the one, and no name of theirs may be found anywhere else.
        options += ["-c default_transaction_isolation=read\\ committed", "-c search_path=pg_catalog"]
    options.append(str(given.get("options") or ""))
    ours: dict[str, Any] = {"application_name": application_name, "connect_timeout": 10, **_KEEPALIVES, **given}
    if any(options):
        ours["options"] = " ".join(options).strip()
    return psycopg.conninfo.make_conninfo("", **ours)


#: The server's own limit of its limits, in milliseconds.
_LONGEST_LIMIT = 2**31 - 1

#: A server whose machine has vanished is noticed within half a minute.
_KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 25_000}


def name_of(conninfo: str, names: Names) -> str:
    """How errors call the database, without a password."""
    given = psycopg.conninfo.conninfo_to_dict(conninfo)
    place = ",".join(str(given.get(part)) for part in ("host", "port") if given.get(part)) or "local"
    where = f"{given.get('dbname') or given.get('user') or ''}, schema {names.schema}"
    return f"postgresql at {place}, {where}" + (f", prefix {names.prefix}" if names.prefix else "")
