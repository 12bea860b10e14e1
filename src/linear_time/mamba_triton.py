"""Chapter 18: what a Mamba block does beside its scan, on a GPU, in Triton.

The short convolution with its SiLU, forward and backward, and a whole step of
generation in two kernels. torch runs each as a dozen small ones, whose reads,
writes and launches take longer than the scan. Numbers are float32 inside.

A tile is [T, BD]: some steps of some channels, which lie side by side.
"""

# A kernel's tuples grow, which to mypy is another type.
# mypy: disable-error-code="assignment"

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from linear_time.scan_triton import suits
from linear_time.triton_tiles import (
    LOG2E,
    load,
    sigmoid,
    softplus,
    store,
    tl,
    triton,
)

# Tiles: of the convolution, and how many a program walks backward.
T, BD, TILES = 16, 64, 16


@triton.jit
def inputs_at(x, past, row, d, t, ok, length, PAST: tl.constexpr):
    """[T, BD] of the inputs at steps t, those of before t = 0 among them."""
    inside = ok[None, :] & ((t >= 0) & (t < length))[:, None]
    at = t[:, None].to(tl.int64) * x[3] + d[None, :] * x[2]
    found = load(x[0] + row * x[1] + at, inside)
    if past is not None:
        before = ok[None, :] & ((t < 0) & (t >= -PAST))[:, None]
        at = (PAST + t)[:, None] * past[3] + d[None, :] * past[2]
        found += load(past[0] + row * past[1] + at, before)
    return found


@triton.jit
def taps_of(weight, bias, d, ok, TAPS: tl.constexpr):
    """The taps of some channels, [1, BD] each, and their bias."""
    taps = ()
    for k in tl.static_range(TAPS):
        taps += (load(weight + d * TAPS + k, ok)[None, :],)
    b = tl.zeros(d.shape, tl.float32)
    if bias is not None:
        b = load(bias + d, ok)
    return taps, b[None, :]


@triton.jit
def convolve_forward(
    x,
    past,
    weight,
    bias,
    y,
    d_inner,
    length,
    TAPS: tl.constexpr,
    T: tl.constexpr,
    BD: tl.constexpr,
):
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    t = tl.program_id(1) * T + tl.arange(0, T)
    row, ok = tl.program_id(2).to(tl.int64), d < d_inner
    taps, pre = taps_of(weight, bias, d, ok, TAPS)
    for k in tl.static_range(TAPS):
        at = t + (k - TAPS + 1)
        pre += taps[k] * inputs_at(x, past, row, d, at, ok, length, TAPS - 1)
    at = t[:, None].to(tl.int64) * y[3] + d[None, :] * y[2]
    inside = ok[None, :] & (t < length)[:, None]
    store(y[0] + row * y[1] + at, pre * sigmoid(pre), inside)


@triton.jit
def convolve_backward(
    x,
    past,
    weight,
    bias,
    dy,
    dx,
    sums,
    d_inner,
    length,
    TAPS: tl.constexpr,
    T: tl.constexpr,
    BD: tl.constexpr,
    TILES: tl.constexpr,
):
    """dx; and sums over the program's steps: of dtaps, then of dbias.

    An input is read by TAPS outputs, and the slope of SiLU at each is found
    from TAPS inputs: from 2 TAPS − 1 tiles of inputs, read once.
    """
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    row, ok = tl.program_id(2).to(tl.int64), d < d_inner
    taps, b = taps_of(weight, bias, d, ok, TAPS)
    totals = ()
    for _ in tl.static_range(TAPS + 1):
        totals += (tl.zeros([BD], tl.float32),)
    for tile in range(TILES):
        t = (tl.program_id(1) * TILES + tile) * T + tl.arange(0, T)
        xs = ()
        for k in tl.static_range(2 * TAPS - 1):
            at = t + (k - TAPS + 1)
            xs += (inputs_at(x, past, row, d, at, ok, length, TAPS - 1),)
        found = tl.zeros([T, BD], tl.float32)
        for j in tl.static_range(TAPS):
            pre = b + tl.zeros([T, BD], tl.float32)
            for k in tl.static_range(TAPS):
                pre += taps[k] * xs[j + k]
            s = sigmoid(pre)
            g = inputs_at(dy, None, row, d, t + j, ok, length, 0)
            g *= s * (1.0 + pre * (1.0 - s))
            found += taps[TAPS - 1 - j] * g
            if j == 0:
                more = ()
                for k in tl.static_range(TAPS):
                    more += (totals[k] + tl.sum(g * xs[k], 0),)
                more += (totals[TAPS] + tl.sum(g, 0),)
                totals = more
        at = t[:, None].to(tl.int64) * dx[3] + d[None, :] * dx[2]
        inside = ok[None, :] & (t < length)[:, None]
        store(dx[0] + row * dx[1] + at, found, inside)
    part = tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)
    for k in tl.static_range(TAPS + 1):
        at = (part * (TAPS + 1) + k).to(tl.int64) * d_inner + d
        store(sums + at, totals[k], ok)


