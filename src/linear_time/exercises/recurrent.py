"""Checks of chapter 01."""

import math

import sympy as sp
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from linear_time.exercises import (
    Calls,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    expect_parts,
    no_derivatives,
    plain,
)
from linear_time.exercises.proof import expect_lines
from linear_time.recurrent import GRU

F64 = torch.float64


def random_gru(d_model, cases):
    """A GRU in float64 with every parameter drawn at random."""
    gru = GRU(d_model).double()
    for parameter in gru.parameters():
        parameter.data = cases.randn(*parameter.shape)
        parameter.requires_grad_(False)
    return gru


@exercise("01-cost")
def cost(answer, cases):
    drawn = [(cases.integer(2, 9), cases.integer(2, 9)) for _ in range(2)]
    for d_model, length in (*drawn, (cases.integer(2, 8), 1)):
        given = f"d_model = {d_model}, length = {length}"
        words = f"three numbers for {given}"
        got = expect_parts(answer(d_model, length), 3, words)
        gru = random_gru(d_model, cases)
        with FlopCounterMode(display=False) as counter:
            gru(cases.randn(1, length, d_model))
        flops = counter.get_total_flops()
        expect_equal(
            got[0],
            d_model,
            f"{given}, numbers of state",
            slips={"a state is not kept of every step": d_model * length},
        )
        expect_equal(
            got[1],
            flops,
            f"{given}, FLOPs",
            slips={
                "an addition belongs to each multiplication, and two matrices "
                "to each gate": flops // 2,
                "there are three gates": flops * 2 // 3,
                "that is one step's": flops // length,
            },
        )
        expect_equal(
            got[2],
            length,
            f"{given}, products in a row",
            slips={
                "the products with x need no state, and are one": length + 1,
                "the gates' products with h are stacked into one": 3 * length,
            },
        )


@exercise("01-slope")
def slope(answer, cases):
    x = sp.Symbol(cases.choice(["x", "u", "a"]), real=True)
    gate = 1 / (1 + sp.exp(-x))
    forms = [
        (
            "differentiated, with no derivative left to take",
            lambda line: not line.has(sp.Derivative),
        ),
        (
            "a product in which one factor is 1 − 1/(1 + e^{−x})",
            lambda line: isinstance(line, sp.Mul) and 1 - gate in line.args,
        ),
        (
            "a number minus a square",
            lambda line: (
                isinstance(line, sp.Add)
                and len(line.args) == 2
                and any(part.is_number for part in line.args)
                and any(
                    isinstance(-part, sp.Pow) and (-part).exp == 2
                    for part in line.args
                )
            ),
        ),
    ]
    expect_lines(answer(x), sp.Derivative(gate, x), forms, cases)


@exercise("01-paper")
def paper(answer, cases):
    for d_model in (1, cases.integer(2, 6)):
        W, U = (
            {g: cases.randn(d_model, d_model) for g in "rzn"} for _ in range(2)
        )
        b = {g: cases.randn(d_model) for g in "rzn"}
        x_t, h = cases.randn(d_model), cases.randn(d_model)
        r = torch.sigmoid(W["r"] @ x_t + U["r"] @ h + b["r"])
        z = torch.sigmoid(W["z"] @ x_t + U["z"] @ h + b["z"])
        n = torch.tanh(W["n"] @ x_t + U["n"] @ (r * h) + b["n"])
        late = torch.tanh(W["n"] @ x_t + r * (U["n"] @ h) + b["n"])
        expect_close(
            answer(x_t, h, W, U, b),
            z * h + (1 - z) * n,
            f"random weights of width {d_model}",
            slips={
                "that is the library's: its reset gate acts after the product": (
                    z * h + (1 - z) * late
                ),
                "z multiplies the old state": z * n + (1 - z) * h,
            },
        )


@exercise("01-horizon")
def horizon(answer, cases):
    tried = []
    for size, radius, share in (
        (1, 0.5, 0.1),
        (cases.integer(5, 8), cases.uniform(0.85, 0.95), 1e-3),
        (cases.integer(5, 8), 0.3, 0.5),
        (12, 0.95, 0.2),
        (cases.integer(3, 5), 0.995, 0.5),
    ):
        W = cases.randn(size, size)
        W = W * radius / torch.linalg.eigvals(W).abs().max()
        t, power = 1, W
        while torch.linalg.matrix_norm(power, ord=2) > share:
            t, power = t + 1, power @ W
        given = f"a random {size} × {size} matrix, ρ = {radius:.3f}, {share = }"
        slips = {
            "that is where ρᵗ falls below; the norm first rises": math.ceil(
                math.log(share) / math.log(radius)
            ),
            "a step too early": t - 1,
        }
        tried.append((W, share, t, given, slips))
    for degrees in range(cases.integer(1, 19), 360, 20):
        # The radius is 1, and for some of them comes out a little smaller.
        c, s = (f(math.radians(degrees)) for f in (math.cos, math.sin))
        turn = torch.tensor([[c, -s], [s, c]], dtype=F64)
        given = f"a turn by {degrees} degrees, share = 0.9"
        tried.append((turn, 0.9, math.inf, given, {}))
    shear = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=F64)
    nilpotent = torch.tensor([[0.0, 9.0], [0.0, 0.0]], dtype=F64)
    tried += [
        (shear, 0.5, math.inf, "[[1, 2], [0, 1]], share = 0.5", {}),
        (nilpotent, 0.1, 2, "[[0, 9], [0, 0]], share = 0.1", {}),
    ]
    for W, share, want, given, slips in tried:
        with Calls(most=20_000):
            got = answer(W.clone(), share)
        expect_equal(got, want, given, slips=slips)


