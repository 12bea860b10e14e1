"""Chapter 16: a state-space model that chooses what to keep.

Δ, B and C become functions of the input, so that every step has a system of
its own. With a diagonal A, for each channel d and state n,

    h_t[d, n] = ā_t[d, n] h_{t−1}[d, n] + b̄_t[d, n] u_t[d],
    y_t[d] = Σ_n C_t[n] h_t[d, n] + D[d] u_t[d],

with ā = exp(ΔA) and one of two rules for b̄:

    "zero_order_hold"    b̄ = (exp(ΔA) − 1)/A · B = Δ φ(ΔA) B, as the paper says;
    "exponential_euler"  b̄ = Δ B, as its released code runs.

They agree for Δ → 0. For Δ → ∞ the first tends to −B/A, the second to
infinity. φ(z) = (exp(z) − 1)/z.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from linear_time import _validate, scan_triton
from linear_time.cost import Cost, cost, selective_cost
from linear_time.discretization import (
    exponential_euler_diagonal,
    zero_order_hold_diagonal,
)
from linear_time.layer import (
    full,
    inverse_softplus,
    log_uniform,
    without_autocast,
    zeros,
)
from linear_time.mixer import SequenceMixer
from linear_time.scan_function import chunked_scan
from linear_time.scan_kernel import next_state, read_state

RULES = {
    "exponential_euler": exponential_euler_diagonal,
    "zero_order_hold": zero_order_hold_diagonal,
}

Channels = Float[Tensor, "batch d_inner length"]
States = Float[Tensor, "batch N length"]
Last = Float[Tensor, "batch d_inner N"]
PerChannel = Float[Tensor, " d_inner"]


def selective_scan(
    u: Channels,
    delta: Channels,
    A: Float[Tensor, "d_inner N"],
    B: States,
    C: States,
    D: PerChannel | None = None,
    z: Channels | None = None,
    delta_bias: PerChannel | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Last | None = None,
    rule: str = "exponential_euler",
) -> Channels | tuple[Channels, Last]:
    """The selective scan, with the names and layout of the official one.

    h_t = exp(Δ_t A) ⊙ h_{t−1} + b̄_t u_t,  y_t = (C_t h_t + D u_t) · SiLU(z_t)

    with Δ = softplus(delta + delta_bias). It never holds a (batch, d_inner,
    length, N) tensor: it works on a few steps at a time, keeps the states
    between such chunks, and computes all others again for the gradient. A
    gradient of the gradient is right too, at the memory of the reference.

    On a GPU with Triton, ``scan_triton`` runs the same in one kernel (the
    released rule, N ≤ 256, no float64), and refuses second derivatives.

    Any argument may be in half precision, also beside others in float32: sums
    and states are at least float32, y has the precision of u.

    Args:
        u: input, (batch, d_inner, length).
        delta: step sizes Δ > 0 of every channel, as u; before bias and
            softplus where these are asked for.
        A: diagonals, (d_inner, N), in 1/time; negative for a stable system.
        B, C: (batch, N, length), shared by the channels.
        D: weight of the direct term, (d_inner,); none if None.
        z: gate, as u; none if None.
        delta_bias: added to delta, (d_inner,).
        delta_softplus: pass delta through softplus.
        return_last_state: also return h after the last step.
        initial_state: h before the first step, (batch, d_inner, N); zero if
            None. Not in the official function.
        rule: "exponential_euler" or "zero_order_hold", see above. Not in the
            official function, which has the first.

    Returns:
        y, (batch, d_inner, length); or (y, h) with h (batch, d_inner, N), at
        least float32.

    Raises:
        TypeError: an argument has the wrong type or dtype; float64 stands
            beside another precision.
        ValueError: a shape does not fit, a value is not finite, some Δ ≤ 0
            without softplus, or the rule is unknown.

    Source: Gu & Dao (2023), "Mamba", algorithm 2 and section 3.3.2; equation
        4 has the paper's rule.
    """
    h = _arguments(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, rule
    )
    start = None if initial_state is None else h  # a zero needs no memory
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    # The one place that chooses what runs.
    if rule == "exponential_euler" and scan_triton.suits(*inputs, start):
        y, h = scan_triton.selective_scan(*inputs, delta_softplus, start)
    else:
        y, h = chunked_scan(*inputs, start, softplus=delta_softplus, rule=rule)
    return (y, h) if return_last_state else y


def selective_scan_reference(
    u: Channels,
    delta: Channels,
    A: Float[Tensor, "d_inner N"],
    B: States,
    C: States,
    D: PerChannel | None = None,
    z: Channels | None = None,
    delta_bias: PerChannel | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    *,
    initial_state: Last | None = None,
    rule: str = "exponential_euler",
) -> Channels | tuple[Channels, Last]:
    """The same, written to be read: discretize, then step after step.

    Ā and B̄ are (batch, length, d_inner, N), and autograd keeps every state:
    N times the memory of the input, several times over.

    Args, Returns, Raises: as ``selective_scan``.

    Source: as ``selective_scan``.
    """
    h = _arguments(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, rule
    )
    dtype = u.dtype
    u, delta, A, B, C = (full(x) for x in (u, delta, A, B, C))
    D, z, delta_bias = (
        None if x is None else full(x) for x in (D, z, delta_bias)
    )
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = functional.softplus(delta)
    with _validate.inner(), without_autocast(u):
        # Each of these is (batch, length, d_inner, N), or broadcasts to it.
        A_bar, B_bar = RULES[rule](A, B.mT.unsqueeze(2), delta.mT.unsqueeze(3))
        B_bar_u = B_bar * u.mT.unsqueeze(3)
        # Unbound once: an index in the loop would cost O(L²) in backward.
        steps = (A_bar.unbind(1), B_bar_u.unbind(1), C.unbind(2))
        outputs = []
        for A_bar_t, B_bar_u_t, C_t in zip(*steps, strict=True):
            h = A_bar_t * h + B_bar_u_t  # (batch, d_inner, N)
            outputs.append((h @ C_t.unsqueeze(2)).squeeze(2))
    y = torch.stack(outputs, dim=-1)
    if D is not None:
        y = y + D[:, None] * u
    if z is not None:
        y = y * functional.silu(z)
    y = y.to(dtype)
    return (y, h) if return_last_state else y


class Selective(SequenceMixer):
    """S6: a state-space layer whose Δ, B and C may depend on the input.

    Δ_t = softplus(W₂ W₁ x_t + β),  B_t = W_B x_t,  C_t = W_C x_t,
    A = −exp(A_log), and y = W gelu(SSM(x) + D ⊙ x) + b around the systems,
    as in ``S4D``. With both flags off every step has the same system, and the
    layer is a convolution: the path from S4 to S6 is two switches.

    A_n starts at −n for n = 1 … N, D at 1, and β at the inverse of softplus,
    so that Δ starts log-uniform between its two limits. No weight decay acts
    on A_log, D, β and the fixed B and C (``mixer.mark_of``).

    Args:
        d_model: number of channels.
        N: state size.
        rank: of the map from x to Δ; ⌈d_model/16⌉ if None.
        select_delta: Δ depends on the input; else it is softplus(β).
        select_B_C: B and C depend on the input; else they are learned
            vectors, shared by the channels just as the selected ones are.
        rule: "exponential_euler" or "zero_order_hold".
        delta_min, delta_max: where Δ starts.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Gu & Dao (2023), "Mamba", algorithm 2 and section 3.6; A and the
        start of Δ as in the released code.
    """

    A_log: Tensor
    D: Tensor
    delta_bias: Tensor
    B: Tensor  # where it is fixed, as C
    C: Tensor

    def __init__(
        self,
        d_model: int,
        N: int = 16,
        rank: int | None = None,
        select_delta: bool = True,
        select_B_C: bool = True,
        rule: str = "exponential_euler",
        delta_min: float | int = 1e-3,
        delta_max: float | int = 1e-1,
    ) -> None:
        super().__init__(d_model)
        d_model, N = self.d_model, _validate.count("N", N)
        rank = math.ceil(d_model / 16) if rank is None else rank
        rank = _validate.count("rank", rank)
        _validate.one_of("rule", rule, RULES)
        self.N, self.rule = N, rule
        n = torch.arange(1, N + 1).to(torch.get_default_dtype())
        system: Any = {"decay": False, "exact": True}
        self.parameter("A_log", n.log().repeat(d_model, 1), **system)
        self.parameter("D", torch.ones(d_model), decay=False)
        delta = log_uniform("delta", delta_min, delta_max, d_model).exp()
        self.parameter("delta_bias", inverse_softplus(delta), **system)
        self.to_delta: nn.Module | None = None
        if select_delta:
            down = nn.Linear(d_model, rank, bias=False)
            up = nn.Linear(rank, d_model, bias=False)
            nn.init.uniform_(up.weight, -(rank**-0.5), rank**-0.5)
            self.to_delta = nn.Sequential(down, up)
        self.to_B_C: nn.Module | None = None
        if select_B_C:
            self.to_B_C = nn.Linear(d_model, 2 * N, bias=False)
        else:
            self.parameter("B", torch.ones(N), decay=False)
            self.parameter("C", torch.randn(N) / math.sqrt(N), decay=False)
        self.out = nn.Linear(d_model, d_model)

    @property
    def A(self) -> Float[Tensor, "d_model N"]:
        """−exp(A_log) < 0: stable whatever is learned."""
        return -self.A_log.exp()

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Last | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], Last]:
        self.check_input(x)
        self.check_mask(mask, x)
        self._check_state(state, len(x))
        delta, B, C = self.choose(x)  # softplus is the scan's
        delta = skip_padding(delta, mask)
        with _validate.inner():
            y, h = selective_scan(
                x.mT,
                delta.mT,
                self.A,
                B.mT,
                C.mT,
                self.D,
                delta_softplus=True,
                return_last_state=True,
                initial_state=state,
                rule=self.rule,
            )
        return self.out(functional.gelu(y.mT)), h

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Last:
        """h = 0, (batch, d_model, N)."""
        sizes = (batch_size, self.d_model, self.N)
        return zeros(self.D, *sizes, device=device, dtype=dtype)

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: Last
    ) -> tuple[Float[Tensor, "batch d_model"], Last]:
        self.check_input(x_t, "x_t")
        self._check_state(state, len(x_t))
        delta, B, C = self.select(x_t)
        h = next_state(state, x_t, delta, self.A, B, self.rule)
        y = read_state(h, x_t, C, self.D)
        return self.out(functional.gelu(y.to(x_t.dtype))), h

    def select(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[
        Float[Tensor, "*batch d_model"],
        Float[Tensor, "*batch N"],
        Float[Tensor, "*batch N"],
    ]:
        """(Δ, B, C) that the layer takes for its inputs x, (…, d_model)."""
        delta, B, C = self.choose(x)
        return functional.softplus(full(delta)), B, C

    def choose(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``select``, but Δ before softplus, which the scan applies."""
        if self.to_delta is None:
            delta = self.delta_bias.expand(x.shape)
        else:
            delta = self.to_delta(x) + self.delta_bias
        if self.to_B_C is None:
            sizes = (*x.shape[:-1], self.N)
            B, C = self.B.expand(sizes), self.C.expand(sizes)
        else:
            B, C = self.to_B_C(x).chunk(2, dim=-1)
        return delta, B, C

    def _check_state(self, state: Any, batch: int) -> None:
        if state is not None:
            _validate.state("state", state, batch, self.d_model, self.N)


