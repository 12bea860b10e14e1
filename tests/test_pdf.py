"""The book as PDF, on a small site: contents, outline, heads, solutions, and what is refused."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pikepdf
import pypdf
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


# --- step by step, without a browser


def test_the_pages_in_the_order_of_the_contents(root: Path) -> None:
    listed = pdf.contents(root, site(root))
    assert listed == [
        (None, "book/preface"), ("Part one", "chapters/01-alpha"), (None, "chapters/02-beta")
    ]  # fmt: skip
    toc = {"root": "book/preface", "chapters": [{"file": "chapters/02-beta"}, {"file": "gone"}]}
    (root / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf8")
    with pytest.raises(pdf.Broken, match=r"^gone: not rendered in .*; run `make book` first$"):
        pdf.contents(root, site(root))
    toc["chapters"].pop()
    (root / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf8")
    assert pdf.contents(root, site(root)) == [(None, "book/preface"), (None, "chapters/02-beta")]
    (root / "_toc.yml").write_text(yaml.safe_dump({"root": "book/preface"}), encoding="utf8")
    assert pdf.contents(root, site(root)) == [(None, "book/preface")]


BODY = """<section id="a"><script>x</script><a class="headerlink">#</a>
<button class="copybtn">c</button><div class="toctree-wrapper">t</div>
<div class="lt-explorer"><label>l</label><input><button>b</button><p>figure</p></div>
<label for="a" id="l">kept</label><p aria-labelledby="a" aria-describedby="#a">p</p>
<svg><use xlink:href="#a"></use><use xlink:href="other.svg"></use>
<path marker-end="url(#m)" fill="red"/></svg>
<img src="../_images/a%20b.png?v=1" srcset="x" loading="lazy"><img src="data:x" srcset="kept">
<a href="#">top</a><a href="#b">own</a><a href="mailto:x">mail</a><a>none</a><a href="">no</a>
<a href="../book/preface.html#there">far</a><a href="../x.zip?y">file</a>
</section>"""


def test_names_and_links_of_a_page_lead_to_where_they_are_now(root: Path) -> None:
    write(root, "chapters/01-alpha", "A  <em>b</em>", BODY)
    page = pdf.Page(site(root), "chapters/01-alpha", ["chapters/01-alpha", "book/preface"])
    assert page.title == "A b" and page.address == "https://example.org/site/chapters/01-alpha.html"
    article = page.article
    assert not article.select("script, .headerlink, .copybtn, .toctree-wrapper, input, button")
    assert [tag.get_text() for tag in article.select("label, .lt-explorer p")] == ["figure", "kept"]
    label = article.select_one("label")
    assert (label["for"], label["id"]) == ("01-alpha--a", "01-alpha--l")
    said = article.select_one("p[aria-labelledby]")
    assert said["aria-labelledby"] == "01-alpha--a" and said["aria-describedby"] == "#01-alpha--a"
    assert [use["xlink:href"] for use in article.select("use")] == ["#01-alpha--a", "other.svg"]
    path = article.path
    assert (path["marker-end"], path["fill"]) == ("url(#01-alpha--m)", "red")
    first, second = article.select("img")
    assert first.attrs == {"src": "_images/a b.png"}
    assert second.attrs == {"src": "data:x", "srcset": "kept"}
    links = {a.get_text(): a.get("href") for a in article.select("a")}
    assert links == {
        "top": "#01-alpha--top", "own": "#01-alpha--b", "mail": "mailto:x", "none": None, "no": "",
        "far": "#preface--there", "file": "https://example.org/site/x.zip?y",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [("<p>x</p>", "expected an article"), ('<article class="bd-article"></article>', "a title")],
)
def test_a_page_without_its_parts_is_named(root: Path, text: str, says: str) -> None:
    (site(root) / "chapters" / "02-beta.html").write_text(text, encoding="utf8")
    with pytest.raises(pdf.Broken, match=f"^chapters/02-beta: .*{says}"):
        pdf.Page(site(root), "chapters/02-beta", ["chapters/02-beta"])


def test_each_solution_and_its_place_lead_to_one_another(root: Path) -> None:
    cell = '<div class="cell tag_solution"><pre>{}</pre></div>'
    title = '<p class="admonition-title">{}</p>'
    body = cell.format("zero") + title.format("Exercise  12.3 (A &amp; b)") + cell.format("one")
    write(root, "chapters/01-alpha", "Alpha <1", body + cell.format("two"))
    write(root, "chapters/02-beta", "Beta", "<p>none</p>")
    docs = ["chapters/01-alpha", "chapters/02-beta"]
    pages = [pdf.Page(site(root), doc, docs) for doc in docs]
    made = BeautifulSoup(pdf.solutions_to_the_end(pages), "html.parser")
    assert [h.get_text() for h in made.select("h2")] == ["Alpha <1"]
    assert [a.get_text() for a in made.select("a")] == ["", "A & b", "A & b"]
    assert [c.get_text() for c in made.select(".cell")] == ["zero", "one", "two"]
    for n, (link, taken) in enumerate(zip(made.select("a"), made.select(".cell"), strict=True), 1):
        name = f"solution-01-alpha-{n}"
        assert taken["id"] == name and link["href"] == f"#01-alpha--before-{name}"
        here = pages[0].article.find(id=link["href"][1:])
        assert here.a["href"] == f"#{name}" and here.span["data-page"] == name
        assert " ".join(here.get_text().split()) == "Solution, page"
    assert pdf.solutions_to_the_end(pages) == ""


def test_sheets_of_the_pages_are_asked_for_once(root: Path) -> None:
    docs = ["chapters/01-alpha", "chapters/02-beta", "book/preface"]
    text = (site(root) / "chapters" / "02-beta.html").read_text(encoding="utf8")
    more = '<style>a{}</style><link rel="stylesheet" href="https://x.org/a.css"></head>'
    (site(root) / "chapters" / "02-beta.html").write_text(
        text.replace("</head>", more), encoding="utf8"
    )
    made = BeautifulSoup(
        pdf.heads_of([pdf.Page(site(root), doc, docs) for doc in docs]), "html.parser"
    )
    assert [str(tag) for tag in made.find_all(True)] == [
        '<link href="_static/s.css" rel="stylesheet"/>', "<style>a{}</style>",
        '<link href="https://x.org/a.css" rel="stylesheet"/>',
    ]  # fmt: skip
    assert pdf.quoted('a "b" \\ c') == '"a \\"b\\" \\\\ c"'


def test_every_page_has_its_own_head_on_paper(root: Path) -> None:
    (root / "_config.yml").write_text("title: A <book>\nauthor: B & c\n", encoding="utf8")
    text = pdf.joined(root, site(root))
    page = BeautifulSoup(text, "html.parser")
    names = [tag["class"] for tag in page.select("section.chapter")]
    assert names == [["chapter", f"p{n}"] for n in ("preface", "01alpha", "02beta", "solutions")]
    ids = [tag["id"] for tag in page.select("section.chapter")]
    assert ids == ["preface--top", "01-alpha--top", "02-beta--top", "solutions--top"]
    head = '.p01alpha { page: p01alpha; } @page p01alpha { @top-left { content: "01 · The'
    assert head in text and text.index(pdf.STYLE) < text.index(head)
    assert page.title.get_text() == page.select_one(".title h1").get_text() == "A <book>"
    assert page.select_one(".title p").get_text() == "B & c"
    lines = page.select(".contents p:has(a)")
    assert [line.a["href"] for line in lines] == [f"#{line.span['data-page']}" for line in lines]
    assert lines[2].a["href"] == "#01-alpha--first" and text.count(pdf.END) == 1
    assert text.index('id="contents"') < text.index(pdf.END) < text.index('id="preface--top"')
    write(root, "chapters/01-alpha", "Alpha", "<h2>x</h2><section><h2>deep</h2></section>")
    page = BeautifulSoup(pdf.joined(root, site(root)), "html.parser")
    assert [line.get_text() for line in page.select(".contents .section")] == ["There"]
    assert "Solutions" not in page.get_text()


class Sheet:
    """A page of Chromium's that notes what is done to it."""

    def __init__(self, wide: list, missing: list) -> None:
        self.done, self.wide, self.missing = [], wide, missing

    def __getattr__(self, name: str) -> object:
        return lambda *given, **named: self.done.append((name, given, named))

    def evaluate(self, script: str, given: object = None) -> object:
        self.done.append(("evaluate", script, given))
        if script == pdf.FIT:
            return self.wide
        return self.missing if "data-page" in script else None


