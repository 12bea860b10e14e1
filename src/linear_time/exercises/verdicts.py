"""What makes an answer wrong, and what the student is told of it.

In practice a message diagnoses: the first entry that differs, the sign that is turned. It does not hand over an answer
that is a value, and in grading (``reveal=False``) it has no values at all. Whatever an answer returns is first made
plain (:func:`plain`): an object's own ``==``, ``float`` or ``__torch_function__`` has no say in a verdict.
"""

import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Bits of a whole number that is still written out.
LONGEST = 200
#: How deep lists may stand in one another.
DEEPEST = 20


class Wrong(Exception):
    """An answer is wrong; the message tells the student what was expected for which input."""


class _Telling:
    reveal = True  # values may be told
    value = False  # the answer is a value: what was expected is not told


@contextmanager
def telling(reveal: bool, answer: Any) -> Iterator[None]:
    """Inside, messages tell what may be told of this answer."""
    before = _Telling.reveal, _Telling.value
    _Telling.reveal, _Telling.value = reveal, _is_value(answer)
    try:
        yield
    finally:
        _Telling.reveal, _Telling.value = before


def _is_value(answer: Any) -> bool:
    """Whether an answer is a value: it has nothing to be called with."""
    try:
        return not inspect.signature(answer).parameters
    except (TypeError, ValueError):
        return not callable(answer)
    except Exception:  # the answer's own
        return True


# ---- what came, as plain values

#: The base's own way to a value, which a subclass cannot change.
_MADE: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    complex: complex.__complex__,
    str: lambda text: "".join(str.__iter__(text)),
}
_ENTRIES: dict[type, Callable[[Any], Any]] = {
    list: list.__iter__,
    tuple: tuple.__iter__,
    dict: dict.items,
    set: set.__iter__,
    frozenset: frozenset.__iter__,
}


def plain(got: Any, depth: int = 0) -> Any:
    """A value of Python's, torch's and sympy's own types, equal to what came.

    Numbers, texts and containers become exactly ``bool``, ``int``, ``float``, ``complex``, ``str``, ``list``,
    ``tuple``, ``dict`` and ``set``; tensors, detached and on the CPU, and numpy's arrays exactly ``torch.Tensor``.

    Raises:
        Wrong: it is, or contains, something else; an object that decides itself what it equals, for example.
    """
    if depth > DEEPEST:
        raise Wrong("Expected a value, got lists that stand in one another.")
    if got is None or got is Ellipsis or type(got) in (bool, torch.dtype):
        return got
    if isinstance(got, Tensor):
        return _plain_tensor(got)
    if isinstance(got, np.generic):
        return plain(np.generic.item(got), depth + 1)
    if isinstance(got, np.ndarray):
        array = np.array(got, subok=False)
        if array.dtype.kind in "biufc":
            return torch.from_numpy(array)
        return plain(array.tolist(), depth + 1)
    for kind, made in _MADE.items():
        if isinstance(got, kind):
            return made(got)
    for kind, entries in _ENTRIES.items():
        if isinstance(got, kind):
            inside = [plain(v, depth + 1) for v in entries(got)]
            return set(inside) if kind is frozenset else kind(inside)
    if "sympy" in sys.modules and _of_sympy(got):
        return _plain_expression(got)
    raise Wrong(f"Expected a value, got {described(got)}.")


