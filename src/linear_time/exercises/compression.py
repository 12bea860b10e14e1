"""Checks of chapter 05."""

import sys

import sympy as sp
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from linear_time.exercises import (
    Wrong,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    expect_parts,
    instrument,
    plain,
)
from linear_time.exercises.proof import expect_lines


@exercise("05-forms")
@torch.no_grad()
def forms(answer, cases):
    for m, n, d in (
        (2, 5, 3),
        (cases.integer(2, 5), cases.integer(6, 9), cases.integer(2, 6)),
    ):
        W, x = cases.randn(m, n), cases.randn(2, n, d)
        words = "a pair: an nn.Linear and an nn.Conv1d"
        linear, convolution = expect_parts(answer(W.clone()), 2, words)
        given = f"W ({m}, {n}) and tokens (2, {n}, {d})"
        for name, layer, act, tokens, want in (
            (
                "the linear layer, on the transposed tokens",
                linear,
                nn.functional.linear,
                x.mT,
                (W @ x).mT,
            ),
            (
                "the convolution, on the tokens",
                convolution,
                nn.functional.conv1d,
                x,
                W @ x,
            ),
        ):
            weight, bias = plain(layer.weight).double(), plain(layer.bias)
            bias = None if bias is None else bias.double()
            expect_close(act(tokens, weight, bias), want, f"{given}, {name}")


@exercise("05-budget")
def budget(answer, cases):
    drawn = [
        (cases.integer(40, 600), cases.integer(8, 80), cases.uniform(0.05, 0.8))
        for _ in range(3)
    ]
    for n, d, share in (
        (4096, 64, 0.1),
        *drawn,
        (64, 256, 0.25),
        (16, 8, 1.0),
        (16, 8, 2.0),
        (100, 32, 0.001),
    ):
        whole = share * (8 * n * d**2 + 4 * n**2 * d)

        def most(lce, whole=whole, n=n, d=d):
            m = 0
            while m < n and (
                lce * (m + 1) * n * d
                + 8 * (m + 1) * d**2
                + 4 * (m + 1) ** 2 * d
                <= whole
            ):
                m += 1
            return m

        expect_equal(
            answer(n, d, share),
            most(2),
            f"n = {n}, d = {d}, share = {share:.4g}",
            slips={
                "the compression costs something too": most(0),
                "that many are already above the budget": most(2) + 1,
                "the share is of the operations, not of the tokens": int(
                    share * n
                ),
            },
        )


@exercise("05-pythagoras")
def pythagoras(answer, cases):
    names = cases.choice([("x", "y", "f"), ("u", "v", "a"), ("p", "q", "t")])
    x, y, f = (sp.Symbol(name, real=True) for name in names)
    c, s = sp.cos(f), sp.sin(f)
    along = c * x + s * y
    start = (x - c * along) ** 2 + (y - s * along) ** 2
    length = c**2 + s**2
    want = {x**2, y**2, -(along**2)}
    lines = [
        (
            "the squares taken, the mixed terms gathered into one multiple of "
            "(q·X)², and the last term with the factor cos² + sin², the squared "
            "length of the direction",
            lambda line: (
                isinstance(line, sp.Add)
                and any(length in part.args for part in line.args)
                and any(
                    along**2 in part.args and length not in part.args
                    for part in line.args
                )
            ),
        ),
        (
            "the squared length minus the square of what lies along the direction",
            lambda line: isinstance(line, sp.Add) and set(line.args) == want,
        ),
    ]
    expect_lines(answer(x, y, f), start, lines, cases)


@exercise("05-decoder")
def decoder(answer, cases):
    n = cases.integer(4, 8)
    for m, columns in ((2, 30), (n, 2 * n), (1, n), (n - 1, 4 * n)):
        W = cases.randn(m, n)
        X = cases.randn(n, columns) * torch.arange(1.0, n + 1)[:, None]
        expect_close(
            answer(W.clone(), X.clone()),
            X @ torch.linalg.pinv(W @ X),
            f"W {(m, n)} and X {(n, columns)}",
            rtol=1e-5,
            slips={
                "that decoder knows W and not the data": torch.linalg.pinv(W)
            },
        )


@exercise("05-split")
def split(answer, cases):
    drawn = [cases.integer(2, 9) for _ in range(3)]
    for m, n_user, n_candidate, count, d in (
        (4, 30, *drawn[:2], 5),
        (3, 2, 7, 1, drawn[2]),
    ):
        W = cases.randn(m, n_user + n_candidate)
        user = cases.randn(n_user, d)
        candidates = cases.randn(count, n_candidate, d)
        with FlopCounterMode(display=False) as flops:
            got = answer(W.clone(), user.clone(), candidates.clone())
        whole = torch.cat([user.expand(count, -1, -1), candidates], dim=1)
        given = (
            f"{n_user} tokens of a user, {count} candidates of {n_candidate}"
        )
        expect_close(
            got,
            W @ whole,
            given,
            slips={"the user is not in it": W[:, n_user:] @ candidates},
        )
        # Not fewer either: a half that is no matrix product is not counted.
        need = 2 * m * d * (n_user + count * n_candidate)
        expect_equal(
            flops.get_total_flops(),
            need,
            f"{given}, the operations of matrix products (the user's half "
            "once, the candidates' half once each)",
        )


