"""Wrong answers to the exercises of chapter 07: each is a plausible slip."""

import torch
from torch.nn import functional


def ordered_pairs(w0, w, V, z):
    x = z[:, :, None] * V
    return w0 + z @ w + (x.sum(1).square() - x.square().sum(1)).sum(1)


def with_squares(w0, w, V, z):
    x = z[:, :, None] * V
    return w0 + z @ w + x.sum(1).square().sum(1) / 2


def values_outside(w0, w, V, z):
    pairs = (V.sum(0).square() - V.square().sum(0)).sum() / 2
    return w0 + z @ w + pairs * z.prod(1)


def no_constant(w0, w, V, z):
    x = z[:, :, None] * V
    return z @ w + (x.sum(1).square() - x.square().sum(1)).sum(1) / 2


def power_sums(x):
    return [x.pow(k).sum(1) for k in (1, 2, 3)]


def not_divided(x):
    p1, p2, p3 = power_sums(x)
    return p1**3 - 3 * p1 * p2 + 2 * p3


def like_pairs(x):
    p1, _, p3 = power_sums(x)
    return (p1**3 - p3) / 6


def one_cube(x):
    p1, p2, p3 = power_sums(x)
    return (p1**3 - 3 * p1 * p2 + p3) / 6


def sum_of_degrees(layers):
    return 1 + sum(
        max((1 if m == "fm" else int(m[5:]) if m.startswith("cross") else 0) for m in layer)
        for layer in layers
    )


def power_of_two(layers):
    return 2 ** len(layers)


def cross_counts_its_depth(layers):
    total = 1
    for layer in layers:
        if {"attention", "relu"} & set(layer):
            return None
        total *= max(2 if m == "fm" else int(m[5:]) if m.startswith("cross") else 1 for m in layer)
    return total


def ignores_attention(layers):
    total = 1
    for layer in layers:
        total *= max(
            2 if m == "fm" else int(m[5:]) + 1 if m.startswith("cross") else 1 for m in layer
        )
    return total


def overflows(logit, label):
    p = torch.sigmoid(logit)
    loss = -torch.where(label, p.log(), (1 - p).log()).mean()
    rate = label.double().mean()
    return loss / -(rate * rate.log() + (1 - rate) * (1 - rate).log())


def plain_log_loss(logit, label):
    return functional.binary_cross_entropy_with_logits(logit, label.to(logit.dtype))


def half_of_the_entropy(logit, label):
    rate = label.double().mean()
    return plain_log_loss(logit, label) / -(rate * rate.log())


def upside_down(logit, label):
    rate = label.double().mean()
    entropy = -(rate * rate.log() + (1 - rate) * (1 - rate).log())
    return entropy / plain_log_loss(logit, label)


def anybody(user, timestamp, train, test):
    return float((timestamp[test] < timestamp[train].max()).double().mean())


def own(user, timestamp, train, test):
    newest = torch.full((int(user.max()) + 1,), torch.iinfo(torch.int64).min)
    newest.scatter_reduce_(0, user[train], timestamp[train], "amax")
    return float((timestamp[test] < newest[user[test]]).double().mean())


def oldest_instead(user, timestamp, train, test):
    return float((timestamp[test] < timestamp[train].min()).double().mean()), own(
        user, timestamp, train, test
    )


def nothing(cross):
    pass


def zero_only(cross):
    x = torch.zeros(1, 3)
    assert torch.equal(cross(x, [torch.ones(3, 3)], [torch.ones(3)]), x)


def one_layer(cross):
    y = cross(torch.tensor([[2.0]]), [torch.tensor([[3.0]])], [torch.tensor([7.0])])
    assert float(y) == 28


def shape_only(cross):
    assert cross(torch.ones(2, 3), [torch.ones(3, 3)], [torch.ones(3)]).shape == (2, 3)


WRONG = {
    "07-fm": [ordered_pairs, with_squares, values_outside, no_constant],
    "07-triples": [not_divided, like_pairs, one_cube],
    "07-degree": [sum_of_degrees, power_of_two, cross_counts_its_depth, ignores_attention],
    "07-entropy": [overflows, plain_log_loss, half_of_the_entropy, upside_down],
    "07-leak": [
        lambda *a: (own(*a), anybody(*a)),
        lambda *a: (anybody(*a), 0.0),
        oldest_instead,
        lambda *a: (1 - anybody(*a), 1 - own(*a)),
    ],
    "07-bug": [nothing, zero_only, one_layer, shape_only],
}
