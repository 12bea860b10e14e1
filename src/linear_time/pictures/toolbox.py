"""Chapter 00: the five tools, and where the book takes each from the box."""

from linear_time.drawing import Drawing


def tools_drawing() -> Drawing:
    """Five tools with what goes in and comes out, and who uses them."""
    d = Drawing(
        "Five tools",
        "Five rows. Eigenvalues turn a matrix into modes; a linear "
        "differential equation turns an input into a state; the FFT "
        "convolves; a vector-Jacobian product carries a gradient back; the "
        "roofline says what limits an operation. Beside each, the chapters "
        "that use it.",
        height=268,
    )
    rows = (
        ("eigenvalues", "*A* → modes e^{λt}", "01, 11 to 15"),
        ("linear equation", "*x*(*t*) → *h*(*t*)", "11, 12, 16"),
        ("FFT", "*x*, kernel → *y*", "13, 15"),
        ("vector–Jacobian", "∂ by *y* → ∂ by *x*", "01, 02, 17"),
        ("roofline", "FLOPs, bytes → limit", "03, 05, 17"),
    )
    d.text(190, 12, "in → out", 12, kind="quiet")
    d.text(372, 12, "chapters", 12, "end", "quiet")
    for i, (name, does, where) in enumerate(rows):
        y = 44 + 48 * i
        d.box(64, y, 120, name, h=32, kind="weights", size=13)
        d.text(138, y, does, 12.5, "start")
        d.text(372, y, where, 12.5, "end")
    return d
