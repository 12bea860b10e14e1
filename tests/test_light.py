"""What a page costs a telephone, counted so that no load changes it, and what axe-core finds."""

import functools
import gzip
import os
import re
import shutil
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from fontTools.ttLib import TTFont
from PIL import Image
from playwright.sync_api import Browser

from book import ROOT, load
from test_site import HTML, PAGES, address  # noqa: F401

light = load(ROOT / "book" / "_ext" / "linear_time_light.py")
AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf8")
MOST = {"bytes": 250 * 1024, "bytes of scripts": 60 * 1024, "requests": 24, "elements": 12_000}
SHIFT = """
new PerformanceObserver((list) => list.getEntries().forEach((e) => {
  if (!e.hadRecentInput) window.shift = (window.shift ?? 0) + e.value;
})).observe({type: "layout-shift", buffered: true});
"""
# The accessibility guidelines' rules but those of colours; then, light and dark, those of colours.
LOOK = """
async ([scheme, first]) => {
  const tags = {type: "tag", values: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]};
  const colours = ["color-contrast", "link-in-text-block"];
  const rest = Object.fromEntries(colours.map((rule) => [rule, {enabled: false}]));
  const same = first ? [] : [".bd-sidebar-primary", ".bd-footer"];  // on every page
  const there = () => same.filter((s) => document.querySelector(s));
  const look = async (options) => {
    const where = there().length ? {exclude: there()} : document;
    const found = await axe.run(where, {resultTypes: ["violations"], ...options});
    return found.violations.flatMap((v) => v.nodes.map((n) => `${v.id}: ${n.target.join(" ")}`));
  };
  if (scheme === "dark") return look({runOnly: colours});
  // What is wider than its box takes keys once a reader is near.
  for (const box of document.querySelectorAll(".equation, pre"))
    if (box.checkVisibility() && box.scrollWidth > box.clientWidth + 1) {
      box.scrollIntoView();
      for (let frames = 0; frames < 100 && box.tabIndex < 0; frames++)
        await new Promise((done) => requestAnimationFrame(done));
    }
  // Of code a few marks of each kind tell its colours.
  const marks = {};
  for (const mark of document.querySelectorAll("article :is(pre, dt.sig) span[class]")) {
    const kind = `${mark.className} in ${mark.parentElement?.className}`;
    marks[kind] = (marks[kind] ?? 0) + 1;
    if (marks[kind] > 3 && !mark.id) mark.replaceWith(mark.textContent);
  }
  const faults = await look({runOnly: tags, rules: rest});
  there().forEach((s) => document.querySelector(s).remove());
  thin(first);
  return [...faults, ...await look({runOnly: colours})];
}
"""
# Of words, too, and for all pages together. Of a kind are those that look alike, light and dark,
# and stand inside of the same elements, of the same classes. A line stays whole: what a link
# differs from is beside it. What is left empty goes, but of tables: rows are coloured by number.
THIN = """
() => {
  window.thin = (first) => {
    const seen = JSON.parse(localStorage.kinds ?? "{}");
    const look = (e) => {
      const {color, backgroundColor, fontSize, fontWeight, opacity} = getComputedStyle(e);
      return [e.tagName, e.className, color, backgroundColor, fontSize, fontWeight, opacity];
    };
    const words = (e) => [...e.childNodes].filter((n) => n.nodeType === 3 && n.data.trim());
    const gone = [];
    const lines = new Map();
    const those = first ? ":is(article, .bd-sidebar-secondary) *" : "body *";
    for (const e of document.querySelectorAll(those)) {
      if (!words(e).length || e.closest("[style], [mathcolor], svg") || !e.checkVisibility())
        continue;
      let line = e.closest("math") ?? e;
      while (getComputedStyle(line).display.startsWith("inline")) line = line.parentElement;
      lines.set(line, [...(lines.get(line) ?? []), e]);
    }
    const [dark, light] = ["dark", "light"].map((scheme) => {
      document.documentElement.dataset.theme = scheme;
      const kinds = new Map([[document.body, ""]]);
      const kind = (e) => {
        if (!kinds.has(e)) kinds.set(e, `${kind(e.parentElement)}/${look(e)}`);
        return kinds.get(e);
      };
      [...lines.values()].flat().forEach((e) => kind(e.closest("math") ?? e));
      return kinds;
    });
    const both = (e) => `${light.get(e)} ${dark.get(e)}`;
    for (const inside of lines.values()) {
      const own = new Set(inside.map((e) => both(e.closest("math") ?? e)));
      const few = [...own].some((k) => (seen[k] ?? 0) < 6);
      if (few) own.forEach((k) => { seen[k] = (seen[k] ?? 0) + 1; });
      else gone.push(...inside);
    }
    const empty = (e) =>
      !e.childElementCount && !e.textContent.trim() && !e.matches("article, body, tr, th, td");
    for (const e of gone) {
      words(e).forEach((word) => word.remove());
      let at = e.closest("math") ?? e;
      for (let up; at && (at.matches("math") || empty(at)); at = up) {
        up = at.parentElement;
        at.remove();
      }
    }
    localStorage.kinds = JSON.stringify(seen);
  };
}
"""


