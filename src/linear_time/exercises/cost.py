"""Checks of chapter 04."""

import math

from torch import randn

from linear_time import records
from linear_time.attention import CausalSelfAttention
from linear_time.cost import attention_cost, mamba_cost
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    expect_parts,
)
from linear_time.exercises.estimate import expect_quantity, expect_reading
from linear_time.measure import product_flops


@exercise("04-worth")
def worth(answer, cases):
    d = 64
    for shared in (1, 2, 8, cases.choice([3, 4, 16])):
        N, expand = cases.integer(5, 80), cases.integer(2, 5)
        taps, kv = cases.integer(2, 6), cases.integer(1, 4)
        state = mamba_cost(1, d, N, expand=expand, taps=taps).state
        want = shared * state / (2 * d)
        given = (
            f"N = {N}, expand = {expand}, taps = {taps}, {kv * shared} heads, "
            f"{kv} of keys"
        )
        expect_close(
            answer(N, expand, taps, kv * shared, kv),
            want,
            given,
            slips={
                "a cache holds values too, not keys alone": 2 * want,
                "the heads that share a key do not count": want / shared,
                "the newest input is not kept, only the taps − 1 before it": (
                    shared * (state / d + expand) / 2
                ),
            },
        )


@exercise("04-window")
def window(answer, cases):
    words = "a pair: the function, and its three exponents"
    cost, exponents = expect_parts(answer, 2, words)
    sizes = [(1, cases.integer(2, 5), cases.integer(2, 6))]
    for _ in range(3):
        w, d = cases.integer(2, 9), cases.integer(2, 9)
        sizes += [(w + cases.integer(2, 30), d, w)]
    sizes += [(cases.integer(3, 12), 2, 1), (cases.integer(2, 5), 3, 9)]
    for L, d, w in sizes:
        given = f"length = {L}, d_model = {d}, window = {w}"
        words = f"(sequence, token, state) for {given}"
        got = expect_parts(cost(L, d, w), 3, words)
        tokens = [8 * d**2 + 4 * d * min(t, w) for t in range(1, L + 1)]
        want = sum(tokens), tokens[-1], 2 * d * min(L, w)
        slips = (
            {
                "the first tokens have fewer to read than a whole window": (
                    L * (8 * d**2 + 4 * d * w)
                ),
                "that is full causal attention": (
                    8 * d**2 * L + 2 * d * L * (L + 1)
                ),
                "the scores of the future are counted": (
                    8 * d**2 * L + 4 * d * L**2
                ),
            },
            {"the window is not in it": 8 * d**2 + 4 * d * L},
            {"the oldest entries can be dropped": 2 * d * L},
        )
        for name, have, right, wrong in zip(
            ("sequence", "token", "state"), got, want, slips, strict=True
        ):
            expect_equal(have, right, f"{given}, {name}", slips=wrong)
    expect_equal(
        exponents,
        (1, 0, 0),
        "a fixed window and a growing length, the three exponents",
        slips={"those are full attention's": (2, 1, 1)},
    )


@exercise("04-cross")
def cross(answer, cases):
    def line(slope):
        return lambda L: slope * L

    def few(f):
        """f, for a thousand calls: to try all lengths would not end."""
        calls = 0

        def limited(L):
            nonlocal calls
            calls += 1
            expect(calls <= 1000, "Expected at most a thousand lengths tried.")
            return f(L)

        return limited

    far = 10**10 + cases.integer(0, 10**6)
    slopes = (0, 1, cases.integer(2, 40), cases.integer(300, 4000), far)
    tried = [
        (lambda L: L * L, line(slope), slope + 1, f"L² against {slope} L")
        for slope in slopes
    ]
    a, b, c = (
        cases.integer(2, 9),
        cases.integer(0, 9),
        10 ** cases.integer(3, 6),
    )
    d = cases.choice([32, 64, 96, 128])
    for one, other, given in (
        (
            lambda L: L**3,
            lambda L: a * L**2 + b * L + c,
            f"L³ against {a} L² + {b} L + {c}",
        ),
        (
            lambda L: attention_cost(L, d).forward_flops,
            lambda L: mamba_cost(L, d).forward_flops,
            f"attention against Mamba, {d = }",
        ),
    ):
        want = next(L for L in range(1, 10_000) if one(L) > other(L))
        tried += [(one, other, want, given)]
    for one, other, want, given in cases.shuffled(tried):
        slips = {"there it is equal or below, and not yet above": want - 1}
        expect_equal(answer(few(one), few(other)), want, given, slips=slips)


@exercise("04-degree")
def degree(answer, cases):
    k, c = cases.integer(2, 99), 10 ** cases.integer(8, 13)
    tried = {
        f"{k}": (lambda L: k, 0),
        f"{k} L + 1": (lambda L: k * L + 1, 1),
        f"L² + {c} L": (lambda L: L * L + c * L, 2),
        f"{k} L log₂ L": (lambda L: k * L * (L.bit_length() - 1), 1),
        f"L² log₂ L + {c} L²": (
            lambda L: L * L * (L.bit_length() - 1 + c),
            2,
        ),
        "log₂ L": (lambda L: L.bit_length() - 1, 0),
        f"L³ + {c} L²": (lambda L: L**3 + c * L**2, 3),
    }
    for name in cases.shuffled(list(tried)):
        f, p = tried[name]
        expect_equal(answer(f), p, f"f(L) = {name}")


