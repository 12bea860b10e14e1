"""Every scan is the recurrence; its gradients, its cost, and what it does over a million steps."""

import functools
import inspect
import math
import weakref

import pytest
import sympy as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from mambapy.pscan import pscan
from scipy.signal import lfilter
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import draw
from linear_time import checks, scan
from linear_time.attention import SoftmaxSummary, online_softmax, softmax_summary
from linear_time.datasets import ecg
from linear_time.scan import (
    blelloch_cost,
    blelloch_scan,
    chunked_cost,
    chunked_scan,
    combine,
    cumulative_sum_scan,
    doubling_scan,
    hillis_steele_cost,
    hillis_steele_scan,
    linear_scan,
    sequential_cost,
    sequential_scan,
    tree_scan,
)
from linear_time.selective import selective_scan, selective_scan_reference

F32, F64, C128 = torch.float32, torch.float64, torch.complex128
SCANS = {
    "linear": linear_scan,
    "sequential": sequential_scan,
    "hillis_steele": hillis_steele_scan,
    "blelloch": blelloch_scan,
    "chunked": chunked_scan,
    "chunked_5": lambda a, b, initial=None: chunked_scan(a, b, initial, chunk=5),
}
every_scan = pytest.mark.parametrize("name", SCANS)
both_dtypes = pytest.mark.parametrize("dtype", [F64, C128])


