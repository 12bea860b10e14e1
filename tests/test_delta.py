"""Chapter 21: the delta rule in chunks, DeltaNet and gated DeltaNet, their cost and start."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import Qwen3NextConfig
from transformers.models.qwen3_next import modeling_qwen3_next
from transformers.models.qwen3_next.modeling_qwen3_next import (
    Qwen3NextGatedDeltaNet,
    torch_chunk_gated_delta_rule,
)

from helpers import Largest, close, count_flops, draw, lively, stepped
from linear_time.cost import cost
from linear_time.delta import DeltaNet, DeltaState, GatedDeltaNet, HeadNorm
from linear_time.delta_rule import (
    delta_cost,
    delta_rule,
    delta_rule_recurrent,
    delta_step,
)
from linear_time.recurrences import delta_net, gated_delta_net, kda, recurrence
from linear_time.training import parameter_groups

F64 = torch.float64
seeds = st.integers(0, 2**31 - 1)


def system(batch=2, length=23, heads=3, dk=5, dv=4, seed=0, dtype=F64, vector=False):
    """q, k, v, β in (0, 2) and log α; k of length 1."""
    q, k = (draw(batch, length, heads, dk, seed=seed + i, dtype=dtype) for i in (0, 1))
    v = draw(batch, length, heads, dv, seed=seed + 2, dtype=dtype)
    beta = 2 * torch.sigmoid(draw(batch, length, heads, seed=seed + 3, dtype=dtype))
    sizes = (batch, length, heads, dk) if vector else (batch, length, heads)
    log_decay = -2 * draw(*sizes, seed=seed + 4, dtype=dtype).abs()
    return q, nn.functional.normalize(k, dim=-1), v, beta, log_decay


def start(batch=2, heads=3, dk=5, dv=4, seed=9, dtype=F64):
    return draw(batch, heads, dv, dk, seed=seed, dtype=dtype)


# --- the forms -----------------------------------------------------------------------------------


@given(
    seed=seeds,
    batch=st.integers(1, 3),
    length=st.integers(1, 19),
    heads=st.integers(1, 3),
    dk=st.integers(1, 4),
    dv=st.integers(1, 4),
    chunk=st.integers(1, 23),
    vector=st.booleans(),
)
def test_all_forms_are_the_recurrence(seed, batch, length, heads, dk, dv, chunk, vector):
    inputs = system(batch, length, heads, dk, dv, seed, vector=vector)
    q, k, v, beta, log_decay = inputs
    S = start(batch, heads, dk, dv, seed)
    member = kda if vector else gated_delta_net
    terms = member(q, k, v, beta, log_decay.exp())
    want, last = recurrence(terms, True, initial_state=S)
    for form in (delta_rule_recurrent, lambda *a, **o: delta_rule(*a, chunk=chunk, **o)):
        y, state = form(*inputs, True, initial_state=S)
        close(y, want, 1e-10)
        close(state, last, 1e-10)
        close(form(*inputs), recurrence(terms), 1e-10)
        close(form(q, k, v, beta), recurrence(delta_net(q, k, v, beta)), 1e-10)


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 7, 23, 64])
def test_the_gradients_of_all_forms_are_one(chunk, vector):
    inputs = [value.requires_grad_() for value in system(vector=vector)]
    S = start().requires_grad_()
    weight, state_weight = draw(2, 23, 3, 4, seed=10), draw(2, 3, 4, 5, seed=11)

    def gradients(form, **options):
        y, last = form(*inputs, True, initial_state=S, **options)
        return torch.autograd.grad((weight * y).sum() + (state_weight * last).sum(), [*inputs, S])

    wanted = gradients(delta_rule_recurrent)
    for got, want in zip(gradients(delta_rule, chunk=chunk), wanted, strict=True):
        close(got, want, 1e-9)


@pytest.mark.parametrize("vector", [False, True])
def test_derivatives_against_differences(vector):
    inputs = system(1, 5, 2, 2, 2, vector=vector)
    inputs = [value.detach().clone().requires_grad_() for value in inputs]
    inputs[4].data.sub_(0.1)  # away from log α = 0

    def run(*values):
        return delta_rule(*values, chunk=2)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_it_is_that_of_transformers():
    q, k, v, beta, log_decay = system(length=150, dtype=torch.float32)
    S = start(dtype=torch.float32)
    want, last = torch_chunk_gated_delta_rule.__wrapped__(
        *(q, k, v, log_decay, beta),
        initial_state=S.mT,
        output_final_state=True,
    )
    y, state = delta_rule(q / math.sqrt(5), k, v, beta, log_decay, True, initial_state=S)
    torch.testing.assert_close(y, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state.mT, last, rtol=1e-5, atol=1e-5)


def test_a_state_is_handed_on_between_pieces():
    inputs = system(length=30)
    y, last = delta_rule(*inputs, True, chunk=8)
    pieces, S = [], None
    for cut in (slice(0, 1), slice(1, 12), slice(12, 30)):
        part = [value[:, cut] for value in inputs]
        piece, S = delta_rule(*part, True, initial_state=S, chunk=8)
        pieces.append(piece)
    close(torch.cat(pieces, 1), y, 1e-11)
    close(S, last, 1e-11)


def test_decays_a_channel_do_not_overflow():
    """Where e^(−c) would: 64 steps that each forget all but e⁻²⁰ of a channel."""
    q, k, v, beta, log_decay = system(1, 64, 1, vector=True)
    log_decay[..., 0] = -20
    assert torch.isinf(torch.exp(-log_decay.cumsum(1)).float()).any()
    y = delta_rule(q, k, v, beta, log_decay, chunk=64)
    close(y, delta_rule_recurrent(q, k, v, beta, log_decay), 1e-10)
    low = [value.float() for value in (q, k, v, beta, log_decay)]
    torch.testing.assert_close(delta_rule(*low).double(), y, rtol=1e-4, atol=1e-4)


def test_nothing_is_lost_in_a_million_steps_of_one_key():
    """A reflection each, then as often back: the state is what it was."""
    k = torch.zeros(1, 4096, 1, 4)
    k[..., 0] = 1
    v, beta = torch.zeros(1, 4096, 1, 3), torch.full((1, 4096, 1), 2.0)
    S = draw(1, 1, 3, 4, dtype=torch.float32)
    _, last = delta_rule(k, k, v, beta, None, True, initial_state=S)
    torch.testing.assert_close(last, S)


def test_beta_of_one_stores_and_of_two_reflects():
    _, k, v, _, _ = system(1, 1, 1)
    S = start(1, 1)
    one = torch.ones(1, 1, 1, dtype=F64)
    y, _ = delta_rule(k, k, v, one, initial_state=S, return_last_state=True)
    close(y, v)
    _, once = delta_rule(k, k, 0 * v, 2 * one, initial_state=S, return_last_state=True)
    _, twice = delta_rule(k, k, 0 * v, 2 * one, initial_state=once, return_last_state=True)
    close(twice, S)
    assert (once - S).abs().max() > 0.1


@torch.no_grad()
def test_the_chunked_form_holds_no_matrix_of_the_whole_length():
    inputs = system(1, 512, 2, 4, 4)
    with Largest() as largest:
        delta_rule(*inputs, chunk=16)
    assert largest.numbers <= 512 * 2 * 16
    with Largest() as largest:
        delta_rule(*system(1, 512, 2, 4, 4, vector=True), chunk=16)
    assert largest.numbers <= 512 * 2 * 16 * 4


@torch.no_grad()
def test_the_cost_of_a_chunk_is_as_counted():
    """Products by torch's count, which leaves the triangular system out."""
    length, heads, dk, dv = 256, 4, 16, 8
    inputs = system(1, length, heads, dk, dv)
    for chunk in (8, 32, 64):
        a_token = heads * (2 * chunk * (2 * dk + dv + chunk) + 6 * dk * dv)
        assert count_flops(lambda c=chunk: delta_rule(*inputs, chunk=c)) == a_token * length


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (0, torch.zeros(2, 23, 3, 4, dtype=F64), r"^q: expected shape \(2, 23, 3, 5\)"),
        (1, torch.zeros(2, 23, 5), r"^k: expected shape \(batch, length, heads, dk\)"),
        (2, torch.zeros(2, 22, 3, 4, dtype=F64), r"^v: expected shape \(2, 23, 3, dv\)"),
        (3, torch.zeros(2, 23, 1, dtype=F64), r"^beta: expected shape \(2, 23, 3\)"),
        (3, torch.zeros(2, 23, 3), "^beta: expected the precision of k"),
        (3, torch.full((2, 23, 3), math.nan, dtype=F64), "^beta: expected finite values"),
        (4, torch.zeros(2, 23, 3, 4, dtype=F64), r"^log_decay: expected shape \(2, 23, 3, 5\)"),
        (4, torch.zeros(2, 23, dtype=F64), r"^log_decay: expected shape \(2, 23, 3\)"),
        (4, torch.ones(2, 23, 3, dtype=F64), "^log_decay: expected numbers <= 0, got .* 1$"),
    ],
)
@pytest.mark.parametrize("form", [delta_rule, delta_rule_recurrent])
def test_bad_arguments(at, value, message, form):
    inputs = list(system())
    inputs[at] = value
    with pytest.raises((TypeError, ValueError), match=message):
        form(*inputs)


