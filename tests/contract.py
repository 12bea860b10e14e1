"""The layers, models and scans of the package, as the contract's tests make them.

A new public layer joins CASES, and every property of ``test_contract.py`` and ``test_gpu.py`` is
asked of it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

import helpers
from linear_time import (
    attention,
    compression,
    convolution,
    decoder,
    delta,
    delta_rule,
    dhen,
    duality,
    hybrid,
    mamba,
    mamba2,
    mamba3,
    mixer,
    perceiver,
    perceiver_ar,
    perceiver_io,
    pyramid,
    recurrent,
    s4,
    scan,
    selective,
    trapezoid,
)

D, VOCAB = 8, 11
draw = partial(helpers.draw, dtype=torch.float32)


class Function(nn.Module):
    """A function as a module, so that it is tested as the layers are."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


class Case(NamedTuple):
    make: Callable  # of a type of whole numbers, int or numpy's
    kind: str  # "mixer", "compressor", "model", "function"
    inputs: Callable  # (batch, length) -> tensors
    compiles: bool = True  # no loop whose length is that of the data
    masked: str = ""  # the argument that takes padding at the left
    twice: bool = True  # second derivatives are right; else they are refused
    settled: bool = False  # an input that is no probability, such as a step or a factor


def sequence(batch: int, length: int) -> tuple[Tensor, ...]:
    return (draw(batch, length, D),)


def positions(batch: int, length: int) -> tuple[Tensor, ...]:
    """Between −1 and 1, before they are rounded: an angle turns a rounding into many."""
    return (draw(batch, length, D).tanh(),)


def tokens(batch: int, length: int) -> tuple[Tensor, ...]:
    return (helpers.tokens_of(batch, length, VOCAB, seed=2),)


def features(batch: int, length: int) -> tuple[Tensor, ...]:
    return (draw(batch, 6, D),)


def asked(batch: int, length: int) -> tuple[Tensor, ...]:
    return draw(batch, length, D), draw(batch, 5, 6, seed=2)


def picture(batch: int, length: int) -> tuple[Tensor, ...]:
    return (draw(batch, 3, 5, 6),)


def heads(batch: int, length: int) -> tuple[Tensor, ...]:
    return tuple(draw(batch, 2, length, 4, seed=seed) for seed in (1, 2, 3))


def factors(batch: int, length: int) -> tuple[Tensor, ...]:
    return torch.sigmoid(draw(batch, length, D)), draw(batch, length, D, seed=2)


def filtered(batch: int, length: int) -> tuple[Tensor, ...]:
    return draw(batch, D, length), draw(1, D, length, seed=2)


def selected(batch: int, length: int) -> tuple[Tensor, ...]:
    """u, Δ before softplus, A, B, C, D, z and the bias of Δ."""
    u, delta, z = (draw(batch, D, length, seed=seed) for seed in (1, 2, 3))
    B, C = (draw(batch, 4, length, seed=seed) for seed in (4, 5))
    A = -torch.exp(draw(D, 4, seed=6))
    return u, delta, A, B, C, draw(D, seed=7), z, draw(D, seed=8)


def scanned(function: Callable) -> Callable:
    def call(u, delta, A, B, C, D, z, bias):
        return function(u, delta, A, B, C, D, z, bias, delta_softplus=True)

    return lambda n: Function(call)


def duals(batch: int, length: int) -> tuple[Tensor, ...]:
    """x, Δ, A, B, C and D of four heads in two groups."""
    x, delta = draw(batch, length, 4, 3), torch.sigmoid(draw(batch, length, 4, seed=2))
    B, C = (draw(batch, length, 2, 5, seed=seed) for seed in (3, 4))
    return x, delta, -torch.exp(draw(4, seed=5)), B, C, draw(4, seed=6)


