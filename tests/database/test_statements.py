"""SQL files are checked when they are loaded."""

from __future__ import annotations

import pytest

from wfe_fast.database.statements import StatementSet, parse
from wfe_fast.persistence.statements import Statements


def test_names_become_numbered_placeholders() -> None:
    text = "-- name: find(id, kind)\n-- :comment is no parameter\nSELECT a\n  FROM t WHERE kind = :kind AND id = :id OR id = :id;\n"
    assert parse(text) == {"find": "SELECT a FROM t WHERE kind = ?2 AND id = ?1 OR id = ?1"}


def test_another_dialect_brings_its_placeholder() -> None:
    assert parse("-- name: find(id)\nSELECT :id::text", lambda position: f"${position}") == {"find": "SELECT $1::text"}


def test_parts_are_put_in() -> None:
    text = "-- part: columns\na, b\n-- part: mine\nowner = :owner\n-- name: list(owner)\nSELECT {columns} FROM t WHERE {mine};"
    assert parse(text) == {"list": "SELECT a, b FROM t WHERE owner = ?1"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("-- name: a(x)\nSELECT 1", r"differ in \['x'\]"),
        ("-- name: a()\nSELECT :x", r"differ in \['x'\]"),
        ("-- name: a(x, x)\nSELECT :x", "differ"),
        ("-- name: a()\nSELECT 1\n-- name: a()\nSELECT 2", "a is there twice"),
        ("-- name: a()\nSELECT {b}", "no part is called b"),
    ],
)
def test_mistakes_are_found(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(text)


class _TooFew(StatementSet):
    get_event: str


def test_files_and_class_must_fit() -> None:
    with pytest.raises(ValueError, match="differ in"):
        _TooFew.load("wfe_fast.persistence", "sqlite.sql")


def test_a_statement_in_two_files_is_refused() -> None:
    with pytest.raises(ValueError, match="is there twice"):
        Statements.load("wfe_fast.persistence", "sqlite.sql", "sqlite.sql")
