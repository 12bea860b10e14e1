"""The whole book as one PDF, printed by Chromium from the pages that `make book` has rendered.

    python book/pdf.py [--edition without-solutions]

All pages but the API's are joined to one: names made unique, links led to where they go inside,
folds opened, solutions gathered at the end. Chromium prints it twice, since the first print says
which page everything is on. pypdf reads it, pikepdf writes the outline. What the reader would
stumble over ends in an error: raw markup, a link to nowhere, something wider than the page.
"""

from __future__ import annotations

import argparse
import html
import re
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin

import yaml
from bs4 import BeautifulSoup
from bs4.element import Tag

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {"book/api"}  # as long as all the rest, and read by searching
MOST = 20  # faults that are told one by one
WIDTH = 643  # CSS pixels between the margins of an A4 page
STYLE = """
@page { size: A4; margin: 22mm 20mm 20mm;
  @bottom-center { content: counter(page); font: 9pt sans-serif; }
  @top-left { font: 8.5pt sans-serif; color: #555; }
  @top-right { content: "Linear Time"; font: 8.5pt sans-serif; color: #555; } }
@page :first { @bottom-center { content: none; } @top-right { content: none; } }
html { font-size: 9.5pt !important; }
html, body { background: white; line-height: 1.45; display: block; height: auto;
  overflow: visible; }
math { -webkit-text-stroke: 0; }
.unbroken { white-space: normal; }
.bd-article { max-width: none; padding: 0; }
.bd-article h1 { font-size: 20pt; }
.bd-article h2 { font-size: 14pt; margin-top: 1.4rem; }
.bd-article h3 { font-size: 11.5pt; }
.chapter, .contents { break-before: page; }
h1, h2, h3, .rubric, .admonition-title, p:has(+ .tag_solution) { break-after: avoid; }
p { orphans: 2; widows: 2; }
div.math, figure, img, svg, tr, .lt-explorer { break-inside: avoid; }
.cell, .cell_input, .cell_output, pre, .highlight, details, .admonition
  { break-inside: auto !important; }
pre { white-space: pre-wrap !important; overflow-wrap: anywhere; overflow: visible !important;
  font-size: 8.2pt !important; max-height: none !important; }
.equation, .math, .math-wrapper, .pst-scrollable-table-container, .table, .cell_output
  { overflow: visible !important; max-height: none !important; }
table { font-size: 8.5pt; overflow-wrap: anywhere; }
img { max-width: 100%; max-height: 220mm; filter: none !important; }
svg.lt-drawing { max-height: 200mm; }
details:not(.lt-rubric) > summary, .copybtn, .headerlink, .toggle-button, script {
  display: none !important; }
a { text-decoration: none; }
.contents p { margin: 0; display: flex; gap: 1rem; }
.contents p span { margin-left: auto; }
.contents .part { font-weight: 700; margin-top: .6rem; break-after: avoid; }
.contents .section { padding-left: 1.5rem; font-size: 9pt; }
.title { height: 240mm; display: flex; flex-direction: column; justify-content: center;
  text-align: center; }
.title h1 { font-size: 34pt; }
"""
#: What a controls does on a page; on paper the figure stands as it begins.
CONTROLS = "script, .headerlink, .toctree-wrapper, .copybtn, .lt-explorer :is(input, button, label)"
RAW = (
    r"\\[()\[\]]", r"\$\$", r"\\(begin|frac|bar|eqref|ref|cite)\b",
    r"\{(exercise|solution|figure|note|math|term|eq|ref|numref|doc|prf:ref|cite(:\w+)?)[}-]",
    r"`{3}", r"(?m)^\s*:{3,}",
)  # fmt: skip
# What is wider than its place is made smaller, down to half: formulas within a line first, then
# tables and what stands alone. What is too wide even then is told.
FIT = """
width => {
  const fit = (e, most, least) => {
    for (let size = 1; size > least && most() < -1;)
      e.style.fontSize = `${100 * (size -= 0.05)}%`;
  };
  for (const e of document.querySelectorAll('p span.math, td span.math, p > math, td > math')) {
    const most = e.closest('td') ? 0.4 * width : width - 20;
    fit(e, () => most - e.getBoundingClientRect().width, 0.5);
  }
  for (const e of document.querySelectorAll('div.math, .math-wrapper, table, .lt-panels'))
    fit(e, () => Math.min(e.parentElement.clientWidth, width) - e.scrollWidth, 0.6);
  return [...document.querySelectorAll('.bd-article *')]
    .filter(e => e.getClientRects().length && e.getBoundingClientRect().right > width + 2)
    .filter(e => !e.closest('math, svg') && !e.matches('thead, tbody, tr, th, td *'))
    .map(e => e.closest('.chapter').id + ' ' + e.outerHTML.slice(0, 100));
}
"""
END = "<!-- end of the contents -->"
SETTLE = "() => document.fonts.ready.then(() => null)"


