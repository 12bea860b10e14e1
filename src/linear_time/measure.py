"""Chapter 04: the measuring half of ``cost``: seconds, bytes, slopes.

A time is never asserted, and says something beside another from the same run
only. Bytes are counted, and are the same at every run.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from linear_time import _validate
from linear_time.mixer import SequenceMixer


class Measured(NamedTuple):
    """What ``measure`` saw of one call."""

    seconds: float  # the median of the repeats
    fastest: float
    slowest: float
    peak_bytes: int | None  # the most that it held at once, see peak_bytes


def measure(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int = 5,
    number: int = 1,
    memory: bool = False,
) -> dict[str, Measured]:
    """Time some calls, in turn, so that a disturbance meets all of them.

    Each is called once beforehand, to warm up. A time is that of one call.

    Args:
        calls: name → a function without arguments.
        repeats: how often each is timed, ≥ 1.
        number: calls a timing, ≥ 1; more where one is very short.
        memory: also look for the peak of memory, in a call of its own.

    Returns:
        name → Measured.

    Raises:
        TypeError, ValueError: repeats or number is not a whole number ≥ 1.
    """
    repeats = _validate.count("repeats", repeats)
    number = _validate.count("number", number)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            for _ in range(number):
                call()
            times[name].append((time.perf_counter() - begin) / number)
    return {
        name: Measured(
            statistics.median(seconds),
            min(seconds),
            max(seconds),
            peak_bytes(calls[name]) if memory else None,
        )
        for name, seconds in times.items()
    }


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that a call held at once beyond what was there before.

    As torch's profiler sees its CPU allocator. What the call returns counts,
    its inputs do not, nor what the call made on another device.
    """
    # Its profiler tells on stderr that it starts, unless this is set.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        call()
    events: Any = profiler.profiler.kineto_results.events()  # type: ignore
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]"
    )
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def saved_bytes(call: Callable[[], Any]) -> int:
    """What autograd keeps of a forward call for its backward.

    Each piece of storage counts once, parameters and inputs as well.
    """
    sizes: dict[int, int] = {}
    kept = []  # alive, so that no two pieces share an address

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        kept.append(x)
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        call()
    return sum(sizes.values())


def product_flops(call: Callable[[], Any]) -> int:
    """The FLOPs of the matrix products of a call, by torch's counter.

    It sees no elementwise work, no FFT and no fused attention of a CPU.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def training_step(
    mixer: SequenceMixer, x: Float[Tensor, "batch length d_model"]
) -> tuple[Tensor, ...]:
    """Forward, a squared loss, and the gradients of all parameters."""
    loss = mixer(x).square().mean()
    return torch.autograd.grad(loss, tuple(mixer.parameters()))


def log_log_slope(
    lengths: Sequence[int], values: Sequence[float | int], start: int = 1
) -> float:
    """The exponent p of values ~ lengths^p, by least squares in logarithms.

    Args:
        lengths: in any order.
        values: > 0, one a length.
        start: L₀; shorter lengths are left out.

    Raises:
        ValueError: not two different lengths ≥ start, or a value ≤ 0.
    """
    rows = [
        (math.log(length), value)
        for length, value in zip(lengths, values, strict=True)
        if length >= start
    ]
    if len({x for x, _ in rows}) < 2 or min(value for _, value in rows) <= 0:
        raise ValueError(
            "lengths: expected two or more from start on, with values > 0, "
            f"got {len(rows)} from {start} on"
        )
    xs, ys = [x for x, _ in rows], [math.log(y) for _, y in rows]
    return statistics.linear_regression(xs, ys).slope


def crossover(
    lengths: Sequence[int],
    one: Sequence[float | int],
    other: Sequence[float | int],
) -> float | None:
    """The length from which on one stays above the other.

    Between two lengths both are straight lines in the log–log plot.

    Args:
        lengths: increasing.
        one, other: values > 0.

    Returns:
        The length, or None where one is below the other at the last length,
        or never is.
    """
    gaps = [
        math.log(a / b) for a, b in zip(one, other, strict=True)
    ]  # > 0: one costs more
    if gaps[-1] <= 0 or min(gaps) > 0:
        return None
    i = max(i for i, gap in enumerate(gaps) if gap <= 0)
    share = gaps[i] / (gaps[i] - gaps[i + 1])
    return float(lengths[i] * (lengths[i + 1] / lengths[i]) ** share)
