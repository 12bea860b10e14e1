"""Wrong answers to the exercises of chapter 17: each is a plausible slip."""

import math

import sympy as sp
import torch

from linear_time.scan import linear_scan, sequential_cost, tree_scan


def after_the_beginning(a, b, begins):
    return linear_scan(torch.where(begins.roll(1, 1), 0.0, a), b)


def keeps_only_beginnings(a, b, begins):
    return linear_scan(torch.where(begins, a, 0.0), b)


def forgets_the_input_too(a, b, begins):
    return linear_scan(torch.where(begins, 0.0, a), torch.where(begins, 0.0, b))


def one_mask_for_all_rows(a, b, begins):
    return linear_scan(torch.where(begins[:1].expand_as(begins), 0.0, a), b)


def documents_by_a_loop(a, b, begins):
    h, states = torch.zeros_like(b[:, 0]), []
    for t in range(a.shape[1]):
        h = torch.where(begins[:, t], 0.0, a[:, t]) * h + b[:, t]
        states.append(h)
    return torch.stack(states, 1)


def tangent_by_a_loop(a, b, a_dot, b_dot):
    h, moves, out = torch.zeros_like(b[:, 0]), torch.zeros_like(b[:, 0]), []
    for t in range(a.shape[1]):
        moves = a[:, t] * moves + a_dot[:, t] * h + b_dot[:, t]
        h = a[:, t] * h + b[:, t]
        out.append(moves)
    return torch.stack(out, 1)


def order_by_a_loop(p, q, b):
    old = older = torch.zeros_like(b[:, 0])
    states = []
    for t in range(p.shape[1]):
        old, older = p[:, t] * old + q[:, t] * older + b[:, t], old
        states.append(old)
    return torch.stack(states, 1)


def _floor(steps=4, float_size=4, small=2, round_up=True, batches=True, state_size=4, as_time=None):
    def answer(batch, d_inner, length, N, size, kept, bandwidth):
        total = size * batch * length * (steps * d_inner + 2 * N)
        total += float_size * (d_inner * N + small * d_inner)
        if kept is not None:
            blocks = math.ceil(length / kept) if round_up else length // kept
            total += state_size * (batch if batches else 1) * blocks * d_inner * N
        return (as_time or (lambda n, speed: (1e3 * n / speed, "ms")))(total, bandwidth)

    return answer


def max_swapped(first, second):
    return first[0] + second[0], torch.maximum(second[1] + first[0], first[1])


def max_times(first, second):
    return first[0] * second[0], torch.maximum(first[1] * second[0], second[1])


def max_of_both(first, second):
    return torch.maximum(first[0], second[0]), torch.maximum(first[1] + second[0], second[1])


def max_without_the_price(first, second):
    return first[0] + second[0], torch.maximum(first[1], second[1])


def work_over_processors(length, processors):
    log = math.ceil(math.log2(length)) if length > 1 else 0
    work = sum(length - 2**k for k in range(log))
    return math.ceil(work / processors)


def full_rounds(length, processors):
    return math.ceil(math.log2(length)) * math.ceil(length / processors)


def depth_only(length, processors):
    return math.ceil(math.log2(length)) if length > 1 else 0


def of_the_state_itself(a, b, a_dot, b_dot):
    h = linear_scan(a, b)
    return linear_scan(a, a_dot * h + b_dot)


def factor_moves_nothing(a, b, a_dot, b_dot):
    return linear_scan(a, b_dot)


def factor_moves_too(a, b, a_dot, b_dot):
    return linear_scan(a + a_dot, b_dot)


def scan_of_the_tangents(a, b, a_dot, b_dot):
    return linear_scan(a_dot, b_dot)


def _moves(inputs_read=2, gradients=1, outputs=2, trips=2, round_up=True):
    def answer(length, d_inner, N, chunk):
        inputs = 2 * length * d_inner + 2 * length * N + d_inner * N
        both = (inputs_read + gradients) * inputs + outputs * length * d_inner
        chunks = math.ceil(length / chunk) if round_up else length // chunk
        state = trips * d_inner * N
        return both + length * state, both + chunks * state

    return answer


def _second_order(turn, row, order):
    def answer(p, q, b):
        def operator(first, second):
            (M_1, v_1), (M_2, v_2) = first, second
            product = M_2 @ M_1 if order else M_1 @ M_2
            return product, (M_2 @ v_1[..., None])[..., 0] + v_2

        one, zero = torch.ones_like(p), torch.zeros_like(p)
        M = torch.stack([torch.stack([p, q], -1), torch.stack([one, zero], -1)], -2)
        M = M.mT.contiguous() if turn else M
        return tree_scan(operator, (M, torch.stack([b, zero], -1)))[1][..., row]

    return answer


def work_in_one_line(m, k):
    return [m * 2**m - 2**m + 1]


def work_without_the_last_term(m, k):
    return [_constant(m, k) - _powers(m, k), m * 2**m - _powers(m, k), m * 2**m - 2**m]


def work_not_split(m, k):
    """Each line follows, and the first one is where it started."""
    return [sp.Sum(2**m - 2**k, (k, 0, m - 1)), m * 2**m - _powers(m, k), m * 2**m - 2**m + 1]


