"""The book's Sphinx extensions, function by function, without a browser.

What a page looks like in the end is asked of the rendered site (``test_site.py``); here each step
meets small pages made for it, so that a step that does nothing, or the opposite, is seen at once.
"""

import gc
import importlib
import inspect
import json
import os
import sys
from datetime import datetime
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pybtex.plugin
import pytest
from docutils import nodes
from docutils.parsers.rst.directives import unchanged_required
from docutils.utils import new_document
from fontTools.ttLib import TTFont
from sphinx.errors import ExtensionError

from book import ROOT, load

EXT = ROOT / "book" / "_ext"
NAMES = sorted(path.stem for path in EXT.glob("linear_time_*.py"))
OWN = {name: load(EXT / f"{name}.py") for name in NAMES}
book, editions = OWN["linear_time_book"], OWN["linear_time_editions"]
layers, reader = OWN["linear_time_layers"], OWN["linear_time_reader"]
mathematics, results = OWN["linear_time_mathematics"], OWN["linear_time_results"]
lessons = OWN["linear_time_course"]


def site(tmp_path: Path, kind: str = "html", **more) -> SimpleNamespace:
    """An application as the extensions see one: where it writes, what it found, what it is told."""
    env = SimpleNamespace(found_docs={"book/a", "chapters/12-b"}, docname="chapters/12-b")
    theme = {"repository_url": "https://github.com/owner/some-book"}
    config = SimpleNamespace(html_baseurl="", html_theme_options=theme)
    kind = "".join(list(kind))  # equal to a name in the code, and not the same object
    builder = SimpleNamespace(format=kind, get_relative_uri=lambda a, b: f"../{b}.html")
    made = SimpleNamespace(
        env=env, config=config, builder=builder, outdir=str(tmp_path), connected=[], added=[]
    )
    made.connect = lambda event, do, priority=500: made.connected.append((event, do, priority))
    for name in ("css_file", "js_file", "directive", "node", "html_math_renderer"):
        what = name.partition("_")[0]
        setattr(made, f"add_{name}", lambda *given, w=what, **_: made.added.append((w, *given)))
    made.__dict__.update(more)
    return made


# --- what all share


@pytest.mark.parametrize("name", NAMES)
def test_an_extension_is_connected_and_may_run_in_parallel(name, tmp_path, monkeypatch):
    """All that a module defines for Sphinx is connected; a change in it reads every page again."""
    module, app = OWN[name], site(tmp_path)
    said = module.setup(app)
    assert said["parallel_read_safe"] is True and said["parallel_write_safe"] is True
    events = {do.__name__: (event, priority) for event, do, priority in app.connected}
    takes_app = [
        function.__name__
        for function in vars(module).values()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and next(iter(inspect.signature(function).parameters), "") == "app"
        and "env" not in str(function.__annotations__.get("return"))
    ]
    helpers = {"setup", "terms_of", "formulas_of", "introduced", "say_chapters"}
    helpers |= {"documented", "listed", "side_by_side", "look_up_once"}
    assert set(takes_app) - helpers == set(events)
    directives = [
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing) and thing.__module__ == module.__name__ and hasattr(thing, "run")
    ]
    added = [given[-1] for given in app.added if given[0] == "directive"]
    assert {one for one in directives if not one.__subclasses__()} == set(added)
    if "env_version" in said:
        other = lambda path: b"another text"  # noqa: E731
        monkeypatch.setattr(Path, "read_bytes", other)
        assert module.setup(site(tmp_path))["env_version"] != said["env_version"]
    else:
        assert said["version"] == "public"


#: What happens when: Sphinx's own numbering, napoleon and the theme have 500.
ORDER = {
    "site_address": ("config-inited", 100),
    "without_doors": ("config-inited", 900),
    "outdated_chapters": ("env-get-outdated", 500),
    "outdated_status": ("env-get-outdated", 500),
    "keep_status": ("env-merge-info", 500),
    "say_safe": ("builder-inited", 500),
    "restore_numbers": ("env-get-updated", 100),
    "write_all_after_reading": ("env-get-updated", 500),
    "number_by_chapter": ("env-get-updated", 900),
    "note_reading": ("env-before-read-docs", 500),
    "share_out": ("env-before-read-docs", 500),
    "one_document": ("doctree-read", 900),
    "edit_markdown": ("source-read", 500),
    "mend_docstring": ("autodoc-process-docstring", 400),
    "shown_or_gone": ("doctree-read", 500),
    "give_anchors": ("doctree-read", 500),
    "fill": ("doctree-resolved", 500),
    "link_slides": ("doctree-resolved", 500),
    "link_terms": ("doctree-resolved", 500),
    "link_symbols": ("doctree-resolved", 500),
    "no_id_twice": ("doctree-resolved", 500),
    "fold_page": ("doctree-resolved", 900),
    "head_and_foot": ("html-page-context", 300),
    "mend_page": ("html-page-context", 900),
    "copies_too": ("build-finished", 500),
    "remove_old_pages": ("build-finished", 500),
    "cut_font": ("build-finished", 900),
    "lighten": ("build-finished", 950),
}


def test_what_comes_first_and_last():
    """Numbers are plain when Sphinx compares them, and ours when pages are written."""
    app = site(Path())
    for module in OWN.values():
        module.setup(app)
    at = {do.__name__: priority for _, do, priority in app.connected}
    assert at["restore_numbers"] < 500 < at["number_by_chapter"]
    assert at["mend_docstring"] < 500 < at["fold_page"]
    assert at["site_address"] < 500 < at["without_doors"]
    assert at["head_and_foot"] < 500 < at["mend_page"]
    assert at["remove_old_pages"] < at["cut_font"] < at["lighten"]
    found = {do.__name__: (event, priority) for event, do, priority in app.connected}
    assert found == ORDER and len(app.connected) == len(ORDER)


@pytest.mark.parametrize(
    ("name", "arguments", "content", "options"),
    [
        ("drawing", 1, True, {}), ("names", 0, False, {}), ("results", 0, False, {}),
        ("proved", 0, False, {}), ("status", 0, False, {}), ("citation", 0, False, {}),
        ("week", 1, True, dict.fromkeys(("course", "exercises"), unchanged_required)),
    ],
)  # fmt: skip
def test_what_a_directive_takes(name, arguments, content, options):
    app = site(Path())
    for module in OWN.values():
        module.setup(app)
    given = {one[1]: one[2] for one in app.added if one[0] == "directive"}
    kind = given[name]
    assert (kind.required_arguments, kind.optional_arguments) == (arguments, 0)
    assert kind.has_content is content and (kind.option_spec or {}) == options
    assert kind.final_argument_whitespace is (name == "week"), "several chapters"
    assert len(given) == 7


# --- linear_time_book


@pytest.mark.parametrize(
    ("given", "address"),
    [("", "https://owner.github.io/some-book/"), ("https://b.org/", "https://b.org/")],
)
def test_the_address_follows_from_the_repository(given, address):
    app = site(Path())
    app.config.html_baseurl = given
    book.site_address(app, app.config)
    assert app.config.html_baseurl == app.config.ogp_site_url == address


CELL = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])


class Cache:
    """jupyter-cache of one record, or of none."""

    def __init__(self, created):
        self.created = created

    def match_cache_notebook(self, notebook):
        if self.created is None:
            raise KeyError
        return SimpleNamespace(created=datetime.fromtimestamp(self.created), data=self.data)

    data = None


