"""Chapter 21: the Mamba-3 block.

``trapezoid`` has the recurrence that it learns the inputs of.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from linear_time import _validate, mamba
from linear_time.cost import Cost, cost
from linear_time.layer import full, zeros
from linear_time.mixer import SequenceMixer
from linear_time.selective import skip_padding
from linear_time.trapezoid import (
    Before,
    Matrices,
    rotate,
    trapezoidal,
    trapezoidal_step,
)


class Mamba3State(NamedTuple):
    """What one Mamba-3 layer remembers: a fixed number of numbers."""

    angle: Float[Tensor, "batch heads pairs"]  # until now, of a turn
    S: Matrices
    x: Float[Tensor, "batch heads P"]  # of the last token
    B: Float[Tensor, "batch heads rank N"]  # of the last token, turned


class Mamba3(SequenceMixer):
    """The mixer of Mamba-3: no convolution; A, λ and angles of each token.

    For x of width d_model, d_inner = expand · d_model = heads · P:

        z, u, B, C, Δ, a, λ, θ = in_proj x    Δ, a, λ one number a head,
        B, C ← RMSNorm(B) + B_bias, RMSNorm(C) + C_bias,
        Δ = softplus(Δ + dt_bias), A = −softplus(a) ≤ −A_floor, λ = σ(λ),
        B, C turned by Σ π tanh(θ) Δ, pair by pair, N/4 pairs,
        y = trapezoidal(u, Δ, A, λ, B, C) + D u
        output = out_proj (y ⊙ SiLU(z)).

    With a rank above 1 there are that many u, u ⊙ mimo_x_r, B and C; y_r is
    gated by SiLU(z ⊙ mimo_z_r), and the y_r are summed with weights mimo_o_r.

    The parameters start as in the released code: B_bias, C_bias and D are 1;
    softplus(dt_bias) is log-uniform between its limits; mimo_x and mimo_o are
    1/rank, mimo_z is 1; all else as torch starts it. No weight decay acts on
    D and dt_bias, nor on the biases.

    Args:
        d_model: width of input and output.
        N: width of B and C, at least 4.
        expand: d_inner / d_model.
        P: channels of a head; divides d_inner.
        rank: R, vectors B and C a token, shared by all heads.
        chunk: of ``trapezoidal``: speed and memory, not the result.
        delta_min, delta_max: Δ starts log-uniform between them.
        delta_floor: and no smaller than this.
        A_floor: −A is never smaller.
        eps: of the norms.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: "Mamba-3" (2026), arXiv 2603.15569, and the released code.
    """

    dt_bias: Tensor
    B_bias: Tensor
    C_bias: Tensor
    D: Tensor
    mimo_x: Tensor  # these three where the rank is above 1
    mimo_z: Tensor
    mimo_o: Tensor

    def __init__(
        self,
        d_model: int,
        N: int = 128,
        expand: int = 2,
        P: int = 64,
        rank: int = 1,
        chunk: int = 64,
        delta_min: float | int = 1e-3,
        delta_max: float | int = 1e-1,
        delta_floor: float | int = 1e-4,
        A_floor: float | int = 1e-4,
        eps: float | int = 1e-5,
    ) -> None:
        super().__init__(d_model)
        self.N = N = _validate.count("N", N)
        self.P = P = _validate.count("P", P)
        self.rank = rank = _validate.count("rank", rank)
        self.chunk = _validate.count("chunk", chunk)
        self.d_inner = d_inner = _validate.count("expand", expand) * d_model
        if N < 4:
            raise ValueError(f"N: expected at least 4, one pair, got {N}")
        if d_inner % P:
            raise ValueError(
                f"P: expected a divisor of d_inner = {d_inner}, got {P}"
            )
        _validate.number("A_floor", A_floor)
        _validate.number("eps", eps)
        self.A_floor = float(A_floor)
        self.heads = heads = d_inner // P
        self.pairs = N // 4
        wide = 2 * d_inner + 2 * rank * N + 3 * heads + self.pairs
        self.in_proj = nn.Linear(self.d_model, wide, bias=False)
        self.B_norm = nn.RMSNorm(N, eps=float(eps))
        self.C_norm = nn.RMSNorm(N, eps=float(eps))
        beta = mamba.delta_bias(heads, delta_min, delta_max, delta_floor)
        self.parameter("dt_bias", beta, decay=False, exact=True)
        ones = torch.ones(heads, rank, N)
        self.parameter("B_bias", ones, decay=False)
        self.parameter("C_bias", ones, decay=False)
        self.parameter("D", torch.ones(heads), decay=False)
        if rank > 1:
            ones = torch.ones(heads, rank, P)
            self.parameter("mimo_x", ones / rank)
            self.parameter("mimo_z", ones)
            self.parameter("mimo_o", ones / rank)
        self.out_proj = nn.Linear(d_inner, self.d_model, bias=False)

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Mamba3State | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[Float[Tensor, "batch length d_model"], Mamba3State]:
        """All positions at once, and the state after the last.

        Args, Returns, Raises: as ``SequenceMixer.prefill``.
        """
        self.check_input(x)
        self.check_mask(mask, x)
        if state is None:
            state = self.initial_state(len(x), x.device, x.dtype)
        self._check_state(state, len(x))
        z, u, B, C, delta, A, lam, turn = self.project(x, mask)
        angle = state.angle[:, None] + turn.cumsum(1)
        B, C = (rotate(v, angle[..., None, :]) for v in (B, C))
        if mask is not None:
            # Δ = 0 there: the token before hands itself on to the first.
            u = torch.where(mask[..., None, None], u, full(state.x)[:, None])
            u = u.to(z.dtype)
            late = full(state.B)[:, None]
            B = torch.where(mask[..., None, None, None], B, late)
        with _validate.inner():
            y, after = trapezoidal(
                *(self._copies(u, "mimo_x"), delta, A, lam, B, C, True),
                initial_state=self._before(state),
                chunk=self.chunk,
            )
        made = Mamba3State(
            torch.remainder(angle[:, -1], 2 * math.pi),
            after.S,
            full(u)[:, -1].clone(),
            after.B,
        )
        return self.read(y, u, z), made

    def step(
        self, x_t: Float[Tensor, "batch d_model"], state: Mamba3State
    ) -> tuple[Float[Tensor, "batch d_model"], Mamba3State]:
        self.check_input(x_t, "x_t")
        self._check_state(state, len(x_t))
        z, u, B, C, delta, A, lam, turn = self.project(x_t)
        angle = state.angle + turn
        B, C = (rotate(v, angle[..., None, :]) for v in (B, C))
        now = self._copies(u, "mimo_x"), delta, A, lam, B, C
        y, after = trapezoidal_step(*now, self._before(state))
        angle = torch.remainder(angle, 2 * math.pi)
        made = Mamba3State(angle, after.S, full(u).clone(), after.B)
        return self.read(y.to(u.dtype), u, z), made

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Mamba3State:
        """Zeros: no turn, S = 0, and no token before."""
        like: Any = {"device": device, "dtype": dtype}
        return Mamba3State(
            *(zeros(self.D, batch_size, *size, **like) for size in self._sizes)
        )

    def project(
        self,
        x: Float[Tensor, "*batch d_model"],
        mask: Bool[Tensor, "*batch"] | None = None,
    ) -> tuple[Tensor, ...]:
        """z, u, B, C (with norm and bias), Δ, A, λ, and the angle to turn by.

        The last four are in full precision. Where the mask is False Δ = 0:
        nothing decays, is written, or turns.
        """
        heads, width = self.heads, self.rank * self.N
        sizes = [self.d_inner] * 2 + [width] * 2 + [heads] * 3 + [self.pairs]
        z, u, B, C, delta, a, lam, theta = self.in_proj(x).split(sizes, -1)
        z, u = (v.unflatten(-1, (heads, self.P)) for v in (z, u))
        B, C = (v.unflatten(-1, (1, self.rank, self.N)) for v in (B, C))
        B = full(self.B_norm(B)) + full(self.B_bias)
        C = full(self.C_norm(C)) + full(self.C_bias)
        delta = full(delta) + self.dt_bias
        delta = functional.softplus(skip_padding(delta, mask))
        A = -functional.softplus(full(a)).clamp(min=self.A_floor)
        turn = math.pi * torch.tanh(full(theta))
        turn = turn[..., None, :] * delta[..., None]  # (…, heads, pairs)
        return z, u, B, C, delta, A, torch.sigmoid(full(lam)), turn

    def read(self, y: Tensor, u: Tensor, z: Tensor) -> Tensor:
        """D u, the gate, the sum over the rank, and the way out."""
        y = full(y) + full(self.D)[:, None, None] * full(
            self._copies(u, "mimo_x")
        )
        y = y * functional.silu(full(self._copies(z, "mimo_z")))
        if self.rank > 1:
            y = y * full(self.mimo_o)
        y = y.sum(-2).flatten(-2).to(z.dtype)  # (…, d_inner)
        made: Tensor = self.out_proj(y)
        return made

    def _copies(self, u: Tensor, name: str) -> Tensor:
        """(…, heads, rank, P): u for each of the rank, weighted."""
        if self.rank == 1:
            return u[..., None, :]
        return u[..., None, :] * getattr(self, name).to(u.dtype)

    def _before(self, state: Mamba3State) -> Before:
        x = full(state.x)[..., None, :]
        if self.rank > 1:
            x = x * full(self.mimo_x)
        return Before(full(state.S), x, full(state.B))

    @property
    def _sizes(self) -> tuple[tuple[int, ...], ...]:
        heads = self.heads
        return (
            (heads, self.pairs),
            (heads, self.P, self.N),
            (heads, self.P),
            (heads, self.rank, self.N),
        )

    def _check_state(self, state: Mamba3State, batch: int) -> None:
        for name, sizes in zip(Mamba3State._fields, self._sizes, strict=True):
            value = getattr(state, name, state)
            _validate.state(f"state.{name}", value, batch, *sizes)


def mamba3_cost(
    length: int,
    d_model: int,
    N: int = 128,
    expand: int = 2,
    P: int = 64,
    rank: int = 1,
    chunk: int = 64,
) -> Cost:
    """The mixer of Mamba-3, in chunks of C tokens, each R steps of ``ssd``.

    A token costs a head R (2CR (P + N + CR) + 4 P N) in ``ssd``, and 2R² (N +
    P) on the diagonal; a sequence 2 R P N for what came before it. A step
    costs a head 6 R P N for what two tokens write and one reads, and 5 P N.
    """
    for name, size in {
        "length": length, "d_model": d_model, "N": N, "expand": expand,
        "P": P, "rank": rank, "chunk": chunk,
    }.items():  # fmt: skip
        _validate.count(name, size)
    d_inner, R, pairs = expand * d_model, rank, N // 4
    heads, C = d_inner // P, min(chunk, length)
    maps = 2 * d_inner + 2 * R * N + 3 * heads + pairs + d_inner
    maps *= d_model
    token = R * (2 * C * R * (P + N + C * R) + 4 * P * N)
    token = heads * (token + 2 * R * R * (N + P))
    own = 2 * N + 2 * heads * (1 + R * N) + (3 * R * d_inner if R > 1 else 0)
    return Cost(
        parameters=maps + own,
        forward_flops=(2 * maps + token) * length + 2 * heads * R * P * N,
        depth=1 + 3 + -(-length // C),
        step_flops=2 * maps + heads * (6 * R + 5) * P * N,
        state=heads * (pairs + P * N + P + R * N),
    )


@cost.register(Mamba3)
def _mamba3(layer: Mamba3, length: int) -> Cost:
    return mamba3_cost(
        length, layer.d_model, layer.N, layer.d_inner // layer.d_model,
        layer.P, layer.rank, layer.chunk,
    )  # fmt: skip
