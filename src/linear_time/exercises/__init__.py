"""Exercises: ``check`` an answer, ``predict`` a measurement. The checks stand in one module a chapter.

An exercise is named by its chapter's number and a word, ``"12-bilinear"``. Its check is a function that raises
:class:`Wrong` with a message to the student, and is registered by the decorator ``@exercise("12-bilinear")``.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode

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
}

CHECKS: dict[str, Callable[[Any], None]] = {}


class Wrong(Exception):
    """An answer is wrong; the message tells the student what was expected for which input."""


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


def draws(
    seed: int = 0, dtype: torch.dtype = torch.float64
) -> Callable[..., Tensor]:
    """Random tensors of the shapes it is called with, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)


def randn(
    *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64
) -> Tensor:
    """One random tensor of a shape."""
    drawn: Tensor = draws(seed, dtype)(*shape)
    return drawn


class Calls(TorchFunctionMode):
    """The names of the functions of torch that are called inside, in order.

    By their number at two sizes a check tells a loop from a few large calls, and by a name a method that was
    forbidden.

    Args:
        most: so many calls are allowed; one more is wrong, so that a loop that does not end is ended.
    """

    def __init__(self, most: float | int = math.inf) -> None:
        super().__init__()
        self.most = most
        self.names: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.append(getattr(func, "__name__", str(func)))
        if len(self.names) > self.most:
            raise Wrong(
                f"Expected at most {self.most:,} calls to torch: does it end?"
            )
        return func(*args, **(kwargs or {}))


