"""Chapter 01: a recurrent network, unrolled, and the gradient's way back."""

from linear_time.drawing import Drawing


def unrolled_drawing() -> Drawing:
    """One rule, five times; above it the gradient, thinner at each step."""
    d = Drawing(
        "A recurrent network, unrolled",
        "Five copies of one cell in a row pass a state of d numbers from left "
        "to right, and each reads one input. From the loss at the right end "
        "the gradient goes back through all of them, multiplied by a Jacobian "
        "at each step, and is drawn thinner each time.",
        height=236,
    )
    left, pitch, y, back = 56, 58, 138, 70
    d.text(12, y, "*h*_0")
    for t in range(1, 6):
        x = left + pitch * (t - 1)
        d.arrow((x - 38 if t > 1 else 22, y), (x - 20, y), kind="state")
        d.box(x, y, 40, "cell", h=32, kind="weights", size=12)
        d.arrow((x, 192), (x, 154), kind="input")
        d.text(x, 204, f"*x*_{t}")
        width = 9 * 0.6 ** (5 - t)
        d.line((x + 25, back), (x - 25, back), kind="quiet", width=width)
        d.text(x, 48, f"× *J*_{t}", kind="quiet")
    end = left + pitch * 4
    d.arrow((end + 20, y), (end + 40, y), kind="state")
    d.box(end + 60, y, 40, "loss", h=32, size=12)
    d.line(
        (end + 62, 122),
        (end + 62, back),
        (end + 26, back),
        kind="quiet",
        width=9,
    )
    d.arrow((left - 24, back), (left - 40, back), kind="quiet")
    d.text(12, 100, "the gradient goes back", 12, "start", "quiet")

    d.text(
        190, 226, "inputs (*d*) from below, the state (*d*) to the right", 12
    )
    d.text(
        12,
        18,
        "∂ loss / ∂ *h*_0 = *g* · *J*_5 *J*_4 *J*_3 *J*_2 *J*_1",
        12.5,
        "start",
    )
    return d