@exercise("05-causal")
def causal(answer, cases):
    words = "three things: two functions and a limit"
    mask, share, limit = expect_parts(answer, 3, words)
    drawn = [(cases.integer(7, 15), cases.integer(2, 4)) for _ in range(3)]
    for n, s in (*drawn, (5, 1), (6, 6), (5, 2)):
        rows, columns = torch.meshgrid(
            torch.arange(n // s), torch.arange(n), indexing="ij"
        )
        want = columns < (rows + 1) * s
        got = plain(mask(n, s))
        expect(
            isinstance(got, torch.Tensor) and got.dtype == torch.bool,
            f"For n = {n}, s = {s}: expected a boolean tensor.",
        )
        expect_close(
            got.double(),
            want.double(),
            f"n = {n}, s = {s}, the mask",
            slips={
                "its own window alone": (want & (columns >= rows * s)).double(),
                "its own window has been read too": (
                    (columns < rows * s).double()
                ),
            },
        )
        expect_close(
            share(n, s), want.double().mean(), f"n = {n}, s = {s}, the share"
        )
    s = cases.integer(1, 9)
    with few_lines(100):
        try:
            many = share(10**7, s)  # a mask of 10^14 entries fits nowhere
        except (MemoryError, RuntimeError):
            raise Wrong(
                "Expected a formula for the share, without the mask."
            ) from None
    given = f"n = 10^7, s = {s}, the share"
    expect_close(many, s * (10**7 // s + 1) / (2 * 10**7), given)
    expect_close(limit, 0.5, "long inputs, the share's limit")


@instrument
def few_lines(most):
    """Inside, an answer that executes more lines of Python than these is wrong."""
    before, done = sys.gettrace(), 0

    def trace(frame, event, _):
        nonlocal done
        done += event == "line"
        if done > most:
            raise Wrong(
                f"Expected at most {most} lines of Python: a formula, without a "
                "loop."
            )
        return trace

    sys.settrace(trace)
    try:
        yield None
    finally:
        sys.settrace(before)


def clicks(batch, generator):
    """Examples of 24 tokens, and whether somebody clicked on them.

    The tokens have much variance in some directions of the token axis, and
    little in others. One of the latter decides about the click.

    Args:
        batch: how many examples.
        generator: torch's, where they are drawn from.

    Returns:
        The tokens (batch, 24, 4) in float32, and a boolean (batch,).
    """
    of_the_task = torch.Generator().manual_seed(5)
    square = torch.randn(24, 24, generator=of_the_task, dtype=torch.float64)
    directions = torch.linalg.qr(square).Q.float()
    sizes = torch.logspace(0.5, -0.5, 24, dtype=torch.float32)
    drawn = torch.randn(batch, 24, 4, generator=generator, dtype=torch.float32)
    return directions @ (sizes[:, None] * drawn), drawn[:, 20, 0] > 0


@exercise("05-train")
def trained(answer, cases):
    for _ in range(2):
        words = "a pair: a LinearCompression and a linear head"
        with torch.enable_grad():
            got = answer(cases.integer(0, 10**6))
        lce, head = expect_parts(got, 2, words)
        generator = torch.Generator().manual_seed(cases.integer(0, 10**6))
        x, clicked = clicks(1000, generator)
        W = plain(lce.weight).float()
        expect_equal(tuple(W.shape), (3, 24), "the tokens, the shape of W")
        with torch.no_grad():
            logit = nn.functional.linear(
                (W @ x).flatten(1),
                plain(head.weight).float(),
                plain(head.bias).float(),
            )
        right = float(((logit[:, 0] > 0) == clicked).double().mean())
        expect(
            right > 0.85,
            f"Of 1000 new examples {right:.0%} are told rightly, where more than "
            "85 % are asked for, and 50 % are chance.",
        )


def fixed(*shape, seed=0):
    """The same numbers at each call: a layer has one matrix."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@exercise("05-bug")
def bug(answer, cases):
    seed = cases.integer(0, 10**6)

    def randn(*shape, seed=seed):
        return fixed(*shape, seed=seed)

    def lce(n, m):
        W = randn(m, n)
        return lambda x: W.to(x.dtype) @ x

    def as_convolution(n, m):
        W = randn(m, n)[:, :, None]
        return lambda x: nn.functional.conv1d(x, W.to(x.dtype))

    def in_a_loop(n, m):
        W = randn(m, n, seed=seed + 1)

        def layer(x):
            rows = [sum(w * x[:, j] for j, w in enumerate(row)) for row in W]
            return torch.stack(rows, 1)

        return layer

    def positive(n, m):
        W = randn(m, n, seed=seed + 2).abs() + 0.1
        return lambda x: (x.mT @ W.to(x.dtype).T).mT

    def flat(n, m):
        def layer(x):
            d = x.shape[2]
            made = randn(m * d, n * d) @ x.flatten(1).T
            return made.T.unflatten(1, (m, d))

        return layer

    def biased(n, m):
        W, bias = randn(m, n), randn(m, 1, seed=seed + 9)
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
        W = torch.outer(randn(m), randn(n, seed=seed + 9))
        return lambda x: W @ x

    bugs = {
        "it compresses the flattened n·d numbers": flat,
        "it adds a bias": biased,
        "its matrix depends on the data": of_the_data,
        "it never reads the last token": first_ones,
        "it mixes the examples of a batch": over_the_batch,
        "its matrix has rank one": rank_one,
    }
    right = [lce, as_convolution, in_a_loop, positive]
    expect_finds_bug(answer, right, bugs, "layer", cases=cases)
