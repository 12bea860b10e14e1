"""Chapter 10: latents that keep the order, so that a Perceiver can predict.

A latent that reads the whole input knows the future. Perceiver AR makes the
last n_latents positions the latents: each has a place in the sequence, reads
what stands at or before it, and predicts what comes next. Two masks keep the
future out: one where latents read the input, one where they read each other.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linear_time import _validate
from linear_time.attention import (
    KVCache,
    attend,
    causal_mask,
    join_heads,
    split_heads,
)
from linear_time.decoder import (
    GroupedQueryAttention,
    LlamaLM,
    apply_rotary,
    rotary_embedding,
)


class ARState(NamedTuple):
    """What generation keeps: a cache for each layer."""

    caches: tuple[KVCache, ...]  # the first of all positions, else of latents
    position: int  # of the next token


class PerceiverAR(LlamaLM):
    """A Llama whose layers after the first see the last positions only.

        x = E[tokens];  z = x at the last n_latents positions;
        z ← z + attention(z → x);  z ← z + mlp(z);      first layer
        z ← z + attention(z → z);  z ← z + mlp(z);      all others
        logits = norm(z) Eᵀ.

    The first layer costs n_latents · length, each other n_latents². Only
    n_latents positions get a prediction: a sequence gives that many losses.
    With n_latents = length this *is* ``LlamaLM``, weight for weight.

    Args:
        vocab_size, d_model, n_layer, tied, eps, block: as for ``LlamaLM``.
        n_latents: number of latents.

    Raises:
        TypeError, ValueError: as ``LlamaLM``; n_latents is not a whole
            number ≥ 1.

    Source: Hawthorne et al. (2022), "General-purpose, long-context
        autoregressive modeling with Perceiver AR", section 3; the layers
        here are Llama's.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_layer: int,
        n_latents: int,
        **options: object,
    ) -> None:
        super().__init__(vocab_size, d_model, n_layer, **options)  # type: ignore[arg-type]
        _validate.count("n_latents", n_latents)
        self.n_latents = n_latents

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        input_mask: bool = True,
        latent_mask: bool = True,
        key_mask: Bool[Tensor, "batch length"] | None = None,
        n_latents: int | None = None,
    ) -> Float[Tensor, "batch latents vocab_size"]:
        """Logits of the next token at the last n_latents positions.

        Args:
            tokens: (batch, length). A shorter sequence than n_latents has
                as many latents as positions.
            input_mask: whether a latent reads only what is not after it in
                the input.
            latent_mask: whether it reads only latents not after it. Without
                either the model reads what it should predict.
            key_mask: True where a token is real and not padding, (batch,
                length). Pad on the left: the latents stand at the end, and
                since scores depend on distances alone, a padded sequence
                has the logits of the same one by itself. The logits of a
                latent on padding are finite and mean nothing.
            n_latents: other than the model's; no weight depends on it.

        Raises:
            TypeError: key_mask is not boolean.
            TypeError, ValueError: n_latents is not a whole number ≥ 1.
            ValueError: tokens are not (batch, length) of the vocabulary, or
                key_mask has another shape.
        """
        self.check_tokens("tokens", tokens, ("batch", "length"))
        if key_mask is not None:
            _check_key_mask(key_mask, tokens)
        x = self.embedding(tokens)  # (batch, length, d_model)
        n = self._latents(n_latents, x.shape[1])
        first = x.shape[1] - n  # the position of the first latent
        z = x[:, first:]
        for i, block in enumerate(self.blocks):
            read = block.attention_norm(x if i == 0 else z)
            masked = input_mask if i == 0 else latent_mask
            start = 0 if i == 0 else first
            real = None if key_mask is None else key_mask[:, start:]
            z = z + _read_last(block.attention, read, n, masked, start, real)
            z = z + block.mlp(block.mlp_norm(z))
        return self.logits(z)

    def prefill(
        self,
        tokens: Int[Tensor, "batch length"],
        n_latents: int | None = None,
    ) -> tuple[Float[Tensor, "batch vocab_size"], ARState]:
        """Read a prompt: logits of the next token, and the caches.

        Args, Raises: as ``forward``.
        """
        self.check_tokens("tokens", tokens, ("batch", "length"))
        x = self.embedding(tokens)
        n = self._latents(n_latents, x.shape[1])
        first = x.shape[1] - n
        z, caches = x[:, first:], []
        for i, block in enumerate(self.blocks):
            read = block.attention_norm(x if i == 0 else z)
            start = 0 if i == 0 else first
            caches.append(KVCache(*_keys_values(block.attention, read, start)))
            z = z + _read_last(block.attention, read, n, True, start)
            z = z + block.mlp(block.mlp_norm(z))
        state = ARState(tuple(caches), x.shape[1])
        return self.logits(z)[:, -1], state

    def step(  # type: ignore[override]
        self,
        token: Int[Tensor, " batch"],
        state: ARState,
        slide: bool = False,
    ) -> tuple[Float[Tensor, "batch vocab_size"], ARState]:
        """One token more, from the caches: a latent more.

        The result is that of ``forward`` with all latents since the prompt's
        first, so the number of latents grows. To ``slide`` drops the oldest
        latent from the caches instead. That is cheaper, and with three
        layers or more it is *not* what ``forward`` computes: the latents
        that stay have read the one that goes.

        Raises:
            ValueError: the tokens are not (batch,) of the vocabulary.
        """
        self.check_tokens("token", token, ("batch",))
        z = self.embedding(token)[:, None]  # (batch, 1, d_model)
        caches = []
        for i, (block, cache) in enumerate(
            zip(self.blocks, state.caches, strict=True)
        ):
            attention = block.attention
            read = block.attention_norm(z)
            k, v = _keys_values(attention, read, state.position)
            cache = cache.append(k, v)
            if slide and i > 0 and cache.k.shape[2] > self.n_latents:
                cache = KVCache(cache.k[:, :, 1:], cache.v[:, :, 1:])
            q = _queries(attention, read, state.position)
            z = z + _attend(attention, q, cache.k, cache.v, None)
            z = z + block.mlp(block.mlp_norm(z))
            caches.append(cache)
        return self.logits(z)[:, 0], ARState(tuple(caches), state.position + 1)

    @torch.no_grad()
    def generate(
        self,
        prompt: Int[Tensor, "batch prompt"],
        n: int,
        temperature: float | int = 1.0,
        seed: int = 0,
        stride: int = 1,
    ) -> Int[Tensor, "batch total"]:
        """Continue a prompt by n tokens, a whole ``prefill`` every stride.

        Args:
            prompt, n, temperature, seed: as ``LanguageModel.generate``.
            stride: tokens that one ``prefill`` serves. It has n_latents −
                stride + 1 latents and each ``step`` after it one more, up to
                n_latents; with a stride of 1 it is ``forward`` each time.

        Returns, Raises: as ``LanguageModel.generate``; ValueError for a
            stride that is not a whole number from 1 to n_latents.
        """
        self.check_tokens("prompt", prompt, ("batch", "length"))
        _validate.count("n", n)
        _validate.number("temperature", temperature, above=0, or_equal=True)
        if type(stride) is not int or not 1 <= stride <= self.n_latents:
            raise ValueError(
                "stride: expected a whole number from 1 to "
                f"{self.n_latents}, got {_validate.describe(stride)}"
            )
        generator = torch.Generator(prompt.device).manual_seed(seed)
        for i in range(n):
            if i % stride == 0:
                first = self.n_latents - stride + 1
                logits, state = self.prefill(prompt, first)
            else:
                logits, state = self.step(prompt[:, -1], state)
            if temperature == 0:
                token = logits.argmax(-1, keepdim=True)
            else:
                logits = logits - logits.max(dim=-1, keepdim=True).values
                weights = torch.softmax(logits / temperature, dim=-1)
                token = torch.multinomial(weights, 1, generator=generator)
            prompt = torch.cat([prompt, token], dim=1)
        return prompt

    def _latents(self, n_latents: int | None, length: int) -> int:
        if n_latents is None:
            n_latents = self.n_latents
        _validate.count("n_latents", n_latents)
        return min(n_latents, length)


