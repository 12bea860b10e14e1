"""Checks of chapter 16."""

import math

import sympy as sp
import torch
from torch.nn import functional

from linear_time.exercises import (
    Wrong,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    plain,
)
from linear_time.exercises.estimate import expect_reading
from linear_time.exercises.perceiver import by_hand
from linear_time.exercises.proof import expect_lines
from linear_time.mixer import LanguageModel, Residual
from linear_time.selective import (
    Selective,
    selective_scan,
    selective_scan_reference,
)
from linear_time.tasks import accuracy, selective_copying

F64 = torch.float64


def system(cases, channels, N, length):
    """u, delta, A, B, C of one sequence, in the library's layout."""
    return (
        cases.randn(1, channels, length),
        cases.randn(1, channels, length).exp(),
        -cases.randn(channels, N).exp(),
        cases.randn(1, N, length),
        cases.randn(1, N, length),
    )


@exercise("16-twins")
def twins(answer, cases):
    drawn = [cases.integer(4, 12) for _ in range(3)]
    sizes = [(n, cases.integer(1, n - 2)) for n in drawn]
    for n_tokens, i in ((3, 1), (8, 6), *sizes):
        given = f"n_tokens {n_tokens}, i = {i}"
        rows = torch.as_tensor(plain(answer(n_tokens, i)))
        expect(
            rows.ndim == 2 and len(rows) == 4 and not rows.is_floating_point(),
            f"For {given}: expected whole numbers of shape (4, places), "
            f"got {rows.dtype} of shape {tuple(rows.shape)}.",
        )
        expect(
            int(rows.min()) >= 0 and int(rows.max()) <= 14,
            f"For {given}: expected numbers from 0 to 14, got "
            f"{int(rows.min())} to {int(rows.max())}.",
        )
        for k, row in enumerate(rows):
            data = row[row > 0].tolist()
            expect_equal(len(data), n_tokens, f"{given}, tokens in row {k}")
            wanted = 3 if k < 2 else 7
            expect_equal(data[i], wanted, f"{given}, token {i} of row {k}")
        for place, column in enumerate(rows.T.tolist()):
            expect_equal(
                sorted(column[2:]),
                sorted(column[:2]),
                f"{given}, the tokens in place {place} of rows 2 and 3",
            )


@exercise("16-scan")
def scan(answer, cases):
    drawn = [
        tuple(cases.integer(2, high) for high in (4, 5, 24)) for _ in range(2)
    ]
    for channels, N, length in ((1, 1, 1), *drawn):
        u, delta, A, B, C = system(cases, channels, N, length)
        start = cases.randn(1, channels, N)

        def whole(rule, start=start, inputs=(u, delta, A, B, C)):
            y, last = selective_scan(
                *inputs, initial_state=start, return_last_state=True, rule=rule
            )
            return y[0], last[0]

        inputs = (u[0], delta[0], A, B[0], C[0], start[0])
        got = plain(by_hand(answer, *(x.clone() for x in inputs)))
        given = f"{channels} channels, N = {N}, length {length}"
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            f"For {given}: expected (y, last_state), got {type(got).__name__}.",
        )
        right, released = whole("zero_order_hold"), whole("exponential_euler")
        empty = whole("zero_order_hold", start=torch.zeros_like(start))
        for k, name in enumerate(("y", "the last state")):
            slips = {
                "that is the released rule, ΔB": released[k],
                "the state that came in is forgotten": empty[k],
            }
            expect_close(got[k], right[k], f"{given}, {name}", slips=slips)


@exercise("16-gate")
def gate(answer, cases):
    drawn = [
        (-(10 ** cases.uniform(-12, 2)), 10 ** cases.uniform(-3, 1))
        for _ in range(40)
    ]
    for a, delta in ((-1.0, 1.0), (-100.0, 10.0), (0.0, 0.5), *drawn):
        z = a * delta
        wanted = math.expm1(z) / z if z else 1.0
        slips = {
            "that is the share itself: the released rule has its Δ already": wanted
            * delta,
            "the released rule's own B": 1.0,
        }
        expect_close(
            answer(a, delta),
            wanted,
            f"a = {a:.3g}, Δ = {delta:.3g}",
            rtol=1e-10,
            atol=0.0,
            slips=slips,
        )


