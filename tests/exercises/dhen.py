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


def all_pairs(w0, w, V, z):
    return w0 + z @ w + ((z @ (V @ V.T).triu(1)) * z).sum(1)


def pair_by_pair(w0, w, V, z):
    total, seen = w0 + z @ w, torch.zeros(len(z), V.shape[1], dtype=z.dtype)
    for i in range(len(w)):
        own = z[:, i, None] * V[i]
        total, seen = total + (own * seen).sum(1), seen + own
    return total


def one_after_the_other(x):
    first = second = third = torch.zeros_like(x[:, 0])
    for one in x.unbind(1):
        third, second, first = third + one * second, second + one * first, first + one
    return third


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


def one_digit(layers):
    total = 1
    for layer in layers:
        if {"attention", "relu"} & set(layer):
            return None
        total *= max(
            2 if m == "fm" else int(m[5]) + 1 if m.startswith("cross") else 1 for m in layer
        )
    return total


def doubles_for_every_layer(layers):
    total = 1
    for layer in layers:
        if {"attention", "relu"} & set(layer):
            return None
        total *= max(
            1 if m == "convolution" else int(m[5:]) + 1 if m.startswith("cross") else 2
            for m in layer
        )
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


def clipped(logit, label):
    p = torch.sigmoid(logit).clamp(1e-12, 1 - 1e-12)
    loss = -torch.where(label, p.log(), (1 - p).log()).mean()
    rate = label.double().mean()
    return loss / -(rate * rate.log() + (1 - rate) * (1 - rate).log())


def users_alone(logit, label, user, ties=0.5, both=True):
    each = []
    for one in user.unique():
        liked, other = logit[(user == one) & label], logit[(user == one) & ~label]
        if len(liked) and len(other):
            above = liked[:, None] - other
            each.append((above > 0).double().mean() + ties * (above == 0).double().mean())
        elif not both:
            each.append(torch.tensor(0.5, dtype=torch.float64))
    return torch.stack(each).mean()


def pooled(logit, label, user):
    return users_alone(logit, label, torch.zeros_like(user))


def ties_are_lost(logit, label, user):
    return users_alone(logit, label, user, ties=0.0)


def half_for_one_kind(logit, label, user):
    return users_alone(logit, label, user, both=False)


def by_pairs(logit, label, user):
    won = pairs = 0.0
    for one in user.unique():
        liked, other = logit[(user == one) & label], logit[(user == one) & ~label]
        above = liked[:, None] - other
        won += (above > 0).sum() + (above == 0).sum() / 2
        pairs += above.numel()
    return won / pairs


def as_old_counts(user, timestamp, train, test):
    newest = torch.full((int(user.max()) + 1,), torch.iinfo(torch.int64).min)
    newest.scatter_reduce_(0, user[train], timestamp[train], "amax")
    every = (timestamp[test] <= timestamp[train].max()).double().mean()
    return float(every), float((timestamp[test] <= newest[user[test]]).double().mean())


def newest_since_1970(user, timestamp, train, test):
    newest = torch.zeros(int(user.max()) + 1, dtype=torch.int64)
    newest.scatter_reduce_(0, user[train], timestamp[train], "amax")
    return anybody(user, timestamp, train, test), float(
        (timestamp[test] < newest[user[test]]).double().mean()
    )


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


def difference(a, b, turned=False, biased=False, spread=False, paired=True, apart=True):
    root = len(a) ** 0.5
    n = 0 if biased else 1
    one = (a - b).std(correction=n)
    other = (a.var(correction=n) + b.var(correction=n)).sqrt()
    size = 1 if spread else root
    gap = (b - a).mean() if turned else (a - b).mean()
    return gap, (one if paired else other) / size, (other if apart else one) / size


def leaks(user, timestamp, train, test):
    return anybody(user, timestamp, train, test), own(user, timestamp, train, test)


def of_exact_shape(cross):
    """Rejects what is right and rounds in another way."""
    torch.manual_seed(0)
    x, W, b = torch.randn(64, 9), torch.randn(9, 9), torch.randn(9)
    assert torch.equal(cross(x, [W], [b]), x * (x @ W.T + b) + x)
    assert torch.equal(cross(x, [W, W], [b, b])[:, 0] != x[:, 0], torch.ones(64).bool())


WRONG = {
    "07-fm": [
        ordered_pairs,
        with_squares,
        values_outside,
        no_constant,
        all_pairs,
        pair_by_pair,
    ],
    "07-triples": [not_divided, like_pairs, one_cube, one_after_the_other],
    "07-degree": [
        sum_of_degrees,
        power_of_two,
        cross_counts_its_depth,
        ignores_attention,
        one_digit,
        doubles_for_every_layer,
    ],
    "07-entropy": [overflows, clipped, plain_log_loss, half_of_the_entropy, upside_down],
    "07-within": [pooled, ties_are_lost, half_for_one_kind, by_pairs],
    "07-sure": [
        lambda a, b: difference(a, b, turned=True),
        lambda a, b: difference(a, b, biased=True),
        lambda a, b: difference(a, b, spread=True),
        lambda a, b: difference(a, b, paired=False),
        lambda a, b: difference(a, b, apart=False),
        lambda a, b: difference(a, b)[:2],
        lambda a, b: (a - b).mean(),
    ],
    "07-leak": [
        (lambda *a: (own(*a), anybody(*a)), "own"),
        (lambda *a: (anybody(*a), 0.0), "own"),
        (lambda *a: (0.5, own(*a)), "own"),
        (oldest_instead, "own"),
        (as_old_counts, "own"),
        (newest_since_1970, "own"),
        (lambda *a: (1 - anybody(*a), 1 - own(*a)), "own"),
        (anybody, "own"),
        (leaks, "anybody"),
        (leaks, "both"),
        leaks,
    ],
    "07-bug": [nothing, zero_only, one_layer, shape_only, of_exact_shape],
}
