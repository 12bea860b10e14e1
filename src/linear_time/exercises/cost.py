"""Checks of chapter 04."""

import math

from linear_time.cost import attention_cost, mamba_cost
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
)


@exercise("04-worth")
def worth(answer):
    d = 64
    for sizes in ((16, 2, 4, 32, 32), (16, 2, 4, 32, 8), (64, 3, 5, 4, 1)):
        N, expand, taps, heads, kv = sizes
        state = mamba_cost(1, d, N, expand=expand, taps=taps).state
        want = state / (2 * d * kv / heads)
        given = "N = {}, expand = {}, taps = {}, {} heads, {} of keys"
        expect_close(answer(*sizes), want, given.format(*sizes))


@exercise("04-window")
def window(answer):
    for L, d, w in ((1, 3, 4), (9, 4, 4), (30, 8, 5), (12, 2, 1), (5, 2, 9)):
        given = f"length = {L}, d_model = {d}, window = {w}"
        got = answer(L, d, w)
        expect(
            isinstance(got, (tuple, list)) and len(got) == 3,
            f"For {given}: expected (sequence, token, state).",
        )
        tokens = [8 * d**2 + 4 * d * min(t, w) for t in range(1, L + 1)]
        want = sum(tokens), tokens[-1], 2 * d * min(L, w)
        for name, have, right in zip(
            ("sequence", "token", "state"), got, want, strict=True
        ):
            expect_equal(have, right, f"{given}, {name}")


@exercise("04-cross")
def cross(answer):
    def line(slope):
        return lambda L: slope * L

    def few(f):
        """f, for a thousand calls: to try all lengths would not end."""
        calls = 0

        def limited(L):
            nonlocal calls
            calls += 1
            expect(calls <= 1000, "Expected at most a thousand lengths tried.")
            return f(L)

        return limited

    for slope in (0, 1, 7, 1000, 10**10 + 3):
        got = answer(few(lambda L: L * L), few(line(slope)))
        expect_equal(got, slope + 1, f"L² against {slope} L")
    got = answer(few(lambda L: L**3), few(lambda L: 5 * L**2 + 7 * L + 10**6))
    expect_equal(got, 102, "L³ against 5 L² + 7 L + 10⁶")

    def one(L):
        return attention_cost(L, 64).forward_flops

    def other(L):
        return mamba_cost(L, 64).forward_flops

    want = next(L for L in range(1, 10_000) if one(L) > other(L))
    expect_equal(answer(one, other), want, "attention against Mamba, d = 64")


@exercise("04-degree")
def degree(answer):
    cases = {
        "7": (lambda L: 7, 0),
        "3 L + 1": (lambda L: 3 * L + 1, 1),
        "L² + 10⁹ L": (lambda L: L * L + 10**9 * L, 2),
        "L log₂ L": (lambda L: L * (L.bit_length() - 1), 1),
        "L² log₂ L + 10¹² L²": (
            lambda L: L * L * (L.bit_length() - 1 + 10**12),
            2,
        ),
        "log₂ L": (lambda L: L.bit_length() - 1, 0),
        "L³ + 10⁶ L²": (lambda L: L**3 + 10**6 * L**2, 3),
    }
    for name, (f, p) in cases.items():
        expect_equal(answer(f), p, f"f(L) = {name}")


@exercise("04-start")
def start(answer):
    lengths = [100, 200, 400, 1000, 3000, 10_000]
    square = [1.0 + (L / 500) ** 2 for L in lengths]
    for tolerance, want in ((1, 400), (0.3, 1000), (0.1, 3000), (0.001, None)):
        got = answer(lengths, square, 2, tolerance)
        given = f"1 + (L/500)² at {lengths}, p = 2, tolerance {tolerance}"
        expect_equal(got, want, given)
    bumpy = [math.sqrt(L) * (3 if L == 400 else 1) for L in lengths]
    given = f"√L, three times too high at 400, at {lengths}, p = 0.5"
    expect_equal(answer(lengths, bumpy, 0.5, 0.01), 1000, given)
    line = [2.0 * L for L in lengths]
    given = f"2 L at {lengths}, p = 1"
    expect_equal(answer(lengths, line, 1, 0.01), 100, given)


@exercise("04-bug")
def bug(answer):
    def right(L, d):
        return attention_cost(L, d).forward_flops

    bugs = {
        "a product counts once, not twice": lambda L, d: right(L, d) // 2,
        "the output projection is missing": lambda L, d: (
            6 * d**2 * L + 4 * d * L**2
        ),
        "the masked half is not counted": lambda L, d: (
            8 * d**2 * L + 2 * d * L * (L + 1)
        ),
        "the sum of the values is missing": lambda L, d: (
            8 * d**2 * L + 2 * d * L**2
        ),
        "the scores cost d² L": lambda L, d: 8 * d**2 * L + 4 * d**2 * L,
    }
    expect_finds_bug(answer, right, bugs)
