"""Chapter 20: state-space duality, one map as a recurrence and as a matrix.

With one number a head in the place of A, for each of the heads,

    S_t = exp(Δ_t A) S_{t−1} + Δ_t x_t B_tᵀ,    y_t = S_t C_t + D x_t,

a state S of (P, N) numbers. All outputs of a sequence are a product with one
lower triangular matrix, which is an attention without its softmax:

    Y = M X,    M = L ∘ (C Bᵀ) diag(Δ),    L_ts = exp(Σ_{s<r≤t} Δ_r A).

The recurrence costs O(L P N), the matrix O(L² (N + P)), and O(L³) with the
sums of segments as made here; in chunks, with the matrix inside a chunk and
the recurrence between them, all but one walk over the chunks is products of
matrices.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from linear_time import _validate
from linear_time.cost import Cost
from linear_time.layer import cast_like, full, without_autocast

Inputs = Float[Tensor, "batch length heads P"]
Steps = Float[Tensor, "batch length heads"]
Groups = Float[Tensor, "batch length groups N"]
PerHead = Float[Tensor, " heads"]
Matrices = Float[Tensor, "batch heads P N"]


def segment_sums(
    x: Float[Tensor, "*batch length"],
) -> Float[Tensor, "*batch length length"]:
    """S[t, s] = Σ_{s<r≤t} x_r for s ≤ t, and −∞ above the diagonal.

    Each is a sum of its own terms: a product of ones with the matrix whose
    column s holds x_r below row s. A difference of two cumulative sums would
    lose the digits that both have in common.

    Args:
        x: (…, length).

    Raises:
        TypeError, ValueError: not a finite real tensor of one dimension or
            more.

    Source: Dao & Gu (2024), "Transformers are SSMs", listing 1, which names
        them and takes them from cumulative sums of masked copies.
    """
    _validate.layout("x", x, "…", "length")
    with without_autocast(x):
        return _segment_sums(full(x)).masked_fill(~_causal(x), -math.inf)


def _segment_sums(x: Tensor) -> Tensor:
    """``segment_sums``, with 0 in the place of −∞."""
    strict = x[..., None] * _causal(x).tril(-1)  # (…, r, s), 0 where r ≤ s
    return _causal(x).to(x.dtype) @ strict


def _causal(x: Tensor) -> Tensor:
    """(length, length), True where s ≤ t."""
    n = x.shape[-1]
    return torch.ones(n, n, dtype=torch.bool, device=x.device).tril()


def ssd_matrix(
    delta: Steps, A: PerHead, B: Groups, C: Groups
) -> Float[Tensor, "batch heads length length"]:
    """M of every head, Y = M X: M_ts = C_tᵀ B_s exp(Σ_{s<r≤t} Δ_r A) Δ_s.

    Args, Raises: as ``ssd``.

    Source: Dao & Gu (2024), "Transformers are SSMs", section 5.1.
    """
    _check(None, delta, A, B, C, None)
    delta, A, B, C = (full(value) for value in (delta, A, B, C))
    with without_autocast(delta):
        decay = _segment_sums((delta * A).mT).exp().tril()
        scores = C.transpose(1, 2) @ B.permute(0, 2, 3, 1)
        shared = delta.shape[2] // B.shape[2]  # heads of a group
        scores = scores.repeat_interleave(shared, dim=1)
        return decay * scores * delta.mT[:, :, None]


def ssd_quadratic(
    x: Inputs,
    delta: Steps,
    A: PerHead,
    B: Groups,
    C: Groups,
    D: PerHead | None = None,
) -> Inputs:
    """As ``ssd``, as an attention: one matrix of (length, length) a head.

    Args, Raises: as ``ssd``.
    """
    _check(x, delta, A, B, C, D)
    with _validate.inner(), without_autocast(x):
        y = ssd_matrix(delta, A, B, C) @ full(x).transpose(1, 2)
    return add_skip(y.transpose(1, 2), x, D)


def ssd_recurrent(
    x: Inputs,
    delta: Steps,
    A: PerHead,
    B: Groups,
    C: Groups,
    D: PerHead | None = None,
    return_last_state: bool = False,
    *,
    initial_state: Matrices | None = None,
) -> Inputs | tuple[Inputs, Matrices]:
    """As ``ssd``, one step after the other.

    Args, Returns, Raises: as ``ssd``.
    """
    _check(x, delta, A, B, C, D, initial_state)
    S = _start(x, B, initial_state)
    outputs = []
    inputs = (x.unbind(1), delta.unbind(1), B.unbind(1), C.unbind(1))
    for x_t, delta_t, B_t, C_t in zip(*inputs, strict=True):
        y_t, S = ssd_step(x_t, delta_t, A, B_t, C_t, S)
        outputs.append(y_t)
    y = add_skip(torch.stack(outputs, dim=1), x, D)
    return (y, S) if return_last_state else y


def ssd_step(
    x_t: Float[Tensor, "batch heads P"],
    delta_t: Float[Tensor, "batch heads"],
    A: PerHead,
    B_t: Float[Tensor, "batch groups N"],
    C_t: Float[Tensor, "batch groups N"],
    S: Matrices,
) -> tuple[Float[Tensor, "batch heads P"], Matrices]:
    """One step: S ← exp(Δ A) S + Δ x Bᵀ, and y = S C, at least float32.

    Args:
        x_t: input, (batch, heads, P).
        delta_t: Δ ≥ 0, (batch, heads).
        A: (heads,).
        B_t, C_t: (batch, groups, N).
        S: the state before it, (batch, heads, P, N).

    Returns:
        (y, S): (batch, heads, P), without D, and the state after it.
    """
    x_t, delta_t, A, S = full(x_t), full(delta_t), full(A), full(S)
    shared = x_t.shape[1] // B_t.shape[1]  # heads of a group
    B_t, C_t = (
        full(value).repeat_interleave(shared, dim=1) for value in (B_t, C_t)
    )
    decay = torch.exp(delta_t * A)[..., None, None]
    write = (delta_t[..., None] * x_t)[..., None] * B_t[..., None, :]
    S = decay * S + write
    with without_autocast(S):
        return (S @ C_t[..., None])[..., 0], S


def ssd(
    x: Inputs,
    delta: Steps,
    A: PerHead,
    B: Groups,
    C: Groups,
    D: PerHead | None = None,
    return_last_state: bool = False,
    *,
    initial_state: Matrices | None = None,
    chunk: int = 64,
) -> Inputs | tuple[Inputs, Matrices]:
    """The selective scan with one decay a head, in chunks of products.

    S_t = exp(Δ_t A) S_{t−1} + Δ_t x_t B_tᵀ,  y_t = S_t C_t + D x_t

    1. inside each chunk Y = M X, from a state of zero;
    2. what a chunk adds to the state, Σ_t exp(c_C − c_t) Δ_t x_t B_tᵀ, with
       c_t = Σ_{r≤t} Δ_r A from the chunk's start and C its length;
    3. from chunk to chunk S ← exp(c_C) S + that;
    4. Y gains exp(c_t) S C_t, of the state S that entered.

    Args:
        x: input, (batch, length, heads, P).
        delta: step sizes Δ ≥ 0, (batch, length, heads).
        A: of each head, (heads,), in 1/time; negative for a stable system.
        B, C: (batch, length, groups, N): head h reads group
            ⌊h · groups / heads⌋.
        D: weight of the direct term, (heads,); none if None.
        return_last_state: also return S after the last step.
        initial_state: S before the first, (batch, heads, P, N); zero if None.
        chunk: steps of a chunk; the result does not depend on it.

    Returns:
        y, as x; or (y, S) with S (batch, heads, P, N), at least float32.

    Raises:
        TypeError: an argument has the wrong type or dtype; float64 stands
            beside another precision.
        ValueError: a shape does not fit, a value is not finite, some Δ < 0,
            or heads are not a multiple of groups.

    Source: Dao & Gu (2024), "Transformers are SSMs", section 6 and listing 1,
        whose step 3 is a product with a matrix of all pairs of chunks.
    """
    _check(x, delta, A, B, C, D, initial_state)
    chunk = min(_validate.count("chunk", chunk), x.shape[1])
    start = _start(x, B, initial_state)
    with without_autocast(x):
        steps = full(delta)
        inputs = steps[..., None] * full(x), steps * full(A), full(B), full(C)
        y, S = ssd_chunks(*inputs, start, chunk)
    y = add_skip(y, x, D)
    return (y, S) if return_last_state else y


def ssd_chunks(
    x: Inputs,
    decay: Steps,
    B: Groups,
    C: Groups,
    S: Matrices,
    chunk: int,
) -> tuple[Inputs, Matrices]:
    """``ssd`` with Δ already in its inputs, and a decay of each step.

    S_t = exp(decay_t) S_{t−1} + x_t B_tᵀ,  y_t = S_t C_t, from S; all in full
    precision. Returns y and the last state; nothing is checked.
    """
    (batch, length, heads, P), (groups, N) = x.shape, B.shape[2:]
    n, shared = -(-length // chunk), heads // groups
    # Steps of zeros at the end change no state.
    x, decay, B, C = (
        functional.pad(v, (0, 0) * (v.ndim - 2) + (0, n * chunk - length))
        for v in (x, decay, B, C)
    )
    # (batch, chunks, groups, …, steps, …): what is multiplied stands last.
    x = x.reshape(batch, n, chunk, groups, shared, P).permute(0, 1, 3, 4, 2, 5)
    B, C = (
        v.reshape(batch, n, chunk, groups, N).transpose(2, 3) for v in (B, C)
    )
    decay = decay.reshape(batch, n, chunk, groups, shared)
    decay = decay.permute(0, 1, 3, 4, 2)
    sums = _segment_sums(decay)  # (batch, chunks, groups, shared, steps, steps)
    M = sums.exp().tril() * (C @ B.mT)[:, :, :, None]
    y = M @ x  # 1: (batch, chunks, groups, shared, steps, P)
    since = decay.cumsum(-1)[..., None]  # c_t
    until = sums[..., -1, :, None]  # c_C − c_t
    left = (until.exp() * x).mT.flatten(3, 4)  # (…, shared · P, steps)
    added = (left @ B).reshape(batch, n, heads, P, N)  # 2
    whole = since[..., -1, :].exp().reshape(batch, n, heads, 1, 1)
    entering = []
    for whole_i, added_i in zip(whole.unbind(1), added.unbind(1), strict=True):
        entering.append(S)  # 3
        S = whole_i * S + added_i
    before = torch.stack(entering, dim=1)
    before = before.reshape(batch, n, groups, shared * P, N)
    read = (before @ C.mT).reshape(batch, n, groups, shared, P, chunk).mT
    y = y + since.exp() * read  # 4
    y = y.permute(0, 1, 4, 2, 3, 5).reshape(batch, n * chunk, heads, P)
    return y[:, :length], S


def add_skip(y: Tensor, x: Tensor, D: Tensor | None) -> Tensor:
    """y + D x of each head, in the precision of x; y where there is no D."""
    if D is not None:
        y = y + full(D)[:, None] * full(x)
    return cast_like(y, x)


def _start(x: Tensor, B: Tensor, initial_state: Tensor | None) -> Tensor:
    sizes = (len(x), *x.shape[2:], B.shape[-1])
    if initial_state is None:
        dtype = torch.promote_types(x.dtype, torch.float32)
        return x.new_zeros(sizes, dtype=dtype)
    return full(initial_state)


def _check(
    x: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    D: Any,
    initial_state: Any = None,
) -> None:
    batch, length, heads = _validate.layout(
        "delta", delta, "batch", "length", "heads"
    )
    _, _, groups, N = _validate.layout("B", B, batch, length, "groups", "N")
    wanted = {
        "A": (A, (heads,)),
        "C": (C, (batch, length, groups, N)),
        "x": (x, (batch, length, heads, "P")),
        "D": (D, (heads,)),
    }
    given = {"delta": delta, "B": B}
    for name, (value, sizes) in wanted.items():
        if value is not None or name in ("A", "C"):
            _validate.layout(name, value, *sizes)
            given[name] = value
    if initial_state is not None:
        sizes = (batch, heads, x.shape[-1], N)
        _validate.layout("initial_state", initial_state, *sizes)
        given["initial_state"] = initial_state
    _validate.full_precision(**given)
    if heads % groups:
        raise ValueError(
            f"B: expected groups to divide the heads, {heads}, got {groups}"
        )
    if _validate.searched() and (delta < 0).any():
        raise ValueError(
            "delta: expected step sizes >= 0, got a smallest entry of "
            f"{delta.min().item():g}"
        )


def mamba2_cost(
    length: int,
    d_model: int,
    N: int = 128,
    expand: int = 2,
    P: int = 64,
    groups: int = 1,
    taps: int = 4,
    chunk: int = 64,
) -> Cost:
    """The mixer of Mamba-2, with ``ssd`` in chunks of C steps.

    A token of a chunk costs a head 2C(P + C) for M x and the sums in M, and
    4 P N for what is written and read; a group 2 C N for its scores. A step
    costs a head 5 P N. (Entries of M, and what is done once a number, are
    left out.)
    """
    for name, size in {
        "length": length, "d_model": d_model, "N": N, "expand": expand,
        "P": P, "groups": groups, "taps": taps, "chunk": chunk,
    }.items():  # fmt: skip
        _validate.count(name, size)
    d_inner = expand * d_model
    heads, mixed = d_inner // P, d_inner + 2 * groups * N
    maps = d_model * (d_inner + mixed + heads) + d_inner * d_model
    C = min(chunk, length)
    always = 2 * maps + 2 * taps * mixed
    token = heads * (2 * C * (P + C) + 4 * P * N) + groups * 2 * C * N
    return Cost(
        parameters=maps + mixed * (taps + 1) + 3 * heads + d_inner,
        forward_flops=(always + token) * length,
        depth=1 + 3 + -(-length // C),
        step_flops=always + 5 * d_inner * N,
        state=d_inner * N + mixed * (taps - 1),
    )
