"""Checks of chapter 12."""

import math

import sympy as sp
import torch

from linear_time.discretization import (
    backward_euler,
    bilinear,
    forward_euler,
    zero_order_hold,
)
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    plain,
)
from linear_time.exercises.estimate import expect_quantity, expect_reading
from linear_time.exercises.proof import expect_lines

F64 = torch.float64


def _theta(A, B, delta, weight):
    eye = torch.eye(len(A), dtype=F64)
    implicit = eye - weight * delta * A
    right = eye + (1 - weight) * delta * A, delta * B
    return [torch.linalg.solve(implicit, r) for r in right]


@exercise("12-theta")
def theta(answer, cases):
    for weight in (
        0.0,
        0.5,
        1.0,
        cases.uniform(0.1, 0.4),
        cases.uniform(0.6, 0.9),
    ):
        N = cases.integer(1, 4)
        A, B = cases.randn(N, N), cases.randn(N)  # some grow, none is symmetric
        delta = cases.uniform(0.05, 0.3)
        want = _theta(A, B, delta, weight)
        got = plain(answer(A.clone(), B.clone(), delta, weight))
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            f"Expected a pair (A_bar, B_bar), got {type(got).__name__}.",
        )
        turned = _theta(A, B, delta, 1 - weight)
        given = f"{N} states, theta = {weight:.2f}, delta = {delta:.2f}"
        for k, name in enumerate(("A_bar", "B_bar")):
            slips = {
                "the two ends have changed places": turned[k],
                "that is the bilinear rule": bilinear(A, B, delta)[k],
                "that is forward Euler": forward_euler(A, B, delta)[k],
                "that is backward Euler": backward_euler(A, B, delta)[k],
            }
            expect_close(got[k], want[k], f"{given}, {name}", slips=slips)


@exercise("12-order")
def order(answer, cases):
    got = plain(answer())
    right = {
        "theta 0.4": 1,
        "middle": 2,
        "euler middle": 1,
        "line": math.inf,
        "curve": 2,
    }
    expect(
        isinstance(got, dict) and set(got) == set(right),
        f"Expected a dictionary with the keys {', '.join(right)}.",
    )
    for name in cases.shuffled(list(right)):
        expect_equal(got[name], right[name], f'the order of "{name}"')


def _rotated(cases, matrix):
    """The same eigenvalues in another basis."""
    basis = torch.linalg.qr(cases.randn(*matrix.shape))[0]
    return basis @ matrix @ basis.mT


@exercise("12-bound")
def bound(answer, cases):
    alpha, omega = cases.uniform(0.1, 0.5), cases.uniform(1.0, 3.0)
    spring = torch.tensor([[-alpha, omega], [-omega, -alpha]], dtype=F64)
    limit = 2 * alpha / (alpha**2 + omega**2)
    fast = torch.tensor([[-1 / limit]], dtype=F64)  # faster, and less tight
    slow, quick = -cases.uniform(0.5, 2.0), -cases.uniform(50, 200)
    for given, matrix, want in (
        ("two modes, slow and fast", torch.diag(torch.tensor([slow, quick], dtype=F64)), -2 / quick),
        ("a damped spring", spring, limit),
        ("a damped spring and a faster, less tight mode", torch.block_diag(spring, fast), limit),
        ("an undamped spring", torch.tensor([[0.0, omega], [-omega, 0.0]], dtype=F64), 0.0),
        ("one growing mode", torch.tensor([[alpha]], dtype=F64), 0.0),
        ("a growing mode among others", torch.diag(torch.tensor([alpha, quick], dtype=F64)), 0.0),
        ("a mode that stands still", torch.diag(torch.tensor([0.0, slow], dtype=F64)), 0.0),
        ("a spring that swings up", -spring, 0.0),
    ):  # fmt: skip
        if len(matrix) > 2:
            matrix = _rotated(cases, matrix)
        slips = {"that is half of the bound": want / 2} if want else {}
        slips["only the real part is used"] = 2 / float(
            torch.linalg.eigvals(matrix).real.abs().max().clamp(min=1e-9)
        )
        expect_close(answer(matrix.clone()), want, given, slips=slips)


