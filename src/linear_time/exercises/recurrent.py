"""Checks of chapter 01."""

import math

import torch
from torch.utils.flop_counter import FlopCounterMode

from linear_time.exercises import (
    Calls,
    draws,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    no_derivatives,
)
from linear_time.recurrent import GRU

F64 = torch.float64


def random_gru(d_model, seed=0):
    """A GRU in float64 with every parameter drawn at random."""
    gru, draw = GRU(d_model).double(), draws(seed)
    for parameter in gru.parameters():
        parameter.data = draw(*parameter.shape)
        parameter.requires_grad_(False)
    return gru


@exercise("01-cost")
def cost(answer):
    for d_model, length in ((3, 5), (8, 1), (16, 40)):
        given = f"d_model = {d_model}, length = {length}"
        got = answer(d_model, length)
        gru = random_gru(d_model)
        with FlopCounterMode(display=False) as counter:
            gru(draws()(1, length, d_model))
        expect(
            isinstance(got, tuple) and len(got) == 3,
            f"For {given}: expected three numbers, got {got!r}.",
        )
        expect_equal(got[0], d_model, f"{given}, numbers of state")
        expect_equal(got[1], counter.get_total_flops(), f"{given}, FLOPs")
        expect_equal(got[2], length, f"{given}, products in a row")


@exercise("01-paper")
def paper(answer):
    draw = draws()
    for d_model in (1, 4):
        W, U = ({g: draw(d_model, d_model) for g in "rzn"} for _ in range(2))
        b = {g: draw(d_model) for g in "rzn"}
        x_t, h = draw(d_model), draw(d_model)
        r = torch.sigmoid(W["r"] @ x_t + U["r"] @ h + b["r"])
        z = torch.sigmoid(W["z"] @ x_t + U["z"] @ h + b["z"])
        n = torch.tanh(W["n"] @ x_t + U["n"] @ (r * h) + b["n"])
        got = answer(x_t, h, W, U, b)
        given = f"random weights of width {d_model}"
        expect_close(got, z * h + (1 - z) * n, given)


@exercise("01-horizon")
def horizon(answer):
    draw = draws()
    for size, radius, share in (
        (1, 0.5, 0.1),
        (6, 0.9, 1e-3),
        (6, 0.3, 0.5),
        (12, 0.95, 0.2),
        (4, 0.995, 0.5),
    ):
        W = draw(size, size)
        W = W * radius / torch.linalg.eigvals(W).abs().max()
        t, power = 1, W
        while torch.linalg.matrix_norm(power, ord=2) > share:
            t, power = t + 1, power @ W
        given = f"a random {size} × {size} matrix, ρ = {radius}, {share = }"
        with Calls(most=20_000):
            expect_equal(answer(W.clone(), share), t, given)
    for degrees in range(5, 360, 20):
        # The radius is 1, and for some of them comes out a little smaller.
        c, s = (f(math.radians(degrees)) for f in (math.cos, math.sin))
        turn = torch.tensor([[c, -s], [s, c]], dtype=F64)
        with Calls(most=20_000):
            got = answer(turn, 0.9)
        expect_equal(got, math.inf, f"a turn by {degrees} degrees, share = 0.9")
    shear = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=F64)
    given = "[[1, 2], [0, 1]], share = 0.5"
    expect_equal(answer(shear, 0.5), math.inf, given)
    nilpotent = torch.tensor([[0.0, 9.0], [0.0, 0.0]], dtype=F64)
    expect_equal(answer(nilpotent, 0.1), 2, "[[0, 9], [0, 0]], share = 0.1")


@exercise("01-bias")
def bias(answer):
    for steps in (1, 2, 10, 1000):
        got = answer(steps)
        expect_close(got, -math.log(2 ** (1 / steps) - 1), f"{steps} steps")


