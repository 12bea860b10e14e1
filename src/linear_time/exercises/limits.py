"""Checks of chapter 22."""

import math

import sympy as sp
import torch
from torch.nn.functional import normalize, one_hot

from linear_time.exercises import (
    Calls,
    Operations,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    plain,
)
from linear_time.exercises.estimate import expect_quantity
from linear_time.exercises.proof import expect_lines
from linear_time.limits import arrangements, follower, recall, swaps
from linear_time.recurrences import linear_attention, recurrence

F64 = torch.float64


def moves(cases, length, n):
    """Random permutations, one a token: (length, n)."""
    return cases.randn(length, n).argsort(-1)


@exercise("22-rise")
def rise(answer, cases):
    a, b, h = sp.symbols("a b h", positive=True)
    first = a * h + b
    start = a * first + b - first

    def product(line):
        """a times a sum, and no factor besides."""
        return (
            isinstance(line, sp.Mul)
            and len(line.args) == 2
            and a in line.args
            and any(isinstance(part, sp.Add) for part in line.args)
        )

    forms = [
        ("written without brackets", lambda line: sp.expand(line) == line),
        ("a times the difference of the first two states", product),
    ]
    expect_lines(answer(a, b, h), start, forms, cases)


@exercise("22-count")
def count(answer, cases):
    for m in (2, 3, cases.integer(4, 7), cases.integer(8, 30)):
        got = plain(answer(m))
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            "Expected a matrix A and a row h.",
        )
        A, h = (torch.as_tensor(x, dtype=F64) for x in got)
        expect(
            A.shape == (2, 2) and h.shape == (2,),
            "Expected A of shape (2, 2) and h of shape (2,).",
        )
        given = f"m = {m}"
        expect_close(h.norm(), torch.ones((), dtype=F64), f"{given}, |h|")
        states = [h]
        for _ in range(m):
            states.append(states[-1] @ A)
        expect_close(
            torch.linalg.matrix_power(A, m),
            torch.eye(2, dtype=F64),
            f"{given}: A multiplied m times, which every state has to pass",
            atol=1e-6,
        )
        points = torch.stack(states[:-1])
        expect_close(
            states[-1], h, f"{given}: the state after m ones", atol=1e-6
        )
        apart = float(torch.pdist(points).min())
        expect(
            apart > 1e-6, f"{given}: two counts have the same state already."
        )
        expect(
            apart > 0.999 * 2 * math.sin(math.pi / m),
            f"{given}: two counts are nearer to each other than they have to "
            "be. Where does the circle have room?",
        )


@exercise("22-parity")
def parity(answer, cases):
    got = plain(answer())
    expect(
        isinstance(got, tuple | list)
        and len(got) == 2
        and all(type(x) in (int, float) and math.isfinite(x) for x in got),
        "Expected two numbers, what a bit 0 and a bit 1 multiply by.",
    )
    expect(
        all(abs(x) < 1 for x in got),
        "A tanh and a sigmoid give no number of size 1 or above.",
    )
    bits = (cases.randn(50, 60) > 0).long()
    h = torch.tensor(got, dtype=F64)[bits].cumprod(1)
    wanted = (-1.0) ** bits.cumsum(1)
    expect(
        bool((h * wanted >= 0).all()),
        "After some string the state has the wrong sign: does a bit 1 turn "
        "it, and does a bit 0 leave it?",
    )
    expect(
        bool((h.abs() >= 0.3).all()),
        "After 60 bits too little of the state is left. Longer strings tell "
        "the descent so.",
    )


