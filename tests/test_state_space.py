"""Chapter 11: the continuous system against scipy and against closed forms."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import close, draw
from linear_time.convolution import recurrence
from linear_time.datasets import ecg
from linear_time.discretization import zero_order_hold
from linear_time.state_space import StateSpace, high_pass, low_pass, mass_on_a_spring, notch

F64 = torch.float64
seeds = st.integers(0, 2**31 - 1)
sizes = st.integers(1, 6)
lengths = st.integers(1, 40)
positive = st.floats(0.1, 10)


def stable_system(seed, n):
    """A random system whose eigenvalues have real parts ≤ −0.1, with a direct term."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(n, n, generator=generator, dtype=F64)
    A -= (torch.linalg.eigvals(A).real.max() + 0.1) * torch.eye(n, dtype=F64)
    B, C = torch.randn(2, n, generator=generator, dtype=F64)
    return StateSpace(A, B, C, torch.randn((), generator=generator, dtype=F64))


def scipy_system(system):
    """The same system for scipy."""
    A, B, C = system.A.numpy(), system.B.numpy()[:, None], system.C.numpy()[None]
    return scipy.signal.StateSpace(A, B, C, np.array([[system.D.item()]]))


# --- responses -----------------------------------------------------------------------------------


@given(seed=seeds, n=sizes)
def test_impulse_response_is_the_matrix_exponential(seed, n):
    system = stable_system(seed, n)
    t = torch.tensor([0.0, 0.3, 1.0, 7.5], dtype=F64)
    flow = [scipy.linalg.expm(float(time) * system.A.numpy()) for time in t]
    close(
        system.impulse_response(t),
        [system.C.numpy() @ each @ system.B.numpy() for each in flow],
        1e-10,
    )


@given(seed=seeds, n=sizes)
def test_responses_equal_scipy(seed, n):
    system = stable_system(seed, n)
    t = torch.linspace(0, 5, 26, dtype=F64)
    close(system.step_response(t), scipy.signal.step(scipy_system(system), T=t.numpy())[1], 1e-9)
    without_direct = dataclasses.replace(system, D=0.0)
    impulse = scipy.signal.impulse(scipy_system(without_direct), T=t.numpy())[1]
    close(system.impulse_response(t), impulse, 1e-9)


@given(seed=seeds, n=sizes)
def test_step_response_is_the_integral_of_the_impulse_response(seed, n):
    system = stable_system(seed, n)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    t = torch.tensor([0.7, 2.0], dtype=F64)
    for time in t:
        inner = torch.from_numpy(nodes + 1) * time / 2
        area = (torch.from_numpy(weights) * system.impulse_response(inner)).sum() * time / 2
        close(system.step_response(time[None])[0], area + system.D, 1e-9)


@given(seed=seeds, n=sizes)
def test_frequency_response_equals_scipy(seed, n):
    system = stable_system(seed, n)
    omega = torch.tensor([-3.0, 0.0, 0.01, 1.0, 40.0], dtype=F64)
    theirs = scipy.signal.freqresp(scipy_system(system), w=omega.numpy())[1]
    ours = system.frequency_response(omega)
    close(ours, theirs, 1e-8)
    close(system.frequency_response(-omega), ours.conj(), 1e-14)


def test_frequency_response_is_the_steady_state():
    system = mass_on_a_spring(1.0, 0.8, 4.0)
    omega, delta = 1.7, 0.01
    t = torch.arange(6000, dtype=F64) * delta
    y = system.simulate(torch.cos(omega * t), delta, hold="linear")
    H = system.frequency_response(torch.tensor([omega], dtype=F64))[0]
    steady = H.abs() * torch.cos(omega * t + H.angle())
    close(y[-1000:], steady[-1000:], 1e-4)


# --- simulation ----------------------------------------------------------------------------------


@given(seed=seeds, n=sizes, length=st.integers(2, 40), delta=st.floats(0.01, 2))
def test_linear_hold_equals_lsim(seed, n, length, delta):
    system, x, start = stable_system(seed, n), draw(length, seed=seed + 1), draw(n, seed=seed + 2)
    times = np.arange(length) * delta
    _, y, states = scipy.signal.lsim(scipy_system(system), x.numpy(), times, X0=start.numpy())
    ours, trajectory = system.simulate(
        x, delta, initial_state=start, hold="linear", return_states=True
    )
    close(ours, y, 1e-10)
    close(trajectory, states.reshape(length, n), 1e-10)