class _NoTransforms(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if any(map(is_functorch_wrapped_tensor, filter(_is_tensor, args))):
            raise Wrong("Expected no derivative by torch.func.")
        return func(*args, **(kwargs or {}))


@contextmanager
def no_derivatives() -> Iterator[None]:
    """Inside, autograd keeps nothing, and torch.func is wrong."""
    with torch.inference_mode(), _NoTransforms():
        yield


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def exercise(
    name: str,
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Register a check under the exercise's name."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        CHECKS[name] = function
        return function

    return register


def check(name: str, answer: Any) -> Result:
    """Check the answer to an exercise, print the verdict and return it.

    Nothing that the answer does raises: an error inside it is a wrong answer, and a bare ``NotImplementedError`` is an
    answer not yet attempted.

    Args:
        name: the exercise, such as ``"12-bilinear"``.
        answer: the student's function or value.

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
        CHECKS[name](answer)
        result = Result(True, True, f"{name}: right.")
    except Wrong as wrong:
        result = Result(False, True, f"{name}: not yet right. {wrong}")
    except Exception as error:
        if type(error) is NotImplementedError and not error.args:
            result = Result(False, False, f"{name}: not attempted yet.")
        else:  # torch's NotImplementedError, for a dtype, has a message
            text = " ".join(f"{type(error).__name__}: {error}".split())
            result = Result(
                False, True, f"{name}: not yet right. Your answer raised {text}"
            )
    print(result.message)
    return result


def shown(value: Any, digits: int = 6) -> str:
    """A short readable form of a number, a small tensor or anything else; whole numbers are written whole."""
    if isinstance(value, Tensor):
        if value.numel() > 12:
            return f"a tensor of shape {tuple(value.shape)}"
        value = value.detach().cpu().tolist()
    text = _written(value, digits)
    return text if len(text) <= 120 else text[:117] + "..."


def _written(value: Any, digits: int) -> str:
    """``repr``, with at most so many digits of every number inside lists and tuples."""
    if type(value) in (list, tuple):
        inside = ", ".join(_written(v, digits) for v in value)
        if type(value) is list:
            return f"[{inside}]"
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    if type(value) is complex:
        sign = "-" if math.copysign(1.0, value.imag) < 0 else "+"
        size = _written(abs(value.imag), digits)
        return f"{_written(value.real, digits)} {sign} {size}j"
    if not isinstance(value, float) or not math.isfinite(value):
        return repr(value)
    if 10**digits <= abs(value) < 1e15:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def _differing(want: Any, have: Any) -> tuple[str, str]:
    """Both as texts, with as many digits as it takes to tell one from the other."""
    texts = "", ""
    for digits in (6, 9, 12, 17):
        texts = shown(want, digits), shown(have, digits)
        if texts[0] != texts[1]:
            break
    return texts


def expect(condition: Any, message: str) -> None:
    """Fail the check with ``message`` unless ``condition`` holds."""
    if not bool(condition):
        raise Wrong(message)


def expect_equal(got: Any, expected: Any, given: str) -> None:
    """Fail unless ``got == expected``; ``given`` names the input. Of two lists, the first entry that differs is named."""
    if hasattr(got, "tolist"):
        got = got.tolist()
    if got == expected:
        return
    want, have = _differing(expected, got)
    message = f"For {given}: expected {want}, got {have}"
    lists = isinstance(got, list | tuple) and isinstance(expected, list | tuple)
    if lists and type(got) is type(expected) and len(got) == len(expected) > 3:
        i = next(
            i
            for i, pair in enumerate(zip(got, expected, strict=True))
            if pair[0] != pair[1]
        )
        want, have = _differing(expected[i], got[i])
        message += f"; the first entry that differs is [{i}], expected {want}, got {have}"
    raise Wrong(message + ".")


def expect_close(
    got: Any, expected: Any, given: str, rtol: float = 1e-6, atol: float = 1e-9
) -> None:
    """Fail unless ``got`` has the shape of ``expected`` and |got − expected| ≤ atol + rtol · max|expected|.

    The message names the first entry that differs by more, and the largest difference.

    Args:
        got: a number, or something that ``torch.as_tensor`` takes.
        expected: the right value, finite.
        given: the input, in words, for the message.
        rtol: tolerance relative to the largest expected entry.
        atol: absolute tolerance.
    """
    want = _tensor(expected)
    try:
        have = _tensor(got)
    except (TypeError, ValueError, RuntimeError):
        raise Wrong(
            f"For {given}: expected {shown(want)}, got {shown(got)}."
        ) from None
    expect(
        have.shape == want.shape,
        f"For {given}: expected shape {tuple(want.shape)}, got {tuple(have.shape)}.",
    )
    if not have.numel():
        return
    gap = (have - want).abs()
    bound = atol + rtol * float(want.abs().max())
    off = ~(gap <= bound)  # an entry that is NaN differs
    if not off.any():
        return
    i = int(off.flatten().nonzero()[0])
    wanted, answered = _differing(
        want.flatten()[i].item(), have.flatten()[i].item()
    )
    message = f"For {given}: expected {wanted}, got {answered}"
    if want.numel() > 1:
        at = torch.unravel_index(torch.tensor(i), want.shape)
        number = int(off.sum())
        which = f"first of {number} that differ" if number > 1 else "only one"
        message += (
            f" at entry {[int(k) for k in at]}, the {which} "
            f"(the largest difference is {few_digits(float(gap.max()))})"
        )
        if want.numel() <= 12:
            message += f": {shown(have)} in place of {shown(want)}"
    raise Wrong(message + ".")


def _tensor(value: Any) -> Tensor:
    """In double precision and on the CPU: Python's and sympy's numbers, lists and tuples of tensors, what torch takes."""
    if isinstance(value, list | tuple) and any(
        isinstance(v, Tensor) for v in value
    ):
        value = torch.stack([torch.as_tensor(v) for v in value])
    if type(value).__module__.startswith("sympy"):
        value = complex(value)
        value = value.real if value.imag == 0 else value
    made = torch.as_tensor(value)
    dtype = torch.complex128 if made.is_complex() else torch.float64
    # From the value once more: torch makes float32 of Python's numbers.
    return torch.as_tensor(value, dtype=dtype, device="cpu").detach()


def expect_finds_bug(
    test: Callable[[Any], Any],
    good: Any,
    bugs: dict[str, Any],
    what: str = "implementation",
) -> None:
    """Fail unless the student's ``test`` passes on ``good`` and raises ``AssertionError`` on every bug.

    Args:
        test: takes an implementation and asserts something about it.
        good: the right implementation.
        bugs: name -> wrong implementation.
        what: what is tested, for the message.
    """
    if not _passes(test, good):
        raise Wrong(f"Your test rejects the right {what}.")
    for name, bug in bugs.items():
        if _passes(test, bug):
            raise Wrong(
                f"Your test accepts a wrong {what}, with this bug: {name}."
            )
    if not _passes(test, good):  # it rejected by counting, or by chance
        raise Wrong(f"Your test rejects the right {what} the second time.")


def _passes(test: Callable[[Any], Any], implementation: Any) -> bool:
    try:
        test(implementation)
    except AssertionError:
        return False
    return True


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


def few_digits(value: float | int) -> str:
    """Two digits; whole numbers, and numbers from 100 on, to the last one before the point."""
    if abs(value) < 1e15 and (abs(value) >= 100 or value == round(value)):
        return f"{value:,.0f}"
    return f"{value:.2g}"
