"""Pages that open at once: of what the theme ships, a page asks for what it uses.

All of this is done to the rendered pages at the end. Where the theme's own files have changed so
that a line to be replaced is not there, the build fails.
"""

from __future__ import annotations

import hashlib
import logging
import re
from itertools import groupby, pairwise
from pathlib import Path

import tinycss2
from fontTools import subset
from PIL import Image
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from tinycss2 import serialize

logging.getLogger("fontTools").setLevel(logging.ERROR)
# The theme measures every block of code as the page opens, and so lays the whole page out.
MEASURES = (
    "forEach(e=>{e.tabIndex=e.scrollWidth>e.clientWidth||e.scrollHeight>e.clientHeight?0:-1})"
)
NEAR = (
    "forEach(e=>(window.near??=new IntersectionObserver(all=>all.filter(a=>a.isIntersecting)"
    ".map(({target:t})=>[t,t.scrollWidth>t.clientWidth||t.scrollHeight>t.clientHeight])"
    ".forEach(([t,s])=>{t.tabIndex=s?0:-1}),{rootMargin:'100% 0px'})).observe(e))"
)
THEME = re.compile(r"document\.documentElement\.dataset\.theme = localStorage[^;]*;")
RESOLVED = """(root => {
      const dark = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
      root.theme = root.mode === "auto" ? dark : root.mode;
    })(document.documentElement.dataset);"""
SEARCH = re.compile(
    r'\s*<script[^>]*src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>'
)
ICONS = re.compile(r'\s*<script[^>]*src="[^"]*scripts/fontawesome\.js[^"]*"></script>')


def replace_once(text: str, old: str, new: str, where: str) -> str:
    """The text with its one `old` replaced.

    Raises:
        ExtensionError: there is none, or there are several.
    """
    if text.count(old) != 1:
        raise ExtensionError(f"{where}: expected once, got {text.count(old)} times: {old}")
    return text.replace(old, new)


def codes(pages: str, style: str) -> set[int]:
    """Code points of the icons that pages and styles use."""
    used = set(re.findall(r"fa-[\w-]+", pages))
    found = set()
    for selector, code in re.findall(r"([^{}]*)\{content:\s*\"\\([ef][0-9a-f]{3})\"", style):
        names = set(re.findall(r"fa-[\w-]+(?=:)", selector))
        if not names or names & used:
            found.add(int(code, 16))
    return found


def without_unused(rules: list[tinycss2.ast.Node], used: set[str]) -> str:
    """The rules of a style that could apply: those that ask for no class but the used ones.

    A name that ends in a hyphen, as scripts have, stands for all that begin with it.

    Raises:
        ExtensionError: the style cannot be read.
    """
    begun = tuple(name for name in used if len(name) > 3 and name.endswith("-"))

    def lives(selector: list[tinycss2.ast.Node]) -> bool:
        names = {
            name.value
            for dot, name in pairwise(selector)
            if dot == "." and name.type == "ident"  # what stands in :not(…) and its like is left
        }
        return all(name in used or name.startswith(begun) for name in names)

    kept = []
    for rule in rules:
        if rule.type == "error":
            raise ExtensionError(f"a style that cannot be read: {rule.message}")
        if rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports"):
            inside = without_unused(tinycss2.parse_rule_list(rule.content, True, True), used)
            if inside:
                kept.append(f"@{rule.at_keyword}{serialize(rule.prelude)}{{{inside}}}")
        elif rule.type == "qualified-rule":
            selectors = [
                list(s) for comma, s in groupby(rule.prelude, key=lambda t: t == ",") if not comma
            ]
            alive = ",".join(serialize(s) for s in selectors if lives(s))
            if alive:
                kept.append(f"{alive}{{{serialize(rule.content)}}}")
        else:
            kept.append(rule.serialize())
    return "".join(kept)


def cut_icons(font: Path, wanted: set[int]) -> None:
    options = subset.Options(flavor="woff2", layout_features=[])
    whole = subset.load_font(str(font), options)
    cutter = subset.Subsetter(options)
    cutter.populate(unicodes=wanted)
    cutter.subset(whole)
    subset.save_font(whole, str(font), options)


def smaller(path: Path) -> tuple[int, int]:
    """The size of a picture, which is written again as WebP: the same colours in half the bytes."""
    made = path.with_suffix(".webp")
    with Image.open(path) as image:
        if not made.exists() or made.stat().st_mtime < path.stat().st_mtime:
            image.save(made, lossless=True, method=4, exact=True)
        return image.size


