"""The questions of the bank, in the order of the chapters; bank.py draws and prints them."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from linear_time import convolution, cost, discretization, hippo, ranking_scores, scan, state_space
from linear_time.attention import (
    CausalSelfAttention,
    MultiHeadAttention,
    SoftmaxSummary,
    attention,
    online_softmax,
)
from linear_time.compression import LinearCompression, optimal_compression, share_kept
from linear_time.decoder import GroupedQueryAttention, LlamaBlock
from linear_time.dhen import CrossNetwork, factorization_machine
from linear_time.distributed import compose as compose_shards
from linear_time.duality import segment_sums
from linear_time.hybrid import HybridLM
from linear_time.hybrid import ratio as ratio_of
from linear_time.layer import inverse_softplus
from linear_time.limits import best_share, swaps
from linear_time.mamba import Mamba, MambaConfig, MambaLM
from linear_time.mamba2 import Mamba2
from linear_time.measure import product_flops
from linear_time.perceiver import Perceiver, fourier_features, grid
from linear_time.perceiver_ar import PerceiverAR
from linear_time.perceiver_io import PerceiverIO
from linear_time.pictures.distributed import STATE, WIDTH, bytes_sent
from linear_time.pyramid import InceptionBlock
from linear_time.recurrences import delta_net, recurrence
from linear_time.recurrent import GRU, ElmanRNN, jacobian_product_norms
from linear_time.s4 import S4D
from linear_time.selective import selective_scan


class Asked(NamedTuple):
    """A question with its numbers.

    `answer` is by the formula, `working` says how; `library()` is the same number by running the
    library. `tolerance` is relative, and 0 where a whole number is asked for.
    """

    text: str
    answer: float
    working: str
    library: Callable[[], float]
    unit: str = ""
    tolerance: float = 0.01


class Question(NamedTuple):
    """An entry of the bank: how long it takes, and how it is drawn."""

    name: str
    minutes: int
    draw: Callable[[Random], Asked]

    @property
    def chapter(self) -> str:
        return self.name[:2]


BANK: dict[str, Question] = {}


def ask(name: str, minutes: int) -> Callable[[Callable], Callable]:
    """Enter a question into the bank, under its chapter's number and a word."""

    def enter(draw: Callable[[Random], Asked]) -> Callable:
        BANK[name] = Question(name, minutes, draw)
        return draw

    return enter


# What the library is asked with


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def held(state: Any) -> int:
    """How many real numbers a state holds."""
    if isinstance(state, Tensor):
        return state.numel() * (2 if state.is_complex() else 1)
    return sum(held(part) for part in state) if isinstance(state, tuple) else 0


def times(factor: float, letter: str) -> str:
    """A product as it is written: −h, not −1h."""
    return {1: letter, -1: f"-{letter}"}.get(factor, f"{factor:g}{letter}")


def first(wanted: Callable[[int], bool], most: int = 2**40) -> int:
    """The smallest whole number from 1 on of which a property holds, if it then holds for all."""
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if wanted(middle) else (middle + 1, high)
    return low


class Scores(TorchFunctionMode):
    """Counts the scores that softmaxes are given inside."""

    number = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "softmax":
            self.number += args[0].numel()
        return func(*args, **(kwargs or {}))


def scores_of(call: Callable[[], Any]) -> int:
    with torch.no_grad(), Scores() as counted:
        call()
    return counted.number


# 00 Toolbox


