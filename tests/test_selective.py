"""The selective scan against transformers, mambapy and its own reference; the S6 layer."""

import math
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mambapy.mamba import MambaBlock, MambaConfig
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from transformers.models.mamba.modeling_mamba import mamba_selective_scan

from helpers import Largest, draw
from linear_time import checks, records, scan_kernel
from linear_time.convolution import recurrence, time_varying_matrix
from linear_time.discretization import zero_order_hold
from linear_time.scan import linear_scan
from linear_time.selective import (
    RULES,
    Selective,
    next_state,
    read_state,
    selective_scan,
    selective_scan_reference,
)
from linear_time.training import parameter_groups

F32, F64 = torch.float32, torch.float64
every_rule = pytest.mark.parametrize("rule", RULES)
OPTIONAL = ("D", "z", "delta_bias", "initial_state")


def arguments(batch=2, d_inner=3, N=4, length=20, dtype=F64, seed=0):
    """All the tensors of a call; delta is raw, so it needs the softplus."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*sizes):
        return torch.randn(*sizes, generator=generator, dtype=dtype)

    channels = batch, d_inner, length
    return {
        "u": normal(*channels),
        "delta": normal(*channels),
        "A": -2 * normal(d_inner, N).exp(),
        "B": normal(batch, N, length),
        "C": normal(batch, N, length),
        "D": normal(d_inner),
        "z": normal(*channels),
        "delta_bias": normal(d_inner),
        "initial_state": normal(batch, d_inner, N),
    }


def both(scan, tensors, **options):
    options = {"delta_softplus": True, "return_last_state": True} | options
    return scan(**tensors, **options)


def gradients(scan, tensors, **options):
    """Of a loss that asks differently of every output and of the last state."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in tensors.items()}
    y, h = both(scan, leaves, **options)
    weight = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)
    loss = (weight * y).sum() + h.sin().sum()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def assert_same(ours, theirs, tolerance=1e-10):
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


# --- oracles that we did not write ---------------------------------------------------------------


@pytest.mark.parametrize("scan", [selective_scan, selective_scan_reference])
@pytest.mark.parametrize("softplus", [True, False])
def test_transformers_slow_path(scan, softplus):
    tensors = arguments(length=37, dtype=F32)
    del tensors["initial_state"]
    if not softplus:
        tensors["delta"] = tensors["delta"].exp()
        tensors["delta_bias"] = tensors["delta_bias"].abs()
    theirs = dict(tensors)
    theirs["hidden_states"], theirs["dt"] = theirs.pop("u"), theirs.pop("delta")
    wanted = mamba_selective_scan(**theirs, delta_softplus=softplus, return_last_state=True)
    assert_same(both(scan, tensors, delta_softplus=softplus), wanted, 1e-5)
    y = scan(**tensors, delta_softplus=softplus)  # and without the last state
    torch.testing.assert_close(y, wanted[0], rtol=1e-5, atol=1e-5)


def test_the_positional_order_is_the_official_one():
    tensors = arguments(dtype=F32)
    del tensors["initial_state"]
    wanted = mamba_selective_scan(*tensors.values(), True, True)
    assert_same(selective_scan(*tensors.values(), True, True), wanted, 1e-5)


@pytest.mark.parametrize("run", ["selective_scan", "selective_scan_seq"])
def test_mambapy(run):
    tensors = arguments(length=50)
    u, delta, A, B, C, D, *_ = tensors.values()
    delta = delta.exp()
    block = MambaBlock(MambaConfig(d_model=2, n_layers=1, d_state=4))
    block.config.d_inner = 3
    # Its sequential form starts from a float32 zero.
    with mock.patch.object(torch, "zeros", lambda *s, device: u.new_zeros(*s)):
        wanted = getattr(block, run)(u.mT, delta.mT, A, B.mT, C.mT, D).mT
    y = selective_scan(u, delta, A, B, C, D)
    torch.testing.assert_close(y, wanted, rtol=1e-10, atol=1e-10)


def test_a_fixed_system_under_zero_order_hold_is_chapter_13s():
    u, _, A, B, C, D, *_ = arguments(batch=1, d_inner=1, length=60).values()
    B, C = B[..., :1].expand_as(B), C[..., :1].expand_as(C)
    delta = torch.full_like(u, 0.3)
    y = selective_scan(u, delta, A, B, C, D, rule="zero_order_hold")
    pair = zero_order_hold(torch.diag(A[0]), B[0, :, 0], 0.3)
    wanted = recurrence(*pair, C[0, :, 0], u[0, 0], D[0])
    torch.testing.assert_close(y[0, 0], wanted, rtol=1e-10, atol=1e-10)


