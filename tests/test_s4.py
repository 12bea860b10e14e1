"""Chapter 15: the naive, the Cauchy and the Vandermonde kernel are one; the layers around them."""

import copy
import math
import pickle

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import source
from linear_time.convolution import causal_convolution, kernel, recurrence
from linear_time.discretization import bilinear, bilinear_diagonal, zero_order_hold
from linear_time.hippo import legs, normal_plus_low_rank
from linear_time.layer import mark_of
from linear_time.s4 import (
    S4,
    S4D,
    cauchy_kernel,
    dplr_step,
    legs_dplr,
    s4d_eigenvalues,
    truncated_output,
    vandermonde_kernel,
)

F32, F64, C128 = torch.float32, torch.float64, torch.complex128
INITS = ("lin", "inv", "real", "legs", "random")
seeds = st.integers(0, 2**31 - 1)


def number(value):
    return torch.tensor(value, dtype=F64)


def both(v):
    return torch.cat([v, v.conj()], dim=-1)


def dense(eigenvalues, P, B, C):
    """The full complex system (A, B, C) of one that is stored as half of its pairs."""
    A = torch.diag(both(eigenvalues)) - torch.outer(both(P), both(P).conj())
    return A, both(B), both(C)


def random_dplr(seed, pairs):
    draw = source(seed)
    eigenvalues = torch.complex(-0.1 - draw(pairs).abs(), 5 * draw(pairs))
    return eigenvalues, *(draw(pairs, dtype=C128) for _ in range(3))


def naive_kernel(eigenvalues, P, B, C, delta, length):
    A, B, C = dense(eigenvalues, P, B, C)
    K = kernel(*bilinear(A, B, delta), C, length)
    assert K.imag.abs().max() <= 1e-9 * K.abs().max()
    return K.real


def near(left, right, tolerance=1e-8):
    """max|Δ| ≤ tolerance · max|right|."""
    if not isinstance(right, torch.Tensor):
        right = torch.as_tensor(np.array(right))
    assert left.shape == right.shape
    assert (left - right).abs().max() <= tolerance * right.abs().max()


