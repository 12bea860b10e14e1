"""Checks of chapter 05."""

import sys
from contextlib import contextmanager

import torch
from torch.utils.flop_counter import FlopCounterMode

from linear_time.exercises import (
    Wrong,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    randn,
)


@exercise("05-fold")
def fold(answer):
    for k, d in ((3, 4), (1, 2)):
        W1, V1 = randn(k, 6), randn(5, d, seed=1)
        W2, V2 = randn(2, k, seed=2), randn(d, 3, seed=3)
        W, V = answer(W1.clone(), V1.clone(), W2.clone(), V2.clone())
        X = randn(6, 5, seed=4)
        given = f"W1 (k, 6), V1 (5, d), W2 (2, k), V2 (d, 3), k = {k}, d = {d}"
        expect_equal(tuple(W.shape), (2, 6), f"{given}, the shape of W")
        expect_equal(tuple(V.shape), (5, 3), f"{given}, the shape of V")
        expect_close(W @ X @ V, W2 @ (W1 @ X @ V1) @ V2, given)


@exercise("05-budget")
def budget(answer):
    for n, d, share in (
        (4096, 64, 0.1),
        (256, 64, 0.5),
        (64, 256, 0.25),
        (16, 8, 1.0),
        (16, 8, 2.0),
        (100, 32, 0.001),
    ):
        whole = share * (8 * n * d**2 + 4 * n**2 * d)
        m = 0
        while m < n and (
            2 * (m + 1) * n * d + 8 * (m + 1) * d**2 + 4 * (m + 1) ** 2 * d
            <= whole
        ):
            m += 1
        expect_equal(answer(n, d, share), m, f"n = {n}, d = {d}, {share = }")


@exercise("05-decoder")
def decoder(answer):
    for n, m, columns in ((6, 2, 30), (5, 5, 9), (4, 1, 4)):
        W = randn(m, n)
        X = randn(n, columns, seed=1) * torch.arange(1.0, n + 1)[:, None]
        best = X @ torch.linalg.pinv(W @ X)
        got = answer(W.clone(), X.clone())
        expect_close(got, best, f"W {(m, n)} and X {(n, columns)}", rtol=1e-5)


@exercise("05-split")
def split(answer):
    for m, n_user, n_candidate, count, d in (
        (4, 30, 3, 20, 5),
        (3, 2, 7, 1, 4),
    ):
        W = randn(m, n_user + n_candidate)
        user = randn(n_user, d, seed=1)
        candidates = randn(count, n_candidate, d, seed=2)
        with FlopCounterMode(display=False) as flops:
            got = answer(W.clone(), user.clone(), candidates.clone())
        whole = torch.cat([user.expand(count, -1, -1), candidates], dim=1)
        given = (
            f"{n_user} tokens of a user, {count} candidates of {n_candidate}"
        )
        expect_close(got, W @ whole, given)
        # Not fewer either: a half that is no matrix product is not counted.
        need = 2 * m * d * (n_user + count * n_candidate)
        expect_equal(
            flops.get_total_flops(),
            need,
            f"{given}, the operations of matrix products (the user's half "
            "once, the candidates' half once each)",
        )


@exercise("05-causal")
def causal(answer):
    mask, share = answer
    for n, s in ((8, 2), (12, 4), (5, 1), (6, 6), (5, 2), (11, 3)):
        rows, columns = torch.meshgrid(
            torch.arange(n // s), torch.arange(n), indexing="ij"
        )
        want = columns < (rows + 1) * s
        got = mask(n, s)
        expect(
            isinstance(got, torch.Tensor) and got.dtype == torch.bool,
            f"For n = {n}, s = {s}: expected a boolean tensor.",
        )
        expect_close(got.double(), want.double(), f"n = {n}, s = {s}, the mask")
        expect_close(
            share(n, s), want.double().mean(), f"n = {n}, s = {s}, the share"
        )
    given = "n = 10^7, s = 1, the share"
    with at_most(100, "lines of Python: a formula, without a loop"):
        try:
            many = share(10**7, 1)  # a mask of 10^14 entries fits nowhere
        except (MemoryError, RuntimeError):
            raise Wrong(
                "Expected a formula for the share, without the mask."
            ) from None
    expect_close(many, 0.5, given, rtol=1e-6)


@contextmanager
def at_most(lines, what):
    """Refuse an answer that executes more lines of Python than these."""
    before, done = sys.gettrace(), 0

    def trace(frame, event, _):
        nonlocal done
        done += event == "line"
        if done > lines:
            raise Wrong(f"Expected at most {lines} {what}.")
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@exercise("05-bug")
def bug(answer):
    def lce(n, m):
        W = randn(m, n)
        return lambda x: W @ x

    def flat(n, m):
        def layer(x):
            d = x.shape[2]
            made = randn(m * d, n * d) @ x.flatten(1).T
            return made.T.unflatten(1, (m, d))

        return layer

    def biased(n, m):
        W, bias = randn(m, n), randn(m, 1, seed=1)
        return lambda x: W @ x + bias

    def of_the_data(n, m):
        query = randn(m, 64)

        def layer(x):
            scores = query[:, : x.shape[2]] @ x.mT
            return scores.softmax(-1) @ x

        return layer

    def first_ones(n, m):
        W = randn(m, n) * (torch.arange(n) < n - 1)
        return lambda x: W @ x

    def over_the_batch(n, m):
        W = randn(m, n)
        return lambda x: W @ x - 0.1 * (W @ x).mean(0)

    def rank_one(n, m):
        W = torch.outer(randn(m), randn(n, seed=1))
        return lambda x: W @ x

    bugs = {
        "it compresses the flattened n·d numbers": flat,
        "it adds a bias": biased,
        "its matrix depends on the data": of_the_data,
        "it never reads the last token": first_ones,
        "it mixes the examples of a batch": over_the_batch,
        "its matrix has rank one": rank_one,
    }
    expect_finds_bug(answer, lce, bugs, "layer")
