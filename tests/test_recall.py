"""Chapter 21's recall: the chunks are the recurrences, the task is what it says, and its record."""

import math
from functools import partial

import pytest
import torch
from torch.nn.functional import logsigmoid, normalize, silu, softplus

from book import ROOT, experiment
from linear_time import checks, records, recurrences
from linear_time.family import FAMILY

F64 = torch.float64
RULES = experiment("recall").RULES


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


def close(one, other, atol=1e-10):
    torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("length", [1, 7, 32, 75])
def test_chunks_are_the_recurrence(script, length):
    torch.manual_seed(length)
    q, k, v, beta, fade = terms(length)
    one, zero = fade[..., 0], 0 * fade[..., :1]
    run, g = script.recurrence, fade.log()
    close(run(q, k, v, zero), library(recurrences.linear_attention, q, k, v))
    close(run(q, k, v, g), library(recurrences.gla, q, k, v, fade))
    b = beta[..., None]
    close(run(q, k, b * v, zero, b * k), library(recurrences.delta_net, q, k, v, beta))
    gated = library(recurrences.gated_delta_net, q, k, v, beta, one)
    close(run(q, k, b * v, g[..., :1], b * k), gated)
    close(run(q, k, b * v, g, b * k), library(recurrences.kda, q, k, v, beta, fade))
    learned = partial(recurrences.ttt_linear, mini_batch=4)
    taught = run(q, k, b * v, zero, b * k, chunk=4, at_start=True)
    close(taught, library(learned, q, k, v, beta))
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


def given(script, rule):
    """A member in float64, its input, and its q and as many keys and values as it writes."""
    torch.manual_seed(0)
    mixer = script.Member(rule, 16, mini_batch=4, n_state=72).double()
    x = torch.randn(2, 21, 16, dtype=F64)
    mixed = torch.randn(2, 21, sum(mixer.sizes), dtype=F64)
    return mixer, x, mixed, [mixer.split(t) for t in mixed.split(mixer.sizes, -1)]


def test_a_member_puts_its_own_gates_into_the_recurrence(script):
    """What a member reads is the library's recurrence, of the gates that its maps make."""
    mixer, x, _, (q, k, v) = given(script, "GDN-2")
    q, k, v = (x.transpose(1, 2) for x in (normalize(silu(q), dim=-1), silu(k), silu(v)))
    erase, write = (m(x).sigmoid().unflatten(-1, (2, 6)) for m in (mixer.erase, mixer.write))
    delta = softplus(mixer.decay(x) + mixer.dt_bias).unflatten(-1, (2, 6))
    alpha = (-mixer.A_log.exp()[:, None] * delta).exp()
    unit = normalize(k, dim=-1)
    wanted = recurrences.recurrence(recurrences.gdn2(q, unit, v, erase, write, alpha))
    close(mixer.read(x, *given(script, "GDN-2")[3]), wanted.transpose(1, 2))

    mixer, x, _, written = given(script, "DeltaProduct")
    q, *of = (silu(t).transpose(1, 2) for t in written)
    keys, values = normalize(torch.stack(of[:2], 3), dim=-1), torch.stack(of[2:], 3)
    beta = 2 * mixer.write(x).sigmoid().unflatten(-1, (2, 2))
    terms = recurrences.delta_product(normalize(q, dim=-1), keys, values, beta)
    close(mixer.read(x, *written), recurrences.recurrence(terms).transpose(1, 2))

    mixer, x, _, written = given(script, "Titans")
    q, k, v = (silu(t).transpose(1, 2) for t in written)
    assert v.shape[-1] * k.shape[-1] * 2 * 2 == 72  # the table and its momentum
    q, k = normalize(q, dim=-1), normalize(k, dim=-1)
    gates = [m(x).sigmoid() for m in (mixer.write, mixer.decay, mixer.momentum)]
    wanted = recurrences.recurrence(recurrences.titans(q, k, v, *gates))
    close(mixer.read(x, *written), wanted.transpose(1, 2))

    mixer, x, _, written = given(script, "TTT-Linear")
    q, k, v = (silu(t).transpose(1, 2) for t in written)
    q, k = normalize(q, dim=-1), normalize(k, dim=-1)
    terms = recurrences.ttt_linear(q, k, v, mixer.write(x).sigmoid(), 4)
    close(mixer.read(x, *written), recurrences.recurrence(terms).transpose(1, 2))

    mixer, x, _, written = given(script, "Lightning")
    wanted = library(recurrences.lightning, *(silu(t) for t in written))
    close(mixer.read(x, *written), wanted, 1e-4)  # the code's slopes have a factor of 1.00001

    mixer, x, _, written = given(script, "Mamba's gate")
    q, k, v = (silu(t).transpose(1, 2) for t in written)
    delta = softplus(mixer.decay(x) + mixer.dt_bias).unflatten(-1, (2, 6))
    A = -mixer.A_log.exp()
    assert torch.allclose(A[0, 0], -torch.arange(1.0, 7, dtype=F64))
    for h, y in enumerate(mixer.read(x, *written).unbind(1)):
        own = (z[:, :, h] for z in (v, delta))
        terms = recurrences.mamba1(*own, A[h], k[:, :, h], q[:, :, h])
        close(y, recurrences.recurrence(terms)[..., 0])


