"""Chapter 21: the delta rule, step by step and in chunks.

    S_t = S_{t−1} α_t (I − β_t k_t k_tᵀ) + β_t v_t k_tᵀ,    y_t = S_t q_t.

Step by step, the value written at t is what v_t has more than k_t reads,
β_t (v_t − S k_t), and S has been written at t − 1. In a chunk of C steps these
values, the rows of Ṽ, solve one triangular system. With the chunk's rows Q,
K, V, the state S that enters it, c = cumsum log α and Γ_ts = e^(c_t − c_s)
for s ≤ t, else 0:

    (I + tril(diag(β) (K Kᵀ ∘ Γ), −1)) Ṽ = diag(β) (V − diag(e^c) K Sᵀ),
    O = diag(e^c) Q Sᵀ + (Q Kᵀ ∘ Γ) Ṽ,
    S ← e^(c_C) S + Ṽᵀ diag(e^(c_C − c)) K.

The system is solved for V and for diag(e^c) K in all chunks at once; only the
last line walks from chunk to chunk.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from linear_time import _validate
from linear_time.cost import Cost
from linear_time.duality import segment_sums
from linear_time.layer import cast_like, full, without_autocast
from linear_time.recurrences import Keys, Numbers, States, Values

Decays = Float[Tensor, "batch length heads"] | Keys
Key = Float[Tensor, "batch heads dk"]
Value = Float[Tensor, "batch heads dv"]


def delta_rule(
    q: Keys,
    k: Keys,
    v: Values,
    beta: Numbers,
    log_decay: Decays | None = None,
    return_last_state: bool = False,
    *,
    initial_state: States | None = None,
    chunk: int = 64,
) -> Values | tuple[Values, States]:
    """S_t = S_{t−1} diag(α_t) (I − β k kᵀ) + β v kᵀ, y_t = S_t q_t, in chunks.

    With a decay a channel, Γ stands inside the products, channel by channel:
    e^(c_t) and e^(−c_s) apart would overflow.

    Args:
        q, k: (batch, length, heads, dk); q is not scaled.
        v: (batch, length, heads, dv).
        beta: β, (batch, length, heads).
        log_decay: log α ≤ 0, a number a head, (batch, length, heads), or one a
            channel, (batch, length, heads, dk), which takes chunk · dk times
            the memory of a key; α = 1 if None.
        return_last_state: also return S after the last step.
        initial_state: S before the first, (batch, heads, dv, dk); zero if
            None.
        chunk: steps of a chunk; the result does not depend on it.

    Returns:
        y, as v; or (y, S) with S (batch, heads, dv, dk), at least float32.

    Raises:
        TypeError: an argument has the wrong type or dtype; float64 stands
            beside another precision.
        ValueError: a shape does not fit, a value is not finite, or some
            log α > 0.

    Source: Yang et al. (2024), "Parallelizing Linear Transformers with the
        Delta Rule", section 3, and "Gated Delta Networks", section 3.3, which
        invert the system by forward substitution.
    """
    _check(q, k, v, beta, log_decay, initial_state)
    chunk = min(_validate.count("chunk", chunk), k.shape[1])
    start = _start(k, v, initial_state)
    if log_decay is None:
        log_decay = torch.zeros_like(beta)
    with _validate.inner(), without_autocast(v):
        inputs = full(q), full(k), full(v), full(beta), full(log_decay)
        y, S = _chunked(*inputs, start, chunk)
    y = cast_like(y, v)
    return (y, S) if return_last_state else y


def _chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor,
    S: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """y and the last state; everything in full precision."""
    (batch, length, heads, dk), dv = k.shape, v.shape[-1]
    n = -(-length // chunk)

    def cut(x: Tensor) -> Tensor:
        """(batch, chunks, heads, steps, …); a step of zeros changes nothing."""
        x = functional.pad(x, (0, 0, 0, 0, 0, n * chunk - length))
        return x.reshape(batch, n, chunk, *x.shape[2:]).transpose(2, 3)

    single = log_decay.ndim == 3
    decay = cut(log_decay[..., None] if single else log_decay)
    q, k, v, beta = cut(q), cut(k), cut(v), cut(beta[..., None])
    sums = segment_sums(decay.mT)  # (…, 1 or dk, steps, steps)
    gamma = sums.exp()  # 0 above the diagonal
    since = decay.cumsum(-2).exp()  # e^(c_t), (…, steps, 1 or dk)
    until = sums[..., -1, :].mT.exp()  # e^(c_C − c_t)

    def pairs(x: Tensor) -> Tensor:
        """(X Kᵀ) ∘ Γ, (…, steps, steps)."""
        if single:
            return (x @ k.mT) * gamma[..., 0, :, :]
        return torch.einsum("...td,...sd,...dts->...ts", x, k, gamma)

    # What stands on and above the diagonal is not read.
    solved = torch.linalg.solve_triangular(
        beta * pairs(k),
        beta * torch.cat([v, since * k], dim=-1),
        upper=False,
        unitriangular=True,
    )
    U, W = solved.split([dv, dk], dim=-1)
    whole, left = since[..., -1:, :], until * k
    entering, written = [], []
    steps = (U.unbind(1), W.unbind(1), whole.unbind(1), left.unbind(1))
    for U_i, W_i, whole_i, left_i in zip(*steps, strict=True):
        entering.append(S)
        written.append(U_i - W_i @ S.mT)  # (batch, heads, steps, dv)
        S = whole_i * S + written[-1].mT @ left_i
    before, V = torch.stack(entering, dim=1), torch.stack(written, dim=1)
    y = (since * q) @ before.mT + pairs(q) @ V
    y = y.transpose(2, 3).reshape(batch, n * chunk, heads, dv)
    return y[:, :length].contiguous(), S


def delta_step(
    q_t: Key,
    k_t: Key,
    v_t: Value,
    beta_t: Float[Tensor, "batch heads"],
    log_decay_t: Float[Tensor, "batch heads"] | Key | None,
    S: States,
) -> tuple[Value, States]:
    """One step: S ← S diag(α), then S ← S + β (v − S k) kᵀ, and y = S q.

    Args:
        q_t, k_t: (batch, heads, dk).
        v_t: (batch, heads, dv).
        beta_t: β, (batch, heads).
        log_decay_t: log α, (batch, heads) or (batch, heads, dk); α = 1 if
            None.
        S: the state before it, (batch, heads, dv, dk).

    Returns:
        (y, S): (batch, heads, dv), and the state after it, at least float32.
    """
    q_t, k_t, v_t, S = full(q_t), full(k_t), full(v_t), full(S)
    if log_decay_t is not None:
        alpha = full(log_decay_t).exp()
        alpha = alpha[..., None] if alpha.ndim == 2 else alpha
        S = S * alpha[..., None, :]
    with without_autocast(S):
        missing = v_t - (S @ k_t[..., None])[..., 0]
        write = full(beta_t)[..., None] * missing
        S = S + write[..., None] * k_t[..., None, :]
        return (S @ q_t[..., None])[..., 0], S


def delta_rule_recurrent(
    q: Keys,
    k: Keys,
    v: Values,
    beta: Numbers,
    log_decay: Decays | None = None,
    return_last_state: bool = False,
    *,
    initial_state: States | None = None,
) -> Values | tuple[Values, States]:
    """As ``delta_rule``, one ``delta_step`` after the other.

    Args, Returns, Raises: as ``delta_rule``.
    """
    _check(q, k, v, beta, log_decay, initial_state)
    S, outputs = _start(k, v, initial_state), []
    decays: Any = [None] * k.shape[1]
    if log_decay is not None:
        decays = log_decay.unbind(1)
    inputs = (q.unbind(1), k.unbind(1), v.unbind(1), beta.unbind(1), decays)
    for now in zip(*inputs, strict=True):
        y_t, S = delta_step(*now, S)
        outputs.append(y_t)
    y = cast_like(torch.stack(outputs, dim=1), v)
    return (y, S) if return_last_state else y


def _start(k: Tensor, v: Tensor, initial_state: Tensor | None) -> Tensor:
    if initial_state is not None:
        return full(initial_state)
    sizes = (len(v), v.shape[2], v.shape[3], k.shape[3])
    dtype = torch.promote_types(v.dtype, torch.float32)
    return v.new_zeros(sizes, dtype=dtype)


def _check(
    q: Any, k: Any, v: Any, beta: Any, log_decay: Any, initial_state: Any
) -> None:
    shape = _validate.layout("k", k, "batch", "length", "heads", "dk")
    *each, dk = shape
    dv = _validate.layout("v", v, *each, "dv")[-1]
    wanted: dict[str, tuple[Any, list[int]]] = {
        "q": (q, [*shape]),
        "beta": (beta, each),
    }
    if log_decay is not None:
        vector = isinstance(log_decay, Tensor) and log_decay.ndim == 4
        wanted["log_decay"] = (log_decay, [*shape] if vector else each)
    if initial_state is not None:
        sizes = [each[0], each[2], dv, dk]
        wanted["initial_state"] = (initial_state, sizes)
    given = {"k": k, "v": v}
    for name, (value, sizes) in wanted.items():
        _validate.layout(name, value, *sizes)
        given[name] = value
    _validate.full_precision(**given)
    if log_decay is not None and _validate.searched() and log_decay.max() > 0:
        raise ValueError(
            "log_decay: expected numbers <= 0, got a largest entry of "
            f"{log_decay.max().item():g}"
        )


def delta_cost(
    length: int,
    d_model: int,
    heads: int,
    d_key: int = 64,
    d_value: int = 64,
    key_heads: int | None = None,
    taps: int = 4,
    chunk: int = 64,
    gated: bool = True,
) -> Cost:
    """The mixer of DeltaNet, or of gated DeltaNet, in chunks of C steps.

    A token of a chunk costs a head 2C(2 d_key + d_value + C) for the two
    matrices of scores, their product with Ṽ and the sums in Γ, C(d_key +
    d_value) for the triangular system, and 6 d_key d_value for what is read
    of the state, twice, and written. A step costs a head 6 d_key d_value, and
    one more where there is a decay. (What is done once a number is left out.)
    """
    key_heads = heads if key_heads is None else key_heads
    for name, size in {
        "length": length, "d_model": d_model, "heads": heads, "d_key": d_key,
        "d_value": d_value, "key_heads": key_heads, "taps": taps,
        "chunk": chunk,
    }.items():  # fmt: skip
        _validate.count(name, size)
    values = heads * d_value
    mixed = 2 * key_heads * d_key + values
    wide = mixed + heads + (values + heads if gated else 0)
    maps = d_model * wide + values * d_model
    C = min(chunk, length)
    always = 2 * maps + 2 * taps * mixed
    token = 2 * C * (2 * d_key + d_value + C) + C * (d_key + d_value)
    token = heads * (token + 6 * d_key * d_value)
    own = mixed * taps + d_value + (2 * heads if gated else 0)
    return Cost(
        parameters=maps + own,
        forward_flops=(always + token) * length,
        depth=1 + 3 + -(-length // C),
        step_flops=always + (7 if gated else 6) * heads * d_key * d_value,
        state=heads * d_key * d_value + mixed * (taps - 1),
    )
