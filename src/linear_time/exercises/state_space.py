"""Checks of chapter 11."""

import math

import torch

from linear_time.datasets import ecg
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
)
from linear_time.state_space import StateSpace

F64 = torch.float64


def matrix(*rows):
    return torch.tensor(rows, dtype=F64)


@exercise("11-thirdorder")
def third_order(answer):
    got = answer()
    expect(
        isinstance(got, tuple | list) and len(got) == 3,
        f"Expected three tensors (A, B, C), got {got!r}.",
    )
    want = (
        matrix([0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [-4.0, -3.0, -2.0]),
        torch.tensor([0.0, 0.0, 5.0], dtype=F64),
        torch.tensor([0.0, 1.0, 0.0], dtype=F64),
    )
    for name, have, right in zip("ABC", got, want, strict=True):
        expect_close(have, right, f"the equation, {name}")


@exercise("11-halflife")
def half_life(answer):
    cases = {
        "A = [[-2]]": (matrix([-2.0]), 2.0),
        "A = diag(-1, -10)": (matrix([-1.0, 0.0], [0.0, -10.0]), 1.0),
        "A = [[0, 1], [-4, -0.5]]": (matrix([0.0, 1.0], [-4.0, -0.5]), 0.25),
        "A = [[-3, 5], [0, -0.1]]": (matrix([-3.0, 5.0], [0.0, -0.1]), 0.1),
    }
    for given, (A, rate) in cases.items():
        expect_close(answer(A), math.log(2) / rate, given)


@exercise("11-wave")
def wave(answer):
    swing = matrix([0.0, 1.0], [-4.0, -0.5])
    shear = matrix([0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    for given, A, mu, t in (
        ("A = [[-1]]", matrix([-1.0]), 0.5, 1.0),
        ("a damped spring", swing, -0.3, 2.0),
        ("a damped spring, a growing input", swing, 0.7, 1.5),
        ("a damped spring, a constant input", swing, 0.0, 3.0),
        (
            "A = [[-1, 2], [0.5, -3]]",
            matrix([-1.0, 2.0], [0.5, -3.0]),
            -2.0,
            1.0,
        ),
        ("an A without an inverse", shear, -1.0, 2.0),
    ):
        N = len(A)
        B = torch.linspace(1, -0.5, N, dtype=F64)
        h0 = torch.linspace(-0.3, 2, N, dtype=F64)
        # The input as one further state, x' = μ x.
        joint = torch.zeros(N + 1, N + 1, dtype=F64)
        joint[:N, :N], joint[:N, N], joint[N, N] = A, B, mu
        begin = torch.cat([h0, torch.ones(1, dtype=F64)])
        want = (torch.linalg.matrix_exp(t * joint) @ begin)[:N]
        got = answer(A.clone(), B.clone(), h0.clone(), mu, t)
        expect_close(got, want, f"{given}, μ = {mu:g}, t = {t:g}")


@exercise("11-stable")
def stable(answer):
    cases = {
        "A = [[-1]]": (matrix([-1.0]), True),
        "A = [[0]]": (matrix([0.0]), False),
        "the undamped [[0, 1], [-1, 0]]": (
            matrix([0.0, 1.0], [-1.0, 0.0]),
            False,
        ),
        "the damped [[0, 1], [-1, -0.1]]": (
            matrix([0.0, 1.0], [-1.0, -0.1]),
            True,
        ),
        "[[-1, 5], [5, -1]], all of whose diagonal is negative": (
            matrix([-1.0, 5.0], [5.0, -1.0]),
            False,
        ),
        "diag(-1e-6, -1), which forgets slowly": (
            matrix([-1e-6, 0.0], [0.0, -1.0]),
            True,
        ),
        "diag(1e-6, -1), which grows slowly": (
            matrix([1e-6, 0.0], [0.0, -1.0]),
            False,
        ),
        "[[1, -4], [3, -2]], with a positive entry on the diagonal": (
            matrix([1.0, -4.0], [3.0, -2.0]),
            True,
        ),
    }
    for given, (A, want) in cases.items():
        expect_equal(answer(A), want, given)


@exercise("11-reach")
def reach(answer):
    spring = matrix([0.0, 1.0], [-1.0, -2.0])
    rates = torch.diag(torch.tensor([-1.0, -2.0, -3.0], dtype=F64))
    cases = {
        "A = diag(-1, -2, -3), B = (1, 1, 1)": (rates, (1.0, 1.0, 1.0), 3),
        "A = diag(-1, -2, -3), B = (1, 0, 1)": (rates, (1.0, 0.0, 1.0), 2),
        "A = -I, B = (1, 2)": (-torch.eye(2, dtype=F64), (1.0, 2.0), 1),
        "the critically damped spring": (spring, (0.0, 1.0), 2),
        "that spring, pushed along its eigenvector": (spring, (1.0, -1.0), 1),
        "A = 0, B = (0, 1)": (torch.zeros(2, 2, dtype=F64), (0.0, 1.0), 1),
        "B = 0": (rates, (0.0, 0.0, 0.0), 0),
    }
    for given, (A, B, want) in cases.items():
        expect_equal(answer(A.clone(), torch.tensor(B, dtype=F64)), want, given)


@exercise("11-hum")
def hum(answer):
    system = answer()
    expect(
        isinstance(system, StateSpace),
        f"Expected a StateSpace, got {type(system).__name__}.",
    )
    expect(system.is_stable(), "Expected a stable system, got one that is not.")
    hertz = torch.cat(
        [torch.zeros(1), torch.logspace(-3, 0, 50), torch.linspace(0, 20, 2001)]
    ).to(system.A)
    gain = system.frequency_response(2 * math.pi * hertz).abs()
    worst = int((gain - 1).abs().argmax())
    expect(
        0.95 <= gain[worst] <= 1.05,
        f"For {hertz[worst]:.3g} Hz: expected a gain from 0.95 to 1.05, "
        f"got {gain[worst]:.2f}.",
    )
    for line in (60.0, 120.0):
        omega = torch.tensor([2 * math.pi * line]).to(system.A)
        left = float(system.frequency_response(omega).abs())
        expect(
            left < 0.01,
            f"For {line:g} Hz: expected a gain below 0.01, got {left:.2f}.",
        )
    signal = ecg()
    x = signal.x.to(system.A)
    y = system.simulate(x, signal.delta, hold="linear")
    turn = 2 * math.pi * 60 * signal.times.to(system.A)
    before, after = (
        2 * torch.hypot((v * turn.sin()).mean(), (v * turn.cos()).mean())
        for v in (x, y)
    )
    expect(
        after < before / 4,
        "For the hum at 60 Hz in the recording: expected less than a quarter "
        f"of {before:.2f}, got {after:.2f}.",
    )


def _right(A, B, C, t):
    return C @ torch.linalg.matrix_exp(t * A) @ B


@exercise("11-bug")
def bug(answer):
    bugs = {
        "A is transposed": lambda A, B, C, t: _right(A.mT, B, C, t),
        "the exponential is taken entry by entry": lambda A, B, C, t: (
            C @ torch.exp(t * A) @ B
        ),
        "t is ignored": lambda A, B, C, t: _right(A, B, C, 1.0),
        "the exponential is I + tA": lambda A, B, C, t: (
            C @ (torch.eye(len(A), dtype=A.dtype) + t * A) @ B
        ),
    }
    expect_finds_bug(answer, _right, bugs, "response")
