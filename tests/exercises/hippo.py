"""Wrong answers to the exercises of chapter 14: each is a plausible slip."""

import math

import numpy as np
import torch

from linear_time.hippo import legs, legt


def _sum(c, age, turn, scale):
    n = torch.arange(len(c), dtype=torch.float64)
    weights = c * torch.sqrt(2 * n + 1) if scale else c
    return torch.from_numpy(np.polynomial.legendre.legval(turn(age).numpy(), weights.numpy()))


def wrong_way_round(c, age):
    return _sum(c, age, lambda u: 2 * u - 1, True)


def not_normalised(c, age):
    return _sum(c, age, lambda u: 1 - 2 * u, False)


def not_shifted(c, age):
    return _sum(c, age, lambda u: u, True)


def as_it_is(c, x, k):
    """Forward Euler with Δ/t = 1/(k+1)."""
    A, B = legs(len(c))
    return c + (A @ c + B * x) / (k + 1)


def one_step_late(c, x, k):
    A, _ = legs(len(c))
    constant = torch.zeros_like(c)
    constant[0] = x
    if k == 1:
        return constant
    M = torch.linalg.matrix_exp(A * math.log(k / (k - 1)))
    return constant + M @ (c - constant)


def forgets_the_constant(c, x, k):
    A, _ = legs(len(c))
    M = torch.linalg.matrix_exp(A * math.log((k + 1) / k))
    constant = torch.zeros_like(c)
    constant[0] = x
    return constant + M @ c


def nothing(make):
    pass


def shape_only(make):
    A, B = make(3)
    assert A.shape == (3, 3) and B.shape == (3,)


def eigenvalues_only(make):
    A, _ = make(4)
    values = torch.linalg.eigvals(A).real.sort().values
    assert torch.allclose(values, torch.tensor([-4.0, -3, -2, -1], dtype=torch.float64))


def first_entry(make):
    A, B = make(1)
    assert A.item() == -1 and B.item() == 1


def by_a_routine(N):
    """Right, by the method that the exercise rules out."""
    A, _ = legs(N)
    values = torch.linalg.eigvalsh(A + A.T)
    return float(values[0]), float(values[-1])


def by_numpys_routine(N):
    A, _ = legs(N)
    values = np.linalg.eigvals((A + A.T).numpy()).real
    return values.min(), values.max()


WRONG = {
    "14-decode": [wrong_way_round, not_normalised, not_shifted],
    "14-window": [
        lambda N, theta: legt(N),
        lambda N, theta: tuple(theta * v for v in legt(N)),
        lambda N, theta: (legt(N)[0] / theta, legt(N)[1]),
        lambda N, theta: tuple(v / theta for v in legs(N)),
    ],
    "14-update": [as_it_is, one_step_late, forgets_the_constant],
    "14-energy": [
        lambda N: (-N, -1),
        lambda N: (-1 - N, -1),
        lambda N: (-1, -1 - N**2),
        lambda N: (-1 - N**2, 0),
        by_a_routine,
        by_numpys_routine,
    ],
    "14-periods": [
        lambda p: 2 * p,
        lambda p: math.ceil(math.pi * p),
        lambda p: 2 * p + 1,
        lambda p: {1: 6, 3: 14, 6: 24, 8: 32}.get(p),  # what the chapter prints
    ],
    "14-bug": [nothing, shape_only, eigenvalues_only, first_entry],
}
