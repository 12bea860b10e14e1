"""Chapter 22: a state that follows shuffles, one number on parity, a hybrid."""

import itertools

import torch

from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel

#: The bits that the explorer reads, and the least size that it can tell from 0.
BITS = (1, 1, 0, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1)
NOISE = 0.1


def follow_drawing() -> Drawing:
    """One shuffle of five cups as four reflections, with the shapes."""
    d = Drawing(
        "A state that follows",
        "A token is a permutation of five places. It becomes at most four "
        "exchanges of two places. The state, one row of five numbers, is "
        "multiplied by one reflection for each, and then it is read at the "
        "place that is asked for.",
        height=330,
    )
    d.text(100, 14, "token: a shuffle (5)")
    d.arrow((100, 24), (100, 56))
    d.box(100, 82, 168, "at most four swaps\nof two places", h=46)
    d.arrow((100, 105), (100, 150), label="keys (4, 5)", side="left")
    d.box(100, 180, 168, "*I* − 2 *k* *k*ᵀ, four times\n(5, 5) each", h=54)
    d.text(290, 60, "before: (5)")
    d.box(290, 96, 150, "0  1  2  3  4", h=40, kind="state")
    d.arrow((290, 116), (290, 168))
    d.sign(290, 180, "×")
    d.arrow((184, 180), (278, 180))
    d.arrow((290, 192), (290, 226))
    d.box(290, 246, 150, "3  0  1  4  2", h=40, kind="state")
    d.text(100, 230, "asked: cup 1")
    d.arrow((100, 240), (100, 302), (166, 302))
    d.text(88, 320, "*q* (5)")
    d.arrow((290, 266), (290, 290))
    d.box(250, 306, 168, "read *S q*: ball 0", h=34)
    return d


def hybrid_drawing() -> Drawing:
    """Eight layers by the pattern m m m a, and what each of them holds."""
    d = Drawing(
        "A hybrid by its pattern",
        "A row of eight layers by the pattern m m m a, twice. Below each "
        "letter m stands a small box of fixed size, its state; below each "
        "letter a a column of boxes that grows by one a token, its cache.",
        height=214,
    )
    d.text(8, 14, "*length* tokens go through all layers", anchor="start")
    xs = [34 + 44 * i for i in range(8)]
    for before, after in itertools.pairwise(xs):
        d.arrow((before + 15, 48), (after - 15, 48))
    for i, x in enumerate(xs):
        attends = i % 4 == 3
        kind = "weights" if attends else "plain"
        d.box(x, 48, 28, "a" if attends else "m", h=30, kind=kind)
        for step in range(5 if attends else 1):
            d.box(x, 92 + 16 * step, 28, "", h=12, kind="state")
    d.text(78, 126, "*m*: a state,")
    d.text(78, 143, "the same size")
    d.text(78, 160, "at any length")
    d.text(254, 126, "*a*: a key and")
    d.text(254, 143, "a value more")
    d.text(254, 160, "for each token")
    d.text(8, 200, "held in all: six states, two caches", anchor="start")
    return d


def parity_explorer() -> Explorer:
    """Drag what a bit 1 multiplies by: only −1 keeps the parity readable."""
    ones = torch.tensor(BITS).cumsum(0)

    def frame(a: float) -> Frame:
        h = torch.tensor(a, dtype=torch.float64) ** ones
        even = ones % 2 == 0
        right = int(((h.abs() > NOISE) & ((h > 0) == even)).sum())
        if a == -1:
            word = "the sign turns, and nothing is lost"
        elif a < 0:
            word = "the sign turns, and the state shrinks"
        elif a == 1:
            word = "nothing happens: every bit leaves the same state"
        else:
            word = "the sign never turns"
        return Frame(
            {"state": h},
            {
                "right": str(right),
                "all": str(len(BITS)),
                "last": f"{float(h[-1].abs()):.3f}",
                "word": word,
            },
        )

    n = len(BITS)
    panel = Panel(
        "bits read: " + "".join(str(bit) for bit in BITS),
        "state",
        (0, n),
        (-1.1, 1.1),
        {
            "state": Curve("blue", bars=True),
            "above": Curve("grey", ys=[NOISE] * n),
            "below": Curve("grey", ys=[-NOISE] * n),
        },
        {0.5: "1", 4.5: "5", 9.5: "10", 14.5: "15", 19.5: "20"},
        {-1: "−1", 0: "0", 1: "1"},
    )
    return Explorer(
        "parity-explorer",
        "Twenty bars: a state of one number after each of twenty bits, "
        "multiplied by the chosen number at every bit 1.",
        [
            Slider(
                "a",
                "a bit 1 multiplies by",
                tuple(k / 10 for k in range(-10, 11)),
                start=4,
                form=lambda a: f"{a:.1f}".replace("-", "−"),
            )
        ],
        [panel],
        frame,
        "<p>After the last bit the state has the size {last}: {word}. A "
        "reader that takes a positive state for an even number of ones, and "
        "cannot tell sizes below 0.1 from 0, is right after {right} of {all} "
        "bits.</p>",
    )
