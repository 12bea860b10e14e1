"""Chapter 03: the decoder block of Llama, and its weights from a folder.

Four changes to the Transformer of 2017: RMS normalisation before each layer,
rotary embeddings for positions, a gated MLP, and keys and values that several
query heads share.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from linear_time import _validate, checkpoints
from linear_time.attention import (
    attend,
    check_divides,
    join_heads,
    split_heads,
)
from linear_time.cache import KVCache, readable
from linear_time.checkpoints import Setting
from linear_time.layer import full
from linear_time.mixer import LanguageModel, SequenceMixer
from linear_time.rotary import (  # noqa: F401
    apply_rotary,
    check_even,
    rotary_embedding,
    rotary_table,
)


class RMSNorm(nn.Module):
    """y = g ⊙ x / √(mean(x²) + ε): the scale of x is lost, not its mean.

    Args:
        d_model: width.
        eps: ε, a finite number > 0.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Zhang & Sennrich (2019), "Root Mean Square Layer Normalization",
        equation 4; ε, which the paper leaves out, keeps x = 0 finite.
    """

    def __init__(self, d_model: int, eps: float | int = 1e-5) -> None:
        super().__init__()
        d_model = _validate.count("d_model", d_model)
        _validate.number("eps", eps)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Normalise the last dimension; ValueError where it does not fit."""
        _validate.width("x", x, len(self.weight))
        z = full(x)  # in float16 the square of 300 is infinite
        mean_square = z.square().mean(-1, keepdim=True)
        y = self.weight * z * torch.rsqrt(mean_square + self.eps)
        return y.to(x.dtype)


class SwiGLU(nn.Module):
    """The gated MLP: W_down (silu(W_gate x) ⊙ W_up x), without biases.

    Args:
        d_model: width of input and output.
        d_ff: width inside.

    Raises:
        TypeError, ValueError: a width is not a whole number ≥ 1.

    Source: Shazeer (2020), "GLU Variants Improve Transformer", equation 6.
    """

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        d_model = _validate.count("d_model", d_model)
        d_ff = _validate.count("d_ff", d_ff)
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """The MLP at every position; ValueError where x does not fit."""
        _validate.width("x", x, self.gate.in_features)
        y: Tensor = self.down(nn.functional.silu(self.gate(x)) * self.up(x))
        return y