def picture(tag: str, sizes: dict[str, tuple[int, int]], first: bool) -> str:
    """An image with the place that it takes, fetched when it is near, unless it is the first."""
    name = re.search(r'src="[^"]*_images/([^"/]+)"', tag)
    if name is None or name[1] not in sizes or " width=" in tag or " loading=" in tag:
        return tag
    width, height = sizes[name[1]]
    lazy = "" if first else ' loading="lazy"'
    tag = tag.replace(name[0], name[0].replace(".png", ".webp"))
    return tag.replace("<img ", f'<img width="{width}" height="{height}"{lazy} ', 1)


def lighter(text: str, name: str, sizes: dict[str, tuple[int, int]], font: str) -> str:
    """A page that asks for less, its icons silent and its lists whole."""
    if name != "search.html":
        text = SEARCH.sub("", text)
    text = ICONS.sub("", text)
    text = THEME.sub(lambda _: RESOLVED, text, count=1)
    text = re.sub(r'\s*<link rel="preload"[^>]*math\.woff2[^>]*/>', "", text)  # of the last build
    if "<math" in text:
        root = "../" * name.count("/")
        link = (
            '<link rel="preload" as="font" type="font/woff2" crossorigin '
            f'href="{root}_static/math.woff2?v={font}" />'
        )
        text = text.replace("</title>", f"</title>\n  {link}", 1)
    text = text.replace(' aria-label="Toggle hidden content"', "")
    text = re.sub(r'<i class="(fa|theme-switch)', r'<i aria-hidden="true" class="\1', text)
    # Pictures of a menu that is closed
    text = re.sub(r'<img (?=(?:alt="[^"]*" )?src="[^"]*images/logo_)', '<img loading="lazy" ', text)
    # Roles that are gone from the standard, and lists that hold more than their items
    text = re.sub(r' role="(?:doc-biblioentry|list)"', "", text)
    # Sphinx sets the parameters of a long signature as a list that has no terms.
    text = re.sub(
        r"<dl>\s*((?:<dd>(?:(?!</?d[ltd]).)*</dd>\s*)+)</dl>",
        lambda m: '<span class="sig-params">' + re.sub("(?<=[</])dd>", "span>", m[1]) + "</span>",
        text,
        flags=re.DOTALL,
    )
    seen = 0

    def each(match: re.Match[str]) -> str:
        nonlocal seen
        seen += 1
        return picture(match[0], sizes, seen == 1)

    return re.sub(r'<img [^>]*src="[^"]*_images/[^>]*>', each, text)


def lighten(app: Sphinx, error: Exception | None) -> None:
    """Make every page of the site light."""
    if error or app.builder.format != "html":
        return
    out = Path(app.outdir)
    static = out / "_static"
    paths = [
        p for p in out.rglob("*.html") if p.relative_to(out).parts[0] not in ("_static", "slides")
    ]
    pages = {path: path.read_text(encoding="utf8") for path in paths}
    script = static / "scripts" / "pydata-sphinx-theme.js"
    code = script.read_text(encoding="utf8")
    if NEAR not in code:  # the theme's files stay where nothing was written
        script.write_text(replace_once(code, MEASURES, NEAR, script.name), encoding="utf8")
    style = "".join(path.read_text(encoding="utf8") for path in static.rglob("*.css"))
    scripts = "".join(
        path.read_text(encoding="utf8", errors="replace")
        for path in static.rglob("*.js")
        if path.name != "fontawesome.js"  # which no page asks for
    )
    shown = "".join(pages.values()) + scripts
    wanted = codes(shown, style)
    used = set(re.findall(r"[\w-]+", shown))
    for pattern in ("styles/*.css", "sphinx-design*.css", "mystnb*.css"):
        for path in static.glob(pattern):
            rules = tinycss2.parse_stylesheet(path.read_text(encoding="utf8"), True, True)
            path.write_text(without_unused(rules, used), encoding="utf8")
    for font in (static / "vendor" / "fontawesome" / "webfonts").glob("*.woff2"):
        cut_icons(font, wanted)
    sizes = {path.name: smaller(path) for path in (out / "_images").glob("*.png")}
    version = hashlib.sha256((static / "math.woff2").read_bytes()).hexdigest()[:8]
    custom = static / "custom.css"
    sheet = custom.read_text(encoding="utf8")
    custom.write_text(
        re.sub(r"url\(math\.woff2[^)]*\)", f"url(math.woff2?v={version})", sheet), encoding="utf8"
    )
    for path, text in pages.items():
        new = lighter(text, path.relative_to(out).as_posix(), sizes, version)
        if new != text:
            path.write_text(new, encoding="utf8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", lighten, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