@exercise("01-bias")
def bias(answer, cases):
    for steps in (1, 2, cases.integer(3, 30), cases.integer(300, 3000)):
        z = 2 ** (-1 / steps)
        expect_close(
            answer(steps),
            math.log(z / (1 - z)),
            f"{steps} steps",
            slips={
                "that is z, and not the bias": z,
                "that leaves 1/e, not a half": (
                    math.log(steps - 1) if steps > 1 else math.nan
                ),
            },
        )


@exercise("01-jacobian")
def jacobian(answer, cases):
    for d_model in (1, 2, cases.integer(3, 6)):
        gru = random_gru(d_model, cases)
        x_t, h = cases.randn(d_model), cases.randn(d_model)
        wanted = torch.autograd.functional.jacobian(
            lambda s, gru=gru, x_t=x_t: gru.step(x_t[None], s[None])[0][0], h
        )
        with no_derivatives():
            got = answer(gru, x_t.clone(), h.clone())
        # so near that differences of two states do not do
        given = f"a random GRU of width {d_model}"
        expect_close(got, wanted, given, rtol=1e-12, atol=1e-13)


@exercise("01-bits")
def bits(answer, cases):
    for vocab, length in ((2, cases.integer(20, 40)), (5, 200)):
        train, held_out = (
            torch.tensor([cases.integer(0, vocab - 1) ** 2 for _ in range(n)])
            % vocab
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
        want = total / (len(held_out) - 2)
        expect_close(
            answer(train, held_out, vocab),
            want,
            f"{length} tokens of {vocab} kinds",
            slips={
                "those are nats": want * math.log(2),
                "the two tokens that are left out count in the mean": (
                    total / len(held_out)
                ),
            },
        )


#: The task of 01-train: how many steps lie between a signal and the question.
SPAN = 60


def first_of_many(batch, generator):
    """Sequences of noise whose first entry is one of four signals.

    Args:
        batch: how many sequences.
        generator: torch's, where they are drawn from.

    Returns:
        The inputs (batch, SPAN, 16) in float32, and the signals (batch,),
        whole numbers from 0 to 3.
    """
    signal = torch.randint(4, (batch,), generator=generator)
    x = torch.randn(batch, SPAN, 16, generator=generator, dtype=torch.float32)
    x[:, 0] = 0
    x[torch.arange(batch), 0, signal] = 4
    return x, signal


@exercise("01-train")
def trained(answer, cases):
    for _ in range(2):
        seed = cases.integer(0, 10**6)
        with torch.enable_grad():
            gru, readout = expect_parts(
                answer(seed), 2, "a pair: a GRU and a linear readout"
            )
        expect(
            type(gru) is GRU,
            "Expected the library's GRU, as it is: a class of its own may look "
            "at the input past the state.",
        )
        generator = torch.Generator().manual_seed(cases.integer(0, 10**6))
        x, signal = first_of_many(500, generator)
        with torch.no_grad():
            y = GRU.forward(gru.float(), x)[:, -1]
            guess = nn.functional.linear(
                y, plain(readout.weight).float(), plain(readout.bias).float()
            ).argmax(1)
        right = float((guess == signal).double().mean())
        expect(
            right > 0.6,
            f"Of 500 new sequences {right:.0%} are answered rightly, where more "
            "than 60 % are asked for, and 25 % are chance.",
        )


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


class _ByTorch(GRU):
    """The same, by torch's own cell."""

    def cell(self, u, v, h):
        raise AssertionError("it has no cell of its own")

    def prefill(self, x, *arguments, **settings):
        h = self.initial_state(len(x), dtype=x.dtype)
        outputs = []
        for x_t in x.unbind(1):
            y_t, h = self.step(x_t, h)
            outputs.append(y_t)
        return torch.stack(outputs, 1), h

    def forward(self, x, *arguments, **settings):
        return self.prefill(x)[0]

    def step(self, x_t, state):
        maps = (self.input, self.recurrent)
        weights = [m.weight for m in maps] + [m.bias for m in maps]
        h = torch.gru_cell(x_t, state, *weights)
        return h, h


def _as_a_step_towards(u_r, u_z, u_n, v_r, v_z, v_n, h, layer):
    n = torch.tanh(u_n + v_n * torch.sigmoid(u_r + v_r))
    return h + torch.sigmoid(-u_z - v_z) * (n - h)


@exercise("01-bug")
def bug(answer, cases):
    bugs = {
        "the reset gate acts before the product": changed(_reset_first),
        "the gates r and z are swapped": changed(_gates_swapped),
        "z multiplies the candidate": changed(_z_on_the_new),
        "the reset gate is missing": changed(_no_reset),
        "the bias c_n stands outside the reset gate": changed(_bias_outside),
        "step returns the state before the step as its output": _Late,
    }
    right = [GRU, _ByTorch, changed(_as_a_step_towards)]
    expect_finds_bug(answer, right, bugs, cases=cases)
