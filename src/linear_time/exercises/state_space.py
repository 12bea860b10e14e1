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
    plain,
)
from linear_time.exercises.estimate import expect_reading
from linear_time.state_space import StateSpace

F64 = torch.float64


def matrix(*rows):
    return torch.tensor(rows, dtype=F64)


def in_another_basis(cases, A, B=None):
    """The same system, in coordinates that are drawn."""
    N = len(A)
    basis = torch.linalg.qr(cases.randn(N, N))[0] + 0.3 * torch.eye(
        N, dtype=F64
    )
    A = basis @ A @ torch.linalg.inv(basis)
    return A if B is None else (A, basis @ B)


@exercise("11-thirdorder")
def third_order(answer, cases):
    for order in (1, 2, 3, cases.integer(4, 6)):
        a = [round(cases.uniform(-5, 5), 1) for _ in range(order)]
        gain, read = round(cases.uniform(1, 9), 1), cases.integer(0, order - 1)
        got = plain(answer(list(a), gain, read))
        given = f"coefficients {a}, gain {gain:g}, output q with {read} primes"
        expect(
            isinstance(got, tuple | list) and len(got) == 3,
            f"For {given}: expected three tensors (A, B, C).",
        )
        A, B, C = (
            torch.zeros(order, *rest, dtype=F64) for rest in ((order,), (), ())
        )
        A[:-1, 1:] = torch.eye(order - 1, dtype=F64)
        A[-1] = -torch.tensor(a, dtype=F64)
        B[-1], C[read] = gain, 1.0
        turned, backwards = A.clone(), A.clone()
        turned[-1], backwards[-1] = -A[-1], A[-1].flip(0)
        slips = {
            "the equation is not solved for the highest derivative": turned,
            "the last row runs from the highest derivative down": backwards,
        }
        expect_close(got[0], A, f"{given}, A", slips=slips)
        expect_close(got[1], B, f"{given}, B")
        expect_close(got[2], C, f"{given}, C")


@exercise("11-read")
def read(answer, cases):
    """The spring of the figure; what it draws follows from these three."""
    got = plain(answer())
    right = {
        "mass": (2.0, 1.15, {"the blow leaves the speed 1/m": 0.5}),
        "damping": (
            1.0,
            1.25,
            {"the time constant is 2m/c": 0.5, "the time constant is in the denominator": 16.0},
        ),
        "stiffness": (
            8.0,
            1.25,
            {
                "the eigenvalue turns at √(k/m)": 4.0,
                "a period is a whole swing, there and back": 31.0,
                "a frequency in turns is not one in radians": 8 / (2 * math.pi) ** 2,
            },
        ),
    }  # fmt: skip
    expect(
        isinstance(got, dict) and set(got) == set(right),
        f"Expected a dictionary with the keys {', '.join(right)}.",
    )
    for name, (value, factor, slips) in right.items():
        expect_reading(got[name], value, name, factor=factor, slips=slips)


@exercise("11-fit")
def fit(answer, cases):
    for _ in range(3):
        mass, alpha = cases.uniform(0.5, 3), cases.uniform(0.1, 0.5)
        omega = cases.uniform(1.5, 6)
        t = torch.linspace(0, 16, 321, dtype=F64)
        y = torch.exp(-alpha * t) * torch.sin(omega * t) / (mass * omega)
        y = y + 0.02 * y.abs().max() * cases.randn(len(t))
        got = plain(answer(t.clone(), y.clone()))
        given = f"m = {mass:.2f}, a time constant of {1 / alpha:.1f} s, {omega:.2f} radians a second"
        expect(
            isinstance(got, tuple | list) and len(got) == 3,
            f"For {given}: expected three numbers.",
        )
        damping, stiffness = 2 * alpha * mass, mass * (omega**2 + alpha**2)
        for name, have, want, slips in (
            ("the mass", got[0], mass, {"that is 1/m": 1 / mass}),
            (
                "the damping",
                got[1],
                damping,
                {
                    "that is the rate of decay, c/2m": alpha,
                    "that is c/m": 2 * alpha,
                },
            ),
            (
                "the stiffness",
                got[2],
                stiffness,
                {"that is the square of the frequency, without m": omega**2},
            ),
        ):
            expect_close(have, want, f"{given}, {name}", rtol=0.05, slips=slips)