# --- the fast form is the readable one -----------------------------------------------------------


@every_rule
@pytest.mark.parametrize("length", [1, 2, 3, 16, 17, 101])
@pytest.mark.parametrize("absent", [(), *((name,) for name in OPTIONAL), OPTIONAL])
def test_values_and_gradients_of_the_reference(rule, length, absent):
    tensors = {k: v for k, v in arguments(length=length).items() if k not in absent}
    ours, theirs = (
        both(scan, tensors, rule=rule) for scan in (selective_scan, selective_scan_reference)
    )
    assert_same(ours, theirs)
    ours, theirs = (
        gradients(scan, tensors, rule=rule) for scan in (selective_scan, selective_scan_reference)
    )
    assert_same(ours.values(), theirs.values())


@given(
    *(st.integers(1, 5) for _ in range(3)),
    st.integers(1, 70),
    st.integers(0, 6),
    st.integers(4, 10),
    st.integers(1, 4),
    st.booleans(),
)
def test_any_shape_and_any_split(batch, d_inner, N, length, log_width, log_block, span, beside):
    """Small limits cut the batch into groups and the length into chunks and spans of them."""
    tensors = arguments(batch, d_inner, N, length)
    if beside:  # as a layer has them: the channels side by side
        for name in ("u", "delta", "B", "C", "z"):
            tensors[name] = tensors[name].mT.contiguous().mT
    with (
        mock.patch.object(scan_kernel, "WIDTH", 2**log_width),
        mock.patch.object(scan_kernel, "BLOCK", 2**log_block),
        mock.patch.object(scan_kernel, "SPAN", span),
    ):
        ours = both(selective_scan, tensors)
        our_gradients = gradients(selective_scan, tensors)
    assert_same(ours, both(selective_scan_reference, tensors))
    theirs = gradients(selective_scan_reference, tensors)
    assert_same(our_gradients.values(), theirs.values())


@every_rule
@pytest.mark.parametrize("softplus", [True, False])
def test_gradcheck(rule, softplus):
    tensors = arguments(batch=2, d_inner=2, N=2, length=5)
    if not softplus:
        tensors["delta"] = tensors["delta"].exp()
        tensors["delta_bias"] = tensors["delta_bias"].abs()
    leaves = [x.requires_grad_() for x in tensors.values()]

    def run(*values):
        return both(
            selective_scan,
            dict(zip(tensors, values, strict=True)),
            delta_softplus=softplus,
            rule=rule,
        )

    assert gradcheck(run, leaves)


@every_rule
def test_a_sequence_in_two_parts(rule):
    tensors = arguments(length=45)
    y, h = both(selective_scan, tensors, rule=rule)
    timed = ("u", "delta", "B", "C", "z")
    first = {k: v[..., :19] if k in timed else v for k, v in tensors.items()}
    second = {k: v[..., 19:] if k in timed else v for k, v in tensors.items()}
    y_first, second["initial_state"] = both(selective_scan, first, rule=rule)
    y_second, h_second = both(selective_scan, second, rule=rule)
    assert_same((torch.cat([y_first, y_second], -1), h_second), (y, h))


def test_strided_inputs_and_float32():
    tensors = arguments(batch=3, d_inner=5, length=64)
    turned = {k: v.mT.contiguous().mT if v.ndim == 3 else v for k, v in tensors.items()}
    expanded = dict(turned, B=turned["B"][..., :1].expand_as(turned["B"]))
    plain = dict(tensors, B=tensors["B"][..., :1].expand_as(tensors["B"]).contiguous())
    for left, right in ((turned, tensors), (expanded, plain)):
        assert_same(both(selective_scan, left), both(selective_scan, right), 1e-12)
        assert_same(
            gradients(selective_scan, left).values(), gradients(selective_scan, right).values()
        )
    single = {k: v.float() for k, v in tensors.items()}
    wanted = gradients(selective_scan_reference, tensors)
    for name, gradient in gradients(selective_scan, single).items():
        error = (gradient - wanted[name]).abs().max() / wanted[name].abs().max()
        assert gradient.dtype == F32 and error < 1e-4, name


@pytest.mark.parametrize("sizes", [(2, 3, 4, 20), (1, 1, 1, 3), (2, 1, 4, 1), (2, 3, 1, 1)])
def test_inputs_and_last_state_are_nobody_elses_memory(sizes):
    tensors = arguments(*sizes)
    before = {name: x.clone() for name, x in tensors.items()}
    y, h = both(selective_scan, tensors)
    y.zero_(), h.zero_()
    assert all(torch.equal(tensors[name], before[name]) for name in tensors)


