"""Proofs in lines: each line has to follow from the one before it, and to have the form that the exercise asks for."""

from collections.abc import Callable
from typing import Any

import sympy as sp

from linear_time.exercises import expect, plain

#: What a line has to look like: in words, and as a test of the expression.
Form = tuple[str, Callable[[sp.Basic], bool]]


def expect_lines(
    got: Any, start: sp.Basic, forms: list[Form], cases: Any
) -> None:
    """Fail unless the lines of a proof follow from one another, each in the form that is asked for.

    Two expressions are taken for equal if they agree, to 20 digits, at four drawn values of their symbols. Equal
    expressions of a few operations that differ somewhere differ nearly everywhere.

    Args:
        got: the student's lines, expressions of sympy.
        start: what the first line has to be equal to; no line has a symbol that it lacks.
        forms: for each line, its form in words ("free of the integral") and a test of it.
        cases: the source of the drawn values.
    """
    got = plain(got)
    expect(
        isinstance(got, list | tuple) and len(got) == len(forms),
        f"Expected {len(forms)} lines in a list, got {_kind(got)}.",
    )
    before, name = start, "the start"
    for k, (line, (words, form)) in enumerate(
        zip(got, forms, strict=True), start=1
    ):
        if type(line) in (int, float):
            line = sp.sympify(line)
        expect(
            isinstance(line, sp.Basic),
            f"Line {k}: expected an expression of sympy, got {_kind(line)}.",
        )
        strange = sorted(map(str, line.free_symbols - start.free_symbols))
        expect(
            not strange,
            f"Line {k} has symbols that the start does not have: {', '.join(strange)}.",
        )
        expect(
            same(line, before, cases),
            f"Line {k} does not follow from {name}: put numbers in the place of the symbols, and the two differ.",
        )
        expect(
            form(line),
            f"Line {k} is equal to {name}, but it is not yet what the exercise asks for there: {words}.",
        )
        before, name = line, f"line {k}"


def same(one: sp.Basic, other: sp.Basic, cases: Any) -> bool:
    """Whether two expressions agree at drawn values of their symbols."""
    symbols = sorted(one.free_symbols | other.free_symbols, key=str)
    gap, size = (one - other).doit(), other.doit()
    for _ in range(4):
        values = {symbol: _drawn(symbol, cases) for symbol in symbols}
        off, scale = (sp.N(e.subs(values), 30) for e in (gap, size))
        finite = off.is_finite and scale.is_finite  # None is not known
        if not finite or abs(off) > 1e-20 * (1 + abs(scale)):
            return False
    return True


def _drawn(symbol: sp.Symbol, cases: Any) -> sp.Rational:
    """A value that a symbol's assumptions allow."""
    if symbol.is_integer:
        return sp.Integer(cases.integer(2, 9))
    value = sp.Rational(cases.integer(5, 60), 61)
    return -value if symbol.is_negative else value


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a value of type {type(value).__name__}"
