"""Chapter 01: equal to torch's RNN and GRU; long memory at the start; the Jacobian product."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import close, source
from linear_time.recurrent import GRU, ElmanRNN, jacobian_product_norms

F64 = torch.float64
seeds = st.integers(0, 2**31 - 1)
widths = st.integers(1, 7)
lengths = st.integers(1, 20)


def pair(kind, seed, d_model):
    """One of ours and torch's with the same weights, all drawn at random."""
    ours = {"rnn": ElmanRNN, "gru": GRU}[kind](d_model).double()
    theirs = {"rnn": nn.RNN, "gru": nn.GRU}[kind](d_model, d_model, batch_first=True).double()
    draw = source(seed)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(draw(*parameter.shape))
        ours.input.weight.copy_(theirs.weight_ih_l0)
        ours.recurrent.weight.copy_(theirs.weight_hh_l0)
        if kind == "gru":
            ours.input.bias.copy_(theirs.bias_ih_l0)
            ours.recurrent.bias.copy_(theirs.bias_hh_l0)
        else:
            ours.input.bias.copy_(theirs.bias_ih_l0 + theirs.bias_hh_l0)
    return ours, theirs


# --- against torch -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rnn", "gru"])
@given(seed=seeds, d_model=widths, length=lengths)
def test_equals_torch(kind, seed, d_model, length):
    ours, theirs = pair(kind, seed, d_model)
    x = source(seed + 1)(3, length, d_model)
    wanted, last = theirs(x)
    close(ours(x), wanted)
    state = ours.initial_state(3)
    for x_t in x.unbind(1):
        _, state = ours.step(x_t, state)
    close(state, last[0])


@pytest.mark.parametrize("kind", ["rnn", "gru"])
def test_equals_torch_from_another_state_and_in_its_gradients(kind):
    ours, theirs = pair(kind, 0, 5)
    draw = source(1)
    x, h = draw(2, 9, 5).requires_grad_(), draw(2, 5)
    _, last = theirs(x, h[None])
    state = h
    for x_t in x.unbind(1):
        _, state = ours.step(x_t, state)
    close(state, last[0])
    ours(x).square().sum().backward()
    got, x.grad = x.grad, None
    theirs(x)[0].square().sum().backward()
    close(got, x.grad)
    close(ours.input.weight.grad, theirs.weight_ih_l0.grad)
    close(ours.recurrent.weight.grad, theirs.weight_hh_l0.grad)
    close(ours.input.bias.grad, theirs.bias_ih_l0.grad)


@pytest.mark.parametrize("kind", [ElmanRNN, GRU])
def test_starts_like_torch_uniform_within_one_over_the_root_of_the_width(kind):
    torch.manual_seed(0)
    for parameter in kind(64).parameters():
        assert parameter.abs().max() <= 1 / 8
        assert math.isclose(parameter.std().item(), 1 / 8 / math.sqrt(3), rel_tol=0.15)


def test_only_a_diagonal_product_cannot_tell_the_papers_reset_gate_from_torchs():
    """Cho et al. apply the reset gate to the state before U_n; torch, and we, after."""
    gru = GRU(4).double()
    draw = source(0)
    u, h = draw(3, 12), draw(3, 4)

    def paper():
        weight = gru.recurrent.weight
        r = torch.sigmoid(u[:, :4] + h @ weight[:4].T)
        z = torch.sigmoid(u[:, 4:8] + h @ weight[4:8].T)
        n = torch.tanh(u[:, 8:] + (r * h) @ weight[8:].T)
        return (1 - z) * n + z * h

    with torch.no_grad():
        gru.recurrent.bias.zero_()
        assert (gru.cell(u, gru.recurrent(h), h) - paper()).abs().max() > 1e-2
        gru.recurrent.weight[8:] = torch.diag(draw(4))
        close(gru.cell(u, gru.recurrent(h), h), paper())