# --- the kernels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("N", [2, 4, 16, 64])
def test_dplr_conversion_of_legs(N):
    """V (diag(λ) − P P*) V* is the LegS matrix, from half of the pairs alone."""
    eigenvalues, P, B = legs_dplr(N)
    V = normal_plus_low_rank(N).V[:, N // 2 :]
    V = torch.cat([V, V.conj()], dim=1)  # real states in pairs of conjugates
    A_diagonal, B_diagonal, _ = dense(eigenvalues, P, B, B)
    A, B_legs = legs(N)
    assert (V @ A_diagonal @ V.mH - A).abs().max() < 1e-13 * N * A.abs().max()
    assert (V @ B_diagonal - B_legs).abs().max() < 1e-12
    assert (eigenvalues.imag > 0).all() and (eigenvalues.real == -0.5).all()


@pytest.mark.parametrize("N", [2, 16, 64])
def test_three_kernels_agree_at_1024(N):
    """LegS in real numbers, its DPLR form by Cauchy, and a diagonal system by Vandermonde."""
    length, delta = 1024, number(0.01)
    eigenvalues, P, B = legs_dplr(N)
    C = source(0)(N // 2, dtype=C128)
    V = normal_plus_low_rank(N).V[:, N // 2 :]
    real_C = 2 * (C @ V.mH).real  # y = 2 Re(C h), h = V* h_real
    expected = kernel(*bilinear(*legs(N), delta), real_C, length)
    near(cauchy_kernel(eigenvalues, P, B, C, delta, length), expected)
    single = [v.to(torch.complex64) for v in (eigenvalues, P, B, C)]
    near(cauchy_kernel(*single, delta.float(), length).double(), expected, 1e-4)
    # Without the low-rank part all three do the same diagonal system.
    zero = torch.zeros_like(P)
    a_bar, b_bar = bilinear_diagonal(eigenvalues, B, delta)
    diagonal = naive_kernel(eigenvalues, zero, B, C, delta, length)
    near(cauchy_kernel(eigenvalues, zero, B, C, delta, length), diagonal)
    near(vandermonde_kernel(a_bar, C * b_bar, length), diagonal)
    near(
        vandermonde_kernel(a_bar.to(torch.complex64), (C * b_bar).to(torch.complex64), length),
        diagonal.float(),
        1e-4,
    )


@given(
    seed=seeds,
    pairs=st.integers(1, 6),
    delta=st.floats(1e-3, 1.0),
    length=st.sampled_from([1, 2, 3, 4, 7, 64, 255, 256]),
)
def test_cauchy_kernel_is_the_matrix_power(seed, pairs, delta, length):
    system, delta = random_dplr(seed, pairs), number(delta)
    near(cauchy_kernel(*system, delta, length), naive_kernel(*system, delta, length))


@given(
    seed=seeds,
    pairs=st.integers(1, 6),
    delta=st.floats(1e-3, 1.0),
    length=st.integers(1, 130),
)
def test_vandermonde_kernel_is_the_matrix_power(seed, pairs, delta, length):
    a, _, B, C = random_dplr(seed, pairs)
    A_bar, B_bar = zero_order_hold(torch.diag(both(a)), both(B), number(delta))
    expected = kernel(A_bar, B_bar, both(C), length).real
    K = vandermonde_kernel(A_bar.diagonal()[:pairs], C * B_bar[:pairs], length)
    near(K, expected)


@pytest.mark.parametrize("length", [1, 2, 255, 256])
def test_truncated_output(length):
    eigenvalues, P, B, C = random_dplr(7, 4)
    delta = number(0.03)
    A, _, full_C = dense(eigenvalues, P, B, C)
    A_bar, _ = bilinear(A, both(B), delta)
    power = torch.linalg.matrix_power(A_bar, length)
    near(both(truncated_output(eigenvalues, P, C, delta, length)), full_C - full_C @ power, 1e-12)


@pytest.mark.parametrize("length", [1, 2, 255, 256])
def test_kernel_is_the_generating_function_at_the_roots_of_unity(length):
    eigenvalues, P, B, C = random_dplr(3, 3)
    delta = number(0.1)
    A, full_B, _ = dense(eigenvalues, P, B, C)
    A_bar, B_bar = bilinear(A, full_B, delta)
    C_tilde = both(truncated_output(eigenvalues, P, C, delta, length))
    z = torch.exp(-2j * math.pi * torch.arange(length, dtype=F64) / length)
    resolvent = torch.eye(6, dtype=C128) - z[:, None, None] * A_bar
    K_hat = torch.linalg.solve(resolvent, B_bar.expand(length, 6)) @ C_tilde
    K = cauchy_kernel(eigenvalues, P, B, C, delta, length)
    near(torch.fft.fft(K), K_hat)


def test_minus_one_is_a_regular_point():
    """At even lengths z = −1 is a root of unity, where S4's own 2/Δ (1 − z)/(1 + z) is infinite."""
    K = cauchy_kernel(*legs_dplr(8), torch.ones(4, dtype=C128), number(0.1), 2)
    assert torch.isfinite(K).all()
    near(K, naive_kernel(*legs_dplr(8), torch.ones(4, dtype=C128), number(0.1), 2), 1e-12)


def test_every_length_has_the_same_kernel():
    system, delta = random_dplr(5, 4), number(0.02)
    longest = cauchy_kernel(*system, delta, 300)
    for length in (1, 2, 129, 255, 256):
        near(cauchy_kernel(*system, delta, length), longest[:length], 1e-11)


def test_a_truncated_output_of_another_length_aliases():
    """C̃ of 2L steps used at L steps: the kernel's second half falls on its first."""
    eigenvalues, P, B, C = random_dplr(9, 3)
    delta, length = number(0.01), 40
    A, full_B, _ = dense(eigenvalues, P, B, C)
    A_bar, B_bar = bilinear(A, full_B, delta)
    C_tilde = both(truncated_output(eigenvalues, P, C, delta, 2 * length))
    z = torch.exp(-2j * math.pi * torch.arange(length, dtype=F64) / length)
    resolvent = torch.eye(6, dtype=C128) - z[:, None, None] * A_bar
    K_hat = torch.linalg.solve(resolvent, B_bar.expand(length, 6)) @ C_tilde
    K = cauchy_kernel(eigenvalues, P, B, C, delta, 2 * length)
    folded = K[:length] + K[length:]
    near(torch.fft.ifft(K_hat).real, folded)
    assert (folded - K[:length]).abs().max() > 0.1 * K.abs().max()


def test_the_normal_part_follows_inputs_and_not_the_kernel():
    """LegS's normal part with B/2: its kernel stays off, its step response converges."""
    t = torch.linspace(0.0005, 5, 5000, dtype=F64)
    off, off_step = [], []
    for N in (16, 64, 256):
        split, (A, B) = normal_plus_low_rank(N), legs(N)
        if N == 16:  # the right sides below are LegS's own first state
            for time in (0.3, 2.0):
                exact = torch.linalg.matrix_exp(time * A) @ B
                assert abs(float(exact[0]) - math.exp(-time)) < 1e-9
        weight = split.V[0] * (split.V.mH @ (B / 2).to(C128))
        exponential = torch.exp(t[:, None] * split.eigenvalues)
        impulse = (exponential @ weight).real
        step = (((exponential - 1) / split.eigenvalues) @ weight).real
        off.append(float((impulse - torch.exp(-t)).norm() / torch.exp(-t).norm()))
        off_step.append(float((step - 1 + torch.exp(-t)).abs().max()))
    assert all(0.6 < value < 0.8 for value in off)
    assert off_step[2] < off_step[1] / 2 < off_step[0] / 4 < 0.01


def test_released_code_divides_by_almost_nothing():
    """S4's factor 2/(1 + z) at the middle root: infinite in exact arithmetic, saved by rounding."""
    middle = np.exp(-1j * math.pi)
    assert 0 < abs(1 + middle) < 1e-15
    with np.errstate(all="ignore"):
        assert not np.isfinite(2 / (1 + np.complex128(-1)))


def test_kernels_take_batches():
    systems = [random_dplr(seed, 3) for seed in range(6)]
    stacked = [torch.stack(part).reshape(2, 3, 3) for part in zip(*systems, strict=True)]
    delta = torch.linspace(0.01, 0.1, 6, dtype=F64).reshape(2, 3)
    K = cauchy_kernel(*stacked, delta, 17)
    assert K.shape == (2, 3, 17)
    near(K[1, 0], cauchy_kernel(*systems[3], delta[1, 0], 17), 1e-12)
    weights = stacked[2] * stacked[3]
    a_bar = torch.exp(delta[..., None] * stacked[0])
    K = vandermonde_kernel(a_bar, weights, 17)
    assert K.shape == (2, 3, 17)
    near(K[1, 0], vandermonde_kernel(a_bar[1, 0], weights[1, 0], 17), 1e-12)


def test_vandermonde_at_zero_and_for_long_sequences():
    a_bar = torch.tensor([0.0, 0.9], dtype=C128).requires_grad_()
    weights = torch.tensor([1.0, 1.0], dtype=C128)
    K = vandermonde_kernel(a_bar, weights, 3)
    near(K, number([4.0, 1.8, 1.62]), 1e-14)
    K.sum().backward()
    assert torch.isfinite(torch.view_as_real(a_bar.grad)).all()
    slow = torch.exp(torch.tensor([-1e-5 + 1e-3j], dtype=C128))
    K = vandermonde_kernel(slow, weights[:1], 2**20)
    exact = (
        2
        * torch.exp(-1e-5 * torch.arange(2**20, dtype=F64))
        * torch.cos(1e-3 * torch.arange(2**20, dtype=F64))
    )
    near(K, exact, 1e-9)


def test_kernel_gradients():
    eigenvalues, P, B, C = (v.requires_grad_() for v in random_dplr(1, 2))
    delta = number(0.3).requires_grad_()
    for length in (1, 4, 5):
        assert torch.autograd.gradcheck(
            lambda *system, length=length: cauchy_kernel(*system, length),
            (eigenvalues, P, B, C, delta),
        )
    assert torch.autograd.gradcheck(
        lambda a_bar, w: vandermonde_kernel(a_bar, w, 5), (eigenvalues / 10, B)
    )


# --- against scipy's simulation ------------------------------------------------------------------


def simulated(system, delta, method, x):
    """scipy's output of a full complex system for input x, real and imaginary part of C apart."""
    A, B, C = (v.detach().numpy() for v in system)
    # A complex system as a real one of twice the size: h = (Re h, Im h), y = Re(C h).
    A = np.block([[A.real, -A.imag], [A.imag, A.real]])
    B = np.concatenate([B.real, B.imag])[:, None]
    matrices = (A, B, np.eye(len(A)), np.zeros((len(A), 1)))
    discrete = scipy.signal.cont2discrete(matrices, float(delta), method=method)
    # scipy's bilinear rule changes C and D as well: only Ā and B̄ are taken.
    A_bar, B_bar = discrete[0], discrete[1]
    C = np.concatenate([C.real, -C.imag])[None]
    plain = (A_bar, B_bar, C, np.zeros((1, 1)), float(delta))
    return scipy.signal.dlsim(plain, np.append(x.numpy(), 0.0))[1][1:, 0]


@pytest.mark.parametrize("N", [2, 16, 64])
def test_s4_system_equals_scipy(N):
    x, delta = source(2)(200), number(0.01)
    eigenvalues, P, B = legs_dplr(N)
    C = source(0)(N // 2, dtype=C128)
    y = causal_convolution(x, cauchy_kernel(eigenvalues, P, B, C, delta, 200))
    near(y, simulated(dense(eigenvalues, P, B, C), delta, "bilinear", x))


@pytest.mark.parametrize(("rule", "method"), [("zero_order_hold", "zoh"), ("bilinear", "bilinear")])
@pytest.mark.parametrize("init", INITS)
@torch.no_grad()
def test_s4d_kernel_equals_scipy(init, rule, method):
    torch.manual_seed(0)
    layer = S4D(2, N=8, init=init, rule=rule).double()
    x = source(2)(100)
    y = causal_convolution(x.expand(2, 100), layer.kernel(100))
    for channel in range(2):
        a, C = layer.eigenvalues[channel], torch.view_as_complex(layer.C)[channel]
        zero = torch.zeros_like(a)
        system = dense(a, zero, torch.ones_like(a), C)
        near(y[channel], simulated(system, layer.delta[channel], method, x))


# --- the recurrent form of S4 --------------------------------------------------------------------


@given(seed=seeds, pairs=st.integers(1, 6), delta=st.floats(1e-3, 1.0))
def test_dplr_step_is_the_dense_bilinear_step(seed, pairs, delta):
    eigenvalues, P, B, _ = random_dplr(seed, pairs)
    h = source(seed + 1)(pairs, dtype=C128)
    A, full_B, _ = dense(eigenvalues, P, B, B)
    A_bar, B_bar = bilinear(A, full_B, number(delta))
    step = dplr_step(eigenvalues, P, number(delta), h, 0.7 * B)
    near(both(step), A_bar @ both(h) + 0.7 * B_bar, 1e-10)
    near(both(dplr_step(eigenvalues, P, number(delta), h)), A_bar @ both(h), 1e-10)


@given(seed=seeds, pairs=st.integers(1, 6), delta=st.floats(1e-3, 10.0))
def test_the_step_never_grows_the_state(seed, pairs, delta):
    """A + A* ≤ 0, so the bilinear Ā is a contraction for whatever is learned."""
    eigenvalues, P, *_ = random_dplr(seed, pairs)
    h = source(seed + 1)(20, pairs, dtype=C128)
    after = dplr_step(eigenvalues, 3 * P, number(delta), h)
    assert (after.norm(dim=-1) <= h.norm(dim=-1) * (1 + 1e-12)).all()


# --- initialisation ------------------------------------------------------------------------------


def test_initial_eigenvalues():
    n = np.arange(4)
    near(s4d_eigenvalues("lin", 8), -0.5 + 1j * math.pi * n, 1e-15)
    near(s4d_eigenvalues("inv", 8), -0.5 + 1j * 8 / math.pi * (8 / (2 * n + 1) - 1), 1e-15)
    near(s4d_eigenvalues("real", 8), -(n + 1.0) + 0j, 1e-15)
    A, B = legs(8)
    expected = np.linalg.eigvals((A + torch.outer(B, B) / 2).numpy())
    expected = np.sort_complex(expected[expected.imag > 0])
    expected = expected[np.argsort(expected.imag)]
    near(s4d_eigenvalues("legs", 8), expected, 1e-12)
    one = s4d_eigenvalues("random", 8, seed=1)
    assert torch.equal(one, s4d_eigenvalues("random", 8, seed=1))
    assert not torch.equal(one, s4d_eigenvalues("random", 8, seed=2))


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("N", [2, 64])
def test_initial_eigenvalues_are_stable_halves(init, N):
    eigenvalues = s4d_eigenvalues(init, N, seed=0)
    assert eigenvalues.shape == (N // 2,) and eigenvalues.dtype == C128
    assert (eigenvalues.real < 0).all() and (eigenvalues.imag >= 0).all()


@pytest.mark.parametrize("make", [S4, S4D])
@torch.no_grad()
def test_layer_starts_as_documented(make):
    torch.manual_seed(0)
    layer = make(400, N=16)
    log_delta = layer.log_delta
    low, high = math.log(1e-3), math.log(1e-1)
    assert log_delta.min() >= low - 1e-6 and log_delta.max() <= high + 1e-6
    uniform = ((log_delta - low) / (high - low)).sort().values
    assert (uniform - torch.linspace(0, 1, 400)).abs().max() < 0.1  # uniform in log Δ
    near(layer.delta, log_delta.exp(), 1e-6)
    expected = legs_dplr(16)[0] if make is S4 else s4d_eigenvalues("lin", 16)
    near(layer.eigenvalues, expected.to(torch.complex64).expand(400, 8), 1e-6)
    C = torch.view_as_complex(layer.C)
    assert C.shape == (400, 8) and abs(C.abs().square().mean() - 1) < 0.05
    assert (layer.D == 1).all()
    narrow = make(50, N=4, delta_min=0.02, delta_max=0.02)
    near(narrow.delta, torch.full((50,), 0.02), 1e-6)


@torch.no_grad()
def test_s4_starts_at_legs():
    layer = S4(3, N=16).double()
    eigenvalues, P, B, C, delta = layer.system()
    expected = legs_dplr(16)
    for mine, theirs in zip((eigenvalues, P, B), expected, strict=True):
        near(mine, theirs.expand(3, 8), 1e-6)  # made in float32
    assert C.shape == (3, 8) and delta.shape == (3,)


def test_parameters_are_those_named():
    common = {"log_delta", "log_decay", "frequency", "C", "D", "out.weight", "out.bias"}
    s4d, s4 = S4D(5, N=8), S4(5, N=8)
    assert dict(s4d.named_parameters()).keys() == common
    assert dict(s4.named_parameters()).keys() == common | {"P", "B"}
    count = 5 * (1 + 4 + 4 + 8 + 1) + 5 * 5 + 5
    assert sum(p.numel() for p in s4d.parameters()) == count
    assert sum(p.numel() for p in s4.parameters()) == count + 5 * 16
    assert S4D(1).N == S4(1).N == 64
    assert not list(s4.buffers())


@pytest.mark.parametrize("make", [S4, S4D])
def test_marks_for_the_optimizer(make):
    layer = make(3, N=4, lr_scale=0.1)
    slow = {"log_delta", "log_decay", "frequency", "P", "B"}
    for name, _ in layer.double().named_parameters(recurse=False):
        assert mark_of(layer, name) == (False, 0.1 if name in slow else 1.0)
    assert mark_of(layer.out, "weight") == (True, 1.0)
    assert mark_of(layer.out, "bias") == (False, 1.0)


# --- the layers ----------------------------------------------------------------------------------


def layer_by_hand(layer, x):
    """Every channel as a dense system of its own, then D, the activation and the mixing."""
    C = torch.view_as_complex(layer.C)
    columns = []
    for channel in range(layer.d_model):
        a = layer.eigenvalues[channel]
        if isinstance(layer, S4):
            P, B = (torch.view_as_complex(p)[channel] for p in (layer.P, layer.B))
        else:
            P, B = torch.zeros_like(a), torch.ones_like(a)
        A, B, full_C = dense(a, P, B, C[channel])
        rule = zero_order_hold if getattr(layer, "rule", "") == "zero_order_hold" else bilinear
        pair = rule(A, B, layer.delta[channel])
        columns.append(recurrence(*pair, full_C, x[..., channel]).real)
    y = torch.stack(columns, dim=-1) + layer.D * x
    return nn.functional.gelu(y) @ layer.out.weight.T + layer.out.bias


@pytest.mark.parametrize(
    "make",
    [
        lambda: S4(3, N=8),
        lambda: S4D(3, N=8),
        lambda: S4D(3, N=8, init="inv", rule="bilinear"),
        lambda: S4D(3, N=2, init="real"),
    ],
)
@pytest.mark.parametrize("length", [1, 2, 255, 256])
@torch.no_grad()
def test_layer_is_its_definition_at_several_lengths(make, length):
    torch.manual_seed(0)
    layer = make().double()
    layer.D.copy_(torch.tensor([1.0, -0.5, 2.0]))
    x = source(1)(2, 256, 3)[:, :length]
    near(layer(x), layer_by_hand(layer, x))


@pytest.mark.parametrize("make", [S4, S4D])
@torch.no_grad()
def test_channels_mix_only_in_the_output_map(make):
    torch.manual_seed(0)
    layer = make(4, N=8).double()
    layer.out.weight.copy_(torch.eye(4))
    layer.out.bias.zero_()
    x = source(1)(1, 20, 4)
    other = x.clone()
    other[..., 2] += 1
    changed = (layer(other) - layer(x)).abs().amax(dim=(0, 1))
    assert changed[2] > 0.1 and (changed[[0, 1, 3]] == 0).all()


@pytest.mark.parametrize("make", [S4, S4D])
def test_stays_stable_whatever_is_learned(make):
    torch.manual_seed(0)
    layer = make(4, N=8)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 2 * torch.randn_like(parameter)
    assert (layer.eigenvalues.real < 0).all() and (layer.delta > 0).all()
    layer = layer.double()
    h = layer.initial_state(1)
    with torch.no_grad():
        for x_t in [torch.ones(1, 4, dtype=F64)] + 2000 * [torch.zeros(1, 4, dtype=F64)]:
            h = layer.next_state(h, x_t)
    assert h.abs().max() < 100


@pytest.mark.parametrize("make", [S4, S4D])
@torch.no_grad()
def test_state_dict_and_copies_compute_the_same(make):
    torch.manual_seed(0)
    layer = make(3, N=8)
    x = source(0)(2, 9, 3, dtype=F32)
    other = make(3, N=8)
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


# --- bad input -----------------------------------------------------------------------------------

PAIRS = torch.full((3,), -0.5 + 1j, dtype=C128)
ONE = number(0.1)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((PAIRS.real, PAIRS, 4), TypeError, "^a_bar: expected a complex tensor"),
        ((PAIRS, PAIRS.real, 4), TypeError, "^weights: expected a complex tensor"),
        ((PAIRS, PAIRS[:2], 4), ValueError, r"^weights: expected the shape of a_bar, \(3,\)"),
        ((PAIRS, PAIRS.to(torch.complex64), 4), TypeError, "^weights: expected the precision"),
        ((PAIRS / 0, PAIRS, 4), ValueError, "^a_bar: expected finite values"),
        ((PAIRS[0], PAIRS[0], 4), ValueError, "^a_bar: expected shape"),
        ((PAIRS, PAIRS, 0), ValueError, "^length: expected a whole number >= 1, got 0"),
        ((PAIRS, PAIRS, 4.0), TypeError, "^length: .*got 4.0"),
        (([1j], PAIRS, 4), TypeError, "^a_bar: .*got a list"),
    ],
)
def test_bad_input_vandermonde(arguments, kind, message):
    with pytest.raises(kind, match=message):
        vandermonde_kernel(*arguments)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"eigenvalues": -PAIRS}, ValueError, "^eigenvalues: expected real parts < 0, got .* 0.5"),
        ({"eigenvalues": 1j * PAIRS.imag}, ValueError, "^eigenvalues: expected real parts < 0"),
        ({"P": PAIRS[:1]}, ValueError, "^P: expected the shape of eigenvalues"),
        ({"B": PAIRS[None, :2]}, ValueError, r"^B: expected the shape .*got shape \(1, 2\)"),
        ({"C": PAIRS.real}, TypeError, "^C: expected a complex tensor"),
        ({"C": PAIRS * math.nan}, ValueError, "^C: expected finite"),
        ({"delta": number(0.0)}, ValueError, "^delta: expected finite numbers > 0, got .* 0"),
        ({"delta": number(-1.0)}, ValueError, "^delta: expected finite numbers > 0, got .* -1"),
        ({"delta": number([0.1, 0.1])}, ValueError, r"^delta: expected shape \(\)"),
        ({"delta": ONE.float()}, TypeError, "^delta: expected the precision of eigenvalues"),
        ({"delta": 0.1}, TypeError, "^delta: .*got 0.1"),
        ({"length": 0}, ValueError, "^length: "),
    ],
)
def test_bad_input_cauchy(changes, kind, message):
    good = {name: PAIRS for name in ("eigenvalues", "P", "B", "C")}
    arguments = {**good, "delta": ONE, "length": 4, **changes}
    with pytest.raises(kind, match=message):
        cauchy_kernel(**arguments)


