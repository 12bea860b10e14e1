"""Chapter 04: three machines and what they carry; four layers' costs."""

import math

from linear_time import cost
from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel

FORMULAS = {
    "GRU": (cost.gru_cost, "orange", "8 4"),
    "attention": (cost.attention_cost, "blue", ""),
    "S4D": (cost.s4d_cost, "green", "2 3"),
    "Mamba": (cost.mamba_cost, "purple", "10 3 2 3"),
}


def machines_drawing() -> Drawing:
    """Three layers that read a token at a time, and what each carries on."""
    d = Drawing(
        "Three machines",
        "A GRU, an attention layer and a Mamba layer each read one token and "
        "write one. The GRU carries d numbers on, Mamba 38 d, attention 2 d "
        "for every token so far. Below, the operations of token L and the "
        "rounds that a whole sequence takes.",
        height=372,
    )
    columns = {"GRU": 66, "attention": 190, "Mamba": 314}
    for name, x in columns.items():
        d.text(x, 14, "*x*_L  (*d*)")
        d.arrow((x, 24), (x, 50))
        d.box(x, 68, 100, name, h=36, kind="weights")
        d.arrow((x - 16, 86), (x - 16, 124), kind="state")
        d.arrow((x + 16, 124), (x + 16, 86), kind="state")
        d.arrow((x + 50, 68), (x + 57, 68), (x + 57, 44))
        d.text(x + 52, 34, "*y*_L")
    d.box(66, 140, 44, "", h=30, kind="state")
    d.box(182, 170, 60, "one a\ntoken", h=40, kind="state", copies=4, size=12)
    d.box(314, 146, 60, "", h=42, kind="state")
    rows = {
        "carried to the next token, numbers": ("*d*", "2 *d* *L*", "38 *d*"),
        "operations of token *L*, for large *d*": (
            "12 *d*^2",
            "8 *d*^2 + 4 *d* *L*",
            "12 *d*^2",
        ),
        "rounds that wait for one another": (
            "*L*",
            "1 + log_2 *L*",
            "2 log_2 *L*",
        ),
    }
    for i, (title, cells) in enumerate(rows.items()):
        y = 218 + 54 * i
        d.text(12, y, title, 12, "start", "quiet")
        for x, cell in zip(columns.values(), cells, strict=True):
            d.text(x, y + 22, cell, 13.5)
    return d


def short(value: int) -> str:
    """A number in three digits with a prefix: 12,345 is 12.3 k."""
    # three digits, rounded first: 999,999 is 1.00 M
    power = min((len(str(round(value, 3 - len(str(value))))) - 1) // 3, 6)
    scaled = value / 1000**power
    digits = max(2 - int(scaled >= 10) - int(scaled >= 100), 0)
    text = f"{scaled:.{digits}f}" if power else str(value)
    return f"{text} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}".rstrip()


def cost_explorer(d_model: int = 1024, start: int = 8) -> Explorer:
    """Drag the length, see what four layers cost.

    Lengths are the powers of two from 2⁴ to 2²⁰; a number has 4 bytes.

    Args:
        d_model: width of the layers.
        start: where the slider stands at first, 0 for the length 16.
    """
    exponents = range(4, 21)
    rows = {
        name: [formula(2**k, d_model) for k in exponents]
        for name, (formula, _, _) in FORMULAS.items()
    }

    def frame(k: int) -> Frame:
        numbers = {}
        for name in FORMULAS:
            row = rows[name][k - 4]
            numbers[f"{name}.forward"] = short(row.forward_flops)
            numbers[f"{name}.step"] = short(row.step_flops)
            numbers[f"{name}.state"] = short(4 * row.state)
        return Frame(numbers=numbers, cursor=k)

    def panel(what: str, key: str, of: dict[str, list[int]]) -> Panel:
        curves = {
            f"{name}.{key}": Curve(
                ink, dash=dash, ys=[math.log10(value) for value in of[name]]
            )
            for name, (_, ink, dash) in FORMULAS.items()
        }
        top = max(max(curve.ys or ()) for curve in curves.values())
        low = min(min(curve.ys or ()) for curve in curves.values())
        ticks = {k: f"10{_raised(k)}" for k in range(2, 20, 2)}
        return Panel(
            "length *L*",
            what,
            (4, 20),
            (math.floor(low), math.ceil(top)),
            curves,
            {k: f"2{_raised(k)}" for k in (4, 8, 12, 16, 20)},
            {k: text for k, text in ticks.items() if low <= k <= top},
            cursor=True,
        )

    forward = {n: [r.forward_flops for r in row] for n, row in rows.items()}
    state = {n: [4 * r.state for r in row] for n, row in rows.items()}
    panels = [
        panel("FLOPs of the sequence", "line", forward),
        panel("bytes of the state", "held", state),
    ]
    table = "".join(
        f"<tr><td>{panels[0].curves[f'{name}.line'].sample}&nbsp;{name}</td>"
        f"<td>{{{name}.forward}}</td><td>{{{name}.step}}</td>"
        f"<td>{{{name}.state}}</td></tr>"
        for name in FORMULAS
    )
    return Explorer(
        "cost-explorer",
        "Against the length, on logarithmic axes, the FLOPs of the whole "
        "sequence and the bytes of the state, for four layers.",
        [
            Slider(
                "length",
                "length L",
                values=exponents,
                start=start,
                form=lambda k: f"{2**k:,}",
                unit="tokens",
            )
        ],
        panels,
        frame,
        "<table><thead><tr><th>layer</th><th>sequence, FLOPs</th>"
        "<th>token, FLOPs</th><th>state, bytes</th></tr></thead>"
        f"<tbody>{table}</tbody></table>",
    )


def _raised(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
