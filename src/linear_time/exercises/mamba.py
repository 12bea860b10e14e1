"""Checks of chapter 18."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from linear_time import records
from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    plain,
)
from linear_time.exercises.estimate import expect_quantity, expect_reading
from linear_time.mamba import Mamba, MambaState

F64 = torch.float64


@exercise("18-state")
def state(answer, cases):
    drawn = [
        tuple(
            cases.integer(*ends) for ends in ((4, 999), (2, 99), (1, 4), (2, 6))
        )
        for _ in range(4)
    ]
    for d_model, N, expand, taps in ((64, 16, 2, 4), (7, 5, 3, 2), (32, 1, 1, 1),
                                     (16, 4, 3, 4), *drawn):  # fmt: skip
        numbers = expand * (N + taps - 1) / 2
        wanted = math.ceil(numbers)
        expect_equal(
            answer(d_model, N, expand, taps),
            wanted,
            f"d_model = {d_model}, N = {N}, expand = {expand}, {taps} taps",
            slips={
                "the window keeps one input less than it has taps": math.ceil(
                    expand * (N + taps) / 2
                ),
                "the window belongs to the state": math.ceil(expand * N / 2),
                "a token leaves a key and a value": math.ceil(2 * numbers),
                "it rounds down": math.floor(numbers),
            },
        )


@exercise("18-recall")
def recall(answer, cases):
    drawn = [
        tuple(
            cases.integer(*ends)
            for ends in ((1, 999), (1, 60), (2, 60_000), (1, 32))
        )
        for _ in range(4)
    ]
    for d_model, n_layer, vocab_size, bits in (
        (768, 24, 50_280, 16), (1, 1, 2, 1), (8, 2, 256, 16), *drawn
    ):  # fmt: skip
        held = bits * n_layer * 38 * d_model
        given = (
            f"d_model = {d_model}, {n_layer} layers, a vocabulary of "
            f"{vocab_size:,}, {bits} bits"
        )
        expect_equal(
            answer(d_model, n_layer, vocab_size, bits),
            math.floor(held / math.log2(vocab_size)),
            given,
            slips={
                "every layer has a state": held
                // n_layer
                // math.log2(vocab_size),
                "that counts bits, not tokens": held,
                "a token has log₂ of the vocabulary bits": math.floor(
                    held / math.log(vocab_size)
                ),
            },
        )


@exercise("18-bias")
def bias(answer, cases):
    drawn = [10 ** cases.uniform(-6, 2.3) for _ in range(5)]
    for delta in (1e-6, 1e-4, 30.0, 200.0, *drawn):
        value = torch.tensor([delta], dtype=torch.float32)
        exact = value.double() + torch.log(-torch.expm1(-value.double()))
        slips = {"that is log Δ": value.double().log()}
        got = answer(value.clone())
        expect_close(got, exact, f"Δ = {delta:.3g}", rtol=1e-5, slips=slips)
    many = (
        (4 * cases.randn(2, cases.integer(2, 4))).exp().float().clamp(1e-6, 200)
    )
    exact = many.double() + torch.log(-torch.expm1(-many.double()))
    given = f"a tensor of shape {tuple(many.shape)}"
    expect_close(answer(many.clone()), exact, given, rtol=1e-5)


def _parameters(d: int, vocab_size: int, n_layer: int) -> int:
    R = math.ceil(d / 16)
    block = 6 * d**2 + 4 * d * R + 2 * d * 32 + 47 * d
    return n_layer * block + (vocab_size + 1) * d


@exercise("18-match")
def match(answer, cases):
    models = [
        (cases.integer(9, 2000), cases.integer(1, 9), cases.integer(9, 250))
        for _ in range(4)
    ]
    drawn = [
        (int(cases.uniform(0.99, 1.01) * _parameters(d, vocab_size, n_layer)), vocab_size, n_layer)
        for vocab_size, n_layer, d in models
    ]  # fmt: skip
    # Where the rank goes up by one, and as near to one width as to the next.
    edge = 16 * cases.integer(1, 3) + 1
    for target, vocab_size, n_layer in (
        (129_135_360, 50_280, 24),
        ((_parameters(edge, 10, 4) + _parameters(edge + 1, 10, 4)) // 2 - 1, 10, 4),
        ((_parameters(10, 9, 2) + _parameters(11, 9, 2)) // 2, 9, 2),
        (1, 66, 2),
        *drawn,
    ):  # fmt: skip
        wanted = min(
            range(1, 1000),
            key=lambda d: abs(_parameters(d, vocab_size, n_layer) - target),
        )
        given = f"target = {target:,}, {vocab_size:,} tokens, {n_layer} layers"
        expect_equal(answer(target, vocab_size, n_layer), wanted, given)


@exercise("18-serve")
def serve(answer, cases):
    for _ in range(4):
        users, pairs = cases.integer(10, 5000), cases.integer(4, 40)
        d_model, tokens = 64 * cases.integer(4, 64), cases.integer(100, 100_000)
        size = cases.choice([1, 2, 4])
        given = (
            f"{users} users, {2 * pairs} layers, d_model = {d_model}, "
            f"{tokens:,} tokens, {size} bytes a number"
        )
        got = plain(answer(users, 2 * pairs, d_model, tokens, size))
        expect(
            isinstance(got, tuple | list) and len(got) == 2,
            f"For {given}: expected two quantities, each a number and a unit.",
        )
        each = users * pairs * d_model * size
        states, caches = 2 * 38 * each, 2 * tokens * each
        expect_quantity(
            got[0],
            states,
            "B",
            f"{given}, the states",
            factor=1.01,
            slips={
                "that is one user's": states / users,
                "every layer has a state": states / 2 / pairs,
                "that counts numbers, not bytes": states / size,
                "the window is carried too": states * 32 / 38,
            },
        )
        expect_quantity(
            got[1],
            caches,
            "B",
            f"{given}, the caches",
            factor=1.01,
            slips={
                "half as many layers have attention": 2 * caches,
                "a token leaves a key and a value": caches / 2,
                "that counts numbers, not bytes": caches / size,
            },
        )


@exercise("18-crossing")
def crossing(answer, cases):
    """What the figure draws, from the record that it reads."""
    of = records.read("generation").by("model")
    position, ms, held = (
        of["llama"].values(name)
        for name in ("position", "step_ms", "state_bytes")
    )
    mamba = dict(
        zip(
            of["mamba"].values("position"),
            of["mamba"].values("step_ms"),
            strict=True,
        )
    )
    state_bytes = of["mamba"].values("state_bytes")[0]
    at = position.index(1000)
    share = math.log(2 * mamba[1000] / ms[at]) / math.log(ms[at + 1] / ms[at])
    right = {
        "cache at 1000": (held[at] / 1024, 1.4, {"that is Mamba's": state_bytes / 1024}),
        "level": (
            position[0] * state_bytes / held[0],
            1.4,
            {"there the times cross; the state is the right panel": 180.0},
        ),
        "twice": (
            1000 * (position[at + 1] / 1000) ** share,
            1.4,
            {},
        ),
    }  # fmt: skip
    got = plain(answer())
    expect(
        isinstance(got, dict) and set(got) == set(right),
        f"Expected a dictionary with the keys {', '.join(right)}.",
    )
    for name, (value, factor, slips) in right.items():
        expect_reading(got[name], value, name, factor=factor, slips=slips)


@exercise("18-window")
def window(answer, cases):
    for taps in (4, 1, cases.integer(2, 6)):
        batch, channels, length = 2, cases.integer(2, 5), cases.integer(5, 9)
        u = cases.randn(batch, channels, length)
        weight, b = cases.randn(channels, 1, taps), cases.randn(channels)
        padded = functional.pad(u, (taps - 1, 0))
        wanted = functional.conv1d(padded, weight, b, groups=channels)
        turned = functional.conv1d(padded, weight.flip(-1), b, groups=channels)
        past = torch.zeros(batch, channels, taps - 1, dtype=F64)
        for t in range(length):
            given = f"{taps} taps, step {t}"
            out, past = answer(past, u[..., t], weight, b)
            slips = {
                "the taps are in the other order": turned[..., t],
                "the bias is missing": wanted[..., t] - b,
            }
            expect_close(out, wanted[..., t], given, slips=slips)
            newest = padded[..., t + 1 : t + taps]
            expect_close(past, newest, f"{given}, the next window")


@exercise("18-pad")
def pad(answer, cases):
    fill = cases.integer(0, 9)
    drawn = [
        [cases.integer(0, 9) for _ in range(cases.integer(1, 6))]
        for _ in range(cases.integer(2, 5))
    ]
    for prompts in ([[4, 4]], [[fill, fill], [fill] * 4, [1]], drawn):
        longest = max(map(len, prompts))
        lacks = [longest - len(prompt) for prompt in prompts]
        rows = zip(lacks, prompts, strict=True)
        tokens = [[fill] * n + prompt for n, prompt in rows]
        mask = [[False] * n + [True] * (longest - n) for n in lacks]
        got = plain(answer([list(prompt) for prompt in prompts], fill))
        given = f"prompts {prompts}, fill {fill}"
        expect_close(got[0], torch.tensor(tokens), f"{given}, tokens")
        kinds = [getattr(value, "dtype", None) for value in got]
        expect(
            kinds == [torch.int64, torch.bool],
            f"For {given}: expected int64 tokens and a bool mask, got {kinds}.",
        )
        slips = {
            "a token may be equal to the fill": torch.tensor(tokens) != fill
        }
        wanted = torch.tensor(mask).long()
        expect_close(got[1].long(), wanted, f"{given}, mask", slips=slips)


@exercise("18-rank")
def rank(answer, cases):
    d_model = 16 * cases.integer(2, 4) + cases.integer(1, 15)
    d_inner, code = 2 * d_model, math.ceil(d_model / 16)
    ranks = [1, code, code + cases.integer(1, 5), d_inner]
    for r in cases.shuffled(ranks):
        W = cases.randn(d_inner, r) @ cases.randn(r, d_inner) / math.sqrt(r)
        if r == 1:  # one number a token, the same for all channels
            W = cases.randn(1, d_inner).expand(d_inner, d_inner)
        start = cases.randn(d_inner) - 3

        def steps(u, W=W, start=start):
            return functional.softplus(u @ W.mT / math.sqrt(d_inner) + start)

        expect_equal(
            answer(steps, d_inner),
            r,
            f"{d_inner} channels and a map of rank {r}",
            slips={
                "the bias is not a function of the token": r + 1,
                "softplus comes after the map, and hides its rank": d_inner,
                "that is the released code's rule, not a measurement": code,
            },
        )


class _SelectsTooEarly(Mamba):
    """Δ, B and C from u before the activation, in both forms."""

    def convolve(self, window: Tensor) -> Tensor:
        self.before = super().convolve(window)
        return self.before

    def choose(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = self.before.mT if u.ndim == 3 else self.before[..., 0]
        return super().choose(before)


class _Reversed(Mamba):
    """The taps in the other order, in both forms."""

    def convolve(self, window: Tensor) -> Tensor:
        weight, b = self.conv1d.weight.flip(-1), self.conv1d.bias
        return functional.conv1d(window, weight, b, groups=self.d_inner)


class _Leaks(Mamba):
    """The parallel form keeps the last positions of the padded output."""

    def prefill(self, x: Any, state: Any = None, mask: Any = None) -> Any:
        y, after = super().prefill(functional.pad(x, (0, 0, 0, 3)), state)
        return y[:, 3:], after


class _NoDirectTerm(Mamba):
    """The step forgets D u."""

    def step(self, x_t: Tensor, state: MambaState) -> Any:
        kept, self.D.data = self.D.data, torch.zeros_like(self.D.data)
        result = super().step(x_t, state)
        self.D.data = kept
        return result


class _KeepsTheOldest(Mamba):
    """The step drops the newest input of the window instead of the oldest."""

    def step(self, x_t: Tensor, state: MambaState) -> Any:
        y, after = super().step(x_t, state)
        return y, MambaState(state.window, after.h)


class _BiasTwice(Mamba):
    """The bias of Δ is added by the projection and by the scan."""

    def choose(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        delta, B, C = super().choose(u)
        return delta + self.dt_proj.bias, B, C


class _StartsAtZero(Mamba):
    """A framework's start has set all biases to zero: Δ = softplus(0)."""

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        nn.init.zeros_(self.dt_proj.bias)