@pytest.mark.bad_input
@pytest.mark.parametrize("make", [S4, S4D, lambda d, **k: legs_dplr(k.get("N", 4))])
@pytest.mark.parametrize(
    ("N", "kind", "message"),
    [
        (0, ValueError, "^N: expected a whole number >= 1, got 0"),
        (7, ValueError, "^N: expected an even number, conjugate pairs, got 7"),
        (8.0, TypeError, "^N: .*got 8.0"),
    ],
)
def test_bad_input_state_size(make, N, kind, message):
    with pytest.raises(kind, match=message):
        make(4, N=N)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"delta_min": 0.0}, ValueError, "^delta_min: expected a finite number > 0, got 0"),
        ({"delta_max": -1.0}, ValueError, "^delta_max: .*got -1"),
        ({"delta_max": 1e-4}, ValueError, "^delta_min: expected at most delta_max = "),
        ({"lr_scale": 0.0}, ValueError, "^lr_scale: .*got 0"),
        ({"delta_min": "a"}, TypeError, "^delta_min: .*got 'a'"),
    ],
)
@pytest.mark.parametrize("make", [S4, S4D])
def test_bad_input_options(make, options, kind, message):
    with pytest.raises(kind, match=message):
        make(4, N=4, **options)


@pytest.mark.bad_input
def test_bad_input_names():
    with pytest.raises(ValueError, match=r"^init: expected one of lin, inv, .*got 'linear'"):
        S4D(4, init="linear")
    with pytest.raises(ValueError, match=r"^rule: expected one of zero_order_hold, bilinear, got"):
        S4D(4, rule="zoh")


