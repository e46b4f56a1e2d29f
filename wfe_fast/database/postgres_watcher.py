"""Ends a server when the process that started it is gone, in whichever way: one that was killed can end nothing any more."""

from __future__ import annotations

import subprocess
from pathlib import Path

# Runs until nobody holds the other end of its input any more, and then ends the server whose number is in the file $2.
# The number may be another process's by now, so that it is the command line, in which the folder $1 stands, that decides.
_SCRIPT = """
while read -r _; do :; done
pid=$(head -n 1 "$2" 2>/dev/null)
runs() {
    [ -n "$pid" ] && { tr '\\0' ' ' <"/proc/$pid/cmdline" || ps -o args= -p "$pid"; } 2>/dev/null | grep -qF -- "$1/"
}
runs "$1" && kill -QUIT "$pid"
tries=0
while runs "$1"; do
    [ "$tries" -lt 100 ] || kill -KILL "$pid"
    tries=$((tries + 1))
    sleep 0.05
done
[ "$3" != temporary ] || rm -rf -- "$1"
"""


class Watcher:
    """A process of a session of its own that ends a server, and removes its folder, when this process and its forked children are gone.

    Args:
        folder: the server's folder; its path is part of the server's command line.
        pid_file: where the server's process id stands, in the first line, while it runs.
        temporary: whether the folder is removed.
    """

    def __init__(self, folder: Path, pid_file: Path, *, temporary: bool) -> None:
        kind = "temporary" if temporary else "kept"
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, "wfe-postgres-watcher", folder, pid_file, kind],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def end(self) -> None:
        """Watch no longer: the server has been ended."""
        self._process.kill()
        self._process.communicate()