def skip_padding(delta: Tensor, mask: Tensor | None) -> Tensor:
    """Δ before softplus, −∞ where the mask is False.

    A step of softplus(−∞) = 0 leaves the state as it was. Shapes: delta
    (batch, length, channels), mask (batch, length).
    """
    if mask is None:
        return delta
    return delta.masked_fill(~mask[..., None], -math.inf)


def behind_padding(window: Tensor, mask: Tensor, past: int) -> Tensor:
    """The past of each row moved to where its padding ends.

    Args:
        window: the last inputs before, then those of now, (batch, d_inner,
            past + length).
        mask: (batch, length).
    """
    padding = (~mask).sum(1)[:, None]  # (batch, 1)
    place = torch.arange(window.shape[2], device=window.device)
    source = torch.where(
        place >= padding + past, place, (place - padding).clamp(min=0)
    )
    return window.gather(2, source[:, None].expand_as(window))


def last_inputs(window: Tensor, before: Tensor) -> Tensor:
    """What the next token's taps reach of a window: as many as before.

    A copy in the type of the state: it does not hold all of the prompt.
    """
    kept = window[..., window.shape[2] - before.shape[2] :]
    return kept.to(before.dtype, copy=True)


def _arguments(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    rule: str,
) -> Tensor:
    """Check them; return the state before the first step, float32 or more."""
    _validate.one_of("rule", rule, RULES)
    batch, d_inner, length = _validate.layout(
        "u", u, "batch", "d_inner", "length"
    )
    _, N = _validate.layout("A", A, d_inner, "N")
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
        "delta": (delta, (batch, d_inner, length)),
        "B": (B, (batch, N, length)),
        "C": (C, (batch, N, length)),
        "D": (D, (d_inner,)),
        "z": (z, (batch, d_inner, length)),
        "delta_bias": (delta_bias, (d_inner,)),
        "initial_state": (initial_state, (batch, d_inner, N)),
    }
    given = {"u": u, "A": A}
    for name, (value, sizes) in wanted.items():
        if value is not None or name in ("delta", "B", "C"):
            _validate.layout(name, value, *sizes)
            given[name] = value
    dtype = _validate.full_precision(**given)
    if not delta_softplus and _validate.searched():
        bias = 0 if delta_bias is None else delta_bias[:, None]
        _validate.positive("delta", delta + bias)
    if initial_state is None:
        return u.new_zeros(batch, d_inner, N, dtype=dtype)
    return initial_state.to(dtype)


@cost.register(Selective)
def _selective_cost(layer: Selective, length: int) -> Cost:
    to_delta: Any = layer.to_delta
    if to_delta is None or layer.to_B_C is None:
        raise TypeError(
            "mixer: expected a Selective with both switches on, got one "
            "with a fixed system"
        )
    rank = to_delta[0].out_features
    return selective_cost(length, layer.d_model, layer.N, rank)
