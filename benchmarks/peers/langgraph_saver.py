"""LangGraph's savers: a checkpoint of ten channels, of which one has changed. Words: the path or the URL of the database."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint

from benchmarks.peers import serve
from benchmarks.samples import CHANGED

CHANNELS = 10


def saver_at(address: str) -> AbstractContextManager[Any]:
    if address.startswith("postgresql:"):
        from langgraph.checkpoint.postgres import PostgresSaver

        return PostgresSaver.from_conn_string(address)
    from langgraph.checkpoint.sqlite import SqliteSaver

    return SqliteSaver.from_conn_string(address)


def main(address: str) -> None:
    with saver_at(address) as saver:
        saver.setup()
        config: Any = {"configurable": {"thread_id": "w0", "checkpoint_ns": ""}}
        values: dict[str, Any] = {f"step {number}": {"outcome": {"n": number}} for number in range(CHANNELS)}
        versions = dict.fromkeys(values, "1")
        changed = f"step {CHANGED}"

        def put(calls: int) -> None:
            nonlocal config
            for number in range(calls):
                values[changed] = {"outcome": {"n": number}}
                versions[changed] = str(number)
                checkpoint = {**empty_checkpoint(), "channel_values": dict(values), "channel_versions": dict(versions)}
                config = saver.put(config, checkpoint, {"source": "loop", "step": number}, {changed: str(number)})

        serve(put)


if __name__ == "__main__":
    main(*sys.argv[1:])
