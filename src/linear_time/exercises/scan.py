"""Checks of chapter 17."""

import itertools
import math

import sympy as sp
import torch
from torch.autograd.functional import jvp

from linear_time.exercises import (
    Calls,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    plain,
)
from linear_time.exercises.estimate import expect_quantity, expect_reading
from linear_time.exercises.proof import expect_lines
from linear_time.pictures.scan import rounds_of
from linear_time.scan import (
    chunked_cost,
    combine,
    doubling_scan,
    linear_scan,
    sequential_scan,
    tree_scan,
)

F64 = torch.float64


def draw(cases, *sizes):
    """Factors of either sign, below 1 in size, and what is added."""
    a, b = cases.randn(*sizes), cases.randn(*sizes)
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


def each_document(a, b, begins):
    """Every document on its own."""
    rows = []
    for row in range(len(a)):
        edges = [*torch.where(begins[row])[0].tolist(), a.shape[1]]
        parts = [
            sequential_scan(a[row : row + 1, s:e], b[row : row + 1, s:e])
            for s, e in itertools.pairwise(edges)
        ]
        rows.append(torch.cat(parts, dim=1))
    return torch.cat(rows)


@exercise("17-documents")
def documents(answer, cases):
    for often in (-9.0, -1.0, 0.0, 9.0):  # from one document to one a step
        batch, length = cases.integer(2, 4), cases.integer(12, 30)
        a, b = draw(cases, batch, length)
        begins = cases.randn(batch, length) < often
        begins[:, 0] = True
        got = answer(a.clone(), b.clone(), begins.clone())
        slips = {
            "a document forgets one step too late": linear_scan(
                torch.where(begins.roll(1, 1), 0.0, a), b
            ),
            "the first token of a document is forgotten too": linear_scan(
                torch.where(begins, 0.0, a), torch.where(begins, 0.0, b)
            ),
            "the state leaks into the next document": linear_scan(a, b),
        }
        expect_close(
            got,
            each_document(a, b, begins),
            f"{batch} rows of {length} steps, {int(begins.sum())} documents",
            slips=slips,
        )
    a, b = draw(cases, 1, LONG)
    begins = torch.arange(LONG)[None] % cases.integer(50, 150) == 0
    expect_a_scan(answer, (a, b, begins), "one call of linear_scan")


@exercise("17-max")
def max_plus(answer, cases):
    length = cases.integer(13, 30)
    a, b = draw(cases, 2, length)
    a, b = 3 * a, 2 * b
    h, states = torch.full((2,), -math.inf, dtype=F64), []
    for t in range(length):
        h = torch.maximum(h + a[:, t], b[:, t])
        states.append(h)
    wanted = torch.stack(states, dim=1)
    slips = {
        "the two maps have changed places": lambda: tree_scan(
            lambda first, second: (
                first[0] + second[0],
                torch.maximum(second[1] + first[0], first[1]),
            ),
            (a, b),
        )[1],
        "an old path goes on without its price": b.cummax(1).values,
        "prices multiply, where they should add": lambda: tree_scan(
            lambda first, second: (
                first[0] * second[0],
                torch.maximum(first[1] * second[0], second[1]),
            ),
            (a, b),
        )[1],
    }
    for by in (tree_scan, doubling_scan):
        got = by(answer, (a.clone(), b.clone()))
        given = f"{length} steps by {by.__name__}, the second of the pair"
        expect_close(got[1], wanted, given, slips=slips)