@pytest.mark.bad_input
@pytest.mark.parametrize("make", [S4, S4D])
def test_bad_input_state(make):
    layer = make(4, N=8)
    with pytest.raises(
        ValueError, match=r"^state: expected a .* of shape \(2, 4, 4\), got .*\(1, 4, 4\)"
    ):
        layer.step(torch.zeros(2, 4), layer.initial_state(1))
    with pytest.raises(ValueError, match=r"^batch_size: "):
        layer.initial_state(0)


# --- a state and its step ------------------------------------------------------------------------

layers = pytest.mark.parametrize(
    "make",
    [
        lambda: S4(3, N=8),
        lambda: S4D(3, N=8),
        lambda: S4D(3, N=2, init="real", rule="bilinear"),
    ],
    ids=["S4", "S4D", "S4D, bilinear"],
)


def stepped(layer, x, state):
    outputs = []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, dim=1), state


def moved(make):
    torch.manual_seed(0)
    layer = make().double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return layer


@layers
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])
@torch.no_grad()
def test_prefill_is_the_steps(make, length):
    layer, x = moved(make), source(1)(2, length + 5, 3)
    _, state = stepped(layer, x[:, :5], layer.initial_state(2))
    for begin, before in ((0, None), (5, state)):
        part = x[:, begin : begin + length]
        y, last = layer.prefill(part, before)
        start = layer.initial_state(2) if before is None else before
        wanted, wanted_last = stepped(layer, part, start)
        near(y, wanted)
        near(last, wanted_last)


