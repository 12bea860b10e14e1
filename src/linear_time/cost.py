"""Chapter 04: what a mixer costs at any length, counted and measured.

A FLOP is one addition, multiplication, division or exponential of real
numbers; a product of matrices (m, k) and (k, n) has 2mkn. Counted are matrix
products and all that costs N, taps or log L operations a channel and token:
kernels, transforms, scans, short convolutions. Left out is what costs a
constant a channel and token, or a score: activations, norms, biases, gates,
the softmax, the direct term D. All counts are of one sequence. In a batch,
parameters and the kernels of S4 and S4D are shared.

What is measured instead of counted stands in ``measure``.
"""

import math
from functools import singledispatch
from typing import Any, NamedTuple

from linear_time import _validate
from linear_time.attention import CausalSelfAttention
from linear_time.decoder import GroupedQueryAttention, LlamaBlock
from linear_time.measure import (  # noqa: F401
    Measured,
    crossover,
    log_log_slope,
    measure,
    peak_bytes,
    product_flops,
    saved_bytes,
    training_step,
)
from linear_time.mixer import Residual
from linear_time.recurrent import GRU, ElmanRNN


class Cost(NamedTuple):
    """What one layer costs on one sequence of length L."""

    parameters: int  # numbers that are learned
    forward_flops: int  # of the parallel form, all L tokens
    depth: int  # its rounds along the sequence, each waiting for the last
    step_flops: int  # of the recurrent form, for token L alone
    state: int  # real numbers that it holds after token L

    @property
    def step_numbers(self) -> int:
        """What a step must read: every parameter and the state.

        Times the bytes of a number, this is the least traffic of a token.
        """
        return self.parameters + self.state


def elman_cost(length: int, d_model: int) -> Cost:
    """Two products (d, d) a token, one token after the other."""
    _sizes(length=length, d_model=d_model)
    products = 4 * d_model**2
    return Cost(
        parameters=2 * d_model**2 + d_model,
        forward_flops=products * length,
        depth=length,
        step_flops=products,
        state=d_model,
    )


def gru_cost(length: int, d_model: int) -> Cost:
    """Three times the products of an Elman network: two gates, one state."""
    _sizes(length=length, d_model=d_model)
    products = 12 * d_model**2
    return Cost(
        parameters=6 * d_model**2 + 6 * d_model,
        forward_flops=products * length,
        depth=length,
        step_flops=products,
        state=d_model,
    )


def attention_cost(length: int, d_model: int) -> Cost:
    """Four projections, then q kᵀ and the weights times v.

    The number of heads does not matter. The parallel form computes all L²
    scores and masks half of them; a step computes the L that it needs. The
    sums over the keys are trees of ⌈log₂ L⌉ rounds.
    """
    _sizes(length=length, d_model=d_model)
    projections = 8 * d_model**2
    return Cost(
        parameters=4 * d_model**2,
        forward_flops=projections * length + 4 * d_model * length**2,
        depth=1 + _log2(length),
        step_flops=projections + 4 * d_model * length,
        state=2 * d_model * length,
    )


def grouped_query_cost(
    length: int, d_model: int, n_heads: int, n_kv_heads: int, d_head: int
) -> Cost:
    """Attention whose keys and values n_heads / n_kv_heads queries share."""
    _sizes(length=length, d_model=d_model, n_heads=n_heads)
    _sizes(n_kv_heads=n_kv_heads, d_head=d_head)
    parameters = 2 * d_model * d_head * (n_heads + n_kv_heads)
    scores = 4 * n_heads * d_head * length
    return Cost(
        parameters=parameters,
        forward_flops=(2 * parameters + scores) * length,
        depth=1 + _log2(length),
        step_flops=2 * parameters + scores,
        state=2 * n_kv_heads * d_head * length,
    )


def llama_cost(
    length: int,
    d_model: int,
    n_heads: int,
    n_kv_heads: int,
    d_ff: int,
    d_head: int | None = None,
) -> Cost:
    """A whole block: grouped attention, three products of the MLP, two norms.

    Args:
        d_head: width of a head; None: d_model / n_heads.
    """
    _sizes(length=length, d_ff=d_ff, n_heads=n_heads)
    d_head = d_model // n_heads if d_head is None else d_head
    heads = grouped_query_cost(length, d_model, n_heads, n_kv_heads, d_head)
    mlp = 3 * d_model * d_ff
    return heads._replace(
        parameters=heads.parameters + mlp + 2 * d_model,
        forward_flops=heads.forward_flops + 2 * mlp * length,
        step_flops=heads.step_flops + 2 * mlp,
    )


