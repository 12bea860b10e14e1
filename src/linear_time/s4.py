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

import math
from collections.abc import Callable
from typing import Any, NamedTuple

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
from linear_time.hippo import legs, normal_plus_low_rank
from linear_time.layer import full, log_uniform, without_autocast, zeros
from linear_time.mixer import SequenceMixer

DIAGONAL_RULES = {
    "zero_order_hold": zero_order_hold_diagonal,
    "bilinear": bilinear_diagonal,
}


def vandermonde_kernel(
    a_bar: Complex[Tensor, "*batch pairs"],
    weights: Complex[Tensor, "*more pairs"],
    length: int,
) -> Float[Tensor, "*more length"]:
    """The kernel of a diagonal system: K_i = 2 Re Σ_n w_n ā_n^i.

    The matrix of powers ā_n^i is a Vandermonde matrix. It is built by
    doubling: powers 0 … m − 1, times ā^m, are powers m … 2m − 1. That takes
    log₂ L products and no logarithm, which would fail at ā = 0.

    Args:
        a_bar: ā, half of the conjugate pairs, (…, N/2).
        weights: w_n = C_n b̄_n, of a_bar's shape; or several of that shape.
        length: L, ≥ 1.

    Returns:
        K, real, (…, length).

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit, a value is not finite, length < 1.

    Source: Gu et al. (2022), "On the Parameterization and Initialization of
        Diagonal State Space Models" (S4D), section 3.
    """
    _pairs(a_bar=a_bar, weights=weights)
    length = _validate.count("length", length)
    a_bar, weights = full(a_bar), full(weights)
    powers = torch.ones_like(a_bar)[..., None]  # (…, N/2, 1)
    factor = a_bar[..., None]
    while powers.shape[-1] < length:
        powers = torch.cat([powers, powers * factor], dim=-1)
        factor = factor**2
    sums = weights[..., None, :] @ powers[..., :length]  # (…, 1, L)
    return 2 * sums[..., 0, :].real


