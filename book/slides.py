"""Render the decks of book/slides to _build/html/slides, from the pages that the book has.

    python book/slides.py

A deck is Markdown, its slides parted by lines of three hyphens. A line `@eq-12-zoh` is that
equation of the chapter, `@fig-12-steps` that figure, plot, drawing or explorer; both are taken
from the rendered page, so that a slide cannot say what the chapter does not. `@drawing-home.paths`
is what `linear_time.pictures.home.paths_drawing` draws, and `@explorer-gate` the page's explorer of
that name where it stands in no figure. Beside a tall figure stand the words; an equation that is
too wide for that gets `@eq-07-dhen across`. What follows a prediction, which is a quotation,
appears with the next key. `Note:` begins what only the speaker sees.

reveal.js comes from the wheel of sphinx-revealjs; it and all pictures are served from the site
itself.
"""

from __future__ import annotations

import html
import re
import shutil
import sys
import time
from copy import copy
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from bs4 import BeautifulSoup
from bs4.element import Tag
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "book"))
from mathematics import mathml  # noqa: E402

DECKS = ROOT / "book" / "slides"
REVEAL = (
    "dist/reset.css",
    "dist/reveal.css",
    "dist/reveal.js",
    "plugin/notes/notes.js",
    "plugin/notes/speaker-view.html",
    "LICENSE",
)
OWN = re.compile(r"^@(eq|fig|drawing|explorer)-([\w.-]+?)( across)?$", re.MULTILINE)
# A picture at least so many times as wide as high stands below the words, any other beside them:
# a plot is drawn for a page's width, a drawing for a telephone's, and its letters should be large.
WIDE = {"img": 1.35, "svg": 4}


def reveal() -> Path:
    """The folder of reveal.js in the wheel that ships it.

    Raises:
        FileNotFoundError: it is not installed.
    """
    spec = find_spec("sphinx_revealjs")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "slides need the package sphinx-revealjs, which requirements.txt pins: run `make venv`"
        )
    return Path(spec.origin).parent / "_static" / "revealjs"


def shape_of(kind: str, ratio: float) -> str:
    return "wide" if ratio > WIDE[kind] else "tall"


