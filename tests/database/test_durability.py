"""`full`: no call returns before its bytes are synced, and concurrent writers share a sync. Seen where the bytes leave SQLite."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

#: The file system as SQLite sees it, with a record of each write and sync of the log; the calls go to the real one.
WATCHED = """
import json, sys, threading
import apsw

record = []

class WatchedFile(apsw.VFSFile):
    def __init__(self, name, flags):
        super().__init__("unix", name, flags)
        self.is_log = bool(flags[0] & apsw.SQLITE_OPEN_WAL)

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        if self.is_log:
            record.append("write")

    def xSync(self, flags):
        super().xSync(flags)
        if self.is_log:
            record.append("sync")

class Watched(apsw.VFS):
    def __init__(self):
        super().__init__("watched", "unix", makedefault=True)

    def xOpen(self, name, flags):
        return WatchedFile(name, flags)

watched = Watched()

from wfe_fast import WorkflowInstance
from wfe_fast.sqlite import SqlitePersistenceProvider

path, synchronous, threads, calls = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
provider = SqlitePersistenceProvider(path, synchronous=synchronous)
record.clear()
unsynced = []
barrier = threading.Barrier(threads)

def job():
    barrier.wait()
    for _ in range(calls):
        begin = len(record)
        provider.create_new_workflow(WorkflowInstance(workflow_definition_id="order"))
        # In the record since this call began there are its own writes and, behind them, a sync.
        if "sync" not in record[begin:] or "write" not in record[begin:]:
            unsynced.append(record[begin:])

workers = [threading.Thread(target=job) for _ in range(threads)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(json.dumps({"syncs": record.count("sync"), "unsynced": len(unsynced), "last": record[-1]}))
"""


def watched(path: Path, synchronous: str, threads: int, calls: int) -> dict[str, object]:
    command = [sys.executable, "-c", WATCHED, path, synchronous, threads, calls]
    result = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


def test_full_syncs_each_call_before_it_returns(path: Path) -> None:
    assert watched(path, "full", 1, 25) == {"syncs": 25, "unsynced": 0, "last": "sync"}


def test_full_shares_syncs_between_threads(path: Path) -> None:
    answer = watched(path, "full", 16, 20)
    assert answer["unsynced"] == 0
    assert answer["last"] == "sync"
    assert isinstance(answer["syncs"], int)
    assert answer["syncs"] < 16 * 20 / 2


@pytest.mark.parametrize("threads", [1, 4])
def test_normal_leaves_the_log_to_the_operating_system(path: Path, threads: int) -> None:
    """So few calls that the log is not yet moved into the database: before that even `normal` syncs it."""
    answer = watched(path, "normal", threads, 8)
    assert answer["syncs"] == 0
