"""The book's one plotting style, and the few figures that chapters share."""

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Okabe and Ito's palette, distinguishable with every common colour-vision
#: deficiency; its yellow is left out, being too pale for a line.
COLORS = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "sky": "#56B4E9",
    "orange": "#E69F00",
    "black": "#222222",
    "grey": "#8A8A8A",
}

STYLE: dict[Any, Any] = {
    "figure.figsize": (6.8, 3.2),
    "figure.dpi": 144,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "axes.prop_cycle": cycler(color=list(COLORS.values())),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "font.family": "DejaVu Sans",
    "image.cmap": "viridis",
}


def use_style() -> None:
    """Set matplotlib to the book's style: white ground, safe colours.

    A dark page turns the figure's lightness around (``book/_static``).
    """
    mpl.rcParams.update(STYLE)


def figure(
    n_rows: int = 1, n_cols: int = 1, height: float = 3.2, **kwargs: Any
) -> tuple[Figure, Any]:
    """A figure as wide as the page, and its axes (an array if several).

    Args:
        n_rows: rows of axes.
        n_cols: columns of axes.
        height: of the whole figure, in inches; the width is the page's.
        **kwargs: as for ``plt.subplots``.
    """
    return plt.subplots(
        n_rows, n_cols, figsize=(STYLE["figure.figsize"][0], height), **kwargs
    )


def label(ax: Axes, x: str, y: str, title: str = "") -> None:
    """Name both axes, with units, and give a title where there are several."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if title:
        ax.set_title(title)


def finish(fig: Figure) -> None:
    """Show a figure, and refuse one whose axes have no labels.

    Raises:
        ValueError: if an axis that is drawn has no label.
    """
    for i, ax in enumerate(fig.axes):
        if not ax.axison or ax.get_label() == "<colorbar>":
            continue
        for axis in (ax.xaxis, ax.yaxis):
            shown = axis.get_visible() and any(
                t.get_visible() for t in axis.get_ticklabels()
            )
            if shown and not axis.get_label_text():
                plt.close(fig)
                raise ValueError(
                    f"fig: axes {i} expected a label on its "
                    f"{axis.axis_name} axis, got none"
                )
    plt.show()


class Interactive:
    """A figure that a reader drives in a static page: one piece of HTML.

    Args:
        name: of the figure; the element carries it as ``data-interactive``.
        html: the element, with its own style and script.
    """

    def __init__(self, name: str, html: str) -> None:
        self.name, self.html = name, html

    def __repr__(self) -> str:
        return f"<interactive figure: {self.name}>"

    def _repr_html_(self) -> str:
        return self.html


_EXPLORER = """\
<div data-interactive="discretization-explorer" class="lt-explorer">
<style>
.lt-explorer { max-width: 44rem; }
.lt-explorer label { display: block; margin: .2rem 0; }
.lt-explorer input { width: 100%; }
.lt-explorer table { font-size: .85em; border-collapse: collapse; }
.lt-explorer td, .lt-explorer th { padding: .1rem .5rem .1rem 0;
  text-align: left !important; }
.lt-explorer svg { width: 100%; height: auto; display: block; }
</style>
<label>step Δ = <output data-value="delta">@delta@</output> s
<input data-input="delta" type="range" min="0.05" max="3" step="0.05"
 value="@delta@" aria-label="step Δ in seconds"></label>
<label>rate a = <output data-value="a">@a@</output> per second
<input data-input="a" type="range" min="-4" max="0" step="0.1"
 value="@a@" aria-label="rate a per second"></label>
<svg viewBox="0 0 600 260" role="img" aria-label="State against time after
 the input switches on: the exact curve and the steps of four rules.">
<g fill="none" stroke="currentColor" stroke-width="1">
<path d="M40 10V230H590"/></g>
<g fill="currentColor" font-size="13"><text x="310" y="254">time in s</text>
<text x="30" y="234" text-anchor="end">0</text>
<text x="40" y="246">0</text><text x="575" y="246">6</text>
<text x="46" y="20">state h</text></g>
<path data-curve="exact" fill="none" stroke="currentColor" stroke-width="4"
 opacity=".3"/>