@given(seed=seeds, n=sizes, length=lengths, delta=st.floats(0.01, 2))
def test_zero_hold_equals_lsim_one_index_earlier(seed, n, length, delta):
    system, x, start = stable_system(seed, n), draw(length, seed=seed + 1), draw(n, seed=seed + 2)
    times = np.arange(length + 1) * delta
    _, _, states = scipy.signal.lsim(
        scipy_system(system), np.append(x.numpy(), 0.0), times, X0=start.numpy(), interp=False
    )
    y, trajectory = system.simulate(x, delta, initial_state=start, return_states=True)
    close(trajectory, states.reshape(length + 1, n)[1:], 1e-10)
    close(y, trajectory @ system.C + system.D * x, 1e-12)


@given(seed=seeds, n=sizes, length=lengths, delta=st.floats(0.01, 2))
def test_zero_hold_is_the_zero_order_hold_recurrence(seed, n, length, delta):
    system, x, start = (
        stable_system(seed, n),
        draw(2, length, seed=seed + 1),
        draw(2, n, seed=seed + 2),
    )
    pair = zero_order_hold(system.A, system.B, delta)
    y = recurrence(*pair, system.C, x, D=system.D, initial_state=start)
    close(system.simulate(x, delta, initial_state=start), y, 1e-10)


@given(seed=seeds, n=sizes, length=lengths, parts=st.integers(2, 5))
def test_a_held_input_is_exact_at_any_step(seed, n, length, parts):
    system, x = stable_system(seed, n), draw(length, seed=seed + 1)
    _, coarse = system.simulate(x, 0.5, return_states=True)
    _, fine = system.simulate(x.repeat_interleave(parts), 0.5 / parts, return_states=True)
    close(fine[parts - 1 :: parts], coarse, 1e-10)


def test_a_held_one_gives_the_step_response():
    system, delta = stable_system(11, 4), 0.2
    t = torch.arange(1, 30, dtype=F64) * delta
    close(system.simulate(torch.ones(29, dtype=F64), delta), system.step_response(t), 1e-10)


@pytest.mark.parametrize("hold", ["zero", "linear"])
def test_batch_rows_are_independent(hold):
    system, x, start = stable_system(1, 3), draw(2, 4, 9, seed=2), draw(2, 4, 3, seed=3)
    y, states = system.simulate(x, 0.1, initial_state=start, hold=hold, return_states=True)
    assert y.shape == (2, 4, 9)
    assert states.shape == (2, 4, 9, 3)
    close(y[1, 2], system.simulate(x[1, 2], 0.1, initial_state=start[1, 2], hold=hold), 1e-13)


def test_one_sample():
    system, x, start = stable_system(1, 3), draw(1, seed=2), draw(3, seed=3)
    close(
        system.simulate(x, 0.1, initial_state=start, hold="linear"),
        system.C @ start + system.D * x,
        1e-10,
    )
    flow = torch.from_numpy(scipy.linalg.expm(0.1 * system.A.numpy()))
    rest = system.step_response(torch.tensor([0.1], dtype=F64)) * x
    close(system.simulate(x, 0.1, initial_state=start), system.C @ (flow @ start) + rest, 1e-10)


def test_a_million_seconds_of_an_undamped_spring_keep_its_energy():
    system = mass_on_a_spring(1, 0, 1)
    start = torch.tensor([1.0, 0.0], dtype=F64)
    zeros = torch.zeros(1000, dtype=F64)
    _, states = system.simulate(zeros, 1000, initial_state=start, return_states=True)
    close((states**2).sum(-1), torch.ones(1000, dtype=F64), 1e-8)


@pytest.mark.parametrize(
    "design", [low_pass(40), high_pass(0.5), notch(60, 2), low_pass(40).series(notch(60, 2))]
)
def test_the_filtered_ecg_equals_scipy(design):
    x, rate = ecg()
    theirs = scipy.signal.lsim(scipy_system(design), x.numpy(), np.arange(len(x)) / rate)[1]
    close(design.simulate(x, 1 / rate, hold="linear"), theirs, 1e-9)


