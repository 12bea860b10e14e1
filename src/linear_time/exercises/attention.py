"""Checks of chapter 02."""

import math
from typing import Any

import sympy as sp
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from linear_time.attention import (
    CausalSelfAttention,
    KVCache,
    attend,
    attention,
    causal_mask,
    join_heads,
    online_softmax_attention,
)
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    expect_parts,
    instrument,
    no_derivatives,
    plain,
)
from linear_time.exercises.estimate import expect_quote, expect_reading
from linear_time.exercises.proof import expect_lines
from linear_time.measure import peak_bytes


class _Ready(TorchDispatchMode):
    """The names of the operations of torch that are a softmax, run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func.__name__.split(".")[0].strip("_")
        if "softmax" in name or "attention" in name or "logsumexp" in name:
            self.names.add(name)
        return func(*args, **(kwargs or {}))


@instrument
def ready():
    """Inside, torch's own softmaxes are noted."""
    with _Ready() as found:
        yield found


@exercise("02-query")
def query(answer, cases):
    for n, d_head, d_value, size in (
        (1, 3, 2, 1.0),
        (cases.integer(4, 9), cases.integer(7, 12), 4, 1.0),
        (cases.integer(4, 9), 2, 3, 1e4),
        (4, cases.integer(10, 20), 1, 0.0),
        (cases.integer(4, 9), 3, 2, -1e4),
    ):
        q, k = size * cases.randn(d_head), cases.randn(n, d_head)
        v = cases.randn(n, d_value)
        given = f"{n} keys of width {d_head}, a query of size {size:g}"
        if size < 0:
            q, k = -q.abs(), k.abs()
            given = f"{n} keys of width {d_head}, all scores far below 0"
        with ready() as found:
            got = answer(q.clone(), k.clone(), v.clone())
        root = math.sqrt(d_head)
        expect_close(
            got,
            attention(q[None], k, v)[0],
            given,
            slips={
                "the scores are not divided": attention(root * q[None], k, v)[
                    0
                ],
                "the scores are divided by the width, not by its root": (
                    attention(q[None] / root, k, v)[0]
                ),
                "the key that fits least is read most": (
                    attention(-q[None], k, v)[0]
                ),
            },
        )
        used = ", ".join(sorted(found.names))
        expect(not used, f"Expected no softmax of a library, got {used}.")


@exercise("02-scale")
def scale(answer, cases):
    words = "three numbers: a score, and two factors"
    score, strict, scaled = plain(expect_parts(answer(), 3, words))
    what = "the standard deviation of a score, without the root"
    slips = {"that is the variance": 1024.0, "that is with the root": 1.0}
    expect_reading(score, 32.0, what, factor=1.05, slips=slips)
    what = "the factor between two weights, without the root"
    slips = {"the softmax takes the exponential of the scores": 32.0}
    expect_reading(strict, math.exp(32), what, factor=3.0, slips=slips)
    what = "the factor between two weights, with the root"
    slips = {"they still differ by one deviation": 1.0}
    expect_reading(scaled, math.e, what, factor=1.1, slips=slips)


@exercise("02-gate")
def gate(answer, cases):
    s = sp.symbols(cases.choice(["s1:3", "a1:3", "u1:3"]), real=True)
    v = sp.symbols(cases.choice(["v1:3", "y1:3", "w1:3"]), real=True)
    e = [sp.exp(score) for score in s]
    start = (e[0] * v[0] + e[1] * v[1]) / (e[0] + e[1])
    either = {sp.exp(s[0] - s[1]), sp.exp(s[1] - s[0])}

    def difference_only(line):
        return len(line.atoms(sp.exp)) == 1 and line.atoms(sp.exp) <= either

    def value_and_share(line):
        if not (isinstance(line, sp.Add) and len(line.args) == 2):
            return False
        return difference_only(line) and any(
            one in v
            and (v[0] - v[1] in other.args or v[1] - v[0] in other.args)
            for one, other in (line.args, line.args[::-1])
        )

    forms = [
        ("one exponential, that of the difference of scores", difference_only),
        (
            "a value, plus a share of the difference of the values as a product, "
            "the share with one exponential, that of the difference of scores",
            value_and_share,
        ),
    ]
    expect_lines(answer(*s, *v), start, forms, cases)


