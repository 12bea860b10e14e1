"""Training side by side: what is asked of a GPU, by one that is played, and how a run is ended.

That models are trained as alone, and go on after a stop, is asked in ``test_paper_tables.py``.
"""

import contextlib
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from book import experiment
from linear_time.training import Config, learning_rate


@pytest.fixture
def side():
    return experiment("side_by_side")


def draw(generator, n):
    """Batches of n updates: rows (n, 4, 3)."""
    return (torch.randn(n, 4, 3, generator=generator),)


def loss(network, x):
    return network(x).square().sum(1)


def trainee(side, steps=30, constant=False, **settings):
    torch.manual_seed(0)
    config = Config(steps=steps, **{"lr": 1e-2, "warmup": 3, "seed": 1, **settings})
    return side.Trainee(nn.Linear(3, 2), draw, loss, config, constant)


def numbers(one):
    return [p.detach().clone() for p in one.network.parameters()]


@pytest.fixture
def played(side, monkeypatch):
    """A GPU: what is asked of it in order; a graph is recorded without a change of anything."""
    told = []

    class Graph:
        def replay(self):
            told.append("replay")
            self.owner.update()

    @contextlib.contextmanager
    def graph(graph, stream=None):
        owner = graph.owner = playing[-1]
        assert stream is owner.stream and stream is not None
        assert all(p.grad is None for p in owner.network.parameters())  # made by the graph
        tensors = [owner.step, owner.place, owner.losses]
        for p in owner.network.parameters():
            tensors += [p, *owner.optimizer.state[p].values()]
        before = [t.detach().clone() for t in tensors]
        told.append("record")
        yield
        with torch.no_grad():
            for t, old in zip(tensors, before, strict=True):
                t.copy_(old)

    @contextlib.contextmanager
    def stream(one):
        assert one is not None
        told.append("stream")
        yield

    playing = []

    def on_gpu(one):
        one.on_gpu, one.stream = True, object()
        record = one.record

        def recorded():
            playing.append(one)
            record()

        one.record = recorded
        return one

    for name, value in (
        ("CUDAGraph", Graph),
        ("graph", graph),
        ("stream", stream),
        ("synchronize", lambda: told.append("wait")),
    ):
        monkeypatch.setattr(side.torch.cuda, name, value)
    return on_gpu, told


def test_a_graph_s_updates_are_those_of_a_cpu(side, played):
    """Three trials at the rate 0, one recording, and all updates replayed on a stream."""
    on_gpu, told = played
    plain, graphed = trainee(side), on_gpu(trainee(side))
    assert side.train_side_by_side([plain], lambda t: 0.0, 10)
    assert told == []
    assert side.train_side_by_side([graphed], lambda t: 0.0, 10)
    assert torch.equal(plain.losses[1:], graphed.losses[1:])
    for one, other in zip(numbers(plain), numbers(graphed), strict=True):
        assert torch.equal(one, other)
    assert told.count("replay") == 30 and told.count("record") == 1
    chunk = [*["stream"] * 10, "wait", "stream"]  # ten updates, the evaluation, the next batches
    begun = told.index("wait")
    assert told[:begun] == ["stream", "record"]
    found = [word for word in told[begun + 1 :] if word != "replay"]
    assert found == [*chunk, "stream", *chunk, "stream", *chunk]


def test_a_graph_goes_on_in_the_tensors_that_it_has(side, played, tmp_path):
    on_gpu, _ = played
    whole = on_gpu(trainee(side))
    assert side.train_side_by_side([whole], lambda t: 0.0, 10)
    keep = tmp_path / "kept.pt"
    for ends in (False, False, True):
        part = on_gpu(trainee(side))
        assert side.train_side_by_side([part], lambda t: 0.0, 10, seconds=0.0, keep=keep) is ends
    assert torch.equal(whole.losses[1:], part.losses[1:])
    for one, other in zip(numbers(whole), numbers(part), strict=True):
        assert torch.equal(one, other)


