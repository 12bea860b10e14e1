"""Wrong answers to the exercises of chapter 12: each is a plausible slip."""

import math

import sympy as sp
import torch

from linear_time.discretization import bilinear, forward_euler


def _theta(A, B, delta, theta, swap=False, half_input=False, transpose=False):
    if swap:
        theta = 1 - theta
    identity = torch.eye(len(A), dtype=A.dtype)
    implicit = identity - theta * delta * A
    if transpose:
        implicit = implicit.T
    scale = theta if half_input else 1
    A_bar = torch.linalg.solve(implicit, identity + (1 - theta) * delta * A)
    return A_bar, torch.linalg.solve(implicit, scale * delta * B)


def _two_states(A, B, delta, theta):
    """Right for two states, whatever comes."""
    A_bar, B_bar = _theta(A, B, delta, theta)
    return A_bar[:2, :2], B_bar[:2]


def orders(**wrong):
    right = {"theta 0.4": 1, "middle": 2, "euler middle": 1, "line": math.inf, "curve": 2}
    return right | {
        name.replace("_", " ").replace("04", "0.4"): value for name, value in wrong.items()
    }


def slowest_mode(A):
    rates = torch.linalg.eigvals(A)
    return float((-2 * rates.real / rates.abs() ** 2).max())


def fastest_mode_only(A):
    rates = torch.linalg.eigvals(A)
    fastest = rates[rates.abs().argmax()]
    return float(-2 * fastest.real / fastest.abs() ** 2)


def real_part_only(A):
    return float((2 / torch.linalg.eigvals(A).real.abs()).min())


def no_growth(A):
    """Calls a growing mode stable: our own check once accepted it."""
    rates = torch.linalg.eigvals(A)
    return float((2 * rates.real.abs() / rates.abs() ** 2).nan_to_num(0).min())


def no_zero(A):
    """Gives a negative step for a growing mode."""
    rates = torch.linalg.eigvals(A)
    return float((-2 * rates.real / rates.abs() ** 2).nan_to_num(0).min())


def no_two(A):
    rates = torch.linalg.eigvals(A)
    return float((-rates.real / rates.abs() ** 2).min())


def hold_swapped(a, b, delta):
    z = a * delta
    end = (math.exp(z) - 1 - z) / (a * z)
    return math.exp(z), b * end, b * ((math.exp(z) - 1) / a - end)


def hold_means(a, b, delta):
    whole = (math.exp(a * delta) - 1) / a
    return math.exp(a * delta), b * whole / 2, b * whole / 2


def hold_no_b(a, b, delta):
    z = a * delta
    end = (math.exp(z) - 1 - z) / (a * z)
    return math.exp(z), (math.exp(z) - 1) / a - end, end


def test_nothing(rule):
    pass


def test_shapes(rule):
    A_bar, B_bar = rule(torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64), 0.1)
    assert A_bar.shape == (2, 2) and B_bar.shape == (2,)


def test_symmetric(rule):
    A = -torch.eye(2, dtype=torch.float64)
    A_bar, B_bar = rule(A, torch.ones(2, dtype=torch.float64), 1.0)
    assert torch.allclose(A_bar, torch.linalg.matrix_exp(A))
    assert torch.allclose(B_bar, (1 - math.exp(-1)) * torch.ones(2, dtype=torch.float64))


def test_small_step(rule):
    A, B = torch.tensor([[-0.3, 2.0], [-1.0, -0.7]], dtype=torch.float64), torch.ones(2).double()
    A_bar, B_bar = rule(A, B, 1e-3)
    step = 1e-3 * A
    assert torch.allclose(A_bar, torch.eye(2).double() + step + step @ step / 2, rtol=1e-7)
    assert torch.allclose(B_bar, 1e-3 * (B + step @ B / 2), rtol=1e-5)


