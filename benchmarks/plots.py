"""Plots of what the benchmarks found."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

from benchmarks.tables import pairs

Result = Mapping[str, Any]

#: The file, its title, what its lines are of, and the benchmark's name, whose group is the x value.
_LINES = (
    (
        "pointers",
        "persist_workflow, one pointer changed, SQLite",
        "pointers",
        r"test_on_sqlite\[persist_workflow (\d+)\]",
    ),
    ("sleeping", "get_runnable_instances, 100 due, SQLite", "sleeping workflows", r"test_runnable_on_sqlite\[(\d+)\]"),
    ("threads", "persist_workflow, 10 pointers, SQLite, normal", "threads", r"test_threads_on_sqlite\[normal-(\d+)\]"),
)


def draw(results: Iterable[Result], folder: Path) -> None:
    """Write the plots whose benchmarks are among the results."""
    found = [each for each in results if "ratio" in each]
    matplotlib.rcParams.update(
        {"svg.hashsalt": "wfe-fast", "svg.fonttype": "none", "font.size": 9}
    )  # the same picture is the same file
    for name, title, label, pattern in _LINES:
        points = [(int(match[1]), each) for each in found if (match := re.fullmatch(pattern, each["name"]))]
        if len(points) > 1:
            _save(folder / f"{name}.svg", title, lambda axes, points=points, label=label: _lines(axes, points, label))
    for name, side, which in (
        ("peers", "ours", "each as it ships"),
        ("peers-full", "ours, full", "ours with synchronous=full"),
    ):
        bars = [
            (f"{other}: {_short(each['name'])}", ratio)
            for each in found
            for own, other, ratio in pairs(each)
            if own == side and _is_peer(other)
        ]
        if bars:
            _save(folder / f"{name}.svg", f"times as fast, {which}", lambda axes, bars=bars: _bars(axes, bars))


def _is_peer(name: str) -> bool:
    return name.startswith(("DBOS", "LangGraph", "Huey", "wfe-", "jamjet"))


def _short(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def _lines(axes: Any, points: list[tuple[int, Result]], label: str) -> None:
    for name in points[0][1]["per_second"]:
        values = [(x, each["per_second"][name]) for x, each in sorted(points, key=lambda point: point[0])]
        middle = [value[0] for _, value in values]
        below, above = ([abs(value[0] - value[part]) for _, value in values] for part in (1, 2))
        axes.errorbar([x for x, _ in values], middle, yerr=[below, above], label=name, marker="o", capsize=2)
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="per second")
    axes.legend()


def _bars(axes: Any, bars: list[tuple[str, list[float]]]) -> None:
    labels = [label for label, _ in bars]
    middle = [ratio[0] for _, ratio in bars]
    below, above = ([abs(ratio[0] - ratio[part]) for _, ratio in bars] for part in (1, 2))
    axes.barh(labels, middle, xerr=[below, above], capsize=2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="ratio")
    axes.invert_yaxis()


def _save(path: Path, title: str, plot: Callable[[Any], None]) -> None:
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    axes.set_title(title)
    plot(axes)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
