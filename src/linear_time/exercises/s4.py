"""Checks of chapter 15."""

import math

import sympy as sp
import torch

from linear_time.convolution import causal_convolution, kernel
from linear_time.discretization import bilinear
from linear_time.exercises import (
    Calls,
    Largest,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    plain,
)
from linear_time.exercises.estimate import expect_reading
from linear_time.exercises.proof import expect_lines
from linear_time.hippo import basis, legs, normal_plus_low_rank
from linear_time.s4 import (
    S4D,
    cauchy_kernel,
    s4d_eigenvalues,
    truncated_output,
)

F64, C128 = torch.float64, torch.complex128


def left_torch(names):
    """The calls by which a tensor was turned into an array or a list."""
    return sorted({"numpy", "__array__", "tolist", "__dlpack__"} & set(names))


def system(cases, pairs):
    """λ, P, B, C: half of the pairs of a system that decays slowly."""
    decay = torch.tensor(
        [cases.uniform(0.05, 0.15) for _ in range(pairs)], dtype=F64
    )
    wave = 1 + 2 * torch.arange(pairs, dtype=F64)
    P, B, C = (cases.randn(pairs, dtype=C128) for _ in range(3))
    return torch.complex(-decay, wave), P, B, C


def dense(eigenvalues, P):
    both, column = (torch.cat([v, v.conj()]) for v in (eigenvalues, P))
    return torch.diag(both) - torch.outer(column, column.conj())


