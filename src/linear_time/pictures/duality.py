"""Chapter 20: two ways through one map, its chunks, and Mamba-2's block."""

from linear_time.drawing import Drawing
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel

CHUNKS = (8, 16, 32, 64, 128, 256, 512)  # of the explorer
HEAD = 64  # P of the explorer


def duality_drawing() -> Drawing:
    """The recurrence and the masked attention, from one input to one output."""
    d = Drawing(
        "One map, two ways",
        "From x, B, C and the decays a, the left way keeps a state S of P "
        "times N numbers and goes step by step; the right way makes a matrix "
        "of length times length, a mask L times the scores C B transposed, "
        "and multiplies x by it. Both give the same y.",
        height=392,
    )
    left, right = 92, 278
    d.text(
        190,
        12,
        "*x* (length, *P*), *B* and *C* (length, *N*), *a* (length)",
    )
    for x in (left, right):
        d.arrow((x, 24), (x, 54), kind="input")
    d.box(
        left, 92, 168, "*S* ← *a*_t *S* + *x*_t *B*_t^{T}", h=76, kind="state"
    )
    d.arrow((left, 130), (left, 196), label="*S* (*P*, *N*)", kind="state")
    d.box(left, 216, 168, "*y*_t = *S C*_t", h=40)
    d.box(right, 74, 168, "scores *C B*^{T}", h=40, kind="input")
    d.arrow((right, 94), (right, 130), label="(length, length)", kind="input")
    d.sign(right, 142, "∘")
    d.box(
        right,
        190,
        168,
        "mask *L*\n(length, length)",
        h=40,
        size=13,
        kind="input",
    )
    d.arrow(
        (right - 50, 170), (right - 50, 142), (right - 13, 142), kind="input"
    )
    d.arrow(
        (right + 12, 142),
        (376, 142),
        (376, 248),
        (right + 50, 248),
        kind="input",
    )
    d.text(right - 4, 228, "*M* (length, length)", kind="input")
    d.box(right, 262, 100, "*y* = *M x*", h=40)
    d.text(left, 254, "length steps", kind="quiet")
    d.text(left, 270, "one after the other", kind="quiet")
    d.arrow((left, 284), (left, 336), (150, 336))
    d.arrow((right, 282), (right, 336), (230, 336))
    d.box(190, 336, 76, "the same", h=34)
    d.arrow((190, 353), (190, 376), label="*y* (length, *P*)")
    return d


def chunks_drawing() -> Drawing:
    """The four steps of the chunked form on four chunks of one matrix."""
    d = Drawing(
        "Four steps for four chunks",
        "The matrix M, four chunks by four. Blocks on the diagonal are "
        "computed as attention, step one. A block below it goes through "
        "states: what a chunk adds, step two, the walk from chunk to chunk, "
        "step three, and what each position reads of the state, step four.",
        height=330,
    )
    for row in range(4):
        for column in range(4):
            x, y = 40 + 44 * column, 32 + 44 * row
            if column > row:
                d.box(x, y, 40, "0", h=40, kind="quiet", size=12)
            elif column == row:
                d.box(x, y, 40, "1", h=40, kind="input")
            else:
                d.box(x, y, 40, "", h=40, kind="state")
    d.text(106, 196, "*M* (length, length)")
    d.text(214, 40, "1  inside a chunk:", anchor="start", kind="input")
    d.text(228, 57, "*M* (*c*, *c*) times *x*", anchor="start", kind="input")
    d.text(214, 88, "below the diagonal,", anchor="start", kind="state")
    d.text(214, 105, "rank *N*: through a state", anchor="start", kind="state")
    xs = (52, 148, 244, 340)
    for i, x in enumerate(xs):
        d.box(x, 308, 62, f"chunk {i}", h=30, kind="input", size=13)
        if i < 3:
            d.arrow((x - 12, 293), (x - 12, 252), kind="input")
            d.box(
                x + 14, 236, 76, "*S* (*P*, *N*)", h=30, kind="state", size=13
            )
            d.arrow((x + 44, 252), (xs[i + 1] - 22, 293), kind="state")
        if i < 2:
            d.arrow((x + 52, 236), (xs[i + 1] - 24, 236), kind="state")
    d.text(34, 272, "2", anchor="end", kind="input")
    d.text(114, 224, "3", kind="state")
    d.text(102, 284, "4", anchor="end", kind="state")
    return d


