"""Chapter 14: what N numbers remember of a heartbeat."""

import torch

from linear_time.datasets import ecg
from linear_time.explorer import Explorer, Frame, Slider
from linear_time.hippo import project, reconstruct, sample_ages
from linear_time.panel import Curve, Panel


def memory_explorer(N: int = 32, moments: int = 32) -> Explorer:
    """Drag the time, see what N numbers remember of what came before.

    The recording is read online by the scaled Legendre memory.

    Args:
        N: how many numbers.
        moments: how many places the slider has.
    """
    signal = ecg()
    x, rate = signal.x - signal.x.mean(), signal.sampling_rate
    length, stride = len(x), 4  # a point for every fourth sample
    c = project(x, N)

    def frame(end: int) -> Frame:
        past = reconstruct(c[end - 1], sample_ages(end))
        error = float((past - x[:end]).norm() / x[:end].norm())
        seen = torch.full((length,), torch.nan, dtype=x.dtype)
        seen[:end] = past
        return Frame(
            {"memory": seen[::stride]},
            {"samples": str(end), "error": f"{error:.2f}"},
            cursor=(end - 1) / rate,
        )

    last = (length - stride) / rate
    panel = Panel(
        "time in s",
        "recorder's units, mean removed",
        (0, last),
        (-100, 320),
        {
            "signal": Curve("grey", "the heartbeat", width=3, ys=x[::stride]),
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
