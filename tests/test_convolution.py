"""Chapter 13: recurrence, matrix and FFT are one map; the time-varying system has no kernel."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import close, source
from linear_time.convolution import (
    causal_convolution,
    circular_convolution,
    kernel,
    recurrence,
    time_varying_matrix,
    time_varying_recurrence,
    toeplitz,
)
from linear_time.datasets import ecg
from linear_time.discretization import zero_order_hold
from linear_time.state_space import low_pass

F64, C128 = torch.float64, torch.complex128
seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 6)
lengths = st.integers(1, 65)
dtypes = st.sampled_from([F64, C128])


def stable_system(seed, n, dtype=F64):
    """A random Ā with spectral radius 0.95, B̄ and C."""
    draw = source(seed)
    A_bar = draw(n, n, dtype=dtype)
    A_bar = 0.95 * A_bar / torch.linalg.eigvals(A_bar).abs().max()
    return A_bar, draw(n, dtype=dtype), draw(n, dtype=dtype)


# --- against scipy -------------------------------------------------------------------------------


@given(seed=seeds, n=sizes, length=lengths)
def test_recurrence_is_dlsim_one_step_ahead(seed, n, length):
    A_bar, B_bar, C = stable_system(seed, n)
    x = source(seed + 1)(length)
    system = (A_bar.numpy(), B_bar.numpy()[:, None], C.numpy()[None], np.zeros((1, 1)), 1.0)
    theirs = scipy.signal.dlsim(system, np.append(x.numpy(), 0.0))[1][:, 0]
    close(recurrence(A_bar, B_bar, C, x), theirs[1:], 1e-10)


@given(a=st.floats(-0.99, 0.99), b=st.floats(-2, 2), c=st.floats(-2, 2), d=st.floats(-2, 2))
def test_recurrence_of_one_state_is_lfilter(a, b, c, d):
    x = source(0)(33)
    A_bar, B_bar, C = (torch.tensor(value, dtype=F64) for value in ([[a]], [b], [c]))
    theirs = scipy.signal.lfilter([c * b], [1.0, -a], x.numpy()) + d * x.numpy()
    close(recurrence(A_bar, B_bar, C, x, D=d), theirs, 1e-10)


@given(seed=seeds, n=sizes, length=lengths, dtype=dtypes)
def test_kernel_is_the_matrix_power(seed, n, length, dtype):
    A_bar, B_bar, C = stable_system(seed, n, dtype)
    powers = [
        C.numpy() @ np.linalg.matrix_power(A_bar.numpy(), i) @ B_bar.numpy() for i in range(length)
    ]
    close(kernel(A_bar, B_bar, C, length), powers, 1e-10)


@given(seed=seeds, length=lengths, dtype=dtypes)
def test_toeplitz_equals_scipy(seed, length, dtype):
    K = source(seed)(length, dtype=dtype)
    close(toeplitz(K), scipy.linalg.toeplitz(K.numpy(), np.zeros(length, K.numpy().dtype)), 0)


def test_toeplitz_batch():
    K = source(0)(2, 3, 5)
    assert toeplitz(K).shape == (2, 3, 5, 5)
    close(toeplitz(K)[1, 2], toeplitz(K[1, 2]), 0)


@given(seed=seeds, length=lengths, taps=st.integers(1, 90), x_dtype=dtypes, kernel_dtype=dtypes)
def test_causal_convolution_equals_scipy(seed, length, taps, x_dtype, kernel_dtype):
    draw = source(seed)
    x, K = draw(length, dtype=x_dtype), draw(taps, dtype=kernel_dtype)
    y = causal_convolution(x, K)
    close(y, scipy.signal.fftconvolve(x.numpy(), K.numpy())[:length], 1e-12)
    close(y, scipy.signal.lfilter(K.numpy(), [1.0], x.numpy()), 1e-12)


@given(seed=seeds, length=lengths, dtype=dtypes, data=st.data())
def test_circular_convolution_equals_scipy(seed, length, dtype, data):
    taps = data.draw(st.integers(1, length))
    draw = source(seed)
    x, K = draw(length), draw(taps, dtype=dtype)
    padded = np.concatenate([K.numpy(), np.zeros(length - taps, K.numpy().dtype)])
    close(circular_convolution(x, K), scipy.linalg.circulant(padded) @ x.numpy(), 1e-12)


# --- the three computations are one --------------------------------------------------------------


@given(seed=seeds, n=sizes, length=lengths, dtype=dtypes)
def test_recurrence_matrix_and_fft_agree(seed, n, length, dtype):
    A_bar, B_bar, C = stable_system(seed, n, dtype)
    x = source(seed + 1)(length, dtype=dtype)
    K = kernel(A_bar, B_bar, C, length)
    y = recurrence(A_bar, B_bar, C, x)
    close(y, toeplitz(K) @ x, 1e-10)
    close(y, causal_convolution(x, K), 1e-10)


def test_the_three_agree_on_the_ecg():
    x, rate = ecg()
    system = low_pass(40.0)
    A_bar, B_bar = zero_order_hold(system.A, system.B, 1 / rate)
    K = kernel(A_bar, B_bar, system.C, len(x))
    y = recurrence(A_bar, B_bar, system.C, x)
    close(y, toeplitz(K) @ x, 1e-10)
    close(y, causal_convolution(x, K), 1e-10)


@given(seed=seeds, n=sizes, length=lengths)
def test_a_complex_diagonal_and_its_conjugate_make_a_real_kernel(seed, n, length):
    draw = source(seed)
    rates = torch.complex(-draw(n).abs() - 0.1, draw(n))
    B, C = draw(n, dtype=C128), draw(n, dtype=C128)
    both = [torch.cat([value, value.conj()]) for value in (rates.exp(), B, C)]
    K = kernel(torch.diag(both[0]), both[1], both[2], length)
    half = kernel(torch.diag(rates.exp()), B, C, length)
    close(K, torch.complex(2 * half.real, torch.zeros_like(half.real)), 1e-12)


@given(seed=seeds, n=sizes, length=lengths, dtype=dtypes)
def test_conjugate_system_gives_conjugate_output(seed, n, length, dtype):
    A_bar, B_bar, C = stable_system(seed, n, dtype)
    x = source(seed + 1)(length, dtype=dtype)
    y = recurrence(A_bar, B_bar, C, x)
    close(recurrence(A_bar.conj(), B_bar.conj(), C.conj(), x.conj()), y.conj(), 1e-12)


def test_length_one():
    A_bar, B_bar, C = stable_system(5, 3)
    x = torch.tensor([2.0], dtype=F64)
    first = (C @ B_bar)[None]
    close(recurrence(A_bar, B_bar, C, x), 2 * first, 1e-10)
    close(kernel(A_bar, B_bar, C, 1), first, 1e-10)
    close(toeplitz(first), first[None], 1e-10)
    close(causal_convolution(x, first), 2 * first, 1e-10)
    close(circular_convolution(x, first), 2 * first, 1e-10)


def test_a_long_fading_kernel_neither_overflows_nor_drifts():
    length = 2**20
    K = 0.999 ** torch.arange(length, dtype=F64)
    y = causal_convolution(torch.ones(length, dtype=F64), K)
    assert y[-1].item() == pytest.approx(1000.0, rel=1e-10)


# --- what a sequence map must keep ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["recurrence", "causal", "circular", "varying"])
def test_batch_rows_are_independent(name):
    A_bar, B_bar, C = stable_system(2, 3)
    draw = source(3)
    x, length = draw(4, 2, 15), 15
    K = kernel(A_bar, B_bar, C, length)
    maps = {
        "recurrence": lambda x: recurrence(A_bar, B_bar, C, x),
        "causal": lambda x: causal_convolution(x, K),
        "circular": lambda x: circular_convolution(x, K),
        "varying": lambda x: time_varying_recurrence(
            A_bar.expand(length, 3, 3), B_bar.expand(length, 3), C.expand(length, 3), x
        ),
    }
    y = maps[name](x)
    assert y.shape == x.shape
    close(y[3, 1], maps[name](x[3, 1]), 1e-13)
    other = x.clone()
    other[3, 1] += 1
    changed = (maps[name](other) - y).abs().amax(dim=-1) > 1e-9
    assert changed.nonzero().tolist() == [[3, 1]]


def test_a_kernel_for_each_row():
    draw = source(0)
    x, K = draw(2, 3, 7), draw(2, 1, 4)
    y = causal_convolution(x, K)
    close(y[1, 2], causal_convolution(x[1, 2], K[1, 0]), 1e-13)


@given(seed=seeds, length=st.integers(2, 65), data=st.data())
def test_nothing_reads_the_future_but_the_circular_form(seed, length, data):
    t = data.draw(st.integers(1, length - 1))
    draw = source(seed)
    x, K = draw(length), 1 + draw(length).abs()
    other = x.clone()
    other[t:] += 1
    past = (causal_convolution(other, K) - causal_convolution(x, K))[:t].abs()
    assert past.max() < 1e-11
    leak = (circular_convolution(other, K) - circular_convolution(x, K))[:t].abs()
    assert leak.min() >= 1  # every past output sees at least one tap, each of which is ≥ 1
    A_bar, B_bar, C = stable_system(seed, 2)
    step = recurrence(A_bar, B_bar, C, other) - recurrence(A_bar, B_bar, C, x)
    assert (step[:t] == 0).all()


@given(seed=seeds, n=sizes, length=st.integers(2, 40), data=st.data())
def test_the_state_carries_the_past(seed, n, length, data):
    cut = data.draw(st.integers(1, length - 1))
    A_bar, B_bar, C = stable_system(seed, n)
    x = source(seed + 1)(3, length)
    y, last = recurrence(A_bar, B_bar, C, x, D=0.5, return_last_state=True)
    assert last.shape == (3, n)
    left, state = recurrence(A_bar, B_bar, C, x[:, :cut], D=0.5, return_last_state=True)
    right, end = recurrence(
        A_bar, B_bar, C, x[:, cut:], D=0.5, initial_state=state, return_last_state=True
    )
    close(torch.cat([left, right], dim=1), y, 1e-12)
    close(end, last, 1e-12)


def test_unforced_from_one_state_for_the_whole_batch():
    A_bar, _, C = stable_system(1, 3)
    start = torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    zero = torch.zeros(2, 4, dtype=F64)
    y = recurrence(A_bar, torch.zeros(3, dtype=F64), C, zero, initial_state=start)
    for k in range(4):
        close(y[:, k], (C @ torch.linalg.matrix_power(A_bar, k + 1) @ start).expand(2), 1e-12)


def test_gradients():
    inputs = [value.requires_grad_() for value in (*stable_system(4, 3), source(9)(2, 5))]
    assert torch.autograd.gradcheck(recurrence, inputs)
    assert torch.autograd.gradcheck(lambda *system: kernel(*system, 6), inputs[:3])
    taps = source(8)(4).requires_grad_()
    assert torch.autograd.gradcheck(causal_convolution, (inputs[3], taps))
    assert torch.autograd.gradcheck(circular_convolution, (inputs[3], taps))
    assert torch.autograd.gradcheck(toeplitz, (taps,))
    varying = [value.requires_grad_() for value in varying_system(4, 2)]
    assert torch.autograd.gradcheck(time_varying_matrix, varying)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, C128])
def test_keeps_the_dtype(dtype):
    A_bar, B_bar, C = (value.to(dtype) for value in stable_system(4, 3))
    x = torch.ones(5, dtype=dtype)
    K = kernel(A_bar, B_bar, C, 5)
    varying = (A_bar.expand(5, 3, 3), B_bar.expand(5, 3), C.expand(5, 3))
    results = [
        recurrence(A_bar, B_bar, C, x),
        K,
        toeplitz(K),
        causal_convolution(x, K),
        circular_convolution(x, K),
        time_varying_recurrence(*varying, x),
        time_varying_matrix(*varying),
    ]
    assert {result.dtype for result in results} == {dtype}


def test_a_real_input_through_a_complex_system():
    A_bar, B_bar, C = stable_system(4, 3, C128)
    x = source(0)(9)
    y = recurrence(A_bar, B_bar, C.real, x)
    assert y.dtype == C128
    close(y, causal_convolution(x, kernel(A_bar, B_bar, C.real, 9)), 1e-12)


# --- time-varying systems ------------------------------------------------------------------------


def varying_system(length, n, seed=0, dtype=F64):
    draw = source(seed)
    A_bar = draw(length, n, n, dtype=dtype) / (2 * math.sqrt(n))
    return A_bar, draw(length, n, dtype=dtype), draw(length, n, dtype=dtype)


@given(seed=seeds, n=sizes, length=st.integers(1, 20), dtype=dtypes)
def test_time_varying_matrix_is_the_product_written_out(seed, n, length, dtype):
    A_bar, B_bar, C = (value.numpy() for value in varying_system(length, n, seed, dtype))
    expected = np.zeros((length, length), A_bar.dtype)
    for t in range(length):
        for s in range(t + 1):
            product = np.eye(n)
            for k in range(s + 1, t + 1):
                product = A_bar[k] @ product  # the later step stands on the left
            expected[t, s] = C[t] @ product @ B_bar[s]
    ours = time_varying_matrix(*(torch.from_numpy(value) for value in (A_bar, B_bar, C)))
    close(ours, expected, 1e-12)


@given(seed=seeds, n=sizes, length=st.integers(1, 40), dtype=dtypes)
def test_time_varying_matrix_equals_the_recurrence(seed, n, length, dtype):
    system = varying_system(length, n, seed, dtype)
    x = source(seed + 1)(3, length, dtype=dtype)
    close(time_varying_recurrence(*system, x), x @ time_varying_matrix(*system).mT, 1e-10)


@given(seed=seeds, n=sizes, length=lengths)
def test_constant_matrices_give_the_toeplitz_matrix(seed, n, length):
    A_bar, B_bar, C = stable_system(seed, n)
    K = time_varying_matrix(
        A_bar.expand(length, n, n), B_bar.expand(length, n), C.expand(length, n)
    )
    close(K, toeplitz(kernel(A_bar, B_bar, C, length)), 1e-10)


def test_a_time_varying_system_has_no_one_index_kernel():
    K = time_varying_matrix(*varying_system(8, 3))
    assert torch.equal(K, K.tril())
    assert (K.diagonal() - K[0, 0]).abs().max() > 0.1


# --- bad input -----------------------------------------------------------------------------------

A, B, C = torch.eye(2, dtype=F64) / 2, torch.ones(2, dtype=F64), torch.ones(2, dtype=F64)
X = torch.ones(3, 4, dtype=F64)
NAN = torch.full((2,), math.nan, dtype=F64)
THREE = torch.ones(3, dtype=F64)
BAD_SYSTEMS = [
    (torch.ones(2, 3, dtype=F64), B, C, ValueError, "^A_bar: expected a square matrix"),
    (torch.eye(2, dtype=torch.int64), B, C, TypeError, "^A_bar: .*got dtype torch.int64"),
    (torch.diag(NAN), B, C, ValueError, "^A_bar: expected finite values, got 2"),
    (A, THREE, C, ValueError, r"^B_bar: expected shape \(2,\), got shape \(3,\)"),
    (A, -NAN, C, ValueError, "^B_bar: expected finite values"),
    (A, B.float(), C, TypeError, "^B_bar: expected the precision of A_bar"),
    (A, B, THREE, ValueError, r"^C: expected shape \(2,\), got shape \(3,\)"),
    (A, B, NAN, ValueError, "^C: expected finite values"),
    (A, B, C[None], ValueError, r"^C: expected shape \(2,\), got shape \(1, 2\)"),
    (A, B, [1.0, 1.0], TypeError, "^C: .*got a list"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD_SYSTEMS)
def test_bad_input_system(case):
    *system, kind, message = case
    with pytest.raises(kind, match=message):
        recurrence(*system, X)
    with pytest.raises(kind, match=message):
        kernel(*system, 4)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "options", "kind", "message"),
    [
        ((X[0, 0],), {}, ValueError, r"^x: expected shape \(…, length\)"),
        ((X[:, :0],), {}, ValueError, r"^x: .*length >= 1, got shape \(3, 0\)"),
        ((X * math.inf,), {}, ValueError, "^x: expected finite values, got 12"),
        ((X.long(),), {}, TypeError, "^x: .*got dtype torch.int64"),
        ((X.float(),), {}, TypeError, "^x: expected the precision of A_bar"),
        ((X,), {"D": B}, ValueError, r"^D: expected shape \(\), got shape \(2,\)"),
        ((X,), {"D": "1"}, TypeError, "^D: .*got '1'"),
        ((X,), {"D": math.nan}, ValueError, "^D: expected finite values"),
        ((X,), {"initial_state": THREE}, ValueError, r"^initial_state: .*\(2,\) or \(3, 2\)"),
        ((X,), {"initial_state": B[None]}, ValueError, r"^initial_state: .*got shape \(1, 2\)"),
        ((X,), {"initial_state": torch.ones(3, 1)}, ValueError, "^initial_state: expected shape"),
        ((X,), {"initial_state": NAN}, ValueError, "^initial_state: expected finite values"),
        ((X,), {"initial_state": torch.ones(2)}, TypeError, "^initial_state: .*precision of x"),
        ((X,), {"initial_state": 0.0}, TypeError, "^initial_state: .*got 0.0"),
    ],
)
def test_bad_input_recurrence(arguments, options, kind, message):
    with pytest.raises(kind, match=message):
        recurrence(A, B, C, *arguments, **options)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("length", "kind"), [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_bad_input_kernel_length(length, kind):
    with pytest.raises(kind, match=f"^length: expected a whole number >= 1, got {length}"):
        kernel(A, B, C, length)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("taps", "kind", "message"),
    [
        (torch.tensor(1.0, dtype=F64), ValueError, r"^kernel: .*got shape \(\)"),
        (torch.ones(0, dtype=F64), ValueError, r"^kernel: .*got shape \(0,\)"),
        (NAN, ValueError, "^kernel: expected finite values, got 2"),
        (torch.ones(2, dtype=torch.int32), TypeError, "^kernel: .*got dtype torch.int32"),
    ],
)
def test_bad_input_taps(taps, kind, message):
    for call in (
        toeplitz,
        lambda K: causal_convolution(X, K),
        lambda K: circular_convolution(X, K),
    ):
        with pytest.raises(kind, match=message):
            call(taps)


@pytest.mark.bad_input
@pytest.mark.parametrize("convolution", [causal_convolution, circular_convolution])
@pytest.mark.parametrize(
    ("x", "taps", "kind", "message"),
    [
        (X[0, 0], B, ValueError, "^x: expected shape"),
        (-X / 0, B, ValueError, "^x: expected finite values"),
        (X.int(), B, TypeError, "^x: .*got dtype torch.int32"),
        (X, B.float(), TypeError, "^kernel: expected the precision of x"),
        (X, torch.ones(2, 2, dtype=F64), ValueError, r"^kernel: .*\(3,\), before the taps"),
        (X, torch.ones(1, 3, 2, dtype=F64), ValueError, r"^kernel: .*got shape \(1, 3, 2\)"),
    ],
)
def test_bad_input_convolution(convolution, x, taps, kind, message):
    with pytest.raises(kind, match=message):
        convolution(x, taps)


@pytest.mark.bad_input
def test_bad_input_circular_with_too_many_taps():
    with pytest.raises(ValueError, match=r"^kernel: expected at most 4 taps.*got 5"):
        circular_convolution(X, torch.ones(5, dtype=F64))


V = varying_system(4, 2)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("system", "kind", "message"),
    [
        ((A, V[1], V[2]), ValueError, r"^A_bar: expected shape \(length, N, N\)"),
        ((V[0][:, :1], V[1], V[2]), ValueError, r"^A_bar: .*got shape \(4, 1, 2\)"),
        ((V[0] / 0, V[1], V[2]), ValueError, "^A_bar: expected finite values"),
        ((V[0], V[1][:3], V[2]), ValueError, r"^B_bar: expected shape \(4, 2\)"),
        ((V[0], V[1].float(), V[2]), TypeError, "^B_bar: expected the precision of A_bar"),
        ((V[0], V[1], V[2][:, :1]), ValueError, r"^C: expected shape \(4, 2\), got .*\(4, 1\)"),
        ((V[0], V[1], V[2].long()), TypeError, "^C: .*got dtype torch.int64"),
    ],
)
def test_bad_input_time_varying(system, kind, message):
    with pytest.raises(kind, match=message):
        time_varying_matrix(*system)
    with pytest.raises(kind, match=message):
        time_varying_recurrence(*system, X)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (X[:, :3], ValueError, r"^x: expected shape \(…, 4\).*got shape \(3, 3\)"),
        (X.long(), TypeError, "^x: .*got dtype torch.int64"),
        (X * math.nan, ValueError, "^x: expected finite values"),
        (X.float(), TypeError, "^x: expected the precision of A_bar"),
    ],
)
def test_bad_input_time_varying_input(x, kind, message):
    with pytest.raises(kind, match=message):
        time_varying_recurrence(*V, x)


# --- precision and memory ------------------------------------------------------------------------

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@HALVES
def test_a_half_is_computed_in_float32(dtype):
    draw = source(0)
    x, taps = draw(3, 100).to(dtype), draw(100).to(dtype)
    A_bar, B_bar, C = (v.to(dtype) for v in stable_system(1, 4))
    exact = [v.double() for v in (A_bar, B_bar, C, x)]
    eps = torch.finfo(dtype).eps
    state = torch.zeros(4)
    for ours, wanted, out in (
        (causal_convolution(x, taps), causal_convolution(x.double(), taps.double()), dtype),
        (causal_convolution(x, taps.float()), causal_convolution(x.double(), taps.double()), dtype),
        (circular_convolution(x, taps), circular_convolution(x.double(), taps.double()), dtype),
        (recurrence(A_bar, B_bar, C, x), recurrence(*exact), dtype),
        (recurrence(A_bar.float(), B_bar, C, x, 0.0, state), recurrence(*exact), dtype),
        (kernel(A_bar, B_bar, C, 50), kernel(*exact[:3], 50), torch.float32),
    ):
        assert ours.dtype == out
        bound = eps if out == dtype else 1e-5
        assert (ours - wanted).abs().max() <= bound * wanted.abs().max()
    _, h = recurrence(A_bar, B_bar, C, x, return_last_state=True)
    assert h.dtype == torch.float32


@pytest.mark.parametrize("shape", [(100,), (1, 100), (3, 1, 65), (2, 3, 64)])
def test_an_output_holds_no_more_than_itself(shape):
    draw = source(0)
    y = causal_convolution(draw(*shape), draw(shape[-1]))
    assert y.shape == shape and y.untyped_storage().nbytes() == y.numel() * y.itemsize


def test_a_real_system_goes_on_from_a_complex_state():
    A_bar, B_bar, C = stable_system(1, 4)
    x, h = source(0)(3, 9), source(2)(3, 4, dtype=C128)
    y, last = recurrence(A_bar, B_bar, C, x, 0.5, h, return_last_state=True)
    wanted, wanted_last = recurrence(
        *(v.to(C128) for v in (A_bar, B_bar, C, x)), 0.5, h, return_last_state=True
    )
    torch.testing.assert_close(y, wanted)
    torch.testing.assert_close(last, wanted_last)
    parts = [recurrence(A_bar, B_bar, C, 0 * x, 0.0, part) for part in (h.real, h.imag)]
    alone = recurrence(A_bar, B_bar, C, 0 * x, 0.0, h)
    torch.testing.assert_close(alone, torch.complex(*parts))


def test_powers_are_made_by_doubling():
    """A kernel of 1,024 steps in ten rounds, each twice as long: powers need not wait in a row."""
    system = low_pass(40.0)
    A_bar, B_bar = zero_order_hold(system.A, system.B, ecg().delta)
    rows, power, rounds = system.C[None], A_bar, 0
    while len(rows) < 1024:
        rows, power, rounds = torch.cat([rows, rows @ power]), power @ power, rounds + 1
    assert rounds == 10
    close(rows @ B_bar, kernel(A_bar, B_bar, system.C, 1024))
