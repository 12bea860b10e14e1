"""Explorers: what Python computed is what a page shows, with its script and without."""

import json
import math
import re

import pytest
import torch

from drawn import check_interactive, drive, example, faults, pictures, sheet
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import BOTTOM, LEFT, RIGHT, TOP, Curve, Panel, written


def explorer(frame=None, text="<p>of {where}: {sum}</p>", **panel):
    """A line with a gap, bars and a fixed curve, under two sliders."""

    def made(scale, shift):
        ys = [scale * k + shift for k in range(3)]
        return Frame(
            {"line": [*ys, math.nan, ys[-1]], "bars": torch.tensor(ys)},
            {"sum": f"{sum(ys):.1f}"},
            cursor=shift,
        )

    curves = {
        "line": Curve("blue", "a line", dash="4 2"),
        "fixed": Curve("grey", ys=[0, 10]),
    }
    look = {"x": "time in s", "y": "size *x*_t in m", "x_range": (0, 4), "y_range": (-5, 10)}
    return Explorer(
        "made-explorer",
        "A line and bars that grow with the scale and move with the shift.",
        [
            Slider("scale", "scale", [0, 0.5, 2.0], start=1, form="{:.1f}"),
            Slider("where", "shift", [-1, 0, 3], start=2, unit="m"),
        ],
        [
            Panel(**{**look, **panel}, curves=curves, x_ticks={0: "0", 4: "4"}, cursor=True),
            Panel("item", "weight", (0, 3), (-5, 10), {"bars": Curve("orange", bars=True)},
                  y_ticks={0: "0", 10: "10"}),
        ],
        frame or made,
        text,
    )  # fmt: skip


def data_of(html):
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html)[1])


def test_a_slider_starts_with_its_first_value():
    slider = Slider("scale", "scale", [3, 1, 2])
    assert slider.values[slider.start] == 3 and slider.start == 0


def test_frames_are_every_setting_in_order():
    made = explorer()
    settings = [(s, w) for s in (0, 0.5, 2.0) for w in (-1, 0, 3)]
    assert [frame.curves["bars"] for frame in made.frames] == [
        [w, s + w, 2 * s + w] for s, w in settings
    ]
    assert [made.shown(i) for i in range(9)] == [
        {"scale": f"{s:.1f}", "where": f"{w}", "sum": f"{3 * (s + w):.1f}"} for s, w in settings
    ]


def test_a_path_is_where_its_values_are():
    made = explorer()
    step = (RIGHT - LEFT) / 4
    unit = (BOTTOM - TOP) / 15
    foot = BOTTOM - 5 * unit
    heights = [round(10 * (foot - y * unit)) / 10 for y in (0, 1, 2)]
    a, b, c = heights
    assert made.path("line", [0, 1, 2, math.nan, 1]) == (
        f"M{LEFT:.1f} {a:.1f}L{LEFT + step:.1f} {b:.1f}L{LEFT + 2 * step:.1f} {c:.1f}"
        f"M{RIGHT:.1f} {b:.1f}"
    )
    third = (RIGHT - LEFT) / 3
    bars = made.path("bars", [0, 1, 2])
    middles = [LEFT + third * (k + 0.5) for k in range(3)]
    tops = [
        (float(x) + float(w) / 2, float(y))
        for x, y, w in re.findall(r"M([\d.]+) [\d.]+V([\d.]+)h([\d.]+)", bars)
    ]
    assert [y for _, y in tops] == pytest.approx(heights)
    assert [x for x, _ in tops] == pytest.approx(middles, abs=0.1)


@pytest.mark.parametrize("bit", [0, 1e-14, -1e-14], ids=["itself", "above", "below"])
def test_the_last_bit_of_a_processor_is_not_seen(bit):
    """Half of the last digit, and zero: what two processors get on two sides of it."""
    assert written(0.125 + bit) == "0.12" and written(0.375 + bit) == "0.38"
    assert written(bit) == "0.00" and written(-0.25 + bit, 1) == "-0.2" and written(2.5, 0) == "2"
    assert written(torch.tensor(-0.001)) == "0.00" and written(0.126) == "0.13"
    # places are written in tenths; this value stands at half a tenth
    panel = Panel("x", "y", (0, 4), (-5, 10), {})
    half = 10 - (100.05 - TOP) * 15 / (BOTTOM - TOP)
    assert panel.at_y(half) == pytest.approx(100.05)
    assert explorer().path("line", [half + bit]) == explorer().path("line", [half])