@paths@</svg>
<table><thead><tr><th>rule</th><th>Ā</th><th>B̄</th><th>|Ā|</th></tr></thead>
<tbody>@rows@</tbody></table>
<script>
(function () {
  const box = document.currentScript.closest(".lt-explorer");
  const get = (n) => Number(box.querySelector(`[data-input=${n}]`).value);
  const put = (n, v) => {
    box.querySelector(`[data-value="${n}"]`).textContent = v; };
  const phi = (a, t) => a === 0 ? t : Math.expm1(a * t) / a;
  function draw() {
    const d = get("delta"), a = get("a"), z = d * a;
    const rules = {
      forward_euler: [1 + z, d],
      backward_euler: [1 / (1 - z), d / (1 - z)],
      bilinear: [(1 + z / 2) / (1 - z / 2), d / (1 - z / 2)],
      zero_order_hold: [Math.exp(z), phi(a, d)]};
    const top = 1.6 * phi(a, 6), end = 6;
    const at = (t, h) => (40 + 535 * t / end).toFixed(1) + " " +
      (230 - 210 * Math.max(-1, Math.min(2, h / top))).toFixed(1);
    const line = (points) => "M" + points.join("L");
    let curve = [];
    for (let i = 0; i <= 60; i++) {
      curve.push(at(i / 10, phi(a, i / 10))); }
    box.querySelector("[data-curve=exact]").setAttribute("d", line(curve));
    put("delta", d.toFixed(2)); put("a", a.toFixed(1));
    for (const [name, [A, B]] of Object.entries(rules)) {
      let h = 0, points = [at(0, 0)];
      for (let t = d; t <= end + 1e-9; t += d) {
        h = A * h + B; points.push(at(t, h)); }
      box.querySelector(`[data-curve=${name}]`)
        .setAttribute("d", line(points));
      put(name + ".A_bar", A.toFixed(4)); put(name + ".B_bar", B.toFixed(4));
      put(name + ".stable", Math.abs(A) < 1 ? "< 1, forgets"
        : Math.abs(A) > 1 ? "> 1, explodes" : "= 1, keeps"); }
  }
  box.addEventListener("input", draw); draw();
})();
</script>
</div>"""


def discretization_explorer(delta: float = 0.9, a: float = -2.0) -> Interactive:
    """Chapter 12's figure: drag Δ and a, see four rules follow h′ = a h + x.

    The input switches on at time 0 and stays at 1. The numbers that stand in
    the page before its script runs are the library's.

    Args:
        delta: step Δ at first, in s.
        a: rate at first, in 1/s.

    Returns:
        The figure, for the end of a cell.
    """
    import torch

    from linear_time.discretization import METHODS

    strokes = {
        "forward_euler": ("vermillion", ""),
        "backward_euler": ("green", "8 4"),
        "bilinear": ("sky", "2 3"),
        "zero_order_hold": ("purple", "10 3 2 3"),
    }
    paths, rows = "", ""
    one = torch.ones(1, dtype=torch.float64)
    for name, (color, dash) in strokes.items():
        A_bar, B_bar = METHODS[name](a * one[None], one, delta)
        growth = abs(A_bar.item())
        verdict = "&lt; 1, forgets" if growth < 1 else "&gt; 1, explodes"
        verdict = "= 1, keeps" if growth == 1 else verdict
        paths += (
            f'<path data-curve="{name}" fill="none" stroke="{COLORS[color]}" '
            f'stroke-width="2.5" stroke-dasharray="{dash}"/>\n'
        )
        rows += (
            f'<tr><td><span style="color:{COLORS[color]}">■</span> '
            f"{name.replace('_', ' ')}</td>"
            f'<td data-value="{name}.A_bar">{A_bar.item():.4f}</td>'
            f'<td data-value="{name}.B_bar">{B_bar.item():.4f}</td>'
            f'<td data-value="{name}.stable">{verdict}</td></tr>\n'
        )
    html = _EXPLORER.replace("@paths@", paths).replace("@rows@", rows)
    html = html.replace("@delta@", f"{delta:g}").replace("@a@", f"{a:g}")
    return Interactive("discretization-explorer", html)


_MEMORY = """\
<div data-interactive="memory-explorer" class="lt-explorer">
<style>
.lt-explorer { max-width: 44rem; }
.lt-explorer label { display: block; margin: .2rem 0; }
.lt-explorer input { width: 100%; }
.lt-explorer svg { width: 100%; height: auto; display: block; }
</style>
<label>time t = <output data-value="time">@time@</output> s
<input data-input="time" type="range" min="0" max="@last@" step="1"
 value="@at@" aria-label="time in steps"></label>
