"""Wrong answers to the exercises of chapter 22: each is a plausible slip."""

import math

import numpy as np
import torch
from torch.nn.functional import normalize

from linear_time.limits import swaps


def _counter(share=1.0, size=1.0, numbers=2):
    def answer(m):
        c, s = math.cos(share * 2 * math.pi / m), math.sin(share * 2 * math.pi / m)
        A = size * torch.tensor([[c, s], [-s, c]])
        return A, torch.tensor([1.0, 0.0])[:numbers]

    return answer


def _uneven(m):
    """Right at the end, and two counts nearly the same: an ellipse."""
    c, s = math.cos(2 * math.pi / m), math.sin(2 * math.pi / m)
    squeeze = torch.diag(torch.tensor([1.0, 10.0], dtype=torch.float64))
    A = torch.tensor([[c, s], [-s, c]], dtype=torch.float64)
    return squeeze @ A @ squeeze.inverse(), torch.tensor([1.0, 0.0])


def _growing(m):
    """Right for two counts of one state, and no other state comes back."""
    if m == 2:
        return torch.diag(torch.tensor([-1.0, 100.0])), torch.tensor([1.0, 0.0])
    return _counter()(m)


def _mirrors(inverse=False, unit=True, more=False, order=1):
    def answer(permutation):
        n = len(permutation)
        if inverse:
            permutation = sorted(range(n), key=permutation.__getitem__)
        pairs = swaps(permutation)[::order]
        if more and n > 1:
            pairs = [*pairs, (0, 1), (0, 1)]
        keys = torch.zeros(len(pairs), n)
        for row, (i, j) in zip(keys, pairs, strict=True):
            row[i], row[j] = 1.0, -1.0
        return keys * (0.5**0.5 if unit else 1)

    return answer


def nothing(follow):
    pass


def shape_only(follow):
    moves = torch.rand(6, 5).argsort(-1)
    assert follow(moves).shape == moves.shape


def _compared(n=5, length=20, swap=False):
    """Right, but where few places, tokens or swaps hide something."""

    def test(follow):
        noise = torch.Generator().manual_seed(0)
        moves = torch.rand(length, n, generator=noise).argsort(-1)
        if swap:
            moves = torch.arange(n).repeat(length, 1)
            moves[:, [0, 1]] = moves[:, [1, 0]]
        now, rows = torch.arange(n), []
        for move in moves:
            now = now[move]
            rows.append(now)
        assert torch.equal(follow(moves).long(), torch.stack(rows))

    return test


def composed_by_a_loop(permutations):
    now = torch.arange(permutations.shape[1])
    for move in permutations:
        now = now[move]
    return now


def composed_in_lists(permutations):
    """The same loop where no call to torch is seen."""
    now = list(range(permutations.shape[1]))
    for move in permutations.tolist():
        now = [now[i] for i in move]
    return torch.tensor(now)


def composed_in_numpy(permutations):
    now = np.arange(permutations.shape[1])
    for move in permutations.numpy():
        now = now[move]
    return torch.from_numpy(now)


def composed_by_operators(permutations):
    """And where the calls are no functions of torch, but its operators."""
    now = torch.arange(permutations.shape[1])
    for move in torch.ops.aten.unbind.int(permutations):
        now = torch.ops.aten.gather.default(now, 0, move)
    return now


def _composed(turned=False, even=False, most=5000):
    def answer(permutations):
        permutations = permutations[:most]
        while len(permutations) > 1:
            if len(permutations) % 2:
                rest = torch.arange(permutations.shape[1])[None]
                permutations = permutations[:-1] if even else torch.cat([permutations, rest])
            one, other = permutations[0::2], permutations[1::2]
            permutations = other.gather(1, one) if turned else one.gather(1, other)
        return permutations[0]

    return answer