def transferred(url: str) -> int:
    """Bytes of a file of the site, as a static host that compresses text sends them."""
    return sent(HTML / unquote(urlsplit(url).path).lstrip("/"))


@functools.cache
def sent(path: Path) -> int:
    data = path.read_bytes()
    text = path.suffix in (".html", ".css", ".js", ".svg", ".json", "")
    return len(gzip.compress(data, 6)) if text else len(data)


@pytest.fixture(scope="module")
def loads(chromium: Browser, address: str) -> dict[str, dict]:  # noqa: F811
    """What each page asks for as it opens on a telephone, how much of it then moves, and what axe
    finds on it when it is wide: in light, and of the same page darkened, in its colours.
    """
    found = {}
    context = chromium.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.add_init_script(SHIFT)
    context.new_cdp_session(page).send("Network.setCacheDisabled", {"cacheDisabled": True})
    for name in (*PAGES, "search.html"):
        page.goto("about:blank")
        page.set_viewport_size({"width": 360, "height": 740})
        page.emulate_media(color_scheme="light", reduced_motion="no-preference")
        asked.clear()
        page.goto(address + name)
        page.evaluate("() => document.fonts.ready.then(() => null)")
        here = {url for url in asked if url.startswith(address)}
        found[name] = {
            "requests": len(here),
            "bytes": sum(map(transferred, here)),
            "bytes of scripts": sum(transferred(url) for url in here if ".js" in url),
            "elements": page.evaluate("() => document.querySelectorAll('*').length"),
            "scripts": sorted(Path(url).name for url in here if ".js" in url),
            "shift": page.evaluate("() => window.shift ?? 0"),
        }
        if name == "search.html":
            continue
        page.set_viewport_size({"width": 1280, "height": 720})
        page.emulate_media(reduced_motion="reduce")
        page.evaluate(AXE)
        page.evaluate(THIN)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function(f"document.documentElement.dataset.theme == '{scheme}'")
            found[name][scheme] = page.evaluate(LOOK, [scheme, name in (PAGES[0], "book/api.html")])
    context.close()
    return found


@pytest.mark.site
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestPages:
    def test_a_page_is_light(self, loads: dict) -> None:
        heavy = {
            (name, what): seen[what]
            for name, seen in loads.items()
            for what, most in MOST.items()
            if seen[what] > most and (name, what) != ("search.html", "bytes of scripts")
        }
        assert heavy == {}

    def test_no_page_asks_for_mathjax_icons_or_the_search_index(self, loads: dict) -> None:
        unwanted = ("mathjax", "tex-chtml", "fontawesome", "searchindex", "searchtools")
        asked = {
            (name, script)
            for name, seen in loads.items()
            for script in seen["scripts"]
            if script.startswith(unwanted) and not (name == "search.html" and "search" in script)
        }
        assert asked == set()

    def test_nothing_moves_while_a_page_opens(self, loads: dict) -> None:
        moved = {name: seen["shift"] for name, seen in loads.items() if seen["shift"] > 0.02}
        assert moved == {}

    def test_axe_finds_nothing(self, loads: dict) -> None:
        assert {name for name, seen in loads.items() if "dark" in seen} == set(PAGES)
        faults = {
            (name, scheme): seen[scheme]
            for name, seen in loads.items()
            for scheme in ("light", "dark")
            if seen.get(scheme)
        }
        assert faults == {}


