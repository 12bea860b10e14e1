"""The rendered site, read in a real browser: offline, wide and narrow, light and dark.

Needs `make book` first. Every check lists all that it found wrong on all pages, not the first
thing alone.
"""

import functools
import http.server
import json
import os
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from xml.etree import ElementTree

import pytest
import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, BrowserContext, Page

from book import CHAPTERS, ROOT
from drawn import check_interactive, faults, pictures

HTML = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf8"))
PAGES = sorted(
    p.relative_to(HTML).as_posix()
    for folder in ("book", "chapters")
    for p in (HTML / folder).rglob("*.html")
)
WIDTHS = (1280, 360)
SCHEMES = ("light", "dark")
pytestmark = [
    pytest.mark.site,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

# What a page is asked once. Code is left out: it may show markup.
WORDS = r"""
() => {
  const article = document.querySelector('article.bd-article') || document.body;
  const prose = article.cloneNode(true);
  prose.querySelectorAll('pre, code, script, style, math, .headerlink')
    .forEach(e => e.remove());
  const text = prose.textContent;
  const raw = [/\\[\(\)\[\]]/, /\$\$/, /\$[\\\w][^$\n]{0,60}\$/,
               /\\(begin|frac|bar|eqref|ref|cite)\b/,
               /\{(exercise|solution|figure|note|math)[}-]/, /`{3}/, /^\s*:{3,}/m,
               /\{(eq|ref|cite(:\w+)?|numref|doc|prf:ref)\}/]
    .map(r => text.match(r)).filter(Boolean)
    .map(m => text.slice(Math.max(0, m.index - 20), m.index + 40));
  return {
    raw,
    equations: article.querySelectorAll('.math').length,
    drawn: article.querySelectorAll('.math math').length,
    broken: [...document.querySelectorAll('.math > code, .math merror')]
      .map(e => e.textContent.slice(0, 80)),
    alts: [...article.querySelectorAll('img')].map(e => [e.alt, e.getAttribute('src') || ''])
      .filter(([alt]) => !/\S\s+\S/.test(alt) || /\.(png|jpe?g|svg|gif)$/i.test(alt)),
    leads: Object.fromEntries(['left-prev', 'right-next'].map(which => [which,
      document.querySelector(`.prev-next-area a.${which}`)?.getAttribute('href') ?? null])),
  };
}
"""
# In each scheme and at each width.
STATE = """
() => {
  const page = document.documentElement;
  const seen = [...(document.querySelector('article.bd-article') || document.body)
    .querySelectorAll('img')].filter(e => e.getClientRects().length > 0);
  return {
    theme: page.dataset.theme,
    overflow: page.scrollWidth - page.clientWidth,
    size: [page.scrollWidth, page.scrollHeight, seen.length],
    empty: seen.filter(e => e.complete && !e.naturalWidth).map(e => e.getAttribute('src') || ''),
  };
}
"""
# At each width: a scheme changes no place.
PLACES = """
() => {
  const article = document.querySelector('article.bd-article') || document.body;
  const page = document.documentElement;
  const wide = [...article.querySelectorAll('*')].filter(e => {
    const box = e.getBoundingClientRect();
    if (box.right <= page.clientWidth + 1) return false;
    for (let p = e.parentElement; p && p !== page; p = p.parentElement)
      if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
    return true;
  });
  return {
    wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 120)),
    clipped: [...article.querySelectorAll('.highlight pre')]
      .filter(e => e.getClientRects().length > 0 && e.scrollWidth > e.clientWidth + 1)
      .map(e => e.textContent.trim().slice(0, 60)),
  };
}
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The site served from _build/html on this machine."""
    if not PAGES:
        pytest.fail("the book is not rendered: run `make book` first")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(HTML))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def reader(chromium: Browser) -> Iterator[BrowserContext]:
    """One window for many checks: it fetches and compiles once what all pages have."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    yield context
    context.close()


@pytest.fixture
def page(reader: BrowserContext) -> Iterator[Page]:
    """A page of its own, that keeps nothing of what another check chose or was allowed."""
    page = reader.new_page()
    yield page
    page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    page.close()
    reader.clear_permissions()


def settle(page: Page) -> None:
    """Wait until the fonts are there."""
    page.evaluate("() => document.fonts.ready.then(() => null)")


@pytest.fixture(scope="module")
def visits(chromium: Browser, address: str) -> dict[str, dict[tuple, Any]]:
    """What a reader meets on each page, at each width, in each colour scheme.

    A page is opened wide in one scheme, every other page in the dark one, then turned to the other,
    and then made narrow.
    """
    found: dict[str, dict[tuple, Any]] = defaultdict(dict)
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    trouble: list[str] = []
    elsewhere: list[str] = []
    page.on(
        "console",
        lambda m, t=trouble: (
            t.append(f"{m.text} ({m.location['url']})") if m.type == "error" else None
        ),
    )
    page.on("pageerror", lambda error, t=trouble: t.append(str(error)))
    page.on("requestfailed", lambda r, t=trouble: t.append(f"request failed: {r.url}"))
    page.on(
        "request",
        lambda r, e=elsewhere: (
            e.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None
        ),
    )

    def ask(script: str, *where: Any) -> None:
        for key, value in page.evaluate(script).items():
            found[key][where] = value

    for turn, name in enumerate(PAGES):
        first, second = SCHEMES[:: -1 if turn % 2 else 1]
        page.set_viewport_size({"width": WIDTHS[0], "height": 900})
        page.emulate_media(color_scheme=first)
        trouble.clear()
        elsewhere.clear()
        page.goto(address + name)
        settle(page)
        ask(WORDS, name)
        for width, scheme in ((WIDTHS[0], first), (WIDTHS[0], second), (WIDTHS[1], second)):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            page.evaluate(
                "() => new Promise(done => requestAnimationFrame("
                "() => requestAnimationFrame(() => done())))"
            )
            ask(STATE, name, width, scheme)
            if (name, width) not in found["faults"]:
                ask(PLACES, name, width)
                found["faults"][name, width] = faults(page)
        found["trouble"][name,], found["elsewhere"][name,] = list(trouble), list(elsewhere)
    context.close()
    return found


def wrong(visits: dict, key: str) -> dict:
    return {where: seen for where, seen in visits[key].items() if seen}


def test_the_book_is_whole() -> None:
    rendered = {Path(name).stem for name in PAGES}
    assert {path.stem for path in CHAPTERS} <= rendered


def test_no_request_leaves_for_another_host(visits: dict) -> None:
    assert wrong(visits, "elsewhere") == {}


def test_no_console_error(visits: dict) -> None:
    assert wrong(visits, "trouble") == {}


def test_every_equation_is_drawn(visits: dict) -> None:
    assert wrong(visits, "broken") == {}
    missing = {
        where: (drawn, visits["equations"][where])
        for where, drawn in visits["drawn"].items()
        if drawn < visits["equations"][where]
    }
    assert missing == {}


def test_no_raw_markup(visits: dict) -> None:
    assert wrong(visits, "raw") == {}


def test_no_page_is_wider_than_its_window(visits: dict) -> None:
    overflowing = {
        where: (beyond, visits["wide"][where[:2]])
        for where, beyond in visits["overflow"].items()
        if beyond > 0
    }
    assert overflowing == {}
    assert wrong(visits, "wide") == {}


def test_a_scheme_changes_no_place(visits: dict) -> None:
    sizes = defaultdict(list)
    for (name, width, _), size in visits["size"].items():
        sizes[name, width].append(size)
    assert {where: seen for where, seen in sizes.items() if seen[0] != seen[-1]} == {}


def test_code_fits_a_wide_page(visits: dict) -> None:
    clipped = wrong(visits, "clipped")
    assert {where: seen for where, seen in clipped.items() if where[1] == 1280} == {}


def test_every_image_has_a_sentence_beside_it(visits: dict) -> None:
    assert wrong(visits, "alts") == {}
    assert wrong(visits, "empty") == {}


def test_drawings_are_legible(visits: dict) -> None:
    assert wrong(visits, "faults") == {}


def test_the_page_follows_the_reader_s_scheme(visits: dict) -> None:
    assert {where for where, theme in visits["theme"].items() if theme != where[2]} == set()


class Links(HTMLParser):
    """Where a page leads, which places it has, and its headings' levels.

    No tree is made of it, which takes seconds.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str | None] = set()
        self.ids: Counter[str] = Counter()
        self.levels: list[int] = []
        self.feed(path.read_text(encoding="utf8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors.add(given.get("id") or given.get("name"))
        if given.get("id"):
            self.ids[given["id"] or ""] += 1
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        if tag in ("a", "link", "img", "script"):
            self.targets.append(given.get("href") or given.get("src") or "")


@functools.cache
def links_of(path: Path) -> Links:
    """Those of a page of the site, which two tests ask for."""
    return Links(path)


def test_links_of_a_page_are_read(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text(
        '<a href="b.html#c&amp;d">x</a><p id="e"><img src="f.png"/><a name="g">&lt;h id="i"></a>'
        '<script>"<a href=j>"</script><div href="k">',
        encoding="utf8",
    )
    read = Links(page)
    assert read.targets == ["b.html#c&d", "f.png", "", ""] and read.anchors == {None, "e", "g"}


def test_ids_and_headings_of_a_page_are_read(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text(
        '<h1 id="a">A</h1><p id="b"><a name="b">x</a><h2>B</h2><h4>C</h4><i id="a"><hr><head>',
        encoding="utf8",
    )
    read = Links(page)
    assert read.ids == {"a": 2, "b": 1} and read.levels == [1, 2, 4]
    assert wrong_outline(read) == ["the id a 2 times", "h4 after h2"]


def wrong_outline(page: Links) -> list[str]:
    """Ids that two elements have, and headings that skip a level."""
    twice = [f"the id {name} {n} times" for name, n in page.ids.items() if n > 1]
    steps = zip([0, *page.levels], page.levels, strict=False)
    return twice + [f"h{after} after h{before}" for before, after in steps if after > before + 1]


def test_no_id_is_twice_in_a_page_and_no_heading_skips_a_level() -> None:
    wrong = {name: wrong_outline(links_of(HTML / name)) for name in PAGES}
    assert {name: said for name, said in wrong.items() if said} == {}


def test_no_internal_link_is_broken() -> None:
    paths = [path for path in HTML.rglob("*.html") if "_static" not in path.parts]
    found = {path: links_of(path) for path in paths}
    anchors = {path: links.anchors for path, links in found.items()}
    broken = []
    for path, links in found.items():
        for target in links.targets:
            if not target or target == "#" or urlsplit(target).scheme or target.startswith("//"):
                continue
            url, fragment = urldefrag(target)
            file = (
                Path(os.path.normpath(path.parent / unquote(urlsplit(url).path))) if url else path
            )
            if not file.is_file():
                broken.append(f"{path.relative_to(HTML)} -> {target}: no such file")
            elif fragment and file in anchors and unquote(fragment) not in anchors[file]:
                broken.append(f"{path.relative_to(HTML)} -> {target}: no such anchor")
    assert broken == []


def test_a_root_has_its_sign(page: Page, address: str) -> None:
    """A sign that the font lacks is left out in silence, and the root with it."""
    page.goto(address + "chapters/20-duality.html")
    page.evaluate("document.fonts.ready")
    widths = page.evaluate(
        """() => [...document.querySelectorAll("msqrt")].filter(m => m.checkVisibility()).map(
        m => m.firstElementChild.getBoundingClientRect().left - m.getBoundingClientRect().left)"""
    )
    assert len(widths) > 2 and min(widths) > 3


def test_a_bar_stands_free_of_its_letter(page: Page, address: str) -> None:
    page.goto(address + "chapters/12-discretization.html")
    bar = page.locator('mover[accent="true"] > :last-child').first
    assert float(bar.evaluate("e => parseFloat(getComputedStyle(e).paddingBottom)")) > 1


def test_a_slanted_letter_is_not_cut_off(page: Page, address: str) -> None:
    """Its bow reaches beyond its width, by a seventh of its size, and its box hides what does."""
    page.goto(address + "chapters/20-duality.html")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        letter = page.locator("span.math:visible", has_text="P").first
        room = letter.evaluate(
            "e => parseFloat(getComputedStyle(e).paddingRight)"
            " / parseFloat(getComputedStyle(e).fontSize)"
        )
        assert room >= 0.15


def test_a_formula_in_a_table_is_whole(page: Page, address: str) -> None:
    """It makes its column as wide as it is: cut off at the column's edge, it lost its bracket."""
    page.goto(address + "chapters/12-discretization.html")
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        beyond = page.evaluate(
            """() => [...document.querySelectorAll("td span.math, th span.math")].map(box => {
            const formula = box.querySelector("math").getBoundingClientRect();
            return [box, box.closest("td, th")].map(
              around => formula.right - around.getBoundingClientRect().right); }).flat()"""
        )
        assert len(beyond) > 20 and max(beyond) < 1


def test_search_finds_a_word(page: Page, address: str) -> None:
    page.goto(address + "search.html?q=bilinear")
    # The results come one by one: the first is not the last.
    hit = page.locator("#search-results li a[href*='chapters/12-discretization']").first
    hit.wait_for()
    assert "12 · Discretization" in hit.inner_text()


def test_dark_mode_is_switched_and_kept(page: Page, address: str) -> None:
    page.goto(address + PAGES[0])
    theme = "() => document.documentElement.dataset.theme"
    seen = set()
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").first.click()
        seen.add(page.evaluate(theme))
    assert seen == {"light", "dark"}
    while page.evaluate("() => document.documentElement.dataset.mode") != "dark":
        page.locator("button.theme-switch-button:visible").first.click()
    page.goto(address + PAGES[-1])
    assert page.evaluate(theme) == "dark"


def test_plots_are_turned_round_on_a_dark_page(chromium: Browser, address: str) -> None:
    context = chromium.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(address + "chapters/12-discretization.html")
    filters = page.locator(".cell:not(.tag_photo) .cell_output img").evaluate_all(
        "images => images.map(e => getComputedStyle(e).filter)"
    )
    context.close()
    assert filters and all("invert" in value for value in filters)


@pytest.fixture(scope="module", params=CHAPTERS, ids=lambda path: path.stem)
def chapter(request: pytest.FixtureRequest) -> Path:
    """Each chapter, for all of these checks before the next one's page is opened."""
    return request.param


@pytest.fixture(scope="module")
def opened(reader: BrowserContext, address: str, chapter: Path) -> Iterator[Page]:
    """The chapter's page, opened once: the first check sees it untouched, the last opens folds."""
    page = reader.new_page()
    page.goto(f"{address}chapters/{chapter.stem}.html")
    yield page
    page.close()


def test_layers_are_those_of_the_tags(opened: Page, chapter: Path) -> None:
    """Set-up gone, imports one line, detours and answers folded, a form for each prediction."""
    cells = json.loads(chapter.read_text(encoding="utf8"))["cells"]
    tags = [set(cell["metadata"].get("tags", [])) for cell in cells]
    assert opened.locator(".cell.tag_setup").count() == 0
    imports = opened.locator(".cell.tag_imports details")
    assert imports.count() == 1
    assert imports.locator("summary").inner_text().strip() == "What this page imports"
    assert not imports.locator("pre").first.is_visible()
    before = [set(), *tags[:-1]]
    expected = {
        "details.lt-detour": sum("detour" in given for given in tags),
        "details.lt-answer": sum(
            "answer" in given and "answer" not in last
            for given, last in zip(tags, before, strict=True)
        ),
        "details.lt-rubric": sum("rubric" in given for given in tags),
        "form.lt-predict": sum("predict" in given for given in tags),
    }
    assert {what: opened.locator(what).count() for what in expected} == expected
    assert opened.locator("details.lt-fold[open], details.lt-full[open]").count() == 0
    # A fold that is closed before what it is to hide has nothing but its summary.
    assert opened.locator("details:not(:has(> :not(summary)))").count() == 0


def test_interactive_figures_of_a_chapter(opened: Page, chapter: Path) -> None:
    for figure in interactive(f"chapters/{chapter.stem}.html"):
        check_figure(opened, figure)


def test_the_notebook_can_be_downloaded(opened: Page, chapter: Path) -> None:
    opened.locator(".dropdown-download-buttons > button").click()
    with opened.expect_download() as download:
        opened.locator(".btn-download-source-button").click()
    served = json.loads(Path(download.value.path()).read_text(encoding="utf8"))
    assert served == json.loads(chapter.read_text(encoding="utf8"))


# Of every solution: whether its code is seen, a pointer on its summary would meet it, and whether
# the code is seen after a click. The page moves once a solution, and is not asked by the driver,
# which waits for two frames of a long page each time.
CLICKS = """
() => {
  document.querySelectorAll('details.lt-detour').forEach((fold) => { fold.open = true; });
  return [...document.querySelectorAll('.cell.tag_solution details')].map((fold) => {
    const summary = fold.querySelector('summary'), code = fold.querySelector('pre');
    const seen = () => code.checkVisibility({visibilityProperty: true})
      && code.getBoundingClientRect().height > 0;
    const before = seen();
    summary.scrollIntoView({block: 'center', behavior: 'instant'});
    const box = summary.getBoundingClientRect();
    const met = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    if (summary.contains(met)) met.click();
    return [before, summary.contains(met), seen()];
  });
}
"""


def test_solutions_are_folded_and_open_on_a_click(opened: Page, chapter: Path) -> None:
    cells = json.loads(chapter.read_text(encoding="utf8"))["cells"]
    expected = sum("solution" in cell["metadata"].get("tags", []) for cell in cells)
    assert opened.evaluate(CLICKS) == expected * [[False, True, True]]


def test_previous_and_next_lead_through_the_whole_book(
    page: Page, address: str, visits: dict
) -> None:
    """From where the site opens, by the links that the pages have in a browser."""
    page.goto(address + "index.html")
    page.wait_for_url(re.compile(r"/book/|/chapters/"))
    seen = [urlsplit(page.url).path.lstrip("/")]

    def leads(name: str, which: str) -> str | None:
        target = visits["leads"][name,][which]
        return target and urlsplit(urljoin(address + name, target)).path.lstrip("/")

    while following := leads(seen[-1], "right-next"):
        assert leads(following, "left-prev") == seen[-1]
        seen.append(following)
        assert len(seen) <= len(PAGES)
    assert leads(seen[0], "left-prev") is None
    assert sorted(seen) == PAGES


def test_code_has_a_copy_button(page: Page, address: str) -> None:
    page.goto(address + "chapters/12-discretization.html")
    cell = page.locator(".cell_input .highlight:visible").first
    cell.hover()
    assert cell.locator("button.copybtn").count() == 1


def test_sitemap_lists_every_page() -> None:
    places = [
        place.text
        for place in ElementTree.parse(HTML / "sitemap.xml").iter()
        if place.tag.endswith("loc")
    ]
    assert not [name for name in PAGES if not any(place.endswith("/" + name) for place in places)]


@pytest.mark.parametrize("name", PAGES)
def test_head_of_a_page(name: str) -> None:
    text, end, _ = (HTML / name).read_text(encoding="utf8").partition("</head>")
    head = BeautifulSoup(text + end, "html.parser").head
    tags = {tag["property"]: tag["content"] for tag in head.find_all("meta", property=True)}
    assert {"og:title", "og:type", "og:url", "og:site_name", "og:description"} <= set(tags)
    assert tags["og:site_name"] == CONFIG["title"]
    assert tags["og:url"].endswith("/" + name)
    assert head.find("link", rel="icon") and head.find("link", rel="canonical")


def test_buttons_follow_from_the_repository() -> None:
    repository = CONFIG["repository"]
    slug = urlsplit(repository["url"]).path.strip("/")
    for chapter in CHAPTERS:
        text = (HTML / "chapters" / f"{chapter.stem}.html").read_text(encoding="utf8")
        soup = BeautifulSoup(text.partition("<article")[0], "html.parser")
        links = {tag["href"] for tag in soup.select(".bd-header-article a[href]")}
        place = f"{repository['branch']}/chapters/{chapter.name}"
        assert f"https://colab.research.google.com/github/{slug}/blob/{place}" in links
        assert any(
            link.startswith(f"https://mybinder.org/v2/gh/{slug}/{repository['branch']}?")
            for link in links
        )
        assert f"{repository['url']}/edit/{place}" in links
        assert any(link.startswith(f"{repository['url']}/issues/new") for link in links)


# Interactive figures: what a function of linear_time.pictures of the same name makes.
EXPLORERS = pictures("_explorer")


def interactive(name: str) -> list[str]:
    text = (HTML / name).read_text(encoding="utf8")
    return re.findall(r'\bdata-interactive="([^"]+)"', text)


def check_figure(page: Page, figure: str) -> None:
    where = urlsplit(page.url).path
    assert figure in EXPLORERS, f"{where}: linear_time.pictures makes no {figure!r}"
    check_interactive(page, f'[data-interactive="{figure}"]', EXPLORERS[figure]())


@pytest.mark.parametrize(
    "name", [name for name in PAGES if not name.startswith("chapters/") and interactive(name)]
)
def test_interactive_figures_of_another_page(page: Page, address: str, name: str) -> None:
    page.goto(address + name)
    for figure in interactive(name):
        check_figure(page, figure)
