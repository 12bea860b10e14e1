"""Checks of chapter 18."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
)
from linear_time.mamba import Mamba, MambaState

F64 = torch.float64


@exercise("18-state")
def state(answer):
    for d_model, N, expand, taps in (
        (64, 16, 2, 4),
        (7, 16, 2, 4),
        (64, 5, 3, 2),
        (32, 1, 1, 1),
        (768, 128, 2, 4),
        (16, 4, 3, 4),
    ):
        got = answer(d_model, N, expand, taps)
        wanted = math.ceil(expand * (N + taps - 1) / 2)
        given = f"d_model = {d_model}, N = {N}, expand = {expand}, {taps} taps"
        expect_equal(got, wanted, given)


@exercise("18-recall")
def recall(answer):
    for d_model, n_layer, vocab_size, bits in (
        (768, 24, 50_280, 16),
        (1, 1, 2, 1),
        (8, 2, 256, 16),
        (8, 3, 10, 8),
        (64, 1, 66, 32),
    ):
        held = bits * n_layer * 38 * d_model
        wanted = math.floor(held / math.log2(vocab_size))
        given = (
            f"d_model = {d_model}, {n_layer} layers, a vocabulary of "
            f"{vocab_size:,}, {bits} bits"
        )
        expect_equal(answer(d_model, n_layer, vocab_size, bits), wanted, given)


@exercise("18-bias")
def bias(answer):
    for delta in (1e-6, 1e-4, 1e-3, 0.1, 1.0, 30.0, 200.0):
        value = torch.tensor([delta], dtype=torch.float32)
        exact = value.double() + torch.log(-torch.expm1(-value.double()))
        expect_close(answer(value.clone()), exact, f"Δ = {delta:g}", rtol=1e-5)
    many = torch.tensor([[0.5, 1e-5], [40.0, 2e-3]])
    exact = many.double() + torch.log(-torch.expm1(-many.double()))
    expect_close(answer(many.clone()), exact, "a tensor (2, 2)", rtol=1e-5)


def _parameters(d: int, vocab_size: int, n_layer: int) -> int:
    R = math.ceil(d / 16)
    block = 6 * d**2 + 4 * d * R + 2 * d * 32 + 47 * d
    return n_layer * block + (vocab_size + 1) * d


@exercise("18-match")
def match(answer):
    for target, vocab_size, n_layer in (
        (129_135_360, 50_280, 24),
        (240_000, 66, 2),
        (70_000, 66, 2),
        (1_000_000, 66, 1),
        (150_000, 1000, 2),
        # Nearest to 17, but for the rank of 2; and as near to 10 as to 11.
        ((_parameters(17, 10, 4) + _parameters(18, 10, 4)) // 2 - 1, 10, 4),
        ((_parameters(10, 9, 2) + _parameters(11, 9, 2)) // 2, 9, 2),
        (1, 66, 2),
    ):
        wanted = min(
            range(1, 1000),
            key=lambda d: abs(_parameters(d, vocab_size, n_layer) - target),
        )
        given = f"target = {target:,}, {vocab_size:,} tokens, {n_layer} layers"
        expect_equal(answer(target, vocab_size, n_layer), wanted, given)


@exercise("18-window")
def window(answer):
    generator = torch.Generator().manual_seed(0)
    for taps in (4, 2, 1):
        u = torch.randn(2, 3, 9, generator=generator, dtype=F64)
        weight = torch.randn(3, 1, taps, generator=generator, dtype=F64)
        b = torch.randn(3, generator=generator, dtype=F64)
        padded = functional.pad(u, (taps - 1, 0))
        wanted = functional.conv1d(padded, weight, b, groups=3)
        past = torch.zeros(2, 3, taps - 1, dtype=F64)
        for t in range(9):
            given = f"{taps} taps, step {t}"
            out, past = answer(past, u[..., t], weight, b)
            expect_close(out, wanted[..., t], given)
            newest = padded[..., t + 1 : t + taps]
            expect_close(past, newest, f"{given}, the next window")


@exercise("18-pad")
def pad(answer):
    for prompts, fill in (
        ([[5, 6, 7], [8]], 0),
        ([[1], [2, 3]], 9),
        ([[4, 4]], 0),
        ([[0, 0], [0, 0, 0, 0], [1]], 0),
    ):
        longest = max(map(len, prompts))
        lacks = [longest - len(prompt) for prompt in prompts]
        rows = zip(lacks, prompts, strict=True)
        tokens = [[fill] * n + prompt for n, prompt in rows]
        mask = [[False] * n + [True] * (longest - n) for n in lacks]
        got = answer([list(prompt) for prompt in prompts], fill)
        given = f"prompts {prompts}, fill {fill}"
        expect_close(got[0], torch.tensor(tokens), f"{given}, tokens")
        kinds = [getattr(value, "dtype", None) for value in got]
        expect(
            kinds == [torch.int64, torch.bool],
            f"For {given}: expected int64 tokens and a bool mask, got {kinds}.",
        )
        expect_close(got[1].long(), torch.tensor(mask).long(), f"{given}, mask")


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


def _made(kind: type[Mamba]) -> Any:
    def make(d_model: int) -> Mamba:
        torch.manual_seed(0)
        return kind(d_model)

    return make


@exercise("18-bug")
def bug(answer):
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
    expect_finds_bug(answer, _made(Mamba), made, "layer")