def work_split_twice(m, k):
    split = _constant(m, k) - _powers(m, k)
    return [split, split, m * 2**m - 2**m + 1]


def work_not_summed(m, k):
    split, half = _constant(m, k) - _powers(m, k), m * 2**m - _powers(m, k)
    return [split, half, half]


def work_as_numbers(m, k):
    return [9, 9, 9]


def _constant(m, k):
    return sp.Sum(2**m, (k, 0, m - 1))


def _powers(m, k):
    return sp.Sum(2**k, (k, 0, m - 1))


def readings(**wrong):
    right = {
        "rounds of chunks": 127,
        "tree on 16": 133,
        "doubling on 16": 577,
        "doubling on 1": 9217,
    }
    return right | {name.replace("_", " "): value for name, value in wrong.items()}


def _last_finite(largest=True, round_=math.floor, more=0, log=math.log):
    def answer(a, dtype):
        end = torch.finfo(dtype).max if largest else 1 / torch.finfo(dtype).tiny
        return round_(log(end) / -math.log(a)) + more

    return answer


def nothing(scan):
    pass


def shape_only(scan):
    a = torch.full((1, 8), 0.5)
    assert scan(a, a, torch.zeros(1)).shape == (1, 8)


def constant_factor(scan):
    """A constant factor hides the order of the operands."""
    a, b = torch.full((1, 8), 0.5), torch.randn(1, 8)
    h = scan(a, b, torch.ones(1))
    assert torch.allclose(h[:, 1:], a[:, 1:] * h[:, :-1] + b[:, 1:])


def short(scan):
    """No chunk has an end within 8 steps."""
    a, b, start = torch.rand(1, 8), torch.randn(1, 8), torch.ones(1)
    h = scan(a, b, start)
    before = torch.cat([start[:, None], h[:, :-1]], dim=1)
    assert torch.allclose(h, a * before + b)


def from_zero(scan):
    a, b, start = torch.rand(1, 99), torch.randn(1, 99), torch.zeros(1)
    h = scan(a, b, start)
    before = torch.cat([start[:, None], h[:, :-1]], dim=1)
    assert torch.allclose(h, a * before + b)


WRONG = {
    "17-bytes": [
        _floor(steps=3),
        _floor(steps=2),
        _floor(float_size=2),
        _floor(small=0),
        _floor(round_up=False),
        _floor(batches=False),
        _floor(state_size=2),
        _floor(as_time=lambda n, speed: n / speed),
        _floor(as_time=lambda n, speed: (n / speed, "ms")),
        _floor(as_time=lambda n, speed: (n, "B")),
        _floor(as_time=lambda n, speed: (8 * n / speed, "s")),
    ],
    "17-documents": [
        documents_by_a_loop,
        after_the_beginning,
        keeps_only_beginnings,
        forgets_the_input_too,
        one_mask_for_all_rows,
        lambda a, b, begins: linear_scan(a, b),
    ],
    "17-max": [max_swapped, max_times, max_of_both, max_without_the_price],
    "17-turns": [
        work_over_processors,
        full_rounds,
        depth_only,
        lambda length, processors: sequential_cost(length).work,
    ],
    "17-work": [
        work_in_one_line,
        work_without_the_last_term,
        work_not_split,
        work_split_twice,
        work_not_summed,
        work_as_numbers,
        lambda m, k: ["m", "2**m", "1"],
    ],
    "17-read": [
        lambda: readings(rounds_of_chunks=23),
        lambda: readings(rounds_of_chunks=1000),
        lambda: readings(tree_on_16=577),
        lambda: readings(doubling_on_16=133),
        lambda: readings(doubling_on_1=1023),
        lambda: readings(tree_on_1=2036),
        lambda: (127, 133, 577, 9217),
    ],
    "17-trick": [
        _last_finite(round_=math.ceil),
        _last_finite(more=-1),
        _last_finite(largest=False),
        _last_finite(log=math.log2),
        lambda a, dtype: _last_finite()(a, torch.float32),
        lambda a, dtype: 88,
    ],
    "17-tangent": [
        tangent_by_a_loop,
        of_the_state_itself,
        factor_moves_nothing,
        factor_moves_too,
        scan_of_the_tangents,
    ],
    "17-bits": [
        lambda memory, tolerance: math.ceil(math.log2(memory / tolerance)),
        lambda memory, tolerance: math.ceil(math.log2(memory)),
        lambda memory, tolerance: math.floor(math.log2(memory / tolerance)) - 1,
        lambda memory, tolerance: 24,
    ],
    "17-moves": [
        _moves(trips=1),
        _moves(inputs_read=1),
        _moves(outputs=1),
        _moves(gradients=0),
        _moves(round_up=False),
    ],
    "17-order": [
        order_by_a_loop,
        _second_order(turn=True, row=0, order=True),
        _second_order(turn=False, row=1, order=True),
        _second_order(turn=False, row=0, order=False),
        lambda p, q, b: linear_scan(p, b),
    ],
    "17-bug": [nothing, shape_only, constant_factor, short, from_zero],
}
