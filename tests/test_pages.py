"""The other pages: the ledger names real tests, the contents name every chapter."""

import ast
import functools
import importlib
import re

import pytest
import yaml
from pybtex.database import parse_file

from book import CHAPTERS, NOTEBOOKS, ROOT
from linear_time import exercises

LEDGER = (ROOT / "book" / "ledger.md").read_text(encoding="utf8")
CITED = re.findall(r"`(test_\w+\.py)::(\w+)`", LEDGER)


@functools.cache
def functions(file):
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("file", "name"), CITED, ids=[name for _, name in CITED])
def test_ledger_names_a_test_that_exists(file, name):
    assert name in functions(file)


def test_every_row_of_the_ledger_names_a_test():
    rows = [line for line in LEDGER.splitlines() if line.startswith("|")]
    rows = [row for row in rows if not re.match(r"\|(-|\s*(claim|what stood) )", row)]
    assert rows and all(re.search(r"`test_\w+\.py::\w+`", row) for row in rows)


def test_chapters_name_tests_that_exist():
    for path in CHAPTERS:
        for file, name in re.findall(
            r"(?:tests/)?(test_\w+\.py)::(\w+)", path.read_text(encoding="utf8")
        ):
            assert name in functions(file), f"{path.name} names {file}::{name}"


def test_a_chapter_names_a_test_by_its_file(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    mend = importlib.import_module("linear_time_book").name_tests_by_file
    code = '<code class="docutils literal notranslate"><span class="pre">{}</span></code>'
    body = code.format("test_scan.py::test_the_tree") + code.format("scan.py")
    link = '<a class="test" href="tests/test_scan.py" title="test_scan.py::test_the_tree">'
    wanted = link + "<code>test_scan.py</code></a>" + code.format("scan.py")
    assert mend(body, "tests") == wanted


def test_contents_list_every_chapter():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert [f for f in files if f.startswith("chapters/")] == [
        f"chapters/{p.stem}" for p in CHAPTERS
    ]


def test_a_chapter_has_its_three_rooms():
    for path in CHAPTERS:
        number, topic = path.stem.split("-", 1)
        topic = topic.replace("-", "_")
        assert exercises.CHAPTERS[number] == topic
        if number != "00":
            assert (ROOT / "src" / "linear_time" / f"{topic}.py").is_file()
            assert (ROOT / "tests" / f"test_{topic}.py").is_file()


def test_the_repository_is_named_in_one_place():
    url = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))["repository"]["url"]
    allowed = {"_config.yml", "CITATION.cff", *(p.relative_to(ROOT).as_posix() for p in NOTEBOOKS)}
    for path in [*ROOT.glob("*"), *ROOT.glob("book/**/*"), *ROOT.glob("src/**/*.py")]:
        name = path.relative_to(ROOT).as_posix()
        if (
            path.is_file()
            and path.suffix in {".md", ".py", ".yml", ".toml", ""}
            and name not in allowed
        ):
            assert url not in path.read_text(errors="ignore", encoding="utf8"), (
                f"{name} names the repository"
            )


def test_references_parse_and_bear_each_name_once():
    """A merge can lose a brace, and then no page renders."""
    entries = parse_file(ROOT / "book" / "references.bib").entries
    text = (ROOT / "book" / "references.bib").read_text(encoding="utf8")
    assert len(entries) == len(re.findall(r"(?m)^@", text))