@exercise("02-window")
def window(answer, cases):
    sizes = [(cases.integer(4, 9), cases.integer(2, 4)) for _ in range(3)]
    for length, size in ((1, 1), (5, 1), *sizes, (4, 9), (7, 7)):
        given = f"length = {length}, window = {size}"
        got = plain(answer(length, size))
        wanted = torch.zeros(length, length, dtype=torch.bool)
        for t in range(length):
            wanted[t, max(0, t - size + 1) : t + 1] = True
        fits = isinstance(got, torch.Tensor) and got.dtype == torch.bool
        expect(fits, f"For {given}: expected a tensor of booleans.")
        slips = {
            "that has one position too many": wanted
            | wanted.roll(1, 0).tril(-1),
            "True is where a query may read": ~wanted,
        }
        slips = {name: value.int() for name, value in slips.items()}
        given = f"{given}, 1 for True"
        expect_close(got.int(), wanted.int(), given, slips=slips)


@exercise("02-cache")
def cache(answer, cases):
    bills = []
    for length in (1, cases.integer(3, 9), cases.integer(10, 25)):
        d_model = 2 * cases.integer(1, 4)
        mixer = CausalSelfAttention(d_model, 2)
        state = mixer.initial_state(1)
        x_t = torch.zeros(1, d_model, dtype=state.k.dtype)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for _ in range(length):
                _, state = mixer.step(x_t, state)
        numbers = state.k.numel() + state.v.numel()
        bills.append((d_model, length, numbers, counter.get_total_flops()))
    # Whole numbers that no float holds: by the formula, which the counter
    # has just confirmed.
    d = 123_456_789 + 2 * cases.integer(0, 10**6)
    bills.append((d, 3, 6 * d, 24 * d**2 + 24 * d))
    for bill in bills:
        _bill(answer, *bill)


