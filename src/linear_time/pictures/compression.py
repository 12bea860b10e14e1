"""Chapter 05: one matrix on the tokens, what it keeps, and what it saves."""

import math
from functools import cache
from typing import NamedTuple

from linear_time.compression import cosines, optimal_compression, share_kept
from linear_time.datasets import ecg
from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel


def compression_drawing() -> Drawing:
    """Y = W X with its shapes, and what it saves, to scale."""
    d = Drawing(
        "Linear compression",
        "The matrix W, m by n, times the tall matrix X of n tokens gives the "
        "short matrix Y of m tokens. Two bars, to scale, compare operations: "
        "302 million to attend over 1,024 tokens, 11.5 million to compress "
        "them to 64 and attend over those.",
        height=326,
    )
    d.box(50, 104, 56, "*Y*", h=48, kind="input")
    d.text(94, 104, "=", 16)
    d.box(182, 104, 150, "*W*", h=48, kind="weights")
    d.text(270, 104, "·", 20)
    d.box(316, 104, 56, "*X*", h=150, kind="input")
    d.text(50, 68, "(*m*, *d*)")
    d.text(182, 68, "(*m*, *n*)")
    d.text(316, 16, "(*n*, *d*)")
    d.text(182, 144, "learned, the same", kind="weights")
    d.text(182, 160, "for every input", kind="weights")
    d.text(50, 144, "*m* tokens")
    d.text(300, 194, "*n* tokens, a row each")
    d.text(20, 224, "attend over 1,024 tokens:", 12, "start")
    d.box(190, 242, 340, h=14, kind="quiet")
    d.text(360, 224, "302 M operations", 12, "end")
    d.text(20, 274, "compress to 64, then attend:", 12, "start")
    wide = 340 * 8.4 / 302
    d.box(20 + wide / 2, 292, wide, h=14, kind="weights")
    d.box(20 + wide + 1.75, 292, 3.5, h=14, kind="quiet")
    d.text(360, 274, "8.4 + 3.1 M operations", 12, "end")
    d.text(20, 314, "compress", 12, "start", "weights")
    return d


def split_drawing() -> Drawing:
    """W cut in two: the user's half once, the candidates' for each."""
    d = Drawing(
        "The user's half, once",
        "W is cut into the columns of the user's tokens and those of a "
        "candidate's. The user's product is computed once; the candidates' "
        "products are computed for each of g candidates; the sum is one "
        "compressed matrix for each candidate.",
        height=318,
    )
    user, item = 120, 300
    d.text(user, 12, "user *X*_u")
    d.text(item, 12, "*g* candidates *X*_c")
    d.arrow((user, 24), (user, 62), label="(*n*_u, *d*)", kind="input")
    d.arrow((item, 24), (item, 62), label="(*g*, *n*_c, *d*)", kind="input")
    d.box(user, 80, 190, "*W*_u", h=36, kind="weights")
    d.box(item, 80, 60, "*W*_c", h=36, kind="weights")
    d.text(user, 112, "*m* × *n*_u weights", kind="weights")
    d.text(item, 112, "*m* × *n*_c weights", kind="weights")
    d.arrow((user, 124), (user, 170), label="(*m*, *d*)", kind="input")
    d.arrow((item, 124), (item, 228), label="(*g*, *m*, *d*)", kind="input")
    d.box(user, 188, 150, "once for all", kind="state")
    d.arrow((user, 204), (user, 240), (item - 12, 240), kind="state")
    d.text(206, 226, "added to each")
    d.sign(item, 240, "+")
    d.arrow((item, 251), (item, 288), label="(*g*, *m*, *d*)", kind="input")
    d.text(item, 302, "*Y*, one a candidate")
    return d


