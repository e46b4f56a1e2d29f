"""What came out, in words: the whole of it for the results' folder, and the part that the README shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Results = Mapping[str, Any]

#: The README's lines: what is done, the benchmark's name, whose side, and beside whom.
_README = (
    ("SQLite: `persist_workflow`, 10 pointers", "originals: on_sqlite[persist_workflow 10]", "ours", "wfe-sqlite"),
    ("… with `synchronous=full`", "originals: on_sqlite[persist_workflow 10]", "ours, full", "wfe-sqlite"),
    ("… 100 pointers", "originals: on_sqlite[persist_workflow 100]", "ours", "wfe-sqlite"),
    ("… 1,000 pointers", "originals: on_sqlite[persist_workflow 1000]", "ours", "wfe-sqlite"),
    ("… growing to 1,000 pointers", "originals: growing_on_sqlite", "ours", "wfe-sqlite"),
    ("`create_new_workflow`, 10 pointers", "originals: on_sqlite[create_new_workflow 10]", "ours", "wfe-sqlite"),
    ("`get_workflow_instance`, 10 pointers", "originals: on_sqlite[get_workflow_instance 10]", "ours", "wfe-sqlite"),
    ("… 100 pointers", "originals: on_sqlite[get_workflow_instance 100]", "ours", "wfe-sqlite"),
    ("100 due among 1,000 sleeping", "originals: runnable_on_sqlite[1000]", "ours", "wfe-sqlite"),
    ("… among 1,000,000", "originals: runnable_on_sqlite[1000000]", "ours", "wfe-sqlite"),
    ("PostgreSQL: `persist_workflow`", "originals: persist_on_postgres[1-0]", "ours", "wfe-postgres"),
    ("… 8 threads", "originals: persist_on_postgres[8-0]", "ours", "wfe-postgres"),
    ("… beside 20,000 finished", "originals: persist_on_postgres[1-20000]", "ours", "wfe-postgres"),
    ("SQLite: a state with 10 parts, one changed", "peers: saving_on_sqlite", "ours", "LangGraph SqliteSaver"),
    ("… with `synchronous=full`", "peers: saving_on_sqlite", "ours, full", "LangGraph SqliteSaver"),
    ("PostgreSQL: the same", "peers: saving_on_postgres", "ours", "LangGraph PostgresSaver"),
    ("SQLite: a job from the queue to its result", "peers: a_job_from_queue_to_result", "ours", "Huey"),
    ("… with `synchronous=full`", "peers: a_job_from_queue_to_result", "ours, full", "Huey"),
    ("SQLite: claim and complete, 100 pending", "state: claims_beside_jamjet[100]", "ours", "jamjet-state"),
    ("… 100,000 pending", "state: claims_beside_jamjet[100000]", "ours", "jamjet-state"),
    ("SQLite: append an event", "state: appending_beside_jamjet", "ours", "jamjet-state"),
)

#: The README's lines about a durable step, beside DBOS.
_STEPS = (
    ("SQLite, each as it ships", "durable_step: a_step_on_sqlite", "ours", "DBOS"),
    (
        "SQLite, both with a log (WAL) and `synchronous=normal`",
        "durable_step: a_step_on_sqlite",
        "ours",
        "DBOS, WAL normal",
    ),
    (
        "SQLite, both with a log (WAL) and `synchronous=full`",
        "durable_step: a_step_on_sqlite",
        "ours, full",
        "DBOS, WAL full",
    ),
    ("PostgreSQL, the server's own durability", "durable_step: a_step_on_postgres", "ours", "DBOS"),
)

BLOCKS = {"figures": _README, "steps": _STEPS}


def whole(results: Results) -> str:
    """Everything that was measured."""
    lines = [
        setting(results),
        "",
        "Medians over the turns, quartiles in brackets. A ratio of 2 means: twice as fast as that one, turn against turn.",
        "",
        "| benchmark | | per second | beside | per second | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for each in results["results"]:
        name = title(each)
        for own, other, ratio in pairs(each):
            rates = each["per_second"]
            lines.append(
                f"| {name} | {own} | {spread(rates[own])} | {other} | {spread(rates[other])} | {spread(ratio)} |"
            )
            name = ""
    for heading, key in (("longest calls, milliseconds", "milliseconds"), ("room and rates", "sizes")):
        lines += ["", f"| {heading} | |", "|---|---|"]
        for each in results["results"]:
            lines += [f"| {title(each)}: {name} | {value:,.4g} |" for name, value in each.get(key, {}).items()]
    return "\n".join(lines) + "\n"


def setting(results: Results) -> str:
    """On what it was measured, and how to repeat it."""
    found = results["setting"]
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"Measured on {found['date']} with `{found['command']}`: {found['machine']}; {versions}."


def block(results: Results, name: str) -> str:
    """A table of the README, of what is among the results."""
    known = {title(each): each for each in results["results"]}
    lines = ["| | wfe-fast | beside | its rate | times as fast |", "|---|---|---|---|---|"]
    for label, benchmark, own, other in BLOCKS[name]:
        found = known.get(benchmark)
        if found is not None:
            rates = found["per_second"]
            lines.append(
                f"| {label} | {rates[own][0]:,.0f}/s | {other} | {rates[other][0]:,.0f}/s | {spread(found['ratio'][own][other])} |"
            )
    return "\n".join(lines) + "\n"


def with_blocks(text: str, results: Results) -> str:
    """A Markdown text with what stands between its markers made anew: ``<!-- NAME -->`` … ``<!-- end -->``."""

    def made(match: re.Match[str]) -> str:
        inside = f"{setting(results)}\n" if match[1] == "setting" else block(results, match[1])
        return f"<!-- {match[1]} -->\n{inside}<!-- end -->"

    return re.sub(rf"<!-- (setting|{'|'.join(BLOCKS)}) -->\n.*?<!-- end -->", made, text, flags=re.DOTALL)


def title(result: Results) -> str:
    """A benchmark's name: its file and what it does."""
    return f"{result['file'].removeprefix('test_')}: {result['name'].removeprefix('test_')}"


def pairs(result: Results) -> Iterator[tuple[str, str, list[float]]]:
    """Each of our sides, each of the others, and how many times as fast ours is."""
    for own, others in result.get("ratio", {}).items():
        for other, ratio in others.items():
            yield own, other, ratio


def spread(values: list[float]) -> str:
    """A median and its quartiles."""
    median, low, high = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in values)
    return f"{median} ({low}–{high})"