def block_drawing() -> Drawing:
    """Mamba-2's block from x to y, with the shape on each arrow."""
    d = Drawing(
        "A Mamba-2 block",
        "The input x is normalised; one matrix gives the gate z, the heads u, "
        "B, C and one step a head. u, B and C pass a convolution of four taps "
        "and SiLU, then the state-space map runs in heads. Its output is "
        "multiplied by SiLU of z, then normalised, and mapped back to d "
        "channels; x is added.",
        height=606,
    )
    main, step, gate, x = 136, 254, 336, 196
    d.text(x, 12, "*x*", 15)
    d.arrow((x, 24), (x, 58), label="(length, *d*)")
    d.box(x, 74, 110, "RMSNorm")
    d.arrow((x, 90), (x, 118), label="(length, *d*)")
    d.box(x, 134, 348, "one linear map *W*_{in}", kind="weights")
    d.arrow(
        (main, 150), (main, 200), label="*u*, *B*, *C*", side="left", at=0.3
    )
    d.text(main - 8, 184, "(length, 2*d* + 2*GN*)", anchor="end", size=11.7)
    d.arrow((step, 150), (step, 282), kind="input")
    d.text(step - 8, 172, "Δ (length, *H*)", anchor="end", kind="input")
    d.arrow((gate, 150), (gate, 392))
    d.text(gate + 6, 172, "*z*", anchor="start")
    d.box(main, 216, 196, "causal conv, 4 taps; SiLU", kind="weights")
    d.arrow(
        (main, 232),
        (main, 344),
        label="*u* (length, *H*, *P*)",
        side="left",
        at=0.2,
    )
    d.text(
        main - 7, 282, "*B*, *C* (length, *G*, *N*)", anchor="end", size=11.7
    )
    d.box(step, 298, 76, "softplus", kind="input")
    d.arrow((step, 314), (step, 386), (main + 102, 386), kind="input")
    d.box(
        main,
        386,
        200,
        "in *H* heads\nstate *S* (*H*, *P*, *N*)",
        h=82,
        kind="state",
    )
    d.box(gate, 408, 72, "SiLU")
    d.arrow((gate, 424), (gate, 456), (x + 11, 456))
    d.arrow((main, 427), (main, 456), (x - 11, 456))
    d.text(main - 8, 446, "(length, 2*d*)", anchor="end")
    d.sign(x, 456, "×")
    d.arrow((x, 467), (x, 488), label="(length, 2*d*)")
    d.box(x, 504, 150, "RMSNorm", kind="weights")
    d.arrow((x, 520), (x, 536), label="(length, 2*d*)")
    d.box(x, 552, 348, "linear *W*_{out}", kind="weights")
    d.arrow((x, 568), (x, 582))
    d.line((x, 40), (8, 40))
    d.line((8, 40), (8, 593))
    d.arrow((8, 593), (x - 12, 593))
    d.sign(x, 593, "+")
    d.arrow((x + 12, 593), (x + 60, 593))
    d.text(x + 68, 593, "*y* (length, *d*)", anchor="start")
    return d


def made(chunk: int, N: int) -> tuple[float, float]:
    """Numbers of M and of states that a token of a head makes."""
    return float(chunk), HEAD * N / chunk


def chunk_explorer() -> Explorer:
    """Drag the chunk, see how many numbers and operations a token costs."""

    def frame(chunk: int, N: int) -> Frame:
        both = [made(c, N) for c in CHUNKS]
        matrix, states = made(chunk, N)
        operations = 2 * chunk * (HEAD + chunk) + 4 * HEAD * N
        return Frame(
            {
                "matrix": [min(m, 700) for m, _ in both],
                "states": [min(s, 700) for _, s in both],
                "sum": [min(m + s, 700) for m, s in both],
            },
            {
                "m": f"{matrix:g}",
                "s": f"{states:g}",
                "all": f"{matrix + states:g}",
                "ops": f"{operations:,}",
                "least": str(min(CHUNKS, key=lambda c: sum(made(c, N)))),
            },
            cursor=CHUNKS.index(chunk),
        )

    panel = Panel(
        "steps of a chunk",
        "numbers a token and head",
        (0, len(CHUNKS) - 0.8),
        (0, 700),
        {
            "matrix": Curve("green", "of M", "8 4"),
            "states": Curve("orange", "of states", "2 3"),
            "sum": Curve("blue", "both"),
        },
        {i: str(c) for i, c in enumerate(CHUNKS)},
        {0: "0", 200: "200", 400: "400", 600: "600"},
        cursor=True,
    )
    return Explorer(
        "chunk-explorer",
        "Against the chunk's length, the entries of M that a token makes rise, "
        "the numbers of states fall, and their sum has a lowest point.",
        [
            Slider("chunk", "steps of a chunk", CHUNKS, start=3, form=str),
            Slider("N", "N", (16, 64, 128), start=1, form=str),
        ],
        [panel],
        frame,
        "<p>A token of a head makes {m} numbers of M and {s} of states, {all} "
        "in all, with {ops} operations in products. Of these chunks {least} "
        "makes the fewest numbers. Heads of P = "
        f"{HEAD}; curves end at 700.</p>",
    )
