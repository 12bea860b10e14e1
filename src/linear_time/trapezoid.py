"""Chapter 21: the recurrence of Mamba-3, by the trapezoid, turned, of a rank.

For each of the heads, with R inputs x_r and vectors B_r, C_r a token,

    S_t = α_t S_{t−1} + Σ_r (β_t x_{t−1,r} B_{t−1,r}ᵀ + γ_t x_{t,r} B_{t,r}ᵀ),
    α_t = exp(Δ_t A_t),  β_t = (1 − λ_t) Δ_t α_t,  γ_t = λ_t Δ_t,
    y_{t,r} = S_t C_{t,r}.

Half of a state's pairs of numbers turn as well, by an angle a token: in their
own turning frame they stand still, so B and C are turned by all angles until
theirs, and S decays by real numbers.

What a token writes at its own step and at the next, β_{t+1} = (1 − λ_{t+1})
Δ_{t+1} α_{t+1}, is γ_t + (1 − λ_{t+1}) Δ_{t+1} times the decay from t on: one
key, scaled by what the next token says, for every later read. Only the read at
t itself must not see the next token: the parallel form is ``ssd`` with scaled
inputs, corrected on the diagonal.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from linear_time import _validate
from linear_time.duality import ssd_chunks
from linear_time.layer import cast_like, full, without_autocast

Inputs = Float[Tensor, "batch length heads rank P"]
Vectors = Float[Tensor, "batch length heads rank N"]
Numbers = Float[Tensor, "batch length heads"]
Matrices = Float[Tensor, "batch heads P N"]


class Before(NamedTuple):
    """The state, and what the last token will still write into it."""

    S: Matrices
    x: Float[Tensor, "batch heads rank P"]
    B: Float[Tensor, "batch heads rank N"]


def rotate(
    x: Float[Tensor, "*batch N"], angle: Float[Tensor, "*rows pairs"]
) -> Float[Tensor, "*batch N"]:
    """The first pairs (x₀, x₁), (x₂, x₃), … turned, the rest as it is.

    Args:
        x: (…, N).
        angle: of each pair, (…, pairs), 2 pairs ≤ N; 1 stands for any size.
    """
    pairs = angle.shape[-1]
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    even, odd = turned.unflatten(-1, (pairs, 2)).unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    both = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1)
    return torch.cat([both.flatten(-2), rest], dim=-1)


def trapezoidal_step(
    x_t: Float[Tensor, "batch heads rank P"],
    delta_t: Float[Tensor, "batch heads"],
    A_t: Float[Tensor, "batch heads"],
    lam_t: Float[Tensor, "batch heads"],
    B_t: Float[Tensor, "batch heads rank N"],
    C_t: Float[Tensor, "batch heads rank N"],
    before: Before,
) -> tuple[Float[Tensor, "batch heads rank P"], Before]:
    """One step of the recurrence, at least float32.

    Args:
        x_t: inputs, (batch, heads, rank, P).
        delta_t, A_t, lam_t: Δ ≥ 0, A ≤ 0, λ in [0, 1], (batch, heads).
        B_t, C_t: already turned, (batch, heads, rank, N).
        before: the state, and the token before.

    Returns:
        (y, after): (batch, heads, rank, P), and for the next step.
    """
    x_t, B_t, C_t = full(x_t), full(B_t), full(C_t)
    delta_t, lam_t = full(delta_t), full(lam_t)
    alpha = torch.exp(delta_t * full(A_t))
    beta, gamma = (1 - lam_t) * delta_t * alpha, lam_t * delta_t
    with without_autocast(x_t):
        late = before.x.mT @ before.B  # (batch, heads, P, N)
        S = alpha[..., None, None] * before.S + beta[..., None, None] * late
        S = S + gamma[..., None, None] * (x_t.mT @ B_t)
        return C_t @ S.mT, Before(S, x_t, B_t)


def trapezoidal_recurrent(
    x: Inputs,
    delta: Numbers,
    A: Numbers,
    lam: Numbers,
    B: Vectors,
    C: Vectors,
    return_last_state: bool = False,
    *,
    initial_state: Before | None = None,
) -> Inputs | tuple[Inputs, Before]:
    """As ``trapezoidal``, one step after the other.

    Args, Returns, Raises: as ``trapezoidal``.
    """
    _check(x, delta, A, lam, B, C, initial_state)
    before, outputs = _start(x, B, initial_state), []
    steps = (value.unbind(1) for value in (x, delta, A, lam, B, C))
    for x_t, delta_t, A_t, lam_t, B_t, C_t in zip(*steps, strict=True):
        y_t, before = trapezoidal_step(
            x_t, delta_t, A_t, lam_t, B_t, C_t, before
        )
        outputs.append(y_t)
    y = cast_like(torch.stack(outputs, dim=1), x)
    return (y, before) if return_last_state else y


def trapezoidal(
    x: Inputs,
    delta: Numbers,
    A: Numbers,
    lam: Numbers,
    B: Vectors,
    C: Vectors,
    return_last_state: bool = False,
    *,
    initial_state: Before | None = None,
    chunk: int = 64,
) -> Inputs | tuple[Inputs, Before]:
    """The recurrence of Mamba-3 as one ``ssd``, corrected on the diagonal.

    The R writes of a token are R steps of ``ssd``, of which the first decays.

    Args:
        x: inputs, (batch, length, heads, rank, P).
        delta: Δ ≥ 0, (batch, length, heads).
        A: of each token, ≤ 0, (batch, length, heads).
        lam: λ in [0, 1]: 1 is the rule of Mamba-2, ½ the trapezoid.
        B, C: already turned, (batch, length, heads, rank, N).
        return_last_state: also return what the next call starts from.
        initial_state: what came before; nothing if None.
        chunk: tokens of a chunk; the result does not depend on it.

    Returns:
        y, as x: of each C; or (y, after).

    Raises:
        TypeError: an argument has the wrong type or dtype; float64 stands
            beside another precision.
        ValueError: a shape does not fit, a value is not finite, some Δ < 0,
            A > 0, or λ outside [0, 1].

    Source: "Mamba-3" (2026), arXiv 2603.15569.
    """
    _check(x, delta, A, lam, B, C, initial_state)
    _validate.count("chunk", chunk)
    before = _start(x, B, initial_state)
    with without_autocast(x):
        y, S = _parallel(
            full(x), full(delta), full(A), full(lam), full(B), full(C),
            before, min(chunk, x.shape[1]),
        )  # fmt: skip
    y = cast_like(y, x)
    after = Before(S, full(x)[:, -1].clone(), full(B)[:, -1].clone())
    return (y, after) if return_last_state else y


def _parallel(
    x: Tensor,
    delta: Tensor,
    A: Tensor,
    lam: Tensor,
    B: Tensor,
    C: Tensor,
    before: Before,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """y and the last S; everything in full precision."""
    rank = x.shape[3]
    own = lam * delta  # γ_t
    late = (1 - lam) * delta  # β_t / α_t
    following = functional.pad(late[:, 1:], (0, 0, 0, 1))  # 0 after the last
    # The token before still writes, and then the first decay acts on that.
    first = late[:, 0, :, None, None] * (before.x.mT @ before.B)
    decay = functional.pad((delta * A)[..., None], (0, rank - 1))

    def unfold(value: Tensor) -> Tensor:
        """(batch, length · rank, heads, …)."""
        return value.transpose(2, 3).flatten(1, 2)

    y, S = ssd_chunks(
        unfold((own + following)[..., None, None] * x),
        unfold(decay),
        unfold(B),
        unfold(C),
        before.S + first,
        chunk * rank,
    )
    y = y.unflatten(1, (x.shape[1], rank)).transpose(2, 3)
    # Read r saw the writes up to r of its token, each γ_t + the next one's.
    seen = torch.ones(rank, rank, dtype=x.dtype, device=x.device).tril()
    weight = own[..., None, None] * (1 - seen)
    weight = weight - following[..., None, None] * seen
    return y + (weight * (C @ B.mT)) @ x, S


def _start(x: Tensor, B: Tensor, initial_state: Before | None) -> Before:
    if initial_state is not None:
        return Before(*(full(value) for value in initial_state))
    batch, _, heads, rank, P = x.shape
    N = B.shape[-1]
    dtype = torch.promote_types(x.dtype, torch.float32)
    sizes = ((heads, P, N), (heads, rank, P), (heads, rank, N))
    return Before(*(x.new_zeros(batch, *s, dtype=dtype) for s in sizes))


def _check(
    x: Any, delta: Any, A: Any, lam: Any, B: Any, C: Any, before: Any
) -> None:
    words = ("batch", "length", "heads", "rank", "P")
    *each, rank, P = _validate.layout("x", x, *words)
    N = _validate.layout("B", B, *each, rank, "N")[-1]
    given = {"x": x, "B": B, "C": C, "delta": delta, "A": A, "lam": lam}
    _validate.layout("C", C, *each, rank, N)
    for name in ("delta", "A", "lam"):
        _validate.layout(name, given[name], *each)
    if before is not None:
        batch, _, heads = each
        sizes = ((heads, P, N), (heads, rank, P), (heads, rank, N))
        for name, size in zip(("S", "x", "B"), sizes, strict=True):
            value = getattr(before, name, before)
            _validate.state(f"initial_state.{name}", value, batch, *size)
            given[f"initial_state.{name}"] = value
    _validate.full_precision(**given)
    if not _validate.searched():
        return
    for name, value, wrong, says in (
        ("delta", delta, delta < 0, "step sizes >= 0"),
        ("A", A, A > 0, "numbers <= 0"),
        ("lam", lam, (lam < 0) | (lam > 1), "numbers in [0, 1]"),
    ):
        if wrong.any():
            raise ValueError(
                f"{name}: expected {says}, got {value[wrong][0].item():g}"
            )
