"""Checks of chapter 08."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sympy as sp
import torch

from linear_time.attention import attention
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    expect_parts,
    instrument,
    plain,
)
from linear_time.exercises.estimate import expect_quantity
from linear_time.exercises.proof import expect_lines
from linear_time.perceiver import fourier_features

F64 = torch.float64
_LIBRARY = Path(__file__).parents[1]


class _Noted:
    """What of the library was called."""

    names: frozenset[str] = frozenset()


@instrument
def noting():
    """Inside, calls of the library's functions are noted."""
    found = _Noted()

    def note(frame: Any, event: str, _: Any) -> None:
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.parent == _LIBRARY:
            found.names |= {f"{file.stem}.{frame.f_code.co_name}"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(before)


def by_hand(answer: Callable[..., Any], *inputs: Any) -> Any:
    """The answer's result; fail where it called the library for it."""
    with noting() as found:
        got = answer(*inputs)
    used = ", ".join(sorted(found.names))
    expect(not used, f"Expected code of your own, got calls of {used}.")
    return got


@exercise("08-matrix")
def matrix(answer, cases):
    drawn = [tuple(cases.integer(2, 9) for _ in "mnde") for _ in "12"]
    tried = [(1, 1, 1, 1, 1.0), *((*sizes, 1.0) for sizes in drawn)]
    tried.append((2, cases.integer(4, 7), 4, 3, 40.0))
    for m, n, d, e, size in tried:
        Q, K = size * cases.randn(m, d), size * cases.randn(n, d)
        V = cases.randn(n, e)
        given = f"{m} latents and {n} tokens of {d} channels"
        given += ", scores of some thousands" if size > 1 else ""
        got = by_hand(answer, Q.clone(), K.clone(), V.clone())
        W, y = expect_parts(got, 2, f"a pair (W, y) for {given}")
        want = attention(Q, K, torch.eye(n, dtype=F64))
        scores = Q @ K.T / math.sqrt(d)
        expect_close(
            W,
            want,
            f"{given}, W",
            slips={
                "the softmax runs along the latents": scores.softmax(0),
                "the scores are not divided": (
                    (scores * math.sqrt(d)).softmax(1)
                ),
            },
        )
        expect_close(y, want @ V, f"{given}, y")


@exercise("08-crossover")
def crossover(answer, cases):
    drawn = [(cases.integer(2, 600), cases.integer(1, 50)) for _ in range(4)]
    for m, layers in ((1, 1), (512, 48), (64, 1), (1000, 2), *drawn):
        # Whole numbers: layers n² > n m + layers m² from the root on.
        n = m
        while layers * n * n <= n * m + layers * m * m:
            n += 1
        expect_equal(
            answer(m, layers),
            n,
            f"m = {m} and {layers} layers",
            slips={
                "there the two are equal, or it is not fewer yet": n - 1,
                "the reading costs something too": m + 1,
            },
        )


@exercise("08-spot")
def spot(answer, cases):
    u = sp.symbols(cases.choice(["u1:3", "a1:3", "r1:3"]), real=True)
    v = sp.symbols(cases.choice(["v1:3", "b1:3", "s1:3"]), real=True)
    start = sp.exp(u[0] + v[0]) / sum(sp.exp(x + y) for x in u for y in v)

    def of_one_axis(part):
        return part.free_symbols <= set(u) or part.free_symbols <= set(v)

    def sums_apart(line):
        _, below = sp.fraction(sp.together(line, deep=False))
        return (
            isinstance(below, sp.Mul)
            and len(below.args) == 2
            and all(
                isinstance(part, sp.Add) and of_one_axis(part)
                for part in below.args
            )
        )

    def two_shares(line):
        return (
            isinstance(line, sp.Mul)
            and len(line.args) == 2
            and all(
                of_one_axis(part) and len(part.atoms(sp.exp)) == 1
                for part in line.args
            )
        )

    forms = [
        ("below the line a product of two sums, one for each axis", sums_apart),
        (
            "a product of two shares, each with one exponential and one axis",
            two_shares,
        ),
    ]
    expect_lines(answer(*u, *v), start, forms, cases)


@exercise("08-fourier")
def fourier(answer, cases):
    drawn = [
        (*(cases.integer(2, 5) for _ in "ndb"), 2 * cases.integer(3, 60))
        for _ in "12"
    ]
    for n, d, n_bands, mu in (
        (5, 1, 1, 8),
        *drawn,
        *((3, 2, 4, 7), (2, 1, 2, 2.5)),  # not even, not whole
    ):
        p = cases.randn(n, d).tanh()
        wanted = fourier_features(p, n_bands, mu)
        got = by_hand(answer, p.clone(), n_bands, mu)
        last = (
            wanted.roll(-d, 1),
            fourier_features(p, n_bands, 2 * mu),
            fourier_features(p / math.pi, n_bands, mu),
        )
        expect_close(
            got,
            wanted,
            f"{n} positions of {d} coordinates, {n_bands} bands, μ = {mu}",
            rtol=1e-5,
            slips={
                "the positions come first, and then the waves": last[0],
                "the fastest band has the frequency μ/2": last[1],
                "the angle is π f p": torch.cat([p, last[2][:, d:]], 1),
            },
        )


@exercise("08-alias")
def alias(answer, cases):
    drawn = []
    for mu in (2 * cases.integer(5, 15), 2 * cases.integer(5, 15) + 1):
        drawn.append((cases.integer(1, (mu - 2) // 2), mu))
    for f, mu in ((1, 8), (2, 8), (3, 9), (0, 8), (0, 9), *drawn):
        # On p_j = −1 + 2j/(μ−1), cos πgp_j = cos πfp_j for all j.
        g = next(g for g in range(f + 1, 4 * mu) if _agree(f, g, mu))
        expect_equal(
            answer(f, mu),
            g,
            f"f = {f} and μ = {mu}",
            slips={
                "neighbours are 2/(μ − 1) apart, not 2/μ": mu - f,
                "there is a smaller one": (
                    f + 2 * (mu - 1) if f + 2 * (mu - 1) > g else -1
                ),
                "on this grid that one has the other sign at every second "
                "point": mu - 1 - f if mu - 1 - f != g else -1,
            },
        )


def _agree(f, g, mu):
    p = torch.linspace(-1, 1, mu, dtype=F64)
    gap = (math.pi * f * p).cos() - (math.pi * g * p).cos()
    return bool(gap.abs().max() < 1e-9)


@exercise("08-photograph")
def photograph(answer, cases):
    words = "two pairs of a number and a unit"
    square, reading = plain(expect_parts(answer(), 2, words))
    n = 12e6
    expect_quantity(
        square,
        4 * n * n,
        "B",
        "the scores of self-attention",
        slips={
            "a number has four bytes": n * n,
            "there is a score for each pair of tokens": 4 * n,
            "the colours are channels of a pixel, not tokens": 36 * n * n,
        },
    )
    expect_quantity(
        reading,
        4 * n * 512,
        "B",
        "the scores of 512 latents",
        slips={
            "a number has four bytes": n * 512,
            "the latents compare with pixels, not with each other": 4 * 512**2,
        },
    )


def masked(Q, K, V, real):
    """The right one, for float32 too."""
    mask = real.expand(len(Q), len(K))
    return attention(Q, K, V, mask)


@exercise("08-bug")
def bug(answer, cases):
    def scores(Q, K):
        return Q @ K.T / math.sqrt(Q.shape[1])

    def by_leaving_out(Q, K, V, real):
        if not real.any():
            return V.new_zeros(len(Q), V.shape[1])
        return scores(Q, K[real]).softmax(1) @ V[real]

    def by_weights(Q, K, V, real):
        s = scores(Q, K)
        weights = (s - s.amax(1, keepdim=True)).exp()
        weights = weights.where(real, 0.0)
        total = weights.sum(1, keepdim=True)
        return weights / total.where(total > 0, 1.0) @ V

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
    right = [masked, by_leaving_out, by_weights]
    expect_finds_bug(answer, right, bugs, cases=cases)
