"""Wrong answers to the exercises of chapter 02: each is a plausible slip."""

import math

import sympy as sp
import torch


def _answer(scale, stable=True, flipped=False):
    def answer(q, keys, values):
        scores = keys @ q / scale(len(q))
        weights = torch.exp((-scores if flipped else scores) - (scores.max() if stable else 0))
        return weights @ values / weights.sum()

    return answer


def of_the_library(q, keys, values):
    return torch.softmax(keys @ q / math.sqrt(len(q)), 0) @ values


def by_torchs_attention(q, keys, values):
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    return sdpa(q[None], keys, values)[0]


def largest_in_size(q, keys, values):
    """Subtracts the largest absolute value: 0/0 where all scores are far below 0."""
    scores = keys @ q / math.sqrt(len(q))
    weights = torch.exp(scores - scores.abs().max())
    return weights @ values / weights.sum()


def hard(q, keys, values):
    return values[(keys @ q).argmax()]


def _window(low, high):
    def mask(length, window):
        age = torch.arange(length)[:, None] - torch.arange(length)
        return (age >= low) & (age < window + high)

    return mask


def transposed_window(length, window):
    return _window(0, 0)(length, window).T


def mean_of_both(y_l, log_l, y_r, log_r):
    return (y_l + y_r) / 2, torch.logaddexp(log_l, log_r)


def overflows(y_l, log_l, y_r, log_r):
    a, b = log_l.exp()[:, None], log_r.exp()[:, None]
    return (a * y_l + b * y_r) / (a + b), (a + b).log()[:, 0]


def weights_are_the_logarithms(y_l, log_l, y_r, log_r):
    share = (log_l / (log_l + log_r))[:, None]
    return share * y_l + (1 - share) * y_r, torch.logaddexp(log_l, log_r)


def overflows_on_one_side(y_l, log_l, y_r, log_r):
    """Right where the right is the larger, inf / inf where the left is."""
    ratio = (log_l - log_r).exp()[:, None]
    return (ratio * y_l + y_r) / (1 + ratio), torch.logaddexp(log_l, log_r)


def sum_of_the_logarithms(y_l, log_l, y_r, log_r):
    share = torch.sigmoid(log_l - log_r)[:, None]
    return share * y_l + (1 - share) * y_r, log_l + log_r


def _gradients(scaled=True, centred=True, swapped=False):
    def gradients(q, k, v, d_y):
        scale = 1 / math.sqrt(q.shape[1])
        p = (scale * q @ k.T).softmax(-1)
        d_p = d_y @ v.T
        if centred:
            d_p = d_p - (p * d_p).sum(0 if swapped else -1, keepdim=True)
        d_s = (scale if scaled else 1) * p * d_p
        return d_s @ k, d_s.T @ q, p.T @ d_y

    return gradients


def by_autograd(q, k, v, d_y):
    from linear_time.attention import attention

    with torch.enable_grad():
        inputs = [t.clone().requires_grad_() for t in (q, k, v)]
        return torch.autograd.grad(attention(*inputs), inputs, d_y)


def by_vjp(q, k, v, d_y):
    from linear_time.attention import attend

    return torch.func.vjp(lambda *t: attend(*t, None), q, k, v)[1](d_y)


def values_forgotten(q, k, v, d_y):
    d_q, d_k, _ = _gradients()(q, k, v, d_y)
    return d_q, d_k, d_y


def two_keys(first=None, second=None):
    def proof(s1, s2, v1, v2):
        e = sp.exp(s2 - s1)
        one, two = (v1 + e * v2) / (1 + e), v2 + (v1 - v2) / (1 + e)
        if first:
            one = first(s1, s2, v1, v2)
        if second:
            two = second(s1, s2, v1, v2)
        return [one, two]

    return proof


def as_it_was(s1, s2, v1, v2):
    e1, e2 = sp.exp(s1), sp.exp(s2)
    return (e1 * v1 + e2 * v2) / (e1 + e2)


SHOULD = "a value of True indicates that the element *should* take part in attention."
NOT = "a ``True`` value indicates that the corresponding position is not allowed to attend."


def of_bools_as_numbers(length, window):
    return _window(0, 0)(length, window).int()


def one_gradient(q, k, v, d_y):
    return _gradients()(q, k, v, d_y)[0]


def finds_the_class(make):
    """Rejects what is right and written in another way."""
    torch.manual_seed(0)
    layer, x = make(12, 3), 2 * torch.randn(2, 9, 12)
    heads = layer.heads
    assert layer.block is None
    parts = (
        m(x).unflatten(-1, (3, 4)).transpose(1, 2) for m in (heads.query, heads.key, heads.value)
    )
    y = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True)
    assert torch.allclose(layer(x), heads.out(y.transpose(1, 2).flatten(2)), rtol=0, atol=1e-6)
    state = layer.initial_state(2)
    for t in range(9):
        y_t, state = layer.step(x[:, t], state)
        assert torch.allclose(y_t, layer(x)[:, t], rtol=0, atol=1e-6)


