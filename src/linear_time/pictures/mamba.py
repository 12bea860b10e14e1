"""Chapter 18: the Mamba block, with the shape of what flows on each arrow."""

from linear_time.drawing import Drawing

PARTS = ("", "in", "conv", "select", "scan", "gate", "out")


def mamba_drawing(part: str = "") -> Drawing:
    """A block from x to y, its residual around it.

    Args:
        part: what to point at, everything else being quiet: ``in`` (norm and
            the two halves), ``conv``, ``select``, ``scan``, ``gate``, ``out``;
            none for the whole block.

    Raises:
        ValueError: a part that the block does not have.
    """
    if part not in PARTS:
        raise ValueError(
            f"part: expected one of {', '.join(PARTS[1:])}, got {part!r}"
        )
    d = Drawing(
        "A Mamba block" + (f", its part {part!r}" if part else ""),
        "The input x is normalised and mapped to two halves, u and z. u passes "
        "a causal convolution of four taps and SiLU; from it Δ, B and C are "
        "computed, and with them the selective scan runs. Its output is "
        "multiplied by SiLU of z and mapped back to d channels, and x is "
        "added.",
        height=612,
    )

    def kind(of: str, own: str = "plain") -> str:
        return own if part in ("", of) else "quiet"

    # columns: the scan, what is selected, the gate, the whole
    scan, select, gate, x = 96, 238, 336, 196
    d.text(x, 12, "*x*", 15)
    d.arrow((x, 24), (x, 58), label="(length, *d*)", kind=kind("in"))
    d.box(x, 74, 110, "RMSNorm", kind=kind("in"))
    d.arrow((x, 90), (x, 118), label="(length, *d*)", kind=kind("in"))
    d.box(x, 134, 348, "linear *W*_{in}", kind=kind("in", "weights"))
    shape = "(length, 2*d*)"
    d.arrow((scan, 150), (scan, 182), label=f"*u* {shape}", kind=kind("in"))
    d.arrow(
        (gate, 150),
        (gate, 428),
        label=f"*z* {shape}",
        side="left",
        at=0.058,
        kind=kind("gate"),
    )
    d.box(scan, 198, 156, "causal conv, 4 taps", kind=kind("conv", "weights"))
    d.arrow((scan, 214), (scan, 238), kind=kind("conv"))
    d.box(scan, 254, 76, "SiLU", kind=kind("conv"))
    d.arrow(
        (scan, 270),
        (scan, 344),
        label="*u*",
        side="left",
        at=0.7,
        kind=kind("scan"),
    )
    d.arrow((scan, 284), (select, 284), (select, 300), kind=kind("select"))
    d.box(
        select, 316, 126, "linear *W*_x, *W*_Δ", kind=kind("select", "weights")
    )
    chosen = kind("select", "input")
    d.arrow((select, 332), (select, 388), (scan + 78, 388), kind=chosen)
    d.text(select + 8, 346, f"Δ {shape}", anchor="start", kind=chosen)
    d.text(select + 8, 363, "*B* (length, *N*)", anchor="start", kind=chosen)
    d.text(select + 8, 380, "*C* (length, *N*)", anchor="start", kind=chosen)
    d.box(
        scan,
        388,
        156,
        "selective scan\nstate *h*_t (2*d*, *N*)",
        h=86,
        kind=kind("scan", "state"),
    )
    d.arrow(
        (scan, 431), (scan, 492), (x - 11, 492), label=shape, kind=kind("scan")
    )
    d.box(gate, 445, 72, "SiLU", kind=kind("gate"))
    d.arrow((gate, 461), (gate, 492), (x + 11, 492), kind=kind("gate"))
    d.sign(x, 492, "×", kind=kind("gate"))
    d.arrow((x, 503), (x, 530), label=shape, kind=kind("out"))
    d.box(x, 546, 348, "linear *W*_{out}", kind=kind("out", "weights"))
    d.arrow((x, 562), (x, 585), label="(length, *d*)", kind=kind("out"))
    d.arrow((x, 40), (8, 40), (8, 597), (x - 12, 597), kind=kind("out"))
    d.sign(x, 597, "+", kind=kind("out"))
    d.arrow((x + 12, 597), (x + 60, 597), kind=kind("out"))
    d.text(x + 68, 597, "*y* (length, *d*)", anchor="start")
    return d
