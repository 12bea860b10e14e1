"""Wrong answers to the exercises of chapter 21: each is a plausible slip."""

import torch
from torch.nn.functional import normalize

from linear_time.recurrences import delta_net, gated_delta_net, recurrence


def _gated(order="decay", read_first=False, fade=True, erase=True, write=True, growing=False):
    def answer(q, k, v, beta, alpha):
        S, rows = q.new_zeros(v.shape[1], k.shape[1]), []
        for t in range(len(q)):
            before = S
            S = S * alpha[t] if fade else S
            seen = S if order == "decay" else before
            erased = beta[t] * torch.outer(seen @ k[t], k[t]) if erase else 0
            S = S - erased + (beta[t] if write else 1) * torch.outer(v[t], k[t])
            rows.append((before if read_first else S) @ q[t])
        return torch.stack(rows)

    return answer


def _as_rwkv7(with_decay=True, with_beta=True, as_numbers=False, long=False, keys=True):
    def answer(k, beta, alpha):
        w = alpha[:, None].expand_as(k)
        a = ((alpha if with_decay else 1) * beta)[:, None].expand_as(k)
        if as_numbers:
            w, a = alpha, alpha * beta
        found = {"w": w, "a": a, "kappa": 2 * k if long else k}
        return {**found, "k": beta[:, None] * k if with_beta else k} if keys else found

    return answer


def _written(beta_in=True, sign=1, state=True, columns=False, inner=True):
    def answer(k, v, beta, S):
        L = (k @ k.T).tril(-1)
        if beta_in:
            L = L * beta if columns else beta[:, None] * L
        missing = beta[:, None] * (v - k @ S.T if state else v)
        eye = torch.eye(len(k), dtype=k.dtype)
        return torch.linalg.solve(eye + sign * L, missing) if inner else missing

    return answer


def written_by_a_loop(k, v, beta, S):
    rows = []
    for t in range(len(k)):
        rows.append(beta[t] * (v[t] - S @ k[t]))
        S = S + torch.outer(rows[-1], k[t])
    return torch.stack(rows)


def written_in_lists(k, v, beta, S):
    """The same loop where no call to torch is seen."""
    K, V, strengths, table = (x.tolist() for x in (k, v, beta, S))
    rows = []
    for key, value, strength in zip(K, V, strengths, strict=True):
        said = [sum(s * x for s, x in zip(row, key, strict=True)) for row in table]
        rows.append([strength * (x - y) for x, y in zip(value, said, strict=True)])
        table = [
            [s + u * x for s, x in zip(row, key, strict=True)]
            for row, u in zip(table, rows[-1], strict=True)
        ]
    return torch.tensor(rows, dtype=k.dtype)


def written_by_operators(k, v, beta, S):
    """And where the calls are no functions of torch, but its operators."""
    aten, rows = torch.ops.aten, []
    for t in range(len(k)):
        key, value, strength = (aten.select.int(x, 0, t) for x in (k, v, beta))
        rows.append(aten.mul.Tensor(aten.sub.Tensor(value, aten.mv.default(S, key)), strength))
        S = aten.addr.default(S, rows[-1], key)
    return aten.stack.default(rows)


def _for_mamba2(shift=True, swap=False, second=True, off="late"):
    def answer(delta, lam):
        first, other = (1 - lam, lam) if swap else (lam, 1 - lam)
        late = other * delta
        if shift:
            late = torch.cat([late[1:], delta.new_zeros(1)])
        scale = first * delta + (late if second else 0)
        return (scale, {"late": late, "first": first * delta, "none": 0 * late}[off])

    return answer


def _carried(attending=True, sharing=True, size=4, cached=2, values=True):
    def answer(layers, every, heads, dk, dv, tokens):
        with_cache = layers // every if sharing else layers
        without = layers - with_cache if attending else layers
        cache = cached * with_cache * heads * (dk + dv if values else dk) * tokens
        return (size * without * heads * dk * dv, "B"), (cache, "B")

    return answer


def nothing(rule):
    pass


def shape_only(rule):
    q, k, v = torch.randn(3, 6, 4)
    assert rule(q, normalize(k, dim=-1), v, torch.rand(6), torch.rand(6)).shape == v.shape


