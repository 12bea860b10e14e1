"""Chapter 21: associative recall by the members of one family, at equal numbers of state.

``once``   n pairs of a key and a value, each written once, then asked for (MQAR);
``twice``  each key is written a second time with another value, and the last value is asked for.

Attention apart, every model keeps a state of 2,048 numbers a layer: two heads of 32 × 32, or in
Mamba and Mamba-2 128 channels of 16. What is compared in the models of one block, ``Member``, is
the recurrence alone: the same projections, convolution of four taps, norm by head, gate and map
out around S_t = S_{t−1} A_t + w_t v_t k_tᵀ. Attention, Mamba and Mamba-2 have their own blocks;
"Mamba-3, no taps" is Mamba-3's recurrence in the block without its convolution.

``--size small`` has every member of the family, in one block and one layer of 256 numbers, with a
control, "DeltaNet without erasing"; it takes half an hour on a CPU. Titans (with its momentum) and
TTT-Linear keep a second state beside the table, so half as many values; in RG-LRU, minGRU and
minLSTM a state is a vector of as many channels. A pilot set its numbers of keys, tokens and
updates: DeltaNet was to get nine in ten right with every seed, and linear attention was not. (400
updates and 32 kinds of tokens were tried as well; RetNet ran beside the two at 600. The pilot was
scored on the test sequences of the runs.)

Every model has the same width, number of blocks, updates and batches, and three seeds at each
learning rate of the same list. The rate is chosen by the loss on validation sequences; where the
best is an end of the list, the rate beyond is run, and so on. A run that is stopped is resumed by
the same command; with ``--seconds`` it stops by itself.
"""

import functools
import math
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import paper_tables
import runs
import side_by_side
import torch
from stacked import Stack, train_stack
from torch import Tensor, nn
from torch.nn import functional

from linear_time.mamba import Mamba, delta_bias
from linear_time.mamba2 import Mamba2
from linear_time.mixer import LanguageModel, Residual, SequenceMixer
from linear_time.records import Record
from linear_time.recurrences import min_gru_g
from linear_time.tasks import associative_recall
from linear_time.training import seed_everything

SEEDS = (0, 1, 2)
WIDTH, N_LAYER, HEADS, N_STATE = 64, 2, 2, 2048
WARMUP, TARGET = 100, 0.99
RATES, MORE_RATES = (1e-3, 3e-3, 1e-2), (3e-4, 3e-2, 1e-1)  # the further, the nearest first
VALIDATION, TEST = 10**6, 10**6 + 1  # seeds of what no model is trained on


class Task(NamedTuple):
    """What is written, and how long a sequence is."""

    length: int
    n_pairs: int  # writes
    twice: bool  # half of them write again what the others wrote


class Size(NamedTuple):
    """How large the comparison is."""

    tasks: dict[str, Task]
    vocab_size: int
    batch: int
    steps: int
    evaluated: int
    width: int = WIDTH
    n_layer: int = N_LAYER
    heads: int = HEADS
    n_state: int = N_STATE
    mini_batch: int = 16  # tokens of TTT's: a quarter of those that are written
    rates: tuple[float, ...] = RATES
    more_rates: tuple[float, ...] = MORE_RATES  # the nearest first
    target: float | None = TARGET  # where a run ends before its last update
    stacked: bool = False  # rates and seeds of a model as one stack, which needs no GPU


SIZES = {
    "full": Size(
        {
            "once, 16": Task(128, 16, False),
            "once, 64": Task(256, 64, False),
            "twice, 32": Task(128, 32, True),
        },
        *(1024, 64, 3000, 1024),
    ),
    "small": Size(
        {"twice, 8": Task(32, 8, True)},
        *(64, 16, 600, 1024, 32, 1, 1, 256, 4),
        *((3e-3, 1e-2, 3e-2), (1e-3, 1e-1, 3e-4, 3e-1), None, True),
    ),
}


# --- the recurrence, a chunk at a time ------------------------------------------------------------


def inverse(L: Tensor) -> Tensor:
    """The inverse of I + L, L (…, C, C) strictly lower triangular: blocks of 1, 2, 4, …

    [[P, 0], [R, Q]]⁻¹ = [[P⁻¹, 0], [−Q⁻¹ R P⁻¹, Q⁻¹]]: matrix products alone, which graphs record.
    """
    C = L.shape[-1]
    X = torch.eye(C, dtype=L.dtype, device=L.device).expand(L.shape)
    for m in (2**i for i in range((C - 1).bit_length())):
        # The rows of the lower halves, the columns of the upper halves of blocks of 2 m.
        at = torch.arange(C, device=L.device) // m
        inside = (at[:, None] == at + 1) & (at[:, None] % 2 == 1)
        X = X - X @ torch.where(inside, L, 0) @ X
    return X


