"""Wrong answers to the exercises of chapter 04: each is a plausible slip."""

import math
from itertools import pairwise

import torch

from linear_time.attention import CausalSelfAttention


def worth(keys_and_values=2, window=-1, shared=True, whole=False):
    def tokens(N, expand, taps, n_heads, n_kv_heads):
        share = n_heads / n_kv_heads if shared else 1
        count = expand * (N + taps + window) * share / keys_and_values
        return float(math.ceil(count) + 1) if whole else count

    return tokens


def window(causal=True, start=True, state_grows=False, projections=8):
    def cost(length, d_model, window):
        d, w = d_model, min(length, window)
        scores = w * (w + 1) // 2 + w * (length - w) if start else w * length
        sequence = projections * d**2 * length + 4 * d * (scores if causal else length**2)
        held = length if state_grows else w
        return sequence, projections * d**2 + 4 * d * w, 2 * d * held

    return cost


def window_of_the_sequence(length, d_model, window_):
    return window()(length, d_model, window_)[0]


def first_power(one, other):
    above = 1
    while one(above) <= other(above):
        above *= 2
    return above


def first_equal(one, other):
    low, high = 0, 2**80
    while high - low > 1:
        middle = (low + high) // 2
        if one(middle) >= other(middle):
            high = middle
        else:
            low = middle
    return high


def to_a_million(one, other):
    return next((L for L in range(1, 10**5) if one(L) > other(L)), None)


def one_after_the_other(one, other):
    L = 1
    while one(L) <= other(L):
        L += 1
    return L


def of_a_line(one, other):
    """Right where a square meets a line, and blind to anything else."""
    return max(other(1), 0) + 1


def slope_at(L):
    return lambda f: round(math.log2(max(f(2 * L), 1) / max(f(L), 1)))


def differences(f):
    values, p = [f(L) for L in range(10, 40)], -1
    while any(values):
        values, p = [b - a for a, b in pairwise(values)], p + 1
    return p


def slopes(lengths, values):
    points = pairwise(zip(lengths, values, strict=True))
    return [math.log(g / f) / math.log(n / m) for (m, f), (n, g) in points]


def first_within(lengths, values, p, tolerance):
    """The first slope that fits, whatever follows."""
    for L, slope in zip(lengths, slopes(lengths, values), strict=False):
        if abs(slope - p) <= tolerance:
            return L
    return None


def upper_end(lengths, values, p, tolerance):
    start = None
    for L, slope in reversed(list(zip(lengths[1:], slopes(lengths, values), strict=True))):
        if abs(slope - p) > tolerance:
            break
        start = L
    return start


def to_the_end(lengths, values, p, tolerance):
    """One slope from each length to the last."""
    for L, f in zip(lengths[:-1], values, strict=False):
        slope = math.log(values[-1] / f) / math.log(lengths[-1] / L)
        if abs(slope - p) <= tolerance:
            return L
    return None


def never_none(lengths, values, p, tolerance):
    """Forgets that the last slope may be off."""
    start = lengths[-1]
    points = list(pairwise(zip(lengths, values, strict=True)))
    for (L, f), (n, g) in reversed(points):
        if abs(math.log(g / f) / math.log(n / L) - p) > tolerance:
            break
        start = L
    return start


def whole_powers(lengths, values, p, tolerance):
    """Takes a slope for the nearest half."""
    start = None
    for L, slope in reversed(list(zip(lengths, slopes(lengths, values), strict=False))):
        if round(2 * slope) != 2 * p:
            break
        start = L
    return start


def one_token(count):
    assert count(1, 4) == 8 * 16 + 16


def quadratic_only(count):
    assert abs(count(4000, 4) / count(2000, 4) - 4) < 0.1


def runs(count):
    CausalSelfAttention(4, 1)(torch.zeros(1, 3, 4))
    assert count(3, 4) > 0


WRONG = {
    "04-worth": [worth(1), worth(window=0), worth(shared=False), worth(whole=True)],
    "04-window": [
        (window(False), (1, 0, 0)),
        (window(start=False), (1, 0, 0)),
        (window(state_grows=True), (1, 0, 0)),
        (window(projections=6), (1, 0, 0)),
        (window(), (2, 1, 1)),
        (window(), (2, 0, 0)),
        (window_of_the_sequence, (1, 0, 0)),
        window(),
    ],
    "04-cross": [first_power, first_equal, to_a_million, one_after_the_other, of_a_line],
    "04-degree": [slope_at(1000), slope_at(10**6), differences],
    "04-start": [first_within, upper_end, to_the_end, never_none, whole_powers],
    "04-bug": [lambda count: None, one_token, quadratic_only, runs],
    "04-figure": [
        lambda: (0.16, 8000, 12),
        lambda: (160, 4000, 12),
        lambda: (160, 8000, 64),
        lambda: (160, 8000, 1.1),
        lambda: (60, 8000, 12),
        lambda: (160, 8000),
        lambda: ("160 ms", 8000, 12),
    ],
    "04-log": [
        lambda: ((4, "GB"), (4, "MB"), (2, "min")),
        lambda: ((50, "GB"), (4, "MB"), (2, "min")),
        lambda: ((100, "GB"), (2, "MB"), (2, "min")),
        lambda: ((100, "GB"), (4, "TB"), (2, "min")),
        lambda: ((100, "GB"), (4, "MB"), (5, "s")),
        lambda: ((100, "GB"), (4, "MB"), (120, "MB")),
        lambda: ((100, "GB"), (4, "MB"), 120),
        lambda: ((100, "GB"), (4, "MB"), (120, "seconds")),
        lambda: ((100, "GB"), (4, "MB")),
    ],
}
