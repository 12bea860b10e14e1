"""Argument checks that the modules share: clear errors, no silent broadcast.

Every check raises ``TypeError`` for a wrong type or dtype and ``ValueError``
for a wrong shape or value, and its message reads
``name: expected …, got …``.

Types and shapes are always checked: they cost nothing. Values are searched
(for NaN, for Δ ≤ 0, for a token outside the vocabulary), which reads every
number and makes a GPU wait. So they are searched once, by the outermost call:
what a layer hands to the layers inside it, ``with inner():``, is not searched
again, and ``checks(values=False)`` ends the searches altogether.
"""

import math
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

MOST = 2**63 - 1  # the largest whole number of torch
KINDS = {
    "real": ("a floating-point tensor", lambda t: t.is_floating_point()),
    "complex": ("a complex tensor", lambda t: t.is_complex()),
    "inexact": (
        "a floating-point or complex tensor",
        lambda t: t.is_floating_point() or t.is_complex(),
    ),
    "bool": ("a bool tensor", lambda t: t.dtype == torch.bool),
    "whole": (
        "an int64 or int32 tensor",
        lambda t: t.dtype in (torch.int64, torch.int32),
    ),
}


class checks:
    """Turn the searches of values on or off, as a statement or a context.

    ``checks(values=False)`` holds until it is called again;
    ``with checks(values=False):`` until the block ends. Types and shapes are
    checked either way. Under ``torch.compile`` and ``torch.export`` values
    are never searched.

    Args:
        values: whether public functions search their arguments for values
            that are not finite or not in their range.

    Raises:
        TypeError: values is not True or False.
    """

    _on = True

    def __init__(self, *, values: bool) -> None:
        if not isinstance(values, bool):
            raise TypeError(
                f"values: expected True or False, got {describe(values)}"
            )
        self._before = checks._on
        checks._on = values

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        checks._on = self._before


class _Depth(threading.local):
    """How many layers deep this thread is."""

    inner = 0


_depth = _Depth()


class inner:
    """``with inner():`` around the calls that a layer makes inside itself.

    Their arguments come from a layer that has checked its own: their values
    are not searched.
    """

    def __enter__(self) -> None:
        if not torch.compiler.is_compiling():
            _depth.inner += 1

    def __exit__(self, *_: object) -> None:
        if not torch.compiler.is_compiling():
            _depth.inner -= 1


def searched() -> bool:
    """Whether values are searched at this place."""
    if torch.compiler.is_compiling():
        return False
    return checks._on and _depth.inner == 0


def describe(value: Any) -> str:
    """How an error message shows a value: short, with shape and dtype."""
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return f"{value.item()}"
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{a(dtype)} tensor of shape {tuple(value.shape)}"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (int, float, str)):
        return repr(value)
    return a(type(value).__name__)


def a(word: str) -> str:
    """The word with its article: a float64, an int64."""
    return f"{'an' if word[:1].lower() in 'aeio' else 'a'} {word}"


def shape_text(sizes: Iterable[int | str]) -> str:
    """A shape as an error message shows it: ``(N, N)`` or ``(3, 3)``."""
    words = [str(size) for size in sizes]
    return "(" + ", ".join(words) + ("," if len(words) == 1 else "") + ")"


def inexact(name: str, value: Any, real: bool = False) -> None:
    """A finite floating-point tensor, complex only unless ``real``."""
    kind = "a floating-point" if real else "a floating-point or complex"
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{name}: expected {kind} tensor, got {describe(value)}"
        )
    fits = value.is_floating_point() or (value.is_complex() and not real)
    if not fits:
        raise TypeError(
            f"{name}: expected {kind} tensor, got dtype {value.dtype}"
        )
    finite(name, value)


def layout(
    name: str,
    value: Any,
    *sizes: int | str,
    kind: str = "real",
    filled: bool = True,
) -> tuple[int, ...]:
    """A finite tensor of this kind and shape; returns its shape.

    Args:
        name: of the argument.
        value: what came.
        sizes: of the dimensions: a number, or a word for any size;
            ``"…"`` in the first place for any number of dimensions.
        kind: of ``KINDS``.
        filled: whether no dimension may be empty.
    """
    says, right = KINDS[kind]
    if not isinstance(value, Tensor) or not right(value):
        raise TypeError(f"{name}: expected {says}, got {describe(value)}")
    own = tuple(value.shape)
    wanted = sizes[1:] if sizes[:1] == ("…",) else sizes
    fits = len(own) >= len(wanted) and (
        len(sizes) != len(wanted) or len(own) == len(wanted)
    )
    last = own[len(own) - len(wanted) :]
    fits = fits and all(
        isinstance(size, str) or size == there
        for size, there in zip(wanted, last, strict=False)
    )
    if not fits or (filled and 0 in own):
        end = " without empty dimensions" if filled else ""
        raise ValueError(
            f"{name}: expected shape {shape_text(sizes)}{end}, "
            f"got {describe(value)}"
        )
    if kind in ("real", "complex", "inexact"):
        finite(name, value)
    return own


