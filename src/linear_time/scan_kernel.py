"""Chapter 16: the selective scan in chunks, forward and backward.

Discretized, the systems of a sequence are N times its inputs, and so are its
states. So the scan works on a few steps at a time, in buffers that all chunks
share, and reads its inputs a span of chunks at a time. It keeps the states
between chunks, and computes all others again for the gradient; chapter 17
counts what that saves. Numbers are at least float32 inside whatever the inputs
are: a span is cast when it is read.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from linear_time.discretization import phi
from linear_time.layer import full, without_autocast

# On a CPU a chunk's states should fit the cache of a core: 2**13 numbers a
# step, 2**17 a chunk (three buffers of 0.5 MiB), unless one row of the batch
# has more. An operation costs some microseconds whatever its size, so what has
# no state (u, Δ, B, C, z) is read and prepared for a span of chunks at once.
WIDTH, BLOCK, SPAN = 2**13, 2**17, 3


def next_state(
    h: Float[Tensor, "batch d_inner N"],
    u: Float[Tensor, "batch d_inner"],
    delta: Float[Tensor, "batch d_inner"],
    A: Float[Tensor, "d_inner N"],
    B: Float[Tensor, "batch N"],
    rule: str,
) -> Float[Tensor, "batch d_inner N"]:
    """One step of the selective scan: h ← exp(ΔA) ⊙ h + b̄ u.

    Args:
        h: the state before it, (batch, d_inner, N).
        u: input, (batch, d_inner).
        delta: Δ ≥ 0, after bias and softplus, (batch, d_inner).
        A: diagonals, (d_inner, N).
        B: (batch, N).
        rule: "exponential_euler", b̄ = ΔB, or "zero_order_hold",
            b̄ = Δ φ(ΔA) B.

    Returns:
        The state after it, at least float32.

    Source: as ``selective.selective_scan``.
    """
    h, u, delta, A, B = (full(x) for x in (h, u, delta, A, B))
    z = delta[..., None] * A  # (batch, d_inner, N)
    b_bar = delta[..., None] * B[:, None, :]
    if rule == "zero_order_hold":
        b_bar = b_bar * phi(z)
    return torch.exp(z) * h + b_bar * u[..., None]


def read_state(
    h: Float[Tensor, "batch d_inner N"],
    u: Float[Tensor, "batch d_inner"],
    C: Float[Tensor, "batch N"],
    D: Float[Tensor, " d_inner"],
) -> Float[Tensor, "batch d_inner"]:
    """y = C h + D u after a step, (batch, d_inner), at least float32."""
    with without_autocast(u):
        return (h @ full(C)[..., None])[..., 0] + full(D) * full(u)


def forward(
    inputs: tuple[Any, ...], softplus: bool, rule: str, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The scan, and with ``keep`` what its gradient needs.

    Args:
        inputs: u, delta, A, B, C, D, z, delta_bias and the state before the
            first step, or None, as ``selective_scan`` has checked them.
        softplus: whether delta goes through it.
        rule: as for ``next_state``.
        keep: whether to keep the states before the chunks.

    Returns:
        y, of u's precision; the last state, (batch, d_inner, N); the states
        before the chunks, (chunks, batch, N, d_inner), no chunk if not kept.
    """
    inputs, initial_state, u = inputs[:-1], inputs[-1], inputs[0]
    with without_autocast(u):
        work = _Chunks(inputs, softplus, rule, n_buffers=2)
        d_inner, N = inputs[2].shape
        if initial_state is None:
            sizes = (len(u), N, d_inner)
            state = torch.zeros(sizes, dtype=work.dtype, device=u.device)
        else:  # a copy even where the sizes need none
            state = initial_state.mT.to(work.dtype).clone(
                memory_format=torch.contiguous_format
            )
        # The state before each chunk: all that the gradient needs to keep.
        entering = state.new_empty(work.n_chunks * keep, *state.shape)
        y = torch.empty_like(u)
        for rows, steps, chunks in work:
            work.read_all(rows, steps)
            y_span = torch.empty_like(work.u)
            for i, part in chunks:
                if keep:
                    entering[i, rows] = state[rows]
                _, h = work.load(part, state[rows])
                state[rows] = h[-1]
                work.output(part, h, out=y_span[part])
            if work.z is not None:
                y_span *= functional.silu(work.z)
            _time_first(y[rows])[steps] = y_span
        return y, state.mT.contiguous(), entering


