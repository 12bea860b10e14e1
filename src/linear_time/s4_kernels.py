"""Chapter 15: the kernels of S4 and S4D, and how a step of S4 stays cheap.

Half of each conjugate pair of a real system is kept, N/2 complex states, and
a sum over the states becomes twice a real part. Kernels are at least float32
and complex64, whatever their arguments are.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from linear_time import _validate
from linear_time.hippo import legs, normal_plus_low_rank
from linear_time.layer import full, without_autocast


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
    return Woodbury.of(eigenvalues, P, delta).step(h, drive)


class Woodbury(NamedTuple):
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
    def of(cls, eigenvalues: Tensor, P: Tensor, delta: Tensor) -> "Woodbury":
        delta = delta[..., None]  # (…, 1)
        R = 1 / (1 - delta / 2 * eigenvalues)
        P_conj, R_P = P.conj().resolve_conj(), R * P
        denominator = 2 / delta + twice_real_sum(P_conj, R_P)
        half = delta / 2
        return cls(eigenvalues, P, P_conj, delta, half, R, R_P, denominator)

    def step(self, h: Tensor, drive: Tensor | float) -> Tensor:
        A_h = self.eigenvalues * h - self.P * twice_real_sum(self.P_conj, h)
        right = h + self.half * A_h + self.delta * drive
        solved = self.R * right
        inner = twice_real_sum(self.P_conj, solved)
        return solved - self.R_P * inner / self.denominator


def twice_real_sum(v: Tensor, w: Tensor) -> Tensor:
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


def as_rows(h: Tensor, A: Tensor) -> Tensor:
    """A state (batch, d_model, N/2) as Ā takes it, (d_model, …, batch).

    Its N/2 pairs where Ā is complex, else their N real numbers.
    """
    h = h.permute(1, 2, 0)
    return h if A.is_complex() else torch.cat([h.real, h.imag], dim=1)


def as_pairs(h: Tensor) -> Tensor:
    """A state that ``as_rows`` made, (batch, d_model, N/2) again."""
    if not h.is_complex():
        h = torch.complex(*h.chunk(2, dim=1))
    return h.permute(2, 0, 1).contiguous()


def product_with_real(A: Tensor, x: Tensor) -> Tensor:
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
