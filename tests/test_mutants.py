"""The mutants written by hand are still of the code as it is: else `make mutants` would stop."""

import importlib
from pathlib import Path

import pytest

from book import ROOT

TABLES = sorted(path.stem for path in (ROOT / "tests" / "mutants").glob("[a-z]*.py"))
BY_HAND = [
    name for name in TABLES if hasattr(importlib.import_module(f"mutants.{name}"), "MUTANTS")
]


def stale(table, root: Path = ROOT) -> list[str]:
    """The mutants of a table whose line does not stand exactly once in its file."""
    texts: dict[str, str] = {}
    found = []
    for file, old, new, why in table:
        if file not in texts:
            path = root / file
            texts[file] = path.read_text(encoding="utf8") if path.is_file() else ""
        if (count := texts[file].count(old)) != 1 or old == new:
            found.append(f"{file}: expected once, found {count} times: {old!r} ({why})")
    return found


def test_there_are_tables():
    assert {"checks", "experiments", "library", "tools"} <= set(BY_HAND)


@pytest.mark.parametrize("name", BY_HAND)
def test_the_line_of_every_mutant_stands_once(name):
    assert stale(importlib.import_module(f"mutants.{name}").MUTANTS) == []


def test_a_line_that_changed_is_named(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 2\nz = 2\n", encoding="utf8")
    table = [
        ("a.py", "x = 1", "x = 2", "right"), ("a.py", "= 2", "= 3", "twice"),
        ("a.py", "w = 1", "w = 2", "gone"), ("b.py", "x = 1", "x = 2", "no file"),
        ("a.py", "y", "y", "same"),
    ]  # fmt: skip
    told = [line.rpartition("(")[2] for line in stale(table, tmp_path)]
    assert told == ["twice)", "gone)", "no file)", "same)"]