@exercise("12-twice")
def twice(answer, cases):
    names = cases.choice([("a", "b", "d"), ("p", "q", "s"), ("u", "v", "w")])
    a = sp.Symbol(names[0], negative=True)
    b, d = (sp.Symbol(name, positive=True) for name in names[1:])
    h, x = sp.symbols("h x", positive=True)
    keep = sp.exp(d * a)
    take = (keep - 1) / a * b
    start = keep * (keep * h + take * x) + take * x

    def sorted_out(line):
        """One term with h, and one with x."""
        terms = line.args if isinstance(line, sp.Add) else ()
        return sorted((t.has(h), t.has(x)) for t in terms) == [
            (False, True),
            (True, False),
        ]

    forms = [
        ("a term with h and a term with x, and no others", sorted_out),
        (
            "the same two terms, with no exponential but e^(2 d a)",
            lambda line: (
                sorted_out(line) and line.atoms(sp.exp) == {sp.exp(2 * d * a)}
            ),
        ),
    ]
    expect_lines(answer(a, b, d, h, x), start, forms, cases)


@exercise("12-gate")
def gate(answer, cases):
    for share in (
        0.5,
        0.9,
        cases.uniform(0.01, 0.99),
        cases.uniform(0.9, 0.999),
    ):
        a = -cases.uniform(0.2, 20)
        want = -math.log(share) / -a
        slips = {
            "that is the step which keeps the rest": -math.log1p(-share) / -a,
            "that is for a = −1": -math.log(share),
            "a share is no exponent: undo e^(Δa)": share / -a,
        }
        given = f"a share of {share:.4g} kept, a = {a:.4g}"
        expect_close(answer(share, a), want, given, slips=slips)


@exercise("12-clock")
def clock(answer, cases):
    for _ in range(4):
        rate, tokens = cases.uniform(10, 50_000), cases.uniform(5, 5000)
        share = cases.uniform(0.001, 0.9)
        want = -math.log(share) * tokens / rate
        slips = {
            "that is the time constant, after which 1/e is left": tokens / rate,
            "that is where the rest is left": -math.log1p(-share)
            * tokens
            / rate,
            "that is a number of tokens": -math.log(share) * tokens,
            "that is in halvings": -math.log2(share) * tokens / rate,
        }
        given = f"{rate:.0f} samples a second, a memory of {tokens:.0f} tokens, {share:.3f} left"
        got = answer(rate, tokens, share)
        expect_quantity(got, want, "s", given, factor=1.01, slips=slips)


@exercise("12-hold")
def hold(answer, cases):
    drawn = [
        (-cases.uniform(0.1, 5), cases.uniform(-2, 2), cases.uniform(0.1, 2))
        for _ in range(3)
    ]
    for a, b, delta in (*drawn, (cases.uniform(0.2, 1.0), -1.0, 1.3)):
        # x, as a third state of slope 1/Δ, makes the line exact.
        joint = torch.tensor(
            [[a, b, 0.0], [0.0, 0.0, 1 / delta], [0.0, 0.0, 0.0]], dtype=F64
        )
        flow = torch.linalg.matrix_exp(delta * joint)[0]
        want = [flow[0], flow[1] - flow[2], flow[2]]
        given = f"a = {a:.3g}, b = {b:.3g}, delta = {delta:.3g}"
        got = answer(a, b, delta)
        names = ("a_bar", "the weight of x_{k-1}", "the weight of x_k")
        slips = {
            "that is the weight of the other end": [flow[0], want[2], want[1]],
            "that is half of what hold takes": [
                flow[0],
                flow[1] / 2,
                flow[1] / 2,
            ],
            "the factor b is missing": [flow[0], want[1] / b, want[2] / b],
        }
        for k, (name, have) in enumerate(zip(names, got, strict=True)):
            own = {slip: values[k] for slip, values in slips.items()}
            expect_close(have, want[k], f"{given}, {name}", slips=own)


@exercise("12-read")
def read(answer, cases):
    """What the figure draws, computed once more."""
    hold_end, euler_end = (_end_error(rule, 100) for rule in ("hold", "euler"))
    trapezoid = [_end_error("trapezoid", n) for n in (100, 400)]
    right = {
        "hold at 0.02": (hold_end, 1.3, {"that is exponential Euler's": euler_end}),
        "ratio": (hold_end / euler_end, 1.5, {"the other way round": euler_end / hold_end}),
        "drop": (
            trapezoid[0] / trapezoid[1],
            1.4,
            {"that is slope 1": 4.0, "that is one halving": 4.0},
        ),
    }  # fmt: skip
    got = plain(answer())
    expect(
        isinstance(got, dict) and set(got) == set(right),
        f"Expected a dictionary with the keys {', '.join(right)}.",
    )
    for name, (value, factor, slips) in right.items():
        expect_reading(got[name], value, name, factor=factor, slips=slips)