@torch.no_grad()
def test_the_other_convention_of_z_is_a_change_of_sign():
    """Chung et al. write h_t = (1 − z) h_{t−1} + z n: the update gate's weights negated."""
    gru = GRU(4).double()
    draw = source(0)
    for parameter in gru.parameters():
        parameter.copy_(draw(*parameter.shape))
    x, h = draw(3, 4), draw(3, 4)
    u_r, u_z, u_n = gru.input(x).chunk(3, -1)
    v_r, v_z, v_n = gru.recurrent(h).chunk(3, -1)
    r, z = torch.sigmoid(u_r + v_r), torch.sigmoid(u_z + v_z)
    n = torch.tanh(u_n + r * v_n)
    theirs = (1 - z) * h + z * n
    assert (gru.step(x, h)[0] - theirs).abs().max() > 0.1
    for parameter in gru.parameters():
        parameter[4:8] *= -1  # the rows of z
    close(gru.step(x, h)[0], theirs)


# --- the memory that a GRU starts with -----------------------------------------------------------


def test_memory_is_log_uniform_up_to_the_length():
    torch.manual_seed(0)
    gru = GRU(4000, memory=1000.0)
    bias = (gru.input.bias + gru.recurrent.bias).double().detach()
    tau = 1 / (1 - torch.sigmoid(bias[4000:8000]))
    assert 2 <= tau.min() < 2.1 and 950 < tau.max() <= 1000.01
    place = (tau.log() - math.log(2)) / math.log(500)  # uniform in [0, 1]
    quantiles = torch.linspace(0, 1, 11, dtype=F64)
    assert (place.quantile(quantiles) - quantiles).abs().max() < 0.03
    others = torch.cat([bias[:4000], bias[8000:]])
    assert others.abs().max() <= 2 / math.sqrt(4000) + 1e-6


@torch.no_grad()
def test_memory_is_the_time_constant_of_the_state():
    torch.manual_seed(0)
    gru = GRU(1, memory=2).double()  # log-uniform from 2 to 2
    for parameter in gru.parameters():
        if parameter.ndim == 2:
            parameter.zero_()
    assert torch.sigmoid(gru.input.bias[1]).item() == 0.5  # τ = 2
    gru.input.bias[1] = math.log(50 - 1)
    gru.input.bias[2] = 0
    gru.recurrent.bias.zero_()
    h = torch.ones(1, 1, dtype=F64)
    for _ in range(50):
        h, _ = gru.step(torch.zeros(1, 1, dtype=F64), h)
    assert math.isclose(h.item(), (1 - 1 / 50) ** 50, rel_tol=1e-12)  # about 1/e


@torch.no_grad()
def test_memory_keeps_a_state_that_torchs_start_forgets():
    left = {}
    for memory in (None, 500):
        torch.manual_seed(0)
        gru = GRU(32, memory=memory).double()
        x = source(1)(1, 100, 32)
        other, same = source(2)(1, 32), torch.zeros(1, 32, dtype=F64)
        for x_t in x.unbind(1):
            other, same = gru.step(x_t, other)[0], gru.step(x_t, same)[0]
        left[memory] = (other - same).norm().item()
    assert left[None] < 1e-6 and left[500] > 0.1


# --- precision, padding, prompts ----------------------------------------------------------------


@pytest.mark.parametrize("kind", [ElmanRNN, GRU])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_a_long_memory_does_not_round_at_every_step(kind, dtype):
    """Each step moves the state by less than half precision can tell at its size."""
    torch.manual_seed(0)
    layer = kind(8).to(dtype)
    if kind is GRU:
        layer.input.bias[8:16] = 6  # z near 1: τ of 400 steps
    else:
        layer.recurrent.weight.copy_(torch.eye(8))
        layer.input.weight *= 1e-3
        layer.input.bias.fill_(2e-4)
    x = source(1)(2, 600, 8).to(dtype)
    wanted = copy.deepcopy(layer).double()(x.double())
    y, state = layer.prefill(x)
    assert y.dtype == dtype and state.dtype == torch.float32
    assert (y.double() - wanted).abs().max() < 4 * torch.finfo(dtype).eps * wanted.abs().max()
    for x_t in x[:, :3].unbind(1):
        _, state = layer.step(x_t, state)
        assert state.dtype == torch.float32
    assert layer.initial_state(2).dtype == layer.initial_state(2, dtype=dtype).dtype
    assert layer.initial_state(2, dtype=F64).dtype == F64