@pytest.mark.bad_input
def test_more_bad_arguments():
    with pytest.raises(ValueError, match=r"^initial_state: expected shape \(2, 3, 4, 5\)"):
        delta_rule(*system(), initial_state=torch.zeros(2, 3, 5, 4, dtype=F64))
    with pytest.raises(ValueError, match=r"^chunk: expected a whole number >= 1, got 0"):
        delta_rule(*system(), chunk=0)
    for kind in (DeltaNet, GatedDeltaNet):
        for name, value, says in (
            ("key_heads", 3, "a divisor of heads = 4, got 3"),
            ("d_key", 0, "a whole number >= 1, got 0"),
            ("eps", 0, "a finite number > 0, got 0"),
            ("A_min", 17, "at most A_max = 16.0, got 17"),
        ):
            if name == "A_min" and kind is DeltaNet:
                continue
            with pytest.raises(ValueError, match=f"^{name}: expected {says}"):
                kind(8, 4, **{name: value})
        layer = kind(8, 4, 3, 2)
        state = layer.initial_state(2)
        with pytest.raises(ValueError, match=r"^state.S: expected a .* of shape \(3, 4, 2, 3\)"):
            layer.step(torch.zeros(3, 8), DeltaState(torch.zeros(3, 32, 3), state.S))
        with pytest.raises(ValueError, match=r"^state.window: expected"):
            layer.step(torch.zeros(2, 8), (1, 2))


