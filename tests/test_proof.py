"""Proofs in lines: each follows from the one before, and has the form that is asked for."""

import pytest
import sympy as sp

from linear_time.exercises import Cases, Wrong
from linear_time.exercises.proof import _drawn, expect_lines

x, y = sp.symbols("x y", positive=True)
n = sp.Symbol("n", integer=True, positive=True)
k = sp.Symbol("k", integer=True)
START = sp.Sum(x**k * y, (k, 0, n - 1))
FORMS = [
    ("y stands before the sum", lambda line: line.has(sp.Sum) and line.is_Mul),
    ("free of sums", lambda line: not line.has(sp.Sum)),
]
RIGHT = [y * sp.Sum(x**k, (k, 0, n - 1)), y * (1 - x**n) / (1 - x)]


def told(*lines, seed=None):
    with pytest.raises(Wrong) as wrong:
        expect_lines(list(lines), START, FORMS, Cases(seed))
    return str(wrong.value)


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_lines_that_follow_are_taken(seed):
    expect_lines(RIGHT, START, FORMS, Cases(seed))
    expect_lines(tuple(RIGHT), START, FORMS, Cases(seed))
    other = y / (1 - x) - y * x**n / (1 - x)
    expect_lines([RIGHT[0], other], START, FORMS, Cases(seed))


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_a_line_that_does_not_follow_is_named(seed):
    late = y * sp.Sum(x**k, (k, 0, n))
    assert told(late, RIGHT[1], seed=seed).startswith("Line 1 does not follow from the start")
    wrong = y * (1 - x ** (n + 1)) / (1 - x)
    assert told(RIGHT[0], wrong, seed=seed).startswith("Line 2 does not follow from line 1")
    small = RIGHT[1] + y * sp.Rational(1, 10**12)
    assert told(RIGHT[0], small, seed=seed).startswith("Line 2 does not follow")


def test_a_line_of_another_form_is_told_what_is_asked():
    assert "not yet what the exercise asks for there: y stands before" in told(START, RIGHT[1])
    assert "Line 2 is equal to line 1" in told(RIGHT[0], RIGHT[0])
    assert "Line 1 is equal to the start" in told(RIGHT[1], RIGHT[1])


def test_lines_are_counted_and_are_sympys():
    assert "Expected 2 lines in a list, got a list of 1" in told(RIGHT[1])
    with pytest.raises(Wrong, match="Expected 2 lines"):
        expect_lines(RIGHT[1], START, FORMS, Cases())
    assert "Line 1: expected an expression of sympy, got a value of type str" in told("x", RIGHT[1])
    assert "symbols that the start does not have: z" in told(RIGHT[0] + sp.Symbol("z"), RIGHT[1])
    assert "symbols that the start does not have: x" in told(
        RIGHT[0].subs(x, sp.Symbol("x")), RIGHT[1]
    )


def test_numbers_are_lines_too():
    forms = [("a number", lambda line: line.is_number)]
    expect_lines([4], sp.Integer(2) + 2, forms, Cases())
    expect_lines([0.5], sp.Rational(1, 2), forms, Cases())
    with pytest.raises(Wrong, match="does not follow"):
        expect_lines([5], sp.Integer(2) + 2, forms, Cases())


def test_negative_symbols_get_negative_values():
    a = sp.Symbol("a", negative=True)
    forms = [("free of the bars", lambda line: not line.has(sp.Abs, sp.sqrt))]
    expect_lines([-a], sp.Abs(a, evaluate=False), forms, Cases())
    with pytest.raises(Wrong, match="does not follow"):
        expect_lines([a], sp.Abs(a, evaluate=False), forms, Cases())


@pytest.mark.parametrize("seed", range(4))
def test_values_are_those_that_the_symbols_allow(seed):
    cases, below = Cases(seed), sp.Symbol("below", negative=True)
    for symbol in (x, n, k, below, sp.Symbol("any")):
        value = _drawn(symbol, cases)
        assert value.is_integer or symbol not in (n, k)
        assert value < 0 if symbol is below else value > 0


def test_what_is_nowhere_defined_does_not_follow():
    with pytest.raises(Wrong, match="does not follow"):
        expect_lines([sp.zoo], sp.Integer(1), [("any", lambda line: True)], Cases())
    with pytest.raises(Wrong, match="does not follow"):
        expect_lines([sp.nan], sp.Integer(1), [("any", lambda line: True)], Cases())


class Agreeable(sp.Symbol):
    """Says that it is equal to everything."""

    def __eq__(self, other):
        return True

    __hash__ = sp.Symbol.__hash__


def test_a_class_of_ones_own_is_no_term():
    with pytest.raises(Wrong):
        expect_lines([Agreeable("x"), RIGHT[1]], START, FORMS, Cases())
