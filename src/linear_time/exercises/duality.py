"""Checks of chapter 20."""

from typing import Any

import sympy as sp
import torch
from torch import Tensor
from torch.nn import functional

from linear_time.duality import (
    mamba2_cost,
    segment_sums,
    ssd,
    ssd_matrix,
    ssd_recurrent,
)
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    neutral,
    plain,
)
from linear_time.exercises.estimate import expect_quantity
from linear_time.exercises.proof import expect_lines

F64 = torch.float64


@exercise("20-mask")
def mask(answer, cases):
    for length in (1, 2, cases.integer(5, 30)):
        log_a = -cases.randn(2, length).abs()
        wanted = segment_sums(log_a).exp()
        c = log_a.cumsum(-1)
        slips = {
            "the diagonal is the step's own decay; nothing lies between s "
            "and s": (wanted * log_a.exp()[:, None, :]).tril(),
            "entries above the diagonal are not 0": (
                c[..., None] - c[:, None, :]
            ).exp(),
            "those are the sums; the mask is their exp": segment_sums(log_a),
        }
        expect_close(
            answer(log_a.clone()), wanted, f"2 rows of {length}", slips=slips
        )
    length, reset = cases.integer(40, 60), cases.integer(3, 12)
    log_a = torch.full((1, length), -1e-3, dtype=torch.float32)
    log_a[0, reset] = -1e6
    expect_close(
        answer(log_a.clone()).double(),
        segment_sums(log_a.double()).exp(),
        f"float32, {length} steps, and one that forgets all: sums of what "
        "comes after it",
        rtol=1e-4,
        atol=1e-6,
    )
    log_a = torch.full((1, 300), -cases.uniform(8, 12), dtype=F64)
    expect_close(
        answer(log_a.clone()),
        segment_sums(log_a).exp(),
        "300 steps that all forget nearly everything",
    )
    exact = segment_sums(log_a).exp()
    _expect_gradient(answer, log_a, torch.ones_like(exact))
    log_a = -cases.randn(1, 12).abs()
    _expect_gradient(answer, log_a, cases.randn(1, 12, 12))


def _expect_gradient(answer, log_a, weight):
    """As of the segment sums; from another process no gradient can come."""
    leaf, own = (log_a.clone().requires_grad_() for _ in range(2))
    made, given = answer(leaf), f"{log_a.shape[1]} steps, the gradient"
    expect(
        isinstance(made, Tensor) and made.requires_grad,
        f"{given}: what comes has none.",
    )
    if made.grad_fn is None:
        return
    (grad,) = torch.autograd.grad((weight * made).sum(), leaf)
    expect(
        bool(grad.isfinite().all()),
        f"{given} is not finite; mask before the exponential.",
    )
    exact = segment_sums(own).exp()
    (wanted,) = torch.autograd.grad((weight * exact).sum(), own)
    expect_close(grad, wanted, given)


def one_head(cases, length, N, P=3):
    """x, the logarithms of the decays, B and C of one head."""
    x, B, C = (cases.randn(length, n) for n in (P, N, N))
    return x, -cases.randn(length).abs(), B, C


def whole(log_a, B, C):
    """M of one head, Δ in its x."""
    return segment_sums(log_a).exp() * (C @ B.mT)