@pytest.mark.parametrize(
    ("read", "executed", "outdated"),
    [(None, None, True), (None, 5.0, True), (5.0, None, True), (5.0, 5.0, False), (5.0, 6.0, True)],
)
def test_a_chapter_is_read_again_where_it_was_executed_since(
    read, executed, outdated, tmp_path, monkeypatch
):
    for name in ("a", "b", "c"):
        nbformat.write(CELL, tmp_path / f"{name}.ipynb")
    (tmp_path / "words.md").write_text("# Words", encoding="utf8")
    suffix = {"words": ".md"}
    env = SimpleNamespace(
        mystnb_config=SimpleNamespace(execution_cache_path="where"),
        found_docs={"a", "b", "c", "words"},
        doc2path=lambda name: str(tmp_path / (name + suffix.get(name, ".ipynb"))),
        nb_metadata={} if read is None else {"a": {"exec_data": {"mtime": read}}},
    )
    monkeypatch.setattr(book, "get_cache", lambda path: Cache(executed))
    found = list(book.outdated_chapters(None, env, {"b"}, {"c"}, set()))
    assert found == ["a"] * outdated


def test_numbers_have_the_chapter_before_them_and_are_given_back():
    plain = {
        "chapters/12-b": {"figure": {"late": (10,), "first": (1,), "middle": (2,)}},
        "book/a": {"table": {"one": (3,)}},
    }
    env = SimpleNamespace(toc_fignumbers={k: dict(v) for k, v in plain.items()})
    assert book.restore_numbers(None, env) == [] and env.toc_fignumbers == plain
    assert book.number_by_chapter(None, env) == []
    figures = env.toc_fignumbers["chapters/12-b"]["figure"]
    assert figures == {"first": (12, 1), "middle": (12, 2), "late": (12, 3)}
    assert env.toc_fignumbers["book/a"]["table"] == {"one": (1,)}
    book.restore_numbers(None, env)
    assert env.toc_fignumbers["chapters/12-b"]["figure"]["late"] == (10,)


@pytest.mark.parametrize(
    ("cores", "processes"), [({3}, 1), ({0, 1}, 3), (set(range(4)), 5), (set(range(64)), 5)]
)
def test_pages_are_read_side_by_side(cores, processes, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cores, raising=False)
    app = site(Path())
    book.setup(app)
    assert app.parallel == processes
    monkeypatch.delattr(os, "sched_getaffinity")
    book.setup(app)
    assert app.parallel == 1


@pytest.fixture(autouse=True)
def garbage():
    """What an extension changes of the process for its build is as it was."""
    before, loads = gc.get_threshold(), pybtex.plugin._load_entry_point
    yield
    gc.unfreeze()
    gc.set_threshold(*before)
    pybtex.plugin._load_entry_point = loads


def test_what_a_citation_looks_like_is_looked_up_once(monkeypatch):
    asked = []
    monkeypatch.setattr(pybtex.plugin, "_load_entry_point", lambda *given, **_: asked.append(given))
    book.look_up_once(site(Path()))
    for _ in range(3):
        pybtex.plugin.find_plugin("pybtex.style.formatting", "plain")
        pybtex.plugin.find_plugin("pybtex.backends", "text")
    assert [given[1] for given in asked] == ["plain", "text"]
    assert gc.get_threshold()[0] > 10_000


def test_what_keeps_no_count_may_be_read_side_by_side():
    """What sphinx_proof has in its domain is nothing, or it would have to be put together."""
    names = ("sphinx_jupyterbook_latex", "sphinx_multitoc_numbering", "another")
    extensions = {name: SimpleNamespace(parallel_read_safe=None) for name in names}
    book.say_safe(site(Path(), extensions=extensions))
    assert [one.parallel_read_safe for one in extensions.values()] == [True, True, None]
    book.say_safe(site(Path(), extensions={}))
    assert book.ProofDomain.merge_domaindata(None, ["a"], {}) is None
    assert book.ProofDomain.initial_data == {}


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("number", [0, 1, 5, 6, 88])
def test_long_pages_are_shared_out(processes, number, tmp_path):
    sizes = {f"page-{at:02}": at * at % 89 for at in range(number)}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    env = SimpleNamespace(doc2path=lambda name: str(tmp_path / name))
    names = list(sizes)
    assert book.share_out(SimpleNamespace(parallel=processes), env, names) is None
    assert sorted(names) == sorted(sizes)
    parts = book.make_chunks(names, processes)
    longest = sorted(sizes, key=sizes.get, reverse=True)[: len(parts)]
    assert all(sum(name in part for name in longest) <= 1 for part in parts)
    if number == 88:
        weights = [sum(map(sizes.get, part)) for part in parts if len(part) == len(parts[0])]
        assert max(weights) < 1.1 * min(weights)


@pytest.mark.parametrize("names", [["book/a"], ["book/a", "book/api/cost"], ["book/api"]])
def test_pages_of_the_api_are_read_with_all_modules_there(names, tmp_path, monkeypatch):
    """A function of one kind for each of its arguments' types is joined by other modules."""
    seen = []
    package = SimpleNamespace(__path__=["where"])
    monkeypatch.setattr(book, "import_module", lambda name: seen.append(name) or package)
    modules = [SimpleNamespace(name=f"linear_time.{name}") for name in ("a", "b.c")]
    walked = lambda path, prefix: modules * (path == ["where"] and prefix == "linear_time.")  # noqa: E731
    monkeypatch.setattr(book.pkgutil, "walk_packages", walked)
    env = SimpleNamespace(doc2path=lambda name: str(tmp_path))
    book.share_out(SimpleNamespace(parallel=2), env, list(names))
    wanted = ["linear_time", "linear_time.a", "linear_time.b.c"]
    assert seen == (wanted if names[-1].startswith("book/api") else [])


def test_all_nodes_of_a_page_know_it():
    page, part = new_document("page"), new_document("part")
    part += nodes.section("", nodes.paragraph("", "", nodes.strong("", "a")))
    for node in part.findall():
        node.document = part
    part[0].document = page  # as it is done for what is put in
    page.extend(part.children)
    assert {node.document for node in page.findall()} == {page, part}
    book.one_document(None, page)
    assert {node.document for node in page.findall()} == {page}


@pytest.mark.parametrize(("read", "written"), [([], []), (["book/a"], ["book/a", "chapters/12-b"])])
def test_where_one_page_is_read_all_are_written(read, written):
    env = site(Path()).env
    book.note_reading(None, env, read)
    assert book.write_all_after_reading(None, env) == written


def script(name: str, body: str = ""):
    class Script(str):
        attributes = {"body": body}  # noqa: RUF012

    return Script(name)


def math(inside: str) -> str:
    return f'<span class="math notranslate nohighlight"><math>{inside}</math></span>'


def pre(inside: str) -> str:
    return f'<span class="pre">{inside}</span>'


def mended(body: str, page: str = "book/a", **more) -> str:
    context = {"script_files": [], "body": body, **more}
    book.mend_page(site(Path()), page, "", context, None)
    return context["body"]


