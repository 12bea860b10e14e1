"""Chapter 16: the selective scan forward, in Triton.

Where time is cut in chunks, ``chunk_ends`` finds what each leaves behind when
it starts from zero, and ``scan_forward`` puts a chunk's start together from
those before it. ``scan_triton`` says how, and launches them.
"""

# A kernel's tuples grow, which to mypy is another type.
# mypy: disable-error-code="assignment"

from linear_time.triton_tiles import (
    LOG2E,
    channel,
    columns,
    load,
    place,
    sigmoid,
    stack,
    states_at,
    step_size,
    store,
    tile_at,
    tl,
    total_at,
    triton,
)


@triton.jit(do_not_specialize=["one"])
def chunk_ends(
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
    row, first, start, steps = place(chunk, sizes, BD)
    here, shared = (row, first, start), (row, 0, start)
    d, n, t = tl.arange(0, BD), tl.arange(0, BN), tl.arange(0, T)
    ok, is_state = d < sizes[0] - first, n < N
    both = ok[:, None] & is_state[None, :]
    A = load(states_at(A, 0, first, d, n, one), both) * LOG2E
    bias = channel(bias, first, d, ok)
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
        raw = load(tile_at(delta, here, d, i, t), inside)
        x_now = load(tile_at(x, here, d, i, t), inside)
        B_now = load(tile_at(B, shared, n, i, t), is_state[:, None] & now)
        delta_now = step_size(raw + bias, inside, SOFTPLUS)
        total += delta_now
        if not REVERSE:
            x_now *= delta_now
        elif z is not None:
            z_now = load(tile_at(z, here, d, i, t), inside)
            x_now *= z_now * sigmoid(z_now)
        deltas, xs, Bs = (
            columns(delta_now, T),
            columns(x_now, T),
            columns(B_now, T),
        )
        for k in tl.static_range(FROM, TO, STEP):
            a = tl.exp2(deltas[k][:, None] * A)
            new = xs[k][:, None] * Bs[k][None, :]
            h = a * (h + new) if REVERSE else a * h + new
    at = row * (tl.num_programs(1) + 1) + chunk
    store(states_at(left, at, first, d, n, one), h, ok[:, None])
    store(total_at(left, at, sizes[0], first + d), tl.sum(total, 1), ok)


@triton.jit(do_not_specialize=["one"])
def scan_forward(
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
    row, first, start, steps = place(chunk, sizes, BD)
    here, shared = (row, first, start), (row, 0, start)
    d, n, t = tl.arange(0, BD), tl.arange(0, BN), tl.arange(0, T)
    ok, is_state = d < sizes[0] - first, n < N
    both = ok[:, None] & is_state[None, :]
    A = load(states_at(A, 0, first, d, n, one), both) * LOG2E
    D, bias = channel(D, first, d, ok), channel(bias, first, d, ok)
    h = tl.zeros([BD, BN], tl.float32)
    if initial is not None:
        h = load(states_at(initial, row, first, d, n, one), both)
    if left is not None:
        for earlier in range(chunk):
            at = row * chunks + earlier
            total = load(total_at(left, at, sizes[0], first + d), ok)
            h *= tl.exp2(total[:, None] * A)
            h += load(states_at(left, at, first, d, n, one), ok[:, None])
    # Two states a block are kept, where B and C are not yet or no longer
    # needed: the barrier of a store would make Triton hold all of both.
    block = 2 * (row * tl.cdiv(sizes[1], T) + start // T)
    for i in tl.range(0, steps, T, num_stages=STAGES):
        middle = h
        if kept is not None:
            at = block + i // T * 2
            store(states_at(kept, at, first, d, n, 1), h, ok[:, None])
        now = (i + t < steps)[None, :]
        inside = ok[:, None] & now
        u_now = load(tile_at(u, here, d, i, t), inside)
        raw = load(tile_at(delta, here, d, i, t), inside)
        B_now = load(tile_at(B, shared, n, i, t), is_state[:, None] & now)
        C_now = load(tile_at(C, shared, n, i, t), is_state[:, None] & now)
        delta_now = step_size(raw + bias, inside, SOFTPLUS)
        deltas, xs = columns(delta_now, T), columns(delta_now * u_now, T)
        Bs, Cs = columns(B_now, T), columns(C_now, T)
        ys = ()
        for k in tl.static_range(T):
            a = tl.exp2(deltas[k][:, None] * A)
            h = a * h + xs[k][:, None] * Bs[k][None, :]
            ys += (tl.sum(h * Cs[k][None, :], 1),)
            if k == T // 2 - 1:
                middle = h
        y_now = stack(ys, 0, 1, T) + D * u_now
        if ungated is not None:
            store(tile_at(ungated, here, d, i, t), y_now, inside)
        if z is not None:
            z_now = load(tile_at(z, here, d, i, t), inside)
            y_now *= z_now * sigmoid(z_now)
        if kept is not None:
            at = block + i // T * 2 + 1
            store(states_at(kept, at, first, d, n, 1), middle, ok[:, None])
        store(tile_at(y, here, d, i, t), y_now, inside)
    at_end = both & (chunk == chunks - 1)
    store(states_at(last, row, first, d, n, one), h, at_end)
