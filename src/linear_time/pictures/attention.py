"""Chapter 02: what a cache holds, a soft dictionary, and a merge of two."""

import math

from linear_time.drawing import Drawing


def states_drawing() -> Drawing:
    """What layers carry from token to token, areas to scale."""
    d = Drawing(
        "What is carried, to scale",
        "Areas stand for numbers. The state of a GRU is half as large as the "
        "cache of one token, whatever the length. The cache of 19 tokens is a "
        "small square, that of 1,000 tokens fills the drawing.",
        height=288,
    )
    token = 64.0  # area of one token's key and value, 2 d numbers

    d.line((8, 24), (16, 24), kind="state", width=4)
    d.text(22, 24, "a GRU, always", 12, "start")
    d.line((8, 64), (16, 64), kind="input", width=8)
    d.text(22, 64, "1 token", 12, "start")
    side = math.sqrt(19 * token)
    d.box(8 + side / 2, 126, side, h=side, kind="input")
    d.text(50, 126, "19 tokens", 12, "start")
    d.text(8, 160, "as much as", 12, "start", "quiet")
    d.text(8, 175, "Mamba, always", 12, "start", "quiet")
    d.text(8, 190, "(chapter 18)", 12, "start", "quiet")
    side = math.sqrt(1000 * token)
    d.box(119 + side / 2, 18 + side / 2, side, h=side, kind="input")
    d.text(119 + side / 2, 18 + side / 2, "1,000 tokens", 14)
    d.text(119 + side / 2, 40 + side / 2, "of one sequence, in one layer")
    return d


def dictionary_drawing() -> Drawing:
    """A query against every key, the weights, the mean of the values."""
    d = Drawing(
        "A soft dictionary",
        "One query is compared with each of four keys. The softmax of the "
        "scores gives four weights that sum to 1, drawn as bars, and the "
        "answer is the mean of the four values with these weights.",
        height=272,
    )
    weights = (0.07, 0.62, 0.26, 0.05)
    rows = (62, 100, 138, 176)
    d.text(112, 16, "keys")
    d.text(112, 34, "(*n*, *d*_{head})")
    d.text(212, 16, "weights")
    d.text(212, 34, "(*n*)")
    d.text(326, 16, "values")
    d.text(326, 34, "(*n*, *d*_{value})")
    d.box(26, 119, 40, "*q*", kind="input")
    d.text(26, 148, "(*d*_{head})")
    for j, (y, weight) in enumerate(zip(rows, weights, strict=True), 1):
        d.line((46, 119), (84, y), kind="quiet")
        d.box(112, y, 56, f"*k*_{j}", h=28, kind="input")
        d.arrow((140, y), (176, y), kind="quiet")
        d.box(180 + 32 * weight, y, 64 * weight, h=20, kind="state")
        d.text(186 + 64 * weight, y, f"{weight:.2f}", 12, "start")
        d.arrow((258, y), (298, y), kind="quiet")
        d.box(326, y, 56, f"*v*_{j}", h=28, kind="input")
        d.line((354, y), (368, y))
    d.line((368, 62), (368, 176))
    d.text(112, 212, "*s*_{j} = *q* · *k*_{j} / √*d*_{head}")
    d.text(222, 212, "*p* = softmax")
    d.arrow((368, 176), (368, 232), (342, 232))
    d.sign(330, 232, "Σ")
    d.arrow((319, 232), (282, 232))
    d.text(276, 254, "*y* = Σ *p*_{j} *v*_{j},  (*d*_{value})")
    return d


def merge_drawing() -> Drawing:
    """Two blocks of keys, their summaries, and one summary of both."""
    d = Drawing(
        "Two softmax blocks become one",
        "Each of two blocks of keys is summarised by its largest score, the "
        "sum of its exponentials and the weighted sum of its values. Both are "
        "brought to the common maximum and added; the quotient of the two "
        "sums is the attention over all keys.",
        height=330,
    )
    for x, name, keys in ((96, "l", "keys 1 … 3"), (284, "r", "keys 4 … 7")):
        d.box(x, 24, 130, keys, h=30, kind="input")
        d.arrow((x, 39), (x, 76), label="scores, values")
        d.box(
            x,
            108,
            156,
            f"*m*_{name}: largest score\nℓ_{name}, *o*_{name}: two sums",
            h=62,
            kind="state",
            size=12.5,
        )
    d.arrow((96, 139), (96, 190), (150, 190), at=0.45, side="left")
    d.arrow((284, 139), (284, 190), (230, 190), at=0.45)
    d.text(92, 208, "× exp(*m*_l − *m*)")
    d.text(290, 208, "× exp(*m*_r − *m*)")
    d.box(190, 190, 80, "add", h=30)
    d.text(190, 164, "*m* = max")
    d.arrow((190, 205), (190, 240))
    d.box(
        190,
        262,
        156,
        "*m*, ℓ, *o*: the same three",
        h=44,
        kind="state",
        size=12.5,
    )
    d.arrow((190, 284), (190, 308))
    d.text(190, 320, "*y* = *o* / ℓ, over all seven keys")
    return d
