"""Checks of chapter 06."""

import itertools

import torch

from linear_time.exercises import (
    exercise,
    expect_close,
    expect_equal,
    expect_finds_bug,
    randn,
)
from linear_time.pyramid import INCEPTION_3A, InceptionBlock


@exercise("06-parameters")
def parameters(answer):
    for widths in (
        INCEPTION_3A,
        (256, 128, 128, 192, 32, 96, 64),
        (5, 1, 2, 3, 4, 6, 7),
    ):
        named = list(InceptionBlock(*widths).named_parameters())
        want = tuple(
            sum(p.numel() for name, p in named if name.endswith(kind))
            for kind in ("weight", "bias")
        )
        expect_equal(tuple(answer(*widths)), want, f"widths {widths}")


@exercise("06-collapse")
def collapse(answer):
    for sizes in ((8, 4, 2), (9, 3, 5), (6, 2)):
        weights = [
            randn(m, n, seed=i)
            for i, (n, m) in enumerate(itertools.pairwise(sizes))
        ]
        x = randn(sizes[0], 3, seed=9)
        y = x
        for step in weights:
            y = step @ y
        W, rank = answer([step.clone() for step in weights])
        expect_close(W @ x, y, f"sizes {sizes}, the matrix on some tokens")
        expect_equal(rank, min(sizes), f"sizes {sizes}, the rank")
    zeros = [torch.zeros(3, 6).double(), torch.zeros(2, 3).double()]
    _, rank = answer(zeros)  # the rank that the shapes allow, not this one's
    expect_equal(rank, 2, "sizes (6, 3, 2) and weights of 0, the rank")


@exercise("06-equal")
def equal(answer):
    for sizes in (
        (64, 32, 16, 8),
        (100, 10, 5),
        (16, 8, 4, 2, 1),
        (20, 10, 5, 2),  # 11.8
        (8, 4, 2, 1),  # 4.7
    ):
        whole = sum(a * b for a, b in itertools.pairwise(sizes))
        h = 0
        while (h + 1) * (sizes[0] + sizes[-1]) <= whole:
            h += 1
        expect_equal(answer(sizes), h, f"sizes {sizes}")


@exercise("06-view")
def view(answer):
    for layers in (
        [(3, 1)],
        [(3, 1), (5, 1)],
        [(3, 2), (3, 2), (3, 1)],
        [(1, 3), (2, 1), (4, 2)],
        [(2, 5), (3, 4), (2, 1)],
        [],
    ):
        expect_equal(answer(layers), _seen(layers), f"layers {layers}")


def _seen(layers):
    """From the first to the last input that the first output reads."""
    last, step = 0, 1
    for size, stride in layers:
        last, step = last + (size - 1) * step, step * stride
    return last + 1


@exercise("06-energy")
def energy(answer):
    for length, halvings in ((16, 2), (8, 3), (32, 1), (12, 2), (5, 0)):
        x = randn(length) + 0.5
        shares, level = [], x
        for i in range(halvings):
            coarse = (level[0::2] + level[1::2]) / 2
            rest = (level[0::2] - level[1::2]).square().sum() / 2
            shares.append(rest * 2**i)
            level = coarse
        shares.append(level.square().sum() * 2**halvings)
        want = torch.stack(shares) / x.square().sum()
        given = f"{length} samples, {halvings} halvings"
        expect_close(answer(x.clone(), halvings), want, given)


@exercise("06-bug")
def bug(answer):
    def merge(levels, up=None, first=None, add=None):
        up = up or (lambda x, n: x.repeat_interleave(n // x.shape[1], 1))
        merged = [levels[-1] if first is None else first(levels[-1])]
        for level in levels[-2::-1]:
            parent = merged[0] if add is None else add(levels, merged)
            merged.insert(0, level + up(parent, level.shape[1]))
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
    expect_finds_bug(answer, merge, bugs, "way down")


def _with_zeros(x, n):
    out = x.new_zeros(x.shape[0], n, x.shape[2])
    out[:, :: n // x.shape[1]] = x
    return out
