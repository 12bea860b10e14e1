"""Chapter 16: what the kernels of the selective scan share, in Triton.

A tile of states is [BD, BN], N padded to BN; a block of u, Δ, z or y is
[BD, T], one of B or C is [BN, T]. Without Triton the kernels can be read, but
not run.
"""

from typing import Any

# A kernel's tuples grow, which to mypy is another type.
# mypy: disable-error-code="assignment"


class Absent:
    """In the place of Triton: kernels can be read, not run."""

    constexpr = float

    @staticmethod
    def jit(function: Any = None, **_: Any) -> Any:
        return function or Absent.jit


try:
    import triton
    import triton.language as tl
    from triton.language.extra import libdevice
except ImportError:
    triton = tl = Absent

INSTALLED = triton is not Absent
LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def softplus(x):
    """log(1 + exp(x)); by its series where 1 + exp(x) would round."""
    e = tl.exp2(x * LOG2E)
    near = e * (1.0 + e * (e * 0.33333333 - 0.5))
    far = LN2 * libdevice.fast_log2f(1.0 + e)
    return tl.where(x > 20.0, x, tl.where(e < 0.02, near, far))


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def columns(x, T: tl.constexpr):
    """[D, T] → its T columns, [D] each; free where time is in registers."""
    if T == 2:
        parts = tl.split(x)
    else:
        even, odd = tl.split(tl.reshape(x, [x.shape[0], T // 2, 2]))
        even, odd = columns(even, T // 2), columns(odd, T // 2)
        parts = ()
        for k in tl.static_range(T // 2):
            parts += (even[k], odd[k])
    return parts


@triton.jit
def stack(parts, FIRST: tl.constexpr, STEP: tl.constexpr, T: tl.constexpr):
    """T of the columns, FIRST, FIRST + STEP, … → [D, T]."""
    if T == 2:
        x = tl.join(parts[FIRST], parts[FIRST + STEP])
    else:
        even = stack(parts, FIRST, 2 * STEP, T // 2)
        odd = stack(parts, FIRST + STEP, 2 * STEP, T // 2)
        x = tl.reshape(tl.join(even, odd), [even.shape[0], T])
    return x


# An array is a tuple of its pointer and its strides. What counts whole
# sequences takes 64 bits; within a tile 32 are enough, and faster.


@triton.jit
def place(chunk, sizes, BD: tl.constexpr):
    """A program's row, first channel and first step; how many steps."""
    d_inner, length, chunk_length = sizes
    groups = tl.cdiv(d_inner, BD)
    row = (tl.program_id(0) // groups).to(tl.int64)
    first = (tl.program_id(0) % groups * BD).to(tl.int64)
    start = chunk.to(tl.int64) * chunk_length
    steps = tl.minimum(chunk_length, length - start).to(tl.int32)
    return row, first, start, steps


@triton.jit
def tile_at(x, corner, rows, i, t):
    """Addresses of [rows, T] in (batch, channels, length), from step i on.

    The corner is where the program begins: a row, a channel, a step.
    """
    p = x[0] + corner[0] * x[1] + corner[1] * x[2] + corner[2] * x[3]
    at = rows[:, None] * x[2] + t[None, :] * x[3]
    return p + tl.cast(i, tl.int64) * x[3] + at


@triton.jit
def states_at(x, row, first, d, n, one):
    """Addresses of [BD, BN] in (batch, channels, N).

    Triton spreads a tile over the lanes by what it knows of the addresses.
    Where ``one`` is an argument, 1 but not known to be, it knows nothing, and
    gives every lane all states of a channel: sums over states are then free
    of exchanges between lanes.
    """
    at = d[:, None] * x[2] + n[None, :] * x[3]
    return x[0] + row * x[1] + first * x[2] + at * one


@triton.jit
def total_at(left, row, d_inner, d):
    """Where a chunk leaves its ΣΔ: behind the states of all channels."""
    return left[0] + (row + 1) * left[1] - d_inner + d


@triton.jit
def load(p, inside):
    return tl.load(p, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store(p, x, inside):
    tl.store(p, x.to(p.dtype.element_ty), mask=inside)


@triton.jit
def channel(x, first, d, ok):
    """D or the bias of some channels, [BD, 1]; 0 if there is none."""
    values = tl.zeros(d.shape, tl.float32)
    if x is not None:
        values = load(x[0] + (first + d) * x[3], ok)
    return values[:, None]


@triton.jit
def step_size(raw, inside, SOFTPLUS: tl.constexpr):
    """Δ; 0 past the end, where it leaves the state as it is."""
    if SOFTPLUS:
        raw = softplus(raw)
    return tl.where(inside, raw, 0.0)
