"""Chapter 03: the Llama block, and the hands of a rotary embedding."""

import torch

from linear_time.drawing import Drawing
from linear_time.rotary import rotary_embedding


def llama_drawing() -> Drawing:
    """The block from bottom input to top output, with what it carries."""
    d = Drawing(
        "A Llama block",
        "From above: the tokens pass a norm and grouped-query attention, "
        "which reads and extends a cache of keys and values, and are added "
        "to their input; then a norm and a gated MLP, added again.",
        height=446,
    )
    x, skip = 150, 44
    d.text(x, 12, "*x*  (length, *d*)")
    d.arrow((x, 22), (x, 56))
    d.line((x, 34), (skip, 34), (skip, 208))
    d.box(x, 72, 130, "norm", h=30, kind="weights")
    d.arrow((x, 87), (x, 118), label="(length, *d*)")
    d.box(
        x,
        146,
        150,
        "attention\nturned by position",
        h=54,
        kind="weights",
        size=13,
    )
    d.box(
        314,
        146,
        116,
        "cache: keys,\nvalues (past, *n*_{kv},\n*d*_{head}) each",
        h=64,
        kind="state",
        size=12,
    )
    d.arrow((225, 138), (256, 138), kind="state")
    d.arrow((256, 154), (225, 154), kind="state")
    d.arrow((x, 173), (x, 197))
    d.sign(x, 208, "+")
    d.arrow((skip, 208), (139, 208))
    d.arrow((x, 219), (x, 256), label="(length, *d*)", at=0.62)
    d.line((x, 230), (skip, 230), (skip, 400))
    d.box(x, 271, 130, "norm", h=30, kind="weights")
    d.arrow((x, 286), (x, 318), label="(length, *d*)")
    d.box(
        x,
        346,
        150,
        "gated MLP\n*d* → *d*_{ff} → *d*",
        h=54,
        kind="weights",
        size=13,
    )
    d.text(240, 338, "position by position,", 12, "start", "quiet")
    d.text(240, 354, "carries nothing", 12, "start", "quiet")
    d.arrow((x, 373), (x, 389))
    d.sign(x, 400, "+")
    d.arrow((skip, 400), (139, 400))
    d.arrow((x, 411), (x, 440), label="*y*  (length, *d*)")
    return d


def hands_drawing() -> Drawing:
    """Three pairs of a head of eight channels, at five positions."""
    positions = (0, 1, 2, 10, 100)
    cos, sin = rotary_embedding(torch.arange(101), 8)
    d = Drawing(
        "Rotary hands",
        "Three rows of clock faces at the positions 0, 1, 2, 10 and 100. The "
        "hand of the first pair of channels turns by a radian a token, that of "
        "the second by a tenth, that of the third by a hundredth.",
        height=236,
    )
    left, pitch, r = 112, 60, 24
    d.text(8, 14, "position", 12, "start")
    for column, t in enumerate(positions):
        x = left + pitch * column
        d.text(x, 14, f"*t* = {t}")
        for pair in range(3):
            y = 56 + 62 * pair
            d.sign(x, y, "", r=r, kind="quiet")
            c, s = float(cos[t, pair]), float(sin[t, pair])
            d.arrow((x, y), (x + 21 * c, y - 21 * s), kind="input")
    for pair, speed in enumerate(("1", "1/10", "1/100")):
        y = 56 + 62 * pair
        d.text(8, y - 8, f"pair {pair}:", 12, "start")
        d.text(8, y + 8, f"θ = {speed}", 12, "start")
    return d