# --- modes, stability, control -------------------------------------------------------------------


@given(seed=seeds, n=sizes)
def test_modes_sum_to_the_impulse_response(seed, n):
    system = stable_system(seed, n)
    rates, weights = system.modes()
    t = torch.tensor([0.0, 0.4, 3.0], dtype=F64)
    total = (weights * torch.exp(t[:, None] * rates)).sum(-1)
    close(total.real, system.impulse_response(t), 1e-9)
    assert total.imag.abs().max() < 1e-9
    assert (rates.real.diff() <= 0).all()
    close(rates, system.eigenvalues(), 1e-10)
    theirs = np.sort_complex(np.linalg.eigvals(system.A.numpy()))
    close(torch.from_numpy(np.sort_complex(rates.numpy())), theirs.astype(complex), 1e-9)


@given(mass=positive, damping=st.floats(0, 10), stiffness=positive)
def test_the_spring_has_the_rates_of_its_characteristic_equation(mass, damping, stiffness):
    for rate in mass_on_a_spring(mass, damping, stiffness).eigenvalues():
        residue = mass * rate**2 + damping * rate + stiffness
        assert abs(residue) <= 1e-12 * (mass * abs(rate) ** 2 + damping * abs(rate) + stiffness)


@given(mass=positive, ratio=st.floats(0, 0.95), stiffness=positive)
def test_the_underdamped_spring_has_its_textbook_response(mass, ratio, stiffness):
    omega = math.sqrt(stiffness / mass)
    system = mass_on_a_spring(mass, 2 * ratio * mass * omega, stiffness)
    t = torch.linspace(0, 3, 10, dtype=F64)
    damped = omega * math.sqrt(1 - ratio**2)
    expected = torch.exp(-ratio * omega * t) * torch.sin(damped * t) / (mass * damped)
    close(system.impulse_response(t), expected, 1e-10)


def test_a_free_mass_under_a_constant_force_moves_as_t_squared():
    t = torch.tensor([0.0, 1.0, 2.0, 10.0], dtype=F64)
    close(mass_on_a_spring(2.0, 0.0, 0.0).step_response(t), t**2 / 4, 1e-13)


@pytest.mark.parametrize(
    ("system", "stable"),
    [
        (mass_on_a_spring(1, 0.1, 2), True),
        (mass_on_a_spring(1, 0, 2), False),
        (mass_on_a_spring(0.37, 0, 11.3), False),
        (mass_on_a_spring(1, 1, 0), False),
        (low_pass(40), True),
        (low_pass(1e6).series(high_pass(1e-3)), True),
        (StateSpace(torch.tensor([[0.1]]), torch.ones(1), torch.ones(1)), False),
        (StateSpace(torch.tensor([[-0.1]]), torch.ones(1), torch.ones(1)), True),
        (StateSpace(-torch.eye(3) + 2 * torch.eye(3).roll(1, 0), *torch.ones(2, 3)), False),
    ],
)
def test_is_stable(system, stable):
    assert system.is_stable() is stable


@given(seed=seeds, n=sizes)
def test_controllability_matrix(seed, n):
    system = stable_system(seed, n)
    A, B = system.A.numpy(), system.B.numpy()
    columns = np.stack([np.linalg.matrix_power(A, k) @ B for k in range(n)], axis=1)
    close(system.controllability_matrix(), columns, 1e-10)


def test_an_input_that_cannot_reach_the_second_mode():
    diagonal = torch.diag(torch.tensor([-1.0, -2.0], dtype=F64))
    one, both = torch.tensor([1.0, 0.0], dtype=F64), torch.ones(2, dtype=F64)
    reached = [StateSpace(diagonal, B, both).controllability_matrix() for B in (one, both)]
    assert [int(torch.linalg.matrix_rank(matrix)) for matrix in reached] == [1, 2]


