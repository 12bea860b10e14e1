"""Chapter 12: four ways to turn h′ = A h + B x into a recurrence.

A rule takes the continuous (A, B) and a step size Δ and returns the discrete
pair (Ā, B̄) of

    h_k = Ā h_{k-1} + B̄ x_k.

The index is the book's and Mamba's: step k reads x_k. A text whose Euler step
reads x_{k-1} has the same pair and a sequence that is one step late; so has
``scipy.signal.dlsim``, whose y[t+1] is y[t] here.

Each rule has a twin that ends in ``_diagonal``, for a diagonal A that is kept
as the vector a of its diagonal. What a rule returns is at least float32: a
half would round Ā = 1 + ΔA to 1 for a small step.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from linear_time import _validate
from linear_time.layer import full

DensePair = tuple[Inexact[Tensor, "N N"], Inexact[Tensor, " N"]]
DiagonalPair = tuple[Inexact[Tensor, "..."], Inexact[Tensor, "..."]]
DenseRule = Callable[..., tuple[Tensor, Tensor]]


def forward_euler(
    A: Inexact[Tensor, "N N"],
    B: Inexact[Tensor, " N"],
    delta: float | int | Float[Tensor, ""],
) -> DensePair:
    """Forward Euler: the slope at the start of the step.

    Ā = I + ΔA,  B̄ = ΔB.

    Args:
        A: state matrix (N, N), real or complex, in 1/time.
        B: input vector (N,), of A's precision.
        delta: step size Δ > 0, in the time unit of A.

    Returns:
        (A_bar, B_bar): shapes (N, N) and (N,).

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit, a value is not finite, or Δ ≤ 0.

    Source: Euler's method; the source post's discretization, with x_k in the
        place of its x_{k-1}.
    """
    A, B, identity = _dense(A, B, delta)
    return identity + delta * A, delta * B


def backward_euler(
    A: Inexact[Tensor, "N N"],
    B: Inexact[Tensor, " N"],
    delta: float | int | Float[Tensor, ""],
) -> DensePair:
    """Backward Euler: the slope at the end of the step.

    Ā = (I − ΔA)⁻¹,  B̄ = (I − ΔA)⁻¹ ΔB.

    Args, Returns, Raises: as ``forward_euler``; also a ValueError where
        I − ΔA is singular (an eigenvalue λ of A has Δλ = 1).

    Source: the implicit Euler method.
    """
    A, B, identity = _dense(A, B, delta)
    implicit = identity - delta * A
    return _solve(implicit, identity), _solve(implicit, delta * B)


def bilinear(
    A: Inexact[Tensor, "N N"],
    B: Inexact[Tensor, " N"],
    delta: float | int | Float[Tensor, ""],
) -> DensePair:
    """Bilinear rule (Tustin): the mean of the slopes at both ends.

    Ā = (I − Δ/2 A)⁻¹ (I + Δ/2 A),  B̄ = (I − Δ/2 A)⁻¹ ΔB.

    This is S4's one-sided form, which reads x_k alone. The trapezoid rule
    reads both ends with the same pair:
    h_k = Ā h_{k-1} + B̄ (x_k + x_{k-1}) / 2.

    Args, Returns, Raises: as ``forward_euler``; also a ValueError where
        I − Δ/2 A is singular (an eigenvalue λ of A has Δλ = 2).

    Source: Gu, Goel & Ré (2022), "Efficiently Modeling Long Sequences with
        Structured State Spaces" (S4), equation 3.
    """
    A, B, identity = _dense(A, B, delta)
    half = delta / 2 * A
    implicit = identity - half
    return _solve(implicit, identity + half), _solve(implicit, delta * B)


def zero_order_hold(
    A: Inexact[Tensor, "N N"],
    B: Inexact[Tensor, " N"],
    delta: float | int | Float[Tensor, ""],
) -> DensePair:
    """Zero-order hold: exact when the input is constant over the step.

    Ā = exp(ΔA),  B̄ = (∫₀^Δ exp(sA) ds) B,

    and B̄ = A⁻¹ (exp(ΔA) − I) B where A is invertible. Both blocks come from
    one exponential, which needs no inverse, so A may be singular:

        exp ⎡ΔA  I⎤ = ⎡exp(ΔA)  φ(ΔA)⎤,  φ(Z) = I + Z/2! + Z²/3! + …,
            ⎣ 0  0⎦   ⎣   0       I  ⎦

    with ∫₀^Δ exp(sA) ds = Δ φ(ΔA).

    Args, Returns, Raises: as ``forward_euler``.

    Source: Gu & Dao (2023), "Mamba", equation 4; the augmented matrix is
        Van Loan (1978), "Computing integrals involving the matrix
        exponential".
    """
    A, B, identity = _dense(A, B, delta)
    zero = torch.zeros_like(identity)
    top = torch.cat([delta * A, identity], dim=1)  # (N, 2N)
    bottom = torch.cat([zero, zero], dim=1)  # (N, 2N)
    augmented = torch.cat([top, bottom])  # (2N, 2N)
    A_bar, phi = torch.linalg.matrix_exp(augmented)[: len(A)].chunk(2, dim=1)
    return A_bar, delta * (phi @ B)


def forward_euler_diagonal(
    a: Inexact[Tensor, "..."],
    B: Inexact[Tensor, "..."],
    delta: float | int | Float[Tensor, "..."],
) -> DiagonalPair:
    """Forward Euler for a diagonal A: ā = 1 + Δa,  b̄ = ΔB, elementwise.

    Args:
        a: diagonal of A, (…, N), real or complex, in 1/time.
        B: input vector, (…, N), of a's precision.
        delta: step size Δ > 0: a number, or a real tensor. The shapes of
            a, B and delta broadcast together.

    Returns:
        (a_bar, b_bar): both of the broadcast shape.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: the shapes do not broadcast, a value is not finite, or
            some Δ ≤ 0.

    Source: as ``forward_euler``.
    """
    a, B, delta = _diagonal(a, B, delta)
    return 1 + delta * a, delta * B


def backward_euler_diagonal(
    a: Inexact[Tensor, "..."],
    B: Inexact[Tensor, "..."],
    delta: float | int | Float[Tensor, "..."],
) -> DiagonalPair:
    """Backward Euler for a diagonal A: ā = 1/(1 − Δa),  b̄ = ΔB/(1 − Δa).

    Args, Returns, Raises: as ``forward_euler_diagonal``; also a ValueError
        where Δa = 1.

    Source: as ``backward_euler``.
    """
    a, B, delta = _diagonal(a, B, delta)
    implicit = _nonzero(1 - delta * a)
    return 1 / implicit, delta * B / implicit


def bilinear_diagonal(
    a: Inexact[Tensor, "..."],
    B: Inexact[Tensor, "..."],
    delta: float | int | Float[Tensor, "..."],
) -> DiagonalPair:
    """Bilinear rule for a diagonal A, elementwise.

    ā = (1 + Δa/2) / (1 − Δa/2),  b̄ = ΔB / (1 − Δa/2).

    Args, Returns, Raises: as ``forward_euler_diagonal``; also a ValueError
        where Δa = 2.

    Source: as ``bilinear``.
    """
    a, B, delta = _diagonal(a, B, delta)
    half = delta * a / 2
    implicit = _nonzero(1 - half)
    return (1 + half) / implicit, delta * B / implicit


def zero_order_hold_diagonal(
    a: Inexact[Tensor, "..."],
    B: Inexact[Tensor, "..."],
    delta: float | int | Float[Tensor, "..."],
) -> DiagonalPair:
    """Zero-order hold for a diagonal A, elementwise, safe at a = 0.

    ā = exp(Δa),  b̄ = (exp(Δa) − 1)/a · B = Δ φ(Δa) B,

    where φ(z) = (exp(z) − 1)/z, and φ(0) = 1 is its limit.

    Args, Returns, Raises: as ``forward_euler_diagonal``.

    Source: as ``zero_order_hold``.
    """
    a, B, delta = _diagonal(a, B, delta)
    return torch.exp(delta * a), delta * phi(delta * a) * B


def exponential_euler_diagonal(
    a: Inexact[Tensor, "..."],
    B: Inexact[Tensor, "..."],
    delta: float | int | Float[Tensor, "..."],
) -> DiagonalPair:
    """Exponential Euler, Mamba's released rule: ā = exp(Δa),  b̄ = ΔB.

    The exact step of A; of the input's integral ∫ exp((Δ − τ)a) B x dτ its
    length Δ times its value at the right end: a rule of order one. It agrees
    with zero-order hold as Δa → 0: b̄ misses the factor φ(Δa), so it grows
    with Δ without bound.

    Args, Returns, Raises: as ``forward_euler_diagonal``.

    Source: the selective scan of the Mamba authors' released code; the
        paper's equation 4 has zero-order hold for both.
    """
    a, B, delta = _diagonal(a, B, delta)
    return torch.exp(delta * a), delta * B


def phi(z: Inexact[Tensor, "..."]) -> Inexact[Tensor, "..."]:
    """φ(z) = (exp(z) − 1)/z, φ(0) = 1, to full precision, slope included.

    Near 0 the quotient has the right value (with expm1) but autograd would
    subtract 1/z-sized terms, so there the power series takes over. The inner
    ``where`` keeps each branch from seeing the other's arguments: an infinity
    in an unused branch would turn the gradient into NaN.
    """
    small = z.abs() < 0.5
    near = torch.where(small, z, 0)
    far = torch.where(small, 1, z)
    series = torch.ones_like(near)
    for k in range(16, 1, -1):  # Horner: 1 + z/2 (1 + z/3 (1 + …))
        series = 1 + near / k * series
    return torch.where(small, series, _expm1(far) / far)


METHODS: dict[str, DenseRule] = {
    "forward_euler": forward_euler,
    "backward_euler": backward_euler,
    "bilinear": bilinear,
    "zero_order_hold": zero_order_hold,
}

METHODS_DIAGONAL: dict[str, DenseRule] = {
    "forward_euler": forward_euler_diagonal,
    "backward_euler": backward_euler_diagonal,
    "bilinear": bilinear_diagonal,
    "zero_order_hold": zero_order_hold_diagonal,
    "exponential_euler": exponential_euler_diagonal,
}

_STABILITY: dict[str, Callable[[Tensor], Tensor]] = {
    "forward_euler": lambda z: 1 + z,
    "backward_euler": lambda z: 1 / (1 - z),
    "bilinear": lambda z: (1 + z / 2) / (1 - z / 2),
    "zero_order_hold": torch.exp,
}


def stability_function(method: str) -> Callable[[Tensor], Tensor]:
    """R(z) of a rule: a mode with eigenvalue λ is multiplied by R(Δλ).

    The rule is stable at z = Δλ where |R(z)| < 1. R(z) is 1 + z for forward
    Euler, 1/(1 − z) for backward Euler, (1 + z/2)/(1 − z/2) for the bilinear
    rule, exp(z) for zero-order hold.

    Args:
        method: a key of ``METHODS``.

    Returns:
        A function of a tensor z, real or complex, elementwise.

    Raises:
        ValueError: the method is unknown.

    Source: Hairer & Wanner, "Solving Ordinary Differential Equations II",
        sections IV.2 and IV.3.
    """
    _validate.one_of("method", method, METHODS)
    return _STABILITY[method]


def _expm1(z: Tensor) -> Tensor:
    """exp(z) − 1 without cancellation, real or complex.

    With z = x + iy: exp(z) − 1 = expm1(x) cos y − 2 sin²(y/2) + i eˣ sin y.
    """
    if not z.is_complex():
        return torch.expm1(z)
    x, y = z.real, z.imag
    real = torch.expm1(x) * torch.cos(y) - 2 * torch.sin(y / 2) ** 2
    return torch.complex(real, torch.exp(x) * torch.sin(y))


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """matrix⁻¹ right, with an error that names the cause."""
    try:
        return torch.linalg.solve(matrix, right)
    except torch.linalg.LinAlgError as error:
        raise ValueError(
            "delta: expected a step for which the implicit step has a "
            "solution, got a singular matrix: Δλ = 1 (backward Euler) or "
            "Δλ = 2 (bilinear) for some eigenvalue λ of A"
        ) from error


def _nonzero(denominator: Tensor) -> Tensor:
    if _validate.searched() and (denominator == 0).any():
        raise ValueError(
            "delta: expected a step for which the implicit step has a "
            "solution, got Δa = 1 (backward Euler) or Δa = 2 (bilinear)"
        )
    return denominator


def _dense(
    A: Tensor, B: Tensor, delta: float | int | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Check a dense system; return A, B of one dtype and the identity."""
    n = _validate.square("A", A)
    _validate.shaped("B", B, (n,))
    _validate.number("delta", delta)
    dtype = _validate.full_precision(A=A, B=B)
    identity = torch.eye(n, dtype=dtype, device=A.device)
    return A.to(dtype), B.to(dtype), identity


def _diagonal(
    a: Tensor, B: Tensor, delta: float | int | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Check a diagonal system; return a, B, Δ of one shape."""
    _validate.sequence("a", a)
    _validate.sequence("B", B)
    _validate.full_precision(a=a, B=B)
    a, B = full(a), full(B)
    if not isinstance(delta, Tensor) or delta.ndim == 0:
        _validate.number("delta", delta)
        delta = torch.as_tensor(delta, dtype=a.dtype.to_real(), device=a.device)
    _validate.positive("delta", delta)
    _validate.full_precision(a=a, delta=delta)
    delta = full(delta)
    try:
        together = torch.broadcast_tensors(a, B, delta)
    except RuntimeError as error:
        shapes = [_validate.shape_text(each.shape) for each in (a, B, delta)]
        raise ValueError(
            "delta: expected shapes of a, B and delta that broadcast "
            f"together, got {', '.join(shapes)}"
        ) from error
    return together[0], together[1], together[2]
