"""Wrong answers to the exercises of chapter 06: each is a plausible slip."""

import itertools
import math

import torch


def no_reduction(d_in, d_1, d_3_in, d_3, d_5_in, d_5, d_pool):
    return d_in * (d_1 + 9 * d_3 + 25 * d_5 + d_pool), d_1 + d_3 + d_5 + d_pool


def kernel_not_squared(d_in, d_1, d_3_in, d_3, d_5_in, d_5, d_pool):
    weights = d_in * (d_1 + d_3_in + d_5_in + d_pool) + 3 * d_3_in * d_3 + 5 * d_5_in * d_5
    return weights, d_1 + d_3_in + d_3 + d_5_in + d_5 + d_pool


def biases_of_the_output_only(d_in, d_1, d_3_in, d_3, d_5_in, d_5, d_pool):
    weights = d_in * (d_1 + d_3_in + d_5_in + d_pool) + 9 * d_3_in * d_3 + 25 * d_5_in * d_5
    return weights, d_1 + d_3 + d_5 + d_pool


def rank_of_the_output(weights):
    W = weights[0]
    for step in weights[1:]:
        W = step @ W
    return W, len(W)


def rank_of_this_one(weights):
    W = weights[0]
    for step in weights[1:]:
        W = step @ W
    return W, int(torch.linalg.matrix_rank(W))


def wrong_order(weights):
    W = weights[0].T
    for step in weights[1:]:
        W = W @ step.T
    return W, min(min(step.shape) for step in weights)


def last_matrix(weights):
    return weights[-1], min(min(step.shape) for step in weights)


def whole(sizes):
    return sum(a * b for a, b in itertools.pairwise(sizes))


def additive(layers):
    return 1 + sum(size - 1 for size, _ in layers)


def own_stride(layers):
    seen, step = 1, 1
    for size, stride in layers:
        step *= stride
        seen += (size - 1) * step
    return seen


def inputs_read(layers):
    last = {0}
    for size, stride in reversed(layers):
        last = {i * stride + k for i in last for k in range(size)}
    return len(last)


def product(layers):
    return math.prod(size for size, _ in layers)


def not_weighted(x, halvings):
    shares = []
    for _ in range(halvings):
        coarse = x.reshape(-1, 2).mean(1)
        shares.append((x - coarse.repeat_interleave(2)).square().sum())
        x = coarse
    shares = torch.stack([*shares, x.square().sum()])
    return shares / shares.sum()


def levels_themselves(x, halvings):
    shares = []
    for level in range(halvings + 1):
        shares.append(x.square().sum() * 2**level)
        x = x.reshape(-1, 2).mean(1) if len(x) > 1 else x
    shares = torch.stack(shares)
    return shares / shares.sum()


def coarse_first(x, halvings):
    shares = []
    for level in range(halvings):
        coarse = x.reshape(-1, 2).mean(1)
        shares.append((x - coarse.repeat_interleave(2)).square().sum() * 2**level)
        x = coarse
    shares = torch.stack([*shares, x.square().sum() * 2**halvings]).flip(0)
    return shares / shares.sum()


def nothing(merge):
    pass


def shapes_only(merge):
    levels = [torch.ones(1, n, 2) for n in (8, 4, 2)]
    assert [v.shape for v in merge(levels)] == [v.shape for v in levels]


def constants_only(merge):
    levels = [torch.ones(1, n, 2) for n in (8, 4, 2)]
    assert [float(v.mean()) for v in merge(levels)] == [3, 2, 1]


def top_only(merge):
    levels = [torch.arange(float(n))[None, :, None] for n in (8, 4, 2)]
    assert torch.equal(merge(levels)[-1], levels[-1])


def seen(layers):
    reach, step = 1, 1
    for size, stride in layers:
        reach, step = reach + (size - 1) * step, step * stride
    return reach


def energies(x, halvings):
    shares = []
    for level in range(halvings):
        coarse = x.reshape(-1, 2).mean(1)
        shares.append((x - coarse.repeat_interleave(2)).square().sum() * 2**level)
        x = coarse
    shares = torch.stack([*shares, x.square().sum() * 2**halvings])
    return shares / shares.sum()


SMALL = {("weights", 1024, "cut"), ("both", 1024, "cut")}
LARGE = {("both", 1024, "rounded")}


def as_a_list(merge):
    """Rejects what is right and comes as a tuple."""
    levels = [torch.arange(8.0), torch.tensor([10.0, 20, 30, 40])]
    levels = [v[None, :, None] for v in (*levels, torch.tensor([100.0, 200]))]
    merged = merge(levels)
    assert isinstance(merged, list)
    assert merged[2].flatten().tolist() == [100, 200]
    assert merged[1].flatten().tolist() == [110, 120, 230, 240]
    assert merged[0].flatten().tolist() == [110, 111, 122, 123, 234, 235, 246, 247]


WRONG = {
    "06-parameters": [
        no_reduction,
        kernel_not_squared,
        biases_of_the_output_only,
        lambda *widths: sum(widths),
    ],
    "06-audit": [
        lambda: (SMALL, SMALL, 379.625),
        lambda: (LARGE, LARGE, 379.625),
        lambda: (SMALL | LARGE, LARGE, 379.625),
        lambda: (SMALL, {("both", 1000, "rounded")}, 379.625),
        lambda: (SMALL, LARGE, 379.0),
        lambda: (SMALL, LARGE, 380),
        lambda: (SMALL, LARGE),
    ],
    "06-collapse": [
        rank_of_the_output,
        rank_of_this_one,
        wrong_order,
        last_matrix,
        lambda weights: wrong_order(weights)[0].T,
        lambda weights: (0 * wrong_order(weights)[0].T, wrong_order(weights)[1]),
    ],
    "06-equal": [
        lambda sizes: whole(sizes) / (sizes[0] + sizes[-1]),
        lambda sizes: whole(sizes) // sizes[0],
        lambda sizes: whole(sizes) // (sizes[0] * sizes[-1]),
        lambda sizes: whole(sizes) // (sizes[0] + sizes[-1]) + 1,
        lambda sizes: round(whole(sizes) / (sizes[0] + sizes[-1])),
    ],
    "06-view": [
        (additive, (9, 500)),
        (own_stride, (9, 500)),
        (product, (9, 500)),
        (inputs_read, (9, 500)),
        (seen, (10, 500)),
        (seen, (9, 333)),
        (seen, 9),
        seen,
    ],
    "06-energy": [
        (not_weighted, 0.0002),
        (levels_themselves, 0.0002),
        (coarse_first, 0.0002),
        (energies, 0.69),
        (energies, 0.08),
        (energies, 0),
        energies,
    ],
    "06-bug": [nothing, shapes_only, constants_only, top_only, as_a_list],
}
