"""Checks of chapter 16."""

import math
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.nn import functional

from linear_time.exercises import (
    Wrong,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
)
from linear_time.selective import selective_scan

F64 = torch.float64


def system(channels, N, length, seed=0):
    """u, delta, A, B, C of one sequence, in the library's layout."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(*sizes, generator=generator, dtype=F64)

    return (
        normal(1, channels, length),
        normal(1, channels, length).exp(),
        -normal(channels, N).exp(),
        normal(1, N, length),
        normal(1, N, length),
    )


@contextmanager
def own_work():
    """Refuse the library's scans while an answer runs."""

    def refuse(*_, **__):
        raise Wrong("Expected a scan of your own, got a call of the library's.")

    with patch("linear_time.selective._arguments", refuse):
        yield


@exercise("16-twins")
def twins(answer):
    for n_tokens, i in ((3, 1), (8, 1), (8, 3), (8, 6), (5, 2)):
        given = f"n_tokens {n_tokens}, i = {i}"
        rows = torch.as_tensor(answer(n_tokens, i))
        expect(
            rows.ndim == 2 and len(rows) == 4 and not rows.is_floating_point(),
            f"For {given}: expected whole numbers of shape (4, places), "
            f"got {rows.dtype} of shape {tuple(rows.shape)}.",
        )
        expect(
            int(rows.min()) >= 0 and int(rows.max()) <= 14,
            f"For {given}: expected numbers from 0 to 14, got "
            f"{int(rows.min())} to {int(rows.max())}.",
        )
        for k, row in enumerate(rows):
            data = row[row > 0].tolist()
            expect_equal(len(data), n_tokens, f"{given}, tokens in row {k}")
            wanted = 3 if k < 2 else 7
            expect_equal(data[i], wanted, f"{given}, token {i} of row {k}")
        for place, column in enumerate(rows.T.tolist()):
            expect_equal(
                sorted(column[2:]),
                sorted(column[:2]),
                f"{given}, the tokens in place {place} of rows 2 and 3",
            )


@exercise("16-scan")
def scan(answer):
    for channels, N, length in ((1, 1, 1), (2, 3, 7), (3, 2, 20)):
        u, delta, A, B, C = system(channels, N, length)
        start = torch.linspace(-1, 2, channels * N, dtype=F64)
        start = start.view(1, channels, N)
        wanted = selective_scan(
            *(u, delta, A, B, C),
            initial_state=start,
            return_last_state=True,
            rule="zero_order_hold",
        )
        inputs = (u[0], delta[0], A, B[0], C[0], start[0])
        with own_work():
            got = answer(*(x.clone() for x in inputs))
        given = f"{channels} channels, N = {N}, length {length}"
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            f"For {given}: expected (y, last_state), got {type(got).__name__}.",
        )
        expect_close(got[0], wanted[0][0], f"{given}, y")
        expect_close(got[1], wanted[1][0], f"{given}, the last state")


@exercise("16-gate")
def gate(answer):
    small = [(-m * 10.0**-k, 1.0) for k in range(1, 13) for m in (1, 3, 9)]
    for a, delta in (
        *((-1.0, 1.0), (-16.0, 0.1), (-100.0, 10.0), (0.0, 0.5), (-1e-9, 1e-3)),
        *small,
    ):
        z = a * delta
        wanted = math.expm1(z) / z if z else 1.0
        given = f"a = {a:g}, Δ = {delta:g}"
        expect_close(answer(a, delta), wanted, given, rtol=1e-10, atol=0.0)


@exercise("16-audit")
def audit(answer):
    for rule in ("exponential_euler", "zero_order_hold", "exponential_euler"):

        def hidden(u, delta, A, B, C, rule=rule):
            return selective_scan(u, delta, A, B, C, rule=rule)

        expect_equal(answer(hidden), rule, f"a scan that runs {rule}")


@exercise("16-kernel")
def kernel(answer):
    for N, length in ((1, 2), (3, 6), (2, 40), (2, 400)):
        _, delta, A, B, C = system(1, N, length)
        unit = torch.eye(length, dtype=F64).unsqueeze(1)  # one impulse a row
        columns = selective_scan(
            unit,
            delta.expand(length, 1, length),
            A,
            B.expand(length, N, length),
            C.expand(length, N, length),
        )[:, 0]
        with own_work():
            got = answer(delta[0, 0].clone(), A[0].clone(), B[0], C[0])
        expect_close(got, columns.T, f"N = {N}, length {length}")


@exercise("16-bits")
def bits(answer):
    function, pairs = answer()
    for n, V, p in ((10, 16, 1.0), (7, 2, 0.9), (100, 8192, 0.5), (5, 4, 0.25)):
        q = 1 - p
        entropy = -sum(x * math.log2(x) for x in (p, q) if x > 0)
        wanted = n * (math.log2(V) - entropy - q * math.log2(V - 1))
        given = f"n = {n}, V = {V}, p = {p}"
        expect_close(function(n, V, p), wanted, given, atol=1e-7)
    expect_equal(pairs, 2048 * 16 * 16 // 13, "the layer of 2048 × 16 numbers")


@exercise("16-bug")
def bug(answer):
    def changed(change):
        def scan(u, delta, A, B, C, D=None, z=None, delta_bias=None,
                 delta_softplus=False, return_last_state=False, *,
                 initial_state=None, rule="exponential_euler"):  # fmt: skip
            named = dict(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z)
            named |= dict(delta_bias=delta_bias, initial_state=initial_state)
            named = change(named)
            after = named.pop("after", lambda y: y)
            result = selective_scan(
                **named,
                delta_softplus=delta_softplus,
                return_last_state=return_last_state,
                rule=rule,
            )
            if return_last_state:
                return after(result[0]), result[1]
            return after(result)

        return scan

    def late(x):
        return functional.pad(x[..., :-1], (1, 0))

    def ungated_skip(t):
        D, u = t["D"], t["u"]
        if D is None:
            return t
        return t | {"D": None, "after": lambda y: y + D[:, None] * u}

    bugs = {
        "the bias of the step is lost": changed(
            lambda t: t | {"delta_bias": None}
        ),
        "the input is one step late": changed(
            lambda t: t | {"u": late(t["u"])}
        ),
        "B and C are exchanged": changed(
            lambda t: t | {"B": t["C"], "C": t["B"]}
        ),
        "the initial state is forgotten": changed(
            lambda t: t | {"initial_state": None}
        ),
        "the gate leaves out the direct term": changed(ungated_skip),
        "B is one step late": changed(lambda t: t | {"B": late(t["B"])}),
    }
    expect_finds_bug(answer, selective_scan, bugs, "implementation")