@every_rule
@pytest.mark.parametrize("absent", [(), OPTIONAL])
def test_gradients_of_gradients(rule, absent):
    tensors = {k: v for k, v in arguments(1, 2, 2, 4).items() if k not in absent}
    leaves = [x.requires_grad_() for x in tensors.values()]

    def run(*values):
        return both(selective_scan, dict(zip(tensors, values, strict=True)), rule=rule)

    assert gradgradcheck(run, leaves)


def test_the_hessian_of_a_plain_sum_is_not_zero():
    """What reaches the scan from above is constant, and still its gradient is not."""
    tensors = arguments()

    def total(A, scan=selective_scan):
        return scan(**(tensors | {"A": A}), delta_softplus=True).sum()

    hessian = torch.autograd.functional.hessian(total, tensors["A"])
    wanted = torch.autograd.functional.hessian(
        lambda A: total(A, selective_scan_reference), tensors["A"]
    )
    assert wanted.abs().max() > 1
    torch.testing.assert_close(hessian, wanted, rtol=1e-10, atol=1e-10)
    with checks(values=False):
        functional = torch.func.jacrev(torch.func.grad(total))(tensors["A"])
    torch.testing.assert_close(functional, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", arguments())
def test_vmap_over_any_argument(name):
    tensors = arguments()
    many = torch.stack([tensors[name], 1.1 * tensors[name], 0.9 * tensors[name]], dim=1)

    def loss(x):
        return both(selective_scan, tensors | {name: x})[0].square().sum()

    with checks(values=False):
        together = torch.vmap(torch.func.grad(loss), in_dims=1)(many)
        alone = torch.stack([torch.func.grad(loss)(x) for x in many.unbind(1)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


def test_forward_mode_is_refused_with_the_name_of_what_has_it():
    tensors = arguments()
    for scan, has in ((selective_scan, False), (selective_scan_reference, True)):
        refused = nullcontext() if has else pytest.raises(NotImplementedError, match="_reference")
        with checks(values=False), refused:
            torch.func.jvp(
                lambda u, scan=scan: both(scan, tensors | {"u": u})[0],
                (tensors["u"],),
                (tensors["u"],),
            )


# --- precision -----------------------------------------------------------------------------------

SYSTEM = ("A", "D", "delta_bias", "initial_state")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scan", [selective_scan, selective_scan_reference])
@pytest.mark.parametrize("official", [True, False])
@every_rule
def test_half_precision(dtype, scan, official, rule):
    """All in half, or the official mix: the system in float32, all that has a length in half."""
    tensors = {
        k: x.float() if official and k in SYSTEM else x.to(dtype)
        for k, x in arguments(2, 5, 16, 300).items()
    }
    y, h = both(scan, tensors, rule=rule)
    assert y.dtype == dtype and h.dtype == F32
    ours = gradients(scan, tensors, rule=rule)
    exact = {k: x.double() for k, x in tensors.items()}
    wanted_y, wanted_h = both(selective_scan_reference, exact, rule=rule)
    rounding = torch.finfo(dtype).eps
    assert (h - wanted_h).abs().max() <= 1e-5 * wanted_h.abs().max()
    assert (y - wanted_y).abs().max() <= rounding * wanted_y.abs().max()
    for name, wanted in gradients(selective_scan_reference, exact, rule=rule).items():
        assert ours[name].dtype == tensors[name].dtype
        error = (ours[name] - wanted).abs().max() / wanted.abs().max()
        assert error <= 4 * rounding, name


@every_rule
def test_one_step_of_halves_is_taken_in_float32(rule):
    tensors = {k: x.to(torch.bfloat16) for k, x in arguments(2, 3, 4, 1).items()}
    h, A = tensors["initial_state"], tensors["A"]
    u, B = (tensors[k][..., 0] for k in "uB")
    delta = tensors["delta"][..., 0].exp()
    ours = next_state(h, u, delta, A, B, rule)
    exact = next_state(*(x.double() for x in (h, u, delta, A, B)), rule)
    assert ours.dtype == F32
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)


def test_a_half_is_never_copied_whole_in_float32():
    tensors = {k: v.to(torch.bfloat16) for k, v in arguments(2, 64, 4, 4096).items()}
    with Largest(F32) as largest:
        gradients(selective_scan, tensors)
    assert 0 < largest.numbers < 2 * 64 * 4096 / 4


def test_autocast_leaves_the_scan_alone():
    """Its backward too, where that is called under autocast."""
    tensors = arguments(dtype=F32)
    runs = [(both, selective_scan), (both, selective_scan_reference), (gradients, selective_scan)]
    for run, scan in runs:
        wanted = run(scan, tensors)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ours = run(scan, tensors)
        if run is gradients:
            ours, wanted = ours.values(), wanted.values()
        assert all(torch.equal(a, b) for a, b in zip(ours, wanted, strict=True))
    u, C, D, h = (tensors[k] for k in ("u", "C", "D", "initial_state"))
    step = h, u[..., 0], C[..., 0], D
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = read_state(*step)
    assert torch.equal(ours, read_state(*step))


# --- what the chapter says of the two rules ------------------------------------------------------


def one_state(u, z, rule):
    """N = 1, A = −1, B = C = 1, Δ = softplus(z)."""
    one = torch.ones(1, 1, len(u), dtype=F64)
    A = -torch.ones(1, 1, dtype=F64)
    y = selective_scan(
        u.view(1, 1, -1), z.view(1, 1, -1), A, one, one, delta_softplus=True, rule=rule
    )
    return y[0, 0]


def test_theorem_one_is_of_zero_order_hold():
    """It is a gate; the released rule is another recurrence."""
    generator = torch.Generator().manual_seed(0)
    u, z = torch.randn(2, 200, generator=generator, dtype=F64)
    keep, take = 1 - torch.sigmoid(z), {"zero_order_hold": torch.sigmoid(z)}
    take["exponential_euler"] = nn.functional.softplus(z)
    for rule in RULES:
        wanted = linear_scan(keep[None, :, None], (take[rule] * u)[None, :, None])
        torch.testing.assert_close(one_state(u, z, rule), wanted[0, :, 0])
    shut = torch.full((200,), -12.0, dtype=F64)
    first, second = (one_state(u, shut, rule) for rule in RULES)
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-8)


def test_a_shared_b_cannot_make_up_for_the_rule():
    """What a token writes, in two channels of different steps: the ratio holds for every B."""
    delta, A = torch.tensor([0.1, 5.0], dtype=F64), -torch.ones(1, dtype=F64)
    for B in (0.3, -7.0, 1000.0):
        ratios = {}
        for rule in RULES:
            _, written = RULES[rule](A, torch.full((1,), B, dtype=F64), delta[:, None])
            ratios[rule] = (written[1] / written[0]).item()
        assert ratios["exponential_euler"] == pytest.approx(50)
        assert ratios["zero_order_hold"] == pytest.approx(10.44, abs=0.01)


def test_a_long_step_resets_or_overshoots():
    u = torch.tensor([5.0, 1.0], dtype=F64)
    z = torch.tensor([0.0, 1e3], dtype=F64)  # Δ = 1000 at the second token
    assert math.isclose(one_state(u, z, "zero_order_hold")[1], 1.0)
    assert math.isclose(one_state(u, z, "exponential_euler")[1], 1e3)
    z[1] = -1e3 / 3  # Δ ≈ 0: the token is ignored
    for rule in RULES:
        y = one_state(u, z, rule)
        assert math.isclose(y[0], y[1])


def test_a_state_in_zero_order_hold_stays_in_the_range_of_its_inputs():
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(1000, generator=generator, dtype=F64)
    z = 3 * torch.randn(1000, generator=generator, dtype=F64)
    assert one_state(u, z, "zero_order_hold").max() <= u.max()
    assert one_state(u, z, "exponential_euler").max() > u.max()


@every_rule
def test_the_matrix_of_a_layer_is_semiseparable(rule):
    N, length = 3, 24
    t = arguments(batch=1, d_inner=1, N=N, length=length)
    delta = t["delta"].exp()
    A_bar, B_bar = RULES[rule](t["A"], t["B"][0].T, delta[0, 0, :, None])
    K = time_varying_matrix(torch.diag_embed(A_bar), B_bar, t["C"][0].T)
    y = selective_scan(t["u"], delta, t["A"], t["B"], t["C"], rule=rule)
    torch.testing.assert_close(K @ t["u"][0, 0], y[0, 0])
    for cut in (5, 12, 20):
        rank = torch.linalg.matrix_rank(K[cut:, :cut], rtol=1e-9)
        assert rank <= N
    assert torch.linalg.matrix_rank(K) > N


def test_noise_that_takes_no_time_leaves_the_state_alone():
    t = arguments(batch=1, length=12)
    kept = torch.tensor([0, 3, 4, 9])
    delta = torch.full_like(t["u"], 1e-14)
    delta[..., kept] = t["delta"].exp()[..., kept]
    u, B, C = (t[k] for k in "uBC")
    whole = selective_scan(u, delta, t["A"], B, C, return_last_state=True)[1]
    parts = (x[..., kept] for x in (u, delta))
    few = selective_scan(*parts, t["A"], B[..., kept], C[..., kept], return_last_state=True)[1]
    torch.testing.assert_close(whole, few, rtol=1e-10, atol=1e-10)


# --- memory --------------------------------------------------------------------------------------


@every_rule
def test_no_tensor_holds_a_state_of_every_step(rule):
    tensors = arguments(batch=2, d_inner=8, N=16, length=1024, dtype=F32)
    with Largest() as largest:
        gradients(selective_scan, tensors, rule=rule)
    assert largest.numbers <= 2 * 8 * 16 * 1024 // 8
    with Largest() as largest:
        gradients(selective_scan_reference, tensors, rule=rule)
    assert largest.numbers >= 2 * 8 * 16 * 1024


@torch.no_grad()
def test_a_wide_batch_is_taken_in_groups():
    row = 32 * 32  # states
    for length, steps in ((100, 16), (32, 12)):
        # Four groups of 8 rows; √(4 length) steps, 2**17 states at most.
        tensors = arguments(batch=32, d_inner=32, N=32, length=length, dtype=F32)
        with Largest() as largest:
            both(selective_scan, tensors)
        assert largest.numbers == (steps + 1) * 8 * row


def test_only_the_states_between_chunks_are_kept():
    tensors = {k: v.requires_grad_() for k, v in arguments(2, 8, 16, 1024).items()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()), lambda x: x):
        both(selective_scan, tensors)
    inputs = sum(x.numel() for x in tensors.values())
    assert sum(kept) - inputs == 32 * (2 * 16 * 8)  # √1024 chunks