def test_scripts_of_a_service_that_is_not_used_leave():
    kept = script("layers.js")
    context = {"script_files": [script("thebe.js"), kept, script("", "let thebe = 1")]}
    book.mend_page(site(Path()), "book/a", "", context, None)
    assert context == {"script_files": [kept], "body": ""}
    body = 'a <script type="text/x-thebe-config">\n{}\n</script>b<script>kernelName = 1\n</script>c'
    assert mended(body) == "abc"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (f"{math('x')},", "unbroken short"),
        (f"({math('x')})", "unbroken short"),
        (f"{math('x' * 15)}.", "unbroken short"),
        (f"{math('x' * 16)}.", "unbroken"),
        (f"{math('<mi>x</mi><annotation>a long text of it</annotation>')}’", "unbroken short"),
        (f"{math('x')} and", None),
    ],
)
def test_mathematics_keeps_the_sign_that_follows(body, kind):
    assert mended(body) == (body if kind is None else f'<span class="{kind}">{body}</span>')


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("a_long_name", "a_<wbr/>long_<wbr/>name"),
        ("file.py::test", "file.py::<wbr/>test"),
        ("src/linear", "src/<wbr/>linear"),
        ("_x", "_x"),
        ("plain", "plain"),
    ],
)
def test_a_long_name_breaks_after_its_underscores(name, broken):
    assert mended(pre(name)) == pre(broken)


@pytest.mark.parametrize("page", ["book/a", "chapters/12-b"])
def test_a_test_is_named_by_its_file_in_chapters_alone(page):
    body = f'<code class="docutils literal notranslate">{pre("test_a.py::test_b")}</code>'
    where = "https://github.com/owner/some-book/blob/main/tests/test_a.py"
    assert (where in mended(body, page)) == page.startswith("chapters/")


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        (["Alias for field number 3"], []),
        (["Alias for field number three"], ["Alias for field number three"]),
        (["a |λ| and ``b|c``"], [r"a \|λ\| and ``b|c``"]),
        (["Words", "    hang", "    on"], ["Words hang on"]),
        (["Args:", "    x: a"], ["Args:", "    x: a"]),
        (["", "    code"], ["", "    code"]),
        (["    a", "    b"], ["    a", "    b"]),
        (["a", "b"], ["a", "b"]),
        (["a", "b", "  c", "  d", "e", "", "  f"], ["a", "b c d", "e", "", "  f"]),
        (["  a", "b ", "  c |d| "], ["  a", r"b c \|d\|"]),
        (
            ["a:", "  b", "c", "Alias for field number 1"],
            ["a:", "  b", "c", "Alias for field number 1"],
        ),
        ([], []),
    ],
)
def test_a_plain_docstring_is_read_as_it_is_meant(lines, wanted):
    given = list(lines)
    book.mend_docstring(None, "", "", None, None, given)
    assert given == wanted


@pytest.mark.parametrize(("kind", "error"), [("html", None), ("html", ValueError()), ("tex", None)])
def test_pages_that_left_the_contents_leave_the_site(kind, error, tmp_path):
    there = ["index", "book/a", "chapters/12-b"]
    other = ["_static/x/y", "slides/12-b"]
    gone = ["book/old", "chapters/11-b"]
    for name in [*there, *other, *gone]:
        (tmp_path / f"{name}.html").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.html").touch()
    book.remove_old_pages(site(tmp_path, kind), error)
    left = {p.relative_to(tmp_path).with_suffix("").as_posix() for p in tmp_path.rglob("*.html")}
    cleaned = kind == "html" and error is None
    assert left == {*there, *other, *(() if cleaned else gone)}


# --- linear_time_editions

EDITIONS = ("public", "without-solutions", "instructor")


def tagged(words: str, *tags: str, code: bool = False):
    make = nbformat.v4.new_code_cell if code else nbformat.v4.new_markdown_cell
    return make(words, metadata={"tags": list(tags)} if tags else {})


CELLS = [
    tagged("# 12 · A chapter"), tagged("the answer", "solution", "hide-cell", code=True),
    tagged("words"), tagged("points", "rubric"), tagged("imports", "imports", code=True),
]  # fmt: skip


def test_a_solution_is_known_by_its_tags():
    assert [editions.is_solution(cell) for cell in CELLS] == [False, True, False, True, False]
    assert not editions.is_solution({})


def test_doors_to_solutions_are_closed(monkeypatch):
    for name in EDITIONS:
        monkeypatch.setattr(editions, "EDITION", name)
        app = site(Path())
        options = app.config.html_theme_options
        options.update({"launch_buttons": {"colab_url": "x"}, "use_issues_button": False})
        before = dict(options)
        editions.without_doors(app, app.config)
        if name != "without-solutions":
            assert options == before
            continue
        assert options["launch_buttons"] == {} and options["use_issues_button"] is True
        assert not any(options[f"use_{n}_button"] for n in ("repository", "edit_page", "source"))


@pytest.mark.parametrize("name", EDITIONS)
def test_solutions_of_a_page_are_folded_open_or_gone(name, monkeypatch):
    monkeypatch.setattr(editions, "EDITION", name)
    page = nodes.section()
    for kind in ("tag_solution", "tag_imports"):
        cell = nodes.container("", nodes.Text(kind), classes=["cell", kind])
        cell["hide_mode"] = "all"
        page += cell
    editions.shown_or_gone(None, page)
    left = {cell["classes"][1]: cell.get("hide_mode") for cell in page.children}
    expected = {
        "public": {"tag_solution": "all", "tag_imports": "all"},
        "without-solutions": {"tag_imports": "all"},
        "instructor": {"tag_solution": None, "tag_imports": "all"},
    }
    assert left == expected[name]


@pytest.mark.parametrize("name", EDITIONS)
@pytest.mark.parametrize(("kind", "error"), [("html", None), ("html", ValueError()), ("tex", None)])
def test_the_notebooks_to_download_lose_theirs(name, kind, error, tmp_path, monkeypatch):
    monkeypatch.setattr(editions, "EDITION", name)
    path = tmp_path / "deep" / "12-b.ipynb"
    path.parent.mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=CELLS), path)
    editions.copies_too(site(tmp_path, kind), error)
    left = [cell.source for cell in nbformat.read(path, nbformat.NO_CONVERT).cells]
    stripped = name == "without-solutions" and kind == "html" and error is None
    assert left == [c.source for c in CELLS if not (stripped and editions.is_solution(c))]


@pytest.mark.parametrize("name", EDITIONS)
@pytest.mark.parametrize("page", ["chapters/12-b", "book/a", "chapters/glance"])
def test_the_text_of_a_chapter_in_its_edition(name, page, monkeypatch):
    monkeypatch.setattr(editions, "EDITION", name)
    monkeypatch.setattr(editions, "notes", lambda number: f"notes for {number}")
    source = [json.dumps({"cells": [dict(cell) for cell in CELLS]})]
    editions.edit_markdown(None, page, source)
    left = [cell["source"] for cell in json.loads(source[0])["cells"]]
    plain = [cell.source for cell in CELLS]
    if page != "chapters/12-b" or name == "public":
        assert left == plain
    elif name == "instructor":
        assert left == [plain[0], "notes for 12", *plain[1:]]
    else:  # code stays, whatever it is: the executed outputs belong to it
        assert left == [text for text in plain if text != "points"]


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """A chapter 97 with two exercises, its misconceptions, and the tests' wrong answers to it."""
    course = lessons.course
    made = {
        "97-a": course.Exercise("97-a", "A", "say a", 2, 25, "proof"),
        "97-b": course.Exercise("97-b", "B", "say b", 1, 5, ""),
    }
    chapter = course.Chapter("97", "97-two-words", "T", (), frozenset(), 30, 12, made, ())
    known = SimpleNamespace(chapter=lambda number: chapter, points=course.points)
    monkeypatch.setitem(sys.modules, "course", known)
    monkeypatch.setattr(editions, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "book").mkdir()
    (tmp_path / "tests" / "exercises").mkdir(parents=True)
    (tmp_path / "book" / "instructors.md").write_text(
        "- 96: not this\n- 97: That all is *one*.\nwords - 97: no\n- 97: And two.\n",
        encoding="utf8",
    )
    (tmp_path / "tests" / "exercises" / "two_words.py").write_text(
        'def _hidden():\n    """Forgets\n    a sign."""\ndef plain(): pass\n'
        'class Not:\n    """A class."""\ndef last():\n    """Is late."""\n', encoding="utf8"
    )  # fmt: skip
    return tmp_path


