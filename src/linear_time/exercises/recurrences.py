"""Checks of chapter 21."""

import functools
import math

import sympy as sp
import torch
from torch.nn.functional import normalize

from linear_time.exercises import (
    Calls,
    Operations,
    exercise,
    expect,
    expect_close,
    expect_finds_bug,
    plain,
)
from linear_time.exercises.estimate import expect_quantity
from linear_time.exercises.proof import expect_lines
from linear_time.recurrences import (
    delta_net,
    gated_delta_net,
    gla,
    mamba3,
    recurrence,
    rwkv7,
)

F64 = torch.float64


def drawn(cases, length, dk, dv):
    """q, k of length 1, v, β and α of one head."""
    q, k = cases.randn(2, length, dk)
    v, gates = cases.randn(length, dv), cases.randn(2, length).sigmoid()
    return q, normalize(k, dim=-1), v, gates[0], 0.3 + 0.7 * gates[1]


def by_model(model, *terms):
    """The recurrence of one head and one sequence."""
    whole = [x[None, :, None] for x in terms]
    return recurrence(model(*whole))[0, :, 0]


def erased_first(q, k, v, w, kappa, a):
    return by_model(rwkv7, q, k, v, w, kappa, a)


def wide(x, like):
    return x[:, None].expand_as(like)


@exercise("21-delta")
def delta(answer, cases):
    for length in (1, 2, cases.integer(7, 20)):
        dk, dv = cases.integer(2, 6), cases.integer(1, 5)
        q, k, v, beta, alpha = drawn(cases, length, dk, dv)
        wanted = by_model(gated_delta_net, q, k, v, beta, alpha)
        undecayed = erased_first(
            q, beta[:, None] * k, v, wide(alpha, k), k, wide(beta, k)
        )
        S, before = torch.zeros(dv, dk, dtype=F64), []
        for t in range(length):
            before.append(S @ q[t])
            S = alpha[t] * S
            S = S + beta[t] * torch.outer(v[t] - S @ k[t], k[t])
        slips = {
            "it erases from the state before its decay": undecayed,
            "it reads before it writes": torch.stack(before),
            "the state does not fade": by_model(delta_net, q, k, v, beta),
            "nothing is erased": by_model(
                gla, q, k, beta[:, None] * v, wide(alpha, k)
            ),
        }
        got = answer(*(x.clone() for x in (q, k, v, beta, alpha)))
        expect_close(
            got, wanted, f"{length} steps, {dv} × {dk} numbers", slips=slips
        )


@exercise("21-same")
def same(answer, cases):
    for _ in range(3):
        length, dk = cases.integer(5, 12), cases.integer(2, 6)
        q, k, v, beta, alpha = drawn(cases, length, dk, 3)
        got = answer(k.clone(), beta.clone(), alpha.clone())
        found = plain(got)
        expect(
            isinstance(found, dict) and set(found) == {"w", "a", "kappa", "k"},
            "Expected a dictionary with the keys w, a, kappa, k.",
        )
        for name, value in found.items():
            expect(
                torch.is_tensor(value) and value.shape == k.shape,
                f'"{name}": expected a tensor with one row a step and one '
                "column a channel of the key.",
            )
        expect_close(
            found["kappa"].norm(dim=-1),
            torch.ones(length, dtype=F64),
            "the lengths of κ, which RWKV-7 normalises",
        )
        terms = [found[name] for name in ("w", "kappa", "a")]
        y = erased_first(q, found["k"], v, *terms)
        slips = {
            "the erasing lacks the decay: a = αβ": erased_first(
                q, beta[:, None] * k, v, wide(alpha, k), k, wide(beta, k)
            ),
            "the write lacks β": erased_first(
                q, k, v, wide(alpha, k), k, wide(alpha * beta, k)
            ),
        }
        wanted = by_model(gated_delta_net, q, k, v, beta, alpha)
        # The slips are of our outputs: what came is told apart by what it does.
        for words, value in slips.items():
            expect(not torch.allclose(y, value), words[0].upper() + words[1:])
        expect_close(y, wanted, "the outputs of RWKV-7 with these terms")


@exercise("21-norm")
def norm(answer, cases):
    beta, along, across = sp.symbols("beta a b", positive=True)
    start = ((1 - beta) * along) ** 2 + across**2
    old = along**2 + across**2

    def lost(line):
        """The old square less one product, which shows its two signs."""
        rest = sp.factor(line - old)
        shows = line.has(2 - beta) or line.has(beta - 2)
        return shows and isinstance(line, sp.Add) and rest != line

    forms = [
        ("written without brackets", lambda line: sp.expand(line) == line),
        ("the old square, less a product with the factor 2 − β", lost),
    ]
    expect_lines(answer(beta, along, across), start, forms, cases)


