"""The package's pages: every module and every public name is on one, and in the list of all."""

import functools
import importlib
import inspect
import re
from types import SimpleNamespace

import pytest
from bs4 import BeautifulSoup
from docutils import nodes

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
    assert api.chapter_first("Mamba (chapters 18 and 20)") == (18, "Mamba (chapters 18 and 20)")
    assert api.chapter_first("Data, for chapters") == (99, "Data, for chapters")


#: Name -> what it is and the page that documents it.
OBJECTS = {
    "linear_time.scan": ("module", "book/api/scan"),
    "linear_time.scan.one": ("function", "book/api/scan"),
    "linear_time.scan.Kind": ("class", "book/api/scan"),
    "linear_time.scan.Kind.field": ("attribute", "book/api/scan"),
    "linear_time.scan.Kind.field.more": ("attribute", "book/api/scan"),
    "linear_time.data": ("module", "book/api/data"),
    "linear_time.data.deep": ("module", "book/api/data"),
    "linear_time.data.Abc": ("attribute", "book/api/data"),
    "linear_time.data.away": ("function", "chapters/01-a"),
    "other.thing": ("function", "book/api/data"),
}


@pytest.fixture
def app() -> SimpleNamespace:
    """What Sphinx knows when every page is read."""
    entries = {
        name: SimpleNamespace(objtype=kind, docname=page, node_id=f"id-{name}")
        for name, (kind, page) in OBJECTS.items()
    }
    titles = {
        "book/api/scan": "Scan (chapter 17)", "book/api/data": "Data", "book/api/empty": "None",
        "chapters/01-a": "01",
    }  # fmt: skip
    env = SimpleNamespace(
        get_domain=lambda name: SimpleNamespace(objects=entries if name == "py" else {}),
        found_docs=set(titles),
        titles={page: nodes.title("", title) for page, title in titles.items()},
    )
    uri = lambda here, there: f"{here} to {there}"  # noqa: E731
    return SimpleNamespace(env=env, builder=SimpleNamespace(get_relative_uri=uri))


def test_names_are_those_that_a_page_s_modules_define(app) -> None:
    assert api.documented(app) == {
        "book/api/scan": [("one", "id-linear_time.scan.one"), ("Kind", "id-linear_time.scan.Kind")],
        "book/api/data": [("Abc", "id-linear_time.data.Abc")],
    }


def test_the_list_has_a_line_for_each_topic_and_its_names_are_links(app) -> None:
    page = nodes.section("", nodes.paragraph("", "Before."), api.names(), api.names())
    api.fill(app, page, "book/api")
    before, *lists = page.children
    assert before.astext() == "Before." and len(lists) == 2
    for made in lists:
        assert isinstance(made, nodes.definition_list) and made["classes"] == ["lt-names"]
        told = [[part.astext() for part in item.children] for item in made.children]
        assert told == [["Scan (chapter 17)", "one, Kind"], ["Data", "Abc"], ["None", ""]]
        links = [(link.astext(), link["refuri"]) for link in made.findall(nodes.reference)]
        scan, data = "book/api to book/api/scan", "book/api to book/api/data"
        assert links == [
            ("Scan (chapter 17)", scan), ("one", f"{scan}#id-linear_time.scan.one"),
            ("Kind", f"{scan}#id-linear_time.scan.Kind"), ("Data", data),
            ("Abc", f"{data}#id-linear_time.data.Abc"), ("None", "book/api to book/api/empty"),
        ]  # fmt: skip
        assert all(link["internal"] is True for link in made.findall(nodes.reference))
        assert len(list(made.findall(nodes.literal))) == 3
    (place,) = object.__new__(api.NamesDirective).run()
    assert isinstance(place, api.names)


@functools.cache
def listed() -> set[str]:
    """Where the links of the list of all names lead."""
    page = BeautifulSoup((HTML / "book/api.html").read_text(encoding="utf8"), "html.parser")
    return {link["href"] for link in page.select(".lt-names a")}


@pytest.mark.site
@pytest.mark.parametrize("path", TOPICS, ids=lambda path: path.stem)
def test_every_public_name_is_explained_and_listed(path) -> None:
    page = (HTML / f"book/api/{path.stem}.html").read_text(encoding="utf8")
    anchors = set(re.findall(r'<[^>]*\bid="([^"]*)"', page))
    assert f"api/{path.stem}.html" in listed()
    for module, (members, where) in EXPLAINED.items():
        if where == path and members:
            for name in public(module):
                assert f"{module}.{name}" in anchors, f"{module}.{name}: not on its page"
                assert f"api/{path.stem}.html#{module}.{name}" in listed()
