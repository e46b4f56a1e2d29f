"""Serving until the process is asked to end."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from wfe_fast.workers.loop import WorkerLoop


def run_until_signal(loop: WorkerLoop[Any]) -> None:
    """Start the loop if it does not run, and block until SIGTERM or SIGINT arrives or the loop stops. Afterwards signals do again
    what they did before.

    In a thread that is not the main one signals are left alone: Python gives them to the main thread only.
    """
    woken: queue.SimpleQueue[object] = queue.SimpleQueue()
    in_main_thread = threading.current_thread() is threading.main_thread()
    with _signals_put_into(woken) if in_main_thread else nullcontext():
        if not loop.running:  # only now, so that a signal never finds a running loop and no handler
            loop.start()
        loop.wait_for_stop(woken)


@contextmanager
def _signals_put_into(woken: queue.SimpleQueue[object]) -> Iterator[None]:
    """Let SIGTERM and SIGINT do no more than wake up who reads `woken`."""
    before = {
        number: signal.signal(number, lambda signum, _: woken.put(signum)) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: what stood there was not set from Python
