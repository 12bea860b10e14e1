"""Checks of chapter 23."""

from typing import Any

import sympy as sp
import torch
from torch.nn import functional

from linear_time.exercises import (
    exercise,
    expect,
    expect_close,
    expect_equal,
    expect_finds_bug,
    plain,
)
from linear_time.exercises.estimate import expect_quantity, expect_reading
from linear_time.exercises.proof import expect_lines


def _walk(maps, start, inclusive=False, decays=True, reverse=False):
    states, now = [], start
    for a, S in reversed(maps) if reverse else maps:
        before = now
        now = (a[:, None, None] if decays else 1) * now + S
        states.append(now if inclusive else before)
    return states[::-1] if reverse else states


@exercise("23-entering")
def entering(answer, cases):
    for ranks in (1, 2, cases.integer(3, 7)):
        heads, P, N = cases.integer(1, 4), cases.integer(2, 5), 3
        maps = [
            (cases.randn(heads).sigmoid(), cases.randn(heads, P, N))
            for _ in range(ranks)
        ]
        zero = torch.zeros_like(maps[0][1])
        got = plain(answer([(a.clone(), S.clone()) for a, S in maps]))
        given = f"{ranks} shards, {heads} heads"
        expect(
            isinstance(got, list | tuple) and len(got) == ranks,
            f"{given}: expected a list of {ranks} states.",
        )
        stacked = {
            name: torch.stack(_walk(maps, zero, **wrong))
            for name, wrong in {
                "those are the states that leave the shards": {
                    "inclusive": True
                },
                "the states of earlier shards do not decay on the way": {
                    "decays": False
                },
                "that is the state of the later shards": {"reverse": True},
            }.items()
        }
        shifted = [zero]
        for (a, _), (_, S) in zip(maps[:-1], maps[:-1], strict=True):
            shifted.append(a[:, None, None] * (shifted[-1] + S))
        stacked["a shard's decay acts on what came before, not on what it "
                "adds itself"] = torch.stack(shifted)  # fmt: skip
        for value in got:
            expect(
                isinstance(value, torch.Tensor) and value.shape == zero.shape,
                f"{given}: expected states of shape (heads, P, N).",
            )
        expect_close(
            torch.stack(list(got)),
            torch.stack(_walk(maps, zero)),
            given,
            slips=stacked,
        )


def _brackets(line):
    return [f for f in line.atoms(sp.Add) if f is not line]


def _terms(line, S):
    terms = sp.Add.make_args(line)
    return [t for t in terms if t.has(S)], [t for t in terms if not t.has(S)]


@exercise("23-shards")
def shards(answer, cases):
    M_1, M_2, M_3, S, S_1, S_2, S_3 = sp.symbols(
        "M_1 M_2 M_3 S S_1 S_2 S_3", positive=True
    )

    def first_two(line):
        with_S, rest = _terms(line, S)
        wanted = M_1 * M_2 * S + M_2 * S_1 + S_2
        return rest == [S_3] and len(with_S) == 1 and with_S[0] == M_3 * wanted

    def last_two(line):
        with_S, rest = _terms(line, S)
        bracket = M_1 * S + S_1
        return (
            len(with_S) == 1
            and with_S[0] == M_2 * M_3 * bracket
            and set(rest) == {M_3 * S_2, S_3}
        )

    expect_lines(
        answer((M_1, M_2, M_3), (S_1, S_2, S_3), S),
        M_3 * (M_2 * (M_1 * S + S_1) + S_2) + S_3,
        [
            (
                "the map of the first two shards, without brackets in it, and "
                "then the third one's",
                first_two,
            ),
            (
                "the first shard's map, and then that of the last two, "
                "without brackets in it",
                last_two,
            ),
        ],
        cases,
    )