@exercise("15-cost")
def cost(answer, cases):
    drawn = [
        (cases.integer(2, 40), 2 * cases.integer(1, 40), cases.integer(5, 3000))
        for _ in range(3)
    ]
    for d_model, N, length in ((1, 2, 8), (64, 64, 1024), *drawn):
        got = plain(answer(d_model, N, length))
        given = f"d_model = {d_model}, N = {N}, length = {length}"
        expect(
            isinstance(got, tuple | list) and len(got) == 3,
            f"For {given}: expected three numbers.",
        )
        parameters = sum(p.numel() for p in S4D(d_model, N=N).parameters())
        powers, state = d_model * length * N**2, d_model * N
        slips = {"every channel has a system": powers // d_model}
        expect_equal(got[0], powers, f"{given}, powers", slips=slips)
        slips = {"a complex number is two real ones": state // 2}
        expect_equal(got[1], state, f"{given}, the state", slips=slips)
        slips = {
            "the map after the systems has weights too": d_model * (2 * N + 2),
            "B is not trained": parameters + d_model * N,
            "the map has a bias": parameters - d_model,
        }
        expect_equal(
            got[2], parameters, f"{given}, parameters of S4D", slips=slips
        )


@exercise("15-pairs")
def pairs(answer, cases):
    for n in (1, cases.integer(2, 3), cases.integer(4, 6)):
        eigenvalues, _, B, C = system(cases, n)
        got = plain(answer(eigenvalues.clone(), B.clone(), C.clone()))
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
        for t in (0.0, cases.uniform(0.1, 0.5), cases.uniform(1, 3)):
            response = C_real @ torch.linalg.matrix_exp(t * A_real) @ B_real
            each = 2 * C * torch.exp(t * eigenvalues) * B
            slips = {
                "the output has a factor 2": each.sum().real / 2,
                "the waves turn the wrong way": (
                    2 * (C * torch.exp(t * eigenvalues.conj()) * B).sum().real
                ),
            }
            text = f"{given}, C exp(tA) B at t = {t:.3g}"
            expect_close(response, each.sum().real, text, slips=slips)


@exercise("15-woodbury")
def woodbury(answer, cases):
    for N in (1, cases.integer(2, 9), cases.integer(200, 400)):
        eigenvalues, P, Q, v = (cases.randn(N, dtype=C128) for _ in range(4))
        for alpha, beta in (
            (
                complex(cases.uniform(3, 5), 1.0),
                complex(1, cases.uniform(0, 1)),
            ),
            (complex(cases.uniform(3, 5)), 0j),
        ):
            M = alpha * torch.eye(N, dtype=C128) - beta * (
                torch.diag(eigenvalues) - torch.outer(P, Q.conj())
            )
            vectors = [u.clone() for u in (eigenvalues, P, Q)]
            with Largest() as largest, Calls() as calls:
                got = answer(*vectors, alpha, beta, v.clone())
            given = f"N = {N}, α = {alpha:.3g}, β = {beta:.3g}"
            without = M + beta * (torch.outer(P, Q) - torch.outer(P, Q.conj()))
            slips = {
                "Q is not conjugated": torch.linalg.solve(without, v),
                "the rank-one part is missing": v
                / (alpha - beta * eigenvalues),
            }
            wanted = torch.linalg.solve(M, v)
            expect_close(got, wanted, given, rtol=1e-8, slips=slips)
            expect(
                not left_torch(calls.names),
                f"Expected torch's own functions, got {left_torch(calls.names)}.",
            )
            expect(
                largest.numbers <= 4 * N and len(calls.names) <= 200,
                f"For {given}: expected O(N), some 20 calls to torch on "
                f"vectors, got {len(calls.names)} calls and a tensor of "
                f"{largest.numbers:,} numbers.",
            )


@exercise("15-rankone")
def rank_one(answer, cases):
    names = cases.choice([("r", "b", "p", "q"), ("s", "c", "u", "v")])
    r, b, p, q = (sp.Symbol(name, positive=True) for name in names)
    start = 1 / (1 / r + b * p * q)
    forms = [
        (
            "one quotient, in which r is divided and nothing by r",
            lambda line: (
                sp.fraction(line)[0] == r
                and not any(
                    power.exp.is_negative
                    for power in sp.fraction(line)[1].atoms(sp.Pow)
                )
            ),
        ),
        (
            "r, and a second term that vanishes with b",
            lambda line: (
                isinstance(line, sp.Add)
                and len(line.args) == 2
                and r in line.args
                and sp.simplify((line - r).subs(b, 0)) == 0
            ),
        ),
    ]
    expect_lines(answer(r, b, p, q), start, forms, cases)


@exercise("15-length")
def retarget(answer, cases):
    eigenvalues, P, _, C = system(cases, cases.integer(2, 4))
    delta = torch.tensor(cases.uniform(0.03, 0.08), dtype=F64)
    zero = P.new_zeros(2 * len(P))
    A_bar, _ = bilinear(dense(eigenvalues, P), zero, delta)
    drawn = [(cases.integer(5, 80), cases.integer(5, 80)) for _ in range(2)]
    for old, new in ((8, 8), (64, 32), (9, 1), *drawn):
        before, after = (
            truncated_output(eigenvalues, P, C, delta, length)
            for length in (old, new)
        )
        before, after, full = (
            torch.cat([v, v.conj()]) for v in (before, after, C)
        )
        slips = {
            "that is C itself, of no length": full,
            "nothing was changed": before,
        }
        if old == new:
            slips = {}
        got = answer(before, A_bar.clone(), old, new)
        given = f"from L = {old} to {new}"
        expect_close(got, after, given, rtol=1e-7, slips=slips)


@exercise("15-window")
def window(answer, cases):
    drawn = [
        (2 * cases.integer(2, 60), cases.integer(5, 4000)) for _ in range(3)
    ]
    for N, samples in ((64, 1024), (4, 3), *drawn):
        got = plain(answer(N, samples))
        given = f"N = {N}, {samples} samples"
        slips = {
            "the waves of lin repeat after 2 units of time": 1 / samples,
            "turns and radians are mixed": 2 * math.pi / samples,
        }
        expect_close(got[0], 2 / samples, f"{given}, the step", slips=slips)
        highest = (N / 2 - 1) / samples
        slips = {
            "N real states are N/2 waves, n = 0 … N/2 − 1": (N - 1) / samples,
            "the first wave has n = 0": N / 2 / samples,
        }
        text = f"{given}, cycles a sample"
        expect_close(got[1], highest, text, slips=slips)


@exercise("15-read")
def read(answer, cases):
    """The ladders of the figure."""
    waves = {
        name: s4d_eigenvalues(name, 64).imag.sort().values
        for name in ("legs", "inv", "lin")
    }
    right = {
        "lin, fastest": (float(waves["lin"][-1]), {"that is in turns": 15.5}),
        "legs, fastest": (
            float(waves["legs"][-1]),
            {"that is the fastest of lin": float(waves["lin"][-1])},
        ),
        "legs, below 10": (float((waves["legs"] < 10).sum()), {}),
        "lin, below 10": (float((waves["lin"] < 10).sum()), {}),
    }
    got = plain(answer())
    expect(
        isinstance(got, dict) and set(got) == set(right),
        f"Expected a dictionary with the keys {'; '.join(right)}.",
    )
    for name, (value, slips) in right.items():
        expect_reading(got[name], value, name, factor=1.3, slips=slips)


@exercise("15-limit")
def limit(answer, cases):
    drawn = [(2 * cases.integer(8, 24), cases.integer(0, 3)) for _ in range(2)]
    t = torch.linspace(0.0005, 5, 500, dtype=F64)
    for N, n in ((16, 0), (40, 1), *drawn):
        kernels, steps = _responses(N, t)
        exact = basis(N, t, "legs_lti") * torch.exp(-t)[:, None]
        A, B = legs(N)
        rest = torch.linalg.solve(
            A, B
        )  # h' = A h + B from 0: A⁻¹ (e^{tA} − I) B
        switched = torch.linalg.solve(A, exact.mT).mT - rest
        off = (kernels - exact)[:, n].norm() / exact[:, n].norm()
        follows = (steps - switched)[:, n].abs().max()
        got = plain(answer(N, n, t))
        given = f"N = {N}, state {n}"
        whole = _responses(N, t, share=1.0)
        slips = {
            "the normal part is driven by half of B": (whole[0] - exact)[
                :, n
            ].norm()
            / exact[:, n].norm(),
            "that is not relative to LegS": (kernels - exact)[:, n].norm(),
        }
        text = f"{given}, distance of the kernels"
        expect_close(got[0], off, text, rtol=1e-4, slips=slips)
        text = f"{given}, distance of the step responses"
        expect_close(got[1], follows, text, rtol=1e-3)


def _responses(N, t, share=0.5):
    """Of the normal part: after an impulse and after a step, (times, N)."""
    split, (_, B) = normal_plus_low_rank(N), legs(N)
    weights = split.V * (split.V.mH @ (share * B).to(C128))  # (N, modes)
    waves = torch.exp(t[:, None] * split.eigenvalues)
    step = (waves - 1) / split.eigenvalues
    return (waves @ weights.mT).real, (step @ weights.mT).real


@exercise("15-bidirectional")
def bidirectional(answer, cases):
    for length in (1, 2, cases.integer(5, 12), 64):
        x, forward, backward = (cases.randn(2, length) for _ in range(3))
        expected = torch.zeros_like(x)
        for t in range(length):
            for s in range(length):
                own = forward[:, t - s] if s <= t else backward[:, s - t - 1]
                expected[:, t] += own * x[:, s]
        back = causal_convolution(x.flip(-1), backward).flip(-1)
        slips = {
            "the input of now counts twice": causal_convolution(x, forward)
            + back
        }
        with Calls() as calls:
            got = answer(x.clone(), forward.clone(), backward.clone())
        expect_close(got, expected, f"length {length}", rtol=1e-8, slips=slips)
    expect(
        any("fft" in name for name in calls.names),
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


def by_powers(eigenvalues, P, B, C, delta, length):
    """The kernel by powers of the dense matrix."""
    both = [torch.cat([v, v.conj()]) for v in (B, C)]
    pair = bilinear(dense(eigenvalues, P), both[0], delta)
    return kernel(*pair, both[1], length).real


@exercise("15-bug")
def bug(answer, cases):
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
    right = [cauchy_kernel, by_powers, _kernel]
    expect_finds_bug(answer, right=right, bugs=bugs, cases=cases)