def test_the_notes_for_teaching_a_chapter(noted):
    head = [
        "::::{admonition} For the instructor",
        "Reading: 30 minutes, and 12 for the detours. Exercises: 30 minutes in all.",
        "",
        "| exercise | kind | difficulty | minutes | points | objective |",
        "|---|---|---|---|---|---|",
        "| 97-a · A | proof | ●● | 25 | 6 | say a |",
        "| 97-b · B | code | ● | 5 | 1 | say b |",
    ]
    errors = ["", "**What students get wrong**", "", "- That all is *one*.", "- And two."]
    wrong = ["", "**Wrong answers that a check knows, beside others**", "",
             "- `hidden`: Forgets a sign.", "- `last`: Is late."]  # fmt: skip
    assert editions.notes("97").split("\n") == [*head, *errors, *wrong, "::::"]
    assert sys.path[-1] == str(noted / "book")
    (noted / "book" / "instructors.md").write_text("", encoding="utf8")
    assert editions.notes("97").split("\n") == [*head, *wrong, "::::"]


# --- linear_time_layers


def block(words: str, *tags: str) -> nodes.Element:
    return nodes.paragraph(words, words, classes=[f"tag_{tag}" for tag in tags])


def raw(text: str, *tags: str) -> nodes.Element:
    return nodes.raw("", text, format="html", classes=[f"tag_{tag}" for tag in tags])


def told(nodes_: list) -> list[str]:
    """The words of some nodes; an opening fold as "<kind", a closing one as ">"."""
    out = []
    for node in nodes_:
        text = node.astext().strip()
        if text.startswith("<details"):
            text = "<" + text.partition("lt-fold lt-")[2].partition('"')[0]
        out.append(">" if text == "</details>" else text)
    return out


def rendered(tags, *kinds, heading=None):
    """A Markdown cell of these nodes, rendered onto a page that has one before it."""
    page = nodes.section("", block("before"))
    page["classes"] = []
    sections = {1: nodes.section("", block("title")), 3: nodes.section("", block("a"), block("b"))}

    def render_children(token):
        page.extend([kind("words") for kind in kinds])

    children = [SimpleNamespace(type="heading" if heading else "paragraph", tag=heading or "p")]
    renderer = SimpleNamespace(
        current_node=page,
        render_children=render_children,
        _heading_offset=1,
        _level_to_section=sections,
    )
    token = SimpleNamespace(
        meta={"metadata": {"tags": tags} if tags else {}}, children=children * bool(kinds)
    )
    layers.render_markdown_cell(renderer, token)
    return page, sections


def test_a_text_cell_bears_its_tags_on_its_blocks():
    page, sections = rendered(["answer", "x"], nodes.paragraph, nodes.Text, nodes.paragraph)
    classes = [getattr(node, "attributes", {}).get("classes") for node in page.children]
    assert classes == [[], ["tag_answer", "tag_x"], None, ["tag_answer", "tag_x"]]
    assert not any(section["classes"] or "shown" in section for section in sections.values())
    plain, _ = rendered([], nodes.paragraph)
    assert [node["classes"] for node in plain.children] == [[], []]


def test_a_cell_that_begins_with_a_heading_bears_them_on_its_section():
    page, sections = rendered(["detour"], nodes.paragraph, nodes.paragraph, heading="h2")
    assert all(node["classes"] == [] for node in page.children)
    assert sections[3]["classes"] == ["tag_detour"] and sections[3]["shown"] == 2
    assert sections[1]["classes"] == [] and "shown" not in sections[1]
    untagged, sections = rendered([], nodes.paragraph, heading="h2")
    assert len(untagged.children) == 2 and "shown" not in sections[3]


def test_a_caption_for_plain_jupyter_is_not_on_the_page():
    page, _ = rendered(["caption", "answer"], nodes.paragraph)
    assert len(page.children) == 1
    empty, _ = rendered(["answer"])
    assert len(empty.children) == 1


@pytest.mark.parametrize(
    ("node", "own"),
    [
        (raw("<details>"), True),
        (raw("<details> <summary>So</summary>"), True),
        (raw(" </details>\n"), True),
        (raw("<details>words"), False),
        (raw("<p>"), False),
        (block("<details>"), False),
        (nodes.Text("</details>"), False),
    ],
)
def test_the_fold_that_an_answer_brings_along(node, own):
    assert layers.is_own_fold(node) is own


@pytest.mark.parametrize(
    ("tag", "says"), [("answer", "Reveal what was measured"), ("rubric", "Rubric")]
)
def test_runs_of_cells_are_folded_and_order_is_kept(tag, says):
    page = nodes.section()
    page += [
        block("a"), block("b", tag), raw("<details>", tag), block("c", tag),
        raw("</details>", tag), block("d"), raw("<p>in between</p>"), block("e", tag),
    ]  # fmt: skip
    layers.fold_runs(page, tag)
    fold = f"<{tag}"
    assert told(page.children) == [
        "a", fold, "b", "c", ">", "d", "<p>in between</p>", fold, "e", ">",
    ]  # fmt: skip
    assert all(child.parent is page for child in page.children)
    assert says in page.children[1].astext()


@pytest.mark.parametrize(
    ("words", "minutes"), [(3, 2), (300, 2), (373, 2), (375, 3), (450, 3), (900, 6)]
)
def test_a_detour_is_folded_below_its_own_words(words, minutes):
    section = nodes.section(classes=["tag_detour"])
    section += [nodes.title("", "A proof"), block("shown"), block("word " * words), block("end")]
    section["shown"] = 2
    layers.fold_detour(section)
    kinds = told(section.children)
    assert kinds[:3] == ["A proof", "shown", "<detour"] and kinds[-2:] == ["end", ">"]
    assert f"about {minutes} minutes" in section.children[2].astext()
    assert "Fold the detour" in section.children[2].astext()


@pytest.mark.parametrize("kind", ["html", "tex"])
def test_a_page_is_folded_for_a_browser_alone(kind):
    page, section = nodes.section(), nodes.section(classes=["tag_detour"], shown=1)
    section += [nodes.title("", "A proof"), block("inside", "answer")]
    page += [block("b", "answer"), section, block("points", "rubric")]
    page += nodes.section("", block("plain"))
    layers.fold_page(site(Path(), kind), page, "chapters/12-b")
    folds = sum("<details" in node.astext() for node in page.findall(nodes.raw))
    assert folds == (4 if kind == "html" else 0)
    assert told(page.children[-1].children) == ["plain"]


def directive(kind, argument: str, **options):
    """A directive before it runs, on a page that notes what it depends on."""
    made = object.__new__(kind)
    depends: list[str] = []
    env = SimpleNamespace(docname="book/a", note_dependency=depends.append, temp_data={})
    settings = SimpleNamespace(env=env, record_dependencies=None)
    parsed: list = []
    made.state = SimpleNamespace(
        document=SimpleNamespace(settings=settings),
        nested_parse=lambda content, offset, into: (
            parsed.append((list(content), into)), made.offsets.append(offset)
        ),
    )  # fmt: skip
    made.offsets = []
    made.arguments, made.options, made.content, made.content_offset = [argument], options, [], 3
    made.error = lambda says: ValueError(says)
    return made, depends, parsed


