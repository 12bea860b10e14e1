"""Checks of chapter 06."""

import itertools
import math

import torch

from linear_time.exercises import (
    exercise,
    expect_close,
    expect_equal,
    expect_finds_bug,
    expect_parts,
    plain,
)
from linear_time.exercises.estimate import expect_reading
from linear_time.pyramid import INCEPTION_3A, InceptionBlock

#: The block after 3a: 256 channels read, 480 written.
INCEPTION_3B = (256, 128, 128, 192, 32, 96, 64)


def counted(widths):
    """(weights, biases) of a block, from its parameters."""
    named = list(InceptionBlock(*widths).named_parameters())
    return tuple(
        sum(p.numel() for name, p in named if name.endswith(kind))
        for kind in ("weight", "bias")
    )


@exercise("06-parameters")
def parameters(answer, cases):
    drawn = tuple(cases.integer(1, 30) for _ in range(7))
    for widths in (INCEPTION_3A, INCEPTION_3B, drawn):
        d_in, d_1, d_3_in, d_3, d_5_in, d_5, d_pool = widths
        want = counted(widths)
        words = f"a pair of weights and biases for {widths}"
        got = expect_parts(answer(*widths), 2, words)
        expect_equal(
            got[0],
            want[0],
            f"widths {widths}, the weights",
            slips={
                "the 1×1 in front makes the large windows' input narrower": (
                    d_in * (d_1 + 9 * d_3 + 25 * d_5 + d_pool)
                ),
                "a window of K has K² weights for each pair of channels": (
                    d_in * (d_1 + d_3_in + d_5_in + d_pool)
                    + 3 * d_3_in * d_3
                    + 5 * d_5_in * d_5
                ),
            },
        )
        expect_equal(
            got[1],
            want[1],
            f"widths {widths}, the biases",
            slips={
                "the 1×1 in front write channels too": want[1] - d_3_in - d_5_in
            },
        )


@exercise("06-audit")
def audit(answer, cases):
    words = "three things: two collections of rules and a number"
    small, large, deciding = plain(expect_parts(answer(), 3, words))
    rules = itertools.product(
        ("weights", "both"), (1000, 1024), ("cut", "rounded")
    )
    rules = set(rules)

    def printed(widths, rule):
        what, unit, how = rule
        weights, biases = counted(widths)
        count = weights + (biases if what == "both" else 0)
        return count // unit if how == "cut" else math.floor(count / unit + 0.5)

    for name, got, widths, number in (
        ("block 3a", small, INCEPTION_3A, 159),
        ("block 3b", large, INCEPTION_3B, 380),
    ):
        want = {rule for rule in rules if printed(widths, rule) == number}
        expect_equal(set(got), want, f"the rules that print {name}'s number")
    weights, biases = counted(INCEPTION_3B)
    expect_close(
        deciding,
        (weights + biases) / 1024,
        "the count that decides",
        rtol=1e-4,
        slips={
            "that is in another unit than the rule's": (weights + biases)
            / 1000,
            "the table's 380 cannot come of that one, cut or rounded": weights
            / 1024,
        },
    )


@exercise("06-collapse")
def collapse(answer, cases):
    drawn = tuple(cases.integer(2, 9) for _ in range(cases.integer(3, 5)))
    tried = [
        [cases.randn(m, n) / n**0.5 for n, m in itertools.pairwise(sizes)]
        for sizes in ((8, 4, 2), (9, 3, 5), (6, 2), drawn)
    ]
    # The rank that the shapes allow, not this one's.
    tried.append([torch.zeros(3, 6).double(), torch.zeros(2, 3).double()])
    for weights in tried:
        sizes = [weights[0].shape[1], *(len(step) for step in weights)]
        x = cases.randn(sizes[0], 3)
        y = x
        for step in weights:
            y = step @ y
        got = answer([step.clone() for step in weights])
        W, rank = expect_parts(got, 2, "a pair of a matrix and a rank")
        expect_close(
            plain(W) @ x, y, f"sizes {sizes}, the matrix on some tokens"
        )
        zero = all(not step.any() for step in weights)
        expect_equal(
            rank,
            min(sizes),
            f"sizes {sizes}{' and weights of 0' if zero else ''}, the rank",
            slips={
                "a narrow level on the way limits it too": min(
                    sizes[0], sizes[-1]
                ),
                "that is the rank of these weights": 0 if zero else -1,
            },
        )


@exercise("06-equal")
def equal(answer, cases):
    drawn = sorted((cases.integer(2, 99) for _ in range(4)), reverse=True)
    for sizes in (
        (64, 32, 16, 8),
        (100, 10, 5),
        (16, 8, 4, 2, 1),
        (20, 10, 5, 2),  # 11.8
        (8, 4, 2, 1),  # 4.7
        tuple(drawn),
    ):
        whole = sum(a * b for a, b in itertools.pairwise(sizes))
        want = whole // (sizes[0] + sizes[-1])
        expect_equal(
            answer(sizes),
            want,
            f"sizes {sizes}",
            slips={
                "one wider has more weights than the pyramid": want + 1,
                "the second step has weights too": whole // sizes[0],
            },
        )