class Broken(Exception):
    """The book cannot be printed as it stands."""


def contents(root: Path, site: Path) -> list[tuple[str | None, str]]:
    """The pages in reading order, each with its part's name where it is the first of one."""
    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf8"))
    found: list[tuple[str | None, str]] = [(None, toc["root"])]
    for part in toc.get("parts", [{"caption": None, "chapters": toc.get("chapters", [])}]):
        files = [chapter["file"] for chapter in part["chapters"]]
        found += [(part["caption"] if n == 0 else None, file) for n, file in enumerate(files)]
    found = [(caption, file) for caption, file in found if file not in LEFT_OUT]
    missing = [file for _, file in found if not (site / f"{file}.html").is_file()]
    if missing:
        raise Broken(f"{', '.join(missing)}: not rendered in {site}; run `make book` first")
    return found


def label(doc: str) -> str:
    return doc.rpartition("/")[2]


class Page:
    """The article of a rendered page, on its way into the joined one."""

    def __init__(self, site: Path, doc: str, docs: list[str]) -> None:
        self.site, self.doc = site, doc
        self.path = site / f"{doc}.html"
        whole = BeautifulSoup(self.path.read_text(encoding="utf8"), "html.parser")
        self.head = whole.head
        canonical = whole.find("link", rel="canonical")
        self.address = canonical["href"] if isinstance(canonical, Tag) else ""
        article = whole.select_one("article.bd-article")
        if article is None:
            raise Broken(f"{doc}: expected an article")
        self.article = article
        self.title = self.heading()
        for tag in article.select(CONTROLS):
            tag.decompose()
        for details in article.select("details"):
            details["open"] = ""
        for image in article.select("img[loading]"):
            del image["loading"]
        self.rename({name: label(name) for name in docs})

    def heading(self) -> str:
        heading = self.article.select_one("h1")
        if heading is None:
            raise Broken(f"{self.doc}: expected a title")
        for link in heading.select(".headerlink"):
            link.decompose()
        return " ".join(heading.get_text(" ").split())

    def rename(self, names: dict[str, str]) -> None:
        """Give every name this page's prefix, and lead links and pictures to where they are now."""
        prefix = f"{names[self.doc]}--"
        for tag in self.article.find_all(True):
            if tag.get("id"):
                tag["id"] = prefix + tag["id"]
            for key, value in list(tag.attrs.items()):
                if isinstance(value, str) and "url(#" in value:
                    tag[key] = value.replace("url(#", f"url(#{prefix}")
            for key in ("for", "aria-labelledby", "aria-describedby", "xlink:href"):
                value = tag.get(key)
                if isinstance(value, str) and (key != "xlink:href" or value.startswith("#")):
                    mark = "#" if value.startswith("#") else ""
                    tag[key] = mark + prefix + value.removeprefix("#")
            if tag.name == "img" and not re.match(r"[a-z]+:", tag.get("src", "")):
                tag["src"] = self.inside(tag["src"])
                tag.attrs.pop("srcset", None)
            elif tag.name == "a" and tag.get("href"):
                tag["href"] = self.link(tag["href"], prefix, names)

    def inside(self, target: str) -> str:
        """A file of the site, from the site's root."""
        path = (self.path.parent / unquote(target).split("?")[0]).resolve()
        return path.relative_to(self.site.resolve()).as_posix()

    def link(self, href: str, prefix: str, names: dict[str, str]) -> str:
        """Where a link leads: to a place of this book, or to the site's address."""
        if re.match(r"[a-z]+:", href):
            return href
        target, _, fragment = href.partition("#")
        if not target:
            return f"#{prefix}{fragment or 'top'}"
        doc = self.inside(target).removesuffix(".html")
        if doc in names:
            return f"#{names[doc]}--{fragment or 'top'}"
        return urljoin(self.address, href)


