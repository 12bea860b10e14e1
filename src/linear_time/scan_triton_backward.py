"""Chapter 16: the selective scan backward, in Triton.

With g_t = C_t dy_t + w_t and w_{t−1} = a_t g_t, from the end to the start.
The states it needs are found again from every fourth, four steps a block.
"""

# A kernel's tuples grow, which to mypy is another type.
# mypy: disable-error-code="assignment"

from linear_time.triton_tiles import (
    LN2,
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


@triton.jit
def accumulate(p, x, inside, ATOMIC: tl.constexpr):
    """Into a sum that programs share, or into a place of its own."""
    if ATOMIC:
        tl.atomic_add(p, x, mask=inside, sem="relaxed")
    else:
        tl.store(p, x, mask=inside)


@triton.jit
def beside(a, b):
    """Two tiles [D, T] side by side, [D, 2 T]."""
    pair = tl.permute(tl.join(a, b), (0, 2, 1))
    return tl.reshape(pair, [a.shape[0], 2 * a.shape[1]])


@triton.jit
def exchange(x, BIT: tl.constexpr):
    """[8, BN] with rows r and r ^ BIT exchanged.

    A pair's exclusive or, with one's own number taken out, is the other's.
    """
    bits = x.to(tl.int32, bitcast=True)
    bits = tl.reshape(bits, [4 // BIT, 2, BIT, x.shape[1]])
    bits ^= tl.xor_sum(bits, 1)[:, None]
    return tl.reshape(bits, x.shape).to(tl.float32, bitcast=True)


@triton.jit
def row_sums(tiles, FIRST: tl.constexpr, BIT: tl.constexpr):
    """[8, BN], whose row r is the sum of the rows of tiles[FIRST + r].

    Each of the three rounds halves the tiles: a row keeps its part of one,
    and sends that of the other to the row that keeps it. So 8 sums over
    8 lanes take 7 exchanges, not 24.
    """
    if BIT == 0:
        x = tiles[FIRST]
    else:
        low = row_sums(tiles, FIRST, BIT // 2)
        high = row_sums(tiles, FIRST + BIT, BIT // 2)
        upper = (tl.arange(0, 8)[:, None] & BIT) != 0
        x = tl.where(upper, high, low)
        x += exchange(tl.where(upper, low, high), BIT)
    return x


@triton.jit
def eight(x):
    """[BD, BN] → [8, BN], rows 8 apart added."""
    return tl.sum(tl.reshape(x, [x.shape[0] // 8, 8, x.shape[1]]), 0)


@triton.jit
def fetch(arrays, corner, d, i, t, ok, steps):
    """A block of each, as it is stored; 0 outside the chunk."""
    inside = ok[:, None] & ((i + t >= 0) & (i + t < steps))[None, :]
    return [
        tl.load(tile_at(x, corner, d, i, t), mask=inside, other=0.0)
        for x in arrays
    ]


# Here lanes share the states of a channel: sums over states and sums over
# channels then both take few exchanges.
@triton.jit
def scan_backward(
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
    row, first, start, steps = place(chunk, sizes, BD)
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

    A = load(states_at(A, 0, first, d, n, 1), both) * LOG2E
    D, bias = channel(D, first, d, ok), channel(bias, first, d, ok)
    w = tl.zeros([BD, BN], tl.float32)  # a_{t+1} g_{t+1}
    if dlast is not None:
        w = load(states_at(dlast, row, first, d, n, 1), both)
    if left is not None:
        for later in range(1, chunks - chunk):
            at = row * chunks + chunks - later
            total = load(total_at(left, at, d_inner, first + d), ok)
            w *= tl.exp2(total[:, None] * A)
            w += load(states_at(left, at, first, d, n, 1), ok[:, None])
    sum_A = tl.zeros([BD, BN], tl.float32)
    sum_D = tl.zeros([BD, T], tl.float32)
    sum_bias = tl.zeros([BD, T], tl.float32)
    # Triton would fetch these blocks too late: here it is done by hand.
    five = (u, delta, dy, u if z is None else z, u if z is None else ungated)
    i = (tl.cdiv(steps, T) - 1) * T
    ahead = fetch(five, here, d, i, t, ok, steps)
    block = row * tl.cdiv(length, 2 * T) * 2 + start // T
    for step in tl.range(0, steps, T, num_stages=3):
        i = (tl.cdiv(steps, T) - 1) * T - step
        now = (i + t < steps)[None, :]
        inside = ok[:, None] & now
        u_now, raw, dy_now, z_now, y_now = [x.to(tl.float32) for x in ahead]
        ahead = fetch(five, here, d, i - T, t, ok, steps)
        h = load(states_at(kept, block + i // T, first, d, n, 1), ok[:, None])
        B_now = load(tile_at(B, shared, n, i, t), is_state[:, None] & now)
        C_now = load(tile_at(C, shared, n, i, t), is_state[:, None] & now)
        if z is not None:
            gate = sigmoid(z_now)
            slope = y_now * gate * (1.0 + z_now * (1.0 - gate))
            store(tile_at(dz, here, d, i, t), dy_now * slope, inside)
            dy_now *= z_now * gate
        raw += bias
        delta_now = step_size(raw, inside, SOFTPLUS)
        deltas_xs = columns(beside(delta_now, delta_now * u_now), 2 * T)
        dys, Bs, Cs = (
            columns(dy_now, T),
            columns(B_now, T),
            columns(C_now, T),
        )
        hs, decays, dCs = (), (), ()
        for k in tl.static_range(T):
            hs += (h,)
            decays += (tl.exp2(deltas_xs[k][:, None] * A),)
            h = decays[k] * h + deltas_xs[T + k][:, None] * Bs[k][None, :]
            dCs += (eight(h * dys[k][:, None]),)
        dxs, dBs, slopes = (), (), ()
        for k in tl.static_range(T - 1, -1, -1):
            g = w + dys[k][:, None] * Cs[k][None, :]
            w = decays[k] * g
            q = w * hs[k]  # the gradient of Δ A
            sum_A += deltas_xs[k][:, None] * q
            slopes += (tl.sum(A * q, 1),)
            dxs += (tl.sum(g * Bs[k][None, :], 1),)
            dBs += (eight(g * deltas_xs[T + k][:, None]),)
        at = i + tl.where(r < T, T - 1 - r, r - T)[:, None]
        both_sums = row_sums(dBs + dCs, 0, T)
        in_rows = is_state[None, :] & (at < steps)
        accumulate(dB_dC + at.to(tl.int64) * N, both_sums, in_rows, ATOMIC)
        dx = stack(dxs, T - 1, -1, T)
        d_raw = stack(slopes, T - 1, -1, T) * LN2 + dx * u_now
        if SOFTPLUS:
            d_raw *= sigmoid(raw)
        sum_D += dy_now * u_now
        sum_bias += tl.where(inside, d_raw, 0.0)
        store(tile_at(ddelta, here, d, i, t), d_raw, inside)
        store(tile_at(du, here, d, i, t), dx * delta_now + D * dy_now, inside)
    accumulate(states_at(dA, part, first, d, n, 1), sum_A, both, ATOMIC)
    accumulate(dD + part * d_inner, tl.sum(sum_D, 1), ok, ATOMIC)
    accumulate(dbias + part * d_inner, tl.sum(sum_bias, 1), ok, ATOMIC)
    if dinitial is not None:
        at_start = both & (chunk == 0)
        store(states_at(dinitial, row, first, d, n, 1), w, at_start)