def cauchy_kernel(
    eigenvalues: Complex[Tensor, "*batch pairs"],
    P: Complex[Tensor, "*batch pairs"],
    B: Complex[Tensor, "*more pairs"],
    C: Complex[Tensor, "*batch pairs"],
    delta: Float[Tensor, "*batch"],
    length: int,
) -> Float[Tensor, "*more length"]:
    """The kernel of A = diag(λ) − P P* under the bilinear rule, by FFT.

    K_i = C Ā^i B̄ for i < L are the coefficients of a polynomial, its
    generating function K̂(z) = Σ_i K_i z^i. At the L-th roots of unity
    z^L = 1 the geometric sum closes, and one inverse FFT gives all K_i:

        K̂(z) = C̃ (I − z Ā)⁻¹ B̄,  C̃ = C (I − Ā^L).

    For the bilinear rule, with α = 2(1 − z)/Δ and β = 1 + z,

        (I − z Ā)⁻¹ B̄ = 2 (α I − β A)⁻¹ B,

    which is S4's g = α/β multiplied through by 1 + z: it is regular at
    z = −1. The low-rank part is taken out by Woodbury's identity. With
    ⟨u, v⟩ = Σ_n u_n v_n / (α − βλ_n), a Cauchy product over all N states,

        K̂(z) = 2 (⟨C̃, B⟩ − β ⟨C̃, P⟩ ⟨P*, B⟩ / (1 + β ⟨P*, P⟩)).

    Args:
        eigenvalues: λ, half of the conjugate pairs, (…, N/2), Re λ < 0.
        P: low-rank vector, (…, N/2).
        B: input vector, (…, N/2); or several of that shape.
        C: output vector, (…, N/2), not yet corrected to C̃.
        delta: step sizes Δ > 0, (…).
        length: L, ≥ 1.

    Returns:
        K, real, (…, length).

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit, a value is not finite or not in
            its range, length < 1.

    Source: S4, theorem 3, algorithm 1 and appendix C.3.
    """
    _pairs(eigenvalues=eigenvalues, P=P, B=B, C=C)
    _check_delta(delta, eigenvalues)
    length = _validate.count("length", length)
    if _validate.searched() and not (eigenvalues.real < 0).all():
        raise ValueError(
            "eigenvalues: expected real parts < 0, "
            f"got a largest of {eigenvalues.real.max().item():g}"
        )
    eigenvalues, P, B, C = (full(v) for v in (eigenvalues, P, B, C))
    delta = full(delta)
    C = truncated_output(eigenvalues, P, C, delta, length)  # C̃
    # The left and right vectors of the four products, both halves of each
    # pair: (…, 1 or 2, N).
    left = _both(torch.stack([C, P.conj()], dim=-2))
    right = _both(torch.stack([B, P.expand_as(B)], dim=-2))
    products = left[..., :, None, :] * right[..., None, :, :]  # (…, 2, 2, N)
    frequency = torch.arange(length // 2 + 1, device=delta.device)  # (L/2+1,)
    z = torch.polar(
        torch.ones_like(frequency, dtype=delta.dtype),
        -2 * math.pi / length * frequency.to(delta.dtype),
    )
    alpha = 2 * (1 - z) / delta[..., None]  # (…, L/2+1)
    beta = 1 + z  # (L/2+1,)
    poles = beta[:, None] * _both(eigenvalues)[..., None, :]
    cauchy = 1 / (alpha[..., None] - poles)  # (…, L/2+1, N)
    sums = products.flatten(-3, -2) @ cauchy.mT  # (…, 4, L/2+1)
    CB, CP, PB, PP = sums.unbind(-2)
    K_hat = 2 * (CB - beta * CP * PB / (1 + beta * PP))
    return torch.fft.irfft(K_hat, n=length)


def truncated_output(
    eigenvalues: Complex[Tensor, "*batch pairs"],
    P: Complex[Tensor, "*batch pairs"],
    C: Complex[Tensor, "*batch pairs"],
    delta: Float[Tensor, "*batch"],
    length: int,
) -> Complex[Tensor, "*batch pairs"]:
    """C̃ = C (I − Ā^L): what closes the geometric sum at length L.

    The parameter is C, and C̃ follows for each length, so that one model
    serves all lengths. (Learning C̃ saves the matrix power, and ties the
    model to the length it was trained at.)

    Args, Raises: as ``cauchy_kernel``.

    Returns:
        C̃, half of the conjugate pairs, (…, N/2).

    Source: S4, appendix C.3; the choice of parameter is this book's.
    """
    A_bar = real_transition(eigenvalues, P, delta)
    # y = 2 Re(C h) = c · (Re h, Im h) with c = 2 (Re C, −Im C).
    c = 2 * torch.cat([C.real, -C.imag], dim=-1)[..., None]  # (…, N, 1)
    with without_autocast(delta):
        power = torch.linalg.matrix_power(A_bar.mT, length)
        real, imaginary = (c - power @ c)[..., 0].chunk(2, dim=-1)
    return torch.complex(real, -imaginary) / 2


def real_transition(
    eigenvalues: Complex[Tensor, "*batch pairs"],
    P: Complex[Tensor, "*batch pairs"],
    delta: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch N N"]:
    """Ā on the N real numbers (Re h, Im h) of the pairs h, (…, N, N)."""
    n = 2 * P.shape[-1]
    identity = torch.eye(n, dtype=delta.dtype, device=delta.device)
    unit = torch.complex(*identity.chunk(2, dim=-1))  # the N real states
    A_bar = dplr_step(  # its row j: what becomes of the real state j
        eigenvalues[..., None, :], P[..., None, :], delta[..., None], unit
    )
    return torch.cat([A_bar.real, A_bar.imag], dim=-1).mT


def dplr_step(
    eigenvalues: Complex[Tensor, "*#batch pairs"],
    P: Complex[Tensor, "*#batch pairs"],
    delta: Float[Tensor, "*#batch"],
    h: Complex[Tensor, "*#batch pairs"],
    drive: Complex[Tensor, "*#batch pairs"] | float = 0.0,
) -> Complex[Tensor, "*batch pairs"]:
    """One bilinear step of A = diag(λ) − P P* in O(N).

    h ← (I − Δ/2 A)⁻¹ ((I + Δ/2 A) h + Δ drive), with drive = B x_k.

    The inverse is Woodbury's: with R = (I − Δ/2 diag(λ))⁻¹,
    (R⁻¹ + Δ/2 P P*)⁻¹ = R − R P (2/Δ + P* R P)⁻¹ P* R. The states h are half
    of the pairs, so P* h over both halves is 2 Re Σ conj(P_n) h_n.

    Args:
        eigenvalues: λ, (…, N/2), Re λ < 0.
        P: low-rank vector, (…, N/2).
        delta: step sizes Δ > 0, (…).
        h: state, (…, N/2).
        drive: B x_k, (…, N/2), or 0. All shapes broadcast.

    Returns:
        The next state, (…, N/2).

    Source: S4, theorem 2 and appendix C.2.
    """
    return _Woodbury.of(eigenvalues, P, delta).step(h, drive)


class _Woodbury(NamedTuple):
    """What ``dplr_step`` needs of a system: it is made once for all steps."""

    eigenvalues: Tensor  # λ
    P: Tensor
    P_conj: Tensor
    delta: Tensor  # Δ, (…, 1)
    half: Tensor  # Δ/2
    R: Tensor  # (I − Δ/2 diag(λ))⁻¹
    R_P: Tensor
    denominator: Tensor  # 2/Δ + P* R P

    @classmethod
    def of(cls, eigenvalues: Tensor, P: Tensor, delta: Tensor) -> "_Woodbury":
        delta = delta[..., None]  # (…, 1)
        R = 1 / (1 - delta / 2 * eigenvalues)
        P_conj, R_P = P.conj().resolve_conj(), R * P
        denominator = 2 / delta + _twice_real_sum(P_conj, R_P)
        half = delta / 2
        return cls(eigenvalues, P, P_conj, delta, half, R, R_P, denominator)

    def step(self, h: Tensor, drive: Tensor | float) -> Tensor:
        A_h = self.eigenvalues * h - self.P * _twice_real_sum(self.P_conj, h)
        right = h + self.half * A_h + self.delta * drive
        solved = self.R * right
        inner = _twice_real_sum(self.P_conj, solved)
        return solved - self.R_P * inner / self.denominator


def _twice_real_sum(v: Tensor, w: Tensor) -> Tensor:
    """Σ v_n w_n over both halves of the pairs, (…, 1)."""
    return 2 * (v * w).real.sum(-1, keepdim=True)


def s4d_eigenvalues(
    init: str, N: int, seed: int | None = None
) -> Complex[Tensor, " pairs"]:
    """The N/2 eigenvalues with which a diagonal system starts, Im ≥ 0.

    For n = 0 … N/2 − 1:

        lin      −½ + iπn
        inv      −½ + i (N/π) (N/(2n+1) − 1)
        real     −(n+1)
        legs     the eigenvalues of LegS's normal part, −½ + iω_n
        random   −exp(g_n) + i exp(g′_n), g and g′ standard normal

    Args:
        init: one of these names.
        N: state size, even.
        seed: of "random"; the default generator if None.

    Returns:
        λ, complex128, (N/2,), on the CPU.

    Raises:
        TypeError, ValueError: N is not even and ≥ 2, or init is unknown.

    Source: S4D, section 4 (legs, inv, lin, real); "random" is this book's.
    """
    N = _check_state_size(N)
    _validate.one_of("init", init, ("lin", "inv", "real", "legs", "random"))
    n = torch.arange(N // 2, dtype=torch.float64, device="cpu")
    half = torch.full_like(n, 0.5)
    if init == "lin":
        return torch.complex(-half, math.pi * n)
    if init == "inv":
        return torch.complex(-half, N / math.pi * (N / (2 * n + 1) - 1))
    if init == "real":
        return torch.complex(-(n + 1), 0 * n)
    if init == "legs":
        return normal_plus_low_rank(N).eigenvalues[N // 2 :]
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    sizes: Any = {"dtype": torch.float64, "device": "cpu"}
    g = torch.randn(2, N // 2, generator=generator, **sizes)
    return torch.complex(-g[0].exp(), g[1].exp())


def legs_dplr(N: int) -> tuple[Tensor, Tensor, Tensor]:
    """LegS in the basis where its normal part is diagonal: (λ, V* P, V* B).

    Only the half with Im λ > 0 is returned, complex128, (N/2,) each.

    Source: S4, theorem 1.
    """
    N = _check_state_size(N)
    split = normal_plus_low_rank(N)
    V_star = split.V.mH[N // 2 :]  # (N/2, N)
    B = legs(N)[1].to(V_star.dtype)
    P = split.P.to(V_star.dtype)
    return split.eigenvalues[N // 2 :], V_star @ P, V_star @ B


class _StateSpaceLayer(SequenceMixer):
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

    def constants(self) -> Any:
        """What ``next_state`` needs of the parameters."""
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
        self._made = None
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
                h = _as_rows(state, A)  # (d_model, …, batch)
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
            sums = _product(after.flip(2), u.flatten(2))  # over `some` inputs
            sums = sums.unflatten(2, u.shape[2:])  # (d_model, …, sums, batch)
            own = sums[:, :, 0]
            for part in sums.unbind(2)[1:]:
                own = times(A, own) + part
        return _as_pairs(own + h)

    def initial_state(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Complex[Tensor, "batch d_model pairs"]:
        """h = 0, (batch, d_model, N/2), complex of the dtype's precision."""
        self._made = None
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

    _made: Any = None  # what ``made_once`` made, and from what

    def made_once(self) -> Any:
        """``constants``, kept for the next step where nothing can change them.

        They are made anew after a change of a parameter that torch counts or
        that moves it, at the start of every generation, and for every step
        that has a gradient with respect to the parameters.
        """
        own = [p for p in self._parameters.values() if p is not None]
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in own)
        if learns or torch.compiler.is_compiling():
            return self.constants()
        try:
            seen = [(id(p), p.data_ptr(), p._version, p.dtype) for p in own]
        except RuntimeError:  # a tensor of a transform, without memory
            return self.constants()
        key = seen, torch.is_inference_mode_enabled()
        if self._made is None or self._made[0] != key:
            self._made = key, self.constants(), own
        return self._made[1]

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Any:
        self._made = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_made"}

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
        a_bar, b_bar = self.made_once()  # (d_model, N/2)
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
        A_h = eigenvalues * h - P * _twice_real_sum(P.conj(), h)
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
        return _Woodbury.of(eigenvalues, P, delta), B

    def next_state(self, h: Tensor, x_t: Tensor) -> Tensor:
        """h_k as by ``dplr_step``."""
        system, B = self.made_once()
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


def _as_rows(h: Tensor, A: Tensor) -> Tensor:
    """(batch, d_model, N/2) → (d_model, …, batch), real where Ā is."""
    h = h.permute(1, 2, 0)
    return h if A.is_complex() else torch.cat([h.real, h.imag], dim=1)


def _as_pairs(h: Tensor) -> Tensor:
    """And back."""
    if not h.is_complex():
        h = torch.complex(*h.chunk(2, dim=1))
    return h.permute(2, 0, 1).contiguous()


def _product(A: Tensor, x: Tensor) -> Tensor:
    """A @ x with a real x: no complex product where A is complex."""
    if A.is_complex():
        return torch.complex(A.real @ x, A.imag @ x)
    return A @ x


def _both(v: Tensor) -> Tensor:
    """Both halves of the conjugate pairs: (…, N/2) → (…, N)."""
    return torch.cat([v, v.conj()], dim=-1)


def _pairs(**tensors: Tensor) -> None:
    """Complex tensors of one precision and of the first one's shape.

    B and the weights may be several of that shape.
    """
    (first, reference), *_ = tensors.items()
    for name, value in tensors.items():
        _validate.sequence(name, value)
        if not value.is_complex():
            raise TypeError(
                f"{name}: expected a complex tensor, got dtype {value.dtype}"
            )
        several = name in ("B", "weights")
        last = value.shape[-reference.ndim :] if several else value.shape
        if last != reference.shape:
            raise ValueError(
                f"{name}: expected the shape of {first}, "
                f"{_validate.shape_text(reference.shape)}, "
                f"got shape {_validate.shape_text(value.shape)}"
            )
    _validate.full_precision(**tensors)


def _check_delta(delta: Tensor, eigenvalues: Tensor) -> None:
    _validate.positive("delta", delta)
    _validate.shaped("delta", delta, tuple(eigenvalues.shape[:-1]))
    _validate.full_precision(eigenvalues=eigenvalues, delta=delta)


def _check_state_size(N: int) -> int:
    N = _validate.count("N", N)
    if N % 2:
        raise ValueError(
            f"N: expected an even number, conjugate pairs, got {N}"
        )
    return N


@cost.register(S4D)
def _s4d_cost(layer: S4D, length: int) -> Cost:
    return s4d_cost(length, layer.d_model, layer.N)


@cost.register(S4)
def _s4_cost(layer: S4, length: int) -> Cost:
    return s4_cost(length, layer.d_model, layer.N)