def solutions_to_the_end(pages: list[Page]) -> str:
    """Take the solutions out of the pages: one chapter of them, and a link at each place."""
    parts = []
    for page in pages:
        taken = page.article.select(".cell.tag_solution")
        if not taken:
            continue
        parts.append(f"<h2>{html.escape(page.title)}</h2>")
        for n, cell in enumerate(taken, 1):
            name = f"solution-{label(page.doc)}-{n}"
            before = f"{label(page.doc)}--before-{name}"
            here = BeautifulSoup(
                f'<p id="{before}"><a href="#{name}">Solution, page '
                f'<span data-page="{name}"></span></a></p>',
                "html.parser",
            )
            statement = cell.find_previous(class_="admonition-title")
            said = re.sub(
                r"^Exercise\s*[\d.]*\s*", "", statement.get_text(" ") if statement else ""
            )
            cell.replace_with(here)
            cell["id"] = name
            parts.append(f'<p><a href="#{before}">{html.escape(said.strip(" ()"))}</a></p>{cell}')
    return "".join(parts)


def quoted(text: str) -> str:
    """A text as a string of CSS."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def heads_of(pages: list[Page]) -> str:
    """The pages' style sheets."""
    kept: dict[str, None] = {}  # each once, in order
    for page in pages:
        for tag in page.head.select("style, link[rel~=stylesheet]") if page.head else []:
            if tag.get("href") and not re.match(r"[a-z]+:", tag["href"]):
                tag["href"] = page.inside(tag["href"])
            kept[str(tag)] = None
    return "\n".join(kept)


def joined(root: Path, site: Path) -> str:
    """The book as one page of HTML, to stand in the site's root."""
    listed = contents(root, site)
    docs = [doc for _, doc in listed]
    pages = [Page(site, doc, docs) for doc in docs]
    solutions = solutions_to_the_end(pages)
    lines, rules, chapters = [], [], []

    def enter(name: str, title: str, body: str) -> None:
        page = "p" + re.sub(r"\W", "", name)
        head = f"@page {page} {{ @top-left {{ content: {quoted(title)}; }} }}"
        rules.append(f".{page} {{ page: {page}; }} {head}")
        chapters.append(f'<section class="chapter {page}" id="{name}--top">{body}</section>')

    def line(kind: str, to: str, text: str) -> None:
        lines.append(
            f'<p class="{kind}"><a href="#{to}">{text}</a><span data-page="{to}"></span></p>'
        )

    for (caption, doc), page in zip(listed, pages, strict=True):
        if caption:
            lines.append(f'<p class="part">{html.escape(caption)}</p>')
        line("page", f"{label(doc)}--top", html.escape(page.title))
        for heading in page.article.select("section > section > h2"):
            if heading.parent and heading.parent.get("id"):
                line("section", heading.parent["id"], heading.decode_contents())
        enter(label(doc), page.title, page.article.decode_contents())
    if solutions:
        line("page", "solutions--top", "Solutions")
        enter("solutions", "Solutions", f"<h1>Solutions</h1>{solutions}")
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))
    title, author = html.escape(config["title"]), html.escape(config["author"])
    style = f"<style>{STYLE}{''.join(rules)}</style>"
    return (
        '<!doctype html><html lang="en" data-theme="light" data-mode="light"><head>'
        f'<meta charset="utf-8"><title>{title}</title>{heads_of(pages)}{style}</head><body>'
        f'<div class="title"><h1>{title}</h1><p>{author}</p></div>'
        f'<article class="bd-article"><div class="contents" id="contents"><h1>Contents</h1>'
        f"{''.join(lines)}</div>{END}{''.join(chapters)}</article></body></html>"
    )


def printed(source: Path, target: Path, browser: Any) -> dict[str, int]:
    """Print twice, the second time with the pages that the first found; name -> page, from 1.

    Raises:
        Broken: something is wider than a page, or a line of the contents has no page.
    """
    from pypdf import PdfReader

    page = browser.new_page(viewport={"width": WIDTH, "height": 933})
    page.set_default_timeout(300_000)
    page.goto(source.resolve().as_uri())
    page.emulate_media(media="print", color_scheme="light")
    page.evaluate(SETTLE)
    wide = page.evaluate(FIT, WIDTH)
    options = dict(prefer_css_page_size=True, tagged=True, print_background=True)
    page.pdf(path=str(target), **options)
    reader = PdfReader(target)
    numbers = {}
    for name, place in reader.named_destinations.items():
        number = reader.get_destination_page_number(place)
        if number is not None:
            numbers[unquote(name.removeprefix("/"))] = number + 1
    missing = page.evaluate(
        """numbers => [...document.querySelectorAll('[data-page]')].filter(e =>
        !(e.textContent = numbers[e.dataset.page] ?? '')).map(e => e.dataset.page)""",
        numbers,
    )
    page.pdf(path=str(target), **options)
    page.close()
    if wide or missing:
        raise Broken("\n".join(wide + [f"{name}: on no page" for name in missing]))
    return numbers


