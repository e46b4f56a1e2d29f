"""What the benchmarks share: their size, a durable server, and how a result is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.programs import build
from benchmarks.sizes import ATTEMPTS, SIZES, Size
from benchmarks.turns import Contestant, Rates, take_turns
from wfe_fast.database.postgres_server import PostgresServer


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--size", choices=sorted(SIZES), default="full", help="how much the benchmarks measure")
    parser.addoption(
        "--originals",
        nargs="?",
        const="",
        metavar="PROGRAM",
        help="compare with the Rust originals: built by cargo, or this program",
    )


@pytest.fixture(scope="session")
def originals(request: pytest.FixtureRequest) -> str:
    """The program of the Rust originals."""
    given: str | None = request.config.getoption("--originals")
    if given is None:
        pytest.skip("compares with the Rust originals, which --originals builds")
    return given or build()


@pytest.fixture(scope="session")
def size(request: pytest.FixtureRequest) -> Size:
    return SIZES[request.config.getoption("--size")]


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """A server that is as durable as it is by default."""
    with PostgresServer(settings={"max_connections": "200"}) as server:
        yield server


@pytest.fixture
def compare(benchmark: BenchmarkFixture, size: Size) -> Callable[..., Rates]:
    """Lets contestants take turns, records what came out, and compares it with the least ratios that are believable.

    A ratio below its bound is measured again: the machine may have been busy with something else. The bounds are generous; they tell of a
    mistake, not of a slow machine, since everything that is compared runs on the same one.
    """

    def measure(
        contestants: dict[str, Contestant], *, calls: int, threads: int = 1, at_least: dict[str, float] | None = None
    ) -> Rates:
        calls = size.of(calls)
        bounds = at_least or {}
        for _ in range(ATTEMPTS):
            rates = take_turns(contestants, turns=size.turns, calls=calls, threads=threads)
            ratios = {name: rates.ratio("ours", name).median for name in bounds}
            if all(ratios[name] >= bound for name, bound in bounds.items()):
                break
        # What pytest-benchmark shows by itself: the seconds of `calls` units, in the last turn.
        benchmark.pedantic(contestants["ours"].seconds, args=(calls, threads), rounds=1)
        benchmark.extra_info.update(rates.as_info(), threads=threads, calls=calls, turns=size.turns)
        assert all(ratios[name] >= bound for name, bound in bounds.items()), f"{ratios}, expected at least {bounds}"
        return rates

    return measure
