"""Chapter 17: a scan with numbers, its rounds, what a kernel keeps where."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel
from linear_time.scan import doubling_scan, tree_scan

Joins = list[tuple[int, int]]  # of a round: from which position, to which
STEPS = 16  # of the explorer


class Notes:
    """An operator on intervals that writes down its rounds.

    The element at position t is [t, t], and [s, t] • [t + 1, u] = [s, u].
    Anything else is refused, which tests the order of the operands.
    """

    def __init__(self) -> None:
        self.rounds: list[Joins] = []

    def __call__(self, first: Any, second: Any) -> tuple[Tensor, Tensor]:
        (start, middle), (after, end) = first, second
        if not torch.equal(middle + 1, after):
            raise ValueError("operator: expected neighbours, in their order")
        self.rounds.append(
            list(zip(middle[0].tolist(), end[0].tolist(), strict=True))
        )
        return start, end


def rounds_of(
    scan: Callable[..., Any], length: int, *options: Any
) -> list[Joins]:
    """Who is joined with whom, round by round, when a scan runs.

    Args:
        scan: called as ``scan(operator, elements, *options)``.
        length: how many elements.
        *options: of the scan.

    Raises:
        ValueError: it joins what does not stand side by side, or does not
            end with every prefix.
    """
    notes, t = Notes(), torch.arange(length)[None]
    start, end = scan(notes, (t, t), *options)
    if not (torch.equal(start, 0 * t) and torch.equal(end, t)):
        raise ValueError("scan: expected every prefix")
    return notes.rounds


def one_by_one(operator: Any, elements: Any) -> Any:
    """The loop, as a scan of any operator."""
    done = [tuple(x[:, :1] for x in elements)]
    for t in range(1, elements[0].shape[1]):
        done.append(
            operator(done[-1], tuple(x[:, t : t + 1] for x in elements))
        )
    return tuple(torch.cat(parts, 1) for parts in zip(*done, strict=True))


SCANS = {
    "one by one": one_by_one,
    "doubling": doubling_scan,
    "up and down a tree": tree_scan,
}


def rounds_explorer() -> Explorer:
    """Drag the rounds of three scans, see how much past a position holds."""
    noted = {name: rounds_of(scan, STEPS) for name, scan in SCANS.items()}

    def frame(name: str, rounds: int) -> Frame:
        first, joined = list(range(STEPS)), [float("nan")] * STEPS
        done = noted[name][:rounds]
        for pairs in done:
            before, joined = list(first), [float("nan")] * STEPS
            for source, target in pairs:
                first[target] = before[source]
                joined[target] = target - first[target] + 1
        held = [t - first[t] + 1 for t in range(STEPS)]
        finished = sum(start == 0 for start in first)
        return Frame(
            {"held": held, "joined": joined},
            {
                "joins": str(sum(map(len, done))),
                "finished": str(finished),
                "needs": str(len(noted[name])),
            },
        )

    panel = Panel(
        "position",
        "steps that are composed there",
        (0, STEPS),
        (0, STEPS),
        {
            "held": Curve("blue", "held", bars=True),
            "joined": Curve("orange", "joined in this round", bars=True),
        },
        {0.5: "0", 4.5: "4", 8.5: "8", 12.5: "12", 15.5: "15"},
        {0: "0", 4: "4", 8: "8", 16: "16"},
    )
    return Explorer(
        "rounds-explorer",
        "Sixteen bars, one a position: how many steps the map that it holds "
        "composes, after the chosen number of rounds of the chosen scan.",
        [
            Slider("scan", "scan", tuple(SCANS), start=1, form=str),
            Slider("rounds", "rounds done", range(STEPS), start=2, form=str),
        ],
        [panel],
        frame,
        "<p>{joins} joins so far; {finished} of 16 positions hold their whole "
        "past. This scan is done after {needs} rounds.</p>",
    )


def numbers_drawing() -> Drawing:
    """Four steps of h = ½ h + b in two rounds, with the numbers."""
    d = Drawing(
        "Four steps in two rounds",
        "Four maps, a half h plus 4, 2, 0 and 6. In the first round each "
        "position is composed with its left neighbour, in the second with "
        "what stands two to the left; then the second numbers are the states "
        "4, 4, 2 and 7.",
        height=284,
    )
    xs = (62, 148, 234, 320)
    rows = (44, 134, 224)
    texts = (
        ("½ *h* + 4", "½ *h* + 2", "½ *h* + 0", "½ *h* + 6"),
        ("½ *h* + 4", "¼ *h* + 4", "¼ *h* + 1", "¼ *h* + 6"),
        ("½ *h* + 4", "¼ *h* + 4", "⅛ *h* + 2", "¹⁄₁₆ *h* + 7"),
    )
    for x, t in zip(xs, range(4), strict=True):
        d.text(x, 14, f"step {t}")
    for r, (y, reach) in enumerate(zip(rows[1:], (1, 2), strict=True)):
        for t, x in enumerate(xs):
            d.arrow((x, rows[r] + 16), (x, y - 16), kind="plain")
            if t >= reach:
                d.arrow(
                    (xs[t - reach], rows[r] + 16),
                    (x - 12, y - 16),
                    kind="state",
                )
    for r, (y, row) in enumerate(zip(rows, texts, strict=True)):
        for t, (x, text) in enumerate(zip(xs, row, strict=True)):
            whole = r == 2 or t < (1, 2)[r]
            d.box(x, y, 78, text, kind="state" if whole else "input", size=13)
    d.text(190, 266, "with *h* = 0 before: the states 4, 4, 2, 7", size=13)
    return d


def memory_drawing() -> Drawing:
    """Three memories of a GPU, and what a fused scan keeps in each."""
    d = Drawing(
        "Where a fused scan keeps what",
        "In the large memory of the GPU stand u, Δ, z, B and C, which are read "
        "once, and y, which is written once. Blocks of eight steps pass the "
        "small memory of a multiprocessor. The state h of each channel stays "
        "in registers and never leaves the chip.",
        height=322,
    )
    d.box(190, 44, 348, "large memory of the GPU: 3 TB a second", h=56)
    d.box(190, 158, 290, "small memory of a multiprocessor", h=56)
    d.box(
        190,
        272,
        232,
        "registers of one warp\n*h* (32 channels, *N*)",
        h=56,
        kind="state",
    )
    d.arrow(
        (120, 72),
        (120, 130),
        label="*u*, Δ, *z* (32, 8); *B*, *C* (*N*, 8)",
        kind="input",
    )
    d.arrow((120, 186), (120, 244), label="one step at a time", kind="input")
    d.arrow((306, 272), (356, 272), (356, 72))
    d.text(346, 202, "*y* (32, 8)", anchor="end")
    return d


def warp_drawing() -> Drawing:
    """How the programs of the kernel share a scan."""
    d = Drawing(
        "How the programs share the work",
        "Channels run downwards, time to the right. A program owns 32 "
        "channels of one row of the batch and walks through time in blocks of "
        "eight steps with their states in registers. Where there are too few "
        "programs, time is cut in chunks.",
        height=250,
    )
    d.text(36, 12, "channels")
    d.text(190, 12, "time")
    d.arrow((216, 12), (360, 12))
    for k, y in enumerate((52, 104, 156)):
        kind = "state" if k == 0 else "plain"
        for i in range(8):
            d.box(92 + 38 * i, y, 32, "8" if k == 0 else "", h=34, kind=kind)
        d.text(8, y, f"{32 * k} to {32 * k + 31}", anchor="start")
    d.line((225, 30), (225, 180), kind="weights", width=2.5)
    d.text(149, 196, "chunk 0", kind="weights")
    d.text(301, 196, "chunk 1", kind="weights")
    d.text(190, 226, "a row of boxes is one warp: 32 channels, *N* states each")
    return d