# --- the layers ----------------------------------------------------------------------------------


def theirs_and_ours(heads=4, key_heads=2, d_key=6, d_value=5, taps=4):
    config = Qwen3NextConfig(
        hidden_size=16,
        linear_num_value_heads=heads,
        linear_num_key_heads=key_heads,
        linear_key_head_dim=d_key,
        linear_value_head_dim=d_value,
        linear_conv_kernel_dim=taps,
        num_hidden_layers=2,
        layer_types=["linear_attention", "full_attention"],
    )
    torch.manual_seed(0)
    theirs = Qwen3NextGatedDeltaNet(config, 0)
    for i, parameter in enumerate(theirs.parameters()):
        noise = draw(*parameter.shape, seed=i, dtype=torch.float32)
        parameter.data = parameter.data + 0.3 * noise
    # Differences of their cumulative sums lose digits where a chunk forgets much: 1e-4 with
    # dt_bias = 1, as they start it. Here a step forgets little.
    theirs.dt_bias.data -= 6
    ours = GatedDeltaNet(16, heads, d_key, d_value, key_heads, taps, chunk=8)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (4, 4), (6, 2), (3, 1)])
@torch.no_grad()
def test_it_is_a_layer_of_qwen3_next(heads, key_heads, monkeypatch):
    # Where fla can be imported, transformers runs its kernels, with a GPU or without.
    own = torch_chunk_gated_delta_rule.__wrapped__
    monkeypatch.setattr(modeling_qwen3_next, "torch_chunk_gated_delta_rule", own)
    theirs, ours = theirs_and_ours(heads, key_heads)
    x = draw(2, 77, 16, dtype=torch.float32)
    want = theirs(x)
    assert want.abs().max() > 0.05
    for y in (ours(x), stepped(ours, x)[0]):
        assert (y - want).abs().max() <= 1e-5 * want.abs().max()


@torch.no_grad()
def test_the_norm_comes_before_the_gate():
    theirs, _ = theirs_and_ours()
    norm = HeadNorm(5)
    norm.load_state_dict(theirs.norm.state_dict())
    x, z = draw(3, 5, dtype=torch.float32), draw(3, 5, seed=2, dtype=torch.float32)
    torch.testing.assert_close(norm(x, z), theirs.norm(x, z))
    gate_first = norm(x * nn.functional.silu(z))
    assert (gate_first - norm(x, z)).abs().max() > 0.1


@pytest.mark.parametrize("reflect", [False, True])
@torch.no_grad()
def test_delta_net_is_what_its_docstring_says(reflect):
    """Written out, from the docstring and torch's own functions."""
    layer = lively(DeltaNet(8, 4, 3, 5, 2, chunk=4, reflect=reflect)).double()
    x = draw(2, 13, 8)
    padded = nn.functional.pad((x @ layer.in_proj_qkv.weight.T).mT, (3, 0))
    taps = layer.conv1d.weight
    mixed = nn.functional.silu(nn.functional.conv1d(padded, taps, groups=len(taps))).mT
    q, k, v = mixed[..., :6], mixed[..., 6:12], mixed[..., 12:]
    q, k = (value.unflatten(-1, (2, 3)).repeat_interleave(2, 2) for value in (q, k))
    q, k = (value / (value.square().sum(-1, keepdim=True) + 1e-6).sqrt() for value in (q, k))
    beta = (1 + reflect) * torch.sigmoid(x @ layer.in_proj_b.weight.T)
    y = recurrence(delta_net(q / math.sqrt(3), k, v.unflatten(-1, (4, 5)), beta))
    y = nn.functional.rms_norm(y, (5,), layer.norm.weight, 1e-6)
    close(layer(x), y.flatten(2) @ layer.out_proj.weight.T, 1e-10)


