"""Chapter 14: every HiPPO matrix is derived again; every memory gives back the past it keeps."""

import math

import numpy as np
import pytest
import scipy.signal
import sympy
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import legendre as npl

from helpers import close, source
from linear_time.datasets import chirp, ecg
from linear_time.discretization import zero_order_hold
from linear_time.hippo import (
    METHODS,
    basis,
    fout,
    legs,
    legt,
    normal_plus_low_rank,
    project,
    reconstruct,
    sample_ages,
    stored,
)

F64 = torch.float64
TIMED = ("legs_lti", "legt", "fout")
seeds = st.integers(0, 2**31 - 1)


def band_limited(length, cycles, seed=0):
    """Noise of at most this many cycles over the whole, of unit standard deviation."""
    spectrum = torch.fft.rfft(source(seed)(length))
    spectrum[cycles + 1 :] = 0
    x = torch.fft.irfft(spectrum, n=length)
    return x / x.std()


def relative_rmse(guess, truth):
    return ((guess - truth).square().mean() / truth.square().mean()).sqrt().item()


def size(method, N):
    return N + 1 if method == "fout" and N % 2 == 0 else N


# --- LegS ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("N", range(1, 6))
def test_legs_from_the_projection_in_sympy(N):
    """Solve t c′ = A c + B x for A and B: c is the projection of a polynomial x on [0, t]."""
    s, t = sympy.symbols("s t", positive=True)
    g = [sympy.sqrt(2 * n + 1) * sympy.legendre(n, 2 * s / t - 1) for n in range(N)]
    x = [s**m for m in range(N + 1)]
    c = sympy.Matrix(
        N, N + 1, lambda n, m: sympy.integrate(sympy.expand(x[m] * g[n]), (s, 0, t)) / t
    )
    now = sympy.Matrix([[x_m.subs(s, t) for x_m in x]])
    right = c.col_join(now)  # (N + 1, N + 1): the coefficients, and below them x(t)
    AB = (t * c.diff(t) * right.inv()).applyfunc(sympy.simplify)  # (N, N + 1)
    A, B = legs(N)
    expected_A = sympy.Matrix(N, N, lambda n, k: _legs_entry(n, k))
    assert AB[:, :N] == expected_A
    assert AB[:, N] == sympy.Matrix([sympy.sqrt(2 * n + 1) for n in range(N)])
    close(A, np.array(expected_A.evalf(20).tolist(), dtype=float), 1e-14)
    close(B, [math.sqrt(2 * n + 1) for n in range(N)], 1e-14)


def _legs_entry(n, k):
    if n < k:
        return sympy.Integer(0)
    return -sympy.Integer(n + 1) if n == k else -sympy.sqrt((2 * n + 1) * (2 * k + 1))


def test_legs_is_its_closed_form_up_to_16():
    """A_nk = −δ_nk − ∫₀¹ v g_n′(v) g_k(v) dv, from d/dt of g_n(s/t)/t, in exact fractions."""
    v = sympy.symbols("v")
    p = [sympy.Poly(sympy.legendre(n, 2 * v - 1), v) for n in range(16)]
    rational = np.zeros((16, 16))
    for n in range(16):
        moved = sympy.Poly(v, v) * p[n].diff()
        for k in range(16):
            primitive = (moved * p[k]).integrate()
            rational[n, k] = -(n == k) / (2 * n + 1) - float(primitive.eval(1) - primitive.eval(0))
    root = np.sqrt(2 * np.arange(16) + 1)
    for N in range(1, 17):
        A, B = legs(N)
        close(A, (rational * np.outer(root, root))[:N, :N], 1e-13)
        close(B, root[:N], 1e-15)
        assert A.dtype == B.dtype == F64


def test_legs_values():
    A, B = legs(3)
    r3, r5, r15 = math.sqrt(3), math.sqrt(5), math.sqrt(15)
    close(A, [[-1, 0, 0], [-r3, -2, 0], [-r5, -r15, -3]], 1e-15)
    close(B, [1, r3, r5], 1e-15)


