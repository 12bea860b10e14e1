"""Checks of chapter 13."""

import math

import sympy as sp
import torch

from linear_time.convolution import (
    causal_convolution,
    circular_convolution,
    kernel,
    time_varying_matrix,
    toeplitz,
)
from linear_time.datasets import ecg
from linear_time.discretization import zero_order_hold
from linear_time.exercises import (
    Calls,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    plain,
)
from linear_time.exercises.estimate import expect_reading
from linear_time.exercises.proof import expect_lines
from linear_time.state_space import low_pass

F64 = torch.float64


def system(cases, N):
    """Ā, B̄, C that neither grow nor die out at once, nothing symmetric."""
    A_bar = cases.randn(N, N)
    A_bar = 0.95 * A_bar / torch.linalg.eigvals(A_bar).abs().max()
    return A_bar, cases.randn(N), cases.randn(N)


@exercise("13-doubling")
def doubling(answer, cases):
    lengths = [1, 2, 3, 8, cases.integer(9, 60), cases.integer(400, 600)]
    for length in lengths:
        N = cases.integer(2, 5)
        A_bar, B_bar, C = system(cases, N)
        given = A_bar.clone(), B_bar.clone(), C.clone(), length
        with Calls() as calls:
            got = answer(*given)
        slips = {
            "it begins with C Ā B̄, a step too late": kernel(
                A_bar, A_bar @ B_bar, C, length
            ),
            "Ā is transposed": kernel(A_bar.mT.contiguous(), B_bar, C, length),
        }
        expect_close(
            got,
            kernel(A_bar, B_bar, C, length),
            f"{N} states, length = {length}",
            slips=slips,
        )
    most = 25 * math.ceil(math.log2(length))
    expect(
        len(calls.names) <= most,
        f"For length = {length}: expected at most {most} calls to torch, "
        f"25 a doubling, got {len(calls.names)}.",
    )


def _count(line, kind):
    return len(line.atoms(kind))


@exercise("13-rest")
def rest(answer, cases):
    names = cases.choice([("a", "b", "c"), ("p", "q", "r"), ("u", "v", "w")])
    a, b, c = (sp.Symbol(name, positive=True) for name in names)
    n = sp.Symbol("n", integer=True, positive=True)
    i = sp.Symbol("i", integer=True, nonnegative=True)
    start = sp.Sum(c * a**i * b, (i, 0, n - 1))
    limit = c * b / (1 - a)
    forms = [
        (
            "what does not depend on i stands before the sum",
            lambda line: (
                all(
                    not (total.free_symbols & {b, c})
                    for total in line.atoms(sp.Sum)
                )
                and line.has(sp.Sum)
            ),
        ),
        ("free of sums", lambda line: not line.has(sp.Sum)),
        (
            "the limit for n → ∞, and what is missing from it, as two terms",
            lambda line: (
                isinstance(line, sp.Add)
                and len(line.args) == 2
                and any(sp.simplify(term - limit) == 0 for term in line.args)
            ),
        ),
    ]
    expect_lines(answer(a, b, c, n, i), start, forms, cases)


@exercise("13-taps")
def taps(answer, cases):
    """What the figure draws, computed once more."""
    filter_, delta = low_pass(40.0), ecg().delta
    A_bar, B_bar = zero_order_hold(filter_.A.to(F64), filter_.B.to(F64), delta)
    K = kernel(A_bar, B_bar, filter_.C.to(F64), 32)
    sign = int((K < 0).int().argmax())
    right = {
        "largest": (float(K.max()), 1.1, {"that is the entry of age 0": float(K[0])}),
        "turns": (
            1000 * delta * sign,
            1.15,
            {
                "that is an age in steps": float(sign),
                "that is in seconds": delta * sign,
            },
        ),
        "sum": (
            float(K.sum()),
            1.15,
            {"a sum is no mean": float(K.mean())},
        ),
    }  # fmt: skip
    got = plain(answer())
    expect(
        isinstance(got, dict) and set(got) == set(right),
        f"Expected a dictionary with the keys {', '.join(right)}.",
    )
    for name, (value, factor, slips) in right.items():
        expect_reading(got[name], value, name, factor=factor, slips=slips)


@exercise("13-padding")
def padding(answer, cases):
    drawn = [
        (n, cases.integer(1, n))
        for n in (cases.integer(2, 3000) for _ in range(4))
    ]
    for length, size in ((8, 8), (10, 1), (1, 1), *drawn):
        expect_equal(
            answer(length, size),
            length + size - 1,
            f"length = {length}, taps = {size}",
            slips={
                "one more than needed": length + size,
                "the last product still wraps": length + size - 2,
                "that is enough for the longest kernel; this one is shorter": 2
                * length,
            },
        )