@pytest.mark.parametrize("kind", [ElmanRNN, GRU])
@torch.no_grad()
def test_autocast_does_not_reach_the_recurrence(kind):
    """Only the product with the input is in bfloat16."""
    torch.manual_seed(0)
    layer, x = kind(8), source(1)(2, 50, 8).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer.prefill(x)
        u = layer.input(x)
        after, _ = layer.step(x[:, 0], state)
        first = layer.input(x[:, 0]).float()
    assert u.dtype == torch.bfloat16 and y.dtype == state.dtype == torch.float32
    h = torch.zeros(2, 8)
    for t in range(50):
        h = layer.cell(u[:, t].float(), layer.recurrent(h), h)
        close(y[:, t], h, 1e-6)
    close(after, layer.cell(first, layer.recurrent(h), h), 1e-6)


def test_weights_are_cast_once():
    """Else backward would keep a copy of them for every step."""
    gru, x = GRU(64).bfloat16(), torch.randn(1, 100, 64, dtype=torch.bfloat16)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y = gru(x)
    assert sum(kept.values()) < 100 * 64 * 4 * 20
    y.sum().backward()


@pytest.mark.parametrize("kind", [ElmanRNN, GRU])
@torch.no_grad()
def test_padding_leaves_the_state_as_it_was(kind):
    layer, draw = kind(5).double(), source(0)
    x, h = draw(3, 6, 5), draw(3, 5)
    mask = torch.arange(6) >= torch.tensor([0, 2, 5])[:, None]
    y, last = layer.prefill(x.where(mask[..., None], 1e3), h, mask)
    for row, first in enumerate([0, 2, 5]):
        wanted, alone = layer.prefill(x[row : row + 1, first:], h[row : row + 1])
        close(y[row, first:], wanted[0])
        close(last[row], alone[0])
        assert torch.equal(y[row, :first], h[row].expand(first, 5))
    close(layer(x, mask), layer.prefill(x, None, mask)[0])


# --- the Jacobian product ------------------------------------------------------------------------


@given(seed=seeds, d_model=widths)
def test_jacobian_product_is_that_of_autograd(seed, d_model):
    torch.manual_seed(seed)
    rnn = ElmanRNN(d_model).double()
    draw = source(seed)
    x, h_0 = draw(7, d_model), draw(d_model)

    def states(start):
        state, out = start[None], []
        for x_t in x.unbind(0):
            _, state = rnn.step(x_t[None], state)
            out.append(state[0])
        return torch.stack(out)

    J = torch.autograd.functional.jacobian(states, h_0)  # (length, d_model, d_model)
    close(jacobian_product_norms(rnn, x, h_0), torch.linalg.svdvals(J)[:, 0], 1e-10)
    J = torch.autograd.functional.jacobian(states, torch.zeros_like(h_0))
    close(jacobian_product_norms(rnn, x), torch.linalg.svdvals(J)[:, 0], 1e-10)


@pytest.mark.parametrize("radius", [0.5, 0.9, 1.0, 1.1])
def test_jacobian_product_at_rest_is_the_matrix_power(radius):
    torch.manual_seed(0)
    rnn = ElmanRNN(16, spectral_radius=radius).double()
    with torch.no_grad():
        rnn.input.bias.zero_()
    weight = rnn.recurrent.weight.detach()
    assert math.isclose(torch.linalg.eigvals(weight).abs().max().item(), radius, rel_tol=1e-6)
    norms = jacobian_product_norms(rnn, torch.zeros(400, 16, dtype=F64))
    assert not norms.requires_grad
    for t in (1, 2, 50):
        wanted = torch.linalg.matrix_norm(torch.linalg.matrix_power(weight, t), ord=2)
        close(norms[t - 1], wanted, 1e-10)
    rate = (norms[399] / norms[199]).item() ** (1 / 200)
    assert math.isclose(rate, radius, rel_tol=1e-2)


