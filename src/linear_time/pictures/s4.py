"""Chapter 15: the ways to a kernel, and modes that turn too fast for a step."""

import math

import torch

from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel, written
from linear_time.s4 import s4d_eigenvalues


def route_drawing() -> Drawing:
    """The route of S4's algorithm, and S4D's shortcut."""
    d = Drawing(
        "Two ways from a system to its kernel",
        "From the numbers of a channel's system two ways lead to its kernel "
        "of L entries. S4's, at the left, keeps a matrix that is diagonal "
        "plus rank one, takes an inverse at each of L roots of unity, puts "
        "the bilinear rule inside it, applies Woodbury's identity, and ends "
        "with an inverse FFT. S4D's, at the right, has a diagonal matrix, and "
        "the kernel is a sum of powers.",
        height=556,
    )
    left, right = 116, 302
    d.box(190, 22, 356, "one channel: *λ*, *B*, *C*, *Δ*", kind="weights")
    d.text(left, 66, "S4", 15)
    d.text(right, 66, "S4D", 15)
    d.arrow((left - 60, 38), (left - 60, 84), kind="weights")
    d.text(left - 53, 50, "(*N*/2) each", anchor="start", kind="weights")
    d.arrow((right - 40, 38), (right - 40, 84), kind="weights")
    d.text(right - 33, 50, "(*N*/2) each", anchor="start", kind="weights")

    d.box(left, 108, 212, "*A* = *Λ* − *PP*^{*}\ndiagonal plus rank one", h=48)
    d.arrow((left, 132), (left, 168), label="(*N*, *N*)")
    d.box(
        left,
        200,
        212,
        "an inverse at *L* points *z*\n*C̃* (*I* − *zĀ*)^{−1} *B̄*",
        h=64,
    )
    d.arrow((left, 232), (left, 268), label="(*L*, *N*, *N*)")
    d.box(
        left,
        300,
        212,
        "bilinear rule put inside\n2 *C̃* (*αI* − *βA*)^{−1} *B*",
        h=64,
    )
    d.arrow((left, 332), (left, 368), label="(*L*, *N*, *N*)")
    d.box(left, 392, 212, "Woodbury's identity:\nfour Cauchy sums", h=48)
    d.arrow((left, 416), (left, 442), label="(*L*)")
    d.box(left, 458, 212, "inverse FFT", h=32)
    d.arrow((left, 474), (left, 500), label="(*L*)")

    d.box(right, 108, 136, "*A* = *Λ*\ndiagonal", h=48)
    d.arrow((right, 132), (right, 268), label="(*N*/2)")
    d.box(right, 300, 136, "sums of powers\n2 Re Σ *w ā*^{ i}", h=64)
    d.arrow((right, 332), (right, 500), label="(*L*)")

    d.box(190, 518, 356, "the kernels *K̄* of all channels", kind="state")
    d.text(190, 548, "(*H*, *L*)", 12, kind="state")
    return d


def modes_explorer(N: int = 64, followed: int = 20) -> Explorer:
    """Drag Δ: modes that turn more than half a turn a sample look slow.

    Args:
        N: state size of S4D-Lin, whose N/2 modes turn at πn.
        followed: which of them the second panel follows.
    """
    omega = s4d_eigenvalues("lin", N).imag  # π n
    samples = torch.linspace(0, 8, 97, dtype=omega.dtype)
    deltas = [10 ** (-3 + k / 10) for k in range(21)]

    def frame(delta: float) -> Frame:
        turns = omega * delta / (2 * math.pi)  # a sample
        seen = (turns - turns.round()).abs()
        true = torch.where(turns <= 1, turns, torch.nan)
        fast = int((turns > 0.5 + 1e-9).sum())
        wave, slow = turns[followed], seen[followed]
        return Frame(
            {
                "true": true,
                "seen": seen,
                "wave": torch.cos(2 * math.pi * wave * samples),
                "alias": torch.cos(2 * math.pi * slow * samples),
            },
            {
                "fast": str(fast),
                "turns": written(wave),
                "looks": written(slow),
            },
        )

    return Explorer(
        "modes-explorer",
        "Above, how many turns a sample each of 32 modes makes, a straight "
        "line, and how many it seems to make, which is folded back at one "
        "half. Below, one mode and the slowest wave through its samples.",
        [Slider("delta", "step Δ", deltas, start=20, form="{:.4f}")],
        [
            Panel(
                "mode n",
                "turns a sample",
                (0, N // 2 - 1),
                (0, 1),
                {
                    "true": Curve("grey", "makes", width=5),
                    "seen": Curve("orange", "seems to make"),
                },
                {0: "0", 10: "10", 20: "20", 30: "30"},
                {0: "0", 0.5: "½", 1: "1"},
            ),
            Panel(
                "sample",
                f"mode {followed}, without its fading",
                (0, 8),
                (-1.1, 1.1),
                {
                    "wave": Curve("blue", f"mode {followed}", width=1.5),
                    "alias": Curve(
                        "purple", "the slowest wave with its samples", "6 4"
                    ),
                },
                {k: str(k) for k in range(0, 9, 2)},
                {-1: "−1", 0: "0", 1: "1"},
            ),
        ],
        frame,
        "<p>{fast} of 32 modes make more than half a turn a sample. Mode "
        f"{followed} makes {{turns}} turns and looks as if it made {{looks}}."
        "</p>",
    )
