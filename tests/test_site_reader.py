"""A reader's tools on the rendered site: results, terms, symbols, status, cards, search in folds.

Needs `make book` first, as `test_site.py` does, whose fixtures these checks use.
"""

import functools
import json
import re
import struct
from pathlib import Path
from urllib.parse import unquote

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page
from pypdf import PdfReader

from book import CHAPTERS
from test_site import HTML, PAGES, address, page, reader

__all__ = ["address", "page", "reader"]  # fixtures
pytestmark = [pytest.mark.site, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@functools.cache
def read(name: str) -> BeautifulSoup:
    return BeautifulSoup((HTML / name).read_text(encoding="utf8"), "html.parser")


def test_every_result_is_listed_and_leads_to_its_cell() -> None:
    stated = sum(
        len(re.findall(r'"\s*# result:', path.read_text(encoding="utf8"))) for path in CHAPTERS
    )
    links = read("book/results.html").select(".lt-results a")
    assert len(links) == stated >= 60
    pages = {path.stem: read(f"chapters/{path.stem}.html") for path in CHAPTERS}
    for link in links:
        stem, anchor = re.fullmatch(r"\.\./chapters/(.*)\.html#(.*)", link["href"]).groups()
        cell = pages[stem].find(id=anchor)
        assert cell is not None, link["href"]
        cell = cell.find_parent(class_="cell") or cell  # of a cell with two, the second's name
        words = " ".join(cell.get_text().replace("#  ", "").replace("'", "’").split())
        assert f"# result: {link.get_text()[:25]}" in words, link["href"]


def test_symbols_lead_to_formulas() -> None:
    """Of each table that names its chapters, nearly all; a symbol may stand in code alone."""
    notation = read("book/notation.html")
    cells = notation.select("tbody td:first-child")
    drawn = [math for cell in cells for math in cell.select(".math, math")]
    symbols = sum(not math.find_parent(class_="math") for math in drawn)
    assert len(notation.select("tbody td:first-child a.lt-symbol")) > 0.9 * symbols > 200


def test_terms_are_explained_once_a_page() -> None:
    glossary = read("book/glossary.html")
    anchors = {term["id"] for term in glossary.select("dt[id^=term-]")}
    assert len(anchors) >= 60 and not glossary.select("a.lt-term")
    for path in CHAPTERS:
        terms = read(f"chapters/{path.stem}.html").select("a.lt-term")
        leads = [unquote(term["href"].partition("#")[2]) for term in terms]
        assert len(set(leads)) == len(leads) > 2 and set(leads) <= anchors
        assert all(len(term["title"]) > 20 for term in terms)


def test_the_status_tells_of_every_chapter() -> None:
    rows = read("book/status.html").select("article tbody tr")
    assert len(rows) == len(CHAPTERS) + 1
    for path, row in zip(CHAPTERS, rows, strict=False):
        cells = [cell.get_text(" ", strip=True) for cell in row.select("td")]
        cell_of = json.loads(path.read_text(encoding="utf8"))["cells"]
        assert cells[0].startswith(path.stem[:2]) and re.fullmatch(r"\d+ \w+ \d{4}", cells[1])
        assert int(cells[2]) > 0 and 10 < int(cells[3]) <= len(cell_of)
        assert int(cells[4]) > 10 and int(cells[6]) >= 4


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_a_card_and_a_foot(name: str) -> None:
    text = (HTML / name).read_text(encoding="utf8")
    (foot,) = re.findall(r'<p class="lt-page-foot">.*?</p>', text, re.DOTALL)
    head, end, _ = text.partition("</head>")
    page = BeautifulSoup(head + end + foot, "html.parser")  # not all of it, which takes a second
    stem = Path(name).stem
    card = HTML / "_static" / "cards" / f"{stem}.png"
    assert page.find("meta", property="og:image")["content"].endswith(f"/_static/cards/{stem}.png")
    assert struct.unpack(">II", card.read_bytes()[16:24]) == (1200, 630)
    report = page.select_one(".lt-page-foot a")["href"]
    assert "/issues/new?title=Mistake" in report and name.removesuffix(".html") in unquote(report)


def test_the_citation_can_be_copied(page: Page, address: str) -> None:
    page.goto(address + "book/cite.html")
    entry = page.locator("div.highlight").first
    assert "@software" in entry.inner_text()
    entry.hover()
    assert entry.locator("button.copybtn").count() == 1


def test_search_takes_the_reader_into_a_fold(page: Page, address: str) -> None:
    """A word that stands in a detour of chapter 12 and nowhere outside of folds there."""
    page.goto(address + "search.html?q=dlsim")
    hit = page.locator("#search-results li a[href*='chapters/12-discretization']").first
    hit.wait_for()
    hit.click()
    page.wait_for_url(re.compile("chapters/12-discretization"))
    mark = page.locator("mark.lt-found")
    mark.wait_for()
    assert mark.is_visible() and mark.inner_text().lower() == "dlsim"


def test_a_definition_shows_on_a_page(page: Page, address: str) -> None:
    page.goto(address + "chapters/12-discretization.html")
    term = page.locator("a.lt-term:visible").first
    term.hover()
    assert page.locator("#lt-definition").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#lt-definition").is_visible()


COPIED = """
(selector) => {
  const range = document.createRange();
  range.selectNodeContents(document.querySelector(selector));
  getSelection().removeAllRanges();
  getSelection().addRange(range);
}
"""


def test_an_equation_is_copied_as_tex(page: Page, address: str) -> None:
    """In a sentence, alone with its number, and where a part of it was marked."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(address + "chapters/12-discretization.html")
    for selector, begin, has, lacks in (
        ("article p:has(math)", "There is no gate in the equation $h' = -h + x$.", "", "′"),
        ("div.math:has(> .eqno)", r"$$\begin{aligned}", r"\end{aligned}$$ (12.1)", "#"),
        ("div.math mtd", r"$$\begin{aligned}", r"\end{aligned}$$", "12.1"),
        ("article h2", "What goes in", "", "$"),
    ):
        page.evaluate(COPIED, selector)
        page.keyboard.press("Control+c")
        text = page.evaluate("() => navigator.clipboard.readText()")
        assert text.startswith(begin) and has in text and lacks not in text, text


def test_an_equation_is_read_aloud(page: Page, address: str) -> None:
    """Its parts are in the accessibility tree, its TeX, which would be read twice, is not."""
    page.goto(address + "chapters/12-discretization.html")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    seen = [node for node in tree if not node["ignored"]]
    roles = [node["role"]["value"] for node in seen]
    drawn = page.locator("math:visible").count()
    assert roles.count("MathMLMath") >= drawn > 100
    assert {"MathMLFraction", "MathMLSub", "MathMLSup", "MathMLTable"} <= set(roles)
    said = " ".join(str(node.get("name", {}).get("value", "")) for node in seen)
    assert "\\bar" not in said and "\\begin" not in said


def test_a_chapter_is_printed_from_its_page(chromium: Browser, address: str, tmp_path) -> None:
    """Folds open, nothing that is of the screen, and light where the screen is dark."""
    context = chromium.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(address + "chapters/12-discretization.html")
    page.pdf(path=str(tmp_path / "one.pdf"), format="A4")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 700, "height": 900})
    cut = page.evaluate(
        """() => [...document.querySelectorAll('article :is(pre, .equation, img, svg)')].filter(
        e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 2 && e.clientWidth
        && getComputedStyle(e).overflowX !== 'visible').map(e => e.outerHTML.slice(0, 90))"""
    )
    context.close()
    sheets = [sheet.extract_text() for sheet in PdfReader(tmp_path / "one.pdf").pages]
    text = "\n".join(sheets)
    assert cut == [] and 10 < len(sheets) < 40
    assert "dlsim" in text  # of a detour
    for screen in ("Report a mistake", "Commit", "Part IV", "Reveal what was measured"):
        assert screen not in text, screen
