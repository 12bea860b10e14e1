"""Chapter 10: latents that keep the order, so that a Perceiver can predict.

A latent that reads the whole input knows the future. Perceiver AR makes the
last n_latents positions the latents: each has a place in the sequence, reads
what stands at or before it, and predicts what comes next. Two masks keep the
future out: one where latents read the input, one where they read each other.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from linear_time import _validate
from linear_time.cache import KVCache
from linear_time.decoder import LlamaLM


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
        **options: Any,
    ) -> None:
        super().__init__(vocab_size, d_model, n_layer, **options)
        self.n_latents = _validate.count("n_latents", n_latents)

    def forward(
        self,
        tokens: Int[Tensor, "batch length"],
        mask: Bool[Tensor, "batch length"] | None = None,
        input_mask: bool = True,
        latent_mask: bool = True,
        n_latents: int | None = None,
    ) -> Float[Tensor, "batch latents vocab_size"]:
        """Logits of the next token at the last n_latents positions.

        Args:
            tokens: (batch, length). A shorter sequence than n_latents has
                as many latents as positions.
            mask: False where a shorter row is padded at its left: the
                latents stand at the end. A padded row has the logits of the
                same row by itself. Those of a latent on padding are finite
                and mean nothing.
            input_mask: whether a latent reads only what is not after it in
                the input.
            latent_mask: whether it reads only latents not after it. Without
                either the model reads what it should predict.
            n_latents: other than the model's; no weight depends on it.

        Raises:
            TypeError, ValueError: tokens are not (batch, length) of the
                vocabulary, the mask does not fit, or n_latents is not a
                whole number ≥ 1.
        """
        self.check_tokens("tokens", tokens, ("batch", "length"))
        self.check_mask(mask, tokens)
        n = self._latents(n_latents, tokens.shape[1])
        x = self.embedding(tokens)  # (batch, length, d_model)
        first, *others = self.blocks
        with _validate.inner():
            z = first(x, mask, last=n, causal=input_mask)
            mask = None if mask is None else mask[:, -n:]
            for block in others:
                z = block(z, mask, causal=latent_mask)
        return self.logits(z)

    def prefill(
        self,
        tokens: Int[Tensor, "batch length"],
        state: list[KVCache] | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
        n_latents: int | None = None,
    ) -> tuple[Float[Tensor, "batch vocab_size"], list[KVCache]]:
        """Read a prompt: logits of the next token, and the caches.

        Args:
            tokens, mask, n_latents: as for ``forward``.
            state: what came before: then each token is a latent more, as
                one ``step`` after the other would make it.

        Returns:
            (logits, caches): the first layer's of all positions, the others'
            of the latents.

        Raises:
            TypeError, ValueError: as ``forward``; n_latents beside a state.
        """
        if state is not None:
            if n_latents is not None:
                raise ValueError(
                    "n_latents: expected None beside a state, whose latents "
                    f"grow by those of the tokens, got {n_latents}"
                )
            return super().prefill(tokens, state, mask)
        self.check_tokens("tokens", tokens, ("batch", "length"))
        self.check_mask(mask, tokens)
        n = self._latents(n_latents, tokens.shape[1])
        x = self.embedding(tokens)
        first, *others = self.blocks
        with _validate.inner():
            z, cache = first.prefill(x, None, mask, last=n)
            caches = [cache]
            mask = None if mask is None else mask[:, -n:]
            for block in others:
                empty = block.initial_state(len(z), z.device, z.dtype)
                before = empty._replace(dropped=x.shape[1] - n)
                z, cache = block.prefill(z, before, mask)
                caches.append(cache)
        return self.logits(z[:, -1]), caches

    def step(
        self,
        token: Int[Tensor, " batch"],
        state: list[KVCache],
        slide: bool = False,
    ) -> tuple[Float[Tensor, "batch vocab_size"], list[KVCache]]:
        """One token more, from the caches: a latent more.

        The result is that of ``forward`` with all latents since the prompt's
        first, so the number of latents grows. To ``slide`` drops the oldest
        latent from the caches instead, as soon as there are n_latents. That
        is cheaper, and with three layers or more it is *not* what
        ``forward`` computes: the latents that stay have read the one that
        goes.

        Raises:
            ValueError: the tokens are not (batch,) of the vocabulary, the
                state is not one cache for each layer, or ``slide`` with rows
                that are padded.
        """
        self.check_state(state)
        if slide:
            first, *others = state
            state = [first, *(c.newest(self.n_latents - 1) for c in others)]
        return super().step(token, state)

    @torch.no_grad()
    def generate(
        self,
        prompt: Int[Tensor, "batch prompt"],
        n: int,
        temperature: float | int = 1.0,
        seed: int = 0,
        mask: Bool[Tensor, "batch prompt"] | None = None,
        stride: int = 1,
    ) -> Int[Tensor, "batch total"]:
        """Continue a prompt by n tokens, a whole ``prefill`` every stride.

        Args:
            prompt, n, temperature, seed, mask: as ``LanguageModel.generate``.
            stride: tokens that one ``prefill`` serves. It has n_latents −
                stride + 1 latents and each ``step`` after it one more, up to
                n_latents; with a stride of 1 it is ``forward`` each time.

        Returns, Raises: as ``LanguageModel.generate``; ValueError for a
            stride that is not a whole number from 1 to n_latents.
        """
        self.check_tokens("prompt", prompt, ("batch", "length"))
        self.check_mask(mask, prompt)
        n = _validate.count("n", n)
        _validate.number("temperature", temperature, above=0, or_equal=True)
        stride = _validate.count("stride", stride)
        if stride > self.n_latents:
            raise ValueError(
                f"stride: expected at most n_latents = {self.n_latents}, "
                f"got {stride}"
            )
        seed = _validate.seed("seed", seed)
        generator = torch.Generator(prompt.device).manual_seed(seed)
        first = self.n_latents - stride + 1
        with _validate.inner():
            for i in range(n):
                if i % stride == 0:
                    logits, state = self.prefill(prompt, None, mask, first)
                else:
                    logits, state = self.step(prompt[:, -1], state)
                token = self.sample(logits, temperature, generator)[:, None]
                prompt = torch.cat([prompt, token], dim=1)
                if mask is not None:
                    real = torch.ones_like(token, dtype=torch.bool)
                    mask = torch.cat([mask, real], dim=1)
        return prompt

    def _latents(self, n_latents: int | None, length: int) -> int:
        if n_latents is None:
            n_latents = self.n_latents
        return min(_validate.count("n_latents", n_latents), length)