@exercise("20-factors")
def factors(answer, cases):
    for length, N in ((2, 1), (cases.integer(9, 30), cases.integer(2, 5))):
        _, log_a, B, C = one_head(cases, length, N)
        M = whole(log_a, B, C)
        for cut in {1, length // 2, length - 1}:
            given = f"length {length}, N = {N}, cut at {cut}"
            got = plain(answer(log_a.clone(), B.clone(), C.clone(), cut))
            expect(
                isinstance(got, tuple | list) and len(got) == 2,
                f"{given}: expected two matrices.",
            )
            left, right = got
            for name, value, sizes in (
                ("left", left, (length - cut, N)),
                ("right", right, (N, cut)),
            ):
                expect(
                    isinstance(value, Tensor) and value.shape == sizes,
                    f"{given}: expected a {name} factor of shape {sizes}.",
                )
            between = log_a[cut].exp()
            expect_close(
                left @ right,
                M[cut:, :cut],
                f"{given}: the product",
                slips={
                    "the decay of the step at the cut is missing": M[cut:, :cut]
                    / between,
                    "the decay of the step at the cut counts twice": M[
                        cut:, :cut
                    ]
                    * between,
                },
            )


@exercise("20-states")
def states(answer, cases):
    for length, N in ((1, 1), (2, 3), (cases.integer(5, 20), 4)):
        x, log_a, B, _ = one_head(cases, length, N)
        c = log_a.cumsum(0)
        until = (c[-1] - c).exp()[:, None]

        def state(weight, x=x, B=B):
            return (weight * x).mT @ B

        expect_close(
            answer(x.clone(), log_a.clone(), B.clone()),
            state(until),
            f"a chunk of {length} steps",
            slips={
                "that is the decay since the chunk's start; what counts is "
                "until its end": state(c.exp()[:, None]),
                "a step's own decay acts on what it writes": state(
                    until * log_a.exp()[:, None]
                ),
                "nothing decays": state(torch.ones_like(until)),
            },
        )


def _square_and_rest(c):
    def form(line):
        parts = sp.Add.make_args(line)
        squares = [
            part
            for part in parts
            if any(
                f.is_Pow and f.exp == 2 and f.base.is_Add and f.has(c)
                for f in sp.Mul.make_args(part)
            )
        ]
        rest = [p for p in parts if not p.has(c)]
        # What a square is multiplied by is seen to be above 0.
        others = [
            f
            for part in squares
            for f in sp.Mul.make_args(part)
            if not (f.is_Pow and f.exp == 2 and f.base.is_Add)
        ]
        return (
            len(squares) == 1
            and all(f.is_positive for f in others)
            and len(rest) == len(parts) - 1 > 0
            and sp.Add(*rest).is_positive is True
        )

    return form


@exercise("20-chunk")
def chunk(answer, cases):
    c, P, N = sp.symbols("c P N", positive=True)
    expect_lines(
        answer(c, P, N),
        c + P * N / c,
        [
            (
                "a sum of two squares, of √c and of √(PN/c) in some form",
                lambda line: True,
            ),
            (
                "one square with c in it, and a rest above 0 without c",
                _square_and_rest(c),
            ),
        ],
        cases,
    )


def _normed(x, weight, groups):
    parts = x.unflatten(-1, (groups, -1))
    parts = parts / (parts.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return parts.flatten(-2) * weight


def _box(gate_first, groups, weight):
    """A norm and a gate, of which the signature tells nothing."""

    def box(y, z):
        gate = functional.silu(z)
        if gate_first:
            return _normed(y * gate, weight, groups)
        return _normed(y, weight, groups) * gate

    return box


@exercise("20-order")
def order(answer, cases):
    for gate_first in cases.shuffled([True, False, True, False]):
        groups = cases.choice([1, 2, 3, 4, 6])
        d = 12 * cases.integer(1, 3)
        weight = 0.5 + cases.randn(d).abs()

        got = plain(answer(neutral(_box(gate_first, groups, weight)), d))
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            "Expected a pair (gate_first, groups).",
        )
        given = f"a box of {d} channels"
        expect(type(got[0]) is bool, f"{given}: expected True or False first.")
        expect(
            got[0] == gate_first, f"{given}: gate and norm, the other order."
        )
        expect_equal(got[1], groups, f"{given}: the groups of the norm")


@exercise("20-serve")
def serve(answer, cases):
    drawn = [
        (
            cases.integer(1, 500),
            cases.integer(2, 64),
            64 * cases.integer(1, 40),
            cases.choice([16, 64, 128]),
            cases.choice([1, 8]),
            cases.choice([2, 4]),
        )
        for _ in range(4)
    ]
    for users, n_layer, d_model, N, groups, size in (
        (3, 2, 512, 16, 8, 2),  # where B and C in the window count
        *drawn,
    ):
        state = 2 * d_model * N + 3 * (2 * d_model + 2 * groups * N)
        if groups <= 2 * d_model // 64:
            made = mamba2_cost(1, d_model, N, groups=groups).state
            expect(made == state, "the library counts another state")
        scale = users * n_layer * size / 1e6
        expect_quantity(
            answer(users, n_layer, d_model, N, groups, size),
            scale * state,
            "MB",
            f"{users} users, {n_layer} blocks of width {d_model}, N = {N}, "
            f"{groups} groups, {size} bytes a number",
            factor=1.005,
            slips={
                "the convolution's window is missing": scale * 2 * d_model * N,
                "the window holds u alone, and B and C pass the taps too": scale
                * (2 * d_model * N + 6 * d_model),
                "the window holds one input less than there are taps": scale
                * (2 * d_model * N + 4 * (2 * d_model + 2 * groups * N)),
                "half as wide inside": scale * d_model * N,
            },
        )


def _by_chunks(chunk: int, **wrong: bool) -> Any:
    """ssd by a loop over chunks, right or with a bug."""

    def run(x, delta, A, B, C, initial):
        heads, groups = x.shape[2], B.shape[2]
        order = torch.arange(heads)
        order = (
            order % groups if "groups" in wrong else order // (heads // groups)
        )
        B, C, S, outputs = B[:, :, order], C[:, :, order], initial, []
        if "initial" in wrong:
            S = torch.zeros_like(S)
        length = x.shape[1]
        for start in range(0, length, chunk):
            at = slice(start, min(start + chunk, length))
            part = x[:, at], delta[:, at], A, B[:, at], C[:, at]
            log_a = (delta[:, at] * A).mT  # (batch, heads, steps)
            c = log_a.cumsum(-1)
            M = ssd_matrix(*part[1:])
            if "own" in wrong:
                M = M * log_a.exp()[:, :, None]
            y = M @ part[0].transpose(1, 2)
            since = torch.ones_like(c) if "read" in wrong else c.exp()
            read = (S @ part[4].permute(0, 2, 3, 1)).mT * since[..., None]
            outputs.append((y + read).transpose(1, 2))
            _, added = ssd_recurrent(*part, None, True)
            passed = c[..., -1, None, None].exp()
            passed = torch.ones_like(passed) if "walk" in wrong else passed
            tail = "tail" in wrong and at.stop - start < chunk
            S = S if tail else passed * S + added
        return torch.cat(outputs, 1), S

    return run


@exercise("20-bug")
def bug(answer, cases):
    def library(x, delta, A, B, C, initial):
        return ssd(
            x, delta, A, B, C, None, True, initial_state=initial, chunk=16
        )

    def steps(x, delta, A, B, C, initial):
        return ssd_recurrent(
            x, delta, A, B, C, None, True, initial_state=initial
        )

    expect_finds_bug(
        answer,
        right=[library, steps, _by_chunks(8)],
        bugs={
            "head h reads group h mod groups": _by_chunks(8, groups=True),
            "the first state is ignored": _by_chunks(8, initial=True),
            "a step's own decay acts on what it writes": _by_chunks(
                8, own=True
            ),
            "what entered a chunk does not decay when it is read": _by_chunks(
                8, read=True
            ),
            "states do not decay from chunk to chunk": _by_chunks(8, walk=True),
            "a chunk that is not full leaves no state": _by_chunks(
                8, tail=True
            ),
        },
        cases=cases,
    )
