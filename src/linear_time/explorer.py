"""Figures that a reader drives in a static page.

An :class:`Explorer` has sliders that choose among frames, and Python computes
every frame, so no formula stands in JavaScript: its script, ``explorer.js``,
is the same for all and draws what it is given. It is driven by mouse, touch
and keyboard, and without its script it shows its first frame. Like a drawing
it is 380 units wide and takes the page's colours. The explorers themselves
stand in ``linear_time.pictures``.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from linear_time.drawing import Number
from linear_time.panel import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Panel,
    axes,
    floats,
    legend,
    picture,
)

_PLACE = re.compile(r"\{([\w.]+)\}")
_HERE = Path(__file__)
_SCRIPT = _HERE.with_name("explorer.js").read_text(encoding="utf8")
_STYLE = _HERE.with_name("explorer.css").read_text(encoding="utf8")


def _tenth(x: Number) -> str:
    """A place as the page writes it; halves go up, as in the script."""
    return f"{math.floor(10 * x + 0.5) / 10:.1f}"


@dataclass
class Slider:
    """A control.

    Args:
        name: its name in the page.
        label: what it sets, in words.
        values: what ``frame`` is called with, in order.
        start: the index of the value at first.
        form: how a value is written, ``"{:.2f}"``, or a function that writes.
        unit: written after the value.
    """

    name: str
    label: str
    values: Sequence[Any]
    start: int = 0
    form: str | Callable[[Any], str] = "{:g}"
    unit: str = ""

    @property
    def shown(self) -> list[str]:
        """The values as a reader sees them."""
        write = self.form.format if isinstance(self.form, str) else self.form
        return [write(value) for value in self.values]


@dataclass
class Frame:
    """What is seen at one setting of the sliders.

    Args:
        curves: name -> its values, numbers or a tensor; NaN is a gap.
        numbers: name -> what is written in its place.
        cursor: the x at which the panels' cursors stand.
    """

    curves: Mapping[str, Any] = field(default_factory=dict)
    numbers: Mapping[str, str] = field(default_factory=dict)
    cursor: Number | None = None

    def __post_init__(self) -> None:
        self.curves = {name: floats(ys) for name, ys in self.curves.items()}


class Interactive:
    """A figure that a reader drives in a static page: one piece of HTML.

    Args:
        name: of the figure; the element carries it as ``data-interactive``.
        body: what is seen before the script runs.
        script: JavaScript, in whose first statement
            ``document.currentScript`` is inside the element.
    """

    def __init__(self, name: str, body: str, script: str) -> None:
        self.name = name
        self.html = (
            f'<div data-interactive="{name}" class="lt-explorer">\n'
            f"<style>{_STYLE}</style>\n{body}\n"
            f"<script>{script}</script>\n</div>"
        )

    def __repr__(self) -> str:
        return f"<interactive figure: {self.name}>"

    def _repr_html_(self) -> str:
        return self.html


def control(
    name: str,
    label: str,
    shown: str,
    unit: str = "",
    value: Number = 0,
    low: Number = 0,
    high: Number = 1,
    step: Number = 1,
) -> str:
    """A slider as a page has it, with its words above it.

    Args:
        name: its name in the page.
        label: what it sets, in words.
        shown: its value at first, as a reader sees it.
        unit: written after the value.
        value: where it stands at first.
        low: the least value.
        high: the largest value.
        step: from one value to the next.
    """
    after = f" {unit}" if unit else ""
    # no <output> in here: a label is of the first such element in it
    return (
        f'<label>{escape(label)} = <span data-value="{name}">'
        f"{escape(shown)}</span>{escape(after)}\n"
        f'<input type="range" data-input="{name}" min="{low:g}" '
        f'max="{high:g}" step="{step:g}" value="{value:g}" '
        f'aria-label="{escape(label)}" '
        f'aria-valuetext="{escape(shown + after)}"></label>'
    )


def fill(text: str, values: Mapping[str, str]) -> str:
    """HTML in whose every ``{name}`` stands an output with that value."""

    def output(match: re.Match[str]) -> str:
        value = escape(values[match[1]])
        return f'<output data-value="{match[1]}">{value}</output>'

    return _PLACE.sub(output, text)


class Explorer(Interactive):
    """Sliders that choose among frames that Python computed.

    Args:
        name: of the figure.
        alt: a sentence that says what is seen.
        sliders: the controls. Every combination of their values is a frame:
            keep them to a few hundred.
        panels: one, or two that stand side by side where there is room.
        frame: from the sliders' values to a :class:`Frame`.
        text: HTML below, in which ``{name}`` is the frame's number or the
            slider's value of that name.

    Raises:
        ValueError: a value outside its panel, a curve that no frame gives, a
            number without a place or a place without a number.
    """

    def __init__(
        self,
        name: str,
        alt: str,
        sliders: Sequence[Slider],
        panels: Sequence[Panel],
        frame: Callable[..., Frame],
        text: str = "",
    ) -> None:
        self.alt, self.sliders, self.panels = alt, sliders, panels
        self.text = text
        self.frames = [
            frame(*values)
            for values in itertools.product(*(s.values for s in sliders))
        ]
        self._panel_of = {c: p for p in panels for c in p.curves}
        self._check_frames()
        self.maps = {
            curve: self._map(curve, len(ys))
            for curve, ys in self.frames[0].curves.items()
        }
        self.start = 0
        for slider in sliders:
            self.start = self.start * len(slider.values) + slider.start
        super().__init__(name, self._body(), _SCRIPT)

    def _check_frames(self) -> None:
        moving = {
            name
            for name, panel in self._panel_of.items()
            if panel.curves[name].ys is None
        }
        written = set(_PLACE.findall(self.text))
        written -= {slider.name for slider in self.sliders}
        for frame in self.frames:
            if set(frame.curves) != moving:
                raise ValueError(
                    f"frame: expected the curves {sorted(moving)}, "
                    f"got {sorted(frame.curves)}"
                )
            if set(frame.numbers) != written:
                raise ValueError(
                    f"frame: expected the numbers {sorted(written)} of the "
                    f"text, got {sorted(frame.numbers)}"
                )
            for name, ys in frame.curves.items():
                self._check_range(name, ys)
                expected = len(self.frames[0].curves[name])
                if len(ys) != expected:
                    raise ValueError(
                        f"{name}: expected {expected} values in every frame, "
                        f"got {len(ys)}"
                    )
        for name, panel in self._panel_of.items():
            self._check_range(name, panel.curves[name].ys or ())

    def _check_range(self, name: str, ys: Sequence[Number]) -> None:
        low, high = self._panel_of[name].y_range
        outside = [y for y in ys if y < low or y > high]
        if outside:
            raise ValueError(
                f"{name}: expected values from {low:g} to {high:g}, the "
                f"panel's range, got {outside[0]:g}"
            )

    def _map(self, curve: str, n: int) -> dict[str, Number]:
        """From a point's index to its x, and a bar's width and foot."""
        panel = self._panel_of[curve]
        if not panel.curves[curve].bars:
            return {"x0": LEFT, "dx": (RIGHT - LEFT) / max(n - 1, 1), "bar": 0}
        dx = (RIGHT - LEFT) / n
        return {
            "x0": LEFT + dx / 2,
            "dx": dx,
            "bar": round(0.76 * dx, 1),
            "foot": round(panel.at_y(0), 1),
        }

    def _tenths(self, curve: str, ys: Sequence[Number]) -> list[int | None]:
        """Heights in tenths of a unit; None is a gap, but the last."""
        panel = self._panel_of[curve]
        tenths = [
            # twice: half a tenth is half a tenth whatever its last bits are
            None if math.isnan(y) else round(round(10 * panel.at_y(y), 6))
            for y in ys
        ]
        while tenths and tenths[-1] is None:
            tenths.pop()
        return tenths

    def path(self, curve: str, ys: Sequence[Number]) -> str:
        """A curve as the page draws it, in SVG's letters."""
        m = self.maps.get(curve) or self._map(curve, len(ys))
        out, before = "", None
        for i, y in enumerate(self._tenths(curve, ys)):
            x = m["x0"] + m["dx"] * i
            if y is not None and m["bar"]:
                out += (
                    f"M{_tenth(x - m['bar'] / 2)} {m['foot']:g}V{y / 10:.1f}"
                    f"h{m['bar']:g}V{m['foot']:g}z"
                )
            elif y is not None:
                letter = "M" if before is None else "L"
                out += f"{letter}{_tenth(x)} {y / 10:.1f}"
            before = y
        return out

    def shown(self, index: int) -> dict[str, str]:
        """What a page writes at a frame: its numbers, the sliders' values."""
        written = dict(self.frames[index].numbers)
        for slider in reversed(self.sliders):
            index, place = divmod(index, len(slider.values))
            written[slider.name] = slider.shown[place]
        return written

    def _panel(self, panel: Panel) -> str:
        first, inside = self.frames[self.start], axes(panel)
        for name, curve in panel.curves.items():
            ys = first.curves[name] if curve.ys is None else curve.ys
            inside += (
                f'\n<path data-curve="{name}" {curve.style} '
                f'd="{self.path(name, ys)}"/>'
            )
        if panel.cursor and first.cursor is not None:
            inside += (
                f'\n<path data-cursor d="M0 {TOP}V{BOTTOM}" fill="none" '
                'stroke="currentColor" stroke-dasharray="3 3" '
                f'transform="translate({panel.at_x(first.cursor):.1f})"/>'
            )
        return picture(self.alt, inside)

    def _data(self) -> str:
        """All frames, for the script."""
        frames = [
            {
                "curves": {
                    name: self._tenths(name, ys)
                    for name, ys in frame.curves.items()
                },
                "numbers": dict(frame.numbers),
                "cursor": [
                    round(panel.at_x(frame.cursor), 1)
                    for panel in self.panels
                    if panel.cursor and frame.cursor is not None
                ],
            }
            for frame in self.frames
        ]
        data = {
            "values": [slider.shown for slider in self.sliders],
            "units": [slider.unit for slider in self.sliders],
            "maps": self.maps,
            "frames": frames,
        }
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
        return text.replace("</", "<\\/")

    def _body(self) -> str:
        written = self.shown(self.start)
        parts = [
            control(
                slider.name,
                slider.label,
                written[slider.name],
                slider.unit,
                slider.start,
                high=len(slider.values) - 1,
            )
            for slider in self.sliders
        ]
        drawn = "\n".join(self._panel(panel) for panel in self.panels)
        parts += [
            f'{legend(self.panels)}<div class="lt-panels">{drawn}</div>',
            fill(self.text, written),
            f'<script type="application/json">{self._data()}</script>',
        ]
        return "\n".join(parts)