def test_a_line_of_the_theme_that_is_gone_fails_the_build() -> None:
    assert light.replace_once("a b", "b", "c", "x.js") == "a c"
    for text in ("a", "b b"):
        with pytest.raises(light.ExtensionError, match=r"x\.js: expected once"):
            light.replace_once(text, "b", "c", "x.js")


def test_icons_are_those_of_the_pages_and_of_the_styles() -> None:
    style = (
        '.fa-one:before{content:"\\f001"}.fa-two:before,.fa-zwei:before{content:"\\f002"}'
        '.fa-three:before{content:"\\f003"}.arrow::after{content:"\\f004"}'
    )
    assert light.codes('<i class="fas fa-one"></i> fa-zwei', style) == {0xF001, 0xF002, 0xF004}


def test_a_rule_goes_where_no_page_has_its_class() -> None:
    style = (
        "@charset 'x';.a.gone{}.a,.gone .a{x:1}@media print{.gone{}}"
        "@media print{p{}.gone{}}.a:not(.gone){}.bs-tooltip-top{}div>.a:before{}"
    )
    kept = "@charset 'x';.a{x:1}@media print{p{}}.a:not(.gone){}.bs-tooltip-top{}div>.a:before{}"
    rules = light.tinycss2.parse_stylesheet(style, True, True)
    made = light.without_unused(rules, {"a", "bs-tooltip-"})
    assert made.replace('"', "'") == kept


def test_a_picture_is_the_same_in_fewer_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    noise = bytes(i * i % 251 for i in range(30 * 20 * 4))
    Image.frombytes("RGBA", (30, 20), noise).save(path)
    assert light.smaller(path) == (30, 20)
    with Image.open(path.with_suffix(".webp")) as made:
        assert made.convert("RGBA").tobytes() == noise


def test_lists_and_menus_are_what_they_say() -> None:
    page = (
        '<div role="list" class="citation-list"><a></a><div role="doc-biblioentry"></div></div>'
        '<img alt="Colab logo" src="../_static/images/logo_colab.png"><i class="fas fa-x"></i>'
        "<dl><dd>a</dd><dd>b</dd></dl><dl><dt>c</dt><dd>d</dd></dl>"
        '<summary><span class="toctree-toggle"></span></summary>'
    )
    made = light.lighter(page, "chapters/x.html", {}, "v")
    assert '<summary aria-label="Its pages"><span class="toctree-toggle">' in made
    assert "role=" not in made and made.count('loading="lazy"') == 1
    assert '<i aria-hidden="true" class="fas' in made
    assert '<span class="sig-params"><span>a</span><span>b</span></span><dl><dt>' in made


def test_pictures_have_their_place_and_wait_but_the_first() -> None:
    page = '<title>x</title><img src="../_images/a.png"><img alt="b" src="../_images/a.png">'
    made = light.lighter(page, "chapters/x.html", {"a.png": (30, 20)}, "v")
    assert made.count('width="30" height="20"') == 2
    assert made.count('loading="lazy"') == 1
    assert made.index('loading="lazy"') > made.index("a.webp")
    assert "a.png" not in made and made.count("a.webp") == 2
    assert "preload" not in made


def test_the_search_page_alone_keeps_the_index() -> None:
    page = (
        '<title>x</title><script src="_static/searchtools.js"></script>'
        '<script src="searchindex.js"></script><script defer src="_static/scripts/fontawesome.js">'
        "</script><math></math>"
    )
    assert "search" not in light.lighter(page, "index.html", {}, "v")
    assert light.lighter(page, "search.html", {}, "v").count("search") == 2
    assert 'href="../../_static/math.woff2?v=v"' in light.lighter(page, "a/b/c.html", {}, "v")


