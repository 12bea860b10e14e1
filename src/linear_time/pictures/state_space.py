"""Chapter 11: a mass on a spring, and a state-space model as a circuit."""

from linear_time.drawing import Drawing, Point


def spring_drawing() -> Drawing:
    """A force in, a position out, two numbers kept."""
    d = Drawing(
        "A mass on a spring",
        "A mass is tied to a spring and a damper, which are fixed to a "
        "wall at the left. A force x pulls it to the right, and its position q "
        "is measured from where it rests.",
        height=196,
    )
    d.line((24, 22), (24, 138), width=3)
    x, step = 48, 12
    zigzag: list[Point] = [(24, 52), (x, 52)]
    for k in range(9):
        zigzag.append((x + step * (k + 0.5), 52 + (9 if k % 2 else -9)))
    x += 9 * step
    d.line(*zigzag, (x, 52), (190, 52), kind="weights", width=1.75)
    d.text(106, 26, "spring: stiffness *k*", 12, kind="weights")
    d.line((24, 108), (100, 108), kind="weights", width=1.75)
    d.line((118, 96), (100, 96), (100, 120), (118, 120), kind="weights")
    d.line((110, 101), (110, 115), kind="weights", width=1.75)
    d.line((110, 108), (190, 108), kind="weights", width=1.75)
    d.text(106, 136, "friction *c*", 12, kind="weights")
    d.box(226, 80, 72, "mass\n*m*", h=84, kind="weights")
    d.arrow((262, 80), (346, 80), kind="input")
    d.text(314, 62, "force *x*(*t*)", 12, kind="input")
    d.line((176, 156), (176, 172), kind="quiet")
    d.arrow((176, 164), (226, 164), kind="state")
    d.text(168, 164, "at rest", 12, "end", "quiet")
    d.text(234, 164, "position *q*(*t*)", 12, "start", "state")
    d.text(190, 186, "state (2): *q* and its speed *q*′", 12, kind="state")
    return d


def wiring_drawing() -> Drawing:
    """h′ = A h + B x, y = C h + D x: the loop A and the bypass D."""
    d = Drawing(
        "A state-space model as a circuit",
        "The input x is multiplied by B and added to A times the state; the "
        "sum is the slope of the state, and an integrator makes the state of "
        "it, which A leads back in a loop. C reads the output from the state, "
        "and D leads the input past the state to the output.",
        height=196,
    )
    y, top, low = 96, 26, 164
    d.text(16, y, "*x*", 14)
    d.arrow((26, y), (64, y), kind="input")
    d.text(46, y + 14, "(1)", 12, kind="input")
    d.box(80, y, 32, "*B*", kind="weights")
    d.arrow((96, y), (131, y), label="(*N*)", side="above")
    d.sign(142, y, "+")
    d.arrow((153, y), (194, y), label="*h*′ (*N*)", side="above")
    d.box(210, y, 32, "∫", size=18)
    d.arrow((226, y), (284, y), label="*h* (*N*)", side="above", kind="state")
    d.box(300, y, 32, "*C*", kind="weights")
    d.arrow((316, y), (335, y))
    d.text(332, y + 24, "(1)", 12)
    d.sign(346, y, "+")
    d.arrow((357, y), (374, y))
    d.text(368, y - 16, "*y*", 14)
    d.arrow((256, y), (256, low), (226, low), kind="state")
    d.box(210, low, 32, "*A*", kind="weights")
    d.arrow((194, low), (142, low), (142, y + 11), kind="state")
    d.text(264, low - 8, "the loop: (*N*, *N*)", 12, "start", "state")
    d.arrow((36, y), (36, top), (174, top), kind="input")
    d.box(190, top, 32, "*D*", kind="weights")
    d.arrow((206, top), (346, top), (346, y - 11), kind="input")
    d.text(218, top + 14, "past the state: (1)", 12, "start", "input")
    return d
