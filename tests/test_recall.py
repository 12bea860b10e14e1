"""Chapter 21's recall: the chunks are the recurrences, the task is what it says, and its record."""

import math

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize

from book import ROOT, experiment
from linear_time import checks, records, recurrences

F64 = torch.float64


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    yield experiment("recall")
    checks(values=True)


def terms(length, width=6):
    """q, k (of length 1), v, β and decays: (batch, heads, length, …)."""
    q, k, v = torch.randn(3, 2, 3, length, width, dtype=F64)
    beta = 2 * torch.rand(2, 3, length, dtype=F64)
    return q, normalize(k, dim=-1), v, beta, torch.rand(2, 3, length, width, dtype=F64)


def library(model, *given):
    """The library's recurrence on (batch, heads, length, …)."""
    y = recurrences.recurrence(model(*(x.transpose(1, 2) for x in given)))
    return y.transpose(1, 2)


def close(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("length", [1, 7, 32, 75])
def test_chunks_are_the_recurrence(script, length):
    torch.manual_seed(length)
    q, k, v, beta, fade = terms(length)
    one, zero = fade[..., 0], 0 * fade[..., :1]
    run, g = script.recurrence, fade.log()
    close(run(q, k, v, zero), library(recurrences.linear_attention, q, k, v))
    close(run(q, k, v, g), library(recurrences.gla, q, k, v, fade))
    close(run(q, k, v, zero, beta), library(recurrences.delta_net, q, k, v, beta))
    gated = library(recurrences.gated_delta_net, q, k, v, beta, one)
    close(run(q, k, v, g[..., :1], beta), gated)
    close(run(q, k, v, g, beta), library(recurrences.kda, q, k, v, beta, fade))
    u = torch.randn(3, 6, dtype=F64)
    wanted = recurrences.recurrence(
        recurrences.rwkv6(*(x.transpose(1, 2) for x in (q, k, v, fade)), u)
    )
    close(run(q, k, v, g, bonus=u[:, None, None]), wanted.transpose(1, 2))
    a = torch.rand_like(fade)
    seven = library(recurrences.rwkv7, q, a, v, fade, k, a)
    close(script.rwkv7(q, a, v, g, k, a), seven)
    i, f = (
        3 * torch.randn(2, 3, length, dtype=F64),
        logsigmoid(torch.randn(2, 3, length, dtype=F64)),
    )
    close(script.mlstm(q * 6**-0.5, k, v, f, i), library(recurrences.mlstm, q, k, v, i, f))


@pytest.mark.parametrize("size", [1, 2, 3, 8, 13])
def test_the_inverse_of_a_triangle(script, size):
    L = torch.randn(2, size, size, dtype=F64).tril(-1)
    close(
        script.inverse(L) @ (torch.eye(size, dtype=F64) + L),
        torch.eye(size, dtype=F64).expand(2, -1, -1),
    )


def test_a_key_is_asked_for_its_last_value(script):
    task = script.Task(48, 8, True)
    tokens, places, right = script.drawn(task, 64, 50, torch.Generator().manual_seed(0))
    assert places.shape == right.shape == (50, 4)
    for row, asked, answers in zip(tokens, places, right, strict=True):
        keys, values = row[:16:2].tolist(), row[1:16:2].tolist()
        assert sorted(keys[:4]) == sorted(keys[4:]) and len(set(values)) == 8
        last = dict(zip(keys, values, strict=True))  # a later one takes the place
        assert [last[int(row[at])] for at in asked] == answers.tolist()
        assert row[16:].count_nonzero() == 4 and (asked >= 16).all()


@pytest.mark.parametrize("model", ["RetNet", "GLA", "KDA", "RWKV-6", "RWKV-7", "Mamba-3", "mLSTM"])
def test_a_member_is_causal(script, model):
    torch.manual_seed(0)
    mixer = script.Member(model, 16).double()
    x = torch.randn(2, 40, 16, dtype=F64)
    other = x.clone()
    other[:, 20:] += 1
    close(mixer(x)[:, :20], mixer(other)[:, :20])
    assert (mixer(x) - mixer(other))[:, 20:].abs().max() > 1e-3


def test_the_order_of_the_trapezoid():
    """On h' = −h + sin 3t: second order at λ = ½ alone."""

    def error(n, lam, end=2.0):
        size, h = end / n, 0.0
        for t in range(n):
            before, now = math.sin(3 * t * size), math.sin(3 * (t + 1) * size)
            h = math.exp(-size) * (h + (1 - lam) * size * before) + lam * size * now
        return abs(h - (math.sin(3 * end) - 3 * math.cos(3 * end) + 3 * math.exp(-end)) / 10)

    orders = {lam: math.log2(error(200, lam) / error(400, lam)) for lam in (1.0, 0.7, 0.5)}
    assert orders[0.5] == pytest.approx(2, abs=0.02)
    assert max(orders[1.0], orders[0.7]) < 1.05


def test_the_record_is_what_the_chapter_reads():
    record = records.read("recall").where(task="twice, 32")
    right = {
        n: sorted(r.chosen("validation_loss").values("tokens"))
        for n, r in record.by("model").items()
    }
    assert all(len(of) == 3 for of in right.values()) and len(right) == 14
    for runs in record.by("model").values():  # no best rate is an end of its sweep
        assert min(runs.values("lr")) < runs.chosen("validation_loss")[0]["lr"]
        assert max(runs.values("lr")) > runs.chosen("validation_loss")[0]["lr"]
    assert {row["state"] for row in record if row["model"] != "attention"} == {2048}
    assert {row["steps"] for row in record} == {3000}
    assert min(right["DeltaNet"]) > 0.9
    assert all(min(of) < 0.9 for name, of in right.items() if name != "DeltaNet")
    assert max(right["gated DeltaNet"]) > 0.9 and max(right["attention"]) < 0.1
    assert max(right["Mamba"]) < 0.1 < max(right["Mamba-2"]) < 0.8
    once = records.read("recall").where(task="once, 16", model="attention")
    best = once.chosen("validation_loss")
    assert min(best.values("tokens")) > 0.99 and max(best.values("updates")) == 1250
