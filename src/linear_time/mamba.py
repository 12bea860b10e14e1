"""Chapter 18: the Mamba block, its language model, and its checkpoints.

For an input x of width d_model, and d_inner = expand · d_model channels:

    u, z = in_proj x                          two halves of d_inner channels,
    u ← SiLU(conv1d u)                        causal, each channel on its own,
    Δ, B, C = select u                        the only place of selection,
    h_t = exp(Δ_t A) ⊙ h_{t−1} + Δ_t B_t u_t,
    y = out_proj((C h + D ⊙ u) ⊙ SiLU(z)).

All that it carries from step to step is h, (d_inner, N), and the last inputs
of the convolution, (d_inner, taps − 1).
"""

import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from linear_time import _validate, checkpoints, cost, mamba_triton
from linear_time.checkpoints import Setting
from linear_time.layer import (
    Layer,
    full,
    inverse_softplus,
    log_uniform,
    zeros,
)
from linear_time.mixer import LanguageModel, Residual, SequenceMixer
from linear_time.selective import (
    behind_padding,
    last_inputs,
    next_state,
    read_state,
    selective_scan,
    skip_padding,
)


class MambaState(NamedTuple):
    """What one Mamba layer remembers: a fixed number of numbers."""

    window: Float[Tensor, "batch d_inner past"]  # past = taps − 1
    h: Float[Tensor, "batch d_inner N"]


