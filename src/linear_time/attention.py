"""Chapter 02: attention, plain, tiled, with many heads, and with a cache.

Attention is a soft dictionary: a query is compared with every key, and the
answer is the mean of the values, weighted by how well their keys fit. Masks
are boolean and True where a query may read a key.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from linear_time import _validate
from linear_time.cache import KVCache, readable
from linear_time.layer import full, without_autocast
from linear_time.mixer import SequenceMixer


def attention(
    q: Float[Tensor, "*batch queries d_head"],
    k: Float[Tensor, "*batch keys d_head"],
    v: Float[Tensor, "*batch keys d_value"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch queries d_value"]:
    """softmax(q kᵀ / √d_head) v, with the softmax along the keys.

    The scores are (queries, keys): time and memory grow with the product.
    They, the softmax and its sums are at least float32; the result is cast
    last.

    Args:
        q: queries, (…, queries, d_head).
        k: keys, (…, keys, d_head).
        v: values, (…, keys, d_value).
        mask: True where a query may read a key; (…, queries, keys) or a
            shape that broadcasts to it. A query that may read nothing gets
            zeros.

    Returns:
        (…, queries, d_value).

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit or a value is not finite.

    Source: Vaswani et al. (2017), "Attention Is All You Need", equation 1.
    """
    _check_qkv(q, k, v)
    if mask is not None:
        _validate.mask("mask", mask, *q.shape[:-1], k.shape[-2])
    return attend(q, k, v, mask)


def causal_mask(
    length: int, device: torch.device | str | None = None
) -> Bool[Tensor, "length length"]:
    """True on and below the diagonal: position t reads s ≤ t."""
    _validate.count("length", length)
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


class SoftmaxSummary(NamedTuple):
    """What one must keep of some keys and values to go on later.

    With scores s_j of one query: maximum m = max_j s_j,
    total Σ_j exp(s_j − m), weighted Σ_j exp(s_j − m) v_j. The attention over
    these keys is weighted / total. All three are at least float32: in float16
    a total of more than 65,504 keys is infinite, and in bfloat16 it stops at
    256.
    """

    maximum: Tensor  # (…, queries)
    total: Tensor  # (…, queries)
    weighted: Tensor  # (…, queries, d_value)


def softmax_summary(
    scores: Float[Tensor, "*batch queries keys"],
    v: Float[Tensor, "*batch keys d_value"],
) -> SoftmaxSummary:
    """The summary of one block of keys; a score of −∞ is a masked key."""
    scores, v = full(scores), full(v)
    maximum = scores.amax(dim=-1)
    weights = torch.exp(scores - _reference(maximum)[..., None])
    return SoftmaxSummary(maximum, weights.sum(-1), weights @ v)


def online_softmax(
    left: SoftmaxSummary, right: SoftmaxSummary
) -> SoftmaxSummary:
    """The summary of two blocks of keys together.

        m = max(m_l, m_r),
        total = e^{m_l − m} total_l + e^{m_r − m} total_r,

    and weighted likewise. The operator is associative and commutative, so
    blocks may be merged in any order; (−∞, 0, 0), no keys, is neutral.

    Args:
        left, right: summaries of the same queries.

    Returns:
        A SoftmaxSummary.

    Raises:
        ValueError: the two have different shapes.

    Source: Milakov & Gimelshein (2018), "Online normalizer calculation for
        softmax", section 3.1, with the values beside the normaliser.
    """
    for name, one, other in zip(left._fields, left, right, strict=True):
        if one.shape != other.shape:
            raise ValueError(
                f"right.{name}: expected shape "
                f"{_validate.shape_text(one.shape)}, that of the left, "
                f"got shape {_validate.shape_text(other.shape)}"
            )
    left, right = (SoftmaxSummary(*map(full, s)) for s in (left, right))
    maximum = torch.maximum(left.maximum, right.maximum)
    scale_l = torch.exp(left.maximum - _reference(maximum))
    scale_r = torch.exp(right.maximum - _reference(maximum))
    return SoftmaxSummary(
        maximum,
        scale_l * left.total + scale_r * right.total,
        scale_l[..., None] * left.weighted
        + scale_r[..., None] * right.weighted,
    )


def online_softmax_attention(
    q: Float[Tensor, "*batch queries d_head"],
    k: Float[Tensor, "*batch keys d_head"],
    v: Float[Tensor, "*batch keys d_value"],
    causal: bool = False,
    block: int = 128,
    key_mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch queries d_value"]:
    """``attention`` tile by tile: the same numbers, memory O(length).

    Only a tile of block × block scores exists at a time. Its summary is
    merged by ``online_softmax`` and it is forgotten. Backward computes it
    anew from q, k and one number a query, log Σ_j exp(s_j).

    Args:
        q, k, v: as in ``attention``.
        causal: query t reads keys s ≤ t only; tiles of the future are
            skipped.
        block: rows and columns of a tile, ≥ 1.
        key_mask: True where a key may be read, by any query; (…, keys) or a
            shape that broadcasts to it. A query that may read nothing gets
            zeros.

    Returns:
        (…, queries, d_value). It can be differentiated once, not twice.

    Raises:
        RuntimeError: a second derivative is asked for.
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit, a value is not finite, block < 1,
            or ``causal`` with another number of queries than of keys.

    Source: Dao et al. (2022), "FlashAttention", algorithm 1 and appendix
        B.2 for the gradient; the order of the loops (queries outside) is
        that of Dao (2023), "FlashAttention-2".
    """
    _check_qkv(q, k, v)
    block = _validate.count("block", block)
    if causal and q.shape[-2] != k.shape[-2]:
        raise ValueError(
            "causal: expected as many queries as keys, got "
            f"{q.shape[-2]} and {k.shape[-2]}"
        )
    if key_mask is not None:
        _validate.mask("key_mask", key_mask, *k.shape[:-1])
    return attend_by_tiles(q, k, v, causal, block, key_mask)


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        causal: bool,
        block: int,
        key_mask: Tensor | None,
    ) -> Tensor:
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        log_total = full(q.new_empty(q.shape[:-1]))
        for rows in _blocks(q.shape[-2], block):
            summary = SoftmaxSummary(  # of no keys: the neutral one
                torch.full_like(log_total[..., rows], -math.inf),
                torch.zeros_like(log_total[..., rows]),
                torch.zeros_like(full(out[..., rows, :])),
            )
            for columns in _key_blocks(rows, q, k, causal, block):
                scores = _tile(q, k, rows, columns, causal, key_mask)
                part = softmax_summary(scores, v[..., columns, :])
                summary = online_softmax(summary, part)
            # A row that may read nothing has the total 0, and reads 0/1.
            total = summary.total.masked_fill(summary.total == 0, 1)
            out[..., rows, :] = summary.weighted / total[..., None]
            log_total[..., rows] = _reference(summary.maximum) + total.log()
        ctx.save_for_backward(q, k, v, out, log_total, key_mask)
        ctx.causal, ctx.block = causal, block
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Any:
        if torch.is_grad_enabled():
            # torch's once_differentiable lets this pass with a wrong result
            # where d_out itself needs no gradient.
            raise RuntimeError(
                "online_softmax_attention: expected to be differentiated "
                "once, got create_graph=True; attention can be, twice"
            )
        # With weights p = exp(s − log total) and out = p v:
        #   dv = pᵀ dout,  dp = dout vᵀ,  ds = p ⊙ (dp − Σ_j p_j dp_j),
        # and Σ_j p_j dp_j = Σ dout ⊙ out, which needs no tile.
        q, k, v, out, log_total, key_mask = ctx.saved_tensors
        d_q, d_k, d_v = (torch.zeros_like(full(t)) for t in (q, k, v))
        # (…, queries, 1)
        mean = (full(d_out) * full(out)).sum(-1, keepdim=True)
        scale = 1 / math.sqrt(q.shape[-1])
        with without_autocast(q):
            for rows in _blocks(q.shape[-2], ctx.block):
                d_rows = full(d_out[..., rows, :])
                for columns in _key_blocks(rows, q, k, ctx.causal, ctx.block):
                    scores = _tile(q, k, rows, columns, ctx.causal, key_mask)
                    p = torch.exp(scores - log_total[..., rows, None])
                    d_v[..., columns, :] += p.mT @ d_rows
                    d_p = d_rows @ full(v[..., columns, :]).mT
                    d_s = scale * p * (d_p - mean[..., rows, :])
                    d_q[..., rows, :] += d_s @ full(k[..., columns, :])
                    d_k[..., columns, :] += d_s.mT @ full(q[..., rows, :])
        gradients = (d.to(q.dtype) for d in (d_q, d_k, d_v))
        return *gradients, None, None, None


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each on its own projections.

    head_i = attention(x Q_i, c K_i, c V_i, mask);
    y = [head_1 … head_n] O, with c the context, x itself by default.

    Args:
        d_model: width of x and y.
        n_heads: number of heads; it divides d_qk and d_v.
        d_kv: width of the context (cross-attention); None: of x.
        d_qk: width of all queries, and of all keys; None: d_model.
        d_v: width of all values; None: d_model.
        bias: whether the four projections have biases. That of the keys
            adds the same to all scores of a query, so it changes nothing.

    Raises:
        TypeError, ValueError: a width is not a whole number ≥ 1, or n_heads
            does not divide one.

    Source: Vaswani et al. (2017), section 3.2.2.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        d_kv: int | None = None,
        d_qk: int | None = None,
        d_v: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        d_model = _validate.count("d_model", d_model)
        n_heads = _validate.count("n_heads", n_heads)
        d_kv = d_model if d_kv is None else _validate.count("d_kv", d_kv)
        d_qk = d_model if d_qk is None else _validate.count("d_qk", d_qk)
        d_v = d_model if d_v is None else _validate.count("d_v", d_v)
        check_divides("n_heads", n_heads, "d_qk", d_qk)
        check_divides("n_heads", n_heads, "d_v", d_v)
        self.d_model, self.d_kv, self.n_heads = d_model, d_kv, n_heads
        self.query = nn.Linear(d_model, d_qk, bias=bias)
        self.key = nn.Linear(d_kv, d_qk, bias=bias)
        self.value = nn.Linear(d_kv, d_v, bias=bias)
        self.out = nn.Linear(d_v, d_model, bias=bias)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        context: Float[Tensor, "batch keys d_kv"] | None = None,
        mask: Bool[Tensor, "length keys"] | None = None,
        key_mask: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        """Read the context, or x itself where none is given.

        Args:
            x: what asks, (batch, length, d_model).
            context: what is read, (batch, keys, d_kv); None: x.
            mask: True where position t may read key s, (length, keys).
            key_mask: True where a key is real and not padding,
                (batch, keys). torch's ``key_padding_mask`` is its negation.

        Raises:
            TypeError, ValueError: an argument is not as above.
        """
        _validate.layout("x", x, "batch", "length", self.d_model)
        if context is not None:
            _validate.layout("context", context, len(x), "keys", self.d_kv)
        elif self.d_kv != self.d_model:
            raise ValueError(
                f"context: expected shape (batch, keys, {self.d_kv}), got None"
            )
        context = x if context is None else context
        batch, keys, _ = context.shape
        if mask is not None:
            _validate.layout("mask", mask, x.shape[1], keys, kind="bool")
        if key_mask is not None:
            _validate.layout("key_mask", key_mask, batch, keys, kind="bool")
        # (batch or 1, 1, length or 1, keys)
        allowed = None if mask is None else mask[None, None]
        if key_mask is not None:
            real = key_mask[:, None, None]
            allowed = real if allowed is None else allowed & real
        q = split_heads(self.query(x), self.n_heads)
        k = split_heads(self.key(context), self.n_heads)
        v = split_heads(self.value(context), self.n_heads)
        y: Tensor = self.out(join_heads(attend(q, k, v, allowed)))
        return y


class CausalSelfAttention(SequenceMixer):
    """Every position reads itself and its past, with several heads.

    Its state is the KV cache, which grows by 2 d_model numbers a step. It
    knows of no positions beyond what the mask tells (chapter 03 adds them).

    Args:
        d_model: width.
        n_heads: number of heads, a divisor of d_model.
        block: None for ``attention``; a number for
            ``online_softmax_attention`` with tiles of that size.

    Raises:
        TypeError, ValueError: a size is not a whole number ≥ 1, or n_heads
            does not divide d_model.

    Source: Vaswani et al. (2017), section 3.2.3.
    """

    def __init__(
        self, d_model: int, n_heads: int, block: int | None = None
    ) -> None:
        super().__init__(d_model)
        if block is not None:
            block = _validate.count("block", block)
        self.block = block
        self.heads = MultiHeadAttention(d_model, n_heads, bias=False)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """An empty cache."""
        n_heads, weight = self.heads.n_heads, self.heads.query.weight
        return KVCache.empty(
            batch_size,
            n_heads,
            self.d_model // n_heads,
            weight.device if device is None else device,
            weight.dtype if dtype is None else dtype,
        )

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: KVCache
    ) -> tuple[Float[Tensor, "batch d_model"], KVCache]:
        self.check_input(x_t, "x_t")
        q, k, v = self._project(x_t[:, None])  # (batch, heads, 1, d_head)
        state = state.append(k, v)
        # The past is all there is: nothing is masked, except padding.
        mask = readable(1, state)
        return self._out(attend(q, state.k, state.v, mask))[:, 0], state

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: KVCache | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], KVCache]:
        """All positions of a prompt at once, and the cache after it."""
        self.check_input(x)
        self.check_mask(mask, x)
        q, k, v = self._project(x)
        state = (
            KVCache(k, v, mask) if state is None else state.append(k, v, mask)
        )
        if self.block is None:
            y = attend(q, state.k, state.v, readable(x.shape[1], state))
        else:
            key_mask = None if state.mask is None else state.mask[:, None]
            y = attend_by_tiles(q, state.k, state.v, True, self.block, key_mask)
        return self._out(y), state

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.heads
        return (
            split_heads(heads.query(x), heads.n_heads),
            split_heads(heads.key(x), heads.n_heads),
            split_heads(heads.value(x), heads.n_heads),
        )

    def _out(self, y: Tensor) -> Tensor:
        out: Tensor = self.heads.out(join_heads(y))
        return out


def split_heads(
    x: Float[Tensor, "batch length width"], n_heads: int
) -> Float[Tensor, "batch n_heads length d_head"]:
    """Cut the width into heads, (batch, n_heads, length, width / n_heads)."""
    return x.unflatten(-1, (n_heads, -1)).transpose(1, 2)


def join_heads(
    y: Float[Tensor, "batch n_heads length d_head"],
) -> Float[Tensor, "batch length width"]:
    """Undo ``split_heads``."""
    return y.transpose(1, 2).flatten(2)


def check_divides(name: str, number: int, of: str, width: int) -> None:
    """Refuse a number of heads that leaves a remainder."""
    if width % number:
        raise ValueError(
            f"{name}: expected a divisor of {of} = {width}, got {number}"
        )


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """``attention`` without its checks, for the inner loop of generation."""
    with without_autocast(q):
        return (attention_weights(q, k, mask) @ full(v)).to(q.dtype)


def attention_weights(
    q: Tensor, k: Tensor, mask: Tensor | None
) -> Float[Tensor, "*batch queries keys"]:
    """softmax(q kᵀ / √d_head), at least float32; 0 where the mask is False."""
    with without_autocast(q):
        scores = full(q) @ full(k).mT / math.sqrt(q.shape[-1])
        if mask is None:
            return scores.softmax(-1)
        # The lowest number, not −∞: a row without any key would be 0/0. Such
        # a row is uniform after the softmax, and the second fill makes it 0.
        lowest = torch.finfo(scores.dtype).min
        weights = scores.masked_fill(~mask, lowest).softmax(-1)
        return weights.masked_fill(~mask, 0)


def attend_by_tiles(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    block: int,
    key_mask: Tensor | None,
) -> Tensor:
    """``online_softmax_attention`` without its checks.

    Of fewer queries than keys, causal ones are the last positions.
    """
    with without_autocast(q):
        out: Tensor = _TiledAttention.apply(q, k, v, causal, block, key_mask)
    return out


def _reference(maximum: Tensor) -> Tensor:
    """The maximum to subtract; 0 where there is no key, not −∞ − (−∞)."""
    return maximum.masked_fill(maximum == -math.inf, 0)


def _blocks(length: int, block: int) -> Iterator[slice]:
    for start in range(0, length, block):
        yield slice(start, min(start + block, length))


def _key_blocks(
    rows: slice, q: Tensor, k: Tensor, causal: bool, block: int
) -> Iterator[slice]:
    """Those that the rows read: causal ones skip all that lie in the future."""
    last = k.shape[-2]
    if causal:  # the queries are the last positions
        last += rows.stop - q.shape[-2]
    for columns in _blocks(k.shape[-2], block):
        if columns.start < last:
            yield columns


def _tile(
    q: Tensor,
    k: Tensor,
    rows: slice,
    columns: slice,
    causal: bool,
    key_mask: Tensor | None,
) -> Tensor:
    """The scores of some queries with some keys, −∞ where nothing is read."""
    q_rows, k_columns = full(q[..., rows, :]), full(k[..., columns, :])
    scores = q_rows @ k_columns.mT / math.sqrt(q.shape[-1])
    first = rows.start + k.shape[-2] - q.shape[-2]  # of these queries
    if causal and columns.stop > first + 1:  # the tile on the diagonal
        t = torch.arange(first, first + scores.shape[-2], device=q.device)
        s = torch.arange(columns.start, columns.stop, device=q.device)
        scores = scores.masked_fill(s > t[:, None], -math.inf)
    if key_mask is not None:
        real = key_mask[..., None, columns]
        scores = scores.masked_fill(~real, -math.inf)
    return scores


def _check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    _validate.layout("q", q, "…", "queries", "d_head")
    _validate.layout("k", k, *q.shape[:-2], "keys", q.shape[-1])
    _validate.layout("v", v, *k.shape[:-1], "d_value")
    _validate.same_precision(q=q, k=k, v=v)
