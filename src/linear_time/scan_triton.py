"""Chapter 17: the selective scan on a GPU, in Triton.

With Δ = softplus(delta + bias), for each channel d and state n,

    h_t = exp(Δ_t A) h_{t−1} + Δ_t u_t B_t,
    y_t = (Σ_n C_t h_t + D u_t) SiLU(z_t).

A program is one warp. It owns BD channels of one row of the batch and walks
through time with their states in registers, T steps a block, while Triton
fetches the next blocks. Where batch and channels are too few to fill the
GPU, time is cut in chunks: ``_chunk`` finds what each leaves behind when it
starts from zero, and the start of a chunk follows from those before it.

Backward walks from the end, with g_t = C_t dy_t + a_{t+1} g_{t+1} and
a = exp(ΔA). The states that it needs are found again from every T-th, which
forward keeps; or a second forward finds them, where memory is short.

A tile of states is [BD, BN], N padded to BN; a block of u, Δ, z or y is
[BD, T], one of B or C is [BN, T].
"""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

# A kernel's tuples grow, which to mypy is another type.
# mypy: disable-error-code="assignment"


class _Absent:
    """In the place of Triton: kernels can be read, not run."""

    constexpr = float

    @staticmethod
    def jit(function: Any = None, **_: Any) -> Any:
        return function or _Absent.jit


try:
    import triton
    import triton.language as tl
    from triton.language.extra import libdevice
except ImportError:
    triton = tl = _Absent

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _softplus(x):
    """log(1 + exp(x)); by its series where 1 + exp(x) would round."""
    e = tl.exp2(x * LOG2E)
    near = e * (1.0 + e * (e * 0.33333333 - 0.5))
    far = LN2 * libdevice.fast_log2f(1.0 + e)
    return tl.where(x > 20.0, x, tl.where(e < 0.02, near, far))


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2E))