def test_a_drawing_on_a_page_without_code():
    made, depends, parsed = directive(layers.DrawingDirective, "home.paths_drawing")
    made.content = ["The caption."]
    (figure,) = made.run()
    assert figure["classes"] == ["lt-figure"] and "<svg" in figure.children[0].astext()
    assert parsed == [(["The caption."], figure)]
    files = {Path(path).relative_to(ROOT / "src" / "linear_time").as_posix() for path in depends}
    assert "pictures/home.py" in files and len(files) == 2


@pytest.mark.parametrize("name", ["nowhere.paths_drawing", "home.nothing", "home", ""])
def test_a_drawing_that_is_not_there_is_named(name):
    made, _, _ = directive(layers.DrawingDirective, name)
    with pytest.raises(ValueError, match=r"expected a drawing of linear_time\.pictures"):
        made.run()


# --- linear_time_course


@pytest.mark.parametrize("kind", ["html", "tex"])
@pytest.mark.parametrize("page", ["chapters/12-discretization", "chapters/19-tasks", "book/12-a"])
def test_the_link_to_a_deck_follows_the_running_time(kind, page):
    doctree = nodes.section()
    doctree += [block("Words."), block("Running time short."), block("Running time again.")]
    lessons.link_slides(site(Path(), kind), doctree, page)
    links = [link["refuri"] for link in doctree.findall(nodes.reference)]
    wanted = kind == "html" and page == "chapters/12-discretization"
    assert links == ["../slides/12-discretization.html"] * wanted
    last = doctree.children[1].astext()
    assert last == "Running time short." + " For a lecture: slides." * wanted


def test_a_table_of_exercises_adds_their_minutes():
    lines = lessons.exercises(("12-gate", "13-leak"))
    assert [line.count("|") for line in lines] == [7] * 5
    minutes = [int(line.split("|")[3]) for line in lines[2:4]]
    assert f"**{sum(minutes)}**" in lines[-1]
    with pytest.raises(KeyError):
        lessons.exercises(("12-nothing",))


def test_a_week_is_made_of_its_chapters_and_read_again_with_them():
    made, depends, parsed = directive(lessons.WeekDirective, "12 14")
    made.options = {"course": "term", "exercises": "12-gate 14-bug"}
    made.content = ["Discuss."]
    (shown,) = made.run()
    assert [Path(path).stem[:2] for path in depends] == ["12", "14"]
    assert made.offsets == [0, 0, 0, 0, 3], "its own lines have no place on the page"
    assert all(Path(path).exists() for path in depends)
    assert {id(into) for _, into in parsed} == {id(shown)}
    read, *objectives, table, content = [lines for lines, _ in parsed]
    assert read[0].startswith("**Read** [12 ") and "; [14 " in read[0]
    for number, lines in zip(("12", "14"), objectives, strict=True):
        stated = [f"- {one.text}" for one in lessons.course.chapter(number).objectives]
        assert stated and lines == [f"Chapter {number}: the student can", "", *stated]
    assert table == lessons.exercises(("12-gate", "14-bug")) and content == ["Discuss."]
    made, _, _ = directive(lessons.WeekDirective, "12 99")
    made.options = {"course": "term", "exercises": "12-gate"}
    with pytest.raises(ValueError, match="week 12 99"):
        made.run()


def test_a_week_lends_what_its_course_has_not_read():
    """Course by course: what one has read before another one has not."""
    made, _, parsed = directive(lessons.WeekDirective, "12")
    made.options = {"course": "term", "exercises": "12-gate"}
    data = made.env.temp_data
    made.run()
    read, *_ = [lines for lines, _ in parsed]
    (half,) = lessons.course.to_borrow(("12",), set())
    title = lessons.course.chapter("11").title
    link = f"[11 · {title}](../chapters/11-state-space.ipynb)"
    lent = f"for 12, of {link} the section *{half[2].heading}* ({half[2].why})"
    assert read[1:] == ["", f"**Borrow** {lent}."]
    assert read[0] == f"**Read** {lessons.reading('12')}."
    assert data == {"course term": {"12"}}
    made, _, parsed = directive(lessons.WeekDirective, "13")
    made.options = {"course": "term", "exercises": "13-leak"}
    made.env.temp_data.update(data)
    made.run()
    assert "for 13, of [12 ·" not in parsed[0][0][2] and data["course term"] == {"12", "13"}
    made.options["course"] = "other"
    parsed.clear()
    made.run()
    assert "for 13, of [12 ·" in parsed[0][0][2] and data["course term"] == {"12", "13"}


def test_a_chapter_to_read_has_its_minutes_and_the_slides_that_there_are():
    for number, slides in (("12", True), ("19", False)):
        chapter = lessons.course.chapter(number)
        link = f"[{number} · {chapter.title}](../chapters/{chapter.stem}.ipynb)"
        address = f', <a href="../slides/{chapter.stem}.html">slides</a>' * slides
        wanted = f"{link} ({chapter.core} min; detours {chapter.detours}{address})"
        assert lessons.reading(number) == wanted and lessons.deck(chapter.stem) is slides


def test_a_change_of_the_decks_reads_every_page_again(tmp_path, monkeypatch):
    before = lessons.setup(site(tmp_path))["env_version"]
    assert lessons.setup(site(tmp_path))["env_version"] == before
    (tmp_path / "slides").mkdir()
    monkeypatch.setattr(lessons, "BOOK", tmp_path)
    (tmp_path / "course.py").write_text("", encoding="utf8")
    seen = {before}
    for name in ("01-a", "00-b"):
        (tmp_path / "slides" / f"{name}.md").touch()
        seen.add(lessons.setup(site(tmp_path))["env_version"])
    (tmp_path / "course.py").write_text("x = 1", encoding="utf8")
    seen.add(lessons.setup(site(tmp_path))["env_version"])
    (tmp_path / "slides" / "notes.txt").touch()
    seen.add(lessons.setup(site(tmp_path))["env_version"])
    assert len(seen) == 4


# --- linear_time_mathematics


def visitor():
    made = SimpleNamespace(body=[], links=[])
    made.starttag = lambda node, tag, end="\n", **given: f"<{tag} {given['CLASS']}>"
    made.add_permalink_ref = lambda node, says: made.links.append(says)
    made.builder = SimpleNamespace(
        config=SimpleNamespace(math_numfig=False, numfig=False, math_number_all=False)
    )
    return made


@pytest.mark.parametrize("number", [None, 3])
def test_an_equation_of_its_own_line_has_its_number(number):
    page, node = visitor(), nodes.math_block("x", "x", number=number)
    with pytest.raises(nodes.SkipNode):
        mathematics.visit_math_block(page, node)
    html = "".join(page.body)
    assert html.startswith("<div math notranslate nohighlight>") and html.endswith("</div></div>\n")
    assert 'display="block"' in html
    assert ('<span class="eqno">(3)</span>' in html) == (number is not None)
    assert page.links == ["Link to this equation"] * (number is not None)