@layers
@torch.no_grad()
def test_padding_between_a_state_and_what_follows(make):
    layer, x, lengths = moved(make), source(1)(3, 75, 3), (70, 65, 1)
    _, state = layer.prefill(x[:, :5])
    mask = torch.arange(70) >= 70 - torch.tensor(lengths)[:, None]
    padded = x[:, 5:].masked_fill(~mask[..., None], 1e3)
    y, last = layer.prefill(padded, state, mask)
    for row, n in enumerate(lengths):
        one = slice(row, row + 1)
        wanted, wanted_last = stepped(layer, x[one, 75 - n :], state[one])
        near(y[one, 70 - n :], wanted)
        near(last[one], wanted_last)


@layers
def test_gradients_go_through_prefill(make):
    gradients = []
    for read in (lambda m, x, s: m.prefill(x, s), stepped):
        layer = moved(make)
        x = source(1)(2, 70, 3).requires_grad_()
        state = source(2)(2, 3, layer.N // 2, dtype=C128).requires_grad_()
        y, last = read(layer, x, state)
        (y.square().sum() + last.abs().square().sum()).backward()
        gradients.append([x.grad, state.grad, *(p.grad for p in layer.parameters())])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-7, atol=1e-9)


@pytest.fixture
def made(monkeypatch):
    """How often the constants of a step were made."""
    count = []
    for kind in (S4, S4D):
        real = kind.constants
        monkeypatch.setattr(
            kind, "constants", lambda self, real=real: (count.append(1), real(self))[1]
        )
    return count


