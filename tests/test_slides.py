"""The decks: their sources without a browser, and every slide in one, as a lecture shows it."""

import re
from io import BytesIO
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image
from playwright.sync_api import Browser

from book import ROOT, AtOnce, load
from test_site import HTML, SCHEMES, address, check_figure, interactive, settle  # noqa: F401

slides = load(ROOT / "book" / "slides.py")
each_deck = pytest.mark.parametrize("deck", slides.decks(), ids=lambda path: path.stem)
CORE = ["05", "07", "08", "11", "12", "13", "16", "17", "18", "20", "21", "22", "23"]

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
  for (const e of slide.querySelectorAll('.equation > .math')) {
    const drawn = [...e.querySelectorAll('math *')].filter(shown).map(m => place(m).right);
    if (Math.max(...drawn) > place(e).right + 4)
      wrong.push(`an equation leaves its place: ${says(e)}`);
  }
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
    parts = words.split("\n---\n")
    assert 6 <= len(parts) <= 14
    assert 500 < len(words) < 280 * len(parts)
    assert max(map(len, parts)) < 440
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
    source.write_text("# Small\n\n@explorer-gate\n", encoding="utf8")
    with pytest.raises(ValueError, match=r"slides/12-small.md: .* no explorer gate"):
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


def png(width: int, height: int) -> bytes:
    written = BytesIO()
    Image.new("L", (width, height)).save(written, "PNG")
    return written.getvalue()


def deck(tmp_path: Path, page: str, *words: str) -> slides.Deck:
    """A deck of a chapter whose page has these parts."""
    folder = tmp_path / "html"
    for name in ("chapters", "_images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "chapters" / "12-small.html").write_text(
        f"<h1>12 · Small</h1>{page}", encoding="utf8"
    )
    source = tmp_path / "12-small.md"
    source.write_text("\n---\n".join(("# Small", *words)), encoding="utf8")
    return slides.Deck(source, folder)


@pytest.mark.parametrize(
    ("kind", "ratio", "shape"),
    [("img", 1.36, "wide"), ("img", 1.35, "tall"), ("img", 0.5, "tall"),
     ("svg", 4.1, "wide"), ("svg", 4, "tall"), ("svg", 1.4, "tall")],
)  # fmt: skip
def test_what_is_wide(kind: str, ratio: float, shape: str) -> None:
    assert slides.shape_of(kind, ratio) == shape


SVG = '<svg class="lt-drawing" viewBox="0 0 {} 100"></svg>'


@pytest.mark.parametrize(
    ("inside", "size", "shape"),
    [
        ('<img src="../_images/a.png">', (300, 100), "wide"),
        ('<img src="../_images/a.png">', (100, 300), "tall"),
        (SVG.format(500), None, "wide"),
        (SVG.format(100), None, "tall"),
        (SVG.format(500) + '<img src="../_images/a.png">', (100, 300), "wide"),  # the drawing
        (f'<div data-interactive="x">{SVG.format(100)}</div>', None, "wide explorer"),
    ],
)
@pytest.mark.parametrize("photo", [False, True])
def test_a_figure_is_taken_whole_and_its_number_leads_back(
    tmp_path: Path, inside: str, size: tuple[int, int] | None, shape: str, photo: bool
) -> None:
    caption = '<figcaption><span class="caption-number">Fig. 12.1 </span>Words.</figcaption>'
    page = f'<figure id="fig-12-a">{inside}{caption}</figure>'
    if photo:
        page = f'<div class="tag_photo">{page}</div>'
    made = deck(tmp_path, page)
    if size:
        (tmp_path / "html" / "_images" / "a.png").write_bytes(png(*size))
    figure = BeautifulSoup(made.figure("12-a"), "html.parser").figure
    assert figure["class"] == shape.split() + ["photo"] * photo
    assert "Words" not in figure.get_text() and figure.select_one(".shown").find(["svg", "img"])
    link = figure.select_one("a.number")
    assert (link.get_text(), link["href"]) == ("Fig. 12.1", "../chapters/12-small.html#fig-12-a")


def test_a_figure_without_a_picture_is_named(tmp_path: Path) -> None:
    made = deck(tmp_path, '<figure id="fig-12-a"><p>Words.</p></figure>')
    with pytest.raises(ValueError, match=r"slides/12-small\.md: fig-12-a shows no picture"):
        made.figure("12-a")