def factors(*sizes, dtype=F64, seed=0):
    """a with |a| < 1 and either sign, b, and a state to start from."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(*sizes, generator=generator, dtype=dtype) for _ in range(2))
    initial = torch.randn(sizes[0], *sizes[2:], generator=generator, dtype=dtype)
    return a / (1 + a.abs()), b, initial


def by_hand(a, b, initial):
    """The recurrence in numpy: an oracle without the module."""
    a, b, h = a.numpy(), b.numpy(), initial.numpy()
    rows = []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        rows.append(torch.from_numpy(h))
    return torch.stack(rows, dim=1)


# --- values --------------------------------------------------------------------------------------


@every_scan
@both_dtypes
@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 64, 100, 257])
def test_every_scan_is_the_recurrence(name, dtype, length):
    a, b, initial = factors(2, length, 3, 2, dtype=dtype)
    wanted = by_hand(a, b, initial)
    h = SCANS[name](a, b, initial)
    assert h.shape == b.shape and h.dtype == dtype
    torch.testing.assert_close(h, wanted, rtol=1e-12, atol=1e-12)
    from_zero = by_hand(a, b, torch.zeros_like(initial))
    torch.testing.assert_close(SCANS[name](a, b), from_zero, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 3), st.integers(1, 90), st.integers(1, 40), st.integers(0, 9))
def test_any_length_and_chunk(batch, length, chunk, seed):
    a, b, initial = factors(batch, length, seed=seed)  # no dimension after the length
    wanted = by_hand(a, b, initial)
    scans = (linear_scan, hillis_steele_scan, blelloch_scan)
    results = [f(a, b, initial) for f in scans] + [chunked_scan(a, b, initial, chunk)]
    for h in results:
        torch.testing.assert_close(h, wanted, rtol=1e-11, atol=1e-11)


@every_scan
def test_a_constant_factor_is_scipys_filter(name):
    _, b, _ = factors(2, 50)
    wanted = torch.from_numpy(lfilter([1.0], [1.0, -0.7], b.numpy(), axis=1))
    h = SCANS[name](torch.full_like(b, 0.7), b)
    torch.testing.assert_close(h, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [37, 64])
def test_mambapys_scan_and_its_gradients(length):
    a, b, _ = factors(2, length, 3, 4)
    leaves = [a.requires_grad_(), b.requires_grad_()]
    ours, theirs = linear_scan(a, b), pscan(a, b)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    weight = factors(2, length, 3, 4, seed=1)[1]
    mine = torch.autograd.grad(ours, leaves, weight)
    for left, right in zip(mine, torch.autograd.grad(theirs, leaves, weight), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("width", [scan._WIDE - 1, scan._WIDE])
def test_wide_and_narrow_rows_agree(width):
    a, b, initial = factors(1, 21, width)
    wanted = by_hand(a, b, initial)
    torch.testing.assert_close(linear_scan(a, b, initial), wanted, rtol=1e-12, atol=1e-12)


def test_a_factor_of_zero_forgets():
    a, b, initial = factors(1, 40, 2)
    a[:, 17] = 0
    for run in SCANS.values():
        h = run(a, b, initial)
        assert torch.equal(h[:, 17], b[:, 17])
        torch.testing.assert_close(h[:, 18:], run(a[:, 18:], b[:, 18:], b[:, 17]))


def test_inputs_are_left_alone():
    a, b, initial = factors(2, 50, 3)
    before = [x.clone() for x in (a, b, initial)]
    for run in SCANS.values():
        run(a, b, initial)
    assert all(torch.equal(x, y) for x, y in zip(before, (a, b, initial), strict=True))


def test_real_factors_carry_complex_states():
    a, _, _ = factors(2, 9, 3)
    _, b, initial = factors(2, 9, 3, dtype=C128)
    wanted = by_hand(a, b, initial)
    for run in SCANS.values():
        torch.testing.assert_close(run(a, b, initial), wanted, rtol=1e-12, atol=1e-12)


# --- the operator --------------------------------------------------------------------------------


@both_dtypes
def test_combine_is_associative_with_an_identity_and_does_not_commute(dtype):
    f, g, h = (factors(4, 5, dtype=dtype, seed=seed)[:2] for seed in range(3))
    left, right = combine(combine(f, g), h), combine(f, combine(g, h))
    torch.testing.assert_close(left, right, rtol=1e-14, atol=1e-14)
    one = torch.ones_like(f[0]), torch.zeros_like(f[1])
    assert all(torch.equal(x, y) for x, y in zip(combine(one, f), f, strict=True))
    assert all(torch.equal(x, y) for x, y in zip(combine(f, one), f, strict=True))
    assert not torch.allclose(combine(f, g)[1], combine(g, f)[1])


def test_combine_is_associative_in_sympy():
    product = inspect.unwrap(combine)  # of symbols, not of tensors
    f, g, h = (sp.symbols(f"a{i} b{i}") for i in range(3))
    left, right = product(product(f, g), h), product(f, product(g, h))
    assert [sp.expand(x - y) for x, y in zip(left, right, strict=True)] == [0, 0]
    assert product((1, 0), f) == f == product(f, (1, 0))
    assert sp.expand(product(f, g)[1] - product(g, f)[1]) != 0


def test_combine_is_composition():
    f, g = factors(4, 5)[:2], factors(4, 5, seed=1)[:2]
    x = torch.randn(4, 5, dtype=F64)
    a, b = combine(f, g)
    torch.testing.assert_close(a * x + b, g[0] * (f[0] * x + f[1]) + g[1])


# --- any associative operator --------------------------------------------------------------------

both_scans = pytest.mark.parametrize("run", [doubling_scan, tree_scan])


def matrices(first, second):
    return (second[0] @ first[0],)


def after_each_other(first, second):
    """Intervals: refuses any two that are not neighbours in this order."""
    assert torch.equal(first[1] + 1, second[0])
    return first[0], second[1]


@both_scans
@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 13, 100])
def test_products_of_matrices_in_their_order(run, length):
    m = factors(2, length, 3, 3)[0]
    (prefixes,) = run(matrices, (m,))
    wanted = torch.eye(3, dtype=F64)
    for t in range(length):
        wanted = m[:, t] @ wanted
        torch.testing.assert_close(prefixes[:, t], wanted, rtol=1e-10, atol=1e-10)


@both_scans
@given(st.integers(1, 200))
def test_only_neighbours_are_composed_and_every_prefix_is_whole(run, length):
    t = torch.arange(length)[None]
    start, end = run(after_each_other, (t, t))
    assert torch.equal(start, torch.zeros_like(t)) and torch.equal(end, t)


@both_scans
def test_a_running_maximum(run):
    x = factors(2, 50)[1]
    (top,) = run(lambda f, g: (torch.maximum(f[0], g[0]),), (x,))
    assert torch.equal(top, x.cummax(1).values)


@both_scans
def test_online_softmax_is_one_of_them(run):
    scores, v = factors(2, 40)[1] * 9, factors(2, 40, 3, seed=1)[1]
    each = softmax_summary(scores[..., None, None], v[..., None, :])  # one query, one key

    def operator(first, second):
        return online_softmax(SoftmaxSummary(*first), SoftmaxSummary(*second))

    _, total, weighted = run(operator, tuple(each))
    for t in range(40):
        wanted = (scores[:, : t + 1].softmax(1)[..., None] * v[:, : t + 1]).sum(1)
        found = weighted[:, t, 0] / total[:, t]
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


# --- gradients -----------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_gradients_and_their_gradients(dtype, length):
    leaves = [x.requires_grad_() for x in factors(2, length, 2, dtype=dtype)]
    assert gradcheck(linear_scan, leaves)
    assert gradgradcheck(linear_scan, leaves)


@both_dtypes
@pytest.mark.parametrize("sizes", [(2, 100, 3), (1, 9, scan._WIDE)])
def test_the_reverse_scan_is_autograds_gradient(dtype, sizes):
    leaves = [x.requires_grad_() for x in factors(*sizes, dtype=dtype)]
    weight = factors(*sizes, dtype=dtype, seed=1)[1]
    gradients = [
        torch.autograd.grad(run(*leaves), leaves, weight) for run in (linear_scan, sequential_scan)
    ]
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["hillis_steele", "blelloch", "chunked_5"])
def test_the_teaching_forms_are_differentiable(name):
    leaves = [x.requires_grad_() for x in factors(1, 7, 2)]
    assert gradcheck(SCANS[name], leaves)


@pytest.mark.parametrize("sizes", [(1, 900, 2), (1, 50, scan._WIDE)])
def test_only_factors_and_states_are_kept(sizes):
    a, b, initial = factors(*sizes)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()), lambda x: x):
        linear_scan(a.requires_grad_(), b.requires_grad_(), initial)
    assert sum(kept) == a.numel() + b.numel() + initial.numel()


class Operations(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_long_narrow_scan_takes_about_the_square_root_of_its_steps():
    for length in (2_500, 10_000):
        a, b, _ = factors(1, length, 2)
        with Operations() as operations:
            linear_scan(a, b)
        assert operations.count <= 12 * math.sqrt(length)


# --- memory, counted -----------------------------------------------------------------------------


class Meter(TorchDispatchMode):
    """Numbers that operations wrote, and the most that were held at one time."""

    def __init__(self):
        super().__init__()
        self.written = self.held = self.peak = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            storage = x.untyped_storage() if isinstance(x, torch.Tensor) else None
            new = storage is not None and storage not in self.known and self._fresh(x, args)
            if new:
                numbers = storage.nbytes() // x.itemsize
                self.known.add(storage)
                weakref.finalize(storage, self._free, numbers)
                self.written += numbers
                self.held += numbers
                self.peak = max(self.peak, self.held)
        return result

    def _free(self, numbers):
        self.held -= numbers

    @staticmethod
    def _fresh(x, args):
        """Not memory that an argument brought along."""
        given = [a for a in torch.utils._pytree.tree_leaves(args) if isinstance(a, torch.Tensor)]
        return all(x.untyped_storage().data_ptr() != a.untyped_storage().data_ptr() for a in given)


def metered(run, length, width=16):
    leaves = [x.requires_grad_() for x in factors(1, length, width)[:2]]
    weight = torch.ones(1, length, width, dtype=F64)
    with Meter() as meter:
        torch.autograd.grad(run(*leaves), leaves, weight)
    return meter


def indexed_scan(a, b):
    h, states = torch.zeros_like(b[:, 0]), []
    for t in range(a.shape[1]):
        h = a[:, t] * h + b[:, t]
        states.append(h)
    return torch.stack(states, dim=1)


@pytest.mark.parametrize(
    ("run", "slope"),
    [(indexed_scan, 2), (sequential_scan, 1), (linear_scan, 1), (blelloch_scan, 1)],
)
def test_a_loop_that_indexes_writes_a_square(run, slope):
    short, long = (metered(run, length).written for length in (512, 2048))
    assert abs(math.log(long / short, 4) - slope) < 0.08


def test_peak_memory_of_forward_and_backward():
    """In copies of b; nothing but Hillis and Steele's grows with the length."""
    peaks = {
        run.__name__: [metered(run, n).peak / (16 * n) for n in (256, 4096)]
        for run in (linear_scan, sequential_scan, chunked_scan, blelloch_scan, hillis_steele_scan)
    }
    for name, (short, long) in peaks.items():
        grows = name == "hillis_steele_scan"
        assert (long - short > 4) is grows, (name, short, long)
        assert grows or long < 9, (name, long)