class _OneByOne(Mamba):
    """Right: the parallel form takes one step after the other."""

    def prefill(self, x: Any, state: Any = None, mask: Any = None) -> Any:
        if mask is not None or not x.shape[1]:
            return super().prefill(x, state, mask)
        state = (
            self.initial_state(len(x), dtype=x.dtype)
            if state is None
            else state
        )
        outputs = []
        for x_t in x.unbind(1):
            y_t, state = self.step(x_t, state)
            outputs.append(y_t)
        return torch.stack(outputs, 1), state


class _InTwo(Mamba):
    """Right: the parallel form reads two halves, the state handed on."""

    def prefill(self, x: Any, state: Any = None, mask: Any = None) -> Any:
        half = x.shape[1] // 2
        if mask is not None or not half:
            return super().prefill(x, state, mask)
        first, state = super().prefill(x[:, :half], state)
        second, state = super().prefill(x[:, half:], state)
        return torch.cat([first, second], 1), state


def _made(kind: type[Mamba]) -> Any:
    def make(d_model: int) -> Mamba:
        torch.manual_seed(0)
        return kind(d_model)

    return make


@exercise("18-bug")
def bug(answer, cases):
    bugs = {
        "selection reads u before its activation": _SelectsTooEarly,
        "the taps are in the wrong order": _Reversed,
        "the parallel form reads three positions of the future": _Leaks,
        "the step forgets the direct term D u": _NoDirectTerm,
        "the step's window keeps its oldest input": _KeepsTheOldest,
        "the bias of Δ is added twice": _BiasTwice,
        "the biases of Δ start at zero": _StartsAtZero,
    }
    made = {name: _made(kind) for name, kind in bugs.items()}
    right = [_made(kind) for kind in (Mamba, _OneByOne, _InTwo)]
    expect_finds_bug(answer, right=right, bugs=made, what="layer", cases=cases)
