"""Drawings of architectures: small SVG in the page's own colours and letters.

A drawing is 380 units wide, as a telephone's column is, so that its letters
stay legible there; a wide page shows it at most 1.3 times as large. Its text
is text, its colours turn with the page's theme, and who cannot see it hears a
sentence. The drawings themselves stand in ``linear_time.pictures``.
"""

import math
import re
from html import escape

#: Colours that all can tell apart, dark enough for letters on white; the
#: page's style sheet names lighter ones for its dark theme.
INKS = {
    "plain": "currentColor",
    "blue": "var(--lt-blue,#0072B2)",
    "green": "var(--lt-green,#00795A)",
    "orange": "var(--lt-orange,#B84E00)",
    "purple": "var(--lt-purple,#9C3F7A)",
    "grey": "var(--lt-grey,#707070)",
}
#: What a thing stands for, in every drawing of the book, and its ink.
KINDS = {
    "plain": INKS["plain"],
    "weights": INKS["blue"],  # learned, the same for every input
    "input": INKS["green"],  # computed from the input
    "state": INKS["orange"],  # carried from step to step
    "quiet": INKS["grey"],  # not what is spoken of
}
FONT = "system-ui,-apple-system,Segoe UI,DejaVu Sans,sans-serif"
#: What is behind a drawing: the page's ground, or JupyterLab's.
GROUND = "var(--pst-color-background,var(--jp-layout-color0,transparent))"
#: The smallest letters, in units: 9.5 pixels on a telephone 360 wide.
SMALLEST = 11.5

Number = float | int
Point = tuple[Number, Number]

_MARK = re.compile(r"\*([^*]+)\*|([_^])(?:\{([^}]*)\}|(\w))")
_SHIFT = {"": 0.0, "_": 0.25, "^": -0.4}  # in em of the text around


def markup(text: str) -> str:
    """``*x*`` in italics, ``h_t`` and ``W_{in}`` lowered, ``a^2`` raised.

    As ``<tspan>`` with a shift ``dy``, which every browser knows.
    """
    pieces, end = [], 0  # (text, italic, "", "_" or "^")
    for match in _MARK.finditer(text):
        italic, mark, group, letter = match.groups()
        pieces.append((text[end : match.start()], False, ""))
        pieces.append((italic or group or letter, bool(italic), mark or ""))
        end = match.end()
    pieces.append((text[end:], False, ""))
    out, height = "", 0.0
    for piece, slanted, mark in pieces:
        if not piece:
            continue
        dy = (_SHIFT[mark] - height) / (0.75 if mark else 1)
        height = _SHIFT[mark]
        style = ' font-style="italic"' if slanted else ""
        style += ' font-size="75%"' if mark else ""
        style += f' dy="{dy:.3g}em"' if dy else ""
        piece = escape(piece, quote=False)
        out += f"<tspan{style}>{piece}</tspan>" if style else piece
    return out


def words(
    x: Number,
    y: Number,
    text: str,
    size: Number,
    anchor: str = "middle",
    ink: str = INKS["plain"],
    mark: str = "",
) -> str:
    """A ``<text>`` whose letters have their middle at height y.

    Args:
        x: place, in units.
        y: place, in units.
        text: with the marks of :func:`markup`.
        size: of the letters, in units.
        anchor: what of the text stands at x: start, middle or end.
        ink: its colour.
        mark: further attributes.

    Raises:
        ValueError: letters too small for a telephone.
    """
    if size < SMALLEST:
        raise ValueError(
            f"size: expected letters of at least {SMALLEST} units, got {size}"
        )
    return (
        f'<text{mark} x="{x:.5g}" y="{y:.5g}" dy=".35em" font-size="{size:g}" '
        f'text-anchor="{anchor}" fill="{ink}">{markup(text)}</text>'
    )