def tokens(
    name: str, value: Any, words: tuple[int | str, ...], vocab_size: int
) -> None:
    """Whole numbers 0 … vocab_size − 1, (batch, length) or the like."""
    wanted = (
        f"int64 or int32 of shape {shape_text(words)}, not empty, "
        f"in 0 … {vocab_size - 1}"
    )
    try:
        layout(name, value, *words, kind="whole")
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: expected {wanted}, got {describe(value)}"
        ) from None
    if searched():
        low, high = int(value.min()), int(value.max())
        if low < 0 or high >= vocab_size:
            raise ValueError(
                f"{name}: expected {wanted}, got values from {low} to {high}"
            )


def left_padding(name: str, mask: Any, sizes: tuple[int | str, ...]) -> None:
    """A mask (batch, length): False … False True … True in every row."""
    layout(name, mask, *sizes, kind="bool")
    if not searched():
        return
    if not (mask[:, 1:] >= mask[:, :-1]).all() or not mask[:, -1].all():
        raise ValueError(
            f"{name}: expected padding at the left only, rows False … False "
            "True … True, got a False after a True or a row without a True"
        )


def mask(name: str, value: Any, *sizes: int) -> None:
    """A mask of these sizes, or one that broadcasts to them."""
    if not isinstance(value, Tensor) or value.dtype != torch.bool:
        raise TypeError(
            f"{name}: expected a bool tensor, True where a key may be read, "
            f"got {describe(value)}"
        )
    own = tuple(value.shape)
    pairs = zip(reversed(own), reversed(sizes), strict=False)
    if len(own) > len(sizes) or any(m not in (1, n) for m, n in pairs):
        raise ValueError(
            f"{name}: expected shape {shape_text(sizes)} or one that "
            f"broadcasts to it, got shape {shape_text(own)}"
        )


def state(name: str, value: Any, *sizes: int, kind: str = "real") -> None:
    """What a step carries: of this kind and shape; not searched."""
    says, right = KINDS[kind]
    fits = isinstance(value, Tensor) and tuple(value.shape) == sizes
    if not fits or not right(value):
        raise ValueError(
            f"{name}: expected {says} of shape {shape_text(sizes)}, "
            f"got {describe(value)}"
        )


def width(name: str, value: Any, size: int) -> None:
    """A tensor (…, size): what an inner layer asks, and searches nothing."""
    if not isinstance(value, Tensor) or value.shape[-1:] != (size,):
        raise ValueError(
            f"{name}: expected shape (…, {size}), got {describe(value)}"
        )


def finite(name: str, value: Tensor) -> None:
    """No NaN and no infinity among the entries, where values are searched."""
    if not searched():
        return
    bad = ~torch.isfinite(value.detach())
    if bad.any():
        count = int(bad.sum())
        raise ValueError(
            f"{name}: expected finite values, got {count} that are NaN or "
            f"infinite among {value.numel()}"
        )


def square(name: str, value: Any, real: bool = False) -> int:
    """A finite matrix (N, N) with N ≥ 1; returns N."""
    inexact(name, value, real)
    sizes = tuple(value.shape)
    if len(sizes) != 2 or sizes[0] != sizes[1] or sizes[0] == 0:
        raise ValueError(
            f"{name}: expected a square matrix of shape (N, N) with N >= 1, "
            f"got shape {shape_text(sizes)}"
        )
    return sizes[0]


def shaped(
    name: str, value: Any, sizes: tuple[int, ...], real: bool = False
) -> None:
    """A finite tensor of exactly this shape."""
    inexact(name, value, real)
    if tuple(value.shape) != sizes:
        raise ValueError(
            f"{name}: expected shape {shape_text(sizes)}, "
            f"got shape {shape_text(value.shape)}"
        )


def sequence(name: str, value: Any, real: bool = False) -> int:
    """A finite tensor (…, length) with length ≥ 1; returns the length."""
    inexact(name, value, real)
    if value.ndim == 0 or value.shape[-1] == 0:
        raise ValueError(
            f"{name}: expected shape (…, length) with length >= 1, "
            f"got shape {shape_text(value.shape)}"
        )
    return value.shape[-1]


