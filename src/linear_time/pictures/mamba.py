"""Chapter 18: the Mamba block, with the shape of what flows on each arrow."""

import math
from typing import Any

from linear_time.cost import grouped_query_cost, mamba_cost
from linear_time.drawing import Drawing, Number, Point
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel
from linear_time.pictures.cost import short

PARTS = ("", "in", "conv", "select", "scan", "gate", "out")
#: From where to where the whole drawing shows a part.
WHERE = {
    "in": (0, 190),
    "conv": (150, 296),
    "select": (262, 440),
    "scan": (262, 506),
    "gate": (400, 530),
    "out": (470, 612),
}


def mamba_drawing(part: str = "") -> Drawing:
    """A block from x to y, its residual around it.

    Args:
        part: what to point at, everything else being quiet: ``in`` (norm and
            the two halves), ``conv``, ``select``, ``scan``, ``gate``, ``out``;
            none for the whole block.

    Raises:
        ValueError: a part that the block does not have.
    """
    if part not in PARTS:
        raise ValueError(
            f"part: expected one of {', '.join(PARTS[1:])}, got {part!r}"
        )
    d = Drawing(
        "A Mamba block" + (f", its part {part!r}" if part else ""),
        "The input x is normalised and mapped to two halves, u and z. u passes "
        "a causal convolution of four taps and SiLU; from it Δ, B and C are "
        "computed, and with them the selective scan runs. Its output is "
        "multiplied by SiLU of z and mapped back to d channels, and x is "
        "added.",
        height=612,
    )
    _draw(d, part)
    return d


SAYS = {
    "in": "The input x is normalised and mapped to u and to z, each of twice "
    "its width.",
    "conv": "The half u passes a causal convolution of four taps, and SiLU.",
    "select": "From the convolved and activated u two linear maps compute Δ, "
    "B and C, which go to the selective scan.",
    "scan": "The selective scan takes u, and Δ, B and C, and gives an output "
    "as wide as u.",
    "gate": "The output of the scan is multiplied by SiLU of z.",
    "out": "The product is mapped back to d channels, and x is added.",
}


def part_drawing(part: str = "in") -> Drawing:
    """One part of the block, cut out of the whole drawing.

    Args:
        part: as for ``mamba_drawing``.
    """
    top, bottom = WHERE[part]
    d = Drawing(
        f"The part {part!r} of a Mamba block", SAYS[part], height=bottom - top
    )
    _draw(_Cut(d, top, bottom), part)
    return d


class _Cut:
    """A drawing's window on a taller one: what is not inside is left out."""

    def __init__(self, d: Drawing, top: Number, bottom: Number) -> None:
        self.d, self.top, self.bottom = d, top, bottom

    def _holds(self, *ys: Number) -> bool:
        return self.top <= min(ys) and max(ys) <= self.bottom

    def box(
        self,
        x: Number,
        y: Number,
        w: Number,
        text: str,
        h: Number = 32,
        **o: Any,
    ) -> None:
        if self._holds(y - h / 2, y + h / 2):
            self.d.box(x, y - self.top, w, text, h=h, **o)

    def sign(self, x: Number, y: Number, text: str, **o: Any) -> None:
        if self._holds(y - 12, y + 12):
            self.d.sign(x, y - self.top, text, **o)

    def text(self, x: Number, y: Number, text: str, *a: Any, **o: Any) -> None:
        if self._holds(y - 8, y + 8):
            self.d.text(x, y - self.top, text, *a, **o)

    def line(self, *points: Point, **o: Any) -> None:
        self._run(self.d.line, points, **o)

    def arrow(self, *points: Point, **o: Any) -> None:
        self._run(self.d.arrow, points, **o)

    def _run(self, draw: Any, points: Any, **o: Any) -> None:
        """A vertical line is cut; any other is whole or not there."""
        (x, y0), (x1, y1) = points[0], points[-1]
        if len(points) > 2 or x != x1:
            if not self._holds(*(y for _, y in points)):
                return
        elif min(y0, y1) < self.top or max(y0, y1) > self.bottom:
            at = y0 + float(o.get("at", 0.5)) * (y1 - y0)
            y0, y1 = (min(max(y, self.top), self.bottom) for y in (y0, y1))
            if abs(y1 - y0) < 12:
                return
            points = ((x, y0), (x, y1))
            if "label" in o and self._holds(at - 8, at + 8):
                o["at"] = (at - y0) / (y1 - y0)
            else:
                o.pop("label", None)
        draw(*((x, y - self.top) for x, y in points), **o)


