"""Chapter 12: the four rules against scipy, mpmath, their theory, and each other."""

import math

import mpmath
import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import close, draw
from linear_time import discretization
from linear_time.convolution import recurrence
from linear_time.discretization import (
    METHODS,
    METHODS_DIAGONAL,
    bilinear,
    exponential_euler_diagonal,
    forward_euler,
    stability_function,
    zero_order_hold,
    zero_order_hold_diagonal,
)
from linear_time.state_space import StateSpace

SCIPY_NAME = {
    "forward_euler": "euler",
    "backward_euler": "backward_diff",
    "bilinear": "bilinear",
    "zero_order_hold": "zoh",
}
F64 = torch.float64
seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 6)
deltas = st.floats(1e-3, 1.0)


def stable_system(seed, n):
    """A random system whose eigenvalues have real parts ≤ −0.1."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(n, n, generator=generator, dtype=F64)
    shift = torch.linalg.eigvals(A).real.max() + 0.1
    return A - shift * torch.eye(n, dtype=F64), torch.randn(n, generator=generator, dtype=F64)


def stable_diagonal(seed, n, complex_values):
    generator = torch.Generator().manual_seed(seed)
    a = -0.1 - 3 * torch.rand(n, generator=generator, dtype=F64)
    B = torch.randn(n, generator=generator, dtype=F64)
    if complex_values:
        a = torch.complex(a, 5 * torch.randn(n, generator=generator, dtype=F64))
        B = torch.complex(B, torch.randn(n, generator=generator, dtype=F64))
    return a, B


def radius(A_bar):
    return torch.linalg.eigvals(A_bar).abs().max().item()


# --- against scipy -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds, n=sizes, delta=deltas)
def test_equals_scipy(method, seed, n, delta):
    A, B = stable_system(seed, n)
    system = (A.numpy(), B.numpy()[:, None], np.ones((1, n)), np.zeros((1, 1)))
    A_bar, B_bar, *_ = scipy.signal.cont2discrete(system, delta, method=SCIPY_NAME[method])
    ours = METHODS[method](A, B, delta)
    close(ours[0], A_bar, 1e-11)
    close(ours[1], B_bar[:, 0], 1e-11)


@pytest.mark.parametrize("method", METHODS)
def test_singular_A_equals_scipy(method):
    A = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 0, 0]], dtype=F64)  # three integrators
    B = torch.tensor([0, 0, 1], dtype=F64)
    system = (A.numpy(), B.numpy()[:, None], np.ones((1, 3)), np.zeros((1, 1)))
    A_bar, B_bar, *_ = scipy.signal.cont2discrete(system, 0.7, method=SCIPY_NAME[method])
    ours = METHODS[method](A, B, 0.7)
    close(ours[0], A_bar, 1e-15)
    close(ours[1], B_bar[:, 0], 1e-15)


@given(seed=seeds, n=sizes, delta=deltas, length=st.integers(1, 20))
def test_index_convention_is_one_step_ahead_of_dlsim(seed, n, delta, length):
    A, B = stable_system(seed, n)
    C = torch.ones(n, dtype=F64)
    x = draw(length, seed=seed)
    A_bar, B_bar = bilinear(A, B, delta)
    y = recurrence(A_bar, B_bar, C, x)
    system = (A_bar.numpy(), B_bar.numpy()[:, None], np.ones((1, n)), np.zeros((1, 1)), delta)
    theirs = scipy.signal.dlsim(system, np.append(x.numpy(), 0.0))[1][:, 0]
    close(y, theirs[1:], 1e-10)
    assert theirs[0] == 0


def test_large_B_does_not_cost_precision():
    A, B = torch.tensor([[-1e-3]], dtype=F64), torch.tensor([1e9], dtype=F64)
    A_bar, B_bar = zero_order_hold(A, B, 0.1)
    close(A_bar[0, 0], math.exp(-1e-4), 1e-15)
    close(B_bar[0] / 1e9, -math.expm1(-1e-4) / 1e-3, 1e-15)


# --- the diagonal twins --------------------------------------------------------------------------


@pytest.mark.parametrize("complex_values", [False, True], ids=["real", "complex"])
@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds, n=sizes, delta=deltas)
def test_diagonal_equals_dense(method, complex_values, seed, n, delta):
    a, B = stable_diagonal(seed, n, complex_values)
    dense, elementwise = METHODS[method](torch.diag(a), B, delta), METHODS_DIAGONAL[method]
    a_bar, b_bar = elementwise(a, B, delta)
    close(torch.diag(a_bar), dense[0])
    close(b_bar, dense[1])


@pytest.mark.parametrize("method", METHODS_DIAGONAL)
@given(seed=seeds, n=sizes, delta=deltas)
def test_conjugate_input_gives_conjugate_output(method, seed, n, delta):
    a, B = stable_diagonal(seed, n, complex_values=True)
    a_bar, b_bar = METHODS_DIAGONAL[method](a, B, delta)
    a_conj, b_conj = METHODS_DIAGONAL[method](a.conj(), B.conj(), delta)
    close(a_conj, a_bar.conj(), 1e-15)
    close(b_conj, b_bar.conj(), 1e-15)


def exact_pair(z):
    """exp(z) and φ(z) = (exp(z) − 1)/z with 60 digits."""
    with mpmath.workdps(60):
        z = mpmath.mpmathify(z)
        power = mpmath.exp(z)
        phi = mpmath.expm1(z) / z if z != 0 else mpmath.mpf(1)
        return complex(power), complex(phi)


TINY = [0.0, -1e-300, -1e-20, -1e-16, 1e-9, -1e-8, -1e-4, -0.1, -0.499999, -0.5, -0.500001, 0.5]
LARGE = [-0.7, -1.0, -3.0, -16.0, -40.0, -700.0, 2.0]
TURNS = [1j, -1 + 1j, -1e-9 + 1e-9j, 1e-12j, -1e-3 + 3j, -0.3 + 0.4j, -20 + 100j]
NEAR_ZERO_OF_PHI = [complex(-1e-10, 2 * math.pi), complex(-1e-6, 2 * math.pi)]


@pytest.mark.parametrize("z", TINY + LARGE + TURNS + NEAR_ZERO_OF_PHI)
def test_zero_order_hold_diagonal_to_the_last_digit(z):
    a = torch.tensor([z], dtype=torch.complex128 if isinstance(z, complex) else F64)
    a_bar, b_bar = zero_order_hold_diagonal(a, torch.ones(1, dtype=F64), 1.0)
    power, phi = exact_pair(z)
    assert abs(complex(a_bar[0]) - power) <= 1e-15 * abs(power)
    assert abs(complex(b_bar[0]) - phi) <= 1e-15 * abs(phi)


@given(x=st.floats(-30, 2), y=st.floats(-30, 30), scale=st.sampled_from([1, 1e-3, 1e-8, 1e-15]))
def test_zero_order_hold_diagonal_relative_error(x, y, scale):
    z = scale * complex(x, y)
    a = torch.tensor([z], dtype=torch.complex128)
    _, b_bar = zero_order_hold_diagonal(a, torch.ones(1, dtype=F64), 1.0)
    phi = exact_pair(z)[1]
    assert abs(complex(b_bar[0]) - phi) <= 2e-15 * abs(phi)


@pytest.mark.parametrize("method", METHODS_DIAGONAL)
def test_at_zero_every_rule_sums_the_input(method):
    zero = torch.zeros(3, dtype=F64)
    B = torch.tensor([1.0, -2.0, 0.5], dtype=F64)
    a_bar, b_bar = METHODS_DIAGONAL[method](zero, B, 0.3)
    assert torch.equal(a_bar, torch.ones(3, dtype=F64))
    assert torch.equal(b_bar, 0.3 * B)


@pytest.mark.parametrize("method", METHODS_DIAGONAL)
def test_delta_broadcasts(method):
    generator = torch.Generator().manual_seed(0)
    a = -torch.rand(3, 4, generator=generator, dtype=F64)  # (d_inner, N)
    B = torch.randn(2, 5, 1, 4, generator=generator, dtype=F64)  # (batch, length, 1, N)
    delta = 0.01 + torch.rand(2, 5, 3, 1, generator=generator, dtype=F64)
    a_bar, b_bar = METHODS_DIAGONAL[method](a, B, delta)
    assert a_bar.shape == b_bar.shape == (2, 5, 3, 4)
    for batch, t, channel in [(0, 0, 0), (1, 4, 2), (0, 3, 1)]:
        one = METHODS_DIAGONAL[method](
            a[channel], B[batch, t, 0], delta[batch, t, channel, 0].item()
        )
        close(a_bar[batch, t, channel], one[0], 1e-15)
        close(b_bar[batch, t, channel], one[1], 1e-15)


def test_released_rule_is_zoh_for_a_and_euler_for_b():
    a, B = torch.tensor([-16.0, -16.0], dtype=F64), torch.tensor([3.0, 3.0], dtype=F64)
    delta = torch.tensor([0.1, 1.0], dtype=F64)
    a_bar, b_bar = exponential_euler_diagonal(a, B, delta)
    zoh_a, zoh_b = zero_order_hold_diagonal(a, B, delta)
    assert torch.equal(a_bar, zoh_a)
    assert torch.equal(b_bar, delta * B)
    ratio = b_bar / zoh_b
    assert ratio[0].item() == pytest.approx(2.0, abs=0.01)
    assert ratio[1].item() == pytest.approx(16.0, abs=0.01)


def test_zero_order_hold_of_minus_one_is_a_gate():
    z = torch.linspace(-5, 5, 11, dtype=F64)
    minus_one = torch.full_like(z, -1.0)
    delta = torch.nn.functional.softplus(z)
    a_bar, b_bar = zero_order_hold_diagonal(minus_one, -minus_one, delta)
    close(a_bar, 1 - torch.sigmoid(z), 1e-14)
    close(b_bar, torch.sigmoid(z), 1e-14)


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_the_dense_rules(method):
    A, B = stable_system(3, 3)
    A[0] = 0  # singular
    delta = torch.tensor(0.3, dtype=F64)
    inputs = [value.requires_grad_() for value in (A, B, delta)]
    assert torch.autograd.gradcheck(METHODS[method], inputs)


@pytest.mark.parametrize("dtype", [F64, torch.complex128], ids=["real", "complex"])
@pytest.mark.parametrize("method", METHODS_DIAGONAL)
def test_gradients_of_the_diagonal_rules(method, dtype):
    a = torch.tensor([0.0, -1e-12, -1e-5, -0.2, -2.5], dtype=dtype)
    if dtype.is_complex:
        a = a * (1 + 0.5j)
    B = torch.arange(1, 6, dtype=F64)
    delta = torch.tensor(0.6, dtype=F64)
    inputs = [value.requires_grad_() for value in (a, B, delta)]
    assert torch.autograd.gradcheck(METHODS_DIAGONAL[method], inputs)


@pytest.mark.parametrize("z", [0.0, -1e-300, 1e-12, -1e-8, -1e-4, -0.3, -0.5, -2.0, -800.0])
def test_derivative_of_zero_order_hold_to_the_last_digits(z):
    a = torch.tensor([z], dtype=F64, requires_grad=True)
    zero_order_hold_diagonal(a, torch.ones(1, dtype=F64), 1.0)[1].sum().backward()
    with mpmath.workdps(700):
        m = mpmath.mpf(z)
        exact = (m * mpmath.exp(m) - mpmath.expm1(m)) / m**2 if z else mpmath.mpf(1) / 2
    assert a.grad.item() == pytest.approx(float(exact), rel=2e-15)


def test_no_unused_branch_turns_the_gradient_into_nan():
    """In float32 the series of a large argument would overflow, and 0 · ∞ is NaN."""
    a = torch.tensor([0.0, -1e-3, -1e2, -1e5], requires_grad=True)
    zero_order_hold_diagonal(a, torch.ones(4), 10.0)[1].sum().backward()
    assert torch.isfinite(a.grad).all()
    assert a.grad[3].item() == pytest.approx(1e-10, rel=1e-5)  # of −1/a


# --- stability -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@given(x=st.floats(-5, -0.01), y=st.floats(-5, 5), delta=deltas)
def test_stability_function_is_the_discrete_mode(method, x, y, delta):
    a = torch.tensor([complex(x, y)], dtype=torch.complex128)
    a_bar, _ = METHODS_DIAGONAL[method](a, torch.ones(1, dtype=F64), delta)
    R = stability_function(method)(delta * a)
    close(R, a_bar, 1e-13)
    if method != "forward_euler":  # the others keep a stable mode stable for every step
        assert R.abs().item() < 1


def test_stability_function_at_known_points():
    z = torch.tensor([-2.0, -1.0, 0.0], dtype=F64)
    close(stability_function("forward_euler")(z), [-1.0, 0.0, 1.0], 0)
    close(stability_function("backward_euler")(z), [1 / 3, 0.5, 1.0])
    close(stability_function("bilinear")(z), [0.0, 1 / 3, 1.0])
    close(stability_function("zero_order_hold")(z), z.exp(), 0)


@given(omega=st.floats(0.1, 100), delta=st.floats(1e-3, 10))
def test_forward_euler_explodes_on_an_undamped_oscillator_for_every_step(omega, delta):
    A = torch.tensor([[0, omega], [-omega, 0]], dtype=F64)
    B = torch.zeros(2, dtype=F64)
    grows = math.hypot(1, delta * omega)
    assert radius(forward_euler(A, B, delta)[0]) == pytest.approx(grows, rel=1e-12)
    assert grows > 1
    assert radius(discretization.backward_euler(A, B, delta)[0]) < 1
    for rule in (bilinear, zero_order_hold):
        assert radius(rule(A, B, delta)[0]) == pytest.approx(1, abs=1e-11)


@given(decay=st.floats(0.05, 5), omega=st.floats(0, 20))
def test_forward_euler_is_bounded_up_to_the_step_that_theory_gives(decay, omega):
    A = torch.tensor([[-decay, omega], [-omega, -decay]], dtype=F64)
    B = torch.zeros(2, dtype=F64)
    bound = 2 * decay / (decay**2 + omega**2)
    assert radius(forward_euler(A, B, 0.99 * bound)[0]) < 1
    assert radius(forward_euler(A, B, bound)[0]) == pytest.approx(1, abs=1e-12)
    assert radius(forward_euler(A, B, 1.01 * bound)[0]) > 1


def test_a_stiff_system_only_blows_up_with_forward_euler():
    A = torch.tensor([[-1000.0, 0.0], [1.0, -1.0]], dtype=F64)
    B, C, x = torch.ones(2, dtype=F64), torch.ones(2, dtype=F64), torch.ones(80, dtype=F64)
    for method, rule in METHODS.items():
        y = recurrence(*rule(A, B, 0.05), C, x)
        assert (y.abs().max() > 1e100) == (method == "forward_euler")


# --- convergence orders, in three columns --------------------------------------------------------

OSCILLATOR = torch.tensor([[-0.3, 2.0], [-2.0, -0.3]], dtype=F64)
PUSH = torch.tensor([0.5, 1.0], dtype=F64)
START = torch.tensor([1.0, -0.5], dtype=F64)
END = 2.0
STEPS = (100, 200, 400)


def march(A_bar, B_bar, drive):
    h = START
    for x_k in drive:
        h = A_bar @ h + B_bar * x_k
    return h


def exact_states(breaks, values):
    """Exact state for an input held at values[k] from breaks[k] to breaks[k + 1], by scipy."""
    h = START.numpy()
    for left, right, value in zip(breaks[:-1], breaks[1:], values, strict=True):
        augmented = np.zeros((3, 3))
        augmented[:2, :2], augmented[:2, 2] = OSCILLATOR.numpy(), PUSH.numpy()
        flow = scipy.linalg.expm((right - left) * augmented)
        h = flow[:2, :2] @ h + flow[:2, 2] * value
    return torch.from_numpy(h)


def exact_smooth_end():
    """h(END) for the input sin(3t): the real form of e^{TA} h₀ + ∫ e^{(T−s)A} B sin(3s) ds."""
    # x = sin 3t is itself a mode: x' = 3 c, c' = −3 x, so the joint system is homogeneous.
    joint = np.zeros((4, 4))
    joint[:2, :2], joint[:2, 2] = OSCILLATOR.numpy(), PUSH.numpy()
    joint[2, 3], joint[3, 2] = 3, -3
    start = np.concatenate([START.numpy(), [0.0, 1.0]])
    return torch.from_numpy((scipy.linalg.expm(END * joint) @ start)[:2])


def errors(rule, column):
    result = []
    for steps in STEPS:
        delta = END / steps
        t = torch.arange(steps + 1, dtype=F64) * delta
        samples = torch.sin(3 * t)
        if column == "unforced":
            drive = torch.zeros(steps, dtype=F64)
            exact = exact_states([0.0, END], [0.0])
        elif column == "held":
            drive = samples[1:]
            exact = exact_states(t.tolist(), drive.tolist())
        else:
            drive = samples[1:]
            if column == "smooth, trapezoid":
                drive = (samples[1:] + samples[:-1]) / 2
            elif column == "smooth, middle":
                drive = torch.sin(3 * (t[1:] - delta / 2))
            exact = exact_smooth_end()
        A_bar, B_bar = rule(OSCILLATOR, PUSH, delta)
        result.append((march(A_bar, B_bar, drive) - exact).norm().item())
    return result


ORDERS = {
    ("forward_euler", "unforced"): 1,
    ("backward_euler", "unforced"): 1,
    ("bilinear", "unforced"): 2,
    ("zero_order_hold", "unforced"): None,
    ("forward_euler", "held"): 1,
    ("backward_euler", "held"): 1,
    ("bilinear", "held"): 2,
    ("zero_order_hold", "held"): None,
    ("forward_euler", "smooth"): 1,
    ("backward_euler", "smooth"): 1,
    ("bilinear", "smooth"): 1,
    ("zero_order_hold", "smooth"): 1,
    ("forward_euler", "smooth, trapezoid"): 1,
    ("backward_euler", "smooth, trapezoid"): 1,
    ("bilinear", "smooth, trapezoid"): 2,
    ("zero_order_hold", "smooth, trapezoid"): 2,
    ("zero_order_hold", "smooth, middle"): 2,
    ("forward_euler", "smooth, middle"): 1,
}


@pytest.mark.parametrize(("method", "column"), ORDERS)
def test_order_of_convergence(method, column):
    """None means exact: the error is rounding at every step size."""
    measured = errors(METHODS[method], column)
    order = ORDERS[method, column]
    if order is None:
        assert max(measured) < 1e-12
    else:
        slope = np.polyfit(np.log(STEPS), np.log(measured), 1)[0]
        assert -slope == pytest.approx(order, abs=0.1)


def exponential(theta):
    """Ā = exp(ΔA), and the weights of x_k and x_{k-1}: θ of the right end of the integral."""

    def weights(delta):
        keep = torch.from_numpy(scipy.linalg.expm(delta * OSCILLATOR.numpy()))
        return keep, theta * delta * PUSH, (1 - theta) * delta * keep @ PUSH

    return weights


def smooth_error(weights, steps):
    delta, h = END / steps, START
    x = torch.sin(3 * torch.arange(steps + 1, dtype=F64) * delta)
    A_bar, now, before = weights(delta)
    for k in range(1, steps + 1):
        h = A_bar @ h + now * x[k] + before * x[k - 1]
    return (h - exact_smooth_end()).norm().item()


@pytest.mark.parametrize(("theta", "order"), [(1.0, 1), (0.7, 1), (0.55, 1), (0.5, 2), (0.0, 1)])
def test_order_of_an_exponential_rule_is_its_quadratures(theta, order):
    """θ = 1 is the released ΔB, a consistent rule; only equal ends are of order two."""
    measured = [smooth_error(exponential(theta), n) for n in (800, 1600, 3200)]
    slope = -np.polyfit(np.log([800, 1600, 3200]), np.log(measured), 1)[0]
    assert slope == pytest.approx(order, abs=0.1)


def test_exponential_euler_against_zero_order_hold_on_a_smooth_input():
    """At 2 s of chapter 12's input ΔB errs less; the leading terms are Δ/2 Bx and Δ/2 h′."""
    delta = END / 100
    keep, held = zero_order_hold(OSCILLATOR, PUSH, delta)
    euler = smooth_error(exponential(1.0), 100)
    hold = smooth_error(lambda _: (keep, held, 0 * PUSH), 100)
    assert euler == pytest.approx(3.0e-3, rel=0.02)
    assert hold == pytest.approx(1.6e-2, rel=0.02)
    x = math.sin(3 * END)
    own = torch.from_numpy(scipy.linalg.expm(END * OSCILLATOR.numpy())) @ START
    slope = OSCILLATOR @ (exact_smooth_end() - own) + PUSH * x
    assert euler == pytest.approx((delta / 2 * PUSH * x).norm().item(), rel=0.06)
    assert hold == pytest.approx((delta / 2 * slope).norm().item(), rel=0.01)


