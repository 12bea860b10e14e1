"""Chapter 13: from one signal to d channels, each with N states of its own."""

import math

from linear_time.drawing import Drawing, Number


def channels_drawing() -> Drawing:
    """d channels, one of them through N states of one number, and back."""
    d = Drawing(
        "From d channels to N states, and back",
        "The input has d channels, one signal each. A channel's signal drives "
        "N states of one number, which decay each at its own rate; their "
        "weighted sum is the channel's output. Each of the d channels has "
        "such a system of its own.",
        height=548,
    )
    x, left, right = 186, 22, 160

    def channels(y: int, phase: Number) -> None:
        """Four signals, the third of them followed."""
        for k, (shift, rate) in enumerate(
            [(0, 1), (2, 1.6), (4, 0.8), (1, 1.9)]
        ):
            points = []
            for t in range(0, 61, 2):
                wave = 5 * math.sin(rate * t / 7 + shift + phase)
                wave += 3 * math.sin(rate * t / 3)
                points.append(
                    (left + (right - left) * t / 60, y + 24 * k - wave)
                )
            d.line(*points, kind="input" if k == 2 else "quiet", width=1.75)

    channels(16, 0)
    d.text(204, 16, "*x* (length, *d*)", 14, "start")
    d.arrow((right + 4, 64), (x, 64), (x, 146), kind="input")
    d.text(x + 8, 84, "one channel (length)", anchor="start", kind="input")

    d.box(182, 286, 348, h=268, copies=2)  # the system of one channel
    d.line((x, 152), (x, 168), kind="input")
    for n, at, label_x, anchor in (
        ("1", 46, 37, "end"),
        ("2", 136, 168, "start"),
        ("N", 292, 304, "start"),
    ):
        d.arrow((x, 168), (at, 206))
        d.text(label_x, 193, f"*B̄*_{n}", anchor=anchor)
        d.box(at, 240, 56, h=66, kind="state")
        d.text(at, 222, f"*h*_{n}", 14, inside=True)
        rate = {"1": 0.05, "2": 0.14, "N": 0.5}[n]
        decay = [
            (at - 20 + t, 264 - 22 * math.exp(-rate * t)) for t in range(41)
        ]
        d.line(*decay, kind="state", width=1.75)
        d.path(f"M{at + 28} 230C{at + 45} 224 {at + 45} 256 {at + 32} 250")
        d.arrow((at + 34, 251), (at + 28.5, 249))
        d.text(at + 44, 240, f"*Ā*_{n}", anchor="start")
        d.arrow((at, 273), (at, 300), (x + (at - x) * 0.08, 342))
        outer = n == "1"
        d.text(
            at + (-8 if outer else 8),
            290,
            f"*C*_{n}",
            anchor="end" if outer else "start",
        )
    d.text(226, 240, "…", 16)
    d.sign(x, 354, "+", r=12)
    d.text(204, 388, "state (*N*), in all (*d*, *N*)", 12, "start", "state")
    d.arrow((x, 366), (x, 508), (right + 6, 508), kind="input")
    channels(460, 2.5)
    d.text(204, 438, "one such system a channel", anchor="start")
    d.text(204, 466, "*y* (length, *d*)", 14, "start")
    return d
