"""The panels of an explorer: axes, and curves that can be told apart."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from linear_time.drawing import FONT, INKS, Number, words

#: The size of a panel, and the edges of its axes within it, in units.
WIDTH, HEIGHT = 380, 240
LEFT, RIGHT, TOP, BOTTOM = 44, 370, 26, 198


def floats(ys: Any) -> list[float]:
    """Numbers or a tensor as plain numbers."""
    return [float(y) for y in ys]


def written(value: Any, digits: int = 2) -> str:
    """A computed number, the same text on every processor.

    The last bits of a sum differ from one to another: what is half of the last
    digit but for them, or zero, is taken for that.
    """
    return f"{round(round(float(value), 9), digits) + 0.0:.{digits}f}"


@dataclass
class Curve:
    """How a curve looks, and what it is.

    Args:
        ink: one of ``linear_time.drawing.INKS``.
        label: what it is, for the legend; none, and the legend leaves it out.
        dash: SVG's dashes, ``"8 4"``.
        width: of the line.
        bars: bars from zero in place of a line.
        ys: its values, where they are the same in every frame.
    """

    ink: str
    label: str = ""
    dash: str = ""
    width: Number = 2.0
    bars: bool = False
    ys: Any = None

    def __post_init__(self) -> None:
        self.ys = None if self.ys is None else floats(self.ys)

    @property
    def style(self) -> str:
        """Its attributes in SVG."""
        if self.bars:
            return f'fill="{INKS[self.ink]}"'
        dash = f' stroke-dasharray="{self.dash}"' if self.dash else ""
        return (
            f'fill="none" stroke="{INKS[self.ink]}" '
            f'stroke-width="{self.width:g}" stroke-linejoin="round"{dash}'
        )

    @property
    def sample(self) -> str:
        """A piece of it, for a legend or a table."""
        d = "M4 1h14v11H4z" if self.bars else "M0 6H22"
        return (
            '<svg class="lt-sample" viewBox="0 0 22 12" aria-hidden="true">'
            f'<path d="{d}" {self.style}/></svg>'
        )


@dataclass
class Panel:
    """Axes, and the curves in them.

    A curve's points stand at equal distances over ``x_range``, its bars in
    the middle of equal parts. For a logarithmic axis give logarithms, and
    ticks that say so (``{6: "10⁶"}``).

    Args:
        x: what the x axis shows, with its unit.
        y: what the y axis shows, with its unit.
        x_range: from where to where the axis goes.
        y_range: likewise; no value may lie outside.
        curves: name -> its look; a name occurs in one panel only.
        x_ticks: place -> what is written there.
        y_ticks: likewise.
        cursor: whether a dashed line stands at the frame's ``cursor``.
    """

    x: str
    y: str
    x_range: tuple[Number, Number]
    y_range: tuple[Number, Number]
    curves: Mapping[str, Curve]
    x_ticks: Mapping[Any, str] = field(default_factory=dict)
    y_ticks: Mapping[Any, str] = field(default_factory=dict)
    cursor: bool = False

    def at_x(self, value: Number) -> float:
        """Where a value of x stands, in units."""
        low, high = self.x_range
        return LEFT + (RIGHT - LEFT) * (value - low) / (high - low)

    def at_y(self, value: Number) -> float:
        """Where a value of y stands, in units."""
        low, high = self.y_range
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)


def axes(panel: Panel) -> str:
    """The axes of a panel with their ticks and words, in SVG."""
    out = (
        f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" fill="none" '
        'stroke="currentColor" stroke-opacity=".6"/>'
    )
    out += words(LEFT, 11, panel.y, 13, "start")
    out += words((LEFT + RIGHT) / 2, HEIGHT - 9, panel.x, 13)
    for value, text in panel.x_ticks.items():
        out += words(panel.at_x(value), BOTTOM + 12, text, 12)
    for value, text in panel.y_ticks.items():
        out += words(LEFT - 5, panel.at_y(value), text, 12, "end")
    return out


def picture(alt: str, inside: str) -> str:
    """A panel's SVG, with the sentence for who cannot see it."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(alt)}" fill="currentColor" '
        f'font-family="{FONT}">{inside}</svg>'
    )


def legend(panels: Sequence[Panel]) -> str:
    """Samples of the curves that have a label."""
    entries = "".join(
        f"<span>{curve.sample}&nbsp;{escape(curve.label)}</span> "
        for panel in panels
        for curve in panel.curves.values()
        if curve.label
    )
    return f'<p class="lt-legend">{entries}</p>\n' if entries else ""