def test_the_trials_of_a_graph_leave_nothing(side, played):
    """Parameters, moments and the number of updates are those of the start."""
    on_gpu, told = played
    one = on_gpu(trainee(side))
    before, tried = numbers(one), []
    update = one.update

    def counted():
        tried.append((int(one.step), int(one.place)))
        update()

    one.update = counted
    one.refill(5)
    one.record()
    assert tried == [(0, 0), (0, 0), (0, 0), (1, 1)]
    for p, old in zip(one.network.parameters(), before, strict=True):
        assert torch.equal(p, old)
        assert all(not x.any() for x in one.optimizer.state[p].values())
    assert (int(one.step), int(one.place)) == (1, 0) and told == ["record"]
    one.replay()
    assert tried[-1] == (1, 0) and told == ["record", "replay"]


# --- the rates, the batches, the end --------------------------------------------------------------


def test_a_trainee_s_rates(side):
    """Those of ``train``, from update 1; or the warm-up, and then the peak."""
    falls, stays = (trainee(side, constant=constant) for constant in (False, True))
    wanted = torch.tensor([learning_rate(step, falls.config) for step in range(1, 31)])
    assert falls.rates[0] == 0 and torch.equal(falls.rates[1:], wanted)
    assert stays.rates[:4].tolist() == pytest.approx([0, 1e-2 / 3, 2e-2 / 3, 1e-2])
    assert stays.rates[4:].tolist() == pytest.approx([1e-2] * 27)
    assert falls.losses.isnan().all() and len(falls.losses) == 31
    assert (falls.done, falls.ended, falls.curve) == (0, False, [])
    assert falls.network.training and not falls.on_gpu and falls.stream is None


def test_a_trainee_s_optimizer(side):
    """AdamW's second moment and decay are the config's; its own scale of a rate stays."""
    one = trainee(side, beta2=0.9, weight_decay=0.3)
    for group in one.optimizer.param_groups:
        assert group["betas"] == (0.9, 0.9) and not group["capturable"] and not group["foreach"]
    assert {group["weight_decay"] for group in one.groups} == {0.3, 0.0}


def test_clipping_can_be_left(side):
    """At a rate so small that nothing moves: the gradients as they are, or of norm ½."""
    norms = []
    for clip in (None, 0.5):
        one = trainee(side, lr=1e-12, clip=clip)
        one.refill(1)
        one.record()
        one.update()
        grads = [p.grad.flatten() for p in one.network.parameters()]
        norms.append(float(torch.cat(grads).norm()))
    assert norms[0] > 1 and norms[1] == pytest.approx(0.5, rel=1e-3)


def test_batches_are_refilled_in_place(side):
    one = trainee(side)
    one.refill(5)
    first = one.batches[0]
    generator = torch.Generator().manual_seed(1)
    wanted = [draw(generator, n)[0] for n in (5, 3)]
    assert torch.equal(first, wanted[0])
    one.place.fill_(4)
    one.refill(3)
    assert one.batches[0] is first and int(one.place) == 0
    assert torch.equal(first[:3], wanted[1]) and torch.equal(first[3:], wanted[0][3:])


def test_a_loss_that_is_no_number_ends_a_run(side):
    """Neither is it evaluated, nor trained further; the one beside it is."""

    def breaks(network, x):
        terms = loss(network, x)
        calls.append(1)
        return terms * (math.nan if len(calls) == 7 else 1)

    calls, seen = [], []
    torch.manual_seed(0)
    config = Config(steps=30, lr=1e-2)
    bad = side.Trainee(nn.Linear(3, 2), draw, breaks, config)
    good = trainee(side)
    assert side.train_side_by_side([bad, good], lambda t: seen.append((t is bad, t.done)) or 0.0, 5)
    assert bad.done == 10 and bad.ended and not bad.finite() and len(calls) == 10
    assert good.done == 30 and good.finite() and not good.ended
    assert seen == [(True, 5), (False, 5), *[(False, n) for n in (10, 15, 20, 25, 30)]]