@layers
def test_the_constants_of_a_step_are_made_once(make, made):
    layer = moved(make)
    x, state = source(1)(2, 3), layer.initial_state(2)

    def again(times=3):
        made.clear()
        for _ in range(times):
            layer.step(x, state)
        return len(made)

    assert again() == 3  # the parameters may want their gradients
    with torch.no_grad():
        assert again() == 1 and again() == 0
        layer.log_delta.mul_(1.1)
        assert again() == 1 and again() == 0
        layer.frequency.data = layer.frequency.data + 1
        assert again() == 1 and again() == 0
        layer.load_state_dict(layer.state_dict())
        assert again() == 1
        layer.load_state_dict(layer.state_dict(), assign=True)
        assert again() == 1 and again() == 0
        layer.C.data.mul_(1.1)  # C is read as it is
        layer.log_decay.data.mul_(1.1)  # torch does not count this one,
        state = layer.initial_state(2)  # but a generation begins anew
        assert again() == 1
        layer.float().double()
        assert again() == 1
    with torch.inference_mode():
        assert again() == 1
    layer.requires_grad_(False)
    y, _ = layer.step(x.requires_grad_(), state)
    y.sum().backward()  # what was made in inference mode would refuse
    layer.requires_grad_()
    layer.step(x, state)[1].abs().sum().backward()
    assert layer.log_delta.grad.abs().max() > 0