def outline(target: Path, page: str, numbers: dict[str, int], title: str, author: str) -> None:
    """Write the outline of the contents, and what the file says of itself; make it small."""
    import pikepdf

    with pikepdf.open(target, allow_overwriting_input=True) as pdf:
        with pdf.open_outline() as tree, pdf.open_metadata() as about:
            about["dc:title"], about["dc:creator"] = title, [author]
            tree.root.clear()
            listed = page[page.index('<div class="contents"') : page.index(END)]
            for line in BeautifulSoup(listed, "html.parser").select("p:has(a)"):
                for unseen in line.select("annotation"):
                    unseen.decompose()
                link = line.a
                text = " ".join(link.get_text().split())
                item = pikepdf.OutlineItem(text, numbers[link["href"][1:]] - 1)
                (tree.root if "page" in line["class"] else tree.root[-1].children).append(item)
        pdf.Root.PageMode = pikepdf.Name.UseOutlines
        pdf.save(target, object_stream_mode=pikepdf.ObjectStreamMode.generate, linearize=True)


def faults(target: Path, page: str) -> list[str]:
    """What a reader would stumble over: raw markup, and links to nowhere."""
    from pypdf import PdfReader

    found = []
    # The page is too long to be parsed for this.
    code = " ".join(match[0] for match in re.finditer(r"<(pre|code)\b.*?</\1>", page, re.DOTALL))
    shown = re.sub(r"\s+", "", html.unescape(re.sub(r"<[^>]+>", "", code)))
    names = {html.unescape(name) for name in re.findall(r'\bid="([^"]*)"', page)}
    for link in dict.fromkeys(re.findall(r'<a\b[^>]*\bhref="#([^"]*)"', page)):
        if unquote(html.unescape(link)) not in names:
            found.append(f"#{link}: no such place")
    for number, sheet in enumerate(PdfReader(target).pages, 1):
        text = sheet.extract_text()
        for pattern in RAW:
            for match in re.finditer(pattern, text):
                start, end = match.span()
                around = (text[max(0, start - 3) : end], text[start : end + 6])
                # Code may show what prose must not.
                if not any(re.sub(r"\s+", "", part) in shown for part in around):
                    found.append(f"page {number}: {text[max(0, match.start() - 20) :][:60]!r}")
    return found


def build(root: Path, site: Path, target: Path, browser: Any) -> None:
    """Print the book of a site.

    Raises:
        Broken: what came out is not fit to be read.
    """
    started = time.monotonic()
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf8"))
    page = joined(root, site)
    source = site / "_print.html"
    try:
        source.write_text(page, encoding="utf8")
        numbers = printed(source, target, browser)
    finally:
        source.unlink(missing_ok=True)
    outline(target, page, numbers, config["title"], config["author"])
    stumbling = faults(target, page)
    if stumbling:
        raise Broken("\n".join(stumbling))
    from pypdf import PdfReader

    sheets, size = len(PdfReader(target).pages), target.stat().st_size / 2**20
    print(f"{target}: {sheets} pages, {size:.1f} MiB, {time.monotonic() - started:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description="Print the rendered book as one PDF.")
    parser.add_argument("--edition", default="public", choices=("public", "without-solutions"))
    parser.add_argument("--root", type=Path, default=ROOT)
    options = parser.parse_args()
    sys.path.append(str(ROOT / "tests"))
    from playwright.sync_api import sync_playwright

    import browser

    program = browser.find()
    if program is None:
        print("make pdf needs Chromium or Chrome (Debian: apt-get install chromium)")
        return 1
    build_folder = options.root.resolve() / "_build"
    public = options.edition == "public"
    site = build_folder / ("html" if public else f"{options.edition}/_build/html")
    name = "linear-time.pdf" if public else f"linear-time-{options.edition}.pdf"
    try:
        with sync_playwright() as playwright:
            chrome = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            build(options.root, site, build_folder / name, chrome)
    except Broken as error:
        lines = str(error).split("\n")
        more = [f"… and {len(lines) - MOST} more"] if len(lines) > MOST else []
        said = "\n".join([*lines[:MOST], *more])
        print(f"The book was not printed as it should be:\n{said}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
