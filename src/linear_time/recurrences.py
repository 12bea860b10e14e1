"""Chapter 21: one recurrence, and what each model of the family puts into it.

The state of a head is a matrix S of (dv, dk) numbers: a table that is written
along keys k and read along queries q,

    S_t = S_{t−1} A_t + w_t v_t k_tᵀ,    y_t = S_t q_t.

A_t is diagonal plus a matrix of rank one, or a product of such, or, with a
second state beside S, made of blocks. The models differ in the diagonal (how
they forget), in the rank one (what they erase), in the order of the two, and
in when they read.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from linear_time import _validate
from linear_time.layer import cast_like, full, without_autocast

Keys = Float[Tensor, "batch length heads dk"]
Values = Float[Tensor, "batch length heads dv"]
Numbers = Float[Tensor, "batch length heads"]
States = Float[Tensor, "batch heads dv dk"]
Outputs = Float[Tensor, "batch tokens heads width"]
Channels = Float[Tensor, "batch length width"]


class Terms(NamedTuple):
    """What a model puts into the recurrence, for every step of every head.

    Here … stands for (batch, length, heads). No q is scaled: the 1/√dk of
    many a code belongs to the caller.
    """

    q: Keys
    k: Keys
    v: Values
    w: Tensor | None = None  # weight of the write, (…); 1 if None
    # What S is multiplied by first: (…), (…, dk) or a matrix (…, dk, dk).
    decay: Tensor | None = None
    read: Tensor | None = None  # r: S r is what is erased, (…, dk)
    erase: Tensor | None = None  # e: along which it is erased, (…, dk)
    # Whether r reads the state after its decay, A = D (I − r eᵀ), or before
    # it, A = D − r eᵀ.
    decay_first: bool = True
    # Where given, y_t = (S_{t−1} + v_t bonus_tᵀ) q_t: it reads, then writes.
    bonus: Tensor | None = None  # (…, dk)
    # Where given, the last channel of v is 1, that of S q sums the weights,
    # and y is the others divided by it, but by no less than floor, (…).
    floor: Tensor | None = None
    every: int = 1  # y is read after each every-th step: writes of a token


def step(
    S: Float[Tensor, "dv dk"],
    A: Float[Tensor, "dk dk"],
    w: Float[Tensor, ""] | float,
    v: Float[Tensor, " dv"],
    k: Float[Tensor, " dk"],
    q: Float[Tensor, " dk"],
) -> tuple[Float[Tensor, " dv"], Float[Tensor, "dv dk"]]:
    """The recurrence, word for word: S ← S A + w v kᵀ, y = S q.

    Args:
        S: the state before it, (dv, dk).
        A: what becomes of it, (dk, dk).
        w: the weight of the write.
        v, k, q: value (dv,), key and query (dk,).

    Returns:
        (y, S): (dv,), and the state after it.
    """
    S = S @ A + w * torch.outer(v, k)
    return S @ q, S


def transitions(
    terms: Terms,
) -> Float[Tensor, "batch length heads dk dk"]:
    """A_t of every step, written out: D (I − r eᵀ), or D − r eᵀ.

    Raises: as ``recurrence``.
    """
    _check(terms)
    k = terms.k
    dk = k.shape[-1]
    decay = k.new_ones(k.shape[:3]) if terms.decay is None else terms.decay
    if decay.ndim == 3:
        decay = decay[..., None].expand(k.shape)
    D = torch.diag_embed(decay) if decay.ndim == 4 else decay
    if terms.read is None or terms.erase is None:
        return D
    low = terms.read[..., :, None] * terms.erase[..., None, :]
    if terms.decay_first:
        return D @ (torch.eye(dk, dtype=k.dtype, device=k.device) - low)
    return D - low


def recurrence(
    terms: Terms,
    return_last_state: bool = False,
    *,
    initial_state: States | None = None,
) -> Outputs | tuple[Outputs, States]:
    """S_t = S_{t−1} A_t + w_t v_t k_tᵀ and y_t = S_t q_t, step after step.

    No A is written out: a step costs O(dv dk), but for a decay that is a
    matrix.

    Args:
        terms: of one of the functions below, or one's own.
        return_last_state: also return S after the last step.
        initial_state: S before the first, (batch, heads, dv, dk); zero if
            None.

    Returns:
        y, (batch, length / every, heads, dv), in the precision of v, dv less
        one where there is a floor; or (y, S), S at least float32.

    Raises:
        TypeError: one of the terms has the wrong type, or another precision.
        ValueError: a shape does not fit, or a value is not finite.

    Source: the models' papers, in one notation.
    """
    _check(terms, initial_state)
    v, every = terms.v, terms.every
    with without_autocast(v):
        numbers = {
            name: full(value).unbind(1)
            for name, value in zip(Terms._fields, terms, strict=True)
            if isinstance(value, Tensor)
        }
        if initial_state is None:
            batch, _, heads, dv = v.shape
            S = full(v).new_zeros(batch, heads, dv, terms.k.shape[3])
        else:
            S = full(initial_state)
        outputs = []
        for t in range(v.shape[1]):
            now = {name: value[t] for name, value in numbers.items()}
            before, S = S, _advance(S, now, terms.decay_first)
            if (t + 1) % every == 0:
                outputs.append(_read(before, S, now))
        y = cast_like(torch.stack(outputs, dim=1), v)
    return (y, S) if return_last_state else y


def _advance(S: Tensor, now: dict[str, Tensor], decay_first: bool) -> Tensor:
    """S A + w v kᵀ of one step; S is (batch, heads, dv, dk)."""
    decayed = S
    if "decay" in now:
        decay = now["decay"]
        if decay.ndim == 2:  # a number a head
            decay = decay[..., None]
        decayed = S * decay[..., None, :] if decay.ndim == 3 else S @ decay
    added = now["v"]
    if "w" in now:
        added = now["w"][..., None] * added
    new = decayed + added[..., None] * now["k"][..., None, :]
    if "read" in now:
        seen = decayed if decay_first else S
        erased = seen @ now["read"][..., None]  # (batch, heads, dv, 1)
        new = new - erased * now["erase"][..., None, :]
    return new


def _read(before: Tensor, S: Tensor, now: dict[str, Tensor]) -> Tensor:
    """y of one step, from the states before and after it."""
    if "bonus" in now:
        S = before + now["v"][..., None] * now["bonus"][..., None, :]
    y = (S @ now["q"][..., None])[..., 0]
    if "floor" in now:
        total = torch.maximum(y[..., -1].abs(), now["floor"])
        y = y[..., :-1] / total[..., None]
    return y


# --- what each model puts in --------------------------------------------------


def positive(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """φ(x) = elu(x) + 1 > 0, so that weights φ(q)ᵀ φ(k) are positive.

    Source: Katharopoulos et al. (2020), arXiv 2006.16236, equation 7.
    """
    return functional.elu(x) + 1


def linear_attention(
    q: Keys, k: Keys, v: Values, normalized: bool = False
) -> Terms:
    """A = I: everything is kept. S_t = S_{t−1} + v_t k_tᵀ.

    Args:
        q, k, v: queries and keys after their φ.
        normalized: whether y is divided by zᵀq, z_t = z_{t−1} + k_t.

    Source: Katharopoulos et al. (2020), arXiv 2006.16236.
    """
    if not normalized:
        return Terms(q, k, v)
    return Terms(q, k, _with_one(v), floor=v.new_zeros(v.shape[:3]))


def retnet(q: Keys, k: Keys, v: Values) -> Terms:
    """A = γ_h I, fixed: γ_h = 1 − 2^(−5−h) for the heads h = 0, 1, …

    q and k may be turned by their position before.

    Source: Sun et al. (2023), "Retentive Network", arXiv 2307.08621.
    """
    h = torch.arange(v.shape[2], device=v.device, dtype=full(v).dtype)
    gamma = 1 - torch.exp2(-5 - h)
    return Terms(q, k, v, decay=gamma.to(v.dtype).expand(v.shape[:3]))


def lightning(
    q: Keys, k: Keys, v: Values, layer: int = 0, n_layer: int = 1
) -> Terms:
    """A = exp(−s_h) I, fixed: s_h = 2^(−8h/heads) for h = 1, 2, …, heads.

    The slope falls with depth, by a factor 1 − layer/(n_layer − 1), which the
    code of MiniMax keeps above 0 by 10⁻⁵ in two places.

    Source: Qin et al. (2024), "Lightning Attention-2", arXiv 2401.04658;
        MiniMax (2025), arXiv 2501.08313.
    """
    h = torch.arange(1, v.shape[2] + 1, device=v.device, dtype=full(v).dtype)
    factor = 1 - layer / (n_layer - 1 + 1e-5) + 1e-5
    slope = torch.exp2(-8 * h / v.shape[2]) * factor
    decay = torch.exp(-slope).to(v.dtype)
    return Terms(q, k, v, decay=decay.expand(v.shape[:3]))


def mamba1(
    u: Channels,
    delta: Channels,
    A: Float[Tensor, "width N"],
    B: Float[Tensor, "batch length N"],
    C: Float[Tensor, "batch length N"],
) -> Terms:
    """A head a channel, dv = 1, dk = N: A_t = diag(exp(Δ_t A)), w = Δ_t.

    ``selective_scan`` without D; k = B and q = C are shared by all channels.

    Source: Gu & Dao (2023), "Mamba", arXiv 2312.00752.
    """
    sizes = (*u.shape, B.shape[-1])
    k, q = (value[:, :, None].expand(sizes) for value in (B, C))
    return Terms(q, k, u[..., None], delta, torch.exp(delta[..., None] * A))


def mamba2(
    x: Values,
    delta: Numbers,
    A: Float[Tensor, " heads"],
    B: Float[Tensor, "batch length groups dk"],
    C: Float[Tensor, "batch length groups dk"],
) -> Terms:
    """A_t = exp(Δ_t A) I, w = Δ_t: ``ssd`` without D.

    Source: Dao & Gu (2024), "Transformers are SSMs", arXiv 2405.21060.
    """
    shared = x.shape[2] // B.shape[2]  # heads of a group
    k, q = (value.repeat_interleave(shared, dim=2) for value in (B, C))
    return Terms(q, k, x, delta, torch.exp(delta * A))


def gla(q: Keys, k: Keys, v: Values, alpha: Keys) -> Terms:
    """A_t = diag(α_t), one decay a channel of the key.

    Source: Yang et al. (2023), "Gated Linear Attention Transformers",
        arXiv 2312.06635, whose α = σ(·)^(1/16).
    """
    return Terms(q, k, v, decay=alpha)


def rwkv6(
    q: Keys, k: Keys, v: Values, w: Keys, u: Float[Tensor, "heads dk"]
) -> Terms:
    """A_t = diag(w_t), and a read before the write, with a bonus u:

    y_t = (S_{t−1} + v_t (u ⊙ k_t)ᵀ) q_t, then S_t = S_{t−1} diag(w_t) + v kᵀ.

    Args:
        q, k, v: q is r in the paper.
        w: decays in (0, 1).
        u: weight of the present token.

    Source: Peng et al. (2024), "Eagle and Finch", arXiv 2404.05892.
    """
    return Terms(q, k, v, decay=w, bonus=u * k)


def delta_net(q: Keys, k: Keys, v: Values, beta: Numbers) -> Terms:
    """A_t = I − β k kᵀ, w = β: what k read is replaced by v, in part β.

    One step of size β on ½ ‖S k − v‖². The paper has ‖k‖ = 1.

    Source: Schlag et al. (2021), arXiv 2102.11174; Yang et al. (2024),
        arXiv 2406.06484.
    """
    return Terms(q, k, v, beta, None, k, beta[..., None] * k)


def gated_delta_net(
    q: Keys, k: Keys, v: Values, beta: Numbers, alpha: Numbers
) -> Terms:
    """A_t = α_t (I − β k kᵀ), w = β: ``delta_net`` on a decayed state.

    Source: Yang et al. (2024), "Gated Delta Networks", arXiv 2412.06464.
    """
    return Terms(q, k, v, beta, alpha, k, beta[..., None] * k)


def kda(q: Keys, k: Keys, v: Values, beta: Numbers, alpha: Keys) -> Terms:
    """A_t = diag(α_t) (I − β k kᵀ), w = β: a decay a channel, then erased.

    Source: Kimi Team (2025), "Kimi Linear", arXiv 2510.26692.
    """
    return Terms(q, k, v, beta, alpha, k, beta[..., None] * k)


def gdn2(
    q: Keys, k: Keys, v: Values, erase: Keys, write: Values, alpha: Keys
) -> Terms:
    """A_t = diag(α_t) (I − (b ⊙ k) kᵀ), and w ⊙ v is written.

    Args:
        q, k, v: as elsewhere.
        erase: b, a gate a channel of the key.
        write: w, a gate a channel of the value.
        alpha: decays.

    Source: arXiv 2605.22791, "Gated DeltaNet-2".
    """
    return Terms(q, k, write * v, None, alpha, erase * k, k)


def rwkv7(q: Keys, k: Keys, v: Values, w: Keys, kappa: Keys, a: Keys) -> Terms:
    """A_t = diag(w_t) − κ (a ⊙ κ)ᵀ: erased from the state before its decay.

    Args:
        q, k, v: q is r in the paper, and k what it writes with,
            k ⊙ (1 + (a − 1) ⊙ k_a).
        w: decays, exp(−e^(−½) σ(·)) in the paper, so above 0.545.
        kappa: the normalised key of what is erased, ‖κ‖ = 1.
        a: how much of it, a channel, in (0, 1).

    Source: Peng et al. (2025), "RWKV-7 Goose", arXiv 2503.14456.
    """
    return Terms(q, k, v, None, w, kappa, a * kappa, decay_first=False)


def delta_product(
    q: Keys,
    k: Float[Tensor, "batch length heads writes dk"],
    v: Float[Tensor, "batch length heads writes dv"],
    beta: Float[Tensor, "batch length heads writes"],
    alpha: Numbers | None = None,
) -> Terms:
    """A_t = α_t ∏_j (I − β_j k_j k_jᵀ): several steps of the rule a token.

    The terms are those of length · writes steps, read after each token.

    Source: Siems et al. (2025), "DeltaProduct", arXiv 2502.10297.
    """
    writes = k.shape[3]
    k, v, beta = _unfold(k), _unfold(v), _unfold(beta)
    decay = None if alpha is None else _first_of(alpha, writes)
    q = q.repeat_interleave(writes, dim=1)
    return Terms(q, k, v, beta, decay, k, beta[..., None] * k, every=writes)


def titans(
    q: Keys,
    k: Keys,
    v: Values,
    theta: Numbers,
    alpha: Numbers,
    eta: Numbers | None = None,
) -> Terms:
    """A linear memory M that learns by gradient steps with momentum.

    M_t = (1 − α_t) M_{t−1} + Z_t,
    Z_t = η_t Z_{t−1} − θ_t (M_{t−1} k − v) kᵀ.

    Without momentum A_t = (1 − α_t) I − θ_t k kᵀ, w = θ. With it the state is
    M and Z side by side, (dv, 2 dk), and its decay a matrix.

    Args:
        q, k, v: as elsewhere.
        theta, alpha: rate and forgetting.
        eta: momentum; none if None.

    Source: Behrouz et al. (2025), "Titans", arXiv 2501.00663, equations 13
        and 14.
    """
    late: Any = {"decay_first": False}
    if eta is None:
        e = theta[..., None] * k
        return Terms(q, k, v, theta, 1 - alpha, k, e, **late)
    # [M, Z] [[(1 − α) I, 0], [η I, η I]]: the new M takes in η Z too.
    none = torch.zeros_like(alpha)
    rows = [torch.stack([1 - alpha, none], -1), torch.stack([eta, eta], -1)]
    decay = _blocks(torch.stack(rows, -2), k.shape[-1])
    both, old = torch.cat([k, k], -1), _beside(k, first=True)
    q, e = _beside(q, first=True), theta[..., None] * both
    return Terms(q, both, v, theta, decay, old, e, **late)


def ttt_linear(
    q: Keys, k: Keys, v: Values, eta: Numbers, mini_batch: int = 16
) -> Terms:
    """One gradient step a token, each at where its mini-batch began.

    W_t = W_{t−1} − η_t (W₀ k_t − v_t) k_tᵀ, W₀ the W before the mini-batch:
    the state is W and W₀ side by side, (dv, 2 dk). A mini-batch of one token
    is ``delta_net``.

    The paper's inner model has a LayerNorm and a bias besides, so that its
    step is not linear in W; its v is v − k.

    Source: Sun et al. (2024), "Learning to (Learn at Test Time)",
        arXiv 2407.04620.
    """
    _validate.count("mini_batch", mini_batch)
    starts = torch.arange(k.shape[1], device=k.device) % mini_batch == 0
    # [W, W₀] [[I, I], [0, 0]] where one begins, [[I, 0], [0, I]] elsewhere.
    begin = k.new_tensor([[1.0, 1.0], [0.0, 0.0]])
    keep = k.new_tensor([[1.0, 0.0], [0.0, 1.0]])
    parts = torch.where(starts[:, None, None], begin, keep)
    parts = parts[None, :, None].expand(*k.shape[:3], 2, 2)
    decay = _blocks(parts, k.shape[-1])
    old, k = _beside(k, first=False), _beside(k, first=True)
    q, e = _beside(q, first=True), eta[..., None] * k
    return Terms(q, k, v, eta, decay, old, e)


def rg_lru(x: Channels, a: Channels, i: Channels) -> Terms:
    """h_t = a_t ⊙ h_{t−1} + √(1 − a_t²) ⊙ (i_t ⊙ x_t): dk = dv = 1.

    Args:
        x: input.
        a: decays, σ(Λ)^(8 r) in the paper.
        i: gate of the input.

    Source: De et al. (2024), "Griffin", arXiv 2402.19427.
    """
    return _channels(i * x, torch.sqrt(1 - a.square()), a)


def min_gru(z: Channels, h: Channels) -> Terms:
    """h_t = (1 − z_t) ⊙ h_{t−1} + z_t ⊙ h̃_t, with gates of x_t alone.

    Args:
        z: gate in (0, 1).
        h: h̃, after ``min_gru_g`` in the paper's log-space form.

    Source: Feng et al. (2024), "Were RNNs All We Needed?", arXiv 2410.01201.
    """
    return _channels(h, z, 1 - z)


def min_gru_g(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """g(x) = x + ½ for x ≥ 0, σ(x) below: positive, for logarithms.

    Source: arXiv 2410.01201, appendix B.3.
    """
    return torch.where(x >= 0, x + 0.5, torch.sigmoid(x))


def min_lstm(f: Channels, i: Channels, h: Channels) -> Terms:
    """h_t = (f_t ⊙ h_{t−1} + i_t ⊙ h̃_t) / (f_t + i_t).

    Source: arXiv 2410.01201, section 3.2, independent of the length.
    """
    return _channels(h, i / (f + i), f / (f + i))


def mlstm(
    q: Keys,
    k: Keys,
    v: Values,
    i: Numbers,
    f: Numbers,
    stabilized: bool = True,
) -> Terms:
    """A_t = exp(f_t) I, w = exp(i_t), with a normaliser n:

    n_t = exp(f_t) n_{t−1} + exp(i_t) k_t,
    y_t = S_t q / max(|n_tᵀ q|, 1),  q divided by √dk.

    exp(i_t) has no upper limit. Stabilised, S and n are kept as exp(−m_t)
    times what they are, with m_t = max(f_t + m_{t−1}, i_t): then the decay is
    exp(f_t + m_{t−1} − m_t), the write exp(i_t − m_t), neither above 1, and
    the 1 below y becomes exp(−m_t).

    Args:
        q, k, v: as elsewhere, q not yet divided.
        i: the logarithm of the input gate.
        f: the logarithm of the forget gate.
        stabilized: by m, whose m before the first token is −∞.

    Source: Beck et al. (2024), "xLSTM", arXiv 2405.04517, equations 19 to 27.
    """
    q = q / math.sqrt(q.shape[-1])
    if not stabilized:
        floor = torch.ones_like(i)
        return Terms(q, k, _with_one(v), i.exp(), f.exp(), floor=floor)
    m = i[:, 0]
    levels, decays = [m], [torch.zeros_like(m)]
    for i_t, f_t in zip(i.unbind(1)[1:], f.unbind(1)[1:], strict=True):
        before, m = m, torch.maximum(f_t + m, i_t)
        levels.append(m)
        decays.append(torch.exp(f_t + before - m))
    level = torch.stack(levels, dim=1)
    w, decay = torch.exp(i - level), torch.stack(decays, dim=1)
    # Where exp(−m) overflows, y is 0 as well by the largest number.
    floor = torch.exp(-level).clamp(max=torch.finfo(level.dtype).max)
    return Terms(q, k, _with_one(v), w, decay, floor=floor)


def mamba3(
    x: Values, delta: Numbers, A: Numbers, lam: Numbers, B: Keys, C: Keys
) -> Terms:
    """Two writes a token, the one before and its own, by the trapezoid:

    S_t = α_t S_{t−1} + (1 − λ_t) Δ_t α_t x_{t−1} B_{t−1}ᵀ + λ_t Δ_t x_t B_tᵀ,

    α_t = exp(Δ_t A_t). λ = 1 is ``mamba2``. The terms are those of 2 · length
    steps.

    Args:
        x: inputs.
        delta: Δ ≥ 0.
        A: of each token, < 0.
        lam: λ in [0, 1].
        B, C: already turned by their angles.

    Source: "Mamba-3", arXiv 2603.15569.
    """
    alpha = torch.exp(delta * A)
    before = functional.pad(x, (0, 0) * 2 + (1, 0))[:, :-1]
    B_before = functional.pad(B, (0, 0) * 2 + (1, 0))[:, :-1]
    w = torch.stack([(1 - lam) * delta * alpha, lam * delta], dim=3)
    k = _unfold(torch.stack([B_before, B], dim=3))
    v = _unfold(torch.stack([before, x], dim=3))
    q = C.repeat_interleave(2, dim=1)
    return Terms(q, k, v, _unfold(w), _first_of(alpha, 2), every=2)


def _with_one(v: Tensor) -> Tensor:
    """v with a last channel of 1, whose row of S sums weights."""
    return torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)


def _channels(h: Tensor, w: Tensor, decay: Tensor) -> Terms:
    """A head a channel, dk = dv = 1: h is what is written."""
    one = torch.ones_like(h)[..., None]
    return Terms(one, one, h[..., None], w, decay)


def _unfold(x: Tensor) -> Tensor:
    """(batch, length, heads, writes, …), the writes as steps of the length."""
    return x.transpose(2, 3).flatten(1, 2)


def _first_of(alpha: Tensor, writes: int) -> Tensor:
    """The decay of a token at the first of its writes, 1 at the others."""
    ones = [torch.ones_like(alpha)] * (writes - 1)
    return _unfold(torch.stack([alpha, *ones], dim=3))


def _beside(k: Tensor, first: bool) -> Tensor:
    """k in the first, or second, half of a key of two states."""
    none = torch.zeros_like(k)
    return torch.cat([k, none] if first else [none, k], dim=-1)


def _blocks(parts: Tensor, dk: int) -> Tensor:
    """(…, 2, 2) numbers as a matrix (…, 2 dk, 2 dk) of multiples of I."""
    eye = torch.eye(dk, dtype=parts.dtype, device=parts.device)
    product = parts[..., :, None, :, None] * eye[:, None, :]
    return product.flatten(-2).flatten(-3, -2)


def _check(terms: Terms, initial_state: Any = None) -> None:
    if not isinstance(terms, Terms):
        raise TypeError(
            f"terms: expected Terms, got {_validate.describe(terms)}"
        )
    shape = _validate.layout("k", terms.k, "batch", "length", "heads", "dk")
    *each, dk = shape
    batch, length, heads = each
    _, _, _, dv = _validate.layout("v", terms.v, *each, "dv")
    _validate.layout("q", terms.q, *shape)
    given = {"k": terms.k, "v": terms.v, "q": terms.q}
    wanted = {
        "w": each, "read": shape, "erase": shape, "bonus": shape,
        "floor": each,
    }  # fmt: skip
    if isinstance(terms.decay, Tensor):
        rest = max(0, min(terms.decay.ndim - 3, 2))
        wanted["decay"] = [*each, *(dk, dk)[:rest]]
    for name, sizes in wanted.items():
        value = getattr(terms, name)
        if value is not None:
            _validate.layout(name, value, *sizes)
            given[name] = value
    if (terms.read is None) != (terms.erase is None):
        raise ValueError("erase: expected read and erase together, got one")
    if _validate.count("every", terms.every) and length % terms.every:
        raise ValueError(
            f"every: expected a divisor of length = {length}, got {terms.every}"
        )
    if initial_state is not None:
        _validate.layout("initial_state", initial_state, batch, heads, dv, dk)
        given["initial_state"] = initial_state
    _validate.full_precision(**given)
