"""Chapter 09: ask the latents, and ask between the pixels."""

import torch

from linear_time.datasets import digits
from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel, written
from linear_time.perceiver import fourier_features, grid


def stages_drawing() -> Drawing:
    """Encode, process, decode: three attentions, with every shape."""
    d = Drawing(
        "Encode, process, decode",
        "A tall input of n tokens is read by m latents: encode. The latents "
        "work among themselves in L layers: process. A tall array of o "
        "queries reads the latents and becomes o outputs: decode. Inputs and "
        "queries never meet.",
        height=318,
    )
    d.box(40, 150, 48, "*x*", h=200, kind="input")
    d.text(40, 34, "(*n*, *d*_{in})")
    d.text(40, 266, "inputs")
    d.box(340, 150, 48, "*q*", h=200, kind="input")
    d.text(338, 34, "(*o*, *d*_{query})")
    d.text(340, 266, "queries")
    d.box(190, 30, 92, "latents", h=28, kind="weights")
    for y, name in ((98, "encode"), (158, "process"), (218, "decode")):
        d.box(190, y, 92, name, h=30)
    d.arrow((190, 44), (190, 83), label="(*m*, *d*)")
    d.arrow((190, 113), (190, 143), label="(*m*, *d*)")
    d.arrow((190, 173), (190, 203), label="*z*: (*m*, *d*)")
    d.arrow((64, 98), (144, 98), label="*O*(*nm*)", side="above")
    d.arrow((316, 218), (236, 218), label="*O*(*om*)", side="above")
    d.text(104, 158, "*L* × *O*(*m*^2)")
    d.arrow((190, 233), (190, 276), label="(*o*, *d*_{out})")
    d.text(190, 288, "*y*, one output a query")
    d.text(190, 306, "a class, a pixel, a byte")
    return d


def row_functions(mu: float | int) -> tuple[torch.Tensor, torch.Tensor]:
    """The least function of waves through one row of a digit.

    Args:
        mu: waves reach up to frequency μ/2.

    Returns:
        The row's eight pixels, and the function at 141 places from −1 to 1,
        20 from one pixel to the next.
    """
    row = digits()[0][3, 2].double()  # (8,)

    def features(places: torch.Tensor) -> torch.Tensor:
        waves = fourier_features(places, 8, mu)
        return torch.cat([torch.ones(len(places), 1).to(waves), waves], 1)

    at, between = (grid(n, dtype=torch.float64) for n in (8, 141))
    weights = torch.linalg.pinv(features(at)) @ row
    return row, features(between) @ weights


def query_explorer() -> Explorer:
    """Drag a query along a row of pixels; two functions answer."""
    row, slow = row_functions(8)
    _, fast = row_functions(64)
    pixels = torch.full((141,), torch.nan)
    for i, value in enumerate(row):
        near = slice(max(0, 20 * i - 1), 20 * i + 2)
        pixels[near] = value

    def frame(at: int) -> Frame:
        return Frame(
            {},
            {
                "slow": written(slow[at]),
                "fast": written(fast[at]),
                "pixel": written(row[at // 20]) if at % 20 == 0 else "none",
            },
            cursor=at / 20 + 1,
        )

    return Explorer(
        "query-explorer",
        "A row of eight grey values and two functions through all of them, "
        "one of slow waves and one of fast waves, with a movable query.",
        [
            Slider(
                "place",
                "ask at pixel",
                values=range(0, 141, 2),
                start=25,
                form=lambda k: f"{k / 20 + 1:.1f}",
            )
        ],
        [
            Panel(
                "place along the row, in pixels",
                "grey value",
                (1, 8),
                (-1, 1),
                {
                    "slow": Curve("blue", "waves up to 4 (μ = 8)", ys=slow),
                    "fast": Curve(
                        "orange", "up to 32 (μ = 64)", dash="5 3", ys=fast
                    ),
                    "pixels": Curve("grey", "pixels", width=6, ys=pixels),
                },
                {k: str(k) for k in range(1, 9)},
                {-1: "−1", 0: "0", 1: "1"},
                cursor=True,
            )
        ],
        frame,
        "<p>The slow waves answer {slow}, the fast ones {fast}; the pixel "
        "there: {pixel}.</p>",
    )