@ask("00-alias", 4)
def alias(r: Random) -> Asked:
    rate = r.choice([100, 200, 250, 360, 500])
    off = r.randrange(5, rate // 2 - 5)
    frequency = r.choice([1, 2, 3]) * rate + r.choice([-1, 1]) * off

    def library() -> float:
        t = torch.arange(rate, dtype=torch.float64) / rate  # one second
        return float(torch.fft.rfft(torch.cos(2 * math.pi * frequency * t)).abs().argmax())

    return Asked(
        f"A tone of {frequency} Hz is sampled {rate} times a second. Which frequency between 0 and "
        f"{rate / 2:g} Hz do the samples show?",
        off,
        f"{frequency} Hz is {off} Hz from the nearest multiple of {rate} Hz.",
        library,
        "Hz",
        0,
    )


@ask("00-rows", 6)
def rows(r: Random) -> Asked:
    d, balance = r.choice([512, 768, 1024]), r.choice([20, 40, 50, 80, 100])
    answer = math.ceil(balance * d / (d - 2 * balance))

    def enough(t: int) -> bool:
        made = torch.empty(t, d, device="meta"), torch.empty(d, d, device="meta")
        done = product_flops(lambda: made[0] @ made[1])
        return done / (2 * (2 * t * d + d * d)) >= balance

    return Asked(
        f"A machine is balanced at {balance} operations a byte. It multiplies a matrix of $t$ rows "
        f"and {d:,} columns by one of {d:,} × {d:,}; each of the three matrices is moved once, "
        f"at two bytes a number. From how many rows $t$ on is the product limited by arithmetic?",
        answer,
        f"2td² operations over 4td + 2d² bytes, td/(2t + d) ≥ {balance}.",
        lambda: first(enough, 10**6),
        "rows",
        0,
    )


# 01 Recurrent networks


@ask("01-gru", 3)
def gru(r: Random) -> Asked:
    d = r.choice([48, 64, 96, 128, 200])
    return Asked(
        f"A GRU of width {d} has three products with its input and three with its state, each of "
        f"the six with a bias vector. How many numbers does it learn?",
        6 * d * d + 6 * d,
        "6d² + 6d.",
        lambda: parameters(GRU(d)),
        "numbers",
        0,
    )


@ask("01-horizon", 5)
def horizon(r: Random) -> Asked:
    radius, share = r.choice([0.5, 0.7, 0.8, 0.9]), r.choice([0.1, 0.01, 0.001])

    def library() -> float:
        rnn = ElmanRNN(2).double()
        with torch.no_grad():
            rnn.recurrent.weight.copy_(radius * doubles(0, 1, -1, 0).reshape(2, 2))
            for name, parameter in rnn.named_parameters():
                if "bias" in name:
                    parameter.zero_()
            norms = jacobian_product_norms(rnn, torch.zeros(200, 2, dtype=torch.float64))
        return int((norms < share).nonzero()[0]) + 1

    return Asked(
        f"The recurrent matrix of an Elman network is {radius:g} times a rotation; input, biases "
        f"and state are 0. After how many steps is the norm of $\\partial h_t/\\partial h_0$ first "
        f"below {share:g}?",
        math.floor(math.log(share) / math.log(radius)) + 1,
        f"The norm is {radius:g}ᵗ, since the slope of tanh at 0 is 1.",
        library,
        "steps",
        0,
    )


# 02 Attention


@ask("02-cache", 4)
def cache(r: Random) -> Asked:
    d, layers = r.choice([256, 512, 1024]), r.choice([4, 6, 8, 12])
    length = r.choice([1000, 2048, 5000])
    small = CausalSelfAttention(d, 4)

    def library() -> float:
        x = torch.zeros(1, 3, d)
        with torch.no_grad():
            _, state = small.prefill(x)
        return held(state) / 3 * length * layers * 2 / 1e6

    return Asked(
        f"Attention of width {d:,}, {layers} layers, keys and values at two bytes a number. How "
        f"many megabytes (10⁶ bytes) does the cache of one sequence hold after {length:,} tokens?",
        2 * d * length * layers * 2 / 1e6,
        "2d numbers a token and layer, two bytes each.",
        library,
        "MB",
    )


@ask("02-merge", 6)
def merge(r: Random) -> Asked:
    low, gap = r.choice([1, 2, 3]), r.choice([1, 2, 3])
    totals = r.choice([2, 3, 4]), r.choice([1.5, 2.5])
    values = r.choice([2, 4, 6]), r.choice([1, 3, 5])
    left = math.exp(-gap)
    answer = (left * values[0] + values[1]) / (left * totals[0] + totals[1])

    def library() -> float:
        made = [
            SoftmaxSummary(doubles(m), doubles(t), doubles(w)[None])
            for m, t, w in zip((low, low + gap), totals, values, strict=True)
        ]
        both = online_softmax(*made)
        return float(both.weighted / both.total)

    return Asked(
        f"One query has read two blocks of keys. Their summaries (largest score, total "
        f"$\\sum e^{{s-m}}$, weighted value $\\sum e^{{s-m}} v$) are ({low}, {totals[0]}, "
        f"{values[0]}) and ({low + gap}, {totals[1]}, {values[1]}). What does the attention over "
        f"both blocks return?",
        answer,
        f"Rescale the first by e^−{gap}, add, divide.",
        library,
    )


@ask("02-pick", 4)
def pick(r: Random) -> Asked:
    n, score = r.choice([50, 100, 200, 1000]), r.choice([3, 4, 5, 6])

    def library() -> float:
        k = torch.zeros(n, 1, dtype=torch.float64)
        k[0] = score
        return float(attention(doubles(1)[None], k, k / score))

    return Asked(
        f"Of {n} scores one is {score} and the others are 0. Which weight does the softmax give "
        f"the one?",
        math.exp(score) / (math.exp(score) + n - 1),
        f"e^{score}/(e^{score} + {n - 1}).",
        library,
    )


# 03 The decoder


@ask("03-block", 6)
def block(r: Random) -> Asked:
    heads, width = r.choice([4, 8]), r.choice([16, 32])
    shared, d_ff = r.choice([1, 2, 4]), r.choice([300, 512, 700])
    d = heads * width
    answer = 2 * d * width * (heads + shared) + 3 * d * d_ff + 2 * d
    return Asked(
        f"A Llama block of width {d} has {heads} query heads of {width}, {shared} for keys and "
        f"values, an MLP of inner width {d_ff} (SwiGLU) and two RMS norms; no biases. How many "
        f"numbers does it learn?",
        answer,
        "2d·d_head·(heads + shared heads) + 3d·d_ff + 2d.",
        lambda: parameters(LlamaBlock(d, heads, shared, d_ff)),
        "numbers",
        0,
    )


@ask("03-fits", 5)
def fits(r: Random) -> Asked:
    layers, shared = r.choice([24, 32, 40]), r.choice([2, 4, 8])
    memory = r.choice([2, 4, 8, 16])

    def library() -> float:
        layer = GroupedQueryAttention(16 * 128, 16, shared, d_head=128)
        with torch.no_grad():
            _, state = layer.prefill(torch.zeros(1, 2, 16 * 128))
        return memory * 10**9 // (held(state) // 2 * layers * 2)

    return Asked(
        f"{layers} layers, {shared} heads for keys and values of width 128, two bytes a number. "
        f"How many whole tokens of context fit into a cache of {memory} GB (10⁹ bytes)?",
        memory * 10**9 // (2 * shared * 128 * layers * 2),
        "2 · heads · 128 · layers · 2 bytes a token.",
        library,
        "tokens",
        0,
    )


# 04 The cost table


@ask("04-share", 5)
def share(r: Random) -> Asked:
    d, part = r.choice([256, 512, 1024, 2048]), r.choice([0.5, 0.6, 0.75, 0.8, 0.9])

    def enough(length: int) -> bool:
        counted = cost.attention_cost(length, d).forward_flops
        maps = 8 * d**2 * length
        return counted - maps >= part * counted * (1 - 1e-12)

    return Asked(
        f"Attention of width {d:,}, causal and computed in parallel, takes $8 d^2 L$ operations "
        f"for its maps and $4 d L^2$ for scores and mixing. From which length on are the latter "
        f"{part:.0%} of the whole or more?",
        math.ceil(2 * d * part / (1 - part) - 1e-9),
        "L/(2d + L) ≥ p, so L ≥ 2dp/(1 − p).",
        lambda: first(enough),
        "tokens",
        0,
    )


@ask("04-worth", 4)
def worth(r: Random) -> Asked:
    d, N, group = r.choice([64, 128, 256]), r.choice([16, 32, 64]), r.choice([1, 2, 4, 8])

    def library() -> float:
        state = held(S4D(d, N=N).initial_state(1))
        layer = GroupedQueryAttention(d, 8, 8 // group)
        with torch.no_grad():
            _, tokens = layer.prefill(torch.zeros(1, 2, d))
        return state / (held(tokens) / 2)

    shared = f", {group} query heads to a key and a value" if group > 1 else ""
    return Asked(
        f"A layer of {d} channels carries {N} real numbers a channel. How many tokens does the "
        f"cache of an attention layer of the same width hold in as many numbers{shared}?",
        N * group / 2,
        "dN numbers, and 2d over the group size a token.",
        library,
        "tokens",
        0,
    )


# 05 Linear compression


@ask("05-saved", 6)
def saved(r: Random) -> Asked:
    n, m, d = r.choice([512, 1024, 2048]), r.choice([32, 64, 128]), r.choice([64, 128])

    def flops(tokens: int) -> int:
        return 8 * tokens * d * d + 4 * tokens * tokens * d

    def library() -> float:
        layer = LinearCompression(n, m)
        compress = product_flops(lambda: layer(torch.zeros(1, n, d)))
        whole = cost.attention_cost(n, d).forward_flops
        return whole / (compress + cost.attention_cost(m, d).forward_flops)

    return Asked(
        f"Self-attention of width {d} over {n:,} tokens takes $8nd^2 + 4n^2d$ operations. How many "
        f"times fewer are they if the tokens are compressed to {m} by one matrix first, the "
        f"compression counted?",
        flops(n) / (2 * m * n * d + flops(m)),
        "(8nd² + 4n²d)/(2mnd + 8md² + 4m²d).",
        library,
        "times",
    )


@ask("05-kept", 5)
def kept(r: Random) -> Asked:
    sigma = sorted((r.randrange(1, 9) for _ in range(5)), reverse=True)
    m = r.choice([1, 2, 3])
    powers = [s * s for s in sigma]

    def library() -> float:
        X = torch.diag(doubles(*sigma))[torch.randperm(5, generator=torch.Generator())]
        best = optimal_compression(X, m)
        return share_kept(X, best.encoder, best.decoder)

    return Asked(
        f"Tokens have the singular values {', '.join(map(str, sigma))}. Which share of their "
        f"power does the best linear compression to {m} token{'s' * (m > 1)} keep?",
        sum(powers[:m]) / sum(powers),
        f"The {m} largest squares over the sum of all.",
        library,
    )


@ask("05-candidates", 5)
def candidates(r: Random) -> Asked:
    user, own = r.choice([40, 60, 90]), r.choice([5, 10, 20])
    count, m, d = r.choice([50, 100, 200]), 8, 4

    def library() -> float:
        layer = LinearCompression(user + own, m)
        shared = torch.zeros(1, user, d), torch.zeros(1, count, own, d)
        each = torch.zeros(count, user + own, d)
        once = product_flops(lambda: layer.for_candidates(*shared))
        return product_flops(lambda: layer(each)) / once

    return Asked(
        f"A user has {user} tokens and each of {count} candidates {own} of its own; one matrix "
        f"compresses user and candidate together. How many times fewer operations does the "
        f"compression take if the user's half is computed once?",
        count * (user + own) / (user + count * own),
        "g(n_u + n_c)/(n_u + g·n_c).",
        library,
        "times",
    )


# 06 Pyramids and Inception


@ask("06-block", 5)
def inception(r: Random) -> Asked:
    d, one, pool = r.choice([32, 48, 64]), r.choice([16, 24]), r.choice([8, 16])
    three, five = (r.choice([8, 16]), r.choice([24, 32])), (4, r.choice([8, 12]))
    answer = (
        d * (one + three[0] + five[0] + pool) + 9 * three[0] * three[1] + 25 * five[0] * five[1]
    )

    def library() -> float:
        made = InceptionBlock(d, one, *three, *five, pool)
        return sum(p.numel() for p in made.parameters() if p.dim() > 1)

    return Asked(
        f"An Inception block reads {d} channels. Its views write {one} (1×1), {three[1]} (3×3, "
        f"behind a 1×1 to {three[0]}), {five[1]} (5×5, behind a 1×1 to {five[0]}) and {pool} (1×1 "
        f"behind the pool). How many weights has it, biases not counted?",
        answer,
        "The four 1×1 read all channels; 9 and 25 weights a pair of channels behind two of them.",
        library,
        "weights",
        0,
    )


# 07 DHEN


@ask("07-pairs", 4)
def pairs(r: Random) -> Asked:
    values = [r.choice([-3, -2, -1, 1, 2, 3, 4]) for _ in range(6)]
    total, squares = sum(values), sum(v * v for v in values)
    return Asked(
        f"Six embeddings of one channel are {', '.join(map(str, values))}. What is the sum of the "
        f"products of all pairs? (The linear-time form needs no pair.)",
        (total * total - squares) / 2,
        f"(({total})² − {squares})/2.",
        lambda: float(factorization_machine(doubles(*values).reshape(1, 6, 1)).sum()),
        tolerance=0,
    )


@ask("07-degree", 4)
def degree(r: Random) -> Asked:
    depth = r.choice([2, 3, 4])
    power = r.choice([2, 3])

    def library() -> float:
        torch.manual_seed(0)
        cross = CrossNetwork(3, 3, 2, depth=depth).double()
        x = torch.randn(1, 3, 2, dtype=torch.float64)
        far = 1e4  # where the highest power is all that counts
        with torch.no_grad():
            ends = [cross(t * x).sum() ** power for t in (far, 2 * far)]
        return round(math.log2(float(ends[1] / ends[0])))

    return Asked(
        f"A cross network of {depth} steps, $x_{{l+1}} = x_0 \\odot (W_l x_l + b_l) + x_l$, is "
        f"followed by a module that takes the {'square' if power == 2 else 'cube'} of a sum of "
        f"what it reads. Of which degree in the features is the result?",
        power * (depth + 1),
        f"Each step adds one: {depth + 1}; the power multiplies by {power}.",
        library,
        tolerance=0,
    )


@ask("07-auc", 5)
def auc(r: Random) -> Asked:
    logits = r.sample([-3, -2, -1, 0, 1, 2, 3, 4], 6)
    labels = r.sample([True, True, True, False, False, False], 6)
    liked = [z for z, y in zip(logits, labels, strict=True) if y]
    other = [z for z, y in zip(logits, labels, strict=True) if not y]
    table = ", ".join(
        f"{z} ({'liked' if y else 'not'})" for z, y in zip(logits, labels, strict=True)
    )
    return Asked(
        f"Six rows have the log-odds {table}. What is the AUC?",
        sum(a > b for a in liked for b in other) / 9,
        "The share of the nine pairs of a liked and another row in which the liked one is above.",
        lambda: ranking_scores.scores(doubles(*logits), torch.tensor(labels)).auc,
    )


# 08 Perceiver


@ask("08-channels", 3)
def channels(r: Random) -> Asked:
    axes, bands = r.choice([1, 2, 3]), r.choice([6, 16, 32, 64])
    return Asked(
        f"Fourier features with {bands} bands give each coordinate of a point, besides itself, a "
        f"sine and a cosine a band. How many channels has a point of {axes} "
        f"coordinate{'s' * (axes > 1)}?",
        axes * (2 * bands + 1),
        "d(2K + 1).",
        lambda: fourier_features(grid(*[2] * axes), bands, 8).shape[-1],
        "channels",
        0,
    )


@ask("08-scores", 5)
def perceiver_scores(r: Random) -> Asked:
    n, m = r.choice([1000, 4096, 10_000]), r.choice([16, 32, 64])
    readings, layers = r.choice([1, 2]), r.choice([2, 4, 6])
    answer = n * n * readings * layers / (readings * n * m + readings * layers * m * m)

    def library() -> float:
        small = 64  # scores are counted exactly, so two sizes give the two terms
        model = Perceiver(4, m, 8, n_cross=readings, n_self=layers)
        counts = [scores_of(lambda k=k: model(torch.zeros(1, k, 4))) for k in (small, 2 * small)]
        slope = (counts[1] - counts[0]) / small
        whole = counts[0] + slope * (n - small)
        return n * n * readings * layers / whole

    return Asked(
        f"A Perceiver reads {n:,} tokens {'once' if readings == 1 else 'twice'} with {m} latents, "
        f"with {layers} latent layers after each reading; one head. How many times as many scores "
        f"would {readings * layers} layers of self-attention over the tokens compute?",
        answer,
        "n² a layer, against nm a reading and m² a latent layer.",
        library,
        "times",
    )


# 09 Perceiver IO


@ask("09-scores", 4)
def io_scores(r: Random) -> Asked:
    n, m, o = r.choice([200, 500, 1000]), r.choice([16, 32]), r.choice([64, 256, 784])
    layers = r.choice([2, 3, 4])

    def library() -> float:
        model = PerceiverIO(4, m, 8, 4, n_self=layers)
        return scores_of(lambda: model(torch.zeros(1, n, 4), torch.zeros(1, o, 4)))

    return Asked(
        f"Perceiver IO encodes {n:,} inputs to {m} latents, processes them by {layers} layers and "
        f"decodes {o} outputs, with one head throughout. How many scores does it compute?",
        n * m + layers * m * m + o * m,
        "nm + layers · m² + om.",
        library,
        "scores",
        0,
    )


@ask("09-decode", 5)
def decode(r: Random) -> Asked:
    d, m, o = r.choice([32, 64]), r.choice([16, 32]), r.choice([100, 500, 1000])

    def library() -> float:
        layer = MultiHeadAttention(d, 1)
        asked, latents = torch.zeros(1, o, d), torch.zeros(1, m, d)
        return product_flops(lambda: layer(asked, latents))

    return Asked(
        f"{o:,} queries read {m} latents by attention with one head, everything of width {d}: four "
        f"square maps (queries, keys, values, output), scores and mixing. How many operations, "
        f"two for each product and sum?",
        4 * o * d * d + 4 * m * d * d + 4 * o * m * d,
        "4od² for queries and output, 4md² for keys and values, 4omd for the rest.",
        library,
        "operations",
    )


# 10 Perceiver and language


@ask("10-loss", 5)
def loss(r: Random) -> Asked:
    n, m, layers = r.choice([256, 512]), r.choice([32, 64, 128]), r.choice([2, 4, 6])

    def library() -> float:
        sizes = {"n_heads": 1, "n_kv_heads": 1, "d_ff": 8}
        model = PerceiverAR(5, 8, layers, n_latents=m, **sizes)
        tokens = torch.zeros(1, n, dtype=torch.long)
        few = scores_of(lambda: model(tokens)) / m
        return scores_of(lambda: model(tokens, n_latents=n)) / n / few

    return Asked(
        f"A decoder of {layers} layers reads {n} tokens and gives {n} losses. A Perceiver AR of as "
        f"many layers, one of them the reading, has {m} latents and gives {m}. How many times as "
        f"many scores a loss does the decoder compute, masked ones counted?",
        layers * n / (n + (layers - 1) * m),
        "Ln against n + (L − 1)m scores a loss.",
        library,
        "times",
    )


# 11 State-space models


@ask("11-spring", 4)
def spring(r: Random) -> Asked:
    mass, damping = r.choice([0.5, 1, 2, 4]), r.choice([0.2, 0.5, 1])
    stiffness = r.choice([8, 18, 32])

    def library() -> float:
        system = state_space.mass_on_a_spring(mass, damping, stiffness)
        return float(-1 / system.eigenvalues().real.max())

    return Asked(
        f"A mass of {mass:g} kg hangs on a spring of stiffness {stiffness} N/m with friction "
        f"{damping:g} kg/s. After which time has its swing fallen to $1/e$?",
        2 * mass / damping,
        "It swings, c² < 4km, so the real part is −c/2m; the stiffness does not matter.",
        library,
        "s",
    )


@ask("11-gain", 5)
def gain(r: Random) -> Asked:
    a, omega, b = r.choice([1, 2, 3]), r.choice([1, 2, 4, 5]), r.choice([1, 2, 3])

    def library() -> float:
        system = state_space.StateSpace(doubles(-a)[None], doubles(b), doubles(1))
        return float(system.frequency_response(doubles(omega)).abs())

    return Asked(
        f"$h' = {times(-a, 'h')} + {times(b, 'x')}$ and $y = h$. By which factor does the system "
        f"change the size of a wave $x = \\cos({times(omega, 't')})$ once "
        f"what it began with is forgotten?",
        b / math.hypot(a, omega),
        f"|{b}/(i·{omega} + {a})|.",
        library,
    )


# 12 Discretization


@ask("12-hold", 5)
def hold(r: Random) -> Asked:
    a, b, delta = -r.choice([1, 2, 4, 5]), r.choice([1, 2, 3]), r.choice([0.1, 0.25, 0.5])

    def library() -> float:
        _, b_bar = discretization.zero_order_hold(doubles(a)[None], doubles(b), delta)
        return float(b_bar)

    return Asked(
        f"$h' = {times(a, 'h')} + {times(b, 'x')}$ reads tokens by zero-order hold "
        f"with $\\Delta = {delta:g}$. What is $\\bar b$?",
        (math.exp(a * delta) - 1) / a * b,
        "(e^{aΔ} − 1)/a · b.",
        library,
    )


@ask("12-left", 5)
def left(r: Random) -> Asked:
    a, delta = -r.choice([1, 2, 4]), r.choice([0.001, 0.01, 0.05])
    part = r.choice([0.5, 0.1, 0.01])

    def library() -> float:
        a_bar, _ = discretization.zero_order_hold_diagonal(doubles(a), doubles(1), delta)
        return first(lambda k: float(a_bar**k) < part, 10**6)

    return Asked(
        f"A state $h' = {times(a, 'h')} + x$ under zero-order hold with $\\Delta = {delta:g}$ "
        f"holds a value; tokens that are all 0 follow. After how many of them is less "
        f"than {part:g} of it left?",
        math.floor(math.log(1 / part) / (delta * abs(a))) + 1,
        "e^{−kΔ|a|} < p, so k > ln(1/p)/(Δ|a|).",
        library,
        "tokens",
        0,
    )


@ask("12-step", 5)
def step(r: Random) -> Asked:
    alpha, omega = r.choice([0.5, 1, 2]), r.choice([1, 2, 3, 4])

    def library() -> float:
        mode = torch.tensor(complex(-alpha, omega), dtype=torch.complex128)
        grows = discretization.stability_function("forward_euler")
        return first(lambda k: float(grows(mode * k / 1e6).abs()) >= 1, 10**8) / 1e6

    return Asked(
        f"A system has the eigenvalues $-{alpha:g} \\pm {times(omega, 'i')}$ a second. Below which "
        f"step is forward Euler stable on it?",
        2 * alpha / (alpha**2 + omega**2),
        "Δ < 2|Re λ|/|λ|².",
        library,
        "s",
    )


@ask("12-bilinear", 4)
def bilinear(r: Random) -> Asked:
    a, delta = -r.choice([1, 2, 4, 8]), r.choice([0.1, 0.5, 1])

    def library() -> float:
        a_bar, _ = discretization.bilinear(doubles(a)[None], doubles(1), delta)
        return float(a_bar)

    return Asked(
        f"$h' = {times(a, 'h')} + x$ and the bilinear rule with $\\Delta = {delta:g}$: by which "
        f"factor does a step multiply the state?",
        (1 + a * delta / 2) / (1 - a * delta / 2),
        "(1 + Δa/2)/(1 − Δa/2).",
        library,
    )


# 13 Recurrence and convolution


@ask("13-kernel", 5)
def kernel(r: Random) -> Asked:
    decays = r.choice([(0.9, 0.5), (0.8, 0.5), (0.9, -0.5), (0.5, -0.4)])
    b, c = (1, r.choice([1, 2])), (r.choice([1, 2, 3]), r.choice([-1, 1]))
    i = r.choice([2, 3, 4])

    def library() -> float:
        made = convolution.kernel(torch.diag(doubles(*decays)), doubles(*b), doubles(*c), i + 1)
        return float(made[i])

    return Asked(
        f"$\\bar A = \\mathrm{{diag}}({decays[0]}, {decays[1]})$, $\\bar B = {b}$, $C = {c}$. With "
        f"which weight does an output read the input of {i} steps ago?",
        sum(cn * bn * an**i for cn, bn, an in zip(c, b, decays, strict=True)),
        f"C_n B̄_n Ā_n^{i}, summed over the two states.",
        library,
    )


@ask("13-wrapped", 5)
def wrapped(r: Random) -> Asked:
    length, taps = r.choice([32, 64, 100]), r.choice([8, 12, 16])
    zeros = r.randrange(0, taps - 2)

    def library() -> float:
        x = torch.rand(length, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1
        weights = torch.ones(taps, dtype=torch.float64)
        right = convolution.causal_convolution(x, weights)
        padded = torch.cat([x, torch.zeros(zeros, dtype=torch.float64)])
        round_about = convolution.circular_convolution(padded, weights)[:length]
        return int(((right - round_about).abs() > 1e-9).sum())

    return Asked(
        f"A sequence of {length} numbers is convolved with a kernel of {taps}, all of them above "
        f"0, by the FFT, with {zeros} zeros behind the sequence. How many of its {length} outputs "
        f"are wrong?",
        taps - 1 - zeros,
        f"{taps} − 1 come round the corner, less the {zeros} that meet zeros.",
        library,
        "outputs",
        0,
    )


# 14 HiPPO


@ask("14-entry", 3)
def entry(r: Random) -> Asked:
    n, k = r.choice([(2, 1), (3, 1), (4, 2), (5, 3), (3, 0), (1, 1), (4, 4)])
    answer = -(n + 1) if n == k else -math.sqrt((2 * n + 1) * (2 * k + 1))
    return Asked(
        f"Which number stands in row {n}, column {k} (counted from 0) of LegS's matrix $A$, in the "
        f"sign in which $c' = (Ac + Bx)/t$?",
        answer,
        "−√(2n+1)√(2k+1) below the diagonal, −(n+1) on it.",
        lambda: float(hippo.legs(6)[0][n, k]),
    )


# 15 S4


@ask("15-pair", 4)
def pair(r: Random) -> Asked:
    alpha, omega, c = r.choice([0.5, 1]), r.choice([2, 3, 5]), r.choice([1, 2])
    t = r.choice([0.2, 0.5, 1.0])

    def library() -> float:
        system = state_space.StateSpace(
            doubles(-alpha, omega, -omega, -alpha).reshape(2, 2), doubles(1, 0), doubles(2 * c, 0)
        )
        return float(system.impulse_response(doubles(t)))

    return Asked(
        f"A conjugate pair $\\lambda = -{alpha:g} \\pm {omega}i$ has $B = 1$ and $C = {c}$ for "
        f"each of the two. What does the pair add to the impulse response at $t = {t:g}$?",
        2 * c * math.exp(-alpha * t) * math.cos(omega * t),
        "2 Re(C e^{λt}) = 2C e^{−αt} cos ωt, the angle in radians.",
        library,
        tolerance=0.02,
    )


@ask("15-learned", 5)
def learned(r: Random) -> Asked:
    d, N = r.choice([32, 64, 128]), r.choice([16, 32, 64])
    return Asked(
        f"An S4D layer of {d} channels keeps {N // 2} complex states a channel. Each channel "
        f"learns as many complex eigenvalues and entries of $C$ ($B$ is 1), a step and a direct "
        f"term; a square map with bias mixes the channels behind. How many real numbers are "
        f"learned?",
        d * d + 3 * d + 2 * d * N,
        f"2 · {N // 2} · 2 + 2 a channel, d² + d for the map.",
        lambda: parameters(S4D(d, N=N)),
        "numbers",
        0,
    )


# 16 Selection


@ask("16-ratio", 4)
def ratio(r: Random) -> Asked:
    a, delta = -r.choice([1, 2, 4, 8, 16]), r.choice([0.05, 0.1, 0.5, 1])

    def library() -> float:
        _, released = discretization.exponential_euler_diagonal(doubles(a), doubles(1), delta)
        _, held_rule = discretization.zero_order_hold_diagonal(doubles(a), doubles(1), delta)
        return float(released / held_rule)

    return Asked(
        f"A state has $a = {a}$ and a step of {delta:g}. How many times as much of the token does "
        f"the released rule take in as zero-order hold?",
        delta * -a / (1 - math.exp(a * delta)),
        "Δ|a|/(1 − e^{−Δ|a|}).",
        library,
        "times",
    )


@ask("16-state", 6)
def state(r: Random) -> Asked:
    steps = [r.choice([0.1, 0.5, 1, 3]) for _ in range(3)]
    tokens = [r.choice([-1, 1, 2, 4]) for _ in range(3)]
    h = 0.0
    for delta, token in zip(steps, tokens, strict=True):
        h = math.exp(-delta) * h + (1 - math.exp(-delta)) * token

    def library() -> float:
        one = torch.ones(1, 1, 3, dtype=torch.float64)
        _, last = selective_scan(
            doubles(*tokens)[None, None],
            doubles(*steps)[None, None],
            doubles(-1)[None],
            one,
            one,
            return_last_state=True,
            rule="zero_order_hold",
        )
        return float(last)

    return Asked(
        f"One selective state with $A = -1$, $B = 1$ starts at 0 and reads the tokens "
        f"{', '.join(map(str, tokens))} with the steps {', '.join(f'{s:g}' for s in steps)}, by "
        f"zero-order hold. Where is it after the third?",
        h,
        "h ← e^{−Δ}h + (1 − e^{−Δ})x, three times.",
        library,
    )


# 17 Scan


@ask("17-compose", 5)
def compose(r: Random) -> Asked:
    maps = [(r.choice([0.5, -1, 2, -0.5]), r.choice([-2, -1, 1, 3])) for _ in range(3)]
    factor, constant = 1.0, 0.0
    for a, b in maps:
        factor, constant = a * factor, a * constant + b

    def library() -> float:
        first_map, second, third = [(doubles(a), doubles(b)) for a, b in maps]
        return float(scan.combine(first_map, scan.combine(second, third))[1])

    told = ", then ".join(f"$({a:g}, {b})$" for a, b in maps)
    return Asked(
        f"Three steps $h \\mapsto ah + b$ have the pairs {told}. The composed map is again a pair; "
        f"what is its second number?",
        constant,
        f"(a₁, b₁) • (a₂, b₂) = (a₂a₁, a₂b₁ + b₂); the first number is {factor:g}.",
        library,
    )


@ask("17-turns", 6)
def turns(r: Random) -> Asked:
    length, processors = r.choice([16, 32, 64, 128]), r.choice([4, 8, 16, 24])
    rounds = [length - 2**k for k in range(int(math.log2(length)))]

    def library() -> float:
        widths: list[int] = []

        def operator(one: tuple, other: tuple) -> tuple:
            widths.append(one[0].shape[1])
            return scan.combine(one, other)

        ones = torch.ones(1, length)
        scan.doubling_scan(operator, (ones, ones))
        return sum(-(-width // processors) for width in widths)

    return Asked(
        f"A round of $w$ compositions takes $\\lceil w/P \\rceil$ turns on $P$ processors. How "
        f"many turns does Hillis and Steele's scan of {length} steps take on {processors}?",
        sum(-(-width // processors) for width in rounds),
        f"Rounds of {', '.join(map(str, rounds))} compositions.",
        library,
        "turns",
        0,
    )


@ask("17-work", 4)
def work(r: Random) -> Asked:
    power = r.choice([6, 8, 10, 12, 16])
    length = 2**power
    counted = scan.blelloch_cost, scan.hillis_steele_cost
    return Asked(
        f"How many compositions fewer does the tree (Blelloch) make than Hillis and Steele's scan, "
        f"for {length:,} steps?",
        (length * power - length + 1) - (2 * length - 2 - power),
        "(L log₂ L − L + 1) − (2L − 2 − log₂ L).",
        lambda: counted[1](length).work - counted[0](length).work,
        "compositions",
        0,
    )


# 18 Mamba


@ask("18-bias", 4)
def bias(r: Random) -> Asked:
    delta = r.choice([0.001, 0.002, 0.005, 0.01, 0.05, 0.1])
    return Asked(
        f"Mamba makes $\\Delta$ by a softplus. Which bias makes a channel start at "
        f"$\\Delta = {delta:g}$?",
        delta + math.log(-math.expm1(-delta)),
        "β = log(e^Δ − 1) = Δ + log(1 − e^{−Δ}).",
        lambda: float(inverse_softplus(doubles(delta))),
    )


@ask("18-carried", 4)
def carried(r: Random) -> Asked:
    d, layers = r.choice([64, 128, 256]), r.choice([2, 4, 8])
    N, taps = r.choice([8, 16, 32]), r.choice([2, 4])

    def library() -> float:
        config = MambaConfig(vocab_size=3, d_model=d, n_layer=1, N=N, taps=taps)
        return layers * sum(held(part) for part in MambaLM(config).initial_state(1))

    return Asked(
        f"A Mamba of {layers} layers has width {d}, twice as many inner channels, {N} states a "
        f"channel and a convolution of {taps} taps. How many numbers does it carry from token to "
        f"token?",
        layers * 2 * d * (N + taps - 1),
        "2d(N + M − 1) a layer.",
        library,
        "numbers",
        0,
    )


@ask("18-even", 5)
def even(r: Random) -> Asked:
    N, taps, group = r.choice([16, 32, 64]), 4, r.choice([1, 2, 4, 8])
    d = 128

    def library() -> float:
        layer = GroupedQueryAttention(d, 8, 8 // group)
        with torch.no_grad():
            _, tokens = layer.prefill(torch.zeros(1, 2, d))
        return 2 * held(Mamba(d, N=N, taps=taps).initial_state(1)) / (held(tokens) / 2)

    shared = "full heads" if group == 1 else f"{group} query heads to a key and a value"
    return Asked(
        f"Two Mamba layers with {N} states a channel, four taps and twice as many inner channels "
        f"stand in the place of one attention layer of the same width with {shared}. How many "
        f"tokens does that layer's cache hold in as many numbers as the two carry?",
        2 * (N + taps - 1) * group * 2 / 2,
        "2 · 2d(N + 3) numbers, against 2d over the group size a token.",
        library,
        "tokens",
        0,
    )


# 20 Duality


@ask("20-mask", 5)
def mask(r: Random) -> Asked:
    A, steps = -r.choice([1, 2, 4]), [r.choice([0.05, 0.1, 0.2, 0.5]) for _ in range(4)]
    row, column = r.choice([(3, 1), (4, 1), (4, 2)])

    def library() -> float:
        table = segment_sums(A * doubles(*steps)).exp()
        return float(table[row - 1, column - 1])

    return Asked(
        f"A head of Mamba-2 with $A = {A}$ reads four tokens with the steps "
        f"{', '.join(f'{s:g}' for s in steps)}. Which entry has its mask $L$ in row {row} and "
        f"column {column}, both counted from 1?",
        math.exp(A * sum(steps[column:row])),
        f"The decays of steps {column + 1} to {row}, not that of step {column}.",
        library,
    )


@ask("20-carried", 5)
def carried_by_heads(r: Random) -> Asked:
    d, N, groups = 64 * r.choice([4, 8, 12]), r.choice([32, 64, 128]), r.choice([1, 2, 4])
    return Asked(
        f"A Mamba-2 layer of width {d} has twice as many inner channels, $N = {N}$, {groups} "
        f"group{'s' * (groups > 1)} of $B$ and $C$ and a convolution of four taps. How many "
        f"numbers does it carry from token to token?",
        2 * d * N + 3 * (2 * d + 2 * groups * N),
        "2dN of the heads, and three inputs of the taps, which pass over u, B and C.",
        lambda: cost.cost(Mamba2(d, N=N, groups=groups), 1).state,
        "numbers",
        0,
    )


# 21 One recurrence


@ask("21-answer", 6)
def answer_elsewhere(r: Random) -> Asked:
    S = [r.choice([-2, 1, 3, 5]) for _ in range(2)]
    key, ask_at = r.choice([(0.6, 0.8), (0.8, 0.6), (0.8, -0.6)]), r.choice([(1, 0), (0, 1)])
    value, beta = r.choice([2, 4, -3]), r.choice([0.5, 1.0, 2.0])
    missing = beta * (value - S[0] * key[0] - S[1] * key[1])
    after = [s + missing * k for s, k in zip(S, key, strict=True)]

    def library() -> float:
        q, k, v = (doubles(*x)[None, None, None] for x in (ask_at, key, (value,)))
        terms = delta_net(q, k, v, doubles(beta)[None, None])
        return float(recurrence(terms, initial_state=doubles(*S)[None, None, None]))

    return Asked(
        f"A state of one row, $({S[0]}, {S[1]})$, takes one step of the delta rule: the key is "
        f"$({key[0]:g}, {key[1]:g})$, the value {value}, the strength {beta:g}. What does it then "
        f"answer at the query $({ask_at[0]}, {ask_at[1]})$?",
        after[0] * ask_at[0] + after[1] * ask_at[1],
        f"S ← S + β(v − Sk)kᵀ, here {missing:.4g} times the key.",
        library,
    )


@ask("21-writes", 4)
def writes(r: Random) -> Asked:
    beta, left = r.choice([0.1, 0.3, 0.5, 1.5, 1.7, 1.9]), r.choice([0.1, 0.02, 0.005])

    def library() -> float:
        one, state = torch.ones(1, 1, 1, 1, dtype=torch.float64), torch.zeros(1, 1, 1, 1)
        state, number = state.double(), 0
        while abs(float(state) - 1) > left:
            terms = delta_net(one, one, one, doubles(beta)[None, None])
            _, state = recurrence(terms, True, initial_state=state)
            number += 1
        return number

    return Asked(
        f"A delta rule with strength {beta:g} is told the same pair again and again, with a key of "
        f"length 1. After how many writes is at most {left:g} of the way from the old answer to "
        f"the value left?",
        math.ceil(math.log(left) / math.log(abs(1 - beta))),
        "What is left is multiplied by 1 − β a write, whatever its sign.",
        library,
        "writes",
        0,
    )


# 22 Limits


@ask("22-swaps", 4)
def reflections_needed(r: Random) -> Asked:
    n = r.choice([6, 7, 8])
    order = list(range(n))
    r.shuffle(order)
    seen: set[int] = set()
    cycles = 0
    for place in range(n):
        cycles += place not in seen
        while place not in seen:
            seen.add(place)
            place = order[place]
    told = ", ".join(str(place + 1) for place in order)
    return Asked(
        f"Place $i$ of {n} receives what lies at the $i$-th of these places: {told}. How many "
        f"reflections $I - 2kk^\\top$, each an exchange of two places, does that take at least?",
        n - cycles,
        f"It falls into {cycles} cycle{'s' * (cycles > 1)}, fixed places included: n − c.",
        lambda: len(swaps(order)),
        "reflections",
        0,
    )


@ask("22-book", 5)
def phone_book(r: Random) -> Asked:
    numbers, digits = 1000 * r.choice([30, 100, 700, 2000]), r.choice([6, 8, 10, 12])
    bits = 32 * numbers
    return Asked(
        f"A state has {numbers:,} numbers of 32 bits. How many entries of {digits} digits each can "
        f"it hold at most, if any entry may be asked for and no answer may be wrong?",
        math.floor(bits / (digits * math.log2(10))),
        "32 bits a number, over log₂10 = 3.32 bits a digit.",
        lambda: first(lambda n: best_share(bits, n, 10**digits) < 1, 2**30) - 1,
        "entries",
    )


@ask("22-columns", 5)
def columns(r: Random) -> Asked:
    width, n = r.choice([16, 32, 64]), 16 * r.choice([5, 6, 8, 12])

    def library() -> float:
        """What is left of values in every direction, by the best table of random keys."""
        keys = torch.randn(n, width, generator=torch.Generator().manual_seed(0)).double()
        values = torch.eye(n, dtype=torch.float64)
        return float((keys @ torch.linalg.pinv(keys) @ values - values).square().sum() / n)

    return Asked(
        f"A table with {width} columns is told {n} values at as many keys and read at each, "
        f"linearly. The values are normal and were drawn without looking at the keys. Which share "
        f"of their square does it miss at least, on average?",
        1 - width / n,
        "The answers lie in a space of d of n dimensions: 1 − d/n.",
        library,
    )


@ask("22-overtakes", 6)
def overtakes(r: Random) -> Asked:
    layers, one_in = r.choice([(8, 2), (8, 4), (12, 4), (16, 8)])
    d, N, heads = 128, r.choice([16, 32, 64]), r.choice([1, 2, 4])
    settings = {"m": {"N": N}, "a": {"n_heads": 4, "n_kv_heads": heads}}
    state = (layers - layers // one_in) * (2 * d * N + 3 * (2 * d + 2 * N))
    a_token = layers // one_in * 2 * heads * d // 4

    def library() -> float:
        with torch.device("meta"):
            model = HybridLM(ratio_of(layers, one_in), 3, d, **settings)
        recurrent, cache = model.state_numbers(1)
        return recurrent // cache + 1

    return Asked(
        f"Of {layers} layers of width {d} one in {one_in} attends, with {heads} "
        f"head{'s' * (heads > 1)} of {d // 4} for keys and values each. The others are Mamba-2 "
        f"with $N = {N}$, twice as many inner channels, one group and four taps. From how many "
        f"tokens on do the caches hold more numbers than the states?",
        state // a_token + 1,
        f"{state:,} numbers of states; {a_token:,} a token in the caches.",
        library,
        "tokens",
        0,
    )


# 23 Many machines


@ask("23-leaves", 5)
def leaves(r: Random) -> Asked:
    maps = [(r.choice([0.5, 0.25, 1.0]), r.choice([2, 4, 8, -2])) for _ in range(3)]
    state = 0.0
    for M, S in maps:
        state = M * state + S

    def library() -> float:
        made = [(doubles(M)[None], doubles(S)[None, None, None]) for M, S in maps]
        return float(compose_shards(made[0], compose_shards(made[1], made[2]))[1])

    told = ", ".join(f"$({M:g}, {S})$" for M, S in maps)
    return Asked(
        f"Three machines hold a shard each of one sequence; their maps are $(M, S) =$ {told}, for "
        f"one head with $P = N = 1$. Into the first goes a state of 0. Which state leaves the "
        f"last?",
        state,
        "S ← S M + S_own, in the order of the shards.",
        library,
    )


@ask("23-matrix", 6)
def matrix_of_a_shard(r: Random) -> Asked:
    keys = [r.choice([(1, 0), (0.6, 0.8), (0.8, -0.6)]), r.choice([(0, 1), (0.8, 0.6)])]
    betas = [r.choice([0.5, 1.0, 2.0]) for _ in range(2)]
    row = [1.0, 0.0]
    for (x, y), beta in zip(keys, betas, strict=True):
        along = beta * (row[0] * x + row[1] * y)
        row = [row[0] - along * x, row[1] - along * y]

    def library() -> float:
        k = doubles(*keys[0], *keys[1]).reshape(1, 2, 1, 2)
        eye = torch.eye(2, dtype=torch.float64)[None, None]
        terms = delta_net(k, k, torch.zeros_like(k), doubles(*betas).reshape(1, 2, 1))
        _, M = recurrence(terms, True, initial_state=eye)
        return float(M[0, 0, 0, 0])

    told = " and ".join(f"$({x:g}, {y:g})$" for x, y in keys)
    return Asked(
        f"A shard has two tokens of the delta rule, with the keys {told} and the strengths "
        f"{betas[0]:g} and {betas[1]:g}, in this order. What stands at the upper left of the "
        f"matrix $M$ by which it multiplies the state that enters?",
        row[0],
        "The row (1, 0), times I − β k kᵀ of the first token, then of the second.",
        library,
    )


@ask("23-schools", 5)
def schools(r: Random) -> Asked:
    ranks, length = r.choice([4, 8, 16, 64]), 1024 * r.choice([8, 32, 128, 512])

    def library() -> float:
        sent = bytes_sent(length, ranks)
        return sent["ring"] / sent["states"]

    return Asked(
        f"{length:,} tokens lie on {ranks} ranks. One layer passes states of {WIDTH} × {STATE} and "
        f"one decay a head, by a gather; another is attention in a ring, with as many heads, and "
        f"keys and values of {WIDTH} numbers each. How many times as many numbers does a rank send "
        f"in the second, forward?",
        length / ranks * 2 * WIDTH / (WIDTH * STATE + 1),
        "Both send W − 1 times: a shard's keys and values, and PN + 1 a head.",
        library,
        "times",
    )
