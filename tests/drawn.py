"""Checks of drawings and explorers in a browser, for made-up pages and for the site's own."""

import re
from collections.abc import Callable
from importlib import import_module
from inspect import getmembers, isfunction
from pkgutil import iter_modules
from typing import Any

import pytest
import torch
from playwright.sync_api import Page

import linear_time.pictures
from book import ROOT
from linear_time.discretization import METHODS
from linear_time.explorer import Explorer, Interactive
from linear_time.pictures.discretization import CURVES, curve

#: What is wrong with an SVG: words that leave it or their box, that meet other words, an edge or a
#: line, or that are too small to read.
LOOK = r"""
(svg) => {
  const wrong = [], box = (e) => e.getBBox();
  const {width: W, height: H} = svg.viewBox.baseVal;
  const says = (e) => e.textContent.slice(0, 30);
  const meet = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width &&
    a.y < b.y + b.height && b.y < a.y + a.height;
  const holds = (a, b, gap) => b.x >= a.x + gap && b.y >= a.y + gap &&
    b.x + b.width <= a.x + a.width - gap && b.y + b.height <= a.y + a.height - gap;
  const ink = (e) => {  // a box of text is as high as a line: letters are lower
    const b = box(e);
    return {x: b.x, y: b.y + 0.18 * b.height, width: b.width, height: 0.68 * b.height}; };
  const texts = [...svg.querySelectorAll("text")];
  const shapes = [...svg.querySelectorAll("[data-box]")].map(box);
  const lines = [...svg.querySelectorAll("path[fill=none]:not([data-curve], [data-cursor])")];
  const role = svg.querySelector("a") ? "group" : "img";  // in an img no link is found
  if (svg.getAttribute("role") !== role) wrong.push("no role");
  if (!/\S+(\s+\S+){5,}\.$/.test(svg.getAttribute("aria-label") ?? "")) wrong.push("no sentence");
  texts.forEach((text, i) => {
    const b = ink(text);
    if (!holds({x: 0, y: 0, width: W, height: H}, b, 0))
      wrong.push(`${says(text)}: outside the drawing`);
    if (text.hasAttribute("data-inside")) {
      if (!shapes.some((s) => holds(s, b, 2))) wrong.push(`${says(text)}: wider than its box`);
    } else if (shapes.some((s) => meet(s, b) && !holds(s, b, 0)))
      wrong.push(`${says(text)}: on the edge of a box`);
    for (const other of texts.slice(i + 1))
      if (meet(b, ink(other))) wrong.push(`${says(text)}: meets ${says(other)}`);
    for (const line of lines) {
      for (let s = 0, n = line.getTotalLength(); s <= n; s += 1.5) {
        const q = line.getPointAtLength(s);
        if (q.x > b.x && q.x < b.x + b.width && q.y > b.y && q.y < b.y + b.height) {
          wrong.push(`${says(text)}: a line runs through it`);
          break; } } }
    const px = parseFloat(getComputedStyle(text).fontSize) * svg.getBoundingClientRect().width / W;
    if (px < 9.5) wrong.push(`${says(text)}: ${px.toFixed(1)} px high`);
  });
  return wrong;
}
"""
DRAWN = "svg.lt-drawing, .lt-explorer svg[role=img]"

#: Every setting of an explorer's sliders, and what it then shows.
SETTINGS = """
(box) => {
  const sliders = [...box.querySelectorAll("input")];
  const seen = [];
  const set = (k) => {
    if (k < sliders.length) {
      for (let v = 0; v <= Number(sliders[k].max); v++) { sliders[k].value = v; set(k + 1); }
      return; }
    sliders[0].dispatchEvent(new Event("input", {bubbles: true}));
    const all = (mark, get) => Object.fromEntries(
      [...box.querySelectorAll(`[data-${mark}]`)].map((e) => [e.dataset[mark], get(e)]));
    seen.push({
      shown: all("value", (e) => e.textContent),
      curves: all("curve", (e) => e.getAttribute("d")),
      cursors: [...box.querySelectorAll("[data-cursor]")].map((e) => e.getAttribute("transform")),
      spoken: sliders.map((s) => s.getAttribute("aria-valuetext")),
    }); };
  set(0);
  return seen;
}
"""


def pictures(ending: str) -> dict[str, Callable[[], Any]]:
    """The functions of ``linear_time.pictures`` whose name ends so, by the name in a page."""
    found = {}
    for info in iter_modules(linear_time.pictures.__path__, "linear_time.pictures."):
        module = import_module(info.name)
        for name, function in getmembers(module, isfunction):
            if function.__module__ == info.name and name.endswith(ending):
                found[name.replace("_", "-")] = function
    return found


