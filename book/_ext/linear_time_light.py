"""Pages that open at once: of what the theme ships, a page asks for what it uses.

All of this is done to the rendered pages at the end. Where the theme's own files have changed so
that a line to be replaced is not there, the build fails.
"""

from __future__ import annotations

import hashlib
import logging
import posixpath
import re
import zlib
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
OPTIONS = re.compile(r'<script[^>]*src="[^"]*_static/documentation_options\.js[^"]*"></script>')
#: A script -> the class without which a page has no use of it.
WANTS = {
    "design-tabs.js": r'class="[^"]*\bsd-tab',
    "togglebutton.js": (
        r'class="(?:[^"]* )?toggle[" ]|class="(?=[^"]*\bdropdown\b)[^"]*\badmonition\b'
    ),
}
PARTS = 'aria-label="Its pages"'  # of an entry of the contents that has some
STYLE = re.compile(r'[ \t]*<link\b[^>]*\brel="stylesheet"[^>]*>\n?')


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
    # From a brace on: begun at every letter, it takes most of a second.
    rule = r"(?<![^{}])([^{}]*)\{content:\s*\"\\([ef][0-9a-f]{3})\""
    for selector, code in re.findall(rule, style):
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


def whole_style(path: Path, static: Path) -> str:
    """A sheet with those that it imports, its addresses from the site's folder of files."""
    text = path.read_text(encoding="utf8")
    folder = path.parent.relative_to(static).as_posix()

    def address(found: re.Match[str]) -> str:
        return f"url({posixpath.normpath(posixpath.join(folder, found[1]))})"

    text = re.sub(r"""url\(["']?(?!data:|[#%/]|[a-z]+:)([^"')]+)["']?\)""", address, text)
    text = re.sub(r"@charset [^;]*;", "", text)
    return re.sub(
        r"""@import ["']([^"']+)["'];""",
        lambda found: whole_style((path.parent / found[1]).resolve(), static.resolve()),
        text,
    )


def sheets(page: str) -> tuple[str, ...]:
    """The sheets that a page asks for, or those of which its one sheet was made."""
    found = []
    for link in STYLE.findall(page):
        made = re.search(r'data-of="([^"]*)"', link)
        named = re.search(r'href="[^"]*_static/([^"?]+)', link)
        found += made[1].split() if made else [named[1]] if named else []
    return tuple(found)


def one_style(page: str, name: str, made: dict[tuple[str, ...], str]) -> str:
    """A page that asks for one sheet, in the place of the first of its own."""
    names = sheets(page)
    if not names:
        return page
    href = f"{'../' * name.count('/')}_static/{made[names]}"
    link = f'    <link rel="stylesheet" href="{href}" data-of="{" ".join(names)}" />\n'
    start = STYLE.search(page).start()  # type: ignore[union-attr]
    return page[:start] + link + STYLE.sub("", page[start:])


def plain_tokens(style: str) -> set[str]:
    """The classes of code that look as code without a class does, in both schemes."""
    rules = re.findall(r'\[data-theme="(\w+)"\] \.highlight(?: \.(\w+))? *\{([^}]*)\}', style)
    base = {}
    for theme, token, said in rules:
        if not token:
            color = re.search(r"(?<![-\w])color: *([^;\s]+)", said)
            base[theme] = color[1] if color else ""
    seen: dict[str, list[bool]] = {}
    for theme, token, said in rules:
        if token:
            seen.setdefault(token, []).append(said.strip(" ;") == f"color: {base.get(theme)}")
    return {token for token, alike in seen.items() if len(alike) == len(base) and all(alike)}


def unwrapped(page: str, plain: set[str]) -> str:
    """Blocks of code without the marks that nobody sees."""
    if not plain:
        return page
    token = re.compile(rf'<span class="(?:{"|".join(sorted(plain))})">([^<]*)</span>')
    return re.sub(
        r"<pre>.*?</pre>", lambda block: token.sub(r"\1", block[0]), page, flags=re.DOTALL
    )


