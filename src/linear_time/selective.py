"""Chapter 16: a state-space model that chooses what to keep.

Δ, B and C become functions of the input, so that every step has a system of
its own. With a diagonal A, for each channel d and state n,

    h_t[d, n] = ā_t[d, n] h_{t−1}[d, n] + b̄_t[d, n] u_t[d],
    y_t[d] = Σ_n C_t[n] h_t[d, n] + D[d] u_t[d],

with ā = exp(ΔA) and one of two rules for b̄:

    "zero_order_hold"  b̄ = (exp(ΔA) − 1)/A · B = Δ φ(ΔA) B, as the paper says;
    "released"         b̄ = Δ B, as its released code runs.

They agree for Δ → 0. For Δ → ∞ the first tends to −B/A, the second to
infinity. φ(z) = (exp(z) − 1)/z.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from linear_time import _validate
from linear_time.discretization import (
    _phi,
    zero_order_hold_diagonal,
    zoh_euler_diagonal,
)
from linear_time.mixer import SequenceMixer, inverse_softplus, log_uniform

RULES = {
    "released": zoh_euler_diagonal,
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
    rule: str = "released",
) -> Channels | tuple[Channels, Last]:
    """The selective scan, with the names and layout of the official one.

    h_t = exp(Δ_t A) ⊙ h_{t−1} + b̄_t u_t,  y_t = (C_t h_t + D u_t) · SiLU(z_t)

    with Δ = softplus(delta + delta_bias). It never holds a (batch, d_inner,
    length, N) tensor: it works on a few steps at a time, keeps the states
    between such chunks, and computes all others again for the gradient.

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
        rule: "released" or "zero_order_hold", see above. Not in the official
            function, which has the first.

    Returns:
        y, (batch, d_inner, length); or (y, h) with h (batch, d_inner, N).

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit, a value is not finite, some Δ ≤ 0
            without softplus, or the rule is unknown.

    Source: Gu & Dao (2023), "Mamba", algorithm 2 and section 3.3.2; equation
        4 has the paper's rule.
    """
    h = _arguments(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, rule
    )
    y, h = _SelectiveScan.apply(
        *(u, delta, A, B, C, D, z, delta_bias, h, delta_softplus, rule)
    )
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
    rule: str = "released",
) -> Channels | tuple[Channels, Last]:
    """The same, written to be read: discretize, then step after step.

    Ā and B̄ are (batch, length, d_inner, N), and autograd keeps every state:
    N times the memory of the input, several times over.

    Args, Returns, Raises: as ``selective_scan``; also a ValueError where
        softplus gives Δ = 0.

    Source: as ``selective_scan``.
    """
    h = _arguments(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, rule
    )
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = functional.softplus(delta)
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
        rule: "released" or "zero_order_hold".
        delta_min, delta_max: where Δ starts.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Gu & Dao (2023), "Mamba", algorithm 2 and section 3.6; A and the
        start of Δ as in the released code.
    """

    def __init__(
        self,
        d_model: int,
        N: int = 16,
        rank: int | None = None,
        select_delta: bool = True,
        select_B_C: bool = True,
        rule: str = "released",
        delta_min: float | int = 1e-3,
        delta_max: float | int = 1e-1,
    ) -> None:
        super().__init__(d_model)
        _validate.count("N", N)
        rank = math.ceil(d_model / 16) if rank is None else rank
        _validate.count("rank", rank)
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

    def forward(
        self, x: Float[Tensor, "batch length d_model"]
    ) -> Float[Tensor, "batch length d_model"]:
        self.check_input(x)
        # Softplus is the scan's, for which a step that underflows to 0 is
        # one that ignores its token.
        delta, B, C = self._choose(x)
        y: Any = selective_scan(
            *(x.mT, delta.mT, self.A, B.mT, C.mT, self.D),
            delta_softplus=True,
            rule=self.rule,
        )
        mixed: Tensor = self.out(functional.gelu(y.mT))
        return mixed

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Last:
        """h = 0, (batch, d_model, N)."""
        _validate.count("batch_size", batch_size)
        return torch.zeros(
            batch_size,
            self.d_model,
            self.N,
            device=self.D.device if device is None else device,
            dtype=self.D.dtype if dtype is None else dtype,
        )

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: Last
    ) -> tuple[Float[Tensor, "batch d_model"], Last]:
        self.check_input(x_t, "x_t")
        wanted = (len(x_t), self.d_model, self.N)
        if tuple(state.shape) != wanted:
            raise ValueError(
                f"state: expected shape {_validate.shape_text(wanted)}, "
                f"got shape {_validate.shape_text(state.shape)}"
            )
        delta, B, C = self.select(x_t)
        h = _next_state(state, x_t, delta, self.A, B, self.rule)
        y = torch.einsum("bdn,bn->bd", h, C) + self.D * x_t
        return self.out(functional.gelu(y)), h

    def select(
        self, x: Float[Tensor, "*batch d_model"]
    ) -> tuple[
        Float[Tensor, "*batch d_model"],
        Float[Tensor, "*batch N"],
        Float[Tensor, "*batch N"],
    ]:
        """(Δ, B, C) that the layer takes for its inputs x, (…, d_model)."""
        delta, B, C = self._choose(x)
        return functional.softplus(delta), B, C

    def _choose(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As ``select``, before the softplus."""
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


# On a CPU a step's states and a chunk's should fit the caches: 2**13 numbers
# a step, 2**18 a chunk (1 MiB), unless one row of the batch has more.
_WIDTH, _BLOCK = 2**13, 2**18


class _SelectiveScan(torch.autograd.Function):
    """``selective_scan``, chunk by chunk, with its gradient.

    A chunk's tensors are (steps, batch, N, d_inner), so that a step's state
    is one piece of memory and every operation runs along the channels.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        initial_state: Tensor,
        softplus: bool,
        rule: str,
    ) -> tuple[Tensor, Tensor]:
        inputs = (u, delta, A, B, C, D, z, delta_bias)
        work = _Chunks(inputs, softplus, rule, n_buffers=2)
        # (batch, N, d_inner), a copy even where the sizes need none
        state = initial_state.mT.clone(memory_format=torch.contiguous_format)
        # The state before each chunk: all that the gradient needs to keep.
        keep = any(ctx.needs_input_grad)
        entering = state.new_empty(work.n_chunks * keep, *state.shape)
        y = torch.empty_like(u)
        for i, rows, steps in work:
            if keep:
                entering[i, rows] = state[rows]
            _, h = work.load(rows, steps, state)
            state[rows] = h[-1]
            y_chunk = work.output(h)
            if work.z is not None:
                y_chunk *= functional.silu(work.z)
            _time_first(y[rows])[steps] = y_chunk
        ctx.save_for_backward(*inputs, entering)
        ctx.softplus, ctx.rule = softplus, rule
        return y, state.mT.contiguous()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_y: Tensor, grad_last: Tensor
    ) -> tuple[Tensor | None, ...]:
        *inputs, entering = ctx.saved_tensors
        work = _Chunks(tuple(inputs), ctx.softplus, ctx.rule, n_buffers=3)
        grads: list[Any] = [
            None if x is None else torch.zeros_like(x) for x in inputs
        ]
        grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_b = (
            grads
        )
        # What all later steps ask of h_t: ā_{t+1} g_{t+1}.
        later = grad_last.mT.clone()  # (batch, N, d_inner)
        for i, rows, steps in reversed(work):
            a, h = work.load(rows, steps, entering[i])
            u, delta = work.u, work.delta  # (steps, batch, d_inner)
            dy = _read(grad_y, rows, steps)
            if work.z is not None:
                d_z, dy = _gate_gradients(work.z, work.output(h), dy)
                _time_first(grad_z[rows])[steps] = d_z
            # g_t = C_t dy_t + ā_{t+1} g_{t+1}, backwards in time
            g = work.buffer(2)
            torch.mul(work.C.unsqueeze(-1), dy.unsqueeze(2), out=g)
            g[-1] += later[rows]
            a_steps, g_steps = a.unbind(0), g.unbind(0)
            for t in range(len(g_steps) - 2, -1, -1):
                g_steps[t].addcmul_(a_steps[t + 1], g_steps[t + 1])
            _time_first(grad_C[rows])[steps] = (
                dy.unsqueeze(2) @ h[1:].mT
            ).squeeze(2)
            # with respect to ΔA through ā: g_t h_{t−1} ā_t, in the place of ā
            ga = a.mul_(g)
            later[rows] = ga[0]
            grad_x = ga.mul_(h[:-1])
            free = h[1:]
            if ctx.rule == "zero_order_hold":
                work.add_input_slope(grad_x, g, free)
            grad_v = (work.B.unsqueeze(2) @ g).squeeze(2)  # of v = Δ u
            v = (delta * u).unsqueeze(2)
            _time_first(grad_B[rows])[steps] = (v @ g.mT).squeeze(2)
            d_delta = torch.mul(grad_x, work.A, out=free).sum(2)
            d_delta.addcmul_(grad_v, u)
            grad_A += grad_x.mul_(delta.unsqueeze(2)).sum((0, 1)).mT
            d_u = grad_v.mul_(delta)
            if grad_D is not None:
                grad_D += (dy * u).sum((0, 1))
                d_u.addcmul_(dy, work.D)
            if ctx.softplus:  # softplus′(x) = σ(x) = 1 − exp(−softplus(x))
                d_delta *= -torch.expm1(-delta)
            if grad_b is not None:
                grad_b += d_delta.sum((0, 1))
            _time_first(grad_u[rows])[steps] = d_u
            _time_first(grad_delta[rows])[steps] = d_delta
        return *grads, later.mT, None, None


