"""Chapter 13: one linear system computed as recurrence, matrix, convolution.

The recurrence h_k = Ā h_{k-1} + B̄ x_k, y_k = C h_k, started at rest, unrolls
to y_t = Σ_{s ≤ t} C Ā^{t-s} B̄ x_s: a causal convolution with the kernel
K_i = C Ā^i B̄. A system whose matrices change with time has no such kernel of
one index; it has a lower-triangular matrix K[t, s].

States, kernels and transforms are at least float32; an output has the
precision of the input.
"""

import torch
from jaxtyping import Inexact
from torch import Tensor

from linear_time import _validate
from linear_time.layer import cast_like, full


def recurrence(
    A_bar: Inexact[Tensor, "N N"],
    B_bar: Inexact[Tensor, " N"],
    C: Inexact[Tensor, " N"],
    x: Inexact[Tensor, "*batch length"],
    D: float | int | Inexact[Tensor, ""] = 0.0,
    initial_state: Inexact[Tensor, "..."] | None = None,
    return_last_state: bool = False,
) -> (
    Inexact[Tensor, "*batch length"]
    | tuple[Inexact[Tensor, "*batch length"], Inexact[Tensor, "*batch N"]]
):
    """Run the system one step at a time.

    h_k = Ā h_{k-1} + B̄ x_k,  y_k = C h_k + D x_k.

    Args:
        A_bar: discrete state matrix Ā, (N, N), real or complex.
        B_bar: discrete input vector B̄, (N,).
        C: output vector, (N,).
        x: input, (…, length).
        D: direct term, a number.
        initial_state: h_{-1}, the state before the first step, (N,) or
            (…, N) with the batch sizes of x; zero if None.
        return_last_state: also return h of the last step.

    Returns:
        y, (…, length); or (y, h) with h (…, N).

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit or a value is not finite.

    Source: Gu, Goel & Ré (2022), S4, equation 3.
    """
    n = _validate.square("A_bar", A_bar)
    _validate.shaped("B_bar", B_bar, (n,))
    _validate.shaped("C", C, (n,))
    _validate.sequence("x", x)
    dtype = _validate.full_precision(A_bar=A_bar, B_bar=B_bar, C=C, x=x)
    h = _validate.initial_state(initial_state, x, n, dtype)
    A_bar, B_bar, C = A_bar.to(h.dtype), B_bar.to(h.dtype), C.to(h.dtype)
    outputs = []
    for x_k in full(x).unbind(-1):  # x_k: (…)
        h = h @ A_bar.mT + B_bar * x_k[..., None]  # (…, N)
        outputs.append(h @ C)
    y = cast_like(torch.stack(outputs, dim=-1) + _direct(D) * full(x), x)
    return (y, h) if return_last_state else y


def kernel(
    A_bar: Inexact[Tensor, "N N"],
    B_bar: Inexact[Tensor, " N"],
    C: Inexact[Tensor, " N"],
    length: int,
) -> Inexact[Tensor, " length"]:
    """The answer to a single 1: K_i = C Ā^i B̄ for i = 0 … length − 1.

    Args:
        A_bar: discrete state matrix Ā, (N, N), real or complex.
        B_bar: discrete input vector B̄, (N,).
        C: output vector, (N,).
        length: number of entries, ≥ 1.

    Returns:
        The kernel, (length,).

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit, a value is not finite, length < 1.

    Source: Gu, Goel & Ré (2022), S4, equation 5.
    """
    n = _validate.square("A_bar", A_bar)
    _validate.shaped("B_bar", B_bar, (n,))
    _validate.shaped("C", C, (n,))
    length = _validate.count("length", length)
    dtype = _validate.full_precision(A_bar=A_bar, B_bar=B_bar, C=C)
    A_bar, h, C = A_bar.to(dtype), B_bar.to(dtype), C.to(dtype)
    entries = []
    for _ in range(length):
        entries.append(C @ h)
        h = A_bar @ h
    return torch.stack(entries)