def test_a_run_is_evaluated_without_gradients_and_trained_on(side):
    modes = []

    def evaluate(t):
        modes.append((torch.is_grad_enabled(), t.network.training))
        t.network.eval()
        return 0.0

    one = trainee(side)
    one.loss = lambda network, x: modes.append(network.training) or loss(network, x)
    assert side.train_side_by_side([one], evaluate, 15)
    assert modes == [*[True] * 15, (False, True)] * 2


def test_a_target_is_reached_at_least(side):
    """Who is exactly as good as asked has ended; who is a little worse goes on."""
    for good, done in ((0.5, 10), (0.4999, 30)):
        one = trainee(side)
        assert side.train_side_by_side([one], lambda t, good=good: good, 10, target=0.5)
        assert one.done == done and one.ended is (done == 10)


@pytest.mark.parametrize(
    ("seconds", "target", "done"),
    [
        *((31.0, math.inf, 30), (30.9, math.inf, 10)),
        *((29.0, 2.0, 30), (21.0, 2.0, 30), (20.9, 2.0, 20), (11.0, 2.0, 20), (9.0, 2.0, 10)),
    ],
)
def test_when_a_run_gives_up(side, monkeypatch, seconds, target, done):
    """Ten seconds for each ten updates, after one to begin with.

    Where a target may end it early it is given all its time; else it ends when it sees that it will
    be late, at the first look: 31 seconds it would take.
    """
    clock = iter([100.0, 101.0, 111.0, 121.0, 131.0])
    monkeypatch.setattr(side, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    one = trainee(side)
    ends = side.train_side_by_side([one], lambda t: 0.0, 10, target=target, seconds=seconds)
    assert (one.done, ends) == (done, done == 30)


def test_the_rest_is_reckoned_from_where_a_run_went_on(side, monkeypatch, tmp_path):
    """What is kept does not give up before its time, and begins where it was."""
    keep = tmp_path / "kept.pt"
    for clock, done, ends in (
        ([0.0, 1.0, 11.0], 10, False),
        ([0.0, 1.0, 8.0, 11.0], 30, True),
    ):
        times = iter(clock)
        monkeypatch.setattr(side, "time", SimpleNamespace(perf_counter=lambda t=times: next(t)))
        one = trainee(side)
        assert side.train_side_by_side([one], lambda t: 0.0, 10, seconds=10.5, keep=keep) is ends
        assert one.done == done and keep.exists() is not ends
        assert not list(tmp_path.glob("*.new"))


def test_evaluations_are_at_the_ends_of_chunks(side):
    with pytest.raises(AssertionError):
        side.train_side_by_side([trainee(side, steps=300)], lambda t: 0.0, 70)
    with pytest.raises(AssertionError):
        side.train_side_by_side([trainee(side), trainee(side, steps=31)], lambda t: 0.0, 10)
    drawn = []
    one = trainee(side, steps=130)
    one.draw = lambda generator, n: drawn.append(n) or draw(generator, n)
    assert side.train_side_by_side([one], lambda t: 0.0, 100)
    assert drawn == [50, 50, 30] and side.CHUNK == 50


def test_what_is_kept(side):
    """The losses, curve and place of a run that has ended come back, and it stays ended."""
    one, other = trainee(side), trainee(side, lr=5e-2)
    one.refill(5)
    one.record()
    for _ in range(5):
        one.replay()
    one.done, one.ended, one.curve = 5, True, [[5, 0.25]]
    kept = one.kept()
    other.refill(5)
    other.record()
    other.go_on(kept)
    assert (other.done, other.ended, other.curve, int(other.step)) == (5, True, [[5, 0.25]], 6)
    assert torch.equal(other.losses[1:6], one.losses[1:6]) and other.losses[6:].isnan().all()
    assert torch.equal(other.generator.get_state(), one.generator.get_state())
    for p, q in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(p, q)
        for key, x in one.optimizer.state[p].items():
            assert torch.equal(x, other.optimizer.state[q][key])
