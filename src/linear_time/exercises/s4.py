"""Checks of chapter 15."""

import math

import torch
from torch.overrides import TorchFunctionMode

from linear_time.convolution import kernel
from linear_time.discretization import bilinear
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    randn,
)
from linear_time.s4 import S4D, cauchy_kernel, truncated_output

F64, C128 = torch.float64, torch.complex128


class _Seen(TorchFunctionMode):
    """The names of torch's functions that are called inside, and how large
    the largest of their results is."""

    def __init__(self):
        self.names, self.largest = [], 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(getattr(func, "__name__", str(func)))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        return result

    def left_torch(self):
        """Whether a tensor was turned into an array or a list."""
        away = {"numpy", "__array__", "tolist", "__dlpack__"}
        return sorted(away & set(self.names))


def system(pairs, seed=0):
    """λ, P, B, C: half of the pairs of a system that decays slowly."""
    decay = 0.05 + 0.1 * torch.rand(
        pairs, generator=torch.Generator().manual_seed(seed), dtype=F64
    )
    wave = 1 + 2 * torch.arange(pairs, dtype=F64)
    P, B, C = (randn(pairs, seed=seed + k, dtype=C128) for k in (1, 2, 3))
    return torch.complex(-decay, wave), P, B, C


def dense(eigenvalues, P):
    both, column = (torch.cat([v, v.conj()]) for v in (eigenvalues, P))
    return torch.diag(both) - torch.outer(column, column.conj())


@exercise("15-cost")
def cost(answer):
    for d_model, N, length in ((1, 2, 8), (64, 64, 1024), (5, 6, 7)):
        got = answer(d_model, N, length)
        given = f"d_model = {d_model}, N = {N}, length = {length}"
        expect(
            isinstance(got, tuple | list) and len(got) == 3,
            f"For {given}: expected three numbers, got {got!r}.",
        )
        layer = S4D(d_model, N=N)
        parameters = sum(p.numel() for p in layer.parameters())
        expect_equal(got[0], d_model * length * N**2, f"{given}, powers")
        expect_equal(got[1], d_model * N, f"{given}, the state")
        expect_equal(got[2], parameters, f"{given}, parameters of S4D")


@exercise("15-pairs")
def pairs(answer):
    for n, seed in ((1, 0), (3, 5)):
        eigenvalues, _, B, C = system(n, seed)
        got = answer(eigenvalues.clone(), B.clone(), C.clone())
        given = f"{n} conjugate pairs"
        shapes = ((2 * n, 2 * n), (2 * n,), (2 * n,))
        for name, value, shape in zip("ABC", got, shapes, strict=True):
            expect(
                isinstance(value, torch.Tensor)
                and not value.is_complex()
                and tuple(value.shape) == shape,
                f"For {given}: expected a real {name} of shape {shape}.",
            )
        A_real, B_real, C_real = (v.to(F64) for v in got)
        for t in (0.0, 0.3, 2.0):
            response = C_real @ torch.linalg.matrix_exp(t * A_real) @ B_real
            wanted = 2 * (C * torch.exp(t * eigenvalues) * B).sum().real
            expect_close(response, wanted, f"{given}, C exp(tA) B at t = {t:g}")


@exercise("15-woodbury")
def woodbury(answer):
    for N, seed in ((1, 0), (4, 1), (300, 2)):
        eigenvalues = randn(N, seed=seed, dtype=C128)
        P, Q, v = (randn(N, seed=seed + k, dtype=C128) for k in (1, 2, 3))
        for alpha, beta in ((3.0 + 1j, 1 + 0.5j), (4.0 + 0j, 0j)):
            M = alpha * torch.eye(N, dtype=C128) - beta * (
                torch.diag(eigenvalues) - torch.outer(P, Q.conj())
            )
            vectors = [u.clone() for u in (eigenvalues, P, Q)]
            with _Seen() as seen:
                got = answer(*vectors, alpha, beta, v.clone())
            given = f"N = {N}, α = {alpha}, β = {beta}"
            expect_close(got, torch.linalg.solve(M, v), given, rtol=1e-8)
            expect(
                not seen.left_torch(),
                f"Expected torch's own functions, got {seen.left_torch()}.",
            )
            expect(
                seen.largest <= 4 * N and len(seen.names) <= 200,
                f"For {given}: expected O(N), some 20 calls to torch on "
                f"vectors, got {len(seen.names)} calls and a tensor of "
                f"{seen.largest:,} numbers.",
            )


