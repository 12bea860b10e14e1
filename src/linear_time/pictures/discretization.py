"""Chapter 12: how a system reads tokens, and four guesses about one step.

The settings of the explorer are too many for frames, and the rules short:
here the script beside this file computes, and a test in the browser compares
it with the package.
"""

import json
import math
from pathlib import Path

import torch

from linear_time.discretization import METHODS
from linear_time.drawing import Drawing
from linear_time.explorer import Interactive, control, fill
from linear_time.panel import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Curve,
    Panel,
    axes,
    picture,
)

_SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf8")
END = 6.0  # seconds that are drawn
CURVES = {
    "exact": Curve("grey", width=5),
    "forward_euler": Curve("orange"),
    "backward_euler": Curve("green", dash="8 4"),
    "bilinear": Curve("blue", dash="2 3"),
    "zero_order_hold": Curve("purple", dash="10 3 2 3"),
}
PANEL = Panel(
    "time in s",
    "state *h* ÷ its exact value at 6 s",
    (0, END),
    (-0.6, 1.8),
    CURVES,
    {0: "0", 2: "2", 4: "4", 6: "6"},
    {0: "0", 1: "1"},
)


def written(name: str) -> str:
    """A rule's name, as one writes it."""
    text = name.replace("_", " ").replace("euler", "Euler")
    return text.replace("zero order", "zero-order")


def curve(name: str, delta: float, a: float) -> str:
    """A rule's steps, or the exact state, in SVG's letters.

    What leaves the panel is cut off at its edge.
    """
    one = torch.ones(1, dtype=torch.float64)

    def exact(t: float) -> float:
        return t if a == 0 else math.expm1(a * t) / a

    if name == "exact":
        points = [(i / 10, exact(i / 10)) for i in range(61)]
    else:
        A_bar, B_bar = METHODS[name](a * one[None], one, delta)
        points = [(0.0, 0.0)]
        while (t := points[-1][0] + delta) <= END + 1e-9:
            points.append((t, A_bar.item() * points[-1][1] + B_bar.item()))
    return "M" + "L".join(
        f"{PANEL.at_x(t):.1f} {PANEL.at_y(h / exact(END)):.1f}"
        for t, h in points
    )


def discretization_explorer(delta: float = 0.9, a: float = -2.0) -> Interactive:
    """Drag Δ and a, see four rules follow h′ = a h + x.

    The input switches on at time 0 and stays at 1. What stands in the page
    before its script runs is the library's.

    Args:
        delta: step Δ at first, in s.
        a: rate at first, in 1/s.
    """
    one = torch.ones(1, dtype=torch.float64)
    values, table = {}, ""
    for name, rule in METHODS.items():
        A_bar, B_bar = rule(a * one[None], one, delta)
        growth = abs(A_bar.item())
        verdict = "< 1, forgets" if growth < 1 else "> 1, explodes"
        values[f"{name}.A_bar"] = f"{A_bar.item():.4f}"
        values[f"{name}.B_bar"] = f"{B_bar.item():.4f}"
        values[f"{name}.stable"] = "= 1, keeps" if growth == 1 else verdict
        table += (
            f"<tr><td>{CURVES[name].sample}&nbsp;{written(name)}</td>"
            f"<td>{{{name}.A_bar}}</td><td>{{{name}.B_bar}}</td>"
            f"<td>{{{name}.stable}}</td></tr>"
        )
    paths = "".join(
        f'\n<path data-curve="{name}" {look.style} '
        f'd="{curve(name, delta, a)}"/>'
        for name, look in CURVES.items()
    )
    window = (  # what leaves the panel is cut off at its edge
        f'<clipPath id="discretization-window"><rect x="{LEFT}" y="{TOP}" '
        f'width="{RIGHT - LEFT}" height="{BOTTOM - TOP}"/></clipPath>'
        f'<g clip-path="url(#discretization-window)">{paths}</g>'
    )
    low, high = PANEL.y_range
    frame = {
        "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM,
        "low": low, "high": high, "end": END,
    }  # fmt: skip
    body = [
        control("delta", "step Δ", f"{delta:.2f}", "s", delta, 0.05, 3, 0.05),
        control("a", "rate a", f"{a:.1f}", "per second", a, -4, 0, 0.1),
        '<div class="lt-panels">'
        + picture(
            "State against time after the input switches on: a grey band, the "
            "exact state, and the steps of four rules.",
            axes(PANEL) + window,
        )
        + "</div>",
        fill(
            "<table><thead><tr><th>rule</th><th>Ā</th><th>B̄</th><th>|Ā|</th>"
            f"</tr></thead><tbody>{table}</tbody></table>",
            values,
        ),
        f'<script type="application/json">{json.dumps(frame)}</script>',
    ]
    return Interactive("discretization-explorer", "\n".join(body), _SCRIPT)


