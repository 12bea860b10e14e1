"""Chapter 03: the decoder block of Llama, and its weights from a folder.

Four changes to the Transformer of 2017: RMS normalisation before each layer,
rotary embeddings for positions, a gated MLP, and keys and values that several
query heads share.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from linear_time import _validate, checkpoints
from linear_time.attention import (
    KVCache,
    attend,
    causal_mask,
    check_divides,
    join_heads,
    split_heads,
)
from linear_time.checkpoints import Setting
from linear_time.mixer import LanguageModel, SequenceMixer


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
        _validate.count("d_model", d_model)
        _validate.number("eps", eps)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Normalise the last dimension; ValueError where it does not fit."""
        if x.shape[-1:] != self.weight.shape:
            raise ValueError(
                f"x: expected shape (…, {len(self.weight)}), "
                f"got {_validate.describe(x)}"
            )
        mean_square = x.square().mean(-1, keepdim=True)
        return self.weight * x * torch.rsqrt(mean_square + self.eps)


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
            float64: in float32, as in Hugging Face's code, an angle near
            t = 10⁶ is off by a few hundredths of a radian.

    Returns:
        (cos, sin), each (length, d_head/2), for ``apply_rotary``.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Su et al. (2021), "RoFormer", equation 15.
    """
    if not isinstance(positions, Tensor) or positions.dtype not in (
        torch.int64,
        torch.int32,
    ):
        raise TypeError(
            "positions: expected an int64 or int32 tensor, "
            f"got {_validate.describe(positions)}"
        )
    if positions.ndim != 1:
        raise ValueError(
            "positions: expected shape (length,), "
            f"got {_validate.describe(positions)}"
        )
    _check_even("d_head", d_head)
    _validate.number("base", base)
    i = torch.arange(d_head // 2, dtype=torch.float64, device=positions.device)
    theta = torch.pow(float(base), -2 * i / d_head)  # (half,)
    angle = torch.outer(positions.double(), theta)  # (length, half)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    return angle.cos().to(dtype), angle.sin().to(dtype)


def apply_rotary(
    x: Float[Tensor, "*batch length d_head"],
    cos: Float[Tensor, "length half"],
    sin: Float[Tensor, "length half"],
) -> Float[Tensor, "*batch length d_head"]:
    """Turn pair i of the head at position t by the angle t θ_i.

    The product of a turned query and a turned key depends on their positions
    through the difference alone. A pair is (x_i, x_{i + d_head/2}), as in
    Hugging Face's Llama; in the paper it is (x_{2i}, x_{2i+1}). The two are
    the same up to a fixed order of the channels, which must be that of the
    weights.

    Args:
        x: queries or keys, (…, length, d_head).
        cos, sin: from ``rotary_embedding``, (length, d_head/2).

    Returns:
        x turned, (…, length, d_head).

    Raises:
        ValueError: the shapes do not fit.

    Source: Su et al. (2021), "RoFormer", equation 34.
    """
    for name, value in (("cos", cos), ("sin", sin)):
        if x.ndim < 2 or 2 * value.shape[-1] != x.shape[-1]:
            wanted = "(…, length, d_head) and cos, sin (length, d_head/2)"
        elif tuple(value.shape) != (x.shape[-2], x.shape[-1] // 2):
            wanted = f"({x.shape[-2]}, {x.shape[-1] // 2})"
        else:
            continue
        raise ValueError(
            f"{name}: expected shape {wanted}, got shape "
            f"{_validate.shape_text(value.shape)} for x of shape "
            f"{_validate.shape_text(x.shape)}"
        )
    left, right = x.chunk(2, dim=-1)  # each (…, length, half)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


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
        _validate.count("d_model", d_model)
        _validate.count("d_ff", d_ff)
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
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
        _validate.count("n_heads", n_heads)
        _validate.count("n_kv_heads", n_kv_heads)
        check_divides("n_kv_heads", n_kv_heads, "n_heads", n_heads)
        if d_head is None:
            check_divides("n_heads", n_heads, "d_model", d_model)
            d_head = d_model // n_heads
        _check_even("d_head", d_head)
        _validate.number("base", base)
        self.n_heads, self.n_kv_heads, self.d_head = n_heads, n_kv_heads, d_head
        self.base = base
        self.query = nn.Linear(d_model, n_heads * d_head, bias=False)
        self.key = nn.Linear(d_model, n_kv_heads * d_head, bias=False)
        self.value = nn.Linear(d_model, n_kv_heads * d_head, bias=False)
        self.out = nn.Linear(n_heads * d_head, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        self.check_input(x)
        q, k, v = self._project(x, first=0)
        return self._read(q, k, v)

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
        q, k, v = self._project(x_t[:, None], first=state.k.shape[2])
        state = state.append(k, v)
        return self._read(q, state.k, state.v)[:, 0], state

    def _project(self, x: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of the positions first, first + 1, …."""
        positions = torch.arange(first, first + x.shape[1], device=x.device)
        cos, sin = rotary_embedding(positions, self.d_head, self.base, x.dtype)
        q = split_heads(self.query(x), self.n_heads)
        k = split_heads(self.key(x), self.n_kv_heads)
        v = split_heads(self.value(x), self.n_kv_heads)
        return apply_rotary(q, cos, sin), apply_rotary(k, cos, sin), v

    def _read(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The attention of whole sequences, or of one query over its past.

        The query heads of a group become further rows of one head, so that
        its keys and values are never repeated in memory.
        """
        length, group = q.shape[2], self.n_heads // self.n_kv_heads
        grouped = q.unflatten(1, (self.n_kv_heads, group)).flatten(2, 3)
        mask = None  # a single query is the last: it reads everything
        if length > 1:
            mask = causal_mask(length, q.device).repeat(group, 1)
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
        self, x: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        self.check_input(x)
        x = x + self.attention(self.attention_norm(x))
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
        arguments = LAYOUT.arguments(config)
        arguments["n_kv_heads"] = (
            arguments["n_kv_heads"] or arguments["n_heads"]
        )
        model = cls(**arguments)
        LAYOUT.load(model, tensors)
        return model


def _check_even(name: str, width: int) -> None:
    _validate.count(name, width)
    if width % 2:
        raise ValueError(
            f"{name}: expected an even number, for pairs to turn, got {width}"
        )


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