def test_delta_net_has_no_decay_and_gated_delta_net_has():
    x = draw(2, 5, 8, dtype=torch.float32)
    plain, gated = DeltaNet(8, 4, 3, 5), GatedDeltaNet(8, 4, 3, 5)
    mixed, z, beta, log_decay = plain.project(x)
    assert z is None and log_decay is None
    assert mixed.shape == (2, 5, 2 * 12 + 20) and beta.shape == (2, 5, 4)
    _, z, beta, log_decay = gated.project(x)
    assert z.shape == (2, 5, 20) and log_decay.shape == (2, 5, 4) and (log_decay < 0).all()
    assert (beta > 0).all() and (beta < 1).all()
    assert GatedDeltaNet(8, 4, 3, 5, reflect=True).project(9 * x)[2].max() > 1


def test_a_fresh_gated_delta_net_remembers():
    """Steps of 0.001 to 0.1: a mean memory of some hundred tokens; transformers' start has few."""
    torch.manual_seed(0)
    layer = GatedDeltaNet(16, 400)
    _, _, _, log_decay = layer.project(torch.zeros(1, 1, 16))
    memory = -1 / log_decay.detach()
    assert 2 < memory.median() < 60 and memory.max() > 500
    bias = nn.functional.softplus(layer.dt_bias)
    assert 1e-3 <= bias.min() < 2e-3 and 0.05 < bias.max() <= 0.1 + 1e-6
    A = layer.A_log.exp()
    assert 0.01 <= A.min() < 0.5 and 15.5 < A.max() <= 16 and abs(A.mean() - 8) < 0.7
    config = Qwen3NextConfig(
        hidden_size=16, linear_num_value_heads=400, linear_num_key_heads=400,
        linear_key_head_dim=1, linear_value_head_dim=1, num_hidden_layers=1,
        layer_types=["linear_attention"],
    )  # fmt: skip
    theirs = Qwen3NextGatedDeltaNet(config, 0)
    assert (theirs.dt_bias == 1).all()
    decay = torch.exp(-theirs.A_log.exp() * nn.functional.softplus(theirs.dt_bias))
    assert decay.median() < 1e-3


def test_what_no_weight_decay_acts_on():
    layer = GatedDeltaNet(8, 4, 3, 5)
    groups = parameter_groups(layer, 0.1, 1e-3)
    names = {id(p): name for name, p in layer.named_parameters()}
    free = {names[id(p)] for g in groups if not g["weight_decay"] for p in g["params"]}
    assert free == {"A_log", "dt_bias", "norm.weight"}
    low = GatedDeltaNet(8, 4, 3, 5).bfloat16()
    assert low.A_log.dtype == low.dt_bias.dtype == torch.float32


@pytest.mark.parametrize("kind", [DeltaNet, GatedDeltaNet])
@pytest.mark.parametrize("key_heads", [None, 2])
def test_the_cost_is_read_from_the_layer(kind, key_heads):
    layer = kind(8, 4, 3, 5, key_heads, chunk=4).double()
    made = cost(layer, 16)
    assert made.parameters == sum(p.numel() for p in layer.parameters())
    assert made.state == sum(part.numel() for part in layer.initial_state(1))
    x = draw(1, 16, 8)
    with torch.no_grad():
        counted = count_flops(layer, x)
        taken = count_flops(layer.step, x[:, 0], layer.initial_state(1, dtype=F64))
    system = 4 * 4 * (3 + 5) * 16  # C (d_key + d_value) a head and token, not counted by torch
    assert made.forward_flops == counted + system
    # Of a step, two products with the state are counted; the outer product and the decay not.
    assert made.step_flops == taken + (3 if kind is GatedDeltaNet else 2) * 4 * 3 * 5
    assert made.depth == 1 + 3 + 4
    with pytest.raises(ValueError, match=r"^chunk: expected a whole number"):
        delta_cost(4, 8, 2, chunk=0)


def test_a_step_is_the_rule():
    inputs = system(length=1)
    S = start()
    y, last = delta_step(*(value[:, 0] for value in inputs), S)
    want, state = delta_rule(*inputs, True, initial_state=S)
    close(y, want[:, 0])
    close(last, state)