@exercise("22-swaps")
def mirrors(answer, cases):
    drawn = [
        moves(cases, 1, n)[0].tolist() for n in (2, 3, 5, cases.integer(6, 12))
    ]
    circle = [1, 2, 3, 4, 0]
    for permutation in ([0, 1, 2, 3], circle, [1, 0, 3, 2], *drawn):
        n = len(permutation)
        keys = plain(answer(list(permutation)))
        given = f"the permutation {permutation}"
        expect(
            torch.is_tensor(keys) and keys.ndim == 2 and keys.shape[1] == n,
            f"{given}: expected keys in rows, of {n} numbers each.",
        )
        keys = keys.to(F64)
        expect_close(
            keys.norm(dim=1),
            torch.ones(len(keys), dtype=F64),
            f"{given}, the lengths of the keys",
            atol=1e-6,
        )
        start = torch.arange(n, dtype=F64)
        row = start
        for k in keys:
            row = row - 2 * (row @ k) * k
        turned = torch.empty(n, dtype=F64)
        turned[permutation] = start
        slips = {"that is the inverse permutation": turned}
        expect_close(row, start[permutation], given, atol=1e-6, slips=slips)
        expect(
            len(keys) <= len(swaps(permutation)),
            f"{given}: that is right, and fewer reflections would do.",
        )


def right_gather(permutations):
    """Right, step after step."""
    now, rows = torch.arange(permutations.shape[1]), []
    for move in permutations:
        now = now[move]
        rows.append(now)
    return torch.stack(rows)


def right_delta(permutations):
    """Right, by reflections of a state of one row, read at each place."""
    n = permutations.shape[1]
    whole = permutations.expand(n, *permutations.shape)
    places = torch.arange(n)[:, None].expand(n, len(permutations))
    begin = torch.arange(n, dtype=F64).expand(n, 1, 1, n)
    said = recurrence(follower(whole, places), initial_state=begin)
    return said.flatten(1).round().long().T


def right_matrices(permutations):
    """Right, by products of permutation matrices."""
    n = permutations.shape[1]
    row, rows = torch.arange(n), []
    for move in one_hot(permutations, n):
        row = move @ row
        rows.append(row)
    return torch.stack(rows)


def _broken(kind):
    """A follower with one thing changed."""

    def follow(permutations):
        n = permutations.shape[1]
        now, rows = torch.arange(n), []
        for t, move in enumerate(permutations):
            if kind == "inverse":
                now = now[move.argsort()]
            elif kind == "order":
                now = move[now]
            elif kind == "late":
                rows.append(now)
                now = now[move]
                continue
            elif kind == "five":
                now = torch.cat([now[:5][move[move < 5]], now[5:]])
            elif kind == "first" and t > 0:
                now = permutations[t]
            elif kind == "four":
                pairs = swaps(move.tolist())[:2]
                now = now.clone()
                for i, j in pairs:
                    now[[i, j]] = now[[j, i]]
            else:
                now = now[move]
            rows.append(now)
        return torch.stack(rows)

    return follow


@exercise("22-bug")
def bug(answer, cases):
    bugs = {
        "the permutation is inverted": _broken("inverse"),
        "the new shuffle comes before the old ones": _broken("order"),
        "the answer is one token late": _broken("late"),
        "places beyond the fifth stay": _broken("five"),
        "it forgets what was before": _broken("first"),
        "no more than two swaps are made": _broken("four"),
    }
    right = [right_gather, right_delta, right_matrices]
    expect_finds_bug(answer, right=right, bugs=bugs, cases=cases)


@exercise("22-depth")
def depth(answer, cases):
    sizes = (1, 2, 3, cases.integer(4, 9), cases.integer(20, 200))
    for length in sizes:
        permutations = moves(cases, length, cases.integer(3, 7))
        wanted = arrangements(permutations[None])[0, -1]
        given = f"{length} permutations of {permutations.shape[1]}"
        backward = arrangements(permutations.flip(0)[None])[0, -1]
        slips = {"the tokens come in the other order": backward}
        got = answer(permutations.clone())
        expect_equal(got, wanted, given, slips=slips)
    permutations = moves(cases, 4096, 5)
    with Calls(closed=True) as calls, Operations() as made:
        got = answer(permutations.clone())
    wanted = arrangements(permutations[None])[0, -1]
    expect_equal(got, wanted, "4,096 permutations of 5")
    number = max(made.number, len(calls.names))
    expect(
        number <= 150,
        "4,096 tokens: expected at most 150 operations of torch in all, got "
        f"{number:,}: a loop over the tokens?",
    )