def test_paper_against_itself_what_the_fused_kernel_reads():
    """Appendix D counts O(BLN + DN) inputs of backward; u and Δ make it O(BLD + BLN + DN)."""
    batch, length, d_inner, N = 2, 64, 48, 4
    u = delta = torch.rand(batch, d_inner, length)
    A, B = -torch.rand(d_inner, N), torch.rand(batch, N, length)
    inputs = u, delta, A, B, B
    read = sum(x.numel() for x in inputs)
    assert read == 2 * batch * length * d_inner + 2 * batch * length * N + d_inner * N
    assert read > 3 * (2 * batch * length * N + d_inner * N)
    for run in (selective_scan, selective_scan_reference):
        assert run(*inputs).numel() == batch * length * d_inner


# --- a million steps -----------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [1e-4, 1e-3, 1e-2, 1.0])  # Δ|A|
@pytest.mark.parametrize("kind", ["positive", "signed"])
@pytest.mark.parametrize("width", [1, scan._WIDE])
def test_stable_in_float32(decay, kind, width):
    length = 1_000_000 if width == 1 else 1_000  # wide rows: the other branch, as memory allows
    generator = torch.Generator().manual_seed(0)
    a = torch.full((1, length, width), -decay).exp()
    b = torch.rand(1, length, width, generator=generator)
    if kind == "signed":
        b = 2 * b - 1
    h, exact = linear_scan(a, b), linear_scan(a.double(), b.double())
    assert torch.isfinite(h).all()
    scale = exact.abs() if kind == "positive" else exact.abs().max()
    assert ((h - exact).abs() / scale).max() <= 1e-4
    if width == 1:  # the yardstick itself, against the oracle
        scipys = lfilter([1.0], [1.0, -a[0, 0, 0].item()], b[0, :, 0].double().numpy())
        torch.testing.assert_close(exact[0, :, 0], torch.from_numpy(scipys), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decay", [1e-1, 1e-2, 1e-3, 1e-4])  # Δ|A|
def test_rounding_the_factor_costs_3e_8_over_decay(decay):
    """a near 1 is a multiple of 2⁻²⁴, so it is off by ≤ 2⁻²⁵; h = b/(1 − a) divides by Δ|A|."""
    worst = 0.0
    for k in range(20):
        exact = math.exp(-decay * (1 + k / 40))
        rounded = torch.tensor(exact, dtype=F32).double().item()
        assert abs(rounded - exact) <= 2**-25
        a = torch.tensor([exact, rounded], dtype=F64)[:, None].expand(2, int(25 / decay))
        h = linear_scan(a, torch.ones_like(a))[:, -1]
        bound = 2**-25 / (1 - exact)
        error = (h[1] / h[0] - 1).abs().item()
        assert error <= bound * 1.01
        worst = max(worst, error / bound)
    assert worst > 0.5 and math.isclose(2**-25, 3e-8, rel_tol=0.01)


def test_gradient_over_a_million_steps_is_finite_and_right():
    length = 1_000_000
    a = torch.full((1, length, 1), 0.999, dtype=F32, requires_grad=True)
    b = torch.ones(1, length, 1, requires_grad=True)
    grad_a, grad_b = torch.autograd.grad(linear_scan(a, b)[:, -1].sum(), (a, b))
    age = torch.arange(length - 1, -1, -1, dtype=F64)
    factor = a.detach()[0, 0, 0].double()
    wanted = factor**age  # ∂h_L/∂b_t
    torch.testing.assert_close(grad_b[0, :, 0].double(), wanted, rtol=1e-3, atol=1e-6)
    assert torch.isfinite(grad_a).all()


def test_a_varying_step_averages_the_rounding_of_the_factor():
    """By 6 %: the factors are rounded to either side, where a constant one errs always alike."""
    lost = {}
    for spread in (0.0, 0.06):
        steps = 1e-4 * (1 + spread * draw(1, 200_000, 1))
        a = torch.exp(-steps)
        exact, h = (linear_scan(x, torch.ones_like(a)) for x in (a, a.float().double()))
        lost[spread] = float(((h - exact).abs() / exact).max())
    assert lost[0.0] > 2e-4 and lost[0.06] < 1e-5 and lost[0.0] > 40 * lost[0.06]


def test_the_released_layout_is_work_efficient():
    """128 threads of 16 steps, doubling in warps of 32: 2.24 joins a step, at every length."""
    rounds = []
    threads, steps, lanes = 128, 16, 32
    rounds += [threads] * (steps - 1)  # each thread its own
    reach = 1
    while reach < lanes:
        rounds.append(threads // lanes * (lanes - reach))
        reach *= 2
    rounds += [1] * (threads // lanes - 1) + [threads - lanes] + [threads] * steps
    assert sum(rounds) / (threads * steps) == pytest.approx(2.24, abs=0.005)
    assert sum(rounds[15:20]) == threads // lanes * hillis_steele_cost(lanes)[0]


def test_turns_of_doubling_on_half_as_many_processors():
    turns = [-(-(1024 - 2**k) // 512) for k in range(10)]
    assert turns.count(2) == 9 and sum(turns) == 19


def test_segment_sums_take_half_a_chunk_of_exponentials_a_step():
    """Of a chunk of 32: 528 numbers, none above 0, for 32 steps; and they are the scan."""
    log_a = -draw(32).abs()
    inside = torch.ones(32, 32, dtype=torch.bool).tril(-1)
    segments = torch.where(inside, log_a[:, None], 0).cumsum(0)
    weights = segments.exp().tril()
    assert (weights > 0).sum() == 32 * 33 // 2 == 16.5 * 32 and segments.max() <= 0
    b = draw(32, seed=1)
    expected = linear_scan(log_a.exp()[None], b[None])[0]
    torch.testing.assert_close(weights @ b, expected, rtol=1e-10, atol=1e-10)


def test_the_cumulative_sum_is_right_on_short_sequences():
    a, b, initial = factors(2, 20, 3)
    a = a.abs() + 0.1
    wanted = by_hand(a, b, initial)
    torch.testing.assert_close(cumulative_sum_scan(a, b, initial), wanted, rtol=1e-9, atol=1e-9)


def test_the_cumulative_sum_is_nan_where_the_scan_is_not():
    torch.manual_seed(0)
    delta = torch.exp(torch.empty(256, 64, 1).uniform_(-6.9, -2.3))  # Mamba's first Δ
    a = torch.exp(-delta * torch.arange(1.0, 17))[None]  # and A = −1 … −16
    b = torch.randn(1, 256, 64, 16)
    assert torch.isnan(cumulative_sum_scan(a, b)).any()
    assert torch.isfinite(linear_scan(a, b)).all()


# --- work and depth ------------------------------------------------------------------------------


class Counter:
    """Counts the compositions of the real code, and the rounds that the data wait for."""

    def __init__(self, monkeypatch):
        self.work, self.rounds = 0, 0
        plain = scan.combine

        def counted(first, second):
            self.work += first[0].shape[1]
            self.rounds += first[0].shape[1] > 0
            return plain(first, second)

        monkeypatch.setattr(scan, "combine", counted)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13, 16, 31, 100, 128])
@pytest.mark.parametrize(
    ("run", "cost"),
    [(hillis_steele_scan, hillis_steele_cost), (blelloch_scan, blelloch_cost)],
)
def test_counted_cost_is_the_stated_cost(monkeypatch, run, cost, length):
    counter = Counter(monkeypatch)
    a, b, _ = factors(1, length)
    run(a, b)
    assert (counter.work, counter.rounds) == cost(length)


def test_closed_forms():
    for k in range(1, 12):
        n = 2**k
        assert hillis_steele_cost(n) == (n * k - n + 1, k)
        assert blelloch_cost(n) == (2 * n - 2 - k, 2 * k - 1)
    assert sequential_cost(1000) == (999, 999)
    # within the chunks, their ends, and the rest of all chunks but the first
    assert chunked_cost(1024, 32) == (32 * 31 + 31 + 31 * 31, 31 + 31 + 1)
    assert chunked_cost(100, 32) == ((3 * 31 + 3) + 3 + (31 + 31 + 3), 31 + 3 + 1)
    for length, chunk in ((7, 32), (7, 7), (7, 1)):
        assert chunked_cost(length, chunk) == sequential_cost(length)
    every = (sequential_cost, hillis_steele_cost, blelloch_cost, chunked_cost)
    assert all(cost(1) == (0, 0) for cost in every)


def test_chunked_scan_runs_the_stated_rounds(monkeypatch):
    counter = Counter(monkeypatch)
    a, b, _ = factors(1, 96)
    chunked_scan(a, b, chunk=8)
    assert (counter.work, counter.rounds) == (12 * 7, 7)  # the first of the three passes


# --- bad input -----------------------------------------------------------------------------------

A, B, H = factors(2, 5, 3)


@pytest.mark.bad_input
@every_scan
@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((A, B[:, :4]), ValueError, r"^b: expected shape \(2, 5, 3\), got shape \(2, 4, 3\)"),
        ((A[..., :1], B), ValueError, r"^b: expected shape \(2, 5, 1\)"),  # no broadcast
        ((A, B, H[:1]), ValueError, r"^initial: expected shape \(2, 3\), got shape \(1, 3\)"),
        ((A[0, 0], B[0, 0]), ValueError, r"^a: expected shape \(batch, length, …\).*\(3,\)"),
        ((A[:, :0], B[:, :0]), ValueError, r"^a: .*without empty dimensions.*\(2, 0, 3\)"),
        ((A / 0, B), ValueError, "^a: expected finite values"),
        ((A, B / 0), ValueError, "^b: expected finite values"),
        ((A, B, H / 0), ValueError, "^initial: expected finite values"),
        ((A, B.float()), TypeError, "^b: expected the precision of a"),
        ((A, B.long()), TypeError, "^b: expected a floating-point or complex tensor"),
        (([1.0], B), TypeError, "^a: .*got a list"),
    ],
)
def test_bad_input(name, arguments, kind, message):
    with pytest.raises(kind, match=message):
        SCANS[name](*arguments)


@pytest.mark.bad_input
@both_scans
@pytest.mark.parametrize(
    ("elements", "kind", "message"),
    [
        ((), ValueError, "^elements: expected a tuple of one tensor or more"),
        ([A], ValueError, "^elements: expected a tuple .* got a list"),
        ((A, 1.0), TypeError, "^elements: expected tensors, got 1.0"),
        ((A, B[:, :4]), ValueError, r"^elements: .*got shapes \(2, 5, 3\), \(2, 4, 3\)"),
        ((A[:, :0],), ValueError, r"^elements: .*length >= 1.*\(2, 0, 3\)"),
    ],
)
def test_bad_input_any_operator(run, elements, kind, message):
    with pytest.raises(kind, match=message):
        run(combine, elements)


@pytest.mark.bad_input
def test_bad_input_elsewhere():
    with pytest.raises(ValueError, match=r"^a: expected finite numbers > 0"):
        cumulative_sum_scan(A, B)
    with pytest.raises(ValueError, match=r"^chunk: expected a whole number >= 1, got 0"):
        chunked_scan(A, B, chunk=0)
    for cost in (sequential_cost, hillis_steele_cost, blelloch_cost, chunked_cost):
        with pytest.raises(ValueError, match=r"^length: "):
            cost(0)
    with pytest.raises(TypeError, match=r"^chunk: "):
        chunked_cost(5, 2.0)


# --- what torch asks of a function ---------------------------------------------------------------


@every_scan
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_is_scanned_in_float32(name, dtype):
    """1,000 additions of 1e-3 to a state that forgets slowly: a half would stop at 0.25 or so."""
    a, b = torch.full((1, 2000, 2), 0.9995), torch.full((1, 2000, 2), 1e-3)
    b = b.to(dtype)
    h = SCANS[name](a, b)
    wanted = sequential_scan(a.double(), b.double())
    assert h.dtype == dtype
    assert (h - wanted).abs().max() <= torch.finfo(dtype).eps * wanted.max()


@every_scan
@pytest.mark.parametrize("length", [1, 7, 50])
def test_torch_func(name, length):
    a, b, initial = factors(2, length, 3)
    tangents = factors(2, length, 3, seed=1)
    with checks(values=False):
        _, ours = torch.func.jvp(SCANS[name], (a, b, initial), tangents)
        _, wanted = torch.func.jvp(sequential_scan, (a, b, initial), tangents)
        torch.testing.assert_close(ours, wanted)

        def loss(scan, a, b, initial):
            return scan(a, b, initial).sin().sum()

        rows = torch.vmap(
            torch.func.grad(functools.partial(loss, SCANS[name]), argnums=(0, 1, 2)),
            in_dims=(None, 2, 0),
        )
        many = torch.stack([b, 2 * b, -b], dim=2), torch.stack([initial, initial, 0 * initial])
        together = rows(a, *many)
        for i in range(3):
            each = many[0][:, :, i], many[1][i]
            one = torch.func.grad(functools.partial(loss, sequential_scan), (0, 1, 2))(a, *each)
            for left, right in zip(together, one, strict=True):
                torch.testing.assert_close(left[i], right)


def test_a_scan_s_hessian_of_a_plain_sum():
    a, b, initial = factors(1, 12, 2)
    hessian = torch.autograd.functional.hessian(lambda a: linear_scan(a, b, initial).sum(), a)
    wanted = torch.autograd.functional.hessian(lambda a: sequential_scan(a, b, initial).sum(), a)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(hessian, wanted)


@every_scan
@pytest.mark.parametrize("batch", [1, 2])
def test_a_result_holds_hardly_more_than_itself(name, batch):
    a, b, initial = factors(batch, 50, 3)
    h = SCANS[name](a, b, initial)
    more = 8 if name == "linear" else 0  # steps, less than √50
    assert h.untyped_storage().nbytes() <= batch * (50 + more) * 3 * h.itemsize


def test_gaps_in_a_heartbeat_are_judged_without_its_mean():
    """A filter passes the mean, which makes any error look small beside it."""
    signal, tau = ecg(), 0.1
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        kept = torch.rand(1024, generator=generator) < 0.3
        kept[0] = True
        times = signal.times[kept]
        gaps = torch.diff(times, prepend=times[:1] - signal.delta)
        a, a_full = torch.exp(-gaps / tau)[None], math.exp(-signal.delta / tau)
        errors = {}
        for name, x in (("raw", signal.x), ("centred", signal.x - signal.x.mean())):
            whole = linear_scan(
                torch.full((1, 1024), a_full, dtype=x.dtype), (1 - a_full) * x[None]
            )[0][kept]
            known = linear_scan(a, (1 - a) * x[kept])[0]
            blind = linear_scan(torch.full_like(a, a_full), (1 - a_full) * x[kept][None])[0]
            errors[name] = [float((y - whole).norm() / whole.norm()) for y in (known, blind)]
        for raw, centred in zip(errors["raw"], errors["centred"], strict=True):
            assert centred > 2 * raw
        assert errors["centred"][0] < 0.3 and errors["centred"][1] > 0.4
