"""Wrong answers to the exercises of chapter 15: each is a plausible slip."""

import numpy as np
import torch

from linear_time.convolution import causal_convolution
from linear_time.exercises import Cases
from linear_time.exercises.s4 import by_powers, system
from linear_time.hippo import legs, normal_plus_low_rank
from linear_time.s4 import S4D


def _parameters(d_model, N):
    return sum(p.numel() for p in S4D(d_model, N=N).parameters())


def half_the_real_system(eigenvalues, B, C):
    return torch.diag(eigenvalues.real), B.real, C.real


def blocks(eigenvalues, B, C, sign=1, factor=2, turn=-1):
    n = len(eigenvalues)
    A = torch.zeros(2 * n, 2 * n, dtype=torch.float64)
    A[:n, :n] = A[n:, n:] = torch.diag(eigenvalues.real)
    A[:n, n:] = -sign * torch.diag(eigenvalues.imag)
    A[n:, :n] = sign * torch.diag(eigenvalues.imag)
    return A, torch.cat([B.real, B.imag]), factor * torch.cat([C.real, turn * C.imag])


def _solve(eigenvalues, P, Q, alpha, beta, v, inside=None, outside=None, conjugate=True):
    R = 1 / (alpha - beta * eigenvalues)
    star = Q.conj() if conjugate else Q
    inside = beta if inside is None else inside
    outside = beta if outside is None else outside
    return R * v - outside * R * P * (star @ (R * v)) / (1 + inside * (star @ (R * P)))


def _power(A_bar, n):
    return torch.eye(len(A_bar), dtype=A_bar.dtype) - torch.linalg.matrix_power(A_bar, n)


def one_kernel_twice(x, forward, backward):
    flipped = causal_convolution(x.flip(-1), backward).flip(-1)
    return causal_convolution(x, forward) + flipped  # counts s = t twice


def kernel_flipped(x, forward, backward):
    return causal_convolution(x, forward) + causal_convolution(x, backward.flip(-1))


def delayed_the_wrong_way(x, forward, backward):
    back = causal_convolution(x.flip(-1), backward).flip(-1)
    return causal_convolution(x, forward) + back.roll(1, -1)


def wraps_around(x, forward, backward):
    back = causal_convolution(x.flip(-1), backward).flip(-1)
    return causal_convolution(x, forward) + back.roll(-1, -1)


def by_loops(x, forward, backward):
    """Right, without the convolution."""
    length, y = x.shape[-1], torch.zeros_like(x)
    for t in range(length):
        for s in range(length):
            tap = forward[..., t - s] if s <= t else backward[..., s - t - 1]
            y[..., t] += tap * x[..., s]
    return y


def dense_solve(eigenvalues, P, Q, alpha, beta, v):
    """Right, in O(N³)."""
    eye = torch.eye(len(v), dtype=v.dtype)
    M = alpha * eye - beta * (torch.diag(eigenvalues) - torch.outer(P, Q.conj()))
    return torch.linalg.solve(M, v)


def dense_solve_by_numpy(*arguments):
    eigenvalues, P, Q, alpha, beta, v = arguments
    lam, p, q, right = (u.numpy() for u in (eigenvalues, P, Q, v))
    M = np.diag(alpha - beta * lam) + beta * np.outer(p, q.conj())
    return torch.from_numpy(np.linalg.solve(M, right))


def nothing(make):
    pass


def shape_only(make):
    assert make(*system(Cases(), 2), torch.tensor(0.1, dtype=torch.float64), 8).shape == (8,)


def odd_length_only(make):
    arguments = (*system(Cases(), 2), torch.tensor(0.1, dtype=torch.float64), 9)
    assert torch.allclose(make(*arguments), by_powers(*arguments), rtol=0, atol=1e-9)


def without_a_low_rank_part(make):
    eigenvalues, P, B, C = system(Cases(), 2)
    arguments = (eigenvalues, 0 * P, B, C, torch.tensor(0.1, dtype=torch.float64), 8)
    assert torch.allclose(make(*arguments), by_powers(*arguments), rtol=0, atol=1e-9)


def rank_one_lines(*lines):
    """A proof with some of its lines replaced; None is the right one."""
    right = (
        lambda r, b, p, q: r / (1 + b * p * q * r),
        lambda r, b, p, q: r - b * p * q * r**2 / (1 + b * p * q * r),
    )
    own = [given or line for given, line in zip(lines, right, strict=True)]
    return lambda *symbols: [line(*symbols) for line in own]


def around_two_r(r, b, p, q):
    turn = b * p * q * r
    return 2 * r - r * (1 + 2 * turn) / (1 + turn)


