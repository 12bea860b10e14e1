"""The book as PDF, on a small site: contents, outline, heads, solutions, and what is refused."""

import re
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Browser
from pypdf import PdfReader

from book import ROOT, load

pdf = load(ROOT / "book" / "pdf.py")

PAGE = """<!doctype html><html><head><meta charset="utf-8">
<link rel="canonical" href="https://example.org/site/{doc}.html">
<link rel="stylesheet" href="../_static/s.css"></head>
<body><article class="bd-article"><section id="title">
<h1>{title}<a class="headerlink" href="#title">#</a></h1>{body}</section></article></body></html>"""
ALPHA = """<section id="first"><h2>A first <math><mi>x</mi></math></h2>
<p>See <a href="02-beta.html#there">there</a>, <a href="#first">above</a>,
<a href="02-beta.html">all of beta</a>, <a href="../book/api.html#f">the API</a>
and <a href="alpha.py">a file</a>.</p>
<details><summary>Open the detour</summary><p>Folded words.</p></details>
<div class="lt-explorer"><input type="range"><button>Play</button><svg id="s" viewBox="0 0 10 10">
<defs><marker id="m"></marker></defs><path marker-end="url(#m)" d="M0 0H9"/></svg></div>
<p class="admonition-title">Exercise 1 (Add)</p>
<div class="cell tag_solution"><details><summary>Show</summary><pre>the_answer = 42</pre></details>
</div><pre>{}</pre></section>
"""
THERE = '<p id="there">There.</p>'
CODE = r"<pre>print(r'\(x\)')</pre><p>Begins with <code>:::{exercise}</code> and goes on.</p>"
BETA = '<section id="there"><h2>There</h2><p>Beta words.</p></section>' + "<p>Filler.</p>" * 120


@pytest.fixture
def root(tmp_path: Path) -> Path:
    toc = {
        "root": "book/preface",
        "parts": [
            {
                "caption": "Part one",
                "chapters": [{"file": "chapters/01-alpha"}, {"file": "chapters/02-beta"}],
            },
            {"caption": "Around", "chapters": [{"file": "book/api"}]},
        ],
    }
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf8")
    config = {"title": "A small book", "author": "Its authors"}
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf8")
    write(tmp_path, "book/preface", "A small book", "<p>Words before.</p>")
    write(tmp_path, "chapters/01-alpha", '01 · The "alpha"', ALPHA.replace("{}", "long " * 60))
    write(tmp_path, "chapters/02-beta", "02 · Beta", BETA)
    static = tmp_path / "_build" / "html" / "_static"
    static.mkdir()
    (static / "s.css").write_text("p { color: #123456; }", encoding="utf8")
    return tmp_path


def write(root: Path, doc: str, title: str, body: str) -> None:
    path = root / "_build" / "html" / f"{doc}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PAGE.format(doc=doc, title=title, body=body), encoding="utf8")


def site(root: Path) -> Path:
    return root / "_build" / "html"


def printed(root: Path, chromium: Browser) -> PdfReader:
    target = root / "small.pdf"
    pdf.build(root, site(root), target, chromium)
    return PdfReader(target)


def flat(outline: list, depth: int = 0) -> list[tuple[int, str, object]]:
    found = []
    for item in outline:
        if isinstance(item, list):
            found += flat(item, depth + 1)
        else:
            found.append((depth, item.title, item))
    return found


def test_the_joined_page(root: Path) -> None:
    page = BeautifulSoup(pdf.joined(root, site(root)), "html.parser")
    links = {a.get_text(): a["href"] for a in page.select(".chapter a[href]")}
    assert links["there"] == "#02-beta--there" and links["above"] == "#01-alpha--first"
    assert links["all of beta"] == "#02-beta--top"
    assert links["the API"] == "https://example.org/site/book/api.html#f"
    assert links["a file"] == "https://example.org/site/chapters/alpha.py"
    assert page.select_one("path")["marker-end"] == "url(#01-alpha--m)"
    assert page.find(id="01-alpha--m") and not page.select("input, button, .headerlink")
    assert [d.has_attr("open") for d in page.select("details")] == [True, True]
    names = [tag["id"] for tag in page.find_all(id=True)]
    assert len(set(names)) == len(names)
    assert page.select_one("link")["href"] == "_static/s.css"
    assert len(page.select("link[rel=stylesheet]")) == 1