@exercise("23-bytes")
def sent(answer, cases):
    for _ in range(4):
        ranks = cases.choice([2, 4, 8, 16])
        tokens = ranks * 1024 * cases.integer(1, 64)
        layers, heads = cases.integer(2, 64), 8 * cases.integer(1, 12)
        P, N = cases.choice([32, 64, 128]), cases.choice([16, 64, 128])
        size = cases.choice([2, 4])
        each = layers * heads * size / 1e6
        state, part = P * N + 1, tokens // ranks
        got = plain(answer(tokens, ranks, layers, heads, P, N, size))
        given = (
            f"{tokens} tokens, {ranks} ranks, {layers} layers of {heads} "
            f"heads, P = {P}, N = {N}, {size} bytes"
        )
        expect(
            isinstance(got, list | tuple) and len(got) == 2,
            f"{given}: expected two quantities, of states and of the ring.",
        )
        expect_quantity(
            got[0],
            each * (ranks - 1) * state,
            "MB",
            f"{given}: states",
            factor=1.00001,
            slips={
                "a rank need not send to itself": each * ranks * state,
                "each of the others gets it": each * state,
                "a state does not grow with the tokens": each
                * (ranks - 1)
                * state
                * part,
                "that is one layer": each * (ranks - 1) * state / layers,
                "a map has its decay too, one number a head": each
                * (ranks - 1)
                * P
                * N,
            },
        )
        expect_quantity(
            got[1],
            each * (ranks - 1) * part * 2 * P,
            "MB",
            f"{given}: the ring",
            factor=1.005,
            slips={
                "keys and values go around, not one of them": each
                * (ranks - 1)
                * part
                * P,
                "after the last round nothing has to be passed on": each
                * ranks
                * part
                * 2
                * P,
                "a rank passes on a shard, not the whole": each
                * (ranks - 1)
                * tokens
                * 2
                * P,
            },
        )


@exercise("23-cross")
def cross(answer, cases):
    # As the figure: 4 ranks, 4 heads, P = 8, N = 16, a group a rank.
    per_token = 3 / 4 * (2 * 4 * 8 + 4 + 2 * 4 * 16) / 4
    expect_reading(
        plain(answer()),
        3 * 4 * (8 * 16 + 1) / per_token,
        "the length at which both send as much",
        factor=1.25,
        slips={
            "that is the length of a shard": 3 * 4 * 129 / per_token / 4,
            "that is where the ring crosses": 3 * 4 * 129 / 48,
        },
    )


@exercise("23-balance")
def balance(answer, cases):
    for ranks in (1, 2, cases.integer(3, 5), cases.integer(6, 12)):
        got = plain(answer(ranks))
        given = f"{ranks} ranks, {2 * ranks} chunks"
        expect(
            isinstance(got, list | tuple)
            and len(got) == ranks
            and all(
                isinstance(own, list | tuple) and len(own) == 2 for own in got
            ),
            f"{given}: expected a list of {ranks} pairs of chunks.",
        )
        flat = sorted(
            (c for own in got for c in own if type(c) is int), reverse=False
        )
        expect(
            flat == list(range(2 * ranks)),
            f"{given}: every chunk must be held once.",
        )
        work = [sum(c + 0.5 for c in own) for own in got]
        if max(work) > min(work):
            expect(
                [list(own) for own in got]
                != [[2 * r, 2 * r + 1] for r in range(ranks)],
                f"{given}: that is the order of the sequence, in which the "
                "last rank has nearly all of its possible work and the first "
                "nearly none.",
            )
            expect(
                False,
                f"{given}: one rank computes {max(work):g} blocks and another "
                f"{min(work):g}.",
            )


def _first_stop(programs):
    for at in range(max(map(len, programs), default=0)):
        here = {r: p[at] for r, p in enumerate(programs) if at < len(p)}
        if len(here) < len(programs) or len(set(here.values())) > 1:
            return at, sorted(here)
    return None


@exercise("23-stuck")
def stuck(answer, cases):
    names = ["gather", "all-to-all", "gather backward", "all-to-all backward"]
    for _ in range(8):
        ranks, length = cases.integer(2, 5), cases.integer(1, 6)
        whole = [cases.choice(names) for _ in range(length)]
        programs = [list(whole) for _ in range(ranks)]
        kind = cases.choice(["none", "short", "left out", "exchanged"])
        rank, at = cases.integer(0, ranks - 1), cases.integer(0, length - 1)
        if kind == "short":
            del programs[rank][at:]
        elif kind == "left out":
            del programs[rank][at]
        elif kind == "exchanged":
            programs[rank][at] = names[(names.index(whole[at]) + 1) % 4]
        wanted = _first_stop(programs)
        got = plain(answer([list(p) for p in programs]))
        got = (got[0], list(got[1])) if isinstance(got, list | tuple) and len(
            got
        ) == 2 and isinstance(got[1], list | tuple) else got  # fmt: skip
        given = "; ".join(
            f"rank {r}: {', '.join(p) or 'nothing'}"
            for r, p in enumerate(programs)
        )
        if wanted is None:
            expect(got is None, f"{given}. Nothing waits here.")
            continue
        expect(got is not None, f"{given}. Here somebody waits for ever.")
        expect(
            isinstance(got, tuple),
            f"{given}. Expected (position, list of ranks), or None.",
        )
        expect_equal(got[0], wanted[0], f"{given}. The position")
        expect_equal(got[1], wanted[1], f"{given}. The ranks that wait")


