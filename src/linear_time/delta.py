"""Chapter 21: DeltaNet and gated DeltaNet, layers of the delta rule.

``delta_rule`` has the map that they learn the inputs of.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from linear_time import _validate, mamba
from linear_time.cost import Cost, cost
from linear_time.delta_rule import delta_cost, delta_rule, delta_step
from linear_time.layer import full, zeros
from linear_time.mixer import SequenceMixer
from linear_time.recurrences import Keys, States, Values
from linear_time.selective import behind_padding, last_inputs


class DeltaState(NamedTuple):
    """What one layer remembers: a fixed number of numbers."""

    window: Float[Tensor, "batch channels past"]  # past = taps − 1
    S: States


class HeadNorm(nn.Module):
    """RMSNorm of a head's output, and then, where there is one, a gate.

    y = x / √(mean x² + ε) ⊙ weight ⊙ SiLU(z): the norm first, as in the
    released code of gated DeltaNet; Mamba-2's ``GatedNorm`` has the gate
    first.

    Args:
        d: width of a head.
        eps: added to the mean square.
    """

    def __init__(self, d: int, eps: float | int = 1e-6) -> None:
        super().__init__()
        self.eps = float(eps)
        self.weight = nn.Parameter(torch.ones(d))

    def forward(
        self,
        x: Float[Tensor, "*batch d"],
        z: Float[Tensor, "*batch d"] | None = None,
    ) -> Float[Tensor, "*batch d"]:
        dtype, x = x.dtype, full(x)
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        y = x * scale * full(self.weight)
        if z is not None:
            y = y * functional.silu(full(z))
        return y.to(dtype)


class _DeltaRule(SequenceMixer):
    """What DeltaNet and gated DeltaNet have in common."""

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_key: int,
        d_value: int,
        key_heads: int | None,
        taps: int,
        chunk: int,
        reflect: bool,
        eps: float | int,
    ) -> None:
        super().__init__(d_model)
        self.heads = heads = _validate.count("heads", heads)
        self.d_key = d_key = _validate.count("d_key", d_key)
        self.d_value = d_value = _validate.count("d_value", d_value)
        key_heads = heads if key_heads is None else key_heads
        self.key_heads = key_heads = _validate.count("key_heads", key_heads)
        if heads % key_heads:
            raise ValueError(
                f"key_heads: expected a divisor of heads = {heads}, got "
                f"{key_heads}"
            )
        self.taps = _validate.count("taps", taps)
        self.chunk = _validate.count("chunk", chunk)
        self.reflect = bool(reflect)
        _validate.number("eps", eps)
        mixed = 2 * key_heads * d_key + heads * d_value  # q, k and v
        self.conv1d = nn.Conv1d(
            mixed, mixed, self.taps, groups=mixed, bias=False
        )
        self.norm = HeadNorm(d_value, eps)
        self.out_proj = nn.Linear(heads * d_value, self.d_model, bias=False)

    def project(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """What is convolved (q, k and v), the gate, β and log α."""
        raise NotImplementedError

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: DeltaState | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], DeltaState]:
        """All positions at once, and the state after the last.

        Args, Returns, Raises: as ``SequenceMixer.prefill``.
        """
        self.check_input(x)
        self.check_mask(mask, x)
        if state is None:
            state = self.initial_state(len(x), x.device, x.dtype)
        self._check_state(state, len(x))
        mixed, z, beta, log_decay = self.project(x)
        window = torch.cat([state.window.to(mixed.dtype), mixed.mT], dim=2)
        if mask is not None:
            window = behind_padding(window, mask, self.taps - 1)
            # Nothing is erased, written or forgotten.
            beta = beta.masked_fill(~mask[..., None], 0)
            if log_decay is not None:
                log_decay = log_decay.masked_fill(~mask[..., None], 0)
        q, k, v = self.convolve(window)
        with _validate.inner():
            y, S = delta_rule(
                *(q, k, v, beta, log_decay, True),
                initial_state=state.S,
                chunk=self.chunk,
            )
        past = last_inputs(window, state.window)
        return self.read(y, z), DeltaState(past, S)

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: DeltaState
    ) -> tuple[Float[Tensor, "batch d_model"], DeltaState]:
        self.check_input(x_t, "x_t")
        self._check_state(state, len(x_t))
        mixed, z, beta, log_decay = self.project(x_t)
        window = torch.cat([state.window, mixed[..., None]], dim=2)
        q, k, v = self.convolve(window.to(mixed.dtype))  # of length 1
        now = q[:, 0], k[:, 0], v[:, 0], beta, log_decay
        y, S = delta_step(*now, state.S)
        y = self.read(y.to(v.dtype), z)
        return y, DeltaState(window[..., 1:].clone(), S)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> DeltaState:
        """Zeros: nothing convolved yet, and S = 0."""
        like: Any = {"device": device, "dtype": dtype}
        past = (self.conv1d.in_channels, self.taps - 1)
        sizes = (self.heads, self.d_value, self.d_key)
        return DeltaState(
            zeros(self.norm.weight, batch_size, *past, **like),
            zeros(self.norm.weight, batch_size, *sizes, **like),
        )

    def convolve(
        self, window: Float[Tensor, "batch channels long"]
    ) -> tuple[Keys, Keys, Values]:
        """q, k and v of each step: long = taps − 1 + length.

        q and k are of length 1, and q then divided by √d_key; both in full
        precision.
        """
        mixed = functional.silu(self.conv1d(window)).mT
        width = self.key_heads * self.d_key
        q, k, v = mixed.split([width, width, mixed.shape[-1] - 2 * width], -1)
        shared = self.heads // self.key_heads
        q, k = (
            _unit(full(x).unflatten(-1, (self.key_heads, self.d_key)))
            .repeat_interleave(shared, dim=2)
            for x in (q, k)
        )  # fmt: skip
        v = v.unflatten(-1, (self.heads, self.d_value))
        return q / self.d_key**0.5, k, v

    def read(self, y: Tensor, z: Tensor | None) -> Tensor:
        """The norm by head, the gate, and the way out, (…, d_model)."""
        dtype = self.out_proj.weight.dtype
        if z is not None:
            z = z.unflatten(-1, (self.heads, self.d_value))
            dtype = z.dtype
        made: Tensor = self.out_proj(self.norm(y.to(dtype), z).flatten(-2))
        return made

    def strength(self, b: Tensor) -> Tensor:
        """β = σ(b), in (0, 1); twice that with ``reflect``."""
        beta = torch.sigmoid(full(b))
        return 2 * beta if self.reflect else beta

    def _check_state(self, state: DeltaState, batch: int) -> None:
        past = (self.conv1d.in_channels, self.taps - 1)
        sizes = (self.heads, self.d_value, self.d_key)
        for name, wanted in (("window", past), ("S", sizes)):
            value = getattr(state, name, state)
            _validate.state(f"state.{name}", value, batch, *wanted)


def _unit(x: Tensor) -> Tensor:
    """x / √(‖x‖² + 10⁻⁶) along the last dimension."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


