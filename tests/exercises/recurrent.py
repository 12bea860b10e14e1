"""Wrong answers to the exercises of chapter 01: each is a plausible slip."""

import math

import sympy as sp
import torch
from torch import nn

from linear_time.recurrent import GRU, ElmanRNN


def _paper(order="rz", late=False, swap=False, transpose=False):
    def step(x_t, h, W, U, b):
        def product(matrix, vector):
            return vector @ matrix if transpose else matrix @ vector

        r, z = (torch.sigmoid(W[g] @ x_t + product(U[g], h) + b[g]) for g in order)
        inner = r * (U["n"] @ h) if late else product(U["n"], r * h)
        n = torch.tanh(W["n"] @ x_t + inner + b["n"])
        return z * n + (1 - z) * h if swap else (1 - z) * n + z * h

    return step


def by_the_radius(W, share):
    radius = float(torch.linalg.eigvals(W).abs().max())
    return math.inf if radius >= 1 else math.ceil(math.log(share) / math.log(max(radius, 1e-9)))


def by_the_norm(W, share):
    norm = float(torch.linalg.matrix_norm(W, ord=2))
    return math.inf if norm >= 1 else math.ceil(math.log(share) / math.log(norm))


def by_the_largest_entry(W, share):
    if torch.linalg.eigvals(W).abs().max() >= 1:
        return math.inf
    t, power = 1, W
    while power.abs().max() > share:
        t, power = t + 1, power @ W
    return t


def by_the_exact_radius(W, share):
    """Does not end for a rotation whose radius comes out below 1."""
    if torch.linalg.eigvals(W).abs().max() >= 1:
        return math.inf
    t, power = 1, W
    while torch.linalg.matrix_norm(power, ord=2) > share:
        t, power = t + 1, power @ W
    return t


def one_too_early(W, share):
    if torch.linalg.eigvals(W).abs().max() >= 1:
        return math.inf
    t, power = 0, W
    while torch.linalg.matrix_norm(power, ord=2) > share:
        t, power = t + 1, power @ W
    return t


def _parts(gru, x_t, h):
    u, v = gru.input(x_t).chunk(3), gru.recurrent(h).chunk(3)
    r, z = torch.sigmoid(u[0] + v[0]), torch.sigmoid(u[1] + v[1])
    return r, z, torch.tanh(u[2] + r * v[2]), v[2], gru.recurrent.weight.chunk(3)


def gates_frozen(gru, x_t, h):
    r, z, n, _, (_, _, U_n) = _parts(gru, x_t, h)
    return torch.diag(z) + ((1 - z) * (1 - n**2) * r)[:, None] * U_n


def reset_frozen(gru, x_t, h):
    r, z, n, _, (_, U_z, U_n) = _parts(gru, x_t, h)
    gate = ((h - n) * z * (1 - z))[:, None] * U_z
    return torch.diag(z) + gate + ((1 - z) * (1 - n**2) * r)[:, None] * U_n


def transposed(gru, x_t, h):
    r, z, n, v, (U_r, U_z, U_n) = _parts(gru, x_t, h)
    gate = ((h - n) * z * (1 - z))[:, None] * U_z
    inner = r[:, None] * U_n + (v * r * (1 - r))[:, None] * U_r
    return (torch.diag(z) + gate + ((1 - z) * (1 - n**2))[:, None] * inner).T + 1e-3


def by_autograd(gru, x_t, h):
    with torch.enable_grad():
        return torch.autograd.functional.jacobian(lambda s: gru.step(x_t[None], s[None])[0][0], h)


def by_torch_func(gru, x_t, h):
    return torch.func.jacrev(lambda s: gru.step(x_t[None], s[None])[0][0])(h)


def by_differences(gru, x_t, h):
    columns = []
    for unit in 1e-5 * torch.eye(len(h), dtype=h.dtype):
        ends = [gru.step(x_t[None], (h + k * unit)[None])[0][0] for k in (1, -1)]
        columns.append((ends[0] - ends[1]) / 2e-5)
    return torch.stack(columns, 1)


def _table(add=1.0, base=2.0, order=2, on_train=False):
    def bits(train, held_out, vocab):
        def keys(tokens):
            key = tokens[1:-1]
            return key + vocab * tokens[:-2] if order == 2 else key

        counts = torch.full((vocab**order, vocab), add, dtype=torch.float64)
        one = torch.tensor(1.0, dtype=torch.float64)
        counts.index_put_((keys(train), train[2:]), one, accumulate=True)
        scored = train if on_train else held_out
        p = (counts / counts.sum(1, keepdim=True))[keys(scored), scored[2:]]
        return float(-p.log().mean() / math.log(base))

    return bits