def test_the_recorded_benchmark_meets_its_targets():
    cases = records.read("scan").by("shape", "kind")
    assert len(cases) == 6
    for (shape, _), rows in cases.items():
        ours, *peers = (row for row in rows if "median_ms" in row)
        assert ours["method"] == "linear_time" and len(peers) >= 2
        ratio = min(peer["median_ms"] for peer in peers) / ours["median_ms"]
        assert math.isclose(ratio, ours["times_faster_than_the_fastest_peer"], abs_tol=0.01)
        assert ratio >= ours["target"] == (2 if shape[0] == 16 else 3)
        assert ours["peak_MiB"] <= min(peer["peak_MiB"] for peer in peers) / 10
    assert {"mambapy", "transformers"} <= records.read("scan").machines[0].keys()


# --- the two rules -------------------------------------------------------------------------------


def one_step(delta, rule, A=-1.0, B=1.0, u=1.0, h=0.0):
    numbers = [torch.tensor([[[x]]], dtype=F64) for x in (u, delta, B, 1.0, h)]
    u, delta, B, C, h = numbers
    A = torch.tensor([[A]], dtype=F64)
    return selective_scan(u, delta, A, B, C, initial_state=h, rule=rule).item()


@pytest.mark.parametrize("z", [-3.0, -0.5, 0.0, 1.0, 4.0])
def test_paper_against_code_theorem_1_holds_for_the_papers_rule_only(z):
    """With N = 1, A = −1, B = 1 and Δ = softplus(z), h ← (1 − σ(z)) h + σ(z) x."""
    gate, delta = 1 / (1 + math.exp(-z)), math.log1p(math.exp(z))
    x, h = 0.7, -1.3
    paper = one_step(delta, "zero_order_hold", u=x, h=h)
    code = one_step(delta, "exponential_euler", u=x, h=h)
    assert math.isclose(paper, (1 - gate) * h + gate * x, rel_tol=1e-12)
    assert math.isclose(code, (1 - gate) * h + delta * x, rel_tol=1e-12)
    assert abs(code - paper) > 1e-4


