"""Chapter 03: rotary embeddings, which turn queries and keys by their position.

The product of a turned query and a turned key knows how far apart the two
stand, and nothing else of where they are.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from linear_time import _validate
from linear_time.layer import full


def rotary_embedding(
    positions: Int[Tensor, " length"],
    d_head: int,
    base: float | int = 10_000.0,
    dtype: torch.dtype | None = None,
) -> tuple[Float[Tensor, "length half"], Float[Tensor, "length half"]]:
    """cos and sin of the angles t θ_i, θ_i = base^(−2i/d_head).

    Args:
        positions: t, whole numbers, (length,).
        d_head: width of a head, even; i runs from 0 to d_head/2 − 1.
        base: of the frequencies, > 0.
        dtype: of the result; torch's default if None. The angles are always
            float64, on the CPU: in float32, as in Hugging Face's code, an
            angle near t = 10⁶ is off by a few hundredths of a radian.

    Returns:
        (cos, sin), each (length, d_head/2), for ``apply_rotary``.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Su et al. (2021), "RoFormer", equation 15.
    """
    _validate.layout("positions", positions, "length", kind="whole")
    check_even("d_head", d_head)
    _validate.number("base", base)
    i = torch.arange(d_head // 2, dtype=torch.float64, device="cpu")
    theta = torch.pow(float(base), -2 * i / d_head)  # (half,)
    angle = torch.outer(positions.cpu().double(), theta)  # (length, half)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    device = positions.device
    return angle.cos().to(device, dtype), angle.sin().to(device, dtype)


def rotary_table(
    length: int,
    d_head: int,
    base: float | int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "rows half"], Float[Tensor, "rows half"]]:
    """``rotary_embedding`` of 0, 1, …, at least up to length − 1.

    Made once for all layers and steps, on its device, and twice as long where
    it is too short: a step then looks up a row.

    Args:
        length: how many positions.
        d_head, base: as there.
        device: where the table is.
        dtype: of the table.
    """
    if torch.compiler.is_compiling():
        return _rows(length, d_head, base, device, dtype)
    key = d_head, float(base), device, dtype
    cos_sin = _TABLES.get(key)
    if cos_sin is None or len(cos_sin[0]) < length:
        length = max(64, 1 << (length - 1).bit_length())
        with torch.inference_mode(False), torch.no_grad():
            cos_sin = _rows(length, d_head, base, device, dtype)
        if type(cos_sin[0]) is Tensor:  # and not a tracer's stand-in
            while len(_TABLES) >= 16:
                del _TABLES[next(iter(_TABLES))]
            _TABLES[key] = cos_sin
    return cos_sin


_TABLES: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}


def _rows(
    length: int,
    d_head: int,
    base: float | int,
    device: torch.device,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    positions = torch.arange(length, device="cpu")
    cos, sin = rotary_embedding(positions, d_head, base, dtype)
    return cos.to(device), sin.to(device)


def apply_rotary(
    x: Float[Tensor, "*batch length d_head"],
    cos: Float[Tensor, "*rows length half"],
    sin: Float[Tensor, "*rows length half"],
) -> Float[Tensor, "*batch length d_head"]:
    """Turn pair i of the head at position t by the angle t θ_i.

    The product of a turned query and a turned key depends on their positions
    through the difference alone. A pair is (x_i, x_{i + d_head/2}), as in
    Hugging Face's Llama; in the paper it is (x_{2i}, x_{2i+1}). The two are
    the same up to a fixed order of the channels, which must be that of the
    weights.

    Args:
        x: queries or keys, (…, length, d_head).
        cos, sin: from ``rotary_embedding``, (length, d_head/2); or, where
            each row of x has positions of its own, with x's dimensions
            before these two, or 1 for any of them.

    Returns:
        x turned, (…, length, d_head), computed in at least float32.

    Raises:
        TypeError: an argument is no tensor.
        ValueError: the shapes do not fit.

    Source: Su et al. (2021), "RoFormer", equation 34.
    """
    _check_turn("cos", cos, x)
    _check_turn("sin", sin, x)
    left, right = full(x).chunk(2, dim=-1)  # each (…, length, half)
    y = torch.cat([left * cos - right * sin, right * cos + left * sin], -1)
    return y.to(x.dtype)


def check_even(name: str, width: int) -> int:
    """An even whole number ≥ 2; returns it."""
    width = _validate.count(name, width)
    if width % 2:
        raise ValueError(
            f"{name}: expected an even number, for pairs to turn, got {width}"
        )
    return width


def _check_turn(name: str, value: Tensor, x: Tensor) -> None:
    """Refuse cosines or sines that are not those of x's positions."""
    if not isinstance(value, Tensor) or not isinstance(x, Tensor):
        raise TypeError(
            f"x, {name}: expected two tensors, got {_validate.describe(x)} "
            f"and {_validate.describe(value)}"
        )
    own, sizes = tuple(value.shape), tuple(x.shape)
    if x.ndim >= 2 and own[-2:] == (sizes[-2], sizes[-1] / 2):
        before = own[:-2]
        if not before or (
            len(before) == len(sizes) - 2
            and all(n in (1, m) for n, m in zip(before, sizes, strict=False))
        ):
            return
    raise ValueError(
        f"{name}: expected shape (length, d_head/2) for x of shape "
        f"(…, length, d_head), got shape {_validate.shape_text(own)} for x of "
        f"shape {_validate.shape_text(sizes)}"
    )
