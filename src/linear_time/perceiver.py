"""Chapter 08: compression by attention, with queries that are learned.

A Perceiver has n_latents learned vectors. They ask, the input answers: the
matrix that compresses n tokens to n_latents is a softmax of the fit between
learned queries and the keys of the data. It costs n · n_latents, and what
follows works on the latents alone.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from linear_time import _validate
from linear_time.attention import (
    MultiHeadAttention,
    attention_weights,
    split_heads,
)
from linear_time.compression import Compressor
from linear_time.layer import full


def fourier_features(
    positions: Float[Tensor, "*points d"],
    n_bands: int,
    max_frequency: float | int | Sequence[float | int],
) -> Float[Tensor, "*points channels"]:
    """Positions as waves: [p, sin(π f_k p_i), cos(π f_k p_i)].

    f_1 … f_K grow evenly from 1 to μ/2. At positions 2/μ apart the last band
    changes sign from one to the next (Nyquist); ``grid`` has both ends, 2/(μ
    − 1) apart, and its limit is (μ − 1)/2. d positions become d(2K + 1)
    channels: first p, then all sines, dimension by dimension, then all
    cosines.

    Args:
        positions: coordinates, (…, d), in [−1, 1] for a grid.
        n_bands: K, frequencies a dimension.
        max_frequency: μ, for all dimensions or one for each.

    Returns:
        (…, d(2K + 1)), in the dtype of the positions. The angles, up to
        πμ/2, are at least float32 on the way.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Jaegle et al. (2021), "Perceiver", section 3.2 and appendix D,
        which writes the position last.
    """
    *_, d = _validate.layout("positions", positions, "…", "d")
    n_bands = _validate.count("n_bands", n_bands)
    if isinstance(max_frequency, (int, float, np.number)):
        highest = [max_frequency] * d
    elif isinstance(max_frequency, (Sequence, np.ndarray)):
        highest = list(max_frequency)
    else:
        raise TypeError(
            f"max_frequency: expected one number or {d}, "
            f"got {_validate.describe(max_frequency)}"
        )
    if len(highest) != d:
        raise ValueError(
            f"max_frequency: expected one number or {d}, got {len(highest)}"
        )
    for mu in highest:
        _validate.number("max_frequency", mu)
    p = full(positions)
    bands = torch.stack(
        [
            torch.linspace(1, mu / 2, n_bands, dtype=p.dtype, device=p.device)
            for mu in highest
        ]
    )  # (d, n_bands), made where it is used: a copy would wait for a GPU
    angle = math.pi * (p[..., None] * bands).flatten(-2)
    return torch.cat([p, angle.sin(), angle.cos()], dim=-1).to(positions.dtype)


def grid(
    *sizes: int,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "points d"]:
    """The points of a grid, row by row, each coordinate from −1 to 1.

    Args:
        sizes: points along each dimension; a single point stands at −1.
        dtype, device: of the result; torch's defaults if None.

    Returns:
        (product of sizes, d).
    """
    counts = [_validate.count("sizes", size) for size in sizes]
    lines = [
        torch.linspace(-1, 1, n, dtype=dtype, device=device) for n in counts
    ]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).flatten(0, -2)


class CrossAttention(nn.Module):
    """A block that reads a context: attention, then an MLP, both residual.

        z = x + attention(norm(x), norm(context)),   y = z + MLP(norm(z)).

    Norms are LayerNorms before each part, and the MLP is two linear layers
    with a GELU between. Without d_kv the block reads x itself: a latent
    self-attention.

    Args:
        d_model: width of x.
        n_heads: number of heads.
        d_kv: width of the context; None: self-attention.
        d_qk, d_v: as for ``MultiHeadAttention``.
        widening: width inside the MLP, over d_model.
        query_residual: whether x is added to what attention read. Where
            queries are positions and outputs pixels it says nothing.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1.

    Source: Jaegle et al. (2021), "Perceiver", section 3.1; Perceiver IO
        (2021), section 3.1 and appendix E.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 1,
        d_kv: int | None = None,
        d_qk: int | None = None,
        d_v: int | None = None,
        widening: int = 1,
        query_residual: bool = True,
    ) -> None:
        super().__init__()
        d_model = _validate.count("d_model", d_model)
        d_kv = None if d_kv is None else _validate.count("d_kv", d_kv)
        d_inner = _validate.count("widening", widening) * d_model
        self.norm = nn.LayerNorm(d_model)
        self.context_norm = None if d_kv is None else nn.LayerNorm(d_kv)
        self.attention = MultiHeadAttention(d_model, n_heads, d_kv, d_qk, d_v)
        self.mlp_norm = nn.LayerNorm(d_model)
        self.mlp = nn.Sequential(
            nn.Linear(d_model, d_inner), nn.GELU(), nn.Linear(d_inner, d_model)
        )
        self.query_residual = query_residual

    def forward(
        self,
        x: Float[Tensor, "batch queries d_model"],
        context: Float[Tensor, "batch keys d_kv"] | None = None,
        key_mask: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch queries d_model"]:
        """Read the context, or x itself where the block has no d_kv.

        Args:
            x: what asks, (batch, queries, d_model).
            context: what is read, (batch, keys, d_kv).
            key_mask: True where a key is real; padding has no influence at
                all, and where nothing is real attention reads zeros.

        Raises:
            TypeError, ValueError: an argument is not as above.
        """
        self._check(x, context)
        asks, answers = self._normed(x, context)
        with _validate.inner():
            read = self.attention(asks, answers, key_mask=key_mask)
        z = x + read if self.query_residual else read
        y: Tensor = z + self.mlp(self.mlp_norm(z))
        return y

    def weights(
        self,
        x: Float[Tensor, "batch queries d_model"],
        context: Float[Tensor, "batch keys d_kv"] | None = None,
        key_mask: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch n_heads queries keys"]:
        """What each query looks at: softmax(q kᵀ / √d_head), per head.

        Where no key is real the weights are zeros. Arguments and errors as
        for ``forward``.
        """
        self._check(x, context)
        x, context = self._normed(x, context)
        context = x if context is None else context
        mask = None
        if key_mask is not None:
            batch, keys = context.shape[:2]
            _validate.layout("key_mask", key_mask, batch, keys, kind="bool")
            mask = key_mask[:, None, None]
        heads = self.attention
        q = split_heads(heads.query(x), heads.n_heads)
        k = split_heads(heads.key(context), heads.n_heads)
        return attention_weights(q, k, mask).to(q.dtype)

    def _check(self, x: Tensor, context: Tensor | None) -> None:
        if (context is None) != (self.context_norm is None):
            wanted = "none" if self.context_norm is None else "one to read"
            got = "none" if context is None else _validate.describe(context)
            raise ValueError(f"context: expected {wanted}, got {got}")
        width = self.attention.d_model
        batch, _, _ = _validate.layout("x", x, "batch", "queries", width)
        if context is not None:
            width = self.attention.d_kv
            _validate.layout("context", context, batch, "keys", width)

    def _normed(
        self, x: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if context is None or self.context_norm is None:
            return self.norm(x), None
        return self.norm(x), self.context_norm(context)


class Perceiver(Compressor):
    """n tokens, any number, to n_latents: cross-attends and latent layers.

        z ← learned latents;
        n_cross times:  z ← cross-attention(z, x), then n_self latent layers.

    It costs O(n · n_latents) for each cross-attend and O(n_latents²) for
    each latent layer. The result does not depend on the order of the
    tokens: what position matters must stand in them (``fourier_features``).

    Args:
        d_in: width of the tokens.
        n_latents: number of latents.
        d_latent: their width.
        n_cross: how often the input is read.
        n_self: latent layers after each reading.
        n_heads, n_cross_heads: heads of a latent layer, of a cross-attend.
        widening: as for ``CrossAttention``.
        share: whether the readings share their weights, and the latent
            layers theirs, as in a recurrent network; the first cross-attend
            has its own.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1.

    Source: Jaegle et al. (2021), "Perceiver", sections 3.1 and 4.1; queries,
        keys and values of a cross-attend have the width of the input.
    """

    def __init__(
        self,
        d_in: int,
        n_latents: int,
        d_latent: int,
        n_cross: int = 1,
        n_self: int = 1,
        n_heads: int = 1,
        n_cross_heads: int = 1,
        widening: int = 1,
        share: bool = True,
    ) -> None:
        d_in = _validate.count("d_in", d_in)
        super().__init__(n_latents, d_in=d_in)
        d_latent = _validate.count("d_latent", d_latent)
        n_cross = _validate.count("n_cross", n_cross)
        n_self = _validate.count("n_self", n_self)
        self.n_cross = n_cross
        self.latents = nn.Parameter(torch.empty(self.n_out, d_latent))
        nn.init.trunc_normal_(self.latents, std=0.02, a=-2, b=2)

        def cross() -> CrossAttention:
            return CrossAttention(
                d_latent, n_cross_heads, d_in, d_in, d_in, widening
            )

        def stack() -> nn.ModuleList:
            return nn.ModuleList(
                CrossAttention(d_latent, n_heads, widening=widening)
                for _ in range(n_self)
            )

        crosses, stacks = n_cross, n_cross
        if share:
            crosses, stacks = min(n_cross, 2), 1
        self.cross = nn.ModuleList(cross() for _ in range(crosses))
        self.stacks: Any = nn.ModuleList(stack() for _ in range(stacks))

    def forward(
        self,
        x: Float[Tensor, "batch n d_in"],
        key_mask: Bool[Tensor, "batch n"] | None = None,
    ) -> Float[Tensor, "batch n_latents d_latent"]:
        """The latents after they have read x.

        Args:
            x: tokens, (batch, n, d_in).
            key_mask: True where a token is real and not padding.

        Raises:
            TypeError, ValueError: an argument is not as above.
        """
        self.check_input(x)
        z = self.latents.expand(len(x), -1, -1)
        with _validate.inner():
            for i in range(self.n_cross):
                # the last of either kind is the shared one
                z = self.cross[min(i, len(self.cross) - 1)](z, x, key_mask)
                for layer in self.stacks[min(i, len(self.stacks) - 1)]:
                    z = layer(z)
        return z


class PerceiverClassifier(nn.Module):
    """Classes from a Perceiver: the mean latent, and a linear map.

    Args:
        perceiver: what compresses.
        n_classes: number of classes.

    Source: Jaegle et al. (2021), "Perceiver", section 3.1.
    """

    def __init__(self, perceiver: Perceiver, n_classes: int) -> None:
        super().__init__()
        n_classes = _validate.count("n_classes", n_classes)
        self.perceiver = perceiver
        self.head = nn.Linear(perceiver.latents.shape[1], n_classes)

    def forward(
        self,
        x: Float[Tensor, "batch n d_in"],
        key_mask: Bool[Tensor, "batch n"] | None = None,
    ) -> Float[Tensor, "batch n_classes"]:
        """The logits of each row; arguments as for ``Perceiver``."""
        logits: Tensor = self.head(self.perceiver(x, key_mask).mean(1))
        return logits