@exercise("01-jacobian")
def jacobian(answer):
    for d_model, seed in ((1, 0), (2, 1), (5, 2)):
        gru, draw = random_gru(d_model, seed), draws(seed + 10)
        x_t, h = draw(d_model), draw(d_model)
        wanted = torch.autograd.functional.jacobian(
            lambda s, gru=gru, x_t=x_t: gru.step(x_t[None], s[None])[0][0], h
        )
        given = f"a random GRU of width {d_model}"
        with no_derivatives():
            got = answer(gru, x_t.clone(), h.clone())
        # so near that differences of two states do not do
        expect_close(got, wanted, given, rtol=1e-12, atol=1e-13)


@exercise("01-bits")
def bits(answer):
    generator = torch.Generator().manual_seed(0)
    for vocab, length in ((2, 30), (5, 200)):
        train, held_out = (
            torch.randint(vocab, (n,), generator=generator) ** 2 % vocab
            for n in (length, 40)
        )
        counts = {}
        for i in range(2, length):
            key = tuple(train[i - 2 : i + 1].tolist())
            counts[key] = counts.get(key, 0) + 1
        total = 0.0
        for i in range(2, len(held_out)):
            a, b, c = held_out[i - 2 : i + 1].tolist()
            all_next = sum(counts.get((a, b, k), 0) for k in range(vocab))
            share = (counts.get((a, b, c), 0) + 1) / (all_next + vocab)
            total -= math.log2(share)
        given = f"{length} tokens of {vocab} kinds"
        got = answer(train, held_out, vocab)
        expect_close(got, total / (len(held_out) - 2), given)


def changed(cell):
    """A GRU whose cell is ``cell(u_r, u_z, u_n, v_r, v_z, v_n, h, layer)``."""

    class Changed(GRU):
        def cell(self, u, v, h):
            return cell(*u.chunk(3, -1), *v.chunk(3, -1), h, self)

    return Changed


def _mix(r, z, n, h):
    return (1 - z) * n + z * h


def _reset_first(u_r, u_z, u_n, v_r, v_z, v_n, h, layer):
    d, s = layer.d_model, torch.sigmoid
    U_n, c_n = layer.recurrent.weight[2 * d :], layer.recurrent.bias[2 * d :]
    r = s(u_r + v_r)
    n = torch.tanh(u_n + (r * h) @ U_n.T + c_n)
    return _mix(r, s(u_z + v_z), n, h)


def _gates_swapped(u_r, u_z, u_n, v_r, v_z, v_n, h, layer):
    r, z = torch.sigmoid(u_z + v_z), torch.sigmoid(u_r + v_r)
    return _mix(r, z, torch.tanh(u_n + r * v_n), h)


def _z_on_the_new(u_r, u_z, u_n, v_r, v_z, v_n, h, layer):
    r, z = torch.sigmoid(u_r + v_r), torch.sigmoid(u_z + v_z)
    return _mix(r, 1 - z, torch.tanh(u_n + r * v_n), h)


def _no_reset(u_r, u_z, u_n, v_r, v_z, v_n, h, layer):
    return _mix(None, torch.sigmoid(u_z + v_z), torch.tanh(u_n + v_n), h)


def _bias_outside(u_r, u_z, u_n, v_r, v_z, v_n, h, layer):
    c_n = layer.recurrent.bias[2 * layer.d_model :]
    r, z = torch.sigmoid(u_r + v_r), torch.sigmoid(u_z + v_z)
    return _mix(r, z, torch.tanh(u_n + r * (v_n - c_n) + c_n), h)


class _Late(GRU):
    def step(self, x_t, state):
        _, new = super().step(x_t, state)
        return state, new


@exercise("01-bug")
def bug(answer):
    bugs = {
        "the reset gate acts before the product": changed(_reset_first),
        "the gates r and z are swapped": changed(_gates_swapped),
        "z multiplies the candidate": changed(_z_on_the_new),
        "the reset gate is missing": changed(_no_reset),
        "the bias c_n stands outside the reset gate": changed(_bias_outside),
        "step returns the state before the step as its output": _Late,
    }
    expect_finds_bug(answer, GRU, bugs, "implementation")
