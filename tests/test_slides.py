"""The decks: their sources without a browser, and every slide in one, as a lecture shows it."""

import re
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

from book import ROOT, load
from drawn import check_interactive, pictures
from test_site import HTML, address, settle  # noqa: F401

slides = load(ROOT / "book" / "slides.py")
each_deck = pytest.mark.parametrize("deck", slides.decks(), ids=lambda path: path.stem)
CORE = ["05", "07", "08", "11", "12", "13", "16", "17", "18"]

# What stands where it can be read: letters and edges of a slide that leave it, words that meet, a
# picture that is not there, mathematics that was not drawn.
LOOK = r"""
() => {
  const slide = document.querySelector('.slides section.present');
  const wrong = [], says = (e) => (e.textContent.trim() || e.outerHTML).slice(0, 60);
  const W = innerWidth, H = innerHeight, place = (e) => e.getBoundingClientRect();
  const shown = (e) => e.getClientRects().length > 0 && !e.closest('aside');
  const all = [...slide.querySelectorAll('*')].filter(shown);
  for (const e of all) {
    const b = place(e);
    if (b.left < 0 || b.top < 0 || b.right > W + 1 || b.bottom > H - 12)
      wrong.push(`leaves the slide: ${says(e)}`);
  }
  const blocks = all.filter(e => e.matches('p, li, h1, h2, tr, .equation, math[display],'
    + ' .shown > img, .shown svg, .shown > .output, .lt-explorer, .number'));
  blocks.forEach((one, i) => blocks.slice(i + 1).forEach((other) => {
    if (one.contains(other) || other.contains(one)) return;
    const a = place(one), b = place(other);
    if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2)
      wrong.push(`${says(one)} meets ${says(other)}`);
  }));
  for (const e of slide.querySelectorAll('img')) {
    if (!e.complete || !e.naturalWidth) wrong.push(`no picture: ${e.src}`);
    const drawn = Math.min(e.clientWidth / e.naturalWidth, e.clientHeight / e.naturalHeight);
    if (drawn * e.naturalWidth < 420) wrong.push(`too small to see: ${e.alt}`);
    if (!/\S\s+\S/.test(e.alt)) wrong.push(`no sentence: ${e.src}`);
  }
  for (const e of slide.querySelectorAll('svg.lt-drawing text')) {
    const svg = e.closest('svg'), unit = svg.getScreenCTM().a;
    const px = parseFloat(getComputedStyle(e).fontSize) * unit;
    if (px < 10.5) wrong.push(`letters of ${px.toFixed(1)} px: ${says(e)}`);
  }
  const math = [...slide.querySelectorAll('.math')].filter(shown);
  const bare = math.filter(e => !e.querySelector('math'));
  wrong.push(...bare.map(e => `mathematics not drawn: ${says(e)}`));
  wrong.push(...[...slide.querySelectorAll('merror')].map(says));
  const prose = slide.cloneNode(true);
  prose.querySelectorAll('.math, script, code').forEach(e => e.remove());
  if (/\$|\\[([]|^@|\*\*/m.test(prose.textContent)) wrong.push(`raw markup: ${says(prose)}`);
  return wrong;
}
"""


def test_the_core_chapters_have_decks():
    assert set(CORE) <= {path.stem[:2] for path in slides.decks()}


@each_deck
def test_a_deck_is_of_a_chapter_and_is_short(deck: Path) -> None:
    assert (ROOT / "chapters" / f"{deck.stem}.ipynb").is_file()
    text = deck.read_text(encoding="utf8")
    words = re.sub(r"\nNote:.*?(?=\n---\n|$)", "", text, flags=re.DOTALL)
    assert 500 < len(words) < 2400
    parts = text.split("\n---\n")
    assert 6 <= len(parts) <= 12
    assert parts[0].startswith("# ") and all(part.strip().startswith("## ") for part in parts[1:])
    assert "> **Predict.** " in text, "a lecture asks before it tells"


@each_deck
def test_a_deck_says_no_number_that_its_chapter_does_not(deck: Path) -> None:
    """Numbers with a point, per cents, and whole ones of two digits or more."""
    cells = nbformat.read(ROOT / "chapters" / f"{deck.stem}.ipynb", as_version=4).cells
    page = "\n".join(cell.source for cell in cells)
    page += "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
    page = page.replace("{,}", ",").replace(",", "")
    text = slides.OWN.sub("", deck.read_text(encoding="utf8"))
    text = re.sub(r"exercise `?\d\d-\w+`?|\d\d-\w+", "", text.replace("{,}", ",").replace(",", ""))
    numbers = re.findall(r"(?<![\w.])\d+\.\d+(?:e\d+)?|(?<![\w.])\d{2,}", text)
    missing = [
        number
        for number in numbers
        if not re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", page)
        and not ("e" in number and f"{float(number):g}" in page)
    ]
    assert missing == []