def deltas(batch: int, length: int) -> tuple[Tensor, ...]:
    """q, k, v, β and what log α is the negative exponential of, for three heads."""
    q, k, v = (draw(batch, length, 3, 4, seed=seed) for seed in (1, 2, 3))
    beta, decay = (draw(batch, length, 3, seed=seed) for seed in (4, 5))
    return q, nn.functional.normalize(k, dim=-1), v, torch.sigmoid(beta), decay


def deltaed(function: Callable) -> Callable:
    def call(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
        return function(q, k, v, beta, -decay.exp())

    return lambda n: Function(call)


def tokened(batch: int, length: int) -> tuple[Tensor, ...]:
    """x, Δ, A, λ, B and C of three heads, rank 2, before what puts them in their ranges."""
    x, B, C = (draw(batch, length, 3, 2, n, seed=n) for n in (4, 5, 6))
    delta, A, lam = (draw(batch, length, 3, seed=seed) for seed in (1, 2, 3))
    return x, delta, A, lam, B, C[..., :5]


def trapezoidal(function: Callable) -> Callable:
    def call(x: Tensor, delta: Tensor, A: Tensor, lam: Tensor, B: Tensor, C: Tensor) -> Tensor:
        return function(x, torch.sigmoid(delta), -A.exp(), torch.sigmoid(lam), B, C)

    return lambda n: Function(call)


def segmented(n: type) -> nn.Module:
    """The second input weighted by sums of the first, whose exponentials are at most 1."""

    def call(a: Tensor, x: Tensor) -> Tensor:
        below = duality.segment_sums(-a.mT).exp()
        y = below @ x.mT[..., None].to(below.dtype)  # (batch, D, length, 1)
        return y[..., 0].mT.to(x.dtype)

    return Function(call)


def poles(batch: int, length: int) -> tuple[Tensor, ...]:
    """Logarithms of decays, and frequencies, of N/2 pairs a channel."""
    return draw(D, 3), draw(D, 3, seed=2)


def vandermonde(n: type) -> nn.Module:
    def call(decay: Tensor, frequency: Tensor) -> Tensor:
        """Complex numbers have no half: a layer's are made of its float32 parameters."""
        whole = torch.promote_types(decay.dtype, torch.float32)
        a_bar = torch.polar(torch.exp(-decay.to(whole).exp()), frequency.to(whole))
        return s4.vandermonde_kernel(a_bar, torch.ones_like(a_bar), 16).to(decay.dtype)

    return Function(call)


def language(block: Callable, **options: object) -> Callable:
    return lambda n: mixer.LanguageModel(block, n(VOCAB), n(D), n(2), **options)


LLAMA = {"n_heads": 4, "n_kv_heads": 2, "d_ff": 12}

CASES: dict[str, Case] = {
    # chapters 01 to 03
    "ElmanRNN": Case(lambda n: recurrent.ElmanRNN(n(D)), "mixer", sequence, False, "mask"),
    "GRU": Case(lambda n: recurrent.GRU(n(D)), "mixer", sequence, False, "mask"),
    "attention": Case(lambda n: Function(attention.attention), "function", heads),
    "online_softmax_attention": Case(
        lambda n: Function(lambda q, k, v: attention.online_softmax_attention(q, k, v, block=4)),
        *("function", heads, False),
        twice=False,
    ),
    "MultiHeadAttention": Case(
        lambda n: attention.MultiHeadAttention(n(D), n(2)), "compressor", sequence
    ),
    "CausalSelfAttention": Case(
        lambda n: attention.CausalSelfAttention(n(D), n(2)), "mixer", sequence, True, "mask"
    ),
    "CausalSelfAttention, tiled": Case(
        lambda n: attention.CausalSelfAttention(n(D), n(2), block=n(4)),
        *("mixer", sequence, False, "mask"),
        twice=False,
    ),
    "RMSNorm": Case(lambda n: decoder.RMSNorm(n(D)), "compressor", sequence),
    "SwiGLU": Case(lambda n: decoder.SwiGLU(n(D), n(12)), "compressor", sequence),
    "GroupedQueryAttention": Case(
        lambda n: decoder.GroupedQueryAttention(n(D), n(4), n(2)), "mixer", sequence, True, "mask"
    ),
    "LlamaBlock": Case(
        lambda n: decoder.LlamaBlock(n(D), n(4), n(2), n(12)), "mixer", sequence, True, "mask"
    ),
    "LlamaLM": Case(
        lambda n: decoder.LlamaLM(n(VOCAB), n(D), n(2), **LLAMA), "model", tokens, True, "mask"
    ),
    # chapters 05 to 07
    "LinearCompression": Case(
        lambda n: compression.LinearCompression(n(6), n(3)), "compressor", features
    ),
    "MeanPooling": Case(lambda n: compression.MeanPooling(n(6), n(4)), "compressor", features),
    "LowRank": Case(lambda n: compression.LowRank(n(6), n(3), n(2)), "compressor", features),
    "PyramidCompression": Case(
        lambda n: pyramid.PyramidCompression((n(6), n(3), n(2))), "compressor", features
    ),
    "InceptionBlock": Case(
        lambda n: pyramid.InceptionBlock(n(3), n(2), n(2), n(4), n(2), n(4), n(2)),
        *("compressor", picture),
    ),
    "factorization_machine": Case(
        lambda n: Function(dhen.factorization_machine), "function", features
    ),
    "FactorizationMachine": Case(
        lambda n: dhen.FactorizationMachine(n(6), n(3), n(D), n(2), (n(8),)),
        *("compressor", features),
    ),
    "CrossNetwork": Case(
        lambda n: dhen.CrossNetwork(n(6), n(3), n(D), n(2)), "compressor", features
    ),
    "SelfAttention": Case(lambda n: dhen.SelfAttention(n(6), n(3), n(D)), "compressor", features),
    "Convolution": Case(lambda n: dhen.Convolution(n(6), n(3), n(D)), "compressor", features),
    "MLP": Case(lambda n: dhen.MLP(n(6), n(3), n(D), (n(8),)), "compressor", features),
    "DHEN": Case(
        lambda n: dhen.DHEN(
            lambda n_in: dhen.DHENLayer(
                [dhen.CrossNetwork(n_in, n(3), n(D)), compression.LinearCompression(n_in, n(3))],
                n(D),
            ),
            *(n(6), n(D), n(2)),
        ),
        *("compressor", features),
    ),
    "Wukong": Case(
        lambda n: dhen.Wukong(n(6), n(D), n(2), n(3), n(3), n(2), (n(8),)), "compressor", features
    ),
    "Wukong with an attentive Y": Case(
        lambda n: dhen.Wukong(n(6), n(D), n(2), n(3), n(3), n(2), (n(8),), attentive=(n(7),)),
        *("compressor", features),
    ),
    # chapters 08 to 10
    "CrossAttention": Case(lambda n: perceiver.CrossAttention(n(D), n(2)), "compressor", sequence),
    "Perceiver": Case(
        lambda n: perceiver.Perceiver(n(D), n(4), n(12), n(2), n(2), n(2)), "compressor", sequence
    ),
    "PerceiverClassifier": Case(
        lambda n: perceiver.PerceiverClassifier(perceiver.Perceiver(n(D), n(4), n(12)), n(5)),
        *("compressor", sequence),
    ),
    "fourier_features": Case(
        lambda n: Function(lambda p: perceiver.fourier_features(p, n(16), n(64))),
        *("function", positions),
    ),
    "PerceiverIO": Case(
        lambda n: perceiver_io.PerceiverIO(n(D), n(4), n(12), n(6), n(2)),
        *("compressor", asked),
    ),
    "PerceiverMaskedLM": Case(
        lambda n: perceiver_io.PerceiverMaskedLM(
            n(VOCAB), n(D), n(100), n_latents=n(3), d_latent=n(8), n_heads=n(2)
        ),
        *("compressor", tokens),
    ),
    "PerceiverImageClassifier": Case(
        lambda n: perceiver_io.PerceiverImageClassifier(
            n(5), n(8), n(3), n(4), n(16), n_latents=n(4), n_self=n(2)
        ),
        *("compressor", picture),
    ),
    "PerceiverAR": Case(
        lambda n: perceiver_ar.PerceiverAR(n(VOCAB), n(D), n(3), n(4), **LLAMA),
        *("model", tokens, True, "mask"),
    ),
    # chapters 12 to 15
    "causal_convolution": Case(
        lambda n: Function(convolution.causal_convolution), "function", filtered
    ),
    "vandermonde_kernel": Case(vandermonde, "function", poles, settled=True),
    "S4": Case(lambda n: s4.S4(n(D), n(4)), "mixer", sequence, True, "mask"),
    "S4D": Case(lambda n: s4.S4D(n(D), n(4)), "mixer", sequence, True, "mask"),
    "S4D, bilinear": Case(
        lambda n: s4.S4D(n(D), n(4), rule="bilinear"), "mixer", sequence, True, "mask"
    ),
    # chapters 16 to 18
    "linear_scan": Case(lambda n: Function(scan.linear_scan), "function", factors, False),
    "sequential_scan": Case(lambda n: Function(scan.sequential_scan), "function", factors, False),
    "hillis_steele_scan": Case(
        lambda n: Function(scan.hillis_steele_scan), "function", factors, False
    ),
    "blelloch_scan": Case(lambda n: Function(scan.blelloch_scan), "function", factors, False),
    "chunked_scan": Case(
        lambda n: Function(lambda a, b: scan.chunked_scan(a, b, chunk=4)),
        "function",
        factors,
        False,
    ),
    "selective_scan": Case(scanned(selective.selective_scan), "function", selected),
    "selective_scan_reference": Case(
        scanned(selective.selective_scan_reference), "function", selected, False
    ),
    "Selective": Case(lambda n: selective.Selective(n(D), n(4)), "mixer", sequence, True, "mask"),
    "Selective, fixed": Case(
        lambda n: selective.Selective(n(D), n(4), None, False, False),
        *("mixer", sequence, True, "mask"),
    ),
    "Selective, zero-order hold": Case(
        lambda n: selective.Selective(n(D), n(4), rule="zero_order_hold"),
        *("mixer", sequence, True, "mask"),
    ),
    "Mamba": Case(lambda n: mamba.Mamba(n(D), n(4)), "mixer", sequence, True, "mask"),
    "MambaLM": Case(
        lambda n: mamba.MambaLM(mamba.MambaConfig(vocab_size=n(VOCAB), d_model=n(D), n_layer=n(2))),
        *("model", tokens, True, "mask"),
    ),
    # chapter 20
    "segment_sums": Case(segmented, "function", factors),
    "ssd": Case(lambda n: Function(partial(duality.ssd, chunk=n(4))), "function", duals),
    "ssd_quadratic": Case(lambda n: Function(duality.ssd_quadratic), "function", duals),
    "ssd_recurrent": Case(lambda n: Function(duality.ssd_recurrent), "function", duals, False),
    "Mamba2": Case(
        lambda n: mamba2.Mamba2(n(D), n(6), P=n(4), groups=n(2), chunk=n(4)),
        *("mixer", sequence, True, "mask"),
    ),
    "Mamba2LM": Case(
        lambda n: mamba2.Mamba2LM(
            mamba2.Mamba2Config(vocab_size=n(VOCAB), d_model=n(D), n_layer=n(2), N=n(6), P=n(4))
        ),
        *("model", tokens, True, "mask"),
    ),
    # chapter 21
    "delta_rule": Case(deltaed(partial(delta_rule.delta_rule, chunk=4)), "function", deltas),
    "delta_rule_recurrent": Case(
        deltaed(delta_rule.delta_rule_recurrent), "function", deltas, False
    ),
    "DeltaNet": Case(
        lambda n: delta.DeltaNet(n(D), n(4), n(6), n(3), n(2), chunk=n(4)),
        *("mixer", sequence, True, "mask"),
    ),
    "GatedDeltaNet": Case(
        lambda n: delta.GatedDeltaNet(n(D), n(4), n(6), n(3), n(2), chunk=n(4)),
        *("mixer", sequence, True, "mask"),
    ),
    "trapezoidal": Case(trapezoidal(partial(trapezoid.trapezoidal, chunk=4)), "function", tokened),
    "trapezoidal_recurrent": Case(
        trapezoidal(trapezoid.trapezoidal_recurrent), "function", tokened, False
    ),
    "Mamba3": Case(
        lambda n: mamba3.Mamba3(n(D), n(9), P=n(4), chunk=n(4)),
        *("mixer", sequence, True, "mask"),
    ),
    "Mamba3, rank 2": Case(
        lambda n: mamba3.Mamba3(n(D), n(8), P=n(4), rank=n(2), chunk=n(4)),
        *("mixer", sequence, True, "mask"),
    ),
    # chapter 22
    "FeedForward": Case(
        lambda n: hybrid.FeedForward(n(D), n(12)), "compressor", sequence, True, "mask"
    ),
    "HybridLM": Case(
        lambda n: hybrid.HybridLM(
            *("mMf", n(VOCAB), n(D)),
            m={"N": n(6), "P": n(4)},
            M={"N": n(4)},
            f={"d_ff": n(12)},
        ),
        *("model", tokens, True, "mask"),
    ),
    "HybridLM, attention": Case(
        lambda n: hybrid.HybridLM(
            *("d a f", n(VOCAB), n(D)),
            d={"heads": n(2), "d_key": n(6), "d_value": n(3), "chunk": n(4)},
            a={"n_heads": n(4), "n_kv_heads": n(2)},
            f={"d_ff": n(12)},
        ),
        *("model", tokens, True, "mask"),
    ),
    # the frame
    "Residual": Case(lambda n: mixer.Residual(s4.S4D(n(D), n(4))), "mixer", sequence, True, "mask"),
    "LanguageModel": Case(
        language(lambda: mixer.Residual(s4.S4D(D, 4))), "model", tokens, True, "mask"
    ),
    "LanguageModel, untied": Case(
        language(lambda: mixer.Residual(recurrent.GRU(D)), tied=False, rows=16),
        *("model", tokens, False, "mask"),
    ),
    "SequenceClassifier": Case(
        lambda n: mixer.SequenceClassifier(
            lambda: mixer.Residual(s4.S4D(D, 4)), n(D), n(5), n(D), n(2)
        ),
        *("compressor", sequence, True, "mask"),
    ),
}


def make(name: str, whole: type = int) -> nn.Module:
    """The case's module in float32, the same at every call."""
    torch.manual_seed(0)
    return CASES[name].make(whole)


def inputs(name: str, batch: int = 2, length: int = 9) -> tuple[Tensor, ...]:
    """The case's inputs in float32, and token ids as they are."""
    return CASES[name].inputs(batch, length)


def cast(values: tuple[Tensor, ...], to: torch.dtype | torch.device) -> tuple[Tensor, ...]:
    """Floating-point inputs in another dtype or on another device; whole numbers moved only."""
    moved = []
    for value in values:
        is_dtype = isinstance(to, torch.dtype)
        moved.append(value if is_dtype and not value.is_floating_point() else value.to(to))
    return tuple(moved)


def tensors(state: object) -> list[Tensor]:
    """The tensors of a state, whatever it is made of."""
    if isinstance(state, Tensor):
        return [state]
    if isinstance(state, dict):
        return [t for part in state.values() for t in tensors(part)]
    if isinstance(state, (list, tuple)):
        return [t for part in state for t in tensors(part)]
    inside = getattr(state, "__dict__", None)
    return tensors(inside) if inside else []