def test_a_page_asks_for_one_sheet_made_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "styles").mkdir()
    (tmp_path / "basic.css").write_text("a{background:url(file.png)}", encoding="utf8")
    (tmp_path / "styles" / "theme.css").write_text(
        '@charset "utf-8";@import "../basic.css";b{src:url("../f.woff2") url(data:x) url(#y)}',
        encoding="utf8",
    )
    whole = light.whole_style(tmp_path / "styles" / "theme.css", tmp_path)
    assert whole == "a{background:url(file.png)}b{src:url(f.woff2) url(data:x) url(#y)}"
    page = (
        '<a>\n<link href="../_static/styles/theme.css?digest=1" rel="stylesheet" />\n'
        '<b>\n  <link rel="stylesheet" type="text/css" href="../_static/own.css?v=2" />\n<c>'
    )
    names = ("styles/theme.css", "own.css")
    assert light.sheets(page) == names
    made = light.one_style(page, "chapters/x.html", {names: "pages.css?v=1"})
    assert made.count("stylesheet") == 1 and '"../_static/pages.css?v=1"' in made
    assert made.index("<a>") < made.index("stylesheet") < made.index("<b>") < made.index("<c>")
    assert light.sheets(made) == names  # the next build makes it of the same
    assert light.one_style("<a>", "index.html", {}) == "<a>"


def test_code_keeps_the_marks_that_are_seen() -> None:
    style = "".join(
        f'html[data-theme="{theme}"] .highlight {{ background: #{ground}; color: #{ink} }}\n'
        f'html[data-theme="{theme}"] .highlight .n {{ color: #{ink} }} /* Name */\n'
        f'html[data-theme="{theme}"] .highlight .k {{ color: #{ink}; font-weight: bold }}\n'
        f'html[data-theme="{theme}"] .highlight .o {{ color: #{other} }}\n'
        for theme, ground, ink, other in (("light", "f", "1", "1"), ("dark", "0", "e", "a"))
    )
    assert light.plain_tokens(style) == {"n"}
    page = (
        '<span class="n">a</span><pre><span></span><span class="n">b&lt;</span>'
        '<span class="k">if</span></pre>'
    )
    kept = '<span class="n">a</span><pre><span></span>b&lt;<span class="k">if</span></pre>'
    assert light.unwrapped(page, {"n", "p"}) == kept
    assert light.unwrapped(page, set()) == page


def test_scripts_wait_and_those_without_use_go() -> None:
    head = (
        '<head><script data-url_root="./" src="_static/documentation_options.js?v=1"></script>'
        '<script src="_static/doctools.js"></script><script async src="a.js"></script>'
        '<script data-x="y" src="_static/design-tabs.js?v=2"></script>'
        '<script src="_static/togglebutton.js"></script><script>let x = 1;</script></head>'
    )
    made = light.later(head + '<a class="primary-toggle dropdown">', "const O = 1;")
    assert made.startswith("<head><script>const O = 1;</script><script defer src=")
    assert '<script async src="a.js">' in made and "<script>let x = 1;</script>" in made
    assert "tabs" not in made and "togglebutton" not in made
    for body in ('<a class="x toggle">', '<a class="note admonition dropdown">'):
        assert "togglebutton" in light.later(head + body, "")
    assert "design-tabs" in light.later(head + '<a class="sd-tab-set">', "")


def test_pages_without_use_of_a_thing_do_not_ask_for_it() -> None:
    """By each thing's own mark, on pages at any depth."""
    icons = '<i class="fa-x"></i><i class="theme-switch"></i><i class="other"></i>'
    old = '\n<link rel="preload" as="font" href="../_static/math.woff2?v=old" />'
    theme = "document.documentElement.dataset.theme = localStorage.getItem('theme') || '';"
    page = (
        f"<title>x</title>{old}<script>{theme}</script>{icons}<math></math><title>y</title>"
        '<p aria-label="Toggle hidden content"><img src="_static/images/logo_a.png">'
        '<img alt="" src="other/images/logo_b.png"><img src="_static/logo.png">'
    )
    made = light.lighter(page, "book/x.html", {}, "new")
    assert made.count("math.woff2") == 1 and "?v=old" not in made
    assert '</title>\n  <link rel="preload" as="font" type="font/woff2" crossorigin ' in made
    assert made.index("preload") < made.index("<title>y")
    assert 'href="../_static/math.woff2?v=new" />' in made
    assert theme not in made and made.count(light.RESOLVED) == 1
    assert made.count('aria-hidden="true"') == 2 and "Toggle hidden" not in made
    assert made.count('<img loading="lazy"') == 2
    assert "preload" not in light.lighter(page.replace("<math></math>", ""), "x.html", {}, "new")