@layers
@torch.no_grad()
def test_what_is_kept_for_the_next_step_is_not_saved(make, tmp_path):
    layer = moved(make)
    before = len(pickle.dumps(layer))
    layer.step(source(1)(2, 3), layer.initial_state(2))
    assert len(pickle.dumps(layer)) == before
    twin = copy.deepcopy(layer)
    twin.log_delta.add_(1)
    x, state = source(1)(2, 3), source(2)(2, 3, layer.N // 2, dtype=C128)
    assert (twin.step(x, state)[1] - layer.step(x, state)[1]).abs().max() > 1e-3


@layers
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_systems_and_states_stay_whole_in_half_precision(make, dtype):
    torch.manual_seed(0)
    layer = make()
    wanted = layer.kernel(50)
    layer = layer.to(dtype)
    assert torch.equal(layer.kernel(50), wanted)
    x = source(1)(2, 50, 3).to(dtype)
    _, state = stepped(layer, x, layer.initial_state(2, dtype=dtype))
    _, last = layer.prefill(x)
    assert state.dtype == last.dtype == torch.complex64
    exact = copy.deepcopy(layer).double()
    _, wanted = stepped(exact, x.double(), exact.initial_state(2))
    for h in (state, last):
        assert (h - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_autocast_leaves_the_kernel_alone():
    """The power of Ā in it is a product of real matrices, which autocast would round."""
    torch.manual_seed(0)
    layer, x = S4(3, N=8), source(1)(2, 70, 3, dtype=F32)
    state = layer.initial_state(2) + 1
    wanted = layer.kernel(70), layer.prefill(x, state)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = layer.kernel(70), layer.prefill(x, state)[1]
    assert all(torch.equal(a, b) for a, b in zip(ours, wanted, strict=True))


@layers
def test_a_layer_is_made_on_the_default_device(make):
    """Whose tables are float64, which they are on the CPU alone."""
    with torch.device("meta"):
        layer = make()
    assert {p.device.type for p in layer.parameters()} == {"meta"}


def test_parameters_of_a_system_are_whole_by_default_too():
    torch.set_default_dtype(torch.bfloat16)
    try:
        layer = S4D(3, N=8)
    finally:
        torch.set_default_dtype(torch.float32)
    assert layer.log_delta.dtype == layer.frequency.dtype == F32
    assert layer.D.dtype == torch.bfloat16