def test_the_contents_have_parts_pages_and_sections(root: Path) -> None:
    page = BeautifulSoup(pdf.joined(root, site(root)), "html.parser")
    lines = [(p["class"], p.get_text()) for p in page.select(".contents p")]
    assert lines == [
        (["page"], "A small book"),
        (["part"], "Part one"),
        (["page"], '01 · The "alpha"'), (["section"], "A first x"),
        (["page"], "02 · Beta"), (["section"], "There"),
        (["page"], "Solutions"),
    ]  # fmt: skip


def test_solutions_stand_at_the_end(root: Path) -> None:
    page = BeautifulSoup(pdf.joined(root, site(root)), "html.parser")
    end = page.find(id="solutions--top")
    assert end.pre.get_text() == "the_answer = 42" and "Add" in end.get_text()
    alpha = page.find(id="01-alpha--top")
    assert "the_answer" not in alpha.get_text() and "Solution, page" in alpha.get_text()
    there = alpha.select_one("a[href^='#solution-']")["href"][1:]
    back = end.a["href"][1:]
    assert end.find(id=there) and alpha.find(id=back)


def test_a_page_that_is_not_rendered_is_named(root: Path) -> None:
    (site(root) / "chapters" / "02-beta.html").unlink()
    with pytest.raises(pdf.Broken, match="chapters/02-beta: not rendered"):
        pdf.joined(root, site(root))


def test_the_printed_book(root: Path, chromium: Browser) -> None:
    reader = printed(root, chromium)
    pages = [page.extract_text() for page in reader.pages]
    assert "A small book" in pages[0] and "Its authors" in pages[0]
    on = {
        word: next(n for n, text in enumerate(pages, 1) if n > 2 and word in text)
        for word in ("Words before", "Folded words", "Beta words", "the_answer")
    }
    assert list(on.values()) == sorted(set(on.values()))  # every page begins its own sheet
    contents = " ".join(pages[1].split())
    for line, word in (
        ("Beta", "Beta words"),
        ("There", "Beta words"),
        ("Solutions", "the_answer"),
    ):
        assert f"{line} {on[word]}" in contents
    assert f"Solution, page {on['the_answer']}" in " ".join(pages[on["Folded words"] - 1].split())
    for number, text in enumerate(pages[1:], 2):
        assert re.search(rf"\b{number}\b", text) and "Linear Time" in text
    assert all('01 · The "alpha"' in pages[n - 1] for n in (on["Folded words"],))
    assert "02 · Beta" in pages[on["Beta words"]]  # the running head of its second sheet
    outline = flat(reader.outline)
    assert [(depth, title) for depth, title, _ in outline] == [
        (0, "A small book"), (0, '01 · The "alpha"'), (1, "A first x"),
        (0, "02 · Beta"), (1, "There"), (0, "Solutions"),
    ]  # fmt: skip
    places = [reader.get_destination_page_number(item) + 1 for _, _, item in outline]
    assert places[3] == places[4] == on["Beta words"] and places[5] == on["the_answer"]
    assert reader.metadata.title == "A small book"
    assert not (site(root) / "_print.html").exists()


def test_code_and_figures_stay_within_the_page(root: Path, chromium: Browser) -> None:
    long = "<pre>" + "x" * 400 + "</pre><p>End of it.</p>"
    write(root, "chapters/02-beta", "02 · Beta", THERE + long)
    text = "".join(page.extract_text() for page in printed(root, chromium).pages)
    assert text.count("x") >= 400 and "End of it." in text


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (r"<p>Here \(x^2\) is raw.</p>", "is raw"),
        ("<p>A {ref}`label` is left.</p>", "is left"),
        ("<p>:::{note}</p>", ":::{note}"),
        ('<p><a href="#nowhere">x</a></p>', "#02-beta--nowhere: no such place"),
        ('<p style="width: 900px; background: red">wide</p>', "wide"),
    ],
)
def test_what_a_reader_would_stumble_over_is_told(
    root: Path, chromium: Browser, body: str, told: str
) -> None:
    write(root, "chapters/02-beta", "02 · Beta", THERE + body)
    with pytest.raises(pdf.Broken, match=re.escape(told)) as told_all:
        printed(root, chromium)
    assert ("no such place" in str(told_all.value)) == ("no such place" in told)


def test_markup_in_code_is_no_fault(root: Path, chromium: Browser) -> None:
    write(root, "chapters/02-beta", "02 · Beta", THERE + CODE)
    assert len(printed(root, chromium).pages) >= 4