def reader_drawing() -> Drawing:
    """One number in, N numbers kept, one number out."""
    d = Drawing(
        "A state-space model reads a token",
        "A rule turns the learned A, B and step Δ into a matrix Ā and a vector "
        "B̄, once. For each token, the number x_k is multiplied by B̄ and added "
        "to Ā times the old state; the sum is the new state of N numbers, and "
        "its product with C is the one number y_k.",
        height=268,
    )
    d.box(116, 26, 168, "*A* (*N*, *N*), *B* (*N*), Δ", kind="weights")
    d.arrow((200, 26), (240, 26))
    d.box(278, 26, 76, "a rule")
    d.arrow(
        (278, 42),
        (278, 98),
        label="*Ā* (*N*, *N*), *B̄* (*N*)",
        side="left",
        at=0.42,
    )
    d.box(190, 178, 372, h=160, kind="quiet")
    d.text(14, 112, "for each token", anchor="start", kind="quiet")
    y, back = 168, 228
    d.text(20, y, "*x*_k", 14)
    d.arrow((32, y), (60, y), label="(1)", side="above", kind="input")
    d.box(78, y, 36, "*B̄*")
    d.arrow((96, y), (130, y), label="(*N*)", side="above")
    d.sign(142, y, "+")
    d.arrow((153, y), (188, y), label="(*N*)", side="above", kind="state")
    d.box(212, y, 48, "*h*_k", kind="state")
    d.arrow((236, y), (272, y), label="(*N*)", side="above", kind="state")
    d.box(290, y, 36, "*C*", kind="weights")
    d.arrow((308, y), (338, y), label="(1)", side="above")
    d.text(354, y, "*y*_k", 14)
    d.arrow((212, y + 16), (212, back), (196, back), kind="state")
    d.box(178, back, 36, "*Ā*")
    d.arrow((160, back), (142, back), (142, y + 11), kind="state")
    d.text(220, 214, "(*N*), kept for", anchor="start", kind="state")
    d.text(220, 230, "the next token", anchor="start", kind="state")
    return d


def guesses_drawing() -> Drawing:
    """One step of h′ = −h + 1 from h = 0.1, by four rules, Δ = 1.5."""
    d = Drawing(
        "Four guesses about one step",
        "Four panels, each with the state before and after one step of length "
        "Δ, while the input stands still. Forward Euler follows the slope at "
        "the start and overshoots; backward Euler follows the slope at the end "
        "and falls short; the bilinear rule follows their mean; zero-order "
        "hold follows the true curve.",
        height=322,
    )
    delta, start, one = 1.5, 0.1, torch.ones(1, dtype=torch.float64)
    notes = {
        "forward_euler": "slope at the start",
        "backward_euler": "slope at the end",
        "bilinear": "mean of both slopes",
        "zero_order_hold": "the true curve",
    }
    width, unit = 138, 62  # from t_{k−1} to t_k; from 0 to 1
    for i, (name, note) in enumerate(notes.items()):
        left, base = 22 + 188 * (i % 2), 132 + 160 * (i // 2)
        right = left + width
        d.text(left, base - 116, written(name), 14, "start")
        d.text(left, base - 99, note, anchor="start")
        d.line((left - 8, base), (right + 16, base), kind="quiet")
        d.line((left, base - unit), (right, base - unit), kind="input")
        true = [1 - (1 - start) * math.exp(-delta * t / 30) for t in range(31)]
        bend = [
            (left + width * t / 30, base - unit * h) for t, h in enumerate(true)
        ]
        d.line(*bend, kind="quiet", width=2)
        A_bar, B_bar = METHODS[name](-one[None], one, delta)
        end = base - unit * (A_bar.item() * start + B_bar.item())
        chord = [bend[0], (right, end)]
        path = bend if name == "zero_order_hold" else chord
        d.line(*path, kind="state", width=2)
        for x, y in chord:
            d.sign(x, y, "", r=3.5, kind="state")
        d.text(right + 8, end, "*h*_k", 12, "start", "state")
        d.text(left + 2, base + 12, "*t*_{k−1}", kind="quiet")
        d.text(right, base + 12, "*t*_k", kind="quiet")
        d.text(left + 3, base - unit - 9, "*x*_k", 12, "start", "input")
    return d