@exercise("06-view")
def view(answer, cases):
    words = "a pair: the function, and two numbers of layers"
    sight, layers_needed = expect_parts(answer, 2, words)
    drawn = [
        [
            (cases.integer(1, 5), cases.integer(1, 4))
            for _ in range(cases.integer(2, 5))
        ]
        for _ in range(3)
    ]
    for layers in (
        [(3, 1)],
        [(3, 1), (5, 1)],
        [(3, 2), (3, 2), (3, 1)],
        [(1, 3), (2, 1), (4, 2)],
        [(2, 5), (3, 4), (2, 1)],
        [],
        *drawn,
    ):
        expect_equal(
            sight(list(layers)),
            _seen(layers),
            f"layers {layers}",
            slips={
                "a stride makes every later step longer": 1
                + sum(size - 1 for size, _ in layers),
                "a layer's own stride counts from the next layer on": (
                    _seen([(1, layers[0][1]), *layers]) if layers else -1
                ),
            },
        )
    want = tuple(
        next(n for n in range(1, 999) if _seen([(3, stride)] * n) >= 1000)
        for stride in (2, 1)
    )
    expect_equal(layers_needed, want, "a thousand inputs, the layers needed")


def _seen(layers):
    """From the first to the last input that the first output reads."""
    last, step = 0, 1
    for size, stride in layers:
        last, step = last + (size - 1) * step, step * stride
    return last + 1


@exercise("06-energy")
def energy(answer, cases):
    words = "a pair: the function, and a share"
    energies, shuffled = expect_parts(answer, 2, words)
    drawn = [(2**k * cases.integer(2, 6), k) for k in (1, 2, 3)]
    for length, halvings in ((16, 2), (8, 3), *drawn, (5, 0)):
        x = cases.randn(length) + 0.5
        shares, level = [], x
        for i in range(halvings):
            coarse = (level[0::2] + level[1::2]) / 2
            rest = (level[0::2] - level[1::2]).square().sum() / 2
            shares.append(rest * 2**i)
            level = coarse
        shares.append(level.square().sum() * 2**halvings)
        want = torch.stack(shares) / x.square().sum()
        unweighted = want / 2.0 ** torch.arange(halvings + 1)
        expect_close(
            energies(x.clone(), halvings),
            want,
            f"{length} samples, {halvings} halvings",
            slips={
                "a value of a coarse level stands for several samples": (
                    unweighted / unweighted.sum()
                )
            },
        )
    what = "the last share of the shuffled photograph"
    slips = {
        "that is the page's share, of blocks of an unshuffled picture": 0.69
    }
    expect_reading(plain(shuffled), 2.0**-12, what, factor=4, slips=slips)


@exercise("06-bug")
def bug(answer, cases):
    def merge(levels, up=None, first=None, add=None):
        up = up or (lambda x, n: x.repeat_interleave(n // x.shape[1], 1))
        merged = [levels[-1] if first is None else first(levels[-1])]
        for level in levels[-2::-1]:
            parent = merged[0] if add is None else add(levels, merged)
            merged.insert(0, level + up(parent, level.shape[1]))
        return merged

    def token_by_token(levels):
        merged = [levels[-1].clone()]
        for level in reversed(levels[:-1]):
            rows = [
                level[:, i] + merged[0][:, i // 2]
                for i in range(level.shape[1])
            ]
            merged = [torch.stack(rows, 1), *merged]
        return tuple(merged)

    def all_ancestors(levels):
        """Each level is the sum of itself and of all that are above it."""
        merged = []
        for i, level in enumerate(levels):
            above = [
                other.repeat_interleave(2**k, 1)
                for k, other in enumerate(levels[i + 1 :], start=1)
            ]
            merged.append(sum(above, level))
        return merged

    bugs = {
        "up puts the whole level twice": lambda levels: merge(
            levels, up=lambda x, n: x.repeat(1, n // x.shape[1], 1)
        ),
        "a level adds the bottom-up parent, not the merged one": lambda levels: (
            merge(levels, add=lambda ls, done: ls[len(ls) - len(done)])
        ),
        "the levels come back in the wrong order": lambda levels: merge(levels)[
            ::-1
        ],
        "the top is counted twice": lambda levels: merge(
            levels, first=lambda x: 2 * x
        ),
        "up fills with zeros between the parents": lambda levels: merge(
            levels, up=_with_zeros
        ),
    }
    right = [merge, token_by_token, all_ancestors]
    expect_finds_bug(answer, right, bugs, "way down", cases=cases)


def _with_zeros(x, n):
    out = x.new_zeros(x.shape[0], n, x.shape[2])
    out[:, :: n // x.shape[1]] = x
    return out