def pairs(left: Tensor, right: Tensor, decay: Tensor) -> Tensor:
    """Σ_i left_ti right_si decay_tsi; the decay (…, C, C, dk), or (…, C, C, 1) for all i."""
    if decay.shape[-1] == 1:
        return left @ right.mT * decay[..., 0]
    # Not by einsum, which makes a product of matrices for each number, the slowest there is.
    return (left[..., :, None, :] * decay * right[..., None, :, :]).sum(-1)


def by_channels(length: int) -> int:
    """The chunk where pairs of steps have a decay for each channel, which are many numbers."""
    return min(16, max(4, length // 8), length)


def recurrence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    r: Tensor | None = None,
    bonus: Tensor | None = None,
    chunk: int | None = None,
    at_start: bool = False,
) -> Tensor:
    """y_t = S_t q_t of S_t = S_{t−1} diag(e^{g_t}) (I − r_t k_tᵀ) + v_t k_tᵀ.

    Without r nothing is erased. The delta rule has r = β k and β v for v. With a bonus u the read
    comes before the write: y_t = (S_{t−1} + v_t (u ⊙ k_t)ᵀ) q_t. ``at_start``: what is erased is
    what the state said when the chunk began.

    q, k, v, g, r: (batch, heads, length, width), g of width 1 or dk.
    """
    length, by_channel = q.shape[2], g.shape[-1] > 1
    chunk = min(chunk or (by_channels(length) if by_channel else 32), length)
    parts = [functional.pad(x, (0, 0, 0, -length % chunk)) for x in (q, k, v, g)]
    q, k, v, g = (x.unflatten(2, (-1, chunk)) for x in parts)  # (batch, heads, n, C, width)
    c = g.cumsum(-2)
    at = torch.arange(chunk, device=q.device)
    below = (at[:, None] > at)[..., None]
    upto = (at[:, None] >= at)[..., None]
    between = c[..., :, None, :] - c[..., None, :, :]
    decay = between.masked_fill(~upto, -math.inf).exp()
    since, rest = c.exp(), (c[..., -1:, :] - c).exp()
    if bonus is None:
        scores, read = pairs(q, k, decay), q * since
    else:
        before = (between - g[..., :, None, :]).masked_fill(~below, -math.inf).exp()
        own = (q * bonus * k).sum(-1)
        scores, read = pairs(q, k, before) + torch.diag_embed(own), q * (c - g).exp()
    new, erased = v, None
    if r is not None:
        r = functional.pad(r, (0, 0, 0, -length % chunk)).unflatten(2, (-1, chunk))
        erased = r * since
        if not at_start:
            solve = inverse(pairs(r, k, decay.where(below, 0)))
            new, erased = solve @ v, solve @ erased
    S = q.new_zeros(*q.shape[:2], v.shape[-1], k.shape[-1])
    y = []
    for n in range(q.shape[2]):
        written = new[:, :, n] if erased is None else new[:, :, n] - erased[:, :, n] @ S.mT
        y.append(read[:, :, n] @ S.mT + scores[:, :, n] @ written)
        S = S * since[:, :, n, -1:] + written.mT @ (k * rest)[:, :, n]
    return torch.cat(y, 2)[:, :, :length]


def rwkv7(q: Tensor, k: Tensor, v: Tensor, g: Tensor, kappa: Tensor, a: Tensor) -> Tensor:
    """y_t = S_t q_t of S_t = S_{t−1} (diag(e^{g_t}) − κ_t (a_t ⊙ κ_t)ᵀ) + v_t k_tᵀ.

    It erases from the state that has not decayed.
    """
    chunk, length = by_channels(q.shape[2]), q.shape[2]
    every = (q, k, v, g, kappa, a * kappa)
    padded = [functional.pad(x, (0, 0, 0, -length % chunk)) for x in every]
    q, k, v, g, kappa, b = (x.unflatten(2, (-1, chunk)) for x in padded)
    c = g.cumsum(-2)
    at = torch.arange(chunk, device=q.device)
    below, upto = ((at[:, None] > at)[..., None], (at[:, None] >= at)[..., None])
    between = c[..., :, None, :] - c[..., None, :, :]
    decay = between.masked_fill(~upto, -math.inf).exp()
    before = (between - g[..., :, None, :]).masked_fill(~below, -math.inf).exp()
    # r_t = S_{t−1} κ_t = Σ_{s<t} (v_s (k_s · κ_t) − r_s (b_s · κ_t)), each decayed from s to t − 1.
    solve = inverse(pairs(kappa, b, before))
    inner = solve @ pairs(kappa, k, before) @ v
    outer = solve @ (kappa * (c - g).exp())
    of_values, of_reads = pairs(q, k, decay), pairs(q, b, decay)
    since, rest = c.exp(), (c[..., -1:, :] - c).exp()
    S = q.new_zeros(*q.shape[:2], v.shape[-1], k.shape[-1])
    y = []
    for n in range(q.shape[2]):
        r = inner[:, :, n] + outer[:, :, n] @ S.mT
        y.append(
            (q * since)[:, :, n] @ S.mT + of_values[:, :, n] @ v[:, :, n] - of_reads[:, :, n] @ r
        )
        S = S * since[:, :, n, -1:] + v[:, :, n].mT @ (k * rest)[:, :, n]
        S = S - r.mT @ (b * rest)[:, :, n]
    return torch.cat(y, 2)[:, :, :length]


def mlstm(q: Tensor, k: Tensor, v: Tensor, forget: Tensor, write: Tensor) -> Tensor:
    """S_t = f_t S_{t−1} + e^{i_t} v_t k_tᵀ, n likewise, y_t = S_t q_t / max(|n_tᵀ q_t|, 1).

    forget = log f and write = i, (batch, heads, length). The largest exponent of each row is taken
    out before exp, and put back in the place of the 1.
    """
    c = forget.cumsum(-1)
    exponents = c[..., :, None] - c[..., None, :] + write[..., None, :]
    later = torch.ones_like(exponents, dtype=torch.bool).triu(1)
    exponents = exponents.masked_fill(later, -math.inf)
    m = exponents.amax(-1, keepdim=True)
    scores = q @ k.mT * (exponents - m).exp()
    return scores @ v / torch.maximum(scores.sum(-1, keepdim=True).abs(), (-m).exp())


def titans(q: Tensor, k: Tensor, v: Tensor, theta: Tensor, alpha: Tensor, eta: Tensor) -> Tensor:
    """y_t = M_t q_t of M_t = (1 − α_t) M_{t−1} + Z_t, with momentum

    Z_t = η_t Z_{t−1} − θ_t (M_{t−1} k_t − v_t) k_tᵀ; the gates (batch, heads, length, 1).
    """
    M = Z = q.new_zeros(*q.shape[:2], v.shape[-1], k.shape[-1])
    y = []
    steps = zip(*(x.unbind(2) for x in (q, k, v, theta, alpha, eta)), strict=True)
    for q_t, k_t, v_t, *gates in steps:
        rate, forgets, keeps = (x[..., None] for x in gates)
        missing = v_t[..., None] - M @ k_t[..., None]
        Z = keeps * Z + rate * missing * k_t[..., None, :]
        M = (1 - forgets) * M + Z
        y.append((M @ q_t[..., None])[..., 0])
    return torch.stack(y, 2)


def mamba(q: Tensor, k: Tensor, v: Tensor, delta: Tensor, A: Tensor) -> Tensor:
    """Each channel of v has a row of the state, a step Δ and rates A (heads, dv, dk) of its own."""
    decay, new = (delta[..., None] * A[:, None]).exp(), (delta * v)[..., None] * k[..., None, :]
    S = torch.zeros_like(new[:, :, 0])
    y = []
    for q_t, decay_t, new_t in zip(q.unbind(2), decay.unbind(2), new.unbind(2), strict=True):
        S = decay_t * S + new_t
        y.append((S * q_t[..., None, :]).sum(-1))
    return torch.stack(y, 2)


def vector(a: Tensor, b: Tensor) -> Tensor:
    """h_t = a_t ⊙ h_{t−1} + b_t; (batch, length, numbers)."""
    h = torch.zeros_like(b[:, 0])
    states = []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h = a_t * h + b_t
        states.append(h)
    return torch.stack(states, 1)


# --- one block for all ----------------------------------------------------------------------------


class Member(SequenceMixer):
    """The block around the recurrence of one member of the family; whole sequences only."""

    def __init__(
        self,
        rule: str,
        d_model: int,
        heads: int = HEADS,
        taps: int = 4,
        n_state: int = N_STATE,
        mini_batch: int = 16,
    ) -> None:
        super().__init__(d_model)
        self.rule, self.heads = rule, heads
        self.n_state, self.mini_batch = n_state, mini_batch
        self.width = width = math.isqrt(n_state // heads)  # of keys and of values
        inner = heads * width
        # A rule with a second state beside its table has half of the values.
        values = inner // 2 if rule in ("Titans", "TTT-Linear") else inner
        writes = 2 if rule == "DeltaProduct" else 1
        self.sizes = [inner, *[inner] * writes, *[values] * writes]  # of q, k and v
        mixed, read = sum(self.sizes), n_state if rule in VECTORS else values
        self.project = nn.Linear(d_model, mixed, bias=False)
        self.taps = nn.Conv1d(mixed, mixed, taps, groups=mixed, padding=taps - 1) if taps else None
        self.gate = nn.Linear(d_model, read, bias=False)
        self.scale = nn.Parameter(torch.ones(read))
        self.out = nn.Linear(read, d_model, bias=False)
        by_channel = rule in ("GLA", "KDA", "GDN-2", "RWKV-6", "RWKV-7", "Mamba's gate")
        decays = inner if by_channel else heads
        if rule in ("Mamba-2's gate", "Mamba's gate", "gated DeltaNet", "KDA", "GDN-2", "Mamba-3"):
            self.decay = nn.Linear(d_model, decays, bias=False)
            # As Mamba-2 starts: rates A and steps Δ, a head or a channel. Mamba has 1, 2, …, N.
            A_log = torch.empty(heads).uniform_(1, 16).log()
            if rule == "Mamba's gate":
                A_log = torch.arange(1.0, width + 1).log().expand(heads, width, width).clone()
            self.parameter("A_log", A_log, decay=False)
            self.parameter("dt_bias", delta_bias(decays, 1e-3, 0.1, 1e-4), decay=False)
        elif by_channel or rule in ("mLSTM", "Titans"):
            self.decay = nn.Linear(d_model, decays)
        if rule == "RWKV-6":  # starts between e^{−e^{−6}} and e^{−e^{−1}}
            self.decay.bias.data = torch.linspace(-6, -1, width).repeat(heads)
            self.bonus = nn.Parameter(torch.ones(inner))
        if rule == "mLSTM":
            self.decay.bias.data = torch.linspace(3, 6, heads)
        if rule in (*DELTA, "mLSTM", "Mamba-3", "DeltaProduct", "Titans", "TTT-Linear"):
            self.write = nn.Linear(d_model, writes * heads)
        if rule == "Titans":  # forgets little at first
            self.decay.bias.data = torch.full((heads,), -4.0)
            self.momentum = nn.Linear(d_model, heads)
        if rule == "GDN-2":
            self.erase, self.write = nn.Linear(d_model, inner), nn.Linear(d_model, inner)
        if rule == "RWKV-7":
            self.rate = nn.Linear(d_model, inner)
            self.decay.bias.data = torch.linspace(-6, -1, width).repeat(heads)
        if rule == "Mamba-3":
            self.angle = nn.Linear(d_model, heads * width // 4, bias=False)
            self.key_bias = nn.Parameter(torch.ones(2, inner))
        if rule in VECTORS:  # as many channels as others' tables have numbers
            maps = 2 if rule == "minGRU" else 3
            self.choose = nn.Linear(mixed, maps * n_state)
        if rule == "RG-LRU":  # σ(Λ)⁸ from 0.9 to 0.999
            start = torch.empty(n_state).uniform_(0.9, 0.999) ** (1 / 8)
            self.parameter("rate", torch.logit(start), decay=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        mixed = self.project(x)
        if self.taps is not None:
            mixed = self.taps(mixed.mT)[..., : x.shape[1]].mT
        if self.rule in VECTORS:
            y = self.unit(functional.silu(mixed))
        else:
            y = self.read(x, *(self.split(t) for t in mixed.split(self.sizes, -1)))
        y = functional.rms_norm(y, y.shape[-1:], eps=1e-5).transpose(1, 2).flatten(2)
        out: Tensor = self.out(y * self.scale * functional.silu(self.gate(x)))
        return out

    def unit(self, mixed: Tensor) -> Tensor:
        """h of a vector state, in rows of ``width``: (batch, rows, length, width)."""
        h, *gates = self.choose(mixed).chunk(self.choose.out_features // self.n_state, -1)
        first, *others = (torch.sigmoid(gate) for gate in gates)
        if self.rule == "minGRU":
            h = vector(1 - first, first * min_gru_g(h))
        elif self.rule == "minLSTM":
            both = first + others[0]  # forget and input
            h = vector(first / both, others[0] / both * min_gru_g(h))
        else:
            log_a = 8 * first * functional.logsigmoid(self.rate)
            h = vector(log_a.exp(), (-torch.expm1(2 * log_a)).sqrt() * others[0] * h)
        return h.unflatten(-1, (-1, self.width)).transpose(1, 2)

    def split(self, x: Tensor) -> Tensor:
        """(batch, length, heads · width) → (batch, heads, length, width)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def step_size(self, x: Tensor) -> Tensor:
        """Δ, (batch, heads, length, 1 or dk)."""
        return self.split(functional.softplus(self.decay(x) + self.dt_bias))

    def mamba_step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Δ and log α = −A Δ, (batch, heads, length, 1 or dk)."""
        delta = self.step_size(x)
        return delta, -self.A_log.exp()[:, None, None] * delta

    def read(self, x: Tensor, q: Tensor, *written: Tensor) -> Tensor:
        """y of the recurrence; q, keys and values (batch, heads, length, width)."""
        rule, one = self.rule, q.new_zeros(*q.shape[:3], 1)
        if rule == "linear attention":
            k, v = written
            q, k = functional.elu(q) + 1, functional.elu(k) + 1
            y = recurrence(q, k, torch.cat([v, one + 1], -1), one)
            return y[..., :-1] / (y[..., -1:] + 1e-6)
        if self.taps is not None:
            q, *written = (functional.silu(t) for t in (q, *written))
        if rule == "DeltaProduct":
            return self.product(x, q, *written)
        k, v = written
        if rule == "RetNet":
            of_head = torch.arange(self.heads, device=x.device)[:, None, None]
            return recurrence(q, k, v, one + torch.log1p(-(2.0 ** (-5 - of_head))))
        if rule == "Lightning":  # of its first layer
            of_head = torch.arange(1, self.heads + 1, device=x.device)[:, None, None]
            return recurrence(q, k, v, one - 2.0 ** (-8 * of_head / self.heads))
        if rule == "GLA":
            return recurrence(q, k, v, self.split(functional.logsigmoid(self.decay(x)) / 16))
        if rule == "Mamba-2's gate":
            delta, g = self.mamba_step(x)
            return recurrence(q, k, delta * v, g)
        if rule == "Mamba's gate":
            return mamba(q, k, v, self.step_size(x), -self.A_log.exp())
        if rule == "RWKV-6":
            bonus = self.bonus.view(self.heads, 1, 1, self.width)
            return recurrence(q, k, v, self.split(-self.decay(x).exp()), bonus=bonus)
        if rule == "mLSTM":
            forget = functional.logsigmoid(self.decay(x)).mT
            return mlstm(q * self.width**-0.5, k, v, forget, self.write(x).mT)
        if rule == "Mamba-3":
            return self.mamba3(x, q, k, v)
        q, unit = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        if rule == "RWKV-7":
            g = self.split(-math.exp(-0.5) * torch.sigmoid(self.decay(x)))
            a = self.split(torch.sigmoid(self.rate(x)))
            return rwkv7(q, a * k, v, g, unit, a)
        if rule == "GDN-2":
            erase, write = (self.split(torch.sigmoid(m(x))) for m in (self.erase, self.write))
            return recurrence(q, unit, write * v, self.mamba_step(x)[1], erase * unit)
        beta = torch.sigmoid(self.write(x)).mT[..., None]
        if rule == "Titans":
            gates = (torch.sigmoid(m(x)).mT[..., None] for m in (self.decay, self.momentum))
            return titans(q, unit, v, beta, *gates)
        if rule == "TTT-Linear":
            return recurrence(
                q, unit, beta * v, one, beta * unit, chunk=self.mini_batch, at_start=True
            )
        if rule == "DeltaNet, β to 2":
            beta = 2 * beta
        if rule == "DeltaNet without erasing":
            return recurrence(q, unit, beta * v, one)
        g = one if rule.startswith("DeltaNet") else self.mamba_step(x)[1]
        return recurrence(q, unit, beta * v, g, beta * unit)

    def product(self, x: Tensor, q: Tensor, *written: Tensor) -> Tensor:
        """DeltaProduct: n steps of the delta rule a token, read after the last."""
        n = len(written) // 2
        k, v = (torch.stack(of, 3).flatten(2, 3) for of in (written[:n], written[n:]))
        beta = 2 * torch.sigmoid(self.write(x)).unflatten(-1, (self.heads, n))
        beta = beta.transpose(1, 2).flatten(2, 3)[..., None]
        q, k = (functional.normalize(t, dim=-1) for t in (q, k))
        q = q.repeat_interleave(n, 2)
        y = recurrence(q, k, beta * v, torch.zeros_like(beta), beta * k)
        return y[:, :, n - 1 :: n]

    def mamba3(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Exponential-trapezoidal: the key of step s is scaled by what s and s + 1 give it."""
        delta, g = self.mamba_step(x)
        q, k = (
            functional.rms_norm(t, (self.width,)) + bias.view(self.heads, 1, self.width)
            for t, bias in zip((q, k), self.key_bias, strict=True)
        )
        turn = (math.pi * torch.tanh(self.split(self.angle(x))) * delta).cumsum(2)
        q, k = (self.rotate(t, turn) for t in (q, k))
        weight = torch.sigmoid(self.write(x)).mT[..., None]  # λ
        late = functional.pad(((1 - weight) * delta)[:, :, 1:], (0, 0, 0, 1))
        y = recurrence(q, k * (weight * delta + late), v, g)
        return y - late * (q * k).sum(-1, keepdim=True) * v

    def rotate(self, t: Tensor, turn: Tensor) -> Tensor:
        """The first half of the channels, by pairs."""
        a, b = t[..., : self.width // 2].unflatten(-1, (-1, 2)).unbind(-1)
        cos, sin = turn.cos(), turn.sin()
        turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
        return torch.cat([turned, t[..., self.width // 2 :]], -1)


#: Models with blocks of their own, of size full alone.
OWN: dict[str, Any] = {
    "attention": lambda width: paper_tables.Attention(width, 1),
    "Mamba": lambda width: Mamba(width, N=16),
    "Mamba-2": lambda width: Mamba2(width, N=16),
    "Mamba-3, no taps": lambda width: Member("Mamba-3", width, taps=0),
}
VECTORS = ("RG-LRU", "minGRU", "minLSTM")
#: The last is the control: DeltaNet's keys, gate and write, without what is erased.
DELTA = ("DeltaNet", "DeltaNet, β to 2", "gated DeltaNet", "KDA", "DeltaNet without erasing")
RULES = (
    *("linear attention", "RetNet", "Lightning", "Mamba's gate", "Mamba-2's gate", "GLA", "mLSTM"),
    *("RWKV-6", *DELTA, "GDN-2", "RWKV-7", "DeltaProduct", "Titans", "TTT-Linear", *VECTORS),
    "Mamba-3",
)
MODELS = (*OWN, *RULES)


def network(size: Size, model: str) -> LanguageModel:
    """The frame that is the same for all: embedding, residual blocks, norm, and the head."""

    def mixer() -> SequenceMixer:
        if model in OWN:
            made: SequenceMixer = OWN[model](size.width)
            return made
        return Member(
            model, size.width, size.heads, n_state=size.n_state, mini_batch=size.mini_batch
        )

    return LanguageModel(lambda: Residual(mixer()), size.vocab_size, size.width, size.n_layer)


def state(size: Size, model: str, length: int) -> int:
    """The numbers of a layer's state at the end of a sequence; taps are not counted."""
    return 2 * size.width * length if model == "attention" else size.n_state


# --- the task -------------------------------------------------------------------------------------


def drawn(task: Task, vocab_size: int, n: int, generator: torch.Generator) -> Any:
    """Tokens (n, length), places of the answers, and answers."""
    length, n_pairs = task.length, task.n_pairs
    tokens, targets = associative_recall(
        n, length, n_pairs, vocab_size, 0.01, False, generator=generator
    )
    places = (targets >= 0).nonzero()[:, 1].view(n, -1)
    right = targets.gather(1, places)
    if not task.twice:
        return tokens, places, right
    half = n_pairs // 2
    keys, values = tokens[:, : 2 * n_pairs : 2], tokens[:, 1 : 2 * n_pairs : 2].clone()
    noise = torch.rand(n, half, generator=generator, device=generator.device)
    keys = torch.cat([keys[:, :half], keys[:, :half].gather(1, noise.argsort(1))], 1)
    which = (right[:, :, None] == values[:, None, :]).int().argmax(-1)  # pair of each question
    last = which >= half
    tokens[:, : 2 * n_pairs : 2] = keys
    tokens.scatter_(1, places, keys.gather(1, which) * last)  # of the first write nothing is asked
    order = (~last).int().argsort(dim=1, stable=True)[:, :half]
    return tokens, places.gather(1, order), right.gather(1, order)


def run(group: Sequence[dict], end: float) -> list[dict] | None:
    """These jobs of one task side by side; None where there is not the time."""
    if time.perf_counter() > end:
        return None
    runs.without_checks()
    device, same = runs.device(), group[0]  # but for the rate and the seed
    size = SIZES[same["size"]]
    if size.stacked:
        return run_stack(group, size, device, end)
    task, batch = size.tasks[same["task"]], same["batch"]
    held_out = {
        of: drawn(task, size.vocab_size, size.evaluated, torch.Generator(device).manual_seed(of))
        for of in (VALIDATION, TEST)
    }

    def draw(generator: torch.Generator, n: int) -> Any:
        flat = drawn(task, size.vocab_size, n * batch, generator)
        return tuple(x.unflatten(0, (n, -1)) for x in flat)

    trainees, curves = [], {}
    for job in group:
        seed_everything(job["seed"])
        model = network(size, job["model"]).to(device)
        settings = runs.config(job, WARMUP, 1)
        trainees.append(side_by_side.Trainee(model, draw, paper_tables.terms, settings))
        curves[trainees[-1]] = []

    def evaluate(trainee: side_by_side.Trainee) -> float:
        network: Any = trainee.network.eval()
        found = paper_tables.score(network, held_out[VALIDATION], 256)
        curves[trainee].append([trainee.done, *(round(x, 4) for x in found)])
        return found[1]

    steps = same["steps"]
    chunk = min(side_by_side.CHUNK, steps)
    every = chunk * max(1, steps // 12 // chunk)
    target = math.inf if size.target is None else size.target
    if not side_by_side.train_side_by_side(
        trainees, evaluate, every, target, end - time.perf_counter()
    ):
        return None
    results = []
    for job, trainee in zip(group, trainees, strict=True):
        model = trainee.network.eval()
        found: dict[str, Any] = {
            "parameters": runs.count(model),
            "state": state(size, job["model"], task.length),
            "updates": trainee.done,
        }
        curve = curves[trainee]
        if not curve or not trainee.finite():
            none = {"validation_loss": None, "tokens": 0.0, "sequences": 0.0, "curve": curve}
            results.append({**found, **none})
            continue
        _, tokens, sequences = paper_tables.score(model, held_out[TEST], 256)  # type: ignore[arg-type]
        found |= {
            "validation_loss": curve[-1][1],
            "tokens": round(tokens, 4),
            "sequences": round(sequences, 4),
            "curve": curve,
        }
        results.append(found)
    return results


class Asked(nn.Module):
    """A network's logits where it is asked; a row has a sequence's tokens, then the places."""

    def __init__(self, network: LanguageModel, length: int) -> None:
        super().__init__()
        self.network, self.length = network, length

    def forward(self, rows: Tensor) -> Tensor:
        return paper_tables.answers(self.network, rows[:, : self.length], rows[:, self.length :])


def run_stack(
    group: Sequence[dict], size: Size, device: torch.device, end: float
) -> list[dict] | None:
    """These jobs of one model as one stack: each on its seed's own sequences."""
    task, (steps, batch) = size.tasks[group[0]["task"]], (group[0][k] for k in ("steps", "batch"))

    def rows(n: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator(device).manual_seed(seed)
        tokens, places, right = drawn(task, size.vocab_size, n, generator)
        return torch.cat([tokens, places], 1), right

    networks = []
    for job in group:
        seed_everything(job["seed"])
        networks.append(Asked(network(size, job["model"]), task.length).to(device))
    seeds = list(dict.fromkeys(job["seed"] for job in group))
    x, y = (torch.cat(of) for of in zip(*(rows(steps * batch, s) for s in seeds), strict=True))
    # Which sequences are in each batch, (steps, networks, batch).
    first = torch.tensor([seeds.index(job["seed"]) * steps * batch for job in group])
    at = first[:, None] + torch.arange(steps * batch).view(steps, 1, batch)
    held_out = {of: rows(size.evaluated, of) for of in (VALIDATION, TEST)}
    curve = []

    @torch.no_grad()
    def scores(stack: Stack, of: int) -> Tensor:
        """Loss, right answers and right sequences of each network, (3, networks)."""
        x, y = held_out[of]
        pieces = [stack(part.expand(len(group), *part.shape)) for part in x.split(256)]
        logits = torch.cat(pieces, 1)  # (networks, sequences, answers, vocabulary)
        right = logits.argmax(-1) == y
        wanted = y.expand(right.shape)[..., None]
        loss = -logits.log_softmax(-1).gather(-1, wanted).flatten(1).double().mean(1)
        shares = right.double().flatten(1).mean(1), right.all(-1).double().mean(1)
        return torch.stack([loss, *shares]).cpu()

    def evaluate(step: int, stack: Stack) -> None:
        if step % max(1, steps // 8) == 0:
            curve.append((step, scores(stack, VALIDATION)))

    settings = [runs.config(job, WARMUP, 1) for job in group]
    left = end - time.perf_counter()
    trained = train_stack(networks, (x, y), at, settings, left, evaluate)
    if trained is None:
        return None
    stack, losses = trained
    validation, test = (scores(stack, of) for of in (VALIDATION, TEST))
    finite = losses.isfinite().all(0).cpu()
    results = []
    for i, model in enumerate(networks):
        fine = bool(finite[i])
        found: dict[str, Any] = {
            "parameters": runs.count(model),
            "state": state(size, group[i]["model"], task.length),
            "updates": steps,
            "validation_loss": round(float(validation[0, i]), 4) if fine else None,
            "tokens": round(float(test[1, i]), 4) if fine else 0.0,
            "sequences": round(float(test[2, i]), 4) if fine else 0.0,
        }
        own = [[step, *(round(float(x), 4) for x in s[:, i])] for step, s in curve]
        results.append({**found, "curve": own if fine else []})
    return results


def report(record: Record) -> None:
    for task, of_task in record.by("task").items():
        print(f"\n{task}: right answers, right sequences")
        for name, own in of_task.by("model").items():
            picked = own.chosen("validation_loss")
            right, whole = (statistics.mean(picked.values(k)) for k in ("tokens", "sequences"))
            by_rate = {
                lr: round(statistics.mean(rows.values("tokens")), 3)
                for lr, rows in sorted(own.by("lr").items())
            }
            print(
                f"{name:18} {picked[0]['parameters']} parameters, state {picked[0]['state']}, "
                f"lr {picked[0]['lr']:.2g}: {right:.3f} {picked.values('tokens')}, {whole:.3f}; "
                f"by rate {by_rate}, updates {picked.values('updates')}"
            )


def main() -> None:
    parser = runs.parser(__doc__, SEEDS, SIZES)
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--models", nargs="+", choices=MODELS)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--seconds", type=float, default=math.inf, help="to stop after")
    options = parser.parse_args()
    end = time.perf_counter() + options.seconds
    size = SIZES[options.size]
    fixed = {
        **{k: getattr(size, k) for k in ("vocab_size", "batch", "steps", "evaluated")},
        **{"tasks": {name: task._asdict() for name, task in size.tasks.items()}},
        **{"rates": size.rates, "more_rates": size.more_rates, "warmup": WARMUP},
        **{k: getattr(size, k) for k in ("target", "width", "n_layer", "heads")},
        "precision": "float32",
    }
    runner = runs.Runner("recall", functools.partial(run, end=end), fixed, options)

    def jobs(task: str, model: str, rates: Sequence[float]) -> list[dict]:
        same = {"size": options.size, "task": task, "model": model}
        steps, batch = options.steps or size.steps, options.batch or size.batch
        return [
            {**same, "lr": lr, "seed": seed, "steps": steps, "batch": batch}
            for seed in options.seeds
            for lr in rates
        ]

    for task in options.tasks or size.tasks:
        for model in options.models or (RULES if size.stacked else MODELS):
            rates, further = list[float](), list(size.rates)
            while further:
                rates += further
                own = runner.together(jobs(task, model, rates), lambda job: job["model"])
                if len(own) < len(rates) * len(options.seeds):
                    break  # there was not the time
                best = own.chosen("validation_loss")[0]["lr"]
                further = runs.beyond(best, rates, size.more_rates)[:1]
    found = runner.before()
    if found is not None and len(found):
        report(found)


if __name__ == "__main__":
    main()