@exercise("21-grow")
def grow(answer, cases):
    got = plain(answer())
    expect(
        isinstance(got, tuple | list) and len(got) == 3,
        "Expected three tensors: w, a and κ.",
    )
    w, a, kappa = (torch.as_tensor(x, dtype=F64) for x in got)
    expect(
        w.ndim == 1 and len(w) >= 2 and w.shape == a.shape == kappa.shape,
        "Expected three vectors of one length, 2 or more.",
    )
    for name, value in (("w", w), ("a", a)):
        expect(
            bool(((value >= 0) & (value <= 1)).all()),
            f"{name}: expected numbers from 0 to 1.",
        )
    expect_close(kappa.norm(), torch.ones((), dtype=F64), "the length of κ")
    live = kappa.abs() > 1e-6  # in any order, beside channels that do nothing
    own = torch.stack([kappa.abs(), a])[:, live]
    own = own[:, own[0].argsort()]
    text = w.new_tensor([[0.6, 0.8], [0, 1]])
    expect(
        own.shape != text.shape
        or not torch.allclose(own, text, rtol=0, atol=0.01),
        "These are the text's a and κ: find others.",
    )
    A = torch.diag(w) - torch.outer(kappa, a * kappa)
    expect(
        float(torch.linalg.matrix_norm(A, 2)) > 1.1,
        "This step stretches no state by more than a tenth. Which state would "
        "it have to be, and what does A make of it?",
    )
    expect(
        float(torch.linalg.eigvals(A).abs().max()) <= 1 + 1e-9,
        "An eigenvalue is larger than 1 in size.",
    )


def written_by_steps(k, v, beta, S):
    """What a chunk writes, (length, dv)."""
    rows = []
    for t in range(len(k)):
        rows.append(beta[t] * (v[t] - S @ k[t]))
        S = S + torch.outer(rows[-1], k[t])
    return torch.stack(rows)


@exercise("21-triangle")
def triangle(answer, cases):
    for length in (1, 2, cases.integer(5, 16)):
        _, k, v, beta, _ = drawn(cases, length, cases.integer(2, 5), 3)
        S_0 = cases.randn(3, k.shape[1])
        wanted = written_by_steps(k, v, beta, S_0)
        missing = beta[:, None] * (v - k @ S_0.T)
        L = (k @ k.T).tril(-1)
        eye = torch.eye(length, dtype=F64)
        slips = {
            "β is missing in the triangle": torch.linalg.solve(
                eye + L, missing
            ),
            "the sign of the triangle is turned": torch.linalg.solve(
                eye - beta[:, None] * L, missing
            ),
            "the earlier writes of the chunk are missing": missing,
            "the incoming state is missing": torch.linalg.solve(
                eye + beta[:, None] * L, beta[:, None] * v
            ),
            "β stands at the columns": torch.linalg.solve(
                eye + L * beta, missing
            ),
        }
        got = answer(k.clone(), v.clone(), beta.clone(), S_0.clone())
        expect_close(got, wanted, f"a chunk of {length}", slips=slips)
    _, k, v, beta, _ = drawn(cases, 400, 6, 3)
    S_0 = cases.randn(3, 6)
    with Calls(closed=True) as calls, Operations() as made:
        got = answer(k.clone(), v.clone(), beta.clone(), S_0.clone())
    expect_close(got, written_by_steps(k, v, beta, S_0), "a chunk of 400")
    number = max(made.number, len(calls.names))
    expect(
        number < 400,
        "A chunk of 400 steps: expected one triangular solve, fewer than 400 "
        f"operations of torch in all, got {number:,}: a loop over the steps?",
    )


@exercise("21-trapezoid")
def trapezoid(answer, cases):
    for length in (1, 2, cases.integer(5, 20)):
        q, k, v, lam, alpha = drawn(cases, length, 4, 2)
        delta = 0.1 + cases.randn(length).sigmoid()
        A = alpha.log() / delta
        got = plain(answer(delta.clone(), lam.clone()))
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            "Expected a pair: the scale of each key, and what is taken off.",
        )
        late = torch.cat([((1 - lam) * delta)[1:], torch.zeros(1, dtype=F64)])
        scale, off = got
        own = ((1 - lam) * delta).clone()
        expect_close(
            scale,
            lam * delta + late,
            f"{length} steps, the scale of the keys",
            slips={
                "the second half has the step's own λ and Δ": lam * delta + own,
                "the second half is missing": lam * delta,
                "λ has changed places with 1 − λ": (1 - lam) * delta
                + torch.cat([(lam * delta)[1:], torch.zeros(1, dtype=F64)]),
            },
        )
        expect_close(
            off,
            late,
            f"{length} steps, what is taken off the diagonal",
            slips={"that is the first half": lam * delta, "shifted": own},
        )
        y = by_model(gla, q, scale[:, None] * k, v, wide(alpha, k))
        y = y - (off * (q * k).sum(-1))[:, None] * v
        expect_close(
            y, by_model(mamba3, v, delta, A, lam, k, q), f"{length} steps"
        )