def _error(root=False, square=False, sums=False, bound=False):
    def answer(keys, values):
        if bound:
            return max(0.0, 1 - keys.shape[1] / len(keys))
        if sums:
            units = normalize(keys, dim=1)
            table = units.T @ values
        elif square:
            table = (
                torch.linalg.inv(keys.T @ keys + 1e-2 * torch.eye(keys.shape[1])) @ keys.T @ values
            )
        else:
            table = torch.linalg.pinv(keys) @ values
        left = (values - (units if sums else keys) @ table).square().sum() / values.square().sum()
        return float(left.sqrt() if root else left)

    return answer


def _refutation(n=40, near=False, long=False, kinds=2, trained=False):
    def answer():
        noise = torch.Generator().manual_seed(0)
        keys = normalize(torch.randn(n, 32, generator=noise, dtype=torch.float64), dim=1)
        if near:
            keys[1:] = keys[:1]
        symbols = torch.arange(n) % kinds
        return (3 * keys if long else keys), symbols

    return answer


def _balance(layers_all=False, values=True, size=4, off=1, attend_all=False, states_held=True):
    def answer(layers, one_in, d, N, kv, tokens):
        attending = layers if attend_all else layers // one_in
        states = layers if layers_all else layers - layers // one_in
        state = size * states * (2 * d * N + 3 * (2 * d + 2 * N))
        a_token = 2 * attending * (2 if values else 1) * kv
        return state // a_token + off, (state * states_held + a_token * tokens, "B")

    return answer


WRONG = {
    "22-rise": [
        lambda a, b, h: [a * (a * h + b) + b - a * h - b, a * (a * h + b - h)],
        lambda a, b, h: [a**2 * h + a * b - a * h] * 2,
        lambda a, b, h: [a**2 * h + a * b - h, a * (a * h + b - h)],
        lambda a, b, h: [a**2 * h + a * b - a * h, a * h + b - h],
        lambda a, b, h: [a**2 * h + a * b - a * h],
        lambda a, b, h: [a**2 * h + a * b - a * h, a * h * (a - 1 + b / h)],
    ],
    "22-count": [
        _counter(share=0.5),
        _counter(share=2.0),
        _counter(size=0.99),
        _counter(numbers=1),
        _uneven,
        _growing,
        lambda m: torch.eye(2),
    ],
    "22-parity": [
        lambda: (1.0, 0.5),
        lambda: (1.0, -0.9),
        lambda: (-1.0, 1.0),
        lambda: (1.0, -1.5),
        lambda: (1.0,),
        lambda: (0.95, -1.0),
        lambda: (1.0, -1.0),
        lambda: (0.995, 0.995),  # a positive number, which turns nothing
        lambda: (-0.995, 0.995),
        lambda: (0.9, -0.9),  # the right signs, of next to nothing
    ],
    "22-swaps": [
        _mirrors(inverse=True),
        _mirrors(unit=False),
        _mirrors(more=True),
        _mirrors(order=-1),
        lambda permutation: [0, 1],
    ],
    "22-bug": [
        nothing,
        shape_only,
        _compared(n=5),
        _compared(length=1),
        _compared(n=8, swap=True),
        _compared(n=3),
    ],
    "22-depth": [
        composed_by_a_loop,
        composed_in_lists,
        composed_in_numpy,
        composed_by_operators,
        _composed(turned=True),
        _composed(even=True),
        _composed(most=2048),
    ],
    "22-columns": [_error(root=True), _error(square=True), _error(sums=True), _error(bound=True)],
    "22-refute": [
        _refutation(),
        _refutation(near=True),
        _refutation(long=True),
        _refutation(n=64),
        _refutation(kinds=3),
        lambda: torch.eye(32),
        lambda: (torch.eye(2, 32)[:1] * torch.tensor([[1.0], [-1.0]]), torch.tensor([1, 1])),
    ],
    "22-held": [
        _balance(layers_all=True),
        _balance(values=False),
        _balance(size=2),
        _balance(off=0),
        _balance(attend_all=True),
        _balance(states_held=False),
        lambda *sizes: (1.5, (1, "B")),
    ],
}