def test_what_a_deck_asks_for_and_its_page_has_not_is_named(tmp_path: Path) -> None:
    pages = tmp_path / "chapters"
    pages.mkdir()
    (pages / "12-small.html").write_text("<h1>12 · Small</h1><p>x</p>", encoding="utf8")
    source = tmp_path / "12-small.md"
    source.write_text("# Small\n\n@eq-12-none\n", encoding="utf8")
    with pytest.raises(ValueError, match=r"slides/12-small.md: .* no equation-eq-12-none"):
        slides.Deck(source, tmp_path).render()
    with pytest.raises(FileNotFoundError, match="run `make book` first"):
        slides.build(tmp_path / "html")


def test_mathematics_keeps_its_signs(tmp_path: Path) -> None:
    pages = tmp_path / "chapters"
    pages.mkdir()
    (pages / "12-small.html").write_text(
        "<h1>12 · Small</h1>"
        '<div class="math" id="equation-eq-12-a"><span class="eqno">(12.1)<a>#</a></span>'
        '<div class="equation"><math><mi>a</mi><mo>&lt;</mo><mi>b</mi></math></div></div>',
        encoding="utf8",
    )
    source = tmp_path / "12-small.md"
    source.write_text("# Small\n\nFor $i<j$.\n\n@eq-12-a\n\nNote: Say it.\n", encoding="utf8")
    page = BeautifulSoup(slides.Deck(source, tmp_path).render(), "html.parser")
    drawn = [box.get_text().strip() for box in page.select(".math math")]
    assert drawn == ["i<ji<j", "a<b"]  # the first with its TeX
    link = page.select_one(".equation a.number")
    assert link.get_text() == "(12.1)"
    assert link["href"] == "../chapters/12-small.html#equation-eq-12-a"
    assert page.select_one("aside.notes").get_text().strip() == "Say it."


# ---- in a browser


@pytest.mark.site
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@each_deck
def test_every_slide_is_whole(chromium: Browser, address: str, deck: Path, scheme: str) -> None:  # noqa: F811
    context = chromium.new_context(viewport={"width": 1280, "height": 720}, color_scheme=scheme)
    page = context.new_page()
    trouble: list[str] = []
    page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("requestfailed", lambda r: trouble.append(f"request failed: {r.url}"))
    page.on(
        "request",
        lambda r: trouble.append(r.url) if not r.url.startswith((address, "data:")) else None,
    )
    page.goto(f"{address}slides/{deck.stem}.html")
    settle(page)
    number = page.evaluate("() => Reveal.getTotalSlides()")
    assert number == len(deck.read_text(encoding="utf8").split("\n---\n"))
    for slide in range(number):
        page.evaluate("n => Reveal.slide(n, 0, 99)", slide)
        trouble += [f"slide {slide + 1}: {fault}" for fault in page.evaluate(LOOK)]
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    context.close()
    assert trouble == []
    light = sum(map(int, re.findall(r"\d+", ground)[:3])) > 384
    assert light == (scheme == "light")


@pytest.mark.site
@each_deck
def test_a_chapter_s_page_leads_to_its_deck_and_back(deck: Path) -> None:
    page = BeautifulSoup(
        (HTML / "chapters" / f"{deck.stem}.html").read_text(encoding="utf8"), "html.parser"
    )
    assert page.select(f'article a[href="../slides/{deck.stem}.html"]')
    made = BeautifulSoup(
        (HTML / "slides" / f"{deck.stem}.html").read_text(encoding="utf8"), "html.parser"
    )
    back = {link["href"].split("#")[0] for link in made.select("a[href]")}
    assert back == {f"../chapters/{deck.stem}.html"}


def explorers() -> list[tuple[str, str]]:
    return [
        (path.name, box["data-interactive"])
        for path in sorted((HTML / "slides").glob("*.html"))
        for box in BeautifulSoup(path.read_text(encoding="utf8"), "html.parser").select(
            "[data-interactive]"
        )
    ]


@pytest.mark.site
@pytest.mark.parametrize(("name", "figure"), explorers())
def test_an_explorer_on_a_slide_moves(chromium: Browser, address: str, name: str, figure: str):  # noqa: F811
    page: Page = chromium.new_page(viewport={"width": 1280, "height": 720})
    page.goto(f"{address}slides/{name}")
    settle(page)
    page.evaluate(
        "f => { const box = document.querySelector(`[data-interactive='${f}']`);"
        "const at = Reveal.getIndices(box.closest('section')); Reveal.slide(at.h, at.v, 99); }",
        figure,
    )
    check_interactive(page, f'[data-interactive="{figure}"]', pictures("_explorer")[figure]())
    page.close()


@pytest.mark.site
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_follows_a_prediction_waits_for_a_key(chromium: Browser, address: str) -> None:  # noqa: F811
    page = chromium.new_page(viewport={"width": 1280, "height": 720})
    page.goto(f"{address}slides/12-discretization.html")
    settle(page)
    where = page.evaluate("() => Reveal.getSlides().findIndex(s => s.querySelector('blockquote'))")
    page.evaluate("n => Reveal.slide(n)", where)
    after = page.locator("section.present .fragment").first
    opacity = "e => getComputedStyle(e).opacity"
    assert after.evaluate(opacity) == "0"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('section.present .fragment.visible')")
    page.close()
