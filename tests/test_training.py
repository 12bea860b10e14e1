"""The loop against one written out by hand, on two processes against one, and its errors."""

import contextlib
import copy
import dataclasses
import io
import json
import math
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

import train_two_processes as two
from helpers import Bomb, NoFloat64
from linear_time.layer import Layer
from linear_time.mamba import Mamba
from linear_time.mixer import LanguageModel, Residual
from linear_time.s4 import S4, S4D
from linear_time.selective import Selective
from linear_time.training import Config, learning_rate, parameter_groups, seed_everything, train

bad_input = pytest.mark.bad_input
SCRIPT = Path(two.__file__)


def small_model(dropout=0.0):
    seed_everything(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(dropout), nn.Linear(4, 2))


def run(
    config,
    model=None,
    evaluate=None,
    batches=two.regression_batches,
    loss=two.squared_error,
    **options,
):
    return train(model or small_model(), batches, loss, config, evaluate, **options)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def same(first, second):
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("step", "loss", "lr", "grad_norm", "eval_step", "metric", "reached_target")
    )


# The schedule


def test_schedule_at_its_points():
    config = Config(steps=12, lr=2.0, warmup=4)
    rates = [learning_rate(k, config) for k in range(1, 14)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    # 9 steps of the cosine from step 4 to step 13: a third of the way at 7, two thirds at 10.
    assert rates[6] == pytest.approx(1.5)
    assert rates[9] == pytest.approx(0.5)
    assert rates[12] == pytest.approx(0)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert 0 < rates[11] < rates[10]


def test_schedule_without_warmup_and_with_nothing_else():
    assert learning_rate(1, Config(steps=1, lr=1.0)) == pytest.approx(0.5)
    assert learning_rate(2, Config(steps=3, lr=1.0)) == pytest.approx(0.5)
    flat = Config(steps=4, lr=1.0, warmup=4)
    assert [learning_rate(k, flat) for k in range(1, 5)] == [0.25, 0.5, 0.75, 1.0]


def test_history_has_the_schedule():
    config = Config(steps=7, lr=0.03, warmup=3)
    history = run(config)
    assert history.step.tolist() == list(range(1, 8))
    assert history.lr.tolist() == [learning_rate(k, config) for k in range(1, 8)]


# The groups


@pytest.mark.parametrize("layer", [S4, S4D])
def test_each_parameter_is_in_one_group(layer):
    model = LanguageModel(lambda: Residual(layer(6, N=4, lr_scale=0.1)), 5, 6, 2)
    model.blocks[0].norm.weight.requires_grad_(False)
    found = {}
    for group in parameter_groups(model, 0.1, 0.02):
        for parameter in group["params"]:
            assert parameter not in found
            found[parameter] = group
    trainable = {p for p in model.parameters() if p.requires_grad}
    assert set(found) == trainable
    scales = set()
    for name, parameter in model.named_parameters():
        if parameter not in trainable:
            continue
        group = found[parameter]
        slow = name.endswith(("log_delta", "log_decay", "frequency", ".P", ".B"))
        scale = 0.1 if slow else 1.0
        scales.add(scale)
        assert (group["lr_scale"], group["lr"]) == (scale, pytest.approx(0.1 * scale)), name
        kept = parameter.ndim < 2 or (".mixer.out." not in name and ".mixer." in name)
        assert group["weight_decay"] == (0.0 if kept else 0.02), name
    assert scales == {0.1, 1.0}
    assert found[model.embedding.weight]["weight_decay"] == 0.02
    assert found[model.norm.weight]["weight_decay"] == 0.0


def marked_model():
    """Four parameters of ones: plain, marked, slow, and a bias."""
    model = Layer()
    model.parameter("plain", torch.ones(2, 2))
    model.parameter("marked", torch.ones(2, 2), decay=False)
    model.parameter("slow", torch.ones(2, 2), lr_scale=0.1)
    model.parameter("bias", torch.ones(2), decay=False)
    return model


def endless(batch):
    def batches(generator):
        while True:
            yield batch

    return batches


def test_decay_acts_where_it_should():
    model, config = marked_model(), Config(steps=5, lr=0.2, weight_decay=0.5, warmup=2)
    history = run(
        config,
        model,
        batches=endless(torch.ones(1)),
        loss=lambda model, one: sum(0 * p.sum() for p in model.parameters()) + 0 * one,
    )
    left = {name: p.mean().item() for name, p in model.named_parameters()}
    assert left["marked"] == left["bias"] == 1
    assert left["plain"] == pytest.approx(np.prod(1 - 0.5 * history.lr), rel=1e-5)
    assert left["slow"] == pytest.approx(np.prod(1 - 0.05 * history.lr), rel=1e-5)


def test_scale_acts_on_the_rate():
    model = marked_model()
    run(
        Config(steps=1, lr=0.2, weight_decay=0, warmup=1),
        model,
        batches=endless(torch.ones(1)),
        loss=lambda model, one: sum(p.sum() for p in model.parameters()) * one,
    )
    moved = {
        name: 1 - p.mean().item() for name, p in model.named_parameters()
    }  # Adam's first step is η
    assert moved == pytest.approx({"plain": 0.2, "marked": 0.2, "slow": 0.02, "bias": 0.2}, 1e-4)


# The loop


@pytest.mark.parametrize(("clip", "beta2"), [(0.5, 0.999), (None, 0.999), (0.5, 0.9)])
def test_equals_a_loop_written_out(clip, beta2):
    config = Config(steps=8, lr=0.05, weight_decay=0.3, warmup=3, beta2=beta2, clip=clip, seed=5)
    model, reference = small_model(), small_model()
    history = run(config, model)
    matrices = [p for p in reference.parameters() if p.ndim == 2]
    vectors = [p for p in reference.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, beta2),
    )
    stream = two.regression_batches(torch.Generator().manual_seed(5))
    losses, norms = [], []
    for k in range(1, 9):
        warm = k / 3 if k <= 3 else 0.5 + 0.5 * math.cos(math.pi * (k - 3) / 6)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * warm
        x, y = next(stream)
        loss = functional.mse_loss(reference(x), y)
        optimizer.zero_grad()
        loss.backward()
        norm = torch.cat([p.grad.flatten() for p in reference.parameters()]).norm().item()
        if clip is not None:
            for p in reference.parameters():
                p.grad *= min(1, clip / norm)
        optimizer.step()
        losses.append(loss.item())
        norms.append(norm)
    assert min(norms) > 0.5  # the clipping acts
    assert history.loss == pytest.approx(losses, rel=1e-5)
    assert history.grad_norm == pytest.approx(norms, rel=1e-5)
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_same_seed_same_history():
    config = Config(steps=6, eval_every=2)
    histories = []
    for disturbance in (1, 2):
        model = small_model(dropout=0.5)
        random.seed(disturbance)
        np.random.seed(disturbance)  # noqa: NPY002
        torch.manual_seed(disturbance)
        histories.append(run(config, model, two.weight_norm))
    assert same(*histories)
    other = run(Config(steps=6, eval_every=2, seed=1), small_model(dropout=0.5), two.weight_norm)
    assert (other.loss != histories[0].loss).all()


