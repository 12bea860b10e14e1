"""Wrong answers to the exercises of chapter 11: each is a plausible slip."""

import math

import torch

from linear_time.state_space import StateSpace, high_pass, low_pass, notch


def kalman(A, B):
    return StateSpace(A, B, torch.ones_like(B)).controllability_matrix()


def system(last_row=(-4.0, -3.0, -2.0), b=5.0, c=(0.0, 1.0, 0.0)):
    A = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], list(last_row)])
    return A, torch.tensor([0.0, 0.0, b]), torch.tensor(c)


def flow(A, t):
    return torch.linalg.matrix_exp(t * A)


def only_the_input(A, B, h0, mu, t):
    M = A - mu * torch.eye(len(A), dtype=A.dtype)
    return torch.linalg.pinv(M) @ (flow(A, t) @ B - math.exp(mu * t) * B)


def many_short_steps(A, B, h0, mu, t):
    """Euler's, which the exercise does not ask for: right to three digits."""
    h, n = h0, 2000
    for k in range(n):
        h = h + t / n * (A @ h + B * math.exp(mu * k * t / n))
    return h


def transposed():
    A, B, C = system()
    return A.T, B, C


def test_nothing(response):
    pass


def test_symmetric(response):
    """A transpose cannot show in a symmetric matrix."""
    A, one = -torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    assert math.isclose(float(response(A, one, one, 2.0)), 2 * math.exp(-2))


def test_at_one(response):
    A = torch.tensor([[-0.5, 2.0], [-1.0, -0.1]], dtype=torch.float64)
    B, C = torch.tensor([[1.0, 0.3], [0.2, -1.0]], dtype=torch.float64)
    right = C @ torch.linalg.matrix_exp(A) @ B
    assert torch.allclose(response(A, B, C, 1.0), right)


def test_small_time(response):
    """At a small t the series I + tA is as good as the exponential."""
    A = torch.tensor([[-0.5, 2.0], [-1.0, -0.1]], dtype=torch.float64)
    B, C = torch.tensor([[1.0, 0.3], [0.2, -1.0]], dtype=torch.float64)
    assert abs(float(response(A, B, C, 1e-6)) - float(C @ B)) < 1e-3


WRONG = {
    "11-thirdorder": [
        lambda: system(last_row=(4.0, 3.0, 2.0)),
        lambda: system(last_row=(-2.0, -3.0, -4.0)),
        lambda: system(b=1.0),
        lambda: system(c=(1.0, 0.0, 0.0)),
        transposed,
    ],
    "11-halflife": [
        lambda A: math.log(2) / float(-torch.linalg.eigvals(A).real.min()),
        lambda A: 1 / float(-torch.linalg.eigvals(A).real.max()),
        lambda A: math.log(2) / float(torch.linalg.eigvals(A).abs().min()),
        lambda A: math.log(2) / float(-A.diagonal().max()),
    ],
    "11-wave": [
        only_the_input,
        lambda A, B, h0, mu, t: only_the_input(A, B, h0, 0.0, t) + flow(A, t) @ h0,
        lambda A, B, h0, mu, t: flow(A, t) @ h0 - only_the_input(A, B, h0, mu, t),
        lambda A, B, h0, mu, t: flow(A, t) @ h0 + only_the_input(A.mT, B, h0, mu, t),
        lambda A, B, h0, mu, t: torch.exp(t * A) @ h0 + only_the_input(A, B, h0, mu, t),
        many_short_steps,
    ],
    "11-stable": [
        lambda A: bool((A.diagonal() < 0).all()),
        lambda A: bool((torch.linalg.eigvals(A).real <= 1e-9).all()),
        lambda A: bool((torch.linalg.eigvals(A).abs() < 1).all()),
        lambda A: bool(torch.linalg.det(A) > 0),
        lambda A: bool((torch.linalg.eigvals(A).real < -1e-4).all()),
        lambda A: bool((torch.linalg.eigvals(A).real < 1e-4).all()),
    ],
    "11-reach": [
        lambda A, B: len(B),
        lambda A, B: int((B != 0).sum()),
        lambda A, B: int(torch.linalg.matrix_rank(A)),
        lambda A, B: len(torch.linalg.eigvals(A).real.round(decimals=6).unique()),
        lambda A, B: torch.linalg.matrix_rank(kalman(A, B)) == len(B),
    ],
    "11-hum": [
        lambda: notch(60.0, 8.0),
        lambda: notch(60.0, 8.0).series(notch(60.0, 8.0)),
        lambda: notch(60.0, 60.0).series(notch(120.0, 60.0)),
        lambda: low_pass(20.0),
        lambda: notch(60.0, 8.0).series(low_pass(40.0)),
        lambda: (notch(60.0, 8.0), notch(120.0, 8.0)),
        lambda: notch(60.0, 8.0).series(notch(120.0, 8.0)).series(high_pass(0.05)),
        lambda: notch(60.0, 8.0).series(notch(120.0, 8.0)).series(notch(10.13, 0.05)),
    ],
    "11-bug": [test_nothing, test_symmetric, test_at_one, test_small_time],
}
