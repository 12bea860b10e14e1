"""Exercises: ``check`` an answer, ``predict`` a measurement. The checks stand in one module a chapter.

An exercise is named by its chapter's number and a word, ``"12-bilinear"``. Its check is a function of the answer and of
:class:`Cases`, the source of every random thing, that raises :class:`Wrong` with a message to the student. It is
registered by the decorator ``@exercise("12-bilinear")``.
"""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

from linear_time.exercises.cases import (
    Calls,
    Cases,
    Largest,
    Late,
    Operations,
    draws,
    instrument,
    limit,
    no_derivatives,
    randn,
)
from linear_time.exercises.labs import expect_finds_bug, neutral
from linear_time.exercises.verdicts import (
    Wrong,
    expect,
    expect_close,
    expect_equal,
    expect_parts,
    few_digits,
    masked,
    plain,
    shown,
    telling,
)

__all__ = [
    "CHAPTERS",
    "CHECKS",
    "Calls",
    "Cases",
    "Largest",
    "Operations",
    "Result",
    "Wrong",
    "check",
    "draws",
    "exercise",
    "expect",
    "expect_close",
    "expect_equal",
    "expect_finds_bug",
    "expect_parts",
    "few_digits",
    "instrument",
    "neutral",
    "no_derivatives",
    "plain",
    "predict",
    "randn",
    "shown",
]

#: chapter number -> topic; the checks of chapter 12 stand in linear_time/exercises/discretization.py
CHAPTERS = {
    "00": "toolbox",
    "01": "recurrent",
    "02": "attention",
    "03": "decoder",
    "04": "cost",
    "05": "compression",
    "06": "pyramid",
    "07": "dhen",
    "08": "perceiver",
    "09": "perceiver_io",
    "10": "perceiver_ar",
    "11": "state_space",
    "12": "discretization",
    "13": "convolution",
    "14": "hippo",
    "15": "s4",
    "16": "selective",
    "17": "scan",
    "18": "mamba",
    "19": "tasks",
    "20": "duality",
    "21": "recurrences",
    "22": "limits",
    "23": "distributed",
}

Check = Callable[..., None]
CHECKS: dict[str, Check] = {}


class Result:
    """What :func:`check` returns: true only if the answer is right.

    Attributes:
        right: the answer passed.
        attempted: False while the stub still raises its bare ``NotImplementedError``.
        message: what was printed.
    """

    def __init__(self, right: bool, attempted: bool, message: str) -> None:
        self.right, self.attempted, self.message = right, attempted, message

    def __bool__(self) -> bool:
        return self.right

    def __repr__(self) -> str:
        return f"Result(right={self.right}, attempted={self.attempted})"

    def _ipython_display_(self) -> None:
        """The message is printed already; show nothing more at a cell's end."""


def exercise(name: str) -> Callable[[Check], Check]:
    """Register a check under the exercise's name."""

    def register(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return register


def check(
    name: str,
    answer: Any,
    seed: int | None = None,
    reveal: bool = True,
    quiet: bool = False,
    seconds: float | int | None = None,
) -> Result:
    """Check the answer to an exercise, print the verdict and return it.

    Nothing that the answer does raises: an error inside it is a wrong answer, and a bare ``NotImplementedError`` is an
    answer not yet attempted.

    Args:
        name: the exercise, such as ``"12-bilinear"``.
        answer: the student's function or value.
        seed: from which the cases are drawn; None for those of practice, which are always the same.
        reveal: whether the message may have values; without them it says which case failed, and in which way.
        quiet: print nothing.
        seconds: that the answer may take; None for no limit. (Where the system has alarms, in a main thread.)

    Returns:
        A :class:`Result`, true only if the answer is right.

    Raises:
        ValueError: if there is no exercise of that name (a slip of the notebook, not of the student).
    """
    chapter = str(name).split("-")[0]
    if chapter in CHAPTERS:
        import_module(f"linear_time.exercises.{CHAPTERS[chapter]}")
    if name not in CHECKS:
        known = ", ".join(sorted(CHECKS)) or "none"
        raise ValueError(
            f"name: expected the name of an exercise ({known}), got {name!r}"
        )
    try:
        with telling(reveal, answer), limit(seconds):
            CHECKS[name](answer, Cases(seed))
        result = Result(True, True, f"{name}: right.")
    except (Exception, SystemExit, Late) as error:
        result = _failed(name, error, reveal)
    if not quiet:
        print(result.message)
    return result


def _failed(name: str, error: BaseException, reveal: bool) -> Result:
    """What an exception of the check or of the answer means."""
    if type(error) is Wrong:
        text = str(error) if reveal else masked(str(error))
        return Result(False, True, f"{name}: not yet right. {text}")
    if isinstance(error, Late):
        text = "Your answer did not come to an end in its time."
        return Result(False, True, f"{name}: not yet right. {text}")
    # Torch's NotImplementedError, for a dtype, has a message.
    if type(error) is NotImplementedError and not error.args:
        return Result(False, False, f"{name}: not attempted yet.")
    known = (k for k in type(error).__mro__ if k.__module__ == "builtins")
    text = next(known).__name__
    if reveal:
        try:
            text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
        except Exception:  # of the error's own text
            text = type(error).__name__
    return Result(
        False, True, f"{name}: not yet right. Your answer raised {text}"
    )


def predict(
    name: str,
    guess: float | int | None,
    measured: float | int,
    unit: str = "",
    tolerance: float = 0.1,
) -> None:
    """Print what was measured, and compare the reader's prediction with it.

    The first line does not tell the number: it is what JupyterLab shows of a folded output. The book's pages read the
    second, and compare a number typed there by the same rule.

    Args:
        name: what is predicted, in words.
        guess: the reader's number, or None while none is committed.
        measured: the number from the page.
        unit: printed after the number.
        tolerance: how far off, relative to the larger of the two (absolute if that is below 1), still counts as close.
    """
    print(f"{name}:")
    print(f"  measured {few_digits(measured)} {unit}".rstrip())
    if guess is None:
        return
    close = math.isclose(guess, measured, rel_tol=tolerance, abs_tol=tolerance)
    verdict = "close" if close else "off. Find out why before reading on"
    print(f"  you said {guess:g}: {verdict}.")
