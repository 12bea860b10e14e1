"""Chapter 16: four sequences, a layer that selects, its matrix, its gate."""

import torch
from torch import Tensor
from torch.nn import functional

from linear_time.convolution import time_varying_matrix
from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel, written
from linear_time.selective import RULES

F64 = torch.float64
#: Four places; the second token is 3 in the first two rows, 7 in the others.
TWINS = ((1, 3, 7, 0), (0, 7, 3, 5), (1, 7, 3, 0), (0, 3, 7, 5))
#: The tokens whose matrices are drawn: noise, three data tokens, markers.
ROW = "·3··7·2·|||"


def twins_drawing() -> Drawing:
    """Two sequences and two more, alike place by place."""
    d = Drawing(
        "Four sequences of four places",
        "In the first two sequences the second token is a 3, in the other two "
        "it is a 7. The first place holds a 1 and a gap above and below, the "
        "second a 3 and a 7, the third a 7 and a 3, the fourth a gap and a 5: "
        "place by place the two pairs hold the same tokens.",
        height=246,
    )
    d.text(150, 16, "place 1 to 4", 12)
    d.text(304, 16, "second token", 12)
    kinds = {3: "state", 7: "input", 1: "plain", 5: "plain"}
    for i, row in enumerate(TWINS):
        y = 50 + 38 * i + (32 if i > 1 else 0)
        for j, token in enumerate(row):
            if token:
                d.sign(66 + 56 * j, y, str(token), r=14, kind=kinds[token])
            else:
                d.sign(66 + 56 * j, y, "·", r=14, kind="quiet")
        answer = 3 if i < 2 else 7
        d.arrow((256, y), (284, y))
        d.text(304, y, str(answer), 16, kind=kinds[answer])
    d.line((30, 123), (350, 123), kind="quiet")
    return d


def selection_drawing() -> Drawing:
    """From a token's d numbers to its own Δ, B and C, and through the scan."""
    d = Drawing(
        "A selective layer",
        "The input x_t of d numbers goes four ways: as it is, as the input u_t "
        "of the scan, and through three learned maps that make of it d steps "
        "Δ_t, and N numbers each for B_t and C_t. The scan holds a state of d "
        "times N numbers, with a learned matrix A of the same shape that does "
        "not look at the input, and gives out d numbers y_t.",
        height=330,
    )
    d.text(48, 14, "*x*_t", 14)
    d.text(64, 14, "(length, *d*)", 12, "start")
    d.line((48, 26), (48, 46))
    d.line((48, 46), (338, 46))
    for x in (152, 246, 338):
        d.arrow((x, 46), (x, 72))
    d.box(152, 88, 72, "*W*_Δ, *β*", kind="weights")
    d.box(246, 88, 56, "*W*_B", kind="weights")
    d.box(338, 88, 56, "*W*_C", kind="weights")
    d.arrow((48, 46), (48, 188), label="*u*_t (*d*)", at=0.82)
    for x, name in ((152, "Δ_t (*d*)"), (246, "*B*_t (*N*)"), (338, "")):
        d.arrow((x, 104), (x, 188), label=name, kind="input", at=0.62)
    d.text(331, 156, "*C*_t (*N*)", 12, "end", "input")
    d.box(190, 214, 348, "selective scan, state *h*_t (*d*, *N*)", 52, "state")
    d.box(96, 294, 88, "*A* (*d*, *N*)", kind="weights")
    d.arrow((96, 278), (96, 240))
    d.arrow((262, 240), (262, 288), label="(length, *d*)")
    d.text(262, 304, "*y*_t", 14)
    return d


def three_matrices() -> dict[str, Tensor]:
    """K[t, s] of three layers that read ``ROW``, each (11, 11).

    Attention by scores of 3 between tokens of one kind; one state with a
    step of 0.25 for every token; and one with 0.7 for data and 0 for others,
    both of a = −1, B = C = 1 and the released rule.
    """
    row = torch.tensor([ord(token) for token in ROW])
    length = len(row)
    scores = 3.0 * (row[:, None] == row).to(F64)
    later = torch.ones(length, length).triu(1).bool()
    data = torch.tensor([token.isdigit() for token in ROW])
    found = {"attention": scores.masked_fill(later, -torch.inf).softmax(-1)}
    one = torch.ones(length, 1, dtype=F64)
    for name, delta in (
        ("fixed", torch.full((length,), 0.25, dtype=F64)),
        ("selective", 0.7 * data.to(F64)),
    ):
        A_bar = torch.exp(-delta).view(-1, 1, 1)
        found[name] = time_varying_matrix(A_bar, delta[:, None], one)
    return found


