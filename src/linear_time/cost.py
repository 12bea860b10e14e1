"""Chapter 04: what a mixer costs at any length, counted and measured.

A FLOP is one addition, multiplication, division or exponential of real
numbers; a product of matrices (m, k) and (k, n) has 2mkn. Counted are matrix
products and all that costs N, taps or log L operations a channel and token:
kernels, transforms, scans, short convolutions. Left out is what costs a
constant a channel and token, or a score: activations, norms, biases, gates,
the softmax, the direct term D. All counts are of one sequence. In a batch,
parameters and the kernels of S4 and S4D are shared.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from linear_time import _validate
from linear_time.mixer import SequenceMixer


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
    mixer = grouped_query_cost(length, d_model, n_heads, n_kv_heads, d_head)
    mlp = 3 * d_model * d_ff
    return mixer._replace(
        parameters=mixer.parameters + mlp + 2 * d_model,
        forward_flops=mixer.forward_flops + 2 * mlp * length,
        step_flops=mixer.step_flops + 2 * mlp,
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


def cost(mixer: SequenceMixer, length: int) -> Cost:
    """The cost of a layer of this package, its sizes read from it.

    Args:
        mixer: ElmanRNN, GRU, CausalSelfAttention, GroupedQueryAttention,
            LlamaBlock, S4, S4D, Selective, Mamba, or a Residual of one.
        length: L, ≥ 1.

    Raises:
        TypeError: the length is no whole number, or there is no formula for
            this layer.
        ValueError: the length is below 1.
    """
    for kind in type(mixer).__mro__:
        if kind.__module__.startswith("linear_time.") and kind.__name__ in _OF:
            return _OF[kind.__name__](mixer, length)
    raise TypeError(
        f"mixer: expected one of {', '.join(_OF)}, got {type(mixer).__name__}"
    )


def _residual(block: Any, length: int) -> Cost:
    inner = cost(block.mixer, length)
    norm = sum(parameter.numel() for parameter in block.norm.parameters())
    return inner._replace(parameters=inner.parameters + norm)


def _grouped(layer: Any, length: int) -> Cost:
    heads = layer.n_heads, layer.n_kv_heads, layer.d_head
    return grouped_query_cost(length, layer.d_model, *heads)


def _llama(block: Any, length: int) -> Cost:
    layer, d_ff = block.attention, block.mlp.up.out_features
    heads = layer.n_heads, layer.n_kv_heads
    return llama_cost(length, block.d_model, *heads, d_ff, layer.d_head)


def _selective(layer: Any, length: int) -> Cost:
    if layer.to_delta is None or layer.to_B_C is None:
        raise TypeError(
            "mixer: expected a Selective with both switches on, got one "
            "with a fixed system"
        )
    rank = layer.to_delta[0].out_features
    return selective_cost(length, layer.d_model, layer.N, rank)


def _mamba(layer: Any, length: int) -> Cost:
    sizes = layer.d_model, layer.N, layer.rank
    expand = layer.d_inner // layer.d_model
    made = mamba_cost(length, *sizes, expand, layer.taps)
    biases = 0  # the formula has that of the convolution, and no other
    if layer.conv1d.bias is None:
        biases -= layer.d_inner
    if layer.in_proj.bias is not None:
        biases += 2 * layer.d_inner + layer.d_model
    return made._replace(parameters=made.parameters + biases)


# By name: a formula needs sizes only, and the layers stand in later chapters.
_OF: dict[str, Callable[[Any, int], Cost]] = {
    "ElmanRNN": lambda m, L: elman_cost(L, m.d_model),
    "GRU": lambda m, L: gru_cost(L, m.d_model),
    "CausalSelfAttention": lambda m, L: attention_cost(L, m.d_model),
    "GroupedQueryAttention": _grouped,
    "LlamaBlock": _llama,
    "S4": lambda m, L: s4_cost(L, m.d_model, m.N),
    "S4D": lambda m, L: s4d_cost(L, m.d_model, m.N),
    "Selective": _selective,
    "Mamba": _mamba,
    "Residual": _residual,
}


class Measured(NamedTuple):
    """What ``measure`` saw of one call."""

    seconds: float  # the median of the repeats
    fastest: float
    slowest: float
    peak_bytes: int | None  # the most that it held at once, see peak_bytes


def measure(
    calls: Mapping[str, Callable[[], Any]],
    repeats: int = 5,
    number: int = 1,
    memory: bool = False,
) -> dict[str, Measured]:
    """Time some calls, in turn, so that a disturbance meets all of them.

    Each is called once beforehand, to warm up. A time is that of one call.

    Args:
        calls: name → a function without arguments.
        repeats: how often each is timed, ≥ 1.
        number: calls a timing, ≥ 1; more where one is very short.
        memory: also look for the peak of memory, in a call of its own.

    Returns:
        name → Measured.

    Raises:
        TypeError, ValueError: repeats or number is not a whole number ≥ 1.
    """
    _sizes(repeats=repeats, number=number)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            begin = time.perf_counter()
            for _ in range(number):
                call()
            times[name].append((time.perf_counter() - begin) / number)
    return {
        name: Measured(
            statistics.median(seconds),
            min(seconds),
            max(seconds),
            peak_bytes(calls[name]) if memory else None,
        )
        for name, seconds in times.items()
    }


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that a call held at once beyond what was there before.

    As torch's profiler sees its CPU allocator. What the call returns counts,
    its inputs do not.
    """
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        call()
    events: Any = profiler.profiler.kineto_results.events()  # type: ignore
    changes = sorted(
        (event.start_ns(), event.nbytes())
        for event in events
        if event.name() == "[memory]"
    )
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def saved_bytes(call: Callable[[], Any]) -> int:
    """What autograd keeps of a forward call for its backward.

    Each piece of storage counts once, parameters and inputs as well.
    """
    sizes: dict[int, int] = {}
    kept = []  # alive, so that no two pieces share an address

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        kept.append(x)
        return x

    with saved_tensors_hooks(pack, lambda x: x):
        call()
    return sum(sizes.values())


