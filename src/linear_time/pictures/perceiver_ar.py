"""Chapter 10: latents with a place, and what their number costs."""

import math
from functools import cache

from linear_time.drawing import Drawing, Number
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel


def masks_drawing() -> Drawing:
    """One triangle; the latents' two masks are corners of it."""
    n, m, side = 12, 5, 13
    d = Drawing(
        "The triangle of masks",
        "On the left the causal triangle of a decoder with 12 positions, of "
        "which Perceiver AR keeps the last 5 rows: the input mask, 5 by 12. "
        "On the right the latent mask, the 5 by 5 corner of the same "
        "triangle, which every layer after the first uses.",
        height=286,
    )

    def cells(left: Number, top: Number, rows: range, first: int) -> None:
        for i, t in enumerate(rows):
            for j, s in enumerate(range(first, n)):
                kept, seen = t >= n - m, s <= t
                if not seen and not kept:
                    continue
                kind = "input" if seen and kept else "quiet"
                x = left + side * (j + 0.5)
                y = top + side * (i + 0.5)
                if seen:
                    d.box(x, y, side - 2, h=side - 2, kind=kind)

    left, top = 40, 54
    cells(left, top, range(n), 0)
    right = 272
    low = top + side * (n - m)
    cells(right, low, range(n - m, n), n - m)
    d.text(left + side * n / 2, 14, "first layer: inputs read")
    d.text(left + side * n / 2, 32, "(*m*, *n*) = (5, 12)", kind="input")
    d.text(right + side * m / 2, 14, "all others")
    d.text(right + side * m / 2, 32, "(*m*, *m*) = (5, 5)", kind="input")
    d.text(left + 4.7 * side, top + 30, "rows of a decoder", anchor="start")
    d.text(left + 4.7 * side, top + 46, "that have no latent", anchor="start")
    d.line((left - 8, low), (left - 14, low), (left - 14, low + side * m),
           (left - 8, low + side * m), kind="input")  # fmt: skip
    d.text(16, low + side * m / 2, "*m*", kind="input")
    bottom = low + side * m
    d.text(left + side * n / 2, bottom + 14, "position read, 1 … *n*")
    d.text(right + side * m / 2, bottom + 14, "latent read")
    d.text(190, bottom + 42, "a latent reads what is not after it, and")
    d.text(190, bottom + 58, "predicts the next token: *m* losses a pass")
    return d


@cache
def loss_flops(
    n: int, m: int, d: int, layers: int, skip: bool = False
) -> float:
    """Operations of a loss with m latents of n tokens, P = 12 d² weights.

    Args:
        n: tokens that are read.
        m: latents; n of them are the decoder.
        d: width.
        layers: of the model.
        skip: whether a kernel leaves out the scores that the mask hides.
    """
    own = m * (m + 1) / 2 if skip else m * m
    first = m * (n - m) + own
    weights = 2 * layers * m * 12 * d**2
    prefix = 4 * d**2 * (n - m)
    return (weights + prefix + 4 * d * (first + (layers - 1) * own)) / m


def latents_explorer() -> Explorer:
    """Drag the latents and the context: losses, FLOPs a loss, what is stale."""
    d, layers, top = 1024, 24, 17

    def ratio(n: int, m: int, skip: bool) -> float:
        if m > n:
            return math.nan
        decoder = loss_flops(n, n, d, layers, skip)
        return loss_flops(n, m, d, layers, skip) / decoder

    def frame(power: int, n: int) -> Frame:
        m = min(2**power, n)
        rows = {
            name: [
                math.log10(ratio(n, 2**k, skip)) if 2**k <= n else math.nan
                for k in range(top + 1)
            ]
            for name, skip in (("all", False), ("causal", True))
        }
        return Frame(
            rows,
            {
                "latents": f"{m:,}",
                "all_scores": f"{ratio(n, m, False):.2f}",
                "skipping": f"{ratio(n, m, True):.2f}",
                "stale": f"{(layers - 2) * (m - 1) if m < n else 0:,}",
                "cached": f"{n + (layers - 1) * m:,}",
            },
            cursor=math.log2(m),
        )

    return Explorer(
        "latents-explorer",
        "The operations of a loss with m latents, over those of the decoder "
        "on the same input, against m, with all scores computed and with a "
        "kernel that skips the hidden ones.",
        [
            Slider(
                "power",
                "latents, m",
                values=range(top + 1),
                start=10,
                form=lambda k: f"{2**k:,}",
            ),
            Slider(
                "n",
                "tokens read, n (at least m)",
                values=(2048, 8192, 32768, 131072),
                start=1,
                form="{:,}",
            ),
        ],
        [
            Panel(
                "latents, *m*",
                "operations of a loss, over the decoder's",
                (0, top),
                (-1, 2),
                {
                    "all": Curve("blue", "all scores computed"),
                    "causal": Curve(
                        "orange", "hidden scores skipped", dash="7 4"
                    ),
                },
                {0: "1", 5: "32", 10: "1,024", 15: "32,768"},
                {-1: "0.1", 0: "1", 1: "10", 2: "100"},
                cursor=True,
            )
        ],
        frame,
        "<p>{latents} losses a pass. A loss costs {all_scores} of the "
        "decoder's ({skipping} where hidden scores are skipped). Of {cached} "
        "cached positions {stale} are out of date when the window moves by "
        "one.</p>",
    )