@pytest.mark.parametrize("N", [1, 2, 16, 64])
def test_a_constant_is_the_first_function(N):
    A, B = legs(N)
    close(A[:, 0], -B, 1e-15)


@pytest.mark.parametrize("N", [1, 2, 8, 16])
def test_kernel_of_the_time_invariant_system(N):
    A, B = legs(N)
    t = torch.linspace(0, 6, 25, dtype=F64)
    kernel = torch.linalg.matrix_exp(t[:, None, None] * A) @ B
    close(kernel, basis(N, t, "legs_lti") * torch.exp(-t)[:, None], 1e-11)


# --- the two windows -----------------------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 2, 3, 8, 16])
def test_legt_from_the_sliding_window(N):
    """c_n′ = g_n(0) x(t) − g_n(1) x̂(t − 1) + ∫ x g_n′(u) du, with x̂ the reconstruction."""
    u, weight = npl.leggauss(2 * N + 2)
    u, weight = (u + 1) / 2, weight / 2
    functions = basis(N, torch.from_numpy(u), "legt").numpy()
    ends = basis(N, torch.tensor([0.0, 1.0], dtype=F64), "legt").numpy()
    slope = np.stack(
        [
            math.sqrt(2 * n + 1) * -2 * npl.legval(1 - 2 * u, npl.legder(np.eye(N)[n]))
            for n in range(N)
        ]
    )  # g_n′(u)
    A, B = legt(N)
    close(A, slope @ (weight[:, None] * functions) - np.outer(ends[1], ends[1]), 1e-11)
    close(B, ends[0], 1e-13)


