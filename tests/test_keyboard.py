"""Every page with the keyboard alone: what can be clicked is reached by Tab, seen, and used."""

import pytest
from playwright.sync_api import Browser, Page

from test_site import PAGES, address, page, reader, settle

__all__ = ["address", "page", "reader"]  # fixtures
pytestmark = [pytest.mark.site, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

# What a pointer could use: each must be reached by Tab. Of radio buttons in a group one is, and
# what lies in a closed menu or fold is not asked for. What is the same on every page is walked on
# the first, and on the one whose part of the contents is open. Of a kind six in the whole book are
# walked. Another one is spared that if it stands in the order of Tab, takes the focus, keeps it,
# and lets a Tab pass.
START = """
(first) => {
  if (!first)
    document.querySelectorAll('.bd-sidebar-primary, .bd-footer').forEach((e) => e.inert = true);
  const still = document.createElement('style');
  still.textContent = `* {transition: none !important; animation: none !important}
    body {clip-path: inset(100%)}`;  // nothing is painted, which takes the longest
  document.head.append(still);
  document.querySelectorAll('article details').forEach((fold) => { fold.open = true; });
  const usable = 'a[href], button, summary, input, select, textarea, [role=button], [onclick]';
  const groups = new Set();
  const all = [...document.querySelectorAll(usable)].filter((e) => {
    if (!e.checkVisibility({checkVisibilityCSS: true}) || e.closest('[inert]')) return false;
    if (e.disabled || e.type === 'hidden') return false;
    if (e.type !== 'radio' || !e.name) return true;
    const first = !groups.has(e.name) && (e.checked || !document.querySelector(
      `input[type=radio][name="${CSS.escape(e.name)}"]:checked`));
    if (first) groups.add(e.name);
    return first;
  });
  window.waiting = new Set();
  window.unseen = [];
  addEventListener('focusin', ({target}) => {
    waiting.delete(target);
    let clear = true;
    for (let e = target; e; e = e.parentElement) clear &&= getComputedStyle(e).opacity > 0.1;
    const style = getComputedStyle(target);
    const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
    if (!clear || !(ring || style.boxShadow !== 'none'))
      unseen.push(target.outerHTML.slice(0, 90));
  });
  const seen = JSON.parse(localStorage.kinds ?? '{}');
  const kind = (e) => e ? `${kind(e.parentElement)}/${e.tagName} ${e.className}` : '';
  const walked = all.filter((e) => {
    const tab = new KeyboardEvent('keydown', {key: 'Tab', bubbles: true, cancelable: true});
    e.focus({preventScroll: true});
    const free = e.tabIndex >= 0 && e.dispatchEvent(tab) && document.activeElement === e;
    seen[kind(e)] = (seen[kind(e)] ?? 0) + 1;
    return !free || seen[kind(e)] <= 6;
  });
  localStorage.kinds = JSON.stringify(seen);
  window.waiting = new Set(walked);
  all.forEach((e) => { if (!waiting.has(e)) e.tabIndex = -1; });
  document.body.tabIndex = -1;
  document.body.focus();  // the walk begins at the top
  return all.length;
}
"""


@pytest.fixture(scope="module")
def walks(chromium: Browser, address: str) -> dict[str, dict[str, list[str]]]:
    """What Tab did not reach on each page, and what it reached unseen."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    found = {}
    for name in PAGES:
        page.goto(address + name)
        settle(page)
        first = name in (PAGES[0], "book/api.html")
        left = page.evaluate(START, first)
        assert left > (10 if first else 5)
        pressed = 0
        while pressed < 3 * left + 50 and (waiting := page.evaluate("() => waiting.size")):
            for _ in range(max(waiting, 10)):
                page.keyboard.down("Tab")  # held: it moves on with each
                pressed += 1
        found[name] = page.evaluate(
            "() => ({lost: [...waiting].map(e => e.outerHTML.slice(0, 90)), unseen})"
        )
    context.close()
    return found


@pytest.mark.parametrize("what", ["lost", "unseen"])
def test_tab_reaches_what_can_be_used_and_shows_where_it_is(walks: dict, what: str) -> None:
    assert {name: seen[what] for name, seen in walks.items() if seen[what]} == {}


def test_enter_opens_a_fold_and_a_menu(page: Page, address: str) -> None:
    page.goto(address + "chapters/12-discretization.html")
    fold = page.locator("details.lt-detour").first
    fold.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert fold.evaluate("e => e.open")
    page.locator(".dropdown-download-buttons > button").focus()
    page.keyboard.press("Enter")
    assert page.locator(".btn-download-source-button").is_visible()


def test_a_slider_is_moved_by_keys(page: Page, address: str) -> None:
    page.goto(address + "chapters/12-discretization.html")
    slider = page.locator("[data-interactive] input[type=range]").first
    slider.focus()
    before = slider.input_value()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert slider.input_value() != before


def test_a_definition_shows_on_focus(page: Page, address: str) -> None:
    page.goto(address + "chapters/12-discretization.html")
    page.locator("a.lt-term:visible").first.focus()
    assert page.locator("#lt-definition").is_visible()


def test_copying_by_keys(page: Page, address: str) -> None:
    """The citation's button, reached by Tab and used by Enter."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(address + "book/cite.html")
    page.locator("button.copybtn").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => navigator.clipboard.readText().then(t => t.includes('@software'))"
    )