@pytest.mark.parametrize(
    ("tag", "made"),
    [
        ('<img src="_images/b.png">', None), ('<img width="3" src="_images/a.png">', None),
        ('<img loading="lazy" src="_images/a.png">', None), ('<img src="_static/a.png">', None),
        ('<img alt="a.png" src="_images/a.png">',
         '<img width="3" height="2" alt="a.png" src="_images/a.webp">'),
    ],
)  # fmt: skip
def test_what_a_picture_already_has_is_left(tag: str, made: str | None) -> None:
    assert light.picture(tag, {"a.png": (3, 2)}, True) == (made or tag)


def test_a_picture_is_written_again_where_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for color, age, new in (("red", 100, True), ("blue", 50, True), ("green", 50, False)):
        Image.new("RGB", (4, 3), color).save(path)
        os.utime(path, (1000 - age, 1000 - age))
        assert light.smaller(path) == (4, 3)
        with Image.open(path.with_suffix(".webp")) as made:
            shown = made.convert("RGB").getpixel((0, 0))
        with Image.open(path) as given:
            assert (shown == given.getpixel((0, 0))) == new
        os.utime(path.with_suffix(".webp"), (1000 - age, 1000 - age))


def test_icons_that_no_page_draws_leave_the_font(tmp_path: Path) -> None:
    font = tmp_path / "a.woff2"
    shutil.copy(ROOT / "book" / "math" / "linear-time-math.woff2", font)
    whole = font.stat().st_size
    light.cut_icons(font, {ord("x"), 0xF000})
    cut = TTFont(font)
    assert set(cut.getBestCmap()) == {ord("x")} and cut.flavor == "woff2"
    assert font.stat().st_size < whole / 10


def test_a_style_that_cannot_be_read_ends_the_build() -> None:
    for style in ("p", "a{} p", "@media print{p}"):
        rules = light.tinycss2.parse_stylesheet(style, True, True)
        with pytest.raises(light.ExtensionError, match="a style that cannot be read: "):
            light.without_unused(rules, {"a"})


@pytest.mark.parametrize(
    ("style", "used", "kept"),
    [
        (".a.b{}", {"a", "b"}, True), (".a.b{}", {"a"}, False), (".ab-cd{}", {"ab-"}, False),
        (".abc-d{}", {"abc-"}, True), (".abc-d{}", {"abc"}, False), ("a.b c{}", {"b"}, True),
        ("@supports (x: y){.a{}}", {"a"}, True), ("@supports (x: y){.a{}}", {"b"}, False),
        ("@MEDIA print{.a{}}", {"b"}, False), ("@font-face{src:x}", set(), True),
    ],
)  # fmt: skip
def test_which_rules_live(style: str, used: set, kept: bool) -> None:
    rules = light.tinycss2.parse_stylesheet(style, True, True)
    made = light.without_unused(rules, used)
    assert made == (style if kept else "")


THEME = "document.documentElement.dataset.theme = localStorage.getItem('theme');"