@pytest.mark.parametrize("N", [1, 3, 9, 17])
def test_fout_from_the_sliding_window(N):
    """As legt, with x(t − 1) = 2 x̂(t − 1) − x(t), since the series gives the mean at a jump."""
    u = (torch.arange(64, dtype=F64) + 0.5) / 64
    waves = basis(N, u, "fout")
    close(waves.mT @ waves / 64, torch.eye(N, dtype=F64), 1e-13)
    ends = basis(N, torch.tensor([0.0, 1.0], dtype=F64), "fout")
    k = 2 * math.pi * ((torch.arange(N, dtype=F64) + 1) // 2)
    slope = torch.zeros_like(waves)
    slope[:, 1::2] = -math.sqrt(2) * k[1::2] * torch.sin(k[1::2] * u[:, None])
    slope[:, 2::2] = math.sqrt(2) * k[2::2] * torch.cos(k[2::2] * u[:, None])
    A, B = fout(N)
    close(A, slope.mT @ waves / 64 - 2 * torch.outer(ends[1], ends[1]), 1e-11)
    close(B, ends[0] + ends[1], 1e-13)


def test_legt_is_the_lmu_in_another_scale():
    N = 8
    A, B = legt(N)
    n = np.arange(N)
    scale = (-1.0) ** n * np.sqrt(2 * n + 1)
    i, j = n[:, None], n[None, :]
    lmu = (2 * i + 1) * np.where(i < j, -1, (-1.0) ** (i - j + 1))
    close(torch.from_numpy(scale)[:, None] * A / torch.from_numpy(scale), lmu, 1e-13)
    close(torch.from_numpy(scale) * B, (2 * n + 1) * (-1.0) ** n, 1e-13)


@pytest.mark.parametrize(
    ("system", "sizes"), [(legs, (1, 2, 16, 64)), (legt, (1, 2, 16, 64)), (fout, (1, 3, 17, 65))]
)
def test_every_system_is_stable(system, sizes):
    for N in sizes:
        A, B = system(N)
        assert A.shape == (N, N) and B.shape == (N,) and A.dtype == B.dtype == F64
        assert torch.linalg.eigvals(A).real.max() < -0.4
        # The energy of the state never grows by itself.
        assert torch.linalg.eigvalsh(A + A.mT).max() < 1e-9


# --- bases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_functions_are_orthonormal(method):
    N = 9
    y, weight = npl.leggauss(40)
    w = torch.from_numpy((y + 1) / 2)  # on (0, 1)
    age = -torch.log(w) if method == "legs_lti" else w  # e^{−u} du = dw
    g = basis(N, age, method)
    close(g.mT @ (torch.from_numpy(weight / 2)[:, None] * g), torch.eye(N, dtype=F64), 1e-11)


def test_legendre_functions_equal_numpy():
    u = torch.linspace(0, 1, 33, dtype=F64)
    expected = npl.legvander(1 - 2 * u.numpy(), 63) * np.sqrt(2 * np.arange(64) + 1)
    for N in (1, 2, 3, 64):
        close(basis(N, u, "legs"), expected[:, :N], 1e-11)


def test_sample_ages():
    close(sample_ages(4), [7 / 8, 5 / 8, 3 / 8, 1 / 8], 1e-15)
    close(sample_ages(3, 2.0), [5.0, 3.0, 1.0], 1e-15)
    close(sample_ages(1), [0.5], 1e-15)


# --- project -------------------------------------------------------------------------------------


def held_coefficients(x, N, edges):
    """∫ x(w) √(2n+1) P_n(2w − 1) dw for x held between the edges in (0, 1), by antiderivatives."""
    values = npl.legvander(2 * edges - 1, N)  # (length + 1, N + 1)
    primitive = np.zeros((len(edges), N))
    primitive[:, 0] = edges
    for n in range(1, N):
        primitive[:, n] = (values[:, n + 1] - values[:, n - 1]) / (2 * (2 * n + 1))
    return np.sqrt(2 * np.arange(N) + 1) * (x @ np.diff(primitive, axis=0))


@given(seed=seeds, N=st.integers(1, 40), length=st.integers(1, 150))
def test_scaled_legs_is_the_exact_projection(seed, N, length):
    x = source(seed)(length)
    c = project(x, N)
    assert c.shape == (length, N)
    for k in {0, length // 2, length - 1}:
        edges = np.linspace(0, 1, k + 2)
        close(c[k], held_coefficients(x[: k + 1].numpy(), N, edges), 1e-10)


@given(seed=seeds, N=st.integers(1, 24), length=st.integers(1, 90), delta=st.floats(1e-3, 0.3))
def test_time_invariant_legs_is_the_exact_warped_projection(seed, N, length, delta):
    x = source(seed)(length)
    edges = np.exp(-delta * np.arange(length, -1, -1.0))  # w = e^{−age}
    close(project(x, N, "legs_lti", delta)[-1], held_coefficients(x.numpy(), N, edges), 1e-10)


@pytest.mark.parametrize(("system", "method"), [(legs, "legs_lti"), (legt, "legt"), (fout, "fout")])
def test_time_invariant_memories_equal_scipy(system, method):
    N, delta, x = 9, 0.02, source(3)(60)
    A, B = system(N)
    matrices = (A.numpy(), B.numpy()[:, None], np.eye(N), np.zeros((N, 1)))
    discrete = scipy.signal.cont2discrete(matrices, delta, method="zoh")
    theirs = scipy.signal.dlsim(discrete, np.append(x.numpy(), 0.0))[1]
    close(project(x, N, method, delta), theirs[1:], 1e-10)  # dlsim is one step late


@given(seed=seeds, N=st.integers(1, 20), length=st.integers(1, 40), times=st.integers(2, 5))
def test_scaled_legs_does_not_see_the_time_scale(seed, N, length, times):
    x = source(seed)(length)
    slow = project(x.repeat_interleave(times), N)
    close(slow[times - 1 :: times], project(x, N), 1e-11)


@given(seed=seeds, N=st.integers(1, 64))
def test_energy_never_exceeds_the_signals(seed, N):
    """Bessel: |c|² ≤ the mean of x² over the past, at every time."""
    x = source(seed)(300)
    power = x.square().cumsum(0) / torch.arange(1, 301)
    assert (project(x, N).square().sum(-1) <= power * (1 + 1e-12)).all()


def test_stable_for_long_inputs():
    length = 20_000
    c = project(torch.ones(length, dtype=F64), 12)
    expected = torch.zeros(12, dtype=F64)
    expected[0] = 1
    close(c, expected.expand(length, 12), 1e-12)
    x = source(1)(length)
    exact = held_coefficients(x.numpy(), 12, np.linspace(0, 1, length + 1))
    close(project(x, 12)[-1], exact, 1e-11)
    close(project(x.float(), 12)[-1].double(), exact, 1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_batches_and_dtypes(method):
    x = source(0)(2, 3, 20)
    N, delta = 5, None if method == "legs" else 0.05
    c = project(x, N, method, delta)
    assert c.shape == (2, 3, 20, N)
    close(c[1, 2], project(x[1, 2], N, method, delta), 1e-13)
    single = project(x.float(), N, method, delta)
    assert single.dtype == torch.float32
    close(single.double(), c, 1e-4)
    age = sample_ages(20)
    past = reconstruct(c, age, method)
    assert past.shape == (2, 3, 20, 20)
    close(past[1, 2, 7], reconstruct(c[1, 2, 7], age, method), 1e-12)
    assert reconstruct(single, age, method).dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
def test_nothing_reads_the_future(method):
    x = source(0)(20)
    delta = None if method == "legs" else 0.05
    other = x.clone()
    other[12:] += 1
    change = project(other, 5, method, delta) - project(x, 5, method, delta)
    assert (change[:12] == 0).all() and (change[12:].abs().amax(-1) > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_gradients(method):
    x = source(0)(6).requires_grad_()
    delta = None if method == "legs" else 0.1
    assert torch.autograd.gradcheck(lambda x: project(x, 3, method, delta), (x,))


# --- reconstruct ---------------------------------------------------------------------------------


@pytest.mark.parametrize("degree", [0, 1, 4])
def test_a_polynomial_comes_back(degree):
    ages = sample_ages(4000)
    x = npl.legval(1 - 2 * ages.numpy(), np.eye(5)[degree])
    guess = reconstruct(project(torch.from_numpy(x), 5)[-1], ages)
    assert relative_rmse(guess, torch.from_numpy(x)) < 2e-3  # the samples are held


def test_two_memories_that_share_a_matrix():
    """The 1/t memory reads its basis to 3 %; the time-invariant state in that basis is garbage."""
    x, N = band_limited(1000, 10), 32
    ages = sample_ages(1000)
    right = relative_rmse(reconstruct(project(x, N)[-1], ages), x)
    warped = project(x, N, "legs_lti", 1 / 1000)[-1]
    wrong = relative_rmse(reconstruct(warped, ages), x)
    assert right < 0.05
    assert wrong > 0.9


def test_the_time_invariant_memory_in_its_own_basis():
    """Sharp for the recent past, and blurred with age: its weight is e^{−age}."""
    delta, length, N = 0.01, 1000, 32
    ages = sample_ages(length, delta)  # 10 decay times
    x = torch.sin(2 * math.pi * ages) + 0.5 * torch.cos(3 * ages)
    guess = reconstruct(project(x, N, "legs_lti", delta)[-1], ages, "legs_lti")
    recent, old = ages < 1, ages > 8
    assert relative_rmse(guess[recent], x[recent]) < 0.03
    assert relative_rmse(guess[old], x[old]) > 0.5
    weight = torch.exp(-ages)
    weighted = (weight * (guess - x).square()).sum() / (weight * x.square()).sum()
    assert weighted.sqrt() < 0.2


@pytest.mark.parametrize(("method", "worst"), [("legt", 0.08), ("fout", 0.3)])
def test_windows_keep_the_last_unit_of_time_alone(method, worst):
    window, N = 1000, size(method, 32)
    x = torch.cat([5 * source(9)(3 * window), band_limited(window, 10)])  # noise, then the signal
    c = project(x, N, method, 1 / window)[-1]
    ages = sample_ages(window)
    alone = project(x[-window:], N, method, 1 / window)[-1]
    assert relative_rmse(reconstruct(alone, ages, method), x[-window:]) < worst
    inner = slice(window // 10, -window // 10)
    guess = reconstruct(c, ages, method)[inner]
    assert relative_rmse(guess, x[-window:][inner]) < worst


def test_more_coefficients_keep_more_of_the_ecg():
    x = ecg().x
    x = x - x.mean()
    ages = sample_ages(len(x))
    errors = [relative_rmse(reconstruct(project(x, N)[-1], ages), x) for N in (8, 32, 64, 128)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.6


@given(seed=seeds, N=st.integers(1, 16))
def test_no_polynomial_of_that_degree_is_closer(seed, N):
    """The reconstruction is the least-squares fit to the held signal (its samples, for a mean)."""
    x = source(seed)(200)
    c = project(x, N)[-1]
    points = torch.from_numpy(npl.leggauss(8)[0] / 2)  # inside every held interval
    weight = torch.from_numpy(npl.leggauss(8)[1] / 2)
    ages = (sample_ages(200)[:, None] + points / 200).flatten()
    values, weights = x.repeat_interleave(8), weight.repeat(200).sqrt()
    g = basis(N, ages.clamp(0, 1)) * weights[:, None]
    close(c, torch.linalg.lstsq(g, (weights * values)[:, None]).solution[:, 0], 1e-9)


# --- normal plus low rank ------------------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 2, 3, 4, 8, 16, 31, 32, 64])
def test_normal_plus_low_rank(N):
    A, B = legs(N)
    eigenvalues, V, P = normal_plus_low_rank(N)
    identity = torch.eye(N, dtype=F64)
    close(P, torch.sqrt(torch.arange(N, dtype=F64) + 0.5), 1e-14)
    close(P, B / math.sqrt(2), 1e-14)
    skew = A + torch.outer(P, P) + identity / 2
    close(skew, -skew.mT, 1e-12)
    close(V.mH @ V, identity.to(V.dtype), 1e-12)
    back = (V * eigenvalues) @ V.mH - torch.outer(P, P)
    assert (back - A).abs().max() < 1e-13 * max(1, A.abs().max()) * N
    assert (eigenvalues.real == -0.5).all()
    close(eigenvalues.imag, -eigenvalues.imag.flip(0), 1e-11)
    assert (eigenvalues.imag.diff() > 0).all()


def test_the_matrix_itself_has_no_usable_eigenvectors():
    assert np.linalg.cond(np.linalg.eig(legs(16)[0].numpy())[1]) > 1e10
    V = normal_plus_low_rank(16).V
    assert abs(torch.linalg.cond(V) - 1) < 1e-12


# --- bad input -----------------------------------------------------------------------------------

X = torch.ones(3, 4, dtype=F64)
AGE = torch.linspace(0, 1, 5, dtype=F64)


@pytest.mark.bad_input
@pytest.mark.parametrize("call", [legs, legt, fout, normal_plus_low_rank, lambda N: basis(N, AGE)])
@pytest.mark.parametrize(
    ("N", "kind"), [(0, ValueError), (-2, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_bad_input_size(call, N, kind):
    with pytest.raises(kind, match=f"^N: expected a whole number >= 1, got {N}"):
        call(N)


@pytest.mark.bad_input
def test_bad_input_even_fourier():
    with pytest.raises(ValueError, match=r"^N: expected an odd number.*got 4"):
        fout(4)
    with pytest.raises(ValueError, match=r"^N: expected an odd number"):
        project(X, 4, "fout", 0.1)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((X[0, 0], 3), ValueError, r"^x: expected shape \(…, length\)"),
        ((X[:, :0], 3), ValueError, "^x: .*length >= 1"),
        ((X * math.nan, 3), ValueError, "^x: expected finite values, got 12"),
        ((X.long(), 3), TypeError, "^x: .*torch.int64"),
        ((X.to(torch.complex128), 3), TypeError, "^x: .*torch.complex128"),
        ((X, 0), ValueError, "^N: "),
        ((X, 3, "legz"), ValueError, "^method: expected one of legs, legs_lti.*'legz'"),
        ((X, 3, "legs", 0.1), ValueError, "^delta: expected None for method 'legs'.*got 0.1"),
        *[((X, 3, m), TypeError, "^delta: expected a finite number > 0") for m in TIMED],
        ((X, 3, "legt", 0.0), ValueError, "^delta: .*got 0"),
        ((X, 3, "legt", -0.1), ValueError, "^delta: .*got -0.1"),
        ((X, 3, "legt", math.inf), ValueError, "^delta: .*got inf"),
    ],
)
def test_bad_input_project(arguments, kind, message):
    with pytest.raises(kind, match=message):
        project(*arguments)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("age", "method", "kind", "message"),
    [
        (AGE - 0.1, "legs", ValueError, "^age: expected ages from 0 to 1 .*got -0.1"),
        (AGE + 0.1, "legs", ValueError, "^age: .* to 1.1"),
        (AGE + 0.1, "legt", ValueError, "^age: .*'legt'"),
        (AGE + 0.1, "fout", ValueError, "^age: .*'fout'"),
        (AGE - 0.1, "legs_lti", ValueError, "^age: expected ages from 0 to inf"),
        (AGE[None], "legs", ValueError, r"^age: expected shape \(ages,\), got .*\(1, 5\)"),
        (AGE / 0, "legs", ValueError, "^age: expected finite values"),
        (AGE.long(), "legs", TypeError, "^age: .*int64"),
        (AGE, "nope", ValueError, "^method: expected one of"),
    ],
)
def test_bad_input_reconstruct(age, method, kind, message):
    with pytest.raises(kind, match=message):
        reconstruct(X, age, method)


@pytest.mark.bad_input
def test_bad_input_coefficients_and_ages():
    with pytest.raises(TypeError, match=r"^c: "):
        reconstruct(X.long(), AGE)
    with pytest.raises(ValueError, match=r"^c: expected finite"):
        reconstruct(X / 0, AGE)
    with pytest.raises(ValueError, match=r"^length: "):
        sample_ages(0)
    with pytest.raises(ValueError, match=r"^delta: "):
        sample_ages(3, 0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_is_remembered_in_float32(method, dtype):
    x = band_limited(200, 3).to(dtype)
    delta = None if method == "legs" else 1 / 200
    ages = torch.linspace(0, 1, 33, dtype=F64).to(dtype)
    c = project(x, 5, method, delta)
    wanted = project(x.double(), 5, method, delta)
    assert c.dtype == dtype
    eps = torch.finfo(dtype).eps
    assert (c - wanted).abs().max() <= eps * wanted.abs().max()
    past, exact = reconstruct(c, ages, method), reconstruct(c.double(), ages.double(), method)
    assert past.dtype == dtype and (past - exact).abs().max() <= eps * exact.abs().max()
    g, exact = basis(5, ages, method), basis(5, ages.double(), method)
    assert g.dtype == dtype and (g - exact).abs().max() <= eps * exact.abs().max()


def test_tables_are_on_the_cpu():
    """In float64, which the default device may not have."""
    with torch.device("meta"):
        made = [*legs(4), *legt(4), *fout(5), *normal_plus_low_rank(4), sample_ages(7)]
    assert {table.device.type for table in made} == {"cpu"}


@pytest.mark.bad_input  # the check of types knows no NumPy
@pytest.mark.parametrize("N", [1, np.int64(1), np.int32(3)])
def test_small_sizes_and_numpy_s(N):
    for make in (legs, legt, fout):
        A, B = make(N)
        assert A.shape == (N, N) and B.shape == (N,)
    split = normal_plus_low_rank(N)
    assert split.eigenvalues.shape == (N,)
    x = torch.randn(9, dtype=F64)
    assert project(x, N, "legt", 0.1).shape == (9, N)
    assert basis(N, torch.linspace(0, 1, 3, dtype=F64)).shape == (3, N)


# --- what a memory is worth ----------------------------------------------------------------------


def test_stored_is_float16_of_the_largest_at_one():
    h = torch.randn(3, 40, generator=torch.Generator().manual_seed(0), dtype=F64) * 1e9
    for state in (h, 1e-30 * h):  # out of float16's range as they are
        kept = stored(state)
        assert kept.dtype == F64 and not torch.equal(kept, state)
        largest = state.abs().max()
        assert ((kept - state).abs() <= 2.0**-11 * state.abs() + 2.0**-25 * largest).all()
        assert ((kept - state).abs() > 2.0**-13 * state.abs()).double().mean() > 0.5
    assert torch.equal(stored(torch.zeros(4)), torch.zeros(4))
    with pytest.raises(ValueError, match="state"):
        stored(torch.tensor([math.nan]))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_truncated_pseudo_inverse_is_not_the_best_decoder_of_a_rounded_state(seed):
    """Chapter 14's contest: one state of 64 numbers in 16 bits, by two readers."""
    x, N, length = chirp(1024, sampling_rate=1024, start_hz=0, end_hz=12).x, 64, 1024
    draw = torch.Generator().manual_seed(seed)
    M = torch.randn(N, N, generator=draw, dtype=F64) / N**0.5
    A = M - (torch.linalg.eigvals(M).real.max() + 0.1) * torch.eye(N, dtype=F64)
    B = torch.randn(N, generator=draw, dtype=F64)
    i = torch.arange(length, dtype=F64)
    Q = torch.exp(-(((i[:, None] - i) / 40) ** 2) / 2)
    cut, smooth = [], []
    for delta in (0.003, 0.01, 0.03, 0.1):
        A_bar, B_bar = zero_order_hold(A, B, delta)
        W = torch.stack([torch.linalg.matrix_power(A_bar, k) @ B_bar for k in range(length)], 1)
        W = W.flip(1)
        h = stored(W @ x)
        U, sizes, V = torch.linalg.svd(W, full_matrices=False)
        pasts = torch.cumsum(((U.T @ h) / sizes)[:, None] * V, dim=0)
        cut += [relative_rmse(past, x) for past in pasts]
        seen, E = W @ Q @ W.T, torch.diag(h.square() / h.square().mean() + 1e-15)
        for exponent in range(-14, 1):
            noise = 10.0**exponent * seen.diagonal().mean() * E
            smooth.append(relative_rmse(Q @ W.T @ torch.linalg.solve(seen + noise, h), x))
    assert min(smooth) < min(cut) - 0.2 and min(smooth) > 0.2
    own = reconstruct(stored(project(x, N)[-1]), sample_ages(length))
    assert relative_rmse(own, x) < 0.01


def test_the_scaled_memory_blurs_the_middle_more_than_the_ends():
    time = torch.arange(1024, dtype=F64) / 1024
    centres = (torch.arange(8, dtype=F64) + 0.5) / 8
    bumps = torch.exp(-(((time[:, None] - centres) / 0.018) ** 2)).sum(1)
    back = reconstruct(project(bumps, 32)[-1], sample_ages(1024))
    blur = (back - bumps).reshape(8, -1).norm(dim=1) / bumps.reshape(8, -1).norm(dim=1)
    assert (blur[[0, 7]] < 0.25).all() and (blur[1:7] > 0.35).all()
    assert blur[1:7].max() < 1.1 * blur[1:7].min()


def test_a_window_pays_for_what_it_guesses():
    """64 numbers on a quarter of the heartbeat: LegT against LegS, begun with that quarter."""
    heart = ecg().x.double() - ecg().x.double().mean()
    quarter = heart[-256:]
    window = project(heart, 64, "legt", 4 / 1024)[-1]
    by_legt = relative_rmse(
        reconstruct(window, sample_ages(1024, 4 / 1024)[-256:], "legt"), quarter
    )
    by_legs = relative_rmse(reconstruct(project(quarter, 64)[-1], sample_ages(256)), quarter)
    whole = reconstruct(project(heart, 64)[-1], sample_ages(1024))
    assert by_legt == pytest.approx(0.23, abs=0.005) and by_legs == pytest.approx(0.18, abs=0.005)
    assert relative_rmse(whole[-256:], quarter) == pytest.approx(0.54, abs=0.005)
    assert relative_rmse(whole, heart) == pytest.approx(0.60, abs=0.005)