def training_step(
    mixer: SequenceMixer, x: Float[Tensor, "batch length d_model"]
) -> tuple[Tensor, ...]:
    """Forward, a squared loss, and the gradients of all parameters."""
    loss = mixer(x).square().mean()
    return torch.autograd.grad(loss, tuple(mixer.parameters()))


def log_log_slope(
    lengths: Sequence[int], values: Sequence[float | int], start: int = 1
) -> float:
    """The exponent p of values ~ lengths^p, by least squares in logarithms.

    Args:
        lengths: in any order.
        values: > 0, one a length.
        start: L₀; shorter lengths are left out.

    Raises:
        ValueError: not two different lengths ≥ start, or a value ≤ 0.
    """
    rows = [
        (math.log(length), value)
        for length, value in zip(lengths, values, strict=True)
        if length >= start
    ]
    if len({x for x, _ in rows}) < 2 or min(value for _, value in rows) <= 0:
        raise ValueError(
            "lengths: expected two or more from start on, with values > 0, "
            f"got {len(rows)} from {start} on"
        )
    xs, ys = [x for x, _ in rows], [math.log(y) for _, y in rows]
    return statistics.linear_regression(xs, ys).slope


def crossover(
    lengths: Sequence[int],
    one: Sequence[float | int],
    other: Sequence[float | int],
) -> float | None:
    """The length from which on one stays above the other.

    Between two lengths both are straight lines in the log–log plot.

    Args:
        lengths: increasing.
        one, other: values > 0.

    Returns:
        The length, or None where one is below the other at the last length,
        or never is.
    """
    gaps = [
        math.log(a / b) for a, b in zip(one, other, strict=True)
    ]  # > 0: one costs more
    if gaps[-1] <= 0 or min(gaps) > 0:
        return None
    i = max(i for i, gap in enumerate(gaps) if gap <= 0)
    share = gaps[i] / (gaps[i] - gaps[i + 1])
    return float(lengths[i] * (lengths[i + 1] / lengths[i]) ** share)


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