def test_the_limits_of_delta():
    for rule in RULES:  # Δ → 0 ignores the input and keeps the state
        assert math.isclose(one_step(1e-12, rule, u=5.0, h=2.0), 2.0, rel_tol=1e-10)
    # Δ → ∞ forgets the state: the paper's rule sets −B u/A, the released one diverges.
    assert math.isclose(one_step(1e3, "zero_order_hold", A=-2.0, B=3.0, u=5.0, h=9.0), 7.5)
    assert math.isclose(one_step(1e3, "exponential_euler", A=-2.0, B=3.0, u=5.0, h=9.0), 15e3)


def test_the_papers_rule_is_exact_at_small_and_zero_rates():
    for A in (0.0, -1e-12, -1e-6, -0.4999, -0.5, -0.5001, -3.0, 0.2):
        wanted = 1.0 if A == 0 else math.expm1(A) / A
        assert math.isclose(one_step(1.0, "zero_order_hold", A=A), wanted, rel_tol=1e-14)


@pytest.mark.parametrize("rate", [-1e-7, -1e-3, -0.4999, -0.5001, -2.0, 0.0])
def test_the_papers_rule_has_exact_gradients_in_float32(rate):
    """φ′ by autograd of the plain quotient would lose every digit near 0."""
    tensors = arguments(batch=1, d_inner=1, N=1, length=3, dtype=F32)
    tensors["A"] = torch.full((1, 1), rate)
    exact = gradients(
        selective_scan_reference,
        {k: v.double() for k, v in tensors.items()},
        rule="zero_order_hold",
    )
    ours = gradients(selective_scan, tensors, rule="zero_order_hold")
    torch.testing.assert_close(ours["A"].double(), exact["A"], rtol=2e-5, atol=1e-6)