<svg viewBox="0 0 600 260" role="img" aria-label="A heartbeat up to the chosen
 time, and what @N@ numbers remember of it.">
<g fill="none" stroke="currentColor" stroke-width="1">
<path d="M40 10V230H590"/></g>
<g fill="currentColor" font-size="13"><text x="300" y="254">time in s</text>
<text x="40" y="246">0</text><text x="590" y="246" text-anchor="end">@end@
</text><text x="46" y="20">recorder's units</text></g>
<path fill="none" stroke="currentColor" opacity=".25" stroke-width="3"
 d="@signal@"/>
<path data-curve="memory" fill="none" stroke="@color@" stroke-width="2.5"/>
<path data-curve="now" stroke="currentColor" stroke-dasharray="3 3"/></svg>
<p>@N@ numbers for <output data-value="samples">@samples@</output> samples:
relative RMSE <output data-value="error">@error@</output></p>
<script type="application/json">@data@</script>
<script>
(function () {
  const box = document.currentScript.closest(".lt-explorer");
  const data = JSON.parse(
    box.querySelector("script[type='application/json']").textContent);
  const slider = box.querySelector("[data-input=time]");
  const put = (n, v) => {
    box.querySelector(`[data-value="${n}"]`).textContent = v; };
  function read(c, u) {  // the sum of c_n √(2n+1) P_n(1 − 2u)
    const y = 1 - 2 * u;
    let before = 0, p = 1, sum = 0;
    c.forEach((c_n, n) => {
      sum += c_n * Math.sqrt(2 * n + 1) * p;
      [before, p] = [p, ((2 * n + 1) * y * p - n * before) / (n + 1)]; });
    return sum; }
  function draw() {
    const i = Number(slider.value), c = data.c[i], end = data.samples[i];
    const x = (k) => 40 + 550 * k / data.length;
    const points = [];
    for (let j = 0; j <= 200; j++) {
      const h = Math.max(-1.6, Math.min(3.4, read(c, 1 - j / 200) / 80));
      points.push(x(end * j / 200).toFixed(1) + " " +
        (160 - 44 * h).toFixed(2)); }
    box.querySelector("[data-curve=memory]")
      .setAttribute("d", "M" + points.join("L"));
    box.querySelector("[data-curve=now]")
      .setAttribute("d", `M${x(end).toFixed(1)} 10V230`);
    put("time", (end / data.rate).toFixed(2)); put("samples", end);
    put("error", data.error[i].toFixed(2)); }
  slider.addEventListener("input", draw); draw();
})();
</script>
</div>"""


def memory_explorer(N: int = 32, moments: int = 32) -> Interactive:
    """Chapter 14's figure: drag the time, see what N numbers remember.

    The recording is read online by the scaled Legendre memory. The page holds
    the N coefficients at some moments and sums the polynomials itself.

    Args:
        N: how many numbers.
        moments: how many places the slider has.

    Returns:
        The figure, for the end of a cell.
    """
    import json

    from linear_time.datasets import ecg
    from linear_time.hippo import project, reconstruct, sample_ages

    x = ecg().x - ecg().x.mean()
    length = len(x)
    c = project(x, N)
    ends = [length * (i + 1) // moments for i in range(moments)]
    error = []
    for end in ends:
        past = reconstruct(c[end - 1], sample_ages(end))
        error.append(float((past - x[:end]).norm() / x[:end].norm()))
    data = {
        "c": [[round(v, 3) for v in c[end - 1].tolist()] for end in ends],
        "samples": ends,
        "error": [round(e, 4) for e in error],
        "length": length,
        "rate": ecg().sampling_rate,
    }
    at = moments // 2
    signal = "L".join(
        f"{40 + 550 * k / length:.1f} {160 - 44 * v / 80:.1f}"
        for k, v in list(enumerate(x.tolist()))[::2]
    )
    values = {
        "time": f"{ends[at] / ecg().sampling_rate:.2f}",
        "samples": str(ends[at]),
        "error": f"{error[at]:.2f}",
        "last": str(moments - 1),
        "at": str(at),
        "end": f"{length / ecg().sampling_rate:.1f}",
        "N": str(N),
        "signal": "M" + signal,
        "color": COLORS["vermillion"],
        "data": json.dumps(data, separators=(",", ":")),
    }
    html = _MEMORY
    for name, value in values.items():
        html = html.replace(f"@{name}@", value)
    return Interactive("memory-explorer", html)


_COSTS = """\
<div data-interactive="cost-explorer" class="lt-explorer">
<style>
.lt-explorer { max-width: 44rem; }
.lt-explorer label { display: block; margin: .2rem 0; }
.lt-explorer input { width: 100%; }
.lt-explorer table { font-size: .85em; border-collapse: collapse; }
.lt-explorer td, .lt-explorer th { padding: .1rem .5rem .1rem 0;
  text-align: left; }