@exercise("21-memory")
def memory(answer, cases):
    for _ in range(4):
        layers, heads = cases.integer(12, 48), cases.choice([8, 16, 32])
        dk, dv = cases.choice([64, 128]), cases.choice([64, 128, 256])
        every, tokens = cases.integer(2, 8), cases.integer(1000, 200_000)
        layers *= every
        attending = layers // every
        got = plain(answer(layers, every, heads, dk, dv, tokens))
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            "Expected two pairs of a number and a unit: states, then caches.",
        )
        state = 4 * (layers - attending) * heads * dk * dv
        cache = 2 * attending * heads * (dk + dv) * tokens
        given = (
            f"{layers} layers, of which every {every}-th attends, {heads} "
            f"heads, keys of {dk}, values of {dv}, {tokens} tokens"
        )
        for pair, value, what, slips in (
            (
                got[0],
                state,
                "states",
                {
                    "all layers are counted, attending ones too": state
                    * every
                    / (every - 1),
                    "a state is as precise as a cache": state / 2,
                },
            ),
            (
                got[1],
                cache,
                "caches",
                {"all layers are counted": cache * every},
            ),
        ):
            expect_quantity(
                pair, value, "B", f"{what}: {given}", 1.02, slips=slips
            )


KEYS, WIDTH = 16, 16


def rewritten(draws, randn):
    """Keys, each written twice, and values: (draws, 32, 1, 16) twice."""
    keys = normalize(randn(draws, KEYS, 1, WIDTH), dim=-1)
    return keys.repeat(1, 2, 1, 1), randn(draws, 2 * KEYS, 1, WIDTH)


def error(alpha, beta, keys, values):
    gates = [keys.new_full(keys.shape[:3], x) for x in (beta, alpha)]
    _, S = recurrence(gated_delta_net(keys, keys, values, *gates), True)
    answers = keys[:, KEYS:, 0] @ S[:, 0].mT
    return float((answers - values[:, KEYS:, 0]).square().mean())


@functools.cache
def least():
    """The least error of a grid of α and β."""
    noise = torch.Generator().manual_seed(0)

    def randn(*sizes):
        return torch.randn(*sizes, generator=noise, dtype=F64)

    told = rewritten(200, randn)
    steps = [k / 20 for k in range(1, 21)]
    return min(
        error(alpha, beta, *told)
        for alpha in (0.9, 0.94, 0.97, 0.98, 0.99, 1.0)
        for beta in steps
    )


@exercise("21-tune")
def tune(answer, cases):
    got = plain(answer())
    expect(
        isinstance(got, tuple | list)
        and len(got) == 2
        and all(type(x) in (int, float) and math.isfinite(x) for x in got),
        "Expected two numbers, α and β.",
    )
    alpha, beta = got
    expect(0 <= alpha <= 1, "α: expected a number from 0 to 1.")
    expect(0 <= beta <= 2, "β: expected a number from 0 to 2.")
    found = error(alpha, beta, *rewritten(400, cases.randn))
    expect(
        found <= 1.06 * least(),
        "On 400 new tables its error is larger than it has to be by more than "
        "6 %: which of the two gates does it not need?",
    )


def right_steps(q, k, v, beta, alpha):
    """Right, one step after the other."""
    S, rows = q.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        S = alpha[t] * S
        S = S + beta[t] * torch.outer(v[t] - S @ k[t], k[t])
        rows.append(S @ q[t])
    return torch.stack(rows)


def right_model(q, k, v, beta, alpha):
    """Right, by the library."""
    return by_model(gated_delta_net, q, k, v, beta, alpha)


def right_products(q, k, v, beta, alpha):
    """Right, with the matrices written out."""
    S, rows = q.new_zeros(v.shape[1], k.shape[1]), []
    eye = torch.eye(k.shape[1], dtype=q.dtype)
    for t in range(len(q)):
        A = alpha[t] * (eye - beta[t] * torch.outer(k[t], k[t]))
        S = S @ A + torch.outer(beta[t] * v[t], k[t])
        rows.append(S @ q[t])
    return torch.stack(rows)


def _broken(order="decay", read="after", erase=True, write=True, side=True):
    """The rule with one thing changed."""

    def rule(q, k, v, beta, alpha):
        S, rows = q.new_zeros(v.shape[1], k.shape[1]), []
        for t in range(len(q)):
            before, faded = S, alpha[t] * S
            seen = faded if order == "decay" else before
            strength = beta[t] if erase else torch.ones_like(beta[t])
            if side:
                erased = torch.outer(seen @ k[t], k[t])
            else:  # the outer product of the wrong pair
                erased = seen * k[t] * k[t]
            S = faded - strength * erased
            S = S + (beta[t] if write else 1) * torch.outer(v[t], k[t])
            if order == "write":
                S = alpha[t] * (
                    before + beta[t] * torch.outer(v[t] - before @ k[t], k[t])
                )
            rows.append((before if read == "before" else S) @ q[t])
        return torch.stack(rows)

    return rule


@exercise("21-bug")
def bug(answer, cases):
    bugs = {
        "it erases from the undecayed state": _broken(order="undecayed"),
        "the new write fades at once": _broken(order="write"),
        "it reads before it writes": _broken(read="before"),
        "all is erased, whatever β": _broken(erase=False),
        "the write lacks β": _broken(write=False),
        "channels are erased one by one": _broken(side=False),
    }
    right = [right_steps, right_model, right_products]
    expect_finds_bug(answer, right=right, bugs=bugs, cases=cases)
