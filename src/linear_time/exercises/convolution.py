"""Checks of chapter 13."""

import torch

from linear_time.convolution import (
    causal_convolution,
    circular_convolution,
    kernel,
    time_varying_matrix,
    toeplitz,
)
from linear_time.exercises import (
    Wrong,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
)

F64 = torch.float64
A_BAR = torch.tensor([[0.6, 0.5], [-0.3, 0.8]], dtype=F64)
B_BAR = torch.tensor([1.0, -0.5], dtype=F64)
C = torch.tensor([0.3, 2.0], dtype=F64)
X = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0, 2.0, 4.0], dtype=F64)


@exercise("13-doubling")
def doubling(answer):
    for length in (1, 2, 3, 8, 13):
        got = answer(A_BAR.clone(), B_BAR.clone(), C.clone(), length)
        expect_close(got, kernel(A_BAR, B_BAR, C, length), f"length = {length}")


@exercise("13-polynomial")
def polynomial(answer):
    for length in (1, 4, 7):
        taps = torch.arange(1.0, length + 1, dtype=F64)
        got = answer(X[:length].clone(), taps.clone())
        given = f"x = {X[:length].tolist()}, taps = {taps.tolist()}"
        expect_close(got, causal_convolution(X[:length], taps), given)


@exercise("13-padding")
def padding(answer):
    for length, taps in ((8, 8), (10, 1), (7, 3), (1, 1), (1024, 16)):
        given = f"length = {length}, taps = {taps}"
        expect_equal(answer(length, taps), length + taps - 1, given)


@exercise("13-envelope")
def envelope(answer):
    transform, steps = answer()
    given = "the first L, a power of two, where the FFT takes fewer"
    expect_equal(transform, 64, given)
    given = "the first L, a power of two, where the recurrence takes fewer"
    expect_equal(steps, 1024, given)


@exercise("13-leak")
def leak(answer):
    def shifted(x, taps):
        y = causal_convolution(x, taps)
        return torch.cat([torch.zeros(1, dtype=y.dtype), y[:-1]])

    bugs = {
        "the FFT is not padded": circular_convolution,
        "the output is one step late": shifted,
        "the kernel runs backwards": lambda x, taps: causal_convolution(
            x, taps.flip(-1)
        ),
        "the last tap is dropped": lambda x, taps: causal_convolution(
            x, torch.cat([taps[:-1], torch.zeros(1, dtype=taps.dtype)])
        ),
    }
    expect_finds_bug(answer, causal_convolution, bugs, "layer")


@exercise("13-varying")
def varying(answer):
    taps = kernel(A_BAR, B_BAR, C, 6)
    got = answer(toeplitz(taps))
    expect(
        got is not None,
        "For a Toeplitz matrix: expected its kernel, got None.",
    )
    expect_close(got, taps, "a Toeplitz matrix")
    steps = torch.linspace(0.5, 1.5, 6, dtype=F64)[:, None, None]
    by_step = A_BAR * steps, B_BAR.expand(6, 2), C.expand(6, 2)
    upper = toeplitz(taps)
    upper[0, 3] = 1.0
    matrices = {
        "a system whose Ā changes": time_varying_matrix(*by_step),
        "a Toeplitz matrix with one entry above the diagonal": upper,
    }
    for given, matrix in matrices.items():
        if answer(matrix) is not None:
            raise Wrong(f"For {given}: expected None, got a kernel.")
