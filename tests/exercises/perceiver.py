"""Wrong answers to the exercises of chapter 08: each is a plausible slip."""

import math

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
    assert torch.allclose(attend(Q, K, V, torch.ones(4, dtype=torch.bool)), wanted, atol=1e-5)


def tests_finite_only(attend):
    Q, K, V = torch.randn(2, 3), torch.randn(4, 3), torch.randn(4, 3)
    assert torch.isfinite(attend(Q, K, V, torch.zeros(4, dtype=torch.bool))).all()


WRONG = {
    "08-matrix": [
        *(softmax_along_latents, no_scale, only_the_output),
        *(overflows, calls_the_library, no_pair),
    ],
    "08-crossover": [at_m, forgets_the_reading, one_too_small, first_order],
    "08-fourier": [up_to_mu, without_pi, the_papers_order, halves_of_even, the_librarys],
    "08-alias": [nyquist, one_period_on, of_mu_points, not_of_zero],
    "08-bug": [tests_nothing, tests_without_padding, tests_finite_only],
}
