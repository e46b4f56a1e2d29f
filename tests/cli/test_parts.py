"""The parts of the demo, each by itself."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.cli.helpers import small_folder
from wfe_fast.cli.demo import Progress
from wfe_fast.cli.files import FileName, list_files, standard_library
from wfe_fast.cli.report import ProgressBar, print_report
from wfe_fast.cli.results import Report
from wfe_fast.cli.steplog import LINE_LENGTH, StepAccount, StepLog
from wfe_fast.cli.steps import count_tokens, measure_text

ID = "0" * 32
OTHER = "f" * 32


@given(st.lists(st.binary(min_size=1).map(lambda text: text.replace(b"\x01", b"\n").replace(b"\x02", b" "))))
def test_measuring_in_pieces_is_measuring_the_whole(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    lines = whole.split(b"\n")
    expected = (len(lines) - (not lines[-1]), len(whole.split()), max(map(len, lines)))
    assert measure_text(iter(pieces)) == expected


def test_what_is_no_python_has_no_tokens(tmp_path: Path) -> None:
    texts = [b"x = 1\n", b"def (:\n  '''", b"\xff\xfe\x00", b"if x:\n    a\n  b\n", b"# coding: nonsense\n", b"a\0b\n"]
    found = []
    for text in texts:
        (tmp_path / "a.py").write_bytes(text)
        found.append(count_tokens(FileName(str(tmp_path), "a.py")) is not None)
    assert found[0]
    assert not any(found[1:-1])


def test_listing(tmp_path: Path) -> None:
    files = small_folder(tmp_path)
    listing = list_files(tmp_path, {tmp_path / "b.txt"})
    assert [file.path for file in listing.files] == sorted(files.keys() - {"b.txt"})
    assert {file.location for file in listing.files} == {str(tmp_path / path) for path in files.keys() - {"b.txt"}}
    assert len({file.workflow_id for file in listing.files}) == len(files) - 1
    assert listing.problems == []


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path) -> None:
    listing = list_files(tmp_path / "missing")
    assert listing.files == []
    assert listing.problems == [(str(tmp_path / "missing"), "No such file or directory")]


def test_a_name_that_is_not_utf8_leads_back_to_its_file(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.py"
    with open(path, "wb") as file:
        file.write(b"x = 1\n")
    (name,) = list_files(tmp_path).files
    assert name.path == "\\xff.py"
    assert name.location == path
    assert count_tokens(name) == 6


def test_the_standard_library_without_what_is_installed_into_it() -> None:
    folder = standard_library().resolve()
    paths = {file.path for file in list_files(folder).files}
    assert {"os.py", "json/__init__.py"} <= paths
    assert not any(path.startswith(("site-packages/", "dist-packages/")) or "__pycache__" in path for path in paths)


def test_the_log_finds_the_one_body_that_is_to_hold_still(tmp_path: Path) -> None:
    one, two = (StepLog(tmp_path / "log", halt_at=3 * LINE_LENGTH) for _ in range(2))
    halted = [one.begin(0, 0, ID), two.begin(0, 0, OTHER), two.begin(1, 1, OTHER), one.begin(1, 1, ID)]
    assert halted == [False, False, True, False]
    account = StepAccount(tmp_path / "log", [ID, OTHER])
    assert account.pid_at(3 * LINE_LENGTH) == os.getpid()
    for file in (one, two, account):
        file.close()


def line(step: int, recorded: int, pid: int, workflow_id: str = ID) -> bytes:
    return f"{step} {recorded} {pid:010d} {workflow_id}\n".encode()


@pytest.mark.parametrize(
    ("lines", "begun", "repeated", "taken_over"),
    [
        ([line(0, 0, 1), line(1, 1, 1), line(2, 2, 1), line(3, 3, 1)], 4, 0, 0),
        ([line(0, 0, 1), line(0, 0, 2), line(1, 1, 2)], 3, 0, 1),
        ([line(0, 0, 1), line(0, 0, 1)], 2, 0, 0),  # the same process again: nobody took anything over
        ([line(0, 0, 1), line(1, 1, 1), line(0, 0, 2)], 3, 1, 0),  # the store had shown that it was recorded
        ([line(0, 0, 1), line(0, 1, 2)], 2, 1, 0),  # and here it shows so to the body itself
        ([line(3, 4, 1)], 1, 1, 0),
        ([line(0, 0, 1), line(1, 1, 1, OTHER), line(0, 0, 1, OTHER)], 1, 0, 0),  # another folder's
        ([line(0, 0, 1), line(1, 1, 1)[:-5]], 1, 0, 0),  # half a line is not there yet
    ],
)
def test_the_account_of_the_log(tmp_path: Path, lines: list[bytes], begun: int, repeated: int, taken_over: int) -> None:
    (tmp_path / "log").write_bytes(b"".join(lines))
    account = StepAccount(tmp_path / "log", [ID])
    account.close()
    assert (account.begun, account.repeated, account.taken_over) == (begun, repeated, taken_over)


def test_the_account_goes_on_where_it_was(tmp_path: Path) -> None:
    account = StepAccount(tmp_path / "log", [ID])
    log = StepLog(tmp_path / "log")
    for recorded in (0, 0, 1):
        log.begin(0, recorded, ID)
        account.update()
    assert (account.begun, account.repeated, account.size) == (3, 1, 3 * LINE_LENGTH)
    log.close()
    account.close()


def a_report(**fields: object) -> Report:
    known: dict[str, object] = {
        "folder": "/a", "database": "sqlite:///d.db", "log": "/d.db.log", "files": 3, "bytes": 10, "lines": 1,
        "words": 1, "longest": 1, "tokens": 0, "compressed": 9, "digest": "", "workers": 4, "killed": 1,
        "taken_over": 1, "steps": 12, "steps_before": 4, "repeated": 0, "lost": 0, "seconds": 2.0, "errors": [],
    }  # fmt: skip
    return Report(**{**known, **fields})  # type: ignore[arg-type]


def printed(report: Report) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_report(console, report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_lost_and_repeated_work_is_not_sound() -> None:
    assert a_report().sound
    assert not a_report(lost=1).sound
    assert not a_report(repeated=1).sound
    assert not a_report(errors=[("a", "gone")] * 3).sound
    assert a_report(errors=[("a", "gone")] * 2).sound


def test_the_rate_is_that_of_this_run() -> None:
    assert a_report().steps_per_second == 4


def test_the_table_shows_the_first_errors_as_they_are() -> None:
    text = printed(a_report(errors=[(f"[red]{number}", "[bold]gone") for number in range(25)]))
    assert "[red]19" in text
    assert "[bold]gone" in text
    assert "[red]20" not in text
    assert "and 5 more" in text


def test_the_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm")
    with ProgressBar() as bar:
        bar.show(Progress(1, 20, 4, 4, 0, 0))
        bar.show(Progress(20, 20, 80, 4, 1, 2))
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "20/20" in shown.err
    assert "1 killed" in shown.err
    assert "2 taken over" in shown.err