def test_a_slide_lays_out_words_and_what_is_to_be_seen(tmp_path: Path) -> None:
    """Beside a tall figure, below them a wide one; a wide equation across; no raw HTML."""
    equation = (
        '<div class="math" id="equation-eq-12-e"><span class="eqno">(12.2)</span>'
        '<div class="equation"><math><mi>a</mi></math></div></div>'
    )
    parts = "".join(
        f'<figure id="fig-12-{name}">{SVG.format(width)}</figure>{equation}'
        for name, width in (("tall", 100), ("wide", 500))
    )
    made = deck(tmp_path, parts)
    read = {}
    for kind in ("tall", "wide"):
        text = f"## Head\n\nWords <b>x</b>, $a$.\n\n@eq-12-e across\n\n@fig-12-{kind}\n"
        read[kind] = BeautifulSoup(made.slide(text), "html.parser").section
    for kind, section in read.items():
        place = section.select_one(".beside" if kind == "tall" else ".below")
        assert place is not None and not section.get("class")
        assert "Words <b>x</b>" in place.select_one(".words").get_text()
        assert section.find(True, recursive=False).name == "h2"
        assert place.select_one(".figures svg") and not place.select_one(".words svg")
        across = section.select_one(".equation a.number")
        assert across.get_text() == "(12.2)" and across.find_parent(class_="words") is None
        assert section.select_one(".figures")["class"] == ["figures"]
    asks = "## Head\n\n> **Predict.** How?\n\nAfter.\n\n@fig-12-tall\n\nNote: aside"
    section = BeautifulSoup(made.slide(asks), "html.parser").section
    assert section.select_one(".fragment").get_text().strip().startswith("After")
    assert section.select_one(".figures")["class"] == ["figures", "fragment"]
    assert section.select_one("aside.notes").get_text().strip() == "aside"
    assert "aside" not in section.select_one(".words").get_text()
    with pytest.raises(ValueError, match=r"12-small\.md: across stands above a figure"):
        made.slide("## Head\n\n@eq-12-e across\n")  # it would be lost
    title = BeautifulSoup(made.slide("# Small\n\nWords."), "html.parser").section
    assert title["class"] == ["title"] and not title.select(".words, .figures, aside")


def test_an_explorer_without_a_number_is_taken_whole(tmp_path: Path) -> None:
    explorer = (
        '<div class="lt-explorer" data-interactive="gate-explorer"><script>1 < 2</script></div>'
    )
    other = '<div data-interactive="other-explorer"></div>'
    made = deck(tmp_path, other + explorer, "## Head\n\nWords.\n\n@explorer-gate")
    section = BeautifulSoup(made.slide(made.slides[1]), "html.parser").section
    (shown,) = section.select(".below .figures figure.explorer [data-interactive]")
    assert shown["data-interactive"] == "gate-explorer" and shown.script.string == "1 < 2"
    assert not section.select(".number")


def test_a_drawing_that_no_chapter_shows(tmp_path: Path) -> None:
    figure = BeautifulSoup(deck(tmp_path, "").drawing("home.paths"), "html.parser").figure
    drawn = figure.select_one(".shown > svg")
    _, _, width, height = map(float, drawn["viewbox"].split())
    assert figure["class"] == ["wide" if width / height > 4 else "tall"]


def test_decks_are_made_of_the_chapters_that_there_are(tmp_path: Path, monkeypatch) -> None:
    """And what stood there before is gone."""
    made = deck(tmp_path, "", "## A\n\nB")
    other = tmp_path / "13-other.md"
    other.write_text("# Other", encoding="utf8")
    sources = [other, tmp_path / "12-small.md"]
    monkeypatch.setattr(slides, "decks", lambda: sources)
    site = made.images.parent
    (site / "slides").mkdir()
    (site / "slides" / "old.html").touch()
    assert slides.build(site) == 1
    there = {p.relative_to(site / "slides").as_posix() for p in (site / "slides").rglob("*.*")}
    assert "old.html" not in there and {"12-small.html", "slides.css"} < there
    assert {f"reveal/{Path(name).name}" for name in slides.REVEAL if "." in name} < there
    page = (site / "slides" / "12-small.html").read_text(encoding="utf8")
    assert page == made.render() and page.count("<section") == 2
    assert "<title>12 · Small: slides</title>" in page
    monkeypatch.setattr(slides, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="need the package sphinx-revealjs"):
        slides.build(site)