def s4d_cost(length: int, d_model: int, N: int = 64) -> Cost:
    """Kernel by doubling, convolution by FFT; N/2 complex states a channel.

    A complex product is 6 FLOPs. The powers of ā cost P − 1 products and
    log₂ P squarings, P the next power of two; their sum 8 L. A step is
    ā h + b̄ x and 2 Re Σ C h. (ā and b̄ themselves are made once.)
    """
    _sizes(length=length, d_model=d_model, N=N)
    pairs, doublings = d_model * N // 2, _log2(length)
    powers = 6 * (2**doublings - 1 + doublings)
    kernel = pairs * (powers + 8 * length)
    convolution = d_model * convolution_flops(length)
    mixing = 2 * d_model**2
    return Cost(
        parameters=d_model**2 + 3 * d_model + 2 * d_model * N,
        forward_flops=kernel + convolution + mixing * length,
        depth=doublings + _convolution_depth(length),
        step_flops=17 * pairs + mixing,
        state=2 * pairs,
    )


def s4_cost(length: int, d_model: int, N: int = 64) -> Cost:
    """Kernel by Cauchy products and an FFT, after the power Ā^L.

    The power takes ⌊log₂ L⌋ squarings and a product for every further 1 in
    the binary digits of L, each 2 N³. Each of the (L/2 + 1) N entries
    1/(α − βλ) costs 13, and 32 in the four sums. A step is the bilinear one,
    O(N). (Ā itself, O(N²) a channel, is left out.)
    """
    _sizes(length=length, d_model=d_model, N=N)
    products = length.bit_length() - 1 + length.bit_count() - 1
    power = 2 * N**3 * products + 2 * N**2
    cauchy = (length // 2 + 1) * N * (13 + 32)
    kernel = d_model * (power + cauchy + real_fft_flops(length))
    convolution = d_model * convolution_flops(length)
    mixing = 2 * d_model**2
    return Cost(
        parameters=d_model**2 + 3 * d_model + 4 * d_model * N,
        forward_flops=kernel + convolution + mixing * length,
        depth=products + _log2(length) + _convolution_depth(length),
        step_flops=51 * d_model * N // 2 + mixing,
        state=d_model * N,
    )


def selective_cost(
    length: int, d_model: int, N: int = 16, rank: int | None = None
) -> Cost:
    """Projections to Δ, B and C, the selective scan, and the map after it.

    Args:
        rank: of the map to Δ; None: ⌈d_model/16⌉.
    """
    _sizes(length=length, d_model=d_model, N=N)
    rank = _rank(d_model, rank)
    maps = 2 * d_model * rank + 2 * d_model * N + d_model**2
    step = 2 * maps + scan_flops(1, d_model, N)
    return Cost(
        parameters=maps + 3 * d_model + d_model * N,
        forward_flops=step * length,
        depth=scan_depth(length),
        step_flops=step,
        state=d_model * N,
    )


def mamba_cost(
    length: int,
    d_model: int,
    N: int = 16,
    rank: int | None = None,
    expand: int = 2,
    taps: int = 4,
) -> Cost:
    """The mixer of chapter 18, from the shapes that its paper publishes.

    Two maps up to d_inner = expand · d_model, a depthwise convolution, maps
    to Δ, B and C, the scan, a map down. The state is the scan's and the
    convolution's last taps − 1 inputs.

    Args:
        rank: of the map to Δ; None: ⌈d_model/16⌉.

    Source: Gu & Dao (2023), "Mamba", section 3.4 and algorithm 2.
    """
    _sizes(length=length, d_model=d_model, N=N, expand=expand, taps=taps)
    rank, d_inner = _rank(d_model, rank), expand * d_model
    maps = d_inner * (3 * d_model + 2 * rank + 2 * N)
    step = 2 * maps + 2 * taps * d_inner + scan_flops(1, d_inner, N)
    return Cost(
        parameters=maps + d_inner * (taps + 3 + N),
        forward_flops=step * length,
        depth=1 + scan_depth(length),
        step_flops=step,
        state=d_inner * (N + taps - 1),
    )


def cost_of_mamba(layer: Any, length: int) -> Cost:
    """``mamba_cost`` of a ``Mamba``, its sizes and biases read from it."""
    sizes = layer.d_model, layer.N, layer.rank
    expand = layer.d_inner // layer.d_model
    made = mamba_cost(length, *sizes, expand, layer.taps)
    biases = 0  # the formula has that of the convolution, and no other
    if layer.conv1d.bias is None:
        biases -= layer.d_inner
    if layer.in_proj.bias is not None:
        biases += 2 * layer.d_inner + layer.d_model
    return made._replace(parameters=made.parameters + biases)


def real_fft_flops(n: int) -> int:
    """5/2 n log₂ n: half of a complex transform, 5 n log₂ n.

    A complex one of a power of two has n/2 log₂ n butterflies, each with a
    complex product (6) and two complex sums (4). Two real sequences go
    through it as one complex sequence; taking the two apart is left out.

    Source: Cooley & Tukey (1965); the count is the usual convention.
    """
    _sizes(n=n)
    return round(2.5 * n * math.log2(n))


def convolution_flops(length: int) -> int:
    """A causal convolution by FFT: three transforms of n ≥ 2L − 1, a product.

    Of a channel, as ``causal_convolution`` does it: n is a power of two, and
    the n/2 + 1 products are complex.
    """
    _sizes(length=length)
    n = 2 ** _log2(2 * length - 1)
    return 3 * real_fft_flops(n) + 6 * (n // 2 + 1)


def scan_flops(length: int, d_inner: int, N: int) -> int:
    """7 for each channel, state and step of the selective scan.

    Δ A, its exponential, B times Δ u, ā h, the sum, C h, the sum over n.
    """
    _sizes(length=length, d_inner=d_inner, N=N)
    return 7 * length * d_inner * N


def scan_depth(length: int) -> int:
    """Rounds of the work-efficient scan, for L a power of two 2 log₂ L − 1."""
    _sizes(length=length)
    rounds = 0
    while length > 1:
        rounds += 1 + (length > 2)
        length //= 2
    return rounds


@singledispatch
def cost(mixer: Any, length: int) -> Cost:
    """The cost of a layer of this package, its sizes read from it.

    A layer registers its own with ``@cost.register(Layer)``: those of later
    chapters in their modules.

    Args:
        mixer: ElmanRNN, GRU, CausalSelfAttention, GroupedQueryAttention,
            LlamaBlock, S4, S4D, Selective, Mamba, or a Residual of one.
        length: L, ≥ 1.

    Raises:
        TypeError: the length is no whole number, or there is no formula for
            this layer.
        ValueError: the length is below 1.
    """
    known = sorted(
        kind.__name__ for kind in cost.registry if kind is not object
    )
    raise TypeError(
        f"mixer: expected one of {', '.join(known)}, got {type(mixer).__name__}"
    )


@cost.register(ElmanRNN)
def _elman(layer: ElmanRNN, length: int) -> Cost:
    return elman_cost(length, layer.d_model)


@cost.register(GRU)
def _gru(layer: GRU, length: int) -> Cost:
    return gru_cost(length, layer.d_model)


@cost.register(CausalSelfAttention)
def _attention(layer: CausalSelfAttention, length: int) -> Cost:
    return attention_cost(length, layer.d_model)


@cost.register(GroupedQueryAttention)
def _grouped(layer: GroupedQueryAttention, length: int) -> Cost:
    heads = layer.n_heads, layer.n_kv_heads, layer.d_head
    return grouped_query_cost(length, layer.d_model, *heads)


@cost.register(LlamaBlock)
def _llama(block: LlamaBlock, length: int) -> Cost:
    layer, d_ff = block.attention, block.mlp.up.out_features
    heads = layer.n_heads, layer.n_kv_heads
    return llama_cost(length, block.d_model, *heads, d_ff, layer.d_head)


@cost.register(Residual)
def _residual(block: Residual, length: int) -> Cost:
    inner = cost(block.mixer, length)
    norm = sum(parameter.numel() for parameter in block.norm.parameters())
    return inner._replace(parameters=inner.parameters + norm)


def _sizes(**sizes: Any) -> None:
    for name, size in sizes.items():
        _validate.count(name, size)


def _log2(length: int) -> int:
    """⌈log₂ L⌉."""
    return (length - 1).bit_length()


def _convolution_depth(length: int) -> int:
    """Forward transforms side by side, the product, the one back."""
    return 2 * _log2(2 * length - 1) + 1


def _rank(d_model: int, rank: int | None) -> int:
    rank = math.ceil(d_model / 16) if rank is None else rank
    _validate.count("rank", rank)
    return rank