@exercise("16-theorem")
def theorem(answer, cases):
    z = sp.Symbol(cases.choice(["z", "w", "p"]), real=True)
    s = sp.Symbol("s", real=True)
    step = sp.log(1 + sp.exp(z))
    start = sp.Integral(sp.exp(-(step - s)), (s, 0, step))
    forms = [
        ("free of the integral", lambda line: not line.has(sp.Integral)),
        (
            "a quotient, with e^z above and below",
            lambda line: all(part.has(sp.exp(z)) for part in sp.fraction(line)),
        ),
        (
            "the sigmoid: 1 above, and below it e^−z and no e^z",
            lambda line: (
                line.is_Pow
                and line.exp == -1
                and line.has(sp.exp(-z))
                and not line.has(sp.exp(z))
            ),
        ),
    ]
    expect_lines(answer(z), start, forms, cases)


@exercise("16-read")
def read(answer, cases):
    """What the figure's curves are, by their formulas."""
    got = plain(answer())
    right = {
        "hold at z = 3": (1 / (1 + math.exp(-3)), 1.1, {}),
        "released at z = 3": (math.log1p(math.exp(3)), 1.1, {}),
        "level": (
            1 / 16,
            1.3,
            {"that is the level of the slow state": 1.0, "that is the rate": 16.0},
        ),
        "part": (
            _twice_as_much(1.0),
            1.3,
            {"that is where they part at a = −16": _twice_as_much(16.0)},
        ),
    }  # fmt: skip
    expect(
        isinstance(got, dict) and set(got) == set(right),
        f"Expected a dictionary with the keys {', '.join(right)}.",
    )
    for name, (value, factor, slips) in right.items():
        expect_reading(got[name], value, name, factor=factor, slips=slips)


def _twice_as_much(rate):
    """The step with x/(1 − e^−x) = 2 for x = rate · step, by bisection."""
    low, high = 0.1, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        too_far = middle / -math.expm1(-middle) > 2
        low, high = (low, middle) if too_far else (middle, high)
    return low / rate


@exercise("16-audit")
def audit(answer, cases):
    rules = ["exponential_euler", "zero_order_hold", "exponential_euler"]
    for n, rule in enumerate(cases.shuffled(rules), start=1):

        def hidden(u, delta, A, B, C, rule=rule):
            return selective_scan(u, delta, A, B, C, rule=rule)

        found = plain(answer(hidden))
        expect(
            found == rule,
            f"For scan {n}: that is not the name of its rule. Where do the two "
            "rules differ, and by how much?",
        )


@exercise("16-kernel")
def kernel(answer, cases):
    drawn = [(cases.integer(2, 4), cases.integer(5, 40)) for _ in range(2)]
    for N, length in ((1, 2), *drawn, (2, 400)):
        _, delta, A, B, C = system(cases, 1, N, length)
        A = A - 2  # a long sequence forgets its beginning many times over
        unit = torch.eye(length, dtype=F64).unsqueeze(1)  # one impulse a row
        columns = selective_scan(
            unit,
            delta.expand(length, 1, length),
            A,
            B.expand(length, N, length),
            C.expand(length, N, length),
        )[:, 0]
        got = by_hand(answer, delta[0, 0].clone(), A[0].clone(), B[0], C[0])
        slips = {"the input's Δ_s is missing": columns.T / delta[0, 0]}
        given = f"N = {N}, length {length}"
        expect_close(got, columns.T, given, slips=slips)