def test_a_first_build_makes_its_folder_and_says_how_many(tmp_path: Path, monkeypatch) -> None:
    made = deck(tmp_path, "", "## A")
    site = made.images.parent
    monkeypatch.setattr(slides, "decks", lambda: [tmp_path / "12-small.md"])
    monkeypatch.setattr("sys.stdout", out := AtOnce())
    assert slides.build(site) == 1
    assert re.fullmatch(r"Made 1 decks of slides in \d+ s\n", out.seen) and out.all_seen()
    assert sorted(path.name for path in (site / "slides" / "reveal").iterdir()) == sorted(
        Path(name).name for name in slides.REVEAL
    )
    monkeypatch.setattr(slides, "DECKS", tmp_path)
    monkeypatch.undo()
    assert slides.decks() == sorted((ROOT / "book" / "slides").glob("*.md"))
    for spec in (None, type("Spec", (), {"origin": None})):
        monkeypatch.setattr(slides, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(FileNotFoundError, match="sphinx-revealjs"):
            slides.reveal()


def test_what_a_page_has_without_a_number(tmp_path: Path) -> None:
    """A figure is called so, an equation has an empty link, a deck without a title its name."""
    parts = (
        '<div id="equation-eq-12-a"><div class="equation"> <math><mi>a</mi></math> </div></div>'
        '<div id="equation-eq-12-b"><span class="eqno">(12.1)#</span></div>'
        f'<figure id="fig-12-a"><img loading="lazy" src="../_images/a.png">{SVG.format(100)}'
        "<figcaption>Words.</figcaption><figcaption>More.</figcaption></figure>"
    )
    made = deck(tmp_path, parts)
    link = '<a class="number" href="../chapters/12-small.html#equation-eq-12-{}">{}</a>'
    assert made.equation("12-a") == (
        '<div class="equation"><div class="math"><math><mi>a</mi></math></div>'
        + link.format("a", "") + "</div>"
    )  # fmt: skip
    assert made.equation("12-b") == (
        '<div class="equation"><div class="math"></div>' + link.format("b", "(12.1)") + "</div>"
    )
    figure = made.figure("12-a")
    assert ">Figure</a>" in figure and "loading" not in figure and "More" not in figure
    assert made.page.select_one("img")["loading"] == "lazy", "the page stays as it is"
    assert "<title>12 · Small: slides</title>" in made.render()
    (tmp_path / "html" / "chapters" / "12-small.html").write_text("<p>x", encoding="utf8")
    page = slides.Deck(tmp_path / "12-small.md", tmp_path / "html").render()
    assert "<title>12-small: slides</title>" in page
    assert '<a class="chapter" href="../chapters/12-small.html">12-small</a>' in page


def test_the_parts_of_a_slide_in_their_places(tmp_path: Path) -> None:
    parts = "".join(
        f'<div id="equation-eq-12-{name}"><div class="equation"><math>{name}</math></div></div>'
        f'<figure id="fig-12-{name}">{SVG.format(width)}</figure>'
        for name, width in (("a", 100), ("b", 500))
    )
    made = deck(tmp_path, parts)

    def slide(text: str) -> BeautifulSoup:
        return BeautifulSoup(made.slide(text), "html.parser").section

    two = slide("## H\n\nOne.\n\n@eq-12-a\n\nTwo.\n\n@eq-12-b\n")
    assert two.get_text().split() == ["H", "One.", "a", "Two.", "b"] and not two.select(".words")
    both = slide("## H\n\nW.\n\n@eq-12-a\n\n@fig-12-b\n\n@fig-12-a\n\n@eq-12-b across\n")
    assert both.select_one(".words").get_text().split() == ["W.", "a"]
    assert len(both.select(".beside .figures > figure")) == 2
    assert [box.get_text().strip() for box in both.find_all(True, recursive=False)][:2] == [
        "H",
        "b",
    ]
    bare = slide("W.\n\n@fig-12-b\n")
    assert not bare.select("h2") and bare.select_one(".below .words").get_text().strip() == "W."
    last = slide("## H\n\n> **Predict.** How?\n")
    assert not last.select(".fragment")
    math = slide("## H\n\nFor $y$, and $x$ no.\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    assert [box.get_text()[-1] for box in math.select(".unbroken")] == [","]
    assert math.select_one("td").get_text() == "1"


# ---- in a browser


@pytest.mark.site
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@each_deck
def test_every_slide_is_whole_and_its_explorers_move(
    chromium: Browser,
    address: str,  # noqa: F811
    deck: Path,
) -> None:
    """A deck is opened in one scheme, every other in the dark one, and turned to the other."""
    schemes = SCHEMES[:: -1 if slides.decks().index(deck) % 2 else 1]
    context = chromium.new_context(viewport={"width": 1280, "height": 720}, color_scheme=schemes[0])
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
    for scheme in schemes:
        page.emulate_media(color_scheme=scheme)
        for slide in range(number):
            page.evaluate("n => Reveal.slide(n, 0, 99)", slide)
            faults = page.evaluate(LOOK)
            trouble += [f"slide {slide + 1}, {scheme}: {fault}" for fault in faults]
        ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, re.findall(r"\d+", ground)[:3])) > 384
        assert light == (scheme == "light")
    for figure in interactive(f"slides/{deck.stem}.html"):
        page.evaluate(
            "f => { const box = document.querySelector(`[data-interactive='${f}']`);"
            "const at = Reveal.getIndices(box.closest('section')); Reveal.slide(at.h, at.v, 99); }",
            figure,
        )
        check_figure(page, figure)
    context.close()
    assert trouble == []


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
