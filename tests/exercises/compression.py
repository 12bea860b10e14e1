"""Wrong answers to the exercises of chapter 05: each is a plausible slip."""

import math

import sympy as sp
import torch
from torch import nn

from linear_time.compression import LinearCompression


def square_root_of_share(n, d, share):
    return int(n * math.sqrt(share))


def without_lce(n, d, share):
    whole = share * (8 * n * d**2 + 4 * n**2 * d)
    return max((m for m in range(1, n + 1) if 8 * m * d**2 + 4 * m**2 * d <= whole), default=0)


def one_too_many(n, d, share):
    whole = share * (8 * n * d**2 + 4 * n**2 * d)
    m = 0
    while 2 * m * n * d + 8 * m * d**2 + 4 * m**2 * d <= whole:
        m += 1
    return m


def without_the_cap(n, d, share):
    whole = share * (8 * n * d**2 + 4 * n**2 * d)
    m = 0
    while 2 * (m + 1) * n * d + 8 * (m + 1) * d**2 + 4 * (m + 1) ** 2 * d <= whole:
        m += 1
    return m


def rounded_root(n, d, share):
    a, b, c = 4 * d, 2 * n * d + 8 * d**2, -share * (8 * n * d**2 + 4 * n**2 * d)
    return min(n, round((-b + math.sqrt(b * b - 4 * a * c)) / (2 * a)))


def no_decoder_of_the_data(W, X):
    return torch.linalg.pinv(W)


def transposed(W, X):
    return W.T


def of_svd(W, X):
    return torch.linalg.svd(X, full_matrices=False)[0][:, : len(W)]


def every_pair(W, user, candidates):
    whole = torch.cat([user.expand(len(candidates), -1, -1), candidates], dim=1)
    return W @ whole


def forgets_the_user(W, user, candidates):
    return W[:, len(user) :] @ candidates


def user_by_sums_for_each(W, user, candidates):
    of_user, of_candidate = W[:, : len(user)], W[:, len(user) :]
    each = user.expand(len(candidates), -1, -1)
    return (of_user[None, :, :, None] * each[:, None]).sum(2) + of_candidate @ candidates


def candidate_first(W, user, candidates):
    cut = candidates.shape[1]
    return W[:, :cut] @ candidates + W[:, cut:] @ user


def halves_averaged(W, user, candidates):
    n = len(user)
    return (W[:, :n] @ user + W[:, n:] @ candidates) / 2


