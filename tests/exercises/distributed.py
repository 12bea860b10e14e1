"""Wrong answers to the exercises of chapter 23: each is a plausible slip."""

import torch
from torch.nn import functional


def _entering(inclusive=False, decays=True, reverse=False, own=False):
    def answer(maps):
        states, now = [], torch.zeros_like(maps[0][1])
        for a, S in reversed(maps) if reverse else maps:
            before = now
            a = a[:, None, None] if decays else 1.0
            now = a * (now + S) if own else a * now + S
            states.append(now if inclusive else before)
        return states[::-1] if reverse else states

    return answer


def entering_of_one(maps):
    return _entering()(maps)[-1]


def entering_without_first(maps):
    return _entering()(maps)[1:]


def no_brackets(M, S_own, S):
    M_1, M_2, M_3 = M
    S_1, S_2, S_3 = S_own
    whole = M_1 * M_2 * M_3 * S + M_2 * M_3 * S_1 + M_3 * S_2 + S_3
    return [whole, whole]


def one_line(M, S_own, S):
    return [M[2] * (M[0] * M[1] * S + M[1] * S_own[0] + S_own[1]) + S_own[2]]


def wrong_map(M, S_own, S):
    """The state of the first shard passes the second undecayed."""
    M_1, M_2, M_3 = M
    S_1, S_2, S_3 = S_own
    return [
        M_3 * (M_1 * M_2 * S + S_1 + S_2) + S_3,
        M_2 * M_3 * (M_1 * S + S_1) + M_3 * S_2 + S_3,
    ]


def same_twice(M, S_own, S):
    line = M[2] * (M[0] * M[1] * S + M[1] * S_own[0] + S_own[1]) + S_own[2]
    return [line, line]


def _sent(others=lambda W: W - 1, one=0, part=lambda T, W: T // W, both=2, states=1, ring=None):
    def answer(tokens, ranks, layers, heads, P, N, size):
        each = layers * heads * size / 1e6
        around = others(ranks) if ring is None else ring(ranks)
        state = each * others(ranks) * (P * N + 1) * states
        return (state, "MB"), (each * around * part(tokens, ranks) * both * P, "MB")

    return answer


def sent_without_decay(tokens, ranks, layers, heads, P, N, size):
    _, ring = _sent()(tokens, ranks, layers, heads, P, N, size)
    return (layers * heads * size * (ranks - 1) * P * N / 1e6, "MB"), ring


def sent_in_time(tokens, ranks, layers, heads, P, N, size):
    return (1.0, "s"), (1.0, "s")


def sent_one(*sizes):
    return (1.0, "MB")


def sent_growing(tokens, ranks, layers, heads, P, N, size):
    (state, unit), ring = _sent()(tokens, ranks, layers, heads, P, N, size)
    return (state * tokens / ranks, unit), ring


def in_order(ranks):
    return [(2 * r, 2 * r + 1) for r in range(ranks)]


def in_turn(ranks):
    return [(r, r + ranks) for r in range(ranks)]


def one_twice(ranks):
    return [(r, r) for r in range(ranks)]


def three_chunks(ranks):
    return [(0, 1, 2)] * ranks


def _stuck(position=0, waiting=True, names=True, ends=True):
    def answer(programs):
        for at in range(max(map(len, programs))):
            here = {r: p[at] for r, p in enumerate(programs) if at < len(p)}
            missing = len(here) < len(programs) and ends
            if missing or (names and len(set(here.values())) > 1):
                late = sorted(set(range(len(programs))) - set(here))
                return at + position, sorted(here) if waiting else late
        return None

    return answer


def never_stuck(programs):
    return None


def always_stuck(programs):
    return 0, list(range(len(programs)))


def nothing(convolution):
    pass


def shape_only(convolution):
    x = [torch.randn(1, 2, 6) for _ in range(3)]
    assert [y.shape for y in convolution(x, torch.randn(2, 4))] == [t.shape for t in x]


def _against_the_whole(count=3, taps=4, last=0.0, alike=False):
    def test(convolution):
        noise = torch.Generator().manual_seed(0)
        shards = [torch.randn(1, 2, 6, generator=noise) for _ in range(count)]
        shards[-1] = shards[-1] * last if last != 1 else shards[-1]
        if alike:
            shards = [torch.ones_like(s) for s in shards]
        weight = torch.randn(2, taps, generator=noise)
        x = functional.pad(torch.cat(shards, -1), (taps - 1, 0))
        whole = functional.conv1d(x, weight[:, None], groups=2)
        assert torch.allclose(torch.cat(convolution(shards, weight), -1), whole, rtol=0, atol=1e-6)

    return test


def _planned(work=6, share=True, gpus=True, each=1, sends=6, stays=True):
    def answer(parameters, tokens, gpu_count, part, peak, mfu, link):
        rate = peak * (mfu if share else 1)
        days = work * parameters * tokens / ((gpu_count if gpus else 1) * rate) / 86400
        step = work * parameters * part / rate / (1 if each else gpu_count)
        away = (gpu_count - 1) / gpu_count if stays else 1
        return (days, "day"), (step, "s"), (sends * parameters / link * away, "s")

    return answer


def planned_two(*sizes):
    return _planned()(*sizes)[:2]


WRONG = {
    "23-entering": [
        _entering(inclusive=True),
        _entering(decays=False),
        _entering(reverse=True),
        _entering(own=True),
        entering_of_one,
        entering_without_first,
    ],
    "23-shards": [no_brackets, one_line, wrong_map, same_twice],
    "23-bytes": [
        _sent(others=lambda W: W),
        _sent(others=lambda W: 1),
        _sent(both=1),
        _sent(part=lambda T, W: T),
        _sent(ring=lambda W: W),
        sent_growing,
        sent_without_decay,
        sent_in_time,
        sent_one,
    ],
    "23-cross": [lambda: 10.5, lambda: 32.0, lambda: 400.0, lambda: "42"],
    "23-balance": [in_order, in_turn, one_twice, three_chunks],
    "23-stuck": [
        _stuck(position=1),
        _stuck(waiting=False),
        _stuck(names=False),
        _stuck(ends=False),
        never_stuck,
        always_stuck,
    ],
    "23-bug": [
        nothing,
        shape_only,
        _against_the_whole(count=1, last=1),
        _against_the_whole(count=2, last=1),
        _against_the_whole(taps=1, last=1),
        _against_the_whole(alike=True, last=1),
        _against_the_whole(),
    ],
    "23-plan": [
        _planned(work=2),
        _planned(share=False),
        _planned(gpus=False),
        _planned(each=0),
        _planned(sends=2),
        _planned(sends=4),
        _planned(sends=3),
        _planned(stays=False),
        planned_two,
    ],
}