def test_a_million_steps():
    length = 1_000_000
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(1, 1, length, generator=generator)
    delta = torch.full_like(u, 1e-4)
    A, ones = torch.tensor([[-1.0]]), torch.ones_like(u)
    y = selective_scan(u, delta, A, ones, ones)
    # float64 fed the same rounded ā and b̄ u
    a, b = torch.exp(delta * A).double(), (delta * u).double()
    exact = linear_scan(a[0, 0][None], b[0, 0][None])
    assert torch.isfinite(y).all()
    assert ((y[0] - exact) / exact).abs().max() <= 1e-4


def test_softplus_takes_any_size_of_input():
    tensors = arguments(dtype=F32)
    tensors["delta"] = torch.linspace(-200, 200, tensors["delta"].numel()).view_as(tensors["delta"])
    y, h = both(selective_scan, tensors)
    assert torch.isfinite(y).all() and torch.isfinite(h).all()
    assert all(torch.isfinite(g).all() for g in gradients(selective_scan, tensors).values())


# --- the layer -----------------------------------------------------------------------------------


def layer(**options):
    torch.manual_seed(0)
    return Selective(6, N=4, **options).double()


switches = pytest.mark.parametrize(
    "options",
    [
        {},
        {"rule": "zero_order_hold"},
        {"select_delta": False},
        {"select_B_C": False},
        {"select_delta": False, "select_B_C": False, "rule": "zero_order_hold"},
    ],
)


@switches
def test_the_steps_are_the_forward_pass_and_its_gradients(options):
    x = draw(2, 30, 6)
    results = []
    for stepped in (False, True):
        model = layer(**options)
        if stepped:
            state, outputs = model.initial_state(2), []
            for x_t in x.unbind(1):
                y_t, state = model.step(x_t, state)
                outputs.append(y_t)
            y = torch.stack(outputs, dim=1)
        else:
            y = model(x)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad for p in model.parameters())])
    assert_same(*results)