@exercise("11-wave")
def wave(answer, cases):
    omega, friction = cases.uniform(1, 3), cases.uniform(0.1, 0.9)
    swing = matrix([0.0, 1.0], [-(omega**2), -friction])
    shear = matrix([0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    drawn = cases.randn(*2 * [cases.integer(2, 4)])
    for given, A, mu in (
        ("one state", matrix([-cases.uniform(0.5, 2)]), 0.5),
        ("a damped spring", swing, -cases.uniform(0.2, 0.5)),
        ("a damped spring, a growing input", swing, cases.uniform(0.5, 1)),
        ("a damped spring, a constant input", swing, 0.0),
        ("a drawn A", drawn, 5.0),
        ("an A without an inverse", shear, -1.0),
    ):
        N, t = len(A), cases.uniform(0.5, 2.5)
        B, h0 = cases.randn(N), cases.randn(N)
        # The input as one further state, x' = μ x.
        joint = torch.zeros(N + 1, N + 1, dtype=F64)
        joint[:N, :N], joint[:N, N], joint[N, N] = A, B, mu
        begin = torch.cat([h0, torch.ones(1, dtype=F64)])
        want = (torch.linalg.matrix_exp(t * joint) @ begin)[:N]
        alone = torch.linalg.matrix_exp(t * A) @ h0
        slips = {
            "what the state began with is missing": want - alone,
            "what the input adds is missing": alone,
            "what the input adds has the wrong sign": 2 * alone - want,
        }
        got = answer(A.clone(), B.clone(), h0.clone(), mu, t)
        text = f"{given}, μ = {mu:.3g}, t = {t:.3g}"
        expect_close(got, want, text, slips=slips)


@exercise("11-stable")
def stable(answer, cases):
    tiny, rate = 10 ** -cases.uniform(5, 7), cases.uniform(0.5, 2)
    rows = {
        "one state that decays": (matrix([-rate]), True),
        "A = [[0]]": (matrix([0.0]), False),
        "an undamped spring": (matrix([0.0, 1.0], [-rate, 0.0]), False),
        "a damped spring": (matrix([0.0, 1.0], [-rate, -0.1]), True),
        "a mode that forgets slowly": (
            matrix([-tiny, 0.0], [0.0, -rate]),
            True,
        ),
        "a mode that grows slowly": (matrix([tiny, 0.0], [0.0, -rate]), False),
        "a negative diagonal, and one mode that grows": (
            matrix([-rate, 5 * rate], [5 * rate, -rate]),
            False,
        ),
        "a positive entry on the diagonal, and no mode that grows": (
            rate * matrix([1.0, -4.0], [3.0, -2.0]),
            True,
        ),
    }
    for given in cases.shuffled(list(rows)):
        A, want = rows[given]
        if given.startswith("a mode"):
            A = in_another_basis(cases, A)
        expect_equal(answer(A.clone()), want, given)


@exercise("11-reach")
def reach(answer, cases):
    a = cases.uniform(0.5, 2)
    spring = matrix([0.0, 1.0], [-(a**2), -2 * a])  # critically damped
    rates = torch.diag(-torch.tensor([1.0, 2.0, 3.0], dtype=F64) * a)
    rows = {
        "three rates, all driven": (rates, (1.0, -2.0, 1.0), 3),
        "three rates, one not driven": (rates, (1.0, 0.0, 1.0), 2),
        "two equal rates": (-a * torch.eye(2, dtype=F64), (1.0, 2.0), 1),
        "the critically damped spring": (spring, (0.0, 1.0), 2),
        "that spring, pushed along its eigenvector": (spring, (1.0, -a), 1),
        "A = 0": (torch.zeros(2, 2, dtype=F64), (0.0, 1.0), 1),
        "B = 0": (rates, (0.0, 0.0, 0.0), 0),
    }
    for given in cases.shuffled(list(rows)):
        A, B, want = rows[given]
        B = torch.tensor(B, dtype=F64)
        if given.startswith("three"):  # where the entries tell nothing
            A, B = in_another_basis(cases, A, B)
        expect_equal(answer(A.clone(), B.clone()), want, given)


@exercise("11-hum")
def hum(answer, cases):
    system = answer()
    expect(
        type(system) is StateSpace,
        f"Expected a StateSpace, got {type(system).__name__}.",
    )
    system = StateSpace(*(plain(getattr(system, name)) for name in "ABCD"))
    expect(system.is_stable(), "Expected a stable system, got one that is not.")
    drawn = torch.tensor([cases.uniform(0, 20) for _ in range(200)])
    even = torch.logspace(-3, 0, 50), torch.linspace(0, 20, 2001)
    hertz = torch.cat([torch.zeros(1), *even, drawn]).to(system.A)
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


def by_modes(A, B, C, t):
    """Right, by modes where there is a basis of eigenvectors."""
    rates, V = torch.linalg.eig(A)
    if torch.linalg.cond(V) > 1e6:  # no basis of eigenvectors
        return _right(A, B, C, t)
    weights = (C.to(V.dtype) @ V) * torch.linalg.solve(V, B.to(V.dtype))
    return (weights * torch.exp(t * rates)).sum().real


def by_many_steps(A, B, C, t):
    """Right to ten digits: 2^20 steps of a series of three terms."""
    one, step = torch.eye(len(A), dtype=A.dtype), t / 2**20 * A
    flow = one + step @ (one + step @ (one + step / 3) / 2)
    for _ in range(20):
        flow = flow @ flow
    return C @ flow @ B


@exercise("11-bug")
def bug(answer, cases):
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
    right = [_right, by_modes, by_many_steps]
    expect_finds_bug(
        answer, right=right, bugs=bugs, what="response", cases=cases
    )
