"""Checks of chapter 08."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from linear_time.attention import attention
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    randn,
)
from linear_time.perceiver import fourier_features

F64 = torch.float64
_LIBRARY = Path(__file__).parents[1]


def by_hand(answer: Callable[..., Any], *inputs: Any) -> Any:
    """The answer's result; fail where it called the library for it."""
    called: set[str] = set()

    def note(frame: Any, event: str, _: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.parent == _LIBRARY:
            called.add(f"{file.stem}.{frame.f_code.co_name}")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        got = answer(*inputs)
    finally:
        sys.setprofile(before)
    used = ", ".join(sorted(called))
    expect(not used, f"Expected code of your own, got calls of {used}.")
    return got


@exercise("08-matrix")
def matrix(answer):
    for m, n, d, e in ((1, 1, 1, 1), (3, 7, 4, 5), (6, 2, 9, 3)):
        Q, K, V = randn(m, d), randn(n, d, seed=1), randn(n, e, seed=2)
        given = f"{m} latents and {n} tokens of {d} channels"
        W, y = _pair(by_hand(answer, Q.clone(), K.clone(), V.clone()), given)
        expect_close(W, attention(Q, K, torch.eye(n, dtype=F64)), f"{given}, W")
        expect_close(y, attention(Q, K, V), f"{given}, y")
    Q, K, V = 40 * randn(2, 4), 40 * randn(5, 4, seed=1), randn(5, 3, seed=2)
    given = "2 latents and 5 tokens, scores of some thousands"
    _, y = _pair(by_hand(answer, Q.clone(), K.clone(), V.clone()), given)
    expect_close(y, attention(Q, K, V), f"{given}, y")


def _pair(got, given):
    fits = isinstance(got, tuple) and len(got) == 2
    expect(fits, f"For {given}: expected a pair (W, y), got {got!r}.")
    return got


@exercise("08-crossover")
def crossover(answer):
    for m, layers in ((1, 1), (16, 4), (512, 48), (64, 6), (64, 1), (1000, 2)):
        # The positive root of layers n² − m n − layers m² = 0.
        root = m * (1 + math.sqrt(1 + 4 * layers**2)) / (2 * layers)
        given = f"m = {m} and {layers} layers"
        expect_equal(answer(m, layers), math.floor(root) + 1, given)


@exercise("08-fourier")
def fourier(answer):
    for n, d, n_bands, mu in (
        *((5, 1, 1, 8), (6, 2, 3, 28), (4, 3, 2, 100)),
        *((3, 2, 4, 7), (2, 1, 2, 2.5)),  # not even, not whole
    ):
        p = randn(n, d).tanh()
        given = f"{n} positions of {d} coordinates, {n_bands} bands, μ = {mu}"
        wanted = fourier_features(p, n_bands, mu)
        got = by_hand(answer, p.clone(), n_bands, mu)
        expect_close(got, wanted, given, rtol=1e-5)


@exercise("08-alias")
def alias(answer):
    for f, mu in ((1, 8), (2, 8), (3, 9), (1, 32), (5, 12), (0, 8), (0, 9)):
        # On p_j = −1 + 2j/(μ−1), cos πgp_j = cos πfp_j for all j.
        g = next(g for g in range(f + 1, 4 * mu) if _agree(f, g, mu))
        expect_equal(answer(f, mu), g, f"f = {f} and μ = {mu}")


def _agree(f, g, mu):
    p = torch.linspace(-1, 1, mu, dtype=F64)
    gap = (math.pi * f * p).cos() - (math.pi * g * p).cos()
    return bool(gap.abs().max() < 1e-9)


def masked(Q, K, V, real):
    """The right one, for float32 too."""
    mask = real.expand(len(Q), len(K))
    return attention(Q, K, V, mask)


@exercise("08-bug")
def bug(answer):
    def scores(Q, K):
        return Q @ K.T / math.sqrt(Q.shape[1])

    def no_mask(Q, K, V, real):
        return attention(Q, K, V)

    def inverted(Q, K, V, real):
        return masked(Q, K, V, ~real)

    def zero_scores(Q, K, V, real):
        s = scores(Q, K) * real
        return (s.softmax(1) * real.any()) @ V

    def values_only(Q, K, V, real):
        return scores(Q, K).softmax(1) @ (V * real[:, None])

    def nan_when_empty(Q, K, V, real):
        s = scores(Q, K).masked_fill(~real, -math.inf)
        return s.softmax(1) @ V

    bugs = {
        "the mask is not used": no_mask,
        "the mask is inverted": inverted,
        "masked scores are 0 instead of −∞": zero_scores,
        "only the values are masked": values_only,
        "an empty input gives NaN": nan_when_empty,
    }
    expect_finds_bug(answer, masked, bugs, "implementation")