@triton.jit
def convolve_step(
    x,
    window,
    weight,
    bias,
    y,
    after,
    d_inner,
    TAPS: tl.constexpr,
    BD: tl.constexpr,
):
    """One step of the convolution, and the window after it."""
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    row, ok = tl.program_id(1).to(tl.int64), d < d_inner
    now = load(x[0] + row * x[1] + d * x[2], ok)
    pre = tl.zeros([BD], tl.float32)
    if bias is not None:
        pre = load(bias + d, ok)
    pre += load(weight + d * TAPS + TAPS - 1, ok) * now
    for k in tl.static_range(TAPS - 1):
        old = load(
            window[0] + row * window[1] + d * window[2] + k * window[3], ok
        )
        pre += load(weight + d * TAPS + k, ok) * old
        if k > 0:
            store(after + (row * d_inner + d) * (TAPS - 1) + k - 1, old, ok)
    if TAPS > 1:
        store(after + (row * d_inner + d) * (TAPS - 1) + TAPS - 2, now, ok)
    store(y + row * d_inner + d, pre * sigmoid(pre), ok)


@triton.jit
def state_step(
    u,
    delta,
    A_log,
    B,
    C,
    D,
    z,
    bias,
    h,
    y,
    after,
    d_inner,
    N,
    BN: tl.constexpr,
    BD: tl.constexpr,
):
    """One step of the state, what it reads, and the gate."""
    d, n = tl.program_id(0) * BD + tl.arange(0, BD), tl.arange(0, BN)
    row, ok = tl.program_id(1).to(tl.int64), d < d_inner
    both = ok[:, None] & (n < N)[None, :]
    at = d[:, None] * N + n[None, :]
    raw = load(delta[0] + row * delta[1] + d * delta[2], ok)
    step = softplus(raw + load(bias + d, ok))
    now = load(u + row * d_inner + d, ok)
    A = -tl.exp2(load(A_log + at, both) * LOG2E) * LOG2E
    B_now = load(B[0] + row * B[1] + n * B[2], n < N)
    C_now = load(C[0] + row * C[1] + n * C[2], n < N)
    state = load(
        h[0] + row * h[1] + d[:, None] * h[2] + n[None, :] * h[3], both
    )
    state *= tl.exp2(step[:, None] * A)
    state += (step * now)[:, None] * B_now[None, :]
    store(after + row * d_inner * N + at, state, both)
    out = tl.sum(state * C_now[None, :], 1) + load(D + d, ok) * now
    gate = load(z[0] + row * z[1] + d * z[2], ok)
    store(y + row * d_inner + d, out * gate * sigmoid(gate), ok)


def array(x: Tensor | None) -> Any:
    """As the kernels take one: its tensor and its strides."""
    return None if x is None else (x, *x.stride())


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        x, past, weight, bias = inputs
        batch, d_inner, length = x.shape
        ctx.save_for_backward(*inputs)
        y = _beside(x)
        grid = triton.cdiv(d_inner, BD), triton.cdiv(length, T), batch
        convolve_forward[grid](
            *(array(x), array(past), weight, bias, array(y)),
            *(d_inner, length, weight.shape[-1], T, BD),
        )
        return y

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "convolve: expected to be differentiated once, got "
                "create_graph=True"
            )
        x, past, weight, bias = ctx.saved_tensors
        batch, d_inner, length = x.shape
        taps, parts = weight.shape[-1], triton.cdiv(length, T * TILES)
        dx = _beside(x)
        sizes = batch * parts, taps + 1, d_inner
        sums = torch.empty(sizes, dtype=torch.float32, device=x.device)
        grid = triton.cdiv(d_inner, BD), parts, batch
        convolve_backward[grid](
            *(array(x), array(past), weight, bias, array(dy), array(dx)),
            *(sums, d_inner, length, taps, T, BD, TILES),
        )
        total = sums.sum(0)
        dweight = total[:taps].mT.reshape(weight.shape).to(weight.dtype)
        dbias = None if bias is None else total[taps].to(bias.dtype)
        return dx, None, dweight, dbias


def _beside(x: Tensor) -> Tensor:
    """Room for a (batch, channels, length), channels side by side."""
    batch, d_inner, length = x.shape
    return x.new_empty(batch, length, d_inner).mT