def _draw(d: Drawing | _Cut, part: str) -> None:
    """The block, or of it what the cut holds."""

    def kind(of: str, own: str = "plain") -> str:
        return own if part in ("", of) else "quiet"

    # columns: the scan, what is selected, the gate, the whole
    scan, select, gate, x = 96, 238, 336, 196
    d.text(x, 12, "*x*", 15)
    d.arrow((x, 24), (x, 58), label="(length, *d*)", kind=kind("in"))
    d.box(x, 74, 110, "RMSNorm", kind=kind("in"))
    d.arrow((x, 90), (x, 118), label="(length, *d*)", kind=kind("in"))
    d.box(x, 134, 348, "linear *W*_{in}", kind=kind("in", "weights"))
    shape = "(length, 2*d*)"
    d.arrow((scan, 150), (scan, 182), label=f"*u* {shape}", kind=kind("in"))
    d.arrow(
        (gate, 150),
        (gate, 428),
        label=f"*z* {shape}",
        side="left",
        at=0.058,
        kind=kind("gate"),
    )
    d.box(scan, 198, 156, "causal conv, 4 taps", kind=kind("conv", "weights"))
    d.arrow((scan, 214), (scan, 238), kind=kind("conv"))
    d.box(scan, 254, 76, "SiLU", kind=kind("conv"))
    d.arrow(
        (scan, 270),
        (scan, 344),
        label="*u*",
        side="left",
        at=0.7,
        kind=kind("scan"),
    )
    d.arrow((scan, 284), (select, 284), (select, 300), kind=kind("select"))
    d.box(
        select, 316, 126, "linear *W*_x, *W*_Δ", kind=kind("select", "weights")
    )
    chosen = kind("select", "input")
    d.arrow((select, 332), (select, 388), (scan + 78, 388), kind=chosen)
    d.text(select + 8, 346, f"Δ {shape}", anchor="start", kind=chosen)
    d.text(select + 8, 363, "*B* (length, *N*)", anchor="start", kind=chosen)
    d.text(select + 8, 380, "*C* (length, *N*)", anchor="start", kind=chosen)
    d.box(
        scan,
        388,
        156,
        "selective scan\nstate *h*_t (2*d*, *N*)",
        h=86,
        kind=kind("scan", "state"),
    )
    d.arrow(
        (scan, 431), (scan, 492), (x - 11, 492), label=shape, kind=kind("scan")
    )
    d.box(gate, 445, 72, "SiLU", kind=kind("gate"))
    d.arrow((gate, 461), (gate, 492), (x + 11, 492), kind=kind("gate"))
    d.sign(x, 492, "×", kind=kind("gate"))
    d.arrow((x, 503), (x, 530), label=shape, kind=kind("out"))
    d.box(x, 546, 348, "linear *W*_{out}", kind=kind("out", "weights"))
    d.arrow((x, 562), (x, 585), label="(length, *d*)", kind=kind("out"))
    d.line((x, 40), (8, 40), kind=kind("out"))
    if isinstance(d, Drawing) or part in ("in", "out"):
        d.line((8, 40), (8, 597), kind=kind("out"))
    d.arrow((8, 597), (x - 12, 597), kind=kind("out"))
    d.sign(x, 597, "+", kind=kind("out"))
    d.arrow((x + 12, 597), (x + 60, 597), kind=kind("out"))
    d.text(x + 68, 597, "*y* (length, *d*)", anchor="start")


def state_explorer(d_model: int = 1024) -> Explorer:
    """Drag how many tokens were read, see what is carried to the next.

    Two Mamba layers stand beside the one attention layer that they replace.

    Args:
        d_model: width of the layers; each holds numbers in proportion to it.
    """
    exponents = range(21)
    held = 2 * mamba_cost(1, d_model).state

    def cache(tokens: int, sharing: int) -> int:
        heads = d_model // 64
        return grouped_query_cost(
            tokens, d_model, heads, heads // sharing, 64
        ).state

    def frame(exponent: int, sharing: int) -> Frame:
        tokens = 2**exponent
        kept = cache(tokens, sharing)
        ratio = kept / held
        return Frame(
            {"cache": [math.log10(cache(2**k, sharing)) for k in exponents]},
            {
                "cache.state": short(kept),
                "mamba.state": short(held),
                "ratio": f"{ratio:.2f}" if ratio < 100 else f"{ratio:,.0f}",
                "even": str(math.ceil(held / cache(1, sharing))),
            },
            cursor=exponent,
        )

    panel = Panel(
        "tokens read before",
        "numbers carried to the next token",
        (0, 20),
        (2, 10),
        {
            "mamba": Curve(
                "orange",
                "two Mamba layers",
                ys=[math.log10(held)] * len(exponents),
            ),
            "cache": Curve("blue", "one attention layer's cache", "8 4"),
        },
        {0: "1", 5: "32", 10: "1,024", 15: "32,768", 20: "2²⁰"},
        {3: "10³", 5: "10⁵", 7: "10⁷", 9: "10⁹"},
        cursor=True,
    )
    return Explorer(
        "state-explorer",
        "Against the number of tokens read, on logarithmic axes, the level "
        "line of what two Mamba layers carry and the rising line of a cache.",
        [
            Slider(
                "tokens",
                "tokens read before",
                values=exponents,
                start=12,
                form=lambda k: f"{2**k:,}",
            ),
            Slider(
                "sharing",
                "query heads that share one key and value",
                values=(1, 2, 4, 8),
                start=0,
                form=str,
            ),
        ],
        [panel],
        frame,
        "<p>The cache holds {cache.state} numbers, the two Mamba layers "
        f"{{mamba.state}}, at width {d_model:,}: {{ratio}} times as many. "
        "They are even at {even} tokens.</p>",
    )
