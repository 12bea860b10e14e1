"""Checks of chapter 13."""

import math

import torch

from linear_time.convolution import (
    causal_convolution,
    circular_convolution,
    kernel,
    time_varying_matrix,
    toeplitz,
)
from linear_time.exercises import (
    Calls,
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
    for length in (1, 2, 3, 8, 13, 500):
        given = A_BAR.clone(), B_BAR.clone(), C.clone(), length
        with Calls() as calls:
            got = answer(*given)
        expect_close(got, kernel(A_BAR, B_BAR, C, length), f"length = {length}")
    most = 25 * math.ceil(math.log2(length))
    expect(
        len(calls.names) <= most,
        f"For length = {length}: expected at most {most} calls to torch, "
        f"25 a doubling, got {len(calls.names)}.",
    )


@exercise("13-polynomial")
def polynomial(answer):
    for length in (1, 4, 7):
        taps = torch.arange(1.0, length + 1, dtype=F64)
        with Calls() as calls:
            got = answer(X[:length].clone(), taps.clone())
        given = f"x = {X[:length].tolist()}, taps = {taps.tolist()}"
        expect_close(got, causal_convolution(X[:length], taps), given)
        used = sorted({name for name in calls.names if "fft" in name})
        expect(not used, f"Expected no FFT, got {', '.join(used)}.")


@exercise("13-padding")
def padding(answer):
    for length, taps in ((8, 8), (10, 1), (7, 3), (1, 1), (1024, 16)):
        given = f"length = {length}, taps = {taps}"
        expect_equal(answer(length, taps), length + taps - 1, given)


@exercise("13-envelope")
def envelope(answer):
    right = {
        "where the FFT takes fewer than the matrix": 64,
        "where the dense recurrence takes fewer than the matrix": 1024,
        "where the diagonal recurrence takes fewer than the FFT": 2**15,
    }
    got = answer()
    expect(
        isinstance(got, tuple | list) and len(got) == 3,
        f"Expected three lengths, got {got!r}.",
    )
    for (given, want), have in zip(right.items(), got, strict=True):
        expect_equal(have, want, f"the first L, a power of two, {given}")


@exercise("13-leak")
def leak(answer):
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
    expect_finds_bug(
        answer, causal_convolution, bugs, "implementation of the layer"
    )


@exercise("13-varying")
def varying(answer):
    taps = kernel(A_BAR, B_BAR, C, 6)
    for size in (1.0, 1e-9, 1e9):
        noise = 1 + 1e-15 * torch.arange(36, dtype=F64).reshape(6, 6)
        got = answer(size * toeplitz(taps) * noise)
        given = (
            f"a Toeplitz matrix of weights up to {size * taps.abs().max():.1g}"
        )
        expect(got is not None, f"For {given}: expected its kernel, got None.")
        expect_close(got, size * taps, given, atol=0.0)
    steps = torch.linspace(0.5, 1.5, 6, dtype=F64)[:, None, None]
    by_step = A_BAR * steps, B_BAR.expand(6, 2), C.expand(6, 2)
    upper = toeplitz(taps)
    upper[0, 3] = 1.0
    changing = time_varying_matrix(*by_step)
    matrices = {
        "a system whose Ā changes": changing,
        "a system whose Ā changes, of small weights": 1e-9 * changing,
        "a Toeplitz matrix with one entry above the diagonal": upper,
    }
    for given, matrix in matrices.items():
        if answer(matrix) is not None:
            raise Wrong(f"For {given}: expected None, got a kernel.")