def test_an_equation_in_a_line_and_one_that_is_none(monkeypatch):
    page, said = visitor(), []
    monkeypatch.setattr(mathematics.logger, "warning", lambda *given, **_: said.append(given))
    for tex in ("x < y", r"\nosuch <"):
        with pytest.raises(nodes.SkipNode):
            mathematics.visit_math(page, nodes.math(tex, tex))
    assert page.body[1].startswith("<math>") and page.body[1].endswith("</span>")
    assert page.body[3] == r"<code>\nosuch &lt;</code></span>" and len(said) == 1


@pytest.mark.parametrize(("kind", "error"), [("html", None), ("html", ValueError()), ("tex", None)])
def test_the_font_has_what_pages_and_slides_draw(kind, error, tmp_path):
    (tmp_path / "deep").mkdir()
    drawn = mathematics.mathematics.mathml(r"\mathbb{Q}", False)
    (tmp_path / "deep" / "a.html").write_text(f"<p>{drawn}", encoding="utf8")
    mathematics.cut_font(site(tmp_path, kind), error)
    font = tmp_path / "_static" / "math.woff2"
    assert font.exists() == (kind == "html" and error is None)
    if font.exists():
        have = set(TTFont(BytesIO(font.read_bytes())).getBestCmap())
        assert {ord("ℚ"), ord("0"), ord("9"), 0x1D465} <= have and len(have) < 300


def test_a_sign_without_a_glyph_ends_the_build(tmp_path):
    (tmp_path / "a.html").write_text("<math><mi>中</mi></math>", encoding="utf8")
    with pytest.raises(ExtensionError, match="U\\+4E2D"):
        mathematics.cut_font(site(tmp_path), None)


# --- linear_time_reader


def glossary() -> nodes.Element:
    items = []
    for names, sentence in (
        (("gate", "gates of sand"), "Lets through. Chapter 12."),
        (("S4",), "A layer."),
    ):
        terms = [nodes.term(n, n, ids=[f"term-{n.replace(' ', '-')}"]) for n in names]
        body = nodes.definition("", nodes.paragraph("", sentence))
        items.append(nodes.definition_list_item("", *terms, body))
    return nodes.section("", nodes.definition_list("", *items))


def pages(**trees) -> SimpleNamespace:
    app = site(Path())
    known = {"book/glossary": glossary(), **{k.replace("_", "/", 1): v for k, v in trees.items()}}
    app.env.found_docs = set(known)
    app.env.get_doctree = lambda name: known[name]
    return app


def test_terms_and_their_sentences():
    gate = ("term-gate", {"": "Lets through."})
    wanted = {"gate": gate, "gates of sand": gate, "S4": ("term-S4", {"": "A layer."})}
    assert reader.terms_of(pages()) == wanted
    assert reader.terms_of(site(Path())) == {}


def test_a_word_has_the_sense_of_its_chapter():
    app = pages()
    definition = next(app.env.get_doctree("book/glossary").findall(nodes.definition))
    definition += nodes.paragraph("", "In chapters 03, 08 and 22, one of a circuit. Chapter 22")
    definition += nodes.paragraph("", "In chapter 07, a door. Chapter 07")
    shown = {}
    for docname in ("chapters/12-b", "chapters/22-l", "chapters/03-d", "chapters/07-d", "index"):
        page = nodes.section("", nodes.paragraph("", "a gate"))
        reader.link_terms(app, page, docname)
        shown[docname[-4:-2]] = next(page.findall(nodes.reference))["reftitle"]
    assert shown == {
        "12": "Lets through.", "22": "One of a circuit.", "03": "One of a circuit.",
        "07": "A door.", "nd": "Lets through.",
    }  # fmt: skip


def test_the_first_use_of_a_term_is_a_link():
    page = nodes.section()
    page += [
        nodes.title("", "A gate"),
        nodes.paragraph("", "", nodes.Text("The Gates here, a gate; "), nodes.literal("", "S4")),
        nodes.paragraph("", "S4 and s4."),
    ]
    reader.link_terms(pages(), page, "chapters/12-b")
    links = list(page.findall(nodes.reference))
    assert [link.astext() for link in links] == ["Gates", "S4"]
    assert [link["refuri"] for link in links] == [
        "../book/glossary.html#term-gate", "../book/glossary.html#term-S4",
    ]  # fmt: skip
    assert links[0]["reftitle"] == "Lets through." and links[0]["classes"] == ["lt-term"]
    assert page.astext().count("The Gates here, a gate; ") == 1


def test_each_term_is_linked_once_on_a_page():
    """After one that is known, and in every text, the others are looked for too."""
    page = nodes.section()
    page += [
        nodes.paragraph("", "gate, gate, gates of\nsand, an S4"), nodes.paragraph("", "S4 gates"),
        nodes.title("", "S4"),
    ]  # fmt: skip
    reader.link_terms(pages(), page, "index")
    assert [link.astext() for link in page.findall(nodes.reference)] == ["gate", "S4"]
    first, second, _ = page.children
    assert [part.astext() for part in first.children] == [
        "gate", ", gate, gates of\nsand, an ", "S4",
    ]  # fmt: skip
    assert [part.astext() for part in second.children] == ["S4 gates"]
    app = pages()
    app.env.found_docs.remove("book/glossary")
    untouched = nodes.section("", nodes.paragraph("", "gate"))
    reader.link_terms(app, untouched, "index")
    assert not list(untouched.findall(nodes.reference)) and app.lt_terms == {}


def test_the_glossary_is_read_once_a_build():
    app = pages()
    reader.link_terms(app, nodes.section("", nodes.paragraph("", "gate")), "index")
    app.env.get_doctree = None
    page = nodes.section("", nodes.paragraph("", "gate"))
    reader.link_terms(app, page, "book/api/scan")
    assert not list(page.findall(nodes.reference))
    reader.link_terms(app, page, "chapters/12-b")
    assert [link["refuri"] for link in page.findall(nodes.reference)] == [
        "../book/glossary.html#term-gate"
    ]


@pytest.mark.parametrize(
    ("kind", "page"), [("tex", "chapters/12-b"), *(("html", name) for name in sorted(reader.PLAIN))]
)
def test_pages_that_are_lists_have_no_links_to_terms(kind, page):
    app, text = pages(), nodes.section("", nodes.paragraph("", "a gate"))
    app.builder.format = kind
    reader.link_terms(app, text, page)
    assert not list(text.findall(nodes.reference))


@pytest.mark.parametrize(
    ("around", "prose"),
    [
        (nodes.paragraph, True), (nodes.section, False), (nodes.title, False),
        *((kind, False) for kind in reader.CLOSED),
    ],
)  # fmt: skip
def test_what_is_prose(around, prose):
    text = nodes.Text("gate")
    holder = around("", "", text) if issubclass(around, nodes.TextElement) else around("", text)
    whole = holder if prose or around is nodes.section else nodes.paragraph("", "", holder)
    assert reader.in_prose(text) is prose
    if prose:
        nodes.container("", whole, classes=["lt-figure"])
        assert not reader.in_prose(text)


def formula(tex: str):
    return nodes.math(tex, tex)


def chapter() -> nodes.Element:
    equation = nodes.math_block("y = C h", "y = C h", ids=["equation-eq-12-y"])
    first = nodes.section("", nodes.paragraph("", "", formula("x_t + 1")), ids=["begins"])
    return nodes.container("", first, nodes.section("", equation, ids=["goes-on"]))


def test_formulas_of_a_chapter_have_their_places():
    app = pages(chapters_12=chapter())
    app.env.get_doctree = lambda name: chapter()
    found = reader.formulas_of(app, "chapters/12-b")
    assert [anchor for _, anchor in found] == ["begins", "equation-eq-12-y"]