@exercise("15-length")
def retarget(answer):
    eigenvalues, P, _, C = system(3, 4)
    delta = torch.tensor(0.05, dtype=F64)
    A_bar, _ = bilinear(dense(eigenvalues, P), P.new_zeros(6), delta)
    for old, new in ((8, 8), (64, 32), (5, 77), (9, 1)):
        before, after = (
            truncated_output(eigenvalues, P, C, delta, length)
            for length in (old, new)
        )
        before, after = (torch.cat([v, v.conj()]) for v in (before, after))
        got = answer(before, A_bar.clone(), old, new)
        expect_close(got, after, f"from L = {old} to {new}", rtol=1e-7)


@exercise("15-window")
def window(answer):
    for N, samples in ((64, 1024), (16, 100), (4, 3)):
        got = answer(N, samples)
        given = f"N = {N}, {samples} samples"
        expect_close(got[0], 2 / samples, f"{given}, the step")
        highest = (N / 2 - 1) / samples
        expect_close(got[1], highest, f"{given}, cycles a sample")


@exercise("15-bidirectional")
def bidirectional(answer):
    for length, seed in ((1, 0), (2, 1), (9, 2), (64, 3)):
        x, forward, backward = (
            randn(2, length, seed=seed + 10 * k) for k in range(3)
        )
        expected = torch.zeros_like(x)
        for t in range(length):
            for s in range(length):
                own = forward[:, t - s] if s <= t else backward[:, s - t - 1]
                expected[:, t] += own * x[:, s]
        with _Seen() as seen:
            got = answer(x.clone(), forward.clone(), backward.clone())
        expect_close(got, expected, f"length {length}", rtol=1e-8)
    expect(
        any("fft" in name for name in seen.names),
        "Expected causal_convolution, which takes the FFT, got none.",
    )


def _kernel(
    eigenvalues,
    P,
    B,
    C,
    delta,
    length,
    corrected=True,
    conjugate=True,
    sign=1,
    at_minus_one=None,
):
    """The Cauchy kernel with places to break it."""
    if corrected:
        C = truncated_output(eigenvalues, P, C, delta, length)
    lam, P, B, C = (torch.cat([v, v.conj()]) for v in (eigenvalues, P, B, C))
    step = torch.arange(length, dtype=F64)
    z = torch.exp(-2j * math.pi / length * step)
    alpha, beta = 2 * (1 - z) / delta, 1 + z
    cauchy = 1 / (alpha[:, None] - beta[:, None] * lam)
    Q = P.conj() if conjugate else P
    CB, CP, QB, QP = (
        cauchy @ (u * v) for u, v in ((C, B), (C, P), (Q, B), (Q, P))
    )
    K_hat = 2 * (CB - sign * beta * CP * QB / (1 + sign * beta * QP))
    if at_minus_one is not None and length % 2 == 0:
        K_hat[length // 2] = at_minus_one
    return torch.fft.ifft(K_hat).real


@exercise("15-bug")
def bug(answer):
    def broken(**changes):
        return lambda *system: _kernel(*system, **changes)

    def backwards(*system):
        return cauchy_kernel(*system).roll(-1).flip(0)

    def half(eigenvalues, P, B, C, delta, length):
        return cauchy_kernel(eigenvalues, P, B, C, delta, length) / 2

    bugs = {
        "C is not corrected to C̃": broken(corrected=False),
        "P* is not conjugated": broken(conjugate=False),
        "the low-rank part has the wrong sign": broken(sign=-1),
        "NaN at z = −1 is replaced by 0": broken(at_minus_one=0),
        "a forward FFT stands for the inverse": backwards,
        "only one of each pair is summed": half,
    }
    expect_finds_bug(answer, cauchy_kernel, bugs, "implementation")


def by_powers(eigenvalues, P, B, C, delta, length):
    """The kernel by powers of the dense matrix."""
    both = [torch.cat([v, v.conj()]) for v in (B, C)]
    pair = bilinear(dense(eigenvalues, P), both[0], delta)
    return kernel(*pair, both[1], length).real
