"""Chapter 21: the recurrence of Mamba-3 in three forms, its rank, its turn, and the block.

The authors' reference stands in their repository's tests alone, so the oracles are the equation
written out, a complex state, and chapter 12's rules.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from helpers import close, count_flops, draw, lively, stepped
from linear_time import recurrences
from linear_time.cost import cost
from linear_time.duality import ssd
from linear_time.mamba3 import Mamba3, Mamba3State, mamba3_cost
from linear_time.training import parameter_groups
from linear_time.trapezoid import (
    Before,
    rotate,
    trapezoidal,
    trapezoidal_recurrent,
)

F64 = torch.float64
seeds = st.integers(0, 2**31 - 1)


def system(batch=2, length=23, heads=3, rank=2, P=4, N=5, seed=0):
    """x, Δ, A, λ, B, C."""
    x, B, C = (draw(batch, length, heads, rank, n, seed=seed + i) for i, n in enumerate((P, N, N)))
    delta, lam = (torch.sigmoid(draw(batch, length, heads, seed=seed + i)) for i in (3, 4))
    return x, delta, -draw(batch, length, heads, seed=seed + 5).abs(), lam, B, C


def before(batch=2, heads=3, rank=2, P=4, N=5, seed=9):
    sizes = (heads, P, N), (heads, rank, P), (heads, rank, N)
    return Before(*(draw(batch, *s, seed=seed + i) for i, s in enumerate(sizes)))


def written_out(x, delta, A, lam, B, C, start):
    """Loops over everything, from the three lines of the module."""
    S, x_old, B_old = (value.clone() for value in start)
    batch, length, heads, rank, _ = x.shape
    y = torch.zeros_like(x)
    for b in range(batch):
        for h in range(heads):
            for t in range(length):
                alpha = math.exp(delta[b, t, h] * A[b, t, h])
                beta = (1 - lam[b, t, h]) * delta[b, t, h] * alpha
                gamma = lam[b, t, h] * delta[b, t, h]
                S[b, h] *= alpha
                for r in range(rank):
                    S[b, h] += beta * torch.outer(x_old[b, h, r], B_old[b, h, r])
                    S[b, h] += gamma * torch.outer(x[b, t, h, r], B[b, t, h, r])
                x_old[b, h], B_old[b, h] = x[b, t, h], B[b, t, h]
                for r in range(rank):
                    y[b, t, h, r] = S[b, h] @ C[b, t, h, r]
    return y, Before(S, x_old, B_old)


@given(
    seed=seeds,
    batch=st.integers(1, 2),
    length=st.integers(1, 13),
    heads=st.integers(1, 3),
    rank=st.integers(1, 3),
    P=st.integers(1, 4),
    N=st.integers(1, 4),
    chunk=st.integers(1, 17),
)
def test_all_forms_are_the_three_lines(seed, batch, length, heads, rank, P, N, chunk):
    inputs = system(batch, length, heads, rank, P, N, seed)
    start = before(batch, heads, rank, P, N, seed)
    y, last = written_out(*inputs, start)
    none = written_out(*inputs, Before(*(0 * value for value in start)))[0]
    for form in (trapezoidal_recurrent, lambda *a, **k: trapezoidal(*a, chunk=chunk, **k)):
        got, after = form(*inputs, True, initial_state=start)
        close(got, y, 1e-10)
        for one, other in zip(after, last, strict=True):
            close(one, other, 1e-10)
        close(form(*inputs), none, 1e-10)


@pytest.mark.parametrize("chunk", [1, 4, 7, 64])
def test_the_gradients_of_all_forms_are_one(chunk):
    inputs = [value.requires_grad_() for value in system()]
    start = Before(*(value.requires_grad_() for value in before()))
    weight, state_weight = draw(2, 23, 3, 2, 4, seed=10), draw(2, 3, 4, 5, seed=11)

    def gradients(form, **options):
        y, last = form(*inputs, True, initial_state=start, **options)
        total = (weight * y).sum() + (state_weight * last.S).sum()
        return torch.autograd.grad(total, [*inputs, *start])

    wanted = gradients(trapezoidal_recurrent)
    for got, want in zip(gradients(trapezoidal, chunk=chunk), wanted, strict=True):
        close(got, want, 1e-10)


def test_it_is_that_of_the_family():
    x, delta, A, lam, B, C = system(rank=1)
    terms = recurrences.mamba3(x[..., 0, :], delta, A, lam, B[..., 0, :], C[..., 0, :])
    y, S = recurrences.recurrence(terms, True)
    got, after = trapezoidal(x, delta, A, lam, B, C, True)
    close(got[..., 0, :], y)
    close(after.S, S)


def test_lambda_of_one_and_one_A_a_head_is_ssd():
    x, delta, _, lam, B, C = system(rank=1)
    A = -torch.rand(3, dtype=F64)
    want = ssd(x[..., 0, :], delta, A, B[..., 0, :], C[..., 0, :])
    y = trapezoidal(x, delta, A.expand_as(delta), torch.ones_like(lam), B, C)
    close(y[..., 0, :], want)


def test_ranks_are_summed():
    """Rank 2 is what its two inputs give, each read by both."""
    x, delta, A, lam, B, C = system()
    y = trapezoidal(x, delta, A, lam, B, C)
    parts = 0
    for r in range(2):
        one = [value[:, :, :, r, None] for value in (x, B)]
        reads = [trapezoidal(one[0], delta, A, lam, one[1], C[:, :, :, s, None]) for s in (0, 1)]
        parts = parts + torch.cat(reads, dim=3)
    close(y, parts, 1e-11)


@pytest.mark.parametrize(("lam", "order"), [(1.0, 1.0), (0.7, 1.0), (0.5, 2.0)])
def test_its_order_is_two_at_one_half_alone(lam, order):
    """h′ = −h + sin 3t, against its solution at t = 2."""
    errors = []
    for n in (400, 800):
        delta = 2 / n
        t = delta * torch.arange(1, n + 1, dtype=F64)
        x = torch.sin(3 * t)[None, :, None, None, None]
        one = torch.ones(1, n, 1, dtype=F64)
        vector = torch.ones(1, n, 1, 1, 1, dtype=F64)
        y = trapezoidal(x, delta * one, -one, lam * one, vector, vector)
        exact = (math.sin(6) - 3 * math.cos(6) + 3 * math.exp(-2)) / 10
        errors.append(abs(float(y[0, -1, 0, 0, 0]) - exact))
    assert abs(math.log2(errors[0] / errors[1]) - order) < 0.1


def test_a_complex_state_is_a_real_one_that_is_turned():
    """exp(Δ (A + iθ)) by pairs, against B and C turned by all angles until theirs."""
    x, delta, A, lam, B, C = system(1, 17, 2, 1, 3, 6)
    theta = draw(1, 17, 2, 3, seed=20)
    angle = (delta[..., None] * theta).cumsum(1)
    turned = [rotate(value, angle[:, :, :, None]) for value in (B, C)]
    y = trapezoidal(x, delta, A, lam, *turned)
    pairs = [torch.view_as_complex(value[..., 0, :].unflatten(-1, (3, 2))) for value in (B, C)]
    S = torch.zeros(1, 2, 3, 3, dtype=torch.complex128)
    late = torch.zeros_like(S)
    outputs = []
    for t in range(17):
        a = torch.exp(delta[:, t, :, None] * torch.complex(A[:, t, :, None], -theta[:, t]))
        write = x[:, t, :, 0, :, None] * pairs[0][:, t, :, None, :]
        step = delta[:, t, :, None, None]
        weight = lam[:, t, :, None, None]
        S = a[:, :, None] * (S + (1 - weight) * step * late) + weight * step * write
        late = write
        outputs.append((S * pairs[1][:, t, :, None, :].conj()).sum(-1).real)
    close(y[:, :, :, 0], torch.stack(outputs, 1), 1e-11)


def test_what_is_not_turned_stays():
    x = draw(2, 7)
    y = rotate(x, torch.full((2, 2), math.pi / 2, dtype=F64))
    close(y[:, 4:], x[:, 4:])
    close(y[:, :4], torch.stack([-x[:, 1], x[:, 0], -x[:, 3], x[:, 2]], 1))


@pytest.mark.bad_input
def test_bad_arguments():
    x, delta, A, lam, B, C = system()
    for at, value, says in (
        (0, x[..., 0], r"^x: expected shape \(batch, length, heads, rank, P\)"),
        (1, delta[:, 1:], r"^delta: expected shape \(2, 23, 3\)"),
        (1, -delta, "^delta: expected step sizes >= 0, got -"),
        (2, -A, "^A: expected numbers <= 0, got "),
        (3, 2 + lam, r"^lam: expected numbers in \[0, 1\], got 2"),
        (3, lam - 1, r"^lam: expected numbers in \[0, 1\], got -0"),
        (4, B[:, :, :, :1], r"^B: expected shape \(2, 23, 3, 2, N\)"),
        (5, C[..., 1:], r"^C: expected shape \(2, 23, 3, 2, 5\)"),
        (5, C.float(), "^C: expected the precision of x"),
    ):
        inputs = [x, delta, A, lam, B, C]
        inputs[at] = value
        for form in (trapezoidal, trapezoidal_recurrent):
            with pytest.raises((TypeError, ValueError), match=says):
                form(*inputs)
    with pytest.raises(ValueError, match=r"^initial_state.S: expected"):
        trapezoidal(x, delta, A, lam, B, C, initial_state=before(P=3))
    single = [one.float() for one in (x, delta, A, lam, B, C)]
    with pytest.raises((TypeError, ValueError), match=r"^initial_state.S: expected the precision"):
        trapezoidal(*single, initial_state=before())
    for options, says in (
        ({"P": 5}, "^P: expected a divisor of d_inner = 16, got 5"),
        ({"P": 4, "N": 3}, "^N: expected at least 4, one pair, got 3"),
        ({"P": 4, "rank": 0}, "^rank: expected a whole number >= 1, got 0"),
        ({"P": 4, "A_floor": 0}, "^A_floor: expected a finite number > 0, got 0"),
    ):
        with pytest.raises(ValueError, match=says):
            Mamba3(8, **options)
    with pytest.raises(ValueError, match=r"^state.angle: expected"):
        Mamba3(8, P=4).step(torch.zeros(2, 8), (1, 2))


# --- the block -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 2])
@torch.no_grad()
def test_the_block_is_what_its_docstring_says(rank):
    layer = lively(Mamba3(8, 8, P=4, rank=rank, chunk=4)).double()
    x, H, R = draw(2, 11, 8), 4, rank
    sizes = [16, 16, R * 8, R * 8, H, H, H, 2]
    z, u, B, C, delta, a, lam, theta = (x @ layer.in_proj.weight.T).split(sizes, -1)
    B, C = (value.unflatten(-1, (1, R, 8)) for value in (B, C))
    B = nn.functional.rms_norm(B, (8,), layer.B_norm.weight, 1e-5) + layer.B_bias
    C = nn.functional.rms_norm(C, (8,), layer.C_norm.weight, 1e-5) + layer.C_bias
    delta = nn.functional.softplus(delta + layer.dt_bias)
    A = -torch.maximum(nn.functional.softplus(a), torch.tensor(1e-4))
    angle = (math.pi * theta.tanh()[:, :, None] * delta[..., None]).cumsum(1)[:, :, :, None]
    u, z = (value.unflatten(-1, (4, 1, 4)) for value in (u, z))
    if rank > 1:
        u, z = u * layer.mimo_x, z * layer.mimo_z
    y = trapezoidal_recurrent(u, delta, A, lam.sigmoid(), rotate(B, angle), rotate(C, angle))
    y = (y + layer.D[:, None, None] * u) * nn.functional.silu(z)
    y = (y * layer.mimo_o if rank > 1 else y).sum(3).flatten(2)
    close(layer(x), y @ layer.out_proj.weight.T, 1e-10)
    close(stepped(layer, x)[0], y @ layer.out_proj.weight.T, 1e-10)


@torch.no_grad()
def test_a_padded_prompt_may_continue_a_state():
    """The token before the padding still writes, with the first that follows."""
    layer = lively(Mamba3(8, 8, P=4, chunk=4)).double()
    x = draw(2, 12, 8)
    _, state = layer.prefill(x[:, :5])
    want, last = layer.prefill(x[:, 5:], state)
    padded = torch.cat([1e3 * draw(2, 3, 8, seed=3), x[:, 5:]], 1)  # steps of any size
    mask = torch.arange(10).expand(2, -1) >= 3
    y, after = layer.prefill(padded, state, mask)
    close(y[:, 3:], want, 1e-10)
    for one, other in zip(after, last, strict=True):
        close(one, other, 1e-10)


@pytest.mark.parametrize("rank", [1, 2])
@torch.no_grad()
def test_a_state_is_handed_on_between_pieces(rank):
    """Its angle, table and last token; it is in the dtype that is asked for, and holds no more."""
    layer = lively(Mamba3(8, 8, P=4, rank=rank, chunk=4))
    first = layer.initial_state(2, dtype=F64)
    assert all(part.dtype == F64 for part in first)
    layer, x = layer.double(), draw(2, 12, 8)
    y, last = layer.prefill(x)
    assert all(part.untyped_storage().nbytes() == part.nbytes for part in last)
    pieces, state = [], first
    for cut in (slice(0, 1), slice(1, 6), slice(6, 11)):
        piece, state = layer.prefill(x[:, cut], state)
        pieces.append(piece)
    piece, state = layer.step(x[:, 11], state)
    close(torch.cat([*pieces, piece[:, None]], 1), y, 1e-10)
    for one, other in zip(state, last, strict=True):
        close(one, other, 1e-10)


@pytest.mark.parametrize("rank", [1, 3])
def test_the_cost_is_read_from_the_layer(rank):
    layer = Mamba3(8, 8, P=4, rank=rank, chunk=4).double()
    made = cost(layer, 16)
    assert made.parameters == sum(p.numel() for p in layer.parameters())
    assert made.state == sum(part.numel() for part in layer.initial_state(1))
    x = draw(1, 16, 8)
    with torch.no_grad():
        assert made.forward_flops == count_flops(layer, x)
        taken = count_flops(layer.step, x[:, 0], layer.initial_state(1, dtype=F64))
    assert made.step_flops == taken + 5 * 4 * 4 * 8
    assert made.depth == 1 + 3 + 4
    with pytest.raises(ValueError, match=r"^chunk: expected a whole number"):
        mamba3_cost(4, 8, chunk=0)


def test_the_start():
    torch.manual_seed(0)
    layer = Mamba3(200, 8, P=1, rank=2)
    step = nn.functional.softplus(layer.dt_bias)
    assert 1e-3 <= step.min() < 1.5e-3 and 0.07 < step.max() <= 0.1 + 1e-6
    assert (layer.B_bias == 1).all() and (layer.C_bias == 1).all() and (layer.D == 1).all()
    assert (layer.mimo_x == 0.5).all() and (layer.mimo_o == 0.5).all()
    assert (layer.mimo_z == 1).all()
    groups = parameter_groups(layer, 0.1, 1e-3)
    names = {id(p): name for name, p in layer.named_parameters()}
    free = {names[id(p)] for g in groups if not g["weight_decay"] for p in g["params"]}
    assert free == {"dt_bias", "B_bias", "C_bias", "D", "B_norm.weight", "C_norm.weight"}
    assert layer.bfloat16().dt_bias.dtype == torch.float32


@torch.no_grad()
def test_no_head_keeps_all():
    layer = Mamba3(8, 8, P=4, A_floor=0.7)
    A = layer.project(draw(4, 9, 8, dtype=torch.float32))[5]
    assert A.max() == -torch.tensor(0.7) and A.min() < -0.7


@torch.no_grad()
def test_the_angle_is_kept_within_a_turn():
    layer = lively(Mamba3(8, 8, P=4)).double()
    x = 5 * draw(1, 300, 8)
    _, state = layer.prefill(x)
    assert isinstance(state, Mamba3State)
    assert (state.angle >= 0).all() and (state.angle < 2 * math.pi).all()
    after = stepped(layer, x)[1]
    close(after.angle, state.angle, 1e-8)
    close(after.S, state.S, 1e-8)