def test_a_vector_is_as_many_channels_as_others_have_numbers(script):
    for rule in script.VECTORS:
        mixer, _, mixed, _ = given(script, rule)
        h, *gates = mixer.choose(mixed).chunk(2 if rule == "minGRU" else 3, -1)
        gates = [gate.sigmoid() for gate in gates]
        assert h.shape[-1] == 72
        if rule == "minGRU":
            terms = recurrences.min_gru(*gates, recurrences.min_gru_g(h))
        elif rule == "minLSTM":
            terms = recurrences.min_lstm(*gates, recurrences.min_gru_g(h))
        else:
            a = mixer.rate.sigmoid() ** (8 * gates[0])
            terms = recurrences.rg_lru(h, a, gates[1])
            assert 0.9 <= (mixer.rate.sigmoid() ** 8).min() < 0.92
        wanted = recurrences.recurrence(terms)[..., 0]
        close(mixer.unit(mixed).transpose(1, 2).flatten(2), wanted)


@pytest.mark.bad_input  # jaxtyping cannot look inside vmap
def test_a_stack_is_its_networks_side_by_side(script, monkeypatch):
    """Starts, batches, rates, clipping, scores: each as if it was trained alone."""
    small = script.SIZES["small"]._replace(evaluated=64)
    jobs = [
        {
            **{"size": "small", "task": "twice, 8", "model": "gated DeltaNet"},
            **{"lr": lr, "seed": seed, "steps": 40, "batch": 4},
        }
        for lr, seed in ((3e-2, 0), (1e-2, 1), (3e-2, 1))
    ]
    found = {}
    for stacked in (True, False):
        size = small._replace(stacked=stacked)
        monkeypatch.setitem(script.SIZES, "small", size)
        found[stacked] = script.run(jobs, math.inf)
    assert len({row["validation_loss"] for row in found[True]}) == 3
    for one, other in zip(found[True], found[False], strict=True):
        assert one.keys() == other.keys() and one["curve"][-1][0] == 40
        assert one["curve"][-1][1] == one["validation_loss"]
        for key in ("parameters", "state", "updates"):
            assert one[key] == other[key]
        for key in ("validation_loss", "tokens", "sequences"):
            assert one[key] == pytest.approx(other[key], abs=2e-3)
    assert script.run(jobs, 0.0) is None  # no time


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


@pytest.mark.parametrize("model", sorted(RULES))
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


def test_in_one_layer_erasing_is_what_corrects():
    """The small record: every member of the family, of equal state, and what it bears out."""
    record = records.read("recall_small")
    names = set(experiment("recall").RULES)
    assert {row["model"] for row in record} == names and len(names) == 22
    others = {"Mamba": "Mamba's gate", "Mamba-2": "Mamba-2's gate", "Titans, linear": "Titans"}
    assert {others.get(member.name, member.name) for member in FAMILY.values()} <= names
    assert {(row["state"], row["updates"], row["batch"]) for row in record} == {(256, 600, 16)}
    right = {}
    for name, runs in record.by("model").items():
        best = runs.chosen("validation_loss")
        right[name] = sum(best.values("tokens")) / 3
        assert sorted(best.values("seed")) == [0, 1, 2]
        assert min(runs.values("lr")) < best[0]["lr"] < max(runs.values("lr"))
    erases = {"DeltaNet", "DeltaNet, β to 2", "gated DeltaNet", "KDA", "GDN-2"}
    erases |= {"RWKV-7", "DeltaProduct", "TTT-Linear"}
    order = sorted(right, key=right.__getitem__, reverse=True)
    assert set(order[:8]) == erases and order[0] == "DeltaNet" and order[9] == "Titans"
    added = [row["tokens"] for row in record if row["model"] not in {*erases, "Titans"}]
    assert max(added) < 0.62
    # The control has DeltaNet's keys, strengths and parameters.
    pair = record.where(model="DeltaNet"), record.where(model="DeltaNet without erasing")
    assert pair[0][0]["parameters"] == pair[1][0]["parameters"]
    best, without = (of.chosen("validation_loss").values("tokens") for of in pair)
    assert min(best) > 0.9 and max(without) < 0.35
    assert max(right[unit] for unit in experiment("recall").VECTORS) < 0.14


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