def _bill(answer, d_model, length, numbers, flops):
    given = f"d_model = {d_model}, length = {length}"
    got = expect_parts(answer(d_model, length), 2, f"two numbers for {given}")
    expect_equal(
        got[0],
        numbers,
        f"{given}, numbers in the cache",
        slips={"a token leaves a key and a value": numbers // 2},
    )
    square = 8 * d_model**2 * length
    expect_equal(
        got[1],
        flops,
        f"{given}, FLOPs",
        slips={
            "a step reads what is there by then, and not all": square
            + 4 * d_model * length**2,
            "a token reads itself too": square
            + 2 * d_model * length * (length - 1),
            "a step reads all that is there by then": square
            + 4 * d_model * length,
        },
    )


@exercise("02-merge")
def merge(answer, cases):
    far = cases.integer(8000, 20_000)
    for shift_l, shift_r, name in (
        (0.0, 0.0, "scores of size 1"),
        (3.0, -2.0, "the left larger"),
        (far, far, f"logarithms near {far}"),
        (-far, -far, f"logarithms near -{far}"),
        (-far, far, f"logarithms {2 * far} apart, the right larger"),
        (far, -far, f"logarithms {2 * far} apart, the left larger"),
    ):
        left, right = cases.integer(3, 6), cases.integer(1, 4)
        s_l = shift_l + 2 * cases.randn(3, left)
        s_r = shift_r + cases.randn(3, right)
        v_l, v_r = cases.randn(left, 4), cases.randn(right, 4)
        y_l, y_r = s_l.softmax(-1) @ v_l, s_r.softmax(-1) @ v_r
        got = answer(
            y_l.clone(), s_l.logsumexp(-1), y_r.clone(), s_r.logsumexp(-1)
        )
        y, total = expect_parts(got, 2, "a pair of y and log_total")
        scores, v = torch.cat([s_l, s_r], -1), torch.cat([v_l, v_r])
        expect_close(
            y,
            scores.softmax(-1) @ v,
            f"{name}, y",
            slips={"the two sides do not count alike": (y_l + y_r) / 2},
        )
        wanted = scores.logsumexp(-1)
        expect_close(total, wanted, f"{name}, log_total", rtol=1e-12)


@exercise("02-backward")
def backward(answer, cases):
    sizes = (cases.integer(3, 6), cases.integer(4, 8), 5, 3)
    for queries, keys, d_head, d_value in ((1, 2, 1, 1), sizes):
        q, k = cases.randn(queries, d_head), cases.randn(keys, d_head)
        v, d_y = cases.randn(keys, d_value), cases.randn(queries, d_value)
        inputs = [t.clone().requires_grad_() for t in (q, k, v)]
        wanted = torch.autograd.grad(attention(*inputs), inputs, d_y)
        with no_derivatives():
            got = answer(*(t.clone() for t in (q, k, v, d_y)))
        given = f"{queries} queries and {keys} keys of width {d_head}"
        got = expect_parts(got, 3, f"three gradients for {given}")
        for name, one, other in zip("qkv", got, wanted, strict=True):
            expect_close(
                one,
                other,
                f"{given}, the gradient of {name}",
                slips={"the scale is missing": math.sqrt(d_head) * other},
            )


@exercise("02-figure")
def figure(answer, cases):
    def alive(length, tiled=False):
        q, k, v = (cases.randn(length, 8).requires_grad_() for _ in "qkv")

        def both_passes():
            if tiled:
                y = online_softmax_attention(q, k, v, True, 64)
            else:
                y = attention(q, k, v, causal_mask(length))
            y.sum().backward()

        return peak_bytes(both_passes) / 8

    words = "three numbers: numbers alive, a factor, a length"
    got = plain(expect_parts(answer(), 3, words))
    plainly = {length: alive(length) for length in (512, 1024)}
    what = "numbers alive at length 1024, the plain form"
    expect_reading(got[0], plainly[1024], what, factor=1.3)
    expect_reading(
        got[1],
        plainly[512] / alive(512, tiled=True),
        "how many times as many the plain form has at length 512",
        factor=1.4,
    )
    line = 1024 * math.sqrt(1e8 / plainly[1024])
    expect_reading(
        got[2],
        line,
        "the length at which the plain form's line meets 10⁸",
        factor=1.25,
        slips={"it goes with the square": 1024 * 1e8 / plainly[1024]},
    )


@exercise("02-audit")
def audit(answer, cases):
    words = "two quotations and two numbers"
    got = plain(expect_parts(answer(), 4, words))
    expect_quote(
        got[0],
        torch.nn.functional.scaled_dot_product_attention.__doc__,
        "scaled_dot_product_attention",
        ("True", "part"),
    )
    expect_quote(
        got[1],
        torch.nn.MultiheadAttention.forward.__doc__,
        "nn.MultiheadAttention",
        ("True", "not allowed"),
    )
    kept = torch.tensor([True, True, False, False])
    values = torch.arange(1.0, 5.0, dtype=torch.float64)
    what = "the first, as scaled_dot_product_attention reads the mask"
    expect_close(got[2], values[kept].mean(), what)
    what = "the same, as nn.MultiheadAttention reads it"
    expect_close(got[3], values[~kept].mean(), what)


class _NoMask(CausalSelfAttention):
    def forward(self, x):
        return self.heads(x)


class _Strict(CausalSelfAttention):
    def forward(self, x):
        q, k, v = self._project(x)
        mask = causal_mask(x.shape[1]).tril(-1)
        return self._out(attend(q, k, v, mask))


class _Transposed(CausalSelfAttention):
    def forward(self, x):
        q, k, v = self._project(x)
        return self._out(attend(q, k, v, causal_mask(x.shape[1]).mT))


class _WrongScale(CausalSelfAttention):
    """Scaled by the width of the model, in both forms alike."""

    def _project(self, x):
        q, k, v = super()._project(x)
        return q / math.sqrt(self.heads.n_heads), k, v


class _MixedHeads(CausalSelfAttention):
    """The heads are cut by a reshape alone, in both forms alike."""

    def _project(self, x):
        heads = self.heads
        batch, length, _ = x.shape
        return tuple(
            m(x).reshape(batch, heads.n_heads, length, -1)
            for m in (heads.query, heads.key, heads.value)
        )


class _Forgets(CausalSelfAttention):
    def step(self, x_t, state):
        if state.k.shape[2] > 4:
            state = KVCache(state.k[:, :, 1:], state.v[:, :, 1:])
        return super().step(x_t, state)


class _Normalised(CausalSelfAttention):
    """The mask after the softmax: the weights no longer sum to 1."""

    def forward(self, x):
        q, k, v = self._project(x)
        weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        weights = weights * causal_mask(x.shape[1])
        return self.heads.out(join_heads(weights @ v))


class _ByTorch(CausalSelfAttention):
    """The parallel form by torch's own attention."""

    def forward(self, x):
        q, k, v = self._project(x)
        fused = torch.nn.functional.scaled_dot_product_attention
        return self._out(fused(q, k, v, is_causal=True))


class _ByItsSteps(CausalSelfAttention):
    """The parallel form as a loop over the recurrent one."""

    def forward(self, x):
        state, outputs = self.initial_state(len(x), dtype=x.dtype), []
        for x_t in x.unbind(1):
            y_t, state = self.step(x_t, state)
            outputs.append(y_t)
        return torch.stack(outputs, 1)


@exercise("02-bug")
def bug(answer, cases):
    bugs = {
        "there is no mask": _NoMask,
        "a position does not read itself": _Strict,
        "the mask is transposed": _Transposed,
        "the scores are divided by √d_model": _WrongScale,
        "the heads are mixed": _MixedHeads,
        "the cache drops its oldest entry": _Forgets,
        "the mask comes after the softmax": _Normalised,
    }
    right = [
        CausalSelfAttention,
        lambda d_model, n_heads: CausalSelfAttention(d_model, n_heads, block=2),
        _ByTorch,
        _ByItsSteps,
    ]
    expect_finds_bug(answer, right, bugs, cases=cases)