@triton.jit
def _columns(x, T: tl.constexpr):
    """[D, T] → its T columns, [D] each; free where time is in registers."""
    if T == 2:
        columns = tl.split(x)
    else:
        even, odd = tl.split(tl.reshape(x, [x.shape[0], T // 2, 2]))
        even, odd = _columns(even, T // 2), _columns(odd, T // 2)
        columns = ()
        for k in tl.static_range(T // 2):
            columns += (even[k], odd[k])
    return columns


@triton.jit
def _stack(columns, FIRST: tl.constexpr, STEP: tl.constexpr, T: tl.constexpr):
    """T of the columns, FIRST, FIRST + STEP, … → [D, T]."""
    if T == 2:
        x = tl.join(columns[FIRST], columns[FIRST + STEP])
    else:
        even = _stack(columns, FIRST, 2 * STEP, T // 2)
        odd = _stack(columns, FIRST + STEP, 2 * STEP, T // 2)
        x = tl.reshape(tl.join(even, odd), [even.shape[0], T])
    return x


# An array is a tuple of its pointer and its strides. What counts whole
# sequences takes 64 bits; within a tile 32 are enough, and faster.


@triton.jit
def _place(chunk, sizes, BD: tl.constexpr):
    """A program's row, first channel and first step; how many steps."""
    d_inner, length, chunk_length = sizes
    groups = tl.cdiv(d_inner, BD)
    row = (tl.program_id(0) // groups).to(tl.int64)
    first = (tl.program_id(0) % groups * BD).to(tl.int64)
    start = chunk.to(tl.int64) * chunk_length
    steps = tl.minimum(chunk_length, length - start).to(tl.int32)
    return row, first, start, steps


@triton.jit
def _tile(x, corner, rows, i, t):
    """Addresses of [rows, T] in (batch, channels, length), from step i on.

    The corner is where the program begins: a row, a channel, a step.
    """
    p = x[0] + corner[0] * x[1] + corner[1] * x[2] + corner[2] * x[3]
    at = rows[:, None] * x[2] + t[None, :] * x[3]
    return p + tl.cast(i, tl.int64) * x[3] + at


@triton.jit
def _states(x, row, first, d, n, one):
    """Addresses of [BD, BN] in (batch, channels, N).

    Triton spreads a tile over the lanes by what it knows of the addresses.
    Where ``one`` is an argument, 1 but not known to be, it knows nothing, and
    gives every lane all states of a channel: sums over states are then free
    of exchanges between lanes.
    """
    at = d[:, None] * x[2] + n[None, :] * x[3]
    return x[0] + row * x[1] + first * x[2] + at * one


@triton.jit
def _total(left, row, d_inner, d):
    """Where a chunk leaves its ΣΔ: behind the states of all channels."""
    return left[0] + (row + 1) * left[1] - d_inner + d


@triton.jit
def _load(p, inside):
    return tl.load(p, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _store(p, x, inside):
    tl.store(p, x.to(p.dtype.element_ty), mask=inside)


@triton.jit
def _channel(x, first, d, ok):
    """D or the bias of some channels, [BD, 1]; 0 if there is none."""
    values = tl.zeros(d.shape, tl.float32)
    if x is not None:
        values = _load(x[0] + (first + d) * x[3], ok)
    return values[:, None]


@triton.jit
def _delta(raw, inside, SOFTPLUS: tl.constexpr):
    """Δ; 0 past the end, where it leaves the state as it is."""
    if SOFTPLUS:
        raw = _softplus(raw)
    return tl.where(inside, raw, 0.0)


@triton.jit(do_not_specialize=["one"])
def _chunk(
    inputs,
    left,
    one,
    sizes,
    N: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    T: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """What a chunk leaves behind if it starts from zero, and its ΣΔ.

    Forward, with x = u: h after its last step. In reverse, with x = dy and C
    for B: a g before its first.
    """
    x, delta, A, B, z, bias = inputs
    # Nothing follows the last chunk; in reverse, the first.
    chunk = tl.program_id(1) + (1 if REVERSE else 0)
    row, first, start, steps = _place(chunk, sizes, BD)
    here, shared = (row, first, start), (row, 0, start)
    d, n, t = tl.arange(0, BD), tl.arange(0, BN), tl.arange(0, T)
    ok, is_state = d < sizes[0] - first, n < N
    both = ok[:, None] & is_state[None, :]
    A = _load(_states(A, 0, first, d, n, one), both) * LOG2E
    bias = _channel(bias, first, d, ok)
    FROM: tl.constexpr = T - 1 if REVERSE else 0
    TO: tl.constexpr = -1 if REVERSE else T
    STEP: tl.constexpr = -1 if REVERSE else 1
    h = tl.zeros([BD, BN], tl.float32)
    total = tl.zeros([BD, T], tl.float32)
    for step in tl.range(0, steps, T, num_stages=3):
        i = step
        if REVERSE:
            i = (tl.cdiv(steps, T) - 1) * T - step
        now = (i + t < steps)[None, :]
        inside = ok[:, None] & now
        raw = _load(_tile(delta, here, d, i, t), inside)
        x_now = _load(_tile(x, here, d, i, t), inside)
        B_now = _load(_tile(B, shared, n, i, t), is_state[:, None] & now)
        delta_now = _delta(raw + bias, inside, SOFTPLUS)
        total += delta_now
        if not REVERSE:
            x_now *= delta_now
        elif z is not None:
            z_now = _load(_tile(z, here, d, i, t), inside)
            x_now *= z_now * _sigmoid(z_now)
        deltas, xs, Bs = (
            _columns(delta_now, T),
            _columns(x_now, T),
            _columns(B_now, T),
        )
        for k in tl.static_range(FROM, TO, STEP):
            a = tl.exp2(deltas[k][:, None] * A)
            new = xs[k][:, None] * Bs[k][None, :]
            h = a * (h + new) if REVERSE else a * h + new
    at = row * (tl.num_programs(1) + 1) + chunk
    _store(_states(left, at, first, d, n, one), h, ok[:, None])
    _store(_total(left, at, sizes[0], first + d), tl.sum(total, 1), ok)


@triton.jit(do_not_specialize=["one"])
def _scan(
    inputs,
    outputs,
    left,
    one,
    sizes,
    N: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    T: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    STAGES: tl.constexpr,
):
    u, delta, A, B, C, D, z, bias, initial = inputs
    y, ungated, kept, last = outputs
    chunk, chunks = tl.program_id(1), tl.num_programs(1)
    row, first, start, steps = _place(chunk, sizes, BD)
    here, shared = (row, first, start), (row, 0, start)
    d, n, t = tl.arange(0, BD), tl.arange(0, BN), tl.arange(0, T)
    ok, is_state = d < sizes[0] - first, n < N
    both = ok[:, None] & is_state[None, :]
    A = _load(_states(A, 0, first, d, n, one), both) * LOG2E
    D, bias = _channel(D, first, d, ok), _channel(bias, first, d, ok)
    h = tl.zeros([BD, BN], tl.float32)
    if initial is not None:
        h = _load(_states(initial, row, first, d, n, one), both)
    if left is not None:
        for earlier in range(chunk):
            at = row * chunks + earlier
            total = _load(_total(left, at, sizes[0], first + d), ok)
            h *= tl.exp2(total[:, None] * A)
            h += _load(_states(left, at, first, d, n, one), ok[:, None])
    # Two states a block are kept, where B and C are not yet or no longer
    # needed: the barrier of a store would make Triton hold all of both.
    block = 2 * (row * tl.cdiv(sizes[1], T) + start // T)
    for i in tl.range(0, steps, T, num_stages=STAGES):
        middle = h
        if kept is not None:
            at = block + i // T * 2
            _store(_states(kept, at, first, d, n, 1), h, ok[:, None])
        now = (i + t < steps)[None, :]
        inside = ok[:, None] & now
        u_now = _load(_tile(u, here, d, i, t), inside)
        raw = _load(_tile(delta, here, d, i, t), inside)
        B_now = _load(_tile(B, shared, n, i, t), is_state[:, None] & now)
        C_now = _load(_tile(C, shared, n, i, t), is_state[:, None] & now)
        delta_now = _delta(raw + bias, inside, SOFTPLUS)
        deltas, xs = _columns(delta_now, T), _columns(delta_now * u_now, T)
        Bs, Cs = _columns(B_now, T), _columns(C_now, T)
        ys = ()
        for k in tl.static_range(T):
            a = tl.exp2(deltas[k][:, None] * A)
            h = a * h + xs[k][:, None] * Bs[k][None, :]
            ys += (tl.sum(h * Cs[k][None, :], 1),)
            if k == T // 2 - 1:
                middle = h
        y_now = _stack(ys, 0, 1, T) + D * u_now
        if ungated is not None:
            _store(_tile(ungated, here, d, i, t), y_now, inside)
        if z is not None:
            z_now = _load(_tile(z, here, d, i, t), inside)
            y_now *= z_now * _sigmoid(z_now)
        if kept is not None:
            at = block + i // T * 2 + 1
            _store(_states(kept, at, first, d, n, 1), middle, ok[:, None])
        _store(_tile(y, here, d, i, t), y_now, inside)
    at_end = both & (chunk == chunks - 1)
    _store(_states(last, row, first, d, n, one), h, at_end)


@triton.jit
def _add(p, x, inside, ATOMIC: tl.constexpr):
    """Into a sum that programs share, or into a place of its own."""
    if ATOMIC:
        tl.atomic_add(p, x, mask=inside, sem="relaxed")
    else:
        tl.store(p, x, mask=inside)


@triton.jit
def _beside(a, b):
    """Two tiles [D, T] side by side, [D, 2 T]."""
    pair = tl.permute(tl.join(a, b), (0, 2, 1))
    return tl.reshape(pair, [a.shape[0], 2 * a.shape[1]])


@triton.jit
def _exchange(x, BIT: tl.constexpr):
    """[8, BN] with rows r and r ^ BIT exchanged.

    A pair's exclusive or, with one's own number taken out, is the other's.
    """
    bits = x.to(tl.int32, bitcast=True)
    bits = tl.reshape(bits, [4 // BIT, 2, BIT, x.shape[1]])
    bits ^= tl.xor_sum(bits, 1)[:, None]
    return tl.reshape(bits, x.shape).to(tl.float32, bitcast=True)


@triton.jit
def _row_sums(tiles, FIRST: tl.constexpr, BIT: tl.constexpr):
    """[8, BN], whose row r is the sum of the rows of tiles[FIRST + r].

    Each of the three rounds halves the tiles: a row keeps its part of one,
    and sends that of the other to the row that keeps it. So 8 sums over
    8 lanes take 7 exchanges, not 24.
    """
    if BIT == 0:
        x = tiles[FIRST]
    else:
        low = _row_sums(tiles, FIRST, BIT // 2)
        high = _row_sums(tiles, FIRST + BIT, BIT // 2)
        upper = (tl.arange(0, 8)[:, None] & BIT) != 0
        x = tl.where(upper, high, low)
        x += _exchange(tl.where(upper, low, high), BIT)
    return x


@triton.jit
def _eight(x):
    """[BD, BN] → [8, BN], rows 8 apart added."""
    return tl.sum(tl.reshape(x, [x.shape[0] // 8, 8, x.shape[1]]), 0)


@triton.jit
def _fetch(arrays, corner, d, i, t, ok, steps):
    """A block of each, as it is stored; 0 outside the chunk."""
    inside = ok[:, None] & ((i + t >= 0) & (i + t < steps))[None, :]
    return [
        tl.load(_tile(x, corner, d, i, t), mask=inside, other=0.0)
        for x in arrays
    ]


# Here lanes share the states of a channel: sums over states and sums over
# channels then both take few exchanges.
@triton.jit
def _scan_back(
    inputs,
    outputs,
    sums,
    left,
    sizes,
    N: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    T: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    ATOMIC: tl.constexpr,
):
    u, delta, A, B, C, D, z, bias, dy, dlast, ungated, kept = inputs
    du, ddelta, dz, dinitial = outputs
    d_inner, length, _ = sizes
    chunk, chunks = tl.program_id(1), tl.num_programs(1)
    row, first, start, steps = _place(chunk, sizes, BD)
    here, shared = (row, first, start), (row, 0, start)
    d, n, t = tl.arange(0, BD), tl.arange(0, BN), tl.arange(0, T)
    ok, is_state = d < d_inner - first, n < N
    both = ok[:, None] & is_state[None, :]
    # What is summed over programs stands one after another: dB, dC, dA, dD,
    # dbias. Where sums are not atomic, every program has a part of its own.
    groups = tl.cdiv(d_inner, BD)
    batch = tl.num_programs(0) // groups
    group, part, parts = first // BD, row * chunks + chunk, batch * chunks
    if ATOMIC:
        groups, group, part, parts = 1, 0, 0, 1
    size = groups * batch.to(tl.int64) * length * N
    r = tl.arange(0, 8)  # dB of four steps, from the last; dC, from the first
    dB_dC = sums + ((group * batch + row) * length + start) * N
    dB_dC += (r // T * size)[:, None] + n[None, :]
    dA = (sums + 2 * size, d_inner * N, N, 1)
    dD = dA[0] + tl.cast(parts, tl.int64) * d_inner * N + first + d
    dbias = dD + parts * d_inner

    A = _load(_states(A, 0, first, d, n, 1), both) * LOG2E
    D, bias = _channel(D, first, d, ok), _channel(bias, first, d, ok)
    w = tl.zeros([BD, BN], tl.float32)  # a_{t+1} g_{t+1}
    if dlast is not None:
        w = _load(_states(dlast, row, first, d, n, 1), both)
    if left is not None:
        for later in range(1, chunks - chunk):
            at = row * chunks + chunks - later
            total = _load(_total(left, at, d_inner, first + d), ok)
            w *= tl.exp2(total[:, None] * A)
            w += _load(_states(left, at, first, d, n, 1), ok[:, None])
    sum_A = tl.zeros([BD, BN], tl.float32)
    sum_D = tl.zeros([BD, T], tl.float32)
    sum_bias = tl.zeros([BD, T], tl.float32)
    # Triton would fetch these blocks too late: here it is done by hand.
    five = (u, delta, dy, u if z is None else z, u if z is None else ungated)
    i = (tl.cdiv(steps, T) - 1) * T
    ahead = _fetch(five, here, d, i, t, ok, steps)
    block = row * tl.cdiv(length, 2 * T) * 2 + start // T
    for step in tl.range(0, steps, T, num_stages=3):
        i = (tl.cdiv(steps, T) - 1) * T - step
        now = (i + t < steps)[None, :]
        inside = ok[:, None] & now
        u_now, raw, dy_now, z_now, y_now = [x.to(tl.float32) for x in ahead]
        ahead = _fetch(five, here, d, i - T, t, ok, steps)
        h = _load(_states(kept, block + i // T, first, d, n, 1), ok[:, None])
        B_now = _load(_tile(B, shared, n, i, t), is_state[:, None] & now)
        C_now = _load(_tile(C, shared, n, i, t), is_state[:, None] & now)
        if z is not None:
            gate = _sigmoid(z_now)
            slope = y_now * gate * (1.0 + z_now * (1.0 - gate))
            _store(_tile(dz, here, d, i, t), dy_now * slope, inside)
            dy_now *= z_now * gate
        raw += bias
        delta_now = _delta(raw, inside, SOFTPLUS)
        deltas_xs = _columns(_beside(delta_now, delta_now * u_now), 2 * T)
        dys, Bs, Cs = (
            _columns(dy_now, T),
            _columns(B_now, T),
            _columns(C_now, T),
        )
        hs, decays, dCs = (), (), ()
        for k in tl.static_range(T):
            hs += (h,)
            decays += (tl.exp2(deltas_xs[k][:, None] * A),)
            h = decays[k] * h + deltas_xs[T + k][:, None] * Bs[k][None, :]
            dCs += (_eight(h * dys[k][:, None]),)
        dxs, dBs, slopes = (), (), ()
        for k in tl.static_range(T - 1, -1, -1):
            g = w + dys[k][:, None] * Cs[k][None, :]
            w = decays[k] * g
            q = w * hs[k]  # the gradient of Δ A
            sum_A += deltas_xs[k][:, None] * q
            slopes += (tl.sum(A * q, 1),)
            dxs += (tl.sum(g * Bs[k][None, :], 1),)
            dBs += (_eight(g * deltas_xs[T + k][:, None]),)
        at = i + tl.where(r < T, T - 1 - r, r - T)[:, None]
        both_sums = _row_sums(dBs + dCs, 0, T)
        in_rows = is_state[None, :] & (at < steps)
        _add(dB_dC + at.to(tl.int64) * N, both_sums, in_rows, ATOMIC)
        dx = _stack(dxs, T - 1, -1, T)
        d_raw = _stack(slopes, T - 1, -1, T) * LN2 + dx * u_now
        if SOFTPLUS:
            d_raw *= _sigmoid(raw)
        sum_D += dy_now * u_now
        sum_bias += tl.where(inside, d_raw, 0.0)
        _store(_tile(ddelta, here, d, i, t), d_raw, inside)
        _store(_tile(du, here, d, i, t), dx * delta_now + D * dy_now, inside)
    _add(_states(dA, part, first, d, n, 1), sum_A, both, ATOMIC)
    _add(dD + part * d_inner, tl.sum(sum_D, 1), ok, ATOMIC)
    _add(dbias + part * d_inner, tl.sum(sum_bias, 1), ok, ATOMIC)
    if dinitial is not None:
        at_start = both & (chunk == 0)
        _store(_states(dinitial, row, first, d, n, 1), w, at_start)


_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def available() -> bool:
    """Whether Triton is installed and torch sees a CUDA GPU."""
    return triton is not _Absent and torch.cuda.is_available()


def suits(u: Tensor, delta: Tensor, A: Tensor, *others: Tensor | None) -> bool:
    """Whether ``selective_scan`` takes them: CUDA, its types, N ≤ 256."""
    return (
        triton is not _Absent
        and A.shape[1] <= 256
        and all(
            x is None or (x.is_cuda and x.dtype in _TYPES)
            for x in (u, delta, A, *others)
        )
    )


# Tiles. Where time is cut: warps for a scheduler of the GPU, steps a chunk.
_FORWARD, _BACKWARD = {"BD": 32, "T": 8}, {"BD": 16, "T": 4}
_WARPS, _SHORTEST = 2, 32


def _padded(N: int) -> int:
    """BN: a power of two, and enough for tiles that lanes can share."""
    return max(1 << (N - 1).bit_length(), 16)


def _array(x: Tensor | None) -> Any:
    """As the kernels take one: its pointer and three strides."""
    if x is None:
        return None
    return (x, *(0,) * (3 - x.ndim), *x.stride())


class _Plan:
    """How a scan is shared out among programs, and its launches.

    Triton compiles for the types, strides and alignments of the arguments,
    and looks at all of them at every launch. That takes longer than a short
    scan: a plan does it once for all calls that agree in them.
    """

    plans: ClassVar[dict[Any, "_Plan"]] = {}

    @classmethod
    def of(cls, BD: int, options: Any, u: Tensor, N: int, arrays: Any) -> Any:
        key = BD, options, u.device, u.shape, N
        for x in arrays:
            if x is not None:
                x = x[0].dtype, x[0].data_ptr() % 16, x[1:]
            key += (x,)
        if key not in cls.plans:
            if len(cls.plans) > 2**12:  # lengths that never come again
                cls.plans.clear()
            cls.plans[key] = cls(BD, u, N)
        return cls.plans[key]

    def __init__(self, BD: int, u: Tensor, N: int) -> None:
        batch, d_inner, length = u.shape
        # Each scheduler of the GPU, four a multiprocessor, wants a warp. If
        # the channels are too few, time is cut and every step walked twice,
        # which pays where there are two warps for each.
        gpu = torch.cuda.get_device_properties(u.device)
        slots = 4 * gpu.multi_processor_count
        programs = batch * -(-d_inner // BD)
        chunks = 1
        if programs < 0.9 * slots:
            chunks = min(_WARPS * slots // programs, length // _SHORTEST)
        chunk = 16 * -(-length // (16 * max(chunks, 1)))
        self.chunks = -(-length // chunk)
        self.sizes = d_inner, length, chunk
        self.N, self.BN = N, _padded(N)
        # The kernel of chunks has the tiles of the forward one.
        groups = batch * -(-d_inner // _FORWARD["BD"])
        self.grids = (groups, self.chunks - 1, 1), (programs, self.chunks, 1)
        self.batch, self.device = batch, u.device
        self.runners: dict[Any, Any] = {}

    def new(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def left(self, d_stride: int, n_stride: int) -> Any:
        """Room for what chunks leave behind: their states, then their ΣΔ."""
        if self.chunks == 1:
            return None
        row = self.sizes[0] * (self.BN + 1)
        room = self.new(self.batch * self.chunks * row)
        return room, row, d_stride, n_stride

    def launch(self, kernel: Any, *args: Any, **constants: Any) -> None:
        run = self.runners.get(kernel)
        if run is not None:
            run(*args, self.sizes, self.N, self.BN, *constants.values())
            return
        grid = self.grids[kernel is not _chunk]
        compiled = kernel[grid](
            *args,
            sizes=self.sizes,
            N=self.N,
            BN=self.BN,
            num_warps=min(max(self.BN // constants["BD"], 1), 8),
            maxnreg=255,  # by itself the compiler saves them, and loses time
            **constants,
        )
        self.runners[kernel] = compiled[grid]


def _like(x: Tensor) -> Tensor:
    """Room for a (batch, channels, length), channels side by side."""
    _, d, length = sizes = x.shape
    strides = length * d, 1, d
    return torch.empty_strided(sizes, strides, dtype=x.dtype, device=x.device)


def _prepared(inputs: Any) -> Any:
    """With B and C in float32, the N numbers of a step side by side.

    The kernels could convert them, but each of d_inner / BD warps would do
    it again. For short scans a launch costs more than that.
    """
    u, delta, A, B, C, *others = inputs
    short = u.numel() < 2**23
    form = {"dtype": torch.float32, "memory_format": torch.contiguous_format}
    B, C = (
        x
        if x.stride(1) == 1 and (short or x.dtype == torch.float32)
        else x.mT.to(**form).mT
        for x in (B, C)
    )
    return u, delta, A, B, C, *others


def _forward(inputs: Any, softplus: bool, keep: bool) -> Any:
    """y and the last state; for backward y before the gate, and states."""
    arrays = tuple(_array(x) for x in _prepared(inputs))
    u, z, N = inputs[0], inputs[6], inputs[2].shape[1]
    batch, d_inner, length = u.shape
    plan = _Plan.of(_FORWARD["BD"], (softplus, keep), u, N, arrays)
    y, last = torch.empty_like(u), plan.new(batch, d_inner, N)
    kept = ungated = None
    if keep:
        kept = plan.new(batch * 2 * -(-length // 8), d_inner, plan.BN)
        ungated = _like(u) if z is not None else None
    left = plan.left(1, d_inner)
    options = _FORWARD | {"SOFTPLUS": softplus}
    if left is not None:
        given = *arrays[:4], None, arrays[7]
        plan.launch(_chunk, given, left, 1, **options, REVERSE=False)
    outputs = tuple(_array(x) for x in (y, ungated, kept, last))
    stages = 4 if keep and left is None else 3
    plan.launch(_scan, arrays, outputs, left, 1, **options, STAGES=stages)
    return y, last, ungated, kept


def _backward(
    inputs: Any,
    dy: Tensor,
    dlast: Tensor | None,
    ungated: Tensor | None,
    kept: Tensor | None,
    softplus: bool,
    deterministic: bool,
) -> list[Tensor | None]:
    """The gradients of the inputs."""
    u, delta, A, B, C, D, z, bias, initial = inputs
    inputs = _prepared(inputs)
    if kept is None:
        _, _, ungated, kept = _forward(inputs, softplus, True)
    # The kernel has no use for the initial state: it is among those kept.
    given = (*inputs[:8], dy, dlast, ungated, kept)
    arrays = tuple(_array(x) for x in given)
    (batch, d_inner, length), N, BD = u.shape, A.shape[1], _BACKWARD["BD"]
    key = *arrays, _array(initial)  # which its gradient resembles
    plan = _Plan.of(BD, (softplus, deterministic), u, N, key)
    left = plan.left(plan.BN, 1)
    if left is not None:
        _, delta_, A_, _, C_, _, z_, bias_, dy_, *_ = arrays
        turned = dy_, delta_, A_, C_, z_, bias_
        options = _FORWARD | {"SOFTPLUS": softplus, "REVERSE": True}
        plan.launch(_chunk, turned, left, 1, **options)
    # Sums over programs: into one place, or a place each, added afterwards.
    of_B, of_A = batch * length * N, d_inner * N
    sizes = of_B, of_B, of_A, d_inner, d_inner
    if deterministic:
        groups, parts = -(-d_inner // BD), batch * plan.chunks
        places = groups, groups, parts, parts, parts
        room = [size * n for size, n in zip(sizes, places, strict=True)]
        sums = plan.new(sum(room))
    else:
        sums = torch.zeros(sum(sizes), dtype=torch.float32, device=u.device)
    du, ddelta = _like(u), _like(delta)
    dz = None if z is None else _like(z)
    dinitial = None if initial is None else torch.empty_like(initial)
    outputs = tuple(_array(x) for x in (du, ddelta, dz, dinitial))
    options = _BACKWARD | {"SOFTPLUS": softplus, "ATOMIC": not deterministic}
    plan.launch(_scan_back, arrays, outputs, sums, left, **options)
    if deterministic:
        each = zip(sums.split(room), places, strict=True)
        dB, dC, dA, dD, dbias = (x.view(n, -1).sum(0) for x, n in each)
    else:
        dB, dC, dA, dD, dbias = sums.split(sizes)
    return [
        *(du, ddelta, dA.view(d_inner, N).to(A.dtype)),
        dB.view(batch, length, N).mT.to(B.dtype),
        dC.view(batch, length, N).mT.to(C.dtype),
        None if D is None else dD.to(D.dtype),
        *(dz, None if bias is None else dbias.to(bias.dtype), dinitial),
    ]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        output = _forward(inputs[:9], *inputs[9:11])
        _remember(ctx, inputs, output)
        y, last, *_ = output
        return y, last

    @staticmethod
    def backward(ctx: Any, dy: Any, dlast: Any) -> Any:
        return _gradients(ctx, dy, dlast, _backward)


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, softplus, keep, deterministic = inputs
    _, _, ungated, kept = output
    kept = (ungated if tensors[6] is not None else None, kept)
    ctx.save_for_backward(*tensors, *(kept if keep else (None, None)))
    ctx.options = softplus, deterministic
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy: Any, dlast: Any, backward: Any) -> Any:
    if torch.is_grad_enabled():
        # torch's once_differentiable lets this pass with a wrong result
        # where dy itself needs no gradient.
        raise RuntimeError(
            "selective_scan: expected to be differentiated once, got "
            "create_graph=True; selective_scan_reference can be, twice"
        )
    *tensors, ungated, kept = ctx.saved_tensors
    dy = torch.zeros_like(tensors[0]) if dy is None else dy
    found = backward(tensors, dy, dlast, ungated, kept, *ctx.options)
    return *found, None, None, None


def selective_scan(
    u: Float[Tensor, "batch d_inner length"],
    delta: Float[Tensor, "batch d_inner length"],
    A: Float[Tensor, "d_inner N"],
    B: Float[Tensor, "batch N length"],
    C: Float[Tensor, "batch N length"],
    D: Float[Tensor, " d_inner"] | None = None,
    z: Float[Tensor, "batch d_inner length"] | None = None,
    delta_bias: Float[Tensor, " d_inner"] | None = None,
    delta_softplus: bool = False,
    initial_state: Float[Tensor, "batch d_inner N"] | None = None,
    *,
    keep_states: bool = True,
    deterministic: bool | None = None,
) -> tuple[
    Float[Tensor, "batch d_inner length"], Float[Tensor, "batch d_inner N"]
]:
    """``selective.selective_scan`` with the rule "exponential_euler", on a GPU.

    Every argument may be float32, bfloat16 or float16 and have any strides;
    fastest is what a Mamba block has, channels side by side: x.mT of an x
    (batch, length, d_inner). Inside all is float32. Values are not checked.

    Args:
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state:
            as ``selective.selective_scan``; N ≤ 256.
        keep_states: keep every fourth state for backward, 16 bytes a step
            and channel up to N = 16 (then N, up to a power of two); else
            backward runs forward again, and keeps them only meanwhile.
        deterministic: add the gradients of A, B, C, D and delta_bias up in
            one order, which takes ⌈d_inner/16⌉ times the room of those of B
            and C; None: what torch.use_deterministic_algorithms says.

    Returns:
        y (batch, d_inner, length), of u's dtype; the last state (batch,
        d_inner, N), float32. They can be differentiated once, not twice.

    Raises:
        RuntimeError: no Triton, other tensors than ``suits`` admits, or a
            second derivative is asked for.

    Source: Gu & Dao (2023), "Mamba", section 3.3.2 and appendix D.
    """
    tensors = u, delta, A, B, C, D, z, delta_bias, initial_state
    if not suits(*tensors):
        types = sorted({str(x.dtype)[6:] for x in tensors if x is not None})
        raise RuntimeError(
            "scan_triton: expected Triton and CUDA tensors of float32, "
            "bfloat16 or float16 with N <= 256, got Triton "
            f"{'missing' if triton is _Absent else 'installed'}, tensors of "
            f"{', '.join(types)} on {u.device}, N = {A.shape[1]}"
        )
    if u.device.index != torch.cuda.current_device():
        with torch.cuda.device(u.device):  # where Triton would launch
            return selective_scan(
                *tensors[:8],
                delta_softplus,
                initial_state,
                keep_states=keep_states,
                deterministic=deterministic,
            )
    wanted = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in tensors
    )
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    keep = wanted and keep_states
    y: Tensor
    last: Tensor
    if torch.compiler.is_compiling():
        y, last, _, _ = _op(*tensors, delta_softplus, keep, deterministic)
    elif wanted:
        y, last = _Scan.apply(*tensors, delta_softplus, keep, deterministic)
    else:
        y, last, _, _ = _forward(tensors, delta_softplus, False)
    return y, last


# What torch.compile sees: two opaque operators that know their shapes.
_INPUTS = (
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, "
    "Tensor? z, Tensor? bias, Tensor? initial, "
)


@torch.library.custom_op(
    "linear_time::scan_triton",
    mutates_args=(),
    schema=f"({_INPUTS} bool softplus, bool keep, bool deterministic) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)
def _op(*args: Any) -> Any:
    output = _forward(args[:9], *args[9:11])
    return tuple(args[0].new_empty(0) if x is None else x for x in output)


@_op.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, *args: Any) -> Any:
    z, keep = args[3], args[-2]
    last = u.new_empty(len(u), *A.shape, dtype=torch.float32)
    ungated, kept = u.new_empty(0), u.new_empty(0)
    if keep:
        rows = len(u) * 2 * ((u.shape[2] + 7) // 8)
        kept = last.new_empty(rows, u.shape[1], _padded(A.shape[1]))
        ungated = _like(u) if z is not None else ungated
    return torch.empty_like(u), last, ungated, kept


@torch.library.custom_op(
    "linear_time::scan_triton_backward",
    mutates_args=(),
    schema=f"({_INPUTS} Tensor dy, Tensor? dlast, Tensor? ungated, "
    "Tensor? kept, bool softplus, bool deterministic) -> Tensor[]",
)
def _op_backward(*args: Any) -> list[Tensor]:
    found = _backward(args[:9], *args[9:])
    for i in (2, 3, 4, 5, 7):  # these share their memory, which torch forbids
        x = found[i]
        found[i] = x if x is None else x.clone()
    return [x for x in found if x is not None]


@_op_backward.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, *args: Any) -> list[Tensor]:
    B, C, D, z, bias, initial = args[:6]
    in_time = (None if x is None else _like(x) for x in (u, delta, B, C, z))
    du, ddelta, dB, dC, dz = in_time
    like = du, ddelta, A, dB, dC, D, dz, bias, initial
    return [torch.empty_like(x) for x in like if x is not None]


def _op_gradients(ctx: Any, dy: Any, dlast: Any, *_: Any) -> Any:
    def backward(tensors: Any, *args: Any) -> Any:
        found = iter(_op_backward(*tensors, *args))
        return [x if x is None else next(found) for x in tensors]

    return _gradients(ctx, dy, dlast, backward)


_op.register_autograd(_op_gradients, setup_context=_remember)