@pytest.fixture
def rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A site as the theme leaves it: three pages that are made light, two that are not."""
    out = tmp_path / "html"
    head = (
        f"<html><head><title>x</title><script>{THEME}</script>\n"
        '<link href="{up}_static/basic.css?v=1" rel="stylesheet" />\n'
        '<link href="{up}_static/pygments.css?v=1" rel="stylesheet" />\n'
        '<script src="{up}_static/documentation_options.js?v=1"></script>'
        '<script src="{up}searchindex.js"></script></head>'
        '<body class="used"><i class="fas fa-one"></i><math></math>{body}</body></html>'
    )
    code = '<pre><span class="n">a</span><span class="k">b</span></pre>'
    bodies = {
        "index": "", "search": "", "chapters/01-a": f'<img src="../_images/p.png">{code}',
        "slides/01-a": code, "_static/frame": code,
    }  # fmt: skip
    for name, body in bodies.items():
        path = out / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = head.replace("{up}", "../" * name.count("/")).replace("{body}", body)
        path.write_text(text, encoding="utf8")
    static = out / "_static"
    tokens = "".join(
        f'html[data-theme="{theme}"] .highlight {{ color: #{ink} }}\n'
        f'html[data-theme="{theme}"] .highlight .n {{ color: #{ink} }}\n'
        for theme, ink in (("light", "1"), ("dark", "e"))
    )
    given = {
        "basic.css": '.used{a:b}.gone{c:d}.js-made{e:f}.font{src:url(math.woff2)}',
        "pygments.css": tokens,
        "icons.css": '.fa-one:before{content:"\\f001"}.fa-two:before{content:"\\f002"}',
        "pages-000000.css": "of the last build",
        "documentation_options.js": "const OPTIONS = 1;",
        "scripts/pydata-sphinx-theme.js": f"js-made font; a.{light.MEASURES}",
        "scripts/fontawesome.js": "fa-two gone",
        "vendor/fontawesome/webfonts/solid.woff2": "whole font",
        "math.woff2": "mathematics",
    }  # fmt: skip
    for name, text in given.items():
        (static / name).parent.mkdir(parents=True, exist_ok=True)
        (static / name).write_text(text, encoding="utf8")
    (out / "_images").mkdir()
    Image.new("RGB", (6, 5)).save(out / "_images" / "p.png")
    cut: list = []
    monkeypatch.setattr(light, "cut_icons", lambda font, wanted: cut.append((font.name, wanted)))
    app = SimpleNamespace(outdir=str(out), builder=SimpleNamespace(format="html"))
    return SimpleNamespace(out=out, static=static, cut=cut, app=app)


def pages_of(out: Path) -> dict[str, str]:
    found = sorted(out.rglob("*.html"))
    return {p.relative_to(out).as_posix(): p.read_text(encoding="utf8") for p in found}


def test_a_site_is_made_light_once(rendered) -> None:
    before = pages_of(rendered.out)
    light.lighten(rendered.app, None)
    assert rendered.cut == [("solid.woff2", {0xF001})]
    made = pages_of(rendered.out)
    for name in ("slides/01-a.html", "_static/frame.html"):
        assert made[name] == before[name]
    (sheet,) = rendered.static.glob("pages-*.css")
    style = sheet.read_text(encoding="utf8")
    version = light.hashlib.sha256(b"mathematics").hexdigest()[:8]
    assert style.startswith('@charset "utf-8";.used{a:b}.js-made{e:f}.font{')
    assert f"url(math.woff2?v={version})" in style and ".gone" not in style
    digest = light.hashlib.sha256(sheet.read_bytes()).hexdigest()[:8]
    assert re.fullmatch(r"pages-[0-9a-f]{6}\.css", sheet.name)
    for name in ("index.html", "search.html", "chapters/01-a.html"):
        up = "../" * name.count("/")
        assert f'href="{up}_static/{sheet.name}?v={digest}" data-of="basic.css pyg' in made[name]
        assert made[name].count("stylesheet") == 1 and light.RESOLVED in made[name]
        assert f'href="{up}_static/math.woff2?v={version}"' in made[name]
        assert ("searchindex" in made[name]) == (name == "search.html")
        assert ("const OPTIONS = 1;" in made[name]) == (name != "search.html")
    chapter = made["chapters/01-a.html"]
    assert '<img width="6" height="5" src="../_images/p.webp">' in chapter
    assert '<pre>a<span class="k">b</span></pre>' in chapter
    script = rendered.static / "scripts" / "pydata-sphinx-theme.js"
    assert script.read_text(encoding="utf8") == f"js-made font; a.{light.NEAR}"

    written = {path: path.stat().st_mtime_ns for path in rendered.out.rglob("*.html")}
    light.lighten(rendered.app, None)  # where nothing was written again
    assert pages_of(rendered.out) == made and sheet.read_text(encoding="utf8") == style
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_site_without_icons_or_with_another_theme_ends_the_build(rendered) -> None:
    for kind, error in (("tex", None), ("html", ValueError())):
        rendered.app.builder.format = kind
        before = pages_of(rendered.out)
        light.lighten(rendered.app, error)
        assert pages_of(rendered.out) == before and not rendered.cut
    rendered.app.builder.format = "html"
    (rendered.static / "icons.css").unlink()
    with pytest.raises(light.ExtensionError, match="no icon was found"):
        light.lighten(rendered.app, None)
    script = rendered.static / "scripts" / "pydata-sphinx-theme.js"
    script.write_text("another", encoding="utf8")
    with pytest.raises(light.ExtensionError, match=r"pydata-sphinx-theme\.js: expected once"):
        light.lighten(rendered.app, None)