def read_off(**wrong):
    right = {"lin, fastest": 97, "legs, fastest": 1200, "legs, below 10": 9, "lin, below 10": 4}
    names = {"lin": "lin, fastest", "legs": "legs, fastest", "slow": "legs, below 10"}
    names |= {"slow_lin": "lin, below 10"}
    return right | {names.get(name, name): value for name, value in wrong.items()}


def distances(share=0.5, relative=True, first=False, step=True, norm="max", parts=2):
    def answer(N, n, t):
        n = 0 if first else n
        split, (A, B) = normal_plus_low_rank(N), legs(N)
        weights = split.V[n] * (split.V.mH @ (share * B).to(split.V.dtype))
        waves = torch.exp(t[:, None] * split.eigenvalues)
        exact = torch.linalg.matrix_exp(t[:, None, None] * A) @ B
        off = ((waves @ weights).real - exact[:, n]).norm()
        off = off / exact[:, n].norm() if relative else off
        if step:
            waves = (waves - 1) / split.eigenvalues
            exact = torch.linalg.solve(A, (exact - B).mT).mT
        gaps = ((waves @ weights).real - exact[:, n]).abs()
        return (off, gaps.max() if norm == "max" else gaps.mean())[:parts]

    return answer


WRONG = {
    "15-cost": [
        lambda d, N, L: (L * N**2, d * N, _parameters(d, N)),
        lambda d, N, L: (d * L * N, d * N, _parameters(d, N)),
        lambda d, N, L: (d * L * N**2, d * N // 2, _parameters(d, N)),
        lambda d, N, L: (d * L * N**2, d * N, d * (3 * N + 2)),
        lambda d, N, L: (d * L * N**2, d * N, d * (2 * N + 2)),
        lambda d, N, L: (d * L * N**2, d * N, _parameters(d, N), 0),
        lambda d, N, L: d * L * N**2,
    ],
    "15-pairs": [
        half_the_real_system,
        lambda lam, B, C: blocks(lam, B, C, sign=-1),
        lambda lam, B, C: blocks(lam, B, C, factor=1),
        lambda lam, B, C: blocks(lam, B, C, turn=1),
        lambda lam, B, C: (torch.diag(lam), B, C),
        lambda lam, B, C: [v.to(torch.complex128) for v in blocks(lam, B, C)],
    ],
    "15-woodbury": [
        lambda *a: _solve(*a, inside=1),
        lambda *a: _solve(*a, outside=1),
        lambda *a: _solve(*a, conjugate=False),
        lambda lam, P, Q, alpha, beta, v: v / (alpha - beta * lam),
        lambda lam, P, Q, alpha, beta, v: _solve(lam, -P, Q, alpha, beta, v),
        dense_solve,
        dense_solve_by_numpy,
    ],
    "15-rankone": [
        rank_one_lines(lambda r, b, p, q: 1 / (1 / r + b * p * q), None),
        rank_one_lines(lambda r, b, p, q: r / (1 - b * p * q * r), None),
        rank_one_lines(None, lambda r, b, p, q: r / (1 + b * p * q * r)),
        rank_one_lines(None, lambda r, b, p, q: r - b * p * q * r / (1 + b * p * q * r)),
        rank_one_lines(
            None, lambda r, b, p, q: 2 * r - r * (1 + 2 * b * p * q * r) / (1 + b * p * q * r)
        ),
        lambda *s: rank_one_lines(None, None)(*s)[1:],
        lambda *s: None,
    ],
    "15-read": [
        lambda: read_off(lin=15),
        lambda: read_off(legs=97),
        lambda: read_off(slow=4),
        lambda: read_off(slow_lin=9),
        lambda: read_off(other=9),
        lambda: (97, 1200, 9, 4),
    ],
    "15-limit": [
        distances(share=1.0),
        distances(relative=False),
        distances(first=True),
        distances(step=False),
        distances(norm="mean"),
        distances(parts=1),
        lambda N, n, t: (0.7, 0.001),
    ],
    "15-length": [
        lambda C, A, old, new: C,
        lambda C, A, old, new: C @ _power(A, new),
        lambda C, A, old, new: torch.linalg.solve(_power(A, new).T, C @ _power(A, old)),
        lambda C, A, old, new: _power(A, new) @ torch.linalg.solve(_power(A, old), C),
    ],
    "15-window": [
        lambda N, samples: (1 / samples, (N / 2 - 1) / samples),
        lambda N, samples: (2 / samples, (N - 1) / samples),
        lambda N, samples: (2 / samples, N / 2 / samples),
        lambda N, samples: (2 / samples, 3.141592653589793 * (N / 2 - 1)),
    ],
    "15-bidirectional": [
        one_kernel_twice,
        kernel_flipped,
        delayed_the_wrong_way,
        wraps_around,
        by_loops,
        lambda x, forward, backward: causal_convolution(x, forward + backward),
    ],
    "15-bug": [nothing, shape_only, odd_length_only, without_a_low_rank_part],
}