def _check_key_mask(key_mask: Tensor, tokens: Tensor) -> None:
    if not isinstance(key_mask, Tensor) or key_mask.dtype != torch.bool:
        raise TypeError(
            "key_mask: expected a bool tensor, True where a token is real, "
            f"got {_validate.describe(key_mask)}"
        )
    if key_mask.shape != tokens.shape:
        raise ValueError(
            f"key_mask: expected shape {_validate.shape_text(tokens.shape)}, "
            f"got shape {_validate.shape_text(key_mask.shape)}"
        )


def _queries(attention: GroupedQueryAttention, x: Tensor, first: int) -> Tensor:
    """Turned queries of x, whose first position is ``first``."""
    q = split_heads(attention.query(x), attention.n_heads)
    return apply_rotary(q, *_rotary(attention, x, first))


def _keys_values(
    attention: GroupedQueryAttention, x: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    """Turned keys, and values, (batch, kv heads, length, d_head)."""
    k = split_heads(attention.key(x), attention.n_kv_heads)
    v = split_heads(attention.value(x), attention.n_kv_heads)
    return apply_rotary(k, *_rotary(attention, x, first)), v


def _rotary(
    attention: GroupedQueryAttention, x: Tensor, first: int
) -> tuple[Tensor, Tensor]:
    positions = torch.arange(first, first + x.shape[1], device=x.device)
    return rotary_embedding(
        positions, attention.d_head, attention.base, x.dtype
    )


def _attend(
    attention: GroupedQueryAttention,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
) -> Tensor:
    group = attention.n_heads // attention.n_kv_heads
    k, v = (t.repeat_interleave(group, dim=1) for t in (k, v))
    out: Tensor = attention.out(join_heads(attend(q, k, v, mask)))
    return out


def _read_last(
    attention: GroupedQueryAttention,
    x: Tensor,
    n: int,
    masked: bool,
    start: int,
    real: Tensor | None = None,
) -> Tensor:
    """The last n positions of x read all of x, (batch, n, d_model).

    The mask is right-aligned: its last row belongs to the last position.
    Of padding, where ``real`` is False, nothing is read.
    """
    length = x.shape[1]
    q = _queries(attention, x[:, length - n :], start + length - n)
    k, v = _keys_values(attention, x, start)
    mask = causal_mask(length, x.device)[length - n :] if masked else None
    if real is not None:
        real = real[:, None, None]  # (batch, head, query, key)
        mask = real if mask is None else mask & real
    return _attend(attention, q, k, v, mask)
