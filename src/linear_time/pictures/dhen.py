"""Chapter 07: the layers of DHEN and of Wukong, and what depth buys."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from linear_time.dhen import CrossNetwork, Wukong
from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel

ROUNDING = 1e-13  # what a difference of zero looks like in float64


def ranker_drawing() -> Drawing:
    """From the fields of one rating to one number."""
    d = Drawing(
        "A ranker",
        "Each of n fields of one rating, such as user, movie and hour, looks "
        "up its row in a table of embeddings. The n rows of width d are the "
        "matrix X. Interaction modules make new rows of the same width, an "
        "MLP makes one number, the log-odds that the rating is a like.",
        height=344,
    )
    columns = (62, 147, 232, 326)
    fields = ("user 217", "movie 858", "hour 21", "genres")
    for x, field in zip(columns, fields, strict=True):
        d.text(x, 12, field)
        d.arrow((x, 22), (x, 44))
        d.box(x, 66, 70, "table", h=40, kind="weights")
        d.arrow((x, 86), (x, 126))
    d.text(105, 106, "(*d*)")
    d.text(190, 106, "(*d*)")
    d.text(279, 106, "(*d*)")
    d.box(194, 144, 334, "*X*, a row a field", h=34, kind="input")
    d.arrow((194, 161), (194, 195), label="(*n*, *d*)")
    d.box(194, 212, 210, "interaction modules", h=34, kind="weights")
    d.arrow((194, 229), (194, 263), label="(*n*′, *d*)")
    d.box(194, 280, 100, "MLP", h=34, kind="weights")
    d.arrow((194, 297), (194, 324), label="(1)", at=0.45)
    d.text(194, 335, "log-odds of a like")
    return d


def dhen_drawing() -> Drawing:
    """One layer: five modules side by side, an ensemble, a shortcut, a norm."""
    d = Drawing(
        "A DHEN layer",
        "The n tokens of one example go to five modules side by side: a "
        "factorization machine, a cross network, self-attention, LCE and an "
        "MLP. Each gives m tokens. They are joined, a shortcut W X is added, "
        "and a norm gives the m tokens of the next layer.",
        height=330,
    )
    columns = (46, 118, 190, 262, 334)
    names = ("FM", "cross", "attention", "LCE", "MLP")
    d.text(190, 12, "*X*, *n* tokens, one a feature")
    d.arrow((190, 22), (190, 54), label="(*n*, *d*)")
    d.line((columns[0], 54), (columns[-1], 54))
    for x, name in zip(columns, names, strict=True):
        d.arrow((x, 54), (x, 78))
        d.box(x, 94, 66, name, kind="weights", size=12)
        d.arrow((x, 110), (x, 164))
    for x in columns[:-1]:
        d.text(x + 36, 138, "(*m*, *d*)")
    d.box(190, 182, 354, "ensemble: a weighted sum (or side by side)", h=34)
    d.arrow((190, 199), (190, 231), label="(*m*, *d*)")
    d.sign(190, 243, "+")
    d.line((columns[-1], 54), (372, 54))
    d.arrow((372, 54), (372, 243), (326, 243))
    d.box(290, 243, 70, "*W X*", kind="weights")
    d.arrow((255, 243), (202, 243))
    d.text(290, 271, "shortcut")
    d.arrow((190, 254), (190, 272))
    d.box(190, 288, 84, "Norm", h=30)
    d.arrow((190, 303), (190, 326), label="(*m*, *d*)", at=0.6)
    return d


def wukong_drawing() -> Drawing:
    """One layer: pairs on the left, what is kept on the right."""
    d = Drawing(
        "A layer of Wukong",
        "On the left the factorization machine block: the n tokens times "
        "their transpose times Y are n k products, which a norm and an MLP "
        "turn into n_F tokens. On the right W makes n_L tokens of the n. Both "
        "stand side by side, the shortcut is added, and a norm follows.",
        height=396,
    )
    left, right = 100, 250
    d.text(175, 12, "*X*")
    d.arrow((175, 22), (175, 52), label="(*n*, *d*)")
    d.line((left, 52), (352, 52))
    d.arrow((left, 52), (left, 78))
    d.box(left, 95, 150, "*X* (*X*^T *Y*)", h=34, kind="input")
    d.arrow((left, 112), (left, 150), label="(*n*, *k*)")
    d.box(left, 166, 150, "flatten, LayerNorm")
    d.arrow((left, 182), (left, 220), label="*n* · *k* numbers")
    d.box(left, 237, 150, "MLP", h=34, kind="weights")
    d.arrow((left, 254), (left, 292), label="(*n*_F, *d*)")
    d.arrow((right, 52), (right, 150))
    d.box(right, 166, 84, "*W X*", kind="weights")
    d.arrow((right, 182), (right, 292), label="(*n*_L, *d*)")
    d.box(175, 308, 260, "side by side: *n*_F + *n*_L tokens")
    d.arrow((175, 324), (175, 345))
    d.sign(175, 356, "+")
    d.arrow((352, 52), (352, 356), (326, 356))
    d.box(292, 356, 68, "shortcut", kind="weights", size=12)
    d.arrow((258, 356), (187, 356))
    d.arrow((164, 356), (124, 356))
    d.box(82, 356, 84, "LayerNorm", size=12)
    d.arrow((82, 372), (82, 392), label="(*n*_F + *n*_L, *d*)", at=0.5)
    return d


def differences_along_a_ray(
    function: Callable[[Tensor], Tensor], x: Tensor, highest: int = 18
) -> list[float]:
    """How large the k-th differences of t ↦ f(t x) are, k = 0 … highest.

    At equal steps from −1 to 1.3; relative to the values of f and to 2^k, by
    which rounding grows.
    """
    times = torch.linspace(-1, 1.3, highest + 1, dtype=x.dtype)
    with torch.no_grad():
        values = torch.stack([function(t * x) for t in times])
    whole = values.abs().max()
    sizes = [values.diff(n=k, dim=0).abs().max() for k in range(highest + 1)]
    return [float(size / whole / 2**k) for k, size in enumerate(sizes)]


def degree_along_a_ray(
    function: Callable[[Tensor], Tensor], x: Tensor, highest: int = 18
) -> int:
    """The degree of t ↦ f(t x): the last difference that is not rounding."""
    sizes = differences_along_a_ray(function, x, highest)
    return max(k for k, size in enumerate(sizes) if size > ROUNDING)


def stack(kind: int, depth: int) -> Callable[[Tensor], Tensor]:
    """A cross network (0), Wukong without norms (1), Wukong with them (2).

    Drawn in float64 whatever the default is; the page's own draws go on as if
    nothing had been drawn here.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if kind == 0:
                return CrossNetwork(6, 6, 8, depth)
            norm = kind == 2
            return Wukong(6, 8, depth, n_fm=3, n_lcb=2, rank=2, norm=norm)
    finally:
        torch.set_default_dtype(before)