@given(seed=seeds, n=sizes, m=sizes)
def test_series_multiplies_the_frequency_responses(seed, n, m):
    first, second = stable_system(seed, n), stable_system(seed + 1, m)
    both = first.series(second)
    omega = torch.tensor([0.0, 0.5, 2.0, 30.0], dtype=F64)
    product = first.frequency_response(omega) * second.frequency_response(omega)
    close(both.frequency_response(omega), product, 1e-8)
    assert both.state_size == n + m
    x = draw(20, seed=seed)  # and in this order: the first part of the state is the first system's
    _, states = both.simulate(x, 0.1, return_states=True)
    close(states[:, :n], first.simulate(x, 0.1, return_states=True)[1], 1e-10)


# --- designed filters ----------------------------------------------------------------------------


@pytest.mark.parametrize(("design", "kind"), [(low_pass, "low"), (high_pass, "high")])
@given(cutoff=st.floats(0.01, 1e4))
def test_passes_are_butterworth_filters(design, kind, cutoff):
    b, a = scipy.signal.butter(2, 2 * np.pi * cutoff, kind, analog=True)
    omega = 2 * np.pi * cutoff * np.array([0.01, 0.5, 1.0, 2.0, 50.0])
    ours = design(cutoff).frequency_response(torch.from_numpy(omega))
    close(ours, scipy.signal.freqs(b, a, omega)[1], 1e-10)
    assert abs(ours[2]).item() == pytest.approx(1 / math.sqrt(2))


def test_a_notch_is_the_input_less_the_friction_of_a_spring():
    """Mass 1, stiffness ω₀² and friction c: driven at ω₀ the friction is the force."""
    omega, c = 2 * math.pi * 60.0, 2 * math.pi * 8.0
    spring = mass_on_a_spring(1.0, c, omega**2)
    by_hand = StateSpace(spring.A, spring.B, torch.tensor([0.0, -c], dtype=F64), 1.0)
    hz = torch.linspace(1, 150, 60, dtype=F64)
    ours = by_hand.frequency_response(2 * math.pi * hz)
    assert torch.allclose(ours, notch(60.0, 8.0).frequency_response(2 * math.pi * hz))
    signal = ecg()
    left = by_hand.simulate(signal.x, signal.delta, hold="linear")
    turn = 2 * math.pi * 60 * signal.times
    hum = [torch.hypot((v * turn.sin()).mean(), (v * turn.cos()).mean()) for v in (signal.x, left)]
    assert hum[1] < hum[0] / 8 and 0.015 < 1 - left.max() / signal.x.max() < 0.03


@pytest.mark.parametrize(
    ("rates", "low", "high"),
    [((-0.2, -5.0), -0.3, 0.45), ((-1.0, -2.0), 0.9, 0.99), ((-1.0, -1.0), 1 - 1e-9, 2)],
)
def test_random_inputs_leave_a_cloud_only_where_rates_lie_apart(rates, low, high):
    one = torch.ones(2, dtype=F64)
    system = StateSpace(torch.diag(torch.tensor(rates, dtype=F64)), one, one)
    _, states = system.simulate(draw(4000, 30), 0.2, return_states=True)
    assert low < np.corrcoef(states[:, -1].T.numpy())[0, 1] < high


@given(frequency=st.floats(1, 1e4), relative=st.floats(0.01, 2))
def test_notch_removes_its_frequency_and_is_as_wide_as_asked(frequency, relative):
    width = relative * frequency
    middle = math.sqrt(frequency**2 + width**2 / 4)
    edges = [middle - width / 2, middle + width / 2]  # their product is frequency², as it must be
    hz = torch.tensor([frequency, *edges, 1e-6 * frequency, 1e6 * frequency], dtype=F64)
    gain = notch(frequency, width).frequency_response(2 * math.pi * hz).abs()
    close(gain, torch.tensor([0, math.sqrt(0.5), math.sqrt(0.5), 1, 1], dtype=F64), 1e-8)


# --- the object ----------------------------------------------------------------------------------


def test_it_cannot_be_changed():
    A, B, C = torch.eye(2), torch.ones(2), torch.ones(2)
    system = StateSpace(A, B, C)
    with pytest.raises(dataclasses.FrozenInstanceError):
        system.A = torch.zeros(2, 2)
    A.zero_()
    B.zero_()
    C.zero_()
    assert torch.equal(system.A, torch.eye(2))
    assert torch.equal(system.B, torch.ones(2))
    assert torch.equal(system.C, torch.ones(2))


