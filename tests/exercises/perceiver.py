"""Wrong answers to the exercises of chapter 08: each is a plausible slip."""

import math

import sympy as sp
import torch

from linear_time.attention import attention
from linear_time.perceiver import fourier_features


def _scores(Q, K):
    return Q @ K.T / math.sqrt(Q.shape[1])


def softmax_along_latents(Q, K, V):
    W = _scores(Q, K).softmax(dim=0)
    return W, W @ V


def no_scale(Q, K, V):
    W = (Q @ K.T).softmax(dim=1)
    return W, W @ V


def only_the_output(Q, K, V):
    y = _scores(Q, K).softmax(dim=1) @ V
    return y, y


def overflows(Q, K, V):
    W = _scores(Q, K).exp()
    W = W / W.sum(1, keepdim=True)
    return W, W @ V


def calls_the_library(Q, K, V):
    return attention(Q, K, torch.eye(len(K), dtype=K.dtype)), attention(Q, K, V)


def no_pair(Q, K, V):
    return _scores(Q, K).softmax(dim=1) @ V


def at_m(m, layers):
    return m + 1


def forgets_the_reading(m, layers):
    n = 1
    while layers * n * n <= layers * m * m:
        n += 1
    return n + 1


def one_too_small(m, layers):
    n = 1
    while layers * n * n < n * m + layers * m * m:
        n += 1
    return n - 1


def first_order(m, layers):
    return math.floor(m + m / (2 * layers)) + 1


def halves_of_even(p, n_bands, mu):
    f = torch.linspace(1, mu // 2, n_bands, dtype=p.dtype)
    angle = math.pi * (p[:, :, None] * f).reshape(len(p), -1)
    return torch.cat([p, angle.sin(), angle.cos()], dim=1)


def the_librarys(p, n_bands, mu):
    return fourier_features(p, n_bands, mu)


def up_to_mu(p, n_bands, mu):
    f = torch.linspace(1, mu, n_bands, dtype=p.dtype)
    angle = math.pi * (p[:, :, None] * f).reshape(len(p), -1)
    return torch.cat([p, angle.sin(), angle.cos()], dim=1)


def without_pi(p, n_bands, mu):
    f = torch.linspace(1, mu / 2, n_bands, dtype=p.dtype)
    angle = (p[:, :, None] * f).reshape(len(p), -1)
    return torch.cat([p, angle.sin(), angle.cos()], dim=1)


def the_papers_order(p, n_bands, mu):
    f = torch.linspace(1, mu / 2, n_bands, dtype=p.dtype)
    angle = math.pi * (p[:, :, None] * f).reshape(len(p), -1)
    return torch.cat([angle.sin(), angle.cos(), p], dim=1)


def nyquist(f, mu):
    return mu - f


def one_period_on(f, mu):
    return f + mu - 1


def of_mu_points(f, mu):
    return f + 2 * mu


def not_of_zero(f, mu):
    return (mu - 1 - f if mu % 2 else 2 * (mu - 1) - f) if f else 1


def tests_nothing(attend):
    attend(torch.ones(2, 3), torch.ones(4, 3), torch.ones(4, 3), torch.ones(4, dtype=torch.bool))


def tests_without_padding(attend):
    Q, K, V = torch.randn(2, 3), torch.randn(4, 3), torch.randn(4, 3)
    wanted = _scores(Q, K).softmax(1) @ V
    assert torch.allclose(
        attend(Q, K, V, torch.ones(4, dtype=torch.bool)), wanted, rtol=0, atol=1e-5
    )


def tests_finite_only(attend):
    Q, K, V = torch.randn(2, 3), torch.randn(4, 3), torch.randn(4, 3)
    assert torch.isfinite(attend(Q, K, V, torch.zeros(4, dtype=torch.bool))).all()


def cross(one=None, two=None):
    def proof(u1, u2, v1, v2):
        e = sp.exp
        lines = [
            e(u1 + v1) / ((e(u1) + e(u2)) * (e(v1) + e(v2))),
            1 / ((1 + e(u2 - u1)) * (1 + e(v2 - v1))),
        ]
        if one:
            lines[0] = one(u1, u2, v1, v2)
        if two:
            lines[1] = two(u1, u2, v1, v2)
        return lines

    return proof


def as_it_was(u1, u2, v1, v2):
    return sp.exp(u1 + v1) / sum(sp.exp(x + y) for x in (u1, u2) for y in (v1, v2))


def wrong_y(Q, K, V):
    W = _scores(Q, K).softmax(1)
    return W, W @ V.flip(1)


def tests_exactly(attend):
    """Rejects what is right and rounds in another way."""
    Q, K, V = torch.randn(3, 4), torch.randn(7, 4), torch.randn(7, 5)
    real = torch.tensor([True] * 5 + [False] * 2)
    assert torch.equal(attend(Q, K, V, real), attention(Q, K, V, real.expand(3, 7)))
    assert (attend(Q, K, V, torch.zeros(7, dtype=torch.bool)) == 0).all()


WRONG = {
    "08-matrix": [
        *(softmax_along_latents, no_scale, only_the_output),
        *(overflows, calls_the_library, no_pair, wrong_y),
    ],
    "08-crossover": [at_m, forgets_the_reading, one_too_small, first_order],
    "08-fourier": [up_to_mu, without_pi, the_papers_order, halves_of_even, the_librarys],
    "08-alias": [nyquist, one_period_on, of_mu_points, not_of_zero],
    "08-spot": [
        cross(one=as_it_was),
        cross(two=lambda *symbols: cross()(*symbols)[0]),
        cross(two=lambda u1, u2, v1, v2: 1 / (1 + sp.exp(u2 - u1) + sp.exp(v2 - v1))),
        cross(two=as_it_was),
        lambda *symbols: cross()(*symbols)[:1],
    ],
    "08-photograph": [
        lambda: ((144, "TB"), (25, "GB")),
        lambda: ((48, "MB"), (25, "GB")),
        lambda: ((576, "GB"), (25, "GB")),
        lambda: ((576, "TB"), (6, "GB")),
        lambda: ((576, "TB"), (1, "MB")),
        lambda: ((576, "TB"), (25, "s")),
        lambda: ((576, "TB"),),
    ],
    "08-bug": [tests_nothing, tests_without_padding, tests_finite_only, tests_exactly],
}