def _plain_tensor(got: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        made = Tensor.detach(got)
        if type(made) is not Tensor:
            made = Tensor.as_subclass(made, Tensor)
        if type(made) is Tensor:
            # From here on nothing of the object that came is left.
            return made.cpu().resolve_conj().resolve_neg().clone()
    raise Wrong("Expected a plain tensor, got one with a will of its own.")


def _of_sympy(thing: Any) -> bool:
    import sympy as sp

    return isinstance(thing, sp.Basic | sp.MatrixBase)


def _plain_expression(got: Any) -> Any:
    """The expression itself, if every part of it is sympy's own."""
    import sympy as sp
    from sympy.core.function import UndefinedFunction

    for part in sp.preorder_traversal(got):
        kind = type(part)
        home = sys.modules.get(str(kind.__module__))
        own = str(kind.__module__).startswith("sympy.")
        own = own and getattr(home, kind.__name__, None) is kind
        if not own and type(kind) is not UndefinedFunction:
            raise Wrong(f"Expected sympy's terms, got {described(part)}.")
    return got


def described(thing: Any) -> str:
    """An object by its type's name alone: what it says of itself is not asked."""
    name = type(thing).__name__
    return f"an object of type {name}" if name.isidentifier() else "an object"


# ---- values as text


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
    if isinstance(value, int) and int.bit_length(value) > LONGEST:
        return f"a whole number of {int.bit_length(value):,} bits"
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


def masked(text: str) -> str:
    """A text without its numbers and its values in quotation marks."""
    text = re.sub(r"'[^']*'", "…", text)
    number = r"(?<!\w)[-−+]?(?:\d[\d.,]*\d|\d)(?:e[-+]?\d+)?j?(?!\w)"
    text = re.sub(number, "…", text)
    return re.sub(r"\b(?:inf|nan|True|False)\b", "…", text)


def few_digits(value: float | int) -> str:
    """Two digits; whole numbers, and numbers from 100 on, to the last one before the point."""
    if abs(value) < 1e15 and (abs(value) >= 100 or value == round(value)):
        return f"{value:,.0f}"
    return f"{value:.2g}"


# ---- expectations

Slips = Mapping[str, Any]


def expect(condition: Any, message: str) -> None:
    """Fail the check with ``message`` unless ``condition`` holds."""
    if not bool(plain(condition)):
        raise Wrong(message)


def expect_parts(got: Any, number: int, words: str) -> tuple[Any, ...]:
    """The parts of a tuple or a list of so many; each is still to be judged.

    Args:
        got: what the answer is or returned.
        number: how many parts it has to have.
        words: what they are, for the message.
    """
    parts: list[Any] | None = None
    if isinstance(got, tuple):
        parts = list(tuple.__iter__(got))
    elif isinstance(got, list):
        parts = list(list.__iter__(got))
    if parts is None or len(parts) != number:
        raise Wrong(f"Expected {words}.")
    return tuple(parts)


def expect_equal(
    got: Any, expected: Any, given: str, slips: Slips | None = None
) -> None:
    """Fail unless ``got == expected``; of two lists, the first entry that differs is named.

    Args:
        got: what the answer is or returned.
        expected: the right value.
        given: the input, in words.
        slips: a slip in words -> the value that it gives, or a function that gives it.
    """
    have, want = _listed(plain(got)), _listed(plain(expected))
    if _same(have, want):
        return
    slip = _slip(slips, lambda value: _same(have, _listed(plain(value))))
    where, one, other = "", have, want
    lists = type(have) is type(want) and isinstance(have, list | tuple)
    if lists and len(have) == len(want) > 3:
        pairs = enumerate(zip(have, want, strict=True))
        at = next(i for i, pair in pairs if not _same(*pair))
        where, one, other = f"[{at}]", have[at], want[at]
    if not _Telling.reveal:
        raise Wrong(f"For {given}: {slip or 'another value was expected'}.")
    if _Telling.value:
        place = f"the first entry that differs is {where}, " if where else ""
        told = f"{place}got {shown(one)}, which is {_side(one, other)}"
    else:
        wanted, answered = _differing(want, have)
        told = f"expected {wanted}, got {answered}"
        if where:
            wanted, answered = _differing(other, one)
            told += f"; the first entry that differs is {where}, expected {wanted}, got {answered}"
    raise Wrong(f"For {given}: {told}{f': {slip}' if slip else ''}.")


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _same(one: Any, other: Any) -> bool:
    """Equal values; an entry that is not a number equals none."""
    try:
        return bool(one == other)
    except Exception:
        return False


def _side(have: Any, want: Any) -> str:
    """How a number misses another, without the other."""
    numbers = all(isinstance(v, int | float) for v in (have, want))
    if not numbers or have != have or want != want:
        return "not right"
    if have == -want:
        return "right but for its sign"
    return "too large" if have > want else "too small"


def _slip(slips: Slips | None, hits: Callable[[Any], bool]) -> str:
    """The first slip whose value ``hits``, or an empty text."""
    for name, value in (slips or {}).items():
        try:
            if hits(value() if callable(value) else value):
                return name
        except (Wrong, TypeError, ValueError, RuntimeError, ArithmeticError):
            continue
    return ""


def expect_close(
    got: Any,
    expected: Any,
    given: str,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    slips: Slips | None = None,
) -> None:
    """Fail unless ``got`` has the shape of ``expected`` and |got − expected| ≤ atol + rtol · max|expected|.

    The message names the first entry that differs by more, the largest difference, and the slip, if it is a known one:
    one of ``slips``, a turned sign, exchanged axes, a reversed order, or one factor throughout.

    Args:
        got: a number, or something that ``torch.as_tensor`` takes.
        expected: the right value, finite.
        given: the input, in words, for the message.
        rtol: tolerance relative to the largest expected entry.
        atol: absolute tolerance.
        slips: a slip in words -> the value that it gives, or a function that gives it.
    """
    want = _tensor(expected)
    came = plain(got)
    try:
        have = _tensor(came)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        told = "" if _hidden() else f"expected {shown(want)}, "
        said = f"got {shown(came)}" if _Telling.reveal else "no such number"
        raise Wrong(f"For {given}: {told}{said}.") from None
    if have.shape != want.shape:
        told = "" if _hidden() else f"expected shape {tuple(want.shape)}, "
        said = f"got {'' if told else 'the wrong shape '}{tuple(have.shape)}"
        if not _Telling.reveal:
            said = "the shape is wrong"
        raise Wrong(f"For {given}: {told}{said}.")
    if not have.numel():
        return
    bound = atol + rtol * float(want.abs().max())

    def close(value: Any) -> bool:
        other = _tensor(plain(value))
        return other.shape == have.shape and _within(have, other, bound)

    if _within(have, want, bound):
        return
    slip = _slip(slips, close) or _slip(_usual_slips(have, want), close)
    raise Wrong(f"For {given}: {_first_difference(have, want, bound, slip)}.")


def _hidden() -> bool:
    """Whether what was expected is not told."""
    return _Telling.value or not _Telling.reveal


def _within(have: Tensor, want: Tensor, bound: float) -> bool:
    return bool(((have - want).abs() <= bound).all())  # NaN is not


def _usual_slips(have: Tensor, want: Tensor) -> dict[str, Any]:
    """Slips that are the same in every chapter."""
    slips: dict[str, Any] = {"the sign is turned": -want}
    if want.ndim >= 2 and want.shape[-1] == want.shape[-2]:
        slips["rows and columns are exchanged"] = want.mT
    if want.ndim >= 1 and len(want) > 1:
        slips["the order is reversed"] = want.flip(-1)
    if want.is_complex():
        slips["the sign of the imaginary part is turned"] = want.conj()
    if _hidden():
        return slips
    slips |= {"twice that": 2 * want, "half of that": want / 2}
    largest = int(want.abs().argmax())
    factor = have.flatten()[largest] / want.flatten()[largest]
    if want.numel() > 2 and bool(factor.abs() > 0):
        size = shown(factor.item(), 3)
        slips[f"every entry is off by the factor {size}"] = factor * want
    return slips


def _first_difference(
    have: Tensor, want: Tensor, bound: float, slip: str
) -> str:
    """The first entry that is further off than the bound, in words."""
    if not _Telling.reveal:
        return slip or "the numbers differ"
    gap = (have - want).abs()
    off = ~(gap <= bound)
    i = int(off.flatten().nonzero()[0])
    right, here = want.flatten()[i].item(), have.flatten()[i].item()
    wanted, answered = _differing(right, here)
    told = f"expected {wanted}, got {answered}"
    if _Telling.value:
        side = "" if slip else f", which is {_side(here, right)}"
        told = f"got {shown(here)}{side}"
    if want.numel() > 1:
        at = torch.unravel_index(torch.tensor(i), want.shape)
        number = int(off.sum())
        which = f"first of {number} that differ" if number > 1 else "only one"
        told += f" at entry {[int(k) for k in at]}, the {which}"
        if not _Telling.value:
            told += (
                f" (the largest difference is {few_digits(float(gap.max()))})"
            )
    return f"{told}: {slip}" if slip else told


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