class Mamba(SequenceMixer):
    """The mixer of Mamba: convolution, selection and gate in one layer.

    The parameters have the names and shapes of the released code. They start
    as there: A_n = −n; D = 1; Δ log-uniform between its limits, through the
    bias of ``dt_proj``, whose weight is uniform in ±1/√rank; all else as
    torch starts it. No weight decay acts on A_log and D (``mixer.mark_of``).
    A_log and the bias of Δ stay in float32 when the layer is cast to less.

    Args:
        d_model: width of input and output.
        N: state size of each channel.
        expand: d_inner / d_model.
        taps: of the convolution.
        rank: of the map from u to Δ; ⌈d_model/16⌉ if None.
        delta_min, delta_max: Δ starts log-uniform between them.
        delta_floor: and no smaller than this.
        bias: whether ``in_proj`` and ``out_proj`` have one.
        conv_bias: whether the convolution has one.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Gu & Dao (2023), "Mamba", section 3.4; the start of the
        parameters as in the released code.
    """

    A_log: Tensor
    D: Tensor

    def __init__(
        self,
        d_model: int,
        N: int = 16,
        expand: int = 2,
        taps: int = 4,
        rank: int | None = None,
        delta_min: float | int = 1e-3,
        delta_max: float | int = 1e-1,
        delta_floor: float | int = 1e-4,
        bias: bool = False,
        conv_bias: bool = True,
    ) -> None:
        super().__init__(d_model)
        self.N = _validate.count("N", N)
        self.taps = _validate.count("taps", taps)
        rank = math.ceil(self.d_model / 16) if rank is None else rank
        self.rank = rank = _validate.count("rank", rank)
        expand = _validate.count("expand", expand)
        self.d_inner = d_inner = expand * self.d_model
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=bias)
        self.conv1d = nn.Conv1d(
            d_inner, d_inner, self.taps, groups=d_inner, bias=conv_bias
        )
        self.x_proj = nn.Linear(d_inner, rank + 2 * self.N, bias=False)
        self.dt_proj = _StepMap(rank, d_inner)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        self.dt_proj.bias.data = delta_bias(
            d_inner, delta_min, delta_max, delta_floor
        )
        n = torch.arange(1, self.N + 1).to(torch.get_default_dtype())
        self.parameter(
            "A_log", n.log().repeat(d_inner, 1), decay=False, exact=True
        )
        self.parameter("D", torch.ones(d_inner), decay=False)
        self.out_proj = nn.Linear(d_inner, d_model, bias=bias)

    @property
    def A(self) -> Float[Tensor, "d_inner N"]:
        """−exp(A_log) < 0: stable whatever is learned."""
        return -self.A_log.exp()

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: MambaState | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], MambaState]:
        """All positions at once, and the state after the last.

        Args, Returns, Raises: as ``SequenceMixer.prefill``.
        """
        self.check_input(x)
        self.check_mask(mask, x)
        if state is None:
            state = self.initial_state(len(x), x.device, x.dtype)
        self._check_state(state, len(x))
        # (batch, d_inner, length) each, channels side by side
        u, z = (half.mT for half in self.in_proj(x).chunk(2, dim=-1))
        past = state.window.to(u.dtype)
        # A subclass may convolve otherwise.
        own = mask is None and type(self).convolve is Mamba.convolve
        if own and mamba_triton.convolves(u, past, self.conv1d):
            inputs, conv = u[..., 1 - self.taps :], self.conv1d
            u = mamba_triton.convolve(u, past, conv.weight, conv.bias)
            window = torch.cat([past, inputs], dim=2)
        else:
            window = torch.cat([past, u], dim=2)
            if mask is not None:
                window = behind_padding(window, mask, self.taps - 1)
            u = functional.silu(self.convolve(window))
        delta, B, C = self.choose(u.mT)
        delta = skip_padding(delta, mask)
        with _validate.inner():
            y, h = selective_scan(
                u,
                delta.mT,
                self.A,
                B.mT,
                C.mT,
                self.D,
                z,
                delta_bias=self.dt_proj.bias,
                delta_softplus=True,
                return_last_state=True,
                initial_state=state.h,
            )
        past = last_inputs(window, state.window)
        return self.out_proj(y.mT), MambaState(past, h)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> MambaState:
        """Zeros: nothing convolved yet, and h = 0."""
        window, h = (
            zeros(
                self.D, batch_size, self.d_inner, n, device=device, dtype=dtype
            )
            for n in (self.taps - 1, self.N)
        )
        return MambaState(window, h)

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: MambaState
    ) -> tuple[Float[Tensor, "batch d_model"], MambaState]:
        self.check_input(x_t, "x_t")
        self._check_state(state, len(x_t))
        u, z = self.in_proj(x_t).chunk(2, dim=-1)  # (batch, d_inner)
        own = type(self).convolve is Mamba.convolve
        if own and mamba_triton.steps(self, u, state):
            y, *after = mamba_triton.step(self, u, z, state)
            return self.out_proj(y), MambaState(*after)
        window = torch.cat([state.window, u[..., None]], dim=2)
        u = functional.silu(self.convolve(window.to(u.dtype))[..., 0])
        delta, B, C = self.select(u)
        h = next_state(state.h, u, delta, self.A, B, "exponential_euler")
        y = read_state(h, u, C, self.D) * functional.silu(full(z))
        mixed: Tensor = self.out_proj(y.to(u.dtype))
        return mixed, MambaState(window[..., 1:].clone(), h)

    def convolve(
        self, window: Float[Tensor, "batch d_inner long"]
    ) -> Float[Tensor, "batch d_inner length"]:
        """Each channel with its own taps: long = taps − 1 + length."""
        convolved: Tensor = self.conv1d(window)
        return convolved

    def select(
        self, u: Float[Tensor, "*batch d_inner"]
    ) -> tuple[
        Float[Tensor, "*batch d_inner"],
        Float[Tensor, "*batch N"],
        Float[Tensor, "*batch N"],
    ]:
        """(Δ, B, C) for inputs u, (…, d_inner)."""
        delta, B, C = self.choose(u)
        return functional.softplus(full(delta) + self.dt_proj.bias), B, C

    def choose(
        self, u: Float[Tensor, "*batch d_inner"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``select``, but Δ before bias and softplus: the scan's work."""
        down, B, C = self.x_proj(u).split([self.rank, self.N, self.N], dim=-1)
        return functional.linear(down, self.dt_proj.weight), B, C

    def _check_state(self, state: MambaState, batch: int) -> None:
        for name, n in (("window", self.taps - 1), ("h", self.N)):
            value = getattr(state, name, state)
            _validate.state(f"state.{name}", value, batch, self.d_inner, n)


class _StepMap(nn.Linear, Layer):
    """The map to Δ, whose bias is never below float32."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out)
        self.exact = frozenset({"bias"})


def delta_bias(
    d_inner: int,
    delta_min: float | int = 1e-3,
    delta_max: float | int = 1e-1,
    delta_floor: float | int = 1e-4,
) -> Float[Tensor, " d_inner"]:
    """β with softplus(β) = Δ, for Δ log-uniform between two limits.

    β = log(exp(Δ) − 1) = Δ + log(1 − exp(−Δ)): the first form loses the
    digits of a small Δ, the second does not.

    Args:
        d_inner: how many.
        delta_min, delta_max: the limits, 0 < delta_min ≤ delta_max.
        delta_floor: the smallest Δ taken, wherever the limits are.

    Raises:
        TypeError, ValueError: an argument is not as above.

    Source: Gu & Dao (2023), "Mamba", section 3.6; the released code.
    """
    d_inner = _validate.count("d_inner", d_inner)
    _validate.number("delta_floor", delta_floor)
    delta = log_uniform("delta", delta_min, delta_max, d_inner).exp()
    return inverse_softplus(delta.clamp(min=delta_floor))


@dataclass(frozen=True, kw_only=True)
class MambaConfig:
    """The settings of a language model; those of a layer as for ``Mamba``."""

    vocab_size: int  # number of tokens
    d_model: int  # width of the blocks
    n_layer: int  # number of blocks
    N: int = 16
    expand: int = 2
    taps: int = 4
    rank: int | None = None
    delta_min: float | int = 1e-3
    delta_max: float | int = 1e-1
    delta_floor: float | int = 1e-4
    bias: bool = False
    conv_bias: bool = True
    eps: float | int = 1e-5  # of the norms
    tied: bool = True  # whether the embedding is the head as well
    rows: int | None = None  # of the embedding, ≥ vocab_size; None: as many

    def mixer(self) -> Mamba:
        """One layer with these settings."""
        names = inspect.signature(Mamba).parameters
        return Mamba(**{name: getattr(self, name) for name in names})


class MambaLM(LanguageModel):
    """Mamba as a language model: embedding, blocks x + mixer(norm(x)), head.

    The head is the embedding, unless the settings say otherwise. Each block
    adds to the residual, so the last map of every block, ``out_proj``, starts
    1/√n_layer as large: then the sum of all blocks is as large as one's.

    Args:
        config: the settings.

    Raises:
        TypeError, ValueError: a setting is out of its range.

    Source: Gu & Dao (2023), "Mamba"; the released code's model and start.
    """

    def __init__(self, config: Any) -> None:
        def block() -> Residual:
            norm = nn.RMSNorm(config.d_model, eps=float(config.eps))
            return Residual(config.mixer(), norm)

        super().__init__(
            block,
            config.vocab_size,
            config.d_model,
            config.n_layer,
            tied=config.tied,
            eps=config.eps,
            rows=config.rows,
        )
        self.config = config
        for one in self.blocks:
            one.mixer.out_proj.weight.data /= math.sqrt(config.n_layer)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "MambaLM":
        """The model in a folder, of the released code or of Hugging Face.

        The two name one tensor differently, and all settings.

        Args:
            folder: with ``config.json`` and ``model.safetensors``, as
                ``checkpoints.read`` takes it.

        Returns:
            The model, in float32 on the CPU.

        Raises:
            FileNotFoundError, ValueError: as ``checkpoints.read`` and
                ``checkpoints.load``; also settings that this model does not
                have.
        """
        found = checkpoints.read_either(folder, RELEASED, HUGGING_FACE)
        arguments = found.arguments
        if isinstance(arguments["rank"], str):
            if arguments["rank"] != "auto":
                name = found.layout.settings["rank"].name
                raise ValueError(
                    f"config.json: expected {name} to be a number or 'auto', "
                    f"got {arguments['rank']!r}"
                )
            arguments["rank"] = None
        model = cls(MambaConfig(**arguments))
        found.layout.load(model, found.tensors)
        return model


_NUMBER = (int, float)
# A writer may store the tied matrix under its name as the head's too, or
# alone; early folders of Hugging Face have the released name of it.
_EMBEDDING, _EMBEDDINGS = "backbone.embedding", "backbone.embeddings"
_HEAD = "lm_head.weight"

#: Folders of Hugging Face's Mamba.
HUGGING_FACE = checkpoints.Layout(
    model_type="mamba",
    settings={
        "vocab_size": Setting("vocab_size", int),
        "d_model": Setting("hidden_size", int),
        "n_layer": Setting("num_hidden_layers", int),
        "N": Setting("state_size", int, 16),
        "expand": Setting("expand", int, 2),
        "taps": Setting("conv_kernel", int, 4),
        "rank": Setting("time_step_rank", (int, str), "auto"),
        "bias": Setting("use_bias", bool, False),
        "conv_bias": Setting("use_conv_bias", bool, True),
        "eps": Setting("layer_norm_epsilon", _NUMBER, 1e-5),
    },
    only={
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "quantization_config": None,
    },
    keys={
        "embedding": _EMBEDDINGS,
        "norm": "backbone.norm_f",
        "blocks.*": "backbone.layers.*",
    },
    same=(f"{_EMBEDDINGS}.weight", f"{_EMBEDDING}.weight", _HEAD),
)

#: Folders of the released code; its names of a tensor within a layer are ours.
RELEASED = checkpoints.Layout(
    settings={
        "vocab_size": Setting("vocab_size", int),
        "fill": Setting("pad_vocab_size_multiple", int, 8),
        "d_model": Setting("d_model", int),
        "n_layer": Setting("n_layer", int),
        "N": Setting("d_state", int, 16, "ssm_cfg"),
        "expand": Setting("expand", int, 2, "ssm_cfg"),
        "taps": Setting("d_conv", int, 4, "ssm_cfg"),
        "rank": Setting("dt_rank", (int, str), "auto", "ssm_cfg"),
        "bias": Setting("bias", bool, False, "ssm_cfg"),
        "conv_bias": Setting("conv_bias", bool, True, "ssm_cfg"),
        "eps": Setting("norm_epsilon", _NUMBER, 1e-5),
    },
    only={
        "layer": "Mamba1",
        "rms_norm": True,
        "tie_embeddings": True,
        "d_intermediate": 0,
        "attn_layer_idx": [],
    },
    keys={**HUGGING_FACE.keys, "embedding": _EMBEDDING},
    same=(f"{_EMBEDDING}.weight", f"{_EMBEDDINGS}.weight", _HEAD),
)


cost.cost.register(Mamba, cost.cost_of_mamba)