def nothing(make):
    pass


def last_does_not_move_the_first(make):
    torch.manual_seed(0)
    layer, x = make(8, 2), torch.randn(1, 6, 8)
    y = layer(x)
    x[:, -1] += 1
    assert torch.allclose(layer(x)[:, :-1], y[:, :-1])


def both_forms(make):
    torch.manual_seed(0)
    layer, x = make(8, 2), torch.randn(1, 9, 8)
    y, state = layer(x), layer.initial_state(1)
    for t in range(9):
        y_t, state = layer.step(x[:, t], state)
        assert torch.allclose(y_t, y[:, t], rtol=0, atol=1e-6)


def one_head(make):
    torch.manual_seed(0)
    layer, x = make(6, 1), torch.randn(1, 9, 6)
    h = layer.heads
    y = torch.nn.functional.scaled_dot_product_attention(
        h.query(x), h.key(x), h.value(x), is_causal=True
    )
    assert torch.allclose(layer(x), h.out(y), rtol=0, atol=1e-6)


WRONG = {
    "02-query": [
        _answer(lambda d: 1.0),
        _answer(lambda d: float(d)),
        _answer(math.sqrt, stable=False),
        _answer(math.sqrt, flipped=True),
        hard,
        of_the_library,
        by_torchs_attention,
        largest_in_size,
    ],
    "02-window": [
        _window(0, 1),
        _window(1, 0),
        _window(-9, 0),
        transposed_window,
        of_bools_as_numbers,
    ],
    "02-scale": [
        lambda: (1024, math.exp(32), math.e),
        lambda: (1, math.exp(32), math.e),
        lambda: (32, 32, math.e),
        lambda: (32, math.exp(1024 / 32 - 5), math.e),
        lambda: (32, math.exp(32), 1),
        lambda: (32, math.exp(32), 1.2),
        lambda: (32, math.exp(32)),
        lambda: 32,
    ],
    "02-gate": [
        two_keys(first=as_it_was),
        two_keys(second=lambda s1, s2, v1, v2: v1 + (v1 - v2) / (1 + sp.exp(s2 - s1))),
        two_keys(second=lambda s1, s2, v1, v2: (v1 + sp.exp(s2 - s1) * v2) / (1 + sp.exp(s2 - s1))),
        two_keys(second=lambda s1, s2, v1, v2: as_it_was(s1, s2, v1, v2).apart(v1)),
        lambda s1, s2, v1, v2: [v2 + (v1 - v2) / (1 + sp.exp(s2 - s1))],
    ],
    "02-figure": [
        lambda: (1e6, 19, 5500),
        lambda: (3.5e6, 4, 5500),
        lambda: (3.5e6, 144, 5500),
        lambda: (3.5e6, 19, 29_000),
        lambda: (3.5e6, 19, 3000),
        lambda: (3.5e6, 19),
        lambda: ("3.5e6", 19, 5500),
    ],
    "02-audit": [
        lambda: (NOT, SHOULD, 1.5, 3.5),
        lambda: ("True means that it is read", NOT, 1.5, 3.5),
        lambda: ("attn_mask (optional Tensor): Attention mask;", NOT, 1.5, 3.5),
        lambda: (SHOULD, "Binary and float masks are supported.", 1.5, 3.5),
        lambda: (SHOULD, NOT, 3.5, 1.5),
        lambda: (SHOULD, NOT, 1.5, 1.5),
        lambda: (SHOULD, NOT, 3.5, 3.5),
        lambda: (SHOULD, NOT),
    ],
    "02-cache": [
        lambda d, n: (d * n, 8 * d**2 * n + 2 * d * n * (n + 1)),
        lambda d, n: (2 * d * n, 8 * d**2 * n + 4 * d * n),
        lambda d, n: (2 * d * n, 8 * d**2 * n + 2 * d * n * (n - 1)),
        lambda d, n: (2 * d * n, 8 * d**2 * n + 4 * d * n**2),
        lambda d, n: (2 * d * n, 8.0 * d**2 * n + 2 * d * n * (n + 1)),  # no whole number
    ],
    "02-merge": [
        mean_of_both,
        overflows,
        overflows_on_one_side,
        weights_are_the_logarithms,
        sum_of_the_logarithms,
    ],
    "02-backward": [
        _gradients(scaled=False),
        _gradients(centred=False),
        _gradients(swapped=True),
        values_forgotten,
        by_autograd,
        by_vjp,
        one_gradient,
    ],
    "02-bug": [nothing, last_does_not_move_the_first, both_forms, one_head, finds_the_class],
}
