"""The README's figures are those that were measured last."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.sizes import SIZES
from benchmarks.tables import BLOCKS, whole, with_blocks

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FOLDER = ROOT / "benchmarks" / "results"
RESULTS = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


def test_the_readme_shows_what_was_measured() -> None:
    assert with_blocks(README, RESULTS) == README


def test_the_table_shows_what_was_measured() -> None:
    assert (FOLDER / "results.md").read_text(encoding="utf-8") == whole(RESULTS)


@pytest.mark.parametrize("name", BLOCKS)
def test_no_line_of_the_readme_is_without_its_figures(name: str) -> None:
    found = re.search(rf"<!-- {name} -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert found is not None
    assert len(found[1].splitlines()) == len(BLOCKS[name]) + 2


def test_all_was_measured_in_one_run_and_beside_the_originals() -> None:
    assert RESULTS["setting"]["command"] == "python -m benchmarks.compare --originals"
    assert {each["turns"] for each in RESULTS["results"] if "turns" in each} == {SIZES["full"].turns}