@pytest.mark.parametrize(
    ("wide", "missing", "says"),
    [([], [], None), (["a b"], ["c"], "a b\nc: on no page"), ([], ["c"], "c: on no page")],
)
def test_the_second_print_knows_the_pages_of_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wide: list, missing: list, says: str | None
) -> None:
    sheet, opened = Sheet(wide, missing), []
    browser = SimpleNamespace(new_page=lambda **given: opened.append(given) or sheet)
    places = {"/a%20b": 0, "c": 4, "/none": None}

    class Reader:
        named_destinations = {name: name for name in places}  # noqa: RUF012

        def __init__(self, path: Path) -> None:
            assert [done[0] for done in sheet.done].count("pdf") == 1

        def get_destination_page_number(self, place: str) -> int | None:
            return places[place]

    monkeypatch.setattr(pypdf, "PdfReader", Reader)
    source, target = tmp_path / "a.html", tmp_path / "a.pdf"
    if says:
        with pytest.raises(pdf.Broken) as told:
            pdf.printed(source, target, browser)
        assert str(told.value) == says
    else:
        assert pdf.printed(source, target, browser) == {"a b": 1, "c": 5}
    assert opened == [{"viewport": {"width": 643, "height": 933}}]
    options = {"prefer_css_page_size": True, "tagged": True, "print_background": True}
    (fit,) = [done for done in sheet.done if done[1] == pdf.FIT]
    written = ("pdf", (), {"path": str(target), **options})
    filled = next(done for done in sheet.done if done[-1] == {"a b": 1, "c": 5})
    assert sheet.done == [
        ("set_default_timeout", (300_000,), {}), ("goto", (source.as_uri(),), {}),
        ("emulate_media", (), {"media": "print", "color_scheme": "light"}),
        ("evaluate", pdf.SETTLE, None), fit, written, filled, written, ("close", (), {}),
    ]  # fmt: skip
    assert fit[2] == 643