@exercise("13-envelope")
def envelope(answer, cases):
    for N in (1, 16, *cases.shuffled(range(2, 16))[:2], cases.integer(17, 20)):
        lengths = [2**k for k in range(30)]

        def first(fewer, lengths=lengths):
            """From which length on it stays so."""
            return next(
                L for k, L in enumerate(lengths) if all(map(fewer, lengths[k:]))
            )

        def matrix(L):
            return L * (L + 1) // 2

        def fft(L):
            return 3 * L * int(math.log2(2 * L)) + 2 * L

        right = {
            "where the FFT takes fewer than the matrix": first(
                lambda L: fft(L) < matrix(L)
            ),
            "where the dense recurrence takes fewer than the matrix": first(
                lambda L, N=N: matrix(L) > (N**2 + 2 * N) * L
            ),
            "where the diagonal recurrence takes fewer than the FFT": first(
                lambda L, N=N: fft(L) > 3 * N * L
            ),
        }
        got = plain(answer(N))
        expect(
            isinstance(got, tuple | list) and len(got) == 3,
            f"For N = {N}: expected three lengths.",
        )
        for (given, want), have in zip(right.items(), got, strict=False):
            text = f"N = {N}, the first L, a power of two, {given}"
            expect_equal(have, want, text)


def by_matrix(x, taps):
    """Right, by the Toeplitz matrix."""
    return toeplitz(taps) @ x


def by_definition(x, taps):
    """Right, one product after the other."""
    y = torch.zeros_like(x)
    for t in range(len(x)):
        for s in range(t + 1):
            y[t] += taps[t - s] * x[s]
    return y


@exercise("13-leak")
def leak(answer, cases):
    def shifted(x, taps):
        y = causal_convolution(x, taps)
        return torch.cat([torch.zeros(1, dtype=y.dtype), y[:-1]])

    def one_short(x, taps):
        n = x.shape[-1] + taps.shape[-1] - 2
        spectrum = torch.fft.rfft(x, n=n) * torch.fft.rfft(taps, n=n)
        return torch.fft.irfft(spectrum, n=n)[..., : x.shape[-1]]

    bugs = {
        "the FFT is not padded": circular_convolution,
        "the FFT is padded by one zero too few": one_short,
        "the output is one step late": shifted,
        "the kernel runs backwards": lambda x, taps: causal_convolution(
            x, taps.flip(-1)
        ),
        "the last tap is dropped": lambda x, taps: causal_convolution(
            x, torch.cat([taps[:-1], torch.zeros(1, dtype=taps.dtype)])
        ),
    }
    right = [causal_convolution, by_matrix, by_definition]
    what = "implementation of the layer"
    expect_finds_bug(answer, right=right, bugs=bugs, what=what, cases=cases)


@exercise("13-varying")
def varying(answer, cases):
    n = cases.integer(5, 9)
    A_bar, B_bar, C = system(cases, 2)
    taps = kernel(A_bar, B_bar, C, n)
    rounding = 1 + 1e-15 * torch.arange(n * n, dtype=F64).reshape(n, n)
    for size in (1.0, 1e-9, 1e9):
        got = answer(size * toeplitz(taps) * rounding)
        largest = size * taps.abs().max()
        given = f"a Toeplitz matrix of weights up to {largest:.1g}"
        expect_close(got, size * taps, given, atol=0.0)
    steps = torch.linspace(0.5, 1.5, n, dtype=F64)[:, None, None]
    by_step = A_bar * steps, B_bar.expand(n, 2), C.expand(n, 2)
    upper, late = toeplitz(taps), toeplitz(taps)
    upper[0, cases.integer(2, n - 1)] = float(taps.abs().max())
    late[n - 1, cases.integer(1, n - 2)] *= 1 + 1e-3
    late[n - 1, n - 1] += 1e-3 * float(taps.abs().max())
    changing = time_varying_matrix(*by_step)
    matrices = {
        "a system whose Ā changes": changing,
        "a system whose Ā changes, of small weights": 1e-9 * changing,
        "a Toeplitz matrix with one entry above the diagonal": upper,
        "a Toeplitz matrix whose last row is off": late,
    }
    for given, matrix in matrices.items():
        got = plain(answer(matrix))
        expect(got is None, f"For {given}: expected None, got a kernel.")