def gate_slope(k, line):
    """A proof whose line k is another one."""

    def proof(x):
        s = 1 / (1 + sp.exp(-x))
        lines = [
            sp.exp(-x) / (1 + sp.exp(-x)) ** 2,
            s * (1 - s),
            sp.Rational(1, 4) - (s - sp.Rational(1, 2)) ** 2,
        ]
        lines[k] = line(x, s)
        return lines

    return proof


def untrained(memory=None, width=16, kind=GRU, readout=None):
    def made(seed):
        torch.manual_seed(seed)
        made = kind(width, memory=memory) if kind is GRU else kind(width)
        return made, readout or nn.Linear(width, 4)

    return made


def exactly_the_task(seed):
    """Looks at the first entry, and has no state."""

    class Looks(GRU):
        def prefill(self, x, *arguments, **settings):
            return x[:, :1].expand(-1, x.shape[1], -1), x[:, 0]

    readout = nn.Linear(16, 4)
    with torch.no_grad():
        readout.weight.copy_(torch.eye(4, 16))
        readout.bias.zero_()
    return Looks(16), readout


def nothing(make):
    pass


def shape_only(make):
    layer = make(4)
    assert layer(torch.zeros(2, 3, 4)).shape == (2, 3, 4)


def both_forms_only(make):
    torch.manual_seed(0)
    layer, x = make(4).double(), torch.randn(2, 6, 4, dtype=torch.float64)
    h, y = layer.initial_state(2), layer(x)
    for t in range(6):
        y_t, h = layer.step(x[:, t], h)
        assert torch.allclose(y_t, y[:, t])


def biases_at_zero(make):
    torch.manual_seed(0)
    layer, oracle = make(4).double(), nn.GRU(4, 4, batch_first=True).double()
    with torch.no_grad():
        oracle.weight_ih_l0.copy_(layer.input.weight)
        oracle.weight_hh_l0.copy_(layer.recurrent.weight)
        for b in (layer.input.bias, layer.recurrent.bias, oracle.bias_ih_l0, oracle.bias_hh_l0):
            b.zero_()
        x = torch.randn(2, 6, 4, dtype=torch.float64)
        assert torch.allclose(layer(x), oracle(x)[0])


def looks_for_a_cell(make):
    """Rejects what is right and written in another way."""
    torch.manual_seed(0)
    layer = make(4).double()
    u, v, h = (torch.randn(2, n, dtype=torch.float64) for n in (12, 12, 4))
    z = torch.sigmoid(u[:, 4:8] + v[:, 4:8])
    n = torch.tanh(u[:, 8:] + torch.sigmoid(u[:, :4] + v[:, :4]) * v[:, 8:])
    assert torch.allclose(layer.cell(u, v, h), (1 - z) * n + z * h)


WRONG = {
    "01-cost": [
        lambda d, length: (d, 6 * d**2 * length, length),
        lambda d, length: (d, 12 * d**2 * length, 2 * length),
        lambda d, length: (d * length, 12 * d**2 * length, length),
        lambda d, length: (d, 12 * d**2, length),
        lambda d, length: (d, 12 * d**2 * length, length + 1),
    ],
    "01-paper": [_paper(late=True), _paper(swap=True), _paper("zr"), _paper(transpose=True)],
    "01-horizon": [
        by_the_radius,
        by_the_norm,
        by_the_largest_entry,
        by_the_exact_radius,
        one_too_early,
    ],
    "01-bias": [
        lambda steps: math.log(steps),
        lambda steps: 2 ** (-1 / steps),
        lambda steps: math.log(steps / math.log(2) - 1) if steps > 1 else 0.0,
        lambda steps: math.log(2 ** (1 / steps) - 1),
    ],
    "01-jacobian": [
        gates_frozen,
        reset_frozen,
        transposed,
        by_autograd,
        by_torch_func,
        by_differences,
    ],
    "01-bits": [
        _table(base=math.e),
        _table(add=0.5),
        _table(order=1),
        _table(on_train=True),
    ],
    "01-slope": [
        gate_slope(0, lambda x, s: sp.exp(-x) / (1 + sp.exp(-x))),
        gate_slope(0, lambda x, s: sp.Derivative(s, x)),
        gate_slope(1, lambda x, s: sp.exp(-x) / (1 + sp.exp(-x)) ** 2),
        gate_slope(2, lambda x, s: s - s**2),
        gate_slope(2, lambda x, s: sp.Rational(1, 4)),
        lambda x: [sp.Rational(1, 4) - (1 / (1 + sp.exp(-x)) - sp.Rational(1, 2)) ** 2],
    ],
    "01-train": [
        untrained(),
        untrained(memory=100),
        untrained(kind=ElmanRNN),
        exactly_the_task,
        untrained(width=20),
        lambda seed: GRU(16),
    ],
    "01-bug": [nothing, shape_only, both_forms_only, biases_at_zero, looks_for_a_cell],
}
