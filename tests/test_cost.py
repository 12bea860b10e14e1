"""Chapter 04: the counts against the layers, torch's counter and loops that count themselves."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from book import ROOT
from contract import tensors
from helpers import count_flops, draw
from linear_time import measure as measuring
from linear_time import records
from linear_time.attention import CausalSelfAttention, attend, causal_mask
from linear_time.convolution import causal_convolution
from linear_time.cost import (
    Cost,
    attention_cost,
    convolution_flops,
    cost,
    crossover,
    elman_cost,
    grouped_query_cost,
    gru_cost,
    llama_cost,
    log_log_slope,
    mamba_cost,
    measure,
    peak_bytes,
    product_flops,
    real_fft_flops,
    s4_cost,
    s4d_cost,
    saved_bytes,
    scan_depth,
    scan_flops,
    selective_cost,
    training_step,
)
from linear_time.decoder import GroupedQueryAttention, LlamaBlock
from linear_time.mamba import Mamba
from linear_time.mixer import Residual, SequenceMixer
from linear_time.recurrent import GRU, ElmanRNN
from linear_time.s4 import S4, S4D, dplr_step, vandermonde_kernel
from linear_time.scan import blelloch_cost
from linear_time.selective import Selective

F64 = torch.float64
D = 8
MIXERS = {
    "elman": lambda: ElmanRNN(D),
    "gru": lambda: GRU(D),
    "attention": lambda: CausalSelfAttention(D, 2),
    "grouped": lambda: GroupedQueryAttention(D, 4, 2, d_head=6),
    "llama": lambda: LlamaBlock(D, 4, 2, d_ff=20, d_head=6),
    "s4": lambda: S4(D, N=6),
    "s4d": lambda: S4D(D, N=6),
    "selective": lambda: Selective(D, N=3, rank=2),
    "residual": lambda: Residual(GRU(D)),
    "mamba": lambda: Mamba(D, N=3, rank=2, taps=3),
    "mamba_biases": lambda: Mamba(D, N=3, expand=3, bias=True, conv_bias=False),
}
every = pytest.mark.parametrize("name", MIXERS)


def make(name):
    torch.manual_seed(0)
    return MIXERS[name]()


def inputs(length, batch=1):
    return draw(batch, length, D, dtype=torch.float32)


def numbers(state):
    """Real numbers in a state, however it is packed."""
    return sum(t.numel() * (2 if t.is_complex() else 1) for t in tensors(state))


# --- against the layers --------------------------------------------------------------------------


@every
def test_parameters_are_the_layers(name):
    mixer = make(name)
    assert cost(mixer, 5).parameters == sum(p.numel() for p in mixer.parameters())


@every
@torch.no_grad()
def test_the_state_is_the_layers(name):
    mixer = make(name)
    state = mixer.initial_state(1)
    for length, x_t in enumerate(inputs(9).unbind(1), start=1):
        _, state = mixer.step(x_t, state)
        assert numbers(state) == cost(mixer, length).state
        assert cost(mixer, length).step_numbers == numbers(state) + cost(mixer, 1).parameters


# What torch's counter does not see of a layer's forward: (length, layer) -> FLOPs.
def unseen(name, mixer, length):
    if name in ("selective", "mamba", "mamba_biases"):
        # of the scan's seven it sees C h, the two that are a matrix product
        d_inner = getattr(mixer, "d_inner", D)
        return 5 * length * d_inner * mixer.N
    if name == "s4d":
        doublings = math.ceil(math.log2(length))
        powers = 6 * (2**doublings - 1 + doublings)
        # and a complex product it counts as a real one: 2 for 8
        return D * (convolution_flops(length) + mixer.N // 2 * (powers + 6 * length))
    if name == "s4":
        entries = (length // 2 + 1) * mixer.N
        sums = (32 - 8) * entries  # four complex sums, counted as real
        return D * (13 * entries + sums + real_fft_flops(length) + convolution_flops(length))
    return 0


@every
@pytest.mark.parametrize("length", [2, 16, 21, 64])
@torch.no_grad()
def test_matrix_products_are_those_of_torchs_counter(name, length):
    mixer = make(name)
    seen = count_flops(lambda: mixer(inputs(length)))
    assert seen + unseen(name, mixer, length) == cost(mixer, length).forward_flops


@every
@torch.no_grad()
def test_a_steps_products_are_those_of_torchs_counter(name):
    mixer = make(name)
    state = mixer.initial_state(1)
    for length, x_t in enumerate(inputs(6).unbind(1), start=1):
        seen = count_flops(mixer.step, x_t, state)
        _, state = mixer.step(x_t, state)
        wanted = cost(mixer, length).step_flops
        if name in ("s4", "s4d"):  # the systems are elementwise
            assert seen == 2 * D * D
            assert wanted - seen == (51 if name == "s4" else 17) * D * mixer.N // 2
        elif name in ("selective", "mamba", "mamba_biases"):
            hidden = 7 * getattr(mixer, "d_inner", D) * mixer.N
            assert wanted - hidden <= seen <= wanted
        else:
            assert seen == wanted


def test_backward_has_twice_the_products_of_forward():
    x = inputs(16).requires_grad_()
    for name in ("attention", "grouped", "llama"):
        mixer = make(name)
        forward = count_flops(lambda: mixer(x))  # noqa: B023
        both = count_flops(lambda: mixer(x).sum().backward())  # noqa: B023
        assert both == 3 * forward == 3 * cost(mixer, 16).forward_flops
    for name in ("elman", "gru"):
        mixer = make(name)
        both = count_flops(lambda: mixer(x).sum().backward())  # noqa: B023
        # nobody asks for the gradient of h_0
        assert both == 3 * cost(mixer, 16).forward_flops - 2 * D * mixer.recurrent.out_features


def test_the_cache_saves_the_masked_half():
    L = 100
    steps = sum(attention_cost(length, D).step_flops for length in range(1, L + 1))
    whole = attention_cost(L, D).forward_flops
    assert whole - steps == 4 * D * (L * L - L * (L + 1) // 2)


# --- against loops that count themselves ---------------------------------------------------------


class Tally:
    """A real number that counts what is done with it."""

    count = 0

    def __init__(self, value):
        self.value = float(value)

    def _with(self, other, result):
        Tally.count += 1
        return Tally(result)

    def __add__(self, other):
        return self._with(other, self.value + other.value)

    def __sub__(self, other):
        return self._with(other, self.value - other.value)

    def __mul__(self, other):
        return self._with(other, self.value * other.value)

    def __truediv__(self, other):
        return self._with(other, self.value / other.value)

    def exp(self):
        Tally.count += 1
        return Tally(math.exp(self.value))


class Pair:
    """A complex number of two tallies."""

    def __init__(self, re, im):
        self.re, self.im = re, im

    @classmethod
    def of(cls, value):
        return cls(Tally(complex(value).real), Tally(complex(value).imag))

    @property
    def value(self):
        return complex(self.re.value, self.im.value)

    def __add__(self, other):
        return Pair(self.re + other.re, self.im + other.im)

    def __sub__(self, other):
        return Pair(self.re - other.re, self.im - other.im)

    def __mul__(self, other):
        if isinstance(other, Tally):
            return Pair(self.re * other, self.im * other)
        return Pair(
            self.re * other.re - self.im * other.im, self.re * other.im + self.im * other.re
        )

    def conj(self):
        return Pair(self.re, Tally(-self.im.value))

    def reciprocal(self):
        size = self.re * self.re + self.im * self.im
        return Pair(self.re / size, Tally(-self.im.value) / size)


def tallied(call):
    Tally.count = 0
    result = call()
    return result, Tally.count


def fft(x):
    """Cooley and Tukey's: two halves, and n/2 butterflies."""
    if len(x) == 1:
        return x
    even, odd = fft(x[0::2]), fft(x[1::2])
    n, left, right = len(x), [], []
    for k, (e, o) in enumerate(zip(even, odd, strict=True)):
        turned = o * Pair.of(complex(math.cos(2 * math.pi * k / n), -math.sin(2 * math.pi * k / n)))
        left.append(e + turned)
        right.append(e - turned)
    return left + right


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_fft_is_a_hand_counted_loop(n):
    """Two real sequences go through one complex transform: half of it is each one's."""
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(2, n, generator=generator, dtype=F64)
    both = [Pair(Tally(a), Tally(b)) for a, b in zip(one, other, strict=True)]
    result, flops = tallied(lambda: fft(both))
    assert flops == 2 * real_fft_flops(n) == 5 * n * int(math.log2(n))
    out = torch.tensor([z.value for z in result], dtype=torch.complex128)
    torch.testing.assert_close(out, torch.fft.fft(torch.complex(one, other)))
    mirrored = out[-torch.arange(n) % n].conj()
    torch.testing.assert_close((out + mirrored) / 2, torch.fft.fft(one))
    torch.testing.assert_close((out - mirrored) / 2j, torch.fft.fft(other))


