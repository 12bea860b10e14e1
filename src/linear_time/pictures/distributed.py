"""Chapter 23: a sequence over several machines, and what they say."""

import math

from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel

LENGTHS = tuple(2**n for n in range(10, 21))  # of the explorer
#: A layer of the explorer: heads, P or the width of a head, N.
HEADS, WIDTH, STATE = 64, 64, 128


def shards_drawing() -> Drawing:
    """Three machines with a shard each, and the two things they need."""
    d = Drawing(
        "Three machines, one sequence",
        "Three machines hold a third of the sequence each. From left to right "
        "the last inputs of a shard go to the next machine, for the "
        "convolution. Each machine makes of its shard one map, M and S, and "
        "gives it to all. From the maps before it each machine knows the "
        "state that enters its shard, and corrects its outputs.",
        height=372,
    )
    xs = (66, 190, 314)
    d.text(190, 12, "*x* (length, *d*), cut into three shards")
    for rank, x in enumerate(xs):
        d.box(x, 44, 100, f"shard {rank}", kind="input")
        if rank < 2:
            d.arrow((x + 50, 44), (xs[rank + 1] - 50, 44), kind="input")
    d.text(190, 74, "→  taps − 1 inputs to the next", kind="input")
    for x in xs:
        d.arrow((x, 84), (x, 120))
        d.box(x, 142, 112, "from a state\nof zero", h=44, kind="weights")
        d.arrow((x, 164), (x, 202), kind="state")
    for rank, x in enumerate(xs):
        d.text(
            x + 8, 184, f"*M*_{rank}, *S*_{rank}", anchor="start", kind="state"
        )
    d.box(190, 222, 348, "every machine gets all maps, (1 + *P N*) a head",
          h=40, kind="state")  # fmt: skip
    for rank, x in enumerate(xs):
        d.arrow((x, 242), (x, 282), kind="state")
        before = ("0", "*S*_0", "*S*_0 *M*_1 + *S*_1")[rank]
        side, anchor = (-8, "end") if rank == 2 else (8, "start")
        d.text(x + side, 262, before, anchor=anchor, kind="state")
    for rank, x in enumerate(xs):
        d.box(x, 304, 112, "adds what this\nstate gives", h=44, kind="weights")
        d.arrow((x, 326), (x, 350))
        d.text(x, 360, f"*y* of shard {rank}")
    return d


def ring_drawing() -> Drawing:
    """What four machines compute in each round of a causal ring."""
    d = Drawing(
        "A causal ring of four machines",
        "A table with a row for each of four machines and a column for each "
        "round. In round zero all have the keys of their own shard, and half "
        "of the work of a block. In round one machine 0 has none, in round "
        "two machines 0 and 1, in round three only machine 3 has work.",
        height=246,
    )
    left, top, w, h = 128, 66, 62, 46
    d.text(60, 14, "its queries")
    d.text(left + 1.5 * w, 14, "keys of which shard, in round")
    for i in range(4):
        d.text(left + w * i, 34, str(i), 13)
    for rank in range(4):
        y = top + h * rank
        d.text(8, y, f"machine {rank}", anchor="start", kind="input")
        for i in range(4):
            shard = rank - i
            if shard >= 0:
                keys = f"{shard}" if i else f"{shard}\nhalf"
                kind = "state" if i else "input"
                d.box(left + w * i, y, w - 6, keys, h=h - 6, kind=kind)
            else:
                d.box(left + w * i, y, w - 6, "idle", h=h - 6, kind="quiet")
        pairs = f"{rank}½" if rank else "½"
        d.text(368, y, pairs, 13, anchor="end")
    d.text(372, 34, "blocks", anchor="end")
    return d


def bytes_sent(length: int, ranks: int, size: int = 2) -> dict[str, float]:
    """What leaves a rank in a layer's forward pass, by school."""
    part, others = length / ranks, ranks - 1
    share = others / ranks
    all_to_all = share * part * (2 * HEADS * WIDTH + HEADS + 2 * ranks * STATE)
    return {
        "states": 1.0 * others * HEADS * (WIDTH * STATE + 1) * size,
        "heads": all_to_all * size,
        "ring": others * part * 2 * HEADS * WIDTH * size,
    }


def bytes_explorer() -> Explorer:
    """Drag the length and the ranks: what each school sends."""

    def shown(value: float) -> str:
        if value >= 1e9:
            return f"{value / 1e9:.3g} GB"
        return f"{value / 1e6:.3g} MB"

    def frame(length: int, ranks: int) -> Frame:
        curves: dict[str, list[float]] = {"states": [], "heads": [], "ring": []}
        for n in LENGTHS:
            for name, value in bytes_sent(n, ranks).items():
                curves[name].append(math.log10(value / 1e6))
        here = bytes_sent(length, ranks)
        least = min(("states", "heads"), key=lambda name: here[name])
        names = {"states": "passing states", "heads": "the all-to-all"}
        return Frame(
            curves,
            {name: shown(value) for name, value in here.items()}
            | {"least": names[least], "part": f"{length // ranks:,}"},
            cursor=LENGTHS.index(length),
        )

    return Explorer(
        "bytes-explorer",
        "Against the length the bytes of passing states stay level; those of "
        "the all-to-all and of the ring rise in proportion.",
        [
            Slider("length", "tokens", LENGTHS, start=7, form="{:,}"),
            Slider("ranks", "ranks", (2, 4, 8, 16, 32, 64), start=2, form=str),
        ],
        [
            Panel(
                "tokens",
                "MB sent by a rank",
                (0, len(LENGTHS) - 1),
                (-1, 5),
                {
                    "states": Curve("orange", "states"),
                    "heads": Curve("green", "all-to-all", "8 4"),
                    "ring": Curve("blue", "ring", "2 3"),
                },
                {0: "1 K", 3: "8 K", 6: "64 K", 9: "512 K"},
                {0: "1", 2: "100", 4: "10⁴"},
                cursor=True,
            )
        ],
        frame,
        "<p>A shard has {part} tokens. A rank sends {states} by passing "
        "states, {heads} by the all-to-all, and for attention {ring} around "
        "the ring. The scan sends least by "
        f"{{least}}. ({HEADS} heads of {WIDTH}, N = {STATE}, 2 bytes a "
        "number, a group of B and C for each rank.)</p>",
    )
