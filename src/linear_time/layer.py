"""The frame of every layer: its parameters, and the precision that it keeps.

What an optimizer should know of a parameter is kept in its module; sums and
powers are taken in at least float32.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from linear_time import _validate


class Mark(NamedTuple):
    """What an optimizer should know of a parameter."""

    decay: bool  # whether weight decay may act on it
    lr_scale: float  # its learning rate, relative to the others'


class Layer(nn.Module):
    """A module whose parameters may be marked, and kept in full precision."""

    marks: dict[str, Mark]
    exact: frozenset[str]

    def parameter(
        self,
        name: str,
        value: Tensor,
        decay: bool = True,
        lr_scale: float | int = 1.0,
        exact: bool = False,
    ) -> None:
        """Register a copy of value, as torch's defaults say: dtype, device.

        The marks are the module's, not the tensor's: they outlive
        ``deepcopy``, ``to_empty``, casts, and ``load_state_dict`` with
        ``assign=True``.

        Args:
            name: the attribute.
            value: where it starts.
            decay: whether weight decay may act on it.
            lr_scale: its learning rate, relative to the others', ≥ 0.
            exact: never below float32: ``.bfloat16()`` leaves it as it is.
        """
        _validate.number("lr_scale", lr_scale, or_equal=True)
        dtype = torch.get_default_dtype()
        if exact:
            dtype = torch.promote_types(dtype, torch.float32)
        # Cast, then moved: tables are float64, which not every device has.
        value = value.detach().clone().to(dtype)
        value = value.to(torch.get_default_device())
        self.register_parameter(name, nn.Parameter(value))
        marks = self.__dict__.setdefault("marks", {})
        marks[name] = Mark(decay, float(lr_scale))
        if exact:
            self.__dict__["exact"] = self.__dict__.get("exact", frozenset()) | {
                name
            }

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> Any:
        """As ``nn.Module``: what moves and casts; spares ``exact``."""
        names = self.__dict__.get("exact", frozenset())
        spared = [self._parameters[name] for name in names]

        def careful(t: Tensor) -> Tensor:
            moved = fn(t)
            low = moved.is_floating_point() and moved.itemsize < 4
            if low and any(t is one for one in spared):
                return t.to(moved.device)
            return moved

        return super()._apply(careful if spared else fn, recurse)


class Constants(Layer):
    """A layer whose steps need numbers that its own parameters determine.

    They are made once for all steps of a generation: anew after a change of a
    parameter that torch counts or that moves it, whenever the layer calls
    ``forget_constants``, as where a generation begins, and for every step that
    has a gradient with respect to the parameters. They are never saved.
    """

    _kept: Any = None  # what the constants were made from, and they

    def constants(self) -> Any:
        """What steps need of the parameters, made now."""
        raise NotImplementedError

    def kept_constants(self) -> Any:
        """``constants``, or what the last call made of the same parameters."""
        own = [p for p in self._parameters.values() if p is not None]
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in own)
        if learns or torch.compiler.is_compiling():
            return self.constants()
        try:
            seen = [(id(p), p.data_ptr(), p._version, p.dtype) for p in own]
        except RuntimeError:  # a tensor of a transform, without memory
            return self.constants()
        # What inference mode made has no place in a graph.
        key = seen, torch.is_inference_mode_enabled()
        if self._kept is None or self._kept[0] != key:
            # The parameters too: as long as they live, no other has their id.
            self._kept = key, self.constants(), own
        return self._kept[1]

    def forget_constants(self) -> None:
        """The next step makes its constants anew."""
        self._kept = None

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> Any:
        self.forget_constants()
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_kept"}


def mark_of(module: nn.Module, name: str) -> Mark:
    """How an optimizer should treat a module's own parameter.

    Without a mark, parameters of two dimensions or more decay: not biases,
    and not the scales of norms.
    """
    marks = getattr(module, "marks", {})
    if name in marks:
        mark: Mark = marks[name]
        return mark
    return Mark(getattr(module, name).ndim >= 2, 1.0)


def log_uniform(
    name: str,
    low: float | int,
    high: float | int,
    *sizes: int,
) -> Float[Tensor, "..."]:
    """Logarithms of numbers that lie log-uniform between two limits.

    Args:
        name: of the number, for messages: its limits are ``name_min`` and
            ``name_max``.
        low, high: the limits, 0 < low ≤ high.
        sizes: of the tensor.

    Returns:
        log low + (log high − log low) u, u uniform in [0, 1).

    Raises:
        TypeError, ValueError: the limits are not as above.
    """
    _validate.number(f"{name}_min", low)
    _validate.number(f"{name}_max", high)
    if low > high:
        raise ValueError(
            f"{name}_min: expected at most {name}_max = {high}, got {low}"
        )
    return math.log(low) + (math.log(high) - math.log(low)) * torch.rand(*sizes)


def inverse_softplus(y: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """x with softplus(x) = log(1 + exp(x)) = y, for y > 0.

    x = log(exp(y) − 1) = y + log(1 − exp(−y)): the first form loses the
    digits of a small y and overflows for a large one, the second does not.
    """
    return y + torch.log(-torch.expm1(-y))


def full(x: Tensor) -> Tensor:
    """x in at least float32 (complex64): where sums and powers are taken."""
    if x.dtype in (torch.float32, torch.float64):
        return x  # at once: steps ask this often
    return x.to(torch.promote_types(x.dtype, torch.float32))


def cast_like(y: Tensor, x: Tensor) -> Tensor:
    """y, which was computed in full, in the dtype of x; as it is if complex."""
    return y if y.is_complex() else y.to(x.dtype)


def without_autocast(x: Tensor) -> AbstractContextManager[None]:
    """No autocast on x's device: what is ``full`` stays so in products."""
    kind = x.device.type
    # To switch off what is off takes longer than a step's product. Whether the
    # device has autocast at all is no question that every torch compiles.
    if kind != "meta" and torch.is_autocast_enabled(kind):
        off: Any = torch.autocast(kind, enabled=False)
        return off
    return nullcontext()


def zeros(
    like: Tensor,
    *sizes: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A recurrent state before its first step, at least float32.

    Args:
        like: a parameter: its device and dtype where none is given.
        sizes: the batch first.
        device, dtype: other ones.
    """
    _validate.count("batch_size", sizes[0])
    dtype = like.dtype if dtype is None else dtype
    return torch.zeros(
        sizes,
        device=like.device if device is None else device,
        dtype=torch.promote_types(dtype, torch.float32),
    )
