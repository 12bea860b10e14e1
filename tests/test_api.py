"""The package's pages: every module and every public name is on one, and in the list of all."""

import importlib
import inspect
import re

import pytest
from bs4 import BeautifulSoup

from book import ROOT, load
from test_site import HTML

api = load(ROOT / "book" / "_ext" / "linear_time_api.py")
TOPICS = sorted((ROOT / "book" / "api").glob("*.md"))
#: Module -> whether its members are explained, and its page.
EXPLAINED = {
    found[1]: (found[2] is not None, path)
    for path in TOPICS
    for found in re.finditer(
        r"automodule:: (\S+)\n(\s+:members:(?=\n))?", path.read_text(encoding="utf8")
    )
}


def public(module: str) -> list[str]:
    """The functions and classes that a module defines for others."""
    return [
        name
        for name, value in vars(importlib.import_module(module)).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module
    ]


def test_every_module_has_a_page() -> None:
    modules = {
        f"linear_time.{path.stem}"
        for path in (ROOT / "src" / "linear_time").glob("*.py")
        if not path.stem.startswith("_")
    }
    assert modules <= EXPLAINED.keys()


def test_topics_stand_in_the_order_of_their_chapters() -> None:
    titles = ["Training", "Scan (chapter 17)", "Data", "Records (from chapter 04 on)"]
    assert sorted(titles, key=api.chapter_first) == [titles[3], titles[1], titles[2], titles[0]]


@pytest.mark.site
@pytest.mark.parametrize("path", TOPICS, ids=lambda path: path.stem)
def test_every_public_name_is_explained_and_listed(path) -> None:
    page = BeautifulSoup(
        (HTML / f"book/api/{path.stem}.html").read_text(encoding="utf8"), "html.parser"
    )
    listed = BeautifulSoup((HTML / "book/api.html").read_text(encoding="utf8"), "html.parser")
    links = {link["href"] for link in listed.select(".lt-names a")}
    assert f"api/{path.stem}.html" in links
    for module, (members, where) in EXPLAINED.items():
        if where == path and members:
            for name in public(module):
                assert page.find(id=f"{module}.{name}"), f"{module}.{name}: not on its page"
                assert f"api/{path.stem}.html#{module}.{name}" in links