def precision(dtype: torch.dtype) -> torch.dtype:
    """The real dtype of a dtype's parts: float64 of complex128."""
    # dtype.to_real() says the same, and torch.compile does not know it.
    parts = {
        torch.complex32: torch.float16,
        torch.complex64: torch.float32,
        torch.complex128: torch.float64,
    }
    return parts.get(dtype, dtype)


def same_precision(**tensors: Tensor) -> torch.dtype:
    """All of one precision (float64 goes with complex128); the joint dtype."""
    (first, reference), *others = tensors.items()
    for name, value in others:
        if precision(value.dtype) != precision(reference.dtype):
            raise TypeError(
                f"{name}: expected the precision of {first} "
                f"({reference.dtype}), got {value.dtype}"
            )
    joint = reference.dtype
    for _, value in others:
        joint = torch.promote_types(joint, value.dtype)
    return joint


def full_precision(**tensors: Tensor) -> torch.dtype:
    """All of one precision, where a half counts as float32; the joint dtype.

    It is at least float32: what the tensors are to be computed in.
    """
    (first, reference), *_ = tensors.items()
    joint = torch.promote_types(reference.dtype, torch.float32)
    precision = torch.promote_types(joint, torch.complex64)
    for name, value in tensors.items():
        dtype = torch.promote_types(value.dtype, torch.float32)
        if torch.promote_types(dtype, torch.complex64) != precision:
            raise TypeError(
                f"{name}: expected the precision of {first} "
                f"({reference.dtype}), where a half may stand beside float32, "
                f"got {value.dtype}"
            )
        joint = torch.promote_types(joint, dtype)
    return joint


def number(
    name: str, value: Any, above: int = 0, or_equal: bool = False
) -> None:
    """A finite real number (or 0-d tensor) > ``above`` (or ≥)."""
    sign = ">=" if or_equal else ">"
    wanted = f"a finite number {sign} {above}"
    if isinstance(value, Tensor):
        right = value.ndim == 0 and not value.is_complex()
        right = right and value.dtype != torch.bool
    else:
        kinds = (int, float, np.integer, np.floating)
        right = isinstance(value, kinds) and not isinstance(value, bool)
    if not right:
        raise TypeError(f"{name}: expected {wanted}, got {describe(value)}")
    try:
        plain = float(value.item() if isinstance(value, Tensor) else value)
    except OverflowError:
        plain = math.inf
    if isinstance(value, int) and abs(value) > MOST:  # torch has no such whole
        plain = math.inf
    inside = plain >= above if or_equal else plain > above
    if not (math.isfinite(plain) and inside):
        raise ValueError(f"{name}: expected {wanted}, got {plain:g}")


def positive(name: str, value: Any) -> None:
    """A real tensor of any shape whose entries are finite and > 0."""
    inexact(name, value, real=True)
    if searched() and not (value > 0).all():
        raise ValueError(
            f"{name}: expected finite numbers > 0, "
            f"got a smallest entry of {value.min().item():g}"
        )


def initial_state(
    value: Any, x: Tensor, n: int, dtype: torch.dtype, real: bool = False
) -> Tensor:
    """The state (…, N) to start from: zero if None, else (N,) or (…, N)."""
    sizes = (*x.shape[:-1], n)
    if value is None:
        return x.new_zeros(sizes, dtype=dtype)
    inexact("initial_state", value, real)
    if tuple(value.shape) not in ((n,), sizes):
        raise ValueError(
            f"initial_state: expected shape {shape_text((n,))} or "
            f"{shape_text(sizes)}, got shape {shape_text(value.shape)}"
        )
    joint = full_precision(x=x, initial_state=value)
    return value.to(torch.promote_types(dtype, joint)).expand(sizes)


def count(name: str, value: Any) -> int:
    """A whole number ≥ 1, of Python or NumPy; returns Python's."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(
            f"{name}: expected a whole number >= 1, got {describe(value)}"
        )
    if not 1 <= value <= MOST:
        raise ValueError(
            f"{name}: expected a whole number >= 1"
            f"{'' if value < 1 else ' of 64 bits'}, got {value}"
        )
    return int(value)


def seed(name: str, value: Any) -> int:
    """A whole number that a generator takes; returns Python's."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole:
        raise TypeError(
            f"{name}: expected a whole number, got {describe(value)}"
        )
    if not 0 <= value <= MOST:
        raise ValueError(
            f"{name}: expected a whole number >= 0 of 64 bits, got {value}"
        )
    return int(value)


def one_of(name: str, value: Any, options: Iterable[str]) -> None:
    """One of the named options."""
    names = list(options)
    if value not in names:
        raise ValueError(
            f"{name}: expected one of {', '.join(names)}, got {describe(value)}"
        )
