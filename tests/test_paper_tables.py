"""Chapter 19's tables: the entrants, the training beside each other, the records."""

import itertools
import math

import pytest
import torch

from book import ROOT, experiment
from linear_time import checks
from linear_time.tasks import NO_ANSWER, answer_loss
from linear_time.training import Config, seed_everything, train


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "experiments")
    yield experiment("paper_tables")
    checks(values=True)


SMALL = {
    "copying": {"width": 8, "length": 20, "n_tokens": 3},
    "induction": {"width": 8, "length": 20},
    "recall": {"width": 8, "length": 20, "n_pairs": 2},
}


def batches_of(script, name, table, size, batch):
    def draw(generator, n):
        flat = script.drawn(name, table, size, n * batch, generator)
        return tuple(x.unflatten(0, (n, -1)) for x in flat)

    return draw


@pytest.mark.parametrize("name", SMALL)
def test_answers_at_their_places(script, name):
    """What is drawn, scored and trained on is what the generators and ``answer_loss`` say."""
    table, size = script.SIZES["small"][name], SMALL[name]
    tokens, places, right = script.drawn(name, table, size, 5, torch.Generator().manual_seed(3))
    targets = torch.full_like(tokens, NO_ANSWER).scatter(1, places, right)
    model = script.network(table, "Mamba", 8)
    wanted = answer_loss(model, (tokens, targets))
    torch.testing.assert_close(script.terms(model, tokens, places, right), wanted)
    loss, share, whole = script.score(model, (tokens, places, right), 2)
    assert math.isclose(loss, wanted.double().mean().item(), rel_tol=1e-5)
    said = model(tokens).argmax(-1)
    good = said.gather(1, places) == right
    assert share == pytest.approx(good.double().mean().item())
    assert whole == pytest.approx(good.all(1).double().mean().item())


def test_side_by_side_is_as_alone(script):
    """Two models with rates and seeds of their own, chunk after chunk, as ``train`` trains each."""
    side = script.side_by_side
    table, size = script.SIZES["small"]["recall"]._replace(vocab_size=40), SMALL["recall"]
    configs = [
        Config(steps=120, lr=lr, warmup=10, seed=seed, weight_decay=0.3, clip=0.5, progress=False)
        for lr, seed in ((3e-3, 1), (1e-3, 2))
    ]
    draw = batches_of(script, "recall", table, size, 4)

    def made(config):
        seed_everything(config.seed)
        return script.network(table, "Mamba", 8).double()  # what is rounded does not grow

    trainees = [side.Trainee(made(c), draw, script.terms, c) for c in configs]
    seen = []

    def evaluate(trainee):
        seen.append((trainees.index(trainee), trainee.done))
        return 0.0

    assert side.train_side_by_side(trainees, evaluate, 50)
    assert seen == [(0, 50), (1, 50), (0, 100), (1, 100), (0, 120), (1, 120)]
    for config, trainee in zip(configs, trainees, strict=True):

        def batches(generator):
            for n in (50, 50, 20):
                for batch in zip(*draw(generator, n), strict=True):
                    tokens, places, right = batch
                    yield tokens, torch.full_like(tokens, NO_ANSWER).scatter(1, places, right)

        alone = made(config)
        history = train(alone, batches, answer_loss, config)
        got = trainee.losses[1:].double().numpy()
        assert abs(got - history.loss).max() < 1e-5
        assert history.grad_norm.max() > 0.5  # so that clipping acts
        for one, other in zip(alone.parameters(), trainee.network.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_who_is_good_enough_ends(script):
    side = script.side_by_side
    table, size = script.SIZES["small"]["copying"], SMALL["copying"]
    draw = batches_of(script, "copying", table, size, 2)
    trainees = [
        side.Trainee(
            script.network(table, "S6", 8), draw, script.terms, Config(steps=90, seed=seed)
        )
        for seed in (0, 1)
    ]
    assert side.train_side_by_side(
        trainees, lambda t: float(t is trainees[1] and t.done == 60), 30, target=0.9
    )
    assert [t.done for t in trainees] == [90, 60]
    assert trainees[1].losses[61:].isnan().all() and trainees[0].losses[1:].isfinite().all()


def test_it_gives_up_where_time_is_short(script):
    side = script.side_by_side
    table, size = script.SIZES["small"]["copying"], SMALL["copying"]
    draw = batches_of(script, "copying", table, size, 2)
    config = Config(steps=100_000)
    trainee = side.Trainee(script.network(table, "S6", 8), draw, script.terms, config)
    assert not side.train_side_by_side([trainee], lambda t: 0.0, 50, seconds=0.2)


@pytest.mark.parametrize("model", ["Mamba", "S4D", "attention"])
def test_pieces_are_the_whole(script, model):
    """A long test is read in pieces, the state handed on: the answers are those of one reading."""
    torch.manual_seed(0)
    table = script.SIZES["small"]["induction"]
    network = script.network(table, model, 16).eval()
    device = torch.device("cpu")
    whole = script.at_length(network, table, 96, device)
    assert whole == script.at_length(network, table, 96, device, piece=7)
    generator = torch.Generator().manual_seed(script.TEST + 96)
    tokens, targets = script.induction_heads(512, 96, 16, generator=generator)
    right = (network(tokens)[:, -1].argmax(-1) == targets[:, -1]).double().mean().item()
    assert whole == {"right": round(right, 4), "sequences": 512}


def test_long_tests_have_sixteen_sequences_or_more(script):
    table = script.SIZES["small"]["induction"]
    network = script.network(table, "attention", 16)
    assert script.at_length(network, table, 2**15, torch.device("cpu")) is None
    assert script.INDUCTION.lengths == tuple(2**k for k in range(6, 21))


def test_fused_attention_is_the_library_s(script):
    torch.manual_seed(0)
    fused = script.Attention(16, 4)
    plain = script.GroupedQueryAttention(16, 4, 4)
    plain.load_state_dict(fused.state_dict())
    x = torch.randn(2, 9, 16)
    torch.testing.assert_close(fused(x), plain(x))
    y, state = fused.prefill(x[:, :5])
    z, _ = fused.prefill(x[:, 5:], state)
    torch.testing.assert_close(torch.cat([y, z], 1), plain(x))


def test_the_entrants(script):
    """One frame; the widths are equal, the numbers of blocks are those that are said."""
    for name, table in script.SIZES["full"].items():
        for size, model in itertools.product(table.sizes, table.models):
            network = script.network(table, model, size["width"])
            assert network.embedding.weight.shape == (table.vocab_size, size["width"])
            assert len(network.blocks) == table.models[model], (name, model)