@pytest.mark.parametrize("length", [4, 5, 16])
def test_convolution_is_a_hand_counted_loop(length):
    """Two channels at a time: three complex transforms, and n/2 + 1 products for each."""
    x, kernel = torch.randn(2, length, dtype=F64), torch.randn(2, length, dtype=F64)
    n = 1 << (2 * length - 2).bit_length()
    padded = [torch.cat([v, torch.zeros(2, n - length, dtype=F64)], 1) for v in (x, kernel)]

    def run():
        spectra = [fft([Pair(Tally(a), Tally(b)) for a, b in v.T.tolist()]) for v in padded]
        counted_so_far = Tally.count
        apart = []  # taking the two channels apart is left out of the count
        for spectrum in spectra:
            out = torch.tensor([z.value for z in spectrum], dtype=torch.complex128)
            mirrored = out[-torch.arange(n) % n].conj()
            apart.append(((out + mirrored) / 2, (out - mirrored) / 2j))
        Tally.count = counted_so_far
        products = []
        for X, K in zip(*apart, strict=True):
            half = [Pair.of(a) * Pair.of(b) for a, b in zip(X[: n // 2 + 1], K, strict=False)]
            products.append(torch.tensor([z.value for z in half], dtype=torch.complex128))
        counted_so_far = Tally.count
        ys = [torch.fft.irfft(p, n) for p in products]
        whole = torch.fft.fft(torch.complex(*ys))
        back = fft([Pair.of(z.conjugate()) for z in whole.tolist()])
        return torch.tensor([z.value.conjugate() / n for z in back])

    result, flops = tallied(run)
    assert flops == 2 * convolution_flops(length)
    wanted = causal_convolution(x, kernel)
    torch.testing.assert_close(result.real[:length].double(), wanted[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(result.imag[:length].double(), wanted[1], rtol=1e-6, atol=1e-6)


def test_scan_is_a_hand_counted_loop():
    torch.manual_seed(0)
    layer = Selective(2, N=3).double()
    x = torch.randn(1, 7, 2, dtype=F64)
    with torch.no_grad():
        delta, B, C = layer.select(x)
        h_last = None
        state = layer.initial_state(1)
        for x_t in x.unbind(1):
            _, state = layer.step(x_t, state)
        h_last = state[0]
    A = [[Tally(v) for v in row] for row in layer.A.tolist()]

    def run():
        h = [[Tally(0) for _ in range(3)] for _ in range(2)]
        for t in range(7):
            for d in range(2):
                step = Tally(delta[0, t, d])
                driven = Tally(delta[0, t, d] * x[0, t, d])  # Δ u: once a channel, left out
                y = Tally(0)
                for n in range(3):
                    a_bar = (step * A[d][n]).exp()
                    h[d][n] = a_bar * h[d][n] + Tally(B[0, t, n]) * driven
                    y = y + Tally(C[0, t, n]) * h[d][n]
        return h

    h, flops = tallied(run)
    assert flops == scan_flops(7, 2, 3)
    got = torch.tensor([[v.value for v in row] for row in h], dtype=F64)
    torch.testing.assert_close(got, h_last)


def test_depthwise_convolution_is_a_hand_counted_loop():
    torch.manual_seed(0)
    L, d_inner, taps = 6, 4, 3
    layer = nn.Conv1d(d_inner, d_inner, taps, groups=d_inner).double()
    x = torch.randn(1, d_inner, L + taps - 1, dtype=F64)
    weight, bias = layer.weight[:, 0].tolist(), layer.bias.tolist()

    def run():
        rows = []
        for d in range(d_inner):
            rows.append([])
            for t in range(L):
                total = Tally(bias[d])
                for k in range(taps):
                    total = total + Tally(weight[d][k]) * Tally(x[0, d, t + k])
                rows[-1].append(total.value)
        return rows

    got, flops = tallied(run)
    torch.testing.assert_close(torch.tensor(got, dtype=F64), layer(x)[0].detach())
    assert flops == 2 * taps * d_inner * L
    with_conv = mamba_cost(L, 2, N=1, rank=1, taps=taps).forward_flops
    assert with_conv - mamba_cost(L, 2, N=1, rank=1, taps=1).forward_flops == flops * 2 // 3


def test_a_vandermonde_kernel_is_a_hand_counted_loop():
    generator = torch.Generator().manual_seed(0)
    pairs, length = 3, 11
    a = torch.randn(pairs, generator=generator, dtype=torch.complex128) / 2
    w = torch.randn(pairs, generator=generator, dtype=torch.complex128)

    def run():
        powers, factor = [[Pair.of(1)] for _ in range(pairs)], [Pair.of(z) for z in a]
        while len(powers[0]) < length:
            for row, f in zip(powers, factor, strict=True):
                row += [p * f for p in row]
            factor = [f * f for f in factor]
        kernel = []
        for i in range(length):
            total = Pair.of(0)
            for z, row in zip(w, powers, strict=True):
                total = total + Pair.of(z) * row[i]
            kernel.append(2 * total.re.value)
        return kernel

    got, flops = tallied(run)
    torch.testing.assert_close(
        torch.tensor(got, dtype=F64), vandermonde_kernel(a, w, length), rtol=1e-10, atol=1e-10
    )
    rest = convolution_flops(length) + 2 * length  # of one channel, with its product (1, 1)
    assert flops == s4d_cost(length, 1, 2 * pairs).forward_flops - rest


def test_a_cauchy_entry_is_thirteen_and_its_four_sums_thirty_two():
    def entry():
        alpha, beta, pole = Pair.of(1 + 2j), Pair.of(3 - 1j), Pair.of(-0.5 + 2j)
        made = (alpha - beta * pole).reciprocal()
        return made

    made, flops = tallied(entry)
    assert flops == 13
    assert abs(made.value - 1 / ((1 + 2j) - (3 - 1j) * (-0.5 + 2j))) < 1e-15
    _, flops = tallied(lambda: [Pair.of(0) + made * Pair.of(2j) for _ in range(4)])
    assert flops == 32


def test_steps_of_s4_and_s4d_are_hand_counted_loops():
    generator = torch.Generator().manual_seed(0)
    pairs = 3
    lam, P, B, C, h = torch.randn(5, pairs, generator=generator, dtype=torch.complex128)
    lam = torch.complex(-lam.real.abs(), lam.imag)
    delta, x = 0.3, 0.7
    tensors = [[Pair.of(z) for z in v] for v in (lam, P, B, C, h)]
    R = 1 / (1 - delta / 2 * lam)  # made once
    RP = [Pair.of(z) for z in R * P]
    below = 2 / delta + 2 * (P.conj() * R * P).real.sum()

    def p_star(P, v):
        """The sum of conj(P) v; twice its real part is taken per channel."""
        total = Pair.of(0)
        for p, z in zip(P, v, strict=True):
            product = p.conj() * z
            total = Pair(total.re + product.re, total.im)
        return total.re

    def dplr():
        lam, P, B, C, h = tensors
        s = Tally(2 * p_star(P, h).value)
        right = []
        for n in range(pairs):
            A_h = lam[n] * h[n] - P[n] * s
            right.append(h[n] + A_h * Tally(delta / 2) + B[n] * Tally(x) * Tally(delta))
        solved = [Pair.of(R[n]) * right[n] for n in range(pairs)]
        t = Tally(2 * p_star(P, solved).value / below.item())
        new = [solved[n] - RP[n] * t for n in range(pairs)]
        y = p_star([c.conj() for c in C], new)
        return [z.value for z in new], y.value

    (new, _), flops = tallied(dplr)
    wanted = dplr_step(lam, P, torch.tensor(delta, dtype=F64), h, B * x)
    torch.testing.assert_close(torch.tensor(new, dtype=torch.complex128), wanted)
    assert flops == s4_cost(1, 1, 2 * pairs).step_flops - 2

    def diagonal():
        lam, _, B, C, h = tensors
        new = [a * z + b * Tally(x) for a, b, z in zip(lam, B, h, strict=True)]
        return p_star([c.conj() for c in C], new)

    _, flops = tallied(diagonal)
    assert flops == s4d_cost(1, 1, 2 * pairs).step_flops - 2


# --- exact exponents -----------------------------------------------------------------------------

FORMULAS = {
    "elman": lambda L: elman_cost(L, 64),
    "gru": lambda L: gru_cost(L, 64),
    "attention": lambda L: attention_cost(L, 64),
    "llama": lambda L: llama_cost(L, 64, 4, 2, 172),
    "s4": lambda L: s4_cost(L, 64),
    "s4d": lambda L: s4d_cost(L, 64),
    "selective": lambda L: selective_cost(L, 64),
    "mamba": lambda L: mamba_cost(L, 64),
}


def degree(values):
    """Of the polynomial through equally spaced values: differences until nothing is left."""
    p = -1
    while any(values):
        values = [b - a for a, b in pairwise(values)]
        p += 1
    return p


@pytest.mark.parametrize(
    ("name", "forward", "step", "state"),
    [("elman", 1, 0, 0), ("gru", 1, 0, 0), ("attention", 2, 1, 1), ("llama", 2, 1, 1),
     ("selective", 1, 0, 0), ("mamba", 1, 0, 0), ("s4d", None, 0, 0), ("s4", None, 0, 0)],
)  # fmt: skip
def test_exponents_of_the_formulas_are_exact(name, forward, step, state):
    rows = [FORMULAS[name](length) for length in range(3, 40)]
    assert degree([row.step_flops for row in rows]) == step
    assert degree([row.state for row in rows]) == state
    assert degree([row.parameters for row in rows]) == 0
    if forward is not None:
        assert degree([row.forward_flops for row in rows]) == forward


@pytest.mark.parametrize("name", ["s4d", "s4"])
def test_a_convolution_costs_L_log_L(name):
    """At powers of two, f(2^k) = (a k + b) 2^k + c k + d; without c and d for large k."""
    values = [FORMULAS[name](2**k).forward_flops for k in range(2, 60)]
    # a k 2^k is what (E − 2)² kills and (E − 2) does not; c k + d is what (E − 1)² kills
    for shift in (1, 1, 2):
        values = [b - shift * a for a, b in pairwise(values)]
    assert any(values)
    values = [b - 2 * a for a, b in pairwise(values)]
    assert not any(values)


def test_depths():
    for k in range(1, 12):
        L = 2**k
        assert elman_cost(L, 4).depth == gru_cost(L, 4).depth == L
        assert attention_cost(L, 4).depth == llama_cost(L, 4, 2, 1, 8).depth == k + 1
        assert s4d_cost(L, 4).depth == k + 2 * (k + 1) + 1
        assert s4_cost(L, 4).depth == 2 * k + 2 * (k + 1) + 1
        assert mamba_cost(L, 4).depth == selective_cost(L, 4).depth + 1 == 2 * k
    for L in range(1, 100):
        assert scan_depth(L) == blelloch_cost(L).depth


def test_mamba_is_its_published_size():
    for d in (64, 768, 2560):
        R = math.ceil(d / 16)
        assert mamba_cost(1, d).parameters + d == 6 * d * d + 2 * d * (R + 32) + 2 * d * R + 47 * d


def test_llama_is_its_published_size():
    """LLaMA 7B: 32 layers of 4096, MLP 11008, vocabulary 32000, head untied: 6.7 B."""
    block = llama_cost(1, 4096, 32, 32, 11008)
    assert 32 * block.parameters + 2 * 32000 * 4096 + 4096 == 6_738_415_616
    shared = llama_cost(1000, 4096, 32, 8, 11008)
    assert 4 * shared.state == llama_cost(1000, 4096, 32, 32, 11008).state


def test_attention_at_inference_is_linear_with_a_memory_that_grows():
    """The post's O(N) a token needs a KV cache; without it a token costs the whole square."""
    rows = [attention_cost(length, 64) for length in (1000, 2000, 3000)]
    assert degree([row.step_flops for row in rows]) == degree([row.state for row in rows]) == 1
    mixer = CausalSelfAttention(64, 1)
    for length in (64, 128):
        x = torch.zeros(1, length, 64)
        with torch.no_grad():
            state = mixer.initial_state(1)
            for x_t in x[:, :-1].unbind(1):
                _, state = mixer.step(x_t, state)
            cached = count_flops(lambda: mixer.step(x[:, -1], state))  # noqa: B023
            without = count_flops(lambda: mixer(x))  # noqa: B023
        assert cached == attention_cost(length, 64).step_flops
        assert without == attention_cost(length, 64).forward_flops
        assert numbers(state) == 2 * 64 * (length - 1)
    fixed = [cost(m, 1000).state for m in (GRU(64), S4D(64), Mamba(64))]
    assert fixed == [cost(m, 2000).state for m in (GRU(64), S4D(64), Mamba(64))]


def test_what_torchs_counter_does_not_see():
    q, k, v = torch.randn(3, 1, 1, 32, 8)
    plain = count_flops(lambda: attend(q, k, v, causal_mask(32)))
    assert plain == 4 * 32 * 32 * 8
    fused = nn.functional.scaled_dot_product_attention
    with torch.no_grad():
        assert count_flops(lambda: fused(q, k, v, is_causal=True)) == 0
    assert count_flops(lambda: torch.fft.rfft(q)) == count_flops(lambda: torch.exp(q)) == 0
    conv = nn.Conv1d(8, 8, 4, groups=8)
    x = torch.randn(1, 8, 35, requires_grad=True)
    forward = count_flops(lambda: conv(x))
    assert forward == 2 * 4 * 8 * 32
    both = count_flops(lambda: conv(x).sum().backward())
    assert both > 3 * forward  # the gradients of a depthwise convolution cost what it costs


# --- saved and held ------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3])
def test_a_selective_layer_costs_what_its_rank_says(rank):
    layer = Selective(8, 4, rank=rank)
    assert cost(layer, 7) == selective_cost(7, 8, 4, rank)
    assert cost(layer, 7).parameters == sum(p.numel() for p in layer.parameters())


def test_saved_bytes_by_hand():
    layer = nn.Linear(3, 5)
    x = torch.randn(7, 3)
    # x and the weights for the product; tanh keeps its output
    assert saved_bytes(lambda: layer(x)) == 4 * 21
    x.requires_grad_()
    assert saved_bytes(lambda: layer(x)) == 4 * (21 + 15)
    assert saved_bytes(lambda: torch.tanh(layer(x))) == 4 * (21 + 15 + 35)
    y = layer(x)
    assert saved_bytes(lambda: y * y) == 4 * 35  # kept twice, stored once


@pytest.mark.parametrize(
    ("name", "make", "p"),
    [
        ("gru", lambda: GRU(D), 1),
        ("attention", lambda: CausalSelfAttention(D, 1), 2),
        ("attention, tiled", lambda: CausalSelfAttention(D, 1, block=16), 1),
        ("mamba", lambda: Mamba(D), 1),
    ],
)
def test_what_training_keeps_grows_with_its_exponent(name, make, p):
    torch.manual_seed(0)
    mixer = make()
    lengths = [256, 512, 1024, 2048]
    kept = [saved_bytes(lambda n=n: mixer(inputs(n))) for n in lengths]
    assert log_log_slope(lengths, kept, start=512) == pytest.approx(p, abs=0.12)


def test_peak_bytes_by_hand():
    x = torch.ones(1000, 1000)
    assert peak_bytes(lambda: x + 1) == pytest.approx(4e6, rel=1e-3)
    assert peak_bytes(lambda: (x + 1) + 1) == pytest.approx(8e6, rel=1e-3)
    assert peak_bytes(lambda: [(x + 1).sum() for _ in range(3)]) == pytest.approx(4e6, rel=1e-3)


def test_product_flops_by_hand():
    a, b = torch.randn(3, 5), torch.randn(5, 7, requires_grad=True)
    assert product_flops(lambda: (a @ b).exp()) == 2 * 3 * 5 * 7
    assert product_flops(lambda: a + 1) == 0
    assert (a @ b).requires_grad  # gradients are on again


def test_measure_calls_in_turn():
    seen = []
    calls = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}
    result = measure(calls, repeats=2, number=2)
    assert seen == ["a", "b", "a", "a", "b", "b", "a", "a", "b", "b"]
    for row in result.values():
        assert 0 < row.fastest <= row.seconds <= row.slowest and row.peak_bytes is None
    held = measure({"x": lambda: torch.ones(10_000)}, 1, memory=True)["x"].peak_bytes
    assert held == pytest.approx(40_000, rel=1e-2)


def test_measure_divides_by_the_calls_a_timing(monkeypatch):
    clock = iter([0.0, 6.0, 10.0, 12.0, 20.0, 60.0])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    row = measure({"x": lambda: None}, repeats=3, number=2)["x"]
    assert row[:3] == (3.0, 1.0, 20.0)


def test_training_step_gives_all_gradients():
    mixer = make("gru")
    x = inputs(5, batch=3)
    got = training_step(mixer, x)
    mixer(x).square().mean().backward()
    for gradient, parameter in zip(got, mixer.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad)


# --- slopes --------------------------------------------------------------------------------------


@given(p=st.floats(-2, 3), scale=st.floats(0.1, 10))
def test_slope_of_a_power(p, scale):
    lengths = [8, 16, 50, 300]
    values = [scale * n**p for n in lengths]
    assert log_log_slope(lengths, values) == pytest.approx(p, abs=1e-9)
    assert log_log_slope([1, *lengths], [77.0, *values], start=8) == pytest.approx(p, abs=1e-9)


def test_slope_takes_the_start_along():
    assert log_log_slope([2, 4, 8], [1.0, 4.0, 8.0], start=2) == pytest.approx(1.5)
    assert log_log_slope([2, 4, 8], [1.0, 4.0, 8.0], start=4) == pytest.approx(1)


def test_crossover():
    lengths = [100, 1000, 10_000]
    square, line = [n**2 / 3000 for n in lengths], [float(n) for n in lengths]
    assert crossover(lengths, square, line) == pytest.approx(3000)
    assert crossover(lengths, line, square) is None
    assert crossover(lengths, line, [1.0] * 3) is None  # above from the start
    assert crossover(lengths, [1.0, 3, 3], [2.0, 2, 2]) == pytest.approx(
        100 * 10 ** (math.log(2) / math.log(3))
    )
    assert crossover(lengths, [2.0, 1, 2], [1.0, 2, 1]) == pytest.approx(10**3.5)  # the last one


# --- the recorded run ----------------------------------------------------------------------------

RECORD = records.read("cost")


def recorded(kind, model, key="median_ms"):
    rows = RECORD.where(kind=kind, model=model)
    return rows.values("length"), rows.values(key)


def test_the_recorded_run_is_of_these_layers():
    for row in RECORD:
        formula = {"GRU": gru_cost, "S4D": s4d_cost, "Mamba": mamba_cost}.get(row["model"])
        counted = (formula or attention_cost)(row["length"], RECORD.settings["d_model"])
        assert counted.parameters == RECORD.settings["parameters"][row["model"]]
        for key in {"forward_flops", "step_flops", "state"} & row.keys():
            assert row[key] == getattr(counted, key)
    assert RECORD.settings["repeats"] >= 5


def test_the_chapter_quotes_the_recorded_run():
    """Chapter 04's slopes and crossings, and its factors, from the numbers themselves."""
    chapter = (ROOT / "chapters" / "04-cost.ipynb").read_text(encoding="utf8")
    slopes = {
        (kind, model): log_log_slope(*recorded(kind, model), start)
        for kind, start in (("training", 1024), ("generation", 8192))
        for model in ("GRU", "attention", "S4D", "Mamba")
    }
    tiled = log_log_slope(*recorded("training", "attention, tiled"), 1024)
    assert [round(slopes["training", "attention"], 2), round(tiled, 2)] == [2.24, 1.84]
    assert "attention's slope is 2.24, above the 2 of the count" in chapter and "1.84" in chapter
    others = [slopes["training", model] for model in ("GRU", "S4D", "Mamba")]
    assert [round(min(others), 2), round(max(others), 2)] == [0.95, 1.15]
    assert "lie between 0.95 and 1.15" in chapter
    assert round(slopes["generation", "attention"], 2) == 0.65
    assert "In generation attention's is 0.65 up to 65,536 tokens" in chapter
    assert all(abs(slopes["generation", model]) < 0.1 for model in ("GRU", "S4D", "Mamba"))

    def crossing(kind, model, one="attention"):
        lengths, ours = recorded(kind, one)
        return crossover(lengths, ours, recorded(kind, model)[1])

    for kind, model, one, quoted in (
        ("training", "S4D", "attention", 2200),
        ("training", "Mamba", "attention", 2100),
        ("training", "S4D", "attention, tiled", 3800),
        ("training", "Mamba", "attention, tiled", 2800),
        ("generation", "Mamba", "attention", 3200),
    ):
        assert round(crossing(kind, model, one), -2) == quoted
    assert "pass the plain form at about 2,200 and 2,100" in chapter
    assert "(S4D is within 3 % of it at 4,096" in chapter and "and at about 2,800" in chapter
    assert "than Mamba's from about 3,200" in chapter
    lengths, tiles = recorded("training", "attention, tiled")
    at = lengths.index(4096)
    assert abs(recorded("training", "S4D")[1][at] / tiles[at] - 1) < 0.035

    def ms(kind, model):
        return recorded(kind, model)[1]

    def dearer(model, other):
        pairs = zip(ms("generation", model), ms("generation", other), strict=True)
        return all(one > two for one, two in pairs)

    # "the GRU is cheapest at every length, and S4D next": attention's is dearer at every length
    assert dearer("S4D", "GRU") and dearer("attention", "S4D") and dearer("Mamba", "S4D")
    shares = [
        s / m for s, m in zip(ms("generation", "S4D"), ms("generation", "Mamba"), strict=True)
    ]
    assert all(0.25 < share < 0.4 for share in shares)  # "a third"
    layers = ("GRU", "attention", "attention, tiled", "S4D", "Mamba")
    for at in range(4):  # 128 to 1,024
        assert "attention" in min(layers, key=lambda model: ms("training", model)[at])
    assert ms("training", "GRU")[-2] > ms("training", "attention")[-2]

    def rate(model):
        lengths, times = recorded("training", model)
        at = lengths.index(2048)
        return recorded("training", model, "forward_flops")[1][at] / times[at]

    assert 45 < rate("attention") / rate("GRU") < 60  # "a fiftieth"
    of_flops = next(
        L
        for L in range(1, 1000)
        if attention_cost(L, 64).forward_flops > mamba_cost(L, 64).forward_flops
    )
    assert of_flops == 165 and 12 < crossing("training", "Mamba") / of_flops < 14


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: elman_cost(0, 4), ValueError, "^length: expected a whole number >= 1, got 0"),
        (lambda: gru_cost(1, 4.0), TypeError, "^d_model: .*got 4.0"),
        (lambda: attention_cost(True, 4), TypeError, "^length: "),
        (lambda: grouped_query_cost(1, 4, 2, 0, 2), ValueError, "^n_kv_heads: "),
        (lambda: llama_cost(1, 4, 2, 1, 0), ValueError, "^d_ff: "),
        (lambda: s4d_cost(1, 4, 0), ValueError, "^N: "),
        (lambda: s4_cost(1, 4, -2), ValueError, "^N: "),
        (lambda: selective_cost(1, 4, rank=0), ValueError, "^rank: "),
        (lambda: mamba_cost(1, 4, taps=0), ValueError, "^taps: "),
        (lambda: cost(SequenceMixer(3), 4), TypeError, "^mixer: expected one of .*Mamba.*Mixer"),
        (lambda: cost(nn.Linear(2, 2), 4), TypeError, "^mixer: .*got Linear"),
        (lambda: cost(Selective(4, select_delta=False), 4), TypeError, "^mixer: .*both switches"),
        (lambda: cost(ElmanRNN(3), 0), ValueError, "^length: "),
        (lambda: measure({}, repeats=0), ValueError, "^repeats: "),
        (lambda: log_log_slope([1, 2], [1.0, 2.0], start=2), ValueError, "^lengths: .*got 1 from"),
        (lambda: log_log_slope([1, 2], [0.0, 2.0]), ValueError, "^lengths: .*values > 0"),
    ],
)
def test_bad_input(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_a_layer_of_the_readers_registers_its_own():
    class Mine(ElmanRNN):
        pass

    assert cost(Mine(4), 7) == elman_cost(7, 4)  # what it builds on

    class Twice(SequenceMixer):
        pass

    cost.register(Twice, lambda layer, length: elman_cost(2 * length, layer.d_model))
    assert cost(Residual(Twice(4)), 7).depth == 14
    with pytest.raises(TypeError, match=r"^mixer: expected one of .*Twice"):
        cost(SequenceMixer(3), 4)


def test_cost_is_a_tuple_of_whole_numbers():
    for formula in FORMULAS.values():
        row = formula(37)
        assert isinstance(row, Cost) and all(type(n) is int and n > 0 for n in row)


@pytest.mark.parametrize(("d_model", "crossing"), [(64, 200), (1024, 440), (4096, 1208)])
def test_where_a_llama_block_passes_the_two_mambas_that_replace_it(d_model, crossing):
    """Not at six times the width: there its context costs as much as its weights."""

    def difference(length):
        block = llama_cost(length, d_model, 1, 1, round(8 * d_model / 3))
        return block.forward_flops - 2 * mamba_cost(length, d_model).forward_flops

    assert difference(crossing - 1) <= 0 < difference(crossing) and crossing < 4 * d_model
