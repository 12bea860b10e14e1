"""Wrong answers to the exercises of chapter 11: each is a plausible slip."""

import math
from types import SimpleNamespace

import torch

from linear_time.state_space import StateSpace, high_pass, low_pass, notch


def kalman(A, B):
    return StateSpace(A, B, torch.ones_like(B)).controllability_matrix()


def form(sign=-1, flip=False, solved=True, where=0, of_b=1.0, transpose=False, parts=3):
    def answer(coefficients, gain, read):
        order = len(coefficients)
        last = torch.tensor(coefficients, dtype=torch.float64) * sign
        A = torch.diag(torch.ones(order - 1, dtype=torch.float64), 1)
        A[-1] = last.flip(0) if flip else last
        B, C = torch.zeros(order), torch.zeros(order)
        B[-1] = gain if of_b == 1 else of_b
        C[(read + where) % order] = 1.0
        return (A.T if transpose else A, B, C)[:parts]

    return answer


def read_off(**wrong):
    return {"mass": 2, "damping": 1, "stiffness": 8} | wrong


def grid(of_mass=1.0, of_damping=1.0, of_stiffness=1.0, fine=64, parts=3):
    """The spring by searching; right where nothing is changed."""

    def answer(t, y):
        step, n = float(t[1] - t[0]), fine * len(y)
        omega = 2 * math.pi * float(torch.fft.rfft(y, n=n).abs().argmax()) / (n * step)
        best = min(
            (float((y - scale * wave).square().sum()), alpha, float(scale), w)
            for alpha in torch.linspace(0.05, 0.6, 111).tolist()
            for w in torch.linspace(0.98 * omega, 1.02 * omega, 17 if fine > 1 else 1).tolist()
            for wave in [torch.exp(-alpha * t) * torch.sin(w * t)]
            for scale in [(y @ wave) / (wave @ wave)]
        )
        _, alpha, scale, w = best
        mass = 1 / (scale * w)
        spring = (
            of_mass * mass,
            of_damping * 2 * alpha * mass,
            of_stiffness * mass * (w**2 + alpha**2),
        )
        return spring[:parts]

    return answer


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


def looks_right():
    """The right numbers, and no system."""
    right = notch(60.0, 8.0).series(notch(120.0, 8.0))
    return SimpleNamespace(A=right.A, B=right.B, C=right.C, D=right.D)


def unstable():
    """Right but for a state that grows, and that nothing reads."""
    right = notch(60.0, 8.0).series(notch(120.0, 8.0))
    A = torch.block_diag(right.A, torch.ones(1, 1, dtype=right.A.dtype))
    B, C = (torch.cat([v, v.new_zeros(1)]) for v in (right.B, right.C))
    return StateSpace(A, B, C, right.D)


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
        form(sign=1),
        form(flip=True),
        form(of_b=0.5),
        form(where=1),
        form(transpose=True),
        form(parts=2),
        lambda *equation: (*form()(*equation), 0.0),
        lambda *equation: None,
    ],
    "11-read": [
        lambda: read_off(mass=0.5),
        lambda: read_off(damping=0.5),
        lambda: read_off(stiffness=4),
        lambda: read_off(stiffness=2),
        lambda: read_off(gain=1),
        lambda: (2, 1, 8),
    ],
    "11-fit": [
        grid(of_mass=1.1),
        grid(of_damping=0.5),
        grid(of_stiffness=1.1),
        grid(fine=1),
        grid(parts=2),
        lambda t, y: (*grid()(t, y), 0),
        lambda t, y: (2.0, 1.0, 8.0),
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
        unstable,
        lambda: notch(60.0, 0.02).series(notch(120.0, 0.02)),
        looks_right,
        lambda: notch(60.0, 8.0).series(notch(120.0, 8.0)).series(high_pass(0.05)),
        lambda: notch(60.0, 8.0).series(notch(120.0, 8.0)).series(notch(10.13, 0.05)),
    ],
    "11-bug": [test_nothing, test_symmetric, test_at_one, test_small_time],
}