@given(decay=st.floats(0.05, 150), swing=st.floats(-20, 20), omega=st.floats(0.5, 5))
def test_the_errors_of_hold_and_exponential_euler_in_the_steady_state(decay, swing, omega):
    """Their ratio is |iω − λ|/ω: on a mode that does not swing, hold is never worse."""
    mode = torch.tensor([complex(-decay, swing)], dtype=torch.complex128)
    delta = 1e-4 / max(decay, abs(swing), omega)
    keep, held = zero_order_hold_diagonal(mode, torch.ones(1, dtype=F64), delta)
    exact = 1 / (1j * omega - mode)
    euler_error, hold_error = (
        ((b / (1 - keep * np.exp(-1j * omega * delta))) - exact).abs().item() for b in (delta, held)
    )
    expected = abs(1j * omega - mode.item()) / omega
    assert euler_error / hold_error == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_orders_of_the_exercise():
    """12-order: θ = 0.4 is of order one, first-order hold of two, and exact on a line."""
    system = StateSpace(OSCILLATOR, PUSH, torch.tensor([1.0, 0.0], dtype=F64))
    eye, theta, curve = torch.eye(2, dtype=F64), [], []
    for steps in STEPS:
        delta = END / steps
        step = torch.linalg.solve(eye - 0.4 * delta * OSCILLATOR, eye + 0.6 * delta * OSCILLATOR)
        h = torch.linalg.matrix_power(step, steps) @ START
        theta.append((h - exact_states([0.0, END], [0.0])).norm().item())
        t = torch.arange(steps + 1, dtype=F64) * delta
        given = {"initial_state": START, "hold": "linear", "return_states": True}
        states = system.simulate(torch.sin(3 * t), delta, **given)[1]
        curve.append((states[-1] - exact_smooth_end()).norm().item())
        line = system.simulate(t, delta, **given)[1][-1]
        once = system.simulate(t[[0, -1]], END, **given)[1][-1]
        assert (line - once).norm() < 1e-12
    for measured, order in ((theta, 1), (curve, 2)):
        slope = np.polyfit(np.log(STEPS), np.log(measured), 1)[0]
        assert -slope == pytest.approx(order, abs=0.1)


