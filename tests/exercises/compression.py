"""Wrong answers to the exercises of chapter 05: each is a plausible slip."""

import math

import torch


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


WRONG = {
    "05-fold": [
        lambda W1, V1, W2, V2: (W1 @ W2.T if W1.shape == W2.shape else W1.T @ W2.T, V1 @ V2),
        lambda W1, V1, W2, V2: (W2 @ W1, V2.T @ V1.T),
        lambda W1, V1, W2, V2: (W2 @ W1, V1),
        lambda W1, V1, W2, V2: W2 @ W1,
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
    "05-causal": [
        (window_only, share),
        (before_the_window, share),
        (mask, lambda n, s: 0.5),
        (mask, share_of_whole_windows),
        (mask, share_by_a_loop),
        (mask, lambda n, s: float(mask(n, s).double().mean())),
        (lambda n, s: ~mask(n, s), share),
    ],
    "05-bug": [nothing, shape_only, additive_only, commutes_only],
}
