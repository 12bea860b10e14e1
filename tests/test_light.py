"""What a page costs a telephone, counted so that no load changes it, and what axe-core finds."""

import gzip
from importlib.resources import files
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
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
  const same = [".bd-sidebar-primary", ".bd-footer"];  // on every page
  const where = first ? document : {exclude: same.filter((s) => document.querySelector(s))};
  const look = async (options) => {
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
  thin();
  return [...faults, ...await look({runOnly: colours})];
}
"""
# Of words, too, and for all pages together. Of a kind are those that look alike and stand inside of
# the same elements, of the same classes. A line stays whole: what a link differs from is beside it.
THIN = """
() => {
  window.thin = () => {
    const seen = JSON.parse(localStorage.kinds ?? "{}");
    const look = (e) => {
      const {color, backgroundColor, fontSize, fontWeight, opacity} = getComputedStyle(e);
      return [e.tagName, e.className, color, backgroundColor, fontSize, fontWeight, opacity];
    };
    const kinds = new Map([[document.body, ""]]);
    const kind = (e) => {
      if (!kinds.has(e)) kinds.set(e, `${kind(e.parentElement)}/${look(e)}`);
      return kinds.get(e);
    };
    const words = (e) => [...e.childNodes].filter((n) => n.nodeType === 3 && n.data.trim());
    const lines = new Map();
    for (const e of document.querySelectorAll(":is(article, .bd-sidebar-secondary) *")) {
      if (!words(e).length || e.closest("[style], [mathcolor], svg") || !e.checkVisibility())
        continue;
      let line = e.closest("math") ?? e;
      while (getComputedStyle(line).display.startsWith("inline")) line = line.parentElement;
      lines.set(line, [...(lines.get(line) ?? []), e]);
    }
    for (const [line, inside] of lines) {
      const own = new Set(inside.map((e) => kind(e.closest("math") ?? e)));
      const few = [...own].some((k) => (seen[k] ?? 0) < 6);
      if (few) own.forEach((k) => { seen[k] = (seen[k] ?? 0) + 1; });
      else inside.flatMap(words).forEach((word) => word.remove());
    }
    localStorage.kinds = JSON.stringify(seen);
  };
}
"""


def transferred(url: str) -> int:
    """Bytes of a file of the site, as a static host that compresses text sends them."""
    data = (HTML / unquote(urlsplit(url).path).lstrip("/")).read_bytes()
    text = Path(urlsplit(url).path).suffix in (".html", ".css", ".js", ".svg", ".json", "")
    return len(gzip.compress(data, 6)) if text else len(data)


@pytest.fixture(scope="module")
def loads(chromium: Browser, address: str) -> dict[str, dict]:  # noqa: F811
    """What each page asks for as it opens on a telephone, and how much of it then moves."""
    found = {}
    context = chromium.new_context(viewport={"width": 360, "height": 740})
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url))
    page.add_init_script(SHIFT)
    context.new_cdp_session(page).send("Network.setCacheDisabled", {"cacheDisabled": True})
    for name in (*PAGES, "search.html"):
        page.goto("about:blank")
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


@pytest.mark.site
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_axe_finds_nothing(chromium: Browser, address: str) -> None:  # noqa: F811
    """On a page as it opens; of the same page darkened, in its colours."""
    context = chromium.new_context(color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    found = {}
    for name in PAGES:
        page.emulate_media(color_scheme="light")
        page.goto(address + name)
        page.evaluate(AXE)
        page.evaluate(THIN)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_function(f"document.documentElement.dataset.theme == '{scheme}'")
            if faults := page.evaluate(LOOK, [scheme, name in (PAGES[0], "book/api.html")]):
                found[name, scheme] = faults
    context.close()
    assert found == {}


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
