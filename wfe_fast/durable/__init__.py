"""Workflows that are plain functions: each step is recorded, and after a crash the function goes on behind the last one.

::

    engine = DurableEngine(SqliteCheckpointStore.file("orders.db"))

    @engine.workflow("order")
    def order(ctx, order_id):
        total = ctx.step("price", lambda: price(order_id))
        ctx.sleep("cool-off", timedelta(days=3))
        return total

    engine.run("order", "A-17", id="order A-17")
"""

from wfe_fast.durable.context import WorkflowContext
from wfe_fast.durable.engine import DurableEngine
from wfe_fast.durable.handle import WorkflowHandle
from wfe_fast.durable.observers import Observer
from wfe_fast.durable.policies import Exponential, Fixed, NoRetry, RetryPolicy

__all__ = [
    "DurableEngine",
    "Exponential",
    "Fixed",
    "NoRetry",
    "Observer",
    "RetryPolicy",
    "WorkflowContext",
    "WorkflowHandle",
]