def backward(
    grad_y: Tensor,
    grad_last: Tensor,
    entering: Tensor,
    inputs: tuple[Any, ...],
    softplus: bool,
    rule: str,
) -> list[Tensor | None]:
    """The gradients with respect to the inputs of ``forward``, in order.

    Args:
        grad_y, grad_last: with respect to y and the last state.
        entering: the states that ``forward`` kept.
        inputs, softplus, rule: as for ``forward``.
    """
    inputs, initial_state, u = inputs[:-1], inputs[-1], inputs[0]
    with without_autocast(u):
        work = _Chunks(inputs, softplus, rule, n_buffers=3)
        # Whole sequences are written once, parameters added up.
        in_time = (True, True, False, True, True, False, True, False)
        grads: list[Any] = [
            None
            if x is None
            else torch.empty_like(x)
            if once
            else torch.zeros_like(x, dtype=work.dtype)
            for x, once in zip(inputs, in_time, strict=True)
        ]
        grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_z, grad_b = (
            grads
        )
        # What all later steps ask of h_t: ā_{t+1} g_{t+1}.
        later = grad_last.mT.to(work.dtype, copy=True)  # (batch, N, d_inner)
        for rows, steps, chunks in reversed(work):
            work.read_all(rows, steps)
            u, delta = work.u, work.delta  # (steps, batch, d_inner)
            dy = work.read(grad_y, rows, steps)
            to_z = None
            if work.z is not None:
                to_z, dy = _gate_gradients(work.z, dy)
                work.z = None  # its room is wanted
            y, grad_v, d_delta = (torch.empty_like(u) for _ in range(3))
            d_B, d_C = torch.empty_like(work.B), torch.empty_like(work.C)
            for i, part in reversed(chunks):
                a, h = work.load(part, entering[i, rows])
                if to_z is not None:
                    work.output(part, h, out=y[part])
                # g_t = C_t dy_t + ā_{t+1} g_{t+1}, backwards in time
                g, dy_t = work.buffer(2, part), dy[part].unsqueeze(2)
                torch.mul(work.C[part].unsqueeze(-1), dy_t, out=g)
                g[-1] += later[rows]
                a_steps, g_steps = a.unbind(0), g.unbind(0)
                for t in range(len(g_steps) - 2, -1, -1):
                    g_steps[t].addcmul_(a_steps[t + 1], g_steps[t + 1])
                _product(dy_t, h[1:].mT, out=d_C[part])
                # with respect to ΔA through ā: g_t h_{t−1} ā_t, for ā
                ga = a.mul_(g)
                later[rows] = ga[0]
                grad_x = ga.mul_(h[:-1])
                free = h[1:]
                if rule == "zero_order_hold":
                    work.add_input_slope(part, grad_x, g, free)
                B = work.B[part].unsqueeze(2)
                _product(B, g, out=grad_v[part])  # of v = Δ u
                _product(work.v[part].unsqueeze(2), g.mT, out=d_B[part])
                torch.mul(grad_x, work.A, out=free)
                torch.sum(free, 2, out=d_delta[part])
                grad_x.mul_(delta[part].unsqueeze(2))
                grad_A += grad_x.sum((0, 1)).mT
            d_delta.addcmul_(grad_v, u)
            d_u = grad_v.mul_(delta)
            if work.D is not None:
                grad_D += (dy * u).sum((0, 1))
                d_u.addcmul_(dy, work.D)
            if softplus:  # softplus′(x) = σ(x) = 1 − exp(−softplus(x))
                d_delta *= -torch.expm1(-delta)
            if grad_b is not None:
                grad_b += d_delta.sum((0, 1))
            _time_first(grad_u[rows])[steps] = d_u
            _time_first(grad_delta[rows])[steps] = d_delta
            _time_first(grad_B[rows])[steps] = d_B
            _time_first(grad_C[rows])[steps] = d_C
            if to_z is not None:
                _time_first(grad_z[rows])[steps] = to_z.mul_(y)
        grads.append(later.mT.contiguous())
        every = zip(grads, (*inputs, initial_state), strict=True)
        return [None if x is None else g.to(x.dtype) for g, x in every]


