"""Chapter 21: a state as a table, the family, and what a strength β does."""

from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel, written

WRITES = 12  # of the explorer


def table_drawing() -> Drawing:
    """One step of the delta rule, with the shapes."""
    d = Drawing(
        "A state is a table",
        "The state S has one row for each number of a value and one column "
        "for each number of a key. It is read at the key, the difference from "
        "the new value, times beta, is written along the key, and then it is "
        "read at the query.",
        height=330,
    )
    d.text(60, 14, "*k*_t (*d*_k)")
    d.text(196, 14, "*v*_t (*d*_v)")
    d.text(320, 14, "*q*_t (*d*_k)")
    d.box(88, 96, 134, "what is there\n*S*_{t−1} *k*_t", h=46, kind="state")
    d.arrow((60, 22), (60, 72))
    d.sign(196, 96, "−")
    d.arrow((196, 22), (196, 84))
    d.arrow((158, 96), (184, 96), label="(*d*_v)", side="above")
    d.text(256, 84, "the error (*d*_v)")
    d.arrow((196, 108), (196, 150), label="times *β*_t", side="right")
    d.box(150, 174, 170, "write along the key\n(*d*_v, *d*_k)", h=46)
    d.arrow((20, 14), (12, 14), (12, 174), (64, 174), kind="plain")
    d.arrow((150, 198), (150, 234))
    d.box(150, 262, 170, "*S*_t (*d*_v, *d*_k)", h=54, kind="state")
    d.box(320, 262, 70, "read", h=40)
    d.arrow((320, 22), (320, 241))
    d.arrow((236, 262), (284, 262))
    d.arrow((320, 283), (320, 312))
    d.text(320, 322, "*y*_t (*d*_v)")
    return d


LEFT, RIGHT = 90, 290
FAMILY_BOXES: dict[str, tuple[int, int, str, int]] = {
    "none": (LEFT, 74, "linear attention", 34),
    "fixed": (LEFT, 150, "RetNet, Lightning", 34),
    "number": (LEFT, 232, "Mamba-2, mLSTM", 34),
    "channel": (LEFT, 322, "GLA, RWKV-6,\nMamba-1", 46),
    "vector": (LEFT, 418, "RG-LRU, minGRU,\nminLSTM", 46),
    "delta": (RIGHT, 74, "DeltaNet, TTT\nDeltaProduct", 46),
    "gated": (RIGHT, 232, "gated DeltaNet,\nTitans", 46),
    "kda": (RIGHT, 322, "KDA, GDN-2\nRWKV-7", 46),
    "mamba3": (LEFT, 490, "Mamba-3", 34),
}


def family_drawing() -> Drawing:
    """Who is a restriction of whom: rows of decays, columns of erasing."""
    d = Drawing(
        "The family",
        "Two columns: models that only add, and models that erase along a "
        "key first. Rows from above: no decay, a fixed one, one number that "
        "the token chooses, one a channel, then states of one key, and at "
        "the bottom Mamba-3, which only adds. Each arrow leads from a model "
        "to what it becomes under the restriction beside it.",
        height=520,
    )
    d.text(LEFT, 14, "only adds")
    d.text(RIGHT, 14, "erases first")
    for text, y in (("*A* = 1", 40), ("fixed α", 118), ("chosen α_t", 196)):
        d.text(18, y, text, anchor="start")
    d.text(18, 270, "one α", anchor="start")
    d.text(18, 286, "a channel", anchor="start")
    d.text(18, 382, "a vector", anchor="start")
    for x, y, words, h in FAMILY_BOXES.values():
        d.box(x, y, 140, words, h=h)

    def up(lower: str, upper: str, label: str, right: bool = False) -> None:
        x, y, _, h = FAMILY_BOXES[lower]
        _, top, _, height = FAMILY_BOXES[upper]
        d.arrow(
            (x + 20, y - h / 2),
            (x + 20, top + height / 2),
            label=label,
            side="right",
        )

    up("fixed", "none", "α = 1")
    up("number", "fixed", "constant")
    up("channel", "number", "equal α")
    d.arrow((LEFT + 20, 345), (LEFT + 20, 395), label="*d*_k = *d*_v = 1")
    up("gated", "delta", "α = 1")
    up("kda", "gated", "equal α")
    d.arrow((RIGHT - 70, 322), (LEFT + 70, 322), label="*b* = 0", side="above")
    d.text(LEFT + 84, 490, "λ = 1, no turn: Mamba-2", anchor="start")
    return d


def strength_explorer() -> Explorer:
    """Drag β from 0 to 2: forget, project, reflect."""

    def frame(beta: float, decay: float) -> Frame:
        along = [(decay * (1 - beta)) ** t for t in range(WRITES + 1)]
        left = decay * (1 - beta)
        if abs(left) < 1e-9:
            word = "project"
        elif left > 0:
            word = "forget" if beta else "leave"
        else:
            word = "reflect"
        return Frame(
            {"along": along},
            {"value": written(left), "other": written(decay), "word": word},
        )

    panel = Panel(
        "writes of the value 0 at the same key",
        "what is left of the state along the key",
        (0, WRITES + 1),
        (-1.1, 1.1),
        {"along": Curve("blue", bars=True)},
        {0.5: "0", 4.5: "4", 8.5: "8", 12.5: "12"},
        {-1: "−1", 0: "0", 1: "1"},
    )
    return Explorer(
        "strength-explorer",
        "Thirteen bars: what is left of a state along a key before and after "
        "each of twelve writes of the value 0 at that key.",
        [
            Slider(
                "beta",
                "strength β",
                tuple(b / 10 for b in range(21)),
                start=5,
                form=lambda b: f"{b:.1f}",
            ),
            Slider(
                "decay",
                "decay α",
                (0.8, 0.9, 1.0),
                start=2,
                form=lambda a: f"{a:.1f}",
            ),
        ],
        [panel],
        frame,
        "<p>Eigenvalues of the step: {value} along the key, {other} across "
        "it: {word}.</p>",
    )