def test_the_outline_is_that_of_the_contents(tmp_path: Path) -> None:
    target = tmp_path / "a.pdf"
    with pikepdf.new() as made:
        for _ in range(4):
            made.add_blank_page()
        with made.open_outline() as tree:
            tree.root.append(pikepdf.OutlineItem("Chromium's own", 0))
        made.save(target)
    math = "<math><mi>x</mi><annotation>x^2</annotation></math>"
    page = (
        f'<p class="page"><a href="#no">before</a></p><div class="contents">'
        '<p class="part">Part</p><p class="page"><a href="#a">A\n  page</a></p>'
        f'<p class="section"><a href="#b">of {math}</a></p>'
        f'<p class="page"><a href="#c">C</a></p>{pdf.END}<p class="page"><a href="#no">x</a></p>'
    )
    pdf.outline(target, page, {"a": 1, "b": 2, "c": 4}, "A title", "An author")
    reader = PdfReader(target)
    found = flat(reader.outline)
    assert [(depth, title) for depth, title, _ in found] == [(0, "A page"), (1, "of x"), (0, "C")]
    assert [reader.get_destination_page_number(item) for _, _, item in found] == [0, 1, 3]
    assert reader.trailer["/Root"]["/PageMode"] == "/UseOutlines"
    with pikepdf.open(target) as made, made.open_metadata() as about:
        assert (about["dc:title"], about["dc:creator"]) == ("A title", ["An author"])
        assert made.is_linearized
    assert b"/ObjStm" in target.read_bytes()


@pytest.mark.parametrize(
    ("sheets", "page", "told"),
    [
        (["plain", "see \\(x"], "", ["page 2: 'see \\\\(x'"]),
        (["a" * 30 + "$$" + "b" * 90], "", [f"page 1: {'a' * 20 + '$$' + 'b' * 38!r}"]),
        (["ab $$ cdefg"], "<code>ab $$ other</code>", []),
        (["xy $$ cdefgh"], "<code>$$ cdefg</code>", []),
        (["xy $$ cdefg"], "<code>$$ cdef</code>", ["page 1: 'xy $$ cdefg'"]),
        (["xy $$cdefghij"], "<pre>$$ cde\nfgh</pre>", []),
        (["xy $$cdefghij"], "<pre>$$ cde\nfg</pre>", ["page 1: 'xy $$cdefghij'"]),
        (["wxyz$$ c"], "<code>xyz$$</code>", []),
        (["wxyz$$ c"], "<code>yz$$</code>", ["page 1: 'wxyz$$ c'"]),
        (["a\n  :::: b"], "", ["page 1: 'a\\n  :::: b'"]),
        (["```", "a"], "<code>&#96;&#96;&#96;</code>", []),
        (["a"], '<a href="#x">x</a><a class="y" href="#x">x</a><p id="y">', ["#x: no such place"]),
        (["a"], '<a href="#a%20b">x</a><p id="a b">', []),
        (["a"], '<a href="#a&amp;b">x</a><p id="a&amp;b">', []),
    ],
)
def test_what_a_reader_would_stumble_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sheets: list, page: str, told: list
) -> None:
    pages = [SimpleNamespace(extract_text=lambda text=text: text) for text in sheets]
    monkeypatch.setattr(pypdf, "PdfReader", lambda path: SimpleNamespace(pages=pages))
    assert pdf.faults(tmp_path, page) == told


