"""Wrong answers to the exercises of chapter 20: each is a plausible slip."""

import sympy as sp
import torch

from linear_time.duality import segment_sums


def mask_by_difference(log_a):
    c = log_a.cumsum(-1)
    return (c[..., None] - c[:, None, :]).tril().exp().tril()


def mask_of_products(log_a):
    a = log_a.exp().cumprod(-1)
    return (a[..., None] / a[:, None, :]).tril()


def mask_with_its_own_step(log_a):
    return (segment_sums(log_a) + log_a[:, None, :]).exp()


def mask_before_the_zeros(log_a):
    c = log_a.double().cumsum(-1)
    return (c[..., None] - c[:, None, :]).exp().tril().to(log_a)


def mask_without_zeros(log_a):
    c = log_a.cumsum(-1)
    return (c[..., None] - c[:, None, :]).exp()


def mask_without_a_gradient(log_a):
    """A finite one, of 0."""
    return segment_sums(log_a.detach()).exp() + 0 * log_a.sum()


def _factors(left_own=True, right_own=False, turned=False):
    def answer(log_a, B, C, cut):
        since = log_a[cut:].cumsum(0)
        since = since if left_own else since - log_a[cut]
        until = segment_sums(log_a[:cut])[-1]
        until = until + log_a[:cut] if right_own else until
        left, right = since.exp()[:, None] * C[cut:], until.exp()[:, None] * B[:cut]
        return (left, right) if turned else (left, right.mT)

    return answer


def factors_by_svd(log_a, B, C, cut):
    """Of all ranks: right, and no proof."""
    M = segment_sums(log_a).exp() * (C @ B.mT)
    U, s, V = torch.linalg.svd(M[cut:, :cut], full_matrices=False)
    return U * s, V


def _added(weight):
    def answer(x, log_a, B):
        return (weight(log_a).exp()[:, None] * x).mT @ B

    return answer


def read_off_the_signature(box, d):
    """Without asking the box."""
    gate_first, groups = (box.__defaults__ or (True, 1))[:2]
    return gate_first, groups


def a_square_that_cancels(c, P, N):
    """A square with c in it, divided by the same square."""
    return [c + P * N / c, (c + 1) ** 2 * (c + P * N / c - 1) / (c**2 + 2 * c + 1) + 1]


def one_square(c, P, N):
    return [c + P * N / c, (sp.sqrt(c) - sp.sqrt(P * N / c)) ** 2]


def no_square(c, P, N):
    return [c + P * N / c, c + P * N / c]


def plus_square(c, P, N):
    return [c + P * N / c, (sp.sqrt(c) + sp.sqrt(P * N / c)) ** 2 + 2 * sp.sqrt(P * N)]


def a_bound_below_nothing(c, P, N):
    return [c + P * N / c, (sp.sqrt(c) + sp.sqrt(P * N / c)) ** 2 - 2 * sp.sqrt(P * N)]


def only_the_end(c, P, N):
    return [(sp.sqrt(c) - sp.sqrt(P * N / c)) ** 2 + 2 * sp.sqrt(P * N)]


def one_group(box, d):
    y, z = torch.ones(1, d, dtype=torch.float64), torch.full((1, d), 50.0, dtype=torch.float64)
    return bool(torch.allclose(box(y, 2 * z), box(y, z), rtol=1e-3)), 1


def _memory(state=2, window=3, mixed=True, size_of=1.0):
    def answer(users, n_layer, d_model, N, groups, size):
        wide = 2 * d_model + (2 * groups * N if mixed else 0)
        numbers = state * d_model * N + window * wide
        return size_of * users * n_layer * numbers * size / 1e6, "MB"

    return answer


def nothing(scan):
    pass


def _inputs(length, groups, first):
    draw = torch.Generator().manual_seed(1)
    x, B, C = (
        torch.randn(2, length, n, 3, generator=draw, dtype=torch.float64)
        for n in (4, groups, groups)
    )
    delta = torch.rand(2, length, 4, generator=draw, dtype=torch.float64) / 5
    A = -torch.rand(4, generator=draw, dtype=torch.float64)
    return x, delta, A, B, C, first * torch.ones(2, 4, 3, 3, dtype=torch.float64)


def shape_only(scan):
    inputs = _inputs(45, 2, 1)
    assert scan(*inputs)[0].shape == inputs[0].shape


def _against_the_steps(length=45, groups=2, first=1.0, state=True):
    def test(scan):
        x, delta, A, B, C, S = inputs = _inputs(length, groups, first)
        y, last = scan(*inputs)
        for t in range(length):
            B_t, C_t = (v[:, t].repeat_interleave(4 // groups, 1) for v in (B, C))
            write = (delta[:, t, :, None] * x[:, t])[..., None] * B_t[:, :, None]
            S = torch.exp(delta[:, t] * A)[..., None, None] * S + write
            assert torch.allclose(y[:, t], (S @ C_t[..., None])[..., 0])
        assert not state or torch.allclose(last, S)

    return test


WRONG = {
    "20-mask": [
        mask_by_difference,
        mask_of_products,
        mask_with_its_own_step,
        mask_without_zeros,
        mask_before_the_zeros,
        mask_without_a_gradient,
        segment_sums,
    ],
    "20-factors": [
        _factors(left_own=False),
        _factors(right_own=True),
        _factors(turned=True),
        factors_by_svd,
    ],
    "20-states": [
        _added(lambda log_a: log_a.cumsum(0)),
        _added(lambda log_a: segment_sums(log_a)[-1] + log_a),
        _added(torch.zeros_like),
    ],
    "20-chunk": [
        one_square,
        no_square,
        plus_square,
        only_the_end,
        a_bound_below_nothing,
        a_square_that_cancels,
    ],
    "20-order": [
        one_group,
        read_off_the_signature,
        lambda box, d: (True, 1),
        lambda box, d: (False, 2),
        lambda box, d: True,
    ],
    "20-serve": [
        _memory(window=0),
        _memory(mixed=False),
        _memory(window=4),
        _memory(state=1),
        _memory(size_of=1024 / 1000),
    ],
    "20-bug": [
        nothing,
        shape_only,
        _against_the_steps(length=32),
        _against_the_steps(groups=1),
        _against_the_steps(first=0.0),
        _against_the_steps(state=False),
    ],
}