def toeplitz(
    kernel: Inexact[Tensor, "*batch length"],
) -> Inexact[Tensor, "*batch length length"]:
    """The convolution as a matrix: T[t, s] = K_{t-s} for s ≤ t, else 0.

    Args:
        kernel: K, (…, length).

    Returns:
        The lower-triangular matrix T, (…, length, length), with y = T x.

    Raises:
        TypeError: the kernel has the wrong type or dtype.
        ValueError: the kernel is empty or not finite.

    Source: chapter 13.
    """
    length = _validate.sequence("kernel", kernel)
    step = torch.arange(length, device=kernel.device)
    lag = step[:, None] - step[None, :]  # t − s
    return torch.where(lag >= 0, kernel[..., lag.clamp(min=0)], 0)


def causal_convolution(
    x: Inexact[Tensor, "*batch length"],
    kernel: Inexact[Tensor, "*#batch taps"],
) -> Inexact[Tensor, "*batch length"]:
    """y_t = Σ_{s ≤ t} K_{t-s} x_s, by FFT in O(L log L).

    The FFT multiplies polynomials modulo z^n − 1, so both factors are padded
    with zeros to n ≥ length + taps − 1, where nothing wraps around; the next
    power of two makes the FFT fast for every length.

    Args:
        x: input, (…, length), real or complex.
        kernel: K, (taps,) or (…, taps) with the batch sizes of x (or 1);
            any number of taps, those beyond the length have no effect.

    Returns:
        y, (…, length), complex if x or the kernel is.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit or a value is not finite.

    Source: Gu, Goel & Ré (2022), S4, section 2.4 (the convolutional view).
    """
    length = _convolution_arguments(x, kernel)
    kernel = kernel[..., :length]
    enough = length + kernel.shape[-1] - 1
    padded = 1 << (enough - 1).bit_length()  # the next power of two
    # A copy of what is kept: a view would keep the padding too.
    y = _fft_product(x, kernel, padded)[..., :length].clone()
    return cast_like(y, x)


def circular_convolution(
    x: Inexact[Tensor, "*batch length"],
    kernel: Inexact[Tensor, "*#batch taps"],
) -> Inexact[Tensor, "*batch length"]:
    """y_t = Σ_s K_{(t-s) mod L} x_s: what the FFT gives without padding.

    Its first outputs depend on the last inputs, so it is not causal. It is
    here to show the fault that ``causal_convolution`` avoids.

    Args:
        x: input, (…, length), real or complex.
        kernel: K, (taps,) or (…, taps) with the batch sizes of x (or 1),
            taps ≤ length.

    Returns:
        y, (…, length), complex if x or the kernel is.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit, a value is not finite, or there
            are more taps than inputs.

    Source: the circular convolution theorem of the DFT.
    """
    length = _convolution_arguments(x, kernel)
    if kernel.shape[-1] > length:
        raise ValueError(
            f"kernel: expected at most {length} taps, the length of x, "
            f"got {kernel.shape[-1]}"
        )
    return cast_like(_fft_product(x, kernel, length), x)


def time_varying_recurrence(
    A_bar: Inexact[Tensor, "length N N"],
    B_bar: Inexact[Tensor, "length N"],
    C: Inexact[Tensor, "length N"],
    x: Inexact[Tensor, "*batch length"],
) -> Inexact[Tensor, "*batch length"]:
    """Run a system with its own matrices at every step, from rest.

    h_k = Ā_k h_{k-1} + B̄_k x_k,  y_k = C_k h_k.

    Args:
        A_bar: Ā_k, (length, N, N), real or complex.
        B_bar: B̄_k, (length, N).
        C: C_k, (length, N).
        x: input, (…, length).

    Returns:
        y, (…, length).

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit or a value is not finite.

    Source: Gu & Dao (2023), Mamba, section 3.2, with full matrices.
    """
    length, n = _time_varying_arguments(A_bar, B_bar, C)
    _validate.sequence("x", x)
    if x.shape[-1] != length:
        raise ValueError(
            f"x: expected shape (…, {length}), a step for each A_bar, "
            f"got shape {_validate.shape_text(x.shape)}"
        )
    dtype = _validate.full_precision(A_bar=A_bar, B_bar=B_bar, C=C, x=x)
    systems = (A_bar.to(dtype), B_bar.to(dtype), C.to(dtype))
    steps = zip(*systems, full(x).unbind(-1), strict=True)
    h = x.new_zeros((*x.shape[:-1], n), dtype=dtype)
    outputs = []
    for A_k, B_k, C_k, x_k in steps:
        h = h @ A_k.mT + B_k * x_k[..., None]  # (…, N)
        outputs.append(h @ C_k)
    return cast_like(torch.stack(outputs, dim=-1), x)