@pytest.mark.parametrize("stumbling", [[], ["one", "two"]])
def test_a_book_is_printed_read_and_told(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys, stumbling: list
) -> None:
    done, target = [], root / "a.pdf"
    source = site(root) / "_print.html"

    def printed(given: Path, to: Path, browser: str) -> dict:
        done.append((given, to, browser, given.read_text(encoding="utf8")))
        target.write_bytes(bytes(3 * 2**20))
        if browser == "breaks":
            raise pdf.Broken("wide")
        return {"a": 1}

    monkeypatch.setattr(pdf, "joined", lambda *given: "joined")
    monkeypatch.setattr(pdf, "printed", printed)
    monkeypatch.setattr(pdf, "outline", lambda *given: done.append(given))
    monkeypatch.setattr(pdf, "faults", lambda *given: done.append(given) or stumbling)
    monkeypatch.setattr(pypdf, "PdfReader", lambda path: SimpleNamespace(pages=[1] * 7))
    if stumbling:
        with pytest.raises(pdf.Broken, match=r"^one\ntwo$"):
            pdf.build(root, site(root), target, "browser")
    else:
        pdf.build(root, site(root), target, "browser")
        said = rf"{re.escape(str(target))}: 7 pages, 3\.0 MiB, \d+ s\n"
        assert re.fullmatch(said, capsys.readouterr().out)
    assert done == [
        (source, target, "browser", "joined"),
        (target, "joined", {"a": 1}, "A small book", "Its authors"), (target, "joined"),
    ]  # fmt: skip
    with pytest.raises(pdf.Broken, match="wide"):
        pdf.build(root, site(root), target, "breaks")
    assert not source.exists()


@pytest.mark.parametrize(
    ("options", "folder", "name"),
    [
        ((), "html", "linear-time"),
        (("--edition", "without-solutions"), "without-solutions/_build/html",
         "linear-time-without-solutions"),
    ],
)  # fmt: skip
def test_the_command_prints_an_edition(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys, options: tuple, folder: str, name: str
) -> None:
    from playwright import sync_api

    asked, program = [], ["a browser"]

    class Playing:
        def __enter__(self) -> object:
            launch = lambda **given: asked.append(given) or "chrome"  # noqa: E731
            return SimpleNamespace(chromium=SimpleNamespace(launch=launch))

        def __exit__(self, *_: object) -> bool:
            return False

    monkeypatch.setattr(sync_api, "sync_playwright", Playing)
    monkeypatch.setitem(sys.modules, "browser", SimpleNamespace(find=lambda: program[0]))
    monkeypatch.setattr(sys, "argv", ["pdf.py", "--root", str(root), *options])
    monkeypatch.setattr(pdf, "build", lambda *given: asked.append(given))
    assert pdf.main() == 0
    made = root / "_build"
    assert asked == [
        {"executable_path": "a browser", "args": ["--no-sandbox"]},
        (root, made / folder, made / f"{name}.pdf", "chrome"),
    ]  # fmt: skip

    for number in (1, 20, 23):

        def broken(*_: object, number: int = number) -> None:
            raise pdf.Broken("\n".join(f"fault {n}" for n in range(number)))

        monkeypatch.setattr(pdf, "build", broken)
        assert pdf.main() == 1
        said = capsys.readouterr().err.splitlines()
        assert said[0] == "The book was not printed as it should be:"
        assert said[1:21] == [f"fault {n}" for n in range(min(number, 20))]
        assert said[21:] == ["… and 3 more"] * (number == 23)
    program[0] = None
    assert pdf.main() == 1 and "make pdf needs Chromium" in capsys.readouterr().out


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