# --- types and bad input -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("method", METHODS)
def test_keeps_the_dtype(method, dtype):
    a = torch.tensor([-0.5, -1.0], dtype=dtype)
    B = torch.ones(2, dtype=dtype.to_real())
    for delta in (1, 0.1, np.float64(0.1), torch.tensor(0.1, dtype=dtype.to_real())):
        A_bar, B_bar = METHODS[method](torch.diag(a), B, delta)
        assert A_bar.dtype == B_bar.dtype == dtype
        if method != "backward_euler" or delta != 1:
            a_bar, b_bar = METHODS_DIAGONAL[method](a, B, delta)
            assert a_bar.dtype == dtype
            assert b_bar.dtype.to_real() == dtype.to_real()


@pytest.mark.parametrize("method", METHODS_DIAGONAL)
def test_every_method_has_its_names(method):
    if method in METHODS:
        assert METHODS[method] is getattr(discretization, method)
    assert METHODS_DIAGONAL[method] is getattr(discretization, f"{method}_diagonal")


def matrix(*rows):
    return torch.tensor(rows, dtype=F64)


GOOD_A, GOOD_B = matrix([0.0, 1.0], [-1.0, -0.5]), torch.ones(2, dtype=F64)
NAN = torch.full((2, 2), math.nan, dtype=F64)
INFINITE = torch.tensor([1.0, math.inf], dtype=F64)
BAD_DENSE = [
    (torch.zeros(2, 3, dtype=F64), GOOD_B, 0.1, ValueError, r"^A: expected a square matrix"),
    (torch.zeros(0, 0, dtype=F64), GOOD_B, 0.1, ValueError, r"^A: .*N >= 1, got shape \(0, 0\)"),
    (NAN, GOOD_B, 0.1, ValueError, "^A: expected finite values, got 4"),
    (torch.eye(2, dtype=torch.int64), GOOD_B, 0.1, TypeError, "^A: .*got dtype torch.int64"),
    ([[0.0]], GOOD_B, 0.1, TypeError, "^A: expected .* tensor, got a list"),
    (GOOD_A, torch.ones(3, dtype=F64), 0.1, ValueError, r"^B: expected shape \(2,\), got .*\(3,\)"),
    (GOOD_A, torch.ones(2, 1, dtype=F64), 0.1, ValueError, r"^B: expected shape \(2,\)"),
    (GOOD_A, INFINITE, 0.1, ValueError, "^B: expected finite values, got 1 .* among 2"),
    (GOOD_A, torch.ones(2), 0.1, TypeError, r"^B: expected the precision of A \(torch.float64\)"),
    (GOOD_A, GOOD_B, 0.0, ValueError, "^delta: expected a finite number > 0, got 0"),
    (GOOD_A, GOOD_B, -0.1, ValueError, "^delta: expected a finite number > 0, got -0.1"),
    (GOOD_A, GOOD_B, math.nan, ValueError, "^delta: .*got nan"),
    (GOOD_A, GOOD_B, math.inf, ValueError, "^delta: .*got inf"),
    (GOOD_A, GOOD_B, "0.1", TypeError, "^delta: expected a finite number > 0, got '0.1'"),
    (GOOD_A, GOOD_B, True, TypeError, "^delta: .*got True"),
    (GOOD_A, GOOD_B, torch.ones(2), TypeError, r"^delta: .*float32 tensor of shape \(2,\)"),
    (GOOD_A, GOOD_B, torch.tensor(-1.0), ValueError, "^delta: .*got -1"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD_DENSE)
@pytest.mark.parametrize("method", METHODS)
def test_bad_input_dense(method, case):
    *arguments, kind, message = case
    with pytest.raises(kind, match=message):
        METHODS[method](*arguments)


A_BAD = torch.tensor([-1.0, -2.0], dtype=F64)
BAD_DIAGONAL = [
    (torch.tensor(1.0, dtype=F64), GOOD_B, 0.1, ValueError, r"^a: .*got shape \(\)"),
    (INFINITE, GOOD_B, 0.1, ValueError, "^a: expected finite values"),
    (torch.tensor([-1, -2]), GOOD_B, 0.1, TypeError, "^a: .*got dtype torch.int64"),
    (A_BAD, -INFINITE, 0.1, ValueError, "^B: expected finite values"),
    (A_BAD, torch.ones(2), 0.1, TypeError, "^B: expected the precision of a"),
    (A_BAD, torch.ones(3, dtype=F64), 0.1, ValueError, r"^delta: .* got \(2,\), \(3,\), \(\)"),
    (A_BAD, GOOD_B, torch.ones(3, dtype=F64), ValueError, "^delta: expected shapes of a, B and"),
    (A_BAD, GOOD_B, 0, ValueError, "^delta: expected a finite number > 0, got 0"),
    (A_BAD, GOOD_B, torch.tensor([0.1, -3.0], dtype=F64), ValueError, "^delta: .*entry of -3"),
    (A_BAD, GOOD_B, INFINITE, ValueError, "^delta: expected finite values"),
    (A_BAD, GOOD_B, torch.ones(2), TypeError, "^delta: expected the precision of a"),
    (A_BAD, GOOD_B, torch.ones(2, dtype=torch.int64), TypeError, "^delta: .*dtype torch.int64"),
    (A_BAD, GOOD_B, torch.ones(2, dtype=torch.complex128), TypeError, "^delta: .*complex128"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize("case", BAD_DIAGONAL)
@pytest.mark.parametrize("method", METHODS_DIAGONAL)
def test_bad_input_diagonal(method, case):
    *arguments, kind, message = case
    with pytest.raises(kind, match=message):
        METHODS_DIAGONAL[method](*arguments)


@pytest.mark.bad_input
@pytest.mark.parametrize(("method", "delta"), [("backward_euler", 0.5), ("bilinear", 1.0)])
def test_bad_input_step_without_solution(method, delta):
    two = torch.tensor([2.0, -1.0], dtype=F64)
    with pytest.raises(ValueError, match=r"^delta: .*implicit step has a solution"):
        METHODS[method](torch.diag(two), GOOD_B, delta)
    with pytest.raises(ValueError, match=r"^delta: .*implicit step has a solution"):
        METHODS_DIAGONAL[method](two, GOOD_B, delta)


@pytest.mark.bad_input
def test_bad_input_unknown_method():
    with pytest.raises(ValueError, match=r"^method: expected one of forward_euler.*got 'zoh'"):
        stability_function("zoh")
