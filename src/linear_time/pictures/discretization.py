"""Chapter 12: four rules follow h′ = a h + x, at any step and rate.

The settings are too many for frames, and the rules short: here the script
beside this file computes, and a test in the browser compares it with the
package.
"""

import json
import math
from pathlib import Path

import torch

from linear_time.discretization import METHODS
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


def curve(name: str, delta: float, a: float) -> str:
    """A rule's steps, or the exact state, in SVG's letters.

    What leaves the panel is drawn at its edge.
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
    low, high = PANEL.y_range
    inside = [(t, min(max(h / exact(END), low), high)) for t, h in points]
    return "M" + "L".join(
        f"{PANEL.at_x(t):.1f} {PANEL.at_y(h):.1f}" for t, h in inside
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
            f"<tr><td>{CURVES[name].sample}&nbsp;{name.replace('_', ' ')}</td>"
            f"<td>{{{name}.A_bar}}</td><td>{{{name}.B_bar}}</td>"
            f"<td>{{{name}.stable}}</td></tr>"
        )
    paths = "".join(
        f'\n<path data-curve="{name}" {look.style} '
        f'd="{curve(name, delta, a)}"/>'
        for name, look in CURVES.items()
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
            axes(PANEL) + paths,
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
