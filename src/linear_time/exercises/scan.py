"""Checks of chapter 17."""

import itertools
import math

import torch
from torch.autograd.functional import jvp

from linear_time.exercises import (
    Calls,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
)
from linear_time.scan import (
    doubling_scan,
    linear_scan,
    sequential_scan,
    tree_scan,
)

F64 = torch.float64


def draw(*sizes, seed=0):
    """Factors of either sign, below 1 in size, and what is added."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (
        torch.randn(*sizes, generator=generator, dtype=F64) for _ in range(2)
    )
    return a / (1 + a.abs()), b


LONG = 2048  # a loop makes more calls to torch than a scan of so many steps


def expect_a_scan(answer, inputs, by):
    """Few calls: a scan, not a loop over the steps."""
    with Calls() as calls:
        answer(*(x.clone() for x in inputs))
    expect(
        len(calls.names) < LONG,
        f"For {LONG:,} steps: expected {by}, fewer than {LONG:,} calls to "
        f"torch in all, got {len(calls.names):,}: a loop over the steps?",
    )


@exercise("17-documents")
def documents(answer):
    a, b = draw(2, 23)
    for places in ([0], [0, 1, 9, 22], [0, 5, 6]):
        begins = torch.zeros(2, 23, dtype=torch.bool)
        begins[:, places] = True
        begins[1, 15] = True  # the rows of a batch differ
        rows = []
        for row in range(2):
            edges = [*torch.where(begins[row])[0].tolist(), 23]
            parts = [
                sequential_scan(a[row : row + 1, s:e], b[row : row + 1, s:e])
                for s, e in itertools.pairwise(edges)
            ]
            rows.append(torch.cat(parts, dim=1))
        got = answer(a.clone(), b.clone(), begins.clone())
        expect_close(
            got, torch.cat(rows), f"beginnings at {places} in the first row"
        )
    a, b = draw(1, LONG)
    begins = torch.arange(LONG)[None] % 100 == 0
    expect_a_scan(answer, (a, b, begins), "one call of linear_scan")


@exercise("17-max")
def max_plus(answer):
    a, b = draw(2, 19, seed=1)
    a, b = 3 * a, 2 * b
    h, states = torch.full((2,), -math.inf, dtype=F64), []
    for t in range(19):
        h = torch.maximum(h + a[:, t], b[:, t])
        states.append(h)
    wanted = torch.stack(states, dim=1)
    for by in (tree_scan, doubling_scan):
        got = by(answer, (a.clone(), b.clone()))
        expect_close(
            got[1],
            wanted,
            f"19 steps by {by.__name__}, the second of the pair",
        )
    first, second = (a[:, :4], b[:, :4]), (a[:, 4:8], b[:, 4:8])
    expect_close(
        answer(first, second)[0],
        first[0] + second[0],
        "two maps, the first of the pair",
    )


@exercise("17-turns")
def turns(answer):
    for length, processors in (
        (1, 1),
        (2, 1),
        (8, 1),
        (8, 3),
        (8, 100),
        (100, 7),
        (1000, 64),
    ):
        reaches = [2**k for k in range(20) if 2**k < length]
        wanted = sum(-(-(length - reach) // processors) for reach in reaches)
        expect_equal(
            answer(length, processors),
            wanted,
            f"length {length}, {processors} processors",
        )


@exercise("17-tangent")
def tangent(answer):
    for length in (1, 2, 17):
        a, b = draw(2, length, seed=2)
        a_dot, b_dot = draw(2, length, seed=3)
        _, wanted = jvp(sequential_scan, (a, b), (a_dot, b_dot))
        expect_close(answer(a, b, a_dot, b_dot), wanted, f"{length} steps")
    inputs = (*draw(1, LONG), *draw(1, LONG, seed=3))
    expect_a_scan(answer, inputs, "calls of linear_scan")


@exercise("17-bits")
def bits(answer):
    for memory, tolerance in (
        (10_000, 0.01),
        (1000, 0.001),
        (1_000_000, 0.1),
        (50, 0.3),
        (1, 0.5),
    ):
        wanted = next(
            p for p in range(60) if 2.0 ** -(p + 1) * memory <= tolerance
        )
        expect_equal(
            answer(memory, tolerance),
            wanted,
            f"memory {memory}, tolerance {tolerance}",
        )


@exercise("17-moves")
def moves(answer):
    for length, d_inner, N, chunk in (
        (2048, 1536, 16, 2048),
        (100, 7, 3, 32),
        (5, 2, 1, 1),
    ):
        sizes = {
            "u": length * d_inner,
            "delta": length * d_inner,
            "A": d_inner * N,
            "B": length * N,
            "C": length * N,
        }
        y = length * d_inner
        forward, backward = sum(sizes.values()) + y, 2 * sum(sizes.values()) + y
        state, chunks = d_inner * N, -(-length // chunk)
        given = f"length {length}, d_inner {d_inner}, N {N}, chunks of {chunk}"
        got = answer(length, d_inner, N, chunk)
        expect_equal(
            got[0], forward + backward + 2 * length * state, f"{given}, stored"
        )
        expect_equal(
            got[1],
            forward + backward + 2 * chunks * state,
            f"{given}, recomputed",
        )


@exercise("17-bytes")
def kernel_bytes(answer):
    for batch, d_inner, length, N, size, kept in (
        (8, 2048, 2048, 16, 2, None),
        (8, 2048, 2048, 16, 2, 4),
        (1, 3, 5, 7, 4, 2),
        (2, 5, 4, 1, 2, 4),
        (1, 1, 1, 64, 8, 3),
    ):
        per_step = {"u": d_inner, "delta": d_inner, "z": d_inner}
        per_step |= {"y": d_inner, "B": N, "C": N}
        wanted = size * batch * length * sum(per_step.values())
        wanted += 4 * (d_inner * N + d_inner + d_inner)  # A, D, the bias
        if kept is not None:
            wanted += 4 * batch * -(-length // kept) * d_inner * N
        given = (
            f"batch {batch}, d_inner {d_inner}, length {length}, N {N}, "
            f"{size} bytes a number, kept {kept}"
        )
        got = answer(batch, d_inner, length, N, size, kept)
        expect_equal(got, wanted, given)


@exercise("17-order")
def order(answer):
    for length in (1, 2, 3, 40):
        p, b = draw(2, length, seed=4)
        q, _ = draw(2, length, seed=5)
        old = older = torch.zeros(2, dtype=F64)
        states = []
        for t in range(length):
            old, older = p[:, t] * old + q[:, t] * older + b[:, t], old
            states.append(old)
        wanted = torch.stack(states, dim=1)
        expect_close(
            answer(p.clone(), q.clone(), b.clone()), wanted, f"{length} steps"
        )
    p, b = draw(1, LONG, seed=4)
    expect_a_scan(answer, (p / 2, p / 3, b), "one tree_scan")


def swapped_tree(a, b, initial):
    """The operands of the operator change places."""
    start = b[:, :1] + a[:, :1] * initial[:, None]
    maps = a, torch.cat([start, b[:, 1:]], dim=1)

    def swapped(first, second):
        return first[0] * second[0], first[0] * second[1] + first[1]

    return tree_scan(swapped, maps)[1]


def no_carry(a, b, initial):
    """Every chunk of 32 starts from zero, but for the first."""
    parts = [
        linear_scan(a[:, s : s + 32], b[:, s : s + 32])
        for s in range(32, a.shape[1], 32)
    ]
    return torch.cat(
        [linear_scan(a[:, :32], b[:, :32], initial), *parts], dim=1
    )


def wrong_padding(a, b, initial):
    """The length is filled up to a power of two at the wrong end, with (0, 0)."""
    missing = (1 << (a.shape[1] - 1).bit_length()) - a.shape[1]
    fill = a.new_zeros(a.shape[0], missing)
    h = linear_scan(torch.cat([fill, a], 1), torch.cat([fill, b], 1), initial)
    return h[:, missing:]


def exclusive(a, b, initial):
    """The state before each step."""
    h = linear_scan(a, b, initial)
    return torch.cat([initial[:, None], h[:, :-1]], dim=1)


@exercise("17-bug")
def bug(answer):
    def good(a, b, initial):
        return linear_scan(a, b, initial)

    bugs = {
        "the operands are swapped": swapped_tree,
        "the carry between chunks of 32 is dropped": no_carry,
        "the padding forgets the initial state": wrong_padding,
        "the initial state is ignored": lambda a, b, initial: linear_scan(a, b),
        "every state is that before its step": exclusive,
        "one factor is used for all steps": lambda a, b, initial: linear_scan(
            a[:, :1].expand_as(a).contiguous(), b, initial
        ),
    }
    expect_finds_bug(answer, good, bugs)