def test_the_seed_reaches_every_generator_and_the_batches():
    drawn = []

    def batches(generator):
        while True:
            yield torch.rand(2, 1, generator=generator)

    def loss(model, batch):
        own = random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002
        drawn.append((*own, batch[0].item()))
        return model(batch)

    for seed in (3, 3, 4):
        run(Config(steps=1, seed=seed), nn.Linear(1, 1), batches=batches, loss=loss)
    first, again, other = drawn
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_evaluation_is_in_eval_mode_without_gradients_and_on_time():
    model, modes = small_model(dropout=0.5).eval(), []

    def loss(model, batch):
        assert model.training
        return two.squared_error(model, batch)

    def evaluate(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return torch.tensor(len(modes) / 10)

    history = run(Config(steps=5, eval_every=2), model, evaluate, loss=loss)
    assert modes == [(False, False)] * 3
    assert history.eval_step.tolist() == [2, 4, 5]
    assert history.metric == pytest.approx([0.1, 0.2, 0.3])
    assert not history.reached_target
    assert not model.training  # as it came
    assert run(Config(steps=3), evaluate=evaluate).eval_step.tolist() == [3]
    assert run(Config(steps=3)).metric.shape == (0,)


@pytest.mark.parametrize(
    ("target", "lower", "stop"), [(3, False, 6), (-3, True, 6), (9, False, 10), (-9, True, 10)]
)
def test_stops_at_the_target(target, lower, stop):
    values = iter([-1, -2, -3, -4, -5] if lower else [1, 2, 3, 4, 5])
    config = Config(steps=10, eval_every=2, target=target, lower_is_better=lower)
    history = run(config, evaluate=lambda model: next(values))
    assert history.step[-1] == history.eval_step[-1] == stop
    assert history.reached_target == (stop == 6)


@pytest.mark.parametrize("evaluate", [None, lambda model: 0.0])
@pytest.mark.parametrize("mode", [False, True])
def test_a_model_leaves_in_the_mode_that_it_came_in(mode, evaluate):
    """Whatever the last thing was that was done with it."""
    model = small_model(dropout=0.5).train(mode)
    run(Config(steps=2, progress=False), model, evaluate)
    assert model.training is mode and all(m.training is mode for m in model.modules())


def test_nan_metric_is_no_target():
    history = run(Config(steps=2, eval_every=1, target=0), evaluate=lambda model: math.nan)
    assert len(history.step) == 2 and not history.reached_target


def test_progress_bar_only_in_a_terminal(monkeypatch, capfd):
    run(Config(steps=2))
    assert capfd.readouterr() == ("", "")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    run(Config(steps=2, progress=False))
    assert sys.stderr.getvalue() == ""
    run(Config(steps=2))
    assert "2/2" in sys.stderr.getvalue()


# What the book trains


def test_classification_learns_digits():
    data = load_digits()
    x, y = torch.tensor(data.data).float() / 16, torch.tensor(data.target)
    train_rows, test_rows = torch.arange(1200), torch.arange(1200, 1797)

    def batches(generator):
        while True:
            rows = train_rows[torch.randint(1200, (64,), generator=generator)]
            yield x[rows], y[rows]

    def accuracy(model):
        return (model(x[test_rows]).argmax(-1) == y[test_rows]).float().mean()

    seed_everything(0)
    history = train(
        nn.Linear(64, 10),
        batches,
        lambda model, xy: functional.cross_entropy(model(xy[0]), xy[1], reduction="none"),
        Config(steps=300, lr=0.02, warmup=20, eval_every=50, target=0.85),
        accuracy,
    )
    assert history.reached_target
    assert history.loss[0] > 2 > 1 > history.loss[-1]


def test_language_model_learns_a_cycle():
    cycle = torch.arange(12).repeat(4, 1) % two.VOCABULARY
    history = train(
        two.language_model(),
        endless(cycle),
        two.next_token,
        Config(steps=60, lr=0.03, warmup=5),
    )
    assert history.loss[0] > 1.8 and history.loss[-1] < 0.3


def test_click_through_rates_and_masks():
    def batches(generator):
        while True:
            x = torch.randn(32, 3, generator=generator)
            yield {"x": x, "y": (x[:, 0] > 0).float()}

    def loss(model, batch):
        logits = model(batch["x"])[:, 0]
        return functional.binary_cross_entropy_with_logits(logits, batch["y"], reduction="none")

    assert run(Config(steps=150, lr=0.1), batches=batches, loss=loss).loss[-1] < 0.2
    _, masked_batches, masked, config, _ = two.CASES["masked"]()
    first = next(masked_batches(torch.Generator().manual_seed(0)))
    expected = masked(two.language_model(), first).mean().item()
    history = run(config, two.language_model(), batches=masked_batches, loss=masked)
    assert history.loss[0] == pytest.approx(expected, rel=1e-6)


@bad_input
def test_settings_may_be_numpys():
    plain = {"steps": 6, "warmup": 2, "seed": 3, "eval_every": 2, "lr": 0.05}
    theirs = {key: np.asarray(value)[()] for key, value in plain.items()}
    assert Config(**theirs) == Config(**plain)
    assert {type(getattr(Config(**theirs), key)) for key in list(plain)[:4]} == {int}
    histories = (run(Config(**each), evaluate=two.weight_norm) for each in (plain, theirs))
    assert same(*histories)


def test_nothing_is_float64_on_the_models_device():
    with NoFloat64("cpu"):
        history = run(Config(steps=3, eval_every=1), evaluate=lambda model: 0.5)
    assert history.metric.tolist() == [0.5] * 3 and history.loss.dtype == np.float64


# A run that goes on


class Noisy(nn.Module):
    """Dropout, a buffer that counts, and noise from every generator: all must come back."""

    def __init__(self):
        super().__init__()
        seed_everything(0)
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.3), nn.BatchNorm1d(4))
        self.last = nn.Linear(4, 2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        if self.training:
            self.calls += 1
        noise = random.random() + np.random.random()  # noqa: NPY002
        return self.last(self.layers(x)) * (1 + 0.1 * noise)


def drawing_batches(generator):
    """Batches that draw from torch's own generator, too, when they are asked for."""
    for x, y in two.regression_batches(generator):
        torch.rand(3)
        yield x, y


LONG = Config(steps=9, lr=0.02, warmup=3, eval_every=2, seed=4)


def noisy_run(path=None, every=2, stop=None, config=LONG, **options):
    model = Noisy()
    loss = two.squared_error if stop is None else two.stops_after(stop, two.squared_error)
    history = None

    def score(model):
        return two.weight_norm(model) + random.random()

    with contextlib.suppress(two.Stop):
        history = train(model, drawing_batches, loss, config, score, path, every, **options)
    return model, history


def equal_states(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("stop", range(9))
def test_a_run_that_goes_on_is_the_run(stop, tmp_path):
    """After any step, to the last bit: weights, buffers, noise, schedule and metrics."""
    whole, history = noisy_run()
    after = (random.random(), torch.rand(2).tolist())
    path = tmp_path / "deep" / "run.pt"
    noisy_run(path, stop=stop)
    assert path.exists() == (stop >= 2)
    model, went_on = noisy_run(path)
    assert (random.random(), torch.rand(2).tolist()) == after
    assert equal_states(model, whole) and same(went_on, history)
    assert model.calls == 9
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]


def test_steps_before_are_not_done_again(tmp_path):
    path, done = tmp_path / "run", []

    def counted(model, batch):
        done.append(batch)
        return two.squared_error(model, batch)

    train(Noisy(), drawing_batches, counted, Config(steps=7), checkpoint=path, every=3)
    assert len(done) == 7
    before = path.read_bytes()
    again = train(Noisy(), drawing_batches, counted, Config(steps=7), checkpoint=path, every=3)
    assert len(done) == 7 and len(again.loss) == 7 and path.read_bytes() == before


def test_a_finished_run_returns_at_once_and_leaves_the_mode(tmp_path):
    target = Config(steps=9, eval_every=2, target=1.5, lower_is_better=True)
    model = small_model()
    first = train(
        model, two.regression_batches, two.squared_error, target, lambda m: 1.0, tmp_path / "run"
    )
    assert first.reached_target and len(first.step) == 2
    other = small_model().eval()

    def trained(model, batch):
        pytest.fail("it trains again")

    again = train(other, two.regression_batches, trained, target, lambda m: 1.0, tmp_path / "run")
    assert same(first, again) and equal_states(model, other) and not other.training


@pytest.mark.parametrize(
    ("change", "message"),
    [({"lr": 0.03}, r"\(lr: 0\.03\).*\(lr: 0\.02\)"), ({"steps": 8}, r"\(steps: 8\)"),
     ({"seed": 5}, "seed: 5"), ({"beta2": 0.9}, "beta2: 0.9"), ({"clip": None}, "clip: None")],
)  # fmt: skip
def test_another_runs_checkpoint_is_refused(change, message, tmp_path):
    path = tmp_path / "run"
    noisy_run(path, stop=4)
    kept = path.read_bytes()
    with pytest.raises(ValueError, match=f"checkpoint: expected one of this run .*{message}"):
        noisy_run(path, config=dataclasses.replace(LONG, **change))
    assert path.read_bytes() == kept
    noisy_run(path, config=dataclasses.replace(LONG, progress=False))  # the bar changes nothing


def test_another_models_checkpoint_is_refused(tmp_path):
    noisy_run(tmp_path / "run", stop=4)
    model = Noisy()
    with torch.no_grad():
        model.last.bias[1] += 1e-6
    before = weights(model)
    with pytest.raises(ValueError, match=r"this run \(start of the model: "):
        run(LONG, model, lambda m: 0.0, checkpoint=tmp_path / "run")
    assert all(map(torch.equal, weights(model), before))


@pytest.mark.parametrize("wrong", ["empty", "cut", "text", "pickle", "other", "folder"])
def test_a_damaged_checkpoint_is_refused(wrong, tmp_path):
    path = tmp_path / "run"
    noisy_run(path, stop=4)
    whole = path.read_bytes()
    path.unlink()
    if wrong == "folder":
        path.mkdir()
    elif wrong == "other":
        torch.save({"model": {}}, path)
    elif wrong == "pickle":
        path.write_bytes(pickle.dumps(Bomb(tmp_path / "made")))
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"abc"}[wrong])
    with pytest.raises(ValueError, match="checkpoint: expected a file that train has written, got"):
        noisy_run(path)
    assert not (tmp_path / "made").exists()


