"""Chapter 20: the Mamba-2 block, its language model, and its checkpoints.

``duality`` has the map that it learns the inputs of.
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

from linear_time import _validate, checkpoints, mamba
from linear_time.cost import Cost, cost
from linear_time.duality import (
    Groups,
    Inputs,
    Matrices,
    PerHead,
    add_skip,
    mamba2_cost,
    ssd,
    ssd_step,
)
from linear_time.layer import full, zeros
from linear_time.mamba2_folders import HUGGING_FACE, RELEASED
from linear_time.mixer import SequenceMixer
from linear_time.selective import (
    behind_padding,
    last_inputs,
    skip_padding,
)


class Mamba2State(NamedTuple):
    """What one Mamba-2 layer remembers: a fixed number of numbers."""

    window: Float[Tensor, "batch channels past"]  # past = taps − 1
    S: Matrices


class GatedNorm(nn.Module):
    """y = RMSNorm(x ⊙ SiLU(z)): the gate first, then the norm.

    Each group of channels has a mean square of its own.

    Args:
        d: channels, a multiple of groups.
        groups: of the norm.
        eps: added to the mean square.

    Source: the released code of Mamba-2, ``norm_before_gate=False``.
    """

    def __init__(self, d: int, groups: int = 1, eps: float | int = 1e-5):
        super().__init__()
        self.groups, self.eps = groups, float(eps)
        self.weight = nn.Parameter(torch.ones(d))

    def forward(
        self, x: Float[Tensor, "*batch d"], z: Float[Tensor, "*batch d"]
    ) -> Float[Tensor, "*batch d"]:
        gated = full(x) * functional.silu(full(z))
        parts = gated.unflatten(-1, (self.groups, -1))
        scale = torch.rsqrt(parts.square().mean(-1, keepdim=True) + self.eps)
        return (parts * scale).flatten(-2).to(z.dtype) * self.weight


class Mamba2(SequenceMixer):
    """The mixer of Mamba-2: one map in, heads, and the norm after the gate.

    For x of width d_model, d_inner = expand · d_model = heads · P:

        z, u, B, C, Δ = in_proj x           Δ one number a head,
        u, B, C ← SiLU(conv1d(u, B, C))     causal, each channel on its own,
        y = ssd(u, softplus(Δ + β), A, B, C, D)
        output = out_proj RMSNorm(y ⊙ SiLU(z)).

    The parameters have the names and shapes of the released code. They start
    as there: A = −a, a uniform in [1, 16] a head; D = 1; softplus(β)
    log-uniform between its limits; all else as torch starts it. No weight
    decay acts on A_log, D and β (``mixer.mark_of``). A_log and β stay in
    float32 when the layer is cast to less.

    Args:
        d_model: width of input and output.
        N: width of B and C.
        expand: d_inner / d_model.
        P: channels of a head; divides d_inner.
        groups: of B, C and the norm; divides the heads.
        taps: of the convolution.
        chunk: of ``ssd``: speed and memory, not the result.
        A_min, A_max: where −A starts, uniform between them.
        delta_min, delta_max: Δ starts log-uniform between them.
        delta_floor: and no smaller than this.
        bias: whether ``in_proj`` and ``out_proj`` have one.
        conv_bias: whether the convolution has one.
        eps: of the norm.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Dao & Gu (2024), "Transformers are SSMs", section 7; the start of
        the parameters as in the released code.
    """

    A_log: Tensor
    D: Tensor
    dt_bias: Tensor

    def __init__(
        self,
        d_model: int,
        N: int = 128,
        expand: int = 2,
        P: int = 64,
        groups: int = 1,
        taps: int = 4,
        chunk: int = 64,
        A_min: float | int = 1.0,
        A_max: float | int = 16.0,
        delta_min: float | int = 1e-3,
        delta_max: float | int = 1e-1,
        delta_floor: float | int = 1e-4,
        bias: bool = False,
        conv_bias: bool = True,
        eps: float | int = 1e-5,
    ) -> None:
        super().__init__(d_model)
        self.N = N = _validate.count("N", N)
        self.P = P = _validate.count("P", P)
        self.groups = groups = _validate.count("groups", groups)
        self.taps = _validate.count("taps", taps)
        self.chunk = _validate.count("chunk", chunk)
        d_inner = _validate.count("expand", expand) * self.d_model
        self.d_inner = d_inner
        _divides("P", P, "d_inner", d_inner)
        self.heads = heads = d_inner // P
        _divides("groups", groups, "heads", heads)
        _validate.number("A_min", A_min)
        _validate.number("A_max", A_max)
        _validate.number("eps", eps)
        if A_min > A_max:
            raise ValueError(
                f"A_min: expected at most A_max = {A_max}, got {A_min}"
            )
        mixed = d_inner + 2 * groups * N  # u, B and C
        self.in_proj = nn.Linear(d_model, d_inner + mixed + heads, bias=bias)
        self.conv1d = nn.Conv1d(
            mixed, mixed, self.taps, groups=mixed, bias=conv_bias
        )
        system: Any = {"decay": False, "exact": True}
        a = A_min + (A_max - A_min) * torch.rand(heads)
        self.parameter("A_log", a.log(), **system)
        beta = mamba.delta_bias(heads, delta_min, delta_max, delta_floor)
        self.parameter("dt_bias", beta, **system)
        self.parameter("D", torch.ones(heads), decay=False)
        self.norm = GatedNorm(d_inner, groups, eps)
        self.out_proj = nn.Linear(d_inner, d_model, bias=bias)

    @property
    def A(self) -> PerHead:
        """−exp(A_log) < 0: stable whatever is learned."""
        return -self.A_log.exp()

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Mamba2State | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], Mamba2State]:
        """All positions at once, and the state after the last.

        Args, Returns, Raises: as ``SequenceMixer.prefill``.
        """
        self.check_input(x)
        self.check_mask(mask, x)
        if state is None:
            state = self.initial_state(len(x), x.device, x.dtype)
        self._check_state(state, len(x))
        z, mixed, delta = self.project(x)
        window = torch.cat([state.window.to(mixed.dtype), mixed.mT], dim=2)
        if mask is not None:
            window = behind_padding(window, mask, self.taps - 1)
        u, B, C = self.convolve(window)
        delta = skip_padding(full(delta) + self.dt_bias, mask)
        with _validate.inner():
            y, S = ssd(
                u,
                functional.softplus(delta),
                self.A,
                B,
                C,
                self.D,
                True,
                initial_state=state.S,
                chunk=self.chunk,
            )
        past = last_inputs(window, state.window)
        y = self.norm(y.flatten(2), z)
        return self.out_proj(y), Mamba2State(past, S)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Mamba2State:
        """Zeros: nothing convolved yet, and S = 0."""
        like: Any = {"device": device, "dtype": dtype}
        past = (self.conv1d.in_channels, self.taps - 1)
        sizes = (self.heads, self.P, self.N)
        return Mamba2State(
            zeros(self.D, batch_size, *past, **like),
            zeros(self.D, batch_size, *sizes, **like),
        )

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: Mamba2State
    ) -> tuple[Float[Tensor, "batch d_model"], Mamba2State]:
        self.check_input(x_t, "x_t")
        self._check_state(state, len(x_t))
        z, mixed, delta = self.project(x_t)
        window = torch.cat([state.window, mixed[..., None]], dim=2)
        u, B, C = self.convolve(window.to(mixed.dtype))  # of length 1
        delta = functional.softplus(full(delta) + self.dt_bias)
        y, S = ssd_step(u[:, 0], delta, self.A, B[:, 0], C[:, 0], state.S)
        y = add_skip(y, u[:, 0], self.D)
        y = self.norm(y.flatten(1), z)
        return self.out_proj(y), Mamba2State(window[..., 1:].clone(), S)

    def project(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[
        Float[Tensor, "*batch d_inner"],
        Float[Tensor, "*batch channels"],
        Float[Tensor, "*batch heads"],
    ]:
        """z, what is convolved (u, B and C), and Δ before its bias."""
        sizes = [self.d_inner, self.conv1d.in_channels, self.heads]
        z, mixed, delta = self.in_proj(x).split(sizes, dim=-1)
        return z, mixed, delta

    def convolve(
        self, window: Float[Tensor, "batch channels long"]
    ) -> tuple[Inputs, Groups, Groups]:
        """u, B and C of each step: long = taps − 1 + length."""
        mixed = functional.silu(self.conv1d(window)).mT
        width = self.groups * self.N
        u, B, C = mixed.split([self.d_inner, width, width], dim=-1)
        return (
            u.unflatten(-1, (self.heads, self.P)),
            B.unflatten(-1, (self.groups, self.N)),
            C.unflatten(-1, (self.groups, self.N)),
        )

    def _check_state(self, state: Mamba2State, batch: int) -> None:
        past = (self.conv1d.in_channels, self.taps - 1)
        for name, sizes in (
            ("window", past),
            ("S", (self.heads, self.P, self.N)),
        ):
            value = getattr(state, name, state)
            _validate.state(f"state.{name}", value, batch, *sizes)


def _divides(name: str, value: int, of: str, whole: int) -> None:
    if whole % value:
        raise ValueError(
            f"{name}: expected a divisor of {of} = {whole}, got {value}"
        )


@dataclass(frozen=True, kw_only=True)
class Mamba2Config:
    """The settings of a language model; those of a layer as for ``Mamba2``."""

    vocab_size: int  # number of tokens
    d_model: int  # width of the blocks
    n_layer: int  # number of blocks
    N: int = 128
    expand: int = 2
    P: int = 64
    groups: int = 1
    taps: int = 4
    chunk: int = 64
    A_min: float | int = 1.0
    A_max: float | int = 16.0
    delta_min: float | int = 1e-3
    delta_max: float | int = 1e-1
    delta_floor: float | int = 1e-4
    bias: bool = False
    conv_bias: bool = True
    eps: float | int = 1e-5  # of all norms
    tied: bool = True  # whether the embedding is the head as well
    rows: int | None = None  # of the embedding, ≥ vocab_size; None: as many

    def mixer(self) -> Mamba2:
        """One layer with these settings."""
        names = inspect.signature(Mamba2).parameters
        return Mamba2(**{name: getattr(self, name) for name in names})


class Mamba2LM(mamba.MambaLM):
    """Mamba-2 as a language model: ``MambaLM`` with another mixer.

    Args:
        config: the settings.

    Raises:
        TypeError, ValueError: a setting is out of its range.

    Source: Dao & Gu (2024), "Transformers are SSMs"; the released code's
        model and start.
    """

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Mamba2LM":
        """The model in a folder, of the released code or of Hugging Face.

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
        limit = arguments.pop("limit")
        if limit not in (None, *_UNLIMITED):
            raise ValueError(
                f"config.json: expected {found.layout.settings['limit'].name} "
                f"= [0, infinity], the only one supported, got {limit!r}"
            )
        heads = arguments.pop("heads", None)
        d_inner = arguments["expand"] * arguments["d_model"]
        if heads is not None and heads * arguments["P"] != d_inner:
            raise ValueError(
                f"config.json: expected num_heads · head_dim = expand · "
                f"hidden_size = {d_inner}, got {heads} · {arguments['P']}"
            )
        model = cls(Mamba2Config(**arguments))
        found.layout.load(model, found.tensors)
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Leave a folder of Hugging Face, as ``from_pretrained`` reads it.

        transformers' ``Mamba2ForCausalLM`` loads it. The configuration of
        flash-linear-attention has the same names but one, ``norm_eps``, which
        is written as well.

        Args:
            folder: as for ``checkpoints.Layout.write``.
        """
        known = vars(self.config)
        arguments = {k: known[k] for k in HUGGING_FACE.settings if k in known}
        arguments["vocab_size"] = len(self.embedding.weight)
        arguments["heads"] = self.blocks[0].mixer.heads
        HUGGING_FACE.write(
            folder,
            self,
            arguments,
            architectures=["Mamba2ForCausalLM"],
            norm_eps=self.config.eps,
        )


# Of Δ: JSON has no infinity, and writers differ in what they put in its place.
_UNLIMITED = [[0, math.inf], [0, {"__float__": "Infinity"}], [0, "Infinity"]]


@cost.register(Mamba2)
def _mamba2(layer: Mamba2, length: int) -> Cost:
    made = mamba2_cost(
        length,
        layer.d_model,
        layer.N,
        layer.d_inner // layer.d_model,
        layer.P,
        layer.groups,
        layer.taps,
        layer.chunk,
    )
    biases = 0  # the formula has that of the convolution, and no other
    if layer.conv1d.bias is None:
        biases -= layer.conv1d.in_channels
    if layer.in_proj.bias is not None:
        biases += layer.in_proj.out_features + layer.d_model
    return made._replace(parameters=made.parameters + biases)
