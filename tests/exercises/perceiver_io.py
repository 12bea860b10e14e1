"""Wrong answers to the exercises of chapter 09: each is a plausible slip."""

import sympy as sp
import torch

from linear_time.attention import attention
from linear_time.perceiver import grid


def inputs_meet_outputs(n, m, o, layers):
    return n * m + layers * m * m + o * n, 3 * o * n + n * m


def depth_in_the_extra(n, m, o, layers):
    return n * m + layers * m * m + o * m, layers * (n + o) * m


def the_total_when_doubled(n, m, o, layers):
    return n * m + layers * m * m + o * m, 2 * n * m + layers * m * m + 2 * o * m


def no_layers(n, m, o, layers):
    return (n + o) * m, (n + o) * m


def _rows(indices, width):
    return torch.stack([indices // width, indices % width], -1)


def as_released(indices, height, width):
    return -1 + 2 * _rows(indices, width) / torch.tensor([height, width])


def column_first(indices, height, width):
    last = torch.tensor([width - 1, height - 1])
    return -1 + 2 * _rows(indices, width).flip(-1) / last


def by_the_height(indices, height, width):
    last = torch.tensor([height - 1, width - 1])
    return -1 + 2 * _rows(indices, height) / last


def centres(indices, height, width):
    return -1 + (2 * _rows(indices, width) + 1) / torch.tensor([height, width])


def of_the_grid(indices, height, width):
    return grid(height, width)[indices]


def the_first_draw(losses, p, picks):
    return losses[0] / (len(p) * p[picks[0]])


def plain_mean(losses, p, picks):
    return losses.mean()


def multiplied(losses, p, picks):
    return (losses * p[picks] * len(p)).mean()


def normalised_weights(losses, p, picks):
    weights = 1 / p[picks]
    return (weights * losses).sum() / weights.sum()


def sum_instead_of_mean(losses, p, picks):
    return (losses / p[picks]).mean()


def off_by_a_constant(losses, p, picks):
    return (losses / (len(p) * p[picks])).mean() + 0.1


def latents_only(o, m, heads, d_v, d):
    return min(o, m)


def without_heads(o, m, heads, d_v, d):
    return min(o, m, d_v, d)


def heads_times_latents(o, m, heads, d_v, d):
    return min(o, heads * m, d)


def forgets_what_heads_share(o, m, heads, d_v, d):
    return min(o, heads * min(m, d_v // heads), d)


def channels_only(o, m, heads, d_v, d):
    return min(o, d_v, d)


def tests_nothing(decode):
    decode(torch.ones(3, 4), torch.ones(2, 4))


def tests_one_query(decode):
    q, z = torch.randn(1, 4), torch.randn(3, 4)
    assert torch.allclose(decode(q, z), attention(q, z, z), rtol=0, atol=1e-5)


def tests_shape_only(decode):
    assert decode(torch.ones(3, 4), torch.ones(2, 4)).shape == (3, 4)


def tests_without_repeats(decode):
    torch.manual_seed(0)
    q, z = torch.randn(5, 4).sort(0).values, torch.randn(3, 4)
    assert torch.allclose(decode(q, z), attention(q, z, z), rtol=0, atol=1e-5)


def best_draw(one=None, two=None):
    def proof(a, b, p):
        lines = [
            b**2 / (1 - p) ** 2 - a**2 / p**2,
            (b * p - a * (1 - p)) * (b * p + a * (1 - p)) / (p**2 * (1 - p) ** 2),
        ]
        if one:
            lines[0] = one(a, b, p)
        if two:
            lines[1] = two(a, b, p)
        return lines

    return proof


QUOTE = "pos = -1 + 2 * pos / torch.tensor(self.output_index_dims"


def shift(i, n):
    return 2 * i / (n * (n - 1))


def tests_a_crash(decode):
    """Finds what does not take one query, by a crash."""
    torch.manual_seed(0)
    q, z = torch.randn(5, 4), torch.randn(3, 4)
    decode(q, z)[5]


def scores_only(n, m, o, layers):
    return n * m + layers * m * m + o * m


def tests_one_kind(decode):
    """Rejects what is right and rounds in another way."""
    torch.manual_seed(0)
    q, z = torch.randn(5, 4), torch.randn(3, 4)
    q[3] = q[1]
    assert torch.equal(decode(q, z), attention(q, z, z))
    assert torch.equal(decode(q[:1], z), attention(q[:1], z, z))


WRONG = {
    "09-count": [
        inputs_meet_outputs,
        depth_in_the_extra,
        the_total_when_doubled,
        no_layers,
        scores_only,
    ],
    "09-where": [as_released, column_first, by_the_height, centres, of_the_grid],
    "09-weights": [
        *(plain_mean, multiplied, normalised_weights),
        *(sum_instead_of_mean, the_first_draw, off_by_a_constant),
    ],
    "09-rank": [
        latents_only,
        without_heads,
        heads_times_latents,
        forgets_what_heads_share,
        channels_only,
    ],
    "09-best": [
        best_draw(one=lambda a, b, p: a**2 / p**2 - b**2 / (1 - p) ** 2),
        best_draw(one=lambda a, b, p: sp.Derivative(a**2 / p + b**2 / (1 - p), p)),
        best_draw(two=lambda a, b, p: b**2 / (1 - p) ** 2 - a**2 / p**2),
        best_draw(two=lambda a, b, p: (b**2 * p**2 - a**2 * (1 - p) ** 2) / (p * (1 - p)) ** 2),
        best_draw(two=lambda a, b, p: b * p - a * (1 - p)),
        lambda a, b, p: best_draw()(a, b, p)[:1],
    ],
    "09-audit": [
        (QUOTE, lambda i, n: 2 / n),
        (QUOTE, lambda i, n: 2 * i / n),
        (QUOTE, lambda i, n: -shift(i, n)),
        ("pos = -1 + 2 * pos / (n - 1)", shift),
        ("# Map these coordinates to [-1, 1]", shift),
        (QUOTE,),
    ],
    "09-bug": [
        *(tests_nothing, tests_one_query, tests_shape_only, tests_without_repeats),
        *(tests_a_crash, tests_one_kind),
    ],
}
