"""Checks of chapter 02."""

import math
from typing import Any

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
)
from linear_time.exercises import (
    draws,
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    no_derivatives,
)


class _Ready(TorchDispatchMode):
    """The operations of torch that are a softmax, run inside."""

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


@exercise("02-query")
def query(answer):
    draw = draws()
    for n, d_head, d_value, size in (
        (1, 3, 2, 1.0),
        (6, 9, 4, 1.0),
        (5, 2, 3, 1e4),
        (4, 16, 1, 0.0),
        (6, 3, 2, -1e4),
    ):
        q, k, v = size * draw(d_head), draw(n, d_head), draw(n, d_value)
        given = f"{n} keys of width {d_head}, a query of size {size:g}"
        if size < 0:
            q, k = -q.abs(), k.abs()
            given = f"{n} keys of width {d_head}, all scores far below 0"
        wanted = attention(q[None], k, v)[0]
        with _Ready() as ready:
            got = answer(q.clone(), k.clone(), v.clone())
        expect_close(got, wanted, given)
        used = ", ".join(sorted(ready.names))
        expect(not used, f"Expected no softmax of a library, got {used}.")


@exercise("02-window")
def window(answer):
    for length, size in ((1, 1), (5, 1), (5, 2), (6, 4), (4, 9), (7, 7)):
        got = answer(length, size)
        wanted = torch.zeros(length, length, dtype=torch.bool)
        for t in range(length):
            wanted[t, max(0, t - size + 1) : t + 1] = True
        given = f"length = {length}, window = {size}"
        fits = isinstance(got, torch.Tensor) and got.dtype == torch.bool
        expect(fits, f"For {given}: expected a bool tensor, got {got!r}.")
        expect_close(got.int(), wanted.int(), f"{given}, 1 for True")


@exercise("02-cache")
def cache(answer):
    for d_model, length in ((4, 1), (4, 7), (6, 20)):
        mixer = CausalSelfAttention(d_model, 2)
        state = mixer.initial_state(1)
        x_t = torch.zeros(1, d_model, dtype=state.k.dtype)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for _ in range(length):
                _, state = mixer.step(x_t, state)
        numbers = state.k.numel() + state.v.numel()
        _bill(answer, d_model, length, numbers, counter.get_total_flops())
    # Whole numbers that no float holds: by the formula, which the counter
    # has just confirmed.
    d = 123_456_789
    _bill(answer, d, 3, 6 * d, 24 * d**2 + 24 * d)


def _bill(answer, d_model, length, numbers, flops):
    given = f"d_model = {d_model}, length = {length}"
    got = answer(d_model, length)
    expect(
        isinstance(got, tuple) and len(got) == 2,
        f"For {given}: expected two numbers, got {got!r}.",
    )
    expect_equal(got[0], numbers, f"{given}, numbers in the cache")
    expect_equal(got[1], flops, f"{given}, FLOPs")


@exercise("02-merge")
def merge(answer):
    draw = draws()
    for shift_l, shift_r, name in (
        (0.0, 0.0, "scores of size 1"),
        (3.0, -2.0, "the left larger"),
        (1e4, 1e4, "logarithms near 10,000"),
        (-1e4, -1e4, "logarithms near -10,000"),
        (-1e4, 1e4, "logarithms 20,000 apart, the right larger"),
        (1e4, -1e4, "logarithms 20,000 apart, the left larger"),
    ):
        s_l, s_r = shift_l + 2 * draw(3, 5), shift_r + draw(3, 2)
        v_l, v_r = draw(5, 4), draw(2, 4)
        got = answer(
            s_l.softmax(-1) @ v_l,
            s_l.logsumexp(-1),
            s_r.softmax(-1) @ v_r,
            s_r.logsumexp(-1),
        )
        scores, v = torch.cat([s_l, s_r], -1), torch.cat([v_l, v_r])
        expect_close(got[0], scores.softmax(-1) @ v, f"{name}, y")
        wanted = scores.logsumexp(-1)
        expect_close(got[1], wanted, f"{name}, log_total", rtol=1e-12)


@exercise("02-backward")
def backward(answer):
    draw = draws()
    for queries, keys, d_head, d_value in ((1, 2, 1, 1), (4, 6, 5, 3)):
        q, k = draw(queries, d_head), draw(keys, d_head)
        v, d_y = draw(keys, d_value), draw(queries, d_value)
        inputs = [t.clone().requires_grad_() for t in (q, k, v)]
        wanted = torch.autograd.grad(attention(*inputs), inputs, d_y)
        with no_derivatives():
            got = answer(*(t.clone() for t in (q, k, v, d_y)))
        given = f"{queries} queries and {keys} keys of width {d_head}"
        for name, one, other in zip("qkv", got, wanted, strict=True):
            expect_close(one, other, f"{given}, the gradient of {name}")


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


@exercise("02-bug")
def bug(answer):
    bugs = {
        "there is no mask": _NoMask,
        "a position does not read itself": _Strict,
        "the mask is transposed": _Transposed,
        "the scores are divided by √d_model": _WrongScale,
        "the heads are mixed": _MixedHeads,
        "the cache drops its oldest entry": _Forgets,
        "the mask comes after the softmax": _Normalised,
    }
    expect_finds_bug(answer, CausalSelfAttention, bugs, "implementation")