def test_what_is_half_written_is_not_the_checkpoint(tmp_path, monkeypatch):
    """The one before stands until the next is whole."""
    path = tmp_path / "run"
    noisy_run(path, stop=4)
    kept = path.read_bytes()

    def half(content, file):
        file.write(kept[: len(kept) // 2])
        raise two.Stop

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        noisy_run(path)
    assert path.read_bytes() == kept
    assert same(noisy_run(path)[1], noisy_run()[1])


@bad_input
def test_steps_between_checkpoints():
    for every in (0, -1, 1.5, None):
        with pytest.raises((TypeError, ValueError), match="every: expected"):
            run(Config(steps=1), every=every)


# Two processes


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    # Port 0: the launcher takes a free one.
    local = "--rdzv-backend c10d --rdzv-endpoint 127.0.0.1:0 --local-addr 127.0.0.1"
    done = subprocess.run(
        [*launch, *local.split(), str(SCRIPT), str(folder)],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((folder / f"{rank}.json").read_text(encoding="utf8")) for rank in range(2)]
    return two.measure(folder / "one"), ranks


@pytest.mark.parametrize("name", [name for name in two.CASES if name != "not finite"])
def test_two_processes_give_what_one_gives(one_and_two, name):
    one, ranks = one_and_two
    assert ranks[0][name] == ranks[1][name]
    both = ranks[0][name]
    for key in ("loss", "grad_norm", "metric"):
        assert both[key] == pytest.approx(one[name][key], rel=1e-5)
    assert both["reached_target"] == one[name]["reached_target"] == (name == "target")
    for ours, theirs in zip(both["weights"], one[name]["weights"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_two_processes_stop_together_at_a_bad_loss(one_and_two):
    one, ranks = one_and_two
    assert "at step 3" in one["not finite"]["error"]
    assert ranks[0]["not finite"] == ranks[1]["not finite"] == one["not finite"]


# Errors


def test_bad_loss_names_the_step_and_leaves_the_weights():
    model, before = small_model(), []

    def loss(model, batch):
        before.append(weights(model))
        return two.squared_error(model, batch)

    with pytest.raises(FloatingPointError, match=r"^loss: .* got nan .* at step 3$"):
        run(Config(steps=5), model, batches=two.poisoned_batches, loss=loss)
    for ours, kept in zip(weights(model), before[-1], strict=True):
        assert torch.equal(ours, kept)


def test_bad_gradient_names_the_step():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)  # √0 = 0 has an infinite slope
    with pytest.raises(FloatingPointError, match=r"got 0\.0 .* norm (nan|inf) at step 1"):
        run(
            Config(steps=2),
            model,
            batches=endless(torch.ones(2, 1)),
            loss=lambda m, x: m(x).sqrt(),
        )
    assert model.weight.item() == 0


@bad_input
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps: expected a whole number >= 1, got 0"),
        ({"steps": 5, "lr": 0.0}, "lr: expected a finite number > 0, got 0"),
        ({"steps": 5, "lr": math.nan}, "lr: expected a finite number > 0, got nan"),
        ({"steps": 5, "weight_decay": -1}, "weight_decay: expected a finite number >= 0, got -1"),
        ({"steps": 5, "warmup": 6}, "warmup: expected a whole number from 0 to 5, got 6"),
        ({"steps": 5, "warmup": 0.5}, "warmup: expected a whole number from 0 to 5, got 0.5"),
        ({"steps": 5, "seed": -1}, "seed: expected a whole number from 0 to 4294967295, got -1"),
        ({"steps": 5, "clip": 0}, "clip: expected a finite number > 0, got 0"),
        ({"steps": 5, "eval_every": 0}, "eval_every: expected a whole number >= 1, got 0"),
        ({"steps": 5, "target": math.inf}, "target: expected a finite number, got inf"),
        ({"steps": 5, "lr": "1"}, "lr: expected a finite number > 0, got '1'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        Config(**settings)
    assert str(caught.value) == message


def few(generator):
    yield from [torch.ones(2, 3)] * 2


@bad_input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batches": few}, "batches: expected one for step 3, got none"),
        ({"batches": endless("x")}, "batches: expected tensors of at least 1 rows, got 'x'"),
        ({"batches": endless(torch.ones(0, 3))}, "batches: .* float32 tensor of shape (0, 3)"),
        ({"loss": lambda m, x: m(x).mean()}, "loss: expected the terms, not their mean"),
        ({"loss": lambda m, x: 1.0}, "loss: expected the terms, not their mean .* got 1.0"),
        ({"loss": lambda m, x: m(x)[:0]}, "loss: expected at least one term, got none"),
        ({"model": nn.Tanh()}, "model: expected trainable parameters, got none"),
        ({"config": Config(steps=3, target=1)}, "evaluate: expected with eval_every or target"),
        ({"config": Config(steps=3, eval_every=1)}, "evaluate: expected with eval_every"),
    ],
)
def test_bad_arguments(arguments, message):
    usual = {
        "config": Config(steps=3),
        "model": small_model(),
        "batches": endless(torch.ones(2, 3)),
        "loss": lambda m, x: m(x).flatten(),
    }
    pattern = "^" + message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=pattern):
        run(**{**usual, **arguments})


@bad_input
def test_bad_scale():
    with pytest.raises(ValueError, match=r"^lr_scale: expected a finite number >= 0, got -1"):
        Layer().parameter("slow", torch.ones(2), lr_scale=-1.0)


def groups_of(model):
    """(lr_scale, weight_decay) of every parameter, by name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        names[parameter]: (group["lr_scale"], group["weight_decay"])
        for group in parameter_groups(model, 1.0, 0.5)
        for parameter in group["params"]
    }


def assigned(model):
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model


@pytest.mark.parametrize(
    "change",
    [
        copy.deepcopy,
        assigned,
        lambda model: model.to_empty(device="cpu"),
        lambda model: model.bfloat16(),
        lambda model: torch.optim.swa_utils.AveragedModel(model).module,
        lambda model: pickle.loads(pickle.dumps(model)),
    ],
    ids=["deepcopy", "assign", "to_empty", "bfloat16", "averaged", "pickle"],
)
@pytest.mark.parametrize("layer", [S4, S4D, Selective, Mamba])
def test_decay_and_rate_outlive_copies_and_casts(layer, change):
    model = LanguageModel(lambda: Residual(layer(6, N=4)), 5, 6, 2)
    before = groups_of(model)
    assert {decay for _, decay in before.values()} == {0.0, 0.5}
    assert groups_of(change(model)) == before


def test_a_frozen_parameter_leaves_its_module_s_others():
    model = nn.Linear(3, 2)
    model.weight.requires_grad_(False)
    assert [g["params"] for g in parameter_groups(model, 0.1, 0.1)] == [[model.bias]]


def test_a_shared_parameter_is_in_one_group():
    model = LanguageModel(lambda: Residual(S4D(6, N=4)), 5, 6, 1, tied=False)
    model.head.weight = model.embedding.weight
    assert len(groups_of(model)) == sum(1 for _ in model.parameters())
