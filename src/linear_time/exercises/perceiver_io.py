"""Checks of chapter 09."""

import itertools

import torch

from linear_time.attention import attention
from linear_time.exercises import (
    exercise,
    expect_close,
    expect_equal,
    expect_finds_bug,
    randn,
)
from linear_time.exercises.perceiver import by_hand
from linear_time.perceiver import grid

F64 = torch.float64


@exercise("09-count")
def count(answer):
    for n, m, o, layers in ((1, 1, 1, 1), (50, 4, 9, 3), (9, 5, 70, 12)):
        pairs = n * m + layers * m * m + o * m
        given = f"n = {n}, m = {m}, o = {o} and {layers} layers"
        got = answer(n, m, o, layers)
        expect_equal(tuple(got), (pairs, (n + o) * m), given)


@exercise("09-where")
def where(answer):
    for height, width in ((2, 2), (3, 5), (8, 4)):
        points = grid(height, width)
        for indices in (
            torch.arange(height * width),
            torch.tensor([height * width - 1, 1, 0]),
        ):
            got = by_hand(answer, indices.clone(), height, width)
            given = f"pixels {indices.tolist()} of {height} × {width}"
            expect_close(got, points[indices], given, atol=1e-6)


@exercise("09-weights")
def weights(answer):
    p = torch.tensor([0.5, 0.2, 0.2, 0.1], dtype=F64)
    losses = torch.tensor([1.0, 2.0, 0.5, 4.0], dtype=F64)
    for s in (1, 2, 3):
        mean = torch.zeros((), dtype=F64)
        for draws in itertools.product(range(4), repeat=s):
            picks = torch.tensor(draws)
            got = answer(losses[picks], p.clone(), picks)
            mean += p[picks].prod() * torch.as_tensor(got, dtype=F64)
        given = f"the expectation over all draws of {s} from 4 outputs"
        expect_close(mean, losses.mean(), given)
    one = answer(losses[:1], p.clone(), torch.tensor([0]))
    expect_close(one, 0.5, "a loss of 1 drawn with probability ½, of 4")
    picks = torch.tensor([0, 3, 1])
    for i in range(3):
        other = losses[picks] + torch.eye(3, dtype=F64)[i]
        before, after = (
            torch.as_tensor(answer(drawn.clone(), p.clone(), picks.clone()))
            for drawn in (losses[picks], other)
        )
        change = 1 / (3 * 4 * p[picks[i]])
        given = f"the loss of draw {i + 1} of 3 larger by 1: the change"
        expect_close(after - before, change, given)


@exercise("09-rank")
def rank(answer):
    for sizes in (
        (40, 3, 1, 8, 30),
        (40, 1, 4, 32, 30),
        (40, 3, 4, 32, 30),
        (40, 12, 4, 16, 30),
        (5, 12, 4, 16, 30),
        (40, 12, 4, 32, 7),
    ):
        o, m, heads, d_v, d = sizes
        given = "o = {}, m = {}, heads = {}, d_v = {}, d = {}".format(*sizes)
        expect_equal(answer(*sizes), _rank(o, m, heads, d_v, d), given)


def _rank(o, m, heads, d_v, d):
    """Of a random decoder's attention, which has the largest one."""
    z, values, out = randn(m, 64), randn(64, d_v, seed=1), randn(d_v, d, seed=2)
    read = [
        randn(o, m, seed=3 + h).softmax(1) @ (z @ part)
        for h, part in enumerate(values.split(d_v // heads, dim=1))
    ]
    return int(torch.linalg.matrix_rank(torch.cat(read, 1) @ out))


@exercise("09-bug")
def bug(answer):
    def right(queries, z):
        return attention(queries, z, z)

    def along_queries(queries, z):
        scores = queries @ z.T / queries.shape[1] ** 0.5
        return scores.softmax(0) @ z

    def read_each_other(queries, z):
        both = torch.cat([z, queries])
        return attention(queries, both, both)

    def normalised(queries, z):
        y = attention(queries, z, z)
        return y - y.mean(0) if len(y) > 1 else y

    def reversed_order(queries, z):
        return attention(queries, z, z).flip(0)

    def once_each(queries, z):
        return attention(queries.unique(dim=0), z, z)

    bugs = {
        "the softmax runs along the queries": along_queries,
        "queries read each other, too": read_each_other,
        "the mean over the outputs is taken away": normalised,
        "the outputs come in another order": reversed_order,
        "queries that are alike are decoded once": once_each,
    }
    expect_finds_bug(answer, right, bugs, "implementation")
