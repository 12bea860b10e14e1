"""Checks of chapter 09."""

import inspect
import itertools

import sympy as sp
import torch

from linear_time.attention import attention
from linear_time.exercises import (
    exercise,
    expect_close,
    expect_equal,
    expect_finds_bug,
    expect_parts,
    plain,
)
from linear_time.exercises.estimate import expect_quote
from linear_time.exercises.perceiver import by_hand
from linear_time.exercises.proof import expect_lines
from linear_time.perceiver import grid

F64 = torch.float64


@exercise("09-count")
def count(answer, cases):
    drawn = [
        tuple(cases.integer(2, top) for top in (60, 9, 70, 12)) for _ in "12"
    ]
    for n, m, o, layers in ((1, 1, 1, 1), *drawn):
        pairs = n * m + layers * m * m + o * m
        given = f"n = {n}, m = {m}, o = {o} and {layers} layers"
        words = f"a pair of scores and extra for {given}"
        got = expect_parts(answer(n, m, o, layers), 2, words)
        expect_equal(
            got[0],
            pairs,
            f"{given}, the scores",
            slips={
                "the outputs read the latents, not the inputs": (
                    n * m + layers * m * m + o * n
                ),
                "the latents read each other": (n + o) * m,
            },
        )
        expect_equal(
            got[1],
            (n + o) * m,
            f"{given}, what doubling adds",
            slips={
                "that is the total, and not what it grew by": pairs
                + (n + o) * m,
                "the layers see neither inputs nor outputs": (
                    layers * (n + o) * m
                ),
            },
        )