@exercise("16-bits")
def bits(answer, cases):
    drawn = []
    for _ in range(4):
        V = cases.integer(2, 9000)
        drawn.append((cases.integer(1, 200), V, cases.uniform(1 / V, 1)))
    for n, V, p in ((10, 16, 1.0), (7, 2, 0.9), (5, 4, 0.25), *drawn):
        q = 1 - p
        entropy = -sum(x * math.log2(x) for x in (p, q) if x > 0)
        wrong_ones = q * math.log2(V - 1)
        wanted = n * (math.log2(V) - entropy - wrong_ones)
        slips = {
            "a wrong answer is not an empty one: it leaves V − 1 kinds": n
            * (math.log2(V) - q * math.log2(V)),
            "a wrong answer leaves V − 1 kinds open": n
            * (math.log2(V) - entropy),
            "that is for one value": wanted / n,
        }
        given = f"n = {n}, V = {V}, p = {p:.4g}"
        expect_close(answer(n, V, p), wanted, given, atol=1e-7, slips=slips)


LENGTH, N_TOKENS, VOCAB = 12, 2, 6  # of the small task, and its network:


def copier():
    return LanguageModel(lambda: Residual(Selective(24, 16)), VOCAB, 24, 2)


@exercise("16-train")
def train(answer, cases):
    network = copier().float()  # nothing of the answer's own runs from here on
    weights = plain(answer())
    try:
        network.load_state_dict(weights)
    except (AttributeError, RuntimeError, TypeError):
        raise Wrong(
            "Expected the state_dict of a network of the sizes that the "
            "exercise gives, all of its weights and no others."
        ) from None
    generator = torch.Generator().manual_seed(cases.integer(1, 2**31))
    tokens, targets = selective_copying(
        512, LENGTH, N_TOKENS, VOCAB, generator=generator
    )
    share, _ = accuracy(network.eval(), (tokens, targets))
    expect(
        share >= 0.9,
        f"On 512 new sequences {share:.0%} of the answers are right, where a "
        "guess has a fourth. At least 90 % are asked for.",
    )


def in_two_pieces(u, delta, A, B, C, D=None, z=None, delta_bias=None,
                  delta_softplus=False, return_last_state=False, *,
                  initial_state=None, rule="exponential_euler"):  # fmt: skip
    """Right: the second half goes on from the state of the first."""
    half, outputs, state = u.shape[-1] // 2, [], initial_state
    for piece in (slice(half), slice(half, None)):
        if u[..., piece].shape[-1]:
            y, state = selective_scan(
                *(u[..., piece], delta[..., piece], A, B[..., piece]),
                *(C[..., piece], D, None if z is None else z[..., piece]),
                delta_bias,
                delta_softplus,
                True,
                initial_state=state,
                rule=rule,
            )
            outputs.append(y)
    y = torch.cat(outputs, dim=-1)
    return (y, state) if return_last_state else y


@exercise("16-bug")
def bug(answer, cases):
    def changed(change):
        def scan(u, delta, A, B, C, D=None, z=None, delta_bias=None,
                 delta_softplus=False, return_last_state=False, *,
                 initial_state=None, rule="exponential_euler"):  # fmt: skip
            named = dict(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z)
            named |= dict(delta_bias=delta_bias, initial_state=initial_state)
            named = change(named)
            after = named.pop("after", lambda y: y)
            result = selective_scan(
                **named,
                delta_softplus=delta_softplus,
                return_last_state=return_last_state,
                rule=rule,
            )
            if return_last_state:
                return after(result[0]), result[1]
            return after(result)

        return scan

    def late(x):
        return functional.pad(x[..., :-1], (1, 0))

    def ungated_skip(t):
        D, u = t["D"], t["u"]
        if D is None:
            return t
        return t | {"D": None, "after": lambda y: y + D[:, None] * u}

    bugs = {
        "the bias of the step is lost": changed(
            lambda t: t | {"delta_bias": None}
        ),
        "the input is one step late": changed(
            lambda t: t | {"u": late(t["u"])}
        ),
        "B and C are exchanged": changed(
            lambda t: t | {"B": t["C"], "C": t["B"]}
        ),
        "the initial state is forgotten": changed(
            lambda t: t | {"initial_state": None}
        ),
        "the gate leaves out the direct term": changed(ungated_skip),
        "B is one step late": changed(lambda t: t | {"B": late(t["B"])}),
    }
    right = [selective_scan, selective_scan_reference, in_two_pieces]
    expect_finds_bug(answer, right=right, bugs=bugs, cases=cases)
