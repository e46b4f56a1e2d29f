"""The threaded workflow host: write workflows down, start them, and run them with any number of threads and processes on one store."""

from wfe_fast.host.builder import WorkflowBuilder
from wfe_fast.host.calls import step
from wfe_fast.host.context import StepContext
from wfe_fast.host.host import HostStats, WorkflowHost
from wfe_fast.host.policies import Retry, Suspend, Terminate
from wfe_fast.host.results import TIMED_OUT, StepResult

__all__ = [
    "TIMED_OUT",
    "HostStats",
    "Retry",
    "StepContext",
    "StepResult",
    "Suspend",
    "Terminate",
    "WorkflowBuilder",
    "WorkflowHost",
    "step",
]