@exercise("09-where")
def where(answer, cases):
    drawn = (cases.integer(3, 9), cases.integer(3, 9))
    for height, width in ((2, 2), (3, 5), drawn):
        points = grid(height, width)
        size = height * width
        some = torch.tensor(cases.shuffled(list(range(size)))[: size // 2])
        for indices in (torch.arange(size), some):
            got = by_hand(answer, indices.clone(), height, width)
            row, column = indices // width, indices % width
            rows = torch.stack([row, column], -1)
            sides = torch.tensor([height, width])
            expect_close(
                got,
                points[indices],
                f"pixels {indices.tolist()} of {height} × {width}",
                atol=1e-6,
                slips={
                    "the last pixel of a row stands at 1": -1
                    + 2 * rows / sides,
                    "the row comes first": points[indices].flip(-1),
                    "that is where a pixel's middle is, if the picture's edges "
                    "are at ±1": -1 + (2 * rows + 1) / sides,
                },
            )


@exercise("09-weights")
def weights(answer, cases):
    p = 0.2 + torch.tensor([cases.uniform(0, 1) for _ in range(4)], dtype=F64)
    p = p / p.sum()
    losses = cases.randn(4).abs() + 0.2
    for s in (1, 2, 3):
        mean = torch.zeros((), dtype=F64)
        for draws in itertools.product(range(4), repeat=s):
            picks = torch.tensor(draws)
            got = plain(answer(losses[picks], p.clone(), picks))
            mean += p[picks].prod() * torch.as_tensor(got, dtype=F64)
        expect_close(
            mean,
            losses.mean(),
            f"the expectation over all draws of {s} from 4 outputs",
            slips={
                "that is the sum of the losses, not their mean": losses.sum(),
                "what is drawn often counts more": (p * losses).sum(),
            },
        )
    picks = torch.tensor(cases.shuffled(list(range(4)))[:3])
    for i in range(3):
        other = losses[picks] + torch.eye(3, dtype=F64)[i]
        before, after = (
            torch.as_tensor(plain(answer(drawn, p.clone(), picks.clone())))
            for drawn in (losses[picks], other)
        )
        change = 1 / (3 * 4 * p[picks[i]])
        given = f"the loss of draw {i + 1} of 3 larger by 1: the change"
        expect_close(after - before, change, given)


@exercise("09-best")
def best(answer, cases):
    a, b = sp.symbols(cases.choice(["a b", "u v", "k l"]), positive=True)
    p = sp.Symbol("p", positive=True)
    start = sp.Derivative(a**2 / p + b**2 / (1 - p), p)
    root = a / (a + b)
    forms = [
        (
            "differentiated, with no derivative left to take",
            lambda line: not line.has(sp.Derivative),
        ),
        (
            "a product, of which one factor is linear in p and is zero at the "
            "best p",
            lambda line: (
                isinstance(line, sp.Mul)
                and any(
                    part.has(p)
                    and sp.degree(sp.expand(part), p) == 1
                    and sp.simplify(part.subs(p, root)) == 0
                    for part in line.args
                    if part.is_polynomial(p)
                )
            ),
        ),
    ]
    expect_lines(answer(a, b, p), start, forms, cases)


@exercise("09-audit")
def audit(answer, cases):
    from transformers.models.perceiver import modeling_perceiver

    words = "a pair: a quotation and a function"
    quote, shift = expect_parts(answer, 2, words)
    sides = [cases.integer(3, 300) for _ in range(4)]
    for i, n in (
        (0, 4),
        (3, 4),
        *((cases.integer(1, n - 1), n) for n in sides),
    ):
        expect_close(
            shift(i, n),
            2 * i / (n * (n - 1)),
            f"pixel {i} of {n}",
            slips={"that is the last pixel's": 2 / n},
        )
    expect_quote(
        plain(quote),
        inspect.getsource(
            modeling_perceiver.PerceiverBasicDecoder.decoder_query
        ),
        "PerceiverBasicDecoder.decoder_query",
        ("-1 + 2 * pos /",),
    )


@exercise("09-rank")
def rank(answer, cases):
    heads = cases.choice([2, 4])
    drawn = (40, cases.integer(2, 4), heads, heads * cases.integer(4, 8), 30)
    for sizes in (
        (40, 3, 1, 8, 30),
        (40, 1, 4, 32, 30),
        (40, 3, 4, 32, 30),
        (40, 12, 4, 16, 30),
        (5, 12, 4, 16, 30),
        (40, 12, 4, 32, 7),
        drawn,
    ):
        o, m, heads, d_v, d = sizes
        given = "o = {}, m = {}, heads = {}, d_v = {}, d = {}".format(*sizes)
        expect_equal(
            answer(*sizes),
            _rank(cases, o, m, heads, d_v, d),
            given,
            slips={
                "the heads do not look alike: each brings directions of its own": (
                    min(o, m, d_v, d)
                ),
                "the rows of every head sum to 1, so they share a column": min(
                    o, heads * m, d_v, d
                ),
            },
        )


def _rank(cases, o, m, heads, d_v, d):
    """Of a random decoder's attention, which has the largest one."""
    z, values, out = (
        cases.randn(m, 64),
        cases.randn(64, d_v),
        cases.randn(d_v, d),
    )
    read = [
        cases.randn(o, m).softmax(1) @ (z @ part)
        for part in values.split(d_v // heads, dim=1)
    ]
    return int(torch.linalg.matrix_rank(torch.cat(read, 1) @ out))


@exercise("09-bug")
def bug(answer, cases):
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

    def one_by_one(queries, z):
        rows = [torch.softmax(q @ z.T / len(q) ** 0.5, 0) @ z for q in queries]
        return torch.stack(rows)

    def by_torch(queries, z):
        fused = torch.nn.functional.scaled_dot_product_attention
        return fused(queries, z, z)

    bugs = {
        "the softmax runs along the queries": along_queries,
        "queries read each other, too": read_each_other,
        "the mean over the outputs is taken away": normalised,
        "the outputs come in another order": reversed_order,
        "queries that are alike are decoded once": once_each,
    }
    several = [right, one_by_one, by_torch]
    expect_finds_bug(answer, several, bugs, cases=cases)
