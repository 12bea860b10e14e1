"""Chapter 14: a memory of N numbers, three rulers, a heartbeat read back."""

import math

import torch

from linear_time.datasets import ecg
from linear_time.drawing import Drawing, Number
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.hippo import project, reconstruct, sample_ages
from linear_time.panel import Curve, Panel, written


def memory_explorer(N: int = 32, moments: int = 32) -> Explorer:
    """Drag the time, see what N numbers remember of what came before.

    The recording is read online by the scaled Legendre memory.

    Args:
        N: how many numbers.
        moments: how many places the slider has.
    """
    signal = ecg()
    x, rate = signal.x - signal.x.mean(), signal.sampling_rate
    length, stride = len(x), 3  # the memory is smooth: every third sample
    c = project(x, N)

    def frame(end: int) -> Frame:
        past = reconstruct(c[end - 1], sample_ages(end))
        error = float((past - x[:end]).norm() / x[:end].norm())
        seen = torch.full((length,), torch.nan, dtype=x.dtype)
        seen[:end] = past
        return Frame(
            {"memory": seen[::stride]},
            {"samples": str(end), "error": written(error)},
            cursor=(end - 1) / rate,
        )

    last = (length - 1) / rate
    panel = Panel(
        "time in s",
        "recorder's units, mean removed",
        (0, last),
        (-100, 320),
        {
            "signal": Curve("grey", "the heartbeat", width=3, ys=x),
            "memory": Curve("orange", f"what {N} numbers remember of it"),
        },
        {0: "0", 1: "1", 2: "2"},
        {0: "0", 100: "100", 200: "200", 300: "300"},
        cursor=True,
    )
    return Explorer(
        "memory-explorer",
        "A heartbeat with three spikes, and up to the chosen time the curve "
        f"that {N} numbers remember of it.",
        [
            Slider(
                "time",
                "time t",
                values=[length * (i + 1) // moments for i in range(moments)],
                start=moments // 2,
                form=lambda end: f"{end / rate:.2f}",
                unit="s",
            )
        ],
        [panel],
        frame,
        f"<p>{N} numbers for {{samples}} samples: relative RMSE {{error}}</p>",
    )


def memory_drawing() -> Drawing:
    """What goes in, what is kept, and what can be read."""
    d = Drawing(
        "A memory of N numbers",
        "At each step one sample goes in and the N numbers of the state are "
        "updated with matrices from a formula. At any moment the N numbers, "
        "as weights of N known functions, give a curve over the whole past.",
        height=372,
    )
    signal = [
        (30 + t, 34 - 10 * math.sin(t / 21) - 8 * math.sin(t / 8 + 1))
        for t in range(0, 301, 3)
    ]
    d.line(*signal, kind="quiet", width=1.75)
    d.text(30, 66, "the past, not kept", anchor="start", kind="quiet")
    now = signal[-1]
    d.sign(*now, "", r=4.5, kind="input")
    d.arrow((330, now[1] + 6), (330, 100), (210, 100), (210, 130))
    d.text(322, 82, "*x*_k (1)", anchor="end")
    d.box(186, 158, 236, "*c* ← *Ā*_k *c* + *B̄*_k *x*_k", h=52, kind="state")
    d.path("M68 158C26 128 26 212 66 176", kind="state")
    d.arrow((60, 178), (67, 174.5), kind="state")
    d.text(14, 206, "state (*N*)", anchor="start", kind="state")
    d.text(366, 206, "*A*, *B* from a formula", anchor="end")
    d.text(366, 222, "nothing learned", anchor="end", kind="quiet")
    d.arrow((186, 184), (186, 246), label="(*N*)", at=0.62, kind="state")
    d.box(186, 264, 236, "Σ *c*_n *g*_n(*r*), with known *g*_n")
    d.arrow((186, 280), (186, 316), label="(as many as are asked for)")
    back = [
        (30 + t, 340 - 10 * math.sin(t / 21) - 5 * math.sin(t / 8 + 1))
        for t in range(0, 301, 3)
    ]
    d.line(*back, kind="state", width=1.75)
    d.text(30, 364, "the past, as remembered", anchor="start", kind="state")
    return d


def rulers_drawing() -> Drawing:
    """The past, and the scales that three memories lay beside it."""
    d = Drawing(
        "One past on three rulers",
        "A signal that ends now, at the right, and three scales beneath it. "
        "The marks of the first are even over the whole past. Those of the "
        "second lie close near now and thin out with age. Those of the third "
        "are even over the newer half, and there are none before it.",
        height=366,
    )
    old, now = 22, 310
    span = now - old

    def curve(t: Number) -> Number:
        wave = 9 * math.sin(t / 17) + 7 * math.sin(t / 6.1 + 1)
        return 52 - wave - 14 * math.exp(-(((t - 200) / 9) ** 2))

    points = [(old + t, curve(t)) for t in range(0, span + 1, 2)]
    d.line(*points, kind="input", width=1.75)
    d.text(old, 12, "beginning", anchor="start", kind="input")
    d.text(now, 12, "now", kind="input")
    d.text(372, 52, "(length)", anchor="end", kind="input")
    rulers = (
        ("LegS with 1/*t*:  *r* = *u*/*t*", lambda r: r * span),
        (
            "LegS without 1/*t*:  *r* = 1 − *e*^{−u}",
            lambda r: -math.log(1 - r) * 88 if r < 1 else math.inf,
        ),
        ("LegT:  *r* = *u*", lambda r: r * span / 2),
    )
    for k, (name, age) in enumerate(rulers):
        y = 128 + 96 * k
        d.text(old, y - 22, name, 13, "start")
        end = min(age(1.0), span)
        d.line((now - end, y), (now, y), kind="state", width=1.75)
        for tenth in range(11):
            far = age(tenth / 10)
            if far > span:
                continue
            x, long = now - far, 8 if tenth % 5 == 0 else 5
            d.line((x, y - long), (x, y + long), kind="state")
            if tenth % 5 == 0:
                mark = {0: "0", 5: "½", 10: "1"}[tenth]
                d.text(x, y + 21, mark, kind="state")
        if age(1.0) > span:
            d.text(old, y + 21, "on to 1, never there", anchor="start")
        elif end < span:
            d.text(old, y + 1, "forgotten", anchor="start", kind="quiet")
        d.arrow((now + 8, y), (now + 42, y), kind="state")
        d.text(now + 24, y - 14, "(*N*)", kind="state")
        d.text(now + 52, y, "*c*", 14, kind="state")
    return d