class Drawing:
    """An SVG made of boxes, signs, arrows, lines and words.

    Places are in units, from the left and from the top; boxes and words are
    placed by their middle.

    Args:
        title: what is drawn, in a few words, without a full stop.
        description: a sentence or more for who cannot see it.
        height: of the drawing; it is 380 wide.

    Raises:
        ValueError: a description that is not a sentence.
    """

    WIDTH = 380

    def __init__(self, title: str, description: str, height: Number) -> None:
        if len(description.split()) < 6 or description.strip()[-1] != ".":
            raise ValueError(
                f"description: expected a full sentence, got {description!r}"
            )
        self.title, self.description = title, description
        self.height = height
        self.parts: list[str] = []
        self.linked = False

    def box(
        self,
        x: Number,
        y: Number,
        w: Number,
        text: str = "",
        h: Number = 32,
        kind: str = "plain",
        size: Number = 14,
        copies: int = 0,
        href: str = "",
    ) -> None:
        """A box w × h around (x, y), with its text.

        Args:
            x: its middle.
            y: its middle.
            w: its width.
            text: lines, parted by newlines; they must fit into it.
            h: its height.
            kind: what it stands for, one of ``KINDS``.
            size: of the letters.
            copies: how many more of it peep out behind.
            href: where it leads, if anywhere.
        """
        if href:
            self.linked = True
            self.parts.append(f'<a href="{escape(href)}">')
        for k in range(copies, -1, -1):
            left, top = x - w / 2 + 5 * k, y - h / 2 - 5 * k
            place = f'x="{left:g}" y="{top:g}" width="{w:g}" height="{h:g}"'
            self._shape(f'rect rx="5" {place}', kind, own=k == 0)
        lines = text.split("\n")
        for i, line in enumerate(lines):
            down = (i - (len(lines) - 1) / 2) * size * 1.3
            self.text(x, y + down, line, size, inside=True)
        if href:
            self.parts.append("</a>")

    def sign(
        self,
        x: Number,
        y: Number,
        text: str,
        r: Number = 11,
        kind: str = "plain",
    ) -> None:
        """A circle of radius r with a sign in it: a sum, a product, a state."""
        self._shape(f'circle cx="{x:g}" cy="{y:g}" r="{r:g}"', kind)
        self.text(x, y, text, 14, inside=True)

    def text(
        self,
        x: Number,
        y: Number,
        text: str,
        size: Number = 12,
        anchor: str = "middle",
        kind: str = "plain",
        inside: bool = False,
    ) -> None:
        """Words with their middle at height y.

        Args:
            x: where their start, middle or end is.
            y: where their middle is.
            text: with the marks of :func:`markup`.
            size: of the letters.
            anchor: start, middle or end.
            kind: what they speak of, one of ``KINDS``.
            inside: they belong into a box (the browser's check holds them
                there).
        """
        if text:
            mark = ' data-inside=""' if inside else ""
            self.parts.append(
                words(x, y, text, size, anchor, KINDS[kind], mark)
            )

    def line(
        self, *points: Point, kind: str = "plain", width: Number = 1.25
    ) -> None:
        """A line through the points: a curve, a bracket, an axis."""
        self.path(
            "M" + "L".join(f"{x:.5g} {y:.5g}" for x, y in points), kind, width
        )

    def path(self, d: str, kind: str = "plain", width: Number = 1.25) -> None:
        """A line by SVG's own letters (``M0 0C…``), where a curve is round."""
        self.parts.append(
            f'<path d="{d}" fill="none" stroke="{KINDS[kind]}" '
            f'stroke-width="{width:g}"/>'
        )

    def arrow(
        self,
        *points: Point,
        label: str = "",
        side: str = "right",
        at: Number = 0.5,
        kind: str = "plain",
    ) -> None:
        """An arrow through the points, its head at the last.

        Args:
            *points: two or more.
            label: beside the first stretch: the shape of what flows.
            side: of the stretch: right, left, above or below.
            at: where along the stretch, from 0 to 1.
            kind: what flows, one of ``KINDS``.
        """
        self.line(*points, kind=kind)
        # The head is drawn, not an SVG marker: the id of a marker would be
        # looked up in the page's first drawing.
        (x0, y0), (x1, y1) = points[-2:]
        length = math.hypot(x1 - x0, y1 - y0)
        c, s = (x1 - x0) / length, (y1 - y0) / length
        back = [(x1 - 8 * c + k * s, y1 - 8 * s - k * c) for k in (-3.5, 3.5)]
        tip = "L".join(f"{x:.5g} {y:.5g}" for x, y in ((x1, y1), *back))
        self.parts.append(f'<path d="M{tip}z" fill="{KINDS[kind]}"/>')
        (x0, y0), (x1, y1) = points[:2]
        dx, dy, anchor = {
            "right": (7, 0, "start"),
            "left": (-7, 0, "end"),
            "above": (0, -9, "middle"),
            "below": (0, 10, "middle"),
        }[side]
        x, y = x0 + at * (x1 - x0) + dx, y0 + at * (y1 - y0) + dy
        self.text(x, y, label, anchor=anchor, kind=kind)

    def _shape(self, shape: str, kind: str, own: bool = True) -> None:
        """A filled outline that hides what is behind it."""
        veil, edge = (0, 0.6) if kind in ("plain", "quiet") else (0.14, 1)
        mark = ' data-box=""' if own else ""
        self.parts.append(f'<{shape} fill="{GROUND}"/>')
        self.parts.append(
            f'<{shape}{mark} fill="{KINDS[kind]}" fill-opacity="{veil}" '
            f'stroke="{KINDS[kind]}" stroke-opacity="{edge}"/>'
        )

    def svg(self) -> str:
        """The drawing as one element, ready for a page."""
        says = escape(f"{self.title}. {self.description}")
        size = f"{self.WIDTH} {self.height:g}"
        role = "group" if self.linked else "img"  # in an img no link is found
        style = (
            f"display:block;width:100%;max-width:{1.3 * self.WIDTH:g}px;"
            "height:auto;margin:auto"
        )
        return "\n".join(
            [
                f'<svg class="lt-drawing" viewBox="0 0 {size}" role="{role}" '
                f'aria-label="{says}" fill="currentColor" '
                f'font-family="{FONT}" stroke-width="1.25" style="{style}">',
                *self.parts,
                "</svg>",
            ]
        )

    def __repr__(self) -> str:
        return f"<drawing: {self.title}>"

    def _repr_html_(self) -> str:
        return self.svg()
