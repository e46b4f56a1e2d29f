"""A PostgreSQL server for a test run, a demonstration or a benchmark: made in a folder of its own, and gone afterwards.

::

    with PostgresServer() as server:
        ... server.dsn ...

The server is a child of this process, and it does not outlive it: closing, the end of the process and even its SIGKILL end the server
and remove its temporary folder.
"""

from __future__ import annotations

import atexit
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from wfe_fast.database.postgres_binaries import Programs, find_programs, one_line
from wfe_fast.database.postgres_watcher import Watcher
from wfe_fast.errors import InvalidStateError, InvalidValueError, StoreUnavailableError

#: Settings of a server whose data need not survive a power cut; a killed server loses nothing with them.
NOT_DURABLE: Final[Mapping[str, str]] = {"fsync": "off", "full_page_writes": "off"}

_PATIENCE = 60.0
_USER = "postgres"
_UNIX_PORT = 5432
_LONGEST_SOCKET = 100
_SIGNALS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_STREAMING = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
_SYNCHRONOUS = "SELECT application_name FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')"


class PostgresServer:
    """A PostgreSQL server. As a context manager it is started at the beginning and closed at the end.

    It runs as the user of this process, or as ``nobody`` where that is root. Connections by its Unix socket, in a folder of mode 0700, need
    no password; connections by TCP need the one in `tcp_dsn`.

    Args:
        folder: where its files are; one that has a server's files already keeps them. By default a temporary one, removed by `close`.
        settings: settings of PostgreSQL, by name. Without any it is durable; `NOT_DURABLE` is faster.
        tcp: whether it listens on the loopback address, too.

    Raises:
        StoreUnavailableError: the package with the server is not installed, or the folder cannot be used by the server's user.
        InvalidValueError: a setting is not one, or the folder's path is too long for a socket.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        settings: Mapping[str, str] | None = None,
        tcp: bool = False,
    ) -> None:
        self.settings: dict[str, str] = {}
        self._set(settings or {})
        self._programs: Programs = find_programs()
        self._temporary = folder is None
        self._process: subprocess.Popen[bytes] | None = None
        self._watcher: Watcher | None = None
        self._maker = os.getpid()
        self._replicas = 0
        self._tcp = tcp
        self.folder = Path(tempfile.mkdtemp(prefix="wfe-postgres-")) if folder is None else Path(folder).resolve()
        self.port = _free_port() if tcp else _UNIX_PORT
        self._take_folder()

    @property
    def dsn(self) -> str:
        """The address of the server by its Unix socket, as its superuser. The same after a restart."""
        return f"postgresql://{_USER}@/{_USER}?host={quote(str(self.folder))}&port={self.port}"

    @property
    def tcp_dsn(self) -> str:
        """The address of the server on the loopback address; InvalidStateError where it was made without `tcp`."""
        if not self._tcp:
            raise InvalidStateError("the server does not listen on TCP; it was made without tcp=True")
        password = (self.folder / "password").read_text(encoding="ascii")
        return f"postgresql://{_USER}:{password}@127.0.0.1:{self.port}/{_USER}"

    @property
    def running(self) -> bool:
        """Whether the server's process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running server; InvalidStateError where it does not run."""
        return self._require_running().pid

    def start(self) -> None:
        """Start the server, and return when it takes connections. A server that was stopped goes on with what it had stored.

        Raises:
            InvalidStateError: it runs already.
            StoreUnavailableError: it did not start; the message has the end of its log.
        """
        if self.running:
            raise InvalidStateError("the PostgreSQL server runs already")
        self._take_folder()
        if not self._data.joinpath("PG_VERSION").exists():
            self._make_cluster()
        self._write_settings()
        if self._watcher is None:
            self._watcher = Watcher(self.folder, self._data / "postmaster.pid", temporary=self._temporary)
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._programs.folder / "postgres", "-D", self._data, "-k", self.folder, "-p", str(self.port)],
                stdout=log,
                stderr=log,
                # Of its own session: a Ctrl-C is meant for the program, which still has use for the server while it ends.
                start_new_session=True,
                **self._programs.process_options(self.folder),
            )
        _open.add(self)
        try:
            self._await(self._takes_connections, "it did not take connections")
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    def stop(self, mode: str = "fast") -> None:
        """Stop the server; nothing where it does not run. What is stored stays.

        Args:
            mode: ``"fast"`` rolls transactions back and shuts down in order; ``"immediate"`` ends as a crash does, and the next start
                recovers.
        """
        if mode not in _SIGNALS:
            raise InvalidValueError("mode", f"has to be one of {sorted(_SIGNALS)}", mode)
        if self._process is None or os.getpid() != self._maker:
            return
        self._process.send_signal(_SIGNALS[mode])
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise StoreUnavailableError(str(self.folder), f"it did not stop within {_PATIENCE:.0f} s") from None
        self._process = None

    def restart(self) -> None:
        """Stop the server in order and start it again at the same address."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server for good and remove its temporary folder. Again, and in a forked child, it does nothing."""
        if os.getpid() != self._maker:
            return
        _open.discard(self)
        self.stop("immediate" if self._temporary else "fast")
        if self._watcher is not None:
            self._watcher.end()
            self._watcher = None
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def configure(self, **settings: str) -> None:
        """Change settings; a running server reads them anew, as far as they can be changed without a restart.

        Raises:
            InvalidValueError: a setting is not one; nothing was changed.
        """
        self._set(settings)
        if self.running:
            self._write_settings()
            os.kill(self.pid, signal.SIGHUP)

    def sql(self, statement: str) -> str:
        """Run a statement as the superuser: its rows, a line each, their columns between ``|``.

        Raises:
            StoreUnavailableError: the server does not run or refuses the statement.
        """
        return self._programs.run(
            self.folder, "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn, "-c", statement
        )

    def replica(self) -> PostgresServer:
        """A further server, started, that has what this one has and follows it by streaming. It can be read; `promote` makes it a server of
        its own. It is closed by its own `close` or as a context manager.

        Raises:
            InvalidStateError: this server does not run.
        """
        self._require_running()
        self._replicas += 1
        name = f"replica_{self._replicas}"
        replica = PostgresServer(settings=self.settings | {"synchronous_standby_names": ""}, tcp=self._tcp)
        try:
            source = f"host='{self.folder}' port={self.port} user={_USER} application_name={name}"
            # A slot keeps what the replica has not read yet, also while that one is stopped.
            options = ["-R", "-X", "stream", "-C", "-S", name, "--checkpoint=fast", "--no-sync"]
            replica._programs.run(replica.folder, "pg_basebackup", "-D", replica._data, "-d", source, *options)
            shutil.copy(self.folder / "password", replica.folder)
            replica.start()
            self._await(lambda: name in self.sql(_STREAMING).split(), "the replica did not begin to follow")
        except BaseException:
            replica.close()
            raise
        return replica

    def promote(self) -> None:
        """Make a replica a server of its own, which takes writes. What it has received is what it has.

        Raises:
            StoreUnavailableError: it is no replica, or it did not become a server of its own in time.
        """
        if self.sql("SELECT pg_promote()") != "t":
            raise StoreUnavailableError(str(self.folder), "the replica was not promoted")

    def replicate_synchronously(self, enabled: bool = True) -> None:
        """Whether a commit here waits until a replica has stored it, too. Returns when this is so.

        Raises:
            StoreUnavailableError: there is no replica that follows.
        """
        self._require_running()
        self.configure(synchronous_standby_names="*" if enabled else "")
        wanted = "a replica follows synchronously" if enabled else "no replica follows synchronously"
        self._await(lambda: bool(self.sql(_SYNCHRONOUS)) is enabled, f"gave up waiting until {wanted}")

    def __enter__(self) -> PostgresServer:
        if self.running:  # a replica is
            return self
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _require_running(self) -> subprocess.Popen[bytes]:
        if self._process is None or not self.running:
            raise InvalidStateError("the PostgreSQL server does not run")
        return self._process

    def _set(self, settings: Mapping[str, Any]) -> None:
        for name, value in settings.items():
            if not re.fullmatch(r"[A-Za-z_][\w.]*", str(name), re.ASCII):
                raise InvalidValueError("settings", "has to have names of settings as its keys", name)
            if not isinstance(value, str) or not value.isprintable():
                raise InvalidValueError(f"settings.{name}", "has to be text in one line", value)
        self.settings.update(settings)

    def _take_folder(self) -> None:
        """Make the folder, for the server's user alone."""
        if len(os.fsencode(self.folder)) > _LONGEST_SOCKET - len(".s.PGSQL.65535"):
            raise InvalidValueError("folder", "its path is too long for a socket in it", str(self.folder))
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            owner = self._programs.owner
            if owner is not None:
                if not owner.can_enter(self.folder.parent):
                    problem = f"the user {owner.name}, as whom the server runs, may not enter the folders above it"
                    raise StoreUnavailableError(str(self.folder), problem)
                os.chown(self.folder, owner.uid, owner.gid)
        except OSError as error:
            raise StoreUnavailableError(str(self.folder), f"it cannot be used: {error.strerror}") from error

    def _make_cluster(self) -> None:
        password = self._write("password", secrets.token_hex(16))
        # The plain order of text, which every machine has; the socket's folder is closed to others, so that it needs no password.
        options = ["--encoding=UTF8", "--locale=C", "--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync"]
        self._programs.run(self.folder, "initdb", "-D", self._data, "-U", _USER, "--pwfile", password, *options)
        with open(self._data / "postgresql.conf", "a", encoding="utf-8") as file:
            file.write("include_if_exists = 'settings.conf'\n")

    def _write_settings(self) -> None:
        settings = {"listen_addresses": "127.0.0.1" if self._tcp else ""} | self.settings
        lines = [f"{name} = '{_escaped(value)}'\n" for name, value in settings.items()]
        self._write("data/settings.conf", "".join(lines))

    def _write(self, name: str, text: str) -> Path:
        """A file for the server, there as a whole or not at all."""
        path, new = self.folder / name, self.folder / f"{name}.new"
        new.touch(mode=0o600)
        new.write_text(text, encoding="utf-8")
        if self._programs.owner is not None:
            os.chown(new, self._programs.owner.uid, self._programs.owner.gid)
        return new.replace(path)

    def _takes_connections(self) -> bool:
        """Whether the server has written into its pid file that it is ready."""
        if not self.running:
            raise StoreUnavailableError(str(self.folder), f"the server did not start: {self._log_end()}")
        try:
            lines = (self._data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _log_end(self) -> str:
        return one_line((self.folder / "log").read_text(encoding="utf-8", errors="replace"))

    def _await(self, condition: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise StoreUnavailableError(str(self.folder), f"{problem} within {_PATIENCE:.0f} s: {self._log_end()}")
            time.sleep(0.01)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _free_port() -> int:
    """A port that nobody uses, below those that the system gives to outgoing connections: it is free after a stop, too."""
    for port in random.sample(range(20_000, 32_000), 200):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StoreUnavailableError("PostgreSQL", "no free port was found on 127.0.0.1")


#: Servers that were started and not closed: the end of the process closes them.
_open: set[PostgresServer] = set()


def _close_all() -> None:
    for server in list(_open):
        server.close()


atexit.register(_close_all)
