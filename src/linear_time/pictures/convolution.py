"""Chapter 13: a chain and a sum, a kernel round a circle, d channels."""

import math

import torch

from linear_time.convolution import causal_convolution
from linear_time.drawing import Drawing, Number
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.panel import Curve, Panel, written


def unroll_drawing() -> Drawing:
    """The last of four outputs, by a chain of states and by one sum."""
    d = Drawing(
        "A chain of states, and one weighted sum",
        "Above, four inputs enter four states in turn; each state waits for "
        "the one before, and the last gives the output y_3. Below, the same "
        "y_3 is the sum of the four inputs times the weights K_3, K_2, K_1 "
        "and K_0, which are the same for every output.",
        height=410,
    )
    columns = (42, 138, 234, 330)
    d.text(14, 14, "a chain: each state waits", 14, "start")
    for k, x in enumerate(columns):
        d.text(x, 44, f"*x*_{k}", 14)
        d.arrow((x, 56), (x, 94), label="*B̄*", kind="input")
        d.box(x, 110, 44, f"*h*_{k}", kind="state")
        if k:
            left = columns[k - 1] + 22
            d.arrow(
                (left, 110), (x - 22, 110), label="*Ā*", side="above",
                kind="state",
            )  # fmt: skip
    d.text(8, 76, "(1)", anchor="start", kind="input")
    d.text(90, 128, "(*N*)", kind="state")
    d.text(186, 128, "(*N*)", kind="state")
    d.text(282, 128, "(*N*)", kind="state")
    x = columns[-1]
    d.arrow((x, 126), (x, 162), label="*C*")
    d.text(x - 8, 142, "(1)", anchor="end")
    d.text(x, 176, "*y*_3", 14)

    d.text(14, 216, "a sum: every output at once", 14, "start")
    end = (186, 340)
    for k, x in enumerate(columns):
        d.text(x, 246, f"*x*_{k}", 14)
        gap = math.hypot(end[0] - x, end[1] - 258)
        near = [
            end[0] - (end[0] - x) * 14 / gap,
            end[1] - (end[1] - 258) * 14 / gap,
        ]
        d.arrow((x, 258), (near[0], near[1]), kind="input")
        side = -1 if x < end[0] else 1
        d.text(
            x + (end[0] - x) * 0.3 + side * 9,
            258 + (end[1] - 258) * 0.3 + (0 if k in (1, 2) else 9),
            f"*K̄*_{3 - k} (1)",
            anchor="end" if side < 0 else "start",
            kind="weights",
        )
    d.sign(*end, "+", r=12)
    d.arrow((186, 352), (186, 384), label="(1)")
    d.text(186, 398, "*y*_3", 14)
    return d


def circle_drawing() -> Drawing:
    """A kernel of four taps on a circle of eight steps, and of sixteen."""
    d = Drawing(
        "A kernel round a circle",
        "Left, eight inputs on a circle: the output at step 1 weights the "
        "inputs 1 and 0, and then, round the circle, 7 and 6, which are in "
        "its future. Right, eight zeros are put behind the eight inputs, and "
        "there the same two weights meet zeros.",
        height=258,
    )
    for middle, points, title in ((94, 8, "eight steps"), (286, 16, "padded")):
        d.text(middle, 14, title, 14)
        y, r = 136, 66

        def place(
            k: Number, radius: Number, middle: int = middle, n: int = points
        ) -> tuple[float, float]:
            turn = 2 * math.pi * k / n - math.pi / 2
            return middle + radius * math.cos(turn), 136 + radius * math.sin(
                turn
            )

        for tap in range(4):
            k = (1 - tap) % points
            future = points == 8 and k > 1
            zero = k >= 8
            kind = "state" if future else "quiet" if zero else "input"
            d.arrow(place(k, r - 7), place(k, 24), kind=kind)
        d.sign(middle, y, "*y*_1", r=15)
        for k in range(points):
            kind = "quiet" if k >= 8 else "input"
            if points == 8 and k > 5:
                kind = "state"
            d.sign(*place(k, r), "", r=4.5, kind=kind)
            if k < 8:
                d.text(*place(k, r + 17), f"*x*_{k}", 12.5, kind=kind)
            else:
                d.text(*place(k, r + 16), "0", 12, kind="quiet")
    d.text(94, 244, "reads its future", kind="state")
    d.text(286, 244, "reads zeros", kind="quiet")
    return d


def padding_explorer() -> Explorer:
    """Drag the length of the transform over an input of 16 steps."""
    steps = 16
    k = torch.arange(steps, dtype=torch.float64)
    taps = 0.25 * 0.87**k
    x = torch.where(k < 10, 0.15, 1.0) + 0 * k
    right = causal_convolution(x, taps)

    def frame(length: int) -> Frame:
        spectrum = torch.fft.rfft(x, n=length) * torch.fft.rfft(taps, n=length)
        y = torch.fft.irfft(spectrum, n=length)[:steps]
        gap = (y - right).abs()
        wrong = int((gap > 1e-9).sum())
        return Frame(
            {"fft": y},
            {"wrong": str(wrong), "gap": written(gap.max())},
        )

    return Explorer(
        "padding-explorer",
        "A grey band, the causal convolution of an input of 16 steps, and a "
        "line, what a transform of the chosen length gives: too high at the "
        "first steps until the length is 31.",
        [Slider("length", "length of the transform", range(16, 33), start=0)],
        [
            Panel(
                "step",
                "output",
                (0, steps - 1),
                (0, 1.5),
                {
                    "right": Curve("grey", "causal", width=6, ys=right),
                    "fft": Curve("orange", "by the transform"),
                },
                {0: "0", 5: "5", 10: "10", 15: "15"},
                {0: "0", 1: "1"},
            )
        ],
        frame,
        "<p>{wrong} of 16 outputs are wrong, by up to {gap}.</p>",
    )


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