def time_varying_matrix(
    A_bar: Inexact[Tensor, "length N N"],
    B_bar: Inexact[Tensor, "length N"],
    C: Inexact[Tensor, "length N"],
) -> Inexact[Tensor, "length length"]:
    """The matrix of a time-varying system, which no one-index kernel gives.

    K[t, s] = C_t Ā_t Ā_{t-1} ⋯ Ā_{s+1} B̄_s for s ≤ t, else 0.

    Args:
        A_bar: Ā_k, (length, N, N), real or complex.
        B_bar: B̄_k, (length, N).
        C: C_k, (length, N).

    Returns:
        K, (length, length), lower triangular, with y = K x.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape does not fit or a value is not finite.

    Source: chapter 13; Dao & Gu (2024), "Transformers are SSMs", section 3,
        calls such a matrix semiseparable.
    """
    length, n = _time_varying_arguments(A_bar, B_bar, C)
    dtype = _validate.full_precision(A_bar=A_bar, B_bar=B_bar, C=C)
    steps = zip(A_bar.to(dtype), B_bar.to(dtype), C.to(dtype), strict=True)
    # Column s of `states` is h_t after a single 1 at step s.
    states = A_bar.new_zeros((n, 0), dtype=dtype)
    rows = []
    for A_t, B_t, C_t in steps:
        states = torch.cat([A_t @ states, B_t[:, None]], dim=1)  # (N, t + 1)
        future = states.new_zeros(length - states.shape[1])
        rows.append(torch.cat([C_t @ states, future]))
    return torch.stack(rows)


def _direct(D: float | int | Tensor) -> float | int | Tensor:
    if isinstance(D, (int, float)) and not isinstance(D, bool):
        _validate.finite("D", torch.tensor(D))
    else:
        _validate.shaped("D", D, ())
    return D


def _convolution_arguments(x: Tensor, kernel: Tensor) -> int:
    length = _validate.sequence("x", x)
    _validate.sequence("kernel", kernel)
    _validate.full_precision(x=x, kernel=kernel)
    batch, own = tuple(x.shape[:-1]), tuple(kernel.shape[:-1])
    pairs = zip(reversed(own), reversed(batch), strict=False)
    if len(own) > len(batch) or any(k not in (1, b) for k, b in pairs):
        raise ValueError(
            "kernel: expected shape (taps,) or the batch sizes of x, "
            f"{_validate.shape_text(batch)}, before the taps, "
            f"got shape {_validate.shape_text(kernel.shape)}"
        )
    return length


def _fft_product(x: Tensor, kernel: Tensor, n: int) -> Tensor:
    """Circular convolution of x and the kernel modulo n, in full."""
    x, kernel = full(x), full(kernel)
    if x.is_complex() or kernel.is_complex():
        product = torch.fft.fft(x, n=n) * torch.fft.fft(kernel, n=n)
        return torch.fft.ifft(product, n=n)
    product = torch.fft.rfft(x, n=n) * torch.fft.rfft(kernel, n=n)
    return torch.fft.irfft(product, n=n)


def _time_varying_arguments(
    A_bar: Tensor, B_bar: Tensor, C: Tensor
) -> tuple[int, int]:
    _validate.inexact("A_bar", A_bar)
    sizes = tuple(A_bar.shape)
    if len(sizes) != 3 or sizes[1] != sizes[2] or 0 in sizes:
        raise ValueError(
            "A_bar: expected shape (length, N, N) with length >= 1 and "
            f"N >= 1, got shape {_validate.shape_text(sizes)}"
        )
    _validate.shaped("B_bar", B_bar, sizes[:2])
    _validate.shaped("C", C, sizes[:2])
    return sizes[0], sizes[1]
