"""PgBouncer in front of a PostgreSQL server, in transaction pooling mode: a connection is a client's own for one transaction only.

::

    with PgBouncer(postgres_dsn) as bouncer:
        ... bouncer.dsn ...
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

from wfe_fast.database.postgres_binaries import Programs, one_line, server_owner
from wfe_fast.database.postgres_watcher import Watcher
from wfe_fast.errors import StoreUnavailableError
from wfe_fast.testing.proxy import address_parts
from wfe_fast.testing.waiting import wait_until

_PORT = 6432
#: Where system programs lie that an ordinary user's PATH leaves out.
_FURTHER_PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/bin")


def find_pgbouncer() -> Path | None:
    """The program, or None where this machine has none."""
    found = shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), *_FURTHER_PLACES]))
    return None if found is None else Path(found)


class PgBouncer:
    """A context manager: a PgBouncer for the time of its block. It runs as ``nobody`` where this process is root's, since it refuses that.

    Args:
        dsn: the server, by TCP or by the folder of its Unix socket; all clients are its user, whoever they say they are.
        pool_size: how many connections to the server they share.

    Raises:
        StoreUnavailableError: there is no PgBouncer on this machine, or it did not start.
        InvalidValueError: `dsn` is not the address of one server.
    """

    def __init__(self, dsn: str, *, pool_size: int = 4) -> None:
        program = find_pgbouncer()
        if program is None:
            raise StoreUnavailableError(
                "PgBouncer", "there is none on this machine; Debian has it in the package pgbouncer"
            )
        self._server = address_parts(dsn)
        self._pool_size = pool_size
        self._program = program
        self._programs = Programs(program.parent, server_owner())
        self.folder = Path(tempfile.mkdtemp(prefix="wfe-pgbouncer-"))
        if self._programs.owner is not None:
            os.chown(self.folder, self._programs.owner.uid, self._programs.owner.gid)

    @property
    def dsn(self) -> str:
        """The address to connect to instead of the server's."""
        user, database = (quote(self._server.get(name, "postgres"), safe="") for name in ("user", "dbname"))
        return f"postgresql://{user}@/{database}?host={quote(str(self.folder))}&port={_PORT}"

    def __enter__(self) -> PgBouncer:
        configuration = self.folder / "pgbouncer.ini"
        configuration.write_text(self._configuration(), encoding="utf-8")
        if self._programs.owner is not None:
            os.chown(configuration, self._programs.owner.uid, self._programs.owner.gid)
        self._watcher = Watcher(self.folder, self.folder / "pid", temporary=True)
        self._process = subprocess.Popen(
            [self._program, configuration],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._programs.process_options(self.folder),
        )
        try:
            wait_until(self._takes_connections, "PgBouncer takes connections")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()  # it holds nothing that could be lost
        self._process.wait()
        self._watcher.end()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _takes_connections(self) -> bool:
        if self._process.poll() is not None:
            log = self.folder / "log"
            said = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
            raise StoreUnavailableError("PgBouncer", f"it did not start: {one_line(said)}")
        pid_file = self.folder / "pid"
        if not pid_file.is_file() or not pid_file.read_text(encoding="ascii").strip():
            return False  # whoever watches it could not find it yet
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(f"{self.folder}/.s.PGSQL.{_PORT}") == 0

    def _configuration(self) -> str:
        names = ("host", "port", "user", "password", "dbname")
        server = " ".join(f"{name}={_quoted(self._server[name])}" for name in names if name in self._server)
        return f"""[databases]
* = {server}
[pgbouncer]
pool_mode = transaction
default_pool_size = {self._pool_size}
max_client_conn = 500
auth_type = any
unix_socket_dir = {self.folder}
listen_port = {_PORT}
pidfile = {self.folder}/pid
logfile = {self.folder}/log
"""


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
