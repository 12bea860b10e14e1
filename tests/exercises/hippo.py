"""Wrong answers to the exercises of chapter 14: each is a plausible slip."""

import math

import numpy as np
import torch

from linear_time.hippo import legs


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


def derived(slope=True, factor=True, transpose=False, parts=2, at=0):
    def answer(G):
        i = torch.arange(len(G), dtype=G.dtype)
        products = 1 / (i[:, None] + i + 1)  # ∫ r^i r^j
        move = torch.diag(i[1:], -1) if slope else torch.eye(len(G), dtype=G.dtype)
        move = move - torch.diag(i + 1) if factor else move
        A = G @ move @ products @ G.T
        B = G[:, 0] if at == 0 else G.sum(1)
        return (A.T if transpose else A, B, G)[:parts]

    return answer


def read_off(**wrong):
    right = {"LegS, heartbeat, 128": 0.4, "means, chirp, 64": 0.2, "fall": 70}
    names = {"legs": "LegS, heartbeat, 128", "means": "means, chirp, 64"}
    return right | {names.get(name, name): value for name, value in wrong.items()}


def named(sign=True, scale=True, checked=True):
    def answer(A, B):
        N, normalised = len(B), bool(B[1] > 1.5)
        own = -A if sign and A[0, 0] > 0 else A
        name = "paper" if sign and A[0, 0] > 0 else "book"
        if scale and not normalised:
            name = "not normalised"
        right, roots = legs(N)
        if name == "not normalised":
            right = right * roots / roots[:, None]
        known = torch.allclose(own, right) and B[0] > 0
        return name if known or not checked else None

    return answer


WRONG = {
    "14-decode": [wrong_way_round, not_normalised, not_shifted],
    "14-derive": [
        derived(at=1),
        derived(slope=False),
        derived(factor=False),
        derived(transpose=True),
        derived(parts=1),
        derived(parts=3),
        lambda G: legs(len(G)),
        lambda G: (legs(len(G))[0], derived()(G)[1]),
    ],
    "14-audit": [
        named(sign=False),
        named(scale=False),
        named(checked=False),
        lambda A, B: "LegS",
        lambda A, B: "book",
        lambda A, B: None,
    ],
    "14-read": [
        lambda: read_off(legs=0.47),
        lambda: read_off(legs=0.2),
        lambda: read_off(means=0.1),
        lambda: read_off(fall=7),
        lambda: read_off(rise=7),
        lambda: (0.4, 0.2, 70),
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