@exercise("22-columns")
def columns(answer, cases):
    for n, dk, equal in (
        (cases.integer(2, 6), 8, False),
        (cases.integer(12, 40), 8, False),
        (cases.integer(12, 40), 3, True),
        (1, 1, False),
    ):
        keys, values = cases.randn(n, dk), cases.randn(n, cases.integer(1, 5))
        if equal:
            keys[:, -1] = keys[:, 0]  # one column says what another does
        table = torch.linalg.pinv(keys) @ values
        left = (values - keys @ table).square().sum()
        wanted = float(left / values.square().sum())
        units = normalize(keys, dim=1)
        slips = {
            "that is the mean of random values, not of these": max(
                0.0, 1 - dk / n
            ),
            "that is what a sum of outer products leaves": float(
                (values - units @ (units.T @ values)).square().sum()
                / values.square().sum()
            ),
            "the root has been taken": wanted**0.5,
        }
        got = answer(keys.clone(), values.clone())
        given = f"{n} keys of {dk} numbers"
        if equal:
            given += ", of which two are the same"
        expect_close(got, wanted, given, atol=1e-6, slips=slips)


@exercise("22-refute")
def refute(answer, cases):
    got = plain(answer())
    expect(
        isinstance(got, tuple | list)
        and len(got) == 2
        and all(torch.is_tensor(x) for x in got),
        "Expected two tensors: the keys and the symbols.",
    )
    keys, symbols = got[0].to(F64), got[1]
    n = len(symbols)
    expect(
        symbols.ndim == 1 and keys.shape == (n, 32) and 2 <= n <= 40,
        "Expected keys of shape (n, 32) and symbols of shape (n,), with n at "
        "most 40.",
    )
    expect(
        bool(((symbols == 0) | (symbols == 1)).all()),
        "Expected symbols that are 0 or 1.",
    )
    expect_close(
        keys.norm(dim=1),
        torch.ones(n, dtype=F64),
        "the lengths of the keys",
        atol=1e-6,
    )
    expect(
        float(torch.pdist(keys).min()) >= 0.1,
        "Two of the keys are nearer than 0.1: they are hardly two keys.",
    )
    values = one_hot(symbols.long(), 2).to(F64)
    answers = recall(linear_attention, keys[None], values[None])[0]
    own = symbols.long()[:, None]
    margin = answers.gather(-1, own) - answers.gather(-1, 1 - own)
    right = margin[:, 0] > -1e-9  # a tie refutes nothing
    expect(
        float(right.double().mean()) < 0.5,
        "Linear attention is right at half of the keys or more. What does "
        "each key read of the others?",
    )


@exercise("22-held")
def held(answer, cases):
    for _ in range(4):
        one_in = cases.choice([2, 4, 8])
        layers = one_in * cases.integer(2, 8)
        d, N = cases.choice([512, 1024, 2560]), cases.choice([64, 128])
        kv = cases.choice([128, 256, 1024])
        attending = layers // one_in
        one_state = 4 * (2 * d * N + 3 * (2 * d + 2 * N))
        state = (layers - attending) * one_state
        a_token = 2 * attending * 2 * kv
        # Where neither of the two parts is lost in the other.
        tokens = int(state / a_token * cases.uniform(0.3, 3))
        got = plain(answer(layers, one_in, d, N, kv, tokens))
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            "Expected a number of tokens, and a pair of a number and a unit.",
        )
        given = (
            f"{layers} layers, one in {one_in} attends, d = {d}, N = {N}, "
            f"keys and values of {kv}, {tokens} tokens"
        )
        first = state // a_token + 1
        expect(
            type(got[0]) is int,
            f"{given}: expected a whole number of tokens.",
        )
        slips = {
            "all layers are counted as states": layers * one_state // a_token
            + 1,
            "a value is as long as a key, and cached as well": 2
            * state
            // a_token
            + 1,
            "numbers are compared, not bytes": state // (2 * a_token) + 1,
            "at that length they hold equally much, or less": first - 1,
        }
        expect_equal(got[0], first, given, slips=slips)
        expect_quantity(
            got[1], state + a_token * tokens, "B", f"{given}, in all", 1.02
        )