@switches
@torch.no_grad()
def test_the_layer_is_its_definition(options):
    model = layer(**options)
    x = torch.randn(2, 30, 6, dtype=F64)
    delta, B, C = model.select(x)
    rule = options.get("rule", "exponential_euler")
    y = selective_scan_reference(x.mT, delta.mT, -model.A_log.exp(), B.mT, C.mT, model.D, rule=rule)
    wanted = nn.functional.gelu(y.mT) @ model.out.weight.T + model.out.bias
    torch.testing.assert_close(model(x), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("select_delta", [True, False])
@pytest.mark.parametrize("select_B_C", [True, False])
@torch.no_grad()
def test_what_is_selected(select_delta, select_B_C):
    model = layer(select_delta=select_delta, select_B_C=select_B_C)
    delta, B, C = model.select(torch.randn(2, 9, 6, dtype=F64))
    assert delta.shape == (2, 9, 6) and B.shape == C.shape == (2, 9, 4)
    assert (delta > 0).all()
    for value, selected in ((delta, select_delta), (B, select_B_C), (C, select_B_C)):
        assert ((value - value[:1, :1]).abs().max() > 1e-6).item() is selected


@torch.no_grad()
def test_with_both_switches_off_it_is_time_invariant():
    for select, invariant in ((False, True), (True, False)):
        model = layer(select_delta=select, select_B_C=select)
        x = torch.zeros(1, 40, 6, dtype=F64)
        x[:, 5:20] = torch.randn(15, 6, dtype=F64)
        late = x.roll(7, dims=1)
        same = torch.allclose(model(late)[:, 7:], model(x)[:, :-7], rtol=0, atol=1e-12)
        if invariant:
            assert same
        mixed = layer(select_delta=select, select_B_C=select)
        mixed.out = nn.Identity()
        with mock.patch.object(nn.functional, "gelu", lambda y: y):
            linear = torch.allclose(mixed(2 * x), 2 * mixed(x), rtol=0, atol=1e-12)
        assert linear is invariant


@switches
def test_a_step_that_underflows_to_0_ignores_its_token(options):
    """In float32 softplus(−200) is 0: training got there, and the layer must survive it."""
    torch.manual_seed(0)
    model = Selective(6, N=4, **options)
    with torch.no_grad():
        model.delta_bias.fill_(-200.0)
    x = torch.randn(2, 9, 6)
    assert (model.select(x)[0] == 0).all()
    y = model(x)
    y.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    wanted = model.out(nn.functional.gelu(model.D * x))
    torch.testing.assert_close(y, wanted)


@pytest.mark.parametrize(("d_model", "rank"), [(6, 1), (16, 1), (17, 2), (64, 4)])
def test_initial_values(d_model, rank):
    torch.manual_seed(0)
    model = Selective(d_model)
    assert model.N == 16
    wanted = torch.arange(1.0, 17).expand(d_model, 16)
    torch.testing.assert_close(-model.A, wanted)
    assert torch.equal(model.D, torch.ones(d_model))
    down, up = model.to_delta
    assert down.weight.shape == (rank, d_model) and up.weight.shape == (d_model, rank)
    assert up.weight.abs().max() <= rank**-0.5
    assert up.weight.abs().max() > 0.7 * rank**-0.5


def test_delta_starts_log_uniform():
    torch.manual_seed(0)
    delta = nn.functional.softplus(Selective(4000, select_B_C=False).delta_bias.double())
    low, high = math.log(1e-3), math.log(1e-1)
    along = ((delta.log() - low) / (high - low)).detach().sort().values
    assert along[0] > -1e-3 and along[-1] < 1 + 1e-3
    uniform = (torch.arange(4000) + 0.5) / 4000
    assert (along - uniform).abs().max() < 0.04  # Kolmogorov–Smirnov


@pytest.mark.parametrize("delta", [1e-4, 1.0, 5.0])
def test_the_bias_inverts_softplus(delta):
    model = Selective(3, delta_min=delta, delta_max=delta)
    bias = model.delta_bias.detach()
    torch.testing.assert_close(nn.functional.softplus(bias), torch.full((3,), delta))


def test_weight_decay_leaves_the_systems_alone():
    for select in (True, False):
        model = Selective(6, select_delta=select, select_B_C=select)
        decayed = {
            id(p)
            for group in parameter_groups(model, 1e-3, 0.1)
            if group["weight_decay"]
            for p in group["params"]
        }
        names = {name for name, p in model.named_parameters() if id(p) in decayed}
        wanted = {"out.weight"}
        if select:
            wanted |= {"to_delta.0.weight", "to_delta.1.weight", "to_B_C.weight"}
        assert names == wanted


# --- bad input -----------------------------------------------------------------------------------

T = arguments(batch=2, d_inner=3, N=4, length=5)


@pytest.mark.bad_input
@pytest.mark.parametrize("scan", [selective_scan, selective_scan_reference])
@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"u": T["u"][0]}, ValueError, r"^u: expected shape \(batch, d_inner, length\).*\(3, 5\)"),
        ({"u": T["u"][..., :0]}, ValueError, r"^u: .*without empty dimensions.*\(2, 3, 0\)"),
        ({"u": [1.0]}, TypeError, "^u: .*got a list"),
        ({"u": T["u"].long()}, TypeError, "^u: expected a floating-point tensor"),
        ({"delta": T["delta"][..., :1]}, ValueError, r"^delta: expected shape \(2, 3, 5\)"),
        ({"delta": None}, TypeError, "^delta: .*got a NoneType"),
        ({"A": T["A"].T}, ValueError, r"^A: expected shape \(3, N\).*\(4, 3\)"),
        ({"A": T["A"][:, :0]}, ValueError, "^A: .*without empty dimensions"),
        ({"A": T["A"] + 0j}, TypeError, "^A: expected a floating-point tensor, got a complex128"),
        ({"B": T["B"].mT}, ValueError, r"^B: expected shape \(2, 4, 5\).*got.* \(2, 5, 4\)"),
        ({"C": T["C"][:1]}, ValueError, r"^C: expected shape \(2, 4, 5\).*got.* \(1, 4, 5\)"),
        ({"C": T["C"].float()}, TypeError, "^C: expected the precision of u"),
        ({"D": T["D"][:1]}, ValueError, r"^D: expected shape \(3,\).*got.* \(1,\)"),
        ({"z": T["z"][:1]}, ValueError, r"^z: expected shape \(2, 3, 5\)"),
        ({"delta_bias": T["D"][:, None]}, ValueError, r"^delta_bias: expected shape \(3,\)"),
        ({"initial_state": T["A"]}, ValueError, r"^initial_state: expected shape \(2, 3, 4\)"),
        ({"u": T["u"] / 0}, ValueError, "^u: expected finite values, got 30"),
        ({"z": T["z"] / 0}, ValueError, "^z: expected finite values"),
        ({"delta_softplus": False}, ValueError, "^delta: expected finite numbers > 0"),
        (
            {"rule": "euler"},
            ValueError,
            "^rule: expected one of exponential_euler, zero_order_hold",
        ),
    ],
)
def test_bad_input(scan, changes, kind, message):
    with pytest.raises(kind, match=message):
        scan(**(T | {"delta_softplus": True} | changes))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"N": 0}, ValueError, "^N: expected a whole number >= 1, got 0"),
        ({"rank": 1.5}, TypeError, "^rank: expected a whole number >= 1"),
        ({"rule": "bilinear"}, ValueError, "^rule: expected one of"),
        ({"delta_min": 0.0}, ValueError, "^delta_min: expected a finite number > 0"),
        ({"delta_max": math.inf}, ValueError, "^delta_max: "),
        ({"delta_min": 1.0}, ValueError, "^delta_min: expected at most delta_max = 0.1, got 1.0"),
    ],
)
def test_bad_input_layer(options, kind, message):
    with pytest.raises(kind, match=message):
        Selective(6, **options)