def kept_explorer() -> Explorer:
    """Drag the numbers that are kept of 128 samples; two bases, one share."""
    heart = ecg().x - ecg().x.mean()
    seen = heart[:512].unfold(0, 128, 1).T  # (128, 385)
    unseen = heart[512:].reshape(4, 128).T  # (128, 4)
    shown = heart[512:768] / 100
    learned = optimal_compression(seen, 24).encoder
    fixed = cosines(128, 24)
    shares = {
        name: [share_kept(unseen, W[:m], W[:m].T) for m in range(1, 25)]
        for name, W in (("learned", learned), ("fixed", fixed))
    }

    def frame(m: int) -> Frame:
        W = learned[:m]
        drawn = (W.T @ (W @ unseen)).T.reshape(-1)[:256] / 100
        return Frame(
            {"drawn": drawn},
            {
                "kept": f"{100 * shares['learned'][m - 1]:.0f} %",
                "by_cosines": f"{100 * shares['fixed'][m - 1]:.0f} %",
            },
            cursor=m,
        )

    return Explorer(
        "kept-explorer",
        "A heartbeat of two beats and what is drawn again from the numbers "
        "kept of each 128 samples, and the share kept against that number.",
        [
            Slider(
                "m",
                "numbers kept of each 128 samples, m",
                values=range(1, 25),
                start=7,
            )
        ],
        [
            Panel(
                "time in s",
                "recorder's units / 100",
                (0, 256 / 360),
                (-1.5, 3),
                {
                    "heart": Curve("grey", "recorded", width=1.5, ys=shown),
                    "drawn": Curve("blue", "from m numbers"),
                },
                {0: "0", 0.2: "0.2", 0.4: "0.4", 0.6: "0.6"},
                {-1: "−1", 0: "0", 1: "1", 2: "2"},
            ),
            Panel(
                "numbers kept, *m*",
                "share kept",
                (1, 24),
                (0, 1),
                {
                    "learned": Curve(
                        "blue", "the best matrix", ys=shares["learned"]
                    ),
                    "fixed": Curve(
                        "orange",
                        "cosines, without data",
                        dash="7 4",
                        ys=shares["fixed"],
                    ),
                },
                {1: "1", 8: "8", 16: "16", 24: "24"},
                {0: "0", 0.5: "½", 1: "1"},
                cursor=True,
            ),
        ],
        frame,
        "<p>The best matrix for the first half of the recording keeps {kept} "
        "of the second; as many cosines, which have seen no data, "
        "{by_cosines}.</p>",
    )


class Layer(NamedTuple):
    """Operations of a layer of Wukong that reads n tokens, an example."""

    lce: int
    shortcut: int
    rest: int

    @property
    def whole(self) -> int:
        return self.lce + self.shortcut + self.rest


@cache
def wukong_layer(
    n: int = 100,
    d: int = 32,
    n_fm: int = 16,
    n_lcb: int = 16,
    rank: int = 8,
    hidden: int = 256,
) -> Layer:
    """Operations of Wukong's first layer, counted by its formulas.

    X (Xᵀ Y) is two products, its network two more; the shortcut is an LCE
    from n to n_fm + n_lcb tokens.
    """
    machine = 4 * n * d * rank + 2 * hidden * (n * rank + n_fm * d)
    return Layer(2 * n_lcb * n * d, 2 * (n_fm + n_lcb) * n * d, machine)


def split_ratio(n_user: int, n_candidate: int, candidates: int) -> float:
    """Operations of LCE for every pair, over those with the user once."""
    whole = candidates * (n_user + n_candidate)
    return whole / (n_user + candidates * n_candidate)


def candidates_explorer() -> Explorer:
    """Drag candidates and the user's share; LCE alone, and its layer."""
    layer = wukong_layer()

    def ratios(n_user: int, candidates: int) -> tuple[float, float]:
        alone = split_ratio(n_user, 100 - n_user, candidates)
        return alone, layer.whole / (
            layer.rest + layer.shortcut + layer.lce / alone
        )

    def frame(power: int, n_user: int) -> Frame:
        rows = [ratios(n_user, 2**k) for k in range(13)]
        alone, whole = rows[power]
        return Frame(
            {
                "alone": [math.log10(a) for a, _ in rows],
                "layer": [math.log10(w) for _, w in rows],
            },
            {"lce": f"{alone:.1f}", "all": f"{whole:.2f}"},
            cursor=power,
        )

    return Explorer(
        "candidates-explorer",
        "Against the number of candidates, how many times fewer operations "
        "are needed when the user's half is computed once: for LCE alone and "
        "for the layer of Wukong that it stands in.",
        [
            Slider(
                "candidates",
                "candidates of one user, g",
                values=range(13),
                start=8,
                form=lambda k: f"{2**k:,}",
            ),
            Slider(
                "n_user",
                "tokens of the user, of 100",
                values=(50, 75, 90, 98),
                start=2,
            ),
        ],
        [
            Panel(
                "candidates, *g*",
                "times fewer operations",
                (0, 12),
                (0, 2),
                {
                    "alone": Curve("blue", "LCE alone"),
                    "layer": Curve("orange", "Wukong's layer", dash="7 4"),
                },
                {0: "1", 4: "16", 8: "256", 10: "1024"},
                {0: "1", 1: "10", 2: "100"},
                cursor=True,
            )
        ],
        frame,
        "<p>LCE alone: {lce} times fewer operations. The whole layer: {all} "
        "times.</p>",
    )