@pytest.mark.parametrize("D", [2, 2.0, torch.tensor(2.0)])
def test_the_direct_term_becomes_a_tensor(D):
    system = StateSpace(torch.eye(2), torch.ones(2), torch.ones(2), D)
    assert torch.equal(system.D, torch.tensor(2.0))
    assert StateSpace(torch.eye(2), torch.ones(2), torch.ones(2)).D == 0


def test_keeps_float32():
    system = StateSpace(-torch.eye(2), torch.ones(2), torch.ones(2), 1.0)
    t = torch.tensor([0.0, 1.0])
    results = (system.impulse_response(t), system.step_response(t), system.simulate(t, 0.1))
    assert {result.dtype for result in results} == {torch.float32}
    assert system.frequency_response(t).dtype == torch.complex64
    assert system.is_stable()


def test_gradients_reach_the_system():
    def run(A, B, C, D, x):
        system = StateSpace(A, B, C, D)
        t = torch.tensor([0.0, 0.5], dtype=F64)
        held, linear = system.simulate(x, 0.3), system.simulate(x, 0.3, hold="linear")
        return held, linear, system.impulse_response(t), system.step_response(t)

    system = stable_system(4, 2)
    inputs = [system.A, system.B, system.C, system.D, draw(2, 4, seed=0)]
    assert torch.autograd.gradcheck(run, [value.requires_grad_() for value in inputs])


# --- bad input -----------------------------------------------------------------------------------

A, B, C, X = torch.eye(2) - 2, torch.ones(2), torch.ones(2), torch.ones(3, 4)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((torch.ones(2, 3), B, C), ValueError, "^A: expected a square matrix"),
        ((A.long(), B, C), TypeError, "^A: .*got dtype torch.int64"),
        ((A.cfloat(), B, C), TypeError, "^A: expected a floating-point tensor, .*complex64"),
        ((A / 0, B, C), ValueError, "^A: expected finite values"),
        ((None, B, C), TypeError, "^A: .*got a NoneType"),
        ((A, torch.ones(2, 1), C), ValueError, r"^B: expected shape \(2,\), got shape \(2, 1\)"),
        ((A, B * math.nan, C), ValueError, "^B: expected finite values"),
        ((A, B.double(), C), TypeError, "^B: expected the precision of A"),
        ((A, B, torch.ones(3)), ValueError, r"^C: expected shape \(2,\), got shape \(3,\)"),
        ((A, B, C.double()), TypeError, "^C: expected the precision of A"),
        ((A, B, C, torch.ones(1)), ValueError, r"^D: expected shape \(\), got shape \(1,\)"),
        ((A, B, C, math.inf), ValueError, "^D: expected finite values"),
        ((A, B, C, "0"), TypeError, "^D: .*got '0'"),
        ((A, B, C, True), TypeError, "^D: .*got True"),
        ((A, B, C, torch.tensor(1.0, dtype=F64)), TypeError, "^D: expected the precision of A"),
    ],
)
def test_bad_input_system(arguments, kind, message):
    with pytest.raises(kind, match=message):
        StateSpace(*arguments)