def degree_explorer() -> Explorer:
    """Drag depth and stack: which differences along a ray are left."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 6, 8, generator=generator, dtype=torch.float64)
    names = ("cross network", "Wukong, no norms", "Wukong with norms")

    def frame(depth: int, kind: int) -> Frame:
        sizes = differences_along_a_ray(stack(kind, depth), x)
        heights = [max(0.0, math.log10(size / ROUNDING)) for size in sizes]
        degree = max(k for k, size in enumerate(sizes) if size > ROUNDING)
        says = f"degree {degree}"
        if degree == len(sizes) - 1:
            says = "no difference up to the 18th vanishes: no degree"
        return Frame({"differences": heights}, {"degree": says})

    return Explorer(
        "degree-explorer",
        "Bars: for each k from 0 to 18 how far the k-th difference of the "
        "stack along a ray stands above rounding; a polynomial has no bar "
        "beyond its degree.",
        [
            Slider("depth", "layers", values=(1, 2, 3, 4), start=1),
            Slider(
                "kind",
                "stack",
                values=(0, 1, 2),
                start=1,
                form=names.__getitem__,
            ),
        ],
        [
            Panel(
                "order *p* of the difference",
                "above rounding, powers of ten",
                (-0.5, 18.5),
                (0, 14),
                {"differences": Curve("blue", bars=True)},
                {k: str(k) for k in (0, 2, 4, 8, 16)},
                {0: "0", 4: "4", 8: "8", 12: "12"},
            )
        ],
        frame,
        "<p>Along a ray: {degree}.</p>",
    )