def test_saturation_holds_an_explosion_back():
    torch.manual_seed(0)
    rnn = ElmanRNN(16, spectral_radius=1.5).double()
    with torch.no_grad():
        rnn.input.bias.zero_()
    rest = jacobian_product_norms(rnn, torch.zeros(60, 16, dtype=F64))
    driven = jacobian_product_norms(rnn, 20 * source(0)(60, 16))
    assert rest[-1] > 1e6 and driven[-1] < 1e-3


@torch.no_grad()
def test_a_radius_of_zero_can_explode():
    """At rest W² = 0; with the second unit saturated and the first at 0, a factor 3 a step."""
    rnn = ElmanRNN(2).double()
    rnn.recurrent.weight.copy_(torch.tensor([[3.0, -3.0], [3.0, -3.0]]))
    rnn.input.weight.copy_(torch.eye(2))
    rnn.input.bias.zero_()
    assert torch.linalg.eigvals(rnn.recurrent.weight).abs().max() < 1e-6
    assert jacobian_product_norms(rnn, torch.zeros(9, 2, dtype=F64))[1:].max() < 1e-12
    x = torch.tensor([[3.0, 20.0]], dtype=F64).repeat(9, 1)
    x[0, 0] = 0
    norms = jacobian_product_norms(rnn, x)
    close(norms[1:] / norms[:-1], torch.full((8,), 3.0, dtype=F64), 1e-6)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", [ElmanRNN, GRU])
@pytest.mark.parametrize(
    ("d_model", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_bad_input_width(kind, d_model, error):
    with pytest.raises(error, match=f"^d_model: expected a whole number >= 1, got {d_model}"):
        kind(d_model)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: GRU(2, memory=1.5), ValueError, "^memory: expected .* >= 2, got 1.5"),
        (lambda: GRU(2, memory=math.inf), ValueError, "^memory: .*got inf"),
        (lambda: GRU(2, memory="long"), TypeError, "^memory: .*got 'long'"),
        (lambda: ElmanRNN(2, 0), ValueError, "^spectral_radius: expected .* > 0, got 0"),
        (lambda: ElmanRNN(2, math.nan), ValueError, "^spectral_radius: .*got nan"),
        (lambda: GRU(2).initial_state(0), ValueError, "^batch_size: .*got 0"),
    ],
)
def test_bad_input_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", [ElmanRNN, GRU])
@pytest.mark.parametrize("state", [torch.zeros(1, 4), torch.zeros(3, 3), torch.zeros(4), None])
def test_bad_input_state(kind, state):
    with pytest.raises(
        ValueError, match=r"^state: expected a floating-point tensor of shape \(3, 4\), got"
    ):
        kind(4).step(torch.zeros(3, 4), state)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("x", "initial", "error", "message"),
    [
        (torch.zeros(2, 5, 4), None, ValueError, r"^x: expected shape \(length, 4\).*got .*2, 5"),
        (torch.zeros(5, 3), None, ValueError, r"^x: expected shape \(length, 4\).*\(5, 3\)"),
        (torch.zeros(5, 4) / 0, None, ValueError, "^x: expected finite values, got 20"),
        ([[0.0] * 4], None, TypeError, "^x: .*got a list"),
        (torch.zeros(5, 4), torch.zeros(3), ValueError, r"^initial_state: .*\(4,\).*\(3,\)"),
    ],
)
def test_bad_input_jacobian(x, initial, error, message):
    with pytest.raises(error, match=message):
        jacobian_product_norms(ElmanRNN(4), x, initial)