@exercise("17-turns")
def turns(answer, cases):
    drawn = [(cases.integer(3, 2000), cases.integer(2, 99)) for _ in range(5)]
    for length, processors in ((1, 1), (2, 1), (8, 100), (64, 1), *drawn):
        reaches = [2**k for k in range(20) if 2**k < length]
        rounds = [length - reach for reach in reaches]
        expect_equal(
            answer(length, processors),
            sum(-(-wide // processors) for wide in rounds),
            f"length {length}, {processors} processors",
            slips={
                "every round is counted as wide as the sequence": len(reaches)
                * -(-length // processors),
                "the work is divided as if the rounds did not wait": -(
                    -sum(rounds) // processors
                ),
                "that is the depth": len(reaches),
            },
        )


def _sums(expression):
    return len(expression.atoms(sp.Sum))


@exercise("17-work")
def work(answer, cases):
    m = sp.Symbol(cases.choice(["m", "p", "q"]), integer=True, positive=True)
    k = sp.Symbol(cases.choice(["k", "j", "r"]), integer=True, nonnegative=True)
    start = sp.Sum(2**m - 2**k, (k, 0, m - 1))
    forms = [
        ("a difference of two sums", lambda line: _sums(line) == 2),
        ("one sum, the constant one being done", lambda line: _sums(line) == 1),
        ("free of sums", lambda line: _sums(line) == 0),
    ]
    expect_lines(answer(m, k), start, forms, cases)


@exercise("17-read")
def read(answer, cases):
    """What the figure's code draws, counted once more."""

    def right_panel(scan, processors):
        rounds = rounds_of(scan, 1024)
        return sum(-(-len(pairs) // processors) for pairs in rounds)

    right = {
        "rounds of chunks": chunked_cost(4096, 64)[1],
        "tree on 16": right_panel(tree_scan, 16),
        "doubling on 16": right_panel(doubling_scan, 16),
        "doubling on 1": right_panel(doubling_scan, 1),
    }
    got = plain(answer())
    expect(
        isinstance(got, dict) and set(got) == set(right),
        f"Expected a dictionary with the keys {', '.join(right)}.",
    )
    slips = {
        "rounds of chunks": {"that is the tree's line": 23.0},
        "tree on 16": {"that is doubling's line": right["doubling on 16"]},
        "doubling on 16": {"that is the tree's line": right["tree on 16"]},
        "doubling on 1": {"that is the tree's line": 2036.0},
    }
    for name, value in right.items():
        expect_reading(got[name], value, name, factor=1.3, slips=slips[name])


@exercise("17-tangent")
def tangent(answer, cases):
    for length in (1, 2, cases.integer(5, 30)):
        a, b = draw(cases, 2, length)
        a_dot, b_dot = draw(cases, 2, length)
        _, wanted = jvp(sequential_scan, (a, b), (a_dot, b_dot))
        h = linear_scan(a, b)
        slips = {
            "ȧ_t meets h_t in the place of h_{t−1}": linear_scan(
                a, a_dot * h + b_dot
            ),
            "ȧ has no influence": linear_scan(a, b_dot),
        }
        got = answer(a, b, a_dot, b_dot)
        expect_close(got, wanted, f"{length} steps", slips=slips)
    inputs = (*draw(cases, 1, LONG), *draw(cases, 1, LONG))
    expect_a_scan(answer, inputs, "calls of linear_scan")


@exercise("17-bits")
def bits(answer, cases):
    drawn = [
        (cases.integer(30, 10**6), cases.uniform(1e-3, 0.3)) for _ in range(5)
    ]
    for memory, tolerance in ((1, 0.5), (10_000, 0.01), *drawn):
        fits = (p for p in range(60) if 2.0 ** -(p + 1) * memory <= tolerance)
        wanted = next(fits)
        expect_equal(
            answer(memory, tolerance),
            wanted,
            f"memory {memory}, tolerance {tolerance:.4g}",
            slips={"half of the distance is enough: 2^−(p+1)": wanted + 1},
        )


@exercise("17-moves")
def moves(answer, cases):
    drawn = [
        tuple(
            cases.integer(*ends)
            for ends in ((9, 999), (2, 99), (2, 20), (2, 8))
        )
        for _ in range(3)
    ]
    for length, d_inner, N, chunk in ((5, 2, 1, 1), (100, 7, 3, 32), *drawn):
        sizes = {
            "u": length * d_inner,
            "delta": length * d_inner,
            "A": d_inner * N,
            "B": length * N,
            "C": length * N,
        }
        y = length * d_inner
        forward, backward = sum(sizes.values()) + y, 2 * sum(sizes.values()) + y
        both, state, chunks = (
            forward + backward,
            d_inner * N,
            -(-length // chunk),
        )
        given = f"length {length}, d_inner {d_inner}, N {N}, chunks of {chunk}"
        got = answer(length, d_inner, N, chunk)
        for name, have, count in (
            ("stored", got[0], length),
            ("recomputed", got[1], chunks),
        ):
            slips = {
                "a state is written and read": both + count * state,
                "the gradient of y is read too": both - y + 2 * count * state,
                "the last chunk may be short": both
                + 2 * (length // chunk) * state,
            }
            wanted = both + 2 * count * state
            expect_equal(have, wanted, f"{given}, {name}", slips=slips)


@exercise("17-bytes")
def kernel_bytes(answer, cases):
    drawn = [
        (*(cases.integer(*ends) for ends in ((1, 9), (3, 999), (5, 999))),
         cases.integer(1, 64), cases.choice([2, 4]), cases.choice([None, 2, 4]))
        for _ in range(3)
    ]  # fmt: skip
    for batch, d_inner, length, N, size, kept in (
        (8, 2048, 2048, 16, 2, None),
        (8, 2048, 2048, 16, 2, 4),
        (1, 9, 2, 40, 2, None),  # A, D and the bias are most of it
        (1, 40, 2, 1, 2, None),
        (2, 5, 5, 16, 2, 4),
        *drawn,
    ):
        bandwidth = cases.uniform(1e12, 5e12)
        per_step = {"u": d_inner, "delta": d_inner, "z": d_inner}
        per_step |= {"y": d_inner, "B": N, "C": N}
        total = size * batch * length * sum(per_step.values())
        total += 4 * (d_inner * N + d_inner + d_inner)  # A, D, the bias
        if kept is not None:
            total += 4 * batch * -(-length // kept) * d_inner * N
        given = (
            f"batch {batch}, d_inner {d_inner}, length {length}, N {N}, "
            f"{size} bytes a number, kept {kept}, {bandwidth / 1e12:.2f} TB/s"
        )
        got = answer(batch, d_inner, length, N, size, kept, bandwidth)
        seconds = total / bandwidth
        slips = {
            "that counts numbers where it should count bytes": seconds / size,
            "that counts bits where it should count bytes": 8 * seconds,
            "that is as many bytes, not a time": float(total),
            "the unit is off by 1000": 1000 * seconds,
            "the unit is off, by 1000 the other way": seconds / 1000,
        }
        expect_quantity(got, seconds, "s", given, factor=1.002, slips=slips)


@exercise("17-trick")
def trick(answer, cases):
    formats = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    for dtype in formats:
        for _ in range(3):
            a = cases.uniform(0.2, 0.97)
            largest = math.log(torch.finfo(dtype).max) / -math.log(a)
            if abs(largest - round(largest)) < 1e-3:
                continue  # rounding would decide
            smallest = math.log(torch.finfo(dtype).tiny) / math.log(a)
            name = str(dtype).removeprefix("torch.")
            expect_equal(
                answer(a, dtype),
                math.floor(largest),
                f"a = {a:.4f} in {name}",
                slips={
                    "that is the first step which fails": math.floor(largest)
                    + 1,
                    "that is where e^S vanishes; e^−S decides": math.floor(
                        smallest
                    ),
                },
            )


@exercise("17-order")
def order(answer, cases):
    for length in (1, 2, 3, cases.integer(20, 50)):
        p, b = draw(cases, 2, length)
        q, _ = draw(cases, 2, length)
        old = older = torch.zeros(2, dtype=F64)
        states = []
        for t in range(length):
            old, older = p[:, t] * old + q[:, t] * older + b[:, t], old
            states.append(old)
        wanted = torch.stack(states, dim=1)
        before = torch.cat([torch.zeros_like(b[:, :1]), wanted[:, :-1]], dim=1)
        slips = {
            "that is the state before each step": before,
            "it looks one step back": linear_scan(p, b),
        }
        got = answer(p.clone(), q.clone(), b.clone())
        expect_close(got, wanted, f"{length} steps", slips=slips)
    p, b = draw(cases, 1, LONG)
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


def by_doubling(a, b, initial):
    """Right, by Hillis and Steele's grouping, on strides of its own."""
    start = b[:, :1] + a[:, :1] * initial[:, None]
    maps = a, torch.cat([start, b[:, 1:]], dim=1)
    return doubling_scan(combine, maps)[1].T.contiguous().T


def by_steps(a, b, initial):
    """Right, one step after the other."""
    h, states = initial, []
    for t in range(a.shape[1]):
        h = torch.addcmul(b[:, t], a[:, t], h)
        states.append(h)
    return torch.stack(states, dim=1)


@exercise("17-bug")
def bug(answer, cases):
    def library(a, b, initial):
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
    right = [library, by_doubling, by_steps]
    expect_finds_bug(answer, right=right, bugs=bugs, cases=cases)
