"""Argument checks that the modules share: clear errors, no silent broadcast.

Every check raises ``TypeError`` for a wrong type or dtype and ``ValueError``
for a wrong shape or value, and its message reads
``name: expected …, got …``.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def describe(value: Any) -> str:
    """How an error message shows a value: short, with shape and dtype."""
    if isinstance(value, Tensor):
        if value.ndim == 0:
            return f"{value.item()}"
        dtype = str(value.dtype).removeprefix("torch.")
        return f"a {dtype} tensor of shape {tuple(value.shape)}"
    if isinstance(value, (int, float, str)):
        return repr(value)
    return f"a {type(value).__name__}"


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


def finite(name: str, value: Tensor) -> None:
    """No NaN and no infinity among the entries."""
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


def same_precision(**tensors: Tensor) -> torch.dtype:
    """All of one precision (float64 goes with complex128); the joint dtype."""
    (first, reference), *others = tensors.items()
    for name, value in others:
        if value.dtype.to_real() != reference.dtype.to_real():
            raise TypeError(
                f"{name}: expected the precision of {first} "
                f"({reference.dtype}), got {value.dtype}"
            )
    joint = reference.dtype
    for _, value in others:
        joint = torch.promote_types(joint, value.dtype)
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
        right = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not right:
        raise TypeError(f"{name}: expected {wanted}, got {describe(value)}")
    plain = float(value.item() if isinstance(value, Tensor) else value)
    inside = plain >= above if or_equal else plain > above
    if not (math.isfinite(plain) and inside):
        raise ValueError(f"{name}: expected {wanted}, got {plain:g}")


def positive(name: str, value: Any) -> None:
    """A real tensor of any shape whose entries are finite and > 0."""
    inexact(name, value, real=True)
    if not (value > 0).all():
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
    same_precision(x=x, initial_state=value)
    return value.to(torch.promote_types(dtype, value.dtype)).expand(sizes)


def count(name: str, value: Any) -> None:
    """A whole number ≥ 1."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(
            f"{name}: expected a whole number >= 1, got {describe(value)}"
        )
    if value < 1:
        raise ValueError(f"{name}: expected a whole number >= 1, got {value}")


def one_of(name: str, value: Any, options: Iterable[str]) -> None:
    """One of the named options."""
    names = list(options)
    if value not in names:
        raise ValueError(
            f"{name}: expected one of {', '.join(names)}, got {describe(value)}"
        )