class _Chunks:
    """The inputs a span at a time, and the buffers that all chunks share."""

    def __init__(
        self,
        inputs: tuple[Any, ...],
        softplus: bool,
        rule: str,
        n_buffers: int,
    ) -> None:
        u, delta, A, B, C, D, z, delta_bias = inputs
        self.dtype = torch.promote_types(u.dtype, torch.float32)
        self.whole = u, delta, B, C, z
        self.A = full(A).mT.contiguous()  # (N, d_inner)
        self.D = None if D is None else full(D)
        self.delta_bias = None if delta_bias is None else full(delta_bias)
        self.softplus, self.rule = softplus, rule
        batch, d_inner, length = u.shape
        width = A.shape[1] * d_inner  # of a row of the batch
        on_cpu = u.device.type == "cpu"
        rows = min(max(WIDTH // width, 1), batch) if on_cpu else batch
        groups = -(-batch // rows)
        # T steps a chunk: the buffers hold T states of a group each, and L/T
        # states of all groups are kept. T = √(L groups) makes these equal.
        steps = math.isqrt(length * groups - 1) + 1
        if on_cpu:
            steps = min(steps, max(BLOCK // (rows * width), 8))
        steps = min(steps, length)
        spans = _slices(length, SPAN * steps)
        self.rows, self.n_chunks = _slices(batch, rows), -(-length // steps)
        # The steps of a span; its chunks, by their number, from its beginning.
        self.spans = [
            (span, list(enumerate(_slices(span.stop - span.start, steps), k)))
            for k, span in zip(itertools.count(0, SPAN), spans)
        ]
        # The second holds the states, with the one before the chunk.
        self.buffers = [
            torch.empty(
                (steps + (k == 1)) * rows * width,
                dtype=self.dtype,
                device=u.device,
            )
            for k in range(n_buffers)
        ]

    def __iter__(
        self,
    ) -> Iterator[tuple[slice, slice, list[tuple[int, slice]]]]:
        for rows in self.rows:
            for steps, chunks in self.spans:
                yield rows, steps, chunks

    def __reversed__(
        self,
    ) -> Iterator[tuple[slice, slice, list[tuple[int, slice]]]]:
        return reversed(list(self))

    def buffer(self, k: int, part: slice) -> Tensor:
        """(steps, rows, N, d_inner), and one step more for the states."""
        steps = part.stop - part.start + (k == 1)
        sizes = (steps, self.u.shape[1], *self.A.shape)
        return self.buffers[k][: math.prod(sizes)].view(sizes)

    def read(self, x: Tensor, rows: slice, steps: slice) -> Tensor:
        """A chunk, time first, contiguous."""
        chunk = x[rows, :, steps]
        if chunk.stride(1) != 1:  # copied before it is turned: faster
            chunk = chunk.contiguous()
        return _time_first(chunk.to(self.dtype)).contiguous()

    def read_all(self, rows: slice, steps: slice) -> None:
        """Read a span of all inputs; Δ gets its bias and its softplus."""
        # (steps, rows, d_inner); B and C (steps, rows, N)
        read: Any = (
            None if x is None else self.read(x, rows, steps) for x in self.whole
        )
        self.u, self.delta, self.B, self.C, self.z = read
        if self.delta_bias is not None:
            self.delta = self.delta + self.delta_bias
        if self.softplus:
            self.delta = functional.softplus(self.delta)
        self.v = self.delta * self.u

    def load(self, part: slice, state: Tensor) -> tuple[Tensor, Tensor]:
        """ā of a chunk, and h with the entering state first."""
        a, h = self.buffer(0, part), self.buffer(1, part)
        torch.mul(self.delta[part].unsqueeze(2), self.A, out=a)
        B, v = self.B[part].unsqueeze(-1), self.v[part].unsqueeze(2)
        torch.mul(B, v, out=h[1:])
        if self.rule == "zero_order_hold":
            h[1:] *= _input_factor(a)
        a.exp_()
        h[0] = state
        h_steps = h.unbind(0)
        for t, a_t in enumerate(a.unbind(0)):
            h_steps[t + 1].addcmul_(a_t, h_steps[t])
        return a, h

    def output(self, part: slice, h: Tensor, out: Tensor) -> None:
        """C h + D u, before the gate, (steps, batch, d_inner)."""
        _product(self.C[part].unsqueeze(2), h[1:], out)
        if self.D is not None:
            out.addcmul_(self.u[part], self.D)

    def add_input_slope(
        self, part: slice, grad_x: Tensor, g: Tensor, free: Tensor
    ) -> None:
        """The factor φ(ΔA) of b̄: grad_x += g Δ u B φ′(ΔA); g ← g φ(ΔA)."""
        x = torch.mul(self.delta[part].unsqueeze(2), self.A, out=free)
        v = self.v[part].unsqueeze(2)
        rise = _input_factor_slope(x)
        grad_x += rise.mul_(g).mul_(v).mul_(self.B[part].unsqueeze(-1))
        g *= _input_factor(x)


def _time_first(x: Tensor) -> Tensor:
    """(batch, channels, length) → (length, batch, channels), a view."""
    return x.permute(2, 0, 1)


def _slices(length: int, size: int) -> list[slice]:
    return [slice(s, min(s + size, length)) for s in range(0, length, size)]


def _product(row: Tensor, matrix: Tensor, out: Tensor) -> None:
    """(…, 1, K) @ (…, K, M) into (…, M)."""
    torch.matmul(row, matrix, out=out.unsqueeze(2))


def _gate_gradients(z: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Of y SiLU(z), with respect to z but for its factor y, and to y."""
    s = torch.sigmoid(z)
    return grad * s * (1 + z * (1 - s)), grad * z * s


def _input_factor(z: Tensor) -> Tensor:
    """φ(z) = (exp(z) − 1)/z, its value only."""
    return torch.where(z == 0, 1, torch.expm1(z) / z)


def _input_factor_slope(z: Tensor) -> Tensor:
    """φ′(z) = (exp(z) − φ(z))/z; near 0, where that cancels, its series.

    φ′(z) = Σ_k (k + 1)/(k + 2)! z^k for k = 0, 1, …
    """
    series = torch.zeros_like(z)
    for k in range(14, -1, -1):
        series.mul_(z).add_((k + 1) / math.factorial(k + 2))
    far = (torch.exp(z) - _input_factor(z)) / z
    return torch.where(z.abs() < 0.5, series, far)