class GroupedQueryAttention(SequenceMixer):
    """Causal attention with rotary positions and shared keys and values.

    Each of the n_kv_heads keys and values serves n_heads / n_kv_heads
    consecutive query heads, which divides the KV cache by that number.
    n_kv_heads = n_heads is multi-head attention, 1 is multi-query attention.

    Args:
        d_model: width.
        n_heads: number of query heads.
        n_kv_heads: number of key and value heads, a divisor of n_heads.
        base: of the rotary frequencies.
        d_head: width of a head, even; None: d_model / n_heads.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Ainslie et al. (2023), "GQA", section 2.2.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        base: float | int = 10_000.0,
        d_head: int | None = None,
    ) -> None:
        super().__init__(d_model)
        d_model = self.d_model
        n_heads = _validate.count("n_heads", n_heads)
        n_kv_heads = _validate.count("n_kv_heads", n_kv_heads)
        check_divides("n_kv_heads", n_kv_heads, "n_heads", n_heads)
        if d_head is None:
            check_divides("n_heads", n_heads, "d_model", d_model)
            d_head = d_model // n_heads
        d_head = check_even("d_head", d_head)
        _validate.number("base", base)
        self.n_heads, self.n_kv_heads, self.d_head = n_heads, n_kv_heads, d_head
        self.base = base
        self.query = nn.Linear(d_model, n_heads * d_head, bias=False)
        self.key = nn.Linear(d_model, n_kv_heads * d_head, bias=False)
        self.value = nn.Linear(d_model, n_kv_heads * d_head, bias=False)
        self.out = nn.Linear(n_heads * d_head, d_model, bias=False)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        mask: Bool[Tensor, "batch length"] | None = None,
        last: int | None = None,
        causal: bool = True,
    ) -> Float[Tensor, "batch queries d_model"]:
        """All positions at once, or the last ones, which read them all.

        Args:
            x: (batch, length, d_model).
            mask: False where a shorter row is padded at its left. Padding is
                not read, and positions are counted without it.
            last: how many positions ask, (batch, last, d_model); all if None.
            causal: whether a position reads only what is not after it.

        Raises:
            TypeError, ValueError: an argument is not as above.
        """
        self.check_input(x)
        self.check_mask(mask, x)
        return self._mix(x, None, mask, last, causal)[0]

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """An empty cache; it will hold keys that are turned already."""
        weight = self.key.weight
        return KVCache.empty(
            batch_size,
            self.n_kv_heads,
            self.d_head,
            weight.device if device is None else device,
            weight.dtype if dtype is None else dtype,
        )

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: KVCache
    ) -> tuple[Float[Tensor, "batch d_model"], KVCache]:
        self.check_input(x_t, "x_t")
        y, state = self._mix(x_t[:, None], state)
        return y[:, 0], state

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: KVCache | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
        last: int | None = None,
    ) -> tuple[Float[Tensor, "batch queries d_model"], KVCache]:
        """A prompt at once, and the cache after it; ``last`` as ``forward``."""
        self.check_input(x)
        self.check_mask(mask, x)
        return self._mix(x, state, mask, last)

    def _mix(
        self,
        x: Tensor,
        state: KVCache | None,
        mask: Tensor | None = None,
        last: int | None = None,
        causal: bool = True,
    ) -> tuple[Tensor, KVCache]:
        """Read x, and what the state holds of before, at the last of x."""
        length = x.shape[1]
        n = length if last is None else _check_last(last, length)
        cos, sin = self._turns(x, state, mask)
        k = split_heads(self.key(x), self.n_kv_heads)
        k = apply_rotary(k, cos, sin)
        v = split_heads(self.value(x), self.n_kv_heads)
        q = split_heads(self.query(x[:, length - n :]), self.n_heads)
        q = apply_rotary(
            q, cos[..., length - n :, :], sin[..., length - n :, :]
        )
        if state is None:
            state = KVCache(k, v, mask)
        else:
            state = state.append(k, v, mask)
        return self._read(
            q, state.k, state.v, readable(n, state, causal)
        ), state

    def _turns(
        self, x: Tensor, state: KVCache | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """cos and sin at the positions of x, (length, half).

        Or (batch, 1, length, half) where rows are padded: the positions of a
        row then count its real tokens only.
        """
        past = 0 if state is None else state.dropped + state.k.shape[2]
        end = past + x.shape[1]
        dtype = torch.promote_types(x.dtype, torch.float32)
        cos, sin = rotary_table(end, self.d_head, self.base, x.device, dtype)
        if mask is None and (state is None or state.mask is None):
            return cos[past:end], sin[past:end]
        first: int | Tensor = 0 if state is None else state.position
        if isinstance(first, Tensor):
            first = first[:, None]
        if mask is None:
            mask = x.new_ones(x.shape[:2], dtype=torch.bool)
        at = (first + mask.cumsum(1) - 1).clamp(min=0)  # (batch, length)
        return cos[at][:, None], sin[at][:, None]

    def _read(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        """The attention of some queries to all keys.

        The query heads of a group become further rows of one head, so that
        its keys and values are never repeated in memory.
        """
        length, group = q.shape[2], self.n_heads // self.n_kv_heads
        grouped = q.unflatten(1, (self.n_kv_heads, group)).flatten(2, 3)
        if mask is not None and mask.shape[-2] > 1:  # a row for each query
            mask = mask.repeat(*[1] * (mask.ndim - 2), group, 1)
        y = attend(grouped, k, v, mask)  # (batch, kv, group · length, d_head)
        y = y.unflatten(2, (group, length)).flatten(1, 2)
        out: Tensor = self.out(join_heads(y))
        return out


class LlamaBlock(SequenceMixer):
    """Two residuals: x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        d_model: width.
        n_heads: number of query heads.
        n_kv_heads: number of key and value heads.
        d_ff: width inside the MLP.
        base: of the rotary frequencies.
        eps: of the two norms.
        d_head: width of a head; None: d_model / n_heads.

    Raises:
        TypeError, ValueError: as its parts.

    Source: Touvron et al. (2023), "LLaMA", section 2.2.
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        d_ff: int,
        base: float | int = 10_000.0,
        eps: float | int = 1e-5,
        d_head: int | None = None,
    ) -> None:
        super().__init__(d_model)
        self.attention_norm = RMSNorm(d_model, eps)
        self.attention = GroupedQueryAttention(
            d_model, n_heads, n_kv_heads, base, d_head
        )
        self.mlp_norm = RMSNorm(d_model, eps)
        self.mlp = SwiGLU(d_model, d_ff)

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        mask: Bool[Tensor, "batch length"] | None = None,
        last: int | None = None,
        causal: bool = True,
    ) -> Float[Tensor, "batch queries d_model"]:
        """All positions, or the last ones: arguments as of the attention."""
        self.check_input(x)
        self.check_mask(mask, x)
        with _validate.inner():
            y = self.attention(self.attention_norm(x), mask, last, causal)
        x = x[:, x.shape[1] - y.shape[1] :] + y
        return x + self.mlp(self.mlp_norm(x))

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """The cache of the attention; the MLP remembers nothing."""
        return self.attention.initial_state(batch_size, device, dtype)

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: KVCache
    ) -> tuple[Float[Tensor, "batch d_model"], KVCache]:
        self.check_input(x_t, "x_t")
        y_t, state = self.attention.step(self.attention_norm(x_t), state)
        x_t = x_t + y_t
        return x_t + self.mlp(self.mlp_norm(x_t)), state

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: KVCache | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
        last: int | None = None,
    ) -> tuple[Float[Tensor, "batch queries d_model"], KVCache]:
        """A prompt at once, and the cache after it; ``last`` as ``forward``."""
        self.check_input(x)
        self.check_mask(mask, x)
        with _validate.inner():
            normed = self.attention_norm(x)
            y, state = self.attention.prefill(normed, state, mask, last)
        x = x[:, x.shape[1] - y.shape[1] :] + y
        return x + self.mlp(self.mlp_norm(x)), state