.lt-explorer svg { width: 100%; height: auto; display: block; }
</style>
<label>length L = <output data-value="length">@length@</output> tokens
<input data-input="length" type="range" min="0" max="@last@" step="1"
 value="@at@" aria-label="length, a power of two"></label>
<svg viewBox="0 0 600 250" role="img" aria-label="Two panels on logarithmic
 axes against the length: FLOPs of the whole sequence, and bytes of the state,
 for four layers.">
<g fill="none" stroke="currentColor" stroke-width="1">
<path d="M40 20V220H290M340 20V220H590"/></g>
<g fill="currentColor" font-size="13">
<text x="40" y="14">FLOPs of the sequence</text>
<text x="340" y="14">bytes of the state</text>
@ticks@<text x="165" y="246" text-anchor="middle">length</text>
<text x="465" y="246" text-anchor="middle">length</text></g>
@paths@<path data-curve="now" fill="none" stroke="currentColor"
 stroke-dasharray="3 3"/></svg>
<table><thead><tr><th>layer</th><th>sequence, FLOPs</th><th>token, FLOPs</th>
<th>state, bytes</th></tr></thead><tbody>@rows@</tbody></table>
<script type="application/json">@data@</script>
<script>
(function () {
  const box = document.currentScript.closest(".lt-explorer");
  const data = JSON.parse(
    box.querySelector("script[type='application/json']").textContent);
  const slider = box.querySelector("[data-input=length]");
  function draw() {
    const i = Number(slider.value), x = 40 + 250 * i / (data.length - 1);
    for (const [name, value] of Object.entries(data[i])) {
      box.querySelector(`[data-value="${name}"]`).textContent = value; }
    box.querySelector("[data-curve=now]").setAttribute("d",
      `M${x.toFixed(1)} 20V220M${(x + 300).toFixed(1)} 20V220`); }
  slider.addEventListener("input", draw); draw();
})();
</script>
</div>"""


def cost_explorer(d_model: int = 1024, at: int = 8) -> Interactive:
    """Chapter 04's figure: drag the length, see what four layers cost.

    Lengths are the powers of two from 2⁴ to 2²⁰; a number has 4 bytes.

    Args:
        d_model: width of the layers.
        at: where the slider stands at first, 0 for the length 16.

    Returns:
        The figure, for the end of a cell.
    """
    import json
    import math

    from linear_time import cost

    formulas = {
        "GRU": (cost.gru_cost, "vermillion", "8 4"),
        "attention": (cost.attention_cost, "blue", ""),
        "S4D": (cost.s4d_cost, "green", "2 3"),
        "Mamba": (cost.mamba_cost, "purple", "10 3 2 3"),
    }
    lengths = [2**k for k in range(4, 21)]
    data = [{"length": f"{length:,}"} for length in lengths]
    curves: dict[str, tuple[list[int], list[int]]] = {}
    for name, (formula, _, _) in formulas.items():
        rows = [formula(length, d_model) for length in lengths]
        state = [4 * row.state for row in rows]
        curves[name] = [row.forward_flops for row in rows], state
        for place, row, held in zip(data, rows, state, strict=True):
            place[f"{name}.forward"] = _short(row.forward_flops)
            place[f"{name}.step"] = _short(row.step_flops)
            place[f"{name}.state"] = _short(held)
    paths = ticks = table = ""
    for panel in (0, 1):
        values = [v for pair in curves.values() for v in pair[panel]]
        low = math.floor(math.log10(min(values)))
        rise = 190 / (math.log10(max(values)) - low)
        for decade in range(low + 2 - low % 2, low + int(190 / rise) + 1, 4):
            y = 220 - rise * (decade - low)
            ticks += (
                f'<text x="{36 + 300 * panel}" y="{y + 4:.0f}" font-size="11" '
                f'text-anchor="end">10<tspan dy="-4" font-size="8">{decade}'
                "</tspan></text>\n"
            )
        for name, (_, color, dash) in formulas.items():
            points = "L".join(
                f"{40 + 300 * panel + 250 * i / (len(lengths) - 1):.1f} "
                f"{220 - rise * (math.log10(v) - low):.1f}"
                for i, v in enumerate(curves[name][panel])
            )
            paths += (
                f'<path data-curve="{name}" fill="none" stroke="'
                f'{COLORS[color]}" stroke-width="2.5" stroke-dasharray="{dash}"'
                f' d="M{points}"/>\n'
            )
    for name, (_, color, _) in formulas.items():
        cells = "".join(
            f'<td data-value="{name}.{key}">{data[at][f"{name}.{key}"]}</td>'
            for key in ("forward", "step", "state")
        )
        table += (
            f'<tr><td><span style="color:{COLORS[color]}">■</span>'
            f"&nbsp;{name}</td>{cells}</tr>\n"
        )
    for k, i in ((4, 0), (12, 8), (20, 16)):
        for x in (40, 340):
            ticks += (
                f'<text x="{x + 250 * i / 16:.0f}" y="234" font-size="11" '
                f'text-anchor="middle">2<tspan dy="-4" font-size="8">{k}'
                "</tspan></text>\n"
            )
    marks = {
        "length": data[at]["length"],
        "last": str(len(lengths) - 1),
        "at": str(at),
        "ticks": ticks,
        "paths": paths,
        "rows": table,
        "data": json.dumps(data, separators=(",", ":")),
    }
    html = _COSTS
    for name, value in marks.items():
        html = html.replace(f"@{name}@", value)
    return Interactive("cost-explorer", html)


def _short(value: int) -> str:
    """A number in three digits with a prefix: 12,345 is 12.3 k."""
    # three digits, rounded first: 999,999 is 1.00 M
    power = min((len(str(round(value, 3 - len(str(value))))) - 1) // 3, 6)
    scaled = value / 1000**power
    digits = max(2 - int(scaled >= 10) - int(scaled >= 100), 0)
    text = f"{scaled:.{digits}f}" if power else str(value)
    return f"{text} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}".rstrip()


use_style()