class _Chunks:
    """The inputs a chunk at a time, and the buffers that all chunks share."""

    def __init__(
        self,
        inputs: tuple[Any, ...],
        softplus: bool,
        rule: str,
        n_buffers: int,
    ) -> None:
        u, delta, A, B, C, self.D, z, self.delta_bias = inputs
        self.whole = u, delta, B, C, z
        self.A = A.mT.contiguous()  # (N, d_inner)
        self.softplus, self.rule = softplus, rule
        batch, d_inner, length = u.shape
        width = A.shape[1] * d_inner  # of a row of the batch
        on_cpu = u.device.type == "cpu"
        rows = min(max(_WIDTH // width, 1), batch) if on_cpu else batch
        groups = -(-batch // rows)
        # T steps a chunk: the buffers hold T states of a group each, and L/T
        # states of all groups are kept. T = √(L groups) makes these equal.
        steps = math.isqrt(length * groups - 1) + 1
        if on_cpu:
            steps = min(steps, max(_BLOCK // (rows * width), 8))
        steps = min(steps, length)
        self.rows = _slices(batch, rows)
        self.steps = _slices(length, steps)
        self.n_chunks = len(self.steps)
        # The second holds the states, with the one before the chunk.
        self.buffers = [
            u.new_empty((steps + (k == 1)) * rows * width)
            for k in range(n_buffers)
        ]

    def __iter__(self) -> Iterator[tuple[int, slice, slice]]:
        for rows in self.rows:
            for i, steps in enumerate(self.steps):
                yield i, rows, steps

    def __reversed__(self) -> Iterator[tuple[int, slice, slice]]:
        return reversed(list(self))

    def buffer(self, k: int) -> Tensor:
        """(steps, rows, N, d_inner), and one step more for the states."""
        steps, rows, d_inner = self.u.shape
        sizes = (steps + (k == 1), rows, len(self.A), d_inner)
        return self.buffers[k][: math.prod(sizes)].view(sizes)

    def load(
        self, rows: slice, steps: slice, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Read a chunk; return ā, and h with the entering state first."""
        # (steps, rows, d_inner); B and C (steps, rows, N)
        self.u, self.delta, self.B, self.C, self.z = (
            _read(x, rows, steps) for x in self.whole
        )
        if self.delta_bias is not None:
            self.delta = self.delta + self.delta_bias
        if self.softplus:
            self.delta = functional.softplus(self.delta)
        a, h = self.buffer(0), self.buffer(1)
        torch.mul(self.delta.unsqueeze(2), self.A, out=a)
        v = (self.delta * self.u).unsqueeze(2)
        torch.mul(self.B.unsqueeze(-1), v, out=h[1:])
        if self.rule == "zero_order_hold":
            h[1:] *= _input_factor(a)
        a.exp_()
        h[0] = state[rows]
        h_steps = h.unbind(0)
        for t, a_t in enumerate(a.unbind(0)):
            h_steps[t + 1].addcmul_(a_t, h_steps[t])
        return a, h

    def output(self, h: Tensor) -> Tensor:
        """C h + D u, before the gate, (steps, batch, d_inner)."""
        y = (self.C.unsqueeze(2) @ h[1:]).squeeze(2)
        return y if self.D is None else y.addcmul_(self.u, self.D)

    def add_input_slope(self, grad_x: Tensor, g: Tensor, free: Tensor) -> None:
        """The factor φ(ΔA) of b̄: grad_x += g Δ u B φ′(ΔA); g ← g φ(ΔA)."""
        x = torch.mul(self.delta.unsqueeze(2), self.A, out=free)
        v = (self.delta * self.u).unsqueeze(2)
        rise = _input_factor_slope(x)
        grad_x += rise.mul_(g).mul_(v).mul_(self.B.unsqueeze(-1))
        g *= _input_factor(x)


def _next_state(
    h: Tensor, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, rule: str
) -> Tensor:
    """One step: h (batch, d_inner, N); u, Δ (batch, d_inner); B (batch, N)."""
    z = delta[..., None] * A  # (batch, d_inner, N)
    b_bar = delta[..., None] * B[:, None, :]
    if rule == "zero_order_hold":
        b_bar = b_bar * _phi(z)
    return torch.exp(z) * h + b_bar * u[..., None]


def _time_first(x: Tensor) -> Tensor:
    """(batch, channels, length) → (length, batch, channels), a view."""
    return x.permute(2, 0, 1)


def _read(x: Tensor | None, rows: slice, steps: slice) -> Any:
    """A chunk, time first; copied before it is turned, which is faster."""
    if x is None:
        return None
    return _time_first(x[rows, :, steps].contiguous()).contiguous()


def _slices(length: int, size: int) -> list[slice]:
    return [slice(s, min(s + size, length)) for s in range(0, length, size)]


def _gate_gradients(
    z: Tensor, y: Tensor, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """Of y SiLU(z): the gradients with respect to z and to y."""
    s = torch.sigmoid(z)
    return grad * y * s * (1 + z * (1 - s)), grad * z * s


def _input_factor(z: Tensor) -> Tensor:
    """φ(z) = (exp(z) − 1)/z, its value only."""
    return torch.where(z == 0, 1, torch.expm1(z) / z)


def _input_factor_slope(z: Tensor) -> Tensor:
    """φ′(z) = (exp(z) − φ(z))/z; near 0, where that cancels, its series.

    φ′(z) = Σ_k (k + 1)/(k + 2)! z^k for k = 0, 1, …
    """
    series = torch.zeros_like(z)
    for k in range(14, -1, -1):
        series.mul_(z).add_((k + 1) / math.factorial(k + 2))
    far = (torch.exp(z) - _input_factor(z)) / z
    return torch.where(z.abs() < 0.5, series, far)


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
    """Check them; return the state before the first step."""
    _validate.one_of("rule", rule, RULES)
    sizes = (tuple(t.shape) if isinstance(t, Tensor) else () for t in (u, A))
    u_sizes, A_sizes = sizes
    if len(u_sizes) != 3 or 0 in u_sizes:
        raise ValueError(
            "u: expected shape (batch, d_inner, length) without empty "
            f"dimensions, got {_validate.describe(u)}"
        )
    batch, d_inner, length = u_sizes
    if len(A_sizes) != 2 or A_sizes[0] != d_inner or A_sizes[1] == 0:
        raise ValueError(
            f"A: expected shape ({d_inner}, N) with N >= 1, "
            f"got {_validate.describe(A)}"
        )
    N = A_sizes[1]
    wanted: dict[str, tuple[Any, tuple[int, ...]]] = {
        "u": (u, u_sizes),
        "delta": (delta, u_sizes),
        "A": (A, A_sizes),
        "B": (B, (batch, N, length)),
        "C": (C, (batch, N, length)),
        "D": (D, (d_inner,)),
        "z": (z, u_sizes),
        "delta_bias": (delta_bias, (d_inner,)),
        "initial_state": (initial_state, (batch, d_inner, N)),
    }
    given = {}
    for name, (value, shape) in wanted.items():
        if value is not None or name in ("delta", "B", "C"):
            _validate.shaped(name, value, shape, real=True)
            given[name] = value
    _validate.same_precision(**given)
    if not delta_softplus:
        bias = 0 if delta_bias is None else delta_bias[:, None]
        _validate.positive("delta", delta + bias)
    if initial_state is None:
        initial_state = u.new_zeros(batch, d_inner, N)
    return initial_state