class LlamaLM(LanguageModel):
    """A language model of Llama blocks, in the frame of chapter 15.

    Args:
        vocab_size: number of tokens.
        d_model: width.
        n_layer: number of blocks.
        tied: whether the embedding is the head as well; else the head is a
            matrix of its own, (vocab_size, d_model).
        eps: of all norms.
        block: the other arguments of ``LlamaBlock``.

    Raises:
        TypeError, ValueError: as ``LanguageModel`` and ``LlamaBlock``.

    Source: Touvron et al. (2023), "LLaMA", section 2.2.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_layer: int,
        tied: bool = True,
        eps: float | int = 1e-5,
        **block: Any,
    ) -> None:
        super().__init__(
            lambda: LlamaBlock(d_model, eps=eps, **block),
            vocab_size,
            d_model,
            n_layer,
            tied,
            eps,
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LlamaLM":
        """The model in a folder that Hugging Face's Llama was saved to.

        Args:
            folder: with ``config.json`` and ``model.safetensors``, as
                ``checkpoints.read`` takes it.

        Returns:
            The model, in float32 on the CPU.

        Raises:
            FileNotFoundError, ValueError: as ``checkpoints.read`` and
                ``checkpoints.load``; also settings that this model does not
                have, such as scaled rotary frequencies.
        """
        config, tensors = checkpoints.read(folder)
        arguments = LAYOUT.arguments(config, tensors)
        arguments["n_kv_heads"] = (
            arguments["n_kv_heads"] or arguments["n_heads"]
        )
        model = cls(**arguments)
        LAYOUT.load(model, tensors)
        return model


def _check_last(last: int, length: int) -> int:
    last = _validate.count("last", last)
    if last > length:
        raise ValueError(
            f"last: expected at most the length, {length}, got {last}"
        )
    return last


_NUMBER = (int, float)

#: Folders of Hugging Face's Llama. Since version 5 its rotary settings stand
#: in an object of their own.
LAYOUT = checkpoints.Layout(
    model_type="llama",
    settings={
        "vocab_size": Setting("vocab_size", int),
        "d_model": Setting("hidden_size", int),
        "n_layer": Setting("num_hidden_layers", int),
        "tied": Setting("tie_word_embeddings", bool, False),
        "eps": Setting("rms_norm_eps", _NUMBER, 1e-6),
        "n_heads": Setting("num_attention_heads", int),
        "n_kv_heads": Setting("num_key_value_heads", int, None),
        "d_ff": Setting("intermediate_size", int),
        "base": Setting("rope_theta", _NUMBER, 10_000.0, "rope_parameters"),
        "d_head": Setting("head_dim", int, None),
    },
    only={
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": None,
        "rope_type": "default",
        "quantization_config": None,
        "partial_rotary_factor": 1,
        "sliding_window": None,
    },
    keys={
        "embedding": "model.embed_tokens",
        "norm": "model.norm",
        "head": "lm_head",
        "blocks.*.attention_norm": "model.layers.*.input_layernorm",
        "blocks.*.mlp_norm": "model.layers.*.post_attention_layernorm",
        "blocks.*.attention.query": "model.layers.*.self_attn.q_proj",
        "blocks.*.attention.key": "model.layers.*.self_attn.k_proj",
        "blocks.*.attention.value": "model.layers.*.self_attn.v_proj",
        "blocks.*.attention.out": "model.layers.*.self_attn.o_proj",
        "blocks.*.mlp.gate": "model.layers.*.mlp.gate_proj",
        "blocks.*.mlp.up": "model.layers.*.mlp.up_proj",
        "blocks.*.mlp.down": "model.layers.*.mlp.down_proj",
    },
    same=("model.embed_tokens.weight", "lm_head.weight"),
    derived=("rotary_emb.inv_freq",),  # the angles, in old files
)
