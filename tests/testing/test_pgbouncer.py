"""PgBouncer in front of a server. Where a machine has none, what is tested is that this is said."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

import wfe_fast
from wfe_fast.errors import InvalidValueError, StoreUnavailableError
from wfe_fast.testing import pgbouncer
from wfe_fast.testing.pgbouncer import PgBouncer, find_pgbouncer
from wfe_fast.testing.waiting import wait_until

HAS_ONE = find_pgbouncer() is not None


def without_one(dsn: str) -> None:
    with pytest.raises(StoreUnavailableError, match="PgBouncer: there is none on this machine"):
        PgBouncer(dsn)


def test_a_missing_one_is_said(monkeypatch: pytest.MonkeyPatch, postgres_dsn: str) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(pgbouncer, "_FURTHER_PLACES", ())
    assert find_pgbouncer() is None
    without_one(postgres_dsn)


def test_a_connection_is_one_s_own_for_one_transaction(postgres_dsn: str) -> None:
    if not HAS_ONE:
        return without_one(postgres_dsn)
    backend = "SELECT pg_backend_pid()"
    with PgBouncer(postgres_dsn, pool_size=1) as bouncer:
        folder = bouncer.folder
        assert folder.stat().st_mode & 0o777 == 0o700
        options = {"autocommit": True, "prepare_threshold": None}
        with psycopg.connect(bouncer.dsn, **options) as one, psycopg.connect(bouncer.dsn, **options) as two:
            with one.transaction():
                first = one.execute(backend).fetchone()
                assert one.execute(backend).fetchone() == first
            assert two.execute(backend).fetchone() == first
    assert not folder.exists()
    return None


@pytest.mark.parametrize("dsn", ["postgresql:///nowhere", "postgresql://me@/two%0Alines?host=/tmp"])
def test_what_is_no_server_s_address_is_refused(dsn: str) -> None:
    if not HAS_ONE:
        return without_one(dsn)
    with pytest.raises(InvalidValueError, match="dsn"):
        PgBouncer(dsn)
    return None


def test_one_that_does_not_start_says_why(postgres_dsn: str) -> None:
    if not HAS_ONE:
        return without_one(postgres_dsn)
    bouncer = PgBouncer(postgres_dsn)
    (bouncer.folder / "pid").mkdir()  # where it wants to write a file
    with pytest.raises(StoreUnavailableError, match="PgBouncer: it did not start: "), bouncer:
        pass
    assert not bouncer.folder.exists()
    return None


def test_it_ends_with_its_process(postgres_dsn: str) -> None:
    if not HAS_ONE:
        return without_one(postgres_dsn)
    source = f"""
import sys
from wfe_fast.testing.pgbouncer import PgBouncer
with PgBouncer({postgres_dsn!r}) as bouncer:
    print(bouncer.folder, flush=True)
    sys.stdin.read()
"""
    root = Path(wfe_fast.__file__).parents[1]
    command = [sys.executable, "-c", source]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = Path(process.stdout.readline().strip())
        pid = int((folder / "pid").read_text())
        assert str(folder) in command_line(pid)
        process.kill()
    wait_until(lambda: not folder.exists(), "its folder is gone")
    assert str(folder) not in command_line(pid)
    return None


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""