SYSTEM = mass_on_a_spring(1, 0, 1)
GOOD_X = torch.ones(3, 4, dtype=F64)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("x", "delta", "options", "kind", "message"),
    [
        (GOOD_X[0, 0], 0.1, {}, ValueError, r"^x: expected shape \(…, length\)"),
        (GOOD_X[:, :0], 0.1, {}, ValueError, "^x: .*length >= 1"),
        (GOOD_X * math.nan, 0.1, {}, ValueError, "^x: expected finite values, got 12"),
        (GOOD_X.float(), 0.1, {}, TypeError, "^x: expected the precision of A"),
        (GOOD_X.long(), 0.1, {}, TypeError, "^x: .*got dtype torch.int64"),
        ([1.0], 0.1, {}, TypeError, "^x: .*got a list"),
        (GOOD_X, 0.0, {}, ValueError, "^delta: expected a finite number > 0, got 0"),
        (GOOD_X, -0.1, {}, ValueError, "^delta: expected a finite number > 0, got -0.1"),
        (GOOD_X, math.inf, {}, ValueError, "^delta: .*got inf"),
        (GOOD_X, None, {}, TypeError, "^delta: .*got a NoneType"),
        (GOOD_X, 0.1, {"hold": "first"}, ValueError, "^hold: .*zero, linear, got 'first'"),
        (
            GOOD_X,
            0.1,
            {"initial_state": GOOD_X},
            ValueError,
            r"^initial_state: .*\(2,\) or \(3, 2\)",
        ),
        (GOOD_X, 0.1, {"initial_state": GOOD_X[:1, :2]}, ValueError, r"^initial_state: .*\(1, 2\)"),
        (GOOD_X, 0.1, {"initial_state": torch.ones(2)}, TypeError, "^initial_state: .*precision"),
    ],
)
def test_bad_input_simulate(x, delta, options, kind, message):
    with pytest.raises(kind, match=message):
        SYSTEM.simulate(x, delta, **options)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "method"),
    [("t", "impulse_response"), ("t", "step_response"), ("omega", "frequency_response")],
)
def test_bad_input_times_and_frequencies(name, method):
    call = getattr(SYSTEM, method)
    for value, kind, message in [
        (torch.tensor(1.0, dtype=F64), ValueError, r"expected shape \(length,\), got shape \(\)"),
        (GOOD_X, ValueError, r"expected shape \(length,\), got shape \(3, 4\)"),
        (GOOD_X[0] * math.nan, ValueError, "expected finite values"),
        (torch.tensor([1, 2]), TypeError, "expected .*got dtype torch.int64"),
        (GOOD_X[0].float(), TypeError, "expected the precision of A"),
        (0.5, TypeError, "expected .*got 0.5"),
    ]:
        with pytest.raises(kind, match=f"^{name}: {message}"):
            call(value)


@pytest.mark.bad_input
@pytest.mark.parametrize("method", ["impulse_response", "step_response"])
def test_bad_input_times_before_zero(method):
    with pytest.raises(ValueError, match=r"^t: expected times >= 0, got a smallest time of -1"):
        getattr(SYSTEM, method)(torch.tensor([0.0, -1.0], dtype=F64))


@pytest.mark.bad_input
def test_bad_input_at_a_pole():
    with pytest.raises(ValueError, match=r"^omega: .*pole"):
        SYSTEM.frequency_response(torch.tensor([0.5, 1.0], dtype=F64))


@pytest.mark.bad_input
def test_bad_input_modes_of_a_critically_damped_spring():
    with pytest.raises(ValueError, match=r"^A: .*eigenvectors, got condition number"):
        mass_on_a_spring(1, 2, 1).modes()


@pytest.mark.bad_input
def test_bad_input_series():
    with pytest.raises(TypeError, match=r"^second: expected a StateSpace, got a float64 tensor"):
        SYSTEM.series(GOOD_X)
    with pytest.raises(TypeError, match=r"^second: expected the precision of A"):
        SYSTEM.series(StateSpace(A, B, C))


@pytest.mark.bad_input
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", None])
@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("mass", lambda value: mass_on_a_spring(value, 1, 1)),
        ("damping", lambda value: mass_on_a_spring(1, value, 1)),
        ("stiffness", lambda value: mass_on_a_spring(1, 1, value)),
        ("cutoff_hz", low_pass),
        ("cutoff_hz", high_pass),
        ("frequency_hz", lambda value: notch(value, 1)),
        ("width_hz", lambda value: notch(1, value)),
    ],
)
def test_bad_input_constructors(name, build, value):
    kind = ValueError if isinstance(value, float) else TypeError
    with pytest.raises(kind, match=f"^{name}: expected a finite number >=? 0, got"):
        build(value)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "build", [low_pass, high_pass, lambda f: notch(f, 1), lambda f: notch(1, f)]
)
def test_bad_input_zero_frequency(build):
    with pytest.raises(ValueError, match=r"_hz: expected a finite number > 0, got 0"):
        build(0)