class DeltaNet(_DeltaRule):
    """The mixer of DeltaNet: keys, values, and how much of each to write.

        q, k, v, b = maps of x,    q, k, v ← SiLU(conv1d(q, k, v)),
        q, k ← q/‖q‖, k/‖k‖,       β = σ(b), a number a head,
        y = delta_rule(q/√d_key, k, v, β)
        output = out_proj RMSNorm(y), by head.

    All parameters start as torch starts them.

    Args:
        d_model: width of input and output.
        heads: of v and of the state.
        d_key, d_value: widths of a head: S is (d_value, d_key).
        key_heads: of q and k, each shared by heads / key_heads of v; as many
            as heads if None.
        taps: of the convolution.
        chunk: of ``delta_rule``: speed and memory, not the result.
        reflect: whether β = 2 σ(b), so that I − β k kᵀ may have an eigenvalue
            in (−1, 0).
        eps: of the norm.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Yang et al. (2024), "Parallelizing Linear Transformers with the
        Delta Rule over Sequence Length"; ``reflect`` is from Grazzi et al.
        (2024), "Unlocking State-Tracking in Linear RNNs Through Negative
        Eigenvalues".
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_key: int = 64,
        d_value: int = 64,
        key_heads: int | None = None,
        taps: int = 4,
        chunk: int = 64,
        reflect: bool = False,
        eps: float | int = 1e-6,
    ) -> None:
        super().__init__(
            *(d_model, heads, d_key, d_value, key_heads, taps, chunk, reflect),
            eps,
        )
        mixed = self.conv1d.in_channels
        self.in_proj_qkv = nn.Linear(self.d_model, mixed, bias=False)
        self.in_proj_b = nn.Linear(self.d_model, self.heads, bias=False)

    def project(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[Tensor, None, Tensor, None]:
        """What is convolved (q, k and v), no gate, β, and no decay."""
        return self.in_proj_qkv(x), None, self.strength(self.in_proj_b(x)), None


class GatedDeltaNet(_DeltaRule):
    """The mixer of gated DeltaNet, laid out as one layer of Qwen3-Next.

        q, k, v, z, b, a = maps of x,  q, k, v ← SiLU(conv1d(q, k, v)),
        q, k ← q/‖q‖, k/‖k‖,           β = σ(b),
        α = exp(−exp(A_log) softplus(a + dt_bias)),
        y = delta_rule(q/√d_key, k, v, β, log α)
        output = out_proj (RMSNorm(y) ⊙ SiLU(z)), the norm by head.

    The parameters have the names and shapes of the released layer, in whose
    maps the rows of one key head stand together. They start as Mamba-2's and
    fla's: exp(A_log) uniform, softplus(dt_bias) log-uniform between their
    limits, all else as torch starts it. No weight decay acts on A_log and
    dt_bias, which stay in float32 when the layer is cast to less.

    Args:
        d_model, heads, d_key, d_value, key_heads, taps, chunk, reflect, eps:
            as for ``DeltaNet``.
        A_min, A_max: where exp(A_log) starts, uniform between them.
        delta_min, delta_max: softplus(dt_bias) starts log-uniform between
            them.
        delta_floor: and no smaller than this.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Yang et al. (2024), "Gated Delta Networks".
    """

    A_log: Tensor
    dt_bias: Tensor

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_key: int = 64,
        d_value: int = 64,
        key_heads: int | None = None,
        taps: int = 4,
        chunk: int = 64,
        reflect: bool = False,
        eps: float | int = 1e-6,
        A_min: float | int = 1e-2,
        A_max: float | int = 16.0,
        delta_min: float | int = 1e-3,
        delta_max: float | int = 1e-1,
        delta_floor: float | int = 1e-4,
    ) -> None:
        super().__init__(
            *(d_model, heads, d_key, d_value, key_heads, taps, chunk, reflect),
            eps,
        )
        _validate.number("A_min", A_min)
        _validate.number("A_max", A_max)
        if A_min > A_max:
            raise ValueError(
                f"A_min: expected at most A_max = {A_max}, got {A_min}"
            )
        heads, mixed = self.heads, self.conv1d.in_channels
        gates = heads * self.d_value
        self.in_proj_qkvz = nn.Linear(self.d_model, mixed + gates, bias=False)
        self.in_proj_ba = nn.Linear(self.d_model, 2 * heads, bias=False)
        system: Any = {"decay": False, "exact": True}
        a = A_min + (A_max - A_min) * torch.rand(heads)
        self.parameter("A_log", a.log(), **system)
        beta = mamba.delta_bias(heads, delta_min, delta_max, delta_floor)
        self.parameter("dt_bias", beta, **system)

    def project(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is convolved (q, k and v), z, β and log α."""
        shared = self.heads // self.key_heads
        wide = shared * self.d_value
        by_head = self.in_proj_qkvz(x).unflatten(-1, (self.key_heads, -1))
        parts = by_head.split([self.d_key, self.d_key, wide, wide], dim=-1)
        q, k, v, z = (part.flatten(-2) for part in parts)
        by_head = self.in_proj_ba(x).unflatten(-1, (self.key_heads, -1))
        # Slices: the gradient of chunks is a cat, whose layout torch.compile
        # guesses wrongly where the length is one chunk.
        b, a = (
            by_head[..., :shared].flatten(-2),
            by_head[..., shared:].flatten(-2),
        )
        delta = functional.softplus(full(a) + self.dt_bias)
        log_decay = -self.A_log.exp() * delta
        return torch.cat([q, k, v], -1), z, self.strength(b), log_decay


def _cost_of(gated: bool) -> Callable[..., Cost]:
    def made(layer: _DeltaRule, length: int) -> Cost:
        return delta_cost(
            length, layer.d_model, layer.heads, layer.d_key, layer.d_value,
            layer.key_heads, layer.taps, layer.chunk, gated,
        )  # fmt: skip

    return made


cost.register(DeltaNet)(_cost_of(False))
cost.register(GatedDeltaNet)(_cost_of(True))