def test_without_its_script_it_shows_the_first_frame():
    made = explorer()
    html = made._repr_html_()
    shown = dict(re.findall(r'data-value="(\w+)">([^<]*)<', html))
    assert shown == {"scale": "0.5", "where": "3", "sum": "10.5"} == made.shown(made.start)
    for name, ys in made.frames[made.start].curves.items():
        assert f'data-curve="{name}"' in html and f'd="{made.path(name, ys)}"' in html
    assert "shift = <span" in html and "</span> m" in html
    assert html.count('role="img"') == 2 and html.count("lt-sample") >= 1
    assert repr(made) == "<interactive figure: made-explorer>"


def test_the_script_gets_every_frame_and_is_small():
    html = explorer()._repr_html_()
    data = data_of(html)
    assert len(data["frames"]) == 9 and data["values"] == [["0.0", "0.5", "2.0"], ["-1", "0", "3"]]
    assert data["frames"][0]["curves"]["line"][3] is None
    script = html[html.rindex("<script>") : html.rindex("</script>")]
    assert len(script) < 2048


def test_numbers_cannot_end_the_script():
    made = explorer(lambda *_: Frame({"line": [0], "bars": [0]}, {"sum": "</script><b>"}, 0))
    html = made._repr_html_()
    assert html.count("</script>") == 2 and "<b>" not in html.partition("application/json")[0]
    assert data_of(html)["frames"][0]["numbers"]["sum"] == "</script><b>"


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y_range": (-5, 5)}, r"line: expected values from -5 to 5, the panel's range, got 7"),
        ({"text": "<p>{other}</p>"}, r"frame: expected the numbers \['other'\] of the text, got"),
        ({"frame": lambda *_: Frame({"line": [0]}, {"sum": ""})}, r"frame: expected the curves"),
        (
            {"frame": lambda _, w: Frame({"line": [0] * (2 + w), "bars": [0]}, {"sum": ""})},
            r"line: expected 1 values in every frame, got 2",
        ),
    ],
    ids=["outside", "numbers", "curves", "length"],
)
def test_a_slip_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        explorer(**change)


def test_it_is_driven_by_keyboard_mouse_and_finger(chromium):
    context = chromium.new_context(viewport={"width": 360, "height": 900}, has_touch=True)
    page = context.new_page()
    page.set_content(sheet(explorer()))
    drive(page, "[data-interactive=made-explorer]", explorer())
    assert faults(page) == []
    context.close()


def test_driving_notices_a_wrong_number_and_a_wrong_curve(chromium):
    page = chromium.new_page()
    page.set_content(sheet(explorer()))
    other = explorer()
    other.frames[4].numbers["sum"] = "0"
    with pytest.raises(AssertionError):
        drive(page, "[data-interactive=made-explorer]", other)
    other = explorer()
    other.frames[8].curves["line"][0] += 0.1
    with pytest.raises(AssertionError):
        drive(page, "[data-interactive=made-explorer]", other)
    page.close()


EXPLORERS = pictures("_explorer") | {
    "key-scale-explorer": lambda: example("key_scale_explorer"),
}


@pytest.mark.parametrize("name", EXPLORERS)
def test_the_books_explorers_are_readable(chromium, name):
    """By name, of a size that a page can bear, legible on a telephone, true in every frame."""
    made = EXPLORERS[name]()
    assert made.name == name
    assert len(made._repr_html_()) < 60_000
    page = chromium.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_content(sheet(made))
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 900})
        assert faults(page) == []
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
    check_interactive(page, f"[data-interactive={name}]", made)
    assert errors == []
    page.close()