def exercises() -> nodes.Element:
    """A formula in each of two, whose contents have one id."""
    both = [
        nodes.admonition(
            "",
            nodes.section("", nodes.paragraph("", "", formula(tex)), ids=["exercise-content"]),
            ids=[f"12-{tex}"],
        )
        for tex in "ab"
    ]
    return nodes.container("", nodes.section("", *both, ids=["exercises"]))


def test_a_formula_of_an_exercise_has_that_exercise_s_place():
    app = pages()
    app.env.get_doctree = lambda name: exercises()
    found = reader.formulas_of(app, "chapters/12-b")
    assert [anchor for _, anchor in found] == ["12-a", "12-b"]


def test_the_content_of_an_exercise_has_no_id_of_its_own():
    page = exercises()
    reader.no_id_twice(pages(), page, "chapters/12-b")
    assert [name for node in page.findall() if isinstance(node, nodes.Element)
            for name in node.get("ids", [])] == ["exercises", "12-a", "12-b"]  # fmt: skip


@pytest.mark.parametrize(
    ("tex", "place"),
    [
        ("x_t", ("chapters/12-b", "begins")),
        ("C, D", ("chapters/12-b", "equation-eq-12-y")),
        ("D", None),
    ],
)
def test_a_symbol_leads_to_its_first_formula(tex, place):
    app = pages()
    app.env.get_doctree = lambda name: chapter()
    assert reader.introduced(app, tex, ["chapters/12-b"], {}) == place


@pytest.mark.parametrize("kind", ["html", "tex"])
@pytest.mark.parametrize("docname", ["book/notation", "book/a"])
@pytest.mark.parametrize("named", ["in: 12 99", "of: 12", "in: 11"])
def test_symbols_of_the_notation_are_links(kind, docname, named):
    row = nodes.row(
        "",
        nodes.entry("", nodes.paragraph("", "", formula("x_t"), formula("Q"))),
        nodes.entry("", nodes.paragraph("", "", formula("y"))),
    )
    head = nodes.thead("", nodes.row("", nodes.entry("", nodes.paragraph("", "", formula("C")))))
    table = nodes.table("", nodes.tgroup("", head, nodes.tbody("", row)))
    page = nodes.section("", nodes.comment(named, named), table)
    app = pages()
    app.builder.format = kind
    app.env.found_docs |= {"chapters/12-b"}
    app.env.get_doctree = lambda name: chapter()
    reader.link_symbols(app, page, docname)
    links = [(link.astext(), link["refuri"]) for link in page.findall(nodes.reference)]
    wanted = kind == "html" and docname == "book/notation" and named == "in: 12 99"
    symbol = ("x_t", "../chapters/12-b.html#begins")
    assert links == [("12", "../chapters/12-b.html"), symbol] * wanted
    assert [math.astext() for math in page.findall(nodes.math)] == ["C", "x_t", "Q", "y"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("in: 11 12 00", "Chapters 00, 11 and 12"),
        ("in: 12 11", "Chapters 11 and 12"),
        ("in: 12 99", "Chapter 12"),
        ("in: 99", ""),
        ("of: 11", ""),
    ],
)
def test_a_table_of_symbols_says_its_chapters(named, said):
    page = nodes.section("", nodes.title("", "S4"), nodes.comment(named, named), nodes.table())
    app = pages()
    app.env.found_docs |= {"chapters/00-a", "chapters/11-c", "chapters/12-b"}
    app.env.get_doctree = lambda name: chapter()
    reader.link_symbols(app, page, "book/notation")
    printed = [node.astext() for node in page.children if isinstance(node, nodes.paragraph)]
    assert printed == [said] * bool(said)
    assert not said or isinstance(page.children[1], nodes.paragraph)


@pytest.mark.parametrize("page", ["book/a", "search"])
def test_a_page_says_where_to_report_a_mistake_and_has_a_card(page):
    app = site(Path())
    app.config.html_baseurl = "https://b.org/"
    context = {"title": "An <em>a</em>", "meta": {"own": "1"}}
    reader.head_and_foot(app, page, "", context, object())
    assert context["report_mistake"].startswith("https://github.com/owner/some-book/issues/new?")
    assert "An+a%E2%80%9D" in context["report_mistake"]
    wanted = {"own": "1"}
    if page == "book/a":
        wanted |= {
            "og:image": "https://b.org/_static/cards/a.png",
            "og:image:alt": "A drawing of the page An a",
        }
    assert context["meta"] == wanted


def test_a_mistake_is_reported_with_its_page():
    app = site(Path())
    context = {"meta": None}
    reader.head_and_foot(app, "book/none", "", context, object())
    assert context["report_mistake"] == (
        "https://github.com/owner/some-book/issues/new?"
        "title=Mistake+on+%E2%80%9Cbook%2Fnone%E2%80%9D&body=Page%3A+book%2Fnone%0A%0A"
    )
    assert context["meta"] is None
    reader.head_and_foot(app, "chapters/12-b", "", context, object())
    assert context["meta"] == {
        "og:image": "_static/cards/12-b.png",
        "og:image:alt": "A drawing of the page chapters/12-b",
    }


@pytest.mark.parametrize(("doctree", "url"), [(None, "https://x.org/a"), (object(), "")])
def test_what_is_no_page_has_no_foot(doctree, url):
    app = site(Path())
    app.config.html_theme_options = {"repository_url": url}
    context: dict = {}
    reader.head_and_foot(app, "book/a", "", context, doctree)
    assert context == {}


# --- linear_time_results


def result_cell(*classes: str) -> nodes.Element:
    source = "x = 1\n# result: One is.\nassert x\n# result: Two is.\nassert x"
    return nodes.container("", nodes.literal_block(source, source), classes=[*classes])


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ("chapters/12-b", ["result-12-1", "result-12-2", "result-12-3", "result-12-4"]),
        ("book/a", []),
    ],
)
def test_cells_that_state_results_bear_their_names(page, wanted):
    doctree = nodes.section()
    doctree += [
        result_cell("cell"), result_cell("cell", "tag_solution"), result_cell("output"),
        nodes.container("", classes=["cell"]), result_cell("cell"),
    ]  # fmt: skip
    results.give_anchors(SimpleNamespace(env=SimpleNamespace(docname=page)), doctree)
    named = [cell["ids"] for cell in doctree.children]
    assert [name for ids in named for name in ids] == wanted
    assert not wanted or [len(ids) for ids in named] == [2, 0, 0, 0, 2]


@pytest.mark.parametrize(
    ("data", "wanted"), [({"execution_seconds": 7.5}, 7.5), ({}, None), (None, None)]
)
def test_when_a_page_was_executed(data, wanted, tmp_path, monkeypatch):
    nbformat.write(CELL, tmp_path / "a.ipynb")
    made = Cache(86400.0 * 365)
    made.data = data
    monkeypatch.setattr(results, "get_cache", lambda path: made)
    env = SimpleNamespace(mystnb_config=SimpleNamespace(execution_cache_path="where"))
    told = results.executed(env, tmp_path / "a.ipynb")
    assert told == (None if wanted is None else (wanted, "01 January 1971"))
    made.created = None
    assert results.executed(env, tmp_path / "a.ipynb") is None
    assert results.executed(SimpleNamespace(), tmp_path / "a.ipynb") is None