def mask(n, s):
    return torch.arange(n)[None] < s * (torch.arange(n // s)[:, None] + 1)


def share(n, s):
    return s * (n // s + 1) / (2 * n)


def share_of_whole_windows(n, s):
    return (n // s + 1) / (2 * (n // s))


def share_by_a_loop(n, s):
    kept = 0
    for i in range(n // s):
        kept += (i + 1) * s
    return kept / (n // s * n)


def window_only(n, s):
    place = torch.arange(n)[None] // s
    return place == torch.arange(n // s)[:, None]


def before_the_window(n, s):
    return torch.arange(n)[None] < s * torch.arange(n // s)[:, None]


def nothing(make):
    pass


def shape_only(make):
    assert make(6, 3)(torch.ones(1, 6, 5, dtype=torch.float64)).shape == (1, 3, 5)


def additive_only(make):
    layer, x = make(6, 3), torch.randn(2, 6, 5, dtype=torch.float64)
    assert torch.allclose(layer(x + x), layer(x) + layer(x))


def commutes_only(make):
    layer, x = make(6, 3), torch.randn(2, 6, 5, dtype=torch.float64)
    V = torch.randn(5, 5, dtype=torch.float64)
    assert torch.allclose(layer(x @ V), layer(x) @ V)


def layers(transpose=False, size=1, flip=False, bias=False, convolution_only=False):
    def made(W):
        m, n = W.shape
        linear = nn.Linear(n, m, bias=bias)
        convolution = nn.Conv1d(n, m, size, padding=size // 2, bias=False)
        with torch.no_grad():
            linear.weight.copy_(0 * W if convolution_only else W.flip(1) if flip else W)
            convolution.weight.copy_(W[:, :, None].expand(-1, -1, size))
        if transpose:
            linear = nn.Linear(m, n, bias=False)
            linear.weight.data = W.T.contiguous()
        return linear, convolution

    return made


def wider(W):
    """A window of three of which two are zeros: right numbers, and three times the work."""
    linear, _ = layers()(W)
    convolution = nn.Conv1d(W.shape[1], W.shape[0], 3, padding=1, bias=False)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.weight[:, :, 1].copy_(W)
    return linear, convolution


def projection(one=None, two=None):
    def proof(x, y, f):
        c, s = sp.cos(f), sp.sin(f)
        along = c * x + s * y
        lines = [
            x**2 + y**2 - 2 * along**2 + along**2 * (c**2 + s**2),
            x**2 + y**2 - along**2,
        ]
        if one:
            lines[0] = one(lines, x, y, f)
        if two:
            lines[1] = two(lines, x, y, f)
        return lines

    return proof


def share_when_long(n, s):
    """Right for short inputs, and a half for long ones."""
    return share(n, s) if n < 1000 else 0.5 + 1e-4


def reads_clicks(direction=True, head=1.0, rows=3):
    """The direction that decides, written down without training."""

    def made(seed):
        of_the_task = torch.Generator().manual_seed(5)
        square = torch.randn(24, 24, generator=of_the_task, dtype=torch.float64)
        Q = torch.linalg.qr(square).Q
        first = 20 if direction else 0
        layer, read = LinearCompression(24, rows), nn.Linear(4 * rows, 1)
        with torch.no_grad():
            layer.weight.zero_()
            layer.weight[0].copy_(Q[:, first])
            read.weight.zero_()
            read.bias.zero_()
            read.weight[0, 0] = head
        return layer, read

    return made


def positive_only(make):
    """Rejects what is right and has another matrix."""
    layer = make(6, 3)
    x, V = torch.randn(4, 6, 5), torch.randn(5, 5)
    assert layer(x).shape == (4, 3, 5)
    assert torch.allclose(layer(2 * x - x.flip(0)), 2 * layer(x) - layer(x.flip(0)))
    assert torch.allclose(layer(x @ V), layer(x) @ V, rtol=0, atol=1e-4)
    assert torch.allclose(layer(x[:1]), layer(x)[:1])
    W = layer(torch.eye(6)[None])[0]
    assert (W != 0).all() and torch.linalg.matrix_rank(W) == 3 and (W > 0).any() and (W < 0).any()


WRONG = {
    "05-forms": [
        layers(transpose=True),
        layers(size=3),
        layers(flip=True),
        layers(bias=True),
        layers(convolution_only=True),
        lambda W: layers()(W)[::-1],
        lambda W: (lambda x: x @ W.T, layers()(W)[1]),
        wider,
        lambda W: layers()(W)[0],
    ],
    "05-budget": [
        square_root_of_share,
        without_lce,
        one_too_many,
        without_the_cap,
        rounded_root,
        lambda n, d, share: int(share * n),
    ],
    "05-decoder": [no_decoder_of_the_data, transposed, of_svd],
    "05-split": [
        every_pair,
        forgets_the_user,
        user_by_sums_for_each,
        candidate_first,
        halves_averaged,
    ],
    "05-pythagoras": [
        projection(one=lambda lines, *_: sp.expand(lines[0])),
        projection(one=lambda lines, *_: lines[1]),
        projection(two=lambda lines, *_: lines[0]),
        projection(two=lambda lines, x, y, f: x**2 + y**2 + (sp.cos(f) * x + sp.sin(f) * y) ** 2),
        projection(two=lambda lines, x, y, f: (sp.sin(f) * x - sp.cos(f) * y) ** 2),
        lambda x, y, f: projection()(x, y, f)[:1],
    ],
    "05-causal": [
        (window_only, share, 0.5),
        (before_the_window, share, 0.5),
        (mask, lambda n, s: 0.5, 0.5),
        (mask, share_of_whole_windows, 0.5),
        (mask, share_by_a_loop, 0.5),
        (mask, share_when_long, 0.5),
        (mask, lambda n, s: float(mask(n, s).double().mean()), 0.5),
        (lambda n, s: ~mask(n, s), share, 0.5),
        (lambda n, s: mask(n, s).int(), share, 0.5),
        (mask, share, 1.0),
        (mask, share, 0.0),
        (mask, share),
    ],
    "05-train": [
        reads_clicks(direction=False),
        reads_clicks(head=0.0),
        reads_clicks(rows=20),
        lambda seed: reads_clicks()(seed)[0],
        lambda seed: None,
    ],
    "05-bug": [nothing, shape_only, additive_only, commutes_only, positive_only],
}
