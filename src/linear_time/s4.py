"""Chapter 15: S4 and S4D, state-space layers with a kernel made in one go.

Each of the d_model channels is a system of its own, h′ = A h + B x,
y = C h + D x, with its own step size Δ. A is diagonal (S4D), or a diagonal
minus a rank-one matrix (S4), and complex. The states of a real system come in
conjugate pairs, so one of each pair is kept, N/2 in all, and a sum over the
states becomes twice a real part: Σ_n (w_n + conj w_n) = 2 Re Σ_n w_n.

Kernels and states are at least float32 and complex64, whatever the input is.

Both layers are causal. A bidirectional one would add a second kernel that
reads the sequence from its end; it could not generate.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor, nn

from linear_time import _validate
from linear_time.convolution import causal_convolution
from linear_time.cost import Cost, cost, s4_cost, s4d_cost
from linear_time.discretization import (
    bilinear_diagonal,
    zero_order_hold_diagonal,
)
from linear_time.layer import (
    Constants,
    full,
    log_uniform,
    without_autocast,
    zeros,
)
from linear_time.mixer import SequenceMixer
from linear_time.s4_kernels import (  # noqa: F401
    Woodbury,
    as_pairs,
    as_rows,
    cauchy_kernel,
    dplr_step,
    legs_dplr,
    product_with_real,
    real_transition,
    s4d_eigenvalues,
    truncated_output,
    twice_real_sum,
    vandermonde_kernel,
)

DIAGONAL_RULES = {
    "zero_order_hold": zero_order_hold_diagonal,
    "bilinear": bilinear_diagonal,
}


class _StateSpaceLayer(Constants, SequenceMixer):
    """What S4 and S4D share: all but the kernel and the step of the state.

    y = W gelu(SSM(x) + D ⊙ x) + b. The systems keep to their channels; the
    linear map W mixes them, position by position.
    """

    log_delta: Tensor
    log_decay: Tensor
    frequency: Tensor
    C: Tensor
    D: Tensor

    def __init__(
        self,
        d_model: int,
        N: int,
        eigenvalues: Tensor,
        delta_min: float | int,
        delta_max: float | int,
        lr_scale: float | int,
    ) -> None:
        super().__init__(d_model)
        d_model, N = self.d_model, _validate.count("N", N)
        _validate.number("lr_scale", lr_scale)
        self.N = N
        every = eigenvalues.expand(d_model, -1)  # (d_model, N/2)
        C = torch.randn(d_model, N // 2, dtype=torch.complex64)
        log_delta = log_uniform("delta", delta_min, delta_max, d_model)
        slow: Any = {"decay": False, "lr_scale": lr_scale, "exact": True}
        self.parameter("log_delta", log_delta, **slow)
        self.parameter("log_decay", (-every.real).log(), **slow)
        self.parameter("frequency", every.imag, **slow)
        self.parameter("C", torch.view_as_real(C), decay=False, exact=True)
        self.parameter("D", torch.ones(d_model), decay=False)
        self.out = nn.Linear(d_model, d_model)

    @property
    def delta(self) -> Float[Tensor, " d_model"]:
        """Δ > 0 of each channel: exp(log_delta)."""
        return self.log_delta.exp()

    @property
    def eigenvalues(self) -> Complex[Tensor, "d_model pairs"]:
        """λ = −exp(log_decay) + i frequency: stable whatever is learned."""
        return torch.complex(-self.log_decay.exp(), self.frequency)

    def kernel(self, length: int) -> Float[Tensor, "d_model length"]:
        """K of every channel, (d_model, length)."""
        raise NotImplementedError

    def kernels(self, length: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """(K, the output that a state alone leaves behind, (…, length))."""
        raise NotImplementedError

    def transition(self) -> tuple[Tensor, Tensor, Callable[..., Tensor]]:
        """(Ā, B̄, their product), for states (d_model, …, many)."""
        raise NotImplementedError

    def next_state(self, h: Tensor, x_t: Tensor) -> Tensor:
        """h_k from h_{k−1} (batch, d_model, N/2) and x_k (batch, d_model)."""
        raise NotImplementedError

    def forward(
        self,
        x: Float[Tensor, "batch length d_model"],
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> Float[Tensor, "batch length d_model"]:
        self.check_input(x)
        self.check_mask(mask, x)
        u = full(x) if mask is None else _masked(full(x), mask)
        with _validate.inner():
            K = self.kernel(x.shape[1])  # (d_model, length)
            y = causal_convolution(u.mT, K[None]).mT  # (batch, length, d_model)
        return self._output(y, x)

    def prefill(
        self,
        x: Float[Tensor, "batch length d_model"],
        state: Complex[Tensor, "batch d_model pairs"] | None = None,
        mask: Bool[Tensor, "batch length"] | None = None,
    ) -> tuple[
        Float[Tensor, "batch length d_model"],
        Complex[Tensor, "batch d_model pairs"],
    ]:
        self.forget_constants()
        self.check_input(x)
        self.check_mask(mask, x)
        u = full(x) if mask is None else _masked(full(x), mask)
        with _validate.inner():
            if state is None:
                K = self.kernel(x.shape[1])  # (d_model, length)
                y = causal_convolution(u.mT, K[None])
            else:
                self._check_state(state, len(x))
                K, left = self.kernels(x.shape[1], state)
                y = causal_convolution(u.mT, K[None]) + _late(left, mask)
            h = self._last_state(u.mT, state, mask)
        return self._output(y.mT, x), h

    def _last_state(
        self, u: Tensor, state: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """The state after inputs u (batch, d_model, length), from ``state``.

        Σ_k Ā^{n−1−k} B̄ u_k + Ā^n h: sums over 64 inputs each, all at once,
        then from one sum to the next.
        """
        length = u.shape[2]
        A, after, times = self.transition()
        with without_autocast(u):
            h: Any = 0
            if state is not None:
                h = as_rows(state, A)  # (d_model, …, batch)
                n = torch.full((len(u),), length, device=u.device)
                n = n if mask is None else mask.sum(1)
                power = A
                for k in range(length.bit_length()):
                    h = torch.where((n >> k) % 2 == 1, times(power, h), h)
                    power = times(power, power)
            # after[…, i]: what an input leaves i steps later
            while after.shape[2] < min(length, 64):
                after, A = torch.cat([after, times(A, after)], 2), times(A, A)
            some = after.shape[2]
            u = nn.functional.pad(u, (-length % some, 0))
            u = u.unflatten(2, (-1, some)).permute(1, 3, 2, 0)
            sums = product_with_real(
                after.flip(2), u.flatten(2)
            )  # over `some` inputs
            sums = sums.unflatten(2, u.shape[2:])  # (d_model, …, sums, batch)
            own = sums[:, :, 0]
            for part in sums.unbind(2)[1:]:
                own = times(A, own) + part
        return as_pairs(own + h)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Complex[Tensor, "batch d_model pairs"]:
        """h = 0, (batch, d_model, N/2), complex of the dtype's precision."""
        self.forget_constants()
        dtype = self.log_delta.dtype if dtype is None else dtype
        dtype = torch.promote_types(dtype, torch.complex64)
        sizes = batch_size, self.d_model, self.N // 2
        return zeros(self.log_delta, *sizes, device=device, dtype=dtype)

    def step(
        self,
        x_t: Float[Tensor, "batch d_model"],
        state: Complex[Tensor, "batch d_model pairs"],
    ) -> tuple[
        Float[Tensor, "batch d_model"], Complex[Tensor, "batch d_model pairs"]
    ]:
        self.check_input(x_t, "x_t")
        self._check_state(state, len(x_t))
        h = self.next_state(state, full(x_t))
        C = torch.view_as_complex(self.C)
        y_t = 2 * (C * h).real.sum(-1)  # (batch, d_model)
        return self._output(y_t, x_t), h

    def _check_state(self, state: Any, batch: int) -> None:
        sizes = batch, self.d_model, self.N // 2
        _validate.state("state", state, *sizes, kind="complex")

    def _output(self, y: Tensor, x: Tensor) -> Tensor:
        y = nn.functional.gelu(y + full(self.D) * full(x))
        mixed: Tensor = self.out(y.to(x.dtype))
        return mixed


