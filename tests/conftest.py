"""What all tests share."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["wfe_fast.testing.plugin"]

# Examples are found again by the seed that a failure prints; no folder of them is kept in the checkout.
settings.register_profile("tests", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# A shell starts what it runs in the background with Ctrl-C ignored, and so would be all processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


#: Where each interpreter meets a PostgreSQL server, with every method of a provider.
EVERYWHERE = "tests/persistence/test_postgres_round_trips.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What a test asks of a server is the same on every interpreter; one module makes sure."""
    for item in items:
        if "postgres_dsn" in getattr(item, "fixturenames", ()) and not item.nodeid.startswith(EVERYWHERE):
            item.add_marker(pytest.mark.once)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Between the processes of a parallel run reports travel as UTF-8. Text that a test takes from elsewhere, as the message of an error,
    may hold what UTF-8 cannot, and it stands in the log of the test's report then."""
    return encodable((yield))


def encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(encodable(item) for item in value)
    return value
