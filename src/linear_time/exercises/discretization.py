"""Checks of chapter 12."""

import math

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
)

F64 = torch.float64
A = torch.tensor([[-0.3, 2.0], [-1.0, -0.7]], dtype=F64)
B = torch.tensor([0.5, 1.0], dtype=F64)


@exercise("12-theta")
def theta(answer):
    three = {0.0: forward_euler, 0.5: bilinear, 1.0: backward_euler}
    for weight, rule in three.items():
        got = answer(A.clone(), B.clone(), 0.2, weight)
        expect(
            isinstance(got, tuple) and len(got) == 2,
            f"Expected a pair (A_bar, B_bar), got {type(got).__name__}.",
        )
        given = f"theta = {weight:g}, delta = 0.2 ({rule.__name__})"
        for have, want in zip(got, rule(A, B, 0.2), strict=True):
            expect_close(have, want, given)
    have = answer(A.clone(), B.clone(), 0.5, 0.25)
    eye = torch.eye(2, dtype=F64)
    right = [eye + 0.375 * A, 0.5 * B]
    want = [torch.linalg.solve(eye - 0.125 * A, r) for r in right]
    expect_close(have[0], want[0], "A_bar at theta = 0.25, delta = 0.5")
    expect_close(have[1], want[1], "B_bar at theta = 0.25, delta = 0.5")
    growing = torch.arange(9, dtype=F64).reshape(3, 3)
    push, eye = (
        torch.tensor([1.0, -2.0, 0.5], dtype=F64),
        torch.eye(3, dtype=F64),
    )
    have = answer(growing.clone(), push.clone(), 0.1, 0.8)
    right = [eye + 0.02 * growing, 0.1 * push]
    want = [torch.linalg.solve(eye - 0.08 * growing, r) for r in right]
    given = "a growing system of three states, theta = 0.8, delta = 0.1"
    expect_close(have[0], want[0], f"A_bar of {given}")
    expect_close(have[1], want[1], f"B_bar of {given}")


@exercise("12-order")
def order(answer):
    got = answer()
    right = {
        "theta 0.4": 1,
        "middle": 2,
        "euler middle": 1,
        "line": math.inf,
        "curve": 2,
    }
    expect(
        isinstance(got, dict) and set(got) == set(right),
        f"Expected a dictionary with the keys {', '.join(right)}, got {got!r}.",
    )
    for name, want in right.items():
        expect_equal(got[name], want, f'the order of "{name}"')


@exercise("12-bound")
def bound(answer):
    diagonal = torch.diag(torch.tensor([-1.0, -100.0], dtype=F64))
    expect_close(answer(diagonal), 0.02, "A = diag(-1, -100)")
    spring = torch.tensor([[-0.3, 2.0], [-2.0, -0.3]], dtype=F64)
    expect_close(answer(spring), 0.6 / 4.09, "A = [[-0.3, 2], [-2, -0.3]]")
    mixed = torch.block_diag(spring, torch.tensor([[-5.0]], dtype=F64))
    given = "that A and a third mode of rate -5, which is faster but less tight"
    expect_close(answer(mixed), 0.6 / 4.09, given)
    undamped = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)
    expect_close(answer(undamped), 0.0, "the undamped [[0, 1], [-1, 0]]")
    growing = {  # one mode that grows is enough
        "A = [[1]]": torch.tensor([[1.0]], dtype=F64),
        "A = diag(1, -2)": torch.diag(torch.tensor([1.0, -2.0], dtype=F64)),
        "A = diag(0, -1)": torch.diag(torch.tensor([0.0, -1.0], dtype=F64)),
        "a spring that swings up": -spring,
    }
    for given, matrix in growing.items():
        expect_close(answer(matrix), 0.0, given)


@exercise("12-gate")
def gate(answer):
    half, most = answer()
    expect_close(half, math.log(2), "the step that keeps one half")
    expect_close(most, -math.log(0.9), "the step that keeps 90 %")


@exercise("12-hold")
def hold(answer):
    for a, b, delta in ((-1.0, 1.0, 0.5), (-3.0, 2.0, 0.1), (0.7, -1.0, 1.3)):
        # x, as a third state of slope 1/Δ, makes the line exact.
        joint = torch.tensor(
            [[a, b, 0.0], [0.0, 0.0, 1 / delta], [0.0, 0.0, 0.0]], dtype=F64
        )
        flow = torch.linalg.matrix_exp(delta * joint)[0]
        want = [flow[0], flow[1] - flow[2], flow[2]]
        given = f"a = {a:g}, b = {b:g}, delta = {delta:g}"
        got = answer(a, b, delta)
        names = ("a_bar", "the weight of x_{k-1}", "the weight of x_k")
        for name, have, right in zip(names, got, want, strict=True):
            expect_close(have, right, f"{given}, {name}")


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


@exercise("12-bug")
def bug(answer):
    bugs = {
        "A is transposed": _transposed,
        "B̄ is ΔB": _euler_input,
        "B̄ has the wrong sign": _wrong_sign,
        "B̄ lacks the factor Δ": _no_delta,
        "the series stops at Δ²": _short_series,
    }
    expect_finds_bug(
        answer, zero_order_hold, bugs, "implementation of the rule"
    )


@exercise("12-audit")
def audit(answer):
    for a, b, delta in (
        (-16.0, 3.0, 0.1),
        (-1.0, 0.5, 1.0),
        (-2.0, -1.0, 0.3),
        (-1.0, 0.5, 1e-4),  # the three nearly agree
        (-0.01, -200.0, 1e-3),
    ):
        pairs = {
            "zero_order_hold": (
                math.exp(delta * a),
                math.expm1(delta * a) / a * b,
            ),
            "exponential_euler": (math.exp(delta * a), delta * b),
            "forward_euler": (1 + delta * a, delta * b),
        }
        for name, (a_bar, b_bar) in pairs.items():
            given = (
                f"a = {a:g}, b = {b:g}, delta = {delta:g}, "
                f"a_bar = {a_bar:.12f}, b_bar = {b_bar:.12f}"
            )
            expect_equal(answer(a, b, delta, a_bar, b_bar), name, given)
