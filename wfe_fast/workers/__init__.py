"""The loop that engines share: it claims, renews leases, wakes up and stops. It knows no contract and no database."""

from wfe_fast.workers.heartbeat import Heartbeat
from wfe_fast.workers.loop import WorkerLoop
from wfe_fast.workers.signals import run_until_signal
from wfe_fast.workers.source import WorkSource

__all__ = ["Heartbeat", "WorkSource", "WorkerLoop", "run_until_signal"]