class Deck:
    """One deck of one chapter.

    Args:
        source: its Markdown, named as the chapter.
        site: the rendered site.
    """

    def __init__(self, source: Path, site: Path) -> None:
        self.name = source.stem
        self.slides = source.read_text(encoding="utf8").strip().split("\n---\n")
        self.address = f"../chapters/{self.name}.html"
        page = site / "chapters" / f"{self.name}.html"
        self.images = site / "_images"
        self.page = BeautifulSoup(page.read_text(encoding="utf8"), "html.parser")
        self.markdown = (
            MarkdownIt("commonmark", {"html": False})
            .enable("table")
            .use(
                dollarmath_plugin,
                renderer=lambda tex, options: mathml(tex, options["display_mode"]),
            )
        )

    def find(self, identifier: str) -> Tag:
        """A part of the chapter's page.

        Raises:
            ValueError: the page has no such part.
        """
        found = self.page.find(id=identifier)
        if not isinstance(found, Tag):
            raise ValueError(f"slides/{self.name}.md: the chapter's page has no {identifier}")
        return found

    def equation(self, name: str) -> str:
        """The chapter's equation, with its number as a link to it."""
        box = copy(self.find(f"equation-eq-{name}"))
        number = box.select_one(".eqno")
        shown = number.extract().get_text().strip().rstrip("#") if number else ""
        equation = box.select_one(".equation")
        drawn = equation.decode_contents().strip() if equation else ""
        link = f'<a class="number" href="{self.address}#equation-eq-{name}">{shown}</a>'
        return f'<div class="equation"><div class="math">{drawn}</div>{link}</div>'

    def figure(self, name: str) -> str:
        """What the chapter's figure shows, its number as a link to it, and whether it is wide."""
        box = self.find(f"fig-{name}")
        content = copy(box)
        number = content.select_one("figcaption .caption-number")
        shown = number.get_text().strip() if number else "Figure"
        for caption in content.find_all("figcaption"):
            caption.extract()
        for image in content.find_all("img"):
            del image["loading"]  # a slide is shown when it is turned to
        inside = content.decode_contents().strip()
        link = f'<a class="number" href="{self.address}#fig-{name}">{shown}</a>'
        shape = "wide explorer" if "data-interactive" in inside else self.shape(box)
        photo = " photo" if box.find_parent(class_="tag_photo") else ""
        return f'<figure class="{shape}{photo}"><div class="shown">{inside}</div>{link}</figure>'

    def shape(self, box: Tag) -> str:
        """Whether a figure's plot or drawing is wide or tall."""
        drawing, image = box.find("svg"), box.find("img")
        if isinstance(drawing, Tag):
            _, _, width, height = map(float, str(drawing["viewbox"]).split())
            return shape_of("svg", width / height)
        if not isinstance(image, Tag):
            raise ValueError(f"slides/{self.name}.md: {box.get('id')} shows no picture")
        with Image.open(self.images / Path(str(image["src"])).name) as opened:
            width, height = opened.size
        return shape_of("img", width / height)

    def drawing(self, name: str) -> str:
        """A drawing of `linear_time.pictures` that the chapter does not show."""
        module, _, function = name.partition(".")
        made = getattr(import_module(f"linear_time.pictures.{module}"), f"{function}_drawing")()
        shape = shape_of("svg", made.WIDTH / made.height)
        return f'<figure class="{shape}"><div class="shown">{made.svg()}</div></figure>'

    def explorer(self, name: str) -> str:
        """An explorer of the chapter that has no number.

        Raises:
            ValueError: the page has no such explorer.
        """
        found = self.page.find(attrs={"data-interactive": f"{name}-explorer"})
        if found is None:
            raise ValueError(f"slides/{self.name}.md: the chapter's page has no explorer {name}")
        return f'<figure class="wide explorer"><div class="shown">{found}</div></figure>'

    def slide(self, text: str) -> str:
        """One slide, its own parts put in after Markdown, which must not read them."""
        text, _, notes = text.partition("\nNote:")
        parts: list[str] = []
        across = ""

        def part(match: re.Match[str]) -> str:
            nonlocal across
            kind, name, wide = match.groups()
            make = {
                "eq": self.equation,
                "fig": self.figure,
                "drawing": self.drawing,
                "explorer": self.explorer,
            }[kind]
            if wide:
                across += make(name)
                return ""
            parts.append(make(name))
            return f"\n@{len(parts) - 1}@\n"

        body = self.markdown.render(OWN.sub(part, text))
        body = re.sub(r"<p>@(\d+)@</p>", lambda found: parts[int(found[1])], body)
        # No line breaks between mathematics and the comma after it.
        body = re.sub(
            r'(<span class="math inline"><math>(?:(?!</math>).)*</math></span>[,.;:!?)]+)',
            r'<span class="unbroken">\1</span>',
            body,
        )
        before, predicts, after = body.partition("</blockquote>\n")
        if after.strip():
            body = f'{before}{predicts}<div class="fragment">{after}</div>'
        figures = [made for made in parts if made.startswith("<figure")]
        if across and not figures:
            raise ValueError(f"slides/{self.name}.md: across stands above a figure, and has none")
        layout = "title" if text.lstrip().startswith("# ") else ""
        if figures:
            for made in figures:  # the words first, then what is to be seen
                body = body.replace(made, "")
            heading, _, words = body.rpartition("</h2>\n")
            beside = any('<figure class="tall' in made for made in figures)
            body = (
                f"{heading}{'</h2>' * bool(heading)}{across}"
                f'<div class="{"beside" if beside else "below"}">'
                f'<div class="words">{words}</div>'
                f'<div class="figures{" fragment" * bool(predicts)}">{"".join(figures)}</div></div>'
            )
        aside = f'<aside class="notes">{self.markdown.render(notes)}</aside>' if notes else ""
        return f'<section class="{layout}">{body}{aside}</section>'

    def render(self) -> str:
        """The whole deck as a page."""
        heading = self.page.find("h1")
        title = heading.get_text().strip().rstrip("#") if heading else self.name
        sections = "\n".join(map(self.slide, self.slides))
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{html.escape(title)}: slides</title>
<link rel="icon" href="../_static/favicon.svg">
<link rel="stylesheet" href="reveal/reset.css">
<link rel="stylesheet" href="reveal/reveal.css">
<link rel="stylesheet" href="slides.css">
<link rel="preload" as="font" type="font/woff2" crossorigin href="../_static/math.woff2">
</head>
<body>
<div class="reveal"><div class="slides">
{sections}
</div></div>
<a class="chapter" href="{self.address}">{html.escape(title)}</a>
<script src="reveal/reveal.js"></script>
<script src="reveal/notes.js"></script>
<script>
Reveal.initialize({{hash: true, slideNumber: "c/t", width: 1280, height: 720, margin: 0.02,
  center: false, display: "flex", transition: "none", plugins: [RevealNotes]}});
</script>
</body>
</html>
"""


def decks() -> list[Path]:
    """The sources of all decks."""
    return sorted(DECKS.glob("*.md"))


def build(site: Path = ROOT / "_build" / "html") -> int:
    """Render the decks of the chapters whose pages a site has; how many.

    Raises:
        FileNotFoundError: the book is not rendered, or reveal.js is not installed.
        ValueError: a deck asks for a part that its chapter does not have.
    """
    if not site.is_dir():
        raise FileNotFoundError("slides need the book's pages: run `make book` first")
    started = time.monotonic()
    made = {
        source.stem: Deck(source, site).render()
        for source in decks()
        if (site / "chapters" / f"{source.stem}.html").is_file()
    }
    target = site / "slides"
    shutil.rmtree(target, ignore_errors=True)
    (target / "reveal").mkdir(parents=True)
    shutil.copy(DECKS / "slides.css", target)
    for name in REVEAL:
        shutil.copy(reveal() / name, target / "reveal")
    for name, page in made.items():
        (target / f"{name}.html").write_text(page, encoding="utf8")
    print(f"Made {len(made)} decks of slides in {time.monotonic() - started:.0f} s", flush=True)
    return len(made)


if __name__ == "__main__":
    try:
        build()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"slides: {error}")