def _compared(beta=0.5, alpha=0.5, length=12):
    """Right, but where the gates or the length hide something."""

    def test(rule):
        noise = torch.Generator().manual_seed(0)
        q, k, v = torch.randn(3, length, 4, generator=noise, dtype=torch.float64)
        k = normalize(k, dim=-1)
        gates = [torch.full((length,), x, dtype=torch.float64) for x in (beta, alpha)]
        whole = [x[None, :, None] for x in (q, k, v, *gates)]
        wanted = recurrence(gated_delta_net(*whole))[0, :, 0]
        assert torch.allclose(rule(q, k, v, *gates), wanted)

    return test


def without_decay(rule):
    noise = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 12, 4, generator=noise, dtype=torch.float64)
    beta, one = torch.rand(12, dtype=torch.float64), torch.ones(12, dtype=torch.float64)
    k = normalize(k, dim=-1)
    whole = [x[None, :, None] for x in (q, k, v, beta)]
    assert torch.allclose(rule(q, k, v, beta, one), recurrence(delta_net(*whole))[0, :, 0])


WRONG = {
    "21-delta": [
        _gated(order="undecayed"),
        _gated(read_first=True),
        _gated(fade=False),
        _gated(erase=False),
        _gated(write=False),
    ],
    "21-same": [
        _as_rwkv7(with_decay=False),
        _as_rwkv7(with_beta=False),
        _as_rwkv7(as_numbers=True),
        _as_rwkv7(long=True),
        _as_rwkv7(keys=False),
    ],
    "21-norm": [
        lambda beta, a, b: [((1 - beta) * a) ** 2 + b**2, a**2 + b**2 - beta * (2 - beta) * a**2],
        lambda beta, a, b: [a**2 - 2 * beta * a**2 + beta**2 * a**2 + b**2] * 2,
        lambda beta, a, b: [a**2 - beta * a**2 + b**2, a**2 + b**2 - beta * a**2],
        lambda beta, a, b: [a**2 - 2 * beta * a**2 + beta**2 * a**2 + b**2],
    ],
    "21-grow": [
        lambda: (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.6, 0.8])),
        lambda: (torch.tensor([1.0, 0.5]), torch.tensor([0.0, 3.0]), torch.tensor([0.6, 0.8])),
        lambda: (torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0]), torch.tensor([0.6, 0.8])),
        lambda: (torch.tensor([2.0, 0.5]), torch.tensor([0.0, 1.0]), torch.tensor([0.6, 0.8])),
        lambda: (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([3.0, 4.0])),
        lambda: (torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([1.0])),
        # the text's, its channels exchanged, and beside one that does nothing
        lambda: (torch.tensor([0.55, 1.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.8, 0.6])),
        lambda: (
            torch.tensor([1.0, 0.55, 0.5]),
            torch.tensor([0.0, 1.0, 0.0]),
            torch.tensor([0.6, 0.8, 0.0]),
        ),
        lambda: torch.eye(2),
    ],
    "21-triangle": [
        _written(beta_in=False),
        _written(sign=-1),
        _written(state=False),
        _written(columns=True),
        _written(inner=False),
        written_by_a_loop,
        written_in_lists,
        written_by_operators,
        # a loop where it is looked at, and nothing where it is counted
        lambda k, v, beta, S: written_by_a_loop(k, v, beta, S) if len(k) < 100 else 0 * v,
    ],
    "21-trapezoid": [
        _for_mamba2(shift=False),
        _for_mamba2(swap=True),
        _for_mamba2(second=False),
        _for_mamba2(off="first"),
        _for_mamba2(off="none"),
        lambda delta, lam: lam * delta,
    ],
    "21-memory": [
        _carried(attending=False),
        _carried(sharing=False),
        _carried(size=2),
        _carried(cached=4),
        _carried(values=False),
        lambda *sizes: (1, "B"),
    ],
    "21-tune": [
        lambda: (1.0, 1.0),
        lambda: (0.9, 0.5),
        lambda: (1.0, 2.5),
        lambda: (1.5, 0.5),
        lambda: 0.65,
    ],
    "21-bug": [nothing, shape_only, without_decay, _compared(beta=1.0), _compared(length=1)],
}