def matrices_drawing() -> Drawing:
    """The three matrices, a square for each weight, with what to see."""
    notes = {
        "attention": [
            "attention",
            "weights go to what",
            "resembles the query,",
            "however old it is;",
            "all of the past is kept",
        ],
        "fixed": [
            "a fixed system",
            "one number along",
            "each diagonal: only",
            "the age of a token",
            "counts",
        ],
        "selective": [
            "a selective system",
            "noise has no column;",
            "rows repeat while",
            "nothing happens; each",
            "block has rank ≤ *N*",
        ],
    }
    d = Drawing(
        "Three layers as matrices",
        "Three lower-triangular matrices over the same eleven tokens, a row "
        "for each output and a column for each input. Attention has large "
        "weights at scattered places. The fixed system has equal weights along "
        "each diagonal. The selective system has weights in the three columns "
        "of the data tokens only, and equal rows between two data tokens.",
        height=568,
    )
    cell, left = 13, 34
    for i, (name, K) in enumerate(three_matrices().items()):
        top, n = 30 + 184 * i, len(K)
        kind = {"attention": "input", "fixed": "weights"}.get(name, "state")
        if name == "attention":
            d.text(left + n * cell / 2, 12, "input *s* →", 12)
        d.text(left - 16, top + n * cell / 2, "*t* ↓", 12)
        corner = (left, top), (left, top + n * cell)
        d.line(*corner, (left + n * cell, top + n * cell), kind="quiet")
        for t in range(n):
            for s in range(t + 1):
                size = (cell - 1) * float(K[t, s] / K.max()) ** 0.5
                if size < 1:
                    continue
                x, y = left + cell * (s + 0.5), top + cell * (t + 0.5)
                ends = ((x - size / 2, y), (x + size / 2, y))
                d.line(*ends, kind=kind, width=size)
        for s, token in enumerate(ROW):
            data = "plain" if token.isdigit() else "quiet"
            x = left + cell * (s + 0.5)
            d.text(x, top + n * cell + 10, token, 12, kind=data)
        for k, line in enumerate(notes[name]):
            d.text(204, top + 36 + 20 * k, line, 12 if k else 14, "start")
    return d


def gate_shares(noise: float, data: float) -> tuple[Tensor, Tensor]:
    """What the state of h′ = −h + x holds, by zero-order hold.

    Args:
        noise: step Δ at the tokens of noise.
        data: step Δ at the one data token, the fourth of twelve.

    Returns:
        The states after 0, 1, …, 12 tokens, from 0; and the weight of each
        token in the last of them, (12,).
    """
    x = gate_tokens()
    delta = torch.full_like(x, noise)
    delta[3] = data
    A_bar, B_bar = RULES["zero_order_hold"](
        -torch.ones_like(x), torch.ones_like(x), delta
    )
    K = time_varying_matrix(
        A_bar.view(-1, 1, 1), B_bar[:, None], torch.ones(12, 1, dtype=F64)
    )
    return functional.pad(K @ x, (1, 0)), K[-1]


def gate_tokens() -> Tensor:
    """Twelve tokens: noise, and one data token of value 1."""
    x = torch.tensor([3, -5, 2, 10, -4, 5, -3, -6, 4, -2, 5, -4], dtype=F64)
    return x / 10


def gate_explorer() -> Explorer:
    """Drag the step at noise and at data, see what the state keeps."""

    def frame(noise: float, data: float) -> Frame:
        states, weights = gate_shares(noise, data)
        others = float(weights.sum() - weights[3])
        return Frame(
            {"state": states},
            {
                "data": written(weights[3]),
                "noise": written(others),
                "rest": written(1 - weights.sum()),
            },
        )

    return Explorer(
        "gate-explorer",
        "Twelve tokens as bars, the fourth a data token of value 1 and the "
        "others noise, and the state that reads them at the chosen steps.",
        [
            Slider(
                "on_noise",
                "step Δ at noise",
                [0.001, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0],
                start=5,
            ),
            Slider(
                "on_data",
                "step Δ at the data token",
                [0.05, 0.2, 0.5, 1.0, 2.0, 4.0],
                start=2,
            ),
        ],
        [
            Panel(
                "token",
                "value",
                (0, 12),
                (-0.7, 1.05),
                {
                    "tokens": Curve(
                        "grey", "the tokens", bars=True, ys=gate_tokens()
                    ),
                    "state": Curve("orange", "the state", width=3),
                },
                {0.5: "1", 3.5: "4, data", 11.5: "12"},
                {0: "0", 1: "1"},
            )
        ],
        frame,
        "<p>The last state is {data} of the data token, {noise} of the noise "
        "and {rest} of what was there before.</p>",
    )