def later(page: str, options: str) -> str:
    """Scripts run when the page is read, and those that it has no use for not at all.

    What they ask for is written into the page.
    """
    head, end, body = page.partition("</head>")
    head = OPTIONS.sub(lambda _: f"<script>{options}</script>", head)
    for script, wanted in WANTS.items():
        if not re.search(wanted, body):
            head = re.sub(rf"\s*<script[^>]*/{re.escape(script)}[^>]*></script>", "", head)
    head = re.sub(r"<script (?![^>]*\b(?:defer|async)\b)(?=[^>]*\bsrc=)", "<script defer ", head)
    return head + end + body


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
            image.save(made, lossless=True, exact=True)
        return image.size


def picture(tag: str, sizes: dict[str, tuple[int, int]], first: bool) -> str:
    """An image with the place that it takes, fetched when it is near, unless it is the first."""
    name = re.search(r'src="[^"]*_images/([^"/]+)"', tag)
    if name is None or name[1] not in sizes or " width=" in tag or " loading=" in tag:
        return tag
    width, height = sizes[name[1]]
    lazy = "" if first else ' loading="lazy"'
    tag = tag.replace(name[0], name[0].replace(".png", ".webp"))
    return tag.replace("<img ", f'<img width="{width}" height="{height}"{lazy} ')


def lighter(text: str, name: str, sizes: dict[str, tuple[int, int]], font: str) -> str:
    """A page that asks for less, its icons silent and its lists whole."""
    if name != "search.html":
        text = SEARCH.sub("", text)
    text = ICONS.sub("", text)
    text = THEME.sub(lambda _: RESOLVED, text)
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
    text = text.replace('<summary><span class="toctree-', f'<summary {PARTS}><span class="toctree-')
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
    for path in static.glob("pages-*.css"):
        path.unlink()  # of the last build
    style = "".join(path.read_text(encoding="utf8") for path in static.rglob("*.css"))
    scripts = "".join(
        path.read_text(encoding="utf8", errors="replace")
        for path in static.rglob("*.js")
        if path.name != "fontawesome.js"  # which no page asks for
    )
    shown = "".join(pages.values()) + scripts
    wanted = codes(shown, style)
    if not wanted:
        raise ExtensionError("no icon was found in the theme's styles")
    used = set(re.findall(r"[\w-]+", shown))
    for font in (static / "vendor" / "fontawesome" / "webfonts").glob("*.woff2"):
        cut_icons(font, wanted)
    sizes = {path.name: smaller(path) for path in (out / "_images").glob("*.png")}
    version = hashlib.sha256((static / "math.woff2").read_bytes()).hexdigest()[:8]
    styles = {}
    for names in {sheets(text) for text in pages.values()} - {()}:
        whole = "".join(whole_style(static / name, static) for name in names)
        whole = re.sub(r"url\(math\.woff2[^)]*\)", f"url(math.woff2?v={version})", whole)
        cut = without_unused(tinycss2.parse_stylesheet(whole, True, True), used)
        made = f'@charset "utf-8";{cut}'.encode()
        file = f"pages-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:6]}.css"
        (static / file).write_bytes(made)
        styles[names] = f"{file}?v={hashlib.sha256(made).hexdigest()[:8]}"
    plain = plain_tokens((static / "pygments.css").read_text(encoding="utf8"))
    options = (static / "documentation_options.js").read_text(encoding="utf8")
    for path, text in pages.items():
        name = path.relative_to(out).as_posix()
        new = lighter(text, name, sizes, version)
        new = unwrapped(one_style(new, name, styles), plain)
        if name != "search.html":
            new = later(new, options)
        if new != text:
            path.write_text(new, encoding="utf8")


def setup(app: Sphinx) -> dict[str, bool | int]:
    app.connect("build-finished", lighten, priority=950)
    version = zlib.crc32(Path(__file__).read_bytes())  # a change here writes every page again
    return {"env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