def _end_error(name, steps):
    """Of the chapter's oscillator after 2 s, on samples of sin 3t."""
    A = torch.tensor([[-0.3, 2.0], [-2.0, -0.3]], dtype=F64)
    B = torch.tensor([0.5, 1.0], dtype=F64)
    start, step = torch.tensor([1.0, -0.5], dtype=F64), 2.0 / steps
    keep, held = zero_order_hold(A, B, step)
    middle, push = bilinear(A, B, step)
    A_bar, now, before = {
        "hold": (keep, held, 0 * B),
        "euler": (keep, step * B, 0 * B),
        "trapezoid": (middle, push / 2, push / 2),
    }[name]
    joint = torch.zeros(4, 4, dtype=F64)  # h, sin 3t, cos 3t
    joint[:2, :2], joint[:2, 2] = A, B
    joint[2, 3], joint[3, 2] = 3.0, -3.0
    begin = torch.cat([start, torch.tensor([0.0, 1.0], dtype=F64)])
    x = torch.sin(3 * step * torch.arange(steps + 1, dtype=F64))
    h = start
    for k in range(1, steps + 1):
        h = A_bar @ h + now * x[k] + before * x[k - 1]
    return float(
        (h - (torch.linalg.matrix_exp(2.0 * joint) @ begin)[:2]).norm()
    )


def _transposed(A, B, delta):
    A_bar, B_bar = zero_order_hold(A.mT.contiguous(), B, delta)
    return A_bar, B_bar


def _euler_input(A, B, delta):
    return zero_order_hold(A, B, delta)[0], delta * B


def _wrong_sign(A, B, delta):
    A_bar, B_bar = zero_order_hold(A, B, delta)
    return A_bar, -B_bar


def _no_delta(A, B, delta):
    A_bar, B_bar = zero_order_hold(A, B, delta)
    return A_bar, B_bar / delta


def _short_series(A, B, delta):
    one, step = torch.eye(len(A), dtype=A.dtype), delta * A
    return one + step + step @ step / 2, delta * (B + step @ B / 2)


def by_joint_exponential(A, B, delta):
    """Right: the held input as a state that does not move."""
    N = len(B)
    joint = A.new_zeros(N + 1, N + 1)
    joint[:N, :N], joint[:N, N] = A, B
    flow = torch.linalg.matrix_exp(delta * joint)
    return flow[:N, :N], flow[:N, N]


def by_doubling(A, B, delta):
    """Right: a series for a short step, and 12 doublings of it."""
    step, one = delta / 2**12 * A, torch.eye(len(A), dtype=A.dtype)
    term, A_bar, B_bar = one, one.clone(), B.new_zeros(B.shape)
    for k in range(1, 8):
        B_bar = B_bar + delta / 2**12 / k * term @ B
        term = term @ step / k
        A_bar = A_bar + term
    for _ in range(12):
        A_bar, B_bar = A_bar @ A_bar, A_bar @ B_bar + B_bar
    return A_bar, B_bar


@exercise("12-bug")
def bug(answer, cases):
    bugs = {
        "A is transposed": _transposed,
        "B̄ is ΔB": _euler_input,
        "B̄ has the wrong sign": _wrong_sign,
        "B̄ lacks the factor Δ": _no_delta,
        "the series stops at Δ²": _short_series,
    }
    right = [zero_order_hold, by_joint_exponential, by_doubling]
    what = "implementation of the rule"
    expect_finds_bug(answer, right=right, bugs=bugs, what=what, cases=cases)


@exercise("12-audit")
def audit(answer, cases):
    rows = [
        (-(10 ** cases.uniform(-2, 1.3)), cases.choice([-1, 1]) * 10 ** cases.uniform(-1, 2),
         10 ** cases.uniform(-4, -0.5))
        for _ in range(4)
    ]  # fmt: skip
    # At a small step the three nearly agree.
    for a, b, delta in ((-1.0, 0.5, 1e-4), (-0.01, -200.0, 1e-3), *rows):
        pairs = {
            "zero_order_hold": (
                math.exp(delta * a),
                math.expm1(delta * a) / a * b,
            ),
            "exponential_euler": (math.exp(delta * a), delta * b),
            "forward_euler": (1 + delta * a, delta * b),
        }
        for name in cases.shuffled(list(pairs)):
            a_bar, b_bar = pairs[name]
            found = answer(a, b, delta, a_bar, b_bar)
            given = (
                f"a = {a:.3g}, b = {b:.3g}, delta = {delta:.3g}, "
                f"a_bar = {a_bar:.12f}, b_bar = {b_bar:.12f}"
            )
            expect_equal(found, name, given)
