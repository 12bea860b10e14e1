"""Chapter 14: a state that is the best polynomial summary of the past.

A HiPPO system h′ = A h + B x is derived backwards. First choose a weight on
the past and functions that are orthonormal under it; the state is the input's
coefficients in them; then differentiate the coefficients. Written with the
age u of a past value (0 is now), the memories of this module are

    method     weight          functions g_n(u)             reads
    legs       1 on [0, 1]     √(2n+1) P_n(1 − 2u)          u = age / t
    legs_lti   e^{−u}, u ≥ 0   √(2n+1) P_n(2e^{−u} − 1)     u = age
    legt       1 on [0, 1]     √(2n+1) P_n(1 − 2u)          u = age
    fout       1 on [0, 1]     1, √2 cos 2πku, √2 sin 2πku  u = age

with the Legendre polynomials P_n. "legs" is time-varying: c′ = (A c + B x)/t,
and spreads its functions evenly over the whole past. "legs_lti" is the system
that S4 keeps, with the same A and B and no 1/t: an exponentially warped
memory. The two share their matrices and not their basis.

The matrices are made on the CPU, in float64, which not every device has.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from linear_time import _validate
from linear_time.discretization import zero_order_hold
from linear_time.layer import full

System = tuple[Float[Tensor, "N N"], Float[Tensor, " N"]]
METHODS = ("legs", "legs_lti", "legt", "fout")


def legs(N: int) -> System:
    """Scaled Legendre memory: all of the past, evenly.

    A_nk = −√(2n+1) √(2k+1) for n > k, −(n+1) for n = k, 0 for n < k;
    B_n = √(2n+1).

    With 1/t in front it is the time-varying c′ = (A c + B x)/t; without, it
    is S4's time-invariant system with e^{tA} B = g(t) e^{−t} of "legs_lti".

    Args:
        N: state size, ≥ 1.

    Returns:
        (A, B): float64, (N, N) and (N,).

    Raises:
        TypeError, ValueError: N is not a whole number ≥ 1.

    Source: Gu et al. (2020), HiPPO, theorem 2, which writes c′ = −A c/t +
        B x/t; the sign here is that of S4, equation 2.
    """
    root = _roots(N)
    n = torch.arange(len(root), dtype=torch.float64, device="cpu")
    A = -torch.outer(root, root).tril(-1) - torch.diag(n + 1)
    return A, root


def legt(N: int) -> System:
    """Translated Legendre memory: the last unit of time, evenly.

    A_nk = −√(2n+1) √(2k+1) · (1 if n ≥ k else (−1)^{n−k});  B_n = √(2n+1).

    The window has length 1; for a window of length θ divide A and B by θ.
    What leaves the window, x(t − 1), is not known to the state: it is taken
    from the state's own reconstruction, so the memory is approximate.

    Args, Returns, Raises: as ``legs``.

    Source: Gu et al. (2020), HiPPO, theorem 1 and appendix D.1, with θ = 1,
        orthonormal functions, and S4's sign. The LMU has the same system in
        another scale, (2n+1)(−1)^n; the S4 authors' code halves A and B,
        which makes the window 2.
    """
    root = _roots(N)
    n = torch.arange(len(root), device="cpu")
    lag = n[:, None] - n[None, :]  # n − k
    sign = torch.where(lag < 0, 1.0 - 2.0 * (lag % 2), 1.0)
    return -torch.outer(root, root) * sign, root


def fout(N: int) -> System:
    """Truncated Fourier memory: the last unit of time, in waves.

    A = S − 2 φ φᵀ,  B = 2 φ,  φ_n = g_n(0), where S turns each pair
    (cos, sin) of frequency k: S_{cos,sin} = −2πk, S_{sin,cos} = 2πk.

    The functions are ordered 1, cos 2πu, sin 2πu, cos 4πu, …. N is odd: a
    cosine without its sine would leave an eigenvalue 0. The factor 2 comes
    from the jump between the two ends of the window: a Fourier series gives
    their mean there, so x(t − 1) is read as 2 Σ φ_n c_n − x(t).

    Args, Returns, Raises: as ``legs``; also a ValueError where N is even.

    Source: Gu et al. (2022), "How to Train Your HiPPO", the FouT system. The
        S4 authors' code ("fourier") halves A and B (window 2) and keeps an
        unused state for the sine of frequency 0.
    """
    N = _validate.count("N", N)
    if N % 2 == 0:
        raise ValueError(
            f"N: expected an odd number, a constant and pairs of waves, got {N}"
        )
    zero = torch.zeros(1, dtype=torch.float64, device="cpu")
    phi = _fourier(N, zero)[0]  # (N,)
    S = torch.zeros(N, N, dtype=torch.float64, device="cpu")
    for cos in range(1, N - 1, 2):
        frequency = 2 * math.pi * (cos + 1) / 2
        S[cos, cos + 1], S[cos + 1, cos] = -frequency, frequency
    return S - 2 * torch.outer(phi, phi), 2 * phi


def basis(
    N: int, age: Float[Tensor, " ages"], method: str = "legs"
) -> Float[Tensor, "ages N"]:
    """The functions g_n(u) of a memory, as in the table of this module.

    Args:
        N: number of functions, ≥ 1.
        age: u, (ages,); ≥ 0, and ≤ 1 except for "legs_lti". For "legs" it is
            the fraction of the past, for the others a time.
        method: "legs", "legs_lti", "legt" or "fout".

    Returns:
        g_n(u), (ages, N), of the ages' dtype.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an age is outside the memory, the method is unknown, or
            N < 1.

    Source: the table above; HiPPO, appendix D.
    """
    N = _validate.count("N", N)
    _validate.one_of("method", method, METHODS)
    _validate.layout("age", age, "ages", filled=False)
    oldest = math.inf if method == "legs_lti" else 1.0
    wanted = _validate.searched() and age.numel()
    if wanted and not (age.min() >= 0 and age.max() <= oldest):
        raise ValueError(
            f"age: expected ages from 0 to {oldest:g} for method "
            f"{method!r}, got {age.min().item():g} to {age.max().item():g}"
        )
    u = full(age)
    if method == "fout":
        return _fourier(N, u).to(age.dtype)
    y = 2 * torch.exp(-u) - 1 if method == "legs_lti" else 1 - 2 * u
    return (_roots(N).to(u) * _legendre(N, y)).to(age.dtype)


def sample_ages(
    length: int, delta: float | int | None = None
) -> Float[Tensor, " length"]:
    """The age of each sample's middle at the end, oldest first.

    Sample j is held over (jΔ, (j+1)Δ]; at time LΔ its middle has the age
    (L − j − ½) Δ.

    Args:
        length: L, number of samples so far, ≥ 1.
        delta: step size Δ > 0; 1/L if None, and the age is then the fraction
            of the past that "legs" reads.

    Returns:
        The ages, float64, (length,).

    Raises:
        TypeError, ValueError: an argument is no such number.

    Source: chapter 14.
    """
    length = _validate.count("length", length)
    if delta is None:
        delta = 1 / length
    _validate.number("delta", delta)
    j = torch.arange(length, dtype=torch.float64, device="cpu")
    return (length - j - 0.5) * delta


def project(
    x: Float[Tensor, "*batch length"],
    N: int,
    method: str = "legs",
    delta: float | int | None = None,
) -> Float[Tensor, "*batch length N"]:
    """The coefficients after every sample, computed online.

    Sample k is held over (kΔ, (k+1)Δ], and every step is exact for that
    input. The time-invariant methods take a zero-order-hold step. "legs" has
    in the time log t the constant matrix A, and A e₀ = −B, so that

        c_k = e₀ x_k + M_k (c_{k−1} − e₀ x_k),  M_k = exp(A log((k+1)/k)),

    with c_0 = e₀ x_0: take the new constant off, shrink the past from k to
    k of k + 1 parts, put the constant back. Since A + Aᵀ ≤ −I, ‖M_k‖ ≤ 1 and
    no error grows. The step size cancels.

    Args:
        x: input samples, (…, length).
        N: number of coefficients, ≥ 1.
        method: "legs", "legs_lti", "legt" or "fout".
        delta: step size Δ > 0 in units of the window ("legt", "fout") or of
            the decay time ("legs_lti"); must be None for "legs".

    Returns:
        c, (…, length, N), of x's dtype.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape or value does not fit, the method is unknown, or
            delta is missing or superfluous.

    Source: HiPPO, theorem 2 and appendix B.3 (its discrete steps are of the
        Euler and bilinear kind; this one is exact).
    """
    _validate.sequence("x", x, real=True)
    N = _validate.count("N", N)
    _validate.one_of("method", method, METHODS)
    if method == "legs":
        if delta is not None:
            raise ValueError(
                "delta: expected None for method 'legs', whose coefficients "
                f"do not depend on it, got {_validate.describe(delta)}"
            )
        return _project_scaled(full(x), N).to(x.dtype)
    _validate.number("delta", delta)
    A, B = {"legs_lti": legs, "legt": legt, "fout": fout}[method](N)
    A_bar, B_bar = zero_order_hold(A, B, float(delta))  # type: ignore[arg-type]
    inputs = full(x)
    A_bar, B_bar = A_bar.to(inputs), B_bar.to(inputs)
    c = inputs.new_zeros(*x.shape[:-1], N)
    coefficients = []
    for x_k in inputs.unbind(-1):  # x_k: (…)
        c = c @ A_bar.mT + B_bar * x_k[..., None]  # (…, N)
        coefficients.append(c)
    return torch.stack(coefficients, dim=-2).to(x.dtype)


def reconstruct(
    c: Float[Tensor, "*batch N"],
    age: Float[Tensor, " ages"],
    method: str = "legs",
) -> Float[Tensor, "*batch ages"]:
    """The past that the coefficients describe: x̂(u) = Σ_n c_n g_n(u).

    It is the best approximation of the past by the N functions, in the mean
    square with the method's weight (for "legt" and "fout" up to the error of
    their forgetting).

    Args:
        c: coefficients at one time, (…, N).
        age: how long ago, (ages,), as in ``basis``.
        method: the memory that c belongs to.

    Returns:
        x̂, (…, ages).

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: an age is outside the memory or the method is unknown.

    Source: HiPPO, section 2.2.
    """
    N = _validate.sequence("c", c, real=True)
    _validate.layout("age", age, "ages", filled=False)
    g = basis(N, full(age), method).to(full(c))
    return (full(c) @ g.mT).to(c.dtype)


def stored(
    state: Float[Tensor, "*batch N"],
) -> Float[Tensor, "*batch N"]:
    """What 16 bits a number keep of a state: float16, its largest at 1.

    Args:
        state: (…, N); several have one scale.

    Returns:
        The rounded state, (…, N), of the same dtype.

    Raises:
        TypeError, ValueError: the state is not as above, or not finite.

    Source: chapter 14.
    """
    _validate.sequence("state", state, real=True)
    scale = state.abs().max()
    scale = torch.where(scale == 0, 1.0, scale)
    return (state / scale).half().to(state.dtype) * scale


class NormalPlusLowRank(NamedTuple):
    """A = V diag(λ) V* − P Pᵀ with a unitary V."""

    eigenvalues: Complex[Tensor, " N"]
    V: Complex[Tensor, "N N"]
    P: Float[Tensor, " N"]


def normal_plus_low_rank(N: int) -> NormalPlusLowRank:
    """Split the LegS matrix: A = V diag(λ) V* − P Pᵀ.

    With P_n = √(n + ½) the matrix A + P Pᵀ is a skew-symmetric S minus ½ I.
    Then −iS is Hermitian, so that ``eigh`` finds a unitary V; the λ are
    −½ + iω with ω ascending, in pairs of ±ω. A's own eigenvectors are of no
    use: their condition number is above 10¹⁰ at N = 16.

    Args:
        N: state size, ≥ 1.

    Returns:
        NormalPlusLowRank(eigenvalues, V, P): complex128 (N,) and (N, N),
        float64 (N,).

    Raises:
        TypeError, ValueError: N is not a whole number ≥ 1.

    Source: S4, theorem 1 and appendix C.1.
    """
    A, B = legs(N)
    P = B / math.sqrt(2)  # √(n + ½)
    half = torch.full((len(A),), 0.5, dtype=A.dtype, device=A.device)
    S = A + torch.outer(P, P) + torch.diag(half)
    omega, V = torch.linalg.eigh(-1j * S)
    return NormalPlusLowRank(torch.complex(-0.5 + 0 * omega, omega), V, P)


def _roots(N: int) -> Tensor:
    """√(2n+1) for n < N: it makes the functions orthonormal."""
    N = _validate.count("N", N)
    n = torch.arange(N, dtype=torch.float64, device="cpu")
    return torch.sqrt(2 * n + 1)


def _legendre(N: int, y: Tensor) -> Tensor:
    """P_n(y) for n < N, by (n+1) P_{n+1} = (2n+1) y P_n − n P_{n−1}."""
    values = [torch.ones_like(y), y]
    for n in range(1, N - 1):
        after = ((2 * n + 1) * y * values[n] - n * values[n - 1]) / (n + 1)
        values.append(after)
    return torch.stack(values[:N], dim=-1)  # (…, N)


def _fourier(N: int, u: Tensor) -> Tensor:
    """1, √2 cos 2πu, √2 sin 2πu, √2 cos 4πu, …: N functions, (…, N)."""
    values = [torch.ones_like(u)]
    for n in range(1, N):
        angle = 2 * math.pi * ((n + 1) // 2) * u
        wave = torch.cos(angle) if n % 2 else torch.sin(angle)
        values.append(math.sqrt(2) * wave)
    return torch.stack(values, dim=-1)


def _project_scaled(x: Tensor, N: int, chunk: int = 128) -> Tensor:
    """The "legs" steps of ``project``, with M_k made a chunk at a time."""
    A, _ = legs(N)
    e_0 = torch.eye(N, dtype=x.dtype, device=x.device)[0]
    e_0_x = (x[..., None] * e_0).unbind(-2)  # length times (…, N)
    coefficients = [e_0_x[0]]
    for start in range(1, x.shape[-1], chunk):
        last = min(start + chunk, x.shape[-1])
        k = torch.arange(start, last, device="cpu")
        log_ratio = torch.log1p(1 / k.double())
        M = torch.linalg.matrix_exp(log_ratio[:, None, None] * A)
        for e_0_x_k, M_k in zip(e_0_x[start:], M.to(x), strict=False):
            rest = coefficients[-1] - e_0_x_k  # (…, N)
            coefficients.append(e_0_x_k + rest @ M_k.mT)
    return torch.stack(coefficients, dim=-2)