@pytest.mark.bad_input
def test_bad_input_state():
    model = layer()
    with pytest.raises(
        ValueError, match=r"^state: expected a .* of shape \(2, 6, 4\), got .*\(1, 6"
    ):
        model.step(torch.zeros(2, 6, dtype=F64), model.initial_state(1))
    with pytest.raises(ValueError, match=r"^batch_size: "):
        model.initial_state(0)


def test_eight_decays_need_more_than_16_bits():
    """What eight tokens leave in eight decaying states, and in eight that turn, stored and read."""
    age = 7 - torch.arange(8)
    decays, ones = -torch.arange(1.0, 9, dtype=F64), torch.ones(8, dtype=F64)
    A_bar, B_bar = RULES["zero_order_hold"](decays, ones, 0.3)
    by_decay = A_bar ** age[:, None] * B_bar
    by_turns = torch.exp(2j * math.pi * torch.arange(8, dtype=F64) / 8) ** age[:, None]
    assert torch.linalg.cond(by_decay).item() == pytest.approx(1.8e7, rel=0.03)
    assert torch.linalg.cond(by_turns).item() == pytest.approx(1)
    g = torch.Generator().manual_seed(0)
    data = torch.randint(14, (5000, 8), generator=g)
    tokens = torch.nn.functional.one_hot(data, 14).mT.to(F64)  # (sequences, kinds, tokens)

    def copied(state, written):
        read = state.to(written.dtype) @ torch.linalg.inv(written)
        return int((read.real.argmax(1) == data).all(1).sum())

    def halves(h):
        scale = h.abs().max()
        return (h / scale).half().to(F64) * scale

    state, turned = tokens @ by_decay, tokens.to(by_turns.dtype) @ by_turns
    assert copied(state, by_decay) == copied(state.float(), by_decay) == 5000
    assert copied(halves(state), by_decay) == 0
    stored = torch.complex(halves(turned.real), halves(turned.imag))
    assert copied(stored, by_turns) == 5000


def test_states_of_one_decay_hold_different_things():
    """With A = −1 in all N states the blocks of K keep rank N: B and C part them."""
    N, length = 4, 24
    delta, B, C = 0.1 + draw(length).abs(), draw(length, N), draw(length, N, seed=1)
    clock = delta.cumsum(0)
    decay = torch.exp(-(clock[:, None] - clock)).tril()
    K = decay * (C @ B.T) * delta
    assert torch.linalg.matrix_rank(K[12:, :12]) == N
    assert torch.linalg.matrix_rank((decay * delta)[12:, :12]) == 1  # what constant B, C leave