@exercise("04-start")
def start(answer, cases):
    lengths = [cases.integer(60, 120)]
    for _ in range(cases.integer(5, 7)):
        lengths.append(round(lengths[-1] * cases.uniform(1.6, 3.0)))
    p = cases.choice([0.5, 1, 1.5, 2])

    def slopes_off(places):
        """Values whose slope is p, but for the steps at these places."""
        values, off = [10.0], cases.uniform(0.3, 0.6)
        for i in range(len(lengths) - 1):
            slope = p + (off if i in places else 0)
            values.append(values[-1] * (lengths[i + 1] / lengths[i]) ** slope)
        return values

    last = len(lengths) - 2  # the number of the last slope
    tried = []
    for places in ({0}, {0, 1}, {1}, {last - 1}, set(), {last}):
        named = sorted(places) or "none"
        given = f"slopes {p}, but for the numbers {named}, at {lengths}"
        tried += [(slopes_off(places), p, 0.05, given)]
    flat = [1.0 + (L / lengths[2]) ** 2 for L in lengths]
    for tolerance in (1, 0.3, 0.1):
        given = f"1 + (L/{lengths[2]})² at {lengths}, p = 2, {tolerance = }"
        tried += [(flat, 2, tolerance, given)]
    for values, power, tolerance, given in tried:
        want = None
        for i in range(last, -1, -1):
            step = math.log(values[i + 1] / values[i])
            slope = step / math.log(lengths[i + 1] / lengths[i])
            if abs(slope - power) > tolerance:
                break
            want = lengths[i]
        got = answer(list(lengths), list(values), power, tolerance)
        slips = {"the last slope is off: there is no such length": lengths[-1]}
        expect_equal(got, want, given, slips=slips if want is None else None)


@exercise("04-bug")
def bug(answer, cases):
    def right(L, d):
        return attention_cost(L, d).forward_flops

    def by_torch(L, d):
        layer = CausalSelfAttention(d, 1)
        return product_flops(lambda: layer(randn(1, L, d)))

    def by_parts(L, d):
        project, compare = 2 * L * d * d, 2 * L * d * L
        return sum([project] * 4 + [compare] * 2)

    bugs = {
        "a product counts once, not twice": lambda L, d: right(L, d) // 2,
        "the output projection is missing": lambda L, d: (
            6 * d**2 * L + 4 * d * L**2
        ),
        "the masked half is not counted": lambda L, d: (
            8 * d**2 * L + 2 * d * L * (L + 1)
        ),
        "the sum of the values is missing": lambda L, d: (
            8 * d**2 * L + 2 * d * L**2
        ),
        "the scores cost d² L": lambda L, d: 8 * d**2 * L + 4 * d**2 * L,
    }
    expect_finds_bug(answer, [right, by_torch, by_parts], bugs, cases=cases)


@exercise("04-log")
def log(answer, cases):
    words = "three pairs of a number and a unit"
    got = expect_parts(answer(), 3, words)
    cache = 24 * 2 * 1024 * 1e6 * 2.0
    expect_quantity(
        got[0],
        cache,
        "B",
        "the cache",
        slips={
            "that is one layer's": cache / 24,
            "a token leaves a key and a value, of two-byte numbers": cache / 2,
        },
    )
    state = 48 * 38 * 1024 * 2.0
    expect_quantity(
        got[1],
        state,
        "B",
        "the state",
        slips={
            "two Mamba layers stand for each block": state / 2,
            "that is one layer's": state / 48,
            "a state does not grow with the tokens": state * 1e6,
        },
    )
    rounds = 24 * 1e6 * 5e-6
    expect_quantity(
        got[2],
        rounds,
        "s",
        "the rounds",
        slips={
            "the layers wait for each other too": rounds / 24,
            "a microsecond is a millionth of a second": rounds * 1000,
        },
    )


@exercise("04-figure")
def figure(answer, cases):
    words = "three numbers: a time, a length, a factor"
    got = expect_parts(answer(), 3, words)

    def recorded(kind, model):
        rows = records.read("cost").where(kind=kind, model=model)
        return dict(
            zip(rows.values("length"), rows.values("median_ms"), strict=True)
        )

    gru = recorded("training", "GRU")
    expect_reading(
        got[0],
        gru[1024],
        "the GRU's training step at 1024 tokens",
        factor=1.25,
        slips={"the figure's axis is in ms": gru[1024] / 1000},
    )
    attention = recorded("training", "attention")
    meets = next(L for L in gru if attention[L] > gru[L])
    before = max(L for L in gru if meets > L)
    gaps = [math.log(gru[L] / attention[L]) for L in (before, meets)]
    step = gaps[0] / (gaps[0] - gaps[1])
    expect_reading(
        got[1],
        before * (meets / before) ** step,
        "the length at which attention's curve meets the GRU's",
        factor=1.25,
    )
    one, many = (recorded("generation", "attention")[L] for L in (1024, 65_536))
    expect_reading(
        got[2],
        many / one,
        "how many times as long attention's token takes at the right end as "
        "at 1024 tokens",
        factor=1.3,
        slips={"a logarithmic axis: count decades, not inches": 64.0},
    )