def test_the_status_adds_up(tmp_path, monkeypatch):
    counted = SimpleNamespace(title="A", compared=3, assertions=5, results=["r", "s"])
    for name in ("11-a", "12-b"):
        (tmp_path / f"{name}.ipynb").write_text(
            f":label: {name[:2]}-x :label: {name[:2]}-x", encoding="utf8"
        )
    monkeypatch.setattr(results, "chapters", lambda root: sorted(tmp_path.glob("*.ipynb")))
    monkeypatch.setattr(results, "counted", lambda path: counted)
    ran = {"11-a": (61.4, "01 May 2026"), "12-b": None}
    monkeypatch.setattr(results, "executed", lambda env, path: ran[path.stem])
    lines = results.status_lines(None, tmp_path)
    assert lines[2] == "| [A](../chapters/11-a.ipynb) | 01 May 2026 | 61 | 3 | 5 | 2 | 1 |"
    assert lines[3] == "| [A](../chapters/12-b.ipynb) | not by this build |  | 3 | 5 | 2 | 1 |"
    assert lines[4] == "| **together** | | **61** | **6** | **10** | **4** | **2** |"
    assert lines[6:] == [f"Computed with {', '.join(results.versions())}."]
    assert lines[6].startswith("Computed with Python 3.")


@pytest.fixture
def stated(tmp_path, monkeypatch):
    """A root of two chapters, of which one states two results."""
    (tmp_path / "chapters").mkdir()
    for name in ("12-b", "11-a"):
        (tmp_path / "chapters" / f"{name}.ipynb").write_text("", encoding="utf8")
    one = results.Result("One is.", "assert  x ==\n 1" + "0" * 300, "result-12-1", "exactly")
    two = results.Result("Two is.", "assert y", "result-12-2", "to 1e-10")
    read = {
        "11-a": results.Counted("11 · A", (), 7, 1),
        "12-b": results.Counted("12 · B", (one, two), 3, 2),
    }
    monkeypatch.setattr(results, "counted", lambda path: read[path.stem])

    def made(kind):
        given, depends, parsed = directive(kind, "")
        given.env.srcdir = str(tmp_path)
        given.content_offset = 4
        return given, depends, parsed

    made.root, made.chapters = tmp_path, [
        str(tmp_path / "chapters" / f"{name}.ipynb") for name in ("11-a", "12-b")
    ]  # fmt: skip
    return made


def test_every_result_is_listed_with_its_assertion(stated):
    made, depends, _ = stated(results.ResultsDirective)
    first, second = made.run()
    assert depends == stated.chapters
    assert [s["ids"] for s in (first, second)] == [["results-11"], ["results-12"]]
    assert [child.astext() for child in first.children] == ["11 · A", ""]
    title, items = second.children
    assert title.astext() == "12 · B" and items["classes"] == ["lt-results"]
    assert [item.astext() for item in items.children] == ["One is. (exactly)", "Two is. (to 1e-10)"]
    links = list(items.findall(nodes.reference))
    assert [link["refuri"] for link in links] == [
        "../chapters/12-b.html#result-12-1", "../chapters/12-b.html#result-12-2",
    ]  # fmt: skip
    assert links[0]["reftitle"] == "assert x == 1" + "0" * 187 and links[0]["internal"] is True


@pytest.mark.parametrize("error", [SyntaxError("no Python"), ValueError("no assertion")])
def test_a_chapter_that_cannot_be_counted_is_named(stated, monkeypatch, error):
    def counted(path):
        raise error

    monkeypatch.setattr(results, "counted", counted)
    made, depends, _ = stated(results.ResultsDirective)
    with pytest.raises(ValueError, match=str(error)) as told:
        made.run()
    assert told.value.__cause__ is error and depends == stated.chapters


def test_what_is_proved_is_counted(stated):
    (stated.root / "book").mkdir()
    row = "| a | `test_x.py::test_y` |\n"
    (stated.root / "book" / "ledger.md").write_text(
        f"# Ledger\n{row}\n## Papers\n{row}| b | none |\n{row}\n## Code\n{row}"
        f"## Errata of this book\n{row}\ntext `test_x.py::test_z`\n",
        encoding="utf8",
    )
    assert results.ledger_rows(stated.root) == (3, 1)
    made, depends, parsed = stated(results.ProvedDirective)
    made.run()
    assert depends == [*stated.chapters, str(stated.root / "book" / "ledger.md")]
    (((first, second, third), _),) = parsed
    assert first.startswith("- **2 statements**") and "make 10 assertions" in first
    assert second.startswith("- **3 places**") and "**1 errata of this book**" in second
    assert "(status.md)" in third


def test_the_citation_and_the_status_are_parsed_in_place(stated, monkeypatch):
    cff = {"title": "T", "version": "1", "repository-code": "r", "authors": [{"name": "n"}]}
    (stated.root / "CITATION.cff").write_text(json.dumps(cff), encoding="utf8")
    (stated.root / "CHANGELOG.md").write_text("### 1 May 2026\n", encoding="utf8")
    made, depends, parsed = stated(results.CitationDirective)
    made.run()
    assert depends == [str(stated.root / name) for name in ("CITATION.cff", "CHANGELOG.md")]
    words, entry = results.citation(cff, "1 May 2026")
    ((lines, holder),) = parsed
    assert lines == [words, "", "```bibtex", *entry, "```"] and isinstance(holder, nodes.container)
    monkeypatch.setattr(results, "status_lines", lambda env, root: ["a", str(root)])
    made, depends, parsed = stated(results.StatusDirective)
    (place,) = made.run()
    assert isinstance(place, nodes.container) and place["classes"] == ["lt-last-tests"]
    assert made.env.lt_status == ["a", str(stated.root)] == parsed[0][0]
    assert depends == stated.chapters and not results.Listed.has_content


def test_what_a_directive_parses_is_what_it_returns(stated):
    made, _, _ = stated(results.StatusDirective)
    offsets = []

    def nested_parse(lines, offset, into):
        offsets.append((lines.source(0), offset))
        into += [nodes.paragraph("", line) for line in lines]

    made.state.nested_parse = nested_parse
    assert [node.astext() for node in made.parse(["a", "b"])] == ["a", "b"]
    assert offsets == [("book/a", 4)]


@pytest.mark.parametrize(
    ("found", "before", "again"),
    [({results.STATUS}, ["new"], []), ({results.STATUS}, ["old"], [results.STATUS]),
     ({results.STATUS}, None, [results.STATUS]), (set(), ["old"], [])],
)  # fmt: skip
def test_the_status_is_read_again_where_something_ran(found, before, again, monkeypatch):
    monkeypatch.setattr(results, "status_lines", lambda env, root: ["new"])
    env = SimpleNamespace(found_docs=found, srcdir="here")
    if before is not None:
        env.lt_status = before
    assert results.outdated_status(None, env, set(), set(), set()) == again


@pytest.mark.parametrize("read", [{results.STATUS, "a"}, {"a"}])
def test_the_status_is_remembered_by_whoever_read_it(read):
    env = SimpleNamespace(lt_status="before")
    results.keep_status(None, env, read, SimpleNamespace(lt_status="new"))
    assert env.lt_status == ("new" if results.STATUS in read else "before")


def test_extensions_find_each_other_s_modules():
    """`course` and `mathematics` are those of the book, whatever else is called so."""
    for name in ("course", "mathematics"):
        assert Path(sys.modules[name].__file__).parent == ROOT / "book"
        assert importlib.import_module(name) is sys.modules[name]