def _sharded(**wrong: bool) -> Any:
    """A causal convolution over shards, right or with a bug."""

    def run(shards, weight):
        past, outputs = weight.shape[-1] - 1, []
        for r, x in enumerate(shards):
            before = shards[r - 1] if r or "cyclic" in wrong else None
            if "next" in wrong and r + 1 < len(shards):
                before = shards[r + 1]
            if "first" in wrong and r:
                before = shards[0]
            halo = torch.zeros_like(x[..., :past])
            if before is not None:
                halo = before[..., before.shape[-1] - past :]
            if "none" in wrong:
                halo = torch.zeros_like(halo)
            if "short" in wrong:
                halo = halo * (torch.arange(past) > 0)
            if "front" in wrong and before is not None:
                halo = before[..., :past]
            y = functional.conv1d(
                torch.cat([halo, x], -1), weight[:, None], groups=len(weight)
            )
            outputs.append(y)
        return outputs

    return run


def _whole(shards, weight):
    x = functional.pad(torch.cat(shards, -1), (weight.shape[-1] - 1, 0))
    y = functional.conv1d(x, weight[:, None], groups=len(weight))
    return list(y.split([s.shape[-1] for s in shards], -1))


@exercise("23-bug")
def bug(answer, cases):
    expect_finds_bug(
        answer,
        right=[_sharded(), _whole],
        bugs={
            "every shard begins with zeros": _sharded(none=True),
            "the halo of the first shard comes from the last": _sharded(
                cyclic=True
            ),
            "the halo comes from the next shard": _sharded(next=True),
            "the halo is one input too short": _sharded(short=True),
            "every halo comes from the first shard": _sharded(first=True),
            "the halo is the beginning of the shard before": _sharded(
                front=True
            ),
        },
        cases=cases,
    )


@exercise("23-plan")
def plan(answer, cases):
    for gpus in (8, 64, 512):
        parameters = 1e9 * cases.uniform(0.5, 10)
        tokens = 1e12 * cases.uniform(0.1, 4)
        part = 1024 * cases.integer(4, 32)
        peak, share = 989e12, cases.uniform(0.2, 0.5)
        link = cases.choice([50e9, 400e9])
        got = plain(answer(parameters, tokens, gpus, part, peak, share, link))
        given = (
            f"{parameters:.3g} parameters, {tokens:.3g} tokens, {gpus} GPUs, "
            f"{part} tokens a GPU and step, {share:.2f} of {peak:.3g} FLOP/s, "
            f"{link:.3g} B/s"
        )
        expect(
            isinstance(got, list | tuple) and len(got) == 3,
            f"{given}: expected three quantities: days, and seconds of "
            "computing and of sending in a step.",
        )
        rate = peak * share
        days = 6 * parameters * tokens / (gpus * rate) / 86400
        expect_quantity(
            got[0], days, "day", f"{given}: the run", factor=1.01,
            slips={
                "2 operations a parameter and token are the forward pass "
                "alone": days / 3,
                "the peak is not reached": days * share,
                "the GPUs share the tokens": days * gpus,
            },
        )  # fmt: skip
        step = 6 * parameters * part / rate
        expect_quantity(
            got[1], step, "s", f"{given}: computing a step", factor=1.01,
            slips={"the tokens are those of one GPU already": step / gpus},
        )  # fmt: skip
        sending = 6 * parameters / link * (gpus - 1) / gpus
        expect_quantity(
            got[2], sending, "s", f"{given}: sending in a step", factor=1.01,
            slips={
                "the part that a GPU holds need not be sent to it": 6
                * parameters
                / link,
                "gathered twice, and scattered once": sending / 3,
                "the scatter of the gradients is missing": sending * 2 / 3,
                "2 bytes a number": sending / 2,
            },
        )  # fmt: skip
