"""Chapter 02: the state of causal attention, keys and values of the past.

It grows by a position a step, and is not copied for that: a buffer has room,
and only what lies behind all that was handed out is written.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from linear_time import _validate


class KVCache(NamedTuple):
    """The state of causal attention: keys and values of the whole past.

    Without gradients it grows by ``extend``, in amortised constant time a
    position: k and v may be views of buffers with room for as much again.
    Nothing else is counted, copied or pickled than what k and v show.
    """

    k: Tensor  # (batch, heads, past, d_head)
    v: Tensor  # (batch, heads, past, d_head)
    mask: Tensor | None = None  # (batch, past), False where a row is padded
    dropped: int = 0  # positions before those that the cache holds

    @property
    def position(self) -> int | Tensor:
        """Of the next token; (batch,) where rows are padded.

        Padding has no position: a row's tokens count from its first real one.
        """
        if self.mask is None:
            return self.dropped + self.k.shape[2]
        return self.dropped + self.mask.sum(1)

    def append(
        self, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> "KVCache":
        """A cache with the keys and values of some positions more.

        The old one stays as it is, and may be continued in another way.

        Args:
            k, v: (batch, heads, new, d_head).
            mask: False where the new positions are padding, (batch, new).

        Raises:
            ValueError: k or v does not fit.
        """
        for old, new in ((self.k, k), (self.v, v)):
            sizes = (*new.shape[:2], "past", new.shape[3])
            own = tuple(old.shape)
            if own != (*sizes[:2], *own[2:3], sizes[3]):
                raise ValueError(
                    "state: expected keys and values "
                    f"{_validate.shape_text(sizes)}, "
                    f"got shape {_validate.shape_text(own)}"
                )
        if self.mask is not None or mask is not None:
            seen = _real(self.k) if self.mask is None else self.mask
            mask = extend(seen, _real(k) if mask is None else mask, 1)
        return KVCache(
            extend(self.k, k, 2), extend(self.v, v, 2), mask, self.dropped
        )

    def newest(self, n: int) -> "KVCache":
        """The last n positions, or all if there are fewer; the others go.

        Raises:
            ValueError: rows are padded: what goes would differ by row.
        """
        drop = max(0, self.k.shape[2] - n)
        if drop and self.mask is not None:
            raise ValueError("state: expected no padding where positions go")
        k, v = self.k[:, :, drop:], self.v[:, :, drop:]
        return KVCache(k, v, self.mask, self.dropped + drop)

    @staticmethod
    def empty(
        batch_size: int,
        n_heads: int,
        d_head: int,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> "KVCache":
        """The cache before the first position: past = 0."""
        batch_size = _validate.count("batch_size", batch_size)
        nothing = torch.zeros(
            batch_size, n_heads, 0, d_head, device=device, dtype=dtype
        )
        return KVCache(nothing, nothing)

    def __reduce__(self) -> tuple[Any, ...]:
        """What is pickled or copied: the numbers, without spare room."""

        def compact(part: Any) -> Any:
            if isinstance(part, Tensor):
                held = part.untyped_storage().nbytes()
                return part.clone() if held > part.nbytes else part
            return part

        return KVCache, tuple(map(compact, self))


def _real(k: Tensor) -> Tensor:
    """The mask of keys without padding, (batch, keys)."""
    return k.new_ones(k.shape[0], k.shape[2], dtype=torch.bool)


def extend(old: Tensor, new: Tensor, dim: int) -> Tensor:
    """``torch.cat([old, new], dim)``, in time O(new) where that can be.

    Without gradients the result is the head of a buffer twice its length, and
    new is written behind old if old ends where the writing in its buffer
    ends. Else, say for a second continuation of old, a new buffer is made.
    So nothing that was handed out ever changes, and n positions, one after
    the other, are copied fewer than 3n times.
    """
    past, more = old.shape[dim], new.shape[dim]
    if past == 0:
        return new
    graph = torch.is_grad_enabled() or torch.compiler.is_compiling()
    short = old.numel() < 2**14  # copied as fast as looked after
    fits = new.shape[:dim] == old.shape[:dim]
    fits = fits and new.shape[dim + 1 :] == old.shape[dim + 1 :]
    if graph or short or not fits or is_functorch_wrapped_tensor(new):
        return torch.cat([old, new], dim)
    # What knows how much of a buffer is written is its storage, which all
    # views of it share.
    written = getattr(old.untyped_storage(), "written", None)
    if written is None or not written.continues(old, new, dim):
        sizes = list(old.shape)
        sizes[dim] = 2 * (past + more)
        dtype = torch.promote_types(old.dtype, new.dtype)
        buffer = old.new_zeros(sizes, dtype=dtype)
        buffer.narrow(dim, 0, past).copy_(old)
        written = _Written(sizes[dim], buffer.stride())
        buffer.untyped_storage().written = written  # type: ignore[attr-defined]
        old = buffer
    strides, start = written.strides, old.storage_offset()
    behind = start + past * strides[dim]
    old.as_strided(new.shape, strides, behind).copy_(new)
    written.end = behind + more * strides[dim]
    sizes = list(new.shape)
    sizes[dim] = past + more
    return old.as_strided(sizes, strides, start)


class _Written:
    """How far a buffer is written, along the dimension in which it grows."""

    def __init__(self, room: int, strides: tuple[int, ...]) -> None:
        self.room, self.strides = room, strides
        self.end = 0  # offset of the first number that is not written

    def continues(self, old: Tensor, new: Tensor, dim: int) -> bool:
        """Whether old ends where the writing does, and new fits behind it."""
        past, more = old.shape[dim], new.shape[dim]
        end = old.storage_offset() + past * self.strides[dim]
        numbers = old.numel() // past * self.room
        return (
            end == self.end
            and end + more * self.strides[dim] <= self.room * self.strides[dim]
            and self.room <= 4 * (past + more)  # else too much of it is idle
            and old.stride() == self.strides
            and old.dtype == new.dtype
            and numbers * old.itemsize == old.untyped_storage().nbytes()
            # what was made in inference mode is written in it alone
            and (torch.is_inference_mode_enabled() or not old.is_inference())
        )


def readable(
    queries: int, state: KVCache, causal: bool = True
) -> Bool[Tensor, "*batch queries keys"] | None:
    """What the last positions of a cache may read; None for all of it.

    Args:
        queries: how many of the last positions ask.
        state: keys and values, theirs among them.
        causal: whether a position reads only what is not after it.

    Returns:
        (queries, keys), or (batch, 1, queries or 1, keys) where rows are
        padded.
    """
    keys, mask = state.k.shape[2], None
    if causal and queries > 1:  # a single one is the last: it reads everything
        ones = torch.ones(
            queries, keys, dtype=torch.bool, device=state.k.device
        )
        mask = ones.tril(keys - queries)
    if state.mask is None:
        return mask
    real = state.mask[:, None, None]
    return real if mask is None else mask & real