def test_euler(rule):
    A, B = -torch.eye(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    assert torch.allclose(rule(A, B, 0.5)[1], forward_euler(A, B, 0.5)[1])


def audit_input_only(a, b, delta, a_bar, b_bar):
    euler = math.isclose(b_bar, delta * b, rel_tol=1e-9)
    return "exponential_euler" if euler else "zero_order_hold"


def audit_swapped(a, b, delta, a_bar, b_bar):
    if not math.isclose(a_bar, math.exp(delta * a), rel_tol=1e-12):
        return "forward_euler"
    euler = math.isclose(b_bar, delta * b, rel_tol=1e-9)
    return "zero_order_hold" if euler else "exponential_euler"


def audit_loose(a, b, delta, a_bar, b_bar):
    """Takes Euler's pair at a small step for the released one: our own former solution."""
    if not math.isclose(a_bar, math.exp(delta * a), rel_tol=1e-6):
        return "forward_euler"
    euler = math.isclose(b_bar, delta * b, rel_tol=1e-6)
    return "exponential_euler" if euler else "zero_order_hold"


def hold_wrong_decay(a, b, delta):
    """Right weights, and Euler's factor."""
    z = a * delta
    end = (math.exp(z) - 1 - z) / (a * z)
    return 1 + z, b * ((math.exp(z) - 1) / a - end), b * end


def twice_lines(*lines):
    """A proof with some of its lines replaced; None is the right one."""

    def first(a, b, d, h, x):
        keep = sp.exp(d * a)
        return keep**2 * h + (keep + 1) * (keep - 1) / a * b * x

    def last(a, b, d, h, x):
        keep = sp.exp(2 * d * a)
        return keep * h + (keep - 1) / a * b * x

    own = [given or line for given, line in zip(lines, (first, last), strict=True)]
    return lambda *symbols: [line(*symbols) for line in own]


def twice_start(a, b, d, h, x):
    keep = sp.exp(d * a)
    take = (keep - 1) / a * b
    return keep * (keep * h + take * x) + take * x


def twice_of_one_token(a, b, d, h, x):
    keep = sp.exp(2 * d * a)
    return keep * h + (sp.exp(d * a) - 1) / a * b * x


def twice_unsorted(a, b, d, h, x):
    keep = sp.exp(2 * d * a)
    return sp.expand(keep * h + (keep - 1) / a * b * x)


def left(unit="s", scale=1.0, log=math.log, rest=False):
    def answer(rate, tokens, share):
        return -log(1 - share if rest else share) * tokens / rate * scale, unit

    return answer


def read_off(**wrong):
    right = {"hold at 0.02": 0.016, "ratio": 5, "drop": 16}
    return right | {name.replace("hold", "hold at 0.02"): v for name, v in wrong.items()}


WRONG = {
    "12-theta": [
        lambda A, B, delta, theta: bilinear(A, B, delta),
        lambda A, B, delta, theta: _theta(A, B, delta, theta, swap=True),
        lambda A, B, delta, theta: _theta(A, B, delta, theta, half_input=True),
        lambda A, B, delta, theta: _theta(A, B, delta, theta, transpose=True),
        lambda A, B, delta, theta: _two_states(A, B, delta, theta),
        lambda A, B, delta, theta: None,
        lambda A, B, delta, theta: (_theta(A, B, delta, theta)[0], delta * B),
        lambda A, B, delta, theta: (forward_euler(A, B, delta)[0], _theta(A, B, delta, theta)[1]),
    ],
    "12-order": [
        lambda: orders(theta_04=2),
        lambda: orders(middle=1),
        lambda: orders(euler_middle=2),
        lambda: orders(line=2),
        lambda: orders(curve=1),
        lambda: (1, 2, 1, math.inf, 2),
        lambda: orders(bilinear=2),
    ],
    "12-bound": [slowest_mode, fastest_mode_only, real_part_only, no_two, no_growth, no_zero],
    "12-gate": [
        lambda share, a: share,
        lambda share, a: -math.log(share),
        lambda share, a: math.log(share) / -a,
        lambda share, a: -math.log(1 - share) / -a,
        lambda share, a: -math.log2(share) / -a,
        lambda share, a: math.log(2) / -a,
    ],
    "12-twice": [
        twice_lines(twice_start, None),
        twice_lines(None, twice_of_one_token),
        twice_lines(twice_of_one_token, None),
        twice_lines(None, twice_unsorted),
        twice_lines(None, lambda *s: twice_lines(None, None)(*s)[0]),
        lambda *s: twice_lines(None, None)(*s)[1:],
        lambda *s: twice_lines(None, None)(*s)[1],
        lambda *s: [sp.Symbol("u"), sp.Symbol("u")],
    ],
    "12-clock": [
        left(rest=True),
        left(log=math.log2),
        left(unit="ms"),
        left(scale=1e-3),
        lambda rate, tokens, share: (-math.log(share) * tokens, "s"),
        lambda rate, tokens, share: (tokens / rate, "s"),
        lambda rate, tokens, share: -math.log(share) * tokens / rate,
    ],
    "12-read": [
        lambda: read_off(hold=0.003),
        lambda: read_off(hold=0.16),
        lambda: read_off(ratio=0.2),
        lambda: read_off(drop=4),
        lambda: read_off(rise=4),
        lambda: (0.016, 5, 16),
    ],
    "12-hold": [hold_wrong_decay, hold_swapped, hold_means, hold_no_b, lambda a, b, delta: None],
    "12-bug": [test_nothing, test_shapes, test_symmetric, test_small_step, test_euler],
    "12-audit": [
        audit_input_only,
        audit_swapped,
        audit_loose,
        lambda *pair: "zero_order_hold",
        lambda *pair: "ZOH",
    ],
}