def example(name: str) -> Any:
    """A picture that CONTRIBUTING.md shows how to make."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(next(block for block in blocks if f"def {name}(" in block), names)
    return names[name]()


def sheet(*figures: Any) -> str:
    """A page that holds nothing but these, as wide and as spaced as the book's."""
    style = (ROOT / "book" / "_static" / "custom.css").read_text(encoding="utf8")
    inside = "".join(figure._repr_html_() for figure in figures)
    return (
        f"<!doctype html><style>{style} body {{ margin: 16px; font-family: sans-serif }}</style>"
        f"<article class='bd-article'>{inside}</article>"
    )


def faults(page: Page, selector: str = DRAWN) -> list[str]:
    """What is wrong with the drawings and explorers on the page at its present size."""
    found: list[str] = page.evaluate(
        f"""(selector) => [...document.querySelectorAll(selector)].filter(
        (e) => e.checkVisibility({{visibilityProperty: true}})).flatMap({LOOK.strip()})""",
        selector,
    )
    return found


def drive(page: Page, selector: str, explorer: Explorer) -> None:
    """Every setting shows what Python says; keyboard, mouse and finger move the sliders."""
    figure = page.locator(selector)
    seen = figure.evaluate(SETTINGS)
    assert len(seen) == len(explorer.frames)
    for i, (frame, found) in enumerate(zip(explorer.frames, seen, strict=True)):
        shown = explorer.shown(i)
        assert found["shown"] == shown
        for panel in explorer.panels:
            for name, look in panel.curves.items():
                ys = frame.curves[name] if look.ys is None else look.ys
                assert found["curves"][name] == explorer.path(name, ys)
        assert found["cursors"] == [
            f"translate({panel.at_x(frame.cursor):.1f})".replace(".0)", ")")
            for panel in explorer.panels
            if panel.cursor and frame.cursor is not None
        ]
        assert found["spoken"] == [f"{shown[s.name]} {s.unit}".rstrip() for s in explorer.sliders]
    for slider in explorer.sliders:
        control = figure.locator(f"input[data-input={slider.name}]")
        place = figure.locator(f'[data-value="{slider.name}"]').first
        assert control.evaluate("(input) => input.labels.length") == 1

        def says(index: int, slider=slider, place=place) -> None:
            assert place.inner_text() == slider.shown[index]

        last = len(slider.values) - 1
        control.focus()
        page.keyboard.press("Home")
        says(0)
        page.keyboard.press("ArrowRight")
        says(1)
        page.keyboard.press("End")
        says(last)
        box = control.bounding_box()
        left, middle = {"x": 2, "y": box["height"] / 2}, box["height"] / 2
        control.hover(position={"x": box["width"] - 8, "y": middle})
        page.mouse.down()
        control.hover(position=left)
        page.mouse.up()
        says(0)
        if page.evaluate("navigator.maxTouchPoints") > 0:
            control.tap(position={"x": box["width"] - 2, "y": middle})
            says(last)


def drive_discretization(page: Page, selector: str) -> None:
    """At many settings every number and every curve is the library's."""

    def shown(name: str) -> str:
        return page.locator(f'{selector} [data-value="{name}"]').inner_text()

    drawn = set()
    for delta, a in ((0.9, -2.0), (0.05, -4.0), (2.0, -1.5), (1.0, -2.0), (3.0, 0.0)):
        for control, value in (("delta", delta), ("a", a)):
            page.locator(f"{selector} [data-input={control}]").evaluate(
                "(input, value) => { input.value = value;"
                " input.dispatchEvent(new Event('input', {bubbles: true})); }",
                value,
            )
        one = torch.ones(1, dtype=torch.float64)
        for name, rule in METHODS.items():
            A_bar, B_bar = rule(a * one[None], one, delta)
            assert float(shown(f"{name}.A_bar")) == pytest.approx(A_bar.item(), abs=6e-5)
            assert float(shown(f"{name}.B_bar")) == pytest.approx(B_bar.item(), abs=6e-5)
            growth = abs(A_bar.item())
            sign = "<" if growth < 1 - 1e-12 else ">" if growth > 1 + 1e-12 else "="
            assert shown(f"{name}.stable").startswith(sign)
        for name in CURVES:
            path = page.locator(f"{selector} [data-curve={name}]").get_attribute("d")
            numbers = re.findall(r"[\d.]+", path)
            expected = re.findall(r"[\d.]+", curve(name, delta, a))
            assert list(map(float, numbers)) == pytest.approx(list(map(float, expected)), abs=0.11)
        drawn.add(page.locator(f"{selector} [data-curve=forward_euler]").get_attribute("d"))
    assert len(drawn) == 5


def check_interactive(page: Page, selector: str, made: Interactive) -> None:
    """An interactive figure on the page is the package's; its kind decides how that is seen."""
    if isinstance(made, Explorer):
        drive(page, selector, made)
    else:  # one whose own script computes
        {"discretization-explorer": drive_discretization}[made.name](page, selector)