def convolves(x: Tensor, past: Tensor, conv: Any) -> bool:
    """Whether ``convolve`` takes them: CUDA, its types, no gradient of past."""
    return (
        x.is_cuda
        and suits(x, x, conv.weight, conv.bias, past)
        and not past.requires_grad
        and not torch.compiler.is_compiling()
    )


def convolve(
    x: Float[Tensor, "batch d_inner length"],
    past: Float[Tensor, "batch d_inner past"],
    weight: Float[Tensor, "d_inner 1 taps"],
    bias: Float[Tensor, " d_inner"] | None = None,
) -> Float[Tensor, "batch d_inner length"]:
    """SiLU of a causal convolution, each channel with its own taps.

    y_t = SiLU(bias + Σ_k w_k x_{t − taps + 1 + k})

    Args:
        x: fastest where channels are side by side, x.mT of (batch, length,
            d_inner).
        past: the taps − 1 inputs before the first; it gets no gradient.
        weight: as torch's Conv1d has it.
        bias: likewise.

    Returns:
        (batch, d_inner, length), channels side by side, of x's dtype. It can
        be differentiated once, not twice.

    Raises:
        RuntimeError: a second derivative is asked for.

    Source: Gu & Dao (2023), "Mamba", figure 3.
    """
    with torch.cuda.device(x.device):
        y: Tensor = _Convolution.apply(x, past, weight.contiguous(), bias)
    return y


def steps(layer: Any, u: Tensor, state: Any) -> bool:
    """Whether ``step`` takes a Mamba's: on CUDA, where nothing learns."""
    if not u.is_cuda or torch.compiler.is_compiling():
        return False
    conv, system = layer.conv1d, (layer.A_log, layer.D, layer.dt_proj.bias)
    given = (u, *system, conv.weight, conv.bias, *state)
    learns = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in given
    )
    return not learns and suits(u, *given)


def step(
    layer: Any, u: Tensor, z: Tensor, state: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """A step of a Mamba between its first projection and its last.

    Args:
        layer: a ``Mamba``.
        u, z: the halves of the first projection, (batch, d_inner).
        state: a ``MambaState``.

    Returns:
        What the last projection reads, (batch, d_inner); the window and the
        state after the step.
    """
    conv = layer.conv1d
    u, window = step_of_convolution(u, state.window, conv.weight, conv.bias)
    delta, B, C = layer.choose(u)
    y, h = step_of_state(
        *(state.h, u, delta, layer.A_log, B, C, layer.D, z, layer.dt_proj.bias)
    )
    return y, window, h


def step_of_convolution(
    x: Float[Tensor, "batch d_inner"],
    window: Float[Tensor, "batch d_inner past"],
    weight: Float[Tensor, "d_inner 1 taps"],
    bias: Float[Tensor, " d_inner"] | None,
) -> tuple[Float[Tensor, "batch d_inner"], Float[Tensor, "batch d_inner past"]]:
    """One step of ``convolve``, and the window after it."""
    (batch, d_inner), taps = x.shape, weight.shape[-1]
    y, after = x.new_empty(batch, d_inner), window.new_empty(window.shape)
    with torch.cuda.device(x.device):
        convolve_step[triton.cdiv(d_inner, 128), batch](
            *(array(x), array(window), weight.contiguous(), bias, y, after),
            *(d_inner, taps, 128),
        )
    return y, after


def step_of_state(
    h: Float[Tensor, "batch d_inner N"],
    u: Float[Tensor, "batch d_inner"],
    delta: Float[Tensor, "batch d_inner"],
    A_log: Float[Tensor, "d_inner N"],
    B: Float[Tensor, "batch N"],
    C: Float[Tensor, "batch N"],
    D: Float[Tensor, " d_inner"],
    z: Float[Tensor, "batch d_inner"],
    bias: Float[Tensor, " d_inner"],
) -> tuple[Float[Tensor, "batch d_inner"], Float[Tensor, "batch d_inner N"]]:
    """One step of the scan: (C h + D u) SiLU(z), and the state h after it.

    Args:
        h: the state before, float32.
        u: contiguous.
        delta: before the bias and softplus.
        A_log: A = −exp(A_log).
        B, C, D, z, bias: as ``selective_scan``.
    """
    (batch, d_inner), N = u.shape, A_log.shape[1]
    y, after = torch.empty_like(u), h.new_empty(h.shape)
    with torch.cuda.device(u.device):
        state_step[triton.cdiv(d_inner, 16), batch](
            *(u, array(delta), A_log.contiguous(), array(B), array(C), D),
            *(array(z), bias, array(h), y, after, d_inner, N),
            *(triton.next_power_of_2(N), 16),
            num_warps=1,
        )
    return y, after