class S4D(_StateSpaceLayer):
    """Diagonal state-space layer.

    λ_n, C_n, Δ and D are learned, for each channel; B = 1, since only the
    products C_n b̄_n matter. Then y = W gelu(SSM(x) + D ⊙ x) + b.

    No weight decay acts on the systems, and λ and Δ learn at ``lr_scale``
    times the rate (``mixer.mark_of``).

    Args:
        d_model: number of channels, each with its own system.
        N: state size, even; N/2 complex states are kept.
        init: the eigenvalues, see ``s4d_eigenvalues``.
        rule: "zero_order_hold" or "bilinear".
        delta_min, delta_max: Δ starts log-uniform between them.
        lr_scale: learning rate of λ and Δ, relative to the others'.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: S4D. The layer around the systems follows the S4 authors' code,
        with a plain linear map where that has a gated one.
    """

    def __init__(
        self,
        d_model: int,
        N: int = 64,
        init: str = "lin",
        rule: str = "zero_order_hold",
        delta_min: float | int = 1e-3,
        delta_max: float | int = 1e-1,
        lr_scale: float | int = 0.25,
    ) -> None:
        eigenvalues = s4d_eigenvalues(init, N)
        super().__init__(
            d_model, N, eigenvalues, delta_min, delta_max, lr_scale
        )
        _validate.one_of("rule", rule, DIAGONAL_RULES)
        self.rule = rule

    def discrete(
        self,
    ) -> tuple[
        Complex[Tensor, "d_model pairs"], Complex[Tensor, "d_model pairs"]
    ]:
        """(ā, b̄) of every channel, (d_model, N/2)."""
        a = self.eigenvalues
        rule = DIAGONAL_RULES[self.rule]
        with _validate.inner():
            return rule(a, torch.ones_like(a), self.delta[:, None])

    def kernel(self, length: int) -> Float[Tensor, "d_model length"]:
        """K of every channel, (d_model, length), by ``vandermonde_kernel``."""
        a_bar, b_bar = self.discrete()
        C = torch.view_as_complex(self.C)
        return vandermonde_kernel(a_bar, C * b_bar, length)

    def kernels(self, length: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """(K, the output that a state alone leaves behind)."""
        a_bar, b_bar = self.discrete()
        C = torch.view_as_complex(self.C)
        weights = torch.cat([(C * b_bar)[None], C * a_bar * h])
        K, left = vandermonde_kernel(a_bar, weights, length).split([1, len(h)])
        return K[0], left

    def transition(self) -> tuple[Tensor, Tensor, Callable[..., Tensor]]:
        """(ā, b̄, ·), each (d_model, N/2, 1)."""
        a_bar, b_bar = self.discrete()
        return a_bar[..., None], b_bar[..., None], torch.mul

    def constants(self) -> tuple[Tensor, Tensor]:
        """(ā, b̄)."""
        return self.discrete()

    def next_state(self, h: Tensor, x_t: Tensor) -> Tensor:
        """h_k = ā h_{k−1} + b̄ x_k."""
        a_bar, b_bar = self.kept_constants()  # (d_model, N/2)
        return a_bar * h + b_bar * x_t[..., None]


class S4(_StateSpaceLayer):
    """State-space layer with A = diag(λ) − P P*, started at LegS.

    λ, P, B, C, Δ and D are learned, for each channel, and A stays stable:
    A + A* = 2 Re diag(λ) − 2 P P* is negative. The rule is bilinear. Then
    y = W gelu(SSM(x) + D ⊙ x) + b.

    No weight decay acts on the systems, and λ, P, B and Δ learn at
    ``lr_scale`` times the rate (``mixer.mark_of``).

    Args:
        d_model: number of channels, each with its own system.
        N: state size, even; N/2 complex states are kept.
        delta_min, delta_max: Δ starts log-uniform between them.
        lr_scale: learning rate of λ, P, B and Δ, relative to the others'.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: S4, section 3; the form −P P* with one P is from Goel et al.
        (2022), "It's Raw!" (SaShiMi).
    """

    P: Tensor
    B: Tensor

    def __init__(
        self,
        d_model: int,
        N: int = 64,
        delta_min: float | int = 1e-3,
        delta_max: float | int = 1e-1,
        lr_scale: float | int = 0.25,
    ) -> None:
        eigenvalues, P, B = legs_dplr(N)
        super().__init__(
            d_model, N, eigenvalues, delta_min, delta_max, lr_scale
        )
        P, B = (v.expand(d_model, -1).clone() for v in (P, B))
        slow: Any = {"decay": False, "lr_scale": lr_scale, "exact": True}
        self.parameter("P", torch.view_as_real(P), **slow)
        self.parameter("B", torch.view_as_real(B), **slow)

    def system(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(λ, P, B, C, Δ): (d_model, N/2) four times, and (d_model,)."""
        P, B, C = (torch.view_as_complex(p) for p in (self.P, self.B, self.C))
        return self.eigenvalues, P, B, C, self.delta

    def kernel(self, length: int) -> Float[Tensor, "d_model length"]:
        """K of every channel, (d_model, length), by ``cauchy_kernel``."""
        return cauchy_kernel(*self.system(), length)

    def kernels(self, length: int, h: Tensor) -> tuple[Tensor, Tensor]:
        """(K, the output that a state alone leaves behind).

        That is the kernel whose B̄ is Ā h, so B = (I + Δ/2 A) h / Δ.
        """
        eigenvalues, P, B, C, delta = self.system()
        A_h = eigenvalues * h - P * twice_real_sum(P.conj(), h)
        start = h / delta[:, None] + A_h / 2
        inputs = torch.cat([B[None], start])
        made = cauchy_kernel(eigenvalues, P, inputs, C, delta, length)
        K, left = made.split([1, len(h)])
        return K[0], left

    def transition(self) -> tuple[Tensor, Tensor, Callable[..., Tensor]]:
        """(Ā, B̄, @) of the real states, (d_model, N, N) and (d_model, N, 1)."""
        eigenvalues, P, B, _, delta = self.system()
        B_bar = dplr_step(eigenvalues, P, delta, torch.zeros_like(B), B)
        rows = torch.cat([B_bar.real, B_bar.imag], dim=-1)[..., None]
        return real_transition(eigenvalues, P, delta), rows, torch.matmul

    def constants(self) -> tuple[Any, Tensor]:
        """What ``dplr_step`` makes of A and Δ, and B."""
        eigenvalues, P, B, _, delta = self.system()
        return Woodbury.of(eigenvalues, P, delta), B

    def next_state(self, h: Tensor, x_t: Tensor) -> Tensor:
        """h_k as by ``dplr_step``."""
        system, B = self.kept_constants()
        return system.step(h, B * x_t[..., None])


def _masked(x: Tensor, mask: Tensor) -> Tensor:
    """x with zeros on the padding."""
    return x.masked_fill(~mask[..., None], 0)


def _late(left: Tensor, mask: Tensor | None) -> Tensor:
    """What a state leaves behind, (batch, d_model, length), after padding."""
    if mask is None:
        return left
    place = torch.arange(mask.shape[1], device=mask.device)
    source = (place - (~mask).sum(1)[:, None]).clamp(min=0)  # (batch, length)
    return left.gather(2, source[:, None].expand_as(left))


@cost.register(S4D)
def _s4d_cost(layer: S4D, length: int) -> Cost:
    return s4d_cost(length, layer.d_model, layer.N)


@cost.register(S4)
def _s4_cost(layer: S4, length: int) -> Cost:
    return s4_cost(length, layer.d_model, layer.N)
